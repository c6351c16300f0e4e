"""The stages that say what to evaluate: the first round's candidates, and each later round's."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from llama_nas.core.artifacts import derived_seed, write_json, write_table
from llama_nas.core.errors import UserError
from llama_nas.core.space import SearchSpace
from llama_nas.search import encoding, tables
from llama_nas.search.algorithms import make
from llama_nas.search.algorithms.interface import Generation, Known, Predict, Proposal, State, due
from llama_nas.search.algorithms.predictors import Predictor, choose
from llama_nas.search.goals import Goals, resolve
from llama_nas.search.settings import AlgorithmSettings, Evolution, GoalSettings

log = logging.getLogger(__name__)

GENERATION_COLUMNS = ["generation", "individual", "subnet_id", "parameters", "predicted", "rank"]
MIN_ROWS = 3  # LightGBM wants two rows in every training fold
LIBRARIES = ("numpy", "scikit-learn", "lightgbm", "pymoo")


def sample(
    output: Path,
    *,
    space: Path,
    task: Path,
    algorithm: AlgorithmSettings,
    goals: GoalSettings,
    seed: int,
    search_items: int | None = None,
) -> None:
    """Choose the first round's candidates; checks goals and items before anything expensive runs.

    Args:
        search_items: items that the search will use (default: all)
        output: candidates.csv: candidate, subnet_id, origin, predicted (empty)
    """
    declared, described = SearchSpace.read(space), tables.read_task(task)
    if search_items is not None:
        tables.check_search_items(task, search_items)
    resolved = resolve(goals, declared, described)
    rng = np.random.default_rng(derived_seed(seed, "sample", described.name, 1))
    nothing = Known.nothing(declared, resolved)
    proposal = make(algorithm).first(State(declared, resolved, nothing, algorithm.population, rng))
    if len(proposal.genotypes) == declared.num_networks:
        log.info("the first round has all %d networks of the space", declared.num_networks)
    ids = encoding.subnet_ids(declared, proposal.genotypes)
    write_table(output, tables.candidate_table(ids, proposal.origins, None))


def propose(
    output: Path,
    *,
    space: Path,
    task: Path,
    round: int,
    evaluations: Path,
    algorithm: AlgorithmSettings,
    evolution: Evolution,
    goals: GoalSettings,
    predictor: Literal["auto", "lightgbm", "ridge", "svr"],
    seed: int,
    fitted: Path,
    generations_table: Path,
) -> None:
    """Propose a later round's candidates from all real evaluations so far; LINAS fits a predictor and searches it.

    The candidates may be fewer than the population, even none, when the space, or the part of it within
    search.max_size, is used up.

    Args:
        round: the number of the round proposed, from 2 on
        evaluations: evaluations.csv of the round before
        predictor: the kind to fit; auto: chosen by cross-validation
        fitted: out: predictor.json: the predictor's kind, settings and cross-validated quality
        generations_table: out: generations.csv, every population of the inner NSGA-II run
        output: candidates.csv
    """
    declared, described = SearchSpace.read(space), tables.read_task(task)
    table = tables.read_evaluations(evaluations, described.metric)
    resolved = resolve(goals, declared, described)
    known = _known(table, resolved, declared, described)
    count = due(algorithm.population, round - 1, known)
    # The seeds are counted by the round that the candidates are proposed from.
    rng = np.random.default_rng(derived_seed(seed, "propose", described.name, round - 1))
    chosen = make(algorithm, evolution)
    predict, about = None, None
    if chosen.uses_predictor:
        fit_seed = derived_seed(seed, "fit", described.name, round - 1)
        predict, about = _fit(predictor, algorithm.variant, declared, table, described, fit_seed)
    proposal = chosen.next(State(declared, resolved, known, count, rng, predict))
    _say_what_is_used_up(proposal, declared, set(table["subnet_id"]), count)
    write_json(fitted, {"round": round, "task": described.name, "metric": described.metric, "predictor": about})
    write_table(generations_table, _generation_table(declared, proposal.generations, described))
    ids = encoding.subnet_ids(declared, proposal.genotypes)
    predicted = None if proposal.predicted is None else described.minimised(proposal.predicted)
    write_table(output, tables.candidate_table(ids, proposal.origins, predicted))


def _known(table: pd.DataFrame, goals: Goals, space: SearchSpace, task: tables.Task) -> Known:
    genotypes = encoding.genotypes_of(space, table["subnet_id"])
    objectives = goals.objectives(space, genotypes, task.minimised(table[task.metric].to_numpy()))
    return Known(genotypes, objectives, table["round"].to_numpy())


def _fit(
    kind: str, variant: str, space: SearchSpace, table: pd.DataFrame, task: tables.Task, seed: int
) -> tuple[Predict, dict[str, Any]]:
    """Predictions of the metric, minimised; and what the predictor is, for predictor.json."""
    if len(table) < MIN_ROWS:
        raise UserError(f"--evaluations: a predictor needs at least {MIN_ROWS} evaluated networks, not {len(table)}")
    features = encoding.one_hot(space, encoding.genotypes_of(space, table["subnet_id"]))
    targets = table[task.metric].to_numpy()
    best, choices = choose(kind, variant, features, targets, seed)
    predictor = Predictor(best.kind, best.hyperparameters, variant, seed).fit(features, targets)
    log.info("%s: %s from %d evaluations, Kendall tau %s", task.name, best.kind, len(table), best.quality.kendall_tau)
    about = {
        "variant": variant,
        "kind": best.kind,
        "hyperparameters": best.hyperparameters,
        "cross_validation": {
            choice.kind: {"hyperparameters": choice.hyperparameters, **dataclasses.asdict(choice.quality)}
            for choice in choices
        },
        "rows": len(table),
        "seed": seed,
        "versions": {library: version(library) for library in LIBRARIES},
    }
    return lambda genotypes: task.minimised(predictor.predict(encoding.one_hot(space, genotypes))), about


def _say_what_is_used_up(proposal: Proposal, space: SearchSpace, evaluated: set[str], count: int) -> None:
    if len(evaluated) == space.num_networks:
        log.info("the space is used up: all its %d networks are evaluated", space.num_networks)
    elif len(proposal.genotypes) < count:
        log.info("only %d of %d candidates: what the constraints allow is used up", len(proposal.genotypes), count)


def _generation_table(space: SearchSpace, generations: Sequence[Generation], task: tables.Task) -> pd.DataFrame:
    """One row per individual of each generation; no rows for an algorithm without an inner search."""
    if not generations:
        return pd.DataFrame(columns=GENERATION_COLUMNS)
    sizes = [len(generation.rank) for generation in generations]
    genotypes = np.concatenate([generation.genotypes for generation in generations])
    objectives = np.concatenate([generation.objectives for generation in generations])
    columns = [
        np.repeat(np.arange(1, len(sizes) + 1), sizes),
        np.concatenate([np.arange(size) for size in sizes]),
        encoding.subnet_ids(space, genotypes),
        encoding.parameters(space, genotypes),
        task.minimised(objectives[:, -1]),
        np.concatenate([generation.rank for generation in generations]),
    ]
    return pd.DataFrame(dict(zip(GENERATION_COLUMNS, columns, strict=True)))
