"""`llama-nas`: one thin sub-command per stage. A stage reads the paths it is given and writes the paths it is given.

What each stage is told and what it runs is in `commands/`.
"""

import errno
import gc
import logging
import sys
from types import ModuleType

from llama_nas import __version__
from llama_nas.commands import analysis, exports, measuring, preparation, search, training
from llama_nas.commands.options import Arguments, Parser
from llama_nas.devices import leased_devices
from llama_nas.errors import UserError

# New objects after which Python looks for dead cycles. Most of a short job is imports, and at the usual 700 a tenth of
# their time is looking through what they have made.
COLLECT_AFTER = 100_000

# Where the two functions of each stage are, in the order of `llama-nas --help`.
STAGES: dict[str, ModuleType] = {
    "world": preparation,
    "pretrain": preparation,
    "fetch": preparation,
    "base": preparation,
    "compile-task": preparation,
    "tokenize": preparation,
    "order-channels": training,
    "order-layers": training,
    "finetune": training,
    "sample": search,
    "evaluate": search,
    "fit": search,
    "propose": search,
    "enumerate-space": search,
    "tabulate": search,
    "finalists": search,
    "front": search,
    "heuristics": search,
    "pick": search,
    "export": exports,
    "gguf": exports,
    "quantize": exports,
    "benchmark": measuring,
    "score": measuring,
    "verify": measuring,
    "throughput": measuring,
    "measure-costs": measuring,
    "summarize": analysis,
    "cards": analysis,
    "patterns": analysis,
    "judge-heuristics": analysis,
    "report": analysis,
}


def build_parser() -> Parser:
    parser = Parser(prog="llama-nas", description="Stages of LLaMA-NAS; the workflow calls them in order.")
    parser.add_argument("--version", action="version", version=f"llama-nas {__version__}")
    commands = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    for name, family in STAGES.items():
        function = name.replace("-", "_")
        add_arguments = getattr(family, f"{function}_arguments")
        command = commands.add_parser(name, help=add_arguments.__doc__, description=add_arguments.__doc__)
        add_arguments(command)
        command.add_argument("--code", help="digest of the stage's code that the caller means; other code is refused")
        command.set_defaults(run=getattr(family, function))
    return parser


def _check_device(device: str) -> None:
    """Refuse a GPU that is not there before anything is loaded; torch is imported only to look for one."""
    if device not in ("cpu", "cuda"):
        raise UserError(f"--device {device} (config key compute.device): must be cpu or cuda")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UserError(
                "--device cuda (config key compute.device): torch sees no GPU here; use cpu, or check "
                "CUDA_VISIBLE_DEVICES and that torch is a CUDA build"
            )


def _check_code(stage: str, declared: str) -> None:
    """Refuse to run other code than the workflow declared: an image or an installation that was left behind."""
    from llama_nas.code_digest import ROOT, code_digest

    if code_digest(stage) != declared:
        raise UserError(
            f"the code in {ROOT} is not the workflow's: renew the containers with `make images`, or run `make setup`"
        )


def _gpus(args: Arguments) -> int:
    """How many GPUs of this machine the stage uses: one, in training one per rank."""
    if getattr(args, "device", "cpu") != "cuda":
        return 0
    return args.ranks // args.nodes if args.stage == "finetune" else 1


def main(argv: list[str] | None = None) -> int:
    """Run one stage. Exit code 2 and one line on stderr for bad input; a full disk is bad input, too."""
    gc.set_threshold(COLLECT_AFTER)
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    try:
        if args.code:
            _check_code(args.stage, args.code)
        with leased_devices(_gpus(args)):
            _check_device(getattr(args, "device", "cpu"))
            args.run(args)
    except UserError as error:
        print(f"llama-nas {args.stage}: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(
            f"llama-nas {args.stage}: error: no space left on the disk of {error.filename or 'the output'}",
            file=sys.stderr,
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
