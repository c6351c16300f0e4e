"""The stage between two rounds: NSGA-II on the predictor proposes what to evaluate next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from llama_nas.artifacts import derived_seed, file_digest, read_json, write_table
from llama_nas.errors import UserError
from llama_nas.search import encoding, linas, nsga, records
from llama_nas.search.predictors import Predictor


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
    variant: str,
    population: int,
    generations: int,
    crossover_probability: float,
    crossover_eta: float,
    mutation_probability: float,
    mutation_eta: float,
    seed: int,
) -> None:
    """Run NSGA-II on round `round_number`'s predictor; write the next round's candidates.csv and generations.csv.

    The crossover and mutation settings mean what `nsga.crossover` and `nsga.mutation` say. candidates.csv may hold
    fewer rows than `population`, even none, when the space is used up.
    """
    shape, space = records.checked_space(model, depths, widths, depth_selection)
    described = records.read_task(task)
    table = records.read_evaluations(evaluations, described.metric)
    genotypes = encoding.genotypes_of(space, table["subnet_id"])
    targets = table[described.metric].to_numpy()
    masked = variant == "default"
    fitted = _refit(predictor, evaluations, variant, encoding.one_hot(space, genotypes, masked), targets)

    def predict(genotypes: np.ndarray) -> np.ndarray:
        return fitted.predict(encoding.one_hot(space, genotypes, masked)) if len(genotypes) else np.empty(0)

    proposal = linas.propose(
        space,
        shape,
        lambda genotypes: described.minimised(predict(genotypes)),
        linas.Known(genotypes, np.column_stack([table["parameters"], described.minimised(targets)])),
        population,
        generations,
        nsga.Operators(crossover_probability, crossover_eta, mutation_probability, mutation_eta),
        variant,
        derived_seed(seed, "propose", described.name, round_number),
    )
    write_table(
        history,
        pd.DataFrame(
            {
                "generation": np.repeat(
                    np.arange(1, len(proposal.generations) + 1), [len(g.rank) for g in proposal.generations]
                ),
                "individual": np.concatenate([np.arange(len(g.rank)) for g in proposal.generations]),
                "subnet_id": encoding.subnet_ids(space, np.concatenate([g.genotypes for g in proposal.generations])),
                "parameters": np.concatenate([g.objectives[:, 0] for g in proposal.generations]).astype(int),
                "predicted": described.minimised(np.concatenate([g.objectives[:, 1] for g in proposal.generations])),
                "rank": np.concatenate([g.rank for g in proposal.generations]),
            }
        ),
    )
    ids = encoding.subnet_ids(space, proposal.genotypes)
    write_table(output, records.candidate_table(ids, proposal.origins, predict(proposal.genotypes)))


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
