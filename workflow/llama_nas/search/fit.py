"""The stage after a round's real evaluations: gather them and fit the predictor."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from llama_nas.artifacts import derived_seed, file_digest, write_json, write_table
from llama_nas.errors import UserError
from llama_nas.search import encoding, records
from llama_nas.search.predictors import Predictor, choose, quality

log = logging.getLogger(__name__)

MIN_ROWS = 3  # LightGBM wants two rows in every training fold
LIBRARIES = ("numpy", "scikit-learn", "lightgbm", "pymoo")


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
    predictions this round's candidates were proposed with, of those candidates that had never been evaluated before
    (null where there are none, as in round 1; strict LINAS proposes known networks, too).
    """
    shape, space = records.checked_space(model, depths, widths, depth_selection)
    described = records.read_task(task)
    proposed = records.read_candidates(candidates)
    gathered = records.gather_shards(shards, proposed, described.metric)
    table = records.evaluation_table(space, shape, round_number, proposed, gathered)
    new = proposed["predicted"].notna() & ~proposed["subnet_id"].duplicated()
    if previous is not None:
        earlier = records.read_evaluations(previous, described.metric)
        if list(earlier.columns) != list(table.columns):
            raise UserError(f"{previous}: its columns differ from those of {shards[0]}")
        new &= ~proposed["subnet_id"].isin(earlier["subnet_id"])
        table = pd.concat([earlier, table], ignore_index=True) if len(table) else earlier
    if len(table) < MIN_ROWS:
        raise UserError(f"{candidates}: a predictor needs at least {MIN_ROWS} evaluated networks, not {len(table)}")
    write_table(evaluations, table)

    stage_seed = derived_seed(seed, "fit", described.name, round_number)
    features = encoding.one_hot(space, encoding.genotypes_of(space, table["subnet_id"]))
    targets = table[described.metric].to_numpy()
    best, choices = choose(predictor, variant, features, targets, stage_seed)
    fitted = Predictor(best.kind, best.hyperparameters, variant, stage_seed).fit(features, targets)
    out_of_sample = None
    if new.any():
        measured, predicted = gathered.loc[new, described.metric], proposed.loc[new, "predicted"]
        out_of_sample = dataclasses.asdict(quality(measured.to_numpy(), predicted.to_numpy()))
        out_of_sample["rows"] = int(new.sum())
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
