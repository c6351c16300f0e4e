"""A copy of the workflow with stand-ins for the stages, for tests of what runs and what reruns."""

from __future__ import annotations

import collections
import copy
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
REDUCED = REPOSITORY / "workflow/presets/reduced.yaml"
LLAMA2_7B = REPOSITORY / "workflow/presets/llama2-7b.yaml"
# A config.json of the reduced world's model, as far as a check of the config looks into one.
MODEL = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 6}
MODEL |= {"num_attention_heads": 2, "vocab_size": 600}


def snakemake(*arguments: str | Path, folder: Path = REPOSITORY, **options) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in a folder."""
    return subprocess.run(["snakemake", *arguments], cwd=folder, text=True, capture_output=True, **options)


def jobs(result: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Job counts by rule of a (dry-)run; empty when there was nothing to do."""
    table = re.search(r"^Job stats:\njob +count\n[- ]+\n(.*?)^total", result.stdout + result.stderr, re.M | re.S)
    return {line.split()[0]: int(line.split()[1]) for line in table[1].splitlines()} if table else {}


def executed(result: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """How often each rule really ran."""
    names = re.findall(r"^(?:local)?(?:rule|checkpoint) (\w+):", result.stdout + result.stderr, re.M)
    return dict(collections.Counter(names))


def write_model(folder: Path, shape: dict = MODEL) -> None:
    """A model folder that holds its config.json alone."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(shape))


class Workflow:
    """Runs Snakemake in `folder` with the config `config`, which a test may change."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.code = folder / "code"
        self.config = yaml.safe_load(REDUCED.read_text())
        shutil.copytree(REPOSITORY / "workflow", self.code / "workflow", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(REPOSITORY / "envs", self.code / "envs")
        shutil.copy(REPOSITORY / "Snakefile", self.code)
        command = folder / "bin/llama-nas"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).parent / "stand_in.py"}" "$@"\n')
        command.chmod(command.stat().st_mode | stat.S_IXUSR)
        path = f"{command.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = os.environ | {"PATH": path}

    def fork(self, folder: Path) -> Workflow:
        """The same code and what it has made, in a folder of its own; with .snakemake, which knows what was made."""
        fork = copy.copy(self)
        fork.folder, fork.config = folder, copy.deepcopy(self.config)
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns("code", "bin"))
        return fork

    def options(self) -> list[str | Path]:
        """Snakemake's options for this workflow and its config, which is written down."""
        path = self.folder / "test.yaml"
        path.write_text(yaml.safe_dump(self.config, sort_keys=False))
        return ["--snakefile", self.code / "Snakefile", "--configfile", path, "--cores", "2"]

    def dry_runs(self, configs: dict[str, dict], targets: Sequence[str] = ()) -> dict[str, dict]:
        """Dry-runs with configs by name, as `dry_runs.py` reports them, and by the same names."""
        folder = self.folder / "configs"
        folder.mkdir(exist_ok=True)
        paths = {name: folder / f"{number}.yaml" for number, name in enumerate(configs)}
        for name, config in configs.items():
            paths[name].write_text(yaml.safe_dump(config, sort_keys=False))
        script = [sys.executable, Path(__file__).parent / "dry_runs.py", self.code / "Snakefile", ",".join(targets)]
        result = subprocess.run([*script, *paths.values()], cwd=self.folder, text=True, capture_output=True)
        assert result.returncode == 0, result.stderr
        reports = json.loads(result.stdout)
        return {name: reports[str(path)] for name, path in paths.items()}

    def __call__(
        self, *arguments: str | Path, change: Callable[[dict], object] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run with the config as it is, or as `change` leaves it for this run and the next ones."""
        if change:
            change(self.config)
        result = snakemake(*self.options(), *arguments, folder=self.folder, env=self.environment)
        assert not check or result.returncode == 0, result.stdout + result.stderr
        return result
