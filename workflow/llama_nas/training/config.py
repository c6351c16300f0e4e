"""What a fine-tuning run is: every value its result depends on, and where it reads and writes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from llama_nas.artifacts import file_digest, folder_digest
from llama_nas.code_digest import code_digest
from llama_nas.errors import UserError
from llama_nas.space import ModelShape, SearchSpace

# Where a run reads, writes and how often it saves: none of this changes its result.
_NOT_IDENTITY = ("base", "instructions", "output", "checkpoints", "checkpoint_every")
_LIBRARIES = ("torch", "transformers", "accelerate", "deepspeed")


@dataclass(frozen=True)
class TrainingConfig:
    """One run of super-network fine-tuning, as `llama-nas finetune` is called; see its --help for each value."""

    base: Path
    instructions: Path
    output: Path
    checkpoints: Path
    checkpoint_every: int
    seed: int
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    depth_selection: str
    device: str
    threads: int
    ranks: int
    zero_stage: int
    dtype: str
    epochs: float
    global_batch: int
    micro_batch: int
    learning_rate: float
    warmup: float
    weight_decay: float
    max_grad_norm: float
    max_length: int
    subnet_steps: str
    gradient_checkpointing: bool
    optimizer: str = "adamw"  # `sgd` has no state and so shows gradients alone: tests compare engines with it

    @cached_property
    def space(self) -> SearchSpace:
        shape = ModelShape.from_folder(self.base)
        return SearchSpace.for_model(shape, self.depths, self.widths, self.depth_selection)

    @property
    def accumulation(self) -> int:
        """Micro-batches of each rank per optimizer step."""
        rows = self.micro_batch * self.ranks
        if min(self.ranks, self.micro_batch, self.global_batch) < 1 or self.global_batch % rows:
            raise UserError(
                f"config.yaml: training.global_batch {self.global_batch} must be a multiple of "
                f"micro_batch {self.micro_batch} x ranks {self.ranks} = {rows}"
            )
        return self.global_batch // rows

    def identity(self) -> str:
        """Digest of everything the weights depend on: values, contents of the inputs, code, library versions."""
        values = {key: value for key, value in asdict(self).items() if key not in _NOT_IDENTITY}
        values["base"] = folder_digest(self.base)
        source = self.instructions
        values["instructions"] = folder_digest(source) if source.is_dir() else file_digest(source)
        values["code"] = code_digest("finetune")
        values["libraries"] = {library: version(library) for library in _LIBRARIES}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
