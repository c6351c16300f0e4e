"""The summary table and what is judged in it, on a small synthetic run whose numbers can be computed by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from llama_nas.analysis.figures import smoothing_window
from llama_nas.analysis.judgement import Metric, recommended
from llama_nas.analysis.sections import count_text
from llama_nas.analysis.summary import SUMMARY_COLUMNS

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

    # two combined standard errors are 2 * sqrt(2) * 0.02 = 0.0566
    assert list(rows.xs("fp16", level=1)["verdict"]) == ["within noise", "better", "better", "worse"]
    assert list(table.loc[table["recommended"], "model"].unique()) == [run.medium]
    assert list(rows.loc[run.medium, "tokens_per_second"]) == [1250.0, 625.0]
    assert list(rows.loc[run.medium, "decode_saturated_tokens_per_second"]) == [500.0, 250.0]
    assert rows.loc[(run.full, "fp16"), "decode_limit_tokens_per_second"] == 400.0
    assert rows.loc[run.small, "decode_tokens_per_second"].isna().all()
    assert rows.loc[(run.small, "fp16"), "versions"] == "lm_eval 0.4.13, torch 2.13.0"


def test_a_minimised_metric_is_judged_the_other_way_round(run):
    run.add_task("tinystories", run.scores(2.40, 2.30, 2.41, 2.90, int8_loss=-0.01), BITS)
    table = run.summarize("tinystories").set_index(["model", "precision"])
    assert list(table.xs("fp16", level=1)["verdict"]) == ["within noise", "better", "within noise", "worse"]
    assert table.loc[(run.full, "fp16"), "value_difference"] == pytest.approx(-0.10)
    assert table["chance"].isna().all()
    page = run.page_text()
    assert f"take {run.medium} – " in page
    assert "bits_per_byte 2.410 ± 0.020 against 2.400 ± 0.020 (within noise, lower is better)" in page
    assert "a negative difference is an improvement" in page
    assert "chance" not in page.split("The rule")[0]


def test_an_unknown_standard_error_is_not_judged(run):
    run.add_task("tinystories", run.scores(2.40, 2.30, 2.39, 2.41), BITS, stderr=None)
    table = run.summarize("tinystories").set_index(["model", "precision"])
    assert table["stderr"].isna().all()
    assert set(table["verdict"]) == {"not judged"}
    assert table.loc[(run.medium, "fp16"), "recommended"]  # the small one is worse, if by a hair
    page = run.page_text()
    assert "bits_per_byte 2.390 against 2.400 (not judged, lower is better)" in page
    assert "Drops that would pass as noise" not in page


@pytest.mark.parametrize("metric", [ACCURACY, BITS])
def test_verdict_counts_two_combined_standard_errors(metric):
    rng = np.random.default_rng(1)
    for value, reference, a, b in rng.uniform(0, 1, (500, 4)):
        apart = (value - reference) ** 2 > 4 * (a**2 / 100 + b**2 / 100)
        better = (value > reference) == metric.higher_is_better
        expected = "within noise" if not apart else "better" if better else "worse"
        assert metric.verdict(value, a / 10, reference, b / 10) == expected
    assert metric.verdict(0.5, math.nan, 0.1, 0.01) == "not judged"
    assert metric.verdict(0.5, 0.0, 0.5, 0.0) == "within noise"


def test_recommendation_rule():
    def pick(metric, *rows):
        columns = ["model", "size_bytes", "value_difference", "verdict"]
        return recommended(pd.DataFrame(rows, columns=columns), metric)

    small, large = ("1", 10), ("0", 20)
    assert pick(ACCURACY, (*large, 0.2, "better"), (*small, -0.1, "within noise")) == "1"
    assert pick(ACCURACY, (*large, 0.0, "within noise"), (*small, -0.5, "worse")) == "0"
    assert pick(ACCURACY, (*large, -0.3, "worse"), (*small, -0.5, "worse")) == "0"
    assert pick(BITS, (*large, 0.3, "worse"), (*small, 0.2, "worse")) == "1"
    assert pick(BITS, (*large, -0.1, "not judged"), (*small, 0.1, "not judged")) == "0"
    assert pick(ACCURACY, ("00", 10, 0.1, "better"), ("11", 10, 0.2, "better")) == "11"


def test_printed_numbers():
    assert ACCURACY.text(0.8123, 0.0171) == "81.2 ± 1.7 %"
    assert BITS.text(2.3456, 0.0123) == "2.346 ± 0.012"
    assert BITS.text(2.3456) == "2.346"
    assert ACCURACY.difference_text(-0.0123) == "−1.2 points"
    assert BITS.difference_text(0.0123) == "+0.012"
    assert ACCURACY.difference_text(math.nan) == "–"
    assert [count_text(n) for n in (6_738_415_616, 1_234_567, 313_280, 12)] == ["6.74 B", "1.23 M", "313 k", "12"]
    assert [smoothing_window(n) for n in (0, 10, 40, 1221)] == [1, 1, 3, 61]
