"""Export of one sub-network as a standalone folder that needs nothing of this project, in one of several forms."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from math import prod
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn import functional

from llama_nas import __version__
from llama_nas.core.artifacts import atomic_folder, file_digest, read_json, write_json
from llama_nas.core.errors import UserError
from llama_nas.core.layout import CARD_FILE, SUBNET_FILE
from llama_nas.core.precisions import PRECISIONS
from llama_nas.core.progress import track
from llama_nas.core.shape import ModelShape, Subnet
from llama_nas.core.space import SearchSpace
from llama_nas.core.units import format_bytes
from llama_nas.exports.card import Provenance, model_card
from llama_nas.exports.forms import FOLDERS
from llama_nas.models.elastic import subnet_state_dict
from llama_nas.models.folder import SIDE_FILES, WEIGHTS_INDEX, check_base, copy_files, weight_files

log = logging.getLogger(__name__)

SHARD_BYTES = 5 * 10**9  # one shard is in memory at a time
STORED_BYTES = {"F32": 4, "BF16": 2, "F16": 2}
StateDict = dict[str, torch.Tensor]
Cut = Callable[[StateDict], StateDict]  # some of the super-network's tensors -> those of the export


@dataclass(frozen=True)
class Piece:
    """One tensor of the export: where it comes from, what it is called, how large it is once cut."""

    path: Path
    source: str
    name: str
    parameters: int
    bytes: int


def export(
    output: Path,
    *,
    supernet: Path,
    space: Path,
    subnet: str,
    form: str = "hf",
    provenance: Provenance = Provenance(),  # noqa: B008  (frozen)
) -> None:
    """Export a sub-network, by id, as a standalone folder that needs nothing of this project.

    Weights have the super-network's stored dtype. The folder also says which network it is (`subnet.json`) and, as a
    model card, what it is made of and how to load it (`README.md`). Raises UserError for an id that does not fit the
    model, weights that do not fit their config, or an architecture that the form cannot express.

    Args:
        subnet: subnet id, one character per base layer in groups of eight
        form: hf: plain Llama, or with a few lines of code for mixed widths. padded: plain at any widths, with zeros.
            deci: block configs for vLLM, SGLang, TensorRT-LLM, MLX
        output: model folder
    """
    if form not in FOLDERS:
        raise UserError(f"--form '{form}' is not known; known: {', '.join(FOLDERS)}")
    shape, declared, own = check_base(supernet), SearchSpace.read(space), FOLDERS[form]
    declared.check_model(supernet)
    network = declared.parse(subnet)
    stored = own.stored(network)
    config = own.config(read_json(supernet / "config.json"), stored, shape)
    files = weight_files(supernet)
    cut = partial(_cut, subnet=network, stored=stored)
    pieces = list(_pieces(files, cut, tied=shape.tie_word_embeddings))
    parameters = sum(piece.parameters for piece in pieces)
    if parameters != shape.parameters(stored):
        raise UserError(
            f"{supernet}: the weights of {subnet} have {parameters} parameters where config.json "
            f"means {shape.parameters(stored)}"
        )
    record = describe(subnet, network, shape, files, form)
    with atomic_folder(output) as folder:
        write_json(folder / "config.json", config)
        _write_weights(folder, pieces, cut)
        copy_files(supernet, folder, SIDE_FILES)
        for path in own.files(config):
            copy_files(path.parent, folder, [path.name])
        write_json(folder / SUBNET_FILE, record)
        (folder / CARD_FILE).write_text(model_card(record, provenance, own.loading(record)), encoding="utf-8")
    log.info("%s: %d parameters, %s", subnet, parameters, format_bytes(sum(piece.bytes for piece in pieces)))


def _cut(tensors: StateDict, subnet: Subnet, stored: Subnet) -> StateDict:
    """A sub-network's tensors, its MLPs filled up with zeros to the widths of `stored`."""
    result = {}
    for name, tensor in subnet_state_dict(tensors, subnet).items():
        _, _, layer, *part = name.split(".") if name.startswith("model.layers.") else ("", "", "")
        if part and part[0] == "mlp" and part[1] in ("gate_proj", "up_proj", "down_proj"):
            missing = stored.widths[int(layer)] - subnet.widths[int(layer)]
            rows = 0 if part[1] == "down_proj" else missing
            columns = missing if part[1:] == ["down_proj", "weight"] else 0
            padding = (0, columns, 0, rows) if tensor.dim() == 2 else (0, rows)
            tensor = functional.pad(tensor, padding) if missing else tensor
        result[name] = tensor
    return result


def describe(subnet_id: str, subnet: Subnet, shape: ModelShape, files: Sequence[Path], form: str) -> dict[str, Any]:
    """The contents of `subnet.json`; bytes are of the weights alone, at each precision, without a form's zeros."""
    stored = FOLDERS[form].stored(subnet)
    return {
        "subnet_id": subnet_id,
        "form": form,
        "layers": subnet.layers,
        "kept_layers": subnet.kept,
        "widths": subnet.widths,
        "stored_widths": stored.widths,
        "parameters": shape.parameters(subnet),
        "stored_parameters": shape.parameters(stored),
        "size_bytes": {precision: shape.size_bytes(subnet, precision) for precision in PRECISIONS},
        "requires": FOLDERS[form].requires(stored),
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
