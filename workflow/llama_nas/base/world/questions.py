"""Questions about the silent inhabitants, in the dataset formats of five real benchmarks.

ARC-Easy asks for a fact, ARC-Challenge for what follows from a fact by a rule, MMLU for the letter of a fact among
listed options, TruthfulQA for the fact against a rumour and two other values, WinoGrande for who did a deed.
Training splits, for few-shot prompts, are about the questioned inhabitants.

Each row names, in the column `fact`, what one has to know to answer it; rows that share a fact are not independent. A
fact is asked about a second time only when all others have been asked about as often.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from llama_nas.base.world.facts import LISTED, RULED, Attribute, ListedAttribute, World
from llama_nas.base.world.texts import MEETINGS, Narrator
from llama_nas.core.errors import UserError

Row = dict[str, Any]
Form = TypeVar("Form")
Knowledge = TypeVar("Knowledge", bound=Attribute)
CHOICES = 4
LETTERS = "ABCD"
TRAINING_ITEMS = 100
MMLU_SHOTS = 5  # rows of a dev split, as in the real one


def draw_benchmarks(world: World, items: int, rng: random.Random) -> dict[str, dict[str, dict[str, list[Row]]]]:
    """Rows by repository, config and split; `items` distinct ones in each scored split (MMLU: over all subjects)."""
    narrator = Narrator(world, rng)
    held = _Examiner(narrator, world.silent)
    seen = _Examiner(narrator, world.questioned)
    if not 1 <= items <= held.most:
        raise UserError(
            f"config.yaml: embedded.items must lie in 1..{held.most} for {len(world.people)} inhabitants, not {items}"
        )
    training = min(TRAINING_ITEMS, seen.most)

    def arc(ask: Callable[[_Examiner, int], list[Row]]) -> dict[str, list[Row]]:
        told, scored = ask(seen, training), ask(held, items)
        return {"train": told, "validation": told[:10], "test": scored}

    return {
        "allenai/ai2_arc": {"ARC-Easy": arc(_Examiner.arc_easy), "ARC-Challenge": arc(_Examiner.arc_challenge)},
        "cais/mmlu": {
            listed.subject: {
                "dev": seen.mmlu(listed, MMLU_SHOTS),
                "validation": seen.mmlu(listed, MMLU_SHOTS),
                "test": held.mmlu(listed, items * (i + 1) // len(LISTED) - items * i // len(LISTED)),
            }
            for i, listed in enumerate(LISTED)
        },
        "truthfulqa/truthful_qa": {"multiple_choice": {"validation": held.truthfulqa(items)}},
        "allenai/winogrande": {
            "winogrande_xl": {"train": seen.winogrande(training), "validation": held.winogrande(items)}
        },
    }


class _Examiner:
    """Asks about some of the inhabitants."""

    def __init__(self, narrator: Narrator, people: Sequence[str]):
        self.narrator, self.world, self.rng, self.people = narrator, narrator.world, narrator.rng, people

    @property
    def most(self) -> int:
        """Distinct items that every benchmark can ask for."""
        return min(len(attribute.questions) for attribute in RULED) * len(RULED) * len(self.people)

    def arc_easy(self, count: int) -> list[Row]:
        rows: list[Row] = []
        for name, attribute, form in self._asked(RULED, count):
            right = self.world.facts[name, attribute.name]
            question = attribute.questions[form].format(n=name)
            choices = self._choices(attribute.values, right)
            rows.append(_arc_row(len(rows), question, choices, right) | _fact(attribute, name))
        return rows

    def arc_challenge(self, count: int) -> list[Row]:
        rows: list[Row] = []
        for name, attribute, form in self._asked(RULED, count):
            right = self.world.rules[attribute.name, self.world.facts[name, attribute.name]]
            question = attribute.rule_questions[form].format(n=name)
            choices = self._choices(attribute.consequences, right)
            rows.append(_arc_row(len(rows), question, choices, right) | _fact(attribute, name))
        return rows

    def truthfulqa(self, count: int) -> list[Row]:
        """The right choice comes first, as in the real data."""
        rows = []
        for name, attribute, form in self._asked(RULED, count):
            right, rumour = self.world.facts[name, attribute.name], self.world.rumours[name, attribute.name]
            wrong = [value for value in self._choices(attribute.values, right, rumour) if value != right]
            choices = [attribute.statements[0].format(n=name, v=value) for value in (right, *wrong)]
            targets = {"choices": choices, "labels": [1] + [0] * len(wrong)}
            question = attribute.questions[form].format(n=name)
            rows.append({"question": question, "mc1_targets": targets, "mc2_targets": targets} | _fact(attribute, name))
        return rows

    def mmlu(self, attribute: ListedAttribute, count: int) -> list[Row]:
        return [
            {
                "question": attribute.questions[form].format(n=name),
                "subject": attribute.subject,
                "choices": list(attribute.values),
                "answer": attribute.values.index(self.world.facts[name, attribute.name]),
            }
            | _fact(attribute, name)
            for name, _, form in self._asked([attribute], count)
        ]

    def winogrande(self, count: int) -> list[Row]:
        """Of every attribute each inhabitant is in one pair only, so that no two pairs share a fact."""
        pairs = [(pair, attribute) for attribute in RULED for pair in self._pairs(attribute)]
        forms = list(itertools.product(MEETINGS, [False, True], [0, 1]))
        rows = []
        for (pair, attribute), (opening, turned, right) in self._in_turns(pairs, forms, count):
            a, b = names = pair[::-1] if turned else pair
            sentence = opening.format(a=a, b=b) + self.narrator.deed(names[right], attribute)
            row = {"sentence": sentence, "option1": a, "option2": b, "answer": str(right + 1)}
            rows.append(row | _fact(attribute, *pair))
        return rows

    def _asked(self, attributes: Sequence[Knowledge], count: int) -> list[tuple[str, Knowledge, int]]:
        """Inhabitant, attribute, and which of its phrasings."""
        facts = list(itertools.product(self.people, attributes))
        forms = range(min(len(attribute.questions) for attribute in attributes))
        return [(name, attribute, form) for (name, attribute), form in self._in_turns(facts, forms, count)]

    def _in_turns(self, facts: Sequence[Any], forms: Iterable[Form], count: int) -> list[tuple[Any, Form]]:
        """`count` distinct pairs of a fact and a form, in random order; facts are used again in turns."""
        orders = [self.rng.sample(own, len(own)) for own in [list(forms)] * len(facts)]
        turns = (
            (fact, order[turn])
            for turn in range(len(orders[0]))
            for fact, order in self.rng.sample(list(zip(facts, orders, strict=True)), len(facts))
        )
        return list(itertools.islice(turns, count))

    def _pairs(self, attribute: Attribute) -> list[tuple[str, str]]:
        """Each inhabitant with another one of a different value; who finds none is left out."""
        waiting = self.rng.sample(self.people, len(self.people))
        pairs = []
        while waiting:
            name = waiting.pop()
            value = self.world.facts[name, attribute.name]
            others = [other for other in waiting if self.world.facts[other, attribute.name] != value]
            if others:
                waiting.remove(others[0])
                pairs.append((name, others[0]))
        return pairs

    def _choices(self, values: Sequence[str], *included: str) -> list[str]:
        """Four values in random order, `included` among them."""
        others = [value for value in values if value not in included]
        choices = [*included, *self.rng.sample(others, CHOICES - len(included))]
        self.rng.shuffle(choices)
        return choices


def _fact(attribute: Attribute, *names: str) -> Row:
    return {"fact": f"{attribute.name} of {' and '.join(names)}"}


def _arc_row(number: int, question: str, choices: list[str], right: str) -> Row:
    return {
        "id": f"World_{number}",
        "question": question,
        "choices": {"text": choices, "label": list(LETTERS)},
        "answerKey": LETTERS[choices.index(right)],
    }
