"""What a fine-tuning run is: every value its result depends on, and where it reads and writes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from llama_nas.core.artifacts import file_digest, folder_digest
from llama_nas.core.code_digest import code_digest
from llama_nas.core.errors import UserError
from llama_nas.core.space import SearchSpace

# Where a run reads, writes, reports and how often it saves: none of this changes its result.
_NOT_IDENTITY = ("base", "rows", "space", "output", "checkpoints", "checkpoint_every", "tensorboard")
_LIBRARIES = ("torch", "transformers", "accelerate", "deepspeed")


@dataclass(frozen=True)
class TrainingConfig:
    """One run of super-network fine-tuning.

    Args:
        base: Hugging Face model folder
        rows: folder written by `llama-nas tokenize`
        space: space.json, written by `llama-nas declare-space`
        output: Hugging Face model folder, with training.csv
        checkpoints: folder to save to and resume from
        checkpoint_every: steps between checkpoints
        seed: the run's seed; the stage derives its own from it
        ranks: processes: one per GPU, or CPU ranks
        zero_stage: DeepSpeed ZeRO stage
        dtype: fp32, or bf16 with fp32 master weights
        epochs: passes over the rows; a fraction is allowed
        global_batch: rows per optimizer step = micro_batch x accumulation x ranks
        micro_batch: rows per rank and forward pass
        learning_rate: peak; cosine to 0
        warmup: share of the steps
        weight_decay: AdamW's
        max_grad_norm: gradient clipping; 0: none
        device: the processors, or a GPU for each rank
        threads: compute threads of each rank; part of the result's identity
        subnet_steps: never: plain fine-tuning of the full network, for comparison
        subnet_sampling: uniform per gene (the paper), uniform over size, or every second one the smallest
        distillation: weight of the full network's answers in sub-network steps
        freeze_inactive: no momentum or decay outside the sub-network
        gradient_checkpointing: recompute activations in the backward pass
        offload_optimizer: optimizer state and update on the CPU
        probe_every: steps between losses on held-out rows; 0: none
        tensorboard: folder for TensorBoard event files
        optimizer: sgd has no state and so shows gradients alone: tests compare engines with it
    """

    base: Path
    rows: Path
    space: Path
    output: Path
    checkpoints: Path
    checkpoint_every: int
    seed: int
    ranks: int
    zero_stage: Literal[0, 1, 2, 3]
    dtype: Literal["fp32", "bf16"]
    epochs: float
    global_batch: int
    micro_batch: int
    learning_rate: float
    warmup: float
    weight_decay: float
    max_grad_norm: float
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1
    subnet_steps: Literal["alternate", "never"] = "alternate"
    subnet_sampling: Literal["uniform", "stratified", "sandwich"] = "uniform"
    distillation: float = 0.0
    freeze_inactive: bool = False
    gradient_checkpointing: bool = False
    offload_optimizer: bool = False
    probe_every: int = 0
    tensorboard: Path | None = None
    optimizer: Literal["adamw", "sgd"] = "adamw"

    @cached_property
    def search_space(self) -> SearchSpace:
        """The space whose networks are trained, as it was declared on this base."""
        declared = SearchSpace.read(self.space)
        declared.check_model(self.base)
        return declared

    @property
    def accumulation(self) -> int:
        """Micro-batches of each rank per optimizer step."""
        check_batch(self.global_batch, self.micro_batch, self.ranks)
        return self.global_batch // (self.micro_batch * self.ranks)

    def identity(self) -> str:
        """Digest of everything the weights depend on: values, contents of the inputs, code, library versions."""
        values = {key: value for key, value in asdict(self).items() if key not in _NOT_IDENTITY}
        values["base"] = folder_digest(self.base)
        values["rows"] = folder_digest(self.rows)
        values["space"] = file_digest(self.space)
        values["code"] = code_digest("finetune")
        values["libraries"] = {library: version(library) for library in _LIBRARIES}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def check_batch(global_batch: int, micro_batch: int, ranks: int) -> None:
    """Raise UserError if a global batch cannot be shared out evenly."""
    per_pass = micro_batch * ranks
    if min(ranks, micro_batch, global_batch) < 1 or global_batch % per_pass:
        raise UserError(
            f"config.yaml: training.global_batch {global_batch} must be a multiple of "
            f"micro_batch {micro_batch} x ranks {ranks} = {per_pass}"
        )


def check_offload(offload_optimizer: bool, zero_stage: int) -> None:
    """Raise UserError for what no test compares with plain torch (tests/integration/test_training_zero.py)."""
    if offload_optimizer and zero_stage == 0:
        raise UserError("config.yaml: training.offload_optimizer needs training.zero_stage 1, 2 or 3")
