"""The docs as a new user tries them: every block is tagged; `run` blocks run, `dry-run` blocks are checked.

Tags stand after the language: `sh run`, `sh dry-run`, `sh needs: gpu` (or hub, cluster), and `text` for what is no
command. `run=PATH` and `dry-run=PATH` write a block to a file first. `diff run=PATH` edits a file: the lines that begin
with a space or a minus must stand there once, as a whole, and become those that begin with a space or a plus.
"""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llama_nas.base.pretrain import train_tokenizer
from llama_nas.core.shape import ModelShape
from llama_nas.core.space import SearchSpace

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
STUDIES = sorted((REPOSITORY / "studies").rglob("*.md"))
RECIPES = REPOSITORY / "docs/extending.md"
FENCE = re.compile(r"^```(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TAG = re.compile(r"(?:(?P<language>\w+) )?(?P<tag>text|run|dry-run|needs: (?:gpu|hub|cluster))(?:=(?P<file>\S+))?")
# What a check in a process of its own runs, so that it meets the code and the schema of the folder it runs in.
CHECK_CONFIG = "import sys, yaml; from llama_nas.config import check_config; check_config(yaml.safe_load(sys.stdin))"
PARSE = "import sys; from llama_nas.cli import parse; parse(sys.argv[1:])"


class Block(NamedTuple):
    """A fenced block; file: the PATH of its tag."""

    language: str
    tag: str
    file: str | None
    text: str


def blocks(text: str, *tags: str) -> list[Block]:
    """The tagged blocks of a text, in order; of all tags if none is given."""
    found = [(TAG.fullmatch(info), body) for info, body in FENCE.findall(text)]
    return [
        Block(match["language"], match["tag"], match["file"], body)
        for match, body in found
        if match and (not tags or match["tag"] in tags)
    ]


def recipes() -> dict[str, str]:
    """The sections of docs/extending.md by their headings."""
    headings = re.split(r"^## (.*)$", RECIPES.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(headings[1::2], headings[2::2], strict=True))


def pages_with(tag: str) -> list[Path]:
    return [page for page in PAGES if page != RECIPES and blocks(page.read_text(encoding="utf-8"), tag)]


def name(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def tiny_llama(folder: Path, **changes: int) -> None:
    """A random Llama of twelve layers with a tokenizer of its own."""
    torch.manual_seed(0)
    config = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 12}
    config |= {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16, "max_position_embeddings": 128}
    LlamaForCausalLM(LlamaConfig(**config | changes)).save_pretrained(folder)
    sentences = ["Once upon a time there was a blue sky, and grass was green."] * 9
    train_tokenizer(sentences, 320).save_pretrained(folder)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    """The repository by links, with what a small finished run leaves: base, super-network and space."""
    folder = tmp_path_factory.mktemp("docs")
    linked = (
        "Snakefile",
        "Makefile",
        "config.yaml",
        "workflow",
        "profiles",
        "studies",
        "docs",
        "envs",
        "pyproject.toml",
    )
    for entry in linked:
        (folder / entry).symlink_to(REPOSITORY / entry)
    for model in ("results/base", "results/supernet", "models/my-llama"):
        tiny_llama(folder / model)
    tiny_llama(folder / "models/sliced", hidden_size=48, head_dim=12)
    shape = ModelShape.from_folder(folder / "results/supernet")
    SearchSpace.declare(shape, [9, 10, 12], [128, 64]).write(folder / "results/space.json")
    (folder / "data").mkdir()
    rows = [{"q": "The sky is", "c": ["blue", "green"], "y": 0}, {"q": "Grass is", "c": ["blue", "green"], "y": 1}]
    (folder / "data/mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "data/instructions.json").write_text('[{"instruction": "Say hi", "input": "", "output": "hi"}]')
    return folder


@pytest.fixture
def own_code(scratch, tmp_path) -> Path:
    """The scratch folder with code that a recipe may change."""
    folder = tmp_path / "own"
    shutil.copytree(scratch, folder, symlinks=True)
    for entry in ("Snakefile", "workflow"):
        (folder / entry).unlink()
    shutil.copy(REPOSITORY / "Snakefile", folder)
    shutil.copytree(REPOSITORY / "workflow", folder / "workflow", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def execute(command: list, folder: Path, text: str | None = None) -> str:
    """Run a command on the folder's own code; its output."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(folder / "workflow"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, cwd=folder, env=environment, input=text, text=True, capture_output=True)
    assert result.returncode == 0, f"{command} {text or ''}\n{result.stdout}{result.stderr}"
    return result.stdout


def try_block(block: Block, folder: Path) -> None:
    if block.language == "diff":
        edit(folder / str(block.file), block.text)
        return
    if block.file:
        (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
        (folder / block.file).write_text(block.text)
    if block.tag == "dry-run":
        dry_run(block, folder)
    elif block.language == "sh":
        execute(["bash", "-euo", "pipefail", "-c", block.text], folder)
    elif block.language == "python" and not block.file:
        execute([sys.executable, "-"], folder, block.text)
    else:
        assert block.file, f"a block of {block.language} cannot be run"


def edit(path: Path, difference: str) -> None:
    """Apply a `diff run` block."""
    lines = difference.splitlines()
    before, after = ("\n".join(line[1:] for line in lines if line[0] in marks) for marks in (" -", " +"))
    assert path.read_text().count(before) == 1, f"{path}: this must stand there once:\n{before}"
    path.write_text(path.read_text().replace(before, after))


def dry_run(block: Block, folder: Path) -> None:
    """As much of a block as costs no work."""
    if block.language == "yaml":
        execute([sys.executable, "-c", CHECK_CONFIG], folder, block.text)
        return
    for line in block.text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            dry_run_command(words, folder)


def dry_run_command(words: list[str], folder: Path) -> None:
    if words[0] == "snakemake":
        execute([*words, "--dry-run"], folder)
    elif words[0] == "make":
        execute(["make", "--dry-run", *words[1:]], folder)
    elif words[0] == "llama-nas":
        execute([sys.executable, "-c", PARSE, *words[1:]], folder)
    elif words[0] == "python":
        options = execute([sys.executable, words[1], "--help"], folder)
        assert all(word in options for word in words[2:] if word.startswith("--"))
    else:
        pytest.fail(f"no dry-run of '{' '.join(words)}' is known")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_is_tagged(page):
    text = page.read_text(encoding="utf-8")
    assert text.count("\n```") == 2 * len(FENCE.findall(text)), "a fence is not closed"
    untagged = [info for info, _ in FENCE.findall(text) if not TAG.fullmatch(info)]
    assert not untagged, f"{name(page)}: tag these as run, dry-run, needs: gpu|hub|cluster or text: {untagged}"


@pytest.mark.parametrize("page", pages_with("run"), ids=name)
def test_blocks_run_in_the_order_of_the_page(scratch, page):
    for block in blocks(page.read_text(encoding="utf-8"), "run"):
        try_block(block, scratch)


@pytest.mark.parametrize("page", pages_with("dry-run"), ids=name)
def test_blocks_dry_run(scratch, page):
    for block in blocks(page.read_text(encoding="utf-8"), "dry-run"):
        try_block(block, scratch)


@pytest.mark.parametrize("recipe", recipes())
def test_recipes_run(own_code, recipe):
    found = blocks(recipes()[recipe], "run", "dry-run")
    assert found, "a recipe without code"
    for block in found:
        try_block(block, own_code)


def test_there_is_a_recipe_for_each_kind_of_extension():
    kinds = ("search algorithm", "export form", "elastic axis", "contender", "cost objective", "model family")
    assert [kind for kind in kinds if not any(kind in heading for heading in recipes())] == []


def test_the_page_of_config_keys_is_the_schemas():
    script = runpy.run_path(str(REPOSITORY / "docs/guide/configuration.py"))
    schema = json.loads(script["SCHEMA"].read_text())
    text = (REPOSITORY / "docs/guide/configuration.md").read_text(encoding="utf-8")
    assert text == script["page"](schema), "run: python docs/guide/configuration.py"


def test_the_readmes_table_is_that_of_the_kept_run():
    """And its networks are those of the kept page; no path of the machine that made it is left in it."""
    folder = REPOSITORY / "docs/example"
    script = runpy.run_path(str(folder / "make.py"))
    table = script["table"](folder)
    assert table in (REPOSITORY / "README.md").read_text(encoding="utf-8")
    page = (folder / "summary.html").read_text(encoding="utf-8")
    networks = re.findall(r"`([0-9x-]+)` \(", table)
    assert len(networks) == 3 and all(f"results/networks/{network}/int8" in page for network in networks)
    assert "/tmp/" not in page and "--snakefile" not in page


@pytest.mark.parametrize("page", [*PAGES, *STUDIES], ids=name)
def test_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", text):
        if "://" not in target:
            linked = page.parent / target if target else page
            assert linked.exists(), f"{name(page)}: {target}"
            assert not anchor or anchor in anchors(linked), f"{name(page)}: {target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_explains_every_file_and_folder_at_the_top_and_every_room_of_the_package():
    tracked = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, text=True, capture_output=True)
    if tracked.returncode:
        pytest.skip("no git checkout, which would say what belongs to the repository")
    at_the_top = {path.partition("/")[0] for path in tracked.stdout.splitlines()}
    rooms = {path.parent.name for path in (REPOSITORY / "workflow/llama_nas").glob("*/__init__.py")}
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (tree,) = (body for _, body in FENCE.findall(readme) if "llama_nas/" in body)
    entries = [re.split(r"  +", line.strip())[0] for line in tree.splitlines()]
    explained = {entry.strip("/ ") for line in entries for entry in line.split(",")}
    assert (at_the_top | rooms) - explained == set()


def test_the_cluster_page_names_every_local_rule():
    """Targets without commands apart."""
    rules = "".join(path.read_text() for path in sorted((REPOSITORY / "workflow/rules").glob("*.smk")))
    found = re.split(r"^ *(?:rule|checkpoint) (\w+):$", rules, flags=re.MULTILINE)
    local = {
        rule for rule, body in zip(found[1::2], found[2::2], strict=True) if "localrule" in body and "shell:" in body
    }
    page = (REPOSITORY / "docs/guide/cluster.md").read_text(encoding="utf-8")
    assert {rule for rule in local if f"`{rule}`" not in page} == set()
