"""What a run of the workflow says while it runs, as a logger plugin of Snakemake: `--logger llama-nas`.

A line for each finished round and front, how much of the whole run is done and which stage works on it now and then,
errors in full, and the page's path at the end. Who asks Snakemake for more (--dry-run, --verbose, --printshellcmds,
--debug-dag) or for less (--quiet) gets Snakemake's own lines. All of these are in .snakemake/log in any case.

Every start of Snakemake imports this module, also for a cluster's job: it imports no package of the analysis before a
line needs it.
"""

import logging
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.settings import LogHandlerSettingsBase

from llama_nas.config_file import take_over
from snakemake_logger_plugin_llama_nas.estimate import Estimate, earlier_seconds

RESULTS = Path("results")
PAGE_RULE = "write_report"
TICK = 2.0  # seconds between looks at the running stages
WRITTEN_EVERY = 10.0  # seconds between two states for `llama-nas status`
LOG_LINES = 25  # of a failed job's log
KEPT = ("Trying to restart", "Nothing to be done")  # of the lines that are no event, in a run
DROPPED = ("Assuming unrestricted shared filesystem usage", "None")  # and before one

# Of reading the run's config, now: Snakemake opens it before it looks at a Snakefile.
take_over(sys.argv[1:])


@dataclass
class Job:
    """A job as Snakemake announces it."""

    rule: str
    wildcards: dict[str, str]
    log: str | None

    @property
    def name(self) -> str:
        """`evaluate/arc_easy/round_2/shard_1-of-8`, as its log is called."""
        return self.log.removeprefix("logs/").removesuffix(".log") if self.log else self.rule


@dataclass
class LogHandlerSettings(LogHandlerSettingsBase):
    """Options of the plugin: `--logger-llama-nas-every SECONDS`."""

    every: float = field(  # Snakemake reads the type: no string, no union
        default=30.0,
        metadata={"help": "Seconds between two lines of progress; after five minutes a tenth of the run so far."},
    )


class LogHandler(LogHandlerBase):
    """Turns Snakemake's events into lines of text. Snakemake calls `emit` from one thread of its own."""

    def __post_init__(self) -> None:
        asked = self.common_settings
        self.stream: TextIO = sys.stdout if asked.stdout else sys.stderr
        more = asked.dryrun or asked.verbose or asked.printshellcmds or asked.debug_dag
        self.snakemake = _snakemakes(asked, self.stream) if more or asked.quiet else None
        self.guard = threading.RLock()
        self.jobs: dict[int, Job] = {}
        self.estimate: Estimate | None = None
        self.plan: Any = None
        self.executing = False
        self.complete_log = ""
        self.stats: dict[str, int] = {}
        self.failed: set[int] = set()  # jobs, until they have ended well
        self.remaining: int | None = None  # jobs, as Snakemake counts
        self.said_at = self.written_at = time.time()
        self.stopped = threading.Event()
        self.clock: threading.Thread | None = None
        self.status_shown = False

    @property
    def writes_to_stream(self) -> bool:
        return True

    @property
    def writes_to_file(self) -> bool:
        return False

    @property
    def has_filter(self) -> bool:
        return True

    @property
    def has_formatter(self) -> bool:
        return True

    @property
    def needs_rulegraph(self) -> bool:
        return False

    def emit(self, record: logging.LogRecord) -> None:
        if self.snakemake is not None:
            self.snakemake.handle(record)
            return
        try:
            with self.guard:
                event = getattr(record, "event", None)
                handler = getattr(self, f"on_{event}", None) if event else self.on_text
                if handler is not None:
                    handler(record)
        except Exception:  # a line that cannot be said must not end the run
            self.handleError(record)

    def close(self) -> None:
        """Say how the run ended."""
        if self.clock is not None and not self.stopped.is_set():
            self.stopped.set()
            self.clock.join()
            self._say_end()
        super().close()

    # Each event of the interface that says something here (snakemake_interface_logger_plugins.common.LogEvent).

    def on_text(self, record: logging.LogRecord) -> None:
        """Before a run (a report, an unlocking) all lines, in a run those that are no accompaniment."""
        text = record.getMessage()
        if text.startswith("Complete log(s):"):
            self.complete_log = text
        quiet = not text.startswith(KEPT) if self.executing else text.startswith(DROPPED)
        if record.levelno >= logging.WARNING or not quiet:
            self.say(text)
        if text.startswith("Nothing to be done"):
            self.say_page()

    def on_workflow_started(self, record: logging.LogRecord) -> None:
        self.executing = True

    def on_run_info(self, record: logging.LogRecord) -> None:
        """The jobs that are known when the run starts, by rule."""
        self.stats = {rule: count for rule, count in vars(record)["stats"].items() if rule != "total"}

    def on_job_started(self, record: logging.LogRecord) -> None:
        """The first jobs: the workflow has written its plan."""
        if self.estimate is not None or not self.stats:
            return
        from llama_nas.analysis.status import Plan

        self.plan = Plan.read(RESULTS)
        behind = self.plan.behind_front or {}
        self.estimate = Estimate(self.stats, behind, earlier_seconds(RESULTS), record.created)
        later = sum(behind.values()) * self.estimate.fronts
        self.say(f"{sum(self.stats.values())} jobs{f', and about {later} more after the fronts' if later else ''}")
        self.clock = threading.Thread(target=self._tick, name="llama-nas progress", daemon=True)
        self.clock.start()

    def on_job_info(self, record: logging.LogRecord) -> None:
        told = vars(record)
        job = Job(told["rule_name"], dict(told["wildcards"] or {}), next(iter(told["log"] or []), None))
        self.jobs[told["jobid"]] = job
        if self.estimate is not None:
            self.estimate.started(told["jobid"], job.rule, record.created)

    def on_job_finished(self, record: logging.LogRecord) -> None:
        number = vars(record)["job_id"]
        self.failed.discard(number)
        if self.estimate is not None:
            self.estimate.finished(number, record.created)
        if (job := self.jobs.get(number)) is not None:
            self._say_result(job)

    def on_progress(self, record: logging.LogRecord) -> None:
        self.remaining = vars(record)["total"] - vars(record)["done"]
        if self.estimate is not None:
            self.estimate.known(self.remaining)

    def on_job_error(self, record: logging.LogRecord) -> None:
        """The error as Snakemake writes it, and the end of the job's log."""
        from llama_nas.analysis.status import log_tail

        self.failed.add(vars(record)["jobid"])
        if self.estimate is not None:
            self.estimate.failed(vars(record)["jobid"])
        self.say(_format(record))
        for log in vars(record)["log"]:
            lines = log_tail(Path(log), LOG_LINES) if Path(log).is_file() else []
            self.say(
                "\n".join([f"the end of {log}:" if lines else f"{log} is empty", *(f"    {line}" for line in lines)])
            )

    def on_group_error(self, record: logging.LogRecord) -> None:
        self.say(_format(record))

    def on_error(self, record: logging.LogRecord) -> None:
        text = _format(record)
        if "CalledProcessError" not in text:  # a job's, told above
            self.say(text)

    def _say_result(self, job: Job) -> None:
        """What is found out when a job has ended."""
        from llama_nas.analysis.status import front_line, round_line

        task = job.wildcards.get("task", "")
        if job.rule == "gather":
            self.say(round_line(RESULTS, task, int(job.wildcards["round"]), self.plan))
        elif job.rule == "find_front":
            self.say(front_line(RESULTS, task, self.plan))

    def say_page(self) -> None:
        from llama_nas.analysis.status import Plan

        page = RESULTS / (self.plan or Plan.read(RESULTS)).page
        if page.is_file():
            self.say(f"the page: {page.resolve()}")

    def _say_end(self) -> None:
        from llama_nas.analysis.status import duration, percent

        assert self.estimate is not None
        finished = not self.failed and self.remaining == 0
        share, _ = self.estimate.progress(time.time(), {})
        self._write_down("ended" if finished else "stopped", 1.0 if finished else share, None, [])
        took = duration(time.time() - self.estimate.start)
        self.say(f"done in {took}" if finished else f"stopped after {took}, {percent(share)} done. {self.complete_log}")
        if finished and PAGE_RULE in self.stats:
            self.say_page()

    # Now and then: how far the run is.

    def _tick(self) -> None:
        while not self.stopped.wait(TICK):
            try:
                with self.guard:
                    self._look()
            except Exception:  # the next look may succeed
                logging.getLogger(__name__).debug("no progress", exc_info=True)

    def _look(self) -> None:
        """Write the progress down; say it if it is time, and on a terminal always, in one line that is written over."""
        from llama_nas.analysis.status import progress_line, running_text, seconds_left, share_text

        assert self.estimate is not None
        now = time.time()
        left = {}
        for number in self.estimate.running:
            log = self.jobs[number].log
            if log and (seconds := seconds_left(progress_line(Path(log)))) is not None:
                left[number] = seconds
        share, seconds = self.estimate.progress(now, left)
        jobs = [self.jobs[number] for number in self.estimate.running]  # the one that runs longest first
        if now - self.written_at >= WRITTEN_EVERY:
            self._write_down("running", share, seconds, jobs)
            self.written_at = now
        text = share_text(share, seconds)
        if jobs:
            text += " | " + running_text(jobs[0].name, Path(jobs[0].log) if jobs[0].log else None)
            text += f" | and {len(jobs) - 1} more" if len(jobs) > 1 else ""
        if self.stream.isatty():
            self._show(text)
        elif now - self.said_at >= self._patience(now - self.estimate.start):
            self.say(text)

    def _patience(self, elapsed: float) -> float:
        """Seconds without a line until one says how far the run is: few lines also in a run of days."""
        every = vars(self.settings)["every"]
        return max(every, elapsed / 10) if every else 0.0

    def _write_down(self, state: str, share: float, seconds: float | None, jobs: list[Job]) -> None:
        """For `llama-nas status`."""
        from llama_nas.analysis.status import PROGRESS_FILE
        from llama_nas.core.artifacts import write_json

        running = [{"name": job.name, "log": job.log} for job in jobs]
        told = {"state": state, "at": time.time(), "share": share, "seconds_left": seconds, "running": running}
        write_json(RESULTS / PROGRESS_FILE, told)

    def say(self, text: str) -> None:
        """A line that stays, with the time of day."""
        self._clear()
        print(f"{time.strftime('%H:%M:%S')} {text}", file=self.stream, flush=True)
        self.said_at = time.time()

    def _show(self, text: str) -> None:
        """The line of a terminal that the next one is written over."""
        import shutil

        self._clear()
        self.stream.write(text[: shutil.get_terminal_size().columns - 1])
        self.stream.flush()
        self.status_shown = True

    def _clear(self) -> None:
        if self.status_shown:
            self.stream.write("\r\033[K")
            self.status_shown = False


def _snakemakes(asked: Any, stream: TextIO) -> logging.Handler:
    """Snakemake's own handler, with its own filter and format."""
    from snakemake.logging import ColorizingTextHandler, DefaultFilter, DefaultFormatter

    wanted = DefaultFilter(asked.quiet, asked.debug_dag, asked.verbose, asked.dryrun, asked.printshellcmds)
    formatter = DefaultFormatter(asked.quiet, asked.show_failed_logs)
    return ColorizingTextHandler(asked.nocolor, stream, formatter, wanted)


def _format(record: logging.LogRecord) -> str:
    from snakemake.logging import DefaultFormatter

    return DefaultFormatter().format(record)
