"""A local model folder as the base of a run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from safetensors import SafetensorError, safe_open

from llama_nas.core.artifacts import atomic_folder
from llama_nas.core.errors import UserError
from llama_nas.models.folder import (
    SIDE_FILES,
    TOKENIZER_FILES,
    WEIGHTS,
    WEIGHTS_INDEX,
    check_base,
    matching_files,
    weight_files,
)


def take_base(output: Path, *, source: Path) -> None:
    """Take a local Hugging Face model folder as the base model, after checking it.

    Writes hard links (copies on another disk) to the files that a run needs. Raises UserError, naming the config key
    `base.path`, for a folder that is not a complete safetensors model.

    Args:
        source: local Hugging Face model folder
        output: folder
    """
    try:
        check_base(source)
        weights = weight_files(source)
    except UserError as error:
        raise UserError(f"config.yaml: base.path: {error}") from None
    for path in weights:
        try:
            with safe_open(path, framework="np"):
                pass
        except SafetensorError as error:
            raise UserError(f"config.yaml: base.path: {path}: not a complete safetensors file ({error})") from None
    if not matching_files(source, TOKENIZER_FILES[:2]) and not (source / "vocab.json").exists():
        raise UserError(f"config.yaml: base.path: {source}: no tokenizer.json or tokenizer.model found")
    config = [source / "config.json"]
    index = [] if weights[0].name == WEIGHTS else [source / WEIGHTS_INDEX]
    with atomic_folder(output) as folder:
        for path in [*config, *index, *weights, *matching_files(source, SIDE_FILES)]:
            _link(path.resolve(), folder / path.name)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or links to files of others are forbidden
        shutil.copyfile(source, target)
