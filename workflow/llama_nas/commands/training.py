"""The super-network: orders of channels and layers, and the one fine-tuning."""

from pathlib import Path

from llama_nas.commands.options import Arguments, Parser, compute, seed, space


def order_channels_arguments(parser: Parser) -> None:
    """Sort the MLP channels of the base model by importance, so that the first N are the N most important."""
    seed(parser)
    compute(parser)
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
    seed(parser)
    compute(parser)
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
    seed(parser)
    space(parser)
    compute(parser)
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
