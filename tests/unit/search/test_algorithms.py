"""What each search algorithm proposes, given what is known."""

import numpy as np
import pytest
from search_cases import OPERATORS, SHAPE, SPACE, THREE_WIDTHS, goals, kept_one_hot

from llama_nas.core.pareto import non_dominated
from llama_nas.core.space import SearchSpace
from llama_nas.search import additive, encoding, nsga, sampling
from llama_nas.search.algorithms import Nsga2, algorithm
from llama_nas.search.algorithms.interface import Known, due
from llama_nas.search.algorithms.linas import Linas


def known_of(genotypes: np.ndarray, space: SearchSpace = SPACE, rounds: int = 1) -> Known:
    """Evaluations of a metric that is a sum over genes, in so many rounds of equal size."""
    metric = kept_one_hot(space, genotypes)[:, ::2].sum(axis=1)
    objectives = np.column_stack([encoding.parameters(space, SHAPE, genotypes), metric])
    return Known(genotypes, objectives, np.repeat(np.arange(1, rounds + 1), len(genotypes) // rounds))


def proposal(known_ids: list[str], variant: str = "default", space: SearchSpace = SPACE, population: int = 20):
    known = known_of(encoding.genotypes_of(space, known_ids), space)
    predict = lambda genotypes: kept_one_hot(space, genotypes)[:, ::2].sum(axis=1)  # noqa: E731
    linas = Linas(variant, population, 15, OPERATORS)
    return linas.next(space, goals(space), known, population, predict, np.random.default_rng(4))


def test_default_proposes_only_new_networks():
    known = encoding.subnet_ids(SPACE, sampling.uniform(SPACE, 40, np.random.default_rng(0)))
    proposed = proposal(known)
    ids = encoding.subnet_ids(SPACE, proposed.genotypes)
    assert len(set(ids)) == len(ids) == 20 and not set(ids).intersection(known)
    assert set(proposed.origins) <= {"nsga2", "refill", "random"} and proposed.origins == sorted(
        proposed.origins, key=["nsga2", "refill", "random"].index
    )


def test_default_proposal_is_the_last_population_before_anything_else():
    known = encoding.subnet_ids(SPACE, sampling.uniform(SPACE, 40, np.random.default_rng(0)))
    proposed = proposal(known)
    last = set(encoding.subnet_ids(SPACE, proposed.generations[-1].genotypes)) - set(known)
    picked = encoding.subnet_ids(SPACE, proposed.genotypes)
    assert last == {i for i, origin in zip(picked, proposed.origins, strict=True) if origin == "nsga2"}
    met = {i for g in proposed.generations for i in encoding.subnet_ids(SPACE, g.genotypes)}
    refill = {i for i, origin in zip(picked, proposed.origins, strict=True) if origin == "refill"}
    assert refill <= met - last - set(known)


def test_strict_proposes_its_last_population_as_it_is():
    known = encoding.subnet_ids(SPACE, sampling.uniform(SPACE, 40, np.random.default_rng(0)))
    proposed = proposal(known, "strict")
    assert np.array_equal(proposed.genotypes, proposed.generations[-1].genotypes)
    assert proposed.origins == ["nsga2"] * 20


@pytest.mark.parametrize("left", [0, 1, 5])
@pytest.mark.parametrize("name", ["linas", "nsga2", "random", "additive"])
def test_a_used_up_space_gives_what_is_left(name, left):
    space = SearchSpace(4, (2, 3, 4), (256, 128))
    changes = additive.one_gene_changes(space)
    others = sampling.unseen(space, 100, encoding.subnet_ids(space, changes), np.random.default_rng(0), goals(space))
    everything = np.concatenate([changes, others])
    assert len(everything) == space.num_networks
    known = known_of(everything[: len(everything) - left], space)
    predict = lambda genotypes: genotypes.sum(axis=1).astype(float)  # noqa: E731
    chosen = algorithm(name, "default", 20, 5)
    proposed = chosen.next(
        space, goals(space), known, 20, predict if chosen.uses_predictor else None, np.random.default_rng(0)
    )
    assert sorted(encoding.subnet_ids(space, proposed.genotypes)) == sorted(
        encoding.subnet_ids(space, everything[len(everything) - left :])
    )
    assert len(proposed.origins) == left


@pytest.mark.parametrize("name", ["linas", "nsga2", "random", "additive"])
def test_no_algorithm_but_strict_linas_evaluates_a_network_twice(name):
    chosen = algorithm(name, "default", 20, 5)
    first = chosen.first(SPACE, goals(), 20, np.random.default_rng(1)).genotypes
    known = known_of(first)
    for round_number in (1, 2):
        predict = (lambda genotypes: genotypes.sum(axis=1).astype(float)) if chosen.uses_predictor else None
        rng = np.random.default_rng(round_number)
        more = chosen.next(SPACE, goals(), known, due(20, round_number, known), predict, rng).genotypes
        grown = known_of(np.concatenate([known.genotypes, more]))
        rounds = np.concatenate([known.rounds, np.full(len(more), round_number + 1)])
        known = Known(grown.genotypes, grown.objectives, rounds)
    ids = encoding.subnet_ids(SPACE, known.genotypes)
    assert len(set(ids)) == len(ids) == 60


# ------------------------------------------------------------------ NSGA-II on real evaluations


def test_survivors_of_real_rounds_are_those_of_nsga2_generation_by_generation():
    """Read back from the evaluations alone, the population is that of a run that never stopped."""
    search = Nsga2(20, OPERATORS)
    known = known_of(search.first(SPACE, goals(), 20, np.random.default_rng(1)).genotypes)
    ties = np.random.default_rng(0)
    population = nsga.survive(known.genotypes, known.objectives, np.zeros(20), 20, ties)
    for round_number in (2, 3, 4):
        rng = np.random.default_rng(round_number)
        children = search.next(SPACE, goals(), known, 20, None, rng).genotypes
        new = known_of(children)
        known = Known(
            np.concatenate([known.genotypes, children]),
            np.concatenate([known.objectives, new.objectives]),
            np.concatenate([known.rounds, np.full(20, round_number)]),
        )
        merged = np.concatenate([population.genotypes, children])
        values = np.concatenate([population.objectives, new.objectives])
        population = nsga.survive(merged, values, np.zeros(40), 20, ties)
        assert np.array_equal(search._survivors(SPACE, goals(), known).genotypes, population.genotypes)


# ------------------------------------------------------------------ additive


@pytest.mark.parametrize("space", [SPACE, THREE_WIDTHS], ids=["two widths", "three widths"])
def test_one_gene_changes_are_the_neighbours_of_the_full_network(space):
    ids = encoding.subnet_ids(space, additive.one_gene_changes(space))
    assert ids[0] == "0" * 12 and len(set(ids)) == len(ids) == 1 + len(space.depths) - 1 + 12 * (len(space.widths) - 1)
    for subnet_id in ids[1:]:
        assert sum(code != "0" for code in subnet_id) == 1 or set(subnet_id.rstrip("x")) == {"0"}


def test_best_sums_are_those_of_enumeration():
    """Of all networks: those that fewer than `keep` others of the same depth beat; the true front is among them."""
    space = SearchSpace.for_model(SHAPE, [4, 6], [256, 64, 128])
    everything = sampling.every_network(space)
    costs = np.random.default_rng(3).normal(size=(13, 3))
    values = np.column_stack(
        [encoding.parameters(space, SHAPE, everything), additive.sum_of_costs(space, costs, everything)]
    )
    ids = np.array(encoding.subnet_ids(space, everything))
    for keep in (1, 3):
        found = set(
            encoding.subnet_ids(space, additive.best_sums(space, encoding.parameter_costs(space, SHAPE), costs, keep))
        )
        for depth in (0, 1):
            own = everything[:, 0] == depth
            beaten = [((values[own] <= row).all(axis=1) & (values[own] < row).any(axis=1)).sum() for row in values[own]]
            assert set(ids[own][np.array(beaten) < keep]) == {i for i in found if i in set(ids[own])}
        assert set(ids[non_dominated(values)]) <= found


def test_additive_search_of_a_sum_finds_its_true_front_in_the_second_round():
    everything = known_of(sampling.every_network(SPACE))
    true_front = everything.genotypes[non_dominated(everything.objectives)]
    search = additive.Additive()
    known = known_of(search.first(SPACE, goals(), 50, np.random.default_rng(0)).genotypes)
    assert len(known.genotypes) == 15
    proposed = search.next(SPACE, goals(), known, due(50, 1, known), None, np.random.default_rng(0))
    assert len(proposed.genotypes) == 85
    measured = known_of(proposed.genotypes).objectives[:, 1]
    assert proposed.predicted == pytest.approx(measured)
    found = np.concatenate([known.objectives, known_of(proposed.genotypes).objectives])
    best = everything.objectives[non_dominated(everything.objectives)]
    assert set(map(tuple, best)) <= set(map(tuple, found)) and len(true_front)


def test_additive_search_takes_the_rounds_it_needs_for_its_changes():
    search, population = additive.Additive(), 6
    known = known_of(search.first(SPACE, goals(), population, np.random.default_rng(0)).genotypes)
    origins = [len(known.genotypes)]
    for round_number in (1, 2, 3):
        proposed = search.next(SPACE, goals(), known, due(population, round_number, known), None, None)
        origins.append((proposed.origins[0], len(proposed.origins)))
        known = known_of(np.concatenate([known.genotypes, proposed.genotypes]))
    assert origins == [6, ("change", 6), ("change", 3), ("sum", 9)]
