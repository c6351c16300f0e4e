"""Options that several stages have in common."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama_nas.search.goals import Declared

Arguments = argparse.Namespace
Parser = argparse.ArgumentParser


def seed(parser: Parser) -> None:
    parser.add_argument("--seed", type=int, required=True, help="the run's seed; the stage derives its own from it")


def space(parser: Parser) -> None:
    parser.add_argument("--depths", type=int, nargs="+", required=True, help="layer counts of the space, ascending")
    parser.add_argument(
        "--widths",
        type=int,
        nargs="+",
        required=True,
        help="MLP widths of the space, full width first; append-only",
    )
    parser.add_argument("--depth-selection", default="first", help="which layers a depth keeps (default: first)")


def compute(parser: Parser) -> None:
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--threads", type=int, default=1, help="compute threads; part of the result's identity")


def algorithm(parser: Parser) -> None:
    parser.add_argument("--algorithm", choices=["linas", "nsga2", "random", "additive"], required=True)
    parser.add_argument("--variant", choices=["strict", "default"], required=True, help="of linas")
    parser.add_argument("--population", type=int, required=True, help="networks evaluated per round")


def goals(parser: Parser) -> None:
    parser.add_argument(
        "--objectives", choices=["metric", "parameters", "size", "latency"], nargs="+", default=["metric", "parameters"]
    )
    parser.add_argument(
        "--precision",
        choices=["fp32", "bf16", "fp16", "int8", "nf4"],
        default="fp16",
        help="of the objective size and of --max-size",
    )
    parser.add_argument("--max-size", help="largest weights of a candidate in that precision: 9GB, 8.5GiB, 900MB")
    parser.add_argument("--min-accuracy", type=float, help="least metric of a network of the front")
    parser.add_argument("--latency", choices=["prefill", "decode"], default="decode", help="phase of the objective")
    parser.add_argument("--costs", type=Path, help="table of `llama-nas measure-costs`, for the objective latency")


def declared_goals(args: Arguments) -> Declared:
    """What the options of `goals` say, not yet checked against a space or a task."""
    from llama_nas.search.goals import Declared

    return Declared(args.objectives, args.precision, args.max_size, args.min_accuracy, args.latency, args.costs)
