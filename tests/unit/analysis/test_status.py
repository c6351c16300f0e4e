"""What the artifacts of a run say about how far it is."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from llama_nas import cli
from llama_nas.analysis.status import (
    PLAN_FILE,
    PROGRESS_FILE,
    best_within,
    duration,
    hypervolumes,
    log_tail,
    percent,
    progress_line,
    seconds_left,
    status_lines,
)
from llama_nas.core.judgement import Metric

ACCURACY, PERPLEXITY = Metric("acc", True), Metric("word_perplexity", False)
NOW = 1_700_000_000.0
# round, size in kB, accuracy
EVALUATIONS = [(1, 400, 0.40), (1, 700, 0.55), (1, 1000, 0.60), (2, 600, 0.58), (2, 1000, 0.61)]
JUDGEMENT = """\
subnet_id,layers,parameters,size_bytes,on_front,judged_on,items,difference,lower,upper,verdict,recommended
1111xx,4,200000,400000,True,held out,300,-0.05,-0.08,-0.02,worse,False
001011,6,300000,600000,True,held out,300,-0.004,-0.009,0.001,shown,True
000000,6,500000,1000000,False,held out,300,0.0,-0.005,0.005,shown,False
"""


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def add_task(results: Path, task: str = "arc_easy", metric: Metric = ACCURACY) -> None:
    described = {"task": task, "metric": metric.name, "higher_is_better": metric.higher_is_better}
    write(results / f"tasks/{task}/task.json", json.dumps(described))


def add_rounds(results: Path, last: int, task: str = "arc_easy", metric: str = "acc") -> None:
    """evaluations.csv of each round up to the last one."""
    for number in range(1, last + 1):
        rows = [
            f"{made},00{i},{size}000,{value}" for i, (made, size, value) in enumerate(EVALUATIONS) if made <= number
        ]
        text = "\n".join([f"round,subnet_id,size_bytes,{metric}", *rows, ""])
        write(results / f"search/{task}/round_{number}/evaluations.csv", text)


@pytest.fixture
def results(tmp_path) -> Path:
    """A run of two tasks that was killed in the second round of the first one."""
    results = tmp_path / "results"
    plan = {"tasks": ["arc_easy", "winogrande"], "rounds": 5, "size_unit": "GB", "page": "summary.html"}
    write(results / PLAN_FILE, json.dumps(plan | {"behind_front": {"export": 3}}))
    add_task(results)
    add_rounds(results, 1)
    return results


def test_a_killed_run_says_what_it_has(results):
    assert status_lines(results, NOW) == [
        "arc_easy round 1 of 5: 3 evaluations, hypervolume 0.585, acc 40.0 / 55.0 / 60.0 % "
        "up to 0.600 / 0.800 / 1.00 MB",
        "winogrande: no round is finished",
        "networks: none exported yet",
        "the page: not yet written",
    ]


def test_a_rounds_line_has_the_gain_on_the_round_before(results):
    add_rounds(results, 2)
    first, second = status_lines(results, NOW)[:2]
    before, after = (float(re.search(r"hypervolume ([\d.]+)", line)[1]) for line in (first, second))
    gain = float(re.search(r"\(\+([\d.]+)\)", second)[1])
    assert gain > 0.05 and after == pytest.approx(before + gain, abs=0.0015)  # three rounded numbers
    assert "(" not in first and second.startswith("arc_easy round 2 of 5: 5 evaluations, ")
    assert second.endswith("acc 58.0 / 58.0 / 61.0 % up to 0.600 / 0.800 / 1.00 MB")


def test_a_finished_run_has_its_front_benchmarks_networks_and_page(results):
    write(results / "search/arc_easy/judgement.csv", JUDGEMENT)
    for path in ("fp16/pretrained", "fp16/001011", "int8/001011"):
        write(results / f"benchmarks/arc_easy/{path}.json", "{}")
    write(results / "summary/arc_easy.csv", "")
    for form in ("hf", "int8"):
        (results / "networks/001011" / form).mkdir(parents=True)
    (results / "networks/000000/hf").mkdir(parents=True)
    write(results / "summary.html", "")
    assert status_lines(results, NOW)[1:] == [
        "arc_easy front: 2 networks; recommended 001011, 0.600 MB of 1.00 MB, acc −0.4 points (−0.9 to +0.1) against "
        "the base on 300 held out items: shown",
        f"arc_easy: 3 benchmarks, {results}/summary/arc_easy.csv",
        "winogrande: no round is finished",
        "networks: 2 in hf, 1 in int8",
        f"the page: {results}/summary.html",
    ]


def test_the_running_stage_is_shown_with_its_logs_last_line(results):
    write(results.parent / "logs/finetune.log", "13:00:01 112 networks\n13:00:06 step 32/125  loss: 5.5  15 s left\n")
    job = {"name": "finetune", "log": "logs/finetune.log"}
    told = {"state": "running", "at": NOW - 10, "share": 0.4367, "seconds_left": 372.0, "running": [job]}
    write(results / PROGRESS_FILE, json.dumps(told))
    lines = status_lines(results, NOW)
    assert lines[:2] == ["43 % done, about 6 min left, 10 s ago", "finetune: step 32/125  loss: 5.5  15 s left"]
    write(results / PROGRESS_FILE, json.dumps(told | {"state": "stopped", "at": NOW - 7200}))
    assert status_lines(results, NOW)[0] == "the run stopped 2 h 0 min ago, 43 % done"


def test_without_a_plan_the_tasks_are_those_that_are_there(results):
    """A run without the workflow's plan, of an older version or by hand."""
    (results / PLAN_FILE).unlink()
    add_task(results, "mmlu")
    lines = status_lines(results, NOW)
    assert lines[0].startswith("arc_easy round 1: 3 evaluations") and "mmlu: compiled, no round is finished" in lines


def test_a_metric_of_which_less_is_better(results):
    add_task(results, metric=PERPLEXITY)
    add_rounds(results, 1, metric="word_perplexity")
    line = status_lines(results, NOW)[0]
    assert "word_perplexity 0.400 / 0.400 / 0.400 up to" in line


def test_a_table_without_numbers_is_only_said_to_be_there(results):
    write(results / "search/arc_easy/round_1/evaluations.csv", "output\n")
    write(results / "search/arc_easy/judgement.csv", "output\n")
    assert status_lines(results, NOW)[:2] == ["arc_easy round 1 of 5 is finished", "arc_easy front is found"]


def test_the_command_prints_the_lines_and_refuses_a_folder_that_is_not_there(results, capsys):
    assert cli.main(["status", "--results", str(results)]) == 0
    assert "arc_easy round 1 of 5: 3 evaluations" in capsys.readouterr().out
    assert cli.main(["status", "--results", str(results / "no")]) == 2
    assert "no such folder; --results is that of a run" in capsys.readouterr().err


def columns(rounds: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = np.array([row for row in EVALUATIONS if row[0] <= rounds])
    return rows[:, 0], rows[:, 1], rows[:, 2]


def test_hypervolume_is_in_the_first_rounds_box_so_that_rounds_compare():
    """Sizes 400 and 1000 are 0 and 1, accuracies 0.6 and 0.4 are 0 and 1; the reference is 1.1 of both."""
    staircase = [(0, 1), (0.5, 0.25), (1, 0)]
    by_hand = sum((1.1 - x) * (above - y) for (x, y), above in zip(staircase, (1.1, 1, 0.25), strict=True))
    assert hypervolumes(*columns(1), ACCURACY) == pytest.approx([by_hand])
    first, second = hypervolumes(*columns(2), ACCURACY)
    staircase = [(0, 1), (1 / 3, 0.1), (1, -0.05)]
    by_hand_2 = sum((1.1 - x) * (above - y) for (x, y), above in zip(staircase, (1.1, 1, 0.1), strict=True))
    assert (first, second) == pytest.approx((by_hand, by_hand_2))


def test_scores_are_the_best_within_limits_that_no_later_round_moves():
    best, limits = best_within(*columns(2), ACCURACY)
    assert limits == [600, 800, 1000] and best == [0.58, 0.58, 0.61]
    best, _ = best_within(np.array([1, 1]), np.array([1.0, 1.0]), np.array([0.2, 0.3]), PERPLEXITY)
    assert best == [0.2, 0.2, 0.2]


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        ("step 32/125  epoch 0  loss: full 5.5  1.43e+04 tokens/s  15 s left", 15),
        ("Running loglikelihood requests:  44%|####4     | 44/100 [00:12<01:05, 1.2it/s]", 65),
        ("Running loglikelihood requests:  44%|####4     | 44/100 [1:00:12<2:01:05, 1.2it/s]", 7265),
        ("0%|          | 0/57 [00:00<?, ?it/s]", None),
        ("wrote results/supernet after 125 steps", None),
    ],
)
def test_the_time_left_is_read_off_a_log(line, seconds):
    assert seconds_left(line) == seconds


def test_the_last_line_with_progress_counts_and_a_bar_by_its_last_state(tmp_path):
    log = tmp_path / "stage.log"
    write(log, "13:00:06 networks 5/20  1/s  15 s left\n13:00:07 a warning\n\n")
    assert progress_line(log) == "networks 5/20  1/s  15 s left"
    write(log, "13:00:06 loaded\nbar 10%|# [00:01<00:09, 1it/s]\rbar 20%|## [00:02<00:08, 1it/s]")
    assert progress_line(log) == "bar 20%|## [00:02<00:08, 1it/s]"
    write(log, "13:00:06 loaded the model\nweights: 100%|##########| 57/57 [00:00<00:00, 5180.51it/s]\n")
    assert progress_line(log) == "loaded the model"
    assert progress_line(tmp_path / "none.log") == ""


def test_a_long_log_is_read_from_its_end(tmp_path):
    write(tmp_path / "long.log", "".join(f"line {i}\n" for i in range(100_000)))
    assert log_tail(tmp_path / "long.log", 2) == ["line 99998", "line 99999"]


def test_durations_and_shares_are_short():
    assert [duration(seconds) for seconds in (0, 89, 91, 3600, 7500)] == ["0 s", "89 s", "2 min", "60 min", "2 h 5 min"]
    assert percent(0.999) == "99 %" and percent(1) == "100 %"
