"""`llama-nas finetune`: check the inputs, then start one process per rank on this machine."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import multiprocessing
import signal
from pathlib import Path
from typing import Any

import torch

from llama_nas.core.errors import UserError
from llama_nas.training import checkpoint
from llama_nas.training.config import TrainingConfig, check_offload
from llama_nas.training.data import load_rows, padding_share
from llama_nas.training.nodes import Node, this_node
from llama_nas.training.worker import BAD_INPUT, STOPPED, batch_order, run_rank, total_steps

log = logging.getLogger(__name__)


def finetune(config: TrainingConfig, *, nodes: int = 1) -> None:
    """Fine-tune the base model once as a super-network (accelerate + DeepSpeed ZeRO; starts its own ranks).

    Resumes the same run if it was interrupted. Raises UserError for bad input, before any process starts where that is
    possible. SIGTERM ends the run with a checkpoint and exit code 143.

    Args:
        nodes: machines that share the ranks, one srun task on each; every one of them makes the same call
    """
    node = this_node(nodes)
    check(config, node)
    identity = config.identity()
    checkpoint.remove_stale(config.checkpoints, identity)
    folder = config.checkpoints / identity
    if step := checkpoint.latest_step(folder):
        log.info("%s: found a checkpoint after step %d", folder, step)
    start_ranks(config, folder, node)


def check(config: TrainingConfig, node: Node) -> None:
    """Everything that can be wrong with the inputs, cheapest first."""
    space = config.search_space
    accumulation = config.accumulation
    here = len(node.ranks(config.ranks))
    check_offload(config.offload_optimizer, config.zero_stage)
    if config.device == "cuda" and torch.cuda.device_count() < here:
        raise UserError(
            f"config.yaml: training.ranks {config.ranks} with device cuda needs {here} GPUs on this machine; it has "
            f"{torch.cuda.device_count()}"
        )
    if config.tensorboard and not any(importlib.util.find_spec(name) for name in ("tensorboard", "tensorboardX")):
        raise UserError("config.yaml: training.tensorboard needs the package tensorboard or tensorboardX")
    rows = load_rows(config.rows, config.base)
    order = batch_order(config, rows)
    total = total_steps(config, order)
    log.info(
        "%d rows, %.1f tokens each (longest %d); %d steps, %d an epoch, %d rows left over in each; "
        "batch %d = %d rows x %d micro-batches x %d ranks, %.0f %% padding; %d networks",
        order.rows, rows.lengths.mean(), rows.lengths.max(),
        total, order.steps_per_epoch, order.rows % config.global_batch,
        config.global_batch, config.micro_batch, accumulation, config.ranks,
        100 * padding_share(rows.lengths, order, config.ranks, config.micro_batch), space.num_networks,
    )  # fmt: skip


def start_ranks(config: TrainingConfig, folder: Path, node: Node) -> None:
    """Run this machine's ranks to their end. When one fails the others are ended; when this process dies they die too.

    Ranks on other machines end with the connections to the failed one, and with their srun.
    """
    # The rendezvous store is served by the first launcher; alone, on a port that the system picks and holds.
    store = torch.distributed.TCPStore(
        node.address, node.port, config.ranks, is_master=node.index == 0, wait_for_workers=False
    )
    node = dataclasses.replace(node, port=store.port)
    errors = multiprocessing.get_context("spawn").SimpleQueue()
    ranks: Any = torch.multiprocessing.spawn(
        run_rank, (node, config, folder, errors), nprocs=len(node.ranks(config.ranks)), join=False
    )
    asked = []

    def pass_on(signum: int, _: Any) -> None:
        asked.append(signum)
        for process in ranks.processes:
            process.terminate()

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        while not ranks.join():
            pass
    except (torch.multiprocessing.ProcessExitedException, torch.multiprocessing.ProcessRaisedException) as error:
        exit_code = getattr(error, "exit_code", None)
        if exit_code == BAD_INPUT and not errors.empty():
            raise UserError(errors.get()) from None
        if exit_code == STOPPED or asked:
            log.info("ended by SIGTERM; the same command continues the run")
            raise SystemExit(128 + signal.SIGTERM) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
