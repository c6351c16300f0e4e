"""Pre-train the embedded world's Llama from scratch: a byte-level BPE tokenizer, then a plain next-token loop.

The result is an ordinary Hugging Face model folder; nothing downstream knows that it was made here.

Shape suffixes: B rows of a batch, T tokens of a row.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llama_nas.base.recipe import Recipe
from llama_nas.base.world import read_corpus
from llama_nas.core.artifacts import atomic_folder, derived_seed
from llama_nas.core.errors import UserError
from llama_nas.core.settings import Compute

log = logging.getLogger(__name__)

BOS, EOS = "<s>", "</s>"
# Where words begin and end: the expression of Llama 3 (meta-llama/llama3, llama/tokenizer.py). A space belongs to the
# word after it, so the tokens of "context" are a prefix of the tokens of "context choice", as lm-eval needs.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WARMUP_STEPS = 100
BETAS = (0.9, 0.98)
WEIGHT_DECAY = 0.01
MAX_GRAD_NORM = 1.0
LOG_SECONDS = 5.0


def train_tokenizer(documents: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text round-trips, and `<s>` is put before it as Llama's own tokenizers do.

    Raises UserError if `vocabulary` cannot hold the 256 bytes and the special tokens.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocabulary < len(alphabet) + 2:
        raise UserError(
            f"config.yaml: the base model's vocabulary must be at least {len(alphabet) + 2}, not {vocabulary}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[BOS, EOS], initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(documents, trainer)
    bos_id = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, bos_id)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        clean_up_tokenization_spaces=False,
    )


def training_rows(documents: Sequence[list[int]], row_length: int, seed: int) -> Iterator[list[int]]:
    """Endless rows of `row_length` tokens: the documents in a new order each epoch, one after the other, then cut."""
    rng = random.Random(seed)
    order = list(range(len(documents)))
    buffer: list[int] = []
    while True:
        rng.shuffle(order)
        for index in order:
            buffer += documents[index]
            while len(buffer) >= row_length:
                yield buffer[:row_length]
                buffer = buffer[row_length:]


def learning_rate_at(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, then cosine to 0."""
    return peak * min(1.0, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps))


def pretrain(output: Path, *, world: Path, seed: int, recipe: Recipe, compute: Compute) -> None:
    """Pre-train the embedded world's Llama from scratch on its corpus.

    Same arguments and CPU type: same bytes.

    Args:
        world: folder written by `llama-nas make-world`
        output: Hugging Face model folder
    """
    _check(recipe)
    torch.set_num_threads(compute.threads)
    corpus = read_corpus(world)
    tokenizer = train_tokenizer(corpus, recipe.vocabulary)
    documents = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(corpus)["input_ids"]]
    log.info("%d documents, %d tokens, vocabulary %d", len(documents), sum(map(len, documents)), len(tokenizer))

    torch.manual_seed(derived_seed(seed, "pretrain", "weights"))
    model: Any = LlamaForCausalLM(_config(recipe, tokenizer))
    model.to(compute.device)
    rows = training_rows(documents, recipe.sequence_length + 1, derived_seed(seed, "pretrain", "rows"))
    train(model, rows, recipe.steps, recipe.batch_size, recipe.learning_rate)
    with atomic_folder(output) as folder:
        model.save_pretrained(folder, safe_serialization=True)
        tokenizer.save_pretrained(folder)


def _check(recipe: Recipe) -> None:
    hidden_size, heads = recipe.hidden_size, recipe.heads
    if hidden_size % heads or (hidden_size // heads) % 2:
        raise UserError(
            f"config.yaml: hidden size {hidden_size} must be an even multiple of the number of heads {heads}"
        )
    if recipe.sequence_length > recipe.max_positions:
        raise UserError(
            f"config.yaml: sequence length {recipe.sequence_length} exceeds max positions {recipe.max_positions}"
        )


def _config(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.max_positions,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )


def train(
    model: LlamaForCausalLM, rows: Iterator[list[int]], steps: int, batch_size: int, learning_rate: float
) -> None:
    """AdamW on the next-token loss of `batch_size` rows a step; logs loss, tokens/s and the time left."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True)
    model.train()
    start = last = time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, steps, learning_rate)
        tokens_BT = torch.tensor([next(rows) for _ in range(batch_size)], device=model.device)
        logits_BTV = model(input_ids=tokens_BT[:, :-1], use_cache=False).logits
        loss = functional.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        now, done = time.monotonic(), step + 1
        if now - last >= LOG_SECONDS or done == steps:
            last, rate = now, done / (now - start)
            tokens = rate * batch_size * (tokens_BT.shape[1] - 1)
            log.info(
                "step %d/%d  loss %.3f  %.0f tokens/s  %.0f s left",
                done, steps, loss.item(), tokens, (steps - done) / rate,
            )  # fmt: skip
