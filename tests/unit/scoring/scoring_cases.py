"""A random Llama and compiled tasks, shared by the tests of the scorer."""

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from llama_nas.tasks.compile import compile_task
from llama_nas.tasks.format import CompiledTask

WIDTHS = [96, 48]


def tiny_llama(folder, stories):
    """A random Llama with the tokenizer of stories260K: 4 layers, untied head, grouped queries."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=WIDTHS[0],
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(stories).save_pretrained(folder)
    return folder


def compiled(output, lm_eval_task, metric, model, data_root, **settings):
    defaults = {
        "task": "t",
        "num_fewshot": None,
        "limit": None,
        "subtasks": None,
        "chunk_tokens": 300,
        "group_tokens": 5000,
    }
    compile_task(
        output, lm_eval_task=lm_eval_task, metric=metric, model=model, data_root=data_root, **(defaults | settings)
    )
    return CompiledTask.load(output)
