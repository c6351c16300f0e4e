"""Reading and writing of every artifact: written under a temporary name beside the target, renamed at the end."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_nas.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


@contextlib.contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; rename it to `target` on success, remove it on failure.

    Works for files and for folders; an existing target folder is replaced.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        yield temporary
        _share(temporary)
        if target.is_dir() and temporary.is_dir():  # a folder cannot be replaced in one step: move the old one aside
            old = temporary.with_suffix(".old")
            os.replace(target, old)
            os.replace(temporary, target)
            shutil.rmtree(old)
        else:
            os.replace(temporary, target)
    except BaseException:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
        raise


def _share(path: Path) -> None:
    """Give files the user's usual mode: safetensors writes them readable by the owner alone, useless on a cluster."""
    umask = os.umask(0)
    os.umask(umask)
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file() and file.stat().st_nlink == 1:  # not a hard link to somebody's model
            file.chmod(0o666 & ~umask)


@contextlib.contextmanager
def atomic_folder(target: str | Path) -> Iterator[Path]:
    """`atomic_path` for a folder that already exists while it is filled."""
    with atomic_path(target) as temporary:
        temporary.mkdir()
        yield temporary


def write_text(path: str | Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Indented, key order as given, floats at full precision: equal values are equal bytes."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None


def write_table(path: str | Path, table: pd.DataFrame) -> None:
    """CSV; floats with the digits that read back to the same float."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def read_table(path: str | Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """CSV with `subnet_id`, `model` and `answers` kept as text (`0000` is no number), floats read back exactly.

    Raises UserError for a file or columns that are missing.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype={"subnet_id": str, "model": str, "answers": str})
    except FileNotFoundError:
        raise UserError(f"{path}: not found") from None
    except pd.errors.EmptyDataError:
        raise UserError(f"{path}: empty, expected columns {', '.join(columns)}") from None
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise UserError(f"{path}: column {', '.join(missing)} is missing")
    return table


def file_digest(path: str | Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: str | Path) -> str:
    """sha256 over names and contents of all files of a folder, in hex; hidden files (Snakemake's) do not count."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            digest.update(f"{path.relative_to(folder)}\0{file_digest(path)}\n".encode())
    return digest.hexdigest()


def derived_seed(seed: int, *purpose: str | int) -> int:
    """One 63-bit seed per purpose from the run's seed: (run seed, stage, wildcards)."""
    text = "\0".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
