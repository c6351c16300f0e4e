"""Networks as folders and files of their own."""

from pathlib import Path

from llama_nas.commands.options import Arguments, Parser


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
