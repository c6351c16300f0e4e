"""FP16, INT8 and NF4 weights on a CPU: what computing in float32 costs and changes against computing in FP16.

    python studies/arithmetic/arithmetic.py --results <finished run>/results --task arc_challenge

The script runs the stage `run-lm-eval` (stock lm-eval) on exported and quantized folders of a run in both arithmetics.
It prints processor seconds of each, the task's metric, and how far the log-likelihoods lie apart, and writes them to
arithmetic.json beside itself. Run it where the run's paths hold: task.json names its data relative to the working
directory.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import lm_eval.models.huggingface  # noqa: F401  (or the first of the runs would pay for it)
import numpy as np

from llama_nas.core.artifacts import read_json, write_json
from llama_nas.core.precisions import QUANTIZED
from llama_nas.core.settings import Compute
from llama_nas.measuring import lm_eval as stage
from llama_nas.models.folder import DTYPES, set_arithmetic

ARITHMETICS = {"float16": lambda model, precision, device: DTYPES[precision], "float32": set_arithmetic}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--network", default="00000000-0000", help="an exported one that was quantized, too")
    parser.add_argument("--precisions", nargs="+", default=["fp16", "int8"])
    parser.add_argument("--data-root", type=Path, help="where the task's dataset lies; default: the world's")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    rows = [
        compare(args.results, args.task, args.network, precision, args.data_root or args.results / "world/hub")
        for precision in args.precisions
    ]
    write_json(args.output, {"task": args.task, "network": args.network, "rows": rows})
    print("| weights | FP16 arithmetic, s | float32, s | metric, FP16 | float32 | log-likelihood, largest difference |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['precision']} | {row['float16']['seconds']:.0f} | {row['float32']['seconds']:.0f} | "
            f"{row['float16']['metric']:.4f} | {row['float32']['metric']:.4f} | {row['largest_difference']:.3f} "
            f"({row['largest_relative_difference']:.2%}) |"
        )


def compare(results: Path, task: str, network: str, precision: str, data_root: Path) -> dict[str, Any]:
    """One folder in both arithmetics; differences are FP16's from float32's."""
    folder = results / "networks" / network / (precision if precision in QUANTIZED else "hf")
    row: dict[str, Any] = {"precision": precision}
    values = {}
    for name, compute_in in ARITHMETICS.items():
        with tempfile.TemporaryDirectory() as scratch, mock.patch.object(stage, "set_arithmetic", compute_in):
            output = Path(scratch) / "result.json"
            start = time.process_time()
            stage.run_lm_eval(
                output,
                model=folder,
                task=results / "tasks" / task,
                precision=precision,
                batch_size=32,
                compute=Compute("cpu", threads=1),
                data_root=data_root,
            )
            seconds = time.process_time() - start
            record = read_json(output)
        row[name] = {"seconds": seconds, "metric": record["metrics"][record["metric"]]}
        values[name] = np.concatenate(record["loglikelihoods"])
    difference = np.abs(values["float16"] - values["float32"])
    return row | {
        "largest_difference": float(difference.max()),
        "largest_relative_difference": float((difference / np.abs(values["float32"])).max()),
    }


if __name__ == "__main__":
    main()
