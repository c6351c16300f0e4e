"""Every front's members on every task: a part of a run of more than one task, and of nothing else."""

import re
import shutil

from tests.workflow.workflow_copy import executed, jobs

TWO = {"arc_easy": {"metric": "acc", "search_items": 30}, "winogrande": {"metric": "acc"}}


def two_tasks(config: dict) -> None:
    config.update(tasks=TWO)


def test_a_run_of_two_tasks_compares_them(run):
    result = run("transfer", "--printshellcmds", change=two_tasks)
    ran = executed(result)
    assert ran["choose_transfer"] == 1 and ran["compare_tasks"] == 1 and ran["evaluate"] == 2 * (2 + 1 + 1)
    assert not ran.keys() & {"export", "write_report"}  # it needs the fronts alone
    (compare,) = re.findall(r"llama-nas compare-tasks .*", result.stderr)
    assert " --tasks results/tasks/arc_easy results/tasks/winogrande " in compare
    assert " --search-items 30 0 " in compare
    for task in TWO:
        assert f"{task}=results/search/{task}/transfer/shard_1-of-1.csv" in compare
    scored = re.findall(r"llama-nas evaluate .*?transfer/candidates.csv.*", result.stderr)
    judged = [("--judged" in command, "--search-items 30" in command) for command in sorted(scored)]
    assert judged == [(True, True), (True, False)]
    assert "Nothing to be done" in run("transfer").stderr


def test_one_task_has_nothing_to_compare(run):
    counts = jobs(run("--dry-run"))
    assert not counts.keys() & {"choose_transfer", "compare_tasks"}
    assert "MissingRuleException" in run("transfer", check=False).stderr


def test_one_tasks_targets_need_no_other_tasks_search(run):
    """The tables of speeds, the page and the transfer do."""
    run("fronts", change=two_tasks)
    (run.folder / "results/search/arc_easy/judgement.csv").unlink()
    shutil.rmtree(run.folder / "results/search/winogrande")
    targets = ["search/arc_easy/judgement.csv", "benchmarks/arc_easy/int8/0001xx.json", "networks/01111x/hf"]
    counts = jobs(run("--dry-run", *(f"results/{target}" for target in targets)))
    assert counts == {"find_front": 1, "export": 2, "quantize": 1, "run_lm_eval": 1}
