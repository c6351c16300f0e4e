"""Code digests: they follow imports, and see meaning rather than text."""

import ast
import shutil
from pathlib import Path

import pytest

from llama_nas import code_digest as module
from llama_nas.cli import STAGES, main


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A copy of the package that a test may edit."""
    copy = tmp_path / "llama_nas"
    shutil.copytree(module.ROOT, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module, "ROOT", copy)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    forget()
    yield copy
    forget()


def forget() -> None:
    """As a new process would find the package."""
    module._source.cache_clear()
    module._package_hash.cache_clear()


def changed(edit) -> set[str]:
    """Stages whose digest the edit changes."""
    before = {stage: module.code_digest(stage) for stage in STAGES}
    edit()
    forget()
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
        "order-channels",
        "order-layers",
        "finetune",
        "evaluate",
        "score",
        "verify",
        "export",
    }
    later = {"summarize", "cards", "patterns", "judge-heuristics", "report"}
    assert changed(append(package / "analysis/summary.py", "\nADDED = 1\n")) <= later
    assert changed(append(package / "search/nsga.py", "\nADDED = 1\n")) == {"sample", "propose"}
    assert changed(append(package / "world/facts.py", "\nADDED = 1\n")) == {"world", "pretrain"}


def test_the_code_is_read_once_until_a_file_changes(package, monkeypatch):
    digest = module.code_digest("evaluate")
    with monkeypatch.context() as patched:
        patched.setattr(module, "_digest", lambda stage: pytest.fail("read again"))
        forget()
        assert module.code_digest("evaluate") == digest
    (package / "elastic.py").write_text((package / "elastic.py").read_text() + "\nADDED = 1\n")
    forget()
    assert module.code_digest("evaluate") != digest


def test_a_cache_without_use_is_done_without(package, monkeypatch):
    """One that holds something else, one that cannot be written, one that is nowhere."""
    digest = module.code_digest("evaluate")
    (kept,) = (package.parent / "cache").rglob("evaluate")
    for content in (b"", b"x" * 16, b"\xff" * 16):
        kept.write_bytes(content)
        assert module.code_digest("evaluate") == digest == kept.read_text()
    assert list(kept.parent.iterdir()) == [kept]
    monkeypatch.chdir(package)
    for folder in (str(kept), "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", folder)
        assert module.code_digest("evaluate") == digest
    assert not (package / "relative").exists()


def test_code_that_is_edited_while_it_is_read_is_not_kept(package, monkeypatch):
    digest, read = module.code_digest("evaluate"), module._digest
    shutil.rmtree(package.parent / "cache")

    def edited(stage: str) -> str:
        append(package / "elastic.py", "\nADDED = 1\n")()
        return read(stage)

    monkeypatch.setattr(module, "_digest", edited)
    forget()
    assert module.code_digest("evaluate") != digest
    assert not (package.parent / "cache").exists()


def test_templates_and_started_modules_count(package):
    assert changed(append(package / "analysis/report.html", "<p>new</p>")) == {"report"}
    assert "finetune" in changed(append(package / "training/worker.py", "\nADDED = 1\n"))
    assert "export" in changed(append(package / "modeling_subnet.py", "\nADDED = 1\n"))


def test_a_stage_sees_its_own_part_of_the_command_line_only(package):
    path = package / "commands/measuring.py"
    edited = path.read_text().replace('"--max-batch", type=int', '"--max-batch", type=float')
    assert changed(lambda: path.write_text(edited)) == {"throughput"}
    assert changed(append(package / "cli.py", "\nADDED = 1\n")) == set()


def test_an_option_of_several_stages_counts_for_those_that_use_it(package):
    path = package / "commands/options.py"
    edited = path.read_text().replace('"--population", type=int', '"--population", type=float')
    assert changed(lambda: path.write_text(edited)) == {"sample", "propose"}
    edited = edited.replace("return Declared(args.objectives", "return Declared(list(args.objectives)")
    assert changed(lambda: path.write_text(edited)) == {"sample", "propose", "finalists", "front"}


def test_modules_of_stages_hold_functions_only():
    """A constant or an import beside them would be in no stage's digest."""
    for path in (module.ROOT / "commands").glob("*.py"):
        for node in ast.parse(path.read_text()).body[1:]:
            shared = isinstance(node, ast.ImportFrom) and node.module in ("pathlib", "llama_nas.commands.options")
            assert isinstance(node, ast.FunctionDef) or shared or path.name == "options.py", path.name


def test_other_code_than_the_workflow_declares_is_refused(tmp_path, capsys):
    """What a stage in an image says whose package was left behind; the code it was built from runs."""
    space = f"--depths 1 --widths 8 --model {tmp_path}"
    arguments = f"finalists {space} --task {tmp_path} --evaluations {tmp_path} --output {tmp_path}/c.csv".split()
    assert main([*arguments, "--code", "0123456789abcdef"]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"llama-nas finalists: error: the code in {module.ROOT} is not the workflow's")
    assert line.count("\n") == 1
    assert main([*arguments, "--code", module.code_digest("finalists")]) == 2
    assert "is not the workflow's" not in capsys.readouterr().err


EVERYWHERE = {"artifacts.py", "errors.py", "space.py", "progress.py"}
LOADS = "fetch base order-channels order-layers finetune export gguf quantize benchmark score throughput measure-costs"
REACHES = {
    "analysis": "summarize cards patterns judge-heuristics report",
    "benchmark.py": "benchmark",
    "configuration_decilm.py": LOADS,
    "costs.py": "measure-costs",
    "elastic.py": "order-channels order-layers finetune evaluate score verify export",
    "export.py": "export",
    "fetch.py": "fetch base",
    "gguf_file.py": "gguf",
    "harness.py": "score",
    "hf_folder.py": LOADS,
    "machine.py": "evaluate measure-costs",
    "model_card.py": "export quantize",
    "modeling_subnet.py": LOADS,
    "pareto.py": "sample propose finalists front enumerate-space tabulate "
    "summarize cards patterns judge-heuristics report",
    "pretrain.py": "pretrain",
    "quantize.py": "quantize",
    "scoring": "evaluate score verify",
    "search": "sample fit propose finalists front heuristics enumerate-space tabulate pick",
    "tasks": "compile-task evaluate score verify benchmark",
    "throughput.py": "throughput measure-costs",
    "training": "tokenize order-channels order-layers finetune",
    "units.py": "sample propose finalists front enumerate-space tabulate pick",
    "world": "world pretrain",
}


def test_every_module_reruns_the_stages_of_its_room():
    """An edit in analysis/ trains, scores and searches nothing again."""
    reached: dict[str, set[str]] = {}
    for stage in STAGES:
        for path in module._closure(module._stage_functions(stage)):
            reached.setdefault(path.relative_to(module.ROOT).parts[0], set()).add(stage)
    assert {room: stages for room, stages in reached.items() if room not in EVERYWHERE} == {
        room: set(stages.split()) for room, stages in REACHES.items()
    }
