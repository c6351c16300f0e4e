"""What a run says: Snakemake's events in, lines out."""

import io
import json
import logging
import sys

import pytest
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.tests import MockOutputSettings, TestLogHandlerBase

from llama_nas.analysis.status import PLAN_FILE, PROGRESS_FILE
from snakemake_logger_plugin_llama_nas import LogHandler, LogHandlerSettings

EVALUATIONS = "round,subnet_id,size_bytes,acc\n1,00,1000000,0.6\n1,11,500000,0.4\n"


class TestOfTheInterface(TestLogHandlerBase):
    """Snakemake's own tests of a plugin."""

    __test__ = True

    def get_log_handler_cls(self) -> type[LogHandler]:
        return LogHandler

    def get_log_handler_settings(self) -> LogHandlerSettings:
        return LogHandlerSettings()


class Handler:
    """The plugin in a folder with a plan and a compiled task; events are sent as Snakemake sends them."""

    def __init__(self, folder, capsys, every: float = 30, **asked) -> None:
        self.folder, self.capsys = folder, capsys
        for name, value in {PLAN_FILE: PLAN, "tasks/arc_easy/task.json": TASK}.items():
            self.write(f"results/{name}", json.dumps(value))
        settings = MockOutputSettings()
        vars(settings).update({"printshellcmds": False} | asked)
        self.handler = LogHandler(settings, LogHandlerSettings(every=every))

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def send(self, event: LogEvent | None = None, text: str = "", level: int = logging.INFO, **told) -> None:
        record = logging.LogRecord("snakemake", level, "file", 1, text, (), None)
        vars(record).update(told | ({"event": event} if event else {}))
        self.handler.emit(record)

    def start(self, **stats: int) -> None:
        self.send(LogEvent.WORKFLOW_STARTED)
        self.send(text="Building DAG of jobs...")
        self.send(LogEvent.RUN_INFO, stats=stats | {"total": sum(stats.values())})
        self.send(LogEvent.JOB_STARTED, jobs=[1])

    def job(self, number: int, rule: str, log: str = "", **wildcards: str) -> None:
        told = {
            "rule_msg": None,
            "jobid": number,
            "rule_name": rule,
            "wildcards": wildcards,
            "log": [log] if log else [],
        }
        self.send(LogEvent.JOB_INFO, **told)

    def finish(self, number: int, done: int, total: int) -> None:
        self.send(LogEvent.JOB_FINISHED, job_id=number)
        self.send(LogEvent.PROGRESS, done=done, total=total)

    def lines(self) -> list[str]:
        """What it has said since the last look, without the time of day."""
        output = self.capsys.readouterr()
        return [line[9:] if line[2:3] == ":" else line for line in (output.err + output.out).splitlines()]


PLAN = {"tasks": ["arc_easy"], "rounds": 2, "size_unit": "GB", "page": "summary.html", "behind_front": {"export": 3}}
TASK = {"task": "arc_easy", "metric": "acc", "higher_is_better": True}


@pytest.fixture
def make(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made = []

    def handler(**asked) -> Handler:
        made.append(Handler(tmp_path, capsys, **asked))
        return made[-1]

    yield handler
    for one in made:
        one.handler.stream = io.StringIO()
        one.handler.close()


def test_a_run_says_its_jobs_rounds_end_and_page_and_nothing_else(make):
    run = make()
    run.start(gather=1, find_front=1, summarize=1, write_report=1)
    assert run.lines() == ["4 jobs, and about 3 more after the fronts"]
    run.job(1, "gather", "logs/gather/arc_easy/round_1.log", task="arc_easy", round="1")
    run.write("results/search/arc_easy/round_1/evaluations.csv", EVALUATIONS)
    run.finish(1, 1, 4)
    (line,) = run.lines()
    assert line.startswith("arc_easy round 1 of 2: 2 evaluations, hypervolume ")
    run.write("results/summary.html", "")
    for number, rule in enumerate(["find_front", "summarize", "write_report"], start=2):
        run.job(number, rule, task="arc_easy")
        run.send(LogEvent.SHELLCMD, text="llama-nas ...")
        run.send(text="Select jobs to execute...")
        run.write("results/search/arc_easy/judgement.csv", "")
        run.finish(number, number, 4)
    assert run.lines() == ["arc_easy front is found"]
    run.handler.close()
    ended, page = run.lines()
    assert ended.startswith("done in ") and page == f"the page: {run.folder}/results/summary.html"
    assert json.loads((run.folder / "results" / PROGRESS_FILE).read_text())["state"] == "ended"
    run.handler.close()
    assert run.lines() == []


def test_the_running_stage_and_the_share_are_said_now_and_then(make):
    run = make(every=0)
    run.start(finetune=1, all=1)
    run.lines()
    run.job(1, "finetune", "logs/finetune.log")
    run.write("logs/finetune.log", "13:00:06 step 32/125  15 s left\n")
    run.handler._look()
    assert run.lines() == ["0 % done | finetune: step 32/125  15 s left"]
    run.job(2, "evaluate", "logs/evaluate/arc_easy/round_1/shard_1-of-2.log")
    run.handler._look()
    assert run.lines() == ["0 % done | finetune: step 32/125  15 s left | and 1 more"]


def test_another_line_of_progress_waits_until_its_time(make):
    run = make(every=1e6)
    run.start(finetune=1)
    run.lines()
    run.handler._look()
    assert run.lines() == []


def test_an_error_is_said_in_full_with_the_end_of_the_jobs_log(make):
    run = make()
    run.start(finetune=1, write_report=1)
    run.write("logs/finetune.log", "".join(f"line {i}\n" for i in range(100)) + "error: no space left\n")
    run.job(1, "finetune", "logs/finetune.log")
    run.lines()
    told = {"rule_name": "finetune", "rule_msg": None, "jobid": 1, "input": ["results/base"], "output": ["results/s"]}
    told |= {"log": ["logs/finetune.log"], "conda_env": None, "aux": {}, "shellcmd": "llama-nas finetune --seed 1"}
    run.send(LogEvent.ERROR, text="CalledProcessError in file search.smk, line 1", level=logging.ERROR)
    run.send(LogEvent.JOB_ERROR, text="Error", level=logging.ERROR, **told)
    run.send(text="Complete log(s): /somewhere", level=logging.INFO)
    run.handler.close()
    said = "\n".join(run.lines())
    for part in ("Error in rule finetune", "llama-nas finetune --seed 1", "the end of logs/finetune.log:", "line 99",
                 "    error: no space left", "stopped after ", "% done. Complete log(s): /somewhere"):  # fmt: skip
        assert part in said
    assert "line 50\n" not in said and "CalledProcessError" not in said and "the page" not in said
    assert json.loads((run.folder / "results" / PROGRESS_FILE).read_text())["state"] == "stopped"


def test_a_job_that_succeeds_at_its_second_try_is_no_failure(make):
    run = make()
    run.start(finetune=1)
    told = {"rule_name": "finetune", "rule_msg": None, "jobid": 1, "input": [], "output": [], "log": []}
    told |= {"conda_env": None, "aux": {}, "shellcmd": ""}
    run.job(1, "finetune")
    run.send(LogEvent.JOB_ERROR, text="Error", level=logging.ERROR, **told)
    run.job(1, "finetune")
    run.finish(1, 1, 1)
    run.handler.close()
    assert run.lines()[-1].startswith("done in ")


def test_nothing_to_do_shows_the_page_that_is_there(make):
    run = make()
    run.write("results/summary.html", "")
    run.send(LogEvent.WORKFLOW_STARTED)
    run.send(text="Nothing to be done (all requested files are present and up to date).")
    first, page = run.lines()
    assert first.startswith("Nothing to be done") and page.endswith("results/summary.html")


def test_warnings_and_what_is_no_run_are_said(make):
    run = make()
    run.send(text="Created results/report.html.")
    run.send(LogEvent.WORKFLOW_STARTED)
    run.send(text="Select jobs to execute...")
    run.send(text="a disk is full", level=logging.WARNING)
    assert run.lines() == ["Created results/report.html.", "a disk is full"]


@pytest.mark.parametrize("asked", [{"dryrun": True}, {"verbose": True}, {"printshellcmds": True}])
def test_who_asks_for_more_gets_snakemakes_own_lines(make, asked):
    run = make(**asked)
    run.start(finetune=1)
    run.send(LogEvent.PROGRESS, done=1, total=3)
    assert "Building DAG of jobs..." in (said := run.lines()) and "1 of 3 steps (33%) done" in said


def test_a_broken_artifact_ends_no_run(make):
    run = make()
    run.start(gather=1)
    run.job(1, "gather", task="arc_easy", round="1")  # its table is not there
    run.finish(1, 1, 1)
    run.handler.close()
    assert run.lines()[-1].startswith("done in ")


def test_on_a_terminal_the_progress_is_one_line_written_over(make, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    run = make()
    run.start(finetune=1)
    run.handler._look()
    run.handler._look()
    run.handler.say("a round")
    said = run.capsys.readouterr().err
    assert said.count("0 % done") == 2 and said.count("\r\033[K") == 2
    assert said.rpartition("\r\033[K")[2].endswith("a round\n")


def test_snakemake_finds_the_plugin_and_importing_it_is_cheap():
    """Every start of Snakemake and of a cluster's job imports it."""
    import subprocess

    code = (
        "import sys, snakemake_logger_plugin_llama_nas\n"
        "from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry\n"
        "assert LoggerPluginRegistry().is_installed('llama-nas')\n"
        "assert not {'numpy', 'pandas', 'llama_nas.analysis.status'} & sys.modules.keys()"
    )
    result = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
