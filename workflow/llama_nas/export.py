"""Export of one sub-network as a standalone Hugging Face folder.

A network whose kept layers are equally wide is a plain Llama of that depth and width: any software loads it. One of
mixed widths carries `modeling_subnet.py`, which builds each MLP at the width that `per_layer_config` states; or, in the
form `padded`, zeros up to its widest layer, and is a plain Llama, too: silu(0) * 0 = 0, so it computes the same.
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
from llama_nas.artifacts import atomic_folder, file_digest, read_json, write_json
from llama_nas.elastic import subnet_state_dict
from llama_nas.errors import UserError
from llama_nas.hf_folder import (
    MODELING_FILE,
    SIDE_FILES,
    SUBNET_FILE,
    WEIGHTS_INDEX,
    check_base,
    copy_files,
    weight_files,
)
from llama_nas.progress import track
from llama_nas.space import PRECISIONS, ModelShape, SearchSpace, Subnet, format_bytes

log = logging.getLogger(__name__)

SHARD_BYTES = 5 * 10**9  # one shard is in memory at a time
STORED_BYTES = {"F32": 4, "BF16": 2, "F16": 2}
StateDict = dict[str, torch.Tensor]
Cut = Callable[[StateDict], StateDict]  # some of the super-network's tensors -> those of the export
SUBNET_CLASSES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}


@dataclass(frozen=True)
class Piece:
    """One tensor of the export: where it comes from, what it is called, how large it is once cut."""

    path: Path
    source: str
    name: str
    parameters: int
    bytes: int


def export_subnet(output: Path, supernet: Path, widths: Sequence[int], subnet_id: str, padded: bool = False) -> None:
    """Write the sub-network `subnet_id` of `supernet` as a Hugging Face folder in the super-network's stored dtype.

    widths: the space's width list, full width first. The folder also says in `subnet.json` which network it is.
    padded: all kept layers as wide as the widest of them, with zeros: larger than the network, but plain.
    Raises UserError for an id that does not fit the model or weights that do not fit their config.
    """
    shape = check_base(supernet)
    space = SearchSpace.for_model(shape, [shape.num_hidden_layers], widths)
    subnet = space.parse(subnet_id)
    stored = padded_subnet(subnet) if padded else subnet
    config = subnet_config(read_json(supernet / "config.json"), stored)
    files = weight_files(supernet)
    cut = partial(_cut, subnet=subnet, stored=stored)
    pieces = list(_pieces(files, cut, tied=shape.tie_word_embeddings))
    parameters = sum(piece.parameters for piece in pieces)
    if parameters != shape.parameters(stored):
        raise UserError(
            f"{supernet}: the weights of {subnet_id} have {parameters} parameters where config.json "
            f"means {shape.parameters(stored)}"
        )
    with atomic_folder(output) as folder:
        write_json(folder / "config.json", config)
        _write_weights(folder, pieces, cut)
        copy_files(supernet, folder, SIDE_FILES)
        if "auto_map" in config:
            copy_files(Path(__file__).parent, folder, [MODELING_FILE])
        write_json(folder / SUBNET_FILE, describe(subnet_id, subnet, stored, shape, files))
    log.info("%s: %d parameters, %s", subnet_id, parameters, format_bytes(sum(piece.bytes for piece in pieces)))


def padded_subnet(subnet: Subnet) -> Subnet:
    """The network with all kept layers as wide as the widest of them."""
    widest = max(subnet.kept_widths)
    return Subnet(tuple(None if width is None else widest for width in subnet.widths))


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


def describe(subnet_id: str, subnet: Subnet, stored: Subnet, shape: ModelShape, files: Sequence[Path]) -> dict:
    """The contents of `subnet.json`; bytes are of the weights alone, at each precision.

    stored: the network as the folder has it, with its padding.
    """
    mixed = len(set(stored.kept_widths)) > 1
    return {
        "subnet_id": subnet_id,
        "layers": subnet.layers,
        "kept_layers": subnet.kept,
        "widths": subnet.kept_widths,
        "parameters": shape.parameters(subnet),
        "stored_parameters": shape.parameters(stored),
        "size_bytes": {precision: shape.size_bytes(subnet, precision) for precision in PRECISIONS},
        "requires": {"transformers": ">=5.14", "trust_remote_code": True} if mixed else {},
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
