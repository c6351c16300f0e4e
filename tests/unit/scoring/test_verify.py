"""The stage `verify`: the search's scorer compared with a stock result of the same network."""

import numpy as np
import pytest

from llama_nas.core.artifacts import read_json, write_json
from llama_nas.core.errors import UserError
from llama_nas.core.settings import Compute
from llama_nas.models.elastic import load_elastic
from llama_nas.scoring.forward import score_task
from llama_nas.scoring.verify import verify


@pytest.fixture
def task(compiled, tiny):
    return compiled("arc_easy", "acc", tiny, limit=8)


@pytest.fixture
def verified(task, tiny, space_file, tmp_path):
    """A function that takes log-likelihoods for lm-eval's of network 110x, and returns the agreement record."""

    def run(log_likelihoods: np.ndarray, precision: str = "fp32") -> dict:
        nested = np.split(log_likelihoods, task.item_starts[1:-1])
        record = {"task": "t", "precision": precision, "loglikelihoods": [item.tolist() for item in nested]}
        write_json(tmp_path / "benchmark.json", record)
        verify(
            tmp_path / "agreement.json",
            supernet=tiny,
            space=space_file,
            subnet="110x",
            task=tmp_path / "task",
            benchmark=tmp_path / "benchmark.json",
            dtype="fp32",
            compute=Compute(),
        )
        return read_json(tmp_path / "agreement.json")

    return run


def test_disagreement_is_found_and_stated(verified, task, tiny, space):
    (exact,) = score_task(load_elastic(tiny), task, [space.parse("110x")]).log_likelihoods
    assert verified(exact)["agrees"] is True

    off = exact.copy()
    off[5] += 2e-4 * task.scored_tokens()[5]
    record = verified(off)
    assert record["agrees"] is False and record["flipped_items"] == []
    assert record["max_difference_per_token"] == pytest.approx(2e-4, rel=1e-3)

    flipped = exact.copy()
    first = slice(*task.item_starts[:2])
    flipped[first] = np.sort(exact[first])[:: -1 if exact[first].argmax() else 1]
    record = verified(flipped)
    assert record["agrees"] is False
    assert [item["item"] for item in record["flipped_items"]] == [0]
    assert record["flipped_items"][0]["search_scorer"] == exact[first].argmax()


def test_results_of_something_else_are_refused(verified, task):
    with pytest.raises(UserError, match="precision fp16 is not the search's, fp32"):
        verified(np.zeros(task.num_requests), precision="fp16")
    with pytest.raises(UserError, match="not a result of `llama-nas run-lm-eval` on the same items"):
        verified(np.zeros(task.num_requests + 1))
