"""Tries of tokens and of layers: what is shared, and that sharing changes no result.

The authority is the plainest scorer: one row per request through a stock transformers model.
"""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.spaces import network
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from llama_nas.core.shape import Block
from llama_nas.models.elastic import make_elastic, set_active
from llama_nas.scoring.forward import GroupRun, score_trie
from llama_nas.scoring.sharing import layer_passes, path, plan
from llama_nas.tasks.encode import fit_to_model
from llama_nas.tasks.trie import Scored, build_trie

MAX_LENGTH = 12
WIDTHS = (24, 12)


@cache
def model(dtype=torch.float32):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=5,
        hidden_size=16,
        intermediate_size=WIDTHS[0],
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=0.5,
    )
    return make_elastic(LlamaForCausalLM(config).to(dtype).eval())


# Few distinct tokens, so that equal requests, prefixes of others, and shared beginnings are frequent. Contexts reach
# beyond the model's length; a context of lm-eval has at least one token, also where the text is empty.
tokens = st.lists(st.integers(0, 2), min_size=1, max_size=9)
contexts = st.one_of(tokens, tokens.map(lambda end: [0, 1, 0, 1, 2, 2, *end]))
requests = st.lists(st.tuples(contexts, st.lists(st.integers(0, 2), min_size=1, max_size=4)), min_size=1, max_size=14)
bounds = st.tuples(st.sampled_from([1, 2, 3, 7, 50]), st.sampled_from([1, 4, 15, 200]))
subnets = st.builds(
    lambda depth, widths: network((*widths[:depth], *[None] * (3 - depth))),
    st.integers(1, 3),
    st.lists(st.sampled_from(WIDTHS), min_size=3, max_size=3),
)


def row_by_row(pairs, subnet):
    """Sum of log-probabilities of each continuation, and whether greedy decoding would have given it."""
    set_active(model(), subnet)
    values, greedy = [], []
    for context, continuation in pairs:
        row = torch.tensor([(context + continuation)[-(MAX_LENGTH + 1) :][:-1]])
        with torch.inference_mode():
            logits = model()(row).logits[0, -len(continuation) :]
        targets = torch.tensor(continuation)
        values.append(logits.log_softmax(-1).double()[range(len(targets)), targets].sum().item())
        greedy.append(bool((logits.argmax(-1) == targets).all()))
    set_active(model(), None)
    return np.array(values), np.array(greedy)


def make_trie(pairs, chunk_tokens, group_tokens):
    sequences = [fit_to_model(i, pair, MAX_LENGTH) for i, pair in enumerate(pairs)]
    return sequences, build_trie(sequences, chunk_tokens, group_tokens)


@settings(max_examples=60, deadline=None)
@given(requests, bounds, st.lists(subnets, min_size=1, max_size=4))
def test_scores_are_those_of_one_row_per_request(pairs, bounds, population):
    _, trie = make_trie(pairs, *bounds)
    scores = score_trie(model(), trie, len(pairs), population, label="t")
    for values, greedy, subnet in zip(scores.log_likelihoods, scores.greedy, population, strict=True):
        expected, expected_greedy = row_by_row(pairs, subnet)
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(greedy, expected_greedy)


@settings(max_examples=40, deadline=None)
@given(
    requests,
    bounds,
    st.lists(subnets, min_size=2, max_size=6),
    st.sampled_from([0, 500, 10**6]),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_result_is_the_same_bits_whatever_else_is_scored_and_kept(pairs, bounds, population, state_bytes, dtype):
    _, trie = make_trie(pairs, *bounds)
    together = score_trie(model(dtype), trie, len(pairs), population, label="t", state_bytes=state_bytes)
    alone = [score_trie(model(dtype), trie, len(pairs), [subnet], label="t") for subnet in population]
    np.testing.assert_array_equal(together.log_likelihoods, np.concatenate([s.log_likelihoods for s in alone]))
    separate = sum(s.layer_passes for s in alone)
    assert together.unshared_layer_passes == separate
    expected = trie.num_groups * layer_passes(plan(population))
    if state_bytes == 10**6:
        assert together.layer_passes == expected
    assert expected <= together.layer_passes <= separate


@settings(max_examples=200, deadline=None)
@given(requests, bounds)
def test_trie_reads_back_as_the_requests(pairs, bounds):
    chunk_tokens, group_tokens = bounds
    sequences, trie = make_trie(pairs, chunk_tokens, group_tokens)
    found, inputs = {}, []
    for group in trie.groups():
        prefixes = [
            tuple(int(group.tokens[a]) for a in range(i + 1) if a <= i < group.ends[a])
            for i in range(len(group.tokens))
        ]
        assert len(set(prefixes)) == len(prefixes), "each distinct prefix is one token of the group"
        assert [len(prefix) - 1 for prefix in prefixes] == group.positions.tolist()
        for row, target, request in zip(group.rows, group.targets, group.requests, strict=True):
            found.setdefault(int(request), []).append((prefixes[row], int(target)))
        for chunk in group.chunks():
            assert chunk.stop - chunk.start == min(chunk_tokens, len(group.tokens) - chunk.start)
            needed = {a for i in range(chunk.start, chunk.stop) for a in range(chunk.start) if i < group.ends[a]}
            assert needed == set(group.stem(chunk).tolist())
        inputs.append(prefixes)
        assert len(group.tokens) <= max(group_tokens, max(len(prefix) for prefix in prefixes))
    for sequence in sequences:
        first = len(sequence.tokens) - len(sequence.targets) + 1
        expected = [(sequence.tokens[: first + i], target) for i, target in enumerate(sequence.targets)]
        assert sorted(found[sequence.request]) == sorted(expected)
    if group_tokens == 200:
        distinct = {s.tokens[:n] for s in sequences for n in range(1, len(s.tokens) + 1)}
        assert [len(prefixes) for prefixes in inputs] == [len(distinct)]


@settings(max_examples=40, deadline=None)
@given(requests, bounds, st.data())
def test_trie_of_some_requests_scores_them_as_before(pairs, bounds, data):
    kept = data.draw(st.lists(st.integers(0, len(pairs) - 1), min_size=1, unique=True).map(sorted))
    sequences, trie = make_trie(pairs, *bounds)
    some = trie.of_requests(np.array(kept), bounds[0])
    full = network((WIDTHS[0],) * 3)
    every = score_trie(model(), trie, len(pairs), [full], label="t").log_likelihoods[0]
    scores = score_trie(model(), some, len(kept), [full], label="t").log_likelihoods[0]
    np.testing.assert_allclose(scores, every[kept], rtol=1e-5, atol=1e-5)
    distinct = {sequences[i].tokens[:n] for i in kept for n in range(1, len(sequences[i].tokens) + 1)}
    if bounds[1] == 200:
        assert len(some.tokens) == len(distinct)
    for group in some.groups():
        for chunk in group.chunks():
            needed = {a for i in range(chunk.start, chunk.stop) for a in range(chunk.start) if i < group.ends[a]}
            assert needed == set(group.stem(chunk).tolist()) and chunk.stop - chunk.start <= bounds[0]


def test_group_ends_where_its_neighbours_share_least():
    """Two subjects with long prefixes: the bound lies within the second, the cut between them."""
    subjects = [[Scored(10 * s + i, (s, *[3] * 20, i), (0,)) for i in range(10)] for s in range(2)]
    trie = build_trie([sequence for subject in subjects for sequence in subject], 8, 55)
    assert np.diff(trie.group_starts).tolist() == [31, 31]
    assert np.diff(trie.chunk_starts).tolist() == [8, 8, 8, 7] * 2


@settings(max_examples=200, deadline=None)
@given(st.lists(subnets, min_size=1, max_size=20))
def test_plan_computes_each_distinct_beginning_once(population):
    steps = plan(population)
    assert sorted(step.network for step in steps) == list(range(len(population)))
    beginnings = {path(subnet)[:depth] for subnet in population for depth in range(1, subnet.layers + 1)}
    assert layer_passes(steps) == len(beginnings)
    done = set()
    for step in steps:
        assert step.edges == path(population[step.network])
        assert step.start == 0 or step.edges[: step.start] in done
        done |= {step.edges[:depth] for depth in range(len(step.edges) + 1)}


@pytest.mark.parametrize(
    "networks, share",
    [
        ([network((2,) * 24 + (None,) * 8), network((2,) * 28 + (None,) * 4), network((2,) * 32)], 32 / 84),
        ([network((2,) * 32), network((1,) * 32)], 1.0),
        ([network((2,) * 31 + (1,)), network((2,) * 32)], 33 / 64),
    ],
)
def test_share_of_the_layer_passes(networks, share):
    assert layer_passes(plan(networks)) / sum(subnet.layers for subnet in networks) == share


class RefuseHostSync(TorchDispatchMode):
    """Fails on the operations that make a GPU's host wait: those whose Python value or shape depends on data."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function.overloadpacket)
        assert name not in HOST_SYNC, f"{name} waits for the device"
        assert name != "aten.index" or all(i is None or i.dtype != torch.bool for i in args[1]), "index by a mask waits"
        return function(*args, **(kwargs or {}))


HOST_SYNC = {
    "aten.item",
    "aten._local_scalar_dense",
    "aten.nonzero",
    "aten.masked_select",
    "aten.equal",
    "aten.is_nonzero",
}


def test_a_layer_on_all_chunks_never_waits_for_the_device():
    _, trie = make_trie([([0, 1, 2, 0, 1, 2, 0], [1, 1]), ([0, 1, 2, 0, 2], [2])], chunk_tokens=3, group_tokens=100)
    (group,) = trie.groups()
    with torch.inference_mode():
        run = GroupRun(model(), group)
        assert any(chunk.stem is not None for chunk in run._chunks)
        assert any(chunk.saved is not None for chunk in run._chunks)
        state = run.embed()
        with pytest.raises(AssertionError, match="waits"), RefuseHostSync():
            state.sum().item()
        with RefuseHostSync():
            run.apply((0, Block(mlp_width=WIDTHS[1])), state, in_place=False)
    set_active(model(), None)
