"""Fronts judged on each other's tasks, and the maps of good networks compared."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.support.spaces import network, small_space

from llama_nas.analysis.transfer import (
    MAP_COLUMNS,
    MATRIX_COLUMNS,
    Networks,
    best_for_all,
    cell_text,
    compare_tasks,
    correlation,
    map_correlations,
    width_map,
)
from llama_nas.core.artifacts import read_table, write_table
from llama_nas.core.errors import UserError
from llama_nas.core.items import Items, draw_groups
from llama_nas.core.judgement import Metric
from llama_nas.core.shape import ModelShape
from llama_nas.core.space import SearchSpace
from llama_nas.search.transfer import choose_transfer

SHAPE = ModelShape(
    model_type="llama",
    hidden_size=64,
    intermediate_size=176,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=4,
    head_dim=16,
    vocab_size=512,
)
SPACE = SearchSpace.declare(SHAPE, [4, 6], [176, 88])
FULL, OF_EASY, OF_HARD, OF_BOTH = "000000", "110000", "000011", "111100"
FRONTS = {"easy": [OF_BOTH, OF_EASY], "hard": [OF_BOTH, OF_HARD]}  # ascending in size
ITEMS, SEARCHED = 600, 300
ACCURACY = Metric("acc", True)


class Run:
    """The artifacts of two searches, whose networks answer like the base but for what each loses."""

    def __init__(self, root: Path) -> None:
        self.root = root
        SPACE.write(root / "space.json")
        self.shards: list[str] = []

    def add(self, task: str, losses: dict[str, int], search_items: int = SEARCHED) -> None:
        """A task of groups of two items; losses: by network how many of the judged items it forgets."""
        rng = np.random.default_rng(len(task))
        groups = np.repeat(np.arange(ITEMS // 2), 2)
        subtasks = np.zeros(ITEMS, dtype=int)
        items = Items(subtasks, groups, np.ones(ITEMS), draw_groups(subtasks, groups))
        folder = self.root / "tasks" / task
        folder.mkdir(parents=True)
        items.write(folder)
        (folder / "task.json").write_text(json.dumps({"task": task, "metric": "acc", "higher_is_better": True}))
        base = (rng.random(ITEMS) < 0.8).astype(int)
        result = {"task": task, "metric": "acc", "item_values": base.tolist()}
        (self.root / f"{task}_base.json").write_text(json.dumps(result))
        judged = items.judged(search_items or None, task)
        rows = []
        for number, (id, lost) in enumerate(losses.items()):
            answers = base[judged].copy()
            answers[np.flatnonzero(answers)[:lost]] = 0
            rows.append({"candidate": number, "subnet_id": id, "answers": "".join(map(str, answers))})
        shard = self.root / f"{task}_shard.csv"
        write_table(shard, pd.DataFrame(rows))
        self.shards.append(f"{task}={shard}")
        front = [{"subnet_id": id, "on_front": True, "verdict": "shown", "max_drop": 0.01} for id in FRONTS[task]]
        write_table(self.root / f"{task}_judgement.csv", pd.DataFrame(front))
        values = rng.random(40)
        networks = [SPACE.id(SPACE.subnet(SPACE.random(rng))) for _ in values]
        write_table(self.root / f"{task}_evaluations.csv", pd.DataFrame({"subnet_id": networks, "acc": values}))

    def compare(self, search_items: int = SEARCHED) -> pd.DataFrame:
        """The matrix; everything is written below `out`."""
        tasks, out = list(FRONTS), self.root / "out"
        compare_tasks(
            space=self.root / "space.json",
            tasks=[self.root / "tasks" / task for task in tasks],
            evaluations=[self.root / f"{task}_evaluations.csv" for task in tasks],
            judgements=[self.root / f"{task}_judgement.csv" for task in tasks],
            bases=[self.root / f"{task}_base.json" for task in tasks],
            shards=self.shards,
            search_items=[search_items] * len(tasks),
            seed=1,
            matrix=out / "matrix.csv",
            maps=out / "maps.csv",
            scores_figure=out / "scores.svg",
            maps_figure=out / "maps.svg",
        )
        return read_table(out / "matrix.csv", MATRIX_COLUMNS)


@pytest.fixture
def run(tmp_path) -> Run:
    """Each task's own network loses nothing at home and 60 of 300 judged items abroad; one loses nothing anywhere."""
    run = Run(tmp_path)
    run.add("easy", {FULL: 0, OF_EASY: 0, OF_HARD: 60, OF_BOTH: 0})
    run.add("hard", {FULL: 0, OF_EASY: 60, OF_HARD: 0, OF_BOTH: 0})
    return run


def cell(matrix: pd.DataFrame, home: str, id: str, task: str) -> pd.Series:
    found = matrix[(matrix["home"] == home) & (matrix["subnet_id"] == id) & (matrix["task"] == task)]
    assert len(found) == 1
    return found.iloc[0]


def test_every_member_is_judged_on_every_task(run):
    matrix = run.compare()
    assert list(matrix.columns) == MATRIX_COLUMNS
    assert len(matrix) == 2 * (2 + 2 + 1)  # tasks, and the members of two fronts and the full network
    abroad = cell(matrix, "easy", OF_EASY, "hard")
    assert abroad["verdict"] == "worse" and abroad["difference"] == pytest.approx(-0.2)
    assert abroad["lower"] < -0.2 < abroad["upper"] < -0.01
    assert abroad["value"] == pytest.approx(abroad["base"] - 0.2)
    assert abroad["items"] == 300 and abroad["groups"] == 150
    at_home = cell(matrix, "easy", OF_EASY, "easy")
    assert at_home["verdict"] == "shown" and at_home["difference"] == 0
    assert at_home["size_bytes"] == 2 * at_home["parameters"] == SHAPE.size_bytes(SPACE.parse(OF_EASY), "fp16")
    assert set(matrix.loc[matrix["home"] == "full", "subnet_id"]) == {FULL}


def test_on_another_task_none_is_shown_after_a_larger_one_that_is_not(run):
    matrix = run.compare()
    assert cell(matrix, "easy", OF_BOTH, "hard")["verdict"] == "not refuted"  # OF_EASY, larger, is worse there
    assert cell(matrix, "easy", OF_BOTH, "easy")["verdict"] == "shown"  # as judgement.csv says


def test_best_for_all_is_the_smallest_that_no_task_speaks_against(run):
    matrix = run.compare()
    best = matrix[matrix["best_for_all"]]
    assert set(best["subnet_id"]) == {OF_BOTH} and set(best["all_tasks"]) == {"not refuted"}
    assert set(matrix.loc[matrix["subnet_id"].isin([OF_EASY, OF_HARD]), "all_tasks"]) == {"worse"}


@pytest.mark.parametrize(
    ("alone", "best", "verdict"),
    [
        ({"big": ["shown", "shown"], "small": ["shown", "shown"]}, "small", "shown"),
        ({"big": ["shown", "shown"], "small": ["shown", "not refuted"]}, "big", "shown"),
        ({"big": ["worse", "shown"], "small": ["shown", "shown"]}, "small", "not refuted"),
        ({"big": ["shown", "worse"], "small": ["worse", "shown"]}, "full", None),
    ],
)
def test_a_network_is_as_good_as_on_its_worst_task(alone, best, verdict):
    together, chosen = best_for_all(list(alone), {"big": 2, "small": 1}, alone, "full")
    assert chosen == best and together.get(chosen) == verdict


def test_without_search_items_all_items_are_judged(tmp_path):
    run = Run(tmp_path)
    for task in FRONTS:
        run.add(task, dict.fromkeys([FULL, OF_EASY, OF_HARD, OF_BOTH], 0), search_items=0)
    matrix = run.compare(search_items=0)
    assert set(matrix["items"]) == {ITEMS} and set(matrix["verdict"]) == {"shown"}


def test_a_member_that_was_not_evaluated_is_an_error(tmp_path):
    run = Run(tmp_path)
    run.add("easy", {FULL: 0, OF_EASY: 0, OF_BOTH: 0})
    run.add("hard", {FULL: 0, OF_EASY: 0, OF_HARD: 0, OF_BOTH: 0})
    with pytest.raises(UserError, match=f"task 'easy': network {OF_HARD} is on a front but was not evaluated"):
        run.compare()


def test_answers_on_other_items_are_an_error(run):
    with pytest.raises(UserError, match="has other than 200 answers; evaluate it again"):
        run.compare(search_items=400)


def test_same_inputs_same_bytes(run):
    run.compare()
    first = {path.name: path.read_bytes() for path in (run.root / "out").iterdir()}
    run.compare()
    assert first == {path.name: path.read_bytes() for path in (run.root / "out").iterdir()}
    assert sorted(first) == ["maps.csv", "maps.svg", "matrix.csv", "scores.svg"]


def test_a_point_says_which_network_it_is_whose_and_what_it_gains(run):
    run.compare()
    titles = re.findall(r"<title>(.*?)</title>", (run.root / "out/scores.svg").read_text(), re.DOTALL)
    assert len(titles) == 2 * (2 + 2 + 1)
    (abroad,) = [title for title in titles if "points" in title and "−20.0" in title and OF_EASY in title]
    first, size, judged = abroad.splitlines()
    assert first == f"{OF_EASY}, on the front of easy" and size == "0.667 MB"
    assert judged.startswith("−20.0 points (−") and judged.endswith("): worse")


def test_the_full_network_and_each_member_are_candidates_once(tmp_path):
    SPACE.write(tmp_path / "space.json")
    fronts = []
    for task, ids in FRONTS.items():
        fronts.append(tmp_path / f"{task}.csv")
        write_table(fronts[-1], pd.DataFrame({"subnet_id": ids}))
    outputs = [tmp_path / "a/candidates.csv", tmp_path / "b/candidates.csv"]
    choose_transfer(space=tmp_path / "space.json", fronts=fronts, outputs=outputs)
    table = read_table(outputs[0], ["candidate", "subnet_id", "origin", "predicted"])
    assert list(table["subnet_id"]) == [FULL, OF_BOTH, OF_EASY, OF_HARD]
    assert list(table["origin"]) == ["full", "front", "front", "front"]
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


TEN = small_space([8, 10], [100, 50])  # kept layers and widths of the searches that are mapped
EARLY = np.arange(10, 0, -1) ** 2
LATE = EARLY[::-1]


def searched(weights: Sequence[int] | np.ndarray, seed: int = 0) -> Networks:
    """Networks of ten layers; one is the better the more of its layers are full, each by its weight, and by chance."""
    rng = np.random.default_rng(seed)
    full = rng.integers(2, size=(400, 10))
    ids = [TEN.id(network([100 if wide else 50 for wide in row])) for row in full]
    return Networks.of(
        TEN, pd.DataFrame({"subnet_id": ids, "acc": full @ np.array(weights) + rng.random(400)}), ACCURACY
    )


def test_the_map_shows_which_layers_good_networks_keep_full():
    of_8, of_10 = width_map(searched(EARLY), TEN.depths).reshape(2, 10)
    assert of_10[:3].min() > of_10[5:].max()
    assert of_10.mean() == pytest.approx(0)
    assert np.isnan(of_8).all()


def test_a_layer_count_with_few_networks_has_no_map():
    few = searched(EARLY).some(np.arange(7))
    assert np.isnan(width_map(few, TEN.depths)).all()
    assert np.isnan(map_correlations({"few": few}, TEN.depths, seed=1)["correlation"]).all()


def test_equal_maps_have_no_correlation():
    assert np.isnan(correlation(np.zeros(6), np.arange(6.0)))
    assert correlation(np.array([1, 2, 3, np.nan]), np.array([10, 20, 30, 0])) == pytest.approx(1)


def test_tasks_that_want_other_layers_agree_less_than_the_halves_of_one():
    """Two searches of the same task agree as much as their halves do; of another task, they do the opposite."""
    networks = {"one": searched(EARLY), "same": searched(EARLY, seed=1), "other": searched(LATE, seed=2)}
    table = map_correlations(networks, TEN.depths, seed=1)
    assert list(table.columns) == MAP_COLUMNS
    found = table.set_index(["task", "other"])["correlation"]
    assert found["one", "one"] > 0.6 and found["one", "same"] > 0.6 and found["one", "other"] < -0.6
    assert (table["lower"] <= table["correlation"]).all() and (table["correlation"] <= table["upper"]).all()
    whole = table.set_index(["task", "other"])["whole"]
    assert np.isnan(whole["one", "one"]) and whole["one", "other"] < -0.6
    assert set(table["points"]) == {10}


def test_what_only_noise_decides_does_not_correlate():
    (row,) = map_correlations({"one": searched([0] * 10, seed=3)}, TEN.depths, seed=1).to_dict("records")
    assert abs(row["correlation"]) < 0.4 and row["lower"] < 0 < row["upper"]


def test_a_cell_of_the_maps_figure_has_the_correlation_or_why_there_is_none():
    (row,) = map_correlations({"few": searched(EARLY).some(np.arange(7))}, TEN.depths, seed=1).to_dict("records")
    assert cell_text(row) == "too few\nnetworks"
    assert cell_text({"correlation": -0.25, "lower": -0.776, "upper": 0.618}) == "−0.25\n−0.78 to 0.62"
