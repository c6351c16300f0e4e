"""Instruction data: Alpaca-shaped rows to token rows with a response mask, and the order they are trained in.

Prompts are the two templates of Stanford Alpaca (github.com/tatsu-lab/stanford_alpaca, train.py); the loss is on the
response and its end token. Rows are tokenised once, by `llama-nas tokenize`, into arrays that every rank maps into
its memory.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from llama_nas.core.artifacts import atomic_folder, derived_seed, read_json, write_json
from llama_nas.core.errors import UserError
from llama_nas.core.shape import ModelShape

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

PROMPT_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
PROMPT_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)
IGNORED = -100  # label of a token that is not trained on, as in torch's cross-entropy
SUFFIXES = (".json", ".jsonl", ".parquet")
ARRAYS = ("tokens", "starts", "prompt_lengths")


@dataclass(frozen=True)
class TokenRows:
    """Tokenised rows, packed end to end.

    tokens: int32 [all tokens]; starts: int64 [rows + 1]; prompt_lengths: int32 [rows].
    """

    tokens: np.ndarray
    starts: np.ndarray
    prompt_lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.prompt_lengths)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)

    def response_tokens(self, rows: np.ndarray) -> int:
        """How many tokens of these rows the loss is on."""
        return int((self.lengths[rows] - self.prompt_lengths[rows]).sum())

    def batch(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Input ids and labels, int64 [rows, longest], padded on the right.

        Label t is the token that follows input t, or IGNORED. No attention mask is needed: under the causal mask no
        token sees the padding to its right, and padding has no label.
        """
        length = int(self.lengths[rows].max())
        inputs = torch.zeros(len(rows), length, dtype=torch.long)
        labels = torch.full((len(rows), length), IGNORED)
        for i, row in enumerate(rows):
            tokens = torch.from_numpy(self.tokens[self.starts[row] : self.starts[row + 1]].astype(np.int64))
            inputs[i, : len(tokens)] = tokens
            prompt = self.prompt_lengths[row]
            labels[i, prompt - 1 : len(tokens) - 1] = tokens[prompt:]
        return inputs, labels

    def digest(self) -> str:
        return hashlib.sha256(self.tokens.tobytes() + self.starts.tobytes() + self.prompt_lengths.tobytes()).hexdigest()

    def save(self, folder: Path) -> None:
        for name in ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name))

    @classmethod
    def load(cls, folder: Path) -> TokenRows:
        """The rows of a folder written by `llama-nas tokenize`, mapped rather than read."""
        try:
            return cls(**{name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS})
        except (OSError, ValueError) as error:
            raise UserError(f"{folder}: expected a folder written by `llama-nas tokenize` ({error})") from None


def data_files(source: Path) -> list[Path]:
    """The files of an instruction set: the file itself, or a Hub-layout folder's `train*` files, sorted.

    A folder without any `train*` file may hold exactly one data file.
    """
    if source.is_file():
        if source.suffix not in SUFFIXES:
            raise UserError(f"{source}: instructions must be one of {', '.join(SUFFIXES)}, or a folder with such files")
        return [source]
    if not source.is_dir():
        raise UserError(f"{source}: instructions not found; expected a {', '.join(SUFFIXES)} file or a folder")
    files = sorted(path for path in source.rglob("*") if path.suffix in SUFFIXES)
    train = [path for path in files if path.name.startswith("train")]
    chosen = train or files
    if not chosen or (not train and len(files) > 1):
        raise UserError(
            f"{source}: expected files train*.parquet, train*.jsonl or train*.json, or a single data file; "
            f"found {', '.join(str(path.relative_to(source)) for path in files) or 'none'}"
        )
    return chosen


def _numbered_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(1-based row or line number, row) of one file."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        try:
            yield from enumerate(pyarrow.parquet.read_table(path).to_pylist(), start=1)
        except pyarrow.ArrowInvalid as error:
            raise UserError(f"{path}: not a valid parquet file ({error})") from None
        return
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error})") from None
    rows = _listed_rows(path, text) if path.suffix == ".json" else None
    if rows is not None:
        yield from enumerate(rows, start=1)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}: row {number} is not valid JSON ({error})") from None


def _listed_rows(path: Path, text: str) -> list[Any] | None:
    """The rows of a JSON list; None for a .json file that has a value a line, as JSON Lines."""
    try:
        rows = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            return None
        raise UserError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(rows, list):
        raise UserError(f"{path}: expected a JSON list of objects with instruction, input and output")
    return rows


def read_instructions(source: Path) -> list[tuple[str, str]]:
    """(prompt, response) of every row with a response; rows with an empty output are dropped and counted in the log.

    Raises UserError naming the file and the 1-based row (line, for .jsonl) that is not Alpaca-shaped.
    """
    pairs = []
    empty = 0
    for path in data_files(source):
        for number, row in _numbered_rows(path):
            if not isinstance(row, dict):
                raise UserError(f"{path}: row {number} is not an object with instruction, input and output")
            if row.get("input") != row.get("input"):  # NaN, as pandas writes what is missing
                row = row | {"input": ""}
            for key in ("instruction", "output"):
                if not isinstance(row.get(key), str):
                    raise UserError(f"{path}: row {number}: key '{key}' is missing or not text")
            if not isinstance(row.get("input") or "", str):
                raise UserError(f"{path}: row {number}: key 'input' is not text")
            if not row["output"].strip():
                empty += 1
                continue
            template = PROMPT_WITH_INPUT if row.get("input") else PROMPT_WITHOUT_INPUT
            pairs.append((template.format_map(row), row["output"]))
    log.info("%s: %d rows, %d more with an empty output dropped", source, len(pairs), empty)
    return pairs


def tokenize_pairs(pairs: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> TokenRows:
    """Token rows `prompt response end-token`, cut to max_length tokens; rows cut before their response are dropped.

    Prompt and response are tokenised together and the prompt alone gives the mask's length, as in Stanford Alpaca.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise UserError(f"{tokenizer.name_or_path}: the tokenizer has no end token (eos_token)")

    def encode(texts: list[str]) -> list[list[int]]:
        encoded = tokenizer(texts, verbose=False)["input_ids"] if texts else []
        return [ids[:-1] if ids[-1] == end else ids for ids in encoded]  # some tokenizers append it themselves

    prompts = encode([prompt for prompt, _ in pairs])
    texts = encode([prompt + response for prompt, response in pairs])
    rows, prompt_lengths, cut = [], [], 0
    for prompt, text in zip(prompts, texts, strict=True):
        row = [*text, end]
        cut += len(row) > max_length
        if len(prompt) < min(len(row), max_length):
            rows.append(np.array(row[:max_length], dtype=np.int32))
            prompt_lengths.append(len(prompt))
    log.info("%d rows cut to %d tokens, %d of them dropped: nothing of the response left", cut, max_length,
             len(pairs) - len(rows))  # fmt: skip
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    tokens = np.concatenate(rows) if rows else np.empty(0, dtype=np.int32)
    return TokenRows(tokens, starts, np.array(prompt_lengths, dtype=np.int32))


def tokenize(output: Path, *, base: Path, instructions: Path, max_length: int) -> None:
    """Tokenise the instructions once, with Stanford Alpaca's prompts and masking, into arrays to be memory-mapped.

    Raises UserError for a bad row, by file and number, and for a tokenizer that does not fit the model.

    Args:
        base: Hugging Face model folder with the tokenizer
        instructions: Alpaca-shaped .json, .jsonl or .parquet, or a folder
        max_length: tokens; longer rows are cut
        output: folder: a .npy file per array, and rows.json
    """
    from transformers import AutoConfig, AutoTokenizer

    vocabulary = ModelShape.from_folder(base).vocab_size
    positions = AutoConfig.from_pretrained(base, local_files_only=True).max_position_embeddings
    if max_length > positions:
        raise UserError(
            f"config.yaml: training.max_length {max_length} exceeds the model's max_position_embeddings {positions}"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{base}: cannot load the tokenizer: {str(error).splitlines()[0]}") from error
    rows = tokenize_pairs(read_instructions(instructions), tokenizer, max_length)
    if rows.tokens.max(initial=0) >= vocabulary:
        raise UserError(f"{base}: the tokenizer has token {rows.tokens.max()}, the model only {vocabulary} rows")
    with atomic_folder(output) as folder:
        rows.save(folder)
        about = {"rows": len(rows), "tokens": len(rows.tokens), "vocabulary": vocabulary, "max_length": max_length}
        write_json(folder / "rows.json", about)


def load_rows(folder: Path, base: Path) -> TokenRows:
    """The token rows of a folder; raises UserError if they were made for a model with another vocabulary."""
    rows = TokenRows.load(folder)
    made_for, vocabulary = read_json(folder / "rows.json")["vocabulary"], ModelShape.from_folder(base).vocab_size
    if made_for != vocabulary:
        raise UserError(f"{folder}: tokenised for a vocabulary of {made_for}, the model {base} has {vocabulary}")
    return rows


@dataclass(frozen=True)
class BatchOrder:
    """The rows of every optimizer step: a new shuffle each epoch, its last partial batch dropped."""

    rows: int
    global_batch: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return self.rows // self.global_batch

    def epoch(self, step: int) -> int:
        return step // self.steps_per_epoch

    def batch(self, step: int) -> np.ndarray:
        """Row numbers of the step's global batch, [global_batch]; the same on every rank."""
        rng = np.random.default_rng(derived_seed(self.seed, "finetune", "order", self.epoch(step)))
        first = step % self.steps_per_epoch * self.global_batch
        return rng.permutation(self.rows)[first : first + self.global_batch]


def micro_batches(
    batch: np.ndarray, lengths: np.ndarray, rank: int, ranks: int, micro_batch: int
) -> Iterator[np.ndarray]:
    """Row numbers of each micro-batch of one rank, [micro_batch], of a global batch.

    What all ranks compute at the same time is of similar length, so that little of it is padding: the step's loss is
    one sum over the global batch, whose rows may be taken in any order. With one micro-batch a rank there is nothing
    to arrange, and the rows stay in their order.
    """
    if len(batch) > ranks * micro_batch:
        batch = batch[np.argsort(lengths[batch], kind="stable")]
    for first in range(rank * micro_batch, len(batch), ranks * micro_batch):
        yield batch[first : first + micro_batch]


def padding_share(lengths: np.ndarray, order: BatchOrder, ranks: int, micro_batch: int) -> float:
    """Share of the tokens computed in the first epoch that are padding."""
    padded = used = 0
    for step in range(order.steps_per_epoch):
        batch = order.batch(step)
        for rank in range(ranks):
            for rows in micro_batches(batch, lengths, rank, ranks, micro_batch):
                padded += len(rows) * int(lengths[rows].max())
                used += int(lengths[rows].sum())
    return 1 - used / padded
