"""What each search algorithm proposes, given what is known."""

import numpy as np
import pytest
from tests.support.search import FULL, SHAPE, SPACE, THREE_WIDTHS, algorithm, goals, kept_one_hot, small_space

from llama_nas.core.errors import UserError
from llama_nas.core.pareto import non_dominated
from llama_nas.core.space import SearchSpace, ungrouped
from llama_nas.search import encoding
from llama_nas.search.algorithms import ALGORITHMS, additive, nsga2, sampling
from llama_nas.search.algorithms.interface import Generation, Known, Predict, Proposal, State, due


def known_of(genotypes: np.ndarray, space: SearchSpace = SPACE, rounds: int = 1) -> Known:
    """Evaluations of a metric that is a sum over genes, in so many rounds of equal size."""
    metric = kept_one_hot(space, genotypes)[:, ::2].sum(axis=1)
    objectives = np.column_stack([encoding.parameters(space, genotypes), metric])
    return Known(genotypes, objectives, np.repeat(np.arange(1, rounds + 1), len(genotypes) // rounds))


def at_start(count: int, seed: int = 1, space: SearchSpace = SPACE) -> State:
    """A search that knows nothing."""
    nothing = Known.nothing(space, goals(space))
    return State(space, goals(space), nothing, count, np.random.default_rng(seed))


def after(known: Known, count: int, seed: int, predict: Predict | None = None, space: SearchSpace = SPACE) -> State:
    """A search that knows some networks."""
    return State(space, goals(space), known, count, np.random.default_rng(seed), predict)


def genes_summed(genotypes: np.ndarray) -> np.ndarray:
    """A metric to predict."""
    return genotypes.sum(axis=1).astype(float)


def proposal(known_ids: list[str], variant: str = "default") -> Proposal:
    known = known_of(encoding.genotypes_of(SPACE, known_ids))
    predict = lambda genotypes: kept_one_hot(SPACE, genotypes)[:, ::2].sum(axis=1)  # noqa: E731
    return algorithm("linas", generations=15, variant=variant).next(after(known, 20, 4, predict))


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


@pytest.mark.parametrize("origin", ["nsga2", "refill"])
def test_the_next_round_takes_first_what_none_beats_and_what_stands_alone(monkeypatch, origin):
    """By rank, then by crowding: of the last population, or of all that the search met if that gives nothing new."""
    met = sampling.unseen(SPACE, 200, [], np.random.default_rng(5), goals())
    predict = lambda genotypes: -(kept_one_hot(SPACE, genotypes)[:, 3::2] @ np.linspace(1, 1.3, 12))  # noqa: E731
    objectives = np.column_stack([encoding.parameters(SPACE, met), predict(met)])
    blank = np.zeros(len(met))
    generation = Generation(met, objectives, blank, blank.astype(int), blank)
    old = sampling.uniform(SPACE, 1, np.random.default_rng(6))
    last = generation if origin == "nsga2" else Generation(old, np.zeros((1, 2)), blank[:1], blank[:1], blank[:1])
    monkeypatch.setattr(nsga2, "nsga2", lambda *arguments: [generation, last])
    proposed = algorithm("linas").next(after(known_of(old), 5, 4, predict))
    taken = [encoding.subnet_ids(SPACE, met).index(i) for i in encoding.subnet_ids(SPACE, proposed.genotypes)]
    front = np.flatnonzero(non_dominated(objectives))
    assert len(front) > 8 and proposed.origins == [origin] * 5 and set(taken) < set(front)
    assert {front[objectives[front, column].argmin()] for column in (0, 1)} == set(taken[:2])


def test_strict_proposes_its_last_population_as_it_is():
    known = encoding.subnet_ids(SPACE, sampling.uniform(SPACE, 40, np.random.default_rng(0)))
    proposed = proposal(known, "strict")
    assert np.array_equal(proposed.genotypes, proposed.generations[-1].genotypes)
    assert proposed.origins == ["nsga2"] * 20


@pytest.mark.parametrize("left", [0, 1, 5])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_used_up_space_gives_what_is_left(name, left):
    space = small_space(4, [2, 3, 4], [256, 128])
    changes = additive.one_gene_changes(space)
    others = sampling.unseen(space, 100, encoding.subnet_ids(space, changes), np.random.default_rng(0), goals(space))
    everything = np.concatenate([changes, others])
    assert len(everything) == space.num_networks
    known = known_of(everything[: len(everything) - left], space)
    chosen = algorithm(name)
    proposed = chosen.next(after(known, 20, 0, genes_summed if chosen.uses_predictor else None, space))
    assert sorted(encoding.subnet_ids(space, proposed.genotypes)) == sorted(
        encoding.subnet_ids(space, everything[len(everything) - left :])
    )
    assert len(proposed.origins) == left


@pytest.mark.parametrize("name", ALGORITHMS)
def test_no_algorithm_but_strict_linas_evaluates_a_network_twice(name):
    chosen = algorithm(name)
    first = chosen.first(at_start(20)).genotypes
    known = known_of(first)
    for round_number in (1, 2):
        predict = genes_summed if chosen.uses_predictor else None
        more = chosen.next(after(known, due(20, round_number, known), round_number, predict)).genotypes
        grown = known_of(np.concatenate([known.genotypes, more]))
        rounds = np.concatenate([known.rounds, np.full(len(more), round_number + 1)])
        known = Known(grown.genotypes, grown.objectives, rounds)
    ids = encoding.subnet_ids(SPACE, known.genotypes)
    assert len(set(ids)) == len(ids) == 60


def test_an_unknown_algorithm_is_refused_with_the_known_ones():
    with pytest.raises(
        UserError, match=r"search\.algorithm 'magic' is not known; known: linas, nsga2, random, additive"
    ):
        algorithm("magic")


# ------------------------------------------------------------------ NSGA-II on real evaluations


def test_survivors_of_real_rounds_are_those_of_nsga2_generation_by_generation():
    """Read back from the evaluations alone, the population is that of a run that never stopped."""
    search, count = algorithm("nsga2"), 20
    known = known_of(search.first(at_start(count)).genotypes)
    for round_number in (2, 3, 4):
        children = search.next(after(known, count, round_number)).genotypes
        new = known_of(children)
        before = nsga2.survivors(SPACE, goals(), known, count)
        known = Known(
            np.concatenate([known.genotypes, children]),
            np.concatenate([known.objectives, new.objectives]),
            np.concatenate([known.rounds, np.full(count, round_number)]),
        )
        kept = nsga2.survivors(SPACE, goals(), known, count)
        candidates = {row.tobytes() for row in np.concatenate([before.get("X"), children]).astype(int)}
        assert len(kept) == count and {row.tobytes() for row in kept.get("X").astype(int)} <= candidates
        merged = np.concatenate([before.get("F"), new.objectives])
        best = merged[non_dominated(merged)]  # at most `count` of them are there, and no network that one of them beats
        front = kept.get("F")[kept.get("rank") == 0]
        assert {tuple(row) for row in front.tolist()} <= {tuple(row) for row in best.tolist()}


# ------------------------------------------------------------------ additive


@pytest.mark.parametrize("space", [SPACE, THREE_WIDTHS], ids=["two widths", "three widths"])
def test_one_gene_changes_are_the_neighbours_of_the_full_network(space):
    ids = encoding.subnet_ids(space, additive.one_gene_changes(space))
    assert ids[0] == FULL and len(set(ids)) == len(ids) == 1 + len(space.depths) - 1 + 12 * (len(space.blocks) - 1)
    for letters in map(ungrouped, ids[1:]):
        assert sum(code != "0" for code in letters) == 1 or set(letters.rstrip("x")) == {"0"}


def test_best_sums_are_those_of_enumeration():
    """Of all networks: those that fewer than `keep` others of the same depth beat; the true front is among them."""
    space = SearchSpace.declare(SHAPE, [4, 6], [256, 64, 128])
    everything = sampling.every_network(space)
    costs = np.random.default_rng(3).normal(size=(13, 3))
    values = np.column_stack([encoding.parameters(space, everything), additive.sum_of_costs(space, costs, everything)])
    ids = np.array(encoding.subnet_ids(space, everything))
    for keep in (1, 3):
        sums = additive.best_sums(space, encoding.parameter_costs(space), costs, keep)
        found = set(encoding.subnet_ids(space, sums))
        for depth in (0, 1):
            own = everything[:, 0] == depth
            beaten = [((values[own] <= row).all(axis=1) & (values[own] < row).any(axis=1)).sum() for row in values[own]]
            assert set(ids[own][np.array(beaten) < keep]) == {i for i in found if i in set(ids[own])}
        assert set(ids[non_dominated(values)]) <= found


def test_additive_search_of_a_sum_finds_its_true_front_in_the_second_round():
    everything = known_of(sampling.every_network(SPACE))
    true_front = everything.genotypes[non_dominated(everything.objectives)]
    search = algorithm("additive", 50)
    known = known_of(search.first(at_start(50)).genotypes)
    assert len(known.genotypes) == 15
    proposed = search.next(after(known, due(50, 1, known), 0))
    assert len(proposed.genotypes) == 85
    measured = known_of(proposed.genotypes).objectives[:, 1]
    assert proposed.predicted == pytest.approx(measured)
    found = np.concatenate([known.objectives, known_of(proposed.genotypes).objectives])
    best = everything.objectives[non_dominated(everything.objectives)]
    assert set(map(tuple, best)) <= set(map(tuple, found)) and len(true_front)


def test_additive_search_takes_the_rounds_it_needs_for_its_changes():
    search = algorithm("additive", 6)
    known = known_of(search.first(at_start(6)).genotypes)
    origins = [len(known.genotypes)]
    for round_number in (1, 2, 3):
        proposed = search.next(after(known, due(6, round_number, known), 0))
        origins.append((proposed.origins[0], len(proposed.origins)))
        known = known_of(np.concatenate([known.genotypes, proposed.genotypes]))
    assert origins == [6, ("change", 6), ("change", 3), ("sum", 9)]
