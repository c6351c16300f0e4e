"""A model folder as one GGUF file for llama.cpp, in f16 or Q8_0, written by the `gguf` package.

llama.cpp's architectures `llama`, `qwen2` and `qwen3` take the MLP width of layer 0 for all layers; `deci` reads a
width per layer and computes what `llama` does (llama.cpp, src/models/). So a Llama of mixed widths is written as
`deci`, at exactly its widths; a Qwen of mixed widths is filled up with zeros to its widest layer: silu(0) * 0 = 0.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from safetensors import safe_open

from llama_nas import __version__
from llama_nas.core.artifacts import atomic_path, read_json
from llama_nas.core.errors import UserError
from llama_nas.core.families import family
from llama_nas.core.progress import track
from llama_nas.core.shape import ModelShape, network_of
from llama_nas.models.folder import weight_files

log = logging.getLogger(__name__)

FILE_TYPES = {"f16": (gguf.LlamaFileType.MOSTLY_F16, Type.F16), "q8_0": (gguf.LlamaFileType.MOSTLY_Q8_0, Type.Q8_0)}
LLAMA_3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# llama.cpp knows how to cut text into words by name only: (regular expression, ignore_merges) -> `tokenizer.ggml.pre`.
WORD_SPLITTERS = {
    (LLAMA_3_WORDS, True): "llama-bpe",
    (LLAMA_3_WORDS, False): "dbrx",  # the same expression; words that are tokens still go through the merges
    (LLAMA_3_WORDS.replace(r"\p{N}{1,3}", r"\p{N}"), False): "qwen2",
    (None, False): "gpt-2",  # the byte-level pre-tokenizer's own
}


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer as GGUF has it; tokens by id."""

    model: str  # gpt2: byte-level BPE. llama: SentencePiece BPE with byte fallback
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float] | None  # of a SentencePiece token: the higher, the earlier it is merged


def write_gguf(output: Path, *, model: Path, type: str) -> None:
    """Write a plain or exported folder as one GGUF file for llama.cpp; one tensor is in memory at a time.

    Vectors (norms, biases) are F32 in both types. In q8_0 a matrix whose rows are no multiple of 32 long is F16.
    Raises UserError for a model or tokenizer that llama.cpp cannot express.

    Args:
        model: plain or exported folder of floats
        type: f16, or q8_0
        output: the .gguf file
    """
    file_type = type
    if file_type not in FILE_TYPES:
        raise UserError(f"--type '{file_type}' is not known; known: {', '.join(FILE_TYPES)}")
    shape, config = ModelShape.from_folder(model), read_json(model / "config.json")
    _check(config, model)
    widths = list(network_of(config).widths)
    arch = family(shape.model_type).gguf
    if arch == "llama" and len(set(widths)) > 1:
        arch = "deci"
    stored = widths if arch == "deci" else [max(widths)] * len(widths)
    sources = list(_sources(weight_files(model), shape))
    vocabulary = read_vocabulary(model, shape.vocab_size)
    with atomic_path(output) as temporary:
        writer = gguf.GGUFWriter(temporary, arch)
        _write_settings(writer, model, config, shape, stored, file_type)
        _write_vocabulary(writer, model, vocabulary)
        factors = rope_factors(model)
        if factors is not None:
            writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes, Type.F32)
        names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, arch.upper()), len(widths))
        for source in sources:
            name = names.get_name(source.name, try_suffixes=(".weight", ".bias"))
            if name is None:
                raise UserError(f"{source.path}: {source.name} has no place in llama.cpp's architecture '{arch}'")
            final = _final_shape(source, stored)
            kind = _kind(final, file_type)
            size = gguf.quant_shape_to_byte_shape(final, kind) if kind == Type.Q8_0 else final
            itemsize = {Type.F32: 4, Type.F16: 2, Type.Q8_0: 1}[kind]
            writer.add_tensor_info(name, size, np.dtype(np.uint8 if kind == Type.Q8_0 else f"f{itemsize}"),
                                   prod(size) * itemsize, kind)  # fmt: skip
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if factors is not None:
            writer.write_tensor_data(factors)
        for source in track(sources, total=len(sources), label="tensors"):
            array = _array(source, stored, shape, interleaved=arch in ("llama", "deci"))
            writer.write_tensor_data(gguf.quantize(array, _kind(array.shape, file_type)))
        writer.close()
        log.info("%s: architecture %s, %s, %d bytes", output, arch, file_type, temporary.stat().st_size)


@dataclass(frozen=True)
class Source:
    """One tensor of the folder."""

    path: Path
    name: str
    shape: tuple[int, ...]

    @property
    def mlp(self) -> tuple[int, str] | None:
        """(layer, `gate_proj.weight` or the like) of a tensor of an MLP."""
        found = re.fullmatch(r"model\.layers\.(\d+)\.mlp\.(.+)", self.name)
        return (int(found[1]), found[2]) if found else None


def _sources(files: list[Path], shape: ModelShape) -> Iterator[Source]:
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (not a dict)
                if name.endswith("rotary_emb.inv_freq") or (shape.tie_word_embeddings and name == "lm_head.weight"):
                    continue  # llama.cpp computes the one and takes the embedding for the other
                yield Source(path, name, tuple(file.get_slice(name).get_shape()))


def _check(config: dict[str, Any], model: Path) -> None:
    path = model / "config.json"
    if "quantization_config" in config:
        raise UserError(f"{path}: has 'quantization_config'; GGUF is written from the float folder")
    window = config.get("sliding_window")
    uses_window = config.get("use_sliding_window", config["model_type"] == "mistral")
    if uses_window and window and window < config["max_position_embeddings"]:
        raise UserError(f"{path}: sliding_window {window} has no form in llama.cpp's architecture for this model")


def _kind(shape: tuple[int, ...], file_type: str) -> Any:
    if len(shape) == 1:
        return Type.F32
    return Type.F16 if shape[-1] % 32 else FILE_TYPES[file_type][1]


def _final_shape(source: Source, stored: list[int]) -> tuple[int, ...]:
    """The tensor's shape with an MLP's padding."""
    if source.mlp is None:
        return source.shape
    layer, part = source.mlp
    if part == "down_proj.bias":
        return source.shape
    if part == "down_proj.weight":
        return (source.shape[0], stored[layer])
    return (stored[layer], *source.shape[1:])


def _array(source: Source, stored: list[int], shape: ModelShape, interleaved: bool) -> np.ndarray:
    """The tensor in fp32 as llama.cpp wants it.

    interleaved: rotary pairs lie beside each other in llama.cpp's `llama`, a half of the head apart in Hugging Face's.
    """
    with safe_open(source.path, framework="pt") as file:
        array = file.get_tensor(source.name).to(torch.float32).numpy()
    final = _final_shape(source, stored)
    array = np.pad(array, [(0, new - old) for new, old in zip(final, array.shape, strict=True)])
    heads = {"q_proj": shape.num_attention_heads, "k_proj": shape.num_key_value_heads}
    part = source.name.split(".")[-2]
    if interleaved and part in heads:
        array = array.reshape(heads[part], 2, -1, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
    return array


def rope_factors(model: Path) -> np.ndarray | None:
    """What llama.cpp divides each rotary frequency by, shape [head_dim / 2]; None for plain rotary embeddings.

    Raises UserError for a scaling that also changes the attention or depends on the length of the text.
    """
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = AutoConfig.from_pretrained(model, local_files_only=True)
    settings = config.rope_parameters
    kind = settings.get("rope_type", "default")
    if kind == "default":
        return None
    if kind not in ("llama3", "linear"):
        raise UserError(
            f"{model / 'config.json'}: rope_type '{kind}' is not written to GGUF here; known: llama3, linear"
        )
    scaled, _ = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    head_dim = 2 * len(scaled)
    plain = 1.0 / settings["rope_theta"] ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    return (plain / scaled).numpy().astype(np.float32)


def _write_settings(
    writer: Any, model: Path, config: dict[str, Any], shape: ModelShape, widths: list[int], file_type: str
) -> None:
    rope = config.get("rope_parameters") or config
    writer.add_name(model.name)
    writer.add_description(f"written by llama-nas {__version__}")
    writer.add_vocab_size(shape.vocab_size)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(len(widths))
    mixed = len(set(widths)) > 1
    writer.add_feed_forward_length(widths if mixed else widths[0])
    writer.add_head_count([shape.num_attention_heads] * len(widths) if mixed else shape.num_attention_heads)
    writer.add_head_count_kv([shape.num_key_value_heads] * len(widths) if mixed else shape.num_key_value_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10000.0)))
    writer.add_layer_norm_rms_eps(config.get("rms_norm_eps", 1e-6))
    writer.add_file_type(FILE_TYPES[file_type][0])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def read_vocabulary(model: Path, vocab_size: int) -> Vocabulary:
    """The tokenizer of a folder; unused ids up to `vocab_size` are named so.

    Raises UserError for a tokenizer that is neither byte-level BPE with a word splitter llama.cpp has a name for, nor
    SentencePiece's BPE with byte fallback.
    """
    path = model / "tokenizer.json"
    tokenizer = read_json(path)
    settings = tokenizer["model"]
    if settings["type"] != "BPE":
        raise UserError(f"{path}: a tokenizer of type {settings['type']} is not written to GGUF here, only BPE")
    ids = settings["vocab"] | {added["content"]: added["id"] for added in tokenizer["added_tokens"]}
    by_id = {i: token for token, i in ids.items()}
    special = {added["id"] for added in tokenizer["added_tokens"] if added["special"]}
    added_ids = {added["id"] for added in tokenizer["added_tokens"]}
    sentencepiece = bool(settings.get("byte_fallback"))
    types = []
    for i in range(vocab_size):
        token = by_id.get(i)
        if token is None:
            kind = gguf.TokenType.UNUSED
        elif sentencepiece and token == settings.get("unk_token"):
            kind = gguf.TokenType.UNKNOWN
        elif i in special:
            kind = gguf.TokenType.CONTROL
        elif i in added_ids:
            kind = gguf.TokenType.USER_DEFINED
        elif sentencepiece and re.fullmatch(r"<0x[0-9A-F]{2}>", token):
            kind = gguf.TokenType.BYTE
        else:
            kind = gguf.TokenType.NORMAL
        types.append(int(kind))
    tokens = [by_id.get(i, f"[unused {i}]") for i in range(vocab_size)]
    if not sentencepiece:
        return Vocabulary("gpt2", _word_splitter(tokenizer, path), tokens, types, None)
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(settings["merges"]):
        ranks.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), rank)
    scores = [-float(ranks.get(token, len(settings["merges"]))) for token in tokens]
    return Vocabulary("llama", "default", tokens, types, scores)


def _word_splitter(tokenizer: dict[str, Any], path: Path) -> str:
    outer = tokenizer.get("pre_tokenizer") or {}
    steps = outer.get("pretokenizers", [outer])
    expression = next((step["pattern"].get("Regex") for step in steps if step.get("type") == "Split"), None)
    key = (expression, bool(tokenizer["model"].get("ignore_merges")))
    byte_level = any(step.get("type") == "ByteLevel" for step in steps)
    if not byte_level or key not in WORD_SPLITTERS or tokenizer.get("normalizer") not in (None, {"type": "NFC"}):
        raise UserError(f"{path}: llama.cpp has no name for this pre-tokenizer: {json.dumps(outer)[:200]}")
    return WORD_SPLITTERS[key]


def _write_vocabulary(writer: Any, model: Path, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.scores is not None:
        writer.add_token_scores(vocabulary.scores)
    special = gguf.SpecialVocab(model, load_merges=vocabulary.model == "gpt2", n_vocab=len(vocabulary.tokens))
    special.add_to_gguf(writer, quiet=True)
