"""The DAG at the shapes that the workflow is made for: 32 layers (LLaMA2-7B) and 80 (the 70B models)."""

import re

import pytest
import yaml
from tests.workflow.stand_in import FETCHED
from tests.workflow.workflow_copy import LLAMA2_7B, REPOSITORY, executed, jobs, snakemake, write_model

from llama_nas.core.space import grouped

SEVEN_B = ("--snakefile", REPOSITORY / "Snakefile", "--configfile", LLAMA2_7B, "--cores", "8")
EVALUATE_MEMORY = 4000 + round(4 * 6738415616 / 1e6)  # bf16 weights of 7B, and as much again to load them


def ids(layers: int, smallest: int) -> list[str]:
    """The full network, the narrow one of all layers, and the smallest one."""
    return [grouped("0" * layers), grouped("1" * layers), grouped("1" * smallest + "x" * (layers - smallest))]


def test_the_papers_run_builds(tmp_path):
    """The DAG up to the fronts, with everything fetched first and five tasks of 250 evaluations."""
    result = snakemake("-n", *SEVEN_B, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    counts = jobs(result)
    assert counts["fetch_model"] == 1 and counts["fetch_dataset"] == 5 and counts["finetune"] == 1
    assert counts["evaluate"] == 5 * (5 + 2) * 8  # rounds, finalists, transfer
    assert counts["find_front"] == 5


def test_any_network_of_7b_is_a_target_by_its_id(tmp_path):
    targets = [f"results/benchmarks/arc_easy/fp16/{id}.json" for id in ids(32, 24)]
    result = snakemake("-n", *SEVEN_B, *targets, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    counts = jobs(result)
    assert counts["export"] == counts["run_lm_eval"] == 3 and "find_front" not in counts


def test_an_id_that_is_not_in_groups_is_no_target(tmp_path):
    target = f"results/benchmarks/arc_easy/fp16/{'01' * 16}.json"
    result = snakemake("-n", *SEVEN_B, target, folder=tmp_path)
    assert result.returncode != 0
    assert f"No rule to produce {target}" in result.stdout + result.stderr


@pytest.mark.parametrize(("layers", "depths"), [(32, [24, 28, 32]), (80, [60, 70, 80])])
def test_a_run_ends_whatever_networks_its_front_has(run, layers, depths):
    front = ids(layers, depths[0])
    run.environment["FRONT_IDS"] = " ".join(front)
    run.config["embedded"]["layers"] = layers
    run.config["space"]["depths"] = depths
    run.config["export"]["members"] = "all"
    ran = executed(run())
    assert ran["export"] == 3 and ran["quantize"] == 1 and ran["run_lm_eval"] == 4 + 1 + 1
    assert {path.name for path in (run.folder / "results/networks").iterdir()} == set(front)
    assert "Nothing to be done" in run().stderr


def test_the_papers_run_ends_from_the_fetched_model_to_the_page(run):
    """One of its five tasks, and two of its five rounds."""
    run.config = yaml.safe_load(LLAMA2_7B.read_text())
    run.config["tasks"] = {"arc_challenge": run.config["tasks"]["arc_challenge"]}
    run.config["search"]["evaluations"] = 100
    front = ids(32, 24)
    run.environment["FRONT_IDS"] = " ".join(front)
    result = run()
    ran = executed(result)
    assert ran["fetch_model"] == 1 and ran["fetch_dataset"] == 2  # the benchmark and the instructions
    assert ran["evaluate"] == (2 + 1) * 8 and ran["export"] == 3 and ran["write_report"] == 1
    resources = re.findall(r"^rule evaluate:\n.*? resources: (.*?)$", result.stderr, re.M | re.S)
    assert all(f"mem_mb={EVALUATE_MEMORY}, " in line for line in resources)


def test_memory_follows_the_model(tmp_path):
    """As long as the model is not fetched its size is unknown."""
    preset = yaml.safe_load(LLAMA2_7B.read_text())
    write_model(tmp_path / "model", FETCHED)

    def requested(config: dict) -> str:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        options = ["--snakefile", REPOSITORY / "Snakefile", "--configfile", "config.yaml", "--cores", "8"]
        result = snakemake("-n", *options, "fronts", folder=tmp_path)
        assert result.returncode == 0, result.stderr
        (evaluate, *_) = re.findall(r"^rule evaluate:\n.*? resources: (.*?)$", result.stdout, re.M | re.S)
        return dict(word.split("=") for word in evaluate.split(", "))["mem_mb"]

    assert requested(preset) == "<TBD>"
    assert requested(preset | {"base": {"source": "path", "path": "model"}}) == str(EVALUATE_MEMORY)
