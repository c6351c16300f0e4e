"""The scorer's attention alone: scaled-dot-product attention with a mask, as it is, against compiled flex attention.

    python studies/attention/attention.py --hub <folder in Hub layout>

All chunks of a tenth of the sample of studies/scoring/scoring.py go through one layer of the same random-weight Llama,
by both kernels in turn. Flex attention skips the blocks in which no token has an ancestor. The script writes
attention.json beside itself and prints it as a table. It needs the machine for itself, minutes on 2 cores, and a C++
compiler.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from llama_nas.core.artifacts import write_json
from llama_nas.core.machine import device_name
from llama_nas.models.elastic import load_elastic
from llama_nas.scoring.forward import GroupRun
from llama_nas.tasks.encode import RequestEncoder
from llama_nas.tasks.trie import Group, Scored, build_trie

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "scoring"))
from scoring import CHUNK_TOKENS, GROUP_TOKENS, SAMPLE, instances, random_llama, sample, sequences, timed  # noqa: E402

REPEATS = 11


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hub", type=Path, required=True)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", choices=["fp32", "bf16", "fp16"], default="fp32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=HERE / "attention.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    hub = args.hub.resolve()
    with tempfile.TemporaryDirectory() as temporary:
        folder = random_llama(Path(temporary) / "model", hub)
        model, encoder = load_elastic(folder, args.dtype, args.device), RequestEncoder(folder)
        requests = {name: instances(name, hub, **settings) for name, settings in SAMPLE.items()}
        tasks = {name: attention(model, sample(sequences(encoder, own))) for name, own in requests.items()}
    device = device_name(args.device)
    record = {"device": device, "dtype": args.dtype, "threads": args.threads, "tasks": tasks}
    write_json(args.output, record)
    print(markdown(record))


@torch.inference_mode()
def attention(model: Any, own: list[Scored]) -> dict[str, float]:
    """Attention of one layer on all chunks of a task: seconds by both kernels, medians of REPEATS in turn.

    Building the masks is not counted: it is done once per group, for all layers and networks.
    """
    from torch.nn.attention.flex_attention import flex_attention

    flex = torch.compile(flex_attention, dynamic=True)
    inputs = [chunk for group in build_trie(own, CHUNK_TOKENS, GROUP_TOKENS).groups() for chunk in chunks(model, group)]
    kernels = {
        "sdpa": lambda q, k, v, mask, _: functional.scaled_dot_product_attention(q, k, v, attn_mask=mask),
        "flex": lambda q, k, v, _, blocks: flex(q, k, v, block_mask=blocks),
    }
    compile_seconds, _ = timed(lambda: run_kernel(kernels["flex"], inputs, model.device))
    rounds = [
        {name: timed(lambda k=kernel: run_kernel(k, inputs, model.device)) for name, kernel in kernels.items()}
        for _ in range(REPEATS)
    ]
    pairs = zip(rounds[0]["sdpa"][1], rounds[0]["flex"][1], strict=True)
    seconds = {name: float(np.median([result[name][0] for result in rounds])) for name in kernels}
    return seconds | {
        "compile": compile_seconds,
        "skipped": float(np.mean([skipped(blocks) for *_, blocks in inputs])),
        "largest_difference": max(float((ours - theirs).abs().max()) for ours, theirs in pairs),
    }


def skipped(blocks: Any) -> float:
    """Share of a block mask's blocks that are not computed."""
    computed = blocks.kv_num_blocks.sum() + blocks.full_kv_num_blocks.sum()
    return 1 - float(computed) / (blocks.kv_num_blocks.numel() * blocks.kv_indices.shape[-1])


def run_kernel(kernel: Any, inputs: list[tuple[Any, ...]], device: torch.device) -> list[torch.Tensor]:
    results = [kernel(*chunk) for chunk in inputs]
    if device.type == "cuda":
        torch.cuda.synchronize()
    return results


def chunks(model: Any, group: Group) -> Iterator[tuple[Any, ...]]:
    """Random queries, keys and values of each chunk, the scorer's mask, and the same as a block mask."""
    from torch.nn.attention.flex_attention import create_block_mask

    heads = model.config.num_attention_heads
    size = model.config.hidden_size // heads
    ends = torch.from_numpy(group.ends.astype(np.int64)).to(model.device)
    for chunk in GroupRun(model, group)._chunks:
        own = np.arange(chunk.span.start, chunk.span.stop)
        queries = torch.from_numpy(own).to(model.device)
        keys = torch.from_numpy(np.concatenate([group.stem(chunk.span), own])).to(model.device)

        def attends(_b: Any, _h: Any, q: Any, k: Any, queries: Any = queries, keys: Any = keys) -> Any:
            return (keys[k] <= queries[q]) & (queries[q] < ends[keys[k]])

        tensors = [
            torch.randn(1, heads, n, size, device=model.device, dtype=model.dtype)
            for n in (len(queries), len(keys), len(keys))
        ]
        blocks = create_block_mask(attends, None, None, len(queries), len(keys), device=str(model.device))
        yield *tensors, chunk.mask, blocks


def markdown(record: dict[str, Any]) -> str:
    rows = [
        f"| {name} | {100 * a['skipped']:.0f} % | {1e3 * a['sdpa']:.1f} | {1e3 * a['flex']:.1f} | {a['compile']:.0f} |"
        for name, a in record["tasks"].items()
    ]
    head = "| attention, one layer | blocks skipped | SDPA, ms | flex, ms | flex, compiling, s |"
    return "\n".join([head, "|---|---|---|---|---|", *rows])


if __name__ == "__main__":
    main()
