"""The arrows of docs/design/architecture.md: which room of the package may import which."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import llama_nas
from llama_nas.stages import STAGES

PACKAGE = Path(llama_nas.__file__).parent
MAY_IMPORT = {  # a room -> rooms, or single modules of them
    "core": {"stages"},  # for the digest of a stage's code
    "models": {"core"},
    "base": {"core", "models"},
    "tasks": {"core"},
    "training": {"core", "models"},
    "scoring": {"core", "models", "tasks.format", "tasks.trie"},
    "search": {"core"},
    "exports": {"core", "models"},
    "measuring": {"core", "models", "tasks"},
    "analysis": {"core"},
    "config": {"core", "tasks.definitions", "training.config"},
    "config_file": {"core"},
    "cli": {"core", "stages"},
    "stages": set(),
}
MORE = {"scoring.harness": {"tasks"}}  # a module -> what it may import beside what its room may
KNOW_LM_EVAL = ("tasks", "measuring.lm_eval", "scoring.harness")
WITHOUT_TORCH = ("core", "search", "analysis", "config", "config_file", "cli", "base.world", "base.fetch", "base.take")
# What the Snakefile imports, and every job's process with it.
STARTS_SNAKEMAKE = (
    *("config", "config_file", "core.code_digest", "core.shape", "core.precisions", "tasks.definitions"),
    "analysis.status",  # the logger plugin, too
)
HEAVY = ("torch", "transformers", "pandas", "datasets", "lm_eval")


def name_of(path: Path) -> str:
    """A module's name without the package's."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path) -> Iterator[str]:
    """Everything that a file imports, anywhere in it: the module, or the name taken from the package itself."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path.name}: a relative import"
            from_package = node.module == "llama_nas"
            yield from (f"llama_nas.{alias.name}" for alias in node.names) if from_package else [node.module]


def own_imports(path: Path) -> set[str]:
    """Modules of this package that a file imports, without the package's name."""
    own = {name.removeprefix("llama_nas.") for name in imports(path) if name.startswith("llama_nas.")}
    return own - {"__version__"}


def lies_in(module: str, place: str) -> bool:
    """Whether a module is one, or lies in a room."""
    return f"{module}.".startswith(f"{place}.")


def room_of(module: str) -> str:
    return module.partition(".")[0]


def modules_in(*places: str) -> list[str]:
    return [module for module in MODULES if any(lies_in(module, place) for place in places)]


def test_every_module_has_its_room():
    assert {room_of(module) for module in MODULES} - {""} == MAY_IMPORT.keys()
    assert all(map(modules_in, (*MORE, *KNOW_LM_EVAL, *WITHOUT_TORCH, *STARTS_SNAKEMAKE)))
    assert {STAGES[stage].partition(":")[0] for stage in STAGES} <= MODULES.keys()


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_stay_in_the_allowed_rooms(room):
    for module in modules_in(room):
        allowed = MAY_IMPORT[room] | {room} | MORE.get(module, set())
        for imported in own_imports(MODULES[module]):
            assert any(lies_in(imported, place) for place in allowed), f"{module} imports {imported}"


def test_no_arrow_is_allowed_that_no_module_needs():
    for room, allowed in MAY_IMPORT.items():
        used = {imported for module in modules_in(room) for imported in own_imports(MODULES[module])}
        unused = {place for place in allowed if not any(lies_in(imported, place) for imported in used)}
        assert not unused, f"{room} no longer imports {unused}"


def test_there_is_no_circle_of_rooms():
    arrows = {room: set() for room in MAY_IMPORT}
    for module in modules_in(*MAY_IMPORT):
        arrows[room_of(module)] |= {room_of(imported) for imported in own_imports(MODULES[module])} - {room_of(module)}
    order = list(TopologicalSorter(arrows).static_order())
    assert order.index("core") < min(order.index(room) for room in MAY_IMPORT if room not in ("core", "stages"))


def test_only_tasks_and_what_runs_stock_lm_eval_know_it():
    knowing = {module for module, path in MODULES.items() if any(lies_in(name, "lm_eval") for name in imports(path))}
    assert knowing and knowing <= set(modules_in(*KNOW_LM_EVAL))


@pytest.mark.parametrize(
    ("places", "heavy"), [(WITHOUT_TORCH, ("torch",)), (STARTS_SNAKEMAKE, HEAVY)], ids=["no torch", "nothing heavy"]
)
def test_what_must_start_fast_imports_nothing_heavy(places, heavy):
    """In a fresh process: whatever the modules import in turn counts as well."""
    names = [f"llama_nas.{module}" for module in modules_in(*places)]
    script = f"""
import importlib, sys
for name in {names}:
    importlib.import_module(name)
    if found := {set(heavy)} & sys.modules.keys():
        sys.exit(f"{{name}} imports {{found}}")
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
