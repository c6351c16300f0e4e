"""A stand-in for `llama-nas` in tests of the DAG: parses the real command line, then writes small files at once.

What the rules pass must satisfy the real parser; what the stages compute is not the DAG's business.
"""

import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path

from llama_nas.cli import Call, declared, parse

FETCHES = ("fetch-model", "fetch-dataset")
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE", "TRANSFORMERS_OFFLINE")
BESIDE = {
    "finetune": {"checkpoints", "tensorboard"},
    "write-report": {"timings"},
}  # may be absent, are not written here
FRONT = "subnet_id,layers,parameters,size_bytes,acc,stderr,items,round\n"
FRONT_IDS = "01111x 000000 00011x"
JUDGEMENT = "subnet_id,layers,parameters,size_bytes,on_front,judged_on,items,"
JUDGEMENT += "difference,lower,upper,verdict,recommended,max_drop\n"
EVALUATIONS = "round,candidate,subnet_id,layers,parameters,size_bytes,acc,items\n"
TASK = {"metric": "acc", "higher_is_better": True}
FETCHED = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
FETCHED |= {"num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000}  # LLaMA2-7B


def main() -> None:
    call = parse(sys.argv[1:])
    if call.stage not in FETCHES and any(os.environ.get(switch) != "1" for switch in OFFLINE):
        sys.exit(f"{call.stage}: may reach the Hub")
    outputs = {"output", *re.findall(r"^ *(\w+): out:", declared(call.stage).__doc__, re.M)}
    values = options(call)
    for name in values.keys() - outputs - BESIDE.get(call.stage, set()):
        for path in paths(values[name]):  # an input that is not there is the rule's mistake
            if not path.exists():
                sys.exit(f"{call.stage}: --{name} {path} does not exist")
    for name in values.keys() & outputs:
        for path in paths(values[name]):
            write(path, call)


def options(call: Call) -> dict:
    """Every option and its value; the fields of a settings dataclass are options, too."""
    values = {}
    for name, value in call.arguments.items():
        values |= vars(value) if is_dataclass(value) else {name: value}
    return values


def paths(value) -> Iterator[Path]:
    """The paths in an option's value: itself, or one of a list, where NAME=PATH is a path as well."""
    if isinstance(value, Path):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from [Path(item.partition("=")[2])] if isinstance(item, str) and "=" in item else paths(item)


def write(path: Path, call: Call) -> None:
    """An output of the stage; a path without a suffix is a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if call.stage == "find-front":
        path.write_text(judgement() if path.name == "judgement.csv" else front())
    elif call.stage == "gather" and path.suffix == ".csv":
        path.write_text(evaluations(call.arguments["round"]))
    elif call.stage == "declare-space":
        path.write_text(json.dumps(call.arguments, default=str))
    elif path.suffix:
        path.write_text("output\n")
    else:
        (path / "hub").mkdir(parents=True)
        (path / "file").write_text("content\n")
        (path / "instructions.json").write_text("[]\n")
        (path / "task.json").write_text(json.dumps(TASK))
        if call.stage == "fetch-model":  # a fetched model's size is asked for
            (path / "config.json").write_text(json.dumps(FETCHED))


def front_ids() -> list[str]:
    """The front's members, ascending in size."""
    return os.environ.get("FRONT_IDS", FRONT_IDS).split()


def front() -> str:
    rows = [f"{id},6,{size},{2 * size},0.5,0.1,100,1\n" for size, id in enumerate(front_ids(), start=1)]
    return FRONT + "".join(rows)


def judgement() -> str:
    """The member named in RECOMMENDED, else the smallest, is recommended."""
    rows, ids = [], front_ids()
    recommended = os.environ.get("RECOMMENDED", ids[0])
    for size, id in enumerate(ids, start=1):
        rows.append(f"{id},6,{size},{2 * size},True,held out,100,0.0,-0.005,0.005,shown,{id == recommended},0.01\n")
    return JUDGEMENT + "".join(rows)


def evaluations(rounds: int) -> str:
    """Of each round so far two networks, the larger one better, and better than in the round before."""
    rows = []
    for number in range(1, rounds + 1):
        rows += [
            f"{number},0,0101xx,4,1,1000000,0.{3 + number},100\n",
            f"{number},1,000000,6,2,2000000,0.{5 + number},100\n",
        ]
    return EVALUATIONS + "".join(rows)


if __name__ == "__main__":
    main()
