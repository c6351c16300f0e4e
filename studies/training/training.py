"""What a training step costs: by the size of the active network, and against a plain transformers + DeepSpeed step.

    python studies/training/training.py [--device cuda --shape llama2-7b --dtype bf16 --gradient-checkpointing]

Weights and rows are random. On one rank the script measures forward + backward of networks of the space against their
FLOPs; full steps of ours and of a stock model in a stock DeepSpeed engine, in turns; and peak memory of each, in a
process of its own. On several ranks of this machine it measures what a step spends on forward and backward, in the
optimizer and on communication, for steps of the full network and of sub-networks. It writes training.json beside itself
and prints the tables of README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from llama_nas.core.artifacts import write_json
from llama_nas.core.shape import ModelShape, Subnet
from llama_nas.core.space import SearchSpace
from llama_nas.models.elastic import active, load_elastic
from llama_nas.training import worker
from llama_nas.training.config import TrainingConfig
from llama_nas.training.data import TokenRows
from llama_nas.training.engine import deepspeed_config, make_accelerator, make_engine, make_optimizer
from llama_nas.training.loss import response_loss
from llama_nas.training.nodes import Node

if TYPE_CHECKING:
    from multiprocessing import SimpleQueue

SETTINGS = "device dtype shape gradient_checkpointing rows length repeats pairs threads ranks".split()
SHAPES = {
    "small": dict(vocab_size=2048, hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8),
    "llama2-7b": dict(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--shape", choices=list(SHAPES), default="small")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--rows", type=int, default=4, help="of a step")
    parser.add_argument("--length", type=int, default=128, help="tokens a row")
    parser.add_argument("--repeats", type=int, default=9, help="of each network")
    parser.add_argument("--pairs", type=int, default=40, help="steps of ours and of the plain engine, in turns")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ranks", type=int, default=2, help="among which communication is measured; 1: it is not")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--peak-memory-of", choices=["ours", "plain"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        config = make_config(Path(folder), args)
        rows = random_rows(args, 64)
        if args.peak_memory_of:
            print(json.dumps(peak_memory(args.peak_memory_of, config, rows)))
            return
        result = {
            "arguments": {key: str(getattr(args, key)) for key in SETTINGS},
            "parameters": full_parameters(config),
            "scaling": scaling(config, rows, args.repeats),
            "pairs": pairs(config, rows, args.pairs),
        }
        if args.ranks > 1:
            result["parts"] = parts(dataclasses.replace(config, subnet_steps="alternate"), rows, args.ranks, args.pairs)
    result["peak_memory"] = {name: in_own_process(name) for name in ("ours", "plain")}
    write_json(args.output, result)
    print(markdown(result))


def make_config(folder: Path, args: argparse.Namespace) -> TrainingConfig:
    """A base of random weights on disk, and the run that trains it on one rank with ZeRO-2."""
    shape = SHAPES[args.shape]
    torch.manual_seed(0)
    dtype = torch.bfloat16 if args.dtype == "bf16" else torch.float32
    with torch.device(args.device):
        LlamaForCausalLM(LlamaConfig(**shape, max_position_embeddings=4096)).to(dtype).save_pretrained(folder / "base")
    layers, width = shape["num_hidden_layers"], shape["intermediate_size"]
    depths, base = (layers * 3 // 4, layers * 7 // 8, layers), ModelShape.from_folder(folder / "base")
    SearchSpace.declare(base, depths, (width, width // 2)).write(folder / "space.json")
    return TrainingConfig(
        base=folder / "base",
        rows=folder,
        space=folder / "space.json",
        output=folder / "output",
        checkpoints=folder / "checkpoints",
        checkpoint_every=10**6,
        seed=1,
        device=args.device,
        threads=args.threads,
        ranks=1,
        zero_stage=2,
        dtype=args.dtype,
        epochs=1000,
        global_batch=args.rows,
        micro_batch=args.rows,
        learning_rate=1e-5,
        warmup=0.0,
        weight_decay=0.0,
        max_grad_norm=1.0,
        subnet_steps="never",
        gradient_checkpointing=args.gradient_checkpointing,
    )


def full_parameters(config: TrainingConfig) -> int:
    space = config.search_space
    return space.shape.parameters(space.full)


def random_rows(args: argparse.Namespace, count: int) -> TokenRows:
    tokens = np.random.default_rng(0).integers(0, SHAPES[args.shape]["vocab_size"], count * args.length)
    starts = np.arange(count + 1, dtype=np.int64) * args.length
    return TokenRows(tokens.astype(np.int32), starts, np.full(count, args.length // 4, dtype=np.int32))


def flops(shape: ModelShape, subnet: Subnet, rows: int, length: int) -> float:
    """Of forward and backward: 6 a parameter in a matrix product and token, and attention's two products, causal."""
    products = shape.parameters(subnet) - shape.vocab_size * shape.hidden_size
    attention = subnet.layers * 2 * length * shape.num_attention_heads * shape.head_dim
    return rows * length * (6 * products + 3 * attention)


def scaling(config: TrainingConfig, rows: TokenRows, repeats: int) -> list[dict[str, Any]]:
    """Median seconds of forward + backward of networks across the space, measured in turns, and their FLOPs."""
    model = load_elastic(config.base, config.dtype, config.device).train()
    space = config.search_space
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable()
    half = [i % 2 for i in range(space.num_layers)]
    genotypes = [(d, *w) for d in range(len(space.depths)) for w in ([0] * space.num_layers, half, [1] * len(half))]
    networks = [space.subnet(genotype) for genotype in genotypes]
    inputs, labels = (tensor.to(config.device) for tensor in rows.batch(np.arange(config.micro_batch)))
    seconds: list[list[float]] = [[] for _ in networks]
    for repeat in range(repeats + 1):
        for i in np.random.default_rng(repeat).permutation(len(networks)):
            with active(model, networks[i]):
                start = now(config.device)
                response_loss(model(input_ids=inputs, use_cache=False).logits, labels).backward()
                seconds[i].append(now(config.device) - start)
            model.zero_grad()
    work = [flops(space.shape, network, *inputs.shape) for network in networks]
    return [
        {"subnet_id": space.id(network), "flops": amount, "seconds": float(np.median(own[1:]))}  # the first warms up
        for network, amount, own in zip(networks, work, seconds, strict=True)
    ]


def pairs(config: TrainingConfig, rows: TokenRows, count: int) -> dict[str, Any]:
    """Seconds of full steps, ours and plain in turns on the same rows; of ours also what the optimizer's step takes."""
    join_alone(config)
    ours, plain = our_step(config, rows), plain_step(config, rows)
    steps = {"ours": ours, "plain": plain}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    optimizer: list[float] = []
    for step in range(count + 2):
        for name in ("ours", "plain") if step % 2 else ("plain", "ours"):
            start = now(config.device)
            part = steps[name](step)
            seconds[name].append(now(config.device) - start)
            if name == "ours":
                optimizer.append(part)
    ratios = np.array(seconds["ours"][2:]) / np.array(seconds["plain"][2:])  # the first two warm up
    low, high = median_interval(ratios)
    return {
        "pairs": count,
        "ratio": float(np.median(ratios)),
        "interval": [low, high],
        "seconds": {name: float(np.median(own[2:])) for name, own in seconds.items()},
        "optimizer_seconds": float(np.median(optimizer[2:])),
    }


def join_alone(config: TrainingConfig) -> None:
    """Make this process the only rank of a run."""
    store = rendezvous(1)
    worker.prepare_process(0, config, Node(port=store.port))
    join_alone.store = store  # type: ignore[attr-defined]  # served as long as this process lives


def rendezvous(ranks: int) -> torch.distributed.TCPStore:
    return torch.distributed.TCPStore("127.0.0.1", 0, ranks, is_master=True, wait_for_workers=False)


def our_step(config: TrainingConfig, rows: TokenRows) -> Any:
    """A function of the step number: trains that step as `llama-nas finetune` does, returns its optimizer time."""
    accelerator = make_accelerator(config, full_parameters(config))
    engine = make_engine(accelerator, config)
    order, spent = worker.batch_order(config, rows), [0.0]
    engine_step = engine.step

    def timed_step(*args: Any, **kwargs: Any) -> None:
        start, before = now(config.device), communicated()
        engine_step(*args, **kwargs)
        spent[0] = now(config.device) - start - (communicated() - before)

    engine.step = timed_step

    def run(step: int) -> float:
        worker.train_step(accelerator, engine, config, rows, order, step, 10**6)
        return spent[0]

    return run


def parts(config: TrainingConfig, rows: TokenRows, ranks: int, count: int) -> dict[str, Any]:
    """What the first of `ranks` ranks spends a step's seconds on; each has the rows of a one-rank step."""
    config = dataclasses.replace(config, ranks=ranks, global_batch=config.micro_batch * ranks)
    store, results = rendezvous(ranks), get_context("spawn").SimpleQueue()
    node = Node(port=store.port)
    torch.multiprocessing.spawn(parts_of_rank, (node, config, rows, count, results), nprocs=ranks)
    return {"ranks": ranks, **results.get()}


def parts_of_rank(
    index: int, node: Node, config: TrainingConfig, rows: TokenRows, steps: int, results: SimpleQueue
) -> None:
    """Median seconds of full and of sub-network steps and of their parts, from the first rank.

    Communication is the time in DeepSpeed's collectives, with the wait for the slowest rank.
    """
    worker.prepare_process(index, config, node)
    run = our_step(config, rows)
    import deepspeed.comm

    deepspeed.comm.configure(enabled=True, prof_all=True)  # every collective of DeepSpeed is waited for and timed
    kinds: dict[str, list[list[float]]] = {"full": [], "subnet": []}
    for step in range(steps + 2):
        start, before = now(config.device), communicated()
        optimizer = run(step)
        seconds, communication = now(config.device) - start, communicated() - before
        arithmetic = seconds - optimizer - communication
        kinds["full" if step % 2 == 0 else "subnet"].append([seconds, arithmetic, optimizer, communication])
    if index == 0:
        names = ("step", "forward and backward", "optimizer", "communication")
        results.put({k: dict(zip(names, np.median(own[1:], axis=0).tolist(), strict=True)) for k, own in kinds.items()})
    torch.distributed.destroy_process_group()


def communicated() -> float:
    """Seconds that this rank has spent in DeepSpeed's collectives since they are timed.

    From the timers: the records that DeepSpeed 0.19.8 logs from them are running totals.
    """
    from deepspeed.comm.comm import timers

    return sum(timer.elapsed(reset=False) for timer in timers.get_timers().values()) / 1000


def plain_step(config: TrainingConfig, rows: TokenRows) -> Any:
    """The same with a stock model, its own loss and DeepSpeed alone, configured alike."""
    import deepspeed

    model: Any = AutoModelForCausalLM.from_pretrained(
        config.base, dtype=torch.bfloat16 if config.dtype == "bf16" else torch.float32
    ).to(config.device)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    optimizer, parameters = make_optimizer(config, model), full_parameters(config)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=deepspeed_config(config, parameters))
    engine.train()
    order = worker.batch_order(config, rows)

    def run(step: int) -> float:
        for group in engine.optimizer.param_groups:
            group["lr"] = config.learning_rate
        batch = order.batch(step)
        inputs, next_labels = (tensor.to(config.device) for tensor in rows.batch(batch))
        labels = torch.cat([torch.full_like(next_labels[:, :1], -100), next_labels[:, :-1]], dim=1)
        engine.backward(engine(input_ids=inputs, labels=labels, use_cache=False).loss)
        engine.step()
        return 0.0

    return run


def now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def median_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Distribution-free interval of the median: order statistics by the binomial distribution."""
    from scipy.stats import binom

    ordered = np.sort(values)
    low = int(binom.ppf((1 - confidence) / 2, len(ordered), 0.5))
    return float(ordered[max(low - 1, 0)]), float(ordered[min(len(ordered) - low, len(ordered) - 1)])


def peak_memory(name: str, config: TrainingConfig, rows: TokenRows) -> float:
    """Bytes: of this process on CPU (its libraries included), allocated by torch on a GPU; after three full steps."""
    join_alone(config)
    run = our_step(config, rows) if name == "ours" else plain_step(config, rows)
    for step in range(3):
        run(step)
    if config.device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_own_process(name: str) -> float:
    command = [sys.executable, *sys.argv, "--peak-memory-of", name]
    return json.loads(subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])


def markdown(result: dict[str, Any]) -> str:
    full = max(result["scaling"], key=lambda row: row["flops"])
    relative = [(row["flops"] / full["flops"], row["seconds"] / full["seconds"]) for row in result["scaling"]]
    slope, intercept = np.polyfit(*zip(*relative, strict=True), 1)
    lines = [f"{result['parameters']:,} parameters; full network {full['seconds']:.3f} s, "
             f"{full['flops'] / full['seconds'] / 1e12:.3g} TFLOP/s", "",
             "| network | FLOPs, share of full | seconds, share of full |", "|---|---|---|"]  # fmt: skip
    for row, (work, seconds) in zip(result["scaling"], relative, strict=True):
        lines.append(f"| `{row['subnet_id']}` | {work:.3f} | {seconds:.3f} |")
    lines += ["", f"seconds = {intercept:.3f} + {slope:.3f} x FLOPs, in shares of the full network", ""]
    timing, memory = result["pairs"], result["peak_memory"]
    lines += ["| full step | ours | plain | ours / plain |", "|---|---|---|---|",
              f"| seconds, median of {timing['pairs']} pairs | {timing['seconds']['ours']:.3f} (optimizer "
              f"{timing['optimizer_seconds']:.3f}) | {timing['seconds']['plain']:.3f} | {timing['ratio']:.3f} "
              f"(95 %: {timing['interval'][0]:.3f} to {timing['interval'][1]:.3f}) |",
              f"| peak memory, GB | {memory['ours'] / 1e9:.3f} | {memory['plain'] / 1e9:.3f} | "
              f"{memory['ours'] / memory['plain']:.3f} |"]  # fmt: skip
    if "parts" in result:
        names = list(result["parts"]["full"])
        lines += ["", f"| {result['parts']['ranks']} ranks, median seconds | {' | '.join(names)} |",
                  "|---|" + "---|" * len(names)]  # fmt: skip
        for kind, label in (("full", "full network"), ("subnet", "sub-network")):
            own = result["parts"][kind]
            lines.append(f"| {label} | {' | '.join(f'{own[name]:.3f}' for name in names)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
