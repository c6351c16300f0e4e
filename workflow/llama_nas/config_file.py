"""Reading a run's config file: YAML or JSON, nothing in it is evaluated, one line for whatever cannot be a config.

Every start of Snakemake imports this module, also for a job.
"""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from llama_nas.core.errors import UserError

MOST_VALUES = 100_000  # with every alias written out; a config has some hundred
TEXT, MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"


def config_name(path: str | Path) -> str:
    """A config file's path as a person would write it: relative, where it lies below the working directory."""
    path = Path(path)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def read_config(path: str | Path) -> dict[str, Any]:
    """The keys and values of a config file.

    Raises UserError, one line with file and line number, for what is no text, no YAML, or YAML whose meaning readers
    do not agree on: keys given twice or that are no text, values that contain themselves, Python objects.
    """
    name = config_name(path)
    text = _text(Path(path), name)
    value = _of_json(text, name)
    if value is None:
        value = _of_yaml(text, name)
    if value is None:
        raise UserError(f"{name}: is empty; complete configs are in workflow/presets/")
    if not isinstance(value, dict):
        raise UserError(f"{name}: has no keys at its top level, as `seed: 1`")
    return value


def _text(path: Path, name: str) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror})") from None
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{name}: line {line}: is not UTF-8 text (byte 0x{content[error.start]:02x})") from None


def _of_json(text: str, name: str) -> Any:
    """None for what is no JSON, but may be YAML."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for key in (keys := [key for key, _ in pairs]):
            if keys.count(key) > 1:
                raise UserError(f"{name}: key '{key}' is given twice")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError):
        return None


class _Loader(yaml.SafeLoader):
    """YAML 1.1 without objects, whose errors all know their line."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, TypeError, OverflowError) as error:  # 2024-13-45; an integer of thousands of digits
            raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from None


def _of_yaml(text: str, name: str) -> Any:
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _count(node, (), {}, name) > MOST_VALUES:
            raise UserError(f"{name}: has more than {MOST_VALUES} values, with its aliases written out")
        return loader.construct_document(node)
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise UserError(f"{name}: line {line}: is not YAML: character U+{error.character:04X}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = " ".join(filter(None, [error.context, error.problem]))
        _refuse(name, mark, f"is not YAML: {' '.join(said.split())[:200]}")
    except RecursionError:
        raise UserError(f"{name}: is nested too deeply") from None
    finally:
        if loader is not None:
            loader.dispose()


def _count(node: yaml.Node, around: tuple[int, ...], counted: dict[int, int], name: str) -> int:
    """How many values a node stands for, 1 or more; raises UserError for keys that a config cannot have.

    around: the nodes that contain it. counted: what is known already, by node.
    """
    if id(node) in around:
        _refuse(name, node.start_mark, "a value contains itself, by an alias")
    if id(node) in counted:
        return counted[id(node)]
    inside = (*around, id(node))
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if key.tag != MERGE:
                _check_key(key, keys, name)
                keys.add(key.value)
            parts.append(value)
    elif isinstance(node, yaml.SequenceNode):
        parts = node.value
    counted[id(node)] = 1 + sum(_count(part, inside, counted, name) for part in parts)
    return counted[id(node)]


def _check_key(key: yaml.Node, known: set[str], name: str) -> None:
    if not isinstance(key, yaml.ScalarNode):
        _refuse(name, key.start_mark, "a key must be text, not a list or a mapping")
    if key.tag != TEXT:
        kind = key.tag.rpartition(":")[2]
        _refuse(
            name, key.start_mark, f"key {key.value} is no text but '{kind}' in YAML; a key '{key.value}' has quotes"
        )
    if key.value in known:
        _refuse(name, key.start_mark, f"key '{key.value}' is given twice")


def _refuse(name: str, mark: yaml.Mark | None, problem: str) -> NoReturn:
    raise UserError(f"{name}: line {mark.line + 1}: {problem}" if mark else f"{name}: {problem}")


def take_over(arguments: Sequence[str]) -> None:
    """Let Snakemake read its config files by `read_config`, if it runs this workflow.

    It reads those of --configfile before it looks at a Snakefile, evaluates Python in them (yte's `__use_yte__`), and
    says of a file that is none neither which nor where. arguments: of Snakemake's command line.
    """
    settings, reading = (sys.modules.get(f"snakemake.{part}") for part in ("settings.types", "common.configfile"))
    words = [part for word in arguments for part in (word, word.partition("=")[2])]
    folders = [Path(word).resolve().parent for word in ("Snakefile", *words) if word.endswith("Snakefile")]
    if settings is None or reading is None or not any((folder / "workflow/llama_nas").is_dir() for folder in folders):
        return

    def load(path: str | Path) -> dict[str, Any]:
        try:
            return read_config(path)
        except UserError as error:
            sys.exit(str(error))

    for module in (settings, reading):
        vars(module)["load_configfile"] = load
