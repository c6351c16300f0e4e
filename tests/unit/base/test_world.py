"""The embedded world: lm-eval's stock tasks run on it, its items are sound, and none of them was trained on."""

import json
import random
from collections import Counter
from pathlib import Path

import datasets
import lm_eval.tasks
import pyarrow.parquet
import pytest
from lm_eval.tasks import TaskManager

from llama_nas.base.world import make_world, read_corpus
from llama_nas.base.world.facts import LISTED, RULED, draw_names, draw_world
from llama_nas.base.world.texts import ALPACA_PROMPT, TRUTHFULQA_PRIMER
from llama_nas.core.artifacts import derived_seed, folder_digest
from llama_nas.core.errors import UserError
from llama_nas.tasks.definitions import leaf_tasks, load_task, set_fewshot
from llama_nas.training.data import PROMPT_WITHOUT_INPUT, read_instructions

INHABITANTS, ITEMS = 110, 500
SUBJECTS = [f"mmlu_{attribute.subject}" for attribute in LISTED]
TASKS = ["arc_easy", "arc_challenge", "truthfulqa_mc1", "winogrande", *SUBJECTS]
FOLDERS = {  # folder of the repository -> config
    "allenai/ai2_arc": ["ARC-Easy", "ARC-Challenge"],
    "cais/mmlu": [attribute.subject for attribute in LISTED],
    "truthfulqa/truthful_qa": ["multiple_choice"],
    "allenai/winogrande": ["winogrande_xl"],
}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("embedded") / "world"
    make_world(folder, seed=1, inhabitants=INHABITANTS, items=ITEMS)
    return folder


@pytest.fixture(scope="module")
def manager() -> TaskManager:
    stock = Path(lm_eval.tasks.__file__).parent  # only the folders in question: indexing all of them takes long
    folders = [str(stock / name) for name in ("arc", "mmlu", "truthfulqa", "winogrande")]
    return TaskManager(include_defaults=False, include_path=folders)


@pytest.fixture(scope="module")
def instances(world):
    """Every scored request of a task, as lm-eval builds it."""
    cache = {}

    def build(name):
        if name not in cache:
            (task,) = leaf_tasks(load_task(name, data_root=world / "hub"))
            set_fewshot(task, 5 if name.startswith("mmlu") else None)
            task.build_all_requests()
            cache[name] = task, task.instances
        return cache[name]

    return build


def test_same_seed_gives_the_same_bytes_and_another_does_not(world: Path, tmp_path: Path):
    for name, seed in [("again", 1), ("other", 2)]:
        make_world(tmp_path / name, seed=seed, inhabitants=INHABITANTS, items=ITEMS)
    assert folder_digest(tmp_path / "again") == folder_digest(world) != folder_digest(tmp_path / "other")


@pytest.mark.parametrize("repository", FOLDERS)
def test_dataset_columns_and_types_are_those_of_the_real_benchmarks(repository: str, world: Path, hub: Path):
    """And one column more, which says what each row asks about."""
    for config in FOLDERS[repository]:
        ours = datasets.load_dataset(str(world / "hub" / repository), config)
        real = datasets.load_dataset(str(hub / repository), config)
        assert ours and set(ours) <= set(real)
        for split in ours:
            assert ours[split].remove_columns("fact").features == real[split].features


def test_another_seeds_items_are_not_read_from_the_datasets_cache(tmp_path: Path):
    """In one place, one world after the other, as in a run whose seed is changed."""
    folder = tmp_path / "world"
    sentences = []
    for seed in (1, 2, 1):
        make_world(folder, seed=seed, inhabitants=20, items=20)
        rows = datasets.load_dataset(str(folder / "hub/allenai/winogrande"), "winogrande_xl", split="validation")
        (file,) = (folder / "hub/allenai/winogrande/winogrande_xl").glob("validation-*")
        assert rows["sentence"][:] == pyarrow.parquet.read_table(file)["sentence"].to_pylist()
        sentences.append(rows["sentence"][:])
    assert sentences[0] == sentences[2] != sentences[1]


@pytest.mark.parametrize("name", TASKS)
def test_stock_tasks_run_with_only_the_data_location_changed(name: str, world: Path, manager, monkeypatch):
    # lm-eval's task by its name alone: in the folder that holds them, the datasets' Hub names are relative paths.
    monkeypatch.chdir(world / "hub")
    stock = manager.load([name])["tasks"][name]
    (ours,) = leaf_tasks(load_task(name, data_root=world / "hub"))
    stock_fields, our_fields = stock.dump_config(), ours.dump_config()
    assert our_fields.pop("dataset_path") == str(world / "hub" / stock_fields.pop("dataset_path"))
    assert our_fields == stock_fields and len(stock_fields) > 10
    for task in (stock, ours):
        set_fewshot(task, 5 if name in SUBJECTS else 0)
        task.build_all_requests(limit=5)
    assert [instance.args for instance in ours.instances] == [instance.args for instance in stock.instances]


def test_first_prompts_are_the_stock_templates_filled_in(world: Path, instances):
    """Written out here by hand, from the YAML files of lm-eval 0.4.13."""

    def first(repository, config, split):
        return datasets.load_dataset(str(world / "hub" / repository), config, split=split)[0]

    row = first("allenai/ai2_arc", "ARC-Easy", "test")
    requests = [instance.args[:2] for instance in instances("arc_easy")[1][:4]]
    assert requests == [(f"Question: {row['question']}\nAnswer:", f" {text}") for text in row["choices"]["text"]]

    row = first("truthfulqa/truthful_qa", "multiple_choice", "validation")
    requests = [instance.args[:2] for instance in instances("truthfulqa_mc1")[1][:4]]
    prompt = f"{TRUTHFULQA_PRIMER}\n\nQ: {row['question']}\nA:"
    assert requests == [(prompt, f" {text}") for text in row["mc1_targets"]["choices"]]

    row = first("allenai/winogrande", "winogrande_xl", "validation")
    requests = [instance.args[:2] for instance in instances("winogrande")[1][:2]]
    before, after = row["sentence"].split("_")
    assert requests == [(before + row[option], " " + after.strip()) for option in ("option1", "option2")]

    row = first("cais/mmlu", "astronomy", "test")
    prompt = instances("mmlu_astronomy")[1][0].args[0]
    options = "".join(f"{letter}. {text}\n" for letter, text in zip("ABCD", row["choices"], strict=True))
    header = "The following are multiple choice questions (with answers) about astronomy.\n\n"
    assert prompt.startswith(header) and prompt.endswith(f"\n\n{row['question']}\n{options}Answer:")
    assert prompt.count("Answer:") == 6


@pytest.mark.parametrize("name", TASKS)
def test_items_are_distinct_and_no_choice_position_is_favoured(name: str, instances):
    task, requests = instances(name)
    items = {}
    for instance in requests:
        items.setdefault(instance.doc_id, []).append(instance.args[:2])
    assert len(items) == (ITEMS if name not in SUBJECTS else pytest.approx(ITEMS / len(SUBJECTS), abs=1))
    assert len({tuple(choices) for choices in items.values()}) == len(items)
    for choices in items.values():
        assert len(choices) == len(set(choices)) == (2 if name == "winogrande" else 4)
    if name != "truthfulqa_mc1":  # there the right one comes first, as in the real data
        right = Counter(_right(task, doc) for doc in task.eval_docs)
        expected = len(items) / (2 if name == "winogrande" else 4)
        assert all(abs(count - expected) < 5 * expected**0.5 for count in right.values())


def test_items_agree_with_the_facts_of_the_corpus(world: Path, instances):
    """Every right answer is told by the corpus outside of gossip; no wrong one is."""
    truth = draw_world(INHABITANTS, random.Random(derived_seed(1, "world", "facts")))
    told = " ".join(document for document in read_corpus(world) if "People say that" not in document)

    def is_told(name, attribute, value):
        return any(form.format(n=name, v=value) in told for form in attribute.statements)

    for row in datasets.load_dataset(str(world / "hub/truthfulqa/truthful_qa"), "multiple_choice", split="validation"):
        right, *wrong = row["mc1_targets"]["choices"]
        attribute, name = next((a, n) for a in RULED for n in truth.silent if row["fact"] == f"{a.name} of {n}")
        assert right == attribute.statements[0].format(n=name, v=truth.facts[name, attribute.name])
        assert is_told(name, attribute, truth.facts[name, attribute.name])
        assert not any(statement in told for statement in wrong)
    for row in datasets.load_dataset(str(world / "hub/allenai/winogrande"), "winogrande_xl", split="validation"):
        deed = row["sentence"].split("_ ")[1]
        attribute = next(a for a in RULED if deed.startswith(a.deed.split(" {v}")[0]))
        value = deed.removesuffix(".").split()[-1]
        right, wrong = row["option1"], row["option2"]
        if row["answer"] == "2":
            right, wrong = wrong, right
        assert is_told(right, attribute, value) and not is_told(wrong, attribute, value)


@pytest.mark.parametrize("name", TASKS)
def test_no_scored_item_is_in_the_training_texts(name: str, world: Path, instances):
    """Neither a question about a silent inhabitant nor the answer in the benchmark's form."""
    corpus = (world / "corpus.txt").read_text()
    rows = json.loads((world / "instructions.json").read_text())
    texts = corpus + "\n\n".join(f"{row['instruction']}\n{row['input']}\n{row['output']}" for row in rows)
    scored = set()
    for instance in instances(name)[1]:
        context, choice = instance.args[:2]
        if name == "winogrande":  # there the context is a statement's beginning
            scored.add(context + choice)
        else:  # neither few-shot examples nor primer are scored
            scored.add(context.split("\n\n")[-1].split("\n")[0].removeprefix("Question: ").removeprefix("Q: "))
    assert len(scored) >= ITEMS // len(SUBJECTS)
    assert not [text for text in scored if text in texts]


def _facts(world: Path, repository: str, config: str) -> list[str]:
    scored = "validation" if config in ("multiple_choice", "winogrande_xl") else "test"
    return datasets.load_dataset(str(world / "hub" / repository), config, split=scored)["fact"][:]


@pytest.mark.parametrize(("repository", "config"), [(r, c) for r, configs in FOLDERS.items() for c in configs])
def test_a_fact_is_asked_again_only_when_all_have_been_asked_as_often(repository, config, world: Path):
    counts = Counter(_facts(world, repository, config))
    assert max(counts.values()) - min(counts.values()) <= 1 and len(counts) > 80


def test_rows_of_different_facts_share_no_knowledge_about_an_inhabitant(world: Path):
    """WinoGrande's rows are about two inhabitants: each is in one pair only, for each attribute."""
    known = set()
    for fact in set(_facts(world, "allenai/winogrande", "winogrande_xl")):
        attribute, names = fact.split(" of ")
        for name in names.split(" and "):
            assert (attribute, name) not in known
            known.add((attribute, name))


def test_instructions_are_alpaca_shaped_and_their_prompt_is_the_one_of_the_corpus(world: Path):
    pairs = read_instructions(world / "instructions.json")
    assert len(pairs) >= 1000 and all(response for _, response in pairs)
    prompt, response = pairs[0]
    row = json.loads((world / "instructions.json").read_text())[0]
    assert prompt + response == ALPACA_PROMPT.format(**row)
    assert ALPACA_PROMPT == PROMPT_WITHOUT_INPUT + "{output}"
    assert any("### Response:" in document for document in read_corpus(world))


def test_names_are_distinct_and_no_other_words():
    names = draw_names(1000, random.Random(5))
    words = {word for a in RULED for word in (*a.values, *a.consequences)} | {v for a in LISTED for v in a.values}
    assert len(set(names)) == 1000 and not {name.lower() for name in names} & {word.lower() for word in words}


def test_rumours_are_never_true_and_rules_are_one_to_one():
    world = draw_world(40, random.Random(1))
    assert all(world.rumours[key] != fact for key, fact in world.facts.items())
    for attribute in RULED:
        assert sorted(world.rules[attribute.name, v] for v in attribute.values) == sorted(attribute.consequences)
    assert set(world.questioned).isdisjoint(world.silent)


@pytest.mark.parametrize(
    ("inhabitants", "items", "message"),
    [
        (3, 10, "embedded.inhabitants must lie in 20..1000, not 3"),
        (20, 193, "embedded.items must lie in 1..192 for 20"),
    ],
)
def test_worlds_too_small_are_refused_in_one_line(inhabitants: int, items: int, message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        make_world(tmp_path / "world", seed=1, inhabitants=inhabitants, items=items)
    assert not (tmp_path / "world").exists()


def _right(task, doc) -> int:
    return task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
