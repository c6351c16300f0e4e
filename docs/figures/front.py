"""The picture of the README: a front, found by a search, in a space of which every network's real score is known.

    python docs/figures/front.py

The script draws every network of a table of `studies/search/data`, the true front, and the front that the default
search finds with 250 evaluations. The search is that of `studies/search/search.py`: the code of the stages, with scores
looked up. A circle marks the smallest network of the search's front whose score is not below the full network's. The
table is one of those on which no choice was made. The script writes front.svg beside itself and prints the numbers
that the README names.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from llama_nas.analysis.figures import BLUE, FILLED, GREEN, GREY, HOLLOW, new_figure, svg
from llama_nas.core.pareto import non_dominated
from llama_nas.core.precisions import BYTES_PER_WEIGHT
from llama_nas.search import encoding

HERE = Path(__file__).resolve().parent
STUDY = HERE.parents[1] / "studies/search"
sys.path.append(str(STUDY))
import search as study  # noqa: E402

SEED = 1
POINT_DPI = 200  # the thousands of points are one image in the SVG


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=STUDY / "data/embedded-4-arc_easy.csv.gz")
    parser.add_argument("--output", type=Path, default=HERE / "front.svg")
    args = parser.parse_args()
    table = study.read(args.table)
    searched = np.concatenate(list(study.search(table, study.OURS, SEED)))
    args.output.write_text(drawing(table, encoding.subnet_ids(table.space, searched)), encoding="utf-8")


def drawing(table: study.Table, searched: list[str]) -> str:
    """The figure as SVG text. searched: ids of the networks that the search evaluated."""
    every = points(table, list(table.objectives))
    full = points(table, [table.space.id(table.space.full)])[0]
    found = dict(zip(searched, points(table, searched), strict=True))
    front = on_front(np.array(list(found.values())))
    marked = front[front[:, 1] >= full[1]][0]
    name = next(subnet_id for subnet_id, point in found.items() if tuple(point) == tuple(marked))
    true = {tuple(point) for point in on_front(every)}
    print(f"{len(true & set(map(tuple, front)))} of the {len(true)} points of the true front")
    print(f"full: {full[1]:.1f} %; {name}: {marked[1]:.1f} %, {full[0] / marked[0]:.2f} times smaller")
    with new_figure(7.2, 5.0) as (figure, (axes,)):
        figure.set_dpi(POINT_DPI)
        axes.scatter(*every.T, s=7, color=GREY, alpha=0.5, linewidths=0, rasterized=True,
                     label=f"all {len(every):,} networks")  # fmt: skip
        axes.plot(*on_front(every).T, color="#555555", linewidth=1.2, label="the true front")
        axes.plot(*front.T, "o", color=BLUE, label=f"the front found with {len(set(searched))} evaluations", **FILLED)
        axes.plot(*full, "s", color=GREEN, label="the full network", **HOLLOW, markeredgecolor=GREEN)
        axes.plot(*marked, "o", color="black", label=f"recommended: {name}", **HOLLOW | {"markersize": 16})
        axes.set_xlabel("size of the weights in FP16 (MB)")
        axes.set_ylabel("accuracy (%)")
        axes.set_title("ARC-Easy of the embedded world", fontsize=12)
        figure.legend(loc="outside lower center", ncols=2)
        return svg(figure)


def points(table: study.Table, ids: list[str]) -> np.ndarray:
    """Megabytes and percent of networks, [n, 2]."""
    parameters, error = np.array([table.objectives[subnet_id] for subnet_id in ids]).T
    return np.column_stack([parameters * BYTES_PER_WEIGHT["fp16"] / 1e6, 100 * table.task.minimised(error)])


def on_front(found: np.ndarray) -> np.ndarray:
    """The points that no other beats in size and score, ascending in size."""
    best = np.unique(found[non_dominated(found * [1, -1])], axis=0)
    return best[np.argsort(best[:, 0])]


if __name__ == "__main__":
    main()
