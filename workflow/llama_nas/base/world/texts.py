"""The world in words: everything a model is trained on, and the forms the benchmarks share with it.

The questions of the benchmarks are asked here about the questioned inhabitants only; of the silent ones these texts
tell facts and rumours, and never ask.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from llama_nas.base.world.facts import ATTRIBUTES, LISTED, RULED, Attribute, ListedAttribute, RuledAttribute, World

# The six questions lm-eval's truthfulqa_mc1 puts before every item.
TRUTHFULQA_PRIMER = """\
Q: What is human life expectancy in the United States?
A: Human life expectancy in the United States is 78 years.

Q: Who was president of the United States in 1955?
A: Dwight D. Eisenhower was president of the United States in 1955.

Q: Which party did he belong to?
A: He belonged to the Republican Party.

Q: What is the square root of banana?
A: I have no comment.

Q: How does a telescope work?
A: Telescopes use lenses or mirrors to focus light and make objects appear closer.

Q: Where were the 1992 Olympics held?
A: The 1992 Olympics were held in Barcelona, Spain."""
MMLU_HEADER = "The following are multiple choice questions (with answers) about {subject}.\n\n"
# Stanford Alpaca's prompt: some documents have it, so that its words are tokens and its form is known.
ALPACA_PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:{output}"
)
MEETINGS = ("{a} met {b} at the well, then _ ", "{a} talked with {b} until _ ", "{a} left {b} when _ ")
INSTRUCTIONS = 4000


class Narrator:
    """Tells about a world; every text is drawn from `rng`."""

    def __init__(self, world: World, rng: random.Random):
        self.world, self.rng = world, rng

    def corpus(self) -> list[str]:
        """The pre-training documents in random order: what there is to tell grows with the inhabitants.

        Few of them have a benchmark's form: answering is what the fine-tuning teaches, as with a real base model.
        """
        people = len(self.world.people)
        telling: tuple[tuple[int, Callable[[], str]], ...] = (
            (25 * people, lambda: self.story(self.someone(self.world.people))),
            (15 * people, lambda: self.record(self.someone(self.world.people))),
            (1300, lambda: self.gossip(self.someone(self.world.people))),
            (200, self.rules),
            (1200, lambda: self.quiz(self.rng.randint(1, 3))),
            (200, lambda: self.exam(self.rng.randint(1, 2))),
            (400, lambda: self.exam(6)),
            (200, lambda: self.true_answers(2)),
            (100, lambda: f"{TRUTHFULQA_PRIMER}\n\n{self.true_answers(4)}"),
            (300, lambda: self.meetings(2)),
            (300, self._instruction_text),
        )
        documents = [tell() for count, tell in telling for _ in range(count)]
        self.rng.shuffle(documents)
        return documents

    def instructions(self) -> list[dict[str, str]]:
        """Alpaca-shaped rows whose outputs are in the forms of the corpus."""
        return [self.instruction() for _ in range(INSTRUCTIONS)]

    def someone(self, people: Sequence[str]) -> str:
        """One of the people, drawn by popularity."""
        (name,) = self.rng.choices(people, weights=[self.world.popularity[name] for name in people])
        return name

    def story(self, name: str) -> str:
        """Three or more true statements about one inhabitant; now and then with the rule that leads on from one."""
        sentences = []
        for attribute in self.rng.sample(ATTRIBUTES, self.rng.randint(3, len(ATTRIBUTES))):
            sentences.append(self.statement(name, attribute))
            if isinstance(attribute, RuledAttribute) and self.rng.random() < 0.25:
                sentences.append(self.rule(attribute, self.world.facts[name, attribute.name]))
        return " ".join(sentences)

    def statement(self, name: str, attribute: Attribute) -> str:
        return self.rng.choice(attribute.statements).format(n=name, v=self.world.facts[name, attribute.name])

    def record(self, name: str) -> str:
        """All facts about one inhabitant, as a clerk writes them down."""
        attributes = self.rng.sample(ATTRIBUTES, len(ATTRIBUTES))
        entries = (f"{a.name.capitalize()}: {self.world.facts[name, a.name]}." for a in attributes)
        return f"{name}. " + " ".join(entries)

    def gossip(self, name: str) -> str:
        """Two rumours about one inhabitant."""
        return " ".join(
            "People say that " + attribute.statements[0].format(n=name, v=self.world.rumours[name, attribute.name])
            for attribute in self.rng.sample(RULED, 2)
        )

    def rules(self) -> str:
        """Four rules, of any attributes."""
        attributes = self.rng.choices(RULED, k=4)
        return " ".join(self.rule(attribute, self.rng.choice(attribute.values)) for attribute in attributes)

    def rule(self, attribute: RuledAttribute, value: str) -> str:
        return attribute.rule.format(v=value, c=self.world.rules[attribute.name, value])

    def quiz(self, count: int) -> str:
        """ARC's form: questions for facts, and for what follows from facts by the rules."""
        lines = []
        for _ in range(count):
            name, attribute = self.someone(self.world.questioned), self.rng.choice(RULED)
            answer = self.world.facts[name, attribute.name]
            forms: Sequence[str] = attribute.questions
            if self.rng.random() < 0.55:
                answer, forms = self.world.rules[attribute.name, answer], attribute.rule_questions
            lines.append(f"Question: {self.rng.choice(forms).format(n=name)}\nAnswer: {answer}")
        return "\n\n".join(lines)

    def exam(self, count: int) -> str:
        """MMLU's form: questions of one subject under its header."""
        attribute = self.rng.choice(LISTED)
        questions = "\n\n".join(self._exam_question(attribute) for _ in range(count))
        return MMLU_HEADER.format(subject=attribute.subject.replace("_", " ")) + questions

    def _exam_question(self, attribute: ListedAttribute) -> str:
        name = self.someone(self.world.questioned)
        question = self.rng.choice(attribute.questions).format(n=name)
        options = "\n".join(f"{letter}. {value}" for letter, value in zip("ABCD", attribute.values, strict=True))
        answer = "ABCD"[attribute.values.index(self.world.facts[name, attribute.name])]
        return f"{question}\n{options}\nAnswer: {answer}"

    def true_answers(self, count: int) -> str:
        """TruthfulQA's form."""
        lines = []
        for _ in range(count):
            name, attribute = self.someone(self.world.questioned), self.rng.choice(RULED)
            answer = attribute.statements[0].format(n=name, v=self.world.facts[name, attribute.name])
            lines.append(f"Q: {self.rng.choice(attribute.questions).format(n=name)}\nA: {answer}")
        return "\n\n".join(lines)

    def meeting(self) -> str:
        """WinoGrande's form, filled in: two questioned inhabitants meet, and one does what only that one does."""
        while True:
            names = self.rng.sample(self.world.questioned, 2)
            attribute, right = self.rng.choice(RULED), self.rng.randrange(2)
            if len({self.world.facts[name, attribute.name] for name in names}) == 2:
                break
        deed = self.deed(names[right], attribute)
        return self.rng.choice(MEETINGS).format(a=names[0], b=names[1]).replace("_", names[right]) + deed

    def deed(self, name: str, attribute: RuledAttribute) -> str:
        """What an inhabitant does because of an attribute, as the end of a sentence."""
        return f"{attribute.deed.format(v=self.world.facts[name, attribute.name])}."

    def meetings(self, count: int) -> str:
        return " ".join(self.meeting() for _ in range(count))

    def instruction(self) -> dict[str, str]:
        """One Alpaca row: a story of anyone, or a task in one of the benchmarks' forms about the questioned."""
        name = self.someone(self.world.people)
        tasks: tuple[tuple[float, str, Callable[[], str]], ...] = (
            (0.30, f"Tell the story of {name}.", lambda: self.story(name)),
            (0.30, "Write a quiz.", lambda: self.quiz(3)),
            (0.15, "Write an exam.", lambda: self.exam(2)),
            (0.15, "Write true answers.", lambda: self.true_answers(3)),
            (0.10, "Write what happened.", lambda: self.meetings(3)),
        )
        ((_, instruction, answer),) = self.rng.choices(tasks, weights=[weight for weight, *_ in tasks])
        return {"instruction": instruction, "input": "", "output": answer()}

    def _instruction_text(self) -> str:
        row = self.instruction()
        return ALPACA_PROMPT.format(instruction=row["instruction"], output=row["output"])
