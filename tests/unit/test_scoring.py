"""The search's scorer against stock lm-eval, request by request and metric by metric."""

import io
import json
import math
import shutil
from dataclasses import fields
from pathlib import Path

import lm_eval
import numpy as np
import pandas as pd
import pytest
import torch
from lm_eval.api import metrics as stock_metrics
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from llama_nas.artifacts import read_json, write_json
from llama_nas.elastic import load_elastic, subnet_state_dict
from llama_nas.errors import UserError
from llama_nas.scoring.evaluate import evaluate_shard
from llama_nas.scoring.metrics import compute_metrics
from llama_nas.scoring.score import score
from llama_nas.scoring.verify import compare, verify_against_benchmark
from llama_nas.space import parse_id
from llama_nas.tasks.compile import compile_task
from llama_nas.tasks.compiled import CompiledTask
from llama_nas.tasks.trie import TokenTrie

WIDTHS = [96, 48]


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


@pytest.fixture(scope="module")
def stories(hub):
    return hub / "karpathy/stories260K"


@pytest.fixture(scope="module")
def tiny(stories, tmp_path_factory):
    """A random Llama with the tokenizer of stories260K: 4 layers, untied head, grouped queries."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=WIDTHS[0],
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
    )
    folder = tmp_path_factory.mktemp("tiny")
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(stories).save_pretrained(folder)
    return folder


def compiled(output, lm_eval_task, metric, model, data_root, **settings):
    defaults = {
        "task": "t",
        "num_fewshot": None,
        "limit": None,
        "subtasks": None,
        "chunk_tokens": 300,
        "group_tokens": 5000,
    }
    compile_task(
        output, lm_eval_task=lm_eval_task, metric=metric, model=model, data_root=data_root, **(defaults | settings)
    )
    return CompiledTask.load(output)


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
    name, metric, settings, hub, stories, stock_manager, tmp_path, monkeypatch
):
    task = compiled(tmp_path / "t", name, metric, stories, hub, **settings)
    (ours,) = score(load_elastic(stories), task, [None]).log_likelihoods
    monkeypatch.chdir(hub)  # there, the stock tasks' dataset names are paths
    theirs, results = stock_run(stories, [name], stock_manager, **settings)
    assert_same(task, ours, theirs)
    values = compute_metrics(task, ours)
    for key, value in values.items():
        assert value == pytest.approx(results[name][f"{key},none"], abs=1e-12)
    record = compare(task, ours, theirs, "fp32")
    assert record["agrees"] and record["flipped_items"] == []


def test_mmlu_as_a_group_agrees_with_stock_lm_eval(hub, stories, tmp_path, monkeypatch):
    """Stock nested groups, with five of the 57 subjects left in lm-eval's own tags."""
    manager = index_of("mmlu")
    subjects = []
    for tag, names in SUBJECTS.items():
        manager.task_index[tag].tags &= set(names)
        subjects += names
    task = compiled(tmp_path / "t", "mmlu", "acc", stories, hub, limit=6, subtasks=[name[5:] for name in subjects])
    (ours,) = score(load_elastic(stories), task, [None]).log_likelihoods
    monkeypatch.chdir(hub)
    theirs, results = stock_run(stories, ["mmlu"], manager, limit=6)
    assert_same(task, ours, theirs)
    assert [part["name"] for part in task.info["tasks"]] == subjects
    values = compute_metrics(task, ours)
    assert values["acc"] == pytest.approx(results["mmlu"]["acc,none"], abs=1e-12)
    assert values["acc_stderr"] == pytest.approx(results["mmlu"]["acc_stderr,none"], abs=1e-12)


@pytest.mark.parametrize("chunk_tokens", [100, 2000])
def test_rolling_texts_agree_with_stock_lm_eval(chunk_tokens, hub, stories, stock_manager, tmp_path):
    """With 128 positions, every story takes several windows."""
    model = tmp_path / "stories-128"
    shutil.copytree(stories, model, copy_function=shutil.copyfile)
    model.chmod(0o755)
    config = read_json(model / "config.json")
    write_json(model / "config.json", config | {"max_position_embeddings": 128})
    task = compiled(tmp_path / "t", "tinystories", "bits_per_byte", model, hub, limit=12, chunk_tokens=chunk_tokens)
    assert task.scored_tokens().min() > 128 and task.trie.positions.max() == 127
    (ours,) = score(load_elastic(model), task, [None]).log_likelihoods
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


METRICS = ("acc", "acc_norm", "acc_bytes")


@pytest.mark.parametrize("chunk_tokens", [1, 16, 10_000])
def test_odd_requests_agree_with_stock_lm_eval(chunk_tokens, odd_task, tiny, stock_manager, tmp_path):
    task = compiled(tmp_path / "t", odd_task, "acc", tiny, None, chunk_tokens=chunk_tokens)
    (ours,) = score(load_elastic(tiny), task, [None]).log_likelihoods
    theirs, results = stock_run(tiny, [odd_task], stock_manager)
    assert_same(task, ours, theirs)
    values = compute_metrics(task, ours)
    assert list(values) == [key for metric in METRICS for key in (metric, f"{metric}_stderr")]
    for key, value in values.items():
        assert value == pytest.approx(results["odd"][f"{key},none"], abs=1e-12)
    assert ours[8] == ours[9], "identical requests have one log-likelihood"


def test_result_does_not_depend_on_the_chunk_bound(hub, tiny, tmp_path):
    results, chunks = [], []
    for chunk_tokens in (64, 333, 5000):
        output = tmp_path / str(chunk_tokens)
        task = compiled(output, "arc_easy", "acc", tiny, hub, limit=30, chunk_tokens=chunk_tokens)
        results.append(score(load_elastic(tiny), task, [None]).log_likelihoods[0])
        chunks.append(task.trie.num_chunks)
    assert chunks[0] > chunks[1] > chunks[2]
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=1e-5)


def sliced(folder, subnet_id, output):
    """The sub-network on its own, as a stock Llama: one width for all layers."""
    model = LlamaForCausalLM.from_pretrained(folder)
    subnet = parse_id(subnet_id, 4, WIDTHS)
    config = LlamaConfig.from_dict(model.config.to_dict())
    config.num_hidden_layers, config.intermediate_size = subnet.layers, subnet.kept_widths[0]
    cut = LlamaForCausalLM(config)
    cut.load_state_dict(subnet_state_dict(model.state_dict(), subnet))
    cut.save_pretrained(output)
    AutoTokenizer.from_pretrained(folder).save_pretrained(output)
    return output


def test_sub_networks_agree_with_stock_lm_eval_on_sliced_models(hub, tiny, stock_manager, tmp_path, monkeypatch):
    ids = ["000x", "1111", "11xx", "x0x0"]
    task = compiled(tmp_path / "t", "arc_easy", "acc", tiny, hub, limit=15)
    ours = score(load_elastic(tiny), task, [parse_id(subnet_id, 4, WIDTHS) for subnet_id in ids]).log_likelihoods
    folders = [sliced(tiny, subnet_id, tmp_path / subnet_id) for subnet_id in ids]
    monkeypatch.chdir(hub)
    for result, folder in zip(ours, folders, strict=True):
        theirs, _ = stock_run(folder, ["arc_easy"], stock_manager, limit=15)
        assert_same(task, result, theirs)
    assert len({round(result.sum(), 3) for result in ours}) == len(ids)


def test_some_items_are_the_same_for_all_and_keep_their_scores(hub, tiny, tmp_path):
    """30 of 60 items of two subjects of unequal size, drawn in proportion; figures are those of the items alone."""
    subjects = ["abstract_algebra", "anatomy"]
    task = compiled(tmp_path / "t", "mmlu", "acc", tiny, hub, limit=30, subtasks=subjects)
    some = task.random_items(20)
    assert np.bincount(some.subtasks).tolist() == [10, 10] and some.num_items == some.info["items"] == 20
    model = load_elastic(tiny)
    every, own = (score(model, t, [None]).log_likelihoods[0] for t in (task, some))
    matches = [np.flatnonzero(np.isclose(every, value, rtol=1e-5)) for value in own]
    items = {int(np.searchsorted(task.item_starts, m[0], side="right")) for m in matches}
    assert len(items) == 20
    np.testing.assert_array_equal(score(model, task.random_items(20), [None]).log_likelihoods[0], own)
    assert compute_metrics(some, own)["acc_stderr"] > compute_metrics(task, every)["acc_stderr"]
    fewest, most = task.info["search_items_range"]
    assert (fewest, most) == (2, 58)
    for count in (fewest, most):
        assert all(len(np.unique(task.subtasks[side])) == 2 for side in task.split(count))
    for count in (fewest - 1, most + 1):
        with pytest.raises(UserError, match=rf"search_items {count} must lie in 2\.\.58"):
            task.random_items(count)


def test_half_precision_sums_stay_near_full_precision(hub, tiny, tmp_path):
    task = compiled(tmp_path / "t", "arc_easy", "acc", tiny, hub, limit=10)
    (full,) = score(load_elastic(tiny, "fp32"), task, [None]).log_likelihoods
    (half,) = score(load_elastic(tiny, "bf16"), task, [None]).log_likelihoods
    assert 0 < np.abs(full - half).max() < 0.05 * np.abs(full).max()


def synthetic(sizes, weight_by_size, correct_share=0.4):
    """Two choices an item; subtasks of unequal sizes."""
    rng = np.random.default_rng(0)
    items = sum(sizes)
    empty = np.zeros(0, dtype=np.int32)
    right = rng.integers(0, 2, items)
    task = CompiledTask(
        info={
            "task": "t",
            "metric": "acc",
            "metrics": ["acc"],
            "weight_by_size": {"acc": weight_by_size},
            "tasks": [{"name": str(i)} for i in range(len(sizes))],
        },
        trie=TokenTrie(*[empty] * len(fields(TokenTrie))),
        item_starts=np.arange(0, 2 * items + 1, 2),
        subtasks=np.repeat(np.arange(len(sizes)), sizes),
        correct=np.stack([right == 0, right == 1], axis=1).astype(np.uint8).ravel(),
        characters=np.ones(2 * items, dtype=np.int32),
        utf8_bytes=np.ones(2 * items, dtype=np.int32),
        weights=np.zeros((items, 1), dtype=np.int64),
    )
    return task, rng.normal(size=2 * items), right


@pytest.mark.parametrize("weight_by_size", [True, False])
def test_group_of_unequal_subtasks_is_weighted_as_in_lm_eval(weight_by_size):
    sizes = [3, 7, 20]
    task, log_likelihoods, right = synthetic(sizes, weight_by_size)
    hits = (log_likelihoods.reshape(-1, 2).argmax(axis=1) == right).astype(float)
    parts = np.split(hits, np.cumsum(sizes)[:-1])
    values = [stock_metrics.mean(list(part)) for part in parts]
    errors = [stock_metrics.mean_stderr(list(part)) for part in parts]
    stderr = (
        stock_metrics.pooled_sample_stderr(errors, sizes)
        if weight_by_size
        else stock_metrics.unweighted_mean_stderr(errors)
    )
    result = compute_metrics(task, log_likelihoods)
    assert result["acc"] == pytest.approx(stock_metrics.aggregate_subtask_metrics(values, sizes, weight_by_size))
    assert result["acc_stderr"] == pytest.approx(stderr)


@pytest.fixture
def shard_run(hub, tiny, tmp_path):
    compiled(tmp_path / "task", "arc_easy", "acc_norm", tiny, hub, limit=6)
    rows = ["0,0000,random,", "1,000x,random,", "2,1100,nsga,0.31", "3,10xx,nsga,0.3", "4,0101,nsga,0.2"]
    (tmp_path / "candidates.csv").write_text("\n".join(["candidate,subnet_id,origin,predicted", *rows, ""]))

    def run(shard, shards, **changes):
        output = tmp_path / f"shard_{shard}-of-{shards}.csv"
        settings = {"depths": [2, 3, 4], "widths": WIDTHS, "depth_selection": "first", "dtype": "fp32"}
        evaluate_shard(
            output,
            supernet=tiny,
            task=tmp_path / "task",
            candidates=tmp_path / "candidates.csv",
            shard=shard,
            shards=shards,
            device="cpu",
            threads=1,
            timings=tmp_path / "timings.json",
            **({"items": None} | settings | changes),
        )
        return output.read_text()

    return run


def test_shards_are_the_rows_of_one_table_byte_for_byte(shard_run, tmp_path):
    whole = shard_run(1, 1)
    header = whole.splitlines()[0]
    assert header == "candidate,subnet_id,acc_norm,acc_norm_stderr,acc,acc_stderr,items"
    assert [line.split(",")[1] for line in whole.splitlines()[1:]] == ["0000", "000x", "1100", "10xx", "0101"]
    for shards in (2, 3, 7):
        parts = [shard_run(shard, shards).splitlines() for shard in range(1, shards + 1)]
        assert all(part[0] == header for part in parts)
        assert "\n".join([header, *sorted(line for part in parts for line in part[1:]), ""]) == whole
    timings = read_json(tmp_path / "timings.json")
    assert {
        "seconds",
        "items",
        "distinct_tokens",
        "layer_passes",
        "layer_passes_saved",
        "tokens_per_second",
        "host",
    } <= set(timings)


def test_held_out_items_are_those_that_a_search_on_some_items_leaves(shard_run):
    """A score on all items is that of the search's items and of the others, in proportion."""
    every, searched = shard_run(1, 1, held_out=4), shard_run(1, 1, items=4)
    every, searched = (pd.read_csv(io.StringIO(text), dtype={"answers": str}) for text in (every, searched))
    assert list(every.columns)[-5:] == ["held_out", "held_out_stderr", "held_out_items", "answers", "items"]
    assert (every["held_out_items"] == 2).all() and (every["items"] == 6).all() and (searched["items"] == 4).all()
    pooled = (4 * searched["acc_norm"] + 2 * every["held_out"]) / 6
    assert every["acc_norm"].tolist() == pytest.approx(pooled.tolist())
    assert every["held_out"].tolist() == [answers.count("1") / 2 for answers in every["answers"]]
    with pytest.raises(UserError, match=r"search_items 6 must lie in 1\.\.5"):
        shard_run(1, 1, items=6)


def test_bad_shard_or_candidate_is_one_clear_line(shard_run, tmp_path):
    with pytest.raises(UserError, match=r"--shard 3: must lie in 1\.\.2"):
        shard_run(3, 2)
    with pytest.raises(UserError, match="subnet id '1100' is not valid here"):
        shard_run(1, 1, widths=WIDTHS[:1])


def test_model_that_does_not_fit_the_task_is_one_clear_line(hub, tiny, stories, tmp_path):
    task = compiled(tmp_path / "t", "arc_easy", "acc", tiny, hub, limit=6)
    model = load_elastic(tiny)
    for key, value, message in [
        ("vocab_size", 300, "vocabulary 300"),
        ("max_position_embeddings", 20, "20 positions"),
        ("sliding_window", 32, "sliding window 32"),
    ]:
        stock = getattr(model.config, key, None)
        setattr(model.config, key, value)
        with pytest.raises(UserError, match=message):
            score(model, task, [None])
        setattr(model.config, key, stock)


def verify(tmp_path, tiny, log_likelihoods, task, dtype="fp32", precision="fp32"):
    nested = np.split(log_likelihoods, task.item_starts[1:-1])
    record = {"task": "t", "precision": precision, "loglikelihoods": [item.tolist() for item in nested]}
    write_json(tmp_path / "benchmark.json", record)
    verify_against_benchmark(
        tmp_path / "agreement.json",
        supernet=tiny,
        widths=WIDTHS,
        subnet_id="110x",
        task=tmp_path / "t",
        benchmark=tmp_path / "benchmark.json",
        dtype=dtype,
        device="cpu",
        threads=1,
    )
    return read_json(tmp_path / "agreement.json")


def test_disagreement_is_found_and_stated(hub, tiny, tmp_path):
    task = compiled(tmp_path / "t", "arc_easy", "acc", tiny, hub, limit=8)
    (exact,) = score(load_elastic(tiny), task, [parse_id("110x", 4, WIDTHS)]).log_likelihoods
    assert verify(tmp_path, tiny, exact, task)["agrees"] is True

    off = exact.copy()
    off[5] += 2e-4 * task.scored_tokens()[5]
    record = verify(tmp_path, tiny, off, task)
    assert record["agrees"] is False and record["flipped_items"] == []
    assert record["max_difference_per_token"] == pytest.approx(2e-4, rel=1e-3)

    flipped = exact.copy()
    first = slice(*task.item_starts[:2])
    flipped[first] = np.sort(exact[first])[:: -1 if exact[first].argmax() else 1]
    record = verify(tmp_path, tiny, flipped, task)
    assert record["agrees"] is False
    assert [item["item"] for item in record["flipped_items"]] == [0]
    assert record["flipped_items"][0]["search_scorer"] == exact[first].argmax()


def test_verify_refuses_results_of_something_else(hub, tiny, tmp_path):
    task = compiled(tmp_path / "t", "arc_easy", "acc", tiny, hub, limit=8)
    with pytest.raises(UserError, match="precision fp16 is not the search's, fp32"):
        verify(tmp_path, tiny, np.zeros(task.num_requests), task, precision="fp16")
    with pytest.raises(UserError, match="not a result of `llama-nas benchmark` on the same items"):
        verify(tmp_path, tiny, np.zeros(task.num_requests + 1), task)
