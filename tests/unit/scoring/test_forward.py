"""The search's scorer against stock lm-eval, request by request and metric by metric."""

import json
import math
import shutil
from pathlib import Path

import lm_eval
import numpy as np
import pytest
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from llama_nas.core.artifacts import read_json, write_json
from llama_nas.core.errors import UserError
from llama_nas.models.elastic import load_elastic, subnet_state_dict
from llama_nas.scoring.forward import score_task
from llama_nas.scoring.metrics import compute_metrics
from llama_nas.scoring.verify import compare

SUBJECTS = {  # lm-eval's tags, in the order of its group
    "mmlu_stem_tasks": ["mmlu_abstract_algebra", "mmlu_anatomy"],
    "mmlu_other_tasks": ["mmlu_virology"],
    "mmlu_social_sciences_tasks": ["mmlu_public_relations"],
    "mmlu_humanities_tasks": ["mmlu_world_religions"],
}


def index_of(*folders):
    """lm-eval's own index, of some of its folders: all of them take 8 s."""
    root = Path(lm_eval.__file__).parent / "tasks"
    return TaskManager(include_defaults=False, include_path=[str(root / folder) for folder in folders])


@pytest.fixture(scope="module")
def stock_manager():
    return index_of("arc", "mmlu", "truthfulqa", "winogrande")


def stock_run(model, tasks, manager, **settings):
    """lm-eval by its public entry point: log-likelihoods in item order, and the results."""
    model = HFLM(str(model), dtype="float32", device="cpu", batch_size=8)
    results = lm_eval.simple_evaluate(model, tasks=tasks, task_manager=manager, **settings)
    values = []
    for name in results["samples"]:
        for sample in sorted(results["samples"][name], key=lambda sample: sample["doc_id"]):
            values += [r[0] if isinstance(r[0], float) else r[0][0] for r in sample["resps"]]
    return np.array(values), results["results"]


def assert_same(task, ours, theirs):
    """DESIGN: 1e-4 per scored token and 1e-5 relative on sums."""
    difference = np.abs(ours - theirs)
    assert (difference <= 1e-4 * task.scored_tokens()).all()
    assert (difference <= 1e-5 * np.maximum(np.abs(theirs), 1)).all()


@pytest.mark.parametrize(
    "name, metric, settings",
    [
        ("arc_easy", "acc", {"limit": 40}),
        ("arc_challenge", "acc_norm", {"limit": 25, "num_fewshot": 1}),
        ("mmlu_anatomy", "acc", {"limit": 30}),
        ("mmlu_anatomy", "acc", {"limit": 12, "num_fewshot": 5}),  # beyond the model's 512 positions
        ("truthfulqa_mc1", "acc", {"limit": 25}),
        ("winogrande", "acc", {"limit": 60, "num_fewshot": 1}),
    ],
)
def test_multiple_choice_agrees_with_stock_lm_eval(
    name, metric, settings, compiled, hub, stories, stock_manager, monkeypatch
):
    task = compiled(name, metric, stories, **settings)
    (ours,) = score_task(load_elastic(stories), task, [None]).log_likelihoods
    monkeypatch.chdir(hub)  # there, the stock tasks' dataset names are paths
    theirs, results = stock_run(stories, [name], stock_manager, **settings)
    assert_same(task, ours, theirs)
    values = compute_metrics(task, ours)
    for key, value in values.items():
        assert value == pytest.approx(results[name][f"{key},none"], abs=1e-12)
    record = compare(task, ours, theirs, "fp32")
    assert record["agrees"] and record["flipped_items"] == []


def test_mmlu_as_a_group_agrees_with_stock_lm_eval(compiled, hub, stories, monkeypatch):
    """Stock nested groups, with five of the 57 subjects left in lm-eval's own tags."""
    manager = index_of("mmlu")
    subjects = []
    for tag, names in SUBJECTS.items():
        manager.task_index[tag].tags &= set(names)
        subjects += names
    task = compiled("mmlu", "acc", stories, limit=6, subtasks=[name[5:] for name in subjects])
    (ours,) = score_task(load_elastic(stories), task, [None]).log_likelihoods
    monkeypatch.chdir(hub)
    theirs, results = stock_run(stories, ["mmlu"], manager, limit=6)
    assert_same(task, ours, theirs)
    assert [part["name"] for part in task.info["tasks"]] == subjects
    values = compute_metrics(task, ours)
    assert values["acc"] == pytest.approx(results["mmlu"]["acc,none"], abs=1e-12)
    assert values["acc_stderr"] == pytest.approx(results["mmlu"]["acc_stderr,none"], abs=1e-12)


@pytest.mark.parametrize("chunk_tokens", [100, 2000])
def test_rolling_texts_agree_with_stock_lm_eval(chunk_tokens, compiled, hub, stories, stock_manager, tmp_path):
    """With 128 positions, every story takes several windows."""
    model = tmp_path / "stories-128"
    shutil.copytree(stories, model, copy_function=shutil.copyfile)
    model.chmod(0o755)
    config = read_json(model / "config.json")
    write_json(model / "config.json", config | {"max_position_embeddings": 128})
    task = compiled("tinystories", "bits_per_byte", model, limit=12, chunk_tokens=chunk_tokens)
    assert task.scored_tokens().min() > 128 and task.trie.positions.max() == 127
    (ours,) = score_task(load_elastic(model), task, [None]).log_likelihoods
    yaml = tmp_path / "stock.yaml"
    yaml.write_text(
        f"task: stock\ndataset_path: {hub}/roneneldan/TinyStories\noutput_type: loglikelihood_rolling\n"
        "validation_split: validation\ndoc_to_text: ''\ndoc_to_target: '{{text}}'\n"
    )
    theirs, results = stock_run(model, [str(yaml)], stock_manager, limit=12)
    assert_same(task, ours, theirs)
    values = compute_metrics(task, ours)
    for metric in ("bits_per_byte", "byte_perplexity", "word_perplexity"):
        assert values[metric] == pytest.approx(results["stock"][f"{metric},none"], rel=1e-6)
        assert math.isnan(values[f"{metric}_stderr"])


ROWS = [
    {"question": "What is red?", "choices": ["fire", "fire truck", "fir", "é"], "answer": 1},  # prefixes of others
    {"question": "What is red?", "choices": ["a", "b"], "answer": 0},
    {"question": "", "choices": ["once upon a time", "the"], "answer": 0},  # empty context
    {"question": "Tie", "choices": ["same", "same", "other"], "answer": 1},  # identical requests
    {"question": "Tie", "choices": ["same", "same", "other"], "answer": 0},
    {"question": "Spaces at the end  ", "choices": ["x", "y z"], "answer": 1},
]
METRICS = ("acc", "acc_norm", "acc_bytes")


@pytest.fixture
def odd_task(tmp_path):
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (tmp_path / "odd.yaml").write_text(
        f"task: odd\ndataset_path: json\ndataset_kwargs:\n  data_files: {tmp_path}/rows.jsonl\ntest_split: train\n"
        "output_type: multiple_choice\ndoc_to_text: '{{question}}'\ndoc_to_choice: choices\ndoc_to_target: answer\n"
        "target_delimiter: ' '\nmetric_list:\n"
        + "".join(f"  - {{metric: {m}, aggregation: mean, higher_is_better: true}}\n" for m in METRICS)
    )
    return str(tmp_path / "odd.yaml")


@pytest.mark.parametrize("chunk_tokens", [1, 16, 10_000])
def test_odd_requests_agree_with_stock_lm_eval(chunk_tokens, compiled, odd_task, tiny, stock_manager):
    task = compiled(odd_task, "acc", tiny, chunk_tokens, data_root=None)
    (ours,) = score_task(load_elastic(tiny), task, [None]).log_likelihoods
    theirs, results = stock_run(tiny, [odd_task], stock_manager)
    assert_same(task, ours, theirs)
    values = compute_metrics(task, ours)
    assert list(values) == [key for metric in METRICS for key in (metric, f"{metric}_stderr")]
    for key, value in values.items():
        assert value == pytest.approx(results["odd"][f"{key},none"], abs=1e-12)
    assert ours[8] == ours[9], "identical requests have one log-likelihood"


def sliced(folder, subnet, output):
    """The sub-network on its own, as a stock Llama: one width for all layers."""
    model = LlamaForCausalLM.from_pretrained(folder)
    config = LlamaConfig.from_dict(model.config.to_dict())
    config.num_hidden_layers, config.intermediate_size = subnet.layers, subnet.widths[0]
    cut = LlamaForCausalLM(config)
    cut.load_state_dict(subnet_state_dict(model.state_dict(), subnet))
    cut.save_pretrained(output)
    AutoTokenizer.from_pretrained(folder).save_pretrained(output)
    return output


def test_sub_networks_agree_with_stock_lm_eval_on_sliced_models(
    compiled, hub, tiny, space, stock_manager, tmp_path, monkeypatch
):
    ids = ["000x", "1111", "11xx", "x0x0"]
    subnets = [space.parse(subnet_id) for subnet_id in ids]
    task = compiled("arc_easy", "acc", tiny, limit=15)
    ours = score_task(load_elastic(tiny), task, subnets).log_likelihoods
    folders = [sliced(tiny, subnet, tmp_path / subnet_id) for subnet, subnet_id in zip(subnets, ids, strict=True)]
    monkeypatch.chdir(hub)
    for result, folder in zip(ours, folders, strict=True):
        theirs, _ = stock_run(folder, ["arc_easy"], stock_manager, limit=15)
        assert_same(task, result, theirs)
    assert len({round(result.sum(), 3) for result in ours}) == len(ids)


def test_result_does_not_depend_on_the_chunk_bound(compiled, tiny):
    results, chunks = [], []
    for chunk_tokens in (64, 333, 5000):
        task = compiled("arc_easy", "acc", tiny, chunk_tokens, limit=30)
        results.append(score_task(load_elastic(tiny), task, [None]).log_likelihoods[0])
        chunks.append(task.trie.num_chunks)
    assert chunks[0] > chunks[1] > chunks[2]
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=1e-5)


def test_half_precision_sums_stay_near_full_precision(compiled, tiny):
    task = compiled("arc_easy", "acc", tiny, limit=10)
    (full,) = score_task(load_elastic(tiny, "fp32"), task, [None]).log_likelihoods
    (half,) = score_task(load_elastic(tiny, "bf16"), task, [None]).log_likelihoods
    assert 0 < np.abs(full - half).max() < 0.05 * np.abs(full).max()


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("vocab_size", 300, "vocabulary 300"),
        ("max_position_embeddings", 20, "20 positions"),
        ("sliding_window", 32, "sliding window 32"),
    ],
)
def test_model_that_does_not_fit_the_task_is_one_clear_line(key, value, message, compiled, tiny):
    task = compiled("arc_easy", "acc", tiny, limit=6)
    model = load_elastic(tiny)
    setattr(model.config, key, value)
    with pytest.raises(UserError, match=message):
        score_task(model, task, [None])
