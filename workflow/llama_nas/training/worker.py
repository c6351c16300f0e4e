"""One rank of super-network fine-tuning."""

from __future__ import annotations

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

import torch
from safetensors import SafetensorError

from llama_nas.core.artifacts import atomic_folder, derived_seed
from llama_nas.core.errors import UserError
from llama_nas.core.process import collect_rarely
from llama_nas.models.elastic import set_active
from llama_nas.models.folder import CHANNEL_ORDER_FILE, SIDE_FILES, copy_files
from llama_nas.training import checkpoint
from llama_nas.training.config import TrainingConfig
from llama_nas.training.data import BatchOrder, TokenRows, load_rows, micro_batches
from llama_nas.training.engine import backward, make_accelerator, make_engine, set_learning_rate, zero_stale_grads
from llama_nas.training.loss import distillation_loss, response_loss
from llama_nas.training.nodes import Node
from llama_nas.training.probes import held_out, probe
from llama_nas.training.subnet_steps import subnet_at

if TYPE_CHECKING:
    from multiprocessing import SimpleQueue

    from accelerate import Accelerator

log = logging.getLogger(__name__)

BAD_INPUT = 2  # exit code of a rank that raised UserError
STOPPED = 3  # exit code of a rank that was asked to stop and has saved a checkpoint


class Stopped(Exception):
    """The run was asked to stop, and has saved a checkpoint."""


def run_rank(index: int, node: Node, config: TrainingConfig, folder: Path, errors: SimpleQueue) -> None:
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
        train(config, load_rows(config.rows, config.base), folder)
    except UserError as error:
        errors.put(str(error))
        sys.exit(BAD_INPUT)
    except Stopped:
        sys.exit(STOPPED)
    torch.distributed.destroy_process_group()


def prepare_process(rank: int, config: TrainingConfig, node: Node) -> None:
    """Make this fresh process rank `rank` of a run; `node` says where the launcher serves the rendezvous store."""
    from transformers.utils.logging import disable_progress_bar  # not for the launcher, which imports this module

    collect_rarely()
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
    disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")  # DeepSpeed's calls


def train(config: TrainingConfig, rows: TokenRows, folder: Path) -> None:
    """Train in this process, which is one of `config.ranks`, and write `config.output` from rank 0.

    folder: this run's checkpoints, removed at the end. Raises Stopped after SIGTERM, with a checkpoint saved.
    """
    space = config.search_space
    accelerator = make_accelerator(config, space.shape.parameters(space.full))
    check_agreement(accelerator, config, rows)
    engine = make_engine(accelerator, config)
    order = batch_order(config, rows)
    total = total_steps(config, order)
    tables = checkpoint.restore(accelerator, engine, folder) or {"training": []}
    history, probes = tables["training"], tables.setdefault("probes", [])
    progress = Progress(total, len(history))
    stop = StopSignal()
    try:
        for step in range(len(history), total):
            history.append(train_step(accelerator, engine, config, rows, order, step, total))
            progress.log(history)
            done = step + 1
            if config.probe_every and (done % config.probe_every == 0 or done == total):
                probes += probe(accelerator, engine, config, rows, done)
            report(accelerator, history, probes)
            asked = stop.anywhere(accelerator)
            if done < total and (asked or done % config.checkpoint_every == 0):
                checkpoint.save(accelerator, engine, folder, done, tables)
                if asked:
                    log.info("stopped after step %d, as asked; the checkpoint is in %s", done, folder)
                    raise Stopped
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()
    write_supernet(accelerator, engine, config, tables)
    if accelerator.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)


class StopSignal:
    """SIGTERM, as a cluster sends it some time before SIGKILL: noted, and acted on between two steps."""

    def __init__(self) -> None:
        self.received = False
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, *_: Any) -> None:
        self.received = True

    def anywhere(self, accelerator: Accelerator) -> bool:
        """Whether any rank has received it; all ranks get the same answer."""
        ranks = torch.tensor(float(self.received), device=accelerator.device)
        torch.distributed.all_reduce(ranks)
        return ranks.item() > 0


def batch_order(config: TrainingConfig, rows: TokenRows) -> BatchOrder:
    """The order of the rows that are trained on; those held out for probes are the last ones."""
    return BatchOrder(len(rows) - held_out(config, len(rows)), config.global_batch, config.seed)


def total_steps(config: TrainingConfig, order: BatchOrder) -> int:
    """Optimizer steps of the run; raises UserError if the data do not fill one."""
    if order.rows < order.global_batch:
        raise UserError(
            f"{config.rows}: {order.rows} usable rows do not fill one batch; "
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
    space = config.search_space
    networks = [subnet_at(step, space, config.seed, config.subnet_steps, config.subnet_sampling) for step in range(16)]
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
    space = config.search_space
    subnet = subnet_at(step, space, config.seed, config.subnet_steps, config.subnet_sampling)
    learning_rate = learning_rate_at(step, total, config.learning_rate, config.warmup)
    batch = order.batch(step)
    response_tokens = rows.response_tokens(batch)
    torch.manual_seed(derived_seed(config.seed, "finetune", "dropout", step, accelerator.process_index))
    set_active(engine.module, subnet)  # stays set in the backward pass: gradient checkpointing runs the forward again
    set_learning_rate(engine, learning_rate)
    zero_stale_grads(engine)
    if engine.freezer:
        engine.freezer.subnet = subnet
    loss_sum = torch.zeros((), dtype=torch.float64, device=accelerator.device)
    for own in micro_batches(batch, rows.lengths, accelerator.process_index, config.ranks, config.micro_batch):
        inputs, labels = (tensor.to(accelerator.device) for tensor in rows.batch(own))
        with accelerator.accumulate(engine):
            if config.distillation and subnet is not None:
                loss, objective = distillation_loss(engine, subnet, inputs, labels, config.distillation)
            else:
                loss = objective = response_loss(engine(input_ids=inputs, use_cache=False).logits, labels)
            backward(accelerator, engine, objective / response_tokens)
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
        "tokens": int(rows.lengths[batch].sum()),
    }


def write_supernet(accelerator: Accelerator, engine: Any, config: TrainingConfig, tables: checkpoint.Tables) -> None:
    """Gather the weights and write the Hugging Face folder with training.csv (and probes.csv) from rank 0.

    Weights have the dtype trained in and stock names, so that the folder loads in stock software. Raises UserError
    where it cannot be written (a full disk); the latest checkpoint stays.
    """
    set_active(engine.module, None)
    state_dict = accelerator.get_state_dict(engine)  # complete on rank 0
    if accelerator.is_main_process:
        try:
            with atomic_folder(config.output) as folder:
                engine.module.save_pretrained(folder, state_dict=state_dict)
                copy_files(config.base, folder, (*SIDE_FILES, CHANNEL_ORDER_FILE))
                checkpoint.write_tables(folder, tables)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{config.output}: could not be written ({str(error).splitlines()[0]})") from error
        log.info("wrote %s after %d steps", config.output, len(tables["training"]))
    accelerator.wait_for_everyone()


def report(accelerator: Accelerator, history: list[dict[str, Any]], probes: list[dict[str, Any]]) -> None:
    """The newest step, and the probes made after it, to accelerate's trackers, if the run has any."""
    row = history[-1]
    values = {f"loss/{row['kind']}": row["loss"], "learning_rate": row["learning_rate"]}
    values |= {f"probe/{probe['subnet_id']}": probe["loss"] for probe in probes if probe["step"] == row["step"] + 1}
    accelerator.log(values, step=row["step"])


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
        tokens = sum(row["tokens"] for row in recent) / max(now - self.last, 1e-9)
        left = (now - self.start) / (done - self.start_step) * (self.total - done)
        log.info(
            "step %d/%d  epoch %d  loss: %s  lr %.2e  %.3g tokens/s  %.0f s left",
            done, self.total, history[-1]["epoch"], ", ".join(losses), history[-1]["learning_rate"], tokens, left,
        )  # fmt: skip
        self.last, self.logged = now, done
