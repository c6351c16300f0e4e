"""What the stages of the search refuse, in one line."""

import json

import numpy as np
import pandas as pd
import pytest
from search_cases import Run

from llama_nas import cli
from llama_nas.core.artifacts import read_json, read_table
from llama_nas.core.errors import UserError


def _drop_last(shard: pd.DataFrame) -> pd.DataFrame:
    return shard.iloc[:-1]


def _repeat_first(shard: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([shard, shard.iloc[:1]])


def _foreign_id(shard: pd.DataFrame) -> pd.DataFrame:
    return shard.assign(subnet_id=["1" * 12, *shard["subnet_id"].iloc[1:]])


def _foreign_candidate(shard: pd.DataFrame) -> pd.DataFrame:
    return shard.assign(candidate=[99, *shard["candidate"].iloc[1:]])


def _no_value(shard: pd.DataFrame) -> pd.DataFrame:
    return shard.assign(acc=np.nan)


def _no_metric(shard: pd.DataFrame) -> pd.DataFrame:
    return shard.drop(columns="acc")


def _other_columns(shard: pd.DataFrame) -> pd.DataFrame:
    return shard.assign(bleu=0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop_last, "is missing, 1 in all"),
        (_repeat_first, "is a repeat"),
        (_foreign_id, "is not one of this round's candidates"),
        (_foreign_candidate, "candidate 99"),
        (_no_value, "has no value of acc"),
        (_no_metric, "column acc is missing"),
        (_other_columns, "columns differ"),
    ],
)
def test_fit_refuses_shards_that_are_not_this_rounds_candidates(tmp_path, change, message):
    run = Run(tmp_path)
    run.sample()
    shards = run.evaluate(1)
    change(read_table(shards[1])).to_csv(shards[1], index=False)
    with pytest.raises(UserError) as raised:
        run.fit(1, shards)
    assert message in str(raised.value) and str(shards[1]) in str(raised.value) and "\n" not in str(raised.value)
    assert not run.path(1, "evaluations.csv").exists() and not run.path(1, "predictor.json").exists()


def test_fit_refuses_the_same_shard_twice(tmp_path):
    run = Run(tmp_path)
    run.sample()
    shards = run.evaluate(1)
    with pytest.raises(UserError, match="is a repeat"):
        run.fit(1, [*shards, shards[0]])


def test_fit_refuses_earlier_evaluations_of_other_columns(tmp_path):
    run = Run(tmp_path)
    run.sample()
    run.fit(1, run.evaluate(1))
    run.propose(1)
    previous = run.path(1, "evaluations.csv")
    read_table(previous).drop(columns="acc_norm").to_csv(previous, index=False)
    with pytest.raises(UserError, match=r"evaluations\.csv: its columns differ"):
        run.fit(2, run.evaluate(2))


def test_fit_refuses_too_few_networks(tmp_path):
    run = Run(tmp_path, population=2)
    run.sample()
    with pytest.raises(UserError, match="at least 3 evaluated networks, not 2"):
        run.fit(1, run.evaluate(1))


def test_propose_refuses_a_predictor_of_other_evaluations_or_another_variant(tmp_path):
    run = Run(tmp_path)
    run.sample()
    run.fit(1, run.evaluate(1))
    described = read_json(run.path(1, "predictor.json"))

    def refused(changes: dict, message: str) -> None:
        run.path(1, "predictor.json").write_text(json.dumps(described | changes))
        with pytest.raises(UserError, match=message):
            run.propose(1)
        assert not run.path(2, "candidates.csv").exists()

    refused({"evaluations_sha256": "0" * 64}, "fitted on another file")
    refused({"variant": "strict"}, "variant 'strict', not 'default'")
    refused({"hyperparameters": {"alpha": 50.0}}, "key check.predicted")
    subnet_id, predicted = described["check"]["subnet_id"], described["check"]["predicted"]
    refused({"check": {"subnet_id": subnet_id, "predicted": predicted + 0.001}}, "key check.predicted")


def test_a_bad_task_folder_is_named(tmp_path):
    run = Run(tmp_path)
    run.all(1)
    description = tmp_path / "task" / "task.json"
    description.write_text('{"task": "toy", "metric": "acc"}')
    with pytest.raises(UserError, match=r"task\.json: key 'higher_is_better' is missing"):
        run.front(1)
    description.unlink()
    with pytest.raises(UserError, match=r"task\.json: not found"):
        run.front(1)


@pytest.mark.parametrize("count", [1, 499])
def test_a_search_on_items_that_a_task_does_not_have_is_refused_at_its_start(tmp_path, count):
    run = Run(tmp_path, search_items=count)
    with pytest.raises(UserError, match=rf"tasks\.toy\.search_items {count} must lie in 2\.\.498"):
        run.sample()


def test_the_command_line_prints_one_line_and_exits_with_2(tmp_path, capsys):
    run = Run(tmp_path)
    arguments = f"sample --model {run.folder / 'model'} --depths 9 13 --widths 256 128 --seed 1"
    arguments += f" --task {run.folder / 'task'}"
    arguments += f" --algorithm linas --variant default --population 4 --output {tmp_path / 'candidates.csv'}"
    assert cli.main(arguments.split()) == 2
    message = capsys.readouterr().err
    assert "space.depths [9, 13] must lie in 1..12" in message and message.count("\n") == 1
