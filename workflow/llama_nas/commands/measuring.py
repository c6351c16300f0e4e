"""Accuracy and speed of finished models; and the search's scorer against stock lm-eval."""

from pathlib import Path

from llama_nas.commands.options import Arguments, Parser, compute, seed, space


def benchmark_arguments(parser: Parser) -> None:
    """Evaluate a model folder with stock lm-eval."""
    compute(parser)
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
    compute(parser)
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
    compute(parser)
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
    compute(parser)
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
    seed(parser)
    space(parser)
    compute(parser)
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
