"""Environments: every list is pinned by the lock, and the conda form of a list is the same pins, complete."""

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

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
