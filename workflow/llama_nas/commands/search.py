"""The search on one task, from the first candidates to the front; and the whole space, where it is small."""

from pathlib import Path

from llama_nas.commands.options import Arguments, Parser, algorithm, compute, declared_goals, goals, seed, space


def sample_arguments(parser: Parser) -> None:
    """Choose the first round's candidates."""
    seed(parser)
    space(parser)
    algorithm(parser)
    goals(parser)
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
        goals=declared_goals(args),
        name=args.algorithm,
        variant=args.variant,
        population=args.population,
        seed=args.seed,
    )


def evaluate_arguments(parser: Parser) -> None:
    """Score one shard of a round's candidates on real benchmark items; one model load for all of them."""
    space(parser)
    compute(parser)
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
    seed(parser)
    space(parser)
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
    seed(parser)
    space(parser)
    algorithm(parser)
    goals(parser)
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
        goals=declared_goals(args),
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
    space(parser)
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
    space(parser)
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
    space(parser)
    goals(parser)
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
        goals=declared_goals(args),
    )


def front_arguments(parser: Parser) -> None:
    """Keep the non-dominated networks among all real evaluations."""
    space(parser)
    goals(parser)
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
        goals=declared_goals(args),
        candidates=args.candidates,
        shards=args.shards,
    )


def heuristics_arguments(parser: Parser) -> None:
    """Read networks off what a search's good ones have in common, to be evaluated as candidates (paper, 4.5)."""
    parser.add_argument("--model", type=Path, required=True, help="folder with the base model's config.json")
    parser.add_argument("--widths", type=int, nargs="+", required=True, help="the space's width list")
    parser.add_argument("--task", type=Path, required=True, help="folder written by `llama-nas compile-task`")
    parser.add_argument("--evaluations", type=Path, required=True, help="evaluations.csv of the last round")
    parser.add_argument("--named", nargs="*", default=[], help="ids of more networks to evaluate with them")
    parser.add_argument("--output", type=Path, required=True, help="candidates.csv")


def heuristics(args: Arguments) -> None:
    from llama_nas.search.heuristics import write_heuristics

    write_heuristics(
        args.output,
        model=args.model,
        widths=args.widths,
        task=args.task,
        evaluations=args.evaluations,
        named=args.named,
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
