"""Which sub-network, rows and learning rate a step has."""

import itertools
import random
from collections import Counter

import numpy as np
import pytest
import torch
from tests.support.spaces import PAPER_SPACE

from llama_nas.training import worker
from llama_nas.training.data import BatchOrder, micro_batches, padding_share
from llama_nas.training.subnet_steps import subnet_at

# --- sampling -----------------------------------------------------------------------------------------------------


def test_even_steps_train_the_full_network(space):
    assert [subnet_at(step, space, 1) is None for step in range(6)] == [True, False] * 3
    assert all(subnet_at(step, space, 1, "never") is None for step in range(6))


def test_draw_depends_on_seed_and_step_alone(space):
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    first = [subnet_at(step, space, 1) for step in range(1, 40, 2)]
    random.seed(9), np.random.seed(9), torch.manual_seed(9)
    state = np.random.get_state()[1].copy()
    backwards = [subnet_at(step, space, 1) for step in range(39, 0, -2)]
    assert backwards[::-1] == first
    assert (np.random.get_state()[1] == state).all()
    assert [subnet_at(step, space, 2) for step in range(1, 40, 2)] != first


def test_every_sub_network_step_draws_anew():
    """In the paper's space, of 4.6e9 networks, no two of some hundred draws are the same."""
    for sampling in ("uniform", "stratified"):
        draws = [subnet_at(step, PAPER_SPACE, 1, sampling=sampling) for step in range(1, 401, 2)]
        ids = Counter(PAPER_SPACE.id(draw) for draw in draws if sampling == "uniform" or len(set(draw.blocks)) > 2)
        assert ids.total() > 50 and max(ids.values()) == 1


def test_draw_is_uniform_per_gene(space):
    """Chi-square over depths and over each width gene; the 99.99 % bounds hold for this fixed sequence."""
    draws = [space.genotype(subnet_at(step, space, 3)) for step in range(1, 6001, 2)]
    depths = np.bincount([draw[0] for draw in draws], minlength=3)
    assert ((depths - 1000) ** 2 / 1000).sum() < 18.4
    first_layer = np.bincount([draw[1] for draw in draws], minlength=2)
    assert ((first_layer - 1500) ** 2 / 1500).sum() < 15.1


def test_stratified_draws_every_number_of_narrow_layers_alike(space):
    """Chi-square over the number of narrow layers at each depth; the 99.99 % bound holds for this fixed sequence."""
    draws = [subnet_at(step, space, 3, sampling="stratified") for step in range(1, 12001, 2)]
    for depth in (2, 3, 4):
        narrow = [draw.widths.count(24) for draw in draws if draw.layers == depth]
        assert len(narrow) == pytest.approx(2000, abs=150)
        counts, expected = np.bincount(narrow, minlength=depth + 1), len(narrow) / (depth + 1)
        assert ((counts - expected) ** 2 / expected).sum() < 23.6
    uniform = [subnet_at(step, space, 3).widths.count(24) for step in range(1, 12001, 2)]
    assert uniform.count(4) < 0.6 * sum(draw.widths.count(24) == 4 for draw in draws)


def test_sandwich_trains_the_smallest_network_every_second_time(space):
    draws = [subnet_at(step, space, 1, sampling="sandwich") for step in range(1, 41, 2)]
    assert draws[::2] == [space.subnet((0, 1, 1, 1, 1))] * 10 and space.smallest == draws[0]
    assert draws[1::2] == [subnet_at(step, space, 1) for step in range(3, 41, 4)], "the others are the paper's"


# --- schedule -----------------------------------------------------------------------------------------------------


def test_learning_rate_warms_up_and_falls_to_zero():
    rates = [worker.learning_rate_at(step, 100, 2.0, 0.1) for step in range(100)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) * 0.2)
    assert rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0), "half-way down the cosine"
    assert all(earlier > later > 0 for earlier, later in itertools.pairwise(rates[10:]))
    assert worker.learning_rate_at(100, 100, 2.0, 0.1) == pytest.approx(0)
    assert worker.learning_rate_at(0, 10, 2.0, 0.0) == 2.0
    assert worker.learning_rate_at(9, 10, 2.0, 1.0) == 2.0


# --- order --------------------------------------------------------------------------------------------------------


def test_every_epoch_is_a_new_shuffle_without_its_last_partial_batch():
    order = BatchOrder(rows=22, global_batch=8, seed=1)
    assert order.steps_per_epoch == 2
    epochs = [np.concatenate([order.batch(step) for step in (2 * epoch, 2 * epoch + 1)]) for epoch in range(3)]
    for rows in epochs:
        assert len(set(rows)) == 16 and set(rows) <= set(range(22))
    assert not (epochs[0] == epochs[1]).all()
    assert (order.batch(3) == BatchOrder(22, 8, 1).batch(3)).all()
    assert not (order.batch(3) == BatchOrder(22, 8, 2).batch(3)).all()


@pytest.mark.parametrize(("ranks", "micro_batch"), [(1, 8), (2, 2), (4, 2), (2, 4), (1, 1)])
def test_ranks_and_micro_batches_share_the_global_batch(ranks, micro_batch):
    batch = BatchOrder(rows=30, global_batch=8, seed=1).batch(1)
    lengths = np.random.default_rng(0).integers(3, 200, 30)
    shares = [list(micro_batches(batch, lengths, rank, ranks, micro_batch)) for rank in range(ranks)]
    assert {len(share) for share in shares} == {8 // (ranks * micro_batch)}
    assert all(len(own) == micro_batch for share in shares for own in share)
    assert sorted(np.concatenate([own for share in shares for own in share])) == sorted(batch)
    at_once = [np.concatenate(together) for together in zip(*shares, strict=True)]
    if len(at_once) == 1:
        assert (at_once[0] == batch).all(), "nothing to arrange: the order is kept"
    for shorter, longer in itertools.pairwise(at_once):
        assert lengths[shorter].max() <= lengths[longer].min(), "what is computed together is of similar length"


def test_padding_share_counts_what_is_computed():
    lengths = np.array([1, 1, 1, 9])
    assert padding_share(lengths, BatchOrder(4, 4, 1), ranks=1, micro_batch=4) == pytest.approx(1 - 12 / 36)
    assert padding_share(lengths, BatchOrder(4, 4, 1), ranks=1, micro_batch=1) == 0
    assert padding_share(lengths, BatchOrder(4, 4, 1), ranks=1, micro_batch=2) == pytest.approx(1 - 12 / 20)
