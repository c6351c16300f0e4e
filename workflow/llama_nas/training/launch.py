"""`llama-nas finetune`: check and tokenise the inputs once, then start one process per rank of this machine."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import multiprocessing
from pathlib import Path

import torch

from llama_nas.errors import UserError
from llama_nas.space import ModelShape
from llama_nas.training import checkpoint
from llama_nas.training.config import TrainingConfig
from llama_nas.training.data import BatchOrder, TokenRows, read_instructions, tokenize
from llama_nas.training.nodes import Node, this_node
from llama_nas.training.worker import BAD_INPUT, run_rank, total_steps

log = logging.getLogger(__name__)

ALONE = Node()


def launch_finetune(args: argparse.Namespace) -> None:
    """Fine-tune the super-network as `llama-nas finetune` is told."""
    given = vars(args) | {"depths": tuple(args.depths), "widths": tuple(args.widths)}
    names = {field.name for field in dataclasses.fields(TrainingConfig)}
    finetune(TrainingConfig(**{key: value for key, value in given.items() if key in names}), this_node(args.nodes))


def finetune(config: TrainingConfig, node: Node = ALONE) -> None:
    """Train on `config.ranks` processes and write `config.output`; resumes the same run if it was interrupted.

    node: this machine, where the ranks are spread over several; every one of them makes the same call.

    Raises UserError for bad input, before any process starts where that is possible.
    """
    rows = check(config, node)
    folder = config.checkpoints / config.identity()
    if step := checkpoint.latest_step(folder):
        log.info("%s: found a checkpoint after step %d", folder, step)
    start_ranks(config, rows, folder, node)


def check(config: TrainingConfig, node: Node) -> TokenRows:
    """Everything that can be wrong with the inputs, cheapest first; returns the tokenised rows."""
    space = config.space
    accumulation = config.accumulation
    here = len(node.ranks(config.ranks))
    if config.device == "cuda" and torch.cuda.device_count() < here:
        raise UserError(
            f"config.yaml: training.ranks {config.ranks} with device cuda needs {here} GPUs on each of {node.count} "
            f"machines; this one has {torch.cuda.device_count()}"
        )
    rows = load_rows(config)
    order = BatchOrder(len(rows), config.global_batch, config.seed)
    log.info(
        "%d rows, %.1f tokens each (longest %d); %d steps, %d an epoch, %d rows left over in each; "
        "batch %d = %d rows x %d micro-batches x %d ranks; %d networks",
        len(rows), rows.lengths.mean() if len(rows) else 0, rows.lengths.max(initial=0),
        total_steps(config, order), order.steps_per_epoch, len(rows) % config.global_batch,
        config.global_batch, config.micro_batch, accumulation, config.ranks, space.num_networks,
    )  # fmt: skip
    return rows


def load_rows(config: TrainingConfig) -> TokenRows:
    """The instructions as token rows of the base model's tokenizer."""
    from transformers import AutoConfig, AutoTokenizer

    pairs = read_instructions(config.instructions)
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.base, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{config.base}: cannot load the tokenizer: {str(error).splitlines()[0]}") from error
    positions = AutoConfig.from_pretrained(config.base, local_files_only=True).max_position_embeddings
    if config.max_length > positions:
        raise UserError(
            f"config.yaml: training.max_length {config.max_length} exceeds the model's "
            f"max_position_embeddings {positions}"
        )
    rows = tokenize(pairs, tokenizer, config.max_length)
    vocabulary = ModelShape.from_folder(config.base).vocab_size
    if rows.tokens.max(initial=0) >= vocabulary:
        raise UserError(f"{config.base}: the tokenizer has token {rows.tokens.max()}, the model only {vocabulary} rows")
    return rows


def start_ranks(config: TrainingConfig, rows: TokenRows, folder: Path, node: Node) -> None:
    """Run this machine's ranks to their end. When one fails the others are ended; when this process dies they die too.

    Ranks on other machines end with the connections to the failed one, and with their srun.
    """
    # The rendezvous store is served by the first launcher; alone, on a port that the system picks and holds.
    store = torch.distributed.TCPStore(
        node.address, node.port, config.ranks, is_master=node.index == 0, wait_for_workers=False
    )
    node = dataclasses.replace(node, port=store.port)
    errors = multiprocessing.get_context("spawn").SimpleQueue()
    try:
        torch.multiprocessing.spawn(
            run_rank, (node, config, rows, folder, errors), nprocs=len(node.ranks(config.ranks))
        )
    except torch.multiprocessing.ProcessExitedException as error:
        if error.exit_code == BAD_INPUT and not errors.empty():
            raise UserError(errors.get()) from None
        raise
