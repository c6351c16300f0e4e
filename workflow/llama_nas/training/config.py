"""What a fine-tuning run is: every value its result depends on, and where it reads and writes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from llama_nas.artifacts import folder_digest
from llama_nas.code_digest import code_digest
from llama_nas.errors import UserError
from llama_nas.space import ModelShape, SearchSpace

# Where a run reads, writes, reports and how often it saves: none of this changes its result.
_NOT_IDENTITY = ("base", "rows", "output", "checkpoints", "checkpoint_every", "tensorboard")
_LIBRARIES = ("torch", "transformers", "accelerate", "deepspeed")


@dataclass(frozen=True)
class TrainingConfig:
    """One run of super-network fine-tuning, as `llama-nas finetune` is called; see its --help for each value."""

    base: Path
    rows: Path
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
    subnet_steps: str = "alternate"
    subnet_sampling: str = "uniform"
    distillation: float = 0.0
    freeze_inactive: bool = False
    gradient_checkpointing: bool = False
    offload_optimizer: bool = False
    probe_every: int = 0
    tensorboard: Path | None = None
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

    def check_engine(self) -> None:
        """Refuse what no test compares with plain torch (tests/integration/test_training_zero.py)."""
        if self.offload_optimizer and self.zero_stage == 0:
            raise UserError("config.yaml: training.offload_optimizer needs training.zero_stage 1, 2 or 3")

    def identity(self) -> str:
        """Digest of everything the weights depend on: values, contents of the inputs, code, library versions."""
        values = {key: value for key, value in asdict(self).items() if key not in _NOT_IDENTITY}
        values["base"] = folder_digest(self.base)
        values["rows"] = folder_digest(self.rows)
        values["code"] = code_digest("finetune")
        values["libraries"] = {library: version(library) for library in _LIBRARIES}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
