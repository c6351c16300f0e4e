"""Summary table, figures and the one-page report, on a small synthetic run whose numbers can be computed by hand."""

import hashlib
import json
import math
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from analysis_cases import (
    ACCURACY,
    BITS,
    FULL,
    LAYERS,
    MEDIUM,
    SMALL,
    Run,
    int8_bytes,
    parameters,
    scores,
)

from llama_nas.analysis import figures
from llama_nas.analysis.cards import write_cards
from llama_nas.analysis.figures import (
    FIGURES,
    progress_figure,
    smoothing_window,
    training_figure,
)
from llama_nas.analysis.judgement import recommended
from llama_nas.analysis.report import inline_svg, write_report
from llama_nas.analysis.sections import count_text
from llama_nas.analysis.summary import SUMMARY_COLUMNS, summarize_task
from llama_nas.cli import main
from llama_nas.errors import UserError
from llama_nas.model_card import Provenance, model_card, quantized_card
from llama_nas.space import format_bytes


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def text(page: str) -> str:
    """The page's words without markup and figures, white space folded."""
    page = re.sub(r"<(svg|style|head)\b.*?</\1>", " ", page, flags=re.DOTALL)
    page = re.sub(r"<[^>]+>", "", re.sub(r"<(td|th|br)\b", r" <\1", page))
    return re.sub(r"\s+", " ", page).replace("\xad", "").strip()


def test_summary_rows_are_what_arithmetic_says(run):
    run.add_task("arc_easy", scores(0.60, 0.70, 0.68, 0.40))
    table = run.summarize("arc_easy")
    assert tuple(table.columns) == SUMMARY_COLUMNS
    order = [(model, precision) for model in ("pretrained", FULL, MEDIUM, SMALL) for precision in ("fp16", "int8")]
    assert list(zip(table["model"], table["precision"], strict=True)) == order
    assert list(table["role"]) == ["pretrained"] * 2 + ["full"] * 2 + ["member"] * 4

    rows = table.set_index(["model", "precision"])
    for model, network in (("pretrained", FULL), (FULL, FULL), (MEDIUM, MEDIUM), (SMALL, SMALL)):
        assert set(rows.loc[model, "parameters"]) == {parameters(network)}
        assert set(rows.loc[model, "layers"]) == {LAYERS - network.count("x")}
        assert rows.loc[(model, "fp16"), "size_bytes"] == 2 * parameters(network)
        assert rows.loc[(model, "int8"), "size_bytes"] == int8_bytes(network)
    small = rows.loc[(SMALL, "int8")]
    assert small["size_ratio"] == pytest.approx(2 * parameters(FULL) / int8_bytes(SMALL))
    assert small["value_difference"] == pytest.approx(0.39 - 0.60)
    assert small["finetuning_difference"] == pytest.approx(0.70 - 0.60)
    assert small["search_difference"] == pytest.approx(0.40 - 0.70)
    assert small["precision_difference"] == pytest.approx(-0.01)
    assert rows.loc[("pretrained", "int8"), "value_difference"] == pytest.approx(-0.01)
    parts = table[["finetuning_difference", "search_difference", "precision_difference"]].sum(axis=1)
    np.testing.assert_allclose(parts, table["value_difference"], atol=1e-12)

    # two combined standard errors are 2 * sqrt(2) * 0.02 = 0.0566
    assert list(rows.xs("fp16", level=1)["verdict"]) == ["within noise", "better", "better", "worse"]
    assert list(table.loc[table["recommended"], "model"].unique()) == [MEDIUM]
    assert list(rows.loc[MEDIUM, "tokens_per_second"]) == [1250.0, 625.0]
    assert list(rows.loc[MEDIUM, "decode_saturated_tokens_per_second"]) == [500.0, 250.0]
    assert rows.loc[(FULL, "fp16"), "decode_limit_tokens_per_second"] == 400.0
    assert rows.loc[SMALL, "decode_tokens_per_second"].isna().all()
    assert rows.loc[(SMALL, "fp16"), "versions"] == "lm_eval 0.4.13, torch 2.13.0"


def test_a_minimised_metric_is_judged_the_other_way_round(run):
    run.add_task("tinystories", scores(2.40, 2.30, 2.41, 2.90, int8_loss=-0.01), BITS)
    table = run.summarize("tinystories").set_index(["model", "precision"])
    assert list(table.xs("fp16", level=1)["verdict"]) == ["within noise", "better", "within noise", "worse"]
    assert table.loc[(FULL, "fp16"), "value_difference"] == pytest.approx(-0.10)
    assert table["chance"].isna().all()
    page = text(run.report())
    assert f"take {MEDIUM} – " in page
    assert "bits_per_byte 2.410 ± 0.020 against 2.400 ± 0.020 (within noise, lower is better)" in page
    assert "a negative difference is an improvement" in page
    assert "chance" not in page.split("The rule")[0]


def test_an_unknown_standard_error_is_not_judged(run):
    run.add_task("tinystories", scores(2.40, 2.30, 2.39, 2.41), BITS, stderr=None)
    table = run.summarize("tinystories").set_index(["model", "precision"])
    assert table["stderr"].isna().all()
    assert set(table["verdict"]) == {"not judged"}
    assert table.loc[(MEDIUM, "fp16"), "recommended"]  # the small one is worse, if by a hair
    page = text(run.report())
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


def test_report_opens_with_the_answer(run):
    run.add_task("arc_easy", scores(0.60, 0.70, 0.58, 0.40))
    run.add_task("winogrande", scores(0.80, 0.70, 0.68, 0.40), chance=0.5)
    page = text(run.report())
    ratio = f"{parameters(FULL) / parameters(MEDIUM):.2f}"
    int8_ratio = f"{2 * parameters(FULL) / int8_bytes(MEDIUM):.2f}"
    size = f"{2 * parameters(MEDIUM) / 1e6:.3g} MB ({2 * parameters(MEDIUM) / 2**20:.3g} MiB)"
    base_size = f"{2 * parameters(FULL) / 1e6:.3g} MB ({2 * parameters(FULL) / 2**20:.3g} MiB)"
    assert page.startswith(
        f"Which network to take arc_easy: take {MEDIUM} – {ratio}× smaller than the base: {size} against {base_size} "
        "in FP16; prefill 1.25×, decode 1.25× as fast; acc 58.0 ± 2.0 % against 60.0 ± 2.0 % (within noise). "
        f"INT8: {int8_ratio}× smaller"
    )
    assert (
        f"57.0 ± 2.0 % (within noise). Checkpoint: results/subnets/{MEDIUM}, its model card: results/cards/{MEDIUM}.md "
        f"INT8: results/quantized/{MEDIUM}/int8, its model card: results/cards/{MEDIUM}-int8.md" in page
    )
    assert (
        f"winogrande: every exported network is significantly worse than the base; the best of them is {FULL}, " in page
    )
    assert "the same size as the base" in page
    assert "smallest exported network whose FP16 score is not significantly worse" in page
    assert "arc_easy up to 5.7 points;" in page  # 2 * sqrt(2) * 2.0
    # the gain split of the taken network: fine-tuning +10, search -12, INT8 -1
    assert f"{MEDIUM} +10.0 points better −12.0 points worse −1.0 points within noise" in page
    # rounds in order; the first round had nothing to predict
    assert "1 50 ridge 0.71 – – 2 100 ridge 0.72 0.61 48" in page
    assert "2,000 requests: the largest difference of a log-likelihood is 3.1e-06 per token, 0 of 500 items" in page
    assert "noise of chance" not in page
    # the speed table: tokens/s, against the base, of the limit; for prefill, decode, saturated decode
    assert f"{MEDIUM} FP16 1,250 1.25 31 % 125 1.25 31 % 500 1.25 31 %" in page
    assert f"{SMALL} FP16 – – – – – – – – –" in page
    assert "cpu, 2 threads: prefill 8 x 128 tokens, decode 1 x 16 tokens after 128, decode 16 x 16 tokens" in page


def test_report_compares_as_the_papers_tables_do(run):
    run.add_task("arc_easy", scores(0.60, 0.70, 0.72, 0.58))
    page = text(run.report()).split("Fronts in numbers")[1].split("As in the paper")[0]
    half, eighth = "{:.3g} MB ({:.3g} MiB)", "INT8"
    for label, model, value in (
        ("pre-trained base FP16", FULL, "60.0"),
        ("full-size super-network FP16", FULL, "70.0"),
        ("best exported FP16", MEDIUM, "72.0"),
        ("recommended FP16", SMALL, "58.0"),
    ):
        size = half.format(2 * parameters(model) / 1e6, 2 * parameters(model) / 2**20)
        assert f"{label} {size} {value} ± 2.0 %" in page
    size = half.format(int8_bytes(SMALL) / 1e6, int8_bytes(SMALL) / 2**20)
    assert f"recommended {eighth} {size} 57.0 ± 2.0 % within noise" in page


def test_report_says_what_the_run_was_made_with_and_cost(run):
    run.add_task("arc_easy", scores(0.60, 0.70, 0.58, 0.40))
    page = text(run.report()).split("Provenance and cost")[1]
    digest = hashlib.sha256(b"supernet").hexdigest()
    assert f"super-network, sha256 of model.safetensors{digest}" in page and "seed of the run7" in page
    assert "finetune 1 90 s 2.8 min 2.00 GiB" in page
    assert "evaluate 2 3.3 h 0 s 0.50 GiB" in page  # processor time not measured
    assert "all stages 3 3.4 h 2.8 min 2.00 GiB" in page
    (run.results / "timings/jobs/finetune.tsv").unlink()
    for path in run.results.glob("timings/jobs/evaluate/*"):
        path.unlink()
    assert "Summed over the jobs" not in text(run.report())


def test_nf4_is_one_more_column(run):
    run.add_task("arc_easy", scores(0.60, 0.70, 0.58, 0.40) | {(m, "nf4"): 0.5 for m in (FULL, MEDIUM)})
    page = text(run.report())
    assert f"NF4: results/quantized/{MEDIUM}/nf4" in page and "NF4 − FP16" in page
    assert "50.0 ± 2.0 % worse" in page


def test_report_says_where_nothing_can_be_learnt(run):
    run.add_task("arc_challenge", scores(0.27, 0.26, 0.25, 0.24), limit=100, subtasks=["arc_a", "arc_b"])
    agreement = run.results / "agreement/arc_challenge.json"
    agreement.write_text(
        json.dumps(json.loads(agreement.read_text()) | {"agrees": False, "flipped_items": [{"item": 3}] * 7})
    )
    page = text(run.report())
    assert "The base itself is within noise of chance (25.0 %)" in page
    assert "No: the search optimised another number" in page and "7 of 500 items" in page
    assert "arc_challenge: arc_a arc_b" in page and "500 (the first 100 of each subtask)" in page
    assert "2,000, 17 of them cut" in page and "INT8 outlier threshold6.0" in page


def test_report_escapes_and_needs_no_network(run):
    run.add_task("arc_easy", scores(0.60, 0.70, 0.58, 0.40), versions={"lm_eval": "<script>alert(1)</script>"})
    run.add_task("winogrande", scores(0.60, 0.70, 0.58, 0.40))
    page = run.report()
    assert "<script" not in page and "lm_eval &lt;script&gt;" in page
    addresses = set(re.findall(r"https?://[^\s\"'<>]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names of SVG, never fetched
    assert not re.search(r"<(script|link|iframe|img|object|embed)\b|@import|\bsrc=", page)
    assert all(target.startswith("#") for target in re.findall(r'href="([^"]*)"', page))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]*)', page)) <= set(ids)


def test_figure_is_clean_svg_that_shows_the_data(run):
    run.add_task("arc_easy", scores(0.60, 0.70, 0.58, 0.40))
    run.summarize("arc_easy")
    before = {path: path.read_text(encoding="utf-8") for path in run.figures("arc_easy")}
    for svg in before.values():
        assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
        assert "<metadata" not in svg and "<text" not in svg
    run.add_task("arc_easy", scores(0.60, 0.70, 0.50, 0.40))
    run.summarize("arc_easy")
    changed = [path.stem.split("_")[-1] for path, svg in before.items() if path.read_text(encoding="utf-8") != svg]
    assert changed == ["front", "quantized", "speed"]  # the others are drawn from what the search evaluated


def test_a_front_of_latency_has_a_second_panel(run, monkeypatch):
    """Over size, the line joins the members that are on the front for their size; over seconds, all are shown."""
    front = pd.DataFrame({"size_bytes": [10, 20, 30], "items": 9, "acc": [0.4, 0.6, 0.5], "latency": [1.0, 3.0, 2.0]})
    run.add_task("arc_easy", scores(0.60, 0.70, 0.58, 0.40))
    run.summarize("arc_easy")
    summary = pd.read_csv(run.results / "summary/arc_easy.csv")
    monkeypatch.setattr(figures, "_svg", lambda figure: figure)
    evaluations = front.assign(subnet_id=["a", "b", "c"], round=1)
    assert len(figures.front_figure(summary, evaluations, front.drop(columns="latency")).axes) == 1
    over_size, over_seconds = figures.front_figure(summary, evaluations, front).axes
    assert over_size.lines[0].get_ydata().tolist() == [40.0, 60.0]
    assert over_seconds.lines[0].get_xydata().tolist() == [[1.0, 40.0], [2.0, 50.0], [3.0, 60.0]]
    assert len(over_seconds.collections[0].get_offsets()) == 3


def drawn(figure, evaluations: pd.DataFrame, monkeypatch):
    """The axes of a task's figure, before they become SVG."""
    summary = pd.DataFrame([{"metric": "acc", "higher_is_better": True, "task": "t", "stderr": 0.01, "chance": 0.25}])
    monkeypatch.setattr(figures, "_svg", lambda figure: figure)
    return figure(summary, evaluations, evaluations).axes[0]


def test_progress_is_the_hypervolume_of_what_is_known(monkeypatch):
    """Size and error scaled to [0, 1], reference (1.1, 1.1): areas by hand."""
    evaluations = pd.DataFrame(
        {"round": [1, 1, 2], "subnet_id": ["00", "11", "01"], "layers": 2, "size_bytes": [20, 10, 15], "items": 9}
        | {"acc": [0.8, 0.4, 0.8]}
    )
    axes = drawn(progress_figure, evaluations, monkeypatch)
    areas = [0.1 * 1.1, 0.1 * 1.1 + 1.0 * 0.1, 0.6 * 1.1 + 0.5 * 0.1]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), 100 * np.array(areas) / areas[-1])
    assert axes.lines[1].get_xdata()[0] == 2.5  # where round 2 begins


def test_fast_and_good_networks_are_joined(monkeypatch):
    """The front of tokens/s and score: the slow one that is no better is left out, as is the base."""
    summary = pd.DataFrame(
        {"model": ["pretrained", "0", "1", "2"], "role": ["pretrained", *["member"] * 3], "precision": "fp16"}
        | {"value": [0.9, 0.8, 0.7, 0.7], "tokens_per_second": [99.0, 10.0, 20.0, 15.0]}
        | {"stderr": 0.01, "metric": "acc", "higher_is_better": True, "chance": 0.25, "task": "t"}
    )
    for phase in ("", "decode_", "decode_saturated_"):
        for suffix in ("", "_q1", "_q3"):
            summary[f"{phase}tokens_per_second{suffix}"] = summary["tokens_per_second"]
    monkeypatch.setattr(figures, "_svg", lambda figure: figure)
    evaluations = pd.DataFrame({"size_bytes": [10]})
    for axes in figures.speed_figure(summary, evaluations, evaluations).axes:
        joined = next(line for line in axes.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 2)
        assert joined.get_xdata().tolist() == [10, 20] and joined.get_ydata().tolist() == [80, 70]


def test_chance_is_drawn_where_the_axis_reaches_it(run):
    for task, chance in (("near", 0.5), ("far", 0.01)):
        run.add_task(task, scores(0.60, 0.70, 0.58, 0.40), chance=chance)
        run.summarize(task)
    near, far = ((run.results / f"figures/{task}_quantized.svg").read_text() for task in ("near", "far"))
    dotted = "stroke-dasharray: 1,1.65"
    assert near.count(dotted) == 2 and far.count(dotted) == 0  # the line and its place in the legend


def test_training_figure_without_sub_network_steps():
    training = pd.DataFrame({"step": [1, 2, 3], "kind": "full", "loss": [3.0, 2.0, 1.0]})
    assert ElementTree.fromstring(training_figure(training)).tag.endswith("svg")


def test_inline_svg_keeps_references_in_one_piece():
    svg = '<?xml version="1.0"?>\n<svg><path id="a"/><use xlink:href="#a" clip-path="url(#b)"/><g id="b"/></svg>'
    assert inline_svg(svg, "t", 'a "b"') == (
        '<svg role="img" aria-label="a &#34;b&#34;"><path id="t-a"/>'
        '<use xlink:href="#t-a" clip-path="url(#t-b)"/><g id="t-b"/></svg>'
    )


def test_same_bytes_from_another_process_without_torch(run, tmp_path):
    run.add_task("arc_easy", scores(0.60, 0.70, 0.58, 0.40))
    run.report()
    inputs, page_inputs = run.summarize_inputs("arc_easy"), run.report_inputs()
    again = tmp_path / "again"
    svgs = [again / path.name for path in run.figures("arc_easy")]
    commands = [
        ["summarize", *_options(inputs), "--output", again / "s.csv", "--figures", *svgs],
        ["report", *_options(page_inputs), "--output", again / "summary.html"],
    ]
    program = (
        "import sys, json; from llama_nas.cli import main\n"
        "codes = [main(command) for command in json.loads(sys.argv[1])]\n"
        "assert codes == [0, 0] and not {'torch', 'seaborn'} & set(sys.modules), codes"
    )
    (tmp_path / "matplotlibrc").write_text("axes.facecolor: red\nfont.size: 30\n")  # the user's own taste has no say
    environment = os.environ | {"PYTHONHASHSEED": "7", "MATPLOTLIBRC": str(tmp_path), "LC_ALL": "C"}
    text_commands = json.dumps([[str(word) for word in command] for command in commands])
    subprocess.run([sys.executable, "-c", program, text_commands], check=True, env=environment)
    for name, original in (
        ("s.csv", "summary/arc_easy.csv"),
        *((path.name, f"figures/{path.name}") for path in svgs),
        ("summary.html", "summary.html"),
    ):
        assert (again / name).read_bytes() == (run.results / original).read_bytes()


def _options(values: dict) -> list:
    words: list = []
    for key, value in values.items():
        words += [f"--{key}", *(value if isinstance(value, list | tuple) else [value])]
    return words


def test_bad_inputs_are_named(run, capsys):
    run.add_task("arc_easy", scores(0.60, 0.70, 0.58, 0.40))
    inputs = run.summarize_inputs("arc_easy")
    outputs = {"output": run.results / "s.csv", "figures": [run.results / f"{name}.svg" for name in FIGURES]}
    without_full = [path for path in inputs["benchmarks"] if path.stem != FULL]
    with pytest.raises(UserError, match=f"arc_easy/fp16/{FULL}.json is needed"):
        summarize_task(**outputs, **inputs | {"benchmarks": without_full})
    with pytest.raises(UserError, match="8 pairs of model and precision"):
        summarize_task(**outputs, **inputs | {"benchmarks": [*inputs["benchmarks"], inputs["benchmarks"][0]]})

    other = run.results / f"benchmarks/arc_easy/fp16/{SMALL}.json"
    record = json.loads(other.read_text())
    other.write_text(json.dumps(record | {"items": 100}))
    with pytest.raises(UserError, match=r"100 items, but the compiled task has 500"):
        run.summarize("arc_easy")
    other.write_text(json.dumps(record | {"metrics": {"acc_norm": 0.5}}))
    with pytest.raises(UserError, match="metrics has no 'acc'; it has acc_norm"):
        run.summarize("arc_easy")
    other.write_text(json.dumps(record))
    assert not outputs["output"].exists() and not any(path.exists() for path in outputs["figures"])

    run.add_task("winogrande", scores(0.60, 0.70, 0.58, 0.40))
    run.report()
    pages = run.report_inputs()
    with pytest.raises(UserError, match="is about task 'arc_easy'"):
        write_report(run.results / "p.html", **pages | {"agreements": pages["agreements"][::-1]})
    with pytest.raises(UserError, match=r"winogrande_widths\.svg is missing"):
        write_report(run.results / "p.html", **pages | {"figures": pages["figures"][:-1]})
    with pytest.raises(UserError, match="got 2 and 1"):
        write_report(run.results / "p.html", **pages | {"agreements": pages["agreements"][:1]})
    words = [str(word) for word in _options(pages | {"supernet": run.results / "base"})]
    assert main(["report", *words, "--output", str(run.results / "p.html")]) == 2
    assert re.fullmatch(r"llama-nas report: error: .*training\.csv: not found\n", capsys.readouterr().err)


def test_cards_carry_the_scores_that_were_measured(run, tmp_path):
    run.add_task("arc_easy", scores(0.60, 0.70, 0.58, 0.40))
    run.add_task("tinystories", scores(2.40, 2.30, 2.41, 2.90), BITS, limit=40, stderr=None)
    for task in run.tasks:
        run.summarize(task)
    record = {"subnet_id": MEDIUM, "form": "hf", "layers": 6, "kept_layers": range(6), "widths": [176] * 6}
    record |= {"parameters": 9, "stored_parameters": 9, "size_bytes": {"fp16": 18}, "requires": {}}
    record |= {"supernet_sha256": {"model.safetensors": "abc"}, "llama_nas": "0.1.0"}
    folder = tmp_path / MEDIUM
    folder.mkdir()
    (folder / "README.md").write_text(model_card(record, Provenance()))
    int8 = tmp_path / "quantized" / MEDIUM / "int8"
    int8.mkdir(parents=True)
    (int8 / "README.md").write_text(quantized_card((folder / "README.md").read_text(), MEDIUM, "int8", "LLM.int8"))
    summaries = [run.results / f"summary/{t}.csv" for t in run.tasks]
    write_cards(tmp_path / "cards", models=[folder, int8], summaries=summaries)
    card, quantized = ((tmp_path / "cards" / name).read_text() for name in (f"{MEDIUM}.md", f"{MEDIUM}-int8.md"))
    assert card.startswith("---\nlibrary_name") and "None here" not in card and "LLM.int8)" not in card
    assert "are INT8 (LLM.int8); loading them needs bitsandbytes" in quantized
    assert quantized.partition("## Scores")[2] == card.partition("## Scores")[2]
    size = format_bytes(int8_bytes(MEDIUM))
    assert f"| arc_easy (0-shot acc, 500 items) | INT8 | {size} | 57.0 ± 2.0 % | 60.0 ± 2.0 % | −3.0 points, " in card
    assert (
        "tinystories (0-shot bits_per_byte, 500 items, first 40) | FP16" in card
        and "LLM.int8 outlier threshold 6" in card
    )
    for path in (folder, int8):  # each folder says which card is its own
        card_name = re.search(r"`results/cards/(\S+)`", (path / "README.md").read_text())[1]
        assert (tmp_path / "cards" / card_name).is_file()
    with pytest.raises(UserError, match="none is about 'cards'"):
        (tmp_path / "cards/README.md").write_text("## Scores\n")
        write_cards(tmp_path / "x", models=[tmp_path / "cards"], summaries=[run.results / "summary/arc_easy.csv"])
    with pytest.raises(UserError, match=r"README\.md: not found"):
        write_cards(tmp_path / "x", models=[tmp_path], summaries=[run.results / "summary/arc_easy.csv"])
    assert not (tmp_path / "x").exists()
