"""What the paper's run costs at 7B, by arithmetic: the tables of docs/design/scale.md.

    python studies/scale/scale.py

Nothing here is measured. Exact: parameter counts, bytes of weights, gradients and optimizer states, counts of steps
and evaluations. Assumed, and printed with the tables: the utilisation of a GPU, tokens per instruction, prices.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import yaml

from llama_nas.config import check_config
from llama_nas.core.shape import ModelShape
from llama_nas.core.space import SearchSpace

PRESET = Path(__file__).resolve().parents[2] / "workflow/presets/llama2-7b.yaml"
LLAMA2_7B = ModelShape("llama", 4096, 11008, 32, 32, 32, 128, 32000)
SHAPES = {
    "LLaMA2-7B": LLAMA2_7B,
    "LLaMA2-13B": ModelShape("llama", 5120, 13824, 40, 40, 40, 128, 32000),
    "LLaMA2-70B": ModelShape("llama", 8192, 28672, 80, 64, 8, 128, 32000),
}
ROWS = 52_002 - 28  # Stanford Alpaca without its empty outputs
# Distinct prefixes of all requests, Llama-2 tokenizer, ARC scaled from validation to test by item counts.
TASK_TOKENS = {"arc_easy": 101_000, "arc_challenge": 61_000, "mmlu": 1_541_000, "truthfulqa_mc1": 47_300,
               "winogrande": 32_200}  # fmt: skip


@dataclass(frozen=True)
class Machine:
    gpus: int
    memory_gb: float  # per GPU
    peak: float  # dense bf16 FLOP/s per GPU, from the vendor's data sheet
    price: float  # assumed, per GPU and hour


MACHINES = {
    "8 x H100 80 GB": Machine(8, 80, 989e12, 3.0),
    "1 x H200 141 GB": Machine(1, 141, 989e12, 3.5),
    "1 x RTX 4090 24 GB": Machine(1, 24, 165e12, 0.5),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utilisation", type=float, default=0.35, help="of a GPU's peak, training")
    parser.add_argument("--scoring-utilisation", type=float, default=0.25)
    parser.add_argument("--row-tokens", type=float, default=150, help="mean tokens of a row, with its padding")
    parser.add_argument("--layer-sharing", type=float, default=0.54, help="share of layer passes that are computed")
    args = parser.parse_args()
    config = check_config(yaml.safe_load(PRESET.read_text()))
    space = SearchSpace.declare(LLAMA2_7B, config["space"]["depths"], config["space"]["widths"])
    rows_per_pass, length = config["training"]["micro_batch"], config["training"]["max_length"]
    print("Model states per rank, GB: weights + gradients + optimizer (+ fp32 gradients during its step)\n")
    print(states_table(LLAMA2_7B.parameters(space.full)))
    print("\nWhere it fits\n")
    held = activation_bytes(LLAMA2_7B, rows_per_pass, length)
    print(
        f"Activations, {rows_per_pass} rows of {length} tokens, recomputed in the backward pass: {held / 1e9:.1f} GB.\n"
    )
    print(fits_table(held))
    print("\nThe paper's run\n")
    print(hours_table(space, config, args))
    print("\nGrowth with the model, fine-tuning and five searches\n")
    print(growth_table(config, args))


def state_bytes(parameters: int, stage: int, ranks: int, offload: bool = False) -> tuple[float, float]:
    """(bytes between steps, further bytes during the optimizer step) of one rank on its GPU.

    bf16 weights and gradients, fp32 master weights and two AdamW moments: 2 + 2 + 12 bytes a parameter (ZeRO,
    arXiv 1910.02054, section 3.1), of which a stage keeps 1/ranks of the optimizer (1), the gradients (2) and the
    weights (3). In its step DeepSpeed has this rank's gradients in fp32, too. With offload the optimizer's part is in
    CPU memory.
    """
    weights = 2 * parameters / (ranks if stage == 3 else 1)
    gradients = 2 * parameters / (ranks if stage >= 2 else 1)
    share = parameters / (ranks if stage >= 1 else 1)
    return weights + gradients + (0 if offload else 12 * share), 0 if offload else 4 * share


def activation_bytes(shape: ModelShape, rows: int, length: int) -> float:
    """With gradient checkpointing: each layer's input, one layer recomputed, and the logits in bf16 and twice fp32."""
    tokens = rows * length
    inputs = 2 * tokens * shape.hidden_size * shape.num_hidden_layers
    one_layer = 2 * tokens * (8 * shape.hidden_size + 4 * shape.intermediate_size)
    return inputs + one_layer + tokens * shape.vocab_size * (2 + 4 + 4)


def states_table(parameters: int) -> str:
    lines = ["| stage | 1 rank | 2 ranks | 8 ranks | 16 ranks |", "|---|---|---|---|---|"]
    for stage, offload in [(0, False), (1, False), (2, False), (3, False), (1, True), (2, True), (3, True)]:
        cells = []
        for ranks in (1, 2, 8, 16):
            kept, step = (x / 1e9 for x in state_bytes(parameters, stage, ranks, offload))
            cells.append(f"{kept:.1f} (+{step:.1f})" if step else f"{kept:.1f}")
        lines.append(f"| {stage}{', optimizer on the CPU' * offload} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def fits_table(activations: float) -> str:
    """For each machine, the stages whose states and activations leave a tenth of its memory free."""
    lines = ["| machine | fine-tuning fits with | scoring: bf16 weights fit |", "|---|---|---|"]
    parameters = LLAMA2_7B.parameters(LLAMA2_7B.full)
    for name, machine in MACHINES.items():
        stages = []
        for offload in (False, True):
            for stage in range(int(offload), 4):
                needed = sum(state_bytes(parameters, stage, machine.gpus, offload)) + activations
                if needed < 0.9e9 * machine.memory_gb:
                    stages.append(f"{stage}{' with offload' * offload}")
        scoring = "yes" if 2 * parameters < 0.9e9 * machine.memory_gb else "no"
        lines.append(f"| {name} | {'stage ' + ', '.join(stages) if stages else 'nothing here'} | {scoring} |")
    return "\n".join(lines)


def computed(shape: ModelShape, parameters: float) -> float:
    """Parameters that take part in a matrix product for every token: all but the embedding."""
    return parameters - shape.vocab_size * shape.hidden_size


def mean_parameters(space: SearchSpace) -> float:
    """Of a sub-network drawn uniformly per gene: linear in the share of each block, so depth by depth."""
    mean = 0.0
    for depth in range(len(space.depths)):
        same_block = [space.subnet((depth, *[block] * space.num_layers)) for block in range(len(space.blocks))]
        mean += sum(map(space.shape.parameters, same_block)) / len(same_block) / len(space.depths)
    return mean


def training_flops(space: SearchSpace, epochs: float, row_tokens: float) -> float:
    """8 FLOPs a parameter and token (forward 2, backward 4, recomputed forward 2); half of the steps are of a
    sub-network. Attention's own products are left out: under 3 % at these lengths."""
    mean = (space.shape.parameters(space.full) + mean_parameters(space)) / 2
    return 8 * computed(space.shape, mean) * epochs * ROWS * row_tokens


def scoring_flops(space: SearchSpace, evaluations: int, tokens: int, sharing: float) -> float:
    """2 FLOPs a parameter and distinct prefix; of the layers of a population `sharing` are computed."""
    return 2 * computed(space.shape, mean_parameters(space)) * evaluations * tokens * sharing


def hours_table(space: SearchSpace, config: dict, args: argparse.Namespace) -> str:
    train = training_flops(space, config["training"]["epochs"], args.row_tokens)
    steps = config["training"]["epochs"] * (ROWS // config["training"]["global_batch"])
    evaluations = config["search"]["evaluations"]
    lines = [f"{steps:.0f} optimizer steps; {evaluations} evaluations of each of five tasks; assumed: "
             f"{args.utilisation:.0%} of peak in training, {args.scoring_utilisation:.0%} in scoring, "
             f"{args.row_tokens:.0f} tokens a row, {args.layer_sharing:.0%} of the layer passes computed.", "",
             "| stage | PFLOP | " + " | ".join(f"{name}, hours" for name in MACHINES) + " |",
             "|---|---|" + "---|" * len(MACHINES)]  # fmt: skip
    total = dict.fromkeys(MACHINES, 0.0)
    works = [("fine-tuning", train, args.utilisation)] + [
        (f"search, {task}", scoring_flops(space, evaluations, tokens, args.layer_sharing),
         args.scoring_utilisation)
        for task, tokens in TASK_TOKENS.items()
    ]  # fmt: skip
    for name, flops, utilisation in works:
        cells = []
        for machine_name, machine in MACHINES.items():
            hours = flops / (machine.gpus * machine.peak * utilisation) / 3600
            possible = name != "fine-tuning" or machine.memory_gb > 24
            total[machine_name] += hours if possible else 0
            cells.append(f"{hours:.2f}" if possible else "does not fit")
        lines.append(f"| {name} | {flops / 1e15:,.0f} | " + " | ".join(cells) + " |")
    lines.append("| all of these | | " + " | ".join(f"{hours:.1f}" for hours in total.values()) + " |")
    prices = [f"{total[name] * m.gpus * m.price:.0f} at {m.price:.2f}" for name, m in MACHINES.items()]
    lines.append("| US dollars, at an assumed price per GPU-hour | | " + " | ".join(prices) + " |")
    return "\n".join(lines)


def growth_table(config: dict, args: argparse.Namespace) -> str:
    lines = ["| model | parameters | fine-tuning, PFLOP | five searches, PFLOP | ZeRO-2 on 8, GB a rank | "
             "ZeRO-3 on 8, GB a rank |", "|---|---|---|---|---|---|"]  # fmt: skip
    for name, shape in SHAPES.items():
        layers = shape.num_hidden_layers
        space = SearchSpace.declare(
            shape, [layers * 3 // 4, layers * 7 // 8, layers], [shape.intermediate_size, shape.intermediate_size // 2]
        )
        parameters = shape.parameters(space.full)
        train = training_flops(space, config["training"]["epochs"], args.row_tokens)
        tokens = sum(TASK_TOKENS.values())
        search = scoring_flops(space, config["search"]["evaluations"], tokens, args.layer_sharing)
        memory = [sum(state_bytes(parameters, stage, 8)) / 1e9 for stage in (2, 3)]
        lines.append(f"| {name} | {parameters:,} | {train / 1e15:,.0f} | {search / 1e15:,.0f} | {memory[0]:.0f} | "
                     f"{memory[1]:.0f} |")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    main()
