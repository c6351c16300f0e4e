"""Speed of model folders as a server meets it, measured side by side: prefill, decode at batch 1, decode saturated.

Models are compared with the base by turns: in each turn every model runs once, in a new order, so a turn gives each
one's speed in units of the base's under the same load of the machine. The ratio is the median over the turns, with the
exact interval of a median. How far a model of the base's own shape, the control, seems from the base is what the
measurement cannot tell apart: within it a network is about as fast as the base.

Each figure stands beside what the device allows: no pass can be faster than its arithmetic at the measured rate of a
matrix product, nor than the reading of its weights and cached keys and values at the measured memory rate. (INT8 has
products of its own, which a device may compute faster than the floats whose rate is measured.)
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
from scipy.stats import quantile_test
from transformers import DynamicCache

from llama_nas.core.artifacts import read_json, write_table
from llama_nas.core.errors import UserError
from llama_nas.core.precisions import PRECISIONS, QUANTIZED
from llama_nas.core.progress import track
from llama_nas.core.settings import Compute
from llama_nas.core.shape import ModelShape, Subnet, network_of
from llama_nas.measuring.settings import SpeedSettings
from llama_nas.models.folder import arithmetic, load_model, set_arithmetic, weight_files

log = logging.getLogger(__name__)

WARMUP_RUNS = 3
CONFIDENCE = 0.95  # of a ratio's interval
SATURATED = 1.1  # twice the batch for less than this factor of tokens/s is not worth it
LONG_ENOUGH = 0.02  # seconds of a matrix product whose rate is believed


@dataclass(frozen=True)
class Entry:
    """One model to measure, as given on the command line."""

    name: str
    precision: str
    folder: Path

    @property
    def label(self) -> str:
        return f"{self.name}:{self.precision}"

    @cached_property
    def shape(self) -> ModelShape:
        return ModelShape.from_folder(self.folder)

    @cached_property
    def network(self) -> Subnet:
        return network_of(read_json(self.folder / "config.json"))


@dataclass(frozen=True)
class Phase:
    """What is timed: `steps` forward passes of `batch` x `tokens`, after `context` tokens are in the cache."""

    name: str  # prefill, decode or decode_saturated
    batch: int
    tokens: int
    steps: int
    context: int

    def flops(self, entry: Entry) -> float:
        """Of all steps: two per weight and token, four per attended position, head and entry of it; one logit row."""
        shape, layers = entry.shape, entry.network.layers
        attended = self.context + (self.tokens * self.steps + 1) / 2  # on average, in a causal pass
        per_token = 2 * shape.decoder_weights(entry.network) + (
            4 * layers * shape.num_attention_heads * shape.head_dim * attended
        )
        head = 2 * shape.vocab_size * shape.hidden_size
        return self.batch * self.steps * (self.tokens * per_token + head)

    def bytes(self, entry: Entry, device: str) -> float:
        """Read in all steps: the weights once a step, but of an untied embedding only rows, and the cache.

        What is not quantized lies in memory as the device computes it: FP16 weights as float32 on a CPU.
        """
        shape = entry.shape
        item = 4 if arithmetic(entry.precision, device) == "float32" else 2
        floats, quantized = shape.parameters(entry.network), 0
        if entry.precision in QUANTIZED:
            floats -= shape.decoder_weights(entry.network)
            quantized = shape.size_bytes(entry.network, entry.precision) - 2 * floats
        rows_only = 0 if shape.tie_word_embeddings else shape.vocab_size * shape.hidden_size
        weights = quantized + (floats - rows_only) * item
        position = 2 * entry.network.layers * shape.num_key_value_heads * shape.head_dim * item
        attended = self.context + (self.tokens * self.steps + 1) / 2
        return self.steps * (weights + self.batch * position * attended)


@dataclass(frozen=True)
class Device:
    """What a device was measured to do in the faster of FP32 and BF16: FLOP/s, and bytes/s of reading memory."""

    name: str  # cpu or cuda
    flops: float
    bytes: float

    def limit(self, entry: Entry, phase: Phase) -> float:
        """Tokens/s that neither arithmetic nor memory allows to exceed."""
        seconds = max(phase.flops(entry) / self.flops, phase.bytes(entry, self.name) / self.bytes)
        return phase.batch * phase.tokens * phase.steps / seconds


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as the base, with the ends of its interval; nan where there are too few turns for one."""

    value: float
    lower: float
    upper: float


Seconds = dict[tuple[Entry, Phase], np.ndarray]  # [turns]


def measure_throughput(
    output: Path, *, models: Sequence[str], speed: SpeedSettings, compute: Compute, control: str | None = None
) -> None:
    """Measure tokens/s of model folders: prefill and decode of random tokens; needs the machine or device to itself.

    Prefill: a batch through the network, keys and values cached, logits of the last position. Decode: greedy steps
    behind a context, at batch 1 and at the batch, a power of two, beyond which the base gains no more. Models take
    turns, so that a drift of the machine meets all alike; where they do not fit in memory together, each takes turns
    with the base; where not even two fit, they are measured one after the other.

    Args:
        models: NAME:PRECISION=FOLDER of each, the base first
        control: NAME:PRECISION of the one of the base's own shape, whose distance from the base is no difference;
            default: none
        output: CSV, a row per model and phase: median and quartiles of tokens/s, the device's limit, and the ratio to
            the base with its interval and verdict, empty for the base
    """
    entries = [_parse(text) for text in models]
    if speed.repeats < 1:
        raise UserError("--repeats must be at least 1")
    if control not in [None, *(entry.label for entry in entries)]:
        raise UserError(f"--control {control}: is not among --models")
    for entry in entries:
        check_positions(entry.folder, speed.sequence_length, speed.new_tokens, "throughput")
    device = compute.device
    torch.set_num_threads(compute.threads)
    groups = _groups(entries, device)
    log.info("%d models in %d groups that take turns, as memory allows", len(entries), len(groups))
    rates = measure_device(device)
    context, steps = speed.sequence_length, speed.new_tokens
    saturated = _saturating_batch(entries[0], context, steps, speed.max_batch, device)
    phases = [
        Phase("prefill", speed.batch_size, context, 1, 0),
        Phase("decode", 1, 1, steps, context),
        Phase("decode_saturated", saturated, 1, steps, context),
    ]
    seconds: Seconds = {}
    ratios: dict[tuple[Entry, Phase], Ratio] = {}
    for group in groups:
        timed = _time_in_turns(group, phases, speed.repeats, device)
        seconds = timed | seconds  # the base's: of its first group
        base = {phase: (seconds | timed)[entries[0], phase] for phase in phases}
        others = [(entry, phase) for entry, phase in timed if entry != entries[0]]
        ratios |= {(entry, phase): ratio(base[phase], timed[entry, phase]) for entry, phase in others}
    reference = next((entry for entry in entries if entry.label == control), None)
    rows = [
        _row(entry, phase, seconds[entry, phase], rates.limit(entry, phase))
        | _compared(ratios.get((entry, phase)), ratios.get((reference, phase)) if reference else None)
        | {"control": entry == reference, "device": device, "threads": compute.threads, "repeats": speed.repeats}
        for entry in entries
        for phase in phases
    ]
    write_table(output, pd.DataFrame(rows))


def ratio(base: np.ndarray, own: np.ndarray) -> Ratio:
    """How many times as fast as the base a model is, from the seconds of both in the same turns: [turns] each.

    The interval is that of the median by order statistics, exact for any distribution of the turns; it has no ends
    where there are fewer than six of them.
    """
    per_turn = base / own
    ends = quantile_test(per_turn).confidence_interval(CONFIDENCE)
    return Ratio(float(np.median(per_turn)), float(ends.low), float(ends.high))


def verdict(own: Ratio, control: Ratio | None) -> str:
    """faster, slower, or about the same as the base.

    About the same: the interval covers 1, or the ratio is no farther from 1 than the control's interval reaches.
    control: None for want of one.
    """
    spread = 1.0 if control is None else max(control.upper, 1 / control.lower, 1.0)
    if own.lower > 1 and own.value > spread:
        return "faster"
    if own.upper < 1 and own.value < 1 / spread:
        return "slower"
    return "about the same"


def _compared(own: Ratio | None, control: Ratio | None) -> dict[str, Any]:
    """The columns of the ratio; own: None for the base."""
    if own is None:
        return {"ratio": 1.0, "ratio_lower": None, "ratio_upper": None, "speed_verdict": None}
    return {
        "ratio": own.value,
        "ratio_lower": own.lower,
        "ratio_upper": own.upper,
        "speed_verdict": verdict(own, control),
    }


def _groups(entries: Sequence[Entry], device: str) -> list[list[Entry]]:
    """Which models are in memory at the same time: all, or each with the base, or each alone."""
    # Twice the files: activations, and folders loaded at a wider dtype than stored.
    needed = [2 * sum(path.stat().st_size for path in weight_files(entry.folder)) for entry in entries]
    free = _free_bytes(device)
    if sum(needed) < free:
        return [list(entries)]
    if needed[0] + max(needed[1:], default=0) < free:
        return [[entries[0], entry] for entry in entries[1:]]
    return [[entry] for entry in entries]


def check_positions(folder: Path, sequence_length: int, new_tokens: int, block: str) -> None:
    """Raise UserError, naming the block of the config, for more tokens than a model has positions."""
    limit = read_json(folder / "config.json")["max_position_embeddings"]
    if sequence_length + new_tokens > limit:
        raise UserError(
            f"config.yaml: {block}.sequence_length {sequence_length} and {block}.new_tokens {new_tokens} are beyond "
            f"the {limit} positions of {folder}"
        )


def _row(entry: Entry, phase: Phase, seconds: np.ndarray, limit: float) -> dict[str, Any]:
    tokens = phase.batch * phase.tokens * phase.steps
    q1, median, q3 = np.percentile(tokens / seconds, [25, 50, 75])
    return {
        "model": entry.name,
        "precision": entry.precision,
        "phase": phase.name,
        "batch_size": phase.batch,
        "sequence_length": phase.context or phase.tokens,
        "new_tokens": phase.steps if phase.context else 0,
        "tokens_per_second": median,
        "tokens_per_second_q1": q1,
        "tokens_per_second_q3": q3,
        "limit_tokens_per_second": limit,
    }


def _parse(text: str) -> Entry:
    label, _, folder = text.partition("=")
    name, _, precision = label.rpartition(":")
    if not name or not folder or precision not in PRECISIONS:
        raise UserError(f"--models '{text}': expected NAME:PRECISION=FOLDER with precision {', '.join(PRECISIONS)}")
    return Entry(name, precision, Path(folder))


def _free_bytes(device: str) -> int:
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    return psutil.virtual_memory().available


def measure_device(device: str) -> Device:
    """The best rates of a few runs: the product of two square matrices, the sum of a vector too long for a cache."""

    def multiply(dtype: torch.dtype) -> float:
        side, seconds = 128, 0.0
        while seconds < LONG_ENOUGH and side < 8192:
            side *= 2
            square = torch.ones(side, side, dtype=dtype, device=device)
            seconds = _best_seconds(partial(torch.matmul, square, square), square.device)
        return 2 * side**3 / seconds

    vector = torch.ones(2**25, device=device)
    rate = vector.nbytes / _best_seconds(vector.sum, vector.device)
    return Device(device, max(multiply(torch.float32), multiply(torch.bfloat16)), rate)


def _best_seconds(work: Callable[[], Any], device: torch.device, runs: int = 5) -> float:
    return min(_timed(work, device) for _ in range(runs))


def _timed(work: Callable[[], Any], device: torch.device) -> float:
    _synchronize(device)
    start = time.perf_counter()
    work()
    _synchronize(device)
    return time.perf_counter() - start


def _saturating_batch(entry: Entry, context: int, steps: int, max_batch: int, device: str) -> int:
    """The smallest power of two at which doubling the batch of a decode step gains less than SATURATED, or cannot."""
    network = _load(entry, device)
    batch, rate = 1, 0.0
    while True:
        phase = Phase("decode", batch, 1, steps, context)
        try:
            new_rate = batch * steps / min(run_seconds(network, phase, 3))
        except torch.OutOfMemoryError:
            if batch == 1:
                raise UserError(f"{entry.folder}: too large for the device with {context} tokens of context") from None
            log.info("a decode with batch %d does not fit into the device's memory", batch)
            return batch // 2
        if new_rate < SATURATED * rate:
            return batch // 2
        if 2 * batch > max_batch:
            return batch
        batch, rate = 2 * batch, new_rate


def _load(entry: Entry, device: str) -> Any:
    """The model as a user of the device runs it: FP16 weights are computed in float32 on a CPU."""
    network = load_model(entry.folder, entry.precision, device)
    set_arithmetic(network, entry.precision, device)
    return network


def _time_in_turns(entries: Sequence[Entry], phases: Sequence[Phase], turns: int, device: str) -> Seconds:
    """Seconds of each model and phase in each turn; the models are freed on return.

    Each turn has an order of its own, as it matters which model ran before. A model's prefill comes last: the contexts
    of its decodes have warmed it up.
    """
    networks = {entry: _load(entry, device) for entry in entries}
    for network, phase in product(networks.values(), phases):
        run_seconds(network, phase, WARMUP_RUNS)
    seconds: Seconds = {(entry, phase): np.empty(turns) for entry in entries for phase in phases}
    rng = np.random.default_rng(0)
    for turn in track(range(turns), total=turns, label="turns"):
        for i in rng.permutation(len(entries)):
            for phase in reversed(phases):
                (seconds[entries[i], phase][turn],) = run_seconds(networks[entries[i]], phase, 1)
    return seconds


@torch.inference_mode()
def run_seconds(network: Any, phase: Phase, runs: int) -> list[float]:
    """Seconds of each of some runs of a phase; the context of a decode is computed before the clock starts."""
    generator = torch.Generator().manual_seed(0)  # speed does not depend on which tokens
    size = (phase.batch, phase.context or phase.tokens)
    tokens = torch.randint(network.config.vocab_size, size, generator=generator).to(network.device)

    def step(tokens: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        logits = network(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        return logits[:, -1:].argmax(-1)

    def decode(cache: DynamicCache) -> None:
        token = tokens[:, -1:]
        for _ in range(phase.steps):
            token = step(token, cache)

    if not phase.context:
        return [_timed(lambda: step(tokens, DynamicCache()), network.device) for _ in range(runs)]
    cache = DynamicCache()
    step(tokens, cache)
    seconds = []
    for _ in range(runs):
        seconds.append(_timed(lambda: decode(cache), network.device))
        cache.crop(-phase.steps)
    return seconds


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
