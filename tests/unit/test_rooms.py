"""The arrows of docs/architecture.md: which part of the package may import which."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import llama_nas

PACKAGE = Path(llama_nas.__file__).parent
CORE = {"space", "pareto", "artifacts", "errors", "machine", "progress", "units"}
MAY_IMPORT = {
    "errors": set(),
    "machine": set(),
    "progress": set(),
    "units": {"errors"},
    "space": {"errors"},
    "pareto": {"errors"},
    "artifacts": {"errors"},
    "config": {"errors", "space", "units", "tasks.definitions"},
    "code_digest": set(),
    "devices": {"errors"},
    "elastic": {"errors", "space"},
    "world": CORE | {"world"},
    "pretrain": CORE | {"world"},
    "fetch": CORE | {"hf_folder"},
    "hf_folder": CORE,
    "search": CORE | {"search"},
    "analysis": CORE | {"analysis"},
    "tasks": CORE | {"tasks"},
    "benchmark": CORE | {"tasks", "hf_folder"},
    "scoring": CORE | {"elastic", "scoring", "tasks.compiled", "tasks.trie"},
    "harness": CORE | {"scoring", "tasks", "hf_folder"},
    "training": CORE | {"elastic", "training", "code_digest", "hf_folder"},
    "export": CORE | {"elastic", "hf_folder", "model_card"},
    "model_card": CORE,
    "gguf_file": CORE | {"hf_folder"},
    "quantize": CORE | {"hf_folder", "model_card"},
    "throughput": CORE | {"hf_folder"},
    "costs": CORE | {"hf_folder", "throughput"},
}
WITHOUT_TORCH = (
    "space",
    "pareto",
    "artifacts",
    "config",
    "code_digest",
    "devices",
    "search",
    "analysis",
    "world",
    "fetch",
)


def imports(path: Path) -> set[str]:
    """Modules of this package that a file imports, without the package's name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("llama_nas."):
            found.add(node.module.removeprefix("llama_nas."))
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("llama_nas.") for a in node.names if a.name.startswith("llama_nas.")}
    return found


def files(room: str) -> list[Path]:
    return [PACKAGE / f"{room}.py"] if (PACKAGE / f"{room}.py").exists() else sorted((PACKAGE / room).glob("**/*.py"))


def test_every_module_has_its_room():
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.glob("**/*.py")}
    assert rooms - {"__init__", "cli", "commands", "modeling_subnet", "configuration_decilm"} == MAY_IMPORT.keys()


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_stay_in_the_allowed_rooms(room):
    for path in files(room):
        for module in imports(path):
            allowed = module.split(".")[0] in MAY_IMPORT[room] or module in MAY_IMPORT[room]
            assert allowed, f"{path.relative_to(PACKAGE)} imports {module}"


def test_only_tasks_benchmark_and_harness_know_lm_eval():
    for path in PACKAGE.glob("**/*.py"):
        if "lm_eval" in {part.name.split(".")[0] for part in _external(path)}:
            assert path.relative_to(PACKAGE).parts[0] in ("tasks", "benchmark.py", "harness.py")


def _external(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from node.names
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield ast.alias(name=node.module)


def test_search_and_analysis_start_without_torch():
    names = [
        ".".join(["llama_nas", *path.relative_to(PACKAGE).with_suffix("").parts])
        for room in WITHOUT_TORCH
        for path in files(room)
    ]
    script = (
        f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
