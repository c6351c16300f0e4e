"""What a run is: its batches, its identity, and the checks before anything runs."""

import dataclasses
import shutil

import pytest
from tests.support.training import ROW, write_rows

from llama_nas.core.errors import UserError
from llama_nas.core.space import SearchSpace
from llama_nas.training import launch, worker
from llama_nas.training.data import BatchOrder
from llama_nas.training.nodes import Node


def test_global_batch_must_be_met_exactly(config):
    assert dataclasses.replace(config, global_batch=12).accumulation == 3
    with pytest.raises(UserError, match=r"global_batch 10 must be a multiple of micro_batch 2 x ranks 2 = 4"):
        _ = dataclasses.replace(config, global_batch=10).accumulation


def test_total_steps_are_whole_batches_times_epochs(config):
    assert worker.total_steps(config, BatchOrder(20, 8, 1)) == 5
    paper = dataclasses.replace(config, epochs=6, global_batch=128)
    assert worker.total_steps(paper, BatchOrder(52_002, 128, 1)) == 2436  # reference: paper.md section 2


def test_a_run_is_described_before_it_starts(config, caplog):
    with caplog.at_level("INFO"):
        launch.check(config, Node())
    assert "20 rows" in caplog.text and "0 % padding" in caplog.text and "28 networks" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"global_batch": 24}, "20 usable rows do not fill one batch; training.global_batch is 24"),
        ({"offload_optimizer": True, "zero_stage": 0}, "offload_optimizer needs training.zero_stage 1, 2 or 3"),
        ({"device": "cuda", "ranks": 64, "global_batch": 128}, "needs 64 GPUs on this machine"),
    ],
)
def test_checks_name_the_setting_that_is_wrong(config, changes, message):
    with pytest.raises(UserError, match=message):
        launch.check(dataclasses.replace(config, **changes), Node())


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("base", r"config\.json: not found"),
        ("rows", "expected a folder written by `llama-nas tokenize`"),
        ("space", r"space\.json: not found"),
    ],
)
def test_checks_name_the_input_that_is_missing(config, tmp_path, key, message):
    missing = tmp_path / "space.json" if key == "space" else tmp_path
    with pytest.raises(UserError, match=message):
        launch.check(dataclasses.replace(config, **{key: missing}), Node())


def test_a_space_of_another_model_is_refused(config, space, tmp_path):
    shape = dataclasses.replace(space.shape, hidden_size=16)
    dataclasses.replace(space, shape=shape).write(tmp_path / "space.json")
    with pytest.raises(UserError, match=r"base: its config\.json has another shape than the space was declared on"):
        launch.check(dataclasses.replace(config, space=tmp_path / "space.json"), Node())


@pytest.mark.parametrize("key", ["checkpoint_every", "output", "checkpoints", "tensorboard"])
def test_identity_does_not_depend_on_where_a_run_writes_or_how_often_it_saves(config, tmp_path, key):
    value = 3 if key == "checkpoint_every" else tmp_path
    assert dataclasses.replace(config, **{key: value}).identity() == config.identity()


def test_identity_covers_what_the_weights_depend_on(config, space, tmp_path):
    rows = write_rows(tmp_path / "rows", config.base, [ROW] * 21)
    SearchSpace.declare(space.shape, [2, 3, 4], [48, 24], "even").write(tmp_path / "space.json")
    changes = ({"learning_rate": 2e-3}, {"ranks": 1}, {"seed": 2}, {"threads": 2}, {"freeze_inactive": True},
               {"distillation": 0.5}, {"rows": rows}, {"space": tmp_path / "space.json"})  # fmt: skip
    identities = {dataclasses.replace(config, **other).identity() for other in changes}
    assert len(identities | {config.identity()}) == 1 + len(changes)


def test_identity_depends_on_contents_not_on_paths(config, tmp_path):
    shutil.copytree(config.base, tmp_path / "base")
    shutil.copytree(config.rows, tmp_path / "rows")
    shutil.copyfile(config.space, tmp_path / "space.json")
    copies = {"base": tmp_path / "base", "rows": tmp_path / "rows", "space": tmp_path / "space.json"}
    assert dataclasses.replace(config, **copies).identity() == config.identity()
