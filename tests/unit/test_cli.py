"""The command line: every stage is there, bad input is one line, and help costs no heavy import."""

import errno
import subprocess
import sys

import pytest
import torch

from llama_nas import cli
from llama_nas.core.errors import UserError


def test_help_names_every_stage_and_imports_nothing_heavy():
    script = (
        "import sys; from llama_nas.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'pandas', 'lm_eval'} & sys.modules.keys()"
    )
    result = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, check=True)
    assert all(stage in result.stdout for stage in cli.STAGES)


@pytest.mark.parametrize("stage", cli.STAGES)
def test_every_stage_explains_its_options(stage, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([stage, "--help"])
    out = capsys.readouterr().out
    assert "--output" in out and len(out.splitlines()) > 5


def run_raising(monkeypatch, error: Exception) -> int:
    def stage(args):
        raise error

    monkeypatch.setattr(cli.STAGES["front"], "front", stage)
    arguments = "front --model m --depths 1 --widths 8 --task t --evaluations e --output o"
    return cli.main(arguments.split())


def test_bad_input_is_one_line_and_exit_code_2(monkeypatch, capsys):
    assert run_raising(monkeypatch, UserError("file: key is wrong")) == 2
    assert capsys.readouterr().err == "llama-nas front: error: file: key is wrong\n"


def test_full_disk_is_one_line(monkeypatch, capsys):
    assert run_raising(monkeypatch, OSError(errno.ENOSPC, "No space left", "results/x")) == 2
    assert capsys.readouterr().err == "llama-nas front: error: no space left on the disk of results/x\n"


def test_other_errors_keep_their_traceback(monkeypatch):
    with pytest.raises(ZeroDivisionError):
        run_raising(monkeypatch, ZeroDivisionError())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_one_line(capsys):
    settings = ["batch-size", "sequence-length", "new-tokens", "max-batch", "repeats"]
    options = "--models a:fp16=x --output o --device cuda".split() + [f"--{name}=1" for name in settings]
    assert cli.main(["throughput", *options]) == 2
    assert "torch sees no GPU here" in capsys.readouterr().err
