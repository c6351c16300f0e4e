"""The stage `evaluate`: shards, some of the items, items held out, what is refused."""

import dataclasses
import io

import numpy as np
import pandas as pd
import pytest
from tests.support.models import write_supernet

from llama_nas.core.artifacts import read_json
from llama_nas.core.errors import UserError
from llama_nas.core.items import Items
from llama_nas.core.judgement import Metric, parse_answers
from llama_nas.core.settings import Compute
from llama_nas.models.elastic import load_elastic
from llama_nas.scoring.evaluate import evaluate
from llama_nas.scoring.forward import score_task
from llama_nas.scoring.metrics import compute_metrics


@pytest.fixture
def shard(compiled, tiny, space_file, tmp_path):
    """A function that evaluates one shard of five candidates on six items, and returns the text of its table."""
    compiled("arc_easy", "acc_norm", tiny, limit=6)
    rows = ["0,0000,random,", "1,000x,random,", "2,1100,nsga,0.31", "3,10xx,nsga,0.3", "4,0101,nsga,0.2"]
    (tmp_path / "candidates.csv").write_text("\n".join(["candidate,subnet_id,origin,predicted", *rows, ""]))

    def run(shard: int, shards: int, **changes) -> str:
        output = tmp_path / f"shard_{shard}-of-{shards}.csv"
        settings = {
            "supernet": tiny,
            "space": space_file,
            "task": tmp_path / "task",
            "candidates": tmp_path / "candidates.csv",
            "dtype": "fp32",
            "compute": Compute(),
            "timings": tmp_path / "timings.json",
        }
        evaluate(output, shard=shard, shards=shards, **settings | changes)
        return output.read_text()

    return run


def test_shards_are_the_rows_of_one_table_byte_for_byte(shard):
    whole = shard(1, 1)
    header = whole.splitlines()[0]
    assert header == "candidate,subnet_id,acc_norm,acc_norm_stderr,acc,acc_stderr,items"
    assert [line.split(",")[1] for line in whole.splitlines()[1:]] == ["0000", "000x", "1100", "10xx", "0101"]
    for shards in (2, 3, 7):
        parts = [shard(number, shards).splitlines() for number in range(1, shards + 1)]
        assert all(part[0] == header for part in parts)
        assert "\n".join([header, *sorted(line for part in parts for line in part[1:]), ""]) == whole


def test_timings_say_what_the_scoring_took(shard, tmp_path):
    shard(1, 1)
    timings = read_json(tmp_path / "timings.json")
    assert {"load_seconds", "seconds", "tokens_per_second", "device", "threads", "host"} <= timings.keys()
    assert (timings["task"], timings["networks"], timings["items"], timings["dtype"]) == ("t", 5, 6, "fp32")
    # On one group of tokens. Separate networks apply 4 + 3 + 4 + 2 + 4 layers. In sorted order 0000, 000x, 0101, 10xx,
    # 1100 the second shares 3 layers with the first, the third 1, the last 1 with the fourth.
    assert timings["layer_passes_saved"] == 3 + 1 + 0 + 1
    assert timings["layer_passes"] == 17 - timings["layer_passes_saved"]


def read(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text), dtype={"answers": str})


def test_answers_are_those_to_the_items_that_a_search_on_some_items_leaves(shard, tmp_path):
    """A score on all items is that of the search's items and of the others, in proportion."""
    every, searched = read(shard(1, 1, judged=True, search_items=4)), read(shard(1, 1, search_items=4))
    assert list(every.columns)[-2:] == ["answers", "items"] and "answers" not in searched
    assert (every["items"] == 6).all() and (searched["items"] == 4).all()
    others = [answers.count("1") for answers in every["answers"]]
    assert {len(answers) for answers in every["answers"]} == {2}
    assert every["acc_norm"].tolist() == pytest.approx(((4 * searched["acc_norm"] + others) / 6).tolist())
    with pytest.raises(UserError, match=r"search_items 6 must lie in 2\.\.4"):
        shard(1, 1, search_items=6)
    held_out = Items.read(tmp_path / "task").judged(4, "t")
    whole = read(shard(1, 1, judged=True))["answers"]
    assert [answers.count("1") / 6 for answers in whole] == pytest.approx(every["acc_norm"].tolist())
    assert ["".join(answers[item] for item in held_out) for answers in whole] == every["answers"].tolist()


def test_answers_of_texts_are_their_log_likelihoods(compiled, shard, tiny, tmp_path):
    task = compiled("tinystories", "bits_per_byte", tiny, limit=6)
    table = read(shard(1, 1, judged=True, search_items=3))
    held_out = task.items.judged(3, "t")
    (values,) = score_task(load_elastic(tiny), task, [None]).log_likelihoods
    answers = [float(value) for value in table["answers"].iloc[0].split()]  # of 0000, the full network
    assert len(held_out) == 3 and answers == pytest.approx(values[held_out].tolist(), rel=1e-5)
    metric, whole = Metric("bits_per_byte", False), read(shard(1, 1, judged=True))
    for text, value in zip(whole["answers"], whole["bits_per_byte"], strict=True):
        assert metric.score(task.items, parse_answers(text, metric)) == pytest.approx(value)


def test_bad_shard_candidate_or_model_is_one_clear_line(shard, space, tmp_path):
    with pytest.raises(UserError, match=r"--shard 3: must lie in 1\.\.2"):
        shard(3, 2)
    dataclasses.replace(space, blocks=space.blocks[:1]).write(tmp_path / "space.json")
    with pytest.raises(UserError, match="subnet id '1100' is not valid here"):
        shard(1, 1, space=tmp_path / "space.json")
    with pytest.raises(UserError, match=r"other: its config\.json has another shape than the space was declared on"):
        shard(1, 1, supernet=write_supernet(tmp_path / "other"))


def test_some_items_are_the_same_for_all_and_keep_their_scores(compiled, tiny):
    """30 of 60 items of two subjects of unequal size, drawn in proportion; figures are those of the items alone."""
    subjects = ["abstract_algebra", "anatomy"]
    task = compiled("mmlu", "acc", tiny, limit=30, subtasks=subjects)
    some = task.random_items(20)
    assert np.bincount(some.items.subtasks).tolist() == [10, 10] and some.num_items == some.info["items"] == 20
    model = load_elastic(tiny)
    every, own = (score_task(model, t, [None]).log_likelihoods[0] for t in (task, some))
    matches = [np.flatnonzero(np.isclose(every, value, rtol=1e-5)) for value in own]
    items = {int(np.searchsorted(task.item_starts, m[0], side="right")) for m in matches}
    assert len(items) == 20
    np.testing.assert_array_equal(score_task(model, task.random_items(20), [None]).log_likelihoods[0], own)
    assert compute_metrics(some, own)["acc_stderr"] > compute_metrics(task, every)["acc_stderr"]


def test_a_search_may_use_as_many_items_as_leave_every_subject_on_both_sides(compiled, tiny):
    task = compiled("mmlu", "acc", tiny, limit=30, subtasks=["abstract_algebra", "anatomy"])
    fewest, most = task.info["search_items_range"]
    assert (fewest, most) == (2, 58) and task.info["item_groups"] == 60
    for count in (fewest, most):
        assert all(len(np.unique(task.items.subtasks[side])) == 2 for side in task.items.split(count, "t"))
    for count in (fewest - 1, most + 1):
        with pytest.raises(UserError, match=rf"search_items {count} must lie in 2\.\.58"):
            task.random_items(count)
