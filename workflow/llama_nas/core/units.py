"""Sizes as people write and read them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from llama_nas.core.errors import UserError

GB = 10**9
GIB = 2**30
SizeFamily = Literal["GB", "GiB"]
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": GB, "KIB": 2**10, "MIB": 2**20, "GIB": GIB}


def parse_size(text: str, key: str) -> int:
    """Bytes of `9GB`, `8.5 GiB`, `900MB`, `1048576`; raises UserError naming the option or config key."""
    match = re.fullmatch(r"([0-9]*\.?[0-9]+) *([a-zA-Z]*)", text.strip())
    if match is None or match[2].upper() not in UNITS:
        raise UserError(f"{key} '{text}': expected a number of bytes or one with kB, MB, GB, MiB, GiB, as 9GB")
    return int(float(match[1]) * UNITS[match[2].upper()])


@dataclass(frozen=True)
class SizeUnit:
    """The one unit in which a page or a figure prints its sizes."""

    name: str
    bytes: int

    @classmethod
    def of(cls, family: SizeFamily, largest: int) -> SizeUnit:
        """GB or GiB; MB or MiB of the same family where the largest size in bytes is less than one of them."""
        name = family if largest >= UNITS[family.upper()] else family.replace("G", "M")
        return cls(name, UNITS[name.upper()])

    def number(self, size: float) -> str:
        """`13.48`; `0.352` below 1."""
        value = size / self.bytes
        return f"{value:.2f}" if value >= 1 else f"{value:#.3g}"

    def text(self, size: float) -> str:
        """`13.48 GB`."""
        return f"{self.number(size)} {self.name}"


def format_bytes(size: int) -> str:
    """Both readings of "GB", as the paper's sizes are GiB: `13.48 GB (12.55 GiB)`; MB and MiB below 1 GB."""
    letter = "G" if size >= GB else "M"
    decimal, binary = (SizeUnit(name, UNITS[name.upper()]) for name in (f"{letter}B", f"{letter}iB"))
    return f"{decimal.text(size)} ({binary.text(size)})"
