"""Environments: every list is pinned by the lock, and the conda form of a list is the same pins, complete."""

import ast
import importlib.metadata
import re
import runpy
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from llama_nas.core import code_digest

ENVS = Path(__file__).resolve().parents[2] / "envs"
FAMILIES = ("search", "score", "train")


def lines(file: str) -> list[str]:
    stripped = [line.partition("#")[0].strip() for line in (ENVS / file).read_text().splitlines()]
    return [line for line in stripped if line]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


LOCK = {normal(line.split("==")[0]): line.split("==")[1] for line in lines("constraints.txt")}


def conda_pins(family: str) -> dict[str, str]:
    *pins, editable = yaml.safe_load((ENVS / f"{family}.yaml").read_text())["dependencies"][-1]["pip"]
    assert editable == "--editable ${LLAMA_NAS_WORKFLOW}"  # set in common.smk
    return {normal(pin.split("==")[0]): pin.split("==")[1] for pin in pins}


APART = {"constraints.txt", "gguf.txt"}  # the lock; what only `make test-gguf` installs, with its own pins


@pytest.mark.parametrize("file", sorted({path.name for path in ENVS.glob("*.txt")} - APART))
def test_every_listed_package_is_in_the_lock(file):
    assert {normal(Requirement(line).name) for line in lines(file)} <= LOCK.keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_conda_form_pins_the_lock_and_all_that_its_packages_need(family):
    pins = conda_pins(family)
    assert pins.items() <= LOCK.items()
    assert {normal(Requirement(line).name) for line in lines(f"{family}.txt")} <= pins.keys()
    for name in pins:
        for requirement in map(Requirement, distribution(name).requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                assert normal(requirement.name) in pins, f"{name} needs {requirement.name}"
    python = yaml.safe_load((ENVS / f"{family}.yaml").read_text())["dependencies"][0]
    assert python == "python =3.11"


RULES = "\n".join(path.read_text() for path in sorted(ENVS.parent.glob("workflow/rules/*.smk")))
STAGES = {  # stage -> the families of its rule's conda environment and of its image; without one, common.smk's is used
    stage[1]: (re.findall(r"envs/(\w+)\.yaml", rule), re.findall(r'image\("(\w+)"\)', rule) or ["search"])
    for rule in re.split(r"^ *rule |^ *checkpoint ", RULES, flags=re.MULTILINE)
    if (stage := re.search(r"\bllama-nas ([\w-]+)", rule))
}


def test_a_rules_image_and_conda_environment_are_of_one_family():
    assert len(STAGES) > 30, "the rules are written otherwise now"
    for stage, (conda, image) in STAGES.items():
        assert conda == image and len(conda) == 1, stage


def imported(nodes: list[ast.stmt], later: bool) -> Iterator[str]:
    """Modules that these statements import when they are reached; later: those that functions among them do, too."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            is_later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            inner = (child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt))
            yield from imported(list(inner), later) if later or not is_later else []


def imported_by(stage: str) -> set[str]:
    """Top-level names of what the command line, the stage's module anywhere in it, and their modules at once import."""
    found: set[str] = set()
    queue = list(imported(ast.parse(code_digest.stage_file(stage).read_text()).body, later=True))
    queue.append("llama_nas.cli")
    while queue:
        name = queue.pop()
        path = code_digest._module_file(name)
        if name not in found and path is not None:
            queue += imported(ast.parse(path.read_text()).body, later=False)
            queue += [parent for parent in [name.rpartition(".")[0]] if parent != "llama_nas"]
        found.add(name)
    return {name.partition(".")[0] for name in found} - sys.stdlib_module_names - {"llama_nas"}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_stages_import_is_what_their_family_installs(family):
    stages = {stage for stage, (conda, _) in STAGES.items() if conda == [family]}
    assert len(stages) >= 3, "the rules are written otherwise now"
    distributions = packages_distributions()
    for stage in sorted(stages):
        modules = imported_by(stage)
        assert "cyclopts" in modules
        for module in modules:
            names = {normal(name) for name in distributions[module]}
            assert names & conda_pins(family).keys(), f"{stage} imports {module}"


def test_the_search_family_has_no_torch_and_no_snakemake():
    assert not {"torch", "transformers", "snakemake"} & conda_pins("search").keys()


def test_this_environment_is_the_lock():
    """What the tests pass with is what users install."""
    different = {}
    for name, pin in LOCK.items():
        try:
            installed = distribution(name).version.split("+")[0]
        except PackageNotFoundError:
            installed = "nothing"
        if installed != pin:
            different[name] = (installed, pin)
    assert not different


def test_the_lock_has_what_the_lists_need_and_not_what_else_is_installed(tmp_path, monkeypatch):
    """As of `make test-gguf`, in the same environment."""
    shutil.copytree(ENVS, tmp_path / "envs")
    foreign = tmp_path / "foreign-1.0.dist-info"
    foreign.mkdir()
    (foreign / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.metadata.version("foreign") == "1.0"
    runpy.run_path(str(tmp_path / "envs/lock.py"), run_name="__main__")
    written = {normal(line.split("==")[0]) for line in (tmp_path / "envs/constraints.txt").read_text().splitlines()[2:]}
    assert written >= LOCK.keys() and "foreign" not in written
