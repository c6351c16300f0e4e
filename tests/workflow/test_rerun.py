"""What reruns when: for every config key and for input files (tests/unit/test_code_digest.py: for every module).

A rule *starts* rerunning where its own parameters, inputs or code changed or its outputs are missing, and everything
before it stands; what depends on its outputs follows. Stages are stand-ins, the DAG and its triggers are real.
"""

import collections
import copy
import json
import os
from collections.abc import Sequence

import pytest
from tests.workflow.workflow_copy import REPOSITORY, Workflow, write_model

from llama_nas.config import check_config

SCHEMA = json.loads((REPOSITORY / "workflow/schemas/config.schema.json").read_text())

# The rules that start rerunning when a key of a block changes ...
BLOCKS = {
    "embedded": "pretrain",
    "space": "declare_space",
    "training": "finetune",
    "tasks.arc_easy": "compile_task",
    "search": "propose",
    "throughput": "measure_throughput",
}
# ... and those of keys that are no key like the others of their block. Behind a front that is made again nothing starts
# by itself: what is exported and benchmarked is known only when it is there.
KEYS = {
    "seed": "make_world",
    "embedded.inhabitants": "make_world",
    "embedded.items": "make_world",
    "space.width_selection": "order_channels finetune",
    "training.max_length": "tokenize",
    "training.checkpoint_every": "",
    "training.tensorboard": "",
    "tasks.arc_easy.search_items": "sample",
    "tasks.arc_easy.named": "",
    "tasks.arc_easy.min_accuracy": "sample",
    "search.objectives": "sample",
    "search.max_size": "sample",
    "search.algorithm": "sample",
    "search.variant": "sample",
    "search.population": "sample propose evaluate gather",
    "search.evaluations": "propose evaluate gather choose_finalists find_patterns",
    "search.shards": "",
    "answer.max_drop": "find_front",
    "report.size_unit": "summarize",
    "export.members": "measure_throughput",
    "export.formats": "export",
    "contenders": "run_lm_eval measure_throughput",
    "benchmark.precisions": "run_lm_eval measure_throughput",
    "benchmark.batch_size": "run_lm_eval",
    "compute.device": "pretrain",
    "compute.dtype": "evaluate",
    "compute.threads": "evaluate run_lm_eval",
}
# New values, where the default plus one, or another word, would not be a valid config.
VALUES = {
    "embedded.layers": 7,
    "embedded.hidden_size": 48,
    "embedded.heads": 4,
    "space.depths": [5, 6],
    "space.widths": [96, 48, 24],
    "space.depth_selection": "even",
    "space.width_selection": "importance",
    "training.ranks": 1,
    "training.global_batch": 32,
    "training.micro_batch": 4,
    "tasks.arc_easy.lm_eval_task": "arc_challenge",
    "tasks.arc_easy.metric": "acc_norm",
    "tasks.arc_easy.num_fewshot": 1,
    "tasks.arc_easy.limit": 10,
    "tasks.arc_easy.search_items": 30,
    "tasks.arc_easy.group": "question",
    "tasks.arc_easy.named": ["000111"],
    "tasks.arc_easy.min_accuracy": 0.3,
    "search.objectives": ["metric", "size"],
    "search.max_size": "1 GB",
    "search.population": 10,
    "search.evaluations": 60,
    "export.members": 1,
    "export.formats": ["hf", "padded"],
    "contenders": {"slicegpt-0.25": "other-method"},
    "benchmark.precisions": ["fp16", "int8", "fp32"],
}
# Keys without effect on the embedded world, keys of other sources, and keys that have no other value by themselves: all
# are tried below where they have one.
WITHOUT_EFFECT = {"tasks.arc_easy.dataset": "o/data", "tasks.arc_easy.revision": "abc"}
WITHOUT_EFFECT |= {"search.precision": "int8", "search.latency": "prefill"}  # read with other objectives or a limit
COSTS = {"dtype": "fp32", "batch_size": 2, "sequence_length": 64, "new_tokens": 8, "repeats": 3, "checks": 4}
WITHOUT_EFFECT |= {f"costs.{key}": value for key, value in COSTS.items()}
OTHER_SOURCES = {"base.source", "base.path", "base.hub_id", "base.revision", "data_root"}
OTHER_SOURCES |= {"instructions.path", "instructions.hub_id", "instructions.revision"}
NO_OTHER = {"embedded.intermediate_size", "tasks.arc_easy.subtasks"}


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Workflow:
    """A finished run, which no test changes."""
    workflow = Workflow(tmp_path_factory.mktemp("done"))
    write_model(workflow.folder / "other-method")
    workflow.environment["RECOMMENDED"] = "00011x"  # the largest
    workflow()
    return workflow


def changed(config: dict, key: str, value) -> dict:
    config = copy.deepcopy(config)
    *path, last = key.split(".")
    block = config
    for part in path:
        block = block.setdefault(part, {})
    block[last] = value
    return config


def plans(workflow: Workflow, changes: dict, targets: Sequence[str] = ()) -> dict[str, list[dict[str, str]]]:
    """What a dry-run of the targets with each changed key would run."""
    configs = {key: changed(workflow.config, key, value) for key, value in changes.items()}
    runs = workflow.dry_runs(configs, targets)
    assert not [run["said"] for run in runs.values() if run["failed"]]
    return {key: run["jobs"] for key, run in runs.items()}


def starts(jobs: list[dict[str, str]]) -> set[str]:
    """Rules of jobs that do not run merely because a job before them does."""
    follows = "Input files updated by another job"
    return {job["rule"] for job in jobs for reason in job["reason"].split("; ") if not reason.startswith(follows)}


def schema_keys(schema: dict, prefix: str = "") -> dict[str, dict]:
    """Every key of the config and what the schema says of it."""
    keys = {}
    for name, value in schema.get("properties", {}).items():
        if name == "tasks":
            keys |= schema_keys(value["additionalProperties"], "tasks.arc_easy.")
        else:
            keys |= schema_keys(value, f"{prefix}{name}.") or {f"{prefix}{name}": value}
    return keys


def another(config: dict, key: str, schema: dict):
    """A value of the key that is neither the config's nor the default."""
    current = schema.get("default")
    for part in key.split("."):
        config = config.get(part, {}) if isinstance(config, dict) else {}
    current = current if config == {} else config
    if "enum" in schema:
        return next(value for value in schema["enum"] if value != current)
    if schema["type"] == "boolean":
        return not current
    return current + 1 if schema["type"] == "integer" else (current + 1) / 2 + 0.001


def test_a_changed_key_reruns_the_rules_that_read_it(done):
    keys = schema_keys(SCHEMA)
    named = KEYS.keys() | VALUES.keys() | WITHOUT_EFFECT.keys() | OTHER_SOURCES | NO_OTHER
    assert not named - keys.keys(), "no such keys any more"
    tried = [key for key in keys if key not in WITHOUT_EFFECT.keys() | OTHER_SOURCES | NO_OTHER]
    values = {key: VALUES[key] if key in VALUES else another(done.config, key, keys[key]) for key in tried}
    ran = plans(done, values | WITHOUT_EFFECT)
    expected = {key: set(KEYS.get(key, BLOCKS.get(key.rpartition(".")[0], "")).split()) for key in tried}
    expected |= {key: set() for key in WITHOUT_EFFECT}
    assert {key: starts(jobs) for key, jobs in ran.items()} == expected


def test_the_order_of_keys_and_defaults_written_down_rerun_nothing(done):
    def turned(value):
        return {key: turned(value[key]) for key in reversed(value)} if isinstance(value, dict) else value

    configs = {"turned": turned(done.config), "whole": check_config(done.config)}
    assert configs["whole"] != done.config
    assert {name: run["jobs"] for name, run in done.dry_runs(configs).items()} == {"turned": [], "whole": []}


def test_named_networks_are_evaluated_by_the_target_patterns(tmp_path):
    """A run does not read them."""
    workflow = Workflow(tmp_path)
    workflow("patterns")
    ran = plans(workflow, {"tasks.arc_easy.named": ["000111"]}, ["patterns"])["tasks.arc_easy.named"]
    assert starts(ran) == {"find_heuristics"}
    assert {job["rule"] for job in ran} == {"find_heuristics", "evaluate", "judge_heuristics", "patterns"}


def test_the_full_width_changes_with_the_widths(done):
    """The full MLP width is the first of the widths; what reads the base follows."""
    wide = copy.deepcopy(done)
    wide.config["space"]["widths"] = [48, 24]
    ran = plans(wide, {"embedded.intermediate_size": 48})["embedded.intermediate_size"]
    assert starts(ran) == {"pretrain"}


def test_environment_files_rerun_nothing_without_conda(tmp_path):
    """They count with --sdm conda alone, by Snakemake's own trigger; an image has its version in its name."""
    workflow = Workflow(tmp_path)
    targets = ["results/tasks/arc_easy"]
    workflow(*targets)
    for path in (workflow.code / "envs").glob("*.*"):
        path.write_bytes(path.read_bytes() + b"# changed\n")
    assert plans(workflow, {"seed": 1}, targets)["seed"] == []


def test_other_sources_of_the_base_the_instructions_and_the_data(tmp_path):
    """A local model and local data; then a model and instructions from the Hub."""
    workflow = Workflow(tmp_path)
    for name in ("model", "other-model"):
        write_model(tmp_path / name)
    for name in ("root/allenai/ai2_arc", "other-root/allenai/ai2_arc"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("rows.json", "other-rows.json"):
        (tmp_path / name).write_text("[]")
    workflow.config["base"] = {"source": "path", "path": "model"}
    workflow.config |= {"instructions": {"path": "rows.json"}, "data_root": "root"}
    workflow("results/base", "results/supernet", "results/tasks/arc_easy")
    ran = plans(
        workflow,
        {
            "base.path": "other-model",
            "instructions.path": "other-rows.json",
            "data_root": "other-root",
            "space.depths": [5, 6],
        },
        ["results/base", "results/supernet", "results/tasks/arc_easy"],
    )
    assert {key: starts(jobs) for key, jobs in ran.items()} == {
        "space.depths": {"declare_space"},
        "base.path": {"take_base"},
        "instructions.path": {"tokenize"},
        "data_root": {"compile_task"},
    }

    workflow.config["base"] = {"source": "hub", "hub_id": "o/model", "revision": "1"}
    workflow.config["instructions"] = {"hub_id": "o/rows", "revision": "1"}
    mine = {"metric": "acc", "lm_eval_task": "arc_easy", "dataset": "o/data", "revision": "1"}
    group = {"metric": "acc", "lm_eval_task": "mmlu", "subtasks": ["anatomy"]}
    workflow.config["tasks"] = {"mine": mine, "group": group}
    del workflow.config["data_root"]
    targets = ["results/base", "results/supernet", "results/tasks/mine", "results/tasks/group"]
    assert starts(plans(workflow, {"base.source": "hub"}, targets)["base.source"]) >= {"fetch_model", "fetch_dataset"}
    workflow(*targets)
    values = {"base.revision": "2", "instructions.revision": "2", "base.hub_id": "o/other", "space.depths": [5, 6]}
    values |= {"tasks.mine.dataset": "o/other-data", "tasks.mine.revision": "2", "tasks.group.subtasks": ["virology"]}
    ran = plans(workflow, values | {"instructions.hub_id": "o/other-rows"}, targets)
    assert {key: starts(jobs) for key, jobs in ran.items()} == {
        "space.depths": {"declare_space"},
        "instructions.hub_id": {"fetch_dataset", "tokenize"},
        "base.revision": {"fetch_model"},
        "instructions.revision": {"fetch_dataset"},
        "base.hub_id": {"fetch_model", "take_base"},
        "tasks.mine.dataset": {"fetch_dataset", "compile_task"},
        "tasks.mine.revision": {"fetch_dataset"},
        "tasks.group.subtasks": {"compile_task"},
    }


def test_the_files_that_a_task_of_ones_own_names(tmp_path):
    """Its YAML, what that includes, its functions and its questions."""
    workflow = Workflow(tmp_path)
    for name in ("part.yaml", "utils.py", "questions.jsonl", "more.jsonl", "unused.py"):
        (tmp_path / name).write_text("{}")
    text = "include: part.yaml\nprocess_docs: !function utils.ask\n"
    files = "dataset_kwargs: { data_files: { train: questions.jsonl, test: [more.jsonl] } }\n"
    (tmp_path / "mine.yaml").write_text(f"task: mine\n{text}{files}")
    workflow.config["tasks"] = {"mine": {"metric": "acc", "lm_eval_task": "mine.yaml"}}
    target = ["results/tasks/mine"]
    workflow(*target)
    for name in ("mine.yaml", "part.yaml", "utils.py", "questions.jsonl", "more.jsonl", "unused.py"):
        path = tmp_path / name
        before, times = path.read_text(), path.stat()
        path.write_text(before + "\n# changed")
        expected = {"compile_task"} if name != "unused.py" else set()
        assert starts(plans(workflow, {"seed": 1}, target)["seed"]) == expected, name
        path.write_text(before)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_keys_of_other_objectives(tmp_path):
    """Sizes in a precision; seconds of layers, which are measured first and again when their settings change."""
    workflow = Workflow(tmp_path)
    objectives = [["metric", "parameters"], ["metric", "size", "latency"]]
    for chosen in objectives:
        jobs = plans(workflow, {"search.objectives": chosen}, ["fronts"])["search.objectives"]
        assert ("measure_costs" in {job["rule"] for job in jobs}) == ("latency" in chosen)

    workflow.config["search"] |= {"objectives": objectives[1], "max_size": "1 GB"}
    targets = ["results/search/arc_easy/round_1/candidates.csv"]
    workflow(*targets)
    command = workflow(*targets, "--forcerun", "sample", "--printshellcmds")
    said = command.stdout + command.stderr
    measured = "--measured latency=results/costs/latency-decode.json"
    assert f"--max-size 1GB {measured} --objectives metric size latency --precision fp16" in said
    values = {"search.precision": "int8", "search.latency": "prefill"} | {f"costs.{key}": v for key, v in COSTS.items()}
    ran = {key: starts(jobs) for key, jobs in plans(workflow, values, targets).items()}
    assert ran == {key: {"measure_costs" if key.startswith("costs") else "sample"} for key in values}


def test_a_space_of_other_content_reruns_what_reads_it(done, tmp_path):
    workflow = done.fork(tmp_path / "fork")
    workflow("results/space.json", change=lambda config: config["space"].update(depths=[5, 6]))
    jobs = plans(workflow, {"seed": 1})["seed"]
    assert starts(jobs) == {"finetune", "sample"}
    ran = {job["rule"] for job in jobs}
    assert {"evaluate", "gather", "propose", "find_front", "find_patterns"} <= ran
    assert not ran & {"make_world", "pretrain", "tokenize", "compile_task", "declare_space"}


def test_the_same_space_declared_again_reruns_nothing(done, tmp_path):
    workflow = done.fork(tmp_path / "fork")
    workflow("results/space.json", "--forcerun", "declare_space")
    assert plans(workflow, {"seed": 1})["seed"] == []


def test_what_is_added_reuses_all_there_is(done):
    """More evaluations, a task, a precision: no job of before runs again but those that sum up."""
    more = {
        "search.evaluations": 60,
        "tasks.winogrande": {"metric": "acc"},
        "benchmark.precisions": ["fp16", "int8", "fp32"],
    }
    ran = {key: {job["rule"] for job in jobs} for key, jobs in plans(done, more).items()}
    sums = {"all", "summarize", "find_patterns", "write_cards", "write_report", "measure_throughput", "verify"}
    search = {"propose", "evaluate", "gather", "choose_finalists", "find_front"}
    assert ran["search.evaluations"] == search | sums
    first = {"compile_task", "sample", "run_lm_eval"}  # of the new task; its base is what its front is judged against
    assert ran["tasks.winogrande"] == search | first | {"choose_transfer", "compare_tasks"} | sums
    assert ran["benchmark.precisions"] == {"run_lm_eval"} | sums - {"find_patterns", "verify"}


def test_other_shards_are_for_the_rounds_to_come(done):
    """Evaluated rounds keep the shards they were evaluated in: nothing is done anew for the same bytes."""
    search = done.config["search"] | {"shards": 3, "evaluations": 60}
    jobs = plans(done, {"search": search})["search"]
    ran = collections.Counter(job["rule"] for job in jobs)
    assert (ran["propose"], ran["gather"]) == (1, 1)
    assert ran["evaluate"] == 3 + 1  # the new round's, and the finalists', who keep their one shard


def test_an_input_file_reruns_what_reads_it(done):
    """A changed file of a stage's results: the rule that reads it starts, the one that made it does not."""
    readers = {
        "results/search/arc_easy/round_1/candidates.csv": {"evaluate"},
        "results/search/arc_easy/round_1/evaluations.csv": {"propose"},
        "results/agreement/arc_easy.json": {"summarize"},
        "results/summary/arc_easy.csv": {"write_report", "write_cards"},
    }
    for name, rules in readers.items():
        path = done.folder / name
        before, times = path.read_bytes(), path.stat()
        path.write_bytes(before + b"changed\n")
        try:
            assert starts(plans(done, {"seed": 1})["seed"]) == rules, name
        finally:
            path.write_bytes(before)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
