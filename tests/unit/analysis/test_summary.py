"""The summary table and what is judged in it, on a small synthetic run whose numbers can be computed by hand."""

import math

import numpy as np
import pytest

from llama_nas.analysis.figures import smoothing_window
from llama_nas.analysis.sections import count_text
from llama_nas.analysis.summary import SUMMARY_COLUMNS
from llama_nas.core.artifacts import read_json, read_table, write_json
from llama_nas.core.errors import UserError
from llama_nas.core.items import Items
from llama_nas.core.judgement import Metric, compare

ACCURACY, BITS = Metric("acc", True), Metric("bits_per_byte", False)


def test_summary_rows_are_what_arithmetic_says(run):
    run.add_task("arc_easy", run.scores(0.60, 0.70, 0.68, 0.40))
    table = run.summarize("arc_easy")
    assert tuple(table.columns) == SUMMARY_COLUMNS
    networks = {"pretrained": run.full, run.full: run.full, run.medium: run.medium, run.small: run.small}
    order = [(model, precision) for model in networks for precision in ("fp16", "int8")]
    assert list(zip(table["model"], table["precision"], strict=True)) == order
    assert list(table["role"]) == ["pretrained"] * 2 + ["full"] * 2 + ["member"] * 4

    rows = table.set_index(["model", "precision"])
    for model, network in networks.items():
        assert set(rows.loc[model, "parameters"]) == {run.parameters(network)}
        assert set(rows.loc[model, "layers"]) == {6 - network.count("x")}
        assert rows.loc[(model, "fp16"), "size_bytes"] == 2 * run.parameters(network)
        assert rows.loc[(model, "int8"), "size_bytes"] == run.int8_bytes(network)
    small = rows.loc[(run.small, "int8")]
    assert small["size_ratio"] == pytest.approx(2 * run.parameters(run.full) / run.int8_bytes(run.small))
    assert small["value_difference"] == pytest.approx(0.39 - 0.60)
    assert small["finetuning_difference"] == pytest.approx(0.70 - 0.60)
    assert small["search_difference"] == pytest.approx(0.40 - 0.70)
    assert small["precision_difference"] == pytest.approx(-0.01)
    assert rows.loc[("pretrained", "int8"), "value_difference"] == pytest.approx(-0.01)
    parts = table[["finetuning_difference", "search_difference", "precision_difference"]].sum(axis=1)
    np.testing.assert_allclose(parts, table["value_difference"], atol=1e-12)

    # Of 500 items 10 points more are right, 8 more, 20 fewer; INT8 has one point fewer than FP16.
    assert list(rows.xs("fp16", level=1)["verdict"]) == ["shown", "shown", "shown", "worse"]
    assert list(rows.xs("fp16", level=1)["difference"]) == pytest.approx([0.0, 0.10, 0.08, -0.20])
    assert list(rows.xs("int8", level=1)["difference"]) == pytest.approx([-0.01, 0.09, 0.07, -0.21])
    assert list(table.loc[table["recommended"], "model"].unique()) == [run.medium]
    assert list(rows.loc[run.medium, "tokens_per_second"]) == [1250.0, 625.0]
    assert list(rows.loc[run.medium, "decode_saturated_tokens_per_second"]) == [500.0, 250.0]
    assert rows.loc[(run.full, "fp16"), "decode_limit_tokens_per_second"] == 400.0
    assert rows.loc[run.small, "decode_tokens_per_second"].isna().all()
    assert rows.loc[(run.small, "fp16"), "versions"] == "lm_eval 0.4.13, torch 2.13.0"


def test_a_minimised_metric_is_judged_the_other_way_round(run):
    """Relatively: 2.41 is 0.42 % worse than 2.40."""
    run.add_task("tinystories", run.scores(2.40, 2.30, 2.41, 2.90, int8_loss=-0.01), BITS, stderr=None)
    table = run.summarize("tinystories").set_index(["model", "precision"])
    assert list(table.xs("fp16", level=1)["verdict"]) == ["shown", "shown", "shown", "worse"]
    gains = list(table.xs("fp16", level=1)["difference"])
    assert gains == pytest.approx([0.0, 0.1 / 2.4, -0.01 / 2.4, -0.5 / 2.4])
    assert table.loc[(run.full, "fp16"), "value_difference"] == pytest.approx(-0.10)
    assert table["chance"].isna().all() and table["stderr"].isna().all()
    assert table.loc[(run.medium, "fp16"), "recommended"]


def test_networks_are_judged_on_the_items_held_out_of_the_search(run):
    """400 of 500 items: of the others by their own answers, in every precision."""
    run.add_task("arc_easy", run.scores(0.60, 0.70, 0.68, 0.40), search_items=400)
    table = run.summarize("arc_easy").set_index(["model", "precision"])
    assert set(table["judged_on"]) == {"held out"} and set(table["judged_items"]) == {100}
    assert (table["items"] == 500).all() and table.loc[(run.medium, "fp16"), "value"] == 0.68
    items = Items.read(run.results / "tasks/arc_easy")
    judged = items.judged(400, "arc_easy")
    for (model, precision), row in table.iterrows():
        own, base = (
            np.array(read_json(run.results / f"benchmarks/arc_easy/{name}.json")["item_values"])[judged]
            for name in (f"{precision}/{model}", "fp16/pretrained")
        )
        expected = compare(ACCURACY, items.of(judged), own, base)
        assert tuple(row[["difference", "lower", "upper"]]) == pytest.approx(expected.interval)
        assert row["judged_value"] == own.mean()
    run.add_task("all", run.scores(0.60, 0.70, 0.68, 0.40))
    assert set(run.summarize("all")["judged_on"]) == {"searched"}


def test_no_network_of_the_front_is_shown_that_the_search_does_not_show(run):
    """Of three members the middle one is not shown, and the smallest comes after it."""
    run.add_task("arc_easy", run.scores(0.60, 0.60, 0.55, 0.62), max_drop=0.02)
    table = run.summarize("arc_easy").set_index(["model", "precision"])
    judgement = read_table(run.results / "search/arc_easy/judgement.csv").set_index("subnet_id")["verdict"]
    assert list(judgement[[run.full, run.medium, run.small]]) == ["shown", "worse", "not refuted"]
    assert list(table.loc[run.small, "verdict"]) == ["not refuted"] * 2
    assert (table.loc[run.small, "lower"] > -0.02).all()
    assert list(table.loc[run.full, "verdict"]) == ["shown", "not refuted"]


def test_a_benchmark_without_the_answers_is_named(run):
    run.add_task("arc_easy", run.scores(0.60, 0.70, 0.68, 0.40))
    path = run.results / f"benchmarks/arc_easy/int8/{run.medium}.json"
    result = read_json(path)
    write_json(path, result | {"item_values": result["item_values"][1:]})
    with pytest.raises(UserError, match=rf"{run.medium}\.json: has no item_values of acc on the 500 items"):
        run.summarize("arc_easy")
    write_json(path, {key: value for key, value in result.items() if key != "item_values"})
    with pytest.raises(UserError, match=r"key item_values is missing"):
        run.summarize("arc_easy")


def test_printed_numbers():
    assert ACCURACY.text(0.8123, 0.0171) == "81.2 ± 1.7 %"
    assert BITS.text(2.3456, 0.0123) == "2.346 ± 0.012"
    assert BITS.text(2.3456) == "2.346"
    assert ACCURACY.difference_text(-0.0123) == "−1.2 points"
    assert BITS.difference_text(0.0123) == "+0.012"
    assert ACCURACY.difference_text(math.nan) == "–"
    assert [count_text(n) for n in (6_738_415_616, 1_234_567, 313_280, 12)] == ["6.74 B", "1.23 M", "313 k", "12"]
    assert [smoothing_window(n) for n in (0, 10, 40, 1221)] == [1, 1, 3, 61]
