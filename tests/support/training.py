"""A tiny base model with a tokenizer of bytes, and rows for it: what the tests of training start from."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llama_nas.training.data import tokenize

MAX_LENGTH = 256  # bytes
ROW = {"instruction": "Add.", "input": "1 and 2", "output": "3"}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, so that every expectation can be spelled out."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        special_tokens=["<s>", "</s>"], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
    )
    inner.train_from_iterator([], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


def write_base(folder: Path, **config: int) -> Path:
    """A random Llama with the tokenizer of bytes. config: keys of its config.json."""
    tokenizer = byte_tokenizer()
    settings = {"vocab_size": len(tokenizer), "intermediate_size": 48, "max_position_embeddings": MAX_LENGTH}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**settings | config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_rows(folder: Path, base: Path, instructions: list[dict]) -> Path:
    """The instructions as a JSON file beside the folder, and tokenised in it."""
    source = folder.with_name(f"{folder.name}.json")
    source.write_text(json.dumps(instructions))
    tokenize(folder, base=base, instructions=source, max_length=MAX_LENGTH)
    return folder
