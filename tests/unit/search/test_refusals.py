"""What the stages of the search refuse, in one line."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from tests.support.search import SHAPE, Run

from llama_nas import cli
from llama_nas.core.artifacts import read_json, read_table, write_json
from llama_nas.core.errors import UserError
from llama_nas.search.algorithms import ALGORITHMS


def _drop_last(shard: pd.DataFrame) -> pd.DataFrame:
    return shard.iloc[:-1]


def _repeat_first(shard: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([shard, shard.iloc[:1]])


def _foreign_id(shard: pd.DataFrame) -> pd.DataFrame:
    return shard.assign(subnet_id=["11111111-1111", *shard["subnet_id"].iloc[1:]])


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
        (_foreign_id, "is not one of these candidates"),
        (_foreign_candidate, "candidate 99"),
        (_no_value, "has no value of acc"),
        (_no_metric, "column acc is missing"),
        (_other_columns, "columns differ"),
    ],
)
def test_gather_refuses_shards_that_are_not_of_its_candidates(tmp_path, change, message):
    run = Run(tmp_path)
    run.sample()
    shards = run.evaluate(1)
    change(read_table(shards[1])).to_csv(shards[1], index=False)
    with pytest.raises(UserError) as raised:
        run.gather(1, shards)
    assert message in str(raised.value) and str(shards[1]) in str(raised.value) and "\n" not in str(raised.value)
    assert not run.path(1, "evaluations.csv").exists() and not run.path(1, "predictions.json").exists()


def test_gather_refuses_the_same_shard_twice(tmp_path):
    run = Run(tmp_path)
    run.sample()
    shards = run.evaluate(1)
    with pytest.raises(UserError, match="is a repeat"):
        run.gather(1, [*shards, shards[0]])


def test_gather_refuses_earlier_evaluations_of_other_columns(tmp_path):
    run = Run(tmp_path)
    run.all(1)
    run.propose(2)
    earlier = run.path(1, "evaluations.csv")
    read_table(earlier).drop(columns="acc_norm").to_csv(earlier, index=False)
    with pytest.raises(UserError, match=r"evaluations\.csv: its columns differ"):
        run.gather(2, run.evaluate(2))
    assert not run.path(2, "evaluations.csv").exists() and not run.path(2, "predictions.json").exists()


def test_gather_refuses_candidates_that_are_not_counted(tmp_path):
    run = Run(tmp_path)
    run.sample()
    shards = run.evaluate(1)
    read_table(run.path(1, "candidates.csv")).iloc[1:].to_csv(run.path(1, "candidates.csv"), index=False)
    with pytest.raises(UserError, match=r"candidates\.csv: column candidate must count 0, 1, 2"):
        run.gather(1, shards)


def test_a_predictor_refuses_too_few_networks(tmp_path):
    run = Run(tmp_path, population=2)
    run.all(1)
    with pytest.raises(UserError, match="--evaluations: a predictor needs at least 3 evaluated networks, not 2"):
        run.propose(2)
    assert not run.path(2, "candidates.csv").exists() and not run.path(2, "predictor.json").exists()


@pytest.mark.parametrize("algorithm", [name for name, kind in ALGORITHMS.items() if not kind.uses_predictor])
def test_an_algorithm_without_a_predictor_goes_on_from_two_networks(tmp_path, algorithm):
    run = Run(tmp_path, algorithm=algorithm, population=2)
    run.all(1)
    run.propose(2)
    assert len(read_table(run.path(2, "candidates.csv"))) == 2


def test_evaluations_of_another_space_are_refused(tmp_path):
    run = Run(tmp_path)
    run.all(1)
    declared = read_json(run.inputs["space"])
    write_json(run.inputs["space"], declared | {"depths": declared["depths"][-1:]})
    with pytest.raises(UserError, match="which is none of the space's choices"):
        run.propose(2)
    with pytest.raises(UserError, match="which is none of the space's choices"):
        run.front(1)


def test_a_file_that_is_no_space_is_named(tmp_path):
    run = Run(tmp_path)
    write_json(run.inputs["space"], {"depths": [9, 10, 12]})
    with pytest.raises(UserError, match=r"space\.json: not a file written by `llama-nas declare-space`"):
        run.sample()


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
    inputs = f"--space {run.inputs['space']} --task {run.inputs['task']}"

    def refused(options: str, message: str) -> None:
        arguments = f"sample {inputs} --seed 1 --population 4 --variant default {options}"
        assert cli.main([*arguments.split(), "--output", str(tmp_path / "candidates.csv")]) == 2
        said = capsys.readouterr().err
        assert said.startswith("llama-nas sample: error: ") and message in said and said.count("\n") == 1
        assert not (tmp_path / "candidates.csv").exists()

    refused("--algorithm magic", "search.algorithm 'magic' is not known; known: linas, nsga2, random, additive")
    refused("--algorithm linas --max-size 1kB", "search.max_size 1kB: the smallest network of the space has")
    refused("--algorithm linas --search-items 9999", "tasks.toy.search_items 9999 must lie in 2..498")


def test_depths_that_a_model_does_not_have_are_refused_where_the_space_is_declared(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(SHAPE)))
    arguments = f"declare-space --model {tmp_path} --depths 9 13 --widths 256 128 --output {tmp_path / 'space.json'}"
    assert cli.main(arguments.split()) == 2
    message = capsys.readouterr().err
    assert "space.depths [9, 13] must lie in 1..12" in message and message.count("\n") == 1
