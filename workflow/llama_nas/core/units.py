"""Sizes as people write and read them."""

from __future__ import annotations

import re

from llama_nas.core.errors import UserError

GB = 10**9
GIB = 2**30
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": GB, "KIB": 2**10, "MIB": 2**20, "GIB": GIB}


def parse_size(text: str, key: str) -> int:
    """Bytes of `9GB`, `8.5 GiB`, `900MB`, `1048576`; raises UserError naming the option or config key."""
    match = re.fullmatch(r"([0-9]*\.?[0-9]+) *([a-zA-Z]*)", text.strip())
    if match is None or match[2].upper() not in UNITS:
        raise UserError(f"{key} '{text}': expected a number of bytes or one with kB, MB, GB, MiB, GiB, as 9GB")
    return int(float(match[1]) * UNITS[match[2].upper()])


def format_bytes(size: int) -> str:
    """Both readings of "GB", as the paper's sizes are GiB: `13.48 GB (12.55 GiB)`; MB and MiB below 0.1 GB."""
    if size < GB // 10:
        return f"{size / 1e6:.3g} MB ({size / 2**20:.3g} MiB)"
    return f"{size / GB:.2f} GB ({size / GIB:.2f} GiB)"
