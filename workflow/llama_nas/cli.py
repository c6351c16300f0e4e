"""`llama-nas`: one thin sub-command per stage. A stage reads the paths it is given and writes the paths it is given.

Each stage is a pair of functions, `<stage>_arguments` and `<stage>`: nothing heavy is imported before the stage that
needs it runs, and a stage's code digest (code_digest.py) covers its own pair and nothing else of this file.
"""

from __future__ import annotations

import argparse
import errno
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from llama_nas import __version__
from llama_nas.devices import leased_devices
from llama_nas.errors import UserError

if TYPE_CHECKING:
    from llama_nas.search.goals import Declared

Arguments = argparse.Namespace
Parser = argparse.ArgumentParser


def _seed(parser: Parser) -> None:
    parser.add_argument("--seed", type=int, required=True, help="the run's seed; the stage derives its own from it")


def _space(parser: Parser) -> None:
    parser.add_argument("--depths", type=int, nargs="+", required=True, help="layer counts of the space, ascending")
    parser.add_argument(
        "--widths",
        type=int,
        nargs="+",
        required=True,
        help="MLP widths of the space, full width first; append-only",
    )
    parser.add_argument("--depth-selection", default="first", help="which layers a depth keeps (default: first)")


def _compute(parser: Parser) -> None:
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--threads", type=int, default=1, help="compute threads; part of the result's identity")


def _algorithm(parser: Parser) -> None:
    parser.add_argument("--algorithm", choices=["linas", "nsga2", "random", "additive"], required=True)
    parser.add_argument("--variant", choices=["strict", "default"], required=True, help="of linas")
    parser.add_argument("--population", type=int, required=True, help="networks evaluated per round")


def _goals(parser: Parser) -> None:
    parser.add_argument(
        "--objectives", choices=["metric", "parameters", "size", "latency"], nargs="+", default=["metric", "parameters"]
    )
    parser.add_argument(
        "--precision",
        choices=["fp32", "bf16", "fp16", "int8", "nf4"],
        default="fp16",
        help="of the objective size and of --max-size",
    )
    parser.add_argument("--max-size", help="largest weights of a candidate in that precision: 9GB, 8.5GiB, 900MB")
    parser.add_argument("--min-accuracy", type=float, help="least metric of a network of the front")
    parser.add_argument("--latency", choices=["prefill", "decode"], default="decode", help="phase of the objective")
    parser.add_argument("--costs", type=Path, help="table of `llama-nas measure-costs`, for the objective latency")


def _declared_goals(args: Arguments) -> Declared:
    from llama_nas.search.goals import Declared

    return Declared(args.objectives, args.precision, args.max_size, args.min_accuracy, args.latency, args.costs)


def world_arguments(parser: Parser) -> None:
    """Generate the embedded world: corpus, instructions and five benchmarks, no download."""
    _seed(parser)
    parser.add_argument("--inhabitants", type=int, required=True, help="how many people the world has")
    parser.add_argument("--items", type=int, required=True, help="scored items per task")
    parser.add_argument("--output", type=Path, required=True, help="folder: corpus.txt, instructions.json, hub/")


def world(args: Arguments) -> None:
    from llama_nas.world import write_world

    write_world(args.output, seed=args.seed, inhabitants=args.inhabitants, items=args.items)


def pretrain_arguments(parser: Parser) -> None:
    """Pre-train the embedded world's Llama from scratch on its corpus."""
    _seed(parser)
    _compute(parser)
    parser.add_argument("--world", type=Path, required=True, help="folder written by `llama-nas world`")
    parser.add_argument("--layers", type=int, required=True)
    parser.add_argument("--hidden-size", type=int, required=True)
    parser.add_argument("--intermediate-size", type=int, required=True)
    parser.add_argument("--heads", type=int, required=True)
    parser.add_argument("--vocabulary", type=int, required=True, help="tokens of the tokenizer trained on the corpus")
    parser.add_argument("--max-positions", type=int, required=True, help="max_position_embeddings of the model")
    parser.add_argument("--sequence-length", type=int, required=True, help="tokens per training row")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True, help="rows per step")
    parser.add_argument("--learning-rate", type=float, required=True, help="peak; cosine to 0 after warm-up")
    parser.add_argument("--output", type=Path, required=True, help="Hugging Face model folder")


def pretrain(args: Arguments) -> None:
    from llama_nas.pretrain import pretrain_base

    pretrain_base(
        args.output,
        world=args.world,
        seed=args.seed,
        layers=args.layers,
        hidden_size=args.hidden_size,
        intermediate_size=args.intermediate_size,
        heads=args.heads,
        vocabulary=args.vocabulary,
        max_positions=args.max_positions,
        sequence_length=args.sequence_length,
        steps=args.steps,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        device=args.device,
        threads=args.threads,
    )


def fetch_arguments(parser: Parser) -> None:
    """Fetch a model or dataset from the Hugging Face Hub at a pinned revision."""
    parser.add_argument("--repo", required=True, help="Hub id, e.g. meta-llama/Llama-2-7b-hf")
    parser.add_argument("--kind", choices=["model", "dataset"], required=True)
    parser.add_argument("--revision", required=True, help="commit hash, tag or branch; a hash pins the run")
    parser.add_argument(
        "--depths", type=int, nargs="*", default=[], help="checked against config.json before any weight"
    )
    parser.add_argument(
        "--widths", type=int, nargs="*", default=[], help="checked against config.json before any weight"
    )
    parser.add_argument("--output", type=Path, required=True)


def fetch(args: Arguments) -> None:
    from llama_nas.fetch import fetch_repository

    fetch_repository(
        args.output,
        repo=args.repo,
        kind=args.kind,
        revision=args.revision,
        depths=args.depths,
        widths=args.widths,
    )


def base_arguments(parser: Parser) -> None:
    """Take a local Hugging Face model folder as the base model, after checking it."""
    _space(parser)
    parser.add_argument("--source", type=Path, required=True, help="local Hugging Face model folder")
    parser.add_argument("--output", type=Path, required=True)


def base(args: Arguments) -> None:
    from llama_nas.fetch import take_local_model

    take_local_model(
        args.output,
        source=args.source,
        depths=args.depths,
        widths=args.widths,
        depth_selection=args.depth_selection,
    )


def compile_task_arguments(parser: Parser) -> None:
    """Render and tokenise a benchmark with lm-eval's own task objects; pack its requests as a prefix trie."""
    parser.add_argument("--task", required=True, help="the task's name in the config")
    parser.add_argument("--lm-eval-task", required=True, help="lm-eval task or group name, or the path of a task YAML")
    parser.add_argument("--data-root", type=Path, help="folder in Hub layout; default: the Hub ids as they are")
    parser.add_argument("--num-fewshot", type=int, help="default: the task's own")
    parser.add_argument("--limit", type=int, help="first items only, as lm-eval's --limit")
    parser.add_argument("--subtasks", nargs="+", help="for a group: only these, e.g. subjects of mmlu")
    parser.add_argument("--metric", required=True, help="the metric the search optimises, e.g. acc")
    parser.add_argument("--model", type=Path, required=True, help="folder with the tokenizer and config.json")
    parser.add_argument("--chunk-tokens", type=int, default=512, help="tokens a layer is applied to at once")
    parser.add_argument(
        "--group-tokens", type=int, default=32768, help="tokens taken through the network together, chunk by chunk"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder: task.json, requests.safetensors")


def compile_task(args: Arguments) -> None:
    from llama_nas.tasks.compile import compile_task

    compile_task(
        args.output,
        task=args.task,
        lm_eval_task=args.lm_eval_task,
        data_root=args.data_root,
        num_fewshot=args.num_fewshot,
        limit=args.limit,
        subtasks=args.subtasks,
        metric=args.metric,
        model=args.model,
        chunk_tokens=args.chunk_tokens,
        group_tokens=args.group_tokens,
    )


def tokenize_arguments(parser: Parser) -> None:
    """Tokenise the instructions once, with Stanford Alpaca's prompts and masking, into arrays to be memory-mapped."""
    parser.add_argument("--base", type=Path, required=True, help="Hugging Face model folder with the tokenizer")
    parser.add_argument(
        "--instructions", type=Path, required=True, help="Alpaca-shaped .json/.jsonl/.parquet, or a folder"
    )
    parser.add_argument("--max-length", type=int, required=True, help="tokens; longer rows are cut")
    parser.add_argument("--output", type=Path, required=True, help="folder: *.npy, rows.json")


def tokenize(args: Arguments) -> None:
    from llama_nas.training.data import tokenize_instructions

    tokenize_instructions(args.output, base=args.base, instructions=args.instructions, max_length=args.max_length)


def order_channels_arguments(parser: Parser) -> None:
    """Sort the MLP channels of the base model by importance, so that the first N are the N most important."""
    _seed(parser)
    _compute(parser)
    parser.add_argument("--base", type=Path, required=True, help="Hugging Face model folder")
    parser.add_argument("--rows", type=Path, required=True, help="folder written by `llama-nas tokenize`")
    parser.add_argument("--output", type=Path, required=True, help="Hugging Face model folder: the same function")


def order_channels(args: Arguments) -> None:
    from llama_nas.training.importance import order_channels

    order_channels(
        args.output, base=args.base, rows=args.rows, seed=args.seed, device=args.device, threads=args.threads
    )


def order_layers_arguments(parser: Parser) -> None:
    """Find the layers that the base model misses least, as a list for the config key space.depth_selection."""
    _seed(parser)
    _compute(parser)
    parser.add_argument("--base", type=Path, required=True, help="Hugging Face model folder")
    parser.add_argument("--rows", type=Path, required=True, help="folder written by `llama-nas tokenize`")
    parser.add_argument("--count", type=int, required=True, help="layers to drop: the model's minus the smallest depth")
    parser.add_argument("--output", type=Path, required=True, help="JSON: the list, and the loss after each layer")


def order_layers(args: Arguments) -> None:
    from llama_nas.training.importance import order_layers

    order_layers(
        args.output,
        base=args.base,
        rows=args.rows,
        count=args.count,
        seed=args.seed,
        device=args.device,
        threads=args.threads,
    )


def finetune_arguments(parser: Parser) -> None:
    """Fine-tune the base model once as a super-network (accelerate + DeepSpeed ZeRO; launches its own ranks)."""
    _seed(parser)
    _space(parser)
    _compute(parser)
    parser.add_argument("--base", type=Path, required=True, help="Hugging Face model folder")
    parser.add_argument("--rows", type=Path, required=True, help="folder written by `llama-nas tokenize`")
    parser.add_argument("--ranks", type=int, required=True, help="processes: one per GPU, or CPU ranks")
    parser.add_argument("--nodes", type=int, default=1, help="machines that share the ranks, one srun task on each")
    parser.add_argument("--zero-stage", type=int, choices=[0, 1, 2, 3], required=True)
    parser.add_argument("--dtype", choices=["fp32", "bf16"], required=True)
    parser.add_argument("--epochs", type=float, required=True)
    parser.add_argument("--global-batch", type=int, required=True, help="= micro-batch x accumulation x ranks")
    parser.add_argument("--micro-batch", type=int, required=True, help="rows per rank and forward")
    parser.add_argument("--learning-rate", type=float, required=True, help="peak; cosine to 0")
    parser.add_argument("--warmup", type=float, required=True, help="share of the steps")
    parser.add_argument("--weight-decay", type=float, required=True)
    parser.add_argument("--max-grad-norm", type=float, required=True, help="0: no clipping")
    parser.add_argument(
        "--subnet-steps",
        choices=["alternate", "never"],
        default="alternate",
        help="never: plain fine-tuning of the full network, for comparison",
    )
    parser.add_argument(
        "--subnet-sampling",
        choices=["uniform", "stratified", "sandwich"],
        default="uniform",
        help="which sub-networks: uniform per gene (the paper), uniform over size, or every second one the smallest",
    )
    parser.add_argument(
        "--distillation", type=float, default=0.0, help="weight of the full network's answers in sub-network steps"
    )
    parser.add_argument("--freeze-inactive", action="store_true", help="no momentum or decay outside the sub-network")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--offload-optimizer", action="store_true", help="optimizer state and update on the CPU")
    parser.add_argument("--probe-every", type=int, default=0, help="steps between losses on held-out rows; 0: none")
    parser.add_argument("--tensorboard", type=Path, help="folder for TensorBoard event files")
    parser.add_argument("--checkpoint-every", type=int, required=True, help="steps between checkpoints")
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder to save to and resume from")
    parser.add_argument("--output", type=Path, required=True, help="Hugging Face model folder, with training.csv")


def finetune(args: Arguments) -> None:
    from llama_nas.training.launch import launch_finetune

    launch_finetune(args)


def sample_arguments(parser: Parser) -> None:
    """Choose the first round's candidates."""
    _seed(parser)
    _space(parser)
    _algorithm(parser)
    _goals(parser)
    parser.add_argument("--model", type=Path, required=True, help="folder with the base model's config.json")
    parser.add_argument("--task", type=Path, required=True, help="folder written by `llama-nas compile-task`")
    parser.add_argument("--search-items", type=int, help="items that the search will use; checked (default: all)")
    parser.add_argument("--output", type=Path, required=True, help="candidates.csv")


def sample(args: Arguments) -> None:
    from llama_nas.search.sample import sample_candidates

    sample_candidates(
        args.output,
        model=args.model,
        depths=args.depths,
        widths=args.widths,
        depth_selection=args.depth_selection,
        task=args.task,
        search_items=args.search_items,
        goals=_declared_goals(args),
        name=args.algorithm,
        variant=args.variant,
        population=args.population,
        seed=args.seed,
    )


def evaluate_arguments(parser: Parser) -> None:
    """Score one shard of a round's candidates on real benchmark items; one model load for all of them."""
    _space(parser)
    _compute(parser)
    parser.add_argument("--supernet", type=Path, required=True)
    parser.add_argument("--task", type=Path, required=True, help="folder written by `llama-nas compile-task`")
    parser.add_argument("--candidates", type=Path, required=True, help="candidates.csv")
    parser.add_argument("--shard", type=int, required=True, help="1-based")
    parser.add_argument("--shards", type=int, required=True)
    parser.add_argument("--dtype", choices=["fp32", "bf16", "fp16"], required=True)
    parser.add_argument("--items", type=int, help="score only so many of the task's items, always the same ones")
    parser.add_argument("--held-out", type=int, help="after a search on so many items: score the others apart, too")
    parser.add_argument("--output", type=Path, required=True, help="shard CSV: one row per candidate")
    parser.add_argument("--timings", type=Path, required=True, help="JSON: seconds, tokens, host")


def evaluate(args: Arguments) -> None:
    from llama_nas.scoring.evaluate import evaluate_shard

    evaluate_shard(
        args.output,
        supernet=args.supernet,
        task=args.task,
        candidates=args.candidates,
        shard=args.shard,
        shards=args.shards,
        depths=args.depths,
        widths=args.widths,
        depth_selection=args.depth_selection,
        dtype=args.dtype,
        device=args.device,
        threads=args.threads,
        timings=args.timings,
        items=args.items,
        held_out=args.held_out,
    )


def fit_arguments(parser: Parser) -> None:
    """Gather a round's shards with all earlier evaluations and fit the accuracy predictor."""
    _seed(parser)
    _space(parser)
    parser.add_argument("--model", type=Path, required=True, help="folder with the base model's config.json")
    parser.add_argument("--task", type=Path, required=True, help="folder written by `llama-nas compile-task`")
    parser.add_argument("--round", type=int, required=True, help="1-based")
    parser.add_argument("--candidates", type=Path, required=True, help="this round's candidates.csv")
    parser.add_argument("--shards", type=Path, nargs="+", required=True, help="this round's shard CSVs")
    parser.add_argument("--previous", type=Path, help="evaluations.csv of the round before")
    parser.add_argument("--variant", choices=["strict", "default"], required=True)
    parser.add_argument("--predictor", choices=["auto", "lightgbm", "ridge", "svr"], required=True)
    parser.add_argument("--evaluations", type=Path, required=True, help="out: all real evaluations so far")
    parser.add_argument("--output", type=Path, required=True, help="out: predictor.json")


def fit(args: Arguments) -> None:
    from llama_nas.search.fit import fit_predictor

    fit_predictor(
        args.output,
        evaluations=args.evaluations,
        model=args.model,
        depths=args.depths,
        widths=args.widths,
        depth_selection=args.depth_selection,
        task=args.task,
        round_number=args.round,
        candidates=args.candidates,
        shards=args.shards,
        previous=args.previous,
        variant=args.variant,
        predictor=args.predictor,
        seed=args.seed,
    )


def propose_arguments(parser: Parser) -> None:
    """Propose the next round's candidates; LINAS runs NSGA-II on the predictor for it."""
    _seed(parser)
    _space(parser)
    _algorithm(parser)
    _goals(parser)
    parser.add_argument("--model", type=Path, required=True, help="folder with the base model's config.json")
    parser.add_argument("--task", type=Path, required=True, help="folder written by `llama-nas compile-task`")
    parser.add_argument("--round", type=int, required=True, help="the round whose predictor is used, 1-based")
    parser.add_argument("--evaluations", type=Path, required=True)
    parser.add_argument("--predictor", type=Path, required=True, help="predictor.json")
    parser.add_argument("--generations", type=int, required=True, help="NSGA-II generations on the predictor")
    parser.add_argument("--crossover-probability", type=float, required=True)
    parser.add_argument("--crossover-eta", type=float, required=True)
    parser.add_argument("--mutation-probability", type=float, required=True)
    parser.add_argument("--mutation-eta", type=float, required=True)
    parser.add_argument("--history", type=Path, required=True, help="out: generations.csv")
    parser.add_argument("--output", type=Path, required=True, help="out: the next round's candidates.csv")


def propose(args: Arguments) -> None:
    from llama_nas.search.propose import propose_candidates

    propose_candidates(
        args.output,
        history=args.history,
        model=args.model,
        depths=args.depths,
        widths=args.widths,
        depth_selection=args.depth_selection,
        task=args.task,
        round_number=args.round,
        evaluations=args.evaluations,
        predictor=args.predictor,
        goals=_declared_goals(args),
        name=args.algorithm,
        variant=args.variant,
        population=args.population,
        generations=args.generations,
        crossover_probability=args.crossover_probability,
        crossover_eta=args.crossover_eta,
        mutation_probability=args.mutation_probability,
        mutation_eta=args.mutation_eta,
        seed=args.seed,
    )


def enumerate_space_arguments(parser: Parser) -> None:
    """List every network of the space as candidates, to be evaluated one and all."""
    _space(parser)
    parser.add_argument("--model", type=Path, required=True, help="folder with the base model's config.json")
    parser.add_argument("--output", type=Path, required=True, help="candidates.csv")


def enumerate_space(args: Arguments) -> None:
    from llama_nas.search.exhaustive import write_all_candidates

    write_all_candidates(
        args.output,
        model=args.model,
        depths=args.depths,
        widths=args.widths,
        depth_selection=args.depth_selection,
    )


def tabulate_arguments(parser: Parser) -> None:
    """Gather the evaluations of every network of the space: the truth that searches are judged by."""
    _space(parser)
    parser.add_argument("--model", type=Path, required=True, help="folder with the base model's config.json")
    parser.add_argument("--supernet", type=Path, required=True)
    parser.add_argument("--task", type=Path, required=True, help="folder written by `llama-nas compile-task`")
    parser.add_argument("--candidates", type=Path, required=True, help="candidates.csv of `llama-nas enumerate-space`")
    parser.add_argument("--shards", type=Path, nargs="+", required=True, help="their shard CSVs")
    parser.add_argument("--about", type=Path, required=True, help="out: JSON, the space and digests of model and items")
    parser.add_argument("--output", type=Path, required=True, help="out: CSV, one row per network")


def tabulate(args: Arguments) -> None:
    from llama_nas.search.exhaustive import write_truth

    write_truth(
        args.output,
        about=args.about,
        model=args.model,
        depths=args.depths,
        widths=args.widths,
        depth_selection=args.depth_selection,
        supernet=args.supernet,
        task=args.task,
        candidates=args.candidates,
        shards=args.shards,
    )


def finalists_arguments(parser: Parser) -> None:
    """After a search on some of the items: the front and the full network, to be evaluated on all items."""
    _space(parser)
    _goals(parser)
    parser.add_argument("--model", type=Path, required=True, help="folder with the base model's config.json")
    parser.add_argument("--task", type=Path, required=True, help="folder written by `llama-nas compile-task`")
    parser.add_argument("--evaluations", type=Path, required=True, help="evaluations.csv of the last round")
    parser.add_argument("--output", type=Path, required=True, help="candidates.csv")


def finalists(args: Arguments) -> None:
    from llama_nas.search.front import write_finalists

    write_finalists(
        args.output,
        model=args.model,
        depths=args.depths,
        widths=args.widths,
        depth_selection=args.depth_selection,
        task=args.task,
        evaluations=args.evaluations,
        goals=_declared_goals(args),
    )


def front_arguments(parser: Parser) -> None:
    """Keep the non-dominated networks among all real evaluations."""
    _space(parser)
    _goals(parser)
    parser.add_argument("--model", type=Path, required=True, help="folder with the base model's config.json")
    parser.add_argument("--task", type=Path, required=True, help="folder written by `llama-nas compile-task`")
    parser.add_argument("--evaluations", type=Path, required=True, help="evaluations.csv of the last round")
    parser.add_argument("--candidates", type=Path, help="candidates.csv of `llama-nas finalists`; with --shards")
    parser.add_argument("--shards", type=Path, nargs="+", help="the finalists' shard CSVs: then only these count")
    parser.add_argument("--output", type=Path, required=True, help="front.csv")


def front(args: Arguments) -> None:
    from llama_nas.search.front import write_front

    write_front(
        args.output,
        model=args.model,
        depths=args.depths,
        widths=args.widths,
        depth_selection=args.depth_selection,
        task=args.task,
        evaluations=args.evaluations,
        goals=_declared_goals(args),
        candidates=args.candidates,
        shards=args.shards,
    )


def pick_arguments(parser: Parser) -> None:
    """Name the best network that a finished search found under a size or above an accuracy, and its checkpoint."""
    parser.add_argument("--task", required=True)
    parser.add_argument("--max-size", help="of the weights in that precision: 9GB, 8.5GiB, 900MB")
    parser.add_argument(
        "--min-accuracy", type=float, help="share of 1; without --max-size: the smallest network with it"
    )
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16", "int8"], default="fp16", help="default: fp16")
    parser.add_argument("--results", type=Path, default=Path("results"), help="the run's folder (default: results)")
    parser.add_argument("--output", type=Path, help="the answer as JSON, too")


def pick(args: Arguments) -> None:
    from llama_nas.search.pick import pick_network

    pick_network(
        results=args.results,
        task=args.task,
        precision=args.precision,
        max_size=args.max_size,
        min_accuracy=args.min_accuracy,
        output=args.output,
    )


def export_arguments(parser: Parser) -> None:
    """Export a sub-network, by id, as a standalone folder that needs nothing of this project."""
    parser.add_argument("--supernet", type=Path, required=True)
    parser.add_argument("--widths", type=int, nargs="+", required=True, help="the space's width list")
    parser.add_argument("--subnet", required=True, help="subnet id, one character per base layer")
    parser.add_argument(
        "--form",
        choices=["hf", "padded", "deci"],
        default="hf",
        help="hf: plain Llama, or with a few lines of code for mixed widths. padded: plain at any widths, with zeros. "
        "deci: block configs for vLLM, SGLang, TensorRT-LLM, MLX",
    )
    parser.add_argument("--base-name", default="not recorded", help="for the model card: what the base model is")
    parser.add_argument("--instructions-name", default="not recorded", help="for the model card")
    parser.add_argument("--run-seed", default="not recorded", help="for the model card")
    parser.add_argument("--output", type=Path, required=True)


def export(args: Arguments) -> None:
    from llama_nas.export import export_subnet
    from llama_nas.model_card import Provenance

    export_subnet(
        args.output,
        supernet=args.supernet,
        widths=args.widths,
        subnet_id=args.subnet,
        form=args.form,
        provenance=Provenance(args.base_name, args.instructions_name, args.run_seed),
    )


def gguf_arguments(parser: Parser) -> None:
    """Write a plain or exported folder as one GGUF file for llama.cpp."""
    parser.add_argument("--model", type=Path, required=True, help="exported folder of floats")
    parser.add_argument("--type", choices=["f16", "q8_0"], required=True)
    parser.add_argument("--output", type=Path, required=True, help="the .gguf file")


def gguf(args: Arguments) -> None:
    from llama_nas.gguf_file import write_gguf

    write_gguf(args.output, model=args.model, file_type=args.type)


def quantize_arguments(parser: Parser) -> None:
    """Quantize an exported folder with bitsandbytes: decoder linears INT8 or NF4, the rest FP16."""
    parser.add_argument("--model", type=Path, required=True, help="exported folder")
    parser.add_argument("--precision", choices=["int8", "nf4"], required=True)
    parser.add_argument("--output", type=Path, required=True)


def quantize(args: Arguments) -> None:
    from llama_nas.quantize import quantize_folder

    quantize_folder(args.output, model=args.model, precision=args.precision)


def benchmark_arguments(parser: Parser) -> None:
    """Evaluate a model folder with stock lm-eval."""
    _compute(parser)
    parser.add_argument("--model", type=Path, required=True, help="exported or quantized folder")
    parser.add_argument("--task", type=Path, required=True, help="folder written by `llama-nas compile-task`")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16", "int8", "nf4"], required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True, help="JSON")


def benchmark(args: Arguments) -> None:
    from llama_nas.benchmark import benchmark_folder

    benchmark_folder(
        args.output,
        model=args.model,
        task=args.task,
        precision=args.precision,
        batch_size=args.batch_size,
        device=args.device,
        threads=args.threads,
    )


def score_arguments(parser: Parser) -> None:
    """Evaluate any Llama-family folder on any log-likelihood task of lm-eval by the search's scorer, on its own."""
    _compute(parser)
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face folder: plain, exported or quantized")
    parser.add_argument("--task", required=True, help="lm-eval task or group name, or the path of a task YAML")
    parser.add_argument("--data", type=Path, help="folder in Hub layout with the task's dataset; default: the Hub")
    parser.add_argument("--num-fewshot", type=int, help="default: the task's own")
    parser.add_argument("--limit", type=int, help="first items only, as lm-eval's --limit")
    parser.add_argument("--subtasks", nargs="+", help="for a group: only these, e.g. subjects of mmlu")
    parser.add_argument("--dtype", choices=["fp32", "bf16", "fp16"], default="fp32", help="default: fp32")
    parser.add_argument("--chunk-tokens", type=int, default=512, help="tokens a layer is applied to at once")
    parser.add_argument(
        "--group-tokens", type=int, default=32768, help="tokens taken through the network together, chunk by chunk"
    )
    parser.add_argument("--output", type=Path, help="JSON of lm-eval's results")


def score(args: Arguments) -> None:
    from llama_nas.harness import score_folder

    score_folder(
        model=args.model,
        task=args.task,
        data_root=args.data,
        num_fewshot=args.num_fewshot,
        limit=args.limit,
        subtasks=args.subtasks,
        dtype=args.dtype,
        chunk_tokens=args.chunk_tokens,
        group_tokens=args.group_tokens,
        device=args.device,
        threads=args.threads,
        output=args.output,
    )


def verify_arguments(parser: Parser) -> None:
    """Compare the search's scorer with a stock lm-eval result of the same network, request by request."""
    _compute(parser)
    parser.add_argument("--supernet", type=Path, required=True)
    parser.add_argument("--widths", type=int, nargs="+", required=True)
    parser.add_argument("--subnet", required=True)
    parser.add_argument("--task", type=Path, required=True, help="folder written by `llama-nas compile-task`")
    parser.add_argument(
        "--benchmark", type=Path, required=True, help="JSON of `llama-nas benchmark` of the same network"
    )
    parser.add_argument("--dtype", choices=["fp32", "bf16", "fp16"], required=True)
    parser.add_argument("--output", type=Path, required=True, help="JSON")


def verify(args: Arguments) -> None:
    from llama_nas.scoring.verify import verify_against_benchmark

    verify_against_benchmark(
        args.output,
        supernet=args.supernet,
        widths=args.widths,
        subnet_id=args.subnet,
        task=args.task,
        benchmark=args.benchmark,
        dtype=args.dtype,
        device=args.device,
        threads=args.threads,
    )


def throughput_arguments(parser: Parser) -> None:
    """Measure tokens/s of model folders; needs the machine or device to itself."""
    _compute(parser)
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME:PRECISION=FOLDER")
    parser.add_argument("--batch-size", type=int, required=True, help="rows of a prefill")
    parser.add_argument("--sequence-length", type=int, required=True, help="tokens of a prefill, context of a decode")
    parser.add_argument("--new-tokens", type=int, required=True, help="tokens decoded per run")
    parser.add_argument("--max-batch", type=int, required=True, help="the saturated decode's batch is at most this")
    parser.add_argument("--repeats", type=int, required=True, help="timed runs after warm-up")
    parser.add_argument("--output", type=Path, required=True, help="CSV")


def throughput(args: Arguments) -> None:
    from llama_nas.throughput import measure_throughput

    measure_throughput(
        args.output,
        models=args.models,
        batch_size=args.batch_size,
        sequence_length=args.sequence_length,
        new_tokens=args.new_tokens,
        max_batch=args.max_batch,
        repeats=args.repeats,
        device=args.device,
        threads=args.threads,
    )


def measure_costs_arguments(parser: Parser) -> None:
    """Measure what one layer of each width costs in seconds, for the search's objective latency."""
    _seed(parser)
    _space(parser)
    _compute(parser)
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model folder: the base")
    parser.add_argument("--dtype", choices=["fp32", "bf16", "fp16"], required=True)
    parser.add_argument("--batch-size", type=int, required=True, help="rows")
    parser.add_argument("--sequence-length", type=int, required=True, help="tokens of a prefill, context of a decode")
    parser.add_argument("--new-tokens", type=int, required=True, help="tokens decoded per run")
    parser.add_argument("--repeats", type=int, required=True, help="timed runs of each network")
    parser.add_argument("--checks", type=int, required=True, help="random networks timed to check the table")
    parser.add_argument("--output", type=Path, required=True, help="JSON")


def measure_costs(args: Arguments) -> None:
    from llama_nas.costs import measure_costs

    measure_costs(
        args.output,
        model=args.model,
        depths=args.depths,
        widths=args.widths,
        depth_selection=args.depth_selection,
        dtype=args.dtype,
        batch_size=args.batch_size,
        sequence_length=args.sequence_length,
        new_tokens=args.new_tokens,
        repeats=args.repeats,
        checks=args.checks,
        seed=args.seed,
        device=args.device,
        threads=args.threads,
    )


def summarize_arguments(parser: Parser) -> None:
    """Summarise one task: every benchmarked model with size, accuracy and speed; and its figures."""
    parser.add_argument("--model", type=Path, required=True, help="folder with the base model's config.json")
    parser.add_argument("--widths", type=int, nargs="+", required=True)
    parser.add_argument("--task", type=Path, required=True, help="folder written by `llama-nas compile-task`")
    parser.add_argument("--evaluations", type=Path, required=True, help="evaluations.csv of the last round")
    parser.add_argument("--front", type=Path, required=True)
    parser.add_argument("--benchmarks", type=Path, nargs="+", required=True, help="benchmark JSONs of this task")
    parser.add_argument("--agreement", type=Path, required=True, help="JSON of `llama-nas verify`")
    parser.add_argument("--throughput", type=Path, required=True, help="CSV of `llama-nas throughput`")
    parser.add_argument("--output", type=Path, required=True, help="summary CSV")
    parser.add_argument(
        "--figures", type=Path, nargs="+", required=True, help="SVGs: front, quantized, speed, progress"
    )


def summarize(args: Arguments) -> None:
    from llama_nas.analysis.summary import summarize_task

    summarize_task(
        args.output,
        figures=args.figures,
        model=args.model,
        widths=args.widths,
        task=args.task,
        evaluations=args.evaluations,
        front=args.front,
        benchmarks=args.benchmarks,
        agreement=args.agreement,
        throughput=args.throughput,
    )


def cards_arguments(parser: Parser) -> None:
    """Write a model card with scores for every exported or quantized folder: the README.md to publish it with."""
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="folders {id}, {id}/int8 or {id}/nf4")
    parser.add_argument("--summaries", type=Path, nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder: {id}.md, {id}-int8.md")


def cards(args: Arguments) -> None:
    from llama_nas.analysis.cards import write_cards

    write_cards(args.output, models=args.models, summaries=args.summaries)


def patterns_arguments(parser: Parser) -> None:
    """Find what good networks of a search have in common: layer counts, widths by layer, heuristics (paper, 4.5)."""
    parser.add_argument("--model", type=Path, required=True, help="folder with the base model's config.json")
    parser.add_argument("--widths", type=int, nargs="+", required=True, help="the space's width list")
    parser.add_argument("--task", type=Path, required=True, help="folder written by `llama-nas compile-task`")
    parser.add_argument("--evaluations", type=Path, required=True, help="evaluations.csv of the last round")
    parser.add_argument("--named", nargs="*", default=[], help="ids of more networks to evaluate with the heuristics")
    parser.add_argument("--layers", type=Path, required=True, help="out: CSV of layer counts by accuracy percentile")
    parser.add_argument("--layers-figure", type=Path, required=True, help="out: the same as SVG")
    parser.add_argument("--maps", type=Path, required=True, help="out: CSV of widths by layer")
    parser.add_argument("--maps-figure", type=Path, required=True, help="out: the same as SVG")
    parser.add_argument("--output", type=Path, required=True, help="out: candidates.csv with the heuristics")


def patterns(args: Arguments) -> None:
    from llama_nas.analysis.patterns import find_patterns

    find_patterns(
        model=args.model,
        widths=args.widths,
        task=args.task,
        evaluations=args.evaluations,
        named=args.named,
        layers=args.layers,
        layers_figure=args.layers_figure,
        maps=args.maps,
        maps_figure=args.maps_figure,
        candidates=args.output,
    )


def heuristics_arguments(parser: Parser) -> None:
    """Compare the evaluated heuristics with the full network and with what the search found."""
    parser.add_argument("--model", type=Path, required=True, help="folder with the base model's config.json")
    parser.add_argument("--widths", type=int, nargs="+", required=True, help="the space's width list")
    parser.add_argument("--task", type=Path, required=True, help="folder written by `llama-nas compile-task`")
    parser.add_argument("--front", type=Path, required=True)
    parser.add_argument("--candidates", type=Path, required=True, help="candidates.csv of `llama-nas patterns`")
    parser.add_argument("--shards", type=Path, nargs="+", required=True, help="their shard CSVs")
    parser.add_argument("--output", type=Path, required=True, help="CSV")


def heuristics(args: Arguments) -> None:
    from llama_nas.analysis.patterns import judge_heuristics

    judge_heuristics(
        args.output,
        model=args.model,
        widths=args.widths,
        task=args.task,
        front=args.front,
        candidates=args.candidates,
        shards=args.shards,
    )


def report_arguments(parser: Parser) -> None:
    """Write the one-page answer: per task, how much smaller at what accuracy, and which checkpoint to take."""
    _seed(parser)
    parser.add_argument("--base", type=Path, required=True, help="for the digest of its weights")
    parser.add_argument("--supernet", type=Path, required=True, help="for training.csv and its digest")
    parser.add_argument("--summaries", type=Path, nargs="+", required=True)
    parser.add_argument("--figures", type=Path, nargs="+", required=True, help="all figures of all tasks")
    parser.add_argument("--agreements", type=Path, nargs="+", required=True)
    parser.add_argument(
        "--predictors", type=Path, nargs="+", required=True, help="predictor.json of every task and round"
    )
    parser.add_argument(
        "--timings", type=Path, required=True, help="folder of the jobs' benchmark files; may be absent"
    )
    parser.add_argument("--output", type=Path, required=True, help="summary.html")


def report(args: Arguments) -> None:
    from llama_nas.analysis.report import write_report

    write_report(
        args.output,
        base=args.base,
        supernet=args.supernet,
        summaries=args.summaries,
        figures=args.figures,
        agreements=args.agreements,
        predictors=args.predictors,
        seed=args.seed,
        timings=args.timings,
    )


STAGES: dict[str, Callable[[Arguments], None]] = {
    "world": world,
    "pretrain": pretrain,
    "fetch": fetch,
    "base": base,
    "compile-task": compile_task,
    "tokenize": tokenize,
    "order-channels": order_channels,
    "order-layers": order_layers,
    "finetune": finetune,
    "sample": sample,
    "evaluate": evaluate,
    "fit": fit,
    "propose": propose,
    "enumerate-space": enumerate_space,
    "tabulate": tabulate,
    "finalists": finalists,
    "front": front,
    "pick": pick,
    "export": export,
    "gguf": gguf,
    "quantize": quantize,
    "benchmark": benchmark,
    "score": score,
    "verify": verify,
    "throughput": throughput,
    "measure-costs": measure_costs,
    "summarize": summarize,
    "cards": cards,
    "patterns": patterns,
    "heuristics": heuristics,
    "report": report,
}


def build_parser() -> Parser:
    parser = Parser(prog="llama-nas", description="Stages of LLaMA-NAS; the workflow calls them in order.")
    parser.add_argument("--version", action="version", version=f"llama-nas {__version__}")
    commands = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    for name, run in STAGES.items():
        add_arguments = globals()[f"{run.__name__}_arguments"]
        command = commands.add_parser(name, help=add_arguments.__doc__, description=add_arguments.__doc__)
        add_arguments(command)
        command.add_argument("--code", help="digest of the stage's code that the caller means; other code is refused")
        command.set_defaults(run=run)
    return parser


def _check_device(device: str) -> None:
    """Refuse a GPU that is not there before anything is loaded; torch is imported only to look for one."""
    if device not in ("cpu", "cuda"):
        raise UserError(f"--device {device} (config key compute.device): must be cpu or cuda")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UserError(
                "--device cuda (config key compute.device): torch sees no GPU here; use cpu, or check "
                "CUDA_VISIBLE_DEVICES and that torch is a CUDA build"
            )


def _check_code(stage: str, declared: str) -> None:
    """Refuse to run other code than the workflow declared: an image or an installation that was left behind."""
    from llama_nas.code_digest import ROOT, code_digest

    if code_digest(stage) != declared:
        raise UserError(
            f"the code in {ROOT} is not the workflow's: renew the containers with `make images`, or run `make setup`"
        )


def _gpus(args: Arguments) -> int:
    """How many GPUs of this machine the stage uses: one, in training one per rank."""
    if getattr(args, "device", "cpu") != "cuda":
        return 0
    return args.ranks // args.nodes if args.stage == "finetune" else 1


def main(argv: list[str] | None = None) -> int:
    """Run one stage. Exit code 2 and one line on stderr for bad input; a full disk is bad input, too."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    try:
        if args.code:
            _check_code(args.stage, args.code)
        with leased_devices(_gpus(args)):
            _check_device(getattr(args, "device", "cpu"))
            args.run(args)
    except UserError as error:
        print(f"llama-nas {args.stage}: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(
            f"llama-nas {args.stage}: error: no space left on the disk of {error.filename or 'the output'}",
            file=sys.stderr,
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
