"""Keep what a finished run gave beside the documentation, and print README's table of it.

    python docs/example/make.py <the run's folder> --minutes 8.1 --commit 982cecb    # copies; then prints
    python docs/example/make.py                                                     # prints the table of what is kept

`run.json` says at which commit and on which processor the run was made. Minutes: of `snakemake`, after the set-up.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
from pathlib import Path

import pandas as pd

from llama_nas.core.artifacts import read_json, read_table, write_json
from llama_nas.core.judgement import Metric
from llama_nas.core.machine import device_name

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="a folder with results/")
    parser.add_argument("--minutes", type=float, help="how long the run took")
    parser.add_argument("--commit", help="that the run was made at")
    args = parser.parse_args()
    if args.run is not None:
        keep(args.run / "results", args.minutes, args.commit)
    print(table(HERE))


def keep(results: Path, minutes: float, commit: str) -> None:
    page = (results / "summary.html").read_text()
    (HERE / "summary.html").write_text(
        re.sub(r" --snakefile \S+", "", page)
    )  # where the workflow lay, says nothing here
    tasks = [path.stem for path in sorted((results / "summary").glob("*.csv"))]
    for task in tasks:
        shutil.copyfile(results / "summary" / f"{task}.csv", HERE / f"summary-{task}.csv")
        shutil.copyfile(results / "search" / task / "judgement.csv", HERE / f"judgement-{task}.csv")
    shutil.copyfile(results / "transfer/matrix.csv", HERE / "transfer.csv")
    shutil.copyfile(results / "figures/arc_challenge_front.svg", HERE / "front.svg")
    about = {"commit": commit, "processor": device_name("cpu"), "cores": os.cpu_count(), "minutes": minutes}
    write_json(HERE / "run.json", about | {"tasks": tasks})


def table(folder: Path) -> str:
    """One line a task, as README has it."""
    lines = [
        "| task | recommended | smaller, FP16 | base | network | difference (95 % interval) | verdict | in INT8 |",
        "|" + "---|" * 8,
    ]
    for task in read_json(folder / "run.json")["tasks"]:
        lines.append(line(read_table(folder / f"summary-{task}.csv")))
    return "\n".join(lines)


def line(rows: pd.DataFrame) -> str:
    metric = Metric(rows["metric"].iloc[0], bool(rows["higher_is_better"].iloc[0]))
    fp16 = rows["precision"] == "fp16"
    base = rows[fp16 & (rows["role"] == "pretrained")].iloc[0]
    chosen = rows[rows["recommended"]].set_index("precision")
    network, int8 = chosen.loc["fp16"], chosen.loc["int8"]
    difference = metric.judged_text(network["difference"], network["lower"], network["upper"])
    cells = [
        base["task"],
        f"`{network['model']}` ({network['layers']} layers)",
        f"{network['size_ratio']:.2f} ×",
        metric.text(base["judged_value"]),
        metric.text(network["judged_value"]),
        difference,
        network["verdict"],
        metric.text(int8["judged_value"]),
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
