"""Questions about the silent inhabitants, in the dataset formats of five real benchmarks.

ARC-Easy asks for a fact, ARC-Challenge for what follows from a fact by a rule, MMLU for the letter of a fact among
listed options, TruthfulQA for the fact against a rumour and two other values, WinoGrande for who did a deed.
Training splits, for few-shot prompts, are about the questioned inhabitants.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from llama_nas.base.world.facts import LISTED, RULED, ListedAttribute, RuledAttribute, World
from llama_nas.base.world.texts import Narrator
from llama_nas.core.errors import UserError

Row = dict[str, Any]
Asked = tuple[str, RuledAttribute, int]  # inhabitant, attribute, which of its phrasings
CHOICES = 4
LETTERS = "ABCD"
TRAINING_ITEMS = 100
MMLU_SHOTS = 5  # rows of a dev split, as in the real one


def draw_benchmarks(world: World, items: int, rng: random.Random) -> dict[str, dict[str, dict[str, list[Row]]]]:
    """Rows by repository, config and split; `items` distinct ones in each scored split (MMLU: over all subjects)."""
    most = sum(len(attribute.questions) for attribute in RULED) * len(world.silent)
    if not 1 <= items <= most:
        raise UserError(
            f"config.yaml: embedded.items must lie in 1..{most} for {len(world.people)} inhabitants, not {items}"
        )
    narrator = Narrator(world, rng)
    held = _Examiner(narrator, world.silent)
    seen = _Examiner(narrator, world.questioned)

    def arc(ask: Callable[[_Examiner, int], list[Row]]) -> dict[str, list[Row]]:
        training, scored = ask(seen, min(TRAINING_ITEMS, most)), ask(held, items)
        return {"train": training, "validation": training[:10], "test": scored}

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
            "winogrande_xl": {"train": seen.winogrande(TRAINING_ITEMS), "validation": held.winogrande(items)}
        },
    }


class _Examiner:
    """Asks about some of the inhabitants."""

    def __init__(self, narrator: Narrator, people: Sequence[str]):
        self.narrator, self.world, self.rng, self.people = narrator, narrator.world, narrator.rng, people

    def arc_easy(self, count: int) -> list[Row]:
        rows = []
        for i, (name, attribute, form) in enumerate(self._draw(count)):
            right = self.world.facts[name, attribute.name]
            question = attribute.questions[form].format(n=name)
            rows.append(_arc_row(f"World_{i}", question, self._choices(attribute.values, right), right))
        return rows

    def arc_challenge(self, count: int) -> list[Row]:
        rows = []
        for i, (name, attribute, form) in enumerate(self._draw(count)):
            right = self.world.rules[attribute.name, self.world.facts[name, attribute.name]]
            question = attribute.rule_questions[form].format(n=name)
            rows.append(_arc_row(f"World_{i}", question, self._choices(attribute.consequences, right), right))
        return rows

    def truthfulqa(self, count: int) -> list[Row]:
        """The right choice comes first, as in the real data."""
        rows = []
        for name, attribute, form in self._draw(count):
            right, rumour = self.world.facts[name, attribute.name], self.world.rumours[name, attribute.name]
            wrong = [value for value in self._choices(attribute.values, right, rumour) if value != right]
            choices = [attribute.statements[0].format(n=name, v=value) for value in (right, *wrong)]
            targets = {"choices": choices, "labels": [1] + [0] * len(wrong)}
            question = attribute.questions[form].format(n=name)
            rows.append({"question": question, "mc1_targets": targets, "mc2_targets": targets})
        return rows

    def mmlu(self, attribute: ListedAttribute, count: int) -> list[Row]:
        pairs = [(name, question) for name in self.people for question in attribute.questions]
        return [
            {
                "question": question.format(n=name),
                "subject": attribute.subject,
                "choices": list(attribute.values),
                "answer": attribute.values.index(self.world.facts[name, attribute.name]),
            }
            for name, question in self.rng.sample(pairs, count)
        ]

    def winogrande(self, count: int) -> list[Row]:
        rows: dict[str, Row] = {}
        while len(rows) < count:
            sentence, names, right = self.narrator.meeting(self.people)
            rows[sentence] = dict(sentence=sentence, option1=names[0], option2=names[1], answer=str(right + 1))
        return list(rows.values())

    def _draw(self, count: int) -> list[Asked]:
        asked = [
            (name, attribute, form)
            for name in self.people
            for attribute in RULED
            for form in range(len(attribute.questions))
        ]
        return self.rng.sample(asked, count)

    def _choices(self, values: Sequence[str], *included: str) -> list[str]:
        """Four values in random order, `included` among them."""
        others = [value for value in values if value not in included]
        choices = [*included, *self.rng.sample(others, CHOICES - len(included))]
        self.rng.shuffle(choices)
        return choices


def _arc_row(identifier: str, question: str, choices: list[str], right: str) -> Row:
    return {
        "id": identifier,
        "question": question,
        "choices": {"text": choices, "label": list(LETTERS)},
        "answerKey": LETTERS[choices.index(right)],
    }
