"""What a run found: tables, figures, model cards, the one-page answer."""

from pathlib import Path

from llama_nas.commands.options import Arguments, Parser, seed


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
    """Find what good networks of a search have in common: layer counts, widths by layer (paper, 4.5)."""
    parser.add_argument("--model", type=Path, required=True, help="folder with the base model's config.json")
    parser.add_argument("--widths", type=int, nargs="+", required=True, help="the space's width list")
    parser.add_argument("--task", type=Path, required=True, help="folder written by `llama-nas compile-task`")
    parser.add_argument("--evaluations", type=Path, required=True, help="evaluations.csv of the last round")
    parser.add_argument("--output", type=Path, required=True, help="CSV of layer counts by accuracy percentile")
    parser.add_argument("--figure", type=Path, required=True, help="out: the same as SVG")
    parser.add_argument("--maps", type=Path, required=True, help="out: CSV of widths by layer")
    parser.add_argument("--maps-figure", type=Path, required=True, help="out: the same as SVG")


def patterns(args: Arguments) -> None:
    from llama_nas.analysis.patterns import find_patterns

    find_patterns(
        model=args.model,
        widths=args.widths,
        task=args.task,
        evaluations=args.evaluations,
        layers=args.output,
        layers_figure=args.figure,
        maps=args.maps,
        maps_figure=args.maps_figure,
    )


def judge_heuristics_arguments(parser: Parser) -> None:
    """Compare the evaluated heuristics with the full network and with what the search found."""
    parser.add_argument("--model", type=Path, required=True, help="folder with the base model's config.json")
    parser.add_argument("--widths", type=int, nargs="+", required=True, help="the space's width list")
    parser.add_argument("--task", type=Path, required=True, help="folder written by `llama-nas compile-task`")
    parser.add_argument("--front", type=Path, required=True)
    parser.add_argument("--candidates", type=Path, required=True, help="candidates.csv of `llama-nas heuristics`")
    parser.add_argument("--shards", type=Path, nargs="+", required=True, help="their shard CSVs")
    parser.add_argument("--output", type=Path, required=True, help="CSV")


def judge_heuristics(args: Arguments) -> None:
    from llama_nas.analysis import patterns

    patterns.judge_heuristics(
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
    seed(parser)
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
