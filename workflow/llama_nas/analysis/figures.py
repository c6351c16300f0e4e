"""Figures as SVG text: same data, same bytes. Colours are Okabe and Ito's, and every series has its own marker."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llama_nas.analysis.judgement import Metric
from llama_nas.pareto import non_dominated
from llama_nas.space import GB, GIB

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
NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def front_figure(summary: pd.DataFrame, evaluations: pd.DataFrame, front: pd.DataFrame) -> str:
    """Size against score: all evaluated networks, the front before and after INT8, and the base (paper, Figures 1-5).

    summary: a summary table of one task; evaluations and front: what the search measured on the super-network itself.
    """
    metric = Metric(summary["metric"].iloc[0], bool(summary["higher_is_better"].iloc[0]))
    scale = 100 if metric.is_share else 1
    unit, unit_bytes, binary_bytes = _size_unit(int(evaluations["size_bytes"].max()))
    with _figure(5.6, 5.0) as (figure, axes):
        axes.scatter(
            evaluations["size_bytes"] / unit_bytes,
            scale * evaluations[metric.name],
            s=14,
            color=GREY,
            alpha=0.55,
            linewidths=0,
            label=f"evaluated in the search ({evaluations['subnet_id'].nunique()}, {_items(evaluations)})",
        )
        on_front = front.sort_values("size_bytes")
        axes.plot(
            on_front["size_bytes"] / unit_bytes,
            scale * on_front[metric.name],
            color="#555555",
            linewidth=1,
            label=f"front of the search ({len(front)}, {_items(front)})",
        )
        exported = summary[summary["role"] != "pretrained"]
        for precision, color, marker, label in (
            ("fp16", BLUE, "o", "exported, FP16"),
            ("int8", ORANGE, "D", "exported, INT8"),
        ):
            rows = exported[exported["precision"] == precision]
            _points(axes, rows, unit_bytes, scale, color, marker, label)
            _front_line(axes, rows, unit_bytes, scale, color, metric)
        tuned = exported[(exported["role"] == "full") & (exported["precision"] == "fp16")]
        _points(axes, tuned, unit_bytes, scale, GREEN, "s", "full-size super-network, FP16")
        base = summary[(summary["role"] == "pretrained") & (summary["precision"] == "fp16")]
        _points(axes, base, unit_bytes, scale, RED, "*", "pre-trained base, FP16", size=14)
        picked = summary[summary["recommended"] & (summary["precision"] == "fp16")]
        axes.scatter(
            picked["size_bytes"] / unit_bytes,
            scale * picked["value"],
            s=190,
            facecolors="none",
            edgecolors="black",
            linewidths=1.2,
            zorder=4,
            label="recommended",
        )
        chance = float(summary["chance"].iloc[0])
        if not math.isnan(chance):
            axes.axhline(scale * chance, color="black", linestyle=":", linewidth=1, label="chance")
        axes.set_xlabel(f"size of the weights ({unit}; top: {unit[0]}iB)")
        axes.set_ylabel(f"{metric.name}{' (%)' if metric.is_share else ''}, {metric.direction}")
        bars = " (bars: ± 1 standard error)" if summary["stderr"].notna().any() else ""
        axes.set_title(f"{summary['task'].iloc[0]}{bars}", fontsize=12)
        axes.margins(x=0.06, y=0.08)
        binary, back = (
            partial(np.multiply, factor) for factor in (unit_bytes / binary_bytes, binary_bytes / unit_bytes)
        )
        axes.secondary_xaxis("top", functions=(binary, back))
        figure.legend(loc="outside lower center", ncols=2)
        return _svg(figure)


def training_figure(training: pd.DataFrame) -> str:
    """Loss of the super-network's fine-tuning; full-network and sub-network steps apart, moving mean in front.

    training: columns step, kind (`full` or `subnet`), loss (nats per response token).
    """
    with _figure(5.6, 3.6) as (figure, axes):
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
        return _svg(figure)


def smoothing_window(steps: int) -> int:
    """Width of the moving mean: a twentieth of the curve, odd, so that it has a middle."""
    return steps // 20 | 1


def _points(
    axes: Axes, rows: pd.DataFrame, unit_bytes: int, scale: int, color: str, marker: str, label: str, size: int = 7
) -> None:
    if rows.empty:
        return
    axes.errorbar(
        rows["size_bytes"] / unit_bytes,
        scale * rows["value"],
        yerr=scale * rows["stderr"].fillna(0),
        fmt=marker,
        color=color,
        markersize=size,
        markeredgecolor="white",
        markeredgewidth=0.8,
        elinewidth=1.2,
        capsize=2.5,
        label=label,
    )


def _front_line(axes: Axes, rows: pd.DataFrame, unit_bytes: int, scale: int, color: str, metric: Metric) -> None:
    """Join the points of one precision that none of the others dominates: a front of measured values."""
    cost = [-metric.improvement(value, 0.0) for value in rows["value"]]
    front = rows[non_dominated(np.column_stack([rows["size_bytes"], cost]))].sort_values("size_bytes")
    axes.plot(front["size_bytes"] / unit_bytes, scale * front["value"], color=color, linewidth=1.3)


def _items(table: pd.DataFrame) -> str:
    """What the scores of a table rest on."""
    return " or ".join(f"{items:,}" for items in sorted(table["items"].unique())) + " items each"


def _size_unit(largest: int) -> tuple[str, int, int]:
    """Name, bytes, and bytes of the binary sibling; the switch is that of `space.format_bytes`."""
    return ("MB", 10**6, 2**20) if largest < GB // 10 else ("GB", GB, GIB)


@contextmanager
def _figure(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """A figure in our style and nothing of the user's own matplotlib settings; sizes in inches."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.add_subplot()


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=NO_METADATA)
    return buffer.getvalue()
