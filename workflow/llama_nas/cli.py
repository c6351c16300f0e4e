"""`llama-nas`: one sub-command per stage, its options and help read off the stage's function.

The parser is cyclopts': of the three compared (with tyro and jsonargparse) it starts fastest, takes lists and
literals as they are meant, flattens dataclasses, and says what is wrong in one sentence.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import importlib
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any

from cyclopts import App, CycloptsError, MissingArgumentError, Parameter

from llama_nas import __version__
from llama_nas.core.code_digest import ROOT, code_digest, stage_file
from llama_nas.core.devices import leased_devices
from llama_nas.core.errors import UserError
from llama_nas.core.process import collect_rarely
from llama_nas.stages import STAGES

CODE_OPTION = "--code"
# What an option means wherever the stage's docstring does not say more of it.
SHARED_HELP = {
    "space": "space.json, written by `llama-nas declare-space`",
    "task": "folder written by `llama-nas compile-task`",
    "seed": "the run's seed; the stage derives its own from it",
    "supernet": "the super-network's folder",
    "rows": "folder written by `llama-nas tokenize`",
    "evaluations": "evaluations.csv of the last round",
    "dtype": "of weights and arithmetic",
}
ABOUT = (
    "Stages of LLaMA-NAS; the workflow calls them in order. Every stage also takes --code DIGEST, the digest of the "
    "stage's code that the caller means: other code is refused."
)


@dataclass(frozen=True)
class Call:
    """A parsed command line: the stage, its function's arguments, and the code that the caller means."""

    stage: str
    arguments: dict[str, Any]
    code: str | None

    def setting(self, name: str) -> Any:
        """An argument, or a field of one that is a dataclass; None if there is none of this name."""
        for value in self.arguments.values():
            if is_dataclass(value) and hasattr(value, name):
                return getattr(value, name)
        return self.arguments.get(name)


def parse(arguments: list[str]) -> Call | None:
    """What a command line asks for; None if it only asked for help or the version, which is printed.

    Raises CycloptsError for one that is wrong.
    """
    arguments, code = list(arguments), None
    if CODE_OPTION in arguments[:-1]:
        position = arguments.index(CODE_OPTION)
        code = arguments[position + 1]
        del arguments[position : position + 2]
    app = App(name="llama-nas", help=ABOUT, version=f"llama-nas {__version__}", help_format="plaintext",
              default_parameter=Parameter(consume_multiple=True, negative=(), show_env_var=False))  # fmt: skip
    asked = arguments[0] if arguments else ""
    for position, name in enumerate([asked] if asked in STAGES else STAGES):
        app.command(declared(name) if name == asked else _titled(name), name=name, sort_key=position)
    command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    stage = getattr(command, "stage", None)
    if stage is None:
        command(*bound.args, **bound.kwargs)  # help or version
        return None
    bound.apply_defaults()
    return Call(stage, dict(bound.arguments), code)


def declared(stage: str) -> Callable[..., None]:
    """The stage's function with its options and help, but without what it does and imports.

    Read from the syntax tree: help and a wrong option are answered without torch or pandas. Only what the options'
    types need is imported. The fields of a settings dataclass are options like any other.
    """
    tree, function = _source(stage)
    arguments = function.args
    arguments.kwonlyargs = arguments.args + arguments.kwonlyargs
    arguments.kw_defaults = [*(None for _ in arguments.args), *arguments.kw_defaults]
    arguments.args, arguments.defaults = [], []
    options = [argument.arg for argument in arguments.kwonlyargs]
    function.body = [ast.Expr(ast.Constant(_help(ast.get_docstring(function) or "", options)))]
    needed = {node.id for node in ast.walk(arguments) if isinstance(node, ast.Name)}
    module = ast.Module([*_imports(tree, needed), function], type_ignores=[])
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile(ast.fix_missing_locations(module), str(stage_file(stage)), "exec", dont_inherit=True), names)
    stub = names[function.name]
    stub.stage, defaults = stage, dict(stub.__kwdefaults__ or {})
    for option, kind in stub.__annotations__.items():
        if isinstance(kind, type) and is_dataclass(kind):
            with contextlib.suppress(TypeError):  # some field has no default: neither has the whole
                defaults.setdefault(option, kind())
            stub.__annotations__[option] = Annotated[kind, Parameter(name="*")]
    stub.__kwdefaults__ = defaults
    return stub


def _help(docstring: str, options: list[str]) -> str:
    """The docstring with what the options share, and with each paragraph on one line, as the terminal wraps it anew."""
    *paragraphs, arguments = docstring.split("\n\n")
    if not arguments.startswith("Args:"):
        paragraphs, arguments = [*paragraphs, arguments], "Args:"
    shared = [name for name in options if name in SHARED_HELP and f"\n    {name}:" not in arguments]
    arguments += "".join(f"\n    {name}: {SHARED_HELP[name]}" for name in shared)
    return "\n\n".join([*(" ".join(text.split()) for text in paragraphs), arguments])


def _titled(stage: str) -> Callable[[], None]:
    """The stage with its title alone, for the list of all."""

    def stub() -> None: ...

    stub.__doc__ = (ast.get_docstring(_source(stage)[1]) or "").partition("\n\n")[0]
    return stub


def _source(stage: str) -> tuple[ast.Module, ast.FunctionDef]:
    """The syntax trees of the stage's module and function."""
    tree = ast.parse(stage_file(stage).read_text(encoding="utf-8"))
    name = STAGES[stage].partition(":")[2]
    return tree, next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)


def _imports(tree: ast.Module, names: set[str]) -> Iterator[ast.stmt]:
    """The module's imports of some names, and no other."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            wanted = [alias for alias in node.names if (alias.asname or alias.name) in names]
            if wanted:
                yield ast.ImportFrom(node.module, wanted, node.level)


def run(call: Call) -> None:
    """Run a stage with the GPUs that it needs; refuses other code than the caller means."""
    if call.code is not None and code_digest(call.stage) != call.code:
        raise UserError(
            f"the code in {ROOT} is not the workflow's: renew the containers with `make images`, or run `make setup`"
        )
    with leased_devices(_gpus(call)):
        if call.setting("device") == "cuda":
            _check_gpu()
        module, _, function = STAGES[call.stage].partition(":")
        # In a rule's job, whatever a library prints belongs to the log, which is stderr, and not on the run's screen.
        with contextlib.redirect_stdout(sys.stderr) if call.code is not None else contextlib.nullcontext():
            getattr(importlib.import_module(f"llama_nas.{module}"), function)(**call.arguments)


def _gpus(call: Call) -> int:
    """How many GPUs of this machine the stage uses: one, in training one per rank."""
    if call.setting("device") != "cuda":
        return 0
    return call.setting("ranks") // call.setting("nodes") if call.stage == "finetune" else 1


def _check_gpu() -> None:
    """Refuse a GPU that is not there before anything is loaded."""
    import torch

    if not torch.cuda.is_available():
        raise UserError(
            "--device cuda (config key compute.device): torch sees no GPU here; use cpu, or check "
            "CUDA_VISIBLE_DEVICES and that torch is a CUDA build"
        )


def main(argv: list[str] | None = None) -> int:
    """Run one stage. Exit code 2 and one line on stderr for bad input; a full disk is bad input, too."""
    collect_rarely()
    arguments = sys.argv[1:] if argv is None else argv
    name = f"llama-nas {arguments[0]}" if arguments and arguments[0] in STAGES else "llama-nas"
    try:
        call = parse(arguments)
        if call is not None:
            logging.basicConfig(
                level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr
            )
            run(call)
    except MissingArgumentError as error:
        missing = error.argument.name if error.argument is not None else "an option"
        return _refuse(name, f"{missing} is missing; see {name} --help")
    except (UserError, CycloptsError) as error:
        return _refuse(name, " ".join(str(error).split()))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return _refuse(name, f"no space left on the disk of {error.filename or 'the output'}")
    return 0


def _refuse(name: str, reason: str) -> int:
    print(f"{name}: error: {reason}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
