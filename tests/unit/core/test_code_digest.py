"""Code digests: they follow imports, and see meaning rather than text."""

import ast
import shutil
from pathlib import Path

import pytest

from llama_nas.cli import main
from llama_nas.core import code_digest as module
from llama_nas.stages import STAGES


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
    assert changed(append(package / "core/space.py", "\n\n# a comment\n")) == set()
    text = (package / "core/space.py").read_text()
    docstring = ast.get_docstring(ast.parse(text), clean=False)
    assert changed(lambda: (package / "core/space.py").write_text(text.replace(docstring, "Other words."))) == set()


def test_an_edit_reaches_the_stages_that_import_the_module(package):
    assert changed(append(package / "models/elastic.py", "\nADDED = 1\n")) == {
        "order-channels",
        "order-layers",
        "finetune",
        "evaluate",
        "score",
        "verify",
        "export",
    }
    later = {"summarize", "write-cards", "find-patterns", "judge-heuristics", "write-report"}
    assert changed(append(package / "analysis/summary.py", "\nADDED = 1\n")) == later
    assert changed(append(package / "search/algorithms/nsga2.py", "\nADDED = 1\n")) == {"sample", "propose"}
    assert changed(append(package / "base/world/facts.py", "\nADDED = 1\n")) == {"make-world", "pretrain"}
    assert changed(append(package / "core/errors.py", "\nADDED = 1\n")) == set(STAGES)


def test_the_code_is_read_once_until_a_file_changes(package, monkeypatch):
    digest = module.code_digest("evaluate")
    with monkeypatch.context() as patched:
        patched.setattr(module, "_digest", lambda stage: pytest.fail("read again"))
        forget()
        assert module.code_digest("evaluate") == digest
    (package / "models/elastic.py").write_text((package / "models/elastic.py").read_text() + "\nADDED = 1\n")
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
        append(package / "models/elastic.py", "\nADDED = 1\n")()
        return read(stage)

    monkeypatch.setattr(module, "_digest", edited)
    forget()
    assert module.code_digest("evaluate") != digest
    assert not (package.parent / "cache").exists()


def test_templates_and_started_modules_count(package):
    assert changed(append(package / "analysis/report.html", "<p>new</p>")) == {"write-report"}
    assert "finetune" in changed(append(package / "training/worker.py", "\nADDED = 1\n"))
    assert "export" in changed(append(package / "models/modeling_subnet.py", "\nADDED = 1\n"))


def replaced(path: Path, old: str, new: str):
    text = path.read_text()
    assert old in text, f"{path.name} is written otherwise now"
    return lambda: path.write_text(text.replace(old, new, 1))


def test_an_option_counts_for_the_stages_that_take_it(package):
    edit = replaced(package / "search/pick.py", "max_size: str | None = None", 'max_size: str | None = "9GB"')
    assert changed(edit) == {"pick"}
    edit = replaced(package / "search/settings.py", "population: int", "population: float")
    assert changed(edit) == set(REACHES["search/settings.py"].split())


def test_an_options_help_and_the_command_line_itself_count_for_no_stage(package):
    edits = [replaced(package / "search/pick.py", "Args:\n", "Args:\n        other: words\n")]
    for file in ("cli.py", "stages.py", "core/code_digest.py", "core/devices.py", "config.py"):
        edits.append(append(package / file, "\nADDED = 1\n"))
    assert changed(lambda: [edit() for edit in edits]) == set()


def test_other_code_than_the_workflow_declares_is_refused(tmp_path, capsys):
    """What a stage in an image says whose package was left behind; the code it was built from runs."""
    arguments = f"declare-space --model {tmp_path} --depths 1 --widths 8 --output {tmp_path}/space.json".split()
    assert main([*arguments, "--code", "0123456789abcdef"]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"llama-nas declare-space: error: the code in {module.ROOT} is not the workflow's")
    assert line.count("\n") == 1
    assert main([*arguments, "--code", module.code_digest("declare-space")]) == 2
    assert "config.json: not found" in capsys.readouterr().err


JUDGES = "summarize write-cards find-patterns judge-heuristics compare-tasks write-report"
LOADS = "order-channels finetune export write-gguf quantize run-lm-eval score measure-throughput measure-costs"
SEARCHES = "sample gather propose choose-finalists find-front choose-transfer enumerate-space tabulate "
SEARCHES += "find-heuristics pick"
PROPOSES = "sample propose choose-finalists find-front enumerate-space tabulate"
REACHES = {  # a room, or a file of one
    "analysis": f"{JUDGES} status",
    "analysis/cards.py": "write-cards",
    "analysis/patterns.py": "find-patterns judge-heuristics",
    "analysis/report.html": "write-report",
    "base": "make-world pretrain fetch-model fetch-dataset take-base",
    "base/fetch.py": "fetch-model fetch-dataset",
    "base/pretrain.py": "pretrain",
    "base/take.py": "take-base",
    "base/world": "make-world pretrain",
    "core/costs.py": f"measure-costs {SEARCHES} {JUDGES}",
    "core/machine.py": "evaluate measure-costs",
    "core/pareto.py": f"{PROPOSES} {JUDGES} status",
    "core/process.py": "finetune",
    "core/space.py": "fetch-model fetch-dataset declare-space finetune measure-costs evaluate export verify "
    f"{SEARCHES} {JUDGES}",
    "exports": "export write-gguf quantize",
    "exports/card.py": "export quantize",
    "exports/export.py": "export",
    "exports/forms/gguf.py": "write-gguf",
    "exports/forms/configuration_decilm.py": "export",
    "exports/quantize.py": "quantize",
    "measuring": "measure-costs measure-throughput run-lm-eval",
    "measuring/costs.py": "measure-costs",
    "measuring/lm_eval.py": "run-lm-eval",
    "measuring/throughput.py": "measure-costs measure-throughput",
    "models": f"fetch-model fetch-dataset take-base order-layers evaluate verify {LOADS}",
    "models/elastic.py": "order-layers order-channels finetune evaluate export score verify",
    "models/modeling_subnet.py": f"fetch-model fetch-dataset take-base {LOADS}",
    "scoring": "evaluate score verify",
    "scoring/harness.py": "score",
    "search": SEARCHES,
    "search/algorithms/predictors.py": "sample propose",
    "search/algorithms/sampling.py": "sample propose enumerate-space tabulate",
    "search/front.py": "choose-finalists find-front",
    "search/pick.py": "pick",
    "search/settings.py": PROPOSES,
    "tasks": "compile-task evaluate score verify run-lm-eval",
    "tasks/tinystories.yaml": "compile-task score run-lm-eval",
    "training": "tokenize order-channels order-layers finetune",
    "training/worker.py": "finetune",
}


def test_every_module_reruns_the_stages_of_its_room():
    """An edit in analysis/ trains, scores and searches nothing again."""
    files = {stage: {path.relative_to(module.ROOT).as_posix() for path in module._closure(stage)} for stage in STAGES}
    rooms = {file.partition("/")[0] for reached in files.values() for file in reached}
    assert rooms - {"core"} == {part for part in REACHES if "/" not in part}
    for part, stages in REACHES.items():
        reaching = {stage for stage in STAGES if any(f"{file}/".startswith(f"{part}/") for file in files[stage])}
        assert reaching == set(stages.split()), part
