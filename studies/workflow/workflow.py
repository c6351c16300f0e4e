"""What the workflow itself costs: wall time of a run against the computing of its jobs.

    python studies/workflow/workflow.py --directory <new folder> [--configfile <file>] [--cores 2]

The script runs Snakemake in the folder. It prints the wall time of the run against the processor time of all its jobs
divided by the cores; by rule, from the jobs' `benchmark:` files, their number, wall seconds and largest memory; the
start-up that every job pays; what a second run, with nothing to do, takes; and a dry-run of the preset for LLaMA2-7B up
to its fronts. It needs the machine for itself. It writes workflow.json beside itself.

Processor time is the kernel's count, of jobs with the solver that Snakemake starts for its plans; that of the
`benchmark:` files is a sample, which misses the end of a job.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from llama_nas.core.artifacts import write_json

REPOSITORY = Path(__file__).resolve().parents[2]
POLL = 0.2  # seconds
# transformers imports a class only when it is asked for.
MODEL = "import torch; from transformers import AutoTokenizer, LlamaForCausalLM"
IMPORTS = {  # what Snakemake itself, and what the jobs of a stage family, import before they work
    "snakemake": "import snakemake.cli",
    "search": "import lightgbm, pymoo, pandas, sklearn, scipy.stats",
    "score": MODEL,
    "lm-eval": f"{MODEL}; import lm_eval.tasks, lm_eval.models.huggingface",
    "train": f"{MODEL}; import deepspeed, accelerate",
}
AS_A_STAGE = "import llama_nas.cli; llama_nas.cli.collect_rarely(); "


@dataclass(frozen=True)
class Used:
    """Seconds of one run: of the clock, and of the processor in its jobs and in Snakemake itself."""

    wall: float
    jobs: float
    snakemake: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, required=True, help="a folder without results/")
    parser.add_argument("--configfile", type=Path, default=REPOSITORY / "config.yaml")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    if (args.directory / "results").exists():
        sys.exit(f"{args.directory}: has results already; the wall time of a whole run is wanted")
    used = run(args)
    idle = run(args)
    dry_run, planned = plan_of_7b()
    record = summary(args.directory / "results/timings/jobs", used, args.cores) | {
        "config": args.configfile.name,
        "nothing_to_do_seconds": idle.wall,
        "dry_run_7b_seconds": dry_run,
        "dry_run_7b_jobs": planned,
        "import_seconds": {family: import_seconds(family) for family in IMPORTS},
    }
    write_json(args.output, record)
    print(markdown(record))


def run(args: argparse.Namespace) -> Used:
    """Run Snakemake to its end; exits with its status if it fails."""
    command = ["snakemake", "--snakefile", REPOSITORY / "Snakefile", "--directory", args.directory, "--configfile"]
    start = time.monotonic()
    process = psutil.Popen([*command, args.configfile.resolve(), "--cores", str(args.cores)])
    own = 0.0
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        times = process.cpu_times()
        own = times.user + times.system
        time.sleep(POLL)
    _, status, usage = os.wait4(process.pid, 0)  # of Snakemake and of all that it has started
    if status:
        sys.exit(os.waitstatus_to_exitcode(status))
    return Used(time.monotonic() - start, usage.ru_utime + usage.ru_stime - own, own)


def plan_of_7b() -> tuple[float, int]:
    """Seconds of a dry-run of the 7B preset up to the fronts, with nothing fetched yet, and the jobs it shows."""
    command = ["snakemake", "--dry-run", "--cores", "8", "--snakefile", REPOSITORY / "Snakefile", "--configfile"]
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        result = subprocess.run(
            [*command, REPOSITORY / "workflow/presets/llama2-7b.yaml", "--directory", folder, "fronts"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        seconds = time.monotonic() - start
    return seconds, int(re.findall(r"^total +(\d+)$", result.stdout, re.M)[0])


def summary(jobs: Path, used: Used, cores: int) -> dict[str, Any]:
    """jobs: folder of the `benchmark:` files, one sub-folder or file per rule."""
    rows = []
    for path in sorted(jobs.rglob("*.tsv")):
        table = pd.read_csv(path, sep="\t")
        rule = path.relative_to(jobs).parts[0].removesuffix(".tsv")
        rows.append({"rule": rule} | table.iloc[0][["s", "max_rss"]].to_dict())
    grouped = pd.DataFrame(rows).groupby("rule")
    rules = grouped.agg(jobs=("s", "size"), seconds=("s", "sum"), rss=("max_rss", "max"))
    return {
        "cores": cores,
        "wall_seconds": used.wall,
        "compute_seconds": used.jobs,
        "snakemake_seconds": used.snakemake,
        "ratio": used.wall / (used.jobs / cores),
        "largest_job_mb": float(rules["rss"].max()),
        "jobs": int(rules["jobs"].sum()),
        "rules": rules.sort_values("seconds", ascending=False).reset_index().to_dict("records"),
    }


def import_seconds(family: str) -> float:
    """Of the second of two starts: files are in memory, as for all jobs but the first."""
    statement = IMPORTS[family] if family == "snakemake" else AS_A_STAGE + IMPORTS[family]
    for _ in range(2):
        start = time.monotonic()
        subprocess.run([sys.executable, "-c", statement], check=True, capture_output=True)
    return time.monotonic() - start


def markdown(record: dict[str, Any]) -> str:
    compute, own = record["compute_seconds"] / 60, record["snakemake_seconds"] / 60
    lines = [
        f"{record['config']}: {record['jobs']} jobs, {record['wall_seconds'] / 60:.1f} minutes on {record['cores']} "
        f"cores; {compute:.1f} minutes of processor time in jobs, {own:.1f} in Snakemake; wall = {record['ratio']:.2f} "
        f"x (jobs' / cores); largest job {record['largest_job_mb']:.0f} MB; nothing to do: "
        f"{record['nothing_to_do_seconds']:.1f} s; dry-run of the 7B preset, {record['dry_run_7b_jobs']} jobs: "
        f"{record['dry_run_7b_seconds']:.1f} s",
        "",
        "| rule | jobs | wall, s | largest, MB |",
        "|---|---|---|---|",
    ]
    lines += [f"| {r['rule']} | {r['jobs']} | {r['seconds']:.0f} | {r['rss']:.0f} |" for r in record["rules"]]
    lines += ["", "| imports | s |", "|---|---|"]
    lines += [f"| {family} | {seconds:.1f} |" for family, seconds in record["import_seconds"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
