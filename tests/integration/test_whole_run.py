"""The reduced embedded world through the real workflow, from nothing to the page, and what the contracts promise."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
REDUCED = REPOSITORY / "workflow/presets/reduced.yaml"
SEARCH = "results/search/arc_easy"
IGNORED = shutil.ignore_patterns("logs")


def snakemake(folder: Path, *targets: str, config: Path = REDUCED) -> str:
    """Make targets in a folder; returns what Snakemake printed, a line for each job."""
    command = ["snakemake", "--snakefile", REPOSITORY / "Snakefile", "--directory", folder, "--configfile", config]
    options = ["--cores", "2", "--printshellcmds"]
    result = subprocess.run([*command, *options, *targets], text=True, capture_output=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def fork(run: Path, folder: Path, change: Callable[[dict], object], *targets: str, ignore=IGNORED) -> str:
    """Copy a finished run, with .snakemake, which knows what was made; make targets under a changed config."""
    shutil.copytree(run, folder, ignore=ignore)
    config = yaml.safe_load(REDUCED.read_text())
    change(config)
    (folder / "changed.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return snakemake(folder, *targets, config=folder / "changed.yaml")


def executed(output: str) -> list[str]:
    return re.findall(r"^(?:local)?(?:rule|checkpoint) (\w+):", output, re.M)


def table(path: Path) -> pd.DataFrame:
    """A CSV; ids are no numbers."""
    return pd.read_csv(path, dtype={"subnet_id": str, "model": str})


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reduced")
    snakemake(folder)
    return folder


def test_everything_is_there(run):
    results = run / "results"
    front = table(results / "search/arc_easy/front.csv")
    first = ["subnet_id", "layers", "parameters", "size_bytes", "acc", "stderr", "items", "round"]
    assert list(front.columns)[:8] == first
    assert front["size_bytes"].is_monotonic_increasing and front["acc"].is_monotonic_increasing
    evaluations = table(results / "search/arc_easy/round_2/evaluations.csv")
    assert len(evaluations) == 40 and evaluations["subnet_id"].is_unique
    summary = table(results / "summary/arc_easy.csv")
    assert {"pretrained", "full", "member"} >= set(summary["role"]) and set(summary["precision"]) == {"fp16", "int8"}
    judgement = table(results / "search/arc_easy/judgement.csv")
    (recommended,) = judgement.loc[judgement["recommended"], "subnet_id"]
    assert set(summary.loc[summary["recommended"], "model"]) == {recommended}
    for network in {"000000", recommended, front["subnet_id"].iloc[-1]}:
        forms = {"hf", "int8"} if network == recommended else {"hf"}
        assert {path.name for path in (results / "networks" / network).iterdir()} == forms
    assert "results/networks/" in (results / "summary.html").read_text()
    names = ("front", "quantized", "speed", "progress", "depths", "blocks")
    assert {path.name for path in (results / "figures").iterdir()} == {f"arc_easy_{name}.svg" for name in names}
    assert (results / "figures/arc_easy_front.svg").stat().st_size > 1000


def test_the_space_is_written_down_as_it_is_declared(run):
    space = json.loads((run / "results/space.json").read_text())
    assert space["shape"]["num_hidden_layers"] == 6
    assert space["blocks"] == [{"mlp_width": 96}, {"mlp_width": 48}]
    assert space["depths"] == [{"layers": depth, "kept_layers": list(range(depth))} for depth in (4, 5, 6)]


def test_the_quality_of_the_predictions_is_written_down_from_the_second_round_on(run):
    first, second = (json.loads((run / SEARCH / f"round_{number}/predictions.json").read_text()) for number in (1, 2))
    assert first["quality"] is None and second["quality"]["rows"] == 20
    predictor = json.loads((run / SEARCH / "round_2/predictor.json").read_text())["predictor"]
    assert predictor["kind"] in ("lightgbm", "ridge", "svr") and predictor["rows"] == 20


def test_the_searchs_scorer_agrees_with_stock_lm_eval(run):
    agreement = json.loads((run / "results/agreement/arc_easy.json").read_text())
    assert agreement["agrees"] and agreement["search_scorer"] == agreement["lm_eval"]


def test_training_alternates_and_records_each_network(run):
    training = table(run / "results/supernet/training.csv")
    assert set(training["kind"][::2]) == {"full"} and set(training["kind"][1::2]) == {"subnet"}
    assert training["subnet_id"][1::2].nunique() > 10


def test_second_run_does_nothing(run):
    assert "Nothing to be done" in snakemake(run)


def test_a_deleted_benchmark_is_one_job_with_the_same_bytes(run):
    path = run / "results/benchmarks/arc_easy/fp16/000000.json"
    before = path.read_bytes()
    path.unlink()
    assert executed(snakemake(run, str(path.relative_to(run)))) == ["run_lm_eval"]
    assert path.read_bytes() == before


def test_shard_count_changes_no_byte_of_the_search(run, tmp_path):
    """A second search over the same super-network and task, in three shards a round."""
    fork(
        *(run, tmp_path / "other"),
        lambda config: config["search"].update(shards=3),
        "fronts",
        ignore=shutil.ignore_patterns("search", "logs"),
    )
    for name in ("round_2/evaluations.csv", "round_2/candidates.csv", "round_2/generations.csv", "judgement.csv"):
        assert (tmp_path / "other" / SEARCH / name).read_bytes() == (run / SEARCH / name).read_bytes(), name
    assert len(list((tmp_path / "other" / SEARCH / "round_1").glob("shard_*-of-3.csv"))) == 3


def test_a_longer_search_redoes_nothing(run, tmp_path):
    output = fork(run, tmp_path / "longer", lambda config: config["search"].update(evaluations=60), "fronts")
    rules = ["choose_finalists", "evaluate", "evaluate", "find_front", "gather", "propose"]
    assert sorted(rule for rule in executed(output) if rule != "fronts") == rules
    rounds = [tmp_path / "longer" / SEARCH / f"round_{number}/evaluations.csv" for number in (2, 3)]
    assert rounds[1].read_bytes().startswith(rounds[0].read_bytes())
    assert rounds[0].read_bytes() == (run / SEARCH / "round_2/evaluations.csv").read_bytes()
    assert len(table(rounds[1])) == 60


def test_held_out_items_and_patterns(run, tmp_path):
    """A search on 60 or more of the 100 items judges its front on the others; its heuristics are evaluated on all."""
    settings = {"search_items": 60, "named": ["000111"]}
    fork(run, tmp_path / "held_out", lambda config: config["tasks"]["arc_easy"].update(settings), "patterns")
    results = tmp_path / "held_out/results"
    front, judgement = (table(results / f"search/arc_easy/{name}.csv") for name in ("front", "judgement"))
    items = table(results / "tasks/arc_easy/items.csv")
    searched = table(results / "search/arc_easy/round_2/evaluations.csv").set_index("subnet_id")
    ends = items.groupby("draw").size().cumsum()
    seen = items["draw"] <= (ends >= 60).idxmax()
    assert (searched["items"] == seen.sum()).all() and (judgement["items"] == 100 - seen.sum()).all()
    assert not set(items.loc[seen, "group"]) & set(items.loc[~seen, "group"])
    of_front = judgement.set_index("subnet_id").loc[front["subnet_id"]]
    pooled = seen.mean() * searched.loc[front["subnet_id"], "acc"] + (1 - seen.mean()) * of_front["value"]
    assert front["acc"].tolist() == pytest.approx(pooled.tolist()) and (front["items"] == 100).all()
    assert (of_front["difference"] - (of_front["value"] - of_front["base"])).abs().max() < 1e-12
    assert (of_front["lower"] <= of_front["difference"]).all() and of_front["verdict"].notna().all()
    heuristics = table(results / "patterns/arc_easy_heuristics.csv")
    assert heuristics["origin"].iloc[0] == "full" and (heuristics["items"] == 100).all() and len(heuristics) > 1
    assert "000111" in set(heuristics["subnet_id"])


def test_a_contender_stands_in_the_summary_with_what_was_measured_of_it(run, tmp_path):
    """Here the base model's own folder, which scores what the base model scores."""
    copy = tmp_path / "other method"
    shutil.copytree(run / "results/base", copy)
    output = fork(
        *(run, tmp_path / "compared"),
        lambda config: config.update(contenders={"untouched-0": str(copy)}),
        "results/summary/arc_easy.csv",
    )
    assert sorted(set(executed(output))) == ["measure_throughput", "run_lm_eval", "summarize"]
    summary = table(tmp_path / "compared/results/summary/arc_easy.csv")
    rows = summary[summary["model"] == "untouched-0"]
    base = summary[summary["model"] == "pretrained"]
    assert list(rows["precision"]) == ["fp16"] and set(rows["role"]) == {"other"}
    for column in ("value", "parameters", "size_bytes"):
        assert rows[column].tolist() == base[column].tolist(), column
    assert (rows["tokens_per_second"] > 0).all()


def test_a_measured_order_of_layers_is_the_spaces(run, tmp_path):
    fork(
        *(run, tmp_path / "ordered"),
        lambda config: config["space"].update(depth_selection="importance"),
        "results/space.json",
    )
    order = json.loads((tmp_path / "ordered/results/layer_order.json").read_text())["layer_order"]
    space = json.loads((tmp_path / "ordered/results/space.json").read_text())
    kept = {depth["layers"]: set(depth["kept_layers"]) for depth in space["depths"]}
    assert kept == {depth: set(range(6)) - set(order[: 6 - depth]) for depth in (4, 5, 6)}
