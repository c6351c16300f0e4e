"""Whether what one task's search finds serves another task, too (paper, section 4.5: no one heuristic serves all).

Two comparisons. The matrix: every member of every front, judged on every task by the one rule (`core/judgement.py`),
and the network that is *best for all tasks*. The maps: how wide good networks are, layer by layer, and whether two
tasks agree on it more than two halves of one task's own networks do.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from llama_nas.analysis.figures import BLUE, FILLED, GREEN, GREY, ORANGE, PURPLE, RED, new_figure, svg, with_tips
from llama_nas.core.artifacts import derived_seed, read_json, read_table, write_table, write_text
from llama_nas.core.errors import UserError
from llama_nas.core.items import Items
from llama_nas.core.judgement import (
    VERDICTS,
    Comparison,
    Metric,
    Verdict,
    compare,
    in_sequence,
    parse_answers,
    read_item_values,
    recommended,
)
from llama_nas.core.space import SearchSpace
from llama_nas.core.units import SizeFamily, SizeUnit

log = logging.getLogger(__name__)

MATRIX_COLUMNS = [
    *("home", "subnet_id", "layers", "parameters", "size_bytes", "task", "metric", "higher_is_better"),
    *("items", "groups", "base", "value", "difference", "lower", "upper", "verdict", "all_tasks", "best_for_all"),
]
MAP_COLUMNS = ["task", "other", "correlation", "lower", "upper", "whole", "points", "networks"]
FULL_HOME = "full"  # in the column home: the full network, whoever has found it
GOOD = 75  # the percentile of a layer count's networks from which on they are good
FEWEST = 8  # networks of a layer count in a half, of which two are good
SPLITS = 100  # random halves
MARKS = ((BLUE, "o"), (ORANGE, "D"), (PURPLE, "^"), (GREEN, "s"), (RED, "v"), ("#56B4E9", "P"), ("#000000", "X"))


@dataclass(frozen=True)
class _Task:
    """A task's judged items, the base's answers to them, and the networks' answers by id."""

    name: str
    metric: Metric
    items: Items
    base: np.ndarray
    answers: dict[str, np.ndarray]
    judgement: pd.DataFrame  # judgement.csv

    @property
    def front(self) -> list[str]:
        """Ids of the front's members, ascending in size."""
        return list(self.judgement.loc[self.judgement["on_front"], "subnet_id"])

    @property
    def max_drop(self) -> float:
        return float(self.judgement["max_drop"].iloc[0])


def compare_tasks(
    *,
    space: Path,
    tasks: Sequence[Path],
    evaluations: Sequence[Path],
    judgements: Sequence[Path],
    bases: Sequence[Path],
    shards: Sequence[str],
    search_items: Sequence[int],
    seed: int,
    matrix: Path,
    maps: Path,
    scores_figure: Path,
    maps_figure: Path,
    size_unit: SizeFamily = "GB",
) -> None:
    """Judge the members of all fronts on all tasks, and compare what good networks of each task look like (paper, 4.5).

    Lists with a value for each task are in the order of --tasks. Raises UserError if a network was not evaluated.

    Args:
        tasks: folders written by `llama-nas compile-task`
        evaluations: evaluations.csv of each task's last round
        judgements: judgement.csv of each task
        bases: JSON of `llama-nas run-lm-eval` of the pre-trained base, FP16, on each task
        shards: the candidates of `llama-nas choose-transfer`, evaluated with their answers: TASK=CSV
        search_items: items that each task's search has used; 0: all
        size_unit: of the figure's sizes
        matrix: out: CSV: a row for each home (the front that has the network; `full`: the full network), network and
            task: what it gains there on the base; `all_tasks` is the network's verdict on all tasks together, and
            `best_for_all` marks the smallest network that is shown on every task, else not refuted
        maps: out: CSV: Spearman's correlation of two tasks' width maps (`map_correlations`)
        scores_figure: out: the matrix as SVG
        maps_figure: out: the correlations as SVG
    """
    declared = SearchSpace.read(space)
    files: dict[str, list[Path]] = {}
    for text in shards:
        name, _, file = text.partition("=")
        files.setdefault(name, []).append(Path(file))
    read = [
        _read_task(task, judgement, base, files, items)
        for task, judgement, base, items in zip(tasks, judgements, bases, search_items, strict=True)
    ]
    table = transfer_matrix(declared, read)
    write_table(matrix, table)
    write_text(scores_figure, scores_drawing(table, read[0].max_drop, size_unit))
    networks = {
        task.name: Networks.of(declared, read_table(path, ["subnet_id", task.metric.name]), task.metric)
        for task, path in zip(read, evaluations, strict=True)
    }
    correlations = map_correlations(networks, declared.depths, derived_seed(seed, "compare-tasks"))
    write_table(maps, correlations)
    write_text(maps_figure, maps_drawing(correlations))
    best = table[table["best_for_all"]].iloc[0]
    log.info("best for all %d tasks: %s, %s", len(read), best["subnet_id"], best["all_tasks"])


def _read_task(folder: Path, judgement: Path, base: Path, shards: dict[str, list[Path]], search_items: int) -> _Task:
    described = read_json(folder / "task.json")
    name, metric = described["task"], Metric(described["metric"], bool(described["higher_is_better"]))
    items = Items.read(folder)
    judged = items.judged(search_items or None, name)
    values = read_item_values(base, name, metric.name, len(items))
    answers = {}
    for path in shards.get(name, []):
        rows = read_table(path, ["subnet_id", "answers"])
        for subnet_id, text in zip(rows["subnet_id"], rows["answers"], strict=True):
            answers[subnet_id] = parse_answers(text, metric)
            if len(answers[subnet_id]) != len(judged):
                raise UserError(f"{path}: network {subnet_id} has other than {len(judged)} answers; evaluate it again")
    columns = ["subnet_id", "on_front", "verdict", "max_drop"]
    return _Task(name, metric, items.of(judged), values[judged], answers, read_table(judgement, columns))


def transfer_matrix(space: SearchSpace, tasks: Sequence[_Task]) -> pd.DataFrame:
    """MATRIX_COLUMNS: the members of every front, ascending in size, on every task; and the full network.

    Members of a front are judged on another task in the sequence of `core/judgement.py`, as they are on their own.
    """
    full = space.id(space.full)
    homes = {**{task.name: task.front for task in tasks}, FULL_HOME: [full]}
    ids = list(dict.fromkeys(itertools.chain.from_iterable(homes.values())))
    subnets = {id: space.parse(id) for id in ids}
    sizes = {id: space.shape.parameters(subnet) for id, subnet in subnets.items()}
    comparisons = {(task.name, id): _compared(task, id) for task in tasks for id in ids}
    alone = {(task.name, id): comparisons[task.name, id].verdict(task.max_drop) for task in tasks for id in ids}
    together, best = best_for_all(ids, sizes, {id: [alone[task.name, id] for task in tasks] for id in ids}, full)
    rows = []
    for home, members in homes.items():
        for task in tasks:
            verdicts = _verdicts(home, members, task, sizes, alone)
            for id in sorted(members, key=lambda id: (sizes[id], id)):
                comparison = comparisons[task.name, id]
                rows.append(
                    {
                        "home": home,
                        "subnet_id": id,
                        "layers": subnets[id].layers,
                        "parameters": sizes[id],
                        "size_bytes": space.shape.size_bytes(subnets[id], "fp16"),
                        "task": task.name,
                        "metric": task.metric.name,
                        "higher_is_better": task.metric.higher_is_better,
                        "items": len(task.items),
                        "groups": len(comparison.sizes),
                        "base": task.metric.score(task.items, task.base),
                        "value": task.metric.score(task.items, task.answers[id]),
                        **dict(zip(("difference", "lower", "upper"), comparison.interval, strict=True)),
                        "verdict": verdicts[id],
                        "all_tasks": together[id],
                        "best_for_all": id == best,
                    }
                )
    return pd.DataFrame(rows, columns=MATRIX_COLUMNS)


def _compared(task: _Task, subnet_id: str) -> Comparison:
    if subnet_id not in task.answers:
        raise UserError(f"task '{task.name}': network {subnet_id} is on a front but was not evaluated for the transfer")
    return compare(task.metric, task.items, task.answers[subnet_id], task.base)


def _verdicts(
    home: str, members: Sequence[str], task: _Task, sizes: dict[str, int], alone: dict[tuple[str, str], Verdict]
) -> dict[str, Verdict]:
    """Verdicts on a front's members on a task; on their own one those of judgement.csv."""
    if home == task.name:
        return dict(zip(task.judgement["subnet_id"], task.judgement["verdict"], strict=True))
    ordered = sorted(members, key=lambda id: (sizes[id], id), reverse=True)
    return dict(zip(ordered, in_sequence([alone[task.name, id] for id in ordered]), strict=True))


def best_for_all(
    ids: Sequence[str], sizes: dict[str, int], alone: dict[str, list[Verdict]], full: str
) -> tuple[dict[str, Verdict], str]:
    """The verdict on each network on all tasks together, and the network that serves all best.

    A network is as good as on the task that it is worst on: only if it is shown on each one is it shown on all, so the
    tasks ask for no correction. The networks do: they are tested from the largest to the smallest, as on a front.
    """
    ordered = sorted(ids, key=lambda id: (sizes[id], id), reverse=True)
    together = in_sequence([max(alone[id], key=VERDICTS.index) for id in ordered])
    place = recommended(together)
    return dict(zip(ordered, together, strict=True)), full if place is None else ordered[place]


@dataclass(frozen=True)
class Networks:
    """The networks that a search has evaluated, each once: [n] gains and layer counts, [n, L] ranks of blocks by size.

    A rank goes from 0, the smallest block, to 1, the full one; NaN where the layer is dropped.
    """

    ranks: np.ndarray
    gains: np.ndarray
    layers: np.ndarray

    @classmethod
    def of(cls, space: SearchSpace, evaluations: pd.DataFrame, metric: Metric) -> Networks:
        """evaluations: columns subnet_id and the metric."""
        once = evaluations.drop_duplicates("subnet_id")
        largest = max(len(space.blocks) - 1, 1)
        rank_of = {space.blocks[i]: rank / largest for rank, i in enumerate(space.blocks_by_size)}
        networks = [space.parse(subnet_id) for subnet_id in once["subnet_id"]]
        ranks = [[np.nan if b is None else rank_of[b] for b in network.blocks] for network in networks]
        gains = [metric.improvement(value, 0.0) for value in once[metric.name]]
        return cls(np.array(ranks), np.array(gains), np.array([network.layers for network in networks]))

    def __len__(self) -> int:
        return len(self.gains)

    def some(self, chosen: np.ndarray) -> Networks:
        return Networks(self.ranks[chosen], self.gains[chosen], self.layers[chosen])


def width_map(networks: Networks, depths: Sequence[int]) -> np.ndarray:
    """How large good networks keep each layer, [depths * L], less the mean of their layer count; NaN: dropped.

    Of the networks of a layer count the GOOD percentile's. A layer count with fewer than FEWEST has no map: NaN.
    """
    parts = np.full((len(depths), networks.ranks.shape[1]), np.nan)
    for row, depth in zip(parts, depths, strict=True):
        own = networks.some(networks.layers == depth)
        if len(own) >= FEWEST:
            good = own.ranks[own.gains >= np.percentile(own.gains, GOOD, method="lower")]
            kept = np.isfinite(good).any(axis=0)
            means = np.nanmean(good[:, kept], axis=0)
            row[kept] = means - means.mean()
    return parts.ravel()


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation of two maps where both have a value; NaN for fewer than three, or equal ones."""
    both = np.isfinite(one) & np.isfinite(other)
    one, other = one[both], other[both]
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return np.nan
    return float(spearmanr(one, other).statistic)


def map_correlations(networks: dict[str, Networks], depths: Sequence[int], seed: int) -> pd.DataFrame:
    """MAP_COLUMNS: for each pair of tasks, how alike the width maps of their good networks are.

    `correlation` is the mean over SPLITS random halves: of one task's networks against a half of the other's. Where
    task and other are the same it is that of the two halves, so it says what noise allows, and all rows rest on as many
    networks. `lower` and `upper` hold 90 % of the splits. `whole` is the correlation of all networks of both tasks;
    `points` the layers that it is of, counted in each layer count, and `networks` those of the smaller search.
    """
    rng = np.random.default_rng(seed)
    halves = {name: [_halves(own, depths, rng) for _ in range(SPLITS)] for name, own in networks.items()}
    whole = {name: width_map(own, depths) for name, own in networks.items()}
    rows = []
    for task, other in itertools.combinations_with_replacement(networks, 2):
        second = 1 if task == other else 0
        pairs = zip(halves[task], halves[other], strict=True)
        found = np.array([correlation(own[0], another[second]) for own, another in pairs])
        found = found[np.isfinite(found)]
        ends = np.quantile(found, [0.05, 0.95]) if len(found) else [np.nan, np.nan]
        rows.append(
            {
                "task": task,
                "other": other,
                "correlation": found.mean() if len(found) else np.nan,
                "lower": ends[0],
                "upper": ends[1],
                "whole": np.nan if task == other else correlation(whole[task], whole[other]),
                "points": int((np.isfinite(whole[task]) & np.isfinite(whole[other])).sum()),
                "networks": min(len(networks[task]), len(networks[other])),
            }
        )
    return pd.DataFrame(rows, columns=MAP_COLUMNS)


def _halves(networks: Networks, depths: Sequence[int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The maps of two random halves."""
    order = rng.permutation(len(networks))
    middle = len(order) // 2
    return width_map(networks.some(order[:middle]), depths), width_map(networks.some(order[middle:]), depths)


def scores_drawing(matrix: pd.DataFrame, max_drop: float, size_unit: SizeFamily) -> str:
    """A panel for each task: size against what the members of each front gain there on the base, with intervals (SVG).

    Dotted: what may be lost. Filled: the front that was searched on the task itself.
    """
    tasks = list(dict.fromkeys(matrix["task"]))
    unit = SizeUnit.of(size_unit, int(matrix["size_bytes"].max()))
    with new_figure(6.0, 1.0 + 2.6 * len(tasks), len(tasks), share_x=True) as (figure, panels):
        for axes, task in zip(panels, tasks, strict=True):
            for (home, own), (color, marker) in zip(_of_homes(matrix, task), itertools.cycle(MARKS), strict=False):
                gained = 100 * own["difference"]
                marks, *_ = axes.errorbar(
                    own["size_bytes"] / unit.bytes,
                    gained,
                    yerr=[gained - 100 * own["lower"], 100 * own["upper"] - gained],
                    color=color,
                    marker=marker,
                    linewidth=1.4,
                    elinewidth=0.6,
                    label=f"front of {home}" if home != FULL_HOME else "full super-network",
                    **FILLED | {"markerfacecolor": color if home == task else "white", "markeredgecolor": color},
                )
                with_tips(marks, [_tip(row, unit) for row in own.to_dict("records")])
            axes.axhline(0, color=GREY, linewidth=1)
            axes.axhline(-100 * max_drop, color="black", linestyle=":", linewidth=1)
            share = matrix.loc[matrix["task"] == task, "metric"].iloc[0].startswith("acc")
            axes.set(ylabel=f"gain on the base ({'points' if share else '%'})", title=f"judged on {task}")
        panels[-1].set_xlabel(f"size of the weights ({unit.name})")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
        return svg(figure)


def _tip(row: dict[Any, Any], unit: SizeUnit) -> str:
    """What a point says where a pointer rests on it."""
    metric = Metric(row["metric"], row["higher_is_better"])
    judged = metric.judged_text(row["difference"], row["lower"], row["upper"])
    home = "the full super-network" if row["home"] == FULL_HOME else f"on the front of {row['home']}"
    return f"{row['subnet_id']}, {home}\n{unit.text(row['size_bytes'])}\n{judged}: {row['verdict']}"


def _of_homes(matrix: pd.DataFrame, task: str) -> list[tuple[str, pd.DataFrame]]:
    """The rows judged on a task, by home, in the order of the table."""
    own = matrix[matrix["task"] == task]
    return [(home, own[own["home"] == home]) for home in dict.fromkeys(own["home"])]


def maps_drawing(correlations: pd.DataFrame) -> str:
    """The correlations of all pairs of tasks as coloured cells; the diagonal is what noise allows (SVG)."""
    tasks = list(dict.fromkeys(correlations["task"]))
    side = 1.6 + 0.9 * len(tasks)
    cells = np.full((len(tasks), len(tasks)), np.nan)
    with new_figure(side + 1.6, side) as (figure, (axes,)):
        for row in correlations.to_dict("records"):
            x, y = tasks.index(row["task"]), tasks.index(row["other"])
            cells[y, x] = row["correlation"]
            axes.text(x, y, cell_text(row), ha="center", va="center", fontsize=8)
        edges = np.arange(len(tasks) + 1) - 0.5
        axes.pcolormesh(edges, edges, np.ma.masked_invalid(cells), cmap="RdBu", vmin=-1, vmax=1, alpha=0.6)
        axes.invert_yaxis()
        axes.set_xticks(range(len(tasks)), tasks, rotation=30, ha="right")
        axes.set_yticks(range(len(tasks)), tasks)
        axes.set_title("width maps of good networks: Spearman's correlation,\nhalf against half", fontsize=9)
        return svg(figure)


def cell_text(row: dict[Any, Any]) -> str:
    """A correlation over where 90 % of the splits lie."""
    if not np.isfinite(row["correlation"]):
        return "too few\nnetworks"
    return f"{row['correlation']:.2f}\n{row['lower']:.2f} to {row['upper']:.2f}".replace("-", "−")
