"""What every image passes when it is built: its family's packages import, at their pinned versions, and no others do.

apptainer exec containers/score-0.1.0.sif python /opt/llama-nas/selftest.py score
"""

import importlib
import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions, version
from pathlib import Path

ENVS = Path(__file__).parent / "envs"


def names(file: str) -> list[str]:
    """Distribution names of a requirements list, in pip's normal form."""
    lines = [line.partition("#")[0].strip() for line in (ENVS / file).read_text().splitlines()]
    return [re.split(r"[\[=]", line)[0].lower().replace("_", "-") for line in lines if line]


def main(family: str) -> None:
    lock = (line.strip().split("==") for line in (ENVS / "constraints.txt").read_text().splitlines() if "==" in line)
    pins = {name.lower().replace("_", "-"): pin for name, pin in lock}
    modules = {}
    for module, distributions in packages_distributions().items():
        for distribution in distributions:
            modules.setdefault(distribution.lower().replace("_", "-"), []).append(module)
    for name in names(f"{family}.txt"):
        assert version(name).split("+")[0] == pins[name], f"{name} {version(name)} is not {pins[name]}"
        public = [module for module in modules[name] if not module.startswith("_") and module.isidentifier()]
        importlib.import_module(min(public, key=len))
    assert family != "search" or "torch" not in modules, "the search image has torch"
    assert os.getuid() != 0, "the image runs as root"
    subprocess.run(["bash", "-c", "llama-nas --version"], check=True)


if __name__ == "__main__":
    main(sys.argv[1])
