"""What good networks have in common, against counting by hand and against planted patterns."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llama_nas.analysis import patterns
from llama_nas.analysis.patterns import PERCENTILES, TOP, find_patterns, judge_heuristics
from llama_nas.core.artifacts import read_table
from llama_nas.core.errors import UserError
from llama_nas.core.judgement import Metric
from llama_nas.core.shape import Block, ModelShape
from llama_nas.core.space import SearchSpace
from llama_nas.search.heuristics import FEWEST, GOOD, find_heuristics
from llama_nas.search.tables import EVALUATION_COLUMNS

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "vocab_size": 512,
}
WIDTHS = [256, 64, 128]
SPACE = SearchSpace.declare(ModelShape.from_config(CONFIG), [4, 6, 8], WIDTHS)
NARROW_IS_BEST = {3, 6, 7}  # layers, from 1


def accuracy(subnet_id: str) -> float:
    """Full width is best everywhere but in three layers, and six layers are better than eight."""
    wide = [code == ("1" if layer in NARROW_IS_BEST else "0") for layer, code in enumerate(subnet_id, start=1)]
    return 0.4 + 0.02 * sum(wide) + 0.1 * (subnet_id.count("x") == 2)


@pytest.fixture
def run(tmp_path):
    """A run's artifacts; returns what the tables, figures and candidates read off it are called."""
    SPACE.write(tmp_path / "space.json")
    (tmp_path / "task").mkdir()
    rng = np.random.default_rng(0)
    ids = ["".join(rng.choice(list("012"), 8 - dropped)) + "x" * dropped for dropped in (0, 2) for _ in range(150)]
    ids += ["0000xxxx", *ids[:50]]  # one network of four layers; repeats, as strict LINAS has them
    evaluations = pd.DataFrame({"subnet_id": ids, "layers": [8 - i.count("x") for i in ids], "items": 100})
    evaluations = evaluations.reindex(columns=[*EVALUATION_COLUMNS, "items"], fill_value=0)

    def find(sign: int = 1, named: tuple[str, ...] = ()) -> dict[str, Path]:
        description = {"task": "toy", "metric": "acc", "higher_is_better": sign > 0}
        (tmp_path / "task/task.json").write_text(json.dumps(description))
        evaluations.assign(acc=[sign * accuracy(i) for i in ids]).to_csv(tmp_path / "evaluations.csv", index=False)
        names = {"layers": "layers.csv", "layers_figure": "layers.svg", "maps": "maps.csv", "maps_figure": "maps.svg"}
        outputs = {key: tmp_path / name for key, name in (names | {"candidates": "candidates.csv"}).items()}
        inputs = {"space": tmp_path / "space.json", "task": tmp_path / "task"}
        inputs["evaluations"] = tmp_path / "evaluations.csv"
        find_heuristics(outputs["candidates"], named=named, **inputs)
        find_patterns(**inputs, **{key: outputs[key] for key in names})
        return outputs

    find.ids, find.folder = sorted(set(ids)), tmp_path
    return find


@pytest.mark.parametrize("sign", [1, -1])
def test_shares_are_counted_over_distinct_networks(run, sign):
    outputs = run(sign)
    values = np.array([accuracy(i) for i in run.ids])
    layers = np.array([8 - i.count("x") for i in run.ids])
    counts, maps = read_table(outputs["layers"]), read_table(outputs["maps"])
    assert set(counts["percentile"]) == set(PERCENTILES) and set(counts["source"]) == {f"{run.folder}/evaluations.csv"}
    for row in counts.itertuples():
        good = sign * values >= sign * row.threshold if sign > 0 else -values <= row.threshold
        assert row.networks == good.sum() >= (1 - row.percentile / 100) * len(run.ids) - 1
        assert row.count == (layers[good] == row.layers).sum() and row.probability == row.count / row.networks
    for row in maps.itertuples():
        own = [i for i in run.ids if 8 - i.count("x") == row.layers and accuracy(i) >= sign * row.threshold]
        code = "012"[WIDTHS.index(int(row.block.removeprefix("mlp width ")))]
        assert row.networks == len(own) and row.count == sum(i[row.layer - 1] == code for i in own)
    assert (maps.groupby(["layers", "percentile", "layer"])["probability"].sum().round(9) == 1).all()
    assert maps.groupby("layers")["layer"].max().to_dict() == {4: 4, 6: 6, 8: 8}


def test_heuristics_are_the_planted_patterns(run):
    candidates = read_table(run(named=("11111111", "001xxxxx"))["candidates"])
    assert list(candidates.columns) == ["candidate", "subnet_id", "origin", "predicted"]
    best = "".join("1" if layer in NARROW_IS_BEST else "0" for layer in range(1, 9))
    expected = {"0" * 8: "full", best[:6] + "xx": "heuristic", best: "heuristic"}  # none of the one of four layers
    expected |= {"11111111": "named", "001xxxxx": "named"}
    assert dict(zip(candidates["subnet_id"], candidates["origin"], strict=True)) == expected and FEWEST > 1
    assert candidates["candidate"].tolist() == list(range(5))


def test_figures_say_what_they_are_of_and_are_the_same_bytes_again(run):
    outputs = run()
    first = {key: path.read_bytes() for key, path in outputs.items()}
    assert {key: path.read_bytes() for key, path in run().items()} == first
    source = str(run.folder / "evaluations.csv")
    for key in ("layers_figure", "maps_figure"):
        assert first[key].startswith(b"<?xml") and len(first[key]) > 5000
        assert source.encode() in first[key]
    for key in ("layers", "maps"):
        assert set(read_table(outputs[key])["source"]) == {source}


def test_a_layer_count_more_than_there_are_colours_is_drawn(monkeypatch):
    monkeypatch.setattr(patterns, "svg", lambda figure: figure)
    counts = range(1, len(patterns.COLORS) + 2)
    table = pd.DataFrame({"layers": list(counts), "gain": 0.5})
    metric = Metric("acc", True)
    figure = patterns.layers_drawing(patterns.layer_counts(table, metric), metric, "t")
    assert len(figure.axes[0].containers) == len(counts)


def test_heuristics_are_what_the_maps_show(run):
    """Search and analysis read the same evaluations, each by its own code."""
    outputs = run()
    maps = read_table(outputs["maps"])
    codes = {str(Block(mlp_width=width)): code for width, code in zip(WIDTHS, "012", strict=True)}
    maps["width"] = maps["block"].map(dict(zip(codes, WIDTHS, strict=True)))
    top = maps[maps["percentile"] == TOP].sort_values(["probability", "width"])
    mapped = {
        "".join(codes[block] for block in own.groupby("layer")["block"].last()).ljust(8, "x")
        for _, own in top[top["networks"] >= FEWEST].groupby("layers")
    }
    candidates = read_table(outputs["candidates"])
    assert set(candidates.loc[candidates["origin"] == "heuristic", "subnet_id"]) == mapped and GOOD == TOP


def test_a_bad_name_is_one_line(run):
    with pytest.raises(UserError, match="subnet id '0000' is not valid here: expected 8 characters"):
        run(named=("0000",))


@pytest.mark.parametrize("sign", [1, -1])
def test_heuristics_are_judged_against_the_full_network_and_the_front(run, sign):
    candidates = run(sign)["candidates"]
    ids = read_table(candidates)["subnet_id"].tolist()
    rows = pd.DataFrame({"candidate": range(len(ids)), "subnet_id": ids})
    rows = rows.assign(acc=[sign * accuracy(i) for i in ids], acc_stderr=0.02, items=100)
    shards = [run.folder / "shard_1-of-2.csv", run.folder / "shard_2-of-2.csv"]
    rows.iloc[1:].to_csv(shards[0], index=False)
    rows.iloc[:1].to_csv(shards[1], index=False)
    (run.folder / "front.csv").write_text(f"size_bytes,acc\n1,{sign * 0.2}\n2,{sign * 0.3}\n{10**12},{sign * 0.9}\n")
    inputs = {"space": run.folder / "space.json", "task": run.folder / "task", "candidates": candidates}
    output = run.folder / "heuristics.csv"
    judge_heuristics(output, front=run.folder / "front.csv", shards=shards, **inputs)
    table = read_table(output)
    assert table["subnet_id"].tolist() == ids and table["origin"].tolist() == ["full", "heuristic", "heuristic"]
    expected = [accuracy(i) - accuracy("0" * 8) for i in ids]
    assert (
        table["difference_to_full"].tolist() == pytest.approx(expected) and (table["difference_to_full"][1:] > 0).all()
    )
    assert table["front_value"].tolist() == [sign * 0.3] * 3 and (table["stderr"] == 0.02).all()
    assert table["size_bytes"].iloc[0] == 2 * table["parameters"].iloc[0]
    assert SPACE.num_layers == table["layers"].iloc[0]
    assert set(table["source"]) == {" ".join(map(str, [run.folder / "front.csv", *shards]))}
    with pytest.raises(UserError, match=f"no value of acc for {ids[0]}"):
        judge_heuristics(output, front=run.folder / "front.csv", shards=shards[:1], **inputs)
