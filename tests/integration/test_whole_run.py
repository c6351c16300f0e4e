"""The reduced embedded world through the real workflow, from nothing to the page, and what the contracts promise."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = REPOSITORY / "workflow/presets/reduced.yaml"


def snakemake(folder: Path, *arguments: str) -> str:
    command = ["snakemake", "--snakefile", REPOSITORY / "Snakefile", "--directory", folder, "--configfile", CONFIG]
    result = subprocess.run([*command, "--cores", "2", *arguments], text=True, capture_output=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reduced")
    snakemake(folder)
    return folder


def test_everything_is_there(run):
    results = run / "results"
    front = pd.read_csv(results / "search/arc_easy/front.csv", dtype={"subnet_id": str})
    first = ["subnet_id", "layers", "parameters", "size_bytes", "acc", "stderr", "items", "round"]
    assert list(front.columns)[:8] == first
    assert front["size_bytes"].is_monotonic_increasing and front["acc"].is_monotonic_increasing
    evaluations = pd.read_csv(results / "search/arc_easy/round_2/evaluations.csv", dtype={"subnet_id": str})
    assert len(evaluations) == 40 and evaluations["subnet_id"].is_unique
    summary = pd.read_csv(results / "summary/arc_easy.csv", dtype={"model": str})
    assert {"pretrained", "full", "member"} >= set(summary["role"]) and set(summary["precision"]) == {"fp16", "int8"}
    assert "results/subnets/" in (results / "summary.html").read_text()
    assert (results / "figures/arc_easy_front.svg").stat().st_size > 1000


def test_the_searchs_scorer_agrees_with_stock_lm_eval(run):
    agreement = json.loads((run / "results/agreement/arc_easy.json").read_text())
    assert agreement["agrees"] and agreement["search_scorer"] == agreement["lm_eval"]


def test_training_alternates_and_records_each_network(run):
    training = pd.read_csv(run / "results/supernet/training.csv", dtype={"subnet_id": str})
    assert set(training["kind"][::2]) == {"full"} and set(training["kind"][1::2]) == {"subnet"}
    assert training["subnet_id"][1::2].nunique() > 10


def test_second_run_does_nothing(run):
    assert "Nothing to be done" in snakemake(run)


def test_a_deleted_benchmark_is_one_job_with_the_same_bytes(run):
    path = next((run / "results/benchmarks/arc_easy/int8").glob("0*.json"))
    before = path.read_bytes()
    path.unlink()
    output = snakemake(run, str(path.relative_to(run)))
    assert "1 of 1 steps (100%) done" in output
    assert path.read_bytes() == before


def test_shard_count_changes_no_byte_of_the_search(run, tmp_path):
    """A second search over the same super-network and task, in three shards a round."""
    other = tmp_path / "other"
    shutil.copytree(run, other, ignore=shutil.ignore_patterns("search", "logs"))
    config = other / "sharded.yaml"
    config.write_text(CONFIG.read_text().replace("population: 20", "population: 20\n  shards: 3"))
    command = ["snakemake", "--snakefile", REPOSITORY / "Snakefile", "--directory", other, "--cores", "2"]
    subprocess.run([*command, "fronts", "--configfile", config], check=True, capture_output=True)
    for name in ("round_2/evaluations.csv", "round_2/candidates.csv", "round_2/generations.csv", "front.csv"):
        assert (other / "results/search/arc_easy" / name).read_bytes() == (
            run / "results/search/arc_easy" / name
        ).read_bytes(), name
    assert len(list((other / "results/search/arc_easy/round_1").glob("shard_*-of-3.csv"))) == 3


def fork(run: Path, folder: Path, change: str, target: str) -> str:
    """Copy a finished run, make `target` under a config with one line changed, and return the output."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("logs"))  # with .snakemake, which knows what was made
    old, new = change.split(" -> ")
    config = folder / "changed.yaml"
    assert old in CONFIG.read_text()
    config.write_text(CONFIG.read_text().replace(old, new))
    command = ["snakemake", "--snakefile", REPOSITORY / "Snakefile", "--directory", folder, "--cores", "2"]
    result = subprocess.run([*command, target, "--configfile", config], text=True, capture_output=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def test_a_longer_search_redoes_nothing(run, tmp_path):
    output = fork(run, tmp_path / "longer", "evaluations: 40 -> evaluations: 60", "fronts")
    ran = re.findall(r"^(?:local)?(?:rule|checkpoint) (\w+):", output, re.M)
    assert sorted(set(ran) - {"fronts"}) == ["evaluate", "fit", "front", "propose"]
    assert len([rule for rule in ran if rule != "fronts"]) == 4
    rounds = [tmp_path / f"longer/results/search/arc_easy/round_{r}/evaluations.csv" for r in (2, 3)]
    assert rounds[1].read_bytes().startswith(rounds[0].read_bytes())
    assert rounds[0].read_bytes() == (run / "results/search/arc_easy/round_2/evaluations.csv").read_bytes()
    assert len(pd.read_csv(rounds[1])) == 60


def test_held_out_items_and_patterns(run, tmp_path):
    """A search on 60 of the 100 items shows its front on the other 40; its heuristics are evaluated on all."""
    change = "arc_easy: { metric: acc } -> arc_easy: { metric: acc, search_items: 60, named: ['000111'] }"
    fork(run, tmp_path / "held_out", change, "patterns")
    results = tmp_path / "held_out/results"
    front = pd.read_csv(results / "search/arc_easy/front.csv", dtype={"subnet_id": str})
    pooled = 0.6 * front["searched"] + 0.4 * front["held_out"]
    assert front["acc"].tolist() == pytest.approx(pooled.tolist())
    assert (front["held_out_items"] == 40).all() and (front["items"] == 100).all()
    assert front["p_value"].between(0, 1).all() and front["difference_to_full"].notna().all()
    heuristics = pd.read_csv(results / "patterns/arc_easy_heuristics.csv", dtype={"subnet_id": str})
    assert heuristics["origin"].iloc[0] == "full" and (heuristics["items"] == 100).all() and len(heuristics) > 1
    assert {"arc_easy_depths.svg", "arc_easy_widths.svg"} <= {path.name for path in (results / "figures").iterdir()}
