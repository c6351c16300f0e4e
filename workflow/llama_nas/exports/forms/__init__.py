"""The forms in which a network is written: a module each, and where each form of a network lies.

A form of a model folder is a module with the functions of `FolderForm`; a new one is such a module and an entry of
FOLDERS. The weights themselves are cut, padded and written by `exports/export.py`, the same way for all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from llama_nas.core.precisions import QUANTIZED
from llama_nas.core.shape import ModelShape, Subnet
from llama_nas.exports.forms import deci, hf, padded


class FolderForm(Protocol):
    """What a form of a model folder says of itself."""

    def stored(self, subnet: Subnet) -> Subnet:
        """The network as the form holds it: the same kept layers, each as large or larger, filled up with zeros."""
        ...

    def config(self, config: dict[str, Any], stored: Subnet, shape: ModelShape) -> dict[str, Any]:
        """The form's config.json, from the super-network's; raises UserError where the form has none."""
        ...

    def files(self, config: dict[str, Any]) -> list[Path]:
        """Files of this package that the folder needs beside its weights."""
        ...

    def requires(self, stored: Subnet) -> dict[str, Any]:
        """What a plain `AutoModelForCausalLM.from_pretrained(folder)` lacks, for `subnet.json`."""
        ...

    def loading(self, record: dict[str, Any]) -> list[str]:
        """Lines of the model card: how the folder is loaded. record: the contents of `subnet.json`."""
        ...


FOLDERS: dict[str, FolderForm] = {"hf": hf, "padded": padded, "deci": deci}
GGUF_TYPES = ("f16", "q8_0")
FORMS = (*FOLDERS, *(f"gguf-{kind}" for kind in GGUF_TYPES))  # of the config key export.formats


def network_path(network: str, form: str) -> str:
    """Where a network lies below the results folder, in a form or a quantized precision."""
    if form in FOLDERS or form in QUANTIZED:
        return f"networks/{network}/{form}"
    return f"networks/{network}/{form}.gguf"
