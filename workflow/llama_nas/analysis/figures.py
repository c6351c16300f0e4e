"""Figures as SVG text: same data, same bytes. Colours are Okabe and Ito's, and every series has its own marker.

Every figure of a task is drawn from the same three tables: its summary, what the search evaluated, and its front. Sizes
are in one unit of the family that the config names. A point says what it is where a pointer rests on it: it has an SVG
title, which needs no script.
"""

from __future__ import annotations

import html
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llama_nas.analysis.contenders import BASE, FULL, LABELS, MEMBER, OTHER, OURS, of_role
from llama_nas.core.costs import UNITS
from llama_nas.core.judgement import Metric
from llama_nas.core.pareto import hypervolume, non_dominated
from llama_nas.core.units import SizeFamily, SizeUnit

BLUE, ORANGE, RED, GREEN, PURPLE, GREY = "#0072B2", "#E69F00", "#D00000", "#009E73", "#CC79A7", "#9A9A9A"
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "llama-nas",  # ids in the file, random otherwise
    "svg.fonttype": "path",  # looks the same wherever it is opened
    "font.size": 11,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "legend.columnspacing": 1.2,
    "legend.handletextpad": 0.5,
}
REFERENCE_MARKS = {BASE: (RED, "*"), FULL: (GREEN, "s")}
OTHER_MARKS = ("v", "P", "X", "<", ">")
PRECISION_MARKS = (("fp16", BLUE, "o"), ("int8", ORANGE, "D"), ("nf4", PURPLE, "^"))
FILLED: dict[str, Any] = {"markersize": 7, "markeredgecolor": "white", "markeredgewidth": 0.8}
# Landmarks lie on top of points of the same size or score, which must show through.
HOLLOW: dict[str, Any] = {"markersize": 14, "markerfacecolor": "none", "markeredgewidth": 1.5, "zorder": 3}
TIPS = "tips:"  # begins the id of a series whose points get titles
NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def front_figure(summary: pd.DataFrame, evaluations: pd.DataFrame, front: pd.DataFrame, size_unit: SizeFamily) -> str:
    """Size against score: all evaluated networks, the front, the exported members and the base (paper, Figures 1-4).

    summary: a summary table of one task; evaluations and front: what the search measured on the super-network itself.
    The line joins the members of the front that are on it for their size. A front that was searched for other costs,
    too, is drawn over each of them in a panel of its own.
    """
    task = _Task(summary, evaluations, size_unit)
    costs = [name for name in UNITS if name in front.columns and name != "parameters"]
    with new_figure(5.6, 5.0 + 3.6 * len(costs), rows=1 + len(costs)) as (figure, (axes, *below)):
        evaluated = axes.scatter(
            evaluations["size_bytes"] / task.unit.bytes,
            task.scale * evaluations[task.metric.name],
            s=14,
            color=GREY,
            alpha=0.55,
            linewidths=0,
            label=f"evaluated ({evaluations['subnet_id'].nunique()}; {_items(evaluations)})",
        )
        with_tips(evaluated, task.evaluated_tips())
        on_front = task.front(front, "size_bytes")
        axes.plot(
            on_front["size_bytes"] / task.unit.bytes,
            task.scale * on_front[task.metric.name],
            color="#555555",
            linewidth=1,
            label=f"search's front ({len(on_front)}; {_items(front)})",
        )
        for panel, cost in zip(below, costs, strict=True):
            panel.scatter(front[cost], task.scale * front[task.metric.name], s=14, color="#555555")
            by_cost = task.front(front, cost)
            panel.plot(by_cost[cost], task.scale * by_cost[task.metric.name], color="#555555", linewidth=1)
            panel.set_xlabel(f"{cost} by the layers' costs ({UNITS[cost]}), all {len(front)} members of the front")
            task.score_axis(panel, title=False)
        half = summary[summary["precision"] == "fp16"]
        task.points(axes, of_role(half, MEMBER), "size_bytes", BLUE, "o", "exported, FP16")
        task.landmarks(axes, "size_bytes")
        task.size_axis(axes)
        task.score_axis(axes)
        task.chance_line(axes)
        figure.legend(loc="outside lower center", ncols=2)
        return svg(figure)


def quantized_figure(
    summary: pd.DataFrame, evaluations: pd.DataFrame, front: pd.DataFrame, size_unit: SizeFamily
) -> str:
    """The front before and after quantization, by stock lm-eval on the exported folders (paper, Figure 5)."""
    task = _Task(summary, evaluations, size_unit)
    exported = of_role(summary, *OURS)
    with new_figure(5.6, 4.6) as (figure, (axes,)):
        for precision, color, marker in PRECISION_MARKS:
            rows = exported[exported["precision"] == precision]
            task.points(axes, rows, "size_bytes", color, marker, f"exported, {precision.upper()}")
            task.front_line(axes, rows, "size_bytes", color)
        task.reference(axes, BASE, "size_bytes")
        task.others(axes, "size_bytes")
        task.size_axis(axes)
        task.score_axis(axes)
        task.chance_line(axes)
        figure.legend(loc="outside lower center", ncols=2)
        return svg(figure)


def speed_figure(summary: pd.DataFrame, evaluations: pd.DataFrame, front: pd.DataFrame, size_unit: SizeFamily) -> str:
    """Measured tokens/s against score and the front of both, a panel per phase (paper, Figure 2, right)."""
    task = _Task(summary, evaluations, size_unit)
    phases = [
        ("tokens_per_second", "prefill"),
        ("decode_tokens_per_second", "decode, batch 1"),
        ("decode_saturated_tokens_per_second", "decode, saturated"),
    ]
    with new_figure(5.6, 8.4, rows=3) as (figure, panels):
        for axes, (column, label) in zip(panels, phases, strict=True):
            measured = summary[summary[column].notna()]
            for precision, color, marker in PRECISION_MARKS:
                rows = of_role(measured, *OURS)
                rows = rows[rows["precision"] == precision]
                task.points(axes, rows, column, color, marker, f"exported, {precision.upper()}")
                task.front_line(axes, rows, column, color)
            task.reference(axes, BASE, column)
            task.others(axes, column)
            axes.set_xlabel(f"{label}: tokens/s")
            axes.set_xlim(left=0)
            task.score_axis(axes, title=False)
        errors = "± 1 standard error, " if summary["stderr"].notna().any() else ""
        panels[0].set_title(f"{summary['task'].iloc[0]} (bars: {errors}quartiles of the runs)", fontsize=11)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
        return svg(figure)


def progress_figure(
    summary: pd.DataFrame, evaluations: pd.DataFrame, front: pd.DataFrame, size_unit: SizeFamily
) -> str:
    """Hypervolume of the front of the first n evaluations, relative to the last, over n; rounds as lines."""
    task = _Task(summary, evaluations, size_unit)
    cost = [-task.metric.improvement(value, 0.0) for value in evaluations[task.metric.name]]
    objectives = np.column_stack([evaluations["size_bytes"].astype(float), cost])
    low, high = objectives.min(axis=0), objectives.max(axis=0)
    scaled = (objectives - low) / np.where(high > low, high - low, 1)
    reference = np.array([1.1, 1.1])
    volumes = np.array([hypervolume(scaled[:n], reference) for n in range(1, len(scaled) + 1)])
    with new_figure(5.6, 3.6) as (figure, (axes,)):
        axes.step(range(1, len(volumes) + 1), 100 * volumes / volumes[-1], where="post", color=BLUE, linewidth=1.6)
        for boundary in np.flatnonzero(np.diff(evaluations["round"])) + 1:
            axes.axvline(boundary + 0.5, color=GREY, linestyle=":", linewidth=1)
        axes.set_xlabel("networks evaluated (dotted: a new round)")
        axes.set_ylabel("hypervolume of the front\n(% of the last)")
        axes.set_title(str(summary["task"].iloc[0]), fontsize=12)
        return svg(figure)


FIGURES = {
    "front": front_figure,
    "quantized": quantized_figure,
    "speed": speed_figure,
    "progress": progress_figure,
}
PATTERN_FIGURES = ("depths", "blocks")  # by patterns.py, of the search's evaluations alone


def training_figure(training: pd.DataFrame) -> str:
    """Loss of the super-network's fine-tuning; full-network and sub-network steps apart, moving mean in front.

    training: columns step, kind (`full` or `subnet`), loss (nats per response token).
    """
    with new_figure(5.6, 3.6) as (figure, (axes,)):
        for kind, color, label in (("full", GREEN, "full-network steps"), ("subnet", PURPLE, "sub-network steps")):
            steps = training[training["kind"] == kind]
            if steps.empty:
                continue
            window = smoothing_window(len(steps))
            axes.plot(steps["step"], steps["loss"], color=color, alpha=0.25, linewidth=0.8)
            smooth = steps["loss"].rolling(window, center=True, min_periods=1).mean()
            axes.plot(steps["step"], smooth, color=color, linewidth=1.8, label=f"{label} (mean of {window})")
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss (nats per response token)")
        figure.legend(loc="outside lower center", ncols=2)
        return svg(figure)


def smoothing_window(steps: int) -> int:
    """Width of the moving mean: a twentieth of the curve, odd, so that it has a middle."""
    return steps // 20 | 1


class _Task:
    """What all figures of one task share: its metric, the unit of sizes, and how points and axes are drawn."""

    def __init__(self, summary: pd.DataFrame, evaluations: pd.DataFrame, size_unit: SizeFamily):
        self.summary = summary
        self.evaluations = evaluations
        self.metric = Metric(summary["metric"].iloc[0], bool(summary["higher_is_better"].iloc[0]))
        self.scale = 100 if self.metric.is_share else 1
        self.unit = SizeUnit.of(size_unit, int(evaluations["size_bytes"].max()))

    def points(
        self, axes: Axes, rows: pd.DataFrame, column: str, color: str, marker: str, label: str, **style: Any
    ) -> None:
        """Rows of the summary at `column` against the score, with its standard errors and the quartiles of a speed."""
        if rows.empty:
            return
        is_size = column == "size_bytes"
        marks, *_ = axes.errorbar(
            rows[column] / (self.unit.bytes if is_size else 1),
            self.scale * rows["value"],
            xerr=None if is_size else [rows[column] - rows[f"{column}_q1"], rows[f"{column}_q3"] - rows[column]],
            yerr=self.scale * rows["stderr"].fillna(0),
            fmt=marker,
            color=color,
            elinewidth=1.2,
            capsize=2.5,
            label=label,
            **(FILLED | style),
        )
        with_tips(marks, [self.tip(row, "" if is_size else column) for row in rows.to_dict("records")])

    def tip(self, row: dict[Any, Any], speed: str) -> str:
        """What a row of the summary is, in a line each. speed: the column of its tokens/s, or empty."""
        lines = [
            f"{row['label']}, {row['precision'].upper()}",
            self.unit.text(row["size_bytes"]),
            f"{self.metric.name} {self.metric.text(row['value'], row['stderr'])}",
        ]
        return "\n".join(lines + ([f"{row[speed]:,.0f} tokens/s"] if speed else []))

    def evaluated_tips(self) -> list[str]:
        """What each network is that the search evaluated."""
        return [
            f"{row['subnet_id']}\n{self.unit.text(row['size_bytes'])}\n"
            f"{self.metric.name} {self.metric.text(row[self.metric.name])} on {row['items']:,} items"
            for row in self.evaluations.to_dict("records")
        ]

    def reference(self, axes: Axes, role: str, column: str) -> None:
        """The contender of a role that the others are compared with, in FP16."""
        color, marker = REFERENCE_MARKS[role]
        rows = self._half(role, column)
        self.points(axes, rows, column, color, marker, f"{LABELS[role]}, FP16", **HOLLOW, markeredgecolor=color)

    def others(self, axes: Axes, column: str) -> None:
        """Checkpoints of other methods, each by its name, in FP16."""
        rows = self._half(OTHER, column)
        for name, marker in zip(rows["model"].unique(), cycle(OTHER_MARKS), strict=False):
            self.points(axes, rows[rows["model"] == name], column, "black", marker, f"{name}, FP16")

    def _half(self, role: str, column: str) -> pd.DataFrame:
        rows = of_role(self.summary, role)
        return rows[(rows["precision"] == "fp16") & rows[column].notna()]

    def landmarks(self, axes: Axes, column: str) -> None:
        """Full-size super-network, base, other methods and the recommended network, in FP16."""
        self.reference(axes, FULL, column)
        self.reference(axes, BASE, column)
        self.others(axes, column)
        half = self.summary[self.summary["precision"] == "fp16"]
        picked = half[half["recommended"]]
        axes.scatter(
            picked[column] / self.unit.bytes,
            self.scale * picked["value"],
            s=190,
            facecolors="none",
            edgecolors="black",
            linewidths=1.2,
            zorder=4,
            label="recommended",
        )

    def front_line(self, axes: Axes, rows: pd.DataFrame, column: str, color: str) -> None:
        """Join the points of one precision that no other dominates: small or fast, and good, as measured."""
        if rows.empty:
            return
        is_size = column == "size_bytes"
        cost = [-self.metric.improvement(value, 0.0) for value in rows["value"]]
        front = rows[non_dominated(np.column_stack([rows[column] if is_size else -rows[column], cost]))]
        front = front.sort_values(column)
        x = front[column] / (self.unit.bytes if is_size else 1)
        axes.plot(x, self.scale * front["value"], color=color, linewidth=1.3)

    def front(self, members: pd.DataFrame, column: str) -> pd.DataFrame:
        """The members of a front that no other beats in `column` and metric, ascending in `column`."""
        cost = [-self.metric.improvement(value, 0.0) for value in members[self.metric.name]]
        best = non_dominated(np.column_stack([members[column], cost]))
        return members[best].sort_values(column)

    def chance_line(self, axes: Axes) -> None:
        """Where guessing is; off the axis, which belongs to the networks, it is named in the legend only."""
        chance = float(self.summary["chance"].iloc[0])
        low, high = axes.get_ylim()
        if low <= self.scale * chance <= high:
            axes.axhline(self.scale * chance, color="black", linestyle=":", linewidth=1, label="chance")
        elif not math.isnan(chance):
            axes.plot([], [], " ", label=f"chance, off the axis: {self.metric.text(chance)}")

    def size_axis(self, axes: Axes) -> None:
        axes.set_xlabel(f"size of the weights ({self.unit.name})")
        axes.margins(x=0.06, y=0.08)

    def score_axis(self, axes: Axes, title: bool = True) -> None:
        axes.set_ylabel(f"{self.metric.name}{' (%)' if self.metric.is_share else ''}, {self.metric.direction}")
        if title:
            bars = " (bars: ± 1 standard error)" if self.summary["stderr"].notna().any() else ""
            axes.set_title(f"{self.summary['task'].iloc[0]}{bars}", fontsize=12)


def _items(table: pd.DataFrame) -> str:
    """What the scores of a table rest on."""
    return " or ".join(f"{items:,}" for items in sorted(table["items"].unique())) + " items each"


@contextmanager
def new_figure(
    width: float, height: float, rows: int = 1, share_x: bool = False
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of panels above each other, in our style and nothing of the user's own settings; sizes in inches."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, list(figure.subplots(rows, squeeze=False, sharex=share_x)[:, 0])


def with_tips(points: Artist, tips: Sequence[str]) -> None:
    """Let `svg` give each point of a series its own title. tips: of the points in order, all of them on the canvas."""
    points.set_gid(TIPS + json.dumps(tips))


def svg(figure: Figure) -> str:
    """The figure as text, without dates and names of programs; points have the titles of `with_tips`."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=NO_METADATA)
    return re.sub(rf"<g id=([\"']){TIPS}(.*?)\1>(.*?)</g>", _titled, buffer.getvalue(), flags=re.DOTALL)


def _titled(series: re.Match[str]) -> str:
    """A series' group without its id, with a title in each of its marks."""
    titles = (f"<title>{html.escape(tip, quote=False)}</title>" for tip in json.loads(html.unescape(series[2])))
    return f"<g>{re.sub('<use ([^>]*)/>', lambda mark: f'<use {mark[1]}>{next(titles)}</use>', series[3])}</g>"
