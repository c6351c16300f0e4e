"""Compiling benchmarks: the tasks are lm-eval's own, and the packed requests are the requests."""

import logging
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import env

from llama_nas.core.errors import UserError
from llama_nas.core.settings import TrieBounds
from llama_nas.tasks import compile
from llama_nas.tasks.compile import compile_task
from llama_nas.tasks.definitions import leaf_tasks, load_task, set_fewshot
from llama_nas.tasks.format import CompiledTask

SUBJECTS = ["world_religions", "anatomy"]


@pytest.fixture(scope="module")
def stock_manager():
    return TaskManager()


@pytest.fixture
def compiled(hub, tmp_path):
    def run(lm_eval_task, metric="acc", model=hub / "karpathy/stories260K", data_root=hub, **settings):
        defaults = {"limit": 4, "bounds": TrieBounds(chunk_tokens=512, group_tokens=5000)}
        compile_task(
            tmp_path / "task",
            task="t",
            lm_eval_task=lm_eval_task,
            metric=metric,
            model=model,
            data_root=data_root,
            **(defaults | settings),
        )
        return CompiledTask.load(tmp_path / "task")

    return run


def stock_tasks(manager, name, hub, monkeypatch):
    """The tasks as lm-eval builds them by name alone: in `hub`, the datasets' Hub names are relative paths."""
    monkeypatch.chdir(hub)
    return manager.load([name])["tasks"]


def instances(name, hub, limit, shots=None):
    (task,) = leaf_tasks(load_task(name, data_root=hub))
    set_fewshot(task, shots)
    task.build_all_requests(limit=limit)
    return task.instances


def resolved(task):
    return {key: value for key, value in task.dump_config().items() if key != "dataset_path"}


def test_templates_are_compiled_once_and_render_as_stock_ones(hub, monkeypatch):
    (task,) = leaf_tasks(load_task("arc_easy", data_root=hub))
    env.from_string.cache_clear()
    compiled: list[str] = []
    compiling = env.compile
    monkeypatch.setattr(
        env, "compile", lambda text, *rest, **more: compiled.append(text) or compiling(text, *rest, **more)
    )
    documents = [doc for _, doc in zip(range(5), task.test_docs(), strict=False)]
    texts = [task.doc_to_text(document) for document in documents]
    assert len(compiled) == 1
    assert texts == [type(env).from_string(env, compiled[0]).render(**document) for document in documents]


@pytest.mark.parametrize("name", ["arc_easy", "arc_challenge", "truthfulqa_mc1", "winogrande", "mmlu"])
def test_tasks_are_stock_in_every_field_but_the_place_of_their_data(name, hub, stock_manager, monkeypatch):
    if name == "mmlu":  # its 57 datasets have one form; reading one 114 times is enough
        anatomy = datasets.load_dataset(str(hub / "cais/mmlu"), "anatomy")
        monkeypatch.setattr(datasets, "load_dataset", lambda path, name: anatomy)
    stock = stock_tasks(stock_manager, name, hub, monkeypatch)
    ours = leaf_tasks(load_task(name, data_root=hub))
    assert [task.task_name for task in ours] == list(stock)
    for task in ours:
        assert resolved(task) == resolved(stock[task.task_name])
        assert task.config.dataset_path == str(hub / stock[task.task_name].config.dataset_path)


@pytest.mark.parametrize(
    "name, shots",
    [("arc_easy", 3), ("arc_challenge", 0), ("truthfulqa_mc1", 5), ("winogrande", 2), ("mmlu_anatomy", 5)],
)
def test_prompts_are_stock_few_shot_examples_included(name, shots, hub, stock_manager, monkeypatch):
    stock = stock_tasks(stock_manager, name, hub, monkeypatch)[name]
    # What lm_eval.simple_evaluate does with num_fewshot.
    if stock.get_config("num_fewshot") != 0:
        stock.set_config("num_fewshot", shots)
    stock.set_fewshot_seed(1234)
    (ours,) = leaf_tasks(load_task(name, data_root=hub))
    set_fewshot(ours, shots)
    for task in (stock, ours):
        task.build_all_requests(limit=5)
    assert [instance.args for instance in ours.instances] == [instance.args for instance in stock.instances]
    assert ours.config.num_fewshot == (0 if name == "truthfulqa_mc1" else shots)


def test_group_can_be_restricted_and_keeps_its_order_and_score(hub):
    group = load_task("mmlu", data_root=hub, subtasks=["world_religions", "abstract_algebra"])
    assert [task.task_name for task in leaf_tasks(group)] == ["mmlu_abstract_algebra", "mmlu_world_religions"]
    assert [(m.metric, m.weight_by_size) for m in group.aggregate_metric_list] == [("acc", True)]
    assert group.version == "2"


def test_group_of_the_users_own_passes_its_settings_on(hub, tmp_path):
    (tmp_path / "arc.yaml").write_text(
        "group: my_arc\nnum_fewshot: 2\ntask:\n  - arc_challenge\n"
        "  - {group: in_place, task: [{task: arc_easy, num_fewshot: 3}]}\n"
        "aggregate_metric_list:\n  - {metric: acc_norm, weight_by_size: false}\n"
    )
    group = load_task(str(tmp_path / "arc.yaml"), data_root=hub)
    assert [(task.task_name, task.config.num_fewshot) for task in leaf_tasks(group)] == [
        ("arc_challenge", 2),
        ("arc_easy", 3),
    ]
    assert [(m.metric, m.weight_by_size) for m in group.aggregate_metric_list] == [("acc_norm", False)]


def test_task_yaml_of_the_users_own(hub, tmp_path, compiled):
    (tmp_path / "rows.jsonl").write_text(
        '{"q": "One", "c": ["a", "bb"], "y": 1}\n{"q": "Two", "c": ["c", "d", "é"], "y": 0}\n'
    )
    (tmp_path / "mine.yaml").write_text(
        f"task: mine\ndataset_path: json\ndataset_kwargs:\n  data_files: {tmp_path}/rows.jsonl\ntest_split: train\n"
        "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: '{{c}}'\ndoc_to_target: y\n"
    )
    task = compiled(str(tmp_path / "mine.yaml"), metric="acc_norm", limit=None)
    assert (task.num_items, task.num_requests) == (2, 5)
    assert task.info["chance"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert task.correct.tolist() == [0, 1, 1, 0, 0]
    assert task.characters.tolist() == [1, 2, 1, 1, 1]
    assert task.utf8_bytes.tolist() == [1, 2, 1, 1, 2]
    assert task.metrics == ["acc_norm", "acc"]


def test_own_task_is_found_by_its_bare_name(hub, compiled):
    task = compiled("tinystories", metric="bits_per_byte")
    assert task.metrics == ["bits_per_byte", "byte_perplexity", "word_perplexity"]
    assert task.info["higher_is_better"] is False and task.info["chance"] is None
    texts = [instance.args[0] for instance in instances("tinystories", hub, limit=4)]
    bytes_ = [len(text.encode()) for text in texts]
    words = [len(text.split()) for text in texts]
    assert task.weights[:, 0].tolist() == task.weights[:, 1].tolist() == bytes_
    assert np.abs(task.weights[:, 2] - words).max() <= 2  # lm-eval counts the empty word beside outer whitespace


def test_items_are_about_what_a_column_names(hub, compiled):
    """Subjects of MMLU name themselves: each is one group of items, and no item weighs more than another."""
    task = compiled("mmlu", subtasks=SUBJECTS, limit=3, group="subject")
    assert task.items.groups.tolist() == [0, 0, 0, 1, 1, 1] and task.info["item_groups"] == 2
    assert len(set(task.items.draws[:3])) == len(set(task.items.draws[3:])) == 1
    assert task.items.weights.tolist() == [1] * 6
    own = compiled("mmlu", subtasks=SUBJECTS, limit=3)
    assert own.items.groups.tolist() == list(range(6)) and own.info["item_groups"] == 6
    texts = compiled("tinystories", metric="word_perplexity")
    assert texts.items.weights.tolist() == texts.weights[:, 0].tolist()


@pytest.mark.parametrize(("weight_by_size", "weights"), [(True, [1] * 5), (False, [5 / 4, 5 / 4, 5 / 6, 5 / 6, 5 / 6])])
def test_items_weigh_as_they_do_in_the_score_of_their_group(weight_by_size, weights):
    """Two tasks of two and three items: the mean over items, or the plain mean of both tasks."""
    facts = [["a", "b"], ["b", "b", "c"]]
    leaves = [
        SimpleNamespace(instances=[SimpleNamespace(doc_id=i, doc={"fact": fact}) for i, fact in enumerate(own)])
        for own in facts
    ]
    items = compile._items(leaves, "fact", None, weight_by_size)
    assert items.weights.tolist() == pytest.approx(weights)
    assert items.groups.tolist() == [0, 1, 1, 1, 2] and items.subtasks.tolist() == [0, 0, 1, 1, 1]


def test_limit_and_shots_are_recorded_as_used(compiled):
    task = compiled("truthfulqa_mc1", num_fewshot=5, limit=3)
    assert (task.info["num_fewshot"], task.info["limit"], task.num_items) == (0, 3, 3)
    assert compiled("arc_easy", num_fewshot=2).info["num_fewshot"] == 2
    group = compiled("mmlu", subtasks=SUBJECTS, limit=3)
    assert group.num_items == 6 and np.bincount(group.items.subtasks).tolist() == [3, 3]
    assert group.info["chance"] == 0.25 and group.info["weight_by_size"] == {"acc": True}


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"lm_eval_task": "arc_hard"}, "'arc_hard' is neither a task of lm-eval"),
        ({"lm_eval_task": "missing.yaml"}, "missing.yaml'.*no such file"),
        ({"lm_eval_task": "ai2_arc"}, "'ai2_arc' is neither a task of lm-eval, nor a group with a score"),
        ({"lm_eval_task": "arc_easy", "metric": "f1"}, "metric 'f1' is not one of acc, acc_norm"),
        ({"lm_eval_task": "mmlu", "subtasks": ["anatomi"]}, "'anatomi' is not one of 'mmlu'.*'anatomy'"),
        ({"lm_eval_task": "arc_easy", "subtasks": ["arc_easy"]}, "'arc_easy' is a single task"),
        ({"lm_eval_task": "truthfulqa_mc2"}, "scores its choices by code of its own"),
        (
            {"lm_eval_task": "arc_easy", "group": "fact"},
            "group 'fact' is no column of .* 'arc_easy'; it has id, question",
        ),
        ({"lm_eval_task": "piqa"}, "no folder 'baber/piqa', the dataset of task 'piqa'"),
    ],
)
def test_bad_input_is_one_clear_line(settings, message, compiled):
    with pytest.raises(UserError, match=message) as error:
        compiled(**settings)
    assert "\n" not in str(error.value)


def test_file_that_is_no_task_is_one_clear_line(tmp_path, compiled):
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "other.yaml").write_text("name: x\n")
    for name in ("list", "other"):
        with pytest.raises(UserError, match=f"{name}.yaml': not a task YAML"):
            compiled(str(tmp_path / f"{name}.yaml"))


def test_missing_subject_is_one_clear_line(hub, tmp_path, compiled):
    (tmp_path / "cais").mkdir()
    (tmp_path / "cais/mmlu").mkdir()
    with pytest.raises(UserError, match="'mmlu': cannot load its data") as error:
        compiled("mmlu", subtasks=SUBJECTS, data_root=tmp_path)
    assert "\n" not in str(error.value)


def test_overflowing_prompts_are_cut_as_by_lm_eval_with_one_warning(hub, compiled, caplog):
    """With two shots, some MMLU prompts are longer than the model's 512 positions and some are not."""
    with caplog.at_level(logging.WARNING):
        task = compiled("mmlu", subtasks=["anatomy"], num_fewshot=2, limit=12)
    ours = [record for record in caplog.records if record.name.startswith("llama_nas")]
    model = HFLM(str(hub / "karpathy/stories260K"), device="cpu", batch_size=1, dtype="float32")
    encoded = [model._encode_pair(*instance.args) for instance in instances("mmlu_anatomy", hub, limit=12, shots=2)]
    stock = 0
    for pair in encoded:  # one by one: HFLM warns once for requests that it computes together
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="lm_eval"):
            model._loglikelihood_tokens([(("", ""), *pair)], disable_tqdm=True)
        stock += any("Truncating" in record.getMessage() for record in caplog.records)
    assert 0 < stock < len(encoded)
    assert task.info["truncated_requests"] == stock
    assert len(ours) == 1 and f"{stock} of {len(encoded)} requests" in ours[0].getMessage()
    assert task.trie.positions.max() == 511


def test_compiling_twice_gives_the_same_bytes(compiled, tmp_path):
    compiled("winogrande", num_fewshot=1)
    first = {path.name: path.read_bytes() for path in (tmp_path / "task").iterdir()}
    compiled("winogrande", num_fewshot=1)
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "task").iterdir()}
    assert set(first) == {"task.json", "requests.safetensors", "items.csv"}


def test_folder_that_is_not_a_compiled_task(tmp_path):
    (tmp_path / "task.json").write_text("{}")
    (tmp_path / "requests.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="not a compiled task"):
        CompiledTask.load(tmp_path)
