"""Sizes as people write them. Apart from `space`, on which every result rests: an edit here retrains nothing."""

from __future__ import annotations

import re

from llama_nas.errors import UserError

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(text: str, key: str) -> int:
    """Bytes of `9GB`, `8.5 GiB`, `900MB`, `1048576`; raises UserError naming the option or config key."""
    match = re.fullmatch(r"([0-9]*\.?[0-9]+) *([a-zA-Z]*)", text.strip())
    if match is None or match[2].upper() not in UNITS:
        raise UserError(f"{key} '{text}': expected a number of bytes or one with kB, MB, GB, MiB, GiB, as 9GB")
    return int(float(match[1]) * UNITS[match[2].upper()])
