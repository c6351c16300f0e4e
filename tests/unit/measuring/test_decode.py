"""What one timed run of a phase computes: every run the same, whatever runs before it."""

import pytest
from tests.support.models import write_supernet

from llama_nas.measuring.throughput import Phase, run_seconds
from llama_nas.models.folder import load_model

CONTEXT, STEPS, BATCH = 16, 4, 2


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A model that notes, for each of its passes, how many tokens are in the cache and how many come in."""
    model = load_model(write_supernet(tmp_path_factory.mktemp("decode") / "base"), "fp32")
    passes: list[tuple[int, int]] = []

    def watch(tokens, past_key_values, **rest):
        passes.append((past_key_values.get_seq_length(), tokens.shape[1]))
        return model(tokens, past_key_values=past_key_values, **rest)

    class Watched:
        config, device = model.config, model.device
        noted = passes

        def __call__(self, tokens, **rest):
            return watch(tokens, **rest)

    return Watched()


def test_every_timed_decode_starts_behind_the_context_alone(watched):
    watched.noted.clear()
    seconds = run_seconds(watched, Phase("decode", BATCH, 1, STEPS, CONTEXT), runs=3)
    decode = [(CONTEXT + step, 1) for step in range(STEPS)]
    assert watched.noted == [(0, CONTEXT), *decode * 3]
    assert len(seconds) == 3


def test_every_timed_prefill_starts_with_an_empty_cache(watched):
    watched.noted.clear()
    run_seconds(watched, Phase("prefill", BATCH, CONTEXT, 1, 0), runs=3)
    assert watched.noted == [(0, CONTEXT)] * 3
