"""Export of one sub-network as a standalone folder that needs nothing of this project, in one of three forms.

hf: a network whose kept layers are equally wide is a plain Llama of that depth and width, which any software loads.
One of mixed widths carries `modeling_subnet.py`, which builds each MLP at the width that `per_layer_config` states.
padded: zeros up to the widest layer, so that any widths make a plain Llama: silu(0) * 0 = 0 computes the same.
deci: the `block_configs` of DeciLM (Nemotron-NAS), read by vLLM, SGLang, TensorRT-LLM, MLX, llama.cpp's converter.
Their readers know widths in multiples of 256 only; other widths are filled up with zeros, too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from math import prod
from operator import attrgetter
from pathlib import Path

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn import functional

from llama_nas import __version__
from llama_nas.core.artifacts import atomic_folder, file_digest, read_json, write_json
from llama_nas.models.elastic import subnet_state_dict
from llama_nas.core.errors import UserError
from llama_nas.models.folder import (
    CARD_FILE,
    DECI_CONFIGURATION_FILE,
    MODELING_FILE,
    SIDE_FILES,
    SUBNET_FILE,
    WEIGHTS_INDEX,
    check_base,
    copy_files,
    weight_files,
)
from llama_nas.exports.card import Provenance, model_card
from llama_nas.core.progress import track
from llama_nas.core.space import PRECISIONS, ModelShape, SearchSpace, Subnet, format_bytes

log = logging.getLogger(__name__)

SHARD_BYTES = 5 * 10**9  # one shard is in memory at a time
STORED_BYTES = {"F32": 4, "BF16": 2, "F16": 2}
StateDict = dict[str, torch.Tensor]
Cut = Callable[[StateDict], StateDict]  # some of the super-network's tensors -> those of the export
FORMS = ("hf", "padded", "deci")
DECI_MULTIPLE = 256  # of a width that `ffn_mult` can express (vLLM, nemotron_nas.py)
SUBNET_CLASSES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}


@dataclass(frozen=True)
class Piece:
    """One tensor of the export: where it comes from, what it is called, how large it is once cut."""

    path: Path
    source: str
    name: str
    parameters: int
    bytes: int


def export_subnet(
    output: Path,
    supernet: Path,
    widths: Sequence[int],
    subnet_id: str,
    form: str = "hf",
    provenance: Provenance | None = None,
) -> None:
    """Write the sub-network `subnet_id` of `supernet` as a model folder in the super-network's stored dtype.

    widths: the space's width list, full width first. form: one of FORMS. The folder also says which network it is
    (`subnet.json`) and, as a model card, what it is made of and how to load it (`README.md`).
    Raises UserError for an id that does not fit the model, weights that do not fit their config, or an architecture
    that the form cannot express.
    """
    shape = check_base(supernet)
    space = SearchSpace.for_model(shape, [shape.num_hidden_layers], widths)
    subnet = space.parse(subnet_id)
    stored = stored_subnet(subnet, form)
    config = form_config(read_json(supernet / "config.json"), stored, shape, form)
    files = weight_files(supernet)
    cut = partial(_cut, subnet=subnet, stored=stored)
    pieces = list(_pieces(files, cut, tied=shape.tie_word_embeddings))
    parameters = sum(piece.parameters for piece in pieces)
    if parameters != shape.parameters(stored):
        raise UserError(
            f"{supernet}: the weights of {subnet_id} have {parameters} parameters where config.json "
            f"means {shape.parameters(stored)}"
        )
    record = describe(subnet_id, subnet, stored, shape, files, form)
    with atomic_folder(output) as folder:
        write_json(folder / "config.json", config)
        _write_weights(folder, pieces, cut)
        copy_files(supernet, folder, SIDE_FILES)
        for name in (MODELING_FILE, DECI_CONFIGURATION_FILE):
            if any(value.startswith(f"{Path(name).stem}.") for value in config.get("auto_map", {}).values()):
                copy_files(Path(__file__).parent, folder, [name])
        write_json(folder / SUBNET_FILE, record)
        (folder / CARD_FILE).write_text(model_card(record, provenance or Provenance()), encoding="utf-8")
    log.info("%s: %d parameters, %s", subnet_id, parameters, format_bytes(sum(piece.bytes for piece in pieces)))


def stored_subnet(subnet: Subnet, form: str) -> Subnet:
    """The network as a form holds it: the same kept layers, as wide or wider."""
    if form == "hf":
        return subnet
    widest = max(subnet.kept_widths)
    return Subnet(
        tuple(
            None if width is None else widest if form == "padded" else -(-width // DECI_MULTIPLE) * DECI_MULTIPLE
            for width in subnet.widths
        )
    )


def form_config(config: dict, stored: Subnet, shape: ModelShape, form: str) -> dict:
    """The `config.json` of a form, from that of the super-network; raises UserError where the form has none."""
    return deci_config(config, stored, shape) if form == "deci" else subnet_config(config, stored)


def _cut(tensors: StateDict, subnet: Subnet, stored: Subnet) -> StateDict:
    """A sub-network's tensors, its MLPs filled up with zeros to the widths of `stored`."""
    result = {}
    for name, tensor in subnet_state_dict(tensors, subnet).items():
        _, _, layer, *part = name.split(".") if name.startswith("model.layers.") else ("", "", "")
        if part and part[0] == "mlp" and part[1] in ("gate_proj", "up_proj", "down_proj"):
            missing = stored.kept_widths[int(layer)] - subnet.kept_widths[int(layer)]
            rows = 0 if part[1] == "down_proj" else missing
            columns = missing if part[1:] == ["down_proj", "weight"] else 0
            padding = (0, columns, 0, rows) if tensor.dim() == 2 else (0, rows)
            tensor = functional.pad(tensor, padding) if missing else tensor
        result[name] = tensor
    return result


def subnet_config(config: dict, subnet: Subnet) -> dict:
    """The `config.json` of a sub-network, from that of its super-network."""
    config = {key: value for key, value in config.items() if key not in ("_name_or_path", "auto_map")}
    config["num_hidden_layers"] = subnet.layers
    if config.get("layer_types"):
        config["layer_types"] = [config["layer_types"][layer] for layer in subnet.kept]
    if len(set(subnet.kept_widths)) == 1:
        return config | {"intermediate_size": subnet.kept_widths[0]}
    name = f"{SUBNET_CLASSES[config['model_type']]}SubnetForCausalLM"
    digits = len(str(subnet.layers - 1))  # as transformers writes the keys, so that they sort by number
    return config | {
        "architectures": [name],
        "auto_map": {"AutoModelForCausalLM": f"{Path(MODELING_FILE).stem}.{name}"},
        "per_layer_config": {
            str(layer).zfill(digits): {"intermediate_size": width}
            for layer, width in enumerate(subnet.kept_widths)
            if width != config["intermediate_size"]
        },
    }


def deci_config(config: dict, subnet: Subnet, shape: ModelShape) -> dict:
    """The `config.json` of the form deci; widths are multiples of DECI_MULTIPLE.

    Keys as in the published Nemotron-NAS checkpoints; vLLM prefers `ffn_mult` to a width where it finds both, and the
    other readers know nothing else, so it is the only one written. Raises UserError for anything but a Llama without
    biases: that is all these readers compute alike.
    """
    reasons = {
        f"model_type is '{shape.model_type}'": shape.model_type != "llama",
        "it has biases": shape.attention_bias or shape.mlp_bias,
        "head_dim is not hidden_size / num_attention_heads": (
            shape.head_dim * shape.num_attention_heads != shape.hidden_size
        ),
    }
    for reason, applies in reasons.items():
        if applies:
            raise UserError(f"config.json: {reason}, which the form 'deci' has no way to say; use hf or padded")
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = rope.pop("rope_theta", None) or config.get("rope_theta", 10000.0)
    scaled = rope.get("rope_type", rope.get("type", "default")) != "default"
    attention = {
        "no_op": False,
        "replace_with_linear": False,
        "n_heads_in_group": shape.num_attention_heads // shape.num_key_value_heads,
    }
    unused = ("_name_or_path", "rope_parameters", "dtype", "torch_dtype")
    return {key: value for key, value in config.items() if key not in unused} | {
        "architectures": ["DeciLMForCausalLM"],
        "model_type": "nemotron-nas",
        "auto_map": {"AutoConfig": f"{Path(DECI_CONFIGURATION_FILE).stem}.DeciLMConfig"},
        "num_hidden_layers": subnet.layers,
        "intermediate_size": max(subnet.kept_widths),
        "rope_theta": theta,  # beside each other as before transformers 5: what every reader knows
        "rope_scaling": rope if scaled else None,
        "torch_dtype": config.get("dtype") or config.get("torch_dtype") or "float32",
        "block_configs": [
            {
                "attention": attention,
                "ffn": {
                    "no_op": False,
                    "replace_with_linear": False,
                    "ffn_mult": round(1.5 * width / shape.hidden_size, 6),  # readers round up from int(2 / 3 of it)
                },
            }
            for width in subnet.kept_widths
        ],
    }


def describe(
    subnet_id: str, subnet: Subnet, stored: Subnet, shape: ModelShape, files: Sequence[Path], form: str
) -> dict:
    """The contents of `subnet.json`; bytes are of the weights alone, at each precision.

    stored: the network as the folder has it, with its padding.
    """
    mixed = len(set(stored.kept_widths)) > 1
    return {
        "subnet_id": subnet_id,
        "form": form,
        "layers": subnet.layers,
        "kept_layers": subnet.kept,
        "widths": subnet.kept_widths,
        "stored_widths": stored.kept_widths,
        "parameters": shape.parameters(subnet),
        "stored_parameters": shape.parameters(stored),
        "size_bytes": {precision: shape.size_bytes(subnet, precision) for precision in PRECISIONS},
        "requires": {"transformers": ">=5.14", "trust_remote_code": True} if mixed and form == "hf" else {},
        "supernet_sha256": {path.name: file_digest(path) for path in files},
        "llama_nas": __version__,
    }


def _pieces(files: Sequence[Path], cut: Cut, tied: bool) -> Iterator[Piece]:
    """Plan the export from the files' headers alone: the cut is rehearsed on tensors without memory."""
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for source in file.keys():  # noqa: SIM118  (not a dict)
                    if source.endswith("rotary_emb.inv_freq") or (tied and source == "lm_head.weight"):
                        continue  # old checkpoints store these though the model computes or shares them
                    stored = file.get_slice(source)
                    if stored.get_dtype() not in STORED_BYTES:
                        raise UserError(f"{path}: {source} is stored as {stored.get_dtype()}, not F32, BF16 or F16")
                    whole = torch.empty(stored.get_shape(), device="meta")
                    for name, tensor in cut({source: whole}).items():
                        numel = prod(tensor.shape)
                        yield Piece(path, source, name, numel, numel * STORED_BYTES[stored.get_dtype()])
        except SafetensorError as error:
            raise UserError(f"{path}: not a complete safetensors file ({error})") from None


def _write_weights(folder: Path, pieces: Sequence[Piece], cut: Cut) -> None:
    by_name = {piece.name: piece for piece in pieces}
    split = split_state_dict_into_shards_factory(
        by_name,
        get_storage_size=attrgetter("bytes"),
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=SHARD_BYTES,
    )
    shards = split.filename_to_tensors.items()
    for filename, names in track(shards, total=len(shards), label="weight files"):
        tensors: dict[str, torch.Tensor] = {}
        for path, group in groupby((by_name[name] for name in names), key=attrgetter("path")):
            with safe_open(path, framework="pt") as file:
                for piece in group:
                    tensors |= cut({piece.source: file.get_tensor(piece.source)})
        save_file(tensors, folder / filename, metadata={"format": "pt"})
    if split.is_sharded:
        write_json(folder / WEIGHTS_INDEX, {"metadata": split.metadata, "weight_map": split.tensor_to_filename})
