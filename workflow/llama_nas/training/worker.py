"""One rank of super-network fine-tuning."""

from __future__ import annotations

import errno
import logging
import math
import os
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
import transformers
from torch.nn import functional

from llama_nas.artifacts import atomic_folder, derived_seed, write_table
from llama_nas.elastic import set_active
from llama_nas.errors import UserError
from llama_nas.hf_folder import SIDE_FILES, copy_files
from llama_nas.space import ModelShape
from llama_nas.training import checkpoint
from llama_nas.training.config import TrainingConfig
from llama_nas.training.data import IGNORED, BatchOrder, TokenRows
from llama_nas.training.engine import backward, make_accelerator, make_engine, set_learning_rate, zero_stale_grads
from llama_nas.training.nodes import Node
from llama_nas.training.sampling import subnet_at

if TYPE_CHECKING:
    from multiprocessing import SimpleQueue

    from accelerate import Accelerator

log = logging.getLogger(__name__)

BAD_INPUT = 2  # exit code of a rank that raised UserError


def run_rank(
    index: int, node: Node, config: TrainingConfig, rows: TokenRows, folder: Path, errors: SimpleQueue
) -> None:
    """Entry of a spawned process, the `index`-th of this machine, `node`.

    Bad input and a full disk go to the launcher by `errors`, with exit code 2.
    """
    rank = node.ranks(config.ranks)[index]
    logging.basicConfig(
        level=logging.INFO if rank == 0 else logging.WARNING,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
    )
    prepare_process(rank, config, node)
    try:
        train(config, rows, folder)
    except UserError as error:
        errors.put(str(error))
        sys.exit(BAD_INPUT)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        errors.put(f"no space left on the disk of {error.filename or config.output}")
        sys.exit(BAD_INPUT)
    torch.distributed.destroy_process_group()


def prepare_process(rank: int, config: TrainingConfig, node: Node) -> None:
    """Make this fresh process rank `rank` of a run; `node` says where the launcher serves the rendezvous store."""
    here = node.ranks(config.ranks)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # sent when the launcher dies: end at once, also inside a collective
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(here.index(rank)),
        "WORLD_SIZE": str(config.ranks),
        "LOCAL_WORLD_SIZE": str(len(here)),
        "LOCAL_SIZE": str(len(here)),  # or DeepSpeed on CPU starts `numactl` in every forward pass
        "MASTER_ADDR": node.address,
        "MASTER_PORT": str(node.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the launcher serves the store, on a port that it holds
    }
    if config.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # or accelerate would pick the GPU
    torch.set_num_threads(config.threads)
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")  # DeepSpeed's calls


def train(config: TrainingConfig, rows: TokenRows, folder: Path) -> None:
    """Train in this process, which is one of `config.ranks`, and write `config.output` from rank 0.

    folder: this run's checkpoints, removed at the end.
    """
    accelerator = make_accelerator(config, ModelShape.from_folder(config.base).parameters(config.space.full))
    check_agreement(accelerator, config, rows)
    engine = make_engine(accelerator, config)
    order = BatchOrder(len(rows), config.global_batch, config.seed)
    total = total_steps(config, order)
    restored = checkpoint.restore(accelerator, engine, folder)
    history: list[Any] = [] if restored is None else restored.to_dict("records")
    progress = Progress(total, len(history))
    for step in range(len(history), total):
        history.append(train_step(accelerator, engine, config, rows, order, step, total))
        progress.log(history)
        if (step + 1) % config.checkpoint_every == 0 and step + 1 < total:
            checkpoint.save(accelerator, engine, folder, step + 1, pd.DataFrame(history))
    write_supernet(accelerator, engine, config, pd.DataFrame(history))
    if accelerator.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)


def total_steps(config: TrainingConfig, order: BatchOrder) -> int:
    """Optimizer steps of the run; raises UserError if the data do not fill one."""
    if not order.steps_per_epoch:
        raise UserError(
            f"{config.instructions}: {order.rows} usable rows do not fill one batch; "
            f"training.global_batch is {order.global_batch}"
        )
    return max(1, round(config.epochs * order.steps_per_epoch))


def learning_rate_at(step: int, total: int, peak: float, warmup: float) -> float:
    """Linear warm-up over `round(warmup * total)` steps, then a cosine from the peak to 0 at the end of the run."""
    warm = round(warmup * total)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))


def check_agreement(accelerator: Accelerator, config: TrainingConfig, rows: TokenRows) -> None:
    """All ranks hold the same rows and draw the same networks, and each rank is there once."""
    space = config.space
    networks = [subnet_at(step, space, config.seed, config.subnet_steps) for step in range(16)]
    mine = (rows.digest(), [space.id(network or space.full) for network in networks])
    views: list[Any] = [None] * accelerator.num_processes
    torch.distributed.all_gather_object(views, (accelerator.process_index, *mine))
    if views != [(rank, *mine) for rank in range(config.ranks)]:
        raise RuntimeError(f"ranks do not agree on their number, the data or the networks to train: {views}")


def train_step(
    accelerator: Accelerator,
    engine: Any,
    config: TrainingConfig,
    rows: TokenRows,
    order: BatchOrder,
    step: int,
    total: int,
) -> dict[str, Any]:
    """One optimizer step on one global batch; returns its row of training.csv.

    The loss is the sum over the response tokens of the global batch, divided by their number, which every rank
    computes from the data order without communication.
    """
    space = config.space
    subnet = subnet_at(step, space, config.seed, config.subnet_steps)
    learning_rate = learning_rate_at(step, total, config.learning_rate, config.warmup)
    response_tokens = rows.response_tokens(order.batch(step))
    torch.manual_seed(derived_seed(config.seed, "finetune", "dropout", step, accelerator.process_index))
    set_active(engine.module, subnet)  # stays set in the backward pass: gradient checkpointing runs the forward again
    set_learning_rate(engine, learning_rate)
    zero_stale_grads(engine)
    loss_sum = torch.zeros((), dtype=torch.float64, device=accelerator.device)
    for batch in order.micro_batches(step, accelerator.process_index, config.ranks, config.micro_batch):
        inputs, labels = (tensor.to(accelerator.device) for tensor in rows.batch(batch))
        with accelerator.accumulate(engine):
            logits = engine(input_ids=inputs, use_cache=False).logits
            loss = functional.cross_entropy(
                logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
            )
            backward(accelerator, engine, loss / response_tokens)
        loss_sum += loss.detach()
    torch.distributed.all_reduce(loss_sum)
    if not torch.isfinite(loss_sum):
        raise UserError(f"training: the loss is not finite at step {step}; lower training.learning_rate")
    return {
        "step": step,
        "epoch": order.epoch(step),
        "kind": "full" if subnet is None else "subnet",
        "subnet_id": space.id(subnet or space.full),
        "loss": loss_sum.item() / response_tokens,
        "learning_rate": learning_rate,
        "response_tokens": response_tokens,
    }


def write_supernet(accelerator: Accelerator, engine: Any, config: TrainingConfig, history: pd.DataFrame) -> None:
    """Gather the weights and write the Hugging Face folder with training.csv from rank 0.

    Weights have the dtype trained in and stock names, so that the folder loads in stock software.
    """
    set_active(engine.module, None)
    state_dict = accelerator.get_state_dict(engine)  # complete on rank 0
    if accelerator.is_main_process:
        with atomic_folder(config.output) as folder:
            engine.module.save_pretrained(folder, state_dict=state_dict)
            copy_files(config.base, folder, SIDE_FILES)
            write_table(folder / "training.csv", history)
        log.info("wrote %s after %d steps", config.output, len(history))
    accelerator.wait_for_everyone()


class Progress:
    """A line in the log every few seconds: losses of full and sub-network steps apart, speed, time left."""

    def __init__(self, total: int, done: int, every: float = 5.0) -> None:
        self.total, self.start_step, self.every = total, done, every
        self.start = self.last = time.monotonic()
        self.logged = done

    def log(self, history: list[dict[str, Any]]) -> None:
        now, done = time.monotonic(), len(history)
        if now - self.last < self.every and done < self.total:
            return
        recent = history[self.logged :]
        losses = []
        for kind in ("full", "subnet"):
            values = [row["loss"] for row in recent if row["kind"] == kind]
            losses.append(f"{kind} {sum(values) / len(values):.4f}" if values else f"{kind} -")
        tokens = sum(row["response_tokens"] for row in recent) / max(now - self.last, 1e-9)
        left = (now - self.start) / (done - self.start_step) * (self.total - done)
        log.info(
            "step %d/%d  epoch %d  loss: %s  lr %.2e  %.3g response tokens/s  %.0f s left",
            done, self.total, history[-1]["epoch"], ", ".join(losses), history[-1]["learning_rate"], tokens, left,
        )  # fmt: skip
        self.last, self.logged = now, done
