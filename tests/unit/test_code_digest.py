"""Code digests: they follow imports, and see meaning rather than text."""

import ast
import shutil
from pathlib import Path

import pytest

from llama_nas import code_digest as module
from llama_nas.cli import STAGES


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A copy of the package that a test may edit."""
    copy = tmp_path / "llama_nas"
    shutil.copytree(module.ROOT, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module, "ROOT", copy)
    module._tree.cache_clear()
    yield copy
    module._tree.cache_clear()


def changed(edit) -> set[str]:
    """Stages whose digest the edit changes."""
    before = {stage: module.code_digest(stage) for stage in STAGES}
    edit()
    module._tree.cache_clear()
    return {stage for stage in STAGES if module.code_digest(stage) != before[stage]}


def append(path: Path, text: str):
    return lambda: path.write_text(path.read_text() + text)


def test_comments_docstrings_and_formatting_change_nothing(package):
    assert changed(append(package / "space.py", "\n\n# a comment\n")) == set()
    text = (package / "space.py").read_text()
    docstring = ast.get_docstring(ast.parse(text), clean=False)
    assert changed(lambda: (package / "space.py").write_text(text.replace(docstring, "Other words."))) == set()


def test_an_edit_reaches_the_stages_that_import_the_module(package):
    assert changed(append(package / "elastic.py", "\nADDED = 1\n")) == {
        "finetune",
        "evaluate",
        "score",
        "verify",
        "export",
    }
    assert changed(append(package / "analysis/summary.py", "\nADDED = 1\n")) <= {"summarize", "cards", "report"}
    assert changed(append(package / "search/nsga.py", "\nADDED = 1\n")) == {"propose"}
    assert changed(append(package / "world/facts.py", "\nADDED = 1\n")) == {"world", "pretrain"}


def test_templates_and_started_modules_count(package):
    assert changed(append(package / "analysis/report.html", "<p>new</p>")) == {"report"}
    assert "finetune" in changed(append(package / "training/worker.py", "\nADDED = 1\n"))
    assert "export" in changed(append(package / "modeling_subnet.py", "\nADDED = 1\n"))


def test_a_stage_sees_its_own_part_of_the_command_line_only(package):
    path = package / "cli.py"
    edited = path.read_text().replace('"--repeats", type=int', '"--repeats", type=float')
    assert changed(lambda: path.write_text(edited)) == {"throughput"}
