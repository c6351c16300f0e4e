"""What reruns when: for every config key, input file, environment file and module of the package.

A rule *starts* rerunning where its own parameters, inputs, environment or code changed; what depends on its outputs
follows. Stages are stand-ins, the DAG and its triggers are real.
"""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from workflow_copy import REPOSITORY, Workflow

SCHEMA = json.loads((REPOSITORY / "workflow/schemas/config.schema.json").read_text())
COMPUTED = "pretrain finetune evaluate benchmark verify throughput"
SPACE = "finetune sample evaluate fit propose"

# Every key of the schema: a new value, and the rules that start rerunning.
KEYS = {
    "seed": (2, "world pretrain finetune sample fit propose"),
    "embedded.inhabitants": (61, "world"),
    "embedded.items": (101, "world"),
    "embedded.layers": (7, "pretrain"),
    "embedded.hidden_size": (48, "pretrain"),
    "embedded.heads": (4, "pretrain"),
    "embedded.vocabulary": (601, "pretrain"),
    "embedded.max_positions": (1024, "pretrain"),
    "embedded.sequence_length": (64, "pretrain"),
    "embedded.steps": (61, "pretrain"),
    "embedded.batch_size": (8, "pretrain"),
    "embedded.learning_rate": (0.002, "pretrain"),
    "embedded.threads": (1, "pretrain"),
    "space.depths": ([5, 6], SPACE),
    "space.widths": ([96, 48, 24], f"{SPACE} export verify summarize"),
    "training.ranks": (1, "finetune"),
    "training.threads": (2, "finetune"),
    "training.zero_stage": (3, "finetune"),
    "training.dtype": ("bf16", "finetune"),
    "training.epochs": (1, "finetune"),
    "training.global_batch": (32, "finetune"),
    "training.micro_batch": (4, "finetune"),
    "training.learning_rate": (0.002, "finetune"),
    "training.warmup": (0.1, "finetune"),
    "training.weight_decay": (0.1, "finetune"),
    "training.max_grad_norm": (2.0, "finetune"),
    "training.max_length": (256, "finetune"),
    "training.subnet_steps": ("never", "finetune"),
    "training.gradient_checkpointing": (True, "finetune"),
    "training.checkpoint_every": (50, "finetune"),
    "tasks.arc_easy.lm_eval_task": ("arc_challenge", "compile_task"),
    "tasks.arc_easy.metric": ("acc_norm", "compile_task"),
    "tasks.arc_easy.num_fewshot": (1, "compile_task"),
    "tasks.arc_easy.limit": (10, "compile_task"),
    "tasks.arc_easy.chunk_tokens": (256, "compile_task"),
    "tasks.arc_easy.group_tokens": (1024, "compile_task"),
    "tasks.arc_easy.search_items": (30, "evaluate finalists front"),
    "search.variant": ("strict", "sample fit propose"),
    "search.predictor": ("ridge", "fit"),
    "search.population": (10, "sample propose front summarize report"),
    "search.evaluations": (60, "front summarize report"),
    "search.generations": (51, "propose"),
    "search.crossover_probability": (0.8, "propose"),
    "search.crossover_eta": (10.0, "propose"),
    "search.mutation_probability": (0.1, "propose"),
    "search.mutation_eta": (10.0, "propose"),
    "search.shards": (2, "evaluate fit"),
    "export.members": (3, "export quantize benchmark summarize throughput"),
    "benchmark.precisions": (["fp16", "int8", "fp32"], "benchmark summarize throughput"),
    "benchmark.batch_size": (16, "benchmark"),
    "throughput.batch_size": (4, "throughput"),
    "throughput.sequence_length": (64, "throughput"),
    "throughput.repeats": (4, "throughput"),
    "compute.device": ("cuda", COMPUTED),
    "compute.dtype": ("bf16", "evaluate benchmark verify"),
    "compute.threads": (2, "evaluate benchmark verify throughput"),
}
# With the embedded world these say nothing, or nothing else can be said.
WITHOUT_EFFECT = {"tasks.arc_easy.dataset": "o/data", "tasks.arc_easy.revision": "abc"}
OTHER_SOURCES = {"base.source", "base.path", "base.hub_id", "base.revision", "data_root"}
OTHER_SOURCES |= {"instructions.path", "instructions.hub_id", "instructions.revision"}
ONE_VALUE = {"space.depth_selection", "space.width_selection", "tasks.arc_easy.subtasks"}


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Workflow:
    """A finished run, which no test changes."""
    workflow = Workflow(tmp_path_factory.mktemp("done"))
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
    folder = workflow.folder / "configs"
    folder.mkdir(exist_ok=True)
    files = {}
    for key, value in changes.items():
        path = folder / f"{key}.yaml"
        path.write_text(yaml.safe_dump(changed(workflow.config, key, value)))
        files[str(path)] = key
    command = [
        sys.executable,
        Path(__file__).parent / "dry_runs.py",
        workflow.code / "Snakefile",
        ",".join(targets),
        *files,
    ]
    result = subprocess.run(command, cwd=workflow.folder, text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    return {files[path]: jobs for path, jobs in json.loads(result.stdout).items()}


def starts(jobs: list[dict[str, str]]) -> set[str]:
    """Rules of jobs that do not run merely because a job before them does."""
    follows = "Input files updated by another job"
    return {job["rule"] for job in jobs if not job["reason"].startswith(follows)} - {"all"}


def schema_keys(schema: dict, prefix: str = "") -> set[str]:
    keys = set()
    for name, value in schema.get("properties", {}).items():
        if name == "tasks":
            keys |= schema_keys(value["additionalProperties"], "tasks.arc_easy.")
        else:
            keys |= schema_keys(value, f"{prefix}{name}.") or {f"{prefix}{name}"}
    return keys


def test_the_table_has_every_key():
    assert schema_keys(SCHEMA) == KEYS.keys() | WITHOUT_EFFECT.keys() | OTHER_SOURCES | ONE_VALUE


def test_a_changed_key_reruns_the_rules_that_read_it(done):
    ran = plans(done, {key: value for key, (value, _) in KEYS.items()} | WITHOUT_EFFECT)
    for key in WITHOUT_EFFECT:
        assert ran[key] == [], key
    found = {key: " ".join(sorted(starts(ran[key]))) for key in KEYS}
    expected = {key: " ".join(sorted(rules.split())) for key, (_, rules) in KEYS.items()}
    assert found == expected


def test_other_sources_of_the_base_the_instructions_and_the_data(tmp_path):
    """A local model and local data; then a model and instructions from the Hub."""
    workflow = Workflow(tmp_path)
    for name in ("model", "other-model"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"num_hidden_layers": 6, "intermediate_size": 96}))
    for name in ("root/allenai/ai2_arc", "other-root/allenai/ai2_arc"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("rows.json", "other-rows.json"):
        (tmp_path / name).write_text("[]")
    workflow.config["base"] = {"source": "path", "path": "model"}
    workflow.config |= {"instructions": {"path": "rows.json"}, "data_root": "root"}
    workflow("results/base", "results/supernet", "results/tasks/arc_easy")
    ran = plans(
        workflow,
        {"base.path": "other-model", "instructions.path": "other-rows.json", "data_root": "other-root"},
        ["results/base", "results/supernet", "results/tasks/arc_easy"],
    )
    assert {key: starts(jobs) for key, jobs in ran.items()} == {
        "base.path": {"base_model"},
        "instructions.path": {"finetune"},
        "data_root": {"compile_task"},
    }

    workflow.config["base"] = {"source": "hub", "hub_id": "o/model", "revision": "1"}
    workflow.config["instructions"] = {"hub_id": "o/rows", "revision": "1"}
    del workflow.config["data_root"]
    targets = ["results/base", "results/supernet"]
    assert starts(plans(workflow, {"base.source": "hub"}, targets)["base.source"]) >= {"fetch_model", "fetch_dataset"}
    workflow(*targets)
    ran = plans(workflow, {"base.revision": "2", "instructions.revision": "2", "base.hub_id": "o/other"}, targets)
    assert {key: starts(jobs) for key, jobs in ran.items()} == {
        "base.revision": {"fetch_model"},
        "instructions.revision": {"fetch_dataset"},
        "base.hub_id": {"fetch_model", "base_model"},
    }


def test_what_is_added_reuses_all_there_is(done):
    """More evaluations, a task, a precision: no job of before runs again but those that sum up."""
    more = {
        "search.evaluations": 60,
        "tasks.winogrande": {"metric": "acc"},
        "benchmark.precisions": ["fp16", "int8", "fp32"],
    }
    ran = {key: {job["rule"] for job in jobs} for key, jobs in plans(done, more).items()}
    sums = {"all", "summarize", "report", "throughput"}
    assert ran["search.evaluations"] == {"propose", "evaluate", "fit", "front"} | sums - {"throughput"}
    assert ran["tasks.winogrande"] <= {"compile_task", "sample", "propose", "evaluate", "fit", "front"} | sums
    assert ran["benchmark.precisions"] <= {"benchmark"} | sums


@pytest.mark.parametrize(
    ("family", "rules"),
    [
        ("train", {"pretrain", "finetune"}),
        ("score", {"compile_task", "evaluate", "export", "quantize", "benchmark", "verify", "throughput"}),
        ("search", {"world", "sample", "fit", "propose", "front", "summarize", "report"}),
    ],
)
def test_an_environment_file_reruns_its_family(done, family, rules):
    path = done.code / f"envs/{family}.yaml"
    before = path.read_text()
    path.write_text(before.replace("- pip:\n", "- pip:\n      - another==1.0\n"))
    try:
        assert starts(plans(done, {"seed": 1})["seed"]) == rules
    finally:
        path.write_text(before)


def test_an_input_file_reruns_what_reads_it(done):
    """A file of each stage's results, touched and changed: the rules that read it, and no rule that made it."""
    readers = {
        "results/search/arc_easy/round_1/candidates.csv": {"evaluate", "fit"},
        "results/search/arc_easy/round_1/evaluations.csv": {"fit", "propose"},
        "results/agreement/arc_easy.json": {"summarize", "report"},
        "results/summary/arc_easy.csv": {"report"},
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
