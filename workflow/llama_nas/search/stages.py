"""The stages of the search, called by `llama-nas sample`, `fit`, `propose` and `front`.

A LINAS run is sample, evaluate, fit, then propose, evaluate, fit for each further round. What is heavy to import and
not needed by every stage is imported where it is used.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from llama_nas.artifacts import derived_seed, file_digest, read_json, write_json, write_table
from llama_nas.errors import UserError
from llama_nas.pareto import non_dominated
from llama_nas.search import encoding, records
from llama_nas.space import ModelShape, SearchSpace

log = logging.getLogger(__name__)

MIN_ROWS = 3  # LightGBM wants two rows in every training fold
LIBRARIES = ("numpy", "scikit-learn", "lightgbm", "pymoo")


def _space(
    model: Path, depths: Sequence[int], widths: Sequence[int], depth_selection: str
) -> tuple[ModelShape, SearchSpace]:
    shape = ModelShape.from_folder(model)
    return shape, SearchSpace.for_model(shape, depths, widths, depth_selection)


def sample_candidates(
    output: Path,
    *,
    model: Path,
    depths: Sequence[int],
    widths: Sequence[int],
    depth_selection: str,
    task: str,
    variant: str,
    population: int,
    seed: int,
) -> None:
    """Write the first round's candidates.csv: candidate, subnet_id, origin, predicted (empty)."""
    from llama_nas.search.sampling import first_round

    shape, space = _space(model, depths, widths, depth_selection)
    rng = np.random.default_rng(derived_seed(seed, "sample", task, 1))
    genotypes, origins = first_round(space, shape, population, variant, rng)
    if len(genotypes) < population:
        log.info("the space has only %d networks, fewer than the population of %d", len(genotypes), population)
    write_table(output, records.candidate_table(encoding.subnet_ids(space, genotypes), origins, None))


def fit_predictor(
    output: Path,
    *,
    evaluations: Path,
    model: Path,
    depths: Sequence[int],
    widths: Sequence[int],
    depth_selection: str,
    task: Path,
    round_number: int,
    candidates: Path,
    shards: Sequence[Path],
    previous: Path | None,
    variant: str,
    predictor: str,
    seed: int,
) -> None:
    """Gather a round's shards into evaluations.csv, behind all earlier rows, and write predictor.json.

    predictor.json holds the chosen kind and hyper-parameters, not the predictor: the next stage fits it again from
    evaluations.csv, whose digest is kept, and checks one stored prediction. `out_of_sample` is the quality of the
    predictions this round's candidates were proposed with (null in round 1).
    """
    from llama_nas.search.predictors import Predictor, choose, quality

    shape, space = _space(model, depths, widths, depth_selection)
    described = records.read_task(task)
    proposed = records.read_candidates(candidates)
    gathered = records.gather_shards(shards, proposed, described.metric)
    table = records.evaluation_table(space, shape, round_number, proposed, gathered)
    if previous is not None:
        earlier = records.read_evaluations(previous, described.metric)
        if list(earlier.columns) != list(table.columns):
            raise UserError(f"{previous}: its columns differ from those of {shards[0]}")
        table = pd.concat([earlier, table], ignore_index=True) if len(table) else earlier
    if len(table) < MIN_ROWS:
        raise UserError(f"{candidates}: a predictor needs at least {MIN_ROWS} evaluated networks, not {len(table)}")
    write_table(evaluations, table)

    stage_seed = derived_seed(seed, "fit", described.name, round_number)
    features = encoding.one_hot(space, encoding.genotypes_of(space, table["subnet_id"]), masked=variant == "default")
    targets = table[described.metric].to_numpy()
    best, choices = choose(predictor, variant, features, targets, stage_seed)
    fitted = Predictor(best.kind, best.hyperparameters, variant, stage_seed).fit(features, targets)
    guessed = proposed["predicted"].notna().to_numpy()
    out_of_sample = None
    if guessed.any():
        measured = gathered[described.metric].to_numpy()[guessed]
        out_of_sample = dataclasses.asdict(quality(measured, proposed["predicted"].to_numpy()[guessed]))
        out_of_sample["rows"] = int(guessed.sum())
    write_json(
        output,
        {
            "round": round_number,
            "task": described.name,
            "metric": described.metric,
            "variant": variant,
            "kind": best.kind,
            "hyperparameters": best.hyperparameters,
            "cross_validation": {
                choice.kind: {"hyperparameters": choice.hyperparameters, **dataclasses.asdict(choice.quality)}
                for choice in choices
            },
            "out_of_sample": out_of_sample,
            "rows": len(table),
            "seed": stage_seed,
            "versions": {library: version(library) for library in LIBRARIES},
            "evaluations_sha256": file_digest(evaluations),
            "check": {
                "subnet_id": table["subnet_id"].iloc[0],
                "predicted": float(fitted.predict(features[:1])[0]),
            },
        },
    )
    log.info(
        "%s: %s from %d evaluations, Kendall tau %s", described.name, best.kind, len(table), best.quality.kendall_tau
    )


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
    from llama_nas.search import linas, nsga

    shape, space = _space(model, depths, widths, depth_selection)
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


def _refit(predictor: Path, evaluations: Path, variant: str, features: np.ndarray, targets: np.ndarray):
    """The predictor that predictor.json describes, fitted on the same evaluations; raises UserError if it differs."""
    from llama_nas.search.predictors import Predictor

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


def write_front(output: Path, *, task: Path, evaluations: Path) -> None:
    """Write front.csv: the networks no other real evaluation beats in size and metric, ascending in size.

    A network evaluated twice counts once, with its first evaluation. Networks that differ in size by a hair are all
    kept: sizes are exact.
    """
    described = records.read_task(task)
    metric = described.metric
    table = records.read_evaluations(evaluations, metric).drop_duplicates("subnet_id", ignore_index=True)
    objectives = np.column_stack([table["parameters"], described.minimised(table[metric].to_numpy())])
    front = table[non_dominated(objectives)].sort_values("parameters", ignore_index=True)
    stderr = f"{metric}_stderr"
    front["stderr"] = front[stderr] if stderr in front.columns else np.nan
    write_table(output, front[["subnet_id", "layers", "parameters", "size_bytes", metric, "stderr", "round"]])
    log.info("%s: %d of %d networks are on the front", described.name, len(front), len(table))
