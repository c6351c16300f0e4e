"""A stand-in for `llama-nas` in tests of the DAG: parses the real command line, then writes small files at once.

What the rules pass must satisfy the real parser; what the stages compute is not the DAG's business.
"""

import os
import sys
from pathlib import Path

from llama_nas.cli import build_parser

FOLDERS = {"world", "pretrain", "fetch", "base", "compile-task", "tokenize", "order-channels", "finetune", "export",
           "quantize", "cards"}  # fmt: skip
OTHER_OUTPUTS = {
    "timings",
    "history",
    "checkpoints",
    "tensorboard",
    "about",
    "figure",
    "maps",
    "maps_figure",
}
FRONT = "subnet_id,layers,parameters,size_bytes,acc,stderr,round\n"


def main() -> None:
    args = vars(build_parser().parse_args())
    switches = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE", "TRANSFORMERS_OFFLINE")
    if args["stage"] != "fetch" and any(os.environ.get(switch) != "1" for switch in switches):
        sys.exit(f"{args['stage']}: may reach the Hub")
    for name, value in args.items():  # an input that is not there is the rule's mistake
        if isinstance(value, Path) and name not in ("output", *OTHER_OUTPUTS):
            made_here = name == "evaluations" and args["stage"] == "fit"
            if not made_here and not value.exists():
                sys.exit(f"{args['stage']}: --{name} {value} does not exist")
    if args["stage"] == "fit":
        args["evaluations"].write_text("evaluations\n")
    for extra in OTHER_OUTPUTS - {"timings", "checkpoints", "tensorboard"}:
        if isinstance(args.get(extra), Path):
            args[extra].write_text(f"{extra}\n")
    if args["stage"] == "summarize":
        for figure in args["figures"]:
            figure.write_text("figure\n")
    if args["stage"] in FOLDERS:
        (args["output"] / "hub").mkdir(parents=True)
        (args["output"] / "file").write_text("content\n")
        (args["output"] / "instructions.json").write_text("[]\n")
    elif args["stage"] == "front":
        ids = os.environ.get("FRONT_IDS", "01111x 000000 00011x").split()
        rows = "".join(f"{id},6,{i},{2 * i},0.5,0.1,1\n" for i, id in enumerate(ids, start=1))
        args["output"].write_text(FRONT + rows)
    else:
        args["output"].write_text("output\n")


main()
