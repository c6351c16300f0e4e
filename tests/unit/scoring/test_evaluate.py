"""Scoring by the stages `evaluate` and `verify`: shards, chunks, some of the items, half precision, what is refused."""

import io

import numpy as np
import pandas as pd
import pytest
from scoring_cases import WIDTHS, compiled, tiny_llama

from llama_nas.core.artifacts import read_json, write_json
from llama_nas.core.errors import UserError
from llama_nas.core.space import parse_id
from llama_nas.models.elastic import load_elastic
from llama_nas.scoring.evaluate import evaluate_shard
from llama_nas.scoring.forward import score
from llama_nas.scoring.metrics import compute_metrics
from llama_nas.scoring.verify import verify_against_benchmark


@pytest.fixture(scope="module")
def stories(hub):
    return hub / "karpathy/stories260K"


@pytest.fixture(scope="module")
def tiny(stories, tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("tiny"), stories)


def test_result_does_not_depend_on_the_chunk_bound(hub, tiny, tmp_path):
    results, chunks = [], []
    for chunk_tokens in (64, 333, 5000):
        output = tmp_path / str(chunk_tokens)
        task = compiled(output, "arc_easy", "acc", tiny, hub, limit=30, chunk_tokens=chunk_tokens)
        results.append(score(load_elastic(tiny), task, [None]).log_likelihoods[0])
        chunks.append(task.trie.num_chunks)
    assert chunks[0] > chunks[1] > chunks[2]
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=1e-5)


def test_some_items_are_the_same_for_all_and_keep_their_scores(hub, tiny, tmp_path):
    """30 of 60 items of two subjects of unequal size, drawn in proportion; figures are those of the items alone."""
    subjects = ["abstract_algebra", "anatomy"]
    task = compiled(tmp_path / "t", "mmlu", "acc", tiny, hub, limit=30, subtasks=subjects)
    some = task.random_items(20)
    assert np.bincount(some.subtasks).tolist() == [10, 10] and some.num_items == some.info["items"] == 20
    model = load_elastic(tiny)
    every, own = (score(model, t, [None]).log_likelihoods[0] for t in (task, some))
    matches = [np.flatnonzero(np.isclose(every, value, rtol=1e-5)) for value in own]
    items = {int(np.searchsorted(task.item_starts, m[0], side="right")) for m in matches}
    assert len(items) == 20
    np.testing.assert_array_equal(score(model, task.random_items(20), [None]).log_likelihoods[0], own)
    assert compute_metrics(some, own)["acc_stderr"] > compute_metrics(task, every)["acc_stderr"]
    fewest, most = task.info["search_items_range"]
    assert (fewest, most) == (2, 58)
    for count in (fewest, most):
        assert all(len(np.unique(task.subtasks[side])) == 2 for side in task.split(count))
    for count in (fewest - 1, most + 1):
        with pytest.raises(UserError, match=rf"search_items {count} must lie in 2\.\.58"):
            task.random_items(count)


def test_half_precision_sums_stay_near_full_precision(hub, tiny, tmp_path):
    task = compiled(tmp_path / "t", "arc_easy", "acc", tiny, hub, limit=10)
    (full,) = score(load_elastic(tiny, "fp32"), task, [None]).log_likelihoods
    (half,) = score(load_elastic(tiny, "bf16"), task, [None]).log_likelihoods
    assert 0 < np.abs(full - half).max() < 0.05 * np.abs(full).max()


@pytest.fixture
def shard_run(hub, tiny, tmp_path):
    compiled(tmp_path / "task", "arc_easy", "acc_norm", tiny, hub, limit=6)
    rows = ["0,0000,random,", "1,000x,random,", "2,1100,nsga,0.31", "3,10xx,nsga,0.3", "4,0101,nsga,0.2"]
    (tmp_path / "candidates.csv").write_text("\n".join(["candidate,subnet_id,origin,predicted", *rows, ""]))

    def run(shard, shards, **changes):
        output = tmp_path / f"shard_{shard}-of-{shards}.csv"
        settings = {"depths": [2, 3, 4], "widths": WIDTHS, "depth_selection": "first", "dtype": "fp32"}
        evaluate_shard(
            output,
            supernet=tiny,
            task=tmp_path / "task",
            candidates=tmp_path / "candidates.csv",
            shard=shard,
            shards=shards,
            device="cpu",
            threads=1,
            timings=tmp_path / "timings.json",
            **({"items": None} | settings | changes),
        )
        return output.read_text()

    return run


def test_shards_are_the_rows_of_one_table_byte_for_byte(shard_run, tmp_path):
    whole = shard_run(1, 1)
    header = whole.splitlines()[0]
    assert header == "candidate,subnet_id,acc_norm,acc_norm_stderr,acc,acc_stderr,items"
    assert [line.split(",")[1] for line in whole.splitlines()[1:]] == ["0000", "000x", "1100", "10xx", "0101"]
    for shards in (2, 3, 7):
        parts = [shard_run(shard, shards).splitlines() for shard in range(1, shards + 1)]
        assert all(part[0] == header for part in parts)
        assert "\n".join([header, *sorted(line for part in parts for line in part[1:]), ""]) == whole
    timings = read_json(tmp_path / "timings.json")
    assert {
        "seconds",
        "items",
        "distinct_tokens",
        "layer_passes",
        "layer_passes_saved",
        "tokens_per_second",
        "host",
    } <= set(timings)


def test_held_out_items_are_those_that_a_search_on_some_items_leaves(shard_run):
    """A score on all items is that of the search's items and of the others, in proportion."""
    every, searched = shard_run(1, 1, held_out=4), shard_run(1, 1, items=4)
    every, searched = (pd.read_csv(io.StringIO(text), dtype={"answers": str}) for text in (every, searched))
    assert list(every.columns)[-5:] == ["held_out", "held_out_stderr", "held_out_items", "answers", "items"]
    assert (every["held_out_items"] == 2).all() and (every["items"] == 6).all() and (searched["items"] == 4).all()
    pooled = (4 * searched["acc_norm"] + 2 * every["held_out"]) / 6
    assert every["acc_norm"].tolist() == pytest.approx(pooled.tolist())
    assert every["held_out"].tolist() == [answers.count("1") / 2 for answers in every["answers"]]
    with pytest.raises(UserError, match=r"search_items 6 must lie in 1\.\.5"):
        shard_run(1, 1, items=6)


def test_bad_shard_or_candidate_is_one_clear_line(shard_run, tmp_path):
    with pytest.raises(UserError, match=r"--shard 3: must lie in 1\.\.2"):
        shard_run(3, 2)
    with pytest.raises(UserError, match="subnet id '1100' is not valid here"):
        shard_run(1, 1, widths=WIDTHS[:1])


def test_model_that_does_not_fit_the_task_is_one_clear_line(hub, tiny, stories, tmp_path):
    task = compiled(tmp_path / "t", "arc_easy", "acc", tiny, hub, limit=6)
    model = load_elastic(tiny)
    for key, value, message in [
        ("vocab_size", 300, "vocabulary 300"),
        ("max_position_embeddings", 20, "20 positions"),
        ("sliding_window", 32, "sliding window 32"),
    ]:
        stock = getattr(model.config, key, None)
        setattr(model.config, key, value)
        with pytest.raises(UserError, match=message):
            score(model, task, [None])
        setattr(model.config, key, stock)


def verify(tmp_path, tiny, log_likelihoods, task, dtype="fp32", precision="fp32"):
    nested = np.split(log_likelihoods, task.item_starts[1:-1])
    record = {"task": "t", "precision": precision, "loglikelihoods": [item.tolist() for item in nested]}
    write_json(tmp_path / "benchmark.json", record)
    verify_against_benchmark(
        tmp_path / "agreement.json",
        supernet=tiny,
        widths=WIDTHS,
        subnet_id="110x",
        task=tmp_path / "t",
        benchmark=tmp_path / "benchmark.json",
        dtype=dtype,
        device="cpu",
        threads=1,
    )
    return read_json(tmp_path / "agreement.json")


def test_disagreement_is_found_and_stated(hub, tiny, tmp_path):
    task = compiled(tmp_path / "t", "arc_easy", "acc", tiny, hub, limit=8)
    (exact,) = score(load_elastic(tiny), task, [parse_id("110x", 4, WIDTHS)]).log_likelihoods
    assert verify(tmp_path, tiny, exact, task)["agrees"] is True

    off = exact.copy()
    off[5] += 2e-4 * task.scored_tokens()[5]
    record = verify(tmp_path, tiny, off, task)
    assert record["agrees"] is False and record["flipped_items"] == []
    assert record["max_difference_per_token"] == pytest.approx(2e-4, rel=1e-3)

    flipped = exact.copy()
    first = slice(*task.item_starts[:2])
    flipped[first] = np.sort(exact[first])[:: -1 if exact[first].argmax() else 1]
    record = verify(tmp_path, tiny, flipped, task)
    assert record["agrees"] is False
    assert [item["item"] for item in record["flipped_items"]] == [0]
    assert record["flipped_items"][0]["search_scorer"] == exact[first].argmax()


def test_verify_refuses_results_of_something_else(hub, tiny, tmp_path):
    task = compiled(tmp_path / "t", "arc_easy", "acc", tiny, hub, limit=8)
    with pytest.raises(UserError, match="precision fp16 is not the search's, fp32"):
        verify(tmp_path, tiny, np.zeros(task.num_requests), task, precision="fp16")
    with pytest.raises(UserError, match="not a result of `llama-nas benchmark` on the same items"):
        verify(tmp_path, tiny, np.zeros(task.num_requests + 1), task)
