"""The command line: options and help come from the stages' functions, bad input is one line, help imports little."""

import errno
import importlib
import inspect
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import torch
from cyclopts import CycloptsError
from docstring_parser import parse as parse_docstring

from llama_nas import cli
from llama_nas.core.code_digest import code_digest
from llama_nas.core.errors import UserError
from llama_nas.core.settings import Compute, TrieBounds
from llama_nas.search.settings import GoalSettings
from llama_nas.stages import STAGES

RULES = Path(__file__).parents[2] / "workflow/rules"
FINALISTS = "choose-finalists --space s --task t --evaluations e --output o".split()
FINETUNE = (
    "finetune --base b --rows r --space s --output o --checkpoints c --checkpoint-every 10 --seed 1 --ranks 4 "
    "--zero-stage 2 --dtype bf16 --epochs 0.5 --global-batch 8 --micro-batch 2 --learning-rate 1e-3 --warmup 0.1 "
    "--weight-decay 0 --max-grad-norm 1"
).split()


def function_of(stage: str):
    module, _, name = STAGES[stage].partition(":")
    return getattr(importlib.import_module(f"llama_nas.{module}"), name)


def documented(described) -> dict[str, str]:
    """The Args section of a function's or class's docstring."""
    return {entry.arg_name: entry.description for entry in parse_docstring(described.__doc__).params}


def options_of(stage: str) -> dict[str, str | None]:
    """Each option of a stage's function, those of its settings among them, with its help."""
    function, found = function_of(stage), {}
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        kind = parameter.annotation
        names = [field.name for field in fields(kind)] if is_dataclass(kind) else [name]
        texts = documented(kind if is_dataclass(kind) else function)
        found |= {f"--{own.replace('_', '-')}": texts.get(own) or cli.SHARED_HELP.get(own) for own in names}
    return found


# ------------------------------------------------------------------ stages and their options


@pytest.mark.parametrize("stage", STAGES)
def test_every_option_of_a_stages_function_is_in_its_help_with_a_text(stage, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    assert cli.main([stage, "--help"]) == 0
    rows = capsys.readouterr().out.splitlines()
    for option, text in options_of(stage).items():
        assert text, f"{option} has no help text"
        (row,) = [row for row in rows if option in row.replace("*", " ").split()[1:2]]
        assert text.splitlines()[0] in row


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_docstring_names_no_option_that_is_gone(stage):
    assert documented(function_of(stage)).keys() <= inspect.signature(function_of(stage)).parameters.keys()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_takes_what_its_function_takes(stage):
    """The options are declared from the function's syntax tree, the arguments go to the function itself."""
    declared = inspect.signature(cli.declared(stage))
    assert declared.parameters.keys() == inspect.signature(function_of(stage)).parameters.keys()


def test_stage_function_rule_and_log_folder_have_one_name():
    for stage, place in STAGES.items():
        assert place.partition(":")[2] == stage.replace("-", "_")
    rules = "\n".join(path.read_text() for path in sorted(RULES.glob("*.smk")))
    found = {}
    for body in re.split(r"^ *(?=(?:rule|checkpoint) \w+:$)", rules, flags=re.MULTILINE)[1:]:
        if stage := re.search(r"llama-nas ([a-z-]+)", body):
            name = re.match(r"\w+ (\w+)", body)[1]
            found[stage[1]] = name
            assert name == stage[1].replace("-", "_")
            assert re.findall(rf'"(logs/{name}(?:\.log|/[^"]+\.log))"', body), f"rule {name} logs elsewhere"
    assert found.keys() == STAGES.keys() - {"pick", "score", "status"}  # for people: no rule calls them


def test_help_lists_every_stage_with_its_title(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    assert cli.main(["--help"]) == 0
    rows = {row.split()[1]: " ".join(row.split()[2:-1]) for row in capsys.readouterr().out.splitlines() if "│" in row}
    titles = {stage: parse_docstring(function_of(stage).__doc__).short_description for stage in STAGES}
    assert [stage for stage in rows if stage in STAGES] == list(STAGES)
    assert all(rows[stage] == title for stage, title in titles.items())


# ------------------------------------------------------------------ what a command line means


def test_settings_take_their_defaults_where_no_option_is_given():
    call = cli.parse(FINALISTS)
    paths = {"space": Path("s"), "task": Path("t"), "evaluations": Path("e"), "output": Path("o")}
    assert (call.stage, call.code) == ("choose-finalists", None)
    assert call.arguments == paths | {"goals": GoalSettings()}


def test_lists_literals_and_optional_values_are_parsed_into_the_settings():
    given = "--objectives metric latency --measured latency=f --precision int8 --max-size 9GB --min-accuracy 0.5"
    goals = cli.parse([*FINALISTS, *given.split()]).arguments["goals"]
    assert goals == GoalSettings(["metric", "latency"], "int8", "9GB", 0.5, ["latency=f"])


def test_lists_of_numbers_are_numbers():
    call = cli.parse("declare-space --model m --depths 4 6 --widths 96 --output o".split())
    assert (call.arguments["depths"], call.arguments["widths"]) == ([4, 6], [96])
    assert call.arguments["layer_order"] is None


def test_a_switch_is_off_until_it_is_given():
    assert cli.parse(FINETUNE).arguments["config"].freeze_inactive is False
    assert cli.parse([*FINETUNE, "--freeze-inactive"]).arguments["config"].freeze_inactive is True


def test_settings_beside_each_other_each_get_their_own_options():
    given = "compile-task --task t --lm-eval-task arc_easy --metric acc --model m --output o --chunk-tokens 16"
    assert cli.parse(given.split()).arguments["bounds"] == TrieBounds(chunk_tokens=16)
    given = "measure-throughput --models a:fp16=x b:int8=y --output o --device cuda --threads 3"
    settings = "--batch-size 1 --sequence-length 2 --new-tokens 3 --max-batch 4 --repeats 5"
    arguments = cli.parse([*given.split(), *settings.split()]).arguments
    assert arguments["compute"] == Compute("cuda", threads=3)
    assert list(arguments["models"]) == ["a:fp16=x", "b:int8=y"]
    assert arguments["speed"].max_batch == 4


def test_a_setting_is_found_wherever_the_stage_has_it():
    call = cli.parse([*FINETUNE, "--nodes", "2", "--device", "cuda"])
    assert (call.setting("nodes"), call.setting("ranks"), call.setting("device")) == (2, 4, "cuda")
    assert call.setting("population") is None


@pytest.mark.parametrize(
    ("given", "gpus"),
    [
        (FINALISTS, 0),
        (FINETUNE, 0),
        ([*FINETUNE, "--device", "cuda"], 4),
        ([*FINETUNE, "--device", "cuda", "--nodes", "2"], 2),
        ("order-channels --base b --rows r --seed 1 --output o --device cuda".split(), 1),
    ],
)
def test_a_stage_holds_a_gpu_and_training_one_per_rank_of_this_machine(given, gpus):
    assert cli._gpus(cli.parse(given)) == gpus


# ------------------------------------------------------------------ wrong command lines


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([*FINALISTS, "--presicion", "fp16"], "Unknown option: --presicion. Did you mean --precision?"),
        ([*FINALISTS, "--objectives", "metric", "--presicion", "fp16"], "Unknown option: --presicion"),
        (
            [*FINALISTS, "--precision", "fp8"],
            'Invalid value "fp8" for --precision. Choose from: "fp32", "bf16", "fp16"',
        ),
        ([*FINALISTS, "--min-accuracy", "high"], "--min-accuracy"),
        ([*FINALISTS, "--max-size"], "--max-size"),
        ([*FINALISTS, "more"], "more"),
        (FINALISTS[:-2], "--output"),
        (FINETUNE[:-2], "--max-grad-norm"),
        ([*FINALISTS, "--code"], "--code"),
        (["choose-finalist"], 'Unknown command "choose-finalist"'),
        (["--outptu"], "--outptu"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(given, message, capsys):
    with pytest.raises(CycloptsError):
        cli.parse(given)
    assert cli.main(given) == 2
    out, err = capsys.readouterr()
    name = "llama-nas" if given[0] not in STAGES else f"llama-nas {given[0]}"
    assert err.startswith(f"{name}: error: ") and message in err
    assert err.count("\n") == 1 and not out


def raising(monkeypatch, error: Exception) -> int:
    """Run a stage whose function raises."""

    def stage(**arguments):
        raise error

    monkeypatch.setattr("llama_nas.search.front.choose_finalists", stage)
    return cli.main(FINALISTS)


def test_bad_input_is_one_line_and_exit_code_2(monkeypatch, capsys):
    assert raising(monkeypatch, UserError("file: key is wrong")) == 2
    assert capsys.readouterr().err == "llama-nas choose-finalists: error: file: key is wrong\n"


def test_full_disk_is_one_line(monkeypatch, capsys):
    assert raising(monkeypatch, OSError(errno.ENOSPC, "No space left", "results/x")) == 2
    assert capsys.readouterr().err == "llama-nas choose-finalists: error: no space left on the disk of results/x\n"


@pytest.mark.parametrize("error", [ZeroDivisionError(), OSError(errno.EACCES, "Permission denied", "results/x")])
def test_other_errors_keep_their_traceback(monkeypatch, error):
    with pytest.raises(type(error)):
        raising(monkeypatch, error)


def test_what_a_stage_prints_in_a_rules_job_goes_to_the_log(monkeypatch, capsys):
    """The rules write stderr to the log; for people, who name no code, it is the answer."""
    monkeypatch.setattr("llama_nas.search.front.choose_finalists", lambda **arguments: print("a library's word"))
    for code, expected in (
        ([], ("a library's word\n", "")),
        (
            ["--code", code_digest("choose-finalists")],
            ("", "a library's word\n"),
        ),
    ):
        assert cli.main([*FINALISTS, *code]) == 0
        assert capsys.readouterr() == expected


def test_the_code_that_the_caller_means_is_checked_before_the_stage_runs(monkeypatch, capsys):
    ran = []
    monkeypatch.setattr("llama_nas.search.front.choose_finalists", lambda output, **_: ran.append(output))
    assert cli.main([*FINALISTS, "--code", "0123456789abcdef"]) == 2 and not ran
    assert "is not the workflow's" in capsys.readouterr().err
    digest = code_digest("choose-finalists")
    assert cli.parse(["choose-finalists", "--code", digest, *FINALISTS[1:]]).code == digest
    assert cli.main([*FINALISTS, "--code", digest]) == 0 and ran == [Path("o")]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_one_line(capsys):
    settings = ["batch-size", "sequence-length", "new-tokens", "max-batch", "repeats"]
    options = "--models a:fp16=x --output o --device cuda".split() + [f"--{name}=1" for name in settings]
    assert cli.main(["measure-throughput", *options]) == 2
    err = capsys.readouterr().err
    assert "torch sees no GPU here" in err.splitlines()[-1]


# ------------------------------------------------------------------ in a fresh process


def test_help_and_wrong_options_import_nothing_heavy():
    script = f"""
import contextlib, io, sys
from llama_nas.cli import main
stages = {list(STAGES)}
for given in [[], ["--help"], ["--version"], *([stage, "--help"] for stage in stages)]:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(given) == 0, given
    assert out.getvalue(), given
for given in [["no-stage"], *([stage, "--wrong"] for stage in stages)]:
    with contextlib.redirect_stderr(io.StringIO()) as err:
        assert main(given) == 2, given
    assert err.getvalue().count("\\n") == 1, given
found = {{"torch", "transformers", "pandas", "lm_eval", "datasets"}} & sys.modules.keys()
assert not found, found
"""
    result = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
