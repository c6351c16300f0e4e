"""The distributed engine: a model and its optimizer under accelerate + DeepSpeed ZeRO, with plain semantics.

Whatever the ZeRO stage, an optimizer step computes what a one-process torch loop computes: the gradient of
(sum of the losses over all response tokens of the global batch) / (number of those tokens), zero (not none) for
parameters outside the active sub-network. DeepSpeed's own conventions that differ are undone here.

Offload of parameters, or of anything to disk, is not offered: no test covers it.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from llama_nas.models.elastic import load_elastic
from llama_nas.training.config import TrainingConfig
from llama_nas.training.freeze import InactiveFreezer

if TYPE_CHECKING:
    from accelerate import Accelerator

NEVER = 10**12  # steps between DeepSpeed's own progress lines
LARGEST_BUCKET = 500_000_000  # elements; DeepSpeed's default, allocated in full however small the model is


def make_accelerator(config: TrainingConfig, parameters: int) -> Accelerator:
    """Join the process group described by the environment (RANK, WORLD_SIZE, ...) and select ZeRO.

    parameters: the model's parameter count, which bounds DeepSpeed's buffers.
    """
    os.environ["DS_ACCELERATOR"] = config.device  # read when deepspeed is imported
    import deepspeed
    from accelerate import Accelerator, DeepSpeedPlugin, InitProcessGroupKwargs

    # DeepSpeed compiles a shared-memory operator for inference at every start on CPU (20 s, and a killed compilation
    # leaves a lock that the next one waits on for ever). With no native operator listed it does without.
    deepspeed.ops.__compatible_ops__ = {}
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    plugin = DeepSpeedPlugin(hf_ds_config=deepspeed_config(config, parameters), zero3_init_flag=config.zero_stage == 3)
    # Without a named backend, accelerate on a machine without GPU takes every rank for process 0 of 1; with cpu=True
    # it silently trains with DDP instead of DeepSpeed.
    backend = InitProcessGroupKwargs(backend="nccl" if config.device == "cuda" else "gloo")
    accelerator = Accelerator(
        mixed_precision="bf16" if config.dtype == "bf16" else "no",
        gradient_accumulation_steps=config.accumulation,
        deepspeed_plugin=plugin,
        kwargs_handlers=[backend],
        log_with="tensorboard" if config.tensorboard else None,
        project_dir=config.tensorboard,
    )
    if config.tensorboard:
        accelerator.init_trackers("finetune")
    if accelerator.num_processes != config.ranks or accelerator.process_index != int(os.environ["RANK"]):
        raise RuntimeError(
            f"rank {os.environ['RANK']} of {config.ranks} is process {accelerator.process_index} of "
            f"{accelerator.num_processes} to accelerate"
        )
    return accelerator


def deepspeed_config(config: TrainingConfig, parameters: int) -> dict[str, Any]:
    """DeepSpeed's configuration, with nothing that matters left to a default."""
    bucket = min(parameters, LARGEST_BUCKET)
    return {
        "train_batch_size": config.global_batch,
        "train_micro_batch_size_per_gpu": config.micro_batch,
        "gradient_accumulation_steps": config.accumulation,
        "gradient_clipping": float(config.max_grad_norm),  # 0: none. Left out, DeepSpeed clips at 1
        "bf16": {"enabled": config.dtype == "bf16"},  # master weights and optimizer state stay fp32
        "zero_optimization": {
            "stage": config.zero_stage,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            "stage3_gather_16bit_weights_on_model_save": True,  # gathers fp32 weights when training in fp32
            "offload_optimizer": {"device": "cpu" if config.offload_optimizer else "none"},
        },
        "zero_force_ds_cpu_optimizer": False,  # with offload, too, the optimizer is torch's
        "zero_allow_untested_optimizer": True,  # torch's optimizers: DeepSpeed's own are compiled at first use
        "steps_per_print": NEVER,
    }


def make_engine(accelerator: Accelerator, config: TrainingConfig) -> Any:
    """The base model as an elastic super-network in a DeepSpeed engine, in training mode.

    Under ZeRO-3 transformers loads the weights partitioned (deepspeed.zero.Init), so no rank holds them all.
    """
    model: Any = load_elastic(config.base, config.dtype, device=str(accelerator.device))
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable()
    engine, _ = accelerator.prepare(model.train(), make_optimizer(config, model))
    if config.zero_stage == 0 and config.dtype == "bf16":
        # DeepSpeed's wrapper for this case makes AdamW's state by a step on zero gradients and leaves it counted,
        # which spoils the bias correction (fp16/unfused_optimizer.py: initialize_optimizer_states).
        engine.optimizer.optimizer.state.clear()
    engine.freezer = InactiveFreezer(engine) if config.freeze_inactive else None
    return engine


def make_optimizer(config: TrainingConfig, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW with torch's defaults (betas 0.9 and 0.999), one for the whole run: never one per sub-network.

    A layer dropped after it was trained still moves for some steps by its momentum: that is AdamW on zero gradients,
    and the same for every engine. The learning rate is set anew for each step (`set_learning_rate`).
    """
    if config.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), lr=0.0)
    return torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=config.weight_decay)


def backward(accelerator: Accelerator, engine: Any, loss: torch.Tensor) -> None:
    """Accumulate the gradient of `loss`, this rank's and micro-batch's share of the global loss.

    The shares are meant to be summed; DeepSpeed averages over ranks and micro-batches, which the factor undoes.
    The optimizer steps by itself with the last micro-batch of a step.
    """
    accelerator.backward(loss * (accelerator.num_processes * engine.gradient_accumulation_steps()))


def zero_stale_grads(engine: Any) -> None:
    """Zero the gradients that ZeRO keeps between steps; call before the first micro-batch of every step.

    A parameter without a gradient in this step (a dropped layer) otherwise keeps the partition of the last step that
    gave it one, and the optimizer applies that again in every step: with ZeRO-3 (DeepSpeed 0.19.8,
    runtime/zero/stage3.py: `partition_grads` writes only the partitions of parameters that have a gradient), and with
    offload at every stage, where the gradients of the fp32 partitions stay on the CPU.
    """
    optimizer = engine.optimizer
    if engine.zero_optimization_partition_weights():
        optimizer.grad_partitions_flat_buffer.zero_()
    if engine.zero_use_cpu_optimizer():
        zero3 = engine.zero_optimization_partition_weights()
        for partition in optimizer.fp32_partitioned_groups_flat if zero3 else optimizer.single_partition_of_fp32_groups:
            if partition.grad is not None:
                partition.grad.zero_()
        optimizer.norm_for_param_grads.clear()  # they enter the norm that clipping is by


def set_learning_rate(engine: Any, learning_rate: float) -> None:
    for group in engine.optimizer.param_groups:
        group["lr"] = learning_rate
