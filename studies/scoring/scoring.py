"""What scoring costs: stock lm-eval against this project's scorer, in one run on one model.

    python studies/scoring/scoring.py --hub <folder in Hub layout> --run <folder of a finished default run>

1. Stock `HFLM` at its best batch size and our `TrieLM` answer the same requests, in turn, task by task: the five real
   tasks (a fixed sample: see SAMPLE) on a random-weight Llama of 21 M parameters besides embeddings, with a tokenizer
   of 32,000 tokens trained on Alpaca; and the run's own five tasks on its own super-network.
2. Populations of 50 sub-networks, random and of the run's last search rounds, with and without shared layers, on
   ARC-Easy (which networks share what does not depend on the task).
3. Each idea off, one at a time, and a profile of what is left. (studies/attention/ measures attention alone.)

The script writes scoring.json beside itself and prints it as tables. It needs the machine for itself, about 20 minutes
on 2 cores.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llama_nas.core.artifacts import read_json, write_json
from llama_nas.core.machine import device_name
from llama_nas.core.shape import ModelShape, Subnet, with_widths
from llama_nas.core.space import SearchSpace
from llama_nas.models.elastic import full_network, load_elastic
from llama_nas.scoring.forward import score_trie
from llama_nas.scoring.harness import TrieLM
from llama_nas.scoring.sharing import layer_passes, plan
from llama_nas.tasks.definitions import leaf_tasks, load_task, set_fewshot
from llama_nas.tasks.encode import RequestEncoder, fit_to_model
from llama_nas.tasks.trie import Scored, TokenTrie, build_trie

HERE = Path(__file__).resolve().parent
# Task: settings of the fixed sample. Whole subjects of MMLU, for sharing depends on how many questions share shots.
SAMPLE: dict[str, dict[str, Any]] = {
    "arc_easy": {"limit": 100},
    "arc_challenge": {"limit": 100},
    "mmlu": {"num_fewshot": 5, "subtasks": ["abstract_algebra"]},
    "truthfulqa_mc1": {"limit": 30},
    "winogrande": {"limit": 100},
}
BATCH_SIZES = (1, 4, 16, 64)
CHUNK_TOKENS, GROUP_TOKENS = 512, 32768
FEW = 0.1  # share of the sample's requests for what is measured often: ablations and, on ARC-Easy, populations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hub", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", choices=["fp32", "bf16", "fp16"], default="fp32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=HERE / "scoring.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = args.run.resolve() / "results"
    with tempfile.TemporaryDirectory() as temporary:
        device = device_name(args.device)
        record: dict[str, Any] = {"device": device, "dtype": args.dtype, "threads": args.threads}
        folder = random_llama(Path(temporary) / "model", args.hub.resolve())
        record["real"] = measure_real(
            load_elastic(folder, args.dtype, args.device), folder, args.hub.resolve(), results
        )
    folder = results / "supernet"
    record["embedded"] = measure_embedded(load_elastic(folder, args.dtype, args.device), folder, results)
    write_json(args.output, record)
    print(markdown(record))


def measure_real(model: Any, folder: Path, hub: Path, results: Path) -> dict[str, Any]:
    tasks = {name: instances(name, hub, **settings) for name, settings in SAMPLE.items()}
    batch_size = best_batch_size(model, folder, [i for requests in tasks.values() for i in requests[::40]])
    encoder = RequestEncoder(folder)
    encoded = {name: sequences(encoder, requests) for name, requests in tasks.items()}
    populations = populations_of(results, model)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "batch_size": batch_size,
        "tasks": {name: compare(model, folder, requests, batch_size) for name, requests in tasks.items()},
        "populations": {
            name: population(model, sample(encoded["arc_easy"]), networks) for name, networks in populations.items()
        },
        "ablations": ablations(model, encoded),
        "profile": profile(model, encoded["mmlu"]),
    }


def measure_embedded(model: Any, folder: Path, results: Path) -> dict[str, Any]:
    tasks = {}
    for path in sorted((results / "tasks").iterdir()):
        info = read_json(path / "task.json")
        settings = {key: info[key] for key in ("num_fewshot", "limit", "subtasks") if info[key] is not None}
        tasks[path.name] = instances(info["lm_eval_task"], results / "world/hub", **settings)
    batch_size = best_batch_size(model, folder, [i for requests in tasks.values() for i in requests[::40]])
    encoder = RequestEncoder(folder)
    encoded = {name: sequences(encoder, requests) for name, requests in tasks.items()}
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "batch_size": batch_size,
        "tasks": {name: compare(model, folder, requests, batch_size) for name, requests in tasks.items()},
        "populations": {
            name: population(model, encoded["arc_easy"], networks)
            for name, networks in populations_of(results, model).items()
        },
    }


def random_llama(folder: Path, hub: Path) -> Path:
    from tokenizers import ByteLevelBPETokenizer

    texts = pd.concat([pd.read_parquet(path) for path in sorted((hub / "tatsu-lab/alpaca").rglob("*.parquet"))])
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts["instruction"] + "\n" + texts["output"], vocab_size=32000, special_tokens=["</s>"])
    PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=12,
        num_attention_heads=6,
        max_position_embeddings=4096,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def instances(name: str, data_root: Path, **settings: Any) -> list[Instance]:
    leaves = leaf_tasks(load_task(name, data_root=data_root, subtasks=settings.get("subtasks")))
    for leaf in leaves:
        set_fewshot(leaf, settings.get("num_fewshot"))
        leaf.build_all_requests(limit=settings.get("limit"))
    return [instance for leaf in leaves for instance in leaf.instances]


def sequences(encoder: RequestEncoder, requests: list[Instance]) -> list[Scored]:
    encoded = encoder.encode(requests)
    return [fit_to_model(i, pair, encoder.max_length) for i, pairs in enumerate(encoded) for pair in pairs]


def sample(own: list[Scored]) -> list[Scored]:
    """The first requests: neighbours, so that they share as all requests do."""
    return own[: max(int(len(own) * FEW), 1)]


def best_batch_size(model: Any, folder: Path, requests: list[Instance]) -> int:
    seconds = {
        size: timed(lambda size=size: stock(model, folder, size).loglikelihood(requests))[0] for size in BATCH_SIZES
    }
    return min(seconds, key=lambda size: seconds[size])


def stock(model: Any, folder: Path, batch_size: int) -> HFLM:
    return HFLM(model, tokenizer=str(folder), batch_size=batch_size)


def timed(run: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def compare(model: Any, folder: Path, requests: list[Instance], batch_size: int) -> dict[str, Any]:
    """Both answer all requests, tokenising included."""
    theirs_seconds, theirs = timed(lambda: stock(model, folder, batch_size).loglikelihood(requests))
    ours_seconds, ours = timed(
        lambda: TrieLM(model, CHUNK_TOKENS, GROUP_TOKENS, tokenizer=str(folder)).loglikelihood(requests)
    )
    own = sequences(RequestEncoder(folder), requests)
    values, expected = (np.array([value for value, _ in answers]) for answers in (ours, theirs))
    return {
        "requests": len(requests),
        "hflm_tokens": sum(len(tokens) for tokens in {sequence.tokens for sequence in own}),
        "our_tokens": len(build_trie(own, CHUNK_TOKENS, GROUP_TOKENS).tokens),
        "distinct_prefixes": len(build_trie(own, CHUNK_TOKENS, 10**9).tokens),
        "hflm_seconds": theirs_seconds,
        "our_seconds": ours_seconds,
        "ratio": theirs_seconds / ours_seconds,
        "largest_difference": float(np.abs(values - expected).max()),
        "different_answers": different_answers(requests, values, expected),
    }


def different_answers(requests: list[Instance], values: np.ndarray, expected: np.ndarray) -> int:
    """Items whose most likely choice differs."""
    starts = [
        i
        for i, r in enumerate(requests)
        if i == 0 or (r.task_name, r.doc_id) != (requests[i - 1].task_name, requests[i - 1].doc_id)
    ]
    pairs = zip(np.split(values, starts[1:]), np.split(expected, starts[1:]), strict=True)
    return sum(int(ours.argmax() != theirs.argmax()) for ours, theirs in pairs)


def populations_of(results: Path, model: Any) -> dict[str, list[Subnet]]:
    """50 random networks, and each task's last round of the run; the run's space, its widths scaled to the model's."""
    shape, of_run = ModelShape.from_config(model.config.to_dict()), SearchSpace.read(results / "space.json")
    assert of_run.num_layers == shape.num_hidden_layers, "the run's networks must fit the model"
    full = shape.intermediate_size
    widths = [full * block.mlp_width // of_run.shape.intermediate_size for block in of_run.blocks]
    space = SearchSpace(shape, with_widths(widths).kept_blocks, of_run.kept)
    rng = np.random.default_rng(0)
    named = {"random": [space.subnet(space.random(rng)) for _ in range(50)]}
    for path in sorted((results / "search").iterdir()):
        last = max(path.glob("round_*"), key=lambda folder: int(folder.name.split("_")[1]))
        ids = pd.read_csv(last / "candidates.csv", dtype=str)["subnet_id"]
        named[f"{path.name}, {last.name}"] = [space.parse(subnet_id) for subnet_id in ids]
    return named


def score_seconds(model: Any, own: list[Scored], networks: Sequence[Subnet], trie: TokenTrie) -> tuple[float, Any]:
    requests = max(sequence.request for sequence in own) + 1
    return timed(lambda: score_trie(model, trie, requests, networks, label="scoring"))


def population(model: Any, own: list[Scored], networks: Sequence[Subnet]) -> dict[str, Any]:
    """Seconds with shared layers; without, from networks spread over the population, scaled to all."""
    some = networks[:: max(len(networks) // 5, 1)]
    trie = build_trie(own, CHUNK_TOKENS, GROUP_TOKENS)
    together, scores = score_seconds(model, own, networks, trie)
    alone = sum(score_seconds(model, own, [network], trie)[0] for network in some)
    alone *= sum(network.layers for network in networks) / sum(network.layers for network in some)
    return {
        "networks": len(networks),
        "expected_share": layer_passes(plan(networks)) / sum(network.layers for network in networks),
        "realised_share": scores.layer_passes / scores.unshared_layer_passes,
        "layer_passes": scores.layer_passes,
        "seconds": together,
        "seconds_unshared": alone,
        "speedup": alone / together,
    }


def ablations(model: Any, encoded: dict[str, list[Scored]]) -> dict[str, dict[str, float]]:
    """One network on a tenth of the sample, each idea off."""
    variants = {
        "all ideas": lambda own: build_trie(own, CHUNK_TOKENS, GROUP_TOKENS),
        "no stems: a chunk has its prefixes itself": lambda own: build_trie(own, CHUNK_TOKENS, CHUNK_TOKENS),
        "no trie: each request alone": lambda own: build_trie(own, 4096, 1),
        "head at every position": head_everywhere,
        "chunks of 128 tokens": lambda own: build_trie(own, 128, GROUP_TOKENS),
        "chunks of 2048 tokens": lambda own: build_trie(own, 2048, GROUP_TOKENS),
    }
    sampled = [sample(own) for own in encoded.values()]
    measured = {}
    for name, make in variants.items():
        tries = [make(own) for own in sampled]
        runs = zip(sampled, tries, strict=True)
        seconds = sum(score_seconds(model, own, [full_network(model)], trie)[0] for own, trie in runs)
        measured[name] = {"tokens": sum(len(trie.tokens) for trie in tries), "seconds": seconds}
    return measured


def head_everywhere(own: list[Scored]) -> TokenTrie:
    trie = build_trie(own, CHUNK_TOKENS, GROUP_TOKENS)
    everything = np.arange(len(trie.tokens))
    zeros = np.zeros(len(everything), dtype=np.int32)
    return replace(trie, rows=everything, targets=zeros, requests=zeros)


def profile(model: Any, own: list[Scored]) -> dict[str, float]:
    """Share of processor time by operation, one network on one task."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as torch_profile

    trie = build_trie(sample(own), CHUNK_TOKENS, GROUP_TOKENS)
    with torch_profile(activities=[ProfilerActivity.CPU]) as profiled:
        score_trie(model, trie, max(s.request for s in own) + 1, [full_network(model)], label="profile")
    events = profiled.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    largest = sorted(events, key=lambda event: -event.self_cpu_time_total)[:8]
    return {event.key: event.self_cpu_time_total / total for event in largest}


def markdown(record: dict[str, Any]) -> str:
    lines = []
    for name in ("real", "embedded"):
        part = record[name]
        lines += [
            "",
            f"{name}: {part['parameters']:,} parameters, HFLM at batch size {part['batch_size']}, "
            f"{record['device']}, {record['dtype']}, {record['threads']} threads",
            "",
            "| task | requests | tokens HFLM | tokens ours | distinct prefixes | HFLM, s | ours, s | ratio | "
            "largest difference, nats | different answers |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        rows = part["tasks"].values()
        for task, t in part["tasks"].items():
            lines.append(
                f"| {task} | {t['requests']} | {t['hflm_tokens']} | {t['our_tokens']} | {t['distinct_prefixes']} | "
                f"{t['hflm_seconds']:.1f} | {t['our_seconds']:.1f} | {t['ratio']:.1f} | "
                f"{t['largest_difference']:.1e} | {t['different_answers']} |"
            )
        theirs, ours = (sum(t[key] for t in rows) for key in ("hflm_seconds", "our_seconds"))
        lines += [f"| all | | | | | {theirs:.1f} | {ours:.1f} | {theirs / ours:.1f} | | |", ""]
        lines += [
            "| population | expected share of layer passes | realised | layer passes | s | s unshared | ratio |",
            "|---|---|---|---|---|---|---|",
        ]
        for population_name, p in part["populations"].items():
            lines.append(
                f"| {population_name} | {p['expected_share']:.2f} | {p['realised_share']:.2f} | "
                f"{p['layer_passes']} | {p['seconds']:.1f} | "
                f"{p['seconds_unshared']:.1f} | {p['speedup']:.2f} |"
            )
    lines += ["", "| idea off | tokens | s |", "|---|---|---|"]
    lines += [f"| {name} | {a['tokens']} | {a['seconds']:.1f} |" for name, a in record["real"]["ablations"].items()]
    lines += ["", "| operation | share of processor time |", "|---|---|"]
    lines += [f"| `{name}` | {100 * share:.0f} % |" for name, share in record["real"]["profile"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
