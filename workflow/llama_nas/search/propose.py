"""The stage between two rounds: the search algorithm proposes what to evaluate next."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from llama_nas.artifacts import derived_seed, file_digest, read_json, write_table
from llama_nas.errors import UserError
from llama_nas.search import encoding, nsga, records
from llama_nas.search.algorithms import algorithm
from llama_nas.search.goals import Declared
from llama_nas.search.predictors import Predictor
from llama_nas.search.proposal import Known, Predict, due
from llama_nas.space import ModelShape, SearchSpace

log = logging.getLogger(__name__)

GENERATION_COLUMNS = ["generation", "individual", "subnet_id", "parameters", "predicted", "rank"]


def propose_candidates(
    output: Path,
    *,
    history: Path,
    model: Path,
    depths: Sequence[int],
    widths: Sequence[int],
    depth_selection: str,
    task: Path,
    round_number: int,
    evaluations: Path,
    predictor: Path,
    goals: Declared,
    name: str,
    variant: str,
    population: int,
    generations: int,
    crossover_probability: float,
    crossover_eta: float,
    mutation_probability: float,
    mutation_eta: float,
    seed: int,
) -> None:
    """Write the candidates.csv of the round after `round_number`, and generations.csv, the inner NSGA-II run of LINAS.

    goals: objectives and constraints. name: the algorithm's. predictor: read by LINAS alone. The crossover and mutation
    settings mean what `nsga.crossed` and `nsga.polynomially_mutated` say. candidates.csv may hold fewer rows than
    `population`, even none, when the space, or what of it is within search.max_size, is used up.
    """
    shape, space = records.checked_space(model, depths, widths, depth_selection)
    described = records.read_task(task)
    table = records.read_evaluations(evaluations, described.metric)
    operators = nsga.Operators(crossover_probability, crossover_eta, mutation_probability, mutation_eta)
    chosen = algorithm(name, variant, population, generations, operators)
    resolved, genotypes = goals.on(space, shape, described), encoding.genotypes_of(space, table["subnet_id"])
    objectives = resolved.objectives(space, genotypes, described.minimised(table[described.metric].to_numpy()))
    known = Known(genotypes, objectives, table["round"].to_numpy())
    predict = None
    if chosen.uses_predictor:
        predict = _predict(space, predictor, evaluations, table, described, variant)
    rng = np.random.default_rng(derived_seed(seed, "propose", described.name, round_number))
    count = due(population, round_number, known)
    proposal = chosen.next(space, resolved, known, count, predict, rng)
    if len(set(table["subnet_id"])) == space.num_networks:
        log.info("the space is used up: all its %d networks are evaluated", space.num_networks)
    elif len(proposal.genotypes) < count:
        log.info("only %d of %d candidates: what the constraints allow is used up", len(proposal.genotypes), count)
    write_table(history, _generation_table(space, shape, proposal.generations, described))
    ids = encoding.subnet_ids(space, proposal.genotypes)
    predicted = None if proposal.predicted is None else described.minimised(proposal.predicted)
    write_table(output, records.candidate_table(ids, proposal.origins, predicted))


def _generation_table(
    space: SearchSpace, shape: ModelShape, generations: Sequence[nsga.Generation], task: records.Task
) -> pd.DataFrame:
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
        encoding.parameters(space, shape, genotypes),
        task.minimised(objectives[:, -1]),
        np.concatenate([generation.rank for generation in generations]),
    ]
    return pd.DataFrame(dict(zip(GENERATION_COLUMNS, columns, strict=True)))


def _predict(
    space: SearchSpace, predictor: Path, evaluations: Path, table: pd.DataFrame, task: records.Task, variant: str
) -> Predict:
    """Predictions of the metric, minimised, by the predictor of predictor.json."""
    genotypes = encoding.genotypes_of(space, table["subnet_id"])
    features = encoding.one_hot(space, genotypes)
    fitted = _refit(predictor, evaluations, variant, features, table[task.metric].to_numpy())
    return lambda genotypes: task.minimised(fitted.predict(encoding.one_hot(space, genotypes)))


def _refit(predictor: Path, evaluations: Path, variant: str, features: np.ndarray, targets: np.ndarray) -> Predictor:
    """The predictor that predictor.json describes, fitted on the same evaluations; raises UserError if it differs."""
    stored = read_json(predictor)
    if stored["evaluations_sha256"] != file_digest(evaluations):
        raise UserError(f"{predictor}: was fitted on another file than {evaluations}; run `llama-nas fit` again")
    if stored["variant"] != variant:
        raise UserError(f"{predictor}: was fitted for search variant '{stored['variant']}', not '{variant}'")
    fitted = Predictor(stored["kind"], stored["hyperparameters"], variant, stored["seed"]).fit(features, targets)
    again = float(fitted.predict(features[:1])[0])
    if not math.isclose(again, stored["check"]["predicted"], rel_tol=1e-6, abs_tol=1e-9):
        raise UserError(
            f"{predictor}: key check.predicted is {stored['check']['predicted']}, fitted again it is {again}; "
            f"were the versions {stored['versions']} changed?"
        )
    return fitted
