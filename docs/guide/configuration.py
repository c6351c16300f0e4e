"""Write configuration.md beside this script: `python docs/guide/configuration.py`; a test compares the two."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
SCHEMA = DOCS.parents[1] / "workflow/schemas/config.schema.json"
INTRODUCTION = """# Every key of the config

`python docs/guide/configuration.py` makes this page from
[`workflow/schemas/config.schema.json`](../../workflow/schemas/config.schema.json). A key that is left out has its
default. A key that is not in this list is an error. Complete configs to start from are
[`config.yaml`](../../config.yaml) (the default run) and those in [`workflow/presets/`](../../workflow/presets).

The file is YAML 1.1 or JSON, in UTF-8. Nothing in it is evaluated. A key that is given twice is an error, and so is one
that is no text (`yes`, `1`: in quotes they are). Paths are relative to the folder that the run works in. They may have
any printable characters.
"""


def page(schema: dict[str, Any]) -> str:
    lines = [INTRODUCTION]
    blocks = {name: value for name, value in schema["properties"].items() if "properties" in _object(value)}
    single = {name: value for name, value in schema["properties"].items() if name not in blocks}
    lines += ["## At the top level", "", *_table(single, required=schema.get("required", [])), ""]
    for name, value in blocks.items():
        entry = _object(value)
        title = f"`{name}`" if entry is value else f"`{name}.<name>`"
        lines += [f"## {title}", "", value["description"], ""]
        lines += [*_table(entry["properties"], entry.get("required", [])), ""]
    return "\n".join(lines).rstrip() + "\n"


def _object(value: dict[str, Any]) -> dict[str, Any]:
    """The object whose keys are listed: of a mapping with free names (tasks), that of an entry."""
    extra = value.get("additionalProperties")
    return extra if isinstance(extra, dict) else value


def _table(properties: dict[str, Any], required: list[str]) -> Iterator[str]:
    yield "| key | what | values | default |"
    yield "|---|---|---|---|"
    for name, value in properties.items():
        default = "required" if name in required else json.dumps(value["default"]) if "default" in value else "unset"
        what = value["description"].replace("<", "&lt;")
        yield f"| `{name}` | {what} | {_values(value)} | {_code(default)} |"


def _code(default: str) -> str:
    return default if default in ("required", "unset") else f"`{default}`"


def _values(value: dict[str, Any]) -> str:
    """Type and bounds in words."""
    if "enum" in value:
        return ", ".join(f"`{json.dumps(v).strip(chr(34))}`" for v in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    if "oneOf" in value:
        return " or ".join(_values(choice) for choice in value["oneOf"])
    words = [value["type"]]
    for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤")):
        words += [f"{sign} {value[key]:,}"] if key in value else []
    if value["type"] == "array":
        words = [f"list of {_values(value['items'])}"]
    return " ".join(words)


if __name__ == "__main__":
    (DOCS / "configuration.md").write_text(page(json.loads(SCHEMA.read_text(encoding="utf-8"))), encoding="utf-8")
