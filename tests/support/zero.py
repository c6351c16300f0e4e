"""Ways to train a tiny Llama, the plain one-process torch loop that each must equal, and the ranks that train it."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tests.support.models import write_space
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from llama_nas.core.shape import Subnet
from llama_nas.models.elastic import active, active_part, make_elastic
from llama_nas.training import checkpoint, worker
from llama_nas.training.config import TrainingConfig
from llama_nas.training.data import TokenRows
from llama_nas.training.engine import make_accelerator, make_engine
from llama_nas.training.nodes import Node
from llama_nas.training.subnet_steps import subnet_at

WIDTHS, DEPTHS = (48, 24, 12), (1, 2, 3, 4)


def write_base(folder: Path, tied: bool) -> dict[str, Path]:
    """A tiny Llama and its space, as the settings of a run on them."""
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=WIDTHS[0],
        num_hidden_layers=DEPTHS[-1],
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return {"base": folder, "space": write_space(folder, WIDTHS, DEPTHS)}


def random_rows(count: int) -> TokenRows:
    """Rows of 3 to 6 prompt tokens and 1 to 12 response tokens: ranks and micro-batches get unequal shares."""
    rng = np.random.default_rng(5)
    prompts = rng.integers(3, 7, count).astype(np.int32)
    lengths = prompts + rng.integers(1, 13, count)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return TokenRows(rng.integers(0, 64, starts[-1]).astype(np.int32), starts, prompts)


ROWS = random_rows(40)
BASE = TrainingConfig(
    base=Path(),
    rows=Path(),
    space=Path(),
    output=Path(),
    checkpoints=Path(),
    checkpoint_every=10**6,
    seed=11,
    ranks=2,
    zero_stage=0,
    dtype="fp32",
    epochs=2.4,  # 12 steps, 5 an epoch
    global_batch=8,
    micro_batch=2,
    learning_rate=0.3,
    warmup=0.2,
    weight_decay=0.0,
    max_grad_norm=0.0,
    optimizer="sgd",
)
SGD = BASE
ADAMW = dataclasses.replace(BASE, optimizer="adamw", learning_rate=3e-3, weight_decay=0.1, max_grad_norm=1.0)
BF16 = dataclasses.replace(BASE, optimizer="adamw", learning_rate=2e-3, dtype="bf16")
TINY_UPDATES = dataclasses.replace(BF16, learning_rate=2e-4, epochs=4)  # far below the spacing of bf16 numbers
FORMATS = {"fp32": ADAMW, "bf16": BF16}
ENGINES = [*((stage, False) for stage in range(4)), *((stage, True) for stage in (1, 2, 3))]  # (ZeRO stage, offload)
# All of engine x format x freeze_inactive x ranks; every second one with gradient checkpointing.
PRODUCT = [
    (*settings, bool(i % 2) != (settings[-1] == 2))
    for i, settings in enumerate(
        (engine, dtype, frozen, ranks)
        for ranks in (1, 2)
        for engine, dtype, frozen in itertools.product(ENGINES, FORMATS, (False, True))
    )
]


def product_case(engine: tuple[int, bool], dtype: str, frozen: bool, ranks: int, recomputed: bool):
    """Name and settings of one way to train, for 6 steps."""
    stage, offload = engine
    words = [f"zero{stage}", "offload" * offload, dtype, "frozen" * frozen, "recomputed" * recomputed, f"ranks{ranks}"]
    changes = {"zero_stage": stage, "offload_optimizer": offload, "freeze_inactive": frozen, "ranks": ranks}
    settings = dataclasses.replace(FORMATS[dtype], epochs=1.2, gradient_checkpointing=recomputed, **changes)
    return "-".join(word for word in words if word), settings


RESUMED = [
    product_case(*settings)[0]
    for settings in PRODUCT
    if settings[:4] in (((2, False), "bf16", False, 2), ((2, False), "bf16", True, 2), ((3, True), "fp32", True, 2))
]


def steps_of(config: TrainingConfig) -> int:
    return worker.total_steps(config, worker.batch_order(config, ROWS))


def oracle(config: TrainingConfig) -> dict[str, torch.Tensor]:
    """The reference semantics, one process and one row at a time: no padding, no ranks, no accumulation factors."""
    torch.set_num_threads(1)
    model = make_elastic(AutoModelForCausalLM.from_pretrained(config.base, dtype=torch.float32)).train()
    if config.optimizer == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), lr=config.learning_rate)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    order, steps = worker.batch_order(config, ROWS), steps_of(config)
    for step in range(steps):
        batch = order.batch(step)
        total = sum(int(ROWS.starts[row + 1] - ROWS.starts[row] - ROWS.prompt_lengths[row]) for row in batch)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        subnet = subnet_at(step, config.search_space, config.seed, sampling=config.subnet_sampling)
        for row in batch:
            tokens = torch.tensor(ROWS.tokens[ROWS.starts[row] : ROWS.starts[row + 1]], dtype=torch.long)
            prompt = int(ROWS.prompt_lengths[row])
            with torch.no_grad():
                teacher = model(tokens[None]).logits[0][prompt - 1 : -1].softmax(-1)
            with active(model, subnet):
                logits = model(tokens[None]).logits[0][prompt - 1 : -1]
                loss = functional.cross_entropy(logits, tokens[prompt:], reduction="sum")
                if config.distillation and subnet:
                    divergence = (teacher * (teacher.log() - logits.log_softmax(-1))).sum()
                    loss = (1 - config.distillation) * loss + config.distillation * divergence
                (loss / total).backward()
        if config.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = worker.learning_rate_at(step, steps, config.learning_rate, config.warmup)
        before = {name: everything_of(optimizer, weight) for name, weight in model.named_parameters()}
        optimizer.step()
        if config.freeze_inactive and subnet:
            put_back_inactive(model, optimizer, subnet, before)
    return model.state_dict()


def everything_of(optimizer: torch.optim.Optimizer, weight: torch.Tensor) -> list[torch.Tensor]:
    """Copies of a weight and its two moments, zero where there are none yet."""
    state = optimizer.state.get(weight, {})
    moments = [state.get(key, torch.zeros_like(weight)) for key in ("exp_avg", "exp_avg_sq")]
    return [tensor.detach().clone() for tensor in (weight, *moments)]


@torch.no_grad()
def put_back_inactive(model, optimizer, subnet: Subnet, before) -> None:
    """Undo a step for each dropped layer, and each MLP channel beyond its layer's width, spelled out."""
    for i, block in enumerate(subnet.blocks):
        for name, weight in model.model.layers[i].named_parameters():
            tensors = [weight, optimizer.state[weight]["exp_avg"], optimizer.state[weight]["exp_avg_sq"]]
            for tensor, old in zip(tensors, before[f"model.layers.{i}.{name}"], strict=True):
                if block is None:
                    tensor.copy_(old)
                elif name in ("mlp.gate_proj.weight", "mlp.up_proj.weight"):
                    tensor[block.mlp_width :] = old[block.mlp_width :]
                elif name == "mlp.down_proj.weight":
                    tensor[:, block.mlp_width :] = old[:, block.mlp_width :]


def run_cases(rank: int, cases: dict[str, TrainingConfig], output: Path, port: int) -> None:
    """In a rank: train each case; rank 0 writes weights, losses, and the inactive weights that moved.

    Words in a case's name: `resumed` saves a checkpoint half-way and goes on from it with a new engine; `unrepaired`
    leaves the gradients in that ZeRO keeps between steps.
    """
    worker.prepare_process(rank, next(iter(cases.values())), Node(port=port))
    repair = worker.zero_stale_grads
    for name, config in cases.items():
        accelerator, engine = fresh_engine(config)
        worker.check_agreement(accelerator, config, ROWS)
        worker.zero_stale_grads = (lambda engine: None) if "unrepaired" in name else repair
        order, steps = worker.batch_order(config, ROWS), steps_of(config)
        history, moved = [], []
        for step in range(steps):
            if "resumed" in name and step == steps // 2:
                checkpoint.save(accelerator, engine, output / name, step, {"training": history, "probes": []})
                accelerator, engine = fresh_engine(config)
                history = checkpoint.restore(accelerator, engine, output / name)["training"]
                assert len(history) == step
            before = copied(accelerator.get_state_dict(engine)) if step % 2 else None
            history.append(worker.train_step(accelerator, engine, config, ROWS, order, step, steps))
            if before:  # rank 0
                after = accelerator.get_state_dict(engine)
                subnet = config.search_space.parse(history[-1]["subnet_id"])
                moved += [[step, key] for key in inactive_moved(before, after, subnet)]
            elif step % 2:
                accelerator.get_state_dict(engine)
        weights = accelerator.get_state_dict(engine)
        if rank == 0:
            save_file(copied(weights), output / f"{name}.safetensors")
            (output / f"{name}.json").write_text(json.dumps({"moved": moved, "history": history}))
        accelerator.wait_for_everyone()
    torch.distributed.destroy_process_group()


def copied(weights: dict[str, torch.Tensor] | None) -> dict[str, torch.Tensor] | None:
    return weights and {key: tensor.clone() for key, tensor in weights.items()}


def inactive_moved(before: dict, after: dict, subnet: Subnet) -> list[str]:
    """Names of the weights with a changed element in a dropped layer or an inactive channel."""
    names = []
    for name, tensor in after.items():
        changed = tensor != before[name]
        part = active_part(name, changed, subnet)
        if part is not None:
            part.zero_()
        if changed.any():
            names.append(name)
    return names


def fresh_engine(config: TrainingConfig):
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    accelerator = make_accelerator(config, parameters=10**5)
    # ZeRO-3 leaves parameters below 1e5 elements whole: the test's model would not be partitioned at all.
    accelerator.deepspeed_plugin.deepspeed_config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return accelerator, make_engine(accelerator, config)


def launch_cases(cases: dict[str, TrainingConfig], output: Path) -> None:
    ranks = next(iter(cases.values())).ranks
    store = torch.distributed.TCPStore("127.0.0.1", 0, ranks, is_master=True, wait_for_workers=False)
    torch.multiprocessing.spawn(run_cases, (cases, output, store.port), nprocs=ranks)
