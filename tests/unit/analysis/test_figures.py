"""Figures, on a small synthetic run and on tables whose areas can be computed by hand."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd

from llama_nas.analysis import figures
from llama_nas.analysis.figures import new_figure, progress_figure, training_figure, with_tips


def test_figure_is_clean_svg_that_shows_the_data(run):
    run.add_task("arc_easy", run.scores(0.60, 0.70, 0.58, 0.40))
    run.summarize("arc_easy")
    before = {path: path.read_text(encoding="utf-8") for path in run.figures("arc_easy")}
    for svg in before.values():
        assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
        assert "<metadata" not in svg and "<text" not in svg
    run.add_task("arc_easy", run.scores(0.60, 0.70, 0.50, 0.40))
    run.summarize("arc_easy")
    changed = [path.stem.split("_")[-1] for path, svg in before.items() if path.read_text(encoding="utf-8") != svg]
    assert changed == ["front", "quantized", "speed"]  # the others are drawn from what the search evaluated


def test_every_point_says_what_it_is(run):
    """The networks that the search evaluated, then the exported ones; a figure of progress has no such points."""
    run.add_task("arc_easy", run.scores(0.60, 0.70, 0.58, 0.40))
    run.summarize("arc_easy")
    front, quantized, speed, progress = (path.read_text(encoding="utf-8") for path in run.figures("arc_easy"))
    titles = re.findall(r"<title>(.*?)</title>", front, re.S)
    evaluations = pd.read_csv(run.results / "search/arc_easy/round_2/evaluations.csv", dtype={"subnet_id": str})
    first = evaluations.iloc[0]
    assert titles[
        0
    ] == f"{first['subnet_id']}\n{first['size_bytes'] / 1e6:#.3g} MB\nacc {first['acc']:.1%} on 300 items".replace(
        "%", " %"
    )
    size = f"{2 * run.parameters(run.medium) / 1e6:#.3g} MB"
    assert len(titles) == len(evaluations) + len(run.members) + 2
    assert f"{run.medium}, FP16\n{size}\nacc 58.0 ± 2.0 %" in titles
    assert f"pre-trained base, FP16\n{2 * run.parameters(run.full) / 1e6:#.3g} MB\nacc 60.0 ± 2.0 %" in titles
    assert f"<title>{run.medium}, INT8\n" in quantized
    assert f"<title>{run.medium}, FP16\n{size}\nacc 58.0 ± 2.0 %\n125 tokens/s</title>" in speed
    assert "<title>" not in progress and not any("tips:" in text for text in (front, quantized, speed, progress))


def test_titles_are_escaped_and_in_the_order_of_the_points():
    with new_figure(3, 2) as (figure, (axes,)):
        with_tips(axes.scatter([1, 2, 3], [3, 1, 2]), ["a & <b>", "b's", '"c\'"'])
        text = figures.svg(figure)
    root = ElementTree.fromstring(text)
    marks = [mark for mark in root.iter("{http://www.w3.org/2000/svg}use") if len(mark)]
    assert [mark[0].text for mark in marks] == ["a & <b>", "b's", '"c\'"']
    assert [float(mark.get("x")) for mark in marks] == sorted(float(mark.get("x")) for mark in marks)


def test_sizes_are_in_the_unit_of_the_config(monkeypatch):
    evaluations = pd.DataFrame({"subnet_id": ["0"], "size_bytes": [3 * 2**31], "acc": [0.5], "items": 9, "round": 1})
    summary = pd.DataFrame(
        {"model": ["0"], "role": "member", "label": "0", "precision": "fp16", "value": 0.5, "stderr": 0.01}
        | {"size_bytes": 3 * 2**30, "recommended": True, "metric": "acc", "higher_is_better": True, "chance": 0.1}
        | {"task": "t"}
    )
    monkeypatch.setattr(figures, "svg", lambda figure: figure)
    axes = figures.front_figure(summary, evaluations, evaluations, "GiB").axes
    assert len(axes) == 1 and axes[0].get_xlabel() == "size of the weights (GiB)"
    assert axes[0].collections[0].get_offsets()[0][0] == 6.0
    decimal = figures.front_figure(summary, evaluations, evaluations, "GB").axes[0]
    assert decimal.collections[0].get_offsets()[0][0] == 3 * 2**31 / 1e9


def test_a_front_of_latency_has_a_second_panel(run, monkeypatch):
    """Over size, the line joins the members that are on the front for their size; over seconds, all are shown."""
    front = pd.DataFrame({"size_bytes": [10, 20, 30], "items": 9, "acc": [0.4, 0.6, 0.5], "latency": [1.0, 3.0, 2.0]})
    run.add_task("arc_easy", run.scores(0.60, 0.70, 0.58, 0.40))
    run.summarize("arc_easy")
    summary = pd.read_csv(run.results / "summary/arc_easy.csv")
    monkeypatch.setattr(figures, "svg", lambda figure: figure)
    evaluations = front.assign(subnet_id=["a", "b", "c"], round=1)
    assert len(figures.front_figure(summary, evaluations, front.drop(columns="latency"), "GB").axes) == 1
    over_size, over_seconds = figures.front_figure(summary, evaluations, front, "GB").axes
    assert over_size.lines[0].get_ydata().tolist() == [40.0, 60.0]
    assert over_seconds.lines[0].get_xydata().tolist() == [[1.0, 40.0], [2.0, 50.0], [3.0, 60.0]]
    assert len(over_seconds.collections[0].get_offsets()) == 3


def drawn(figure, evaluations: pd.DataFrame, monkeypatch):
    """The axes of a task's figure, before they become SVG."""
    summary = pd.DataFrame([{"metric": "acc", "higher_is_better": True, "task": "t", "stderr": 0.01, "chance": 0.25}])
    monkeypatch.setattr(figures, "svg", lambda figure: figure)
    return figure(summary, evaluations, evaluations, "GB").axes[0]


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
        | {"label": "a network", "size_bytes": 10}
        | {"value": [0.9, 0.8, 0.7, 0.7], "tokens_per_second": [99.0, 10.0, 20.0, 15.0]}
        | {"stderr": 0.01, "metric": "acc", "higher_is_better": True, "chance": 0.25, "task": "t"}
    )
    for phase in ("", "decode_", "decode_saturated_"):
        for suffix in ("", "_q1", "_q3"):
            summary[f"{phase}tokens_per_second{suffix}"] = summary["tokens_per_second"]
    monkeypatch.setattr(figures, "svg", lambda figure: figure)
    evaluations = pd.DataFrame({"size_bytes": [10]})
    for axes in figures.speed_figure(summary, evaluations, evaluations, "GB").axes:
        joined = next(line for line in axes.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 2)
        assert joined.get_xdata().tolist() == [10, 20] and joined.get_ydata().tolist() == [80, 70]


def test_chance_is_drawn_where_the_axis_reaches_it(run):
    for task, chance in (("near", 0.5), ("far", 0.01)):
        run.add_task(task, run.scores(0.60, 0.70, 0.58, 0.40), chance=chance)
        run.summarize(task)
    near, far = ((run.results / f"figures/{task}_quantized.svg").read_text() for task in ("near", "far"))
    dotted = "stroke-dasharray: 1,1.65"
    assert near.count(dotted) == 2 and far.count(dotted) == 0  # the line and its place in the legend


def test_training_figure_without_sub_network_steps():
    training = pd.DataFrame({"step": [1, 2, 3], "kind": "full", "loss": [3.0, 2.0, 1.0]})
    assert ElementTree.fromstring(training_figure(training)).tag.endswith("svg")
