"""Strings of the config that mean something to a shell or to Snakemake: they arrive as they are, or are refused."""

import itertools
import json
import re
import shlex

import pytest
from tests.workflow.workflow_copy import executed, write_model

ODD = [
    "my model",
    "it's $(touch PWNED) `touch PWNED`; touch PWNED",
    'a "b" {x} {wildcards.task} {',
    "*?[ab]~ #&|<>\\",
    "módèl-模型 %s",
]


@pytest.mark.parametrize("odd", ODD)
def test_a_folder_or_file_may_have_any_printable_name(run, odd):
    """The stand-in finds every input under the path that it is given, as the shell has left it."""
    write_model(run.folder / odd / "base")
    (run.folder / odd / "rows.json").write_text("[]")
    (run.folder / odd / "data/allenai/ai2_arc").mkdir(parents=True)
    (run.folder / odd / "mine.yaml").write_text("task: mine\n")
    write_model(run.folder / odd / "other")

    def change(config):
        config["base"] = {"source": "path", "path": f"{odd}/base"}
        config.update(instructions={"path": f"{odd}/rows.json"}, data_root=f"{odd}/data")
        config["tasks"]["mine"] = {"metric": "acc", "lm_eval_task": f"{odd}/mine.yaml"}
        config["tasks"]["arc_easy"]["group"] = odd
        config["contenders"] = {"other-1": f"{odd}/other"}

    targets = [
        "results/networks/000000/hf",
        "results/networks/other-1/int8",
        "results/benchmarks/mine/fp16/other-1.json",
    ]
    result = run(*targets, "results/tasks/arc_easy", "--printshellcmds", change=change)
    ran = executed(result)
    assert ran["take_base"] == ran["tokenize"] == ran["finetune"] == 1 and ran["compile_task"] == 2
    assert ran["export"] == ran["quantize"] == ran["run_lm_eval"] == 1
    assert not list(run.folder.rglob("PWNED"))
    given = {}
    for line in re.findall(r"llama-nas .*", result.stdout + result.stderr):
        words = shlex.split(line)
        given |= dict(itertools.pairwise(words))
    assert given["--instructions"] == f"{odd}/rows.json" and given["--data-root"] == f"{odd}/data"
    assert given["--group"] == odd and given["--base-name"] == given["--source"] == f"{odd}/base"
    if "{" in odd:
        assert "Nothing to be done" in run(*targets).stderr


def test_a_working_folder_may_have_any_printable_name(run):
    run.folder = run.fork(run.folder.with_name("it's $(touch PWNED) {x} *")).folder
    assert executed(run("fronts"))["find_front"] == 1
    assert not list(run.folder.rglob("PWNED"))


HOSTILE = ["$(touch PWNED)", "a;touch${IFS}PWNED", "a\ttouch", "a\ntouch PWNED\n", "it's", "../../x", "--help", ""]
KEYS = {
    "base.revision": ("base", "revision"),
    "base.hub_id": ("base", "hub_id"),
    "instructions.revision": ("instructions", "revision"),
    "instructions.hub_id": ("instructions", "hub_id"),
    "tasks.mmlu.revision": ("tasks", "mmlu", "revision"),
    "tasks.mmlu.dataset": ("tasks", "mmlu", "dataset"),
    "tasks.mmlu.subtasks": ("tasks", "mmlu", "subtasks"),
}


def test_hostile_ids_revisions_and_names_are_one_line(run):
    hub = {
        "base": {"source": "hub", "hub_id": "owner/model", "revision": "main"},
        "instructions": {"hub_id": "owner/data", "revision": "main"},
        "tasks": {"mmlu": {"metric": "acc"}},
    }
    configs = {}
    for name, path in KEYS.items():
        for hostile in HOSTILE:
            config = json.loads(json.dumps(run.config | hub))
            block = config
            for key in path[:-1]:
                block = block[key]
            hub_id = path[-1] in ("hub_id", "dataset")
            block[path[-1]] = [hostile] if path[-1] == "subtasks" else f"owner/{hostile}" if hub_id else hostile
            configs[f"{name}: {hostile!r}"] = config
    for name, report in run.dry_runs(configs).items():
        assert report["failed"] and not report["jobs"], name
        (line,) = [line for line in report["said"].splitlines() if line.startswith("configs/")]
        assert report["said"].strip().endswith(line) and name.partition(":")[0] in line and "Traceback" not in line
