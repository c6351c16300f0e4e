"""How much of a run is done: jobs behind the checkpoint count from the start, and the share never falls."""

import pytest

from snakemake_logger_plugin_llama_nas.estimate import BELIEF, OTHER, TYPICAL, Estimate, earlier_seconds

JOBS = {"finetune": 1, "evaluate": 2, "find_front": 1, "summarize": 1, "all": 1}
BEHIND = {"export": 3, "run_lm_eval": 4}


def test_jobs_behind_the_front_count_from_the_start():
    seconds = TYPICAL["finetune"] + 2 * TYPICAL["evaluate"] + 3 * OTHER  # front, summary, target
    behind = 3 * OTHER + 4 * TYPICAL["run_lm_eval"]
    estimate = Estimate(JOBS, BEHIND, {}, now=0)
    estimate.started(1, "finetune", 0)
    share, left = estimate.progress(30, {})
    assert share == pytest.approx(30 / (seconds + behind)) and left == pytest.approx(seconds + behind - 30)


@pytest.mark.parametrize("jobs", [{"find_front": 1, "fronts": 1}, {"summarize": 1, "all": 1}])
def test_nothing_is_behind_a_front_that_only_is_asked_for_or_is_there(jobs):
    estimate, plain = Estimate(jobs, BEHIND, {}, now=0), Estimate(jobs, {}, {}, now=0)
    assert estimate.waiting == plain.waiting | {"export": 0, "run_lm_eval": 0}


def test_a_job_takes_what_others_of_its_rule_took_here_then_earlier_then_typically():
    estimate = Estimate(JOBS, {}, {"evaluate": 7.0}, now=0)
    assert estimate.seconds("evaluate") == 7 and estimate.seconds("finetune") == TYPICAL["finetune"]
    estimate.started(1, "evaluate", 0)
    estimate.finished(1, 2 * TYPICAL["evaluate"])
    assert estimate.seconds("evaluate") == 2 * TYPICAL["evaluate"]
    slower = (BELIEF + 2 * TYPICAL["evaluate"]) / (BELIEF + TYPICAL["evaluate"])  # a machine that takes longer
    assert estimate.seconds("finetune") == pytest.approx(slower * TYPICAL["finetune"])


def test_a_running_job_takes_as_long_as_its_log_says():
    estimate = Estimate({"finetune": 1}, {}, {}, now=0)
    estimate.started(1, "finetune", 0)
    assert estimate.progress(100, {1: 300.0}) == (pytest.approx(0.25), pytest.approx(300))


def test_the_share_never_falls_and_is_not_whole_before_the_end():
    estimate = Estimate({"finetune": 2}, {}, {}, now=0)
    estimate.started(1, "finetune", 0)
    assert estimate.progress(90, {1: 10.0})[0] == pytest.approx(90 / (100 + TYPICAL["finetune"]))
    before, _ = estimate.progress(100, {1: 0.0})
    assert before == pytest.approx(100 / (100 + TYPICAL["finetune"]))
    estimate.started(2, "finetune", 100)
    assert estimate.progress(100, {1: 0.0, 2: 1e6})[0] == before
    estimate.finished(1, 100)
    estimate.finished(2, 200)
    assert estimate.progress(200, {}) == (0.99, 0.0)


def test_a_rest_that_turns_out_longer_slows_the_share_and_does_not_stop_it():
    """Half is done, then the rest is found to be nine times as long: after a ninth, a ninth more is done."""
    estimate = Estimate({"finetune": 1}, {}, {}, now=0)
    estimate.started(1, "finetune", 0)
    assert estimate.progress(100, {1: 100.0})[0] == pytest.approx(0.5)
    assert estimate.progress(200, {1: 800.0}) == (pytest.approx(0.5 + 0.5 / 9), pytest.approx(800))


def test_when_all_fronts_are_found_what_waits_is_what_snakemake_counts():
    """But not by the count that comes with the front itself: what it calls for is not in it yet."""
    estimate = Estimate({"find_front": 1, "summarize": 1}, {"export": 10}, {}, now=0)
    estimate.started(1, "find_front", 0)
    estimate.finished(1, 1)
    estimate.known(1)
    assert sum(estimate.waiting.values()) == 11
    estimate.known(5)
    assert sum(estimate.waiting.values()) == pytest.approx(5)
    estimate.started(2, "export", 1)
    estimate.known(9)  # 8 wait, and one runs
    assert sum(estimate.waiting.values()) == pytest.approx(8)


def test_before_the_last_front_snakemakes_count_is_too_small():
    estimate = Estimate({"find_front": 2, "summarize": 2}, {"export": 10}, {}, now=0)
    estimate.started(1, "find_front", 0)
    estimate.finished(1, 1)
    estimate.known(3)
    estimate.known(3)
    assert sum(estimate.waiting.values()) == 23


def test_a_failed_job_waits_again():
    estimate = Estimate({"finetune": 1}, {}, {}, now=0)
    estimate.started(1, "finetune", 0)
    assert estimate.waiting["finetune"] == 0
    estimate.failed(1)
    assert estimate.waiting["finetune"] == 1 and not estimate.running


def test_what_jobs_took_earlier_is_read_off_snakemakes_records(tmp_path):
    head = "s\th:m:s\tmax_rss\n"
    for path, seconds in {"finetune.tsv": 30, "evaluate/a/1.tsv": 10, "evaluate/b/1.tsv": 20}.items():
        file = tmp_path / "timings/jobs" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{head}{seconds}.0\t0:00:{seconds}\t1.0\n")
    assert earlier_seconds(tmp_path) == {"finetune": 30, "evaluate": 15}
