"""What good networks of a search have in common (paper, section 4.5, Figures 6 to 9), and whether it holds.

Layer counts by accuracy percentile, blocks by layer; and what became of the *heuristics* that search/heuristics.py
reads off the same evaluations: if the pattern is real, they are good. Networks count once, however often a search has
evaluated them. Layers are numbered from 1, as in the paper.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd

from llama_nas.analysis.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, new_figure, svg
from llama_nas.analysis.summary import read_keys
from llama_nas.core.artifacts import read_table, write_table, write_text
from llama_nas.core.errors import UserError
from llama_nas.core.judgement import Metric
from llama_nas.core.shape import Block
from llama_nas.core.space import SearchSpace

log = logging.getLogger(__name__)

PERCENTILES = (0, 25, 50, 75, 90)
TICKS = 20  # of the layers' axis, at most
TOP = 75  # the percentile whose networks are mapped in the figure
COLORS = (BLUE, ORANGE, GREEN, PURPLE, GREY, "#56B4E9", "#F0E442", "#000000")


def find_patterns(
    *,
    space: Path,
    task: Path,
    evaluations: Path,
    layers: Path,
    layers_figure: Path,
    maps: Path,
    maps_figure: Path,
) -> None:
    """Find what good networks of a search have in common: layer counts, blocks by layer (paper, 4.5).

    Each table says in the column `source` which evaluations it is of.

    Args:
        layers: out: CSV of layer counts by accuracy percentile (`layer_counts`)
        layers_figure: out: the same as SVG
        maps: out: CSV of blocks by layer (`block_maps`)
        maps_figure: out: the same as SVG
    """
    declared = SearchSpace.read(space)
    settings = read_keys(task / "task.json", ("task", "metric", "higher_is_better"))
    metric = Metric(settings["metric"], settings["higher_is_better"])
    table = read_table(evaluations, ["subnet_id", "layers", metric.name]).drop_duplicates("subnet_id")
    table = table.assign(gain=[metric.improvement(value, 0.0) for value in table[metric.name]])
    networks = [declared.parse(subnet_id).blocks for subnet_id in table["subnet_id"]]
    table["blocks"] = pd.Series(networks, index=table.index, dtype=object)

    by_layers, by_block = layer_counts(table, metric), block_maps(table, metric, declared.blocks)
    label = {"task": settings["task"], "source": str(evaluations)}
    write_table(layers, by_layers.assign(**label))
    write_table(maps, by_block.assign(**label))
    title = f"{settings['task']}: {len(table)} networks of {evaluations}"
    write_text(layers_figure, layers_drawing(by_layers, metric, title))
    write_text(maps_figure, maps_drawing(by_block, metric, title))


def layer_counts(table: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """Columns percentile, threshold, layers, count, networks, probability: how many layers good networks have.

    Of the `networks` whose metric is as good as the percentile's `threshold`, `count` have so many `layers`.
    """
    rows = []
    for percentile in PERCENTILES:
        good, threshold = _best(table, percentile, metric)
        for layers in sorted(table["layers"].unique()):
            count = int((good["layers"] == layers).sum())
            rows.append((percentile, threshold, layers, count, len(good), count / len(good)))
    return pd.DataFrame(rows, columns=["percentile", "threshold", "layers", "count", "networks", "probability"])


def block_maps(table: pd.DataFrame, metric: Metric, blocks: Sequence[Block]) -> pd.DataFrame:
    """Columns layers, percentile, threshold, layer, block, count, networks, probability.

    Among the `networks` of so many `layers` that are as good as the percentile's `threshold` (a percentile of networks
    of this layer count), `count` keep layer number `layer` as this `block`.
    """
    rows = []
    for layers, own in table.groupby("layers"):
        for percentile in PERCENTILES:
            good, threshold = _best(own, percentile, metric)
            for layer, chosen in enumerate(zip(*good["blocks"], strict=True), start=1):
                kept = sum(block is not None for block in chosen)
                for block in blocks if kept else ():
                    count = chosen.count(block)
                    rows.append((layers, percentile, threshold, layer, str(block), count, kept, count / kept))
    columns = ["layers", "percentile", "threshold", "layer", "block", "count", "networks", "probability"]
    return pd.DataFrame(rows, columns=columns)


def _best(table: pd.DataFrame, percentile: int, metric: Metric) -> tuple[pd.DataFrame, float]:
    """The rows at or above a percentile of goodness, and the metric there."""
    threshold = float(np.percentile(table["gain"], percentile, method="lower"))
    return table[table["gain"] >= threshold], threshold if metric.higher_is_better else -threshold


def judge_heuristics(
    output: Path, *, space: Path, task: Path, front: Path, candidates: Path, shards: Sequence[Path]
) -> None:
    """Compare the evaluated heuristics with the full network and with what the search found.

    Raises UserError if a candidate was not evaluated.

    Args:
        front: front.csv
        candidates: candidates.csv of `llama-nas find-heuristics`
        shards: their shard CSVs
        output: CSV: size, metric and `difference_to_full`, positive where the heuristic is better; `front_value` is the
            metric of the best network of the front that is no larger; `source` names the files
    """
    declared = SearchSpace.read(space)
    settings = read_keys(task / "task.json", ("metric", "higher_is_better"))
    metric = Metric(settings["metric"], settings["higher_is_better"])
    columns = ["candidate", "subnet_id", metric.name, "items"]
    evaluated = pd.concat([read_table(path, columns) for path in shards])
    table = read_table(candidates, ["candidate", "subnet_id", "origin"]).drop(columns="predicted")
    table = table.merge(evaluated, on=["candidate", "subnet_id"], how="left", validate="one_to_one")
    if table[metric.name].isna().any():
        missing = table.loc[table[metric.name].isna(), "subnet_id"].iloc[0]
        raise UserError(f"{', '.join(map(str, shards))}: no value of {metric.name} for {missing} of {candidates}")
    networks = [declared.parse(subnet_id) for subnet_id in table["subnet_id"]]
    table["layers"] = [network.layers for network in networks]
    table["parameters"] = [declared.shape.parameters(network) for network in networks]
    table["size_bytes"] = [declared.shape.size_bytes(network) for network in networks]
    table["value"], table["stderr"] = table[metric.name], table.get(f"{metric.name}_stderr", np.nan)
    full = float(table.loc[table["origin"] == "full", "value"].iloc[0])
    table["difference_to_full"] = [metric.improvement(value, full) for value in table["value"]]
    found = read_table(front, ["size_bytes", metric.name])
    table["front_value"] = [_best_within(found, size, metric) for size in table["size_bytes"]]
    table["metric"], table["source"] = metric.name, " ".join(map(str, [front, *shards]))
    kept = ["subnet_id", "origin", "layers", "parameters", "size_bytes", "metric", "value", "stderr", "items"]
    write_table(output, table[[*kept, "difference_to_full", "front_value", "source"]])
    for row in table.to_dict("records"):
        log.info("%s, %s: %s", row["subnet_id"], row["origin"], metric.text(row["value"], row["stderr"]))


def _best_within(front: pd.DataFrame, size_bytes: int, metric: Metric) -> float:
    values = front.loc[front["size_bytes"] <= size_bytes, metric.name]
    return float(values.max() if metric.higher_is_better else values.min())


def layers_drawing(by_layers: pd.DataFrame, metric: Metric, title: str) -> str:
    """Stacked bars, one per percentile: the share of each layer count, and how many networks a bar is of (SVG)."""
    with new_figure(5.6, 3.8) as (figure, (axes,)):
        bars = range(len(PERCENTILES))
        bottom = np.zeros(len(bars))
        for color, (layers, own) in zip(cycle(COLORS), by_layers.groupby("layers"), strict=False):
            axes.bar(bars, own["probability"], bottom=bottom, color=color, edgecolor="white", label=f"{layers} layers")
            bottom += own["probability"].to_numpy()
        for bar, networks in zip(bars, by_layers.drop_duplicates("percentile")["networks"], strict=True):
            axes.text(bar, 1.01, f"{networks}", ha="center", va="bottom", fontsize=9)
        axes.set_xticks(bars, [f"{percentile}" for percentile in PERCENTILES])
        axes.set(
            ylim=(0, 1.1), ylabel="share of the networks (number: above)", xlabel=f"{metric.name}: percentile and above"
        )
        axes.set_title(title, fontsize=9)
        figure.legend(loc="outside lower center", ncols=4)
        return svg(figure)


def maps_drawing(by_block: pd.DataFrame, metric: Metric, title: str) -> str:
    """One panel per layer count: of the networks at the TOP percentile, the share of each block, by layer (SVG)."""
    top = by_block[by_block["percentile"] == TOP]
    rows = top["layers"].nunique()
    with new_figure(6.4, 1.2 + 1.9 * rows, rows, share_x=True) as (figure, panels):
        for axes, (layers, own) in zip(panels, top.groupby("layers"), strict=True):
            bottom = np.zeros(own["layer"].nunique())
            for color, (block, share) in zip(cycle(COLORS), own.groupby("block", sort=False), strict=False):
                axes.bar(
                    share["layer"],
                    share["probability"],
                    bottom=bottom,
                    color=color,
                    edgecolor="white",
                    label=str(block),
                )
                bottom += share["probability"].to_numpy()
            axes.axhline(0.5, color="black", linestyle=":", linewidth=1)
            networks, threshold = own["networks"].iloc[0], metric.text(own["threshold"].iloc[0])
            text = f"{layers} layers: {networks} networks with {metric.name} {threshold}"
            axes.set_title(f"{text} or {'more' if metric.higher_is_better else 'less'}", fontsize=9)
            axes.set(ylim=(0, 1), ylabel="share")
        shown = sorted(top["layer"].unique())
        panels[-1].set(xlabel="layer", xticks=shown[:: 1 + len(shown) // TICKS])
        figure.suptitle(title, fontsize=9)
        handles, labels = panels[-1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=6, title="block")
        return svg(figure)
