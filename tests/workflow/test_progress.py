"""What a run says, by the logger plugin that profiles/default chooses, and what `llama-nas status` says about it."""

import re
import subprocess
import sys

import yaml
from tests.workflow.workflow_copy import REPOSITORY, executed

LOGGER = ("--logger", "llama-nas", "--logger-llama-nas-every", "0.001")  # as often as it looks


def said(result: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines of a run, without the time of day."""
    return [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in (result.stdout + result.stderr).splitlines()]


def status(folder) -> list[str]:
    command = [sys.executable, "-m", "llama_nas.cli", "status"]
    return subprocess.run(command, cwd=folder, text=True, capture_output=True, check=True).stdout.splitlines()


def test_a_run_says_its_rounds_the_share_done_and_the_page_and_is_quiet_otherwise(run):
    result = run(*LOGGER, change=lambda config: config["tasks"].update(winogrande={"metric": "acc"}))
    lines = said(result)
    assert re.fullmatch(r"\d+ jobs, and about \d+ more after the fronts", lines[0])
    for task in ("arc_easy", "winogrande"):
        first, second = (line for line in lines if line.startswith(f"{task} round "))
        assert first == f"{task} round 1 of 2: 2 evaluations, hypervolume 0.210, " + first.partition("0.210, ")[2]
        assert "acc 40.0 / 40.0 / 60.0 % up to 1.33 / 1.67 / 2.00 MB" in first
        assert second.startswith(f"{task} round 2 of 2: 4 evaluations, hypervolume 0.760 (+0.550), acc 50.0 / ")
        assert sum(line.startswith(f"{task} front: 3 networks; recommended ") for line in lines) == 1
    assert lines[-2].startswith("done in ") and lines[-1] == f"the page: {run.folder}/results/summary.html"
    shares = [int(found[1]) for line in lines if (found := re.match(r"(\d+) % done", line))]
    assert shares == sorted(shares) and shares[0] < 50 <= shares[-1]
    rest = [line for line in lines if not re.match(r"\d+ % done|\w+ (round|front)|done in|the page|\d+ jobs", line)]
    assert rest == []

    again = said(run(*LOGGER))
    assert again[0].startswith("Nothing to be done") and again[1] == lines[-1] and len(again) == 2

    rounds = [line for line in lines if " round " in line or " front: " in line]
    lines = status(run.folder)
    assert sorted(line for line in lines if " round " in line or " front: " in line) == sorted(rounds)
    assert re.fullmatch(r"the run ended \d+ s ago, 100 % done", lines[0])
    assert lines[-1] == "the page: results/summary.html"


def test_a_failed_job_is_said_in_full_and_status_tells_of_a_run_that_stopped(run):
    run("results/space.json")
    command = run.folder / "bin/llama-nas"
    text = command.read_text()
    command.write_text(
        '#!/bin/sh\nif [ "$1" = finetune ]; then echo "finetune: error: a reason" >&2; exit 2; fi\n' + text
    )
    lines = said(result := run("results/supernet", *LOGGER, check=False))
    assert result.returncode != 0
    place = lines.index("the end of logs/finetune.log:")
    assert lines[place + 1] == "    finetune: error: a reason"
    assert "Error in rule finetune:" in lines and any("llama-nas finetune --nodes 1" in line for line in lines)
    assert any(line.startswith("stopped after ") and ".snakemake/log/" in line for line in lines)
    assert re.fullmatch(r"the run stopped \d+ s ago, \d+ % done", status(run.folder)[0])
    assert "arc_easy: no round is finished" in status(run.folder)


def test_the_profile_chooses_the_plugin_and_a_run_without_it_has_snakemakes_lines(run):
    profile = yaml.safe_load((REPOSITORY / "profiles/default/profile.yaml").read_text())
    assert profile["logger"] == "llama-nas"
    assert executed(run("results/space.json"))["declare_space"] == 1
    assert executed(run("results/rows", *LOGGER, "--verbose"))["tokenize"] == 1
