"""What is true in the world: its inhabitants, six attributes of each, and rules about the attributes' values."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from llama_nas.core.errors import UserError


@dataclass(frozen=True)
class Attribute:
    """A property every inhabitant has one value of, and how people speak of it.

    `{n}` stands for the inhabitant, `{v}` for the value. statements: the first is also the form of full answers.
    """

    name: str
    values: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]


@dataclass(frozen=True)
class RuledAttribute(Attribute):
    """An attribute whose values lead on: a rule gives each value one consequence, `{c}`, drawn with the world."""

    consequences: tuple[str, ...]
    rule: str
    rule_questions: tuple[str, ...]  # about an inhabitant, answered by the consequence: two facts away
    deed: str  # what an inhabitant with value {v} does


@dataclass(frozen=True)
class ListedAttribute(Attribute):
    """An attribute whose few values are always listed in the same order, as the options of a form; subject: MMLU's."""

    subject: str


RULED = (
    RuledAttribute(
        name="town",
        values=("Arlow", "Brill", "Corven", "Delm", "Esker", "Farnham", "Galway", "Hollin"),
        statements=("{n} lives in {v}.", "The home of {n} is {v}."),
        questions=(
            "Where does {n} live?",
            "What is the home of {n}?",
            "Which town is home to {n}?",
            "To which town does {n} belong?",
        ),
        consequences=("Alne", "Bann", "Clyde", "Dove", "Eden", "Frome", "Garry", "Humber"),
        rule="{v} lies on the {c}.",
        rule_questions=(
            "Which river runs past the home of {n}?",
            "Which river does {n} swim in?",
            "On which river does {n} live?",
            "Which river waters the garden of {n}?",
        ),
        deed="went home to {v}",
    ),
    RuledAttribute(
        name="craft",
        values=("baker", "cooper", "fisher", "glover", "hunter", "mason", "potter", "tailor"),
        statements=("{n} works as a {v}.", "The craft of {n} is that of a {v}."),
        questions=(
            "What does {n} work as?",
            "What is the craft of {n}?",
            "Which work does {n} do?",
            "In which craft is {n} skilled?",
        ),
        consequences=("oven", "barrel", "net", "thread", "bow", "chisel", "wheel", "needle"),
        rule="A {v} uses the {c}.",
        rule_questions=(
            "Which tool belongs to the craft of {n}?",
            "Which tool does {n} use?",
            "What does {n} hold at work?",
            "With which tool does {n} earn money?",
        ),
        deed="went to work as a {v}",
    ),
    RuledAttribute(
        name="pet",
        values=("badger", "cat", "dog", "marten", "ferret", "goat", "raven", "weasel"),
        statements=("{n} keeps a {v}.", "The pet of {n} is a {v}."),
        questions=(
            "Which animal does {n} keep?",
            "What is the pet of {n}?",
            "Which pet lives with {n}?",
            "Which animal does {n} love?",
        ),
        consequences=("worms", "mice", "bones", "snakes", "rabbits", "leaves", "eels", "seeds"),
        rule="A {v} eats {c}.",
        rule_questions=(
            "What does the pet of {n} eat?",
            "What does {n} feed the pet?",
            "Which food does {n} buy for the pet?",
            "What does {n} put before the pet?",
        ),
        deed="fed the {v}",
    ),
)

LISTED = (
    ListedAttribute(
        name="season",
        values=("spring", "summer", "autumn", "winter"),
        statements=("{n} likes {v}.",),
        questions=(
            "Which season does {n} like?",
            "What is the season of {n}?",
            "When is {n} glad?",
            "Which season suits {n}?",
        ),
        subject="astronomy",
    ),
    ListedAttribute(
        name="metal",
        values=("gold", "silver", "copper", "iron"),
        statements=("{n} saves {v}.",),
        questions=(
            "Which metal does {n} save?",
            "What is the metal of {n}?",
            "What does {n} hide?",
            "Which metal does {n} own?",
        ),
        subject="college_chemistry",
    ),
    ListedAttribute(
        name="hour",
        values=("morning", "noon", "evening", "night"),
        statements=("{n} sings at {v}.",),
        questions=(
            "When does {n} sing?",
            "What is the hour of {n}?",
            "At which hour is {n} loud?",
            "Which hour suits {n}?",
        ),
        subject="sociology",
    ),
)

ATTRIBUTES: tuple[Attribute, ...] = (*RULED, *LISTED)
QUESTIONED_SHARE = 1 / 5


@dataclass(frozen=True)
class World:
    """questioned: inhabitants the training texts also ask about; silent: only told about there, asked about in the
    benchmarks. popularity: how often an inhabitant is talked about, as weights. facts and rumours: value by
    (inhabitant, attribute name); a rumour is never true. rules: consequence by (attribute name, value).
    """

    questioned: tuple[str, ...]
    silent: tuple[str, ...]
    popularity: dict[str, float]
    facts: dict[tuple[str, str], str] = field(default_factory=dict)
    rumours: dict[tuple[str, str], str] = field(default_factory=dict)
    rules: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def people(self) -> tuple[str, ...]:
        return self.questioned + self.silent


def draw_world(inhabitants: int, rng: random.Random) -> World:
    """Draw names, popularity, facts, rumours and rules. Four inhabitants in five are silent.

    Popularity falls with the rank, to a third: knowing the well-known ones first is what lets a model learn the others
    soon (Zucchet et al., arXiv 2503.21676). Among the questioned and among the silent, all values are equally frequent.
    """
    if not 20 <= inhabitants <= 1000:
        raise UserError(f"config.yaml: embedded.inhabitants must lie in 20..1000, not {inhabitants}")
    names = draw_names(inhabitants, rng)
    ranked = rng.sample(names, inhabitants)
    questioned = round(QUESTIONED_SHARE * inhabitants)
    world = World(
        questioned=tuple(names[:questioned]),
        silent=tuple(names[questioned:]),
        popularity={name: 1 / (inhabitants / 2 + rank) for rank, name in enumerate(ranked)},
    )
    for attribute in ATTRIBUTES:
        for group in (world.questioned, world.silent):
            values = itertools.islice(itertools.cycle(attribute.values), len(group))
            for name, fact in zip(rng.sample(group, len(group)), values, strict=True):
                world.facts[name, attribute.name] = fact
                others = [value for value in attribute.values if value != fact]
                world.rumours[name, attribute.name] = rng.choice(others)
    for attribute in RULED:
        consequences = rng.sample(attribute.consequences, len(attribute.consequences))
        world.rules.update({(attribute.name, v): c for v, c in zip(attribute.values, consequences, strict=True)})
    return world


def draw_names(count: int, rng: random.Random) -> list[str]:
    """Distinct pronounceable names of four or five letters, none of them a word of the world."""
    onsets: Sequence[str] = "b c d f g h j k l m n p r s t v w z".split()
    vowels: Sequence[str] = "aeiou"
    codas: Sequence[str] = ("", "l", "m", "n", "r", "s", "x")
    words = {value for attribute in ATTRIBUTES for value in attribute.values}
    words |= {consequence for attribute in RULED for consequence in attribute.consequences}
    names: dict[str, None] = {}  # a set that keeps its order
    while len(names) < count:
        parts = (rng.choice(onsets), rng.choice(vowels), rng.choice(onsets), rng.choice(vowels), rng.choice(codas))
        name = "".join(parts).capitalize()
        if name not in words and name.lower() not in words:
            names[name] = None
    return list(names)
