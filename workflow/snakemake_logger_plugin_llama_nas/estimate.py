"""How much of a run is done, and how long the rest takes: from the jobs that are known, those behind the checkpoint,
and what jobs have taken."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

# Seconds of a job, before one of its rule has been measured; only their ratios count. All others take OTHER.
TYPICAL = {"pretrain": 600, "finetune": 120, "measure_throughput": 60, "run_lm_eval": 25, "evaluate": 20}
TYPICAL |= {"verify": 15, "quantize": 12, "compile_task": 12, "tokenize": 10, "propose": 8}
OTHER = 4
BELIEF = 60  # seconds of work that it takes to doubt by half that this machine is as fast as the one of TYPICAL
FRONT = "find_front"  # the checkpoint: what it calls for is known only when it has ended
BEHIND = "summarize"  # asks for that; without it in the run, nothing lies behind the checkpoint


class Estimate:
    """The work of a run in seconds: finished, running and waiting jobs.

    jobs: jobs of the run by rule, as Snakemake knows them at its start. behind: jobs by rule that each front calls for.
    earlier: mean seconds by rule in an earlier run. All times are seconds of one clock.
    """

    def __init__(
        self, jobs: Mapping[str, int], behind: Mapping[str, int], earlier: Mapping[str, float], now: float
    ) -> None:
        self.start = now
        self.fronts = jobs.get(FRONT, 0) if BEHIND in jobs else 0
        self.told = True  # whether Snakemake counts what the fronts found so far call for
        self.waiting: dict[str, float] = dict(jobs)
        for rule, count in behind.items():
            self.waiting[rule] = self.waiting.get(rule, 0) + count * self.fronts
        self.earlier = earlier
        self.running: dict[int, tuple[str, float]] = {}  # by job: its rule and start
        self.measured: dict[str, list[float]] = {}
        self.done = 0.0
        self.looked = 0.0  # how much was done when the share was last shown
        self.shown = 0.0

    def started(self, job: int, rule: str, now: float) -> None:
        self.running[job] = (rule, now)
        self.waiting[rule] = max(self.waiting.get(rule, 0) - 1, 0)

    def finished(self, job: int, now: float) -> None:
        if job in self.running:
            rule, start = self.running.pop(job)
            self.measured.setdefault(rule, []).append(now - start)
            self.done += now - start
            if rule == FRONT:
                self.fronts -= 1
                self.told = False

    def failed(self, job: int) -> None:
        """It may be tried again."""
        if job in self.running:
            self.waiting[self.running.pop(job)[0]] += 1

    def known(self, remaining: int) -> None:
        """So many jobs have not ended, says Snakemake.

        It knows when all fronts are found, but for the count that it gives as the last one ends.
        """
        expected, waiting = sum(self.waiting.values()), max(remaining - len(self.running), 0)
        if self.fronts <= 0 and self.told and waiting != expected:
            scaled = {rule: waiting / expected * count for rule, count in self.waiting.items() if expected}
            self.waiting = scaled or {"": waiting}
        self.told = True

    def progress(self, now: float, left: Mapping[int, float]) -> tuple[float, float | None]:
        """The share of the work that is done, never less than before, and the seconds left, None in the beginning.

        Since the last look the share has grown by its part of what is missing: the work done since then, over that work
        and the rest. So a rest that turns out longer makes it slower from here on, and not fall or stand still.

        left: seconds that running jobs say they still need, by job.
        """
        done, rest = self.done, 0.0
        for job, (rule, start) in self.running.items():
            done += now - start
            rest += left.get(job, max(self.seconds(rule) - (now - start), 0))
        rest += sum(count * self.seconds(rule) for rule, count in self.waiting.items())
        new = max(done - self.looked, 0)
        if new:
            self.shown = min(1 - (1 - self.shown) * rest / (new + rest), 0.99)  # the last job is not done
            self.looked = done
        elapsed = now - self.start
        return self.shown, elapsed * rest / done if done and elapsed > 20 else None

    def seconds(self, rule: str) -> float:
        """What a job of a rule takes: as measured in this run, in an earlier one, or as others suggest."""
        if times := self.measured.get(rule):
            return sum(times) / len(times)
        if rule in self.earlier:
            return self.earlier[rule]
        pairs = [(TYPICAL.get(name, OTHER), time) for name, times in self.measured.items() for time in times]
        measured, typical = sum(time for _, time in pairs), sum(typical for typical, _ in pairs)
        return (BELIEF + measured) / (BELIEF + typical) * TYPICAL.get(rule, OTHER)


def earlier_seconds(results: Path) -> dict[str, float]:
    """Mean seconds by rule of the jobs that a folder's runs have ended, from Snakemake's records."""
    times: dict[str, list[float]] = {}
    jobs = results / "timings" / "jobs"
    for path in jobs.rglob("*.tsv"):
        with open(path, encoding="utf-8", newline="") as file:
            rule = path.relative_to(jobs).parts[0].removesuffix(".tsv")
            times.setdefault(rule, []).extend(float(row["s"]) for row in csv.DictReader(file, delimiter="\t"))
    return {rule: sum(own) / len(own) for rule, own in times.items() if own}
