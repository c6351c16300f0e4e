"""A copy of the workflow with stand-ins for the stages, for tests of what runs and what reruns."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
REDUCED = REPOSITORY / "workflow/presets/reduced.yaml"


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
        self.path = f"{command.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"

    def __call__(self, *arguments, change=None, check=True):
        if change:
            change(self.config)
        path = self.folder / "test.yaml"
        path.write_text(yaml.safe_dump(self.config))
        result = subprocess.run(
            ["snakemake", "--snakefile", self.code / "Snakefile", "--configfile", path, "--cores", "2", *arguments],
            cwd=self.folder,
            env=os.environ | {"PATH": self.path},
            text=True,
            capture_output=True,
        )
        assert not check or result.returncode == 0, result.stdout + result.stderr
        return result
