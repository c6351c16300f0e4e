"""What a run starts from: the base model, the benchmarks as token ids, the instructions."""

from pathlib import Path

from llama_nas.commands.options import Arguments, Parser, compute, seed, space


def world_arguments(parser: Parser) -> None:
    """Generate the embedded world: corpus, instructions and five benchmarks, no download."""
    seed(parser)
    parser.add_argument("--inhabitants", type=int, required=True, help="how many people the world has")
    parser.add_argument("--items", type=int, required=True, help="scored items per task")
    parser.add_argument("--output", type=Path, required=True, help="folder: corpus.txt, instructions.json, hub/")


def world(args: Arguments) -> None:
    from llama_nas.world import write_world

    write_world(args.output, seed=args.seed, inhabitants=args.inhabitants, items=args.items)


def pretrain_arguments(parser: Parser) -> None:
    """Pre-train the embedded world's Llama from scratch on its corpus."""
    seed(parser)
    compute(parser)
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
    space(parser)
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
