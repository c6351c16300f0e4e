"""What workflow/rules/overrides.smk does to Snakemake: in the release it was written for, and in another one."""

import json
import subprocess
import sys

import pytest
from snakemake import benchmark as sampling
from snakemake.persistence import PersistenceBase
from snakemake.scheduling.job_scheduler import JobScheduler

# A dry-run, and which of the four names have another value after it.
PROBE = """
import json, sys
import snakemake.cli
from snakemake import benchmark as sampling
from snakemake.persistence import PersistenceBase
from snakemake.scheduling.job_scheduler import JobScheduler

OWNERS = {"_schedule_reevalutation": JobScheduler, "_serialize_param": PersistenceBase, "lock": PersistenceBase}
OWNERS["BENCHMARK_INTERVAL_SHORT"] = sampling
before = {name: vars(owner)[name] for name, owner in OWNERS.items()}
try:
    snakemake.cli.main(sys.argv[1:])
except SystemExit as end:
    assert not end.code
print(json.dumps([name for name, owner in OWNERS.items() if vars(owner)[name] is not before[name]]))
"""
LINE = "overrides.smk was written for"


def overridden(run) -> tuple[list[str], str]:
    """The names that a dry-run of the workflow overrides, and what it prints."""
    command = [sys.executable, "-c", PROBE, "--dry-run", *run.options()]
    result = subprocess.run(command, cwd=run.folder, env=run.environment, text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1]), result.stderr


def test_this_release_has_what_is_overridden():
    """Renamed, it would be overridden without effect and without a word."""
    assert callable(JobScheduler._schedule_reevalutation)
    assert sampling.BENCHMARK_INTERVAL_SHORT < sampling.BENCHMARK_INTERVAL
    assert isinstance(vars(PersistenceBase)["_serialize_param"], property)
    assert callable(PersistenceBase._serialize_param_builtin)


def test_the_overrides_are_applied_in_the_release_they_were_written_for(run):
    names, said = overridden(run)
    assert names == ["_schedule_reevalutation", "_serialize_param", "lock", "BENCHMARK_INTERVAL_SHORT"]
    assert LINE not in said


def test_in_another_release_one_line_says_what_is_lost_and_the_run_goes_on(run):
    path = run.code / "workflow/rules/overrides.smk"
    text = path.read_text()
    assert text.count('WRITTEN_FOR = "9.27."') == 1
    path.write_text(text.replace('WRITTEN_FOR = "9.27."', 'WRITTEN_FOR = "9.26."'))
    names, said = overridden(run)
    assert names == []
    (line,) = [line for line in said.splitlines() if LINE in line]
    assert "9.26.x and is not applied; the results are the same, large runs are slower." in line
    assert "find_front" in run("--dry-run").stdout


@pytest.mark.parametrize("limit", ["1/2s", "1000/1s"])
def test_a_run_ends_whatever_limit_there_is_to_jobs_a_second(run, limit):
    """Held back by the limit, a job is started by the clock alone: no other job ends after it."""
    assert "3 of 3 steps (100%) done" in run("--max-jobs-per-timespan", limit, "results/rows").stderr
