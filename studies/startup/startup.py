"""What does a job cost before it works, and after?

    python studies/startup/startup.py

Per stage: a process that imports what the stage imports, and ends. Its processor time, the least of some runs: with
Python's own settings, with dead cycles looked for rarely, and with no search for them at the end, as a stage runs
(core/process.py). Then which packages take the time, by `python -X importtime`.
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path

from llama_nas.core.artifacts import write_json
from llama_nas.core.machine import device_name
from llama_nas.core.process import COLLECT_AFTER
from llama_nas.stages import STAGES

MODEL = "from transformers import AutoModelForCausalLM, LlamaForCausalLM"
TOKENIZER = "from transformers import AutoConfig, AutoTokenizer, LlamaConfig"
LM_EVAL = "from lm_eval.models.huggingface import HFLM; from lm_eval import evaluator"
# What a stage imports while it runs, beyond what its module does.
LATER = {
    "gather": "",
    "propose": "",
    "export": "",
    "tokenize": TOKENIZER,
    "compile-task": f"{LM_EVAL}; {MODEL}; import llama_nas.tasks.encode",
    "order-layers": MODEL,
    "order-channels": MODEL,
    "finetune": "",  # the launcher
    "a rank of finetune": f"import deepspeed, accelerate; {MODEL}",
    "evaluate": MODEL,
    "quantize": f"{MODEL}; import bitsandbytes",
    "run-lm-eval": f"{LM_EVAL}; {MODEL}",
    "verify": MODEL,
    "measure-throughput": MODEL,
}
SETTINGS = {
    "python's own": "",
    "rare": f"import gc; gc.set_threshold({COLLECT_AFTER})",
    "as a stage": "from llama_nas.core.process import collect_rarely; collect_rarely()",
}
SHOWN = 8  # packages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--stages", nargs="*", default=list(LATER), choices=list(LATER))
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    record = {
        "processor": device_name("cpu"),
        "runs": args.runs,
        "stages": {stage: measured(stage, args.runs) for stage in args.stages},
        "packages": packages(statement("run-lm-eval")),
    }
    write_json(args.output, record)
    print(markdown(record))


def statement(stage: str) -> str:
    """Imports all that a stage does."""
    module = STAGES.get(stage, "training.worker:").partition(":")[0]
    return f"import llama_nas.{module}; {LATER[stage]}"


def measured(stage: str, runs: int) -> dict[str, float]:
    """Least processor seconds of a process with each of the settings; in turns, as the machine drifts."""
    seconds: dict[str, float] = dict.fromkeys(SETTINGS, float("inf"))
    for _ in range(runs):
        for name, setting in SETTINGS.items():
            seconds[name] = min(seconds[name], processor_seconds(f"{setting}\n{statement(stage)}"))
    return seconds


def processor_seconds(code: str) -> float:
    """Of a process from its start to its end."""

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = used()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return used() - before


def packages(code: str) -> dict[str, float]:
    """Seconds of importing by top-level package, most first."""
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", f"{SETTINGS['as a stage']}\n{code}"],
        check=True,
        capture_output=True,
        text=True,
    )
    seconds: Counter[str] = Counter()
    for own, name in re.findall(r"^import time: +(\d+) \| +\d+ \| *([\w.]+)$", result.stderr, re.M):
        seconds[name.partition(".")[0]] += int(own)
    return {name: microseconds / 1e6 for name, microseconds in seconds.most_common(SHOWN)}


def markdown(record: dict) -> str:
    lines = [f"| stage | {' | '.join(SETTINGS)} |", f"|{'---|' * (len(SETTINGS) + 1)}"]
    for stage, seconds in record["stages"].items():
        lines.append(f"| {stage} | {' | '.join(f'{value:.2f}' for value in seconds.values())} |")
    lines += ["", "| package | seconds |", "|---|---|"]
    lines += [f"| {name} | {seconds:.2f} |" for name, seconds in record["packages"].items()]
    return "\n".join([record["processor"], "", *lines])


if __name__ == "__main__":
    main()
