"""Renew the pins from what is installed in this environment; run by `make lock`.

Writes envs/constraints.txt, one version of every package, and the conda form of each stage family's list,
envs/<family>.yaml, which pins all that the family's packages need in turn.
"""

import re
import sys
from importlib.metadata import distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement

ENVS = Path(__file__).parent
FAMILIES = ("search", "score", "train")
APART = {"constraints.txt", "gguf.txt"}  # the lock itself; what only `make test-gguf` installs, with its own pins
CONDA = """\
# The conda form of envs/{family}.txt at the versions of envs/constraints.txt (--sdm conda). Made by: make lock
name: llama-nas-{family}
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python =3.11
  - pip
  - pip:
"""


def normal(name: str) -> str:
    """A package's name in pip's normal form."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(path: Path) -> list[Requirement]:
    lines = [line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [Requirement(line) for line in lines if line]


def closure(wanted: list[Requirement]) -> set[str]:
    """Names of the wanted packages and of all that they need here, extras included."""
    found: set[tuple[str, str]] = set()
    while wanted:
        requirement = wanted.pop()
        for extra in ("", *requirement.extras):
            if (key := (normal(requirement.name), extra)) not in found:
                found.add(key)
                needed = [Requirement(line) for line in distribution(requirement.name).requires or []]
                wanted += [need for need in needed if need.marker is None or need.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


def main() -> None:
    installed = {d.metadata["Name"]: d.version for d in distributions() if d.metadata["Name"]}
    wanted = [r for path in ENVS.glob("*.txt") if path.name not in APART for r in requirements(path)]
    if missing := {normal(r.name) for r in wanted} - {normal(name) for name in installed}:
        sys.exit(f"error: not installed here: {', '.join(sorted(missing))}; run make setup, and make slurm, first")
    listed = closure(wanted)  # not what else is installed here, as by `make test-gguf`
    pins = [
        f"{name}=={installed[name].split('+')[0]}"  # without +cpu: a GPU machine gets its own build of the same pin
        for name in sorted(installed, key=str.lower)
        if normal(name) in listed
    ]
    head = (
        "# Every package of every environment, one version each; the .txt lists beside this file say who needs what.\n"
    )
    (ENVS / "constraints.txt").write_text(head + "# Made by: make lock\n" + "\n".join(pins) + "\n", encoding="utf-8")
    for family in FAMILIES:
        needed = closure(requirements(ENVS / f"{family}.txt"))
        lines = [pin for pin in pins if normal(pin.partition("==")[0]) in needed]
        # The package itself, from the workflow that makes the environment; pip reads the variable.
        lines.append("--editable ${LLAMA_NAS_WORKFLOW}")
        text = CONDA.format(family=family) + "".join(f"      - {line}\n" for line in lines)
        (ENVS / f"{family}.yaml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
