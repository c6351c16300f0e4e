"""Fine-tuning under accelerate + DeepSpeed on really launched ranks, against a plain one-process torch loop."""

import contextlib
import dataclasses
import itertools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llama_nas.artifacts import read_table
from llama_nas.elastic import active, active_part, make_elastic
from llama_nas.errors import UserError
from llama_nas.space import SearchSpace
from llama_nas.training import checkpoint, worker
from llama_nas.training.config import TrainingConfig
from llama_nas.training.data import TokenRows, tokenize_instructions
from llama_nas.training.engine import make_accelerator, make_engine
from llama_nas.training.nodes import Node, this_node
from llama_nas.training.sampling import subnet_at

LAYERS, WIDTHS, DEPTHS = 4, (48, 24, 12), (1, 2, 3, 4)


def tiny_llama(folder: Path, tied: bool) -> Path:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=WIDTHS[0],
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


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
    output=Path(),
    checkpoints=Path(),
    checkpoint_every=10**6,
    seed=11,
    depths=DEPTHS,
    widths=WIDTHS,
    depth_selection="first",
    device="cpu",
    threads=1,
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
    space = SearchSpace(LAYERS, DEPTHS, WIDTHS)
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
        subnet = subnet_at(step, space, config.seed, sampling=config.subnet_sampling)
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
            put_back_inactive(model, optimizer, subnet.widths, before)
    return model.state_dict()


def everything_of(optimizer: torch.optim.Optimizer, weight: torch.Tensor) -> list[torch.Tensor]:
    """Copies of a weight and its two moments, zero where there are none yet."""
    state = optimizer.state.get(weight, {})
    moments = [state.get(key, torch.zeros_like(weight)) for key in ("exp_avg", "exp_avg_sq")]
    return [tensor.detach().clone() for tensor in (weight, *moments)]


@torch.no_grad()
def put_back_inactive(model, optimizer, widths, before) -> None:
    """Undo a step for each dropped layer, and each MLP channel beyond its layer's width, spelled out."""
    for i, width in enumerate(widths):
        for name, weight in model.model.layers[i].named_parameters():
            tensors = [weight, optimizer.state[weight]["exp_avg"], optimizer.state[weight]["exp_avg_sq"]]
            for tensor, old in zip(tensors, before[f"model.layers.{i}.{name}"], strict=True):
                if width is None:
                    tensor.copy_(old)
                elif name in ("mlp.gate_proj.weight", "mlp.up_proj.weight"):
                    tensor[width:] = old[width:]
                elif name == "mlp.down_proj.weight":
                    tensor[:, width:] = old[:, width:]


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
                moved += [[step, key] for key in inactive_moved(before, after, history[-1]["subnet_id"])]
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


def inactive_moved(before: dict, after: dict, subnet_id: str) -> list[str]:
    """Names of the weights with a changed element in a dropped layer or an inactive channel."""
    subnet = SearchSpace(LAYERS, DEPTHS, WIDTHS).parse(subnet_id)
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


def deviation(weights: dict[str, torch.Tensor], reference: dict[str, torch.Tensor]) -> float:
    """Largest relative difference of any weight tensor, in norm."""
    assert weights.keys() == reference.keys()
    return max(float((weights[key].float() - reference[key]).norm() / reference[key].norm()) for key in reference)


def deviation_on_the_way(weights: dict[str, torch.Tensor], reference: dict[str, torch.Tensor], base: Path) -> float:
    """Largest difference of any matrix from the reference, in units of the reference's way from the base."""
    start = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32).state_dict()
    matrices = [key for key in reference if "norm" not in key]
    way = {key: (reference[key] - start[key]).norm() for key in matrices}
    return max(float((weights[key].float() - reference[key]).norm() / way[key]) for key in matrices)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return {name: tiny_llama(folder / name, tied=name == "tied") for name in ("untied", "tied")}


@pytest.fixture(scope="module")
def references(bases):
    untied = {"base": bases["untied"]}
    found = {
        ("untied", "sgd"): oracle(dataclasses.replace(SGD, **untied)),
        ("tied", "sgd"): oracle(dataclasses.replace(SGD, base=bases["tied"])),
        ("untied", "adamw"): oracle(dataclasses.replace(ADAMW, **untied)),
        ("untied", "tiny updates"): oracle(dataclasses.replace(TINY_UPDATES, **untied)),
        ("untied", "distilled"): oracle(
            dataclasses.replace(SGD, distillation=0.5, subnet_sampling="stratified", **untied)
        ),
    }
    for dtype, frozen in itertools.product(FORMATS, (False, True)):
        found[dtype, frozen] = oracle(dataclasses.replace(FORMATS[dtype], epochs=1.2, freeze_inactive=frozen, **untied))
    return found


@pytest.fixture(scope="module")
def trained(bases, tmp_path_factory):
    """Every case trained in one launch of two ranks and one of a single rank."""
    output = tmp_path_factory.mktemp("trained")
    cases = {}
    for stage in range(4):
        for name, base in bases.items():
            cases[f"{name}-sgd-zero{stage}"] = dataclasses.replace(SGD, base=base, zero_stage=stage)
        cases[f"untied-adamw-zero{stage}"] = dataclasses.replace(ADAMW, base=bases["untied"], zero_stage=stage)
        cases[f"untied-adamw-zero{stage}-resumed"] = cases[f"untied-adamw-zero{stage}"]
        cases[f"untied-bf16-zero{stage}"] = dataclasses.replace(TINY_UPDATES, base=bases["untied"], zero_stage=stage)
        cases[f"untied-distilled-zero{stage}"] = dataclasses.replace(
            cases[f"untied-sgd-zero{stage}"], distillation=0.5, subnet_sampling="stratified"
        )
    for stage in (1, 2, 3):
        cases[f"untied-sgd-zero{stage}-offload"] = dataclasses.replace(
            cases[f"untied-sgd-zero{stage}"], offload_optimizer=True
        )
        cases[f"untied-sgd-zero{stage}-offload-unrepaired"] = cases[f"untied-sgd-zero{stage}-offload"]
    cases["untied-sgd-zero3-unrepaired"] = cases["untied-sgd-zero3"]
    product = dict(product_case(*settings) for settings in PRODUCT)
    cases |= {name: dataclasses.replace(case, base=bases["untied"]) for name, case in product.items()}
    cases |= {f"{name}-resumed": cases[name] for name in RESUMED}
    for ranks in (2, 1):
        launch_cases({name: case for name, case in cases.items() if case.ranks == ranks}, output)
    return output


def result(trained: Path, case: str) -> tuple[dict[str, torch.Tensor], dict]:
    return load_file(trained / f"{case}.safetensors"), json.loads((trained / f"{case}.json").read_text())


def test_reference_moves_every_tensor(bases, references):
    """Otherwise agreement with it would mean little."""
    for name, optimizer in [("untied", "sgd"), ("tied", "sgd"), ("untied", "adamw")]:
        weights = references[name, optimizer]
        start = LlamaForCausalLM.from_pretrained(bases[name], dtype=torch.float32).state_dict()
        assert min(float((weights[key] - start[key]).norm() / start[key].norm()) for key in weights) > 1e-3


def test_references_tell_the_settings_apart(references):
    """The tolerances below are far smaller than what freezing or distillation changes."""
    assert deviation(references["fp32", True], references["fp32", False]) > 1e-3
    assert deviation(references["untied", "distilled"], references["untied", "sgd"]) > 1e-3


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("name", ["untied", "tied"])
def test_sgd_matches_reference(trained, references, name, stage):
    """The issue asks for 1e-5; 3e-7 was measured."""
    weights, record = result(trained, f"{name}-sgd-zero{stage}")
    assert deviation(weights, references[name, "sgd"]) < 2e-6
    assert {row["kind"] for row in record["history"]} == {"full", "subnet"}
    assert any("x" in row["subnet_id"] for row in record["history"])
    assert record["moved"] == [], "something inactive changed: its gradient is zero"


@pytest.mark.parametrize("stage", range(4))
def test_adamw_with_clipping_and_decay_matches_reference(trained, references, stage):
    """The issue asks for 1e-4; 1.3e-6 was measured."""
    weights, _ = result(trained, f"untied-adamw-zero{stage}")
    assert deviation(weights, references["untied", "adamw"]) < 5e-6


@pytest.mark.parametrize("stage", range(4))
def test_bf16_keeps_fp32_master_weights(trained, bases, references, stage):
    """Updates far below the spacing of bf16 numbers add up to the reference's; bf16 weights alone would stay put."""
    weights, _ = result(trained, f"untied-bf16-zero{stage}")
    assert deviation_on_the_way(weights, references["untied", "tiny updates"], bases["untied"]) < 0.5


@pytest.mark.parametrize(("engine", "dtype", "frozen", "ranks", "recomputed"), PRODUCT)
def test_every_combination_matches_reference(trained, bases, references, engine, dtype, frozen, ranks, recomputed):
    """ZeRO stage x offload x format x freeze_inactive x 1 or 2 ranks, half of them with gradient checkpointing.

    Tolerances, set before anything was run: fp32, 5e-6 of each tensor's norm after 6 steps of AdamW with clipping
    and decay; bf16, half of each matrix's way from its start. (A learning rate of 2e-4 was too low for that: one
    rounding of the weights to bf16 was 0.4 of the way of 6 steps, and base and result are both rounded.)
    """
    name, _ = product_case(engine, dtype, frozen, ranks, recomputed)
    weights, record = result(trained, name)
    reference = references[dtype, frozen]
    if dtype == "fp32":
        assert deviation(weights, reference) < 5e-6
    else:
        assert weights["lm_head.weight"].dtype == torch.bfloat16
        assert deviation_on_the_way(weights, reference, bases["untied"]) < 0.5
    assert bool(record["moved"]) == (not frozen), "momentum and decay move what is inactive, unless it is frozen"


def test_one_rank_equals_two(trained):
    """And gradient checkpointing changes nothing: one of the two has it."""
    for engine in ENGINES:
        pair = [settings for settings in PRODUCT if settings[:3] == (engine, "fp32", False)]
        (one, two) = (result(trained, product_case(*settings)[0])[0] for settings in pair)
        assert {settings[-1] for settings in pair} == {False, True} and deviation(one, two) < 5e-6


@pytest.mark.parametrize("stage", range(4))
def test_distillation_matches_reference(trained, references, stage):
    weights, _ = result(trained, f"untied-distilled-zero{stage}")
    assert deviation(weights, references["untied", "distilled"]) < 2e-6


@pytest.mark.parametrize("stage", (1, 2, 3))
def test_offload_matches_reference(trained, references, stage):
    weights, record = result(trained, f"untied-sgd-zero{stage}-offload")
    assert deviation(weights, references["untied", "sgd"]) < 2e-6
    assert record["moved"] == []


@pytest.mark.parametrize("case", ["zero3", "zero1-offload", "zero2-offload", "zero3-offload"])
def test_stale_gradients_need_the_repair(trained, references, case):
    """What `zero_stale_grads` is for. If this fails, DeepSpeed has mended it and the repair can go."""
    weights, record = result(trained, f"untied-sgd-{case}-unrepaired")
    assert record["moved"], "without the repair, dropped layers move"
    assert deviation(weights, references["untied", "sgd"]) > 1e-3


@pytest.mark.parametrize("case", [*(f"untied-adamw-zero{stage}" for stage in range(4)), *RESUMED])
def test_resumed_run_equals_uninterrupted_bit_for_bit(trained, case):
    whole, record = result(trained, case)
    resumed, resumed_record = result(trained, f"{case}-resumed")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert resumed_record["history"] == record["history"]


def test_recorded_losses_agree_between_stages(trained):
    losses = [[row["loss"] for row in result(trained, f"untied-sgd-zero{stage}")[1]["history"]] for stage in range(4)]
    np.testing.assert_allclose(losses, np.broadcast_to(losses[0], (4, 12)), rtol=1e-5)


# --- the command itself -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """`llama-nas finetune` on a tiny base model with a tokenizer; 48 steps on 2 ranks with ZeRO-2."""
    folder = tmp_path_factory.mktemp("command")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(special_tokens=["</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([], trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    config = LlamaConfig(
        vocab_size=len(wrapped),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    wrapped.save_pretrained(folder / "base")
    rows = [{"instruction": f"Say {n}.", "input": "", "output": "one " * (n % 5 + 1)} for n in range(34)]
    (folder / "rows.json").write_text(json.dumps(rows))

    tokenize_instructions(folder / "rows", base=folder / "base", instructions=folder / "rows.json", max_length=256)

    def build(output: str, **changes: str) -> list[str]:
        options = {
            "base": folder / "base", "rows": folder / "rows", "output": folder / output,
            "checkpoints": folder / "checkpoints", "checkpoint-every": 4, "seed": 1, "ranks": 2, "zero-stage": 2,
            "dtype": "fp32", "epochs": 12, "global-batch": 8, "micro-batch": 2, "learning-rate": 3e-3, "warmup": 0.1,
            "weight-decay": 0, "max-grad-norm": 1,
        } | changes  # fmt: skip
        flat = [part for key, value in options.items() for part in (f"--{key}", str(value))]
        return [sys.executable, "-m", "llama_nas.cli", "finetune", "--depths", "2", "3", "--widths", "48", "24", *flat]

    build.folder = folder
    return build


def run(arguments: list[str], largest_file: int | None = None) -> subprocess.CompletedProcess:
    """Run to the end; largest_file: bytes after which the system refuses to write on, as it does on a full disk."""

    def limit() -> None:
        if largest_file:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    return subprocess.run(arguments, capture_output=True, text=True, timeout=300, preexec_fn=limit)


@contextlib.contextmanager
def running_after_checkpoint(command, output: str, newer_than: int = 0):
    """A running command, its two ranks and the step of a checkpoint that it has written."""
    with subprocess.Popen(command(output), stderr=subprocess.DEVNULL) as launcher:
        step = 0
        while step <= newer_than:
            assert launcher.poll() is None
            time.sleep(0.005)
            step = latest(command)
        children = psutil.Process(launcher.pid).children(recursive=True)
        ranks = [child for child in children if any("spawn_main" in part for part in child.cmdline())]
        assert len(ranks) == 2
        yield launcher, ranks, step


def latest(command) -> int:
    return max([int(path.read_text()) for path in command.folder.glob("checkpoints/*/latest")], default=0)


def wait_until_saving(command) -> None:
    """Return while a checkpoint is being written: its folder is there, and `latest` does not name it.

    On a busy machine this may be missed; then after 32 of the 48 steps.
    """
    while latest(command) < 32 and not any(
        int(path.name.removeprefix("step-")) > latest(command) for path in command.folder.glob("checkpoints/*/step-*")
    ):
        time.sleep(0.0005)


def test_interrupted_run_resumes_to_the_same_bytes(command):
    """A rank killed; the launcher killed while a checkpoint is written; SIGTERM; a full disk: nothing older is lost."""
    folder = command.folder
    stale, foreign = folder / "checkpoints/0123456789abcdef", folder / "checkpoints/mine"
    for path in (stale, foreign):
        path.mkdir(parents=True)
    whole = run(command("whole"))
    assert whole.returncode == 0, whole.stderr
    assert list((folder / "checkpoints").iterdir()) == [foreign], "checkpoints: of success and of other runs removed"
    foreign.rmdir()

    with running_after_checkpoint(command, "resumed") as (launcher, ranks, step):
        ranks[1].kill()
        assert launcher.wait(timeout=120) == 1
        assert not any(rank.is_running() for rank in ranks), "one rank's death ends the others"
    with running_after_checkpoint(command, "resumed", newer_than=step) as (launcher, ranks, _):
        wait_until_saving(command)
        launcher.kill()
        _, alive = psutil.wait_procs(ranks, timeout=60)
        assert not alive, "ranks end with their launcher"
    step = latest(command)
    (steps,) = folder.glob("checkpoints/*")
    (steps / "step-00000047").mkdir(exist_ok=True)  # what a save cut short leaves
    with running_after_checkpoint(command, "resumed", newer_than=step) as (launcher, ranks, step):
        assert not (steps / "step-00000047").exists()
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(timeout=120) == 128 + signal.SIGTERM
        assert not any(rank.is_running() for rank in ranks)
    assert step < latest(command) < 48, "SIGTERM: one more checkpoint before the end"

    step = latest(command)
    full = run(command("resumed"), largest_file=50_000)
    assert full.returncode == 2 and "Traceback" not in full.stderr
    last = full.stderr.strip().splitlines()[-1]
    assert "could not be written" in last and last.endswith(f"the run continues after step {step}")
    assert latest(command) == step and not (folder / "resumed").exists()
    assert {path.name for path in steps.glob("step-*")} == {f"step-{step:08d}"}

    rerun = run(command("resumed"))
    assert rerun.returncode == 0, rerun.stderr
    assert f"after step {step}" in rerun.stderr and "resumed from" in rerun.stderr
    assert {path.name for path in (folder / "whole").iterdir()} >= {"config.json", "tokenizer.json", "training.csv"}
    for path in (folder / "whole").iterdir():
        assert path.read_bytes() == (folder / "resumed" / path.name).read_bytes(), path.name
    check_supernet(folder / "whole", folder / "base")


def test_full_disk_at_the_end_keeps_the_checkpoint(command):
    """The last checkpoint is smaller than the model's file is allowed to be; the model is not."""
    done = run(command("too-large", **{"checkpoint-every": 10**6, "seed": 2}), largest_file=50_000)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "too-large: could not be written" in done.stderr.strip().splitlines()[-1]
    assert not (command.folder / "too-large").exists()


def test_probes_and_tensorboard(command):
    """Probes of the full network, each depth wide and narrow; held-out rows are not trained on."""
    done = run(command("probed", epochs=2, **{"probe-every": 3, "tensorboard": command.folder / "board"}))
    assert done.returncode == 0, done.stderr
    probes = read_table(command.folder / "probed" / "probes.csv")
    assert list(probes.step.unique()) == [3, 6]
    assert list(probes.subnet_id[:4]) == ["000", "111", "00x", "11x"]
    first, last = (probes[probes.step == step].loss.to_numpy() for step in (3, 6))
    assert (last < first).all()
    assert list(read_table(command.folder / "probed" / "training.csv").epoch) == [0, 0, 0, 1, 1, 1], "34 - 4 rows"
    assert list((command.folder / "board").rglob("events.out.*"))


def check_supernet(output: Path, base: Path) -> None:
    """Stock software loads the folder; the record has a row per step, alternating; training helped."""
    model, info = AutoModelForCausalLM.from_pretrained(output, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.dtype == torch.float32
    assert load_file(output / "model.safetensors").keys() == load_file(base / "model.safetensors").keys()
    table = read_table(output / "training.csv")
    assert list(table.columns) == [
        "step", "epoch", "kind", "subnet_id", "loss", "learning_rate", "response_tokens", "tokens"
    ]  # fmt: skip
    assert list(table.step) == list(range(48))
    assert list(table.kind) == ["full", "subnet"] * 24
    assert list(table.epoch) == [step // 4 for step in range(48)], "34 rows fill 4 batches of 8"
    assert table.subnet_id[table.kind == "full"].eq("000").all()
    for kind in ("full", "subnet"):
        losses = table.loss[table.kind == kind]
        assert losses.tail(4).mean() < losses.head(4).mean() - 0.5


def test_bad_input_found_by_a_rank_is_one_line(command):
    weights = command.folder / "broken" / "model.safetensors"
    shutil.copytree(command.folder / "base", weights.parent)
    weights.write_bytes(weights.read_bytes()[:1000])
    done = run(command("never", base=str(weights.parent)))
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("llama-nas finetune: error:") and "broken" in last
    assert "Traceback" not in done.stderr
    assert not (command.folder / "never").exists()


def test_two_nodes_train_the_same_bytes_as_one(command):
    """Two launchers, as srun starts them on two machines; here both are this one."""
    whole = command.folder / "whole"
    if not whole.exists():
        run(command("whole"))
    told = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2", "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1"}
    told["SLURM_JOB_ID"] = str(os.getpid())
    launchers = [
        subprocess.Popen(command("spread", nodes="2"), env=os.environ | told | {"SLURM_NODEID": node}) for node in "10"
    ]
    assert [launcher.wait(timeout=300) for launcher in launchers] == [0, 0]
    for path in whole.iterdir():
        assert path.read_bytes() == (command.folder / "spread" / path.name).read_bytes(), path.name


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({}, "one task per node (resource `mpi`), and 'SLURM_STEP_NUM_TASKS' is not set here"),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2"}, "srun started 4 tasks on 2 nodes"),
    ],
)
def test_a_launch_that_is_not_one_task_per_node_is_one_line(told, message):
    rest = {"SLURM_NODEID": "0", "SLURM_JOB_ID": "1", "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1"}
    with pytest.raises(UserError, match=re.escape(message)):
        this_node(2, told | rest)


def test_ranks_are_shared_out_over_the_nodes():
    assert [list(Node(index, 2).ranks(4)) for index in (0, 1)] == [[0, 1], [2, 3]]
    with pytest.raises(UserError, match=r"training\.ranks 3 cannot be shared out over 2 nodes"):
        Node(0, 2).ranks(3)
