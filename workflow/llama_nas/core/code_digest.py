"""A digest of the code that one stage depends on, so that Snakemake reruns a stage when its code changes meaning.

It covers the module of the stage's function (`stages.py`) and every module of this package that it reaches by imports,
followed statically. Comments, docstrings and formatting do not count: an edit in
`analysis/` never retrains a model.

Every start of Snakemake and of a job needs digests, and parsing the code is most of their cost, so they are kept in the
user's cache folder, under a hash of all files of the package as they are.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

PACKAGE = "llama_nas"
NOT_MEANT = (Path(__file__).name, "stages.py")  # a digest does not depend on how it is made, nor on stages' names
ROOT = Path(__file__).parents[1]


def code_digest(stage: str) -> str:
    """First 16 hex digits of the sha256 of everything stage `stage` (a sub-command's name) runs in this package."""
    cache_folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.path.isabs(cache_folder):  # no home is known
        return _digest(stage)
    package = _package_hash()
    kept = Path(cache_folder, "llama-nas/code", package, stage)
    # A file that cannot be read or written, or holds something else, only costs the time of reading the code.
    with contextlib.suppress(OSError, ValueError):
        text = kept.read_text(encoding="ascii")
        if re.fullmatch("[0-9a-f]{16}", text):
            return text
    digest = _digest(stage)
    if _package_hash.__wrapped__() == package:  # else a file was edited meanwhile
        with contextlib.suppress(OSError):
            _write_whole(kept, digest)
    return digest


def stage_file(stage: str) -> Path:
    """The file with the stage's function."""
    from llama_nas.stages import STAGES

    path = _module_file(f"{PACKAGE}.{STAGES[stage].partition(':')[0]}")
    assert path is not None, stage
    return path


def _digest(stage: str) -> str:
    parts = [f"{path.relative_to(ROOT).as_posix()}\n{_source(path).meaning}" for path in sorted(_closure(stage))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@cache
def _package_hash() -> str:
    """Of the bytes of every file a digest can depend on, and of the Python that reads them."""
    hashed = hashlib.sha256(sys.version.encode())
    for folder, folders, names in os.walk(ROOT):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in sorted(names):
            path = Path(folder, name)
            if name.startswith(".") or not path.is_file():  # an editor's
                continue
            content = path.read_bytes()
            hashed.update(f"\n{path.relative_to(ROOT).as_posix()} {len(content)}\n".encode() + content)
    return hashed.hexdigest()[:16]


def _write_whole(path: Path, text: str) -> None:
    """Jobs write the same file at the same time: each a file of its own, renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        own.write_text(text, encoding="ascii")
        os.replace(own, path)
    except OSError:
        own.unlink(missing_ok=True)
        raise


class _Source:
    """A file of the package; what it means and what it uses are found out once, however many stages reach it."""

    def __init__(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        self.meaning, mentions = _read(ast.parse(text)) if path.suffix == ".py" else (text, [])
        self.uses = list(_uses(mentions, path.parent))


def _read(tree: ast.AST) -> tuple[str, list[ast.AST]]:
    """What a syntax tree means, as text, and the nodes that may name a file of the package; both without docstrings.

    One pass instead of `ast.walk` and `ast.dump`: every start of Snakemake and of a job pays for it.
    """
    parts: list[str] = []
    mentions: list[ast.AST] = []

    def read(node: ast.AST) -> None:
        parts.append(type(node).__name__)
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Constant):
            mentions.append(node)
        for field in node._fields:
            value = getattr(node, field, None)
            if isinstance(value, ast.AST):
                read(value)
            elif isinstance(value, list):
                parts.append("[")
                for item in value[1:] if field == "body" and _has_docstring(node) else value:
                    if isinstance(item, ast.AST):
                        read(item)
                    else:
                        parts.append(repr(item))
                parts.append("]")
            else:
                parts.append(repr(value))

    read(tree)
    return "\n".join(parts), mentions


def _has_docstring(node: ast.AST) -> bool:
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    return ast.get_docstring(node, clean=False) is not None


@cache
def _source(path: Path) -> _Source:
    return _Source(path)


def _closure(stage: str) -> set[Path]:
    """The stage's module and every file of the package that it reaches by imports."""
    reached: set[Path] = set()
    queue = [stage_file(stage)]
    while queue:
        path = queue.pop()
        if path in reached or path.name in NOT_MEANT:
            continue
        reached.add(path)
        queue.extend(_source(path).uses)
    return reached


def _uses(nodes: Iterable[ast.AST], folder: Path) -> Iterator[Path]:
    """Files of this package that nodes import, start with `python -m`, or name as a file of their own folder."""
    for node in nodes:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
            names = [node.value]
            if node.value.isprintable() and "/" not in node.value and (folder / node.value).is_file():
                yield folder / node.value
            elif node.value == ".yaml":  # f"{name}.yaml": any definition of the folder
                yield from folder.glob("*.yaml")
        for name in names:
            if path := _module_file(name):
                yield path


def _module_file(name: str) -> Path | None:
    if not name.startswith(f"{PACKAGE}.") or "/" in name:
        return None
    path = ROOT.joinpath(*name.split(".")[1:])
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None
