"""How much front a search finds per evaluation, on tables of every network's real score (`snakemake exhaustive`).

    python benchmarks/search.py --tables <folder>/results/exhaustive/*.csv [--seeds 20]

Runs each algorithm on each table with each seed. Nothing is evaluated: a score is looked up. Hypervolume is of
(parameters, metric), between the smallest and the largest network and from the table's worst score on, as a share of
the true front's. Prints, per table and algorithm, its median and 5-95 % range after 50, 100, ... evaluations, the
median number of evaluations until strict LINAS's own median at 250 is reached, the share of the true front that is
found, and seconds. Writes benchmarks/search.csv and docs/figures/search.svg.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from llama_nas.artifacts import derived_seed, read_json, read_table, write_table
from llama_nas.pareto import hypervolume, non_dominated
from llama_nas.search import encoding, linas, nsga, sampling
from llama_nas.search.predictors import Predictor, choose
from llama_nas.space import ModelShape, SearchSpace

REPOSITORY = Path(__file__).resolve().parents[1]
POPULATION, EVALUATIONS, GENERATIONS = 50, 250, 100
STRICT_GENERATIONS = 400  # DyNAS-T: 20,000 predictions
OPERATORS = nsga.Operators(0.9, 15.0, 0.02, 20.0)  # paper, section 3.1


@dataclass(frozen=True)
class Table:
    """The truth about one task of one super-network."""

    name: str
    space: SearchSpace
    shape: ModelShape
    objectives: dict[str, tuple[float, float]]  # subnet id: parameters and metric, minimised

    def look_up(self, genotypes: np.ndarray) -> np.ndarray:
        return np.array([self.objectives[i] for i in encoding.subnet_ids(self.space, genotypes)])


Algorithm = Callable[[Table, int], Iterator[np.ndarray]]  # batches of genotypes in the order of their evaluation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, nargs="+", required=True, help="CSVs of `llama-nas tabulate`")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--algorithms", nargs="+", default=list(ALGORITHMS), choices=list(ALGORITHMS))
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmarks/search.csv")
    parser.add_argument("--figure", type=Path, default=REPOSITORY / "docs/figures/search.svg")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for path in args.tables:
        table = read(path)
        for name in args.algorithms:
            for seed in range(args.seeds):
                rows += [
                    {"table": table.name, "algorithm": name, "seed": seed} | row for row in measure(table, name, seed)
                ]
            print(f"{table.name}: {name} done", flush=True)
    result = pd.DataFrame(rows)
    write_table(args.output, result)
    figure(result, args.figure)
    print(markdown(result))


def read(path: Path) -> Table:
    """A table and, beside it, the JSON that says what it is of; the model's config.json lies in the run's results."""
    about = read_json(path.with_suffix(".json"))
    shape = ModelShape(**about["shape"])
    space = SearchSpace.for_model(shape, about["depths"], about["widths"], about["depth_selection"])
    rows = read_table(path, ["subnet_id", "parameters", about["metric"]])
    sign = -1 if about["higher_is_better"] else 1
    values = zip(rows["parameters"].astype(float), sign * rows[about["metric"]], strict=True)
    return Table(about["task"], space, shape, dict(zip(rows["subnet_id"], values, strict=True)))


def measure(table: Table, algorithm: str, seed: int) -> list[dict[str, Any]]:
    """Share of the true hypervolume, of the true front's networks, repeats and seconds after each batch."""
    every = np.array(list(table.objectives.values()))
    reference = every.max(axis=0)
    ideal = every.min(axis=0)
    true_front = every[non_dominated(every)]

    def share(objectives: np.ndarray) -> float:
        """Both axes are scaled to 0..1, where the largest network and the worst score are 1."""
        scaled = (objectives - ideal) / (reference - ideal)
        return hypervolume(scaled, np.array([1.0 + 1e-9, 1.0 + 1e-9]))

    whole = share(true_front)
    seen = np.empty((0, 2))
    ids: list[str] = []
    rows = []
    start = time.perf_counter()
    for batch in ALGORITHMS[algorithm](table, seed):
        seen = np.concatenate([seen, table.look_up(batch)])
        ids += encoding.subnet_ids(table.space, batch)
        front = seen[non_dominated(seen)]
        found = {tuple(point) for point in front} & {tuple(point) for point in true_front}
        rows.append(
            {
                "evaluations": len(seen),
                "hypervolume": share(front) / whole,
                "front_found": len(found) / len(true_front),
                "repeats": len(ids) - len(set(ids)),
                "seconds": time.perf_counter() - start,
            }
        )
    return rows


def search_linas(variant: str, generations: int) -> Algorithm:
    def run(table: Table, seed: int) -> Iterator[np.ndarray]:
        space, masked = table.space, variant == "default"
        rng = np.random.default_rng(derived_seed(seed, "sample", table.name, 1))
        batch, _ = sampling.first_round(space, table.shape, POPULATION, variant, rng)
        known = np.empty((0, batch.shape[1]), dtype=int)
        objectives = np.empty((0, 2))
        for round_number in range(1, EVALUATIONS // POPULATION + 1):
            yield batch
            known, objectives = np.concatenate([known, batch]), np.concatenate([objectives, table.look_up(batch)])
            if round_number == EVALUATIONS // POPULATION:
                return
            features = encoding.one_hot(space, known, masked)
            fit_seed = derived_seed(seed, "fit", table.name, round_number)
            best, _ = choose("auto", variant, features, objectives[:, 1], fit_seed)
            fitted = Predictor(best.kind, best.hyperparameters, variant, fit_seed).fit(features, objectives[:, 1])
            batch = linas.propose(
                space,
                table.shape,
                lambda g, fitted=fitted: fitted.predict(encoding.one_hot(space, g, masked)) if len(g) else np.empty(0),
                linas.Known(known, objectives),
                POPULATION,
                generations,
                OPERATORS,
                variant,
                derived_seed(seed, "propose", table.name, round_number),
            ).genotypes

    return run


def search_random(table: Table, seed: int) -> Iterator[np.ndarray]:
    drawn = sampling.unseen(table.space, EVALUATIONS, [], np.random.default_rng(seed))
    yield from np.split(drawn, range(POPULATION, len(drawn), POPULATION))


def search_nsga2(table: Table, seed: int) -> Iterator[np.ndarray]:
    """NSGA-II on real evaluations, without a predictor (paper's operators)."""
    batches: list[np.ndarray] = []

    def objectives(genotypes: np.ndarray) -> np.ndarray:
        batches.append(genotypes)
        return table.look_up(genotypes)

    start = sampling.uniform(table.space, POPULATION, np.random.default_rng(seed))
    nsga.nsga2(table.space, objectives, start, POPULATION, EVALUATIONS // POPULATION, OPERATORS, "strict", seed)
    yield from batches


def search_additive(table: Table, seed: int) -> Iterator[np.ndarray]:
    """What each width and depth costs on its own, then the networks with the best sums (Puzzle-type methods).

    The sums of all networks are compared, which is exact; nothing in it is random, so all seeds are one.
    """
    space = table.space
    full = np.zeros(1 + space.num_layers, dtype=int)
    full[0] = len(space.depths) - 1
    changes = [
        (gene, value) for gene, bound in enumerate(space.bounds) for value in range(bound) if value != full[gene]
    ]
    batch = np.repeat(full[None], 1 + len(changes), axis=0)
    for row, (gene, value) in zip(batch[1:], changes, strict=True):
        row[gene] = value
    yield batch
    metric = table.look_up(batch)[:, 1]
    cost = np.zeros((len(full), space.bounds.max()))
    for (gene, value), measured in zip(changes, metric[1:], strict=True):
        cost[gene, value] = measured - metric[0]
    networks = sampling.every_network(space)
    exists = encoding.active_genes(space, networks)
    sums = np.where(exists, cost[np.arange(len(full)), networks], 0).sum(axis=1)
    sizes = encoding.parameters(space, table.shape, networks)
    known = set(encoding.subnet_ids(space, batch))
    new = np.array([subnet_id not in known for subnet_id in encoding.subnet_ids(space, networks)])
    networks, objectives = networks[new], np.column_stack([sizes, sums])[new]
    chosen = networks[nsga.by_rank_and_crowding(objectives)[: EVALUATIONS - len(batch)]]
    yield from np.split(chosen, range(POPULATION - len(batch), len(chosen), POPULATION))


ALGORITHMS: dict[str, Algorithm] = {
    "linas, strict": search_linas("strict", STRICT_GENERATIONS),
    "linas, default": search_linas("default", GENERATIONS),
    "nsga2": search_nsga2,
    "random": search_random,
    "additive": search_additive,
}
REFERENCE = "linas, strict"


def statistics(result: pd.DataFrame) -> pd.DataFrame:
    """One row per table and algorithm."""
    rows = []
    for table, of_table in result.groupby("table", sort=False):
        last = of_table[of_table["evaluations"] == EVALUATIONS]
        strict = last.loc[last["algorithm"] == REFERENCE].set_index("seed")["hypervolume"]
        for algorithm, own in of_table.groupby("algorithm", sort=False):
            at_end = own[own["evaluations"] == EVALUATIONS].set_index("seed")
            by_budget = own.groupby("evaluations")["hypervolume"]
            row: dict[str, Any] = {"table": table, "algorithm": algorithm}
            row |= {f"at {n}": values.median() for n, values in by_budget if n % POPULATION == 0}
            row |= {
                "low": by_budget.get_group(EVALUATIONS).quantile(0.05),
                "high": by_budget.get_group(EVALUATIONS).quantile(0.95),
            }
            if len(strict):
                reached = own[own["hypervolume"] >= strict.median()].groupby("seed")["evaluations"].min()
                row["reaches strict"] = reached.reindex(own["seed"].unique()).fillna(np.inf).median()
                difference = (at_end["hypervolume"] - strict).to_numpy()
                row["difference"] = difference.mean()
                row["interval"] = (
                    1.96 * difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else np.nan
                )
            row |= {key: at_end[key].mean() for key in ("front_found", "repeats", "seconds")}
            rows.append(row)
    return pd.DataFrame(rows)


def markdown(result: pd.DataFrame) -> str:
    budgets = range(POPULATION, EVALUATIONS + 1, POPULATION)
    lines = [
        "Hypervolume as a share of the true front's: median over the seeds; at 250 with its 5-95 % range.",
        "",
        "| table | algorithm | "
        + " | ".join(map(str, budgets))
        + " | 5-95 % | evaluations to strict's median at 250 | "
        "paired difference to strict at 250, 95 % interval | true front found | repeats | s |",
        "|---|---|" + "---|" * (len(budgets) + 6),
    ]
    for row in statistics(result).to_dict("records"):
        reaches = row.get("reaches strict", np.nan)
        lines.append(
            f"| {row['table']} | {row['algorithm']} | "
            + " | ".join(f"{row[f'at {n}']:.4f}" for n in budgets)
            + f" | {row['low']:.4f}-{row['high']:.4f} | {reaches:.0f} | "
            f"{row.get('difference', np.nan):+.4f} ± {row.get('interval', np.nan):.4f} | {row['front_found']:.2f} | "
            f"{row['repeats']:.0f} | {row['seconds']:.1f} |"
        )
    return "\n".join(lines)


def figure(result: pd.DataFrame, path: Path) -> None:
    """One panel per table: median and 5-95 % band against evaluations."""
    tables = list(result["table"].unique())
    drawing = Figure(figsize=(4.2 * len(tables), 3.6), layout="constrained")
    panels = drawing.subplots(1, len(tables), squeeze=False)[0]
    for axes, table in zip(panels, tables, strict=True):
        for algorithm, own in result[result["table"] == table].groupby("algorithm", sort=False):
            band = own.groupby("evaluations")["hypervolume"].quantile([0.05, 0.5, 0.95]).unstack()
            axes.plot(band.index, band[0.5], label=algorithm)
            axes.fill_between(band.index, band[0.05], band[0.95], alpha=0.15)
        axes.set(title=table, xlabel="evaluations", ylabel="hypervolume, share of the true front's", ylim=(None, 1.002))
        axes.grid(alpha=0.3)
    panels[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path)


if __name__ == "__main__":
    main()
