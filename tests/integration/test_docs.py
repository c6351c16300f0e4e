"""The docs as a new user tries them: every block is tagged; `run` blocks run, `dry-run` blocks are checked.

Tags stand after the language: `sh run`, `sh dry-run`, `sh needs: gpu` (or hub, cluster), and `text` for what is no
command. `run=PATH` and `dry-run=PATH` write a block to a file first.
"""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from llama_nas.base.pretrain import train_tokenizer
from llama_nas.cli import build_parser
from llama_nas.config import check_config

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TAG = re.compile(r"(?:(?P<language>\w+) )?(?P<tag>text|run|dry-run|needs: (?:gpu|hub|cluster))(?:=(?P<file>\S+))?")


def blocks(page: Path, tag: str) -> list[tuple[str, str | None, str]]:
    """(language, file, text) of a page's blocks with this tag."""
    found = [(TAG.fullmatch(info), text) for info, text in BLOCK.findall(page.read_text(encoding="utf-8"))]
    return [(m["language"], m["file"], text) for m, text in found if m and m["tag"] == tag]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    """A copy of the repository by links, with what a small finished run leaves: base and super-network."""
    folder = tmp_path_factory.mktemp("docs")
    for name in (
        "Snakefile",
        "Makefile",
        "config.yaml",
        "workflow",
        "profiles",
        "benchmarks",
        "envs",
        "pyproject.toml",
    ):
        (folder / name).symlink_to(REPOSITORY / name)
    tokenizer = train_tokenizer(["Once upon a time there was a blue sky, and grass was green."] * 9, 320)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=320, hidden_size=64, intermediate_size=128, num_hidden_layers=12)
    config.num_attention_heads = config.num_key_value_heads = 4
    model = LlamaForCausalLM(LlamaConfig(**config.to_diff_dict() | {"max_position_embeddings": 128, "head_dim": 16}))
    for name in ("results/base", "results/supernet", "models/my-llama"):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    (folder / "data").mkdir()
    rows = [{"q": "The sky is", "c": ["blue", "green"], "y": 0}, {"q": "Grass is", "c": ["blue", "green"], "y": 1}]
    (folder / "data/mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "data/instructions.json").write_text('[{"instruction": "Say hi", "input": "", "output": "hi"}]')
    return folder


def execute(command: list, folder: Path, text: str | None = None) -> str:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, cwd=folder, env=environment, input=text, text=True, capture_output=True)
    assert result.returncode == 0, f"{command} {text or ''}\n{result.stdout}{result.stderr}"
    return result.stdout


def write(folder: Path, file: str | None, text: str) -> None:
    if file:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_tagged(page):
    text = page.read_text(encoding="utf-8")
    assert text.count("\n```") == 2 * len(BLOCK.findall(text)), "a fence is not closed"
    untagged = [info for info, _ in BLOCK.findall(text) if not TAG.fullmatch(info)]
    assert not untagged, f"{page.name}: tag these blocks as run, dry-run, needs: gpu|hub|cluster or text: {untagged}"


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "run")], ids=lambda page: page.name)
def test_blocks_run(scratch, page):
    """In the page's order, in one folder."""
    for language, file, text in blocks(page, "run"):
        write(scratch, file, text)
        if language == "sh":
            execute(["bash", "-euo", "pipefail", "-c", text], scratch)
        elif language == "python":
            execute([sys.executable, "-"], scratch, text)
        else:
            assert file, f"{page.name}: a block of {language} cannot be run"


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "dry-run")], ids=lambda page: page.name)
def test_blocks_dry_run(scratch, page, monkeypatch):
    monkeypatch.chdir(scratch)
    for language, file, text in blocks(page, "dry-run"):
        write(scratch, file, text)
        if language == "yaml":
            check_config(yaml.safe_load(text), file or page.name)
            continue
        for line in text.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                dry_run(words, scratch)


def dry_run(words: list[str], folder: Path) -> None:
    """As much of a command as costs no work."""
    if words[0] == "snakemake":
        report = "--report" in words  # would need results
        execute([*words, "--dry-run"] if not report else ["snakemake", "--help"], folder)
    elif words[0] == "make":
        execute(["make", "--dry-run", *words[1:]], folder)
    elif words[0] == "llama-nas":
        build_parser().parse_args(words[1:])
    elif words[0] == "python":
        options = execute([sys.executable, words[1], "--help"], folder)
        assert all(word in options for word in words[2:] if word.startswith("--"))
    else:
        pytest.fail(f"no dry-run of '{' '.join(words)}' is known")


def test_the_page_of_config_keys_is_the_schemas():
    script = runpy.run_path(str(REPOSITORY / "docs/configuration.py"))
    schema = json.loads(script["SCHEMA"].read_text())
    text = (REPOSITORY / "docs/configuration.md").read_text(encoding="utf-8")
    assert text == script["page"](schema), "run: python docs/configuration.py"


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"
