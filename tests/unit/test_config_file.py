"""Reading of a config file: what is taken, and one line with file and line number for everything else."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from llama_nas.config_file import read_config
from llama_nas.core.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
REDUCED = REPOSITORY / "workflow/presets/reduced.yaml"
GOOD = REDUCED.read_text()


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Read a file of this content."""
    monkeypatch.chdir(tmp_path)

    def of(content: str | bytes):
        Path("my.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
        return read_config(tmp_path / "my.yaml")

    return of


@pytest.mark.parametrize("path", [REPOSITORY / "config.yaml", *REPOSITORY.glob("workflow/presets/*.yaml")])
def test_shipped_configs_are_read_as_yaml_says(path):
    assert read_config(path) == yaml.safe_load(path.read_text())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xef\xbb\xbfseed: 1\n", {"seed": 1}),
        ("seed: 1\r\nspace: {depths: [1]}\r\n", {"seed": 1, "space": {"depths": [1]}}),
        ('{"seed": 1,\n\t"training": {"learning_rate": 1e-3}}', {"seed": 1, "training": {"learning_rate": 0.001}}),
        ("{}", {}),
        ("a: &t {metric: acc}\nb: {<<: *t, limit: 2}\n", {"a": {"metric": "acc"}, "b": {"metric": "acc", "limit": 2}}),
        ("a: &w [1, 2]\nb: *w\n", {"a": [1, 2], "b": [1, 2]}),
        ("path: módèl-模型\n", {"path": "módèl-模型"}),
    ],
)
def test_yaml_and_json_are_read(read, content, expected):
    assert read(content) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; complete configs are in workflow/presets/"),
        ("# nothing\n", "is empty"),
        ("null\n", "is empty"),
        ("42\n", "has no keys at its top level"),
        ("- a\n- b\n", "has no keys at its top level"),
        ("seed: 1\nbase: {source: embedded # Größe\n".encode("latin-1"), r"line 2: is not UTF-8 text \(byte 0xf6\)"),
        ("seed: 1\n".encode("utf-16"), r"line 1: is not UTF-8 text \(byte 0xff\)"),
        ("seed: 1\n\0\n", r"line 2: is not YAML: character U\+0000"),
        ("base:\n\tsource: embedded\n", "line 2: is not YAML: .*character '\\\\t'"),
        ("seed: 1\nbase: {source: embedded\n", "line 3: is not YAML: while parsing a flow mapping"),
        ("seed: 1\n---\nseed: 2\n", "line 2: is not YAML: expected a single document"),
        ("seed: *nothing\n", "line 1: is not YAML: found undefined alias"),
        ("seed: 1\nspace: {}\nseed: 2\n", "line 3: key 'seed' is given twice"),
        ("tasks:\n  a: {metric: acc,\n    metric: f1}\n", "line 3: key 'metric' is given twice"),
        ('{"seed": 1, "seed": 2}', "key 'seed' is given twice"),
        ("tasks:\n  1: {metric: acc}\n", "line 2: key 1 is no text but 'int' in YAML; a key '1' has quotes"),
        ("tasks:\n  yes: {metric: acc}\n", "line 2: key yes is no text but 'bool' in YAML"),
        ("tasks:\n  ~: {metric: acc}\n", "line 2: key ~ is no text but 'null' in YAML"),
        ("tasks:\n  2024-01-01: {}\n", "line 2: key 2024-01-01 is no text but 'timestamp' in YAML"),
        ("? [a, b]\n: 2\n", "line 1: a key must be text, not a list or a mapping"),
        ("widths: &w [96, *w]\n", "line 1: a value contains itself"),
        ("seed: 1\ncompute: &c {device: *c}\n", "line 2: a value contains itself"),
        ("a: " + "[" * 3000 + "]" * 3000, "is nested too deeply"),
        ("seed: 2024-13-45\n", "line 1: is not YAML: month must be in 1..12"),
        ("seed: " + "9" * 5000, "line 1: is not YAML: Exceeds the limit"),
        ("a: !thing x\n", "line 1: is not YAML: could not determine a constructor for the tag '!thing'"),
        ("a: !!python/name:os.system\n", "line 1: is not YAML: could not determine a constructor"),
        ("a: !!python/object/apply:os.system ['touch PWNED']\n", "line 1: is not YAML: could not determine"),
    ],
)
def test_what_is_no_config_is_one_line_with_file_and_line(read, content, message):
    with pytest.raises(UserError, match=rf"^my\.yaml: {message}") as raised:
        read(content)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400
    assert not Path("PWNED").exists()


def test_aliases_of_aliases_are_no_bomb(read):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(UserError, match=r"^my\.yaml: has more than 100000 values"):
        read("\n".join(lines))


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml: cannot be read \(No such file or directory\)$"):
        read_config(tmp_path / "none.yaml")
    with pytest.raises(UserError, match=r": cannot be read \(Is a directory\)$"):
        read_config(tmp_path)


# ------------------------------------------------------------------ in place of Snakemake's own reading

EVALUATED = '__use_yte__: true\ndata_root: ?str(__import__("os").system("touch PWNED"))\n'


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (EVALUATED + GOOD, "my.yaml: the config: unknown key '__use_yte__'; "),
        ("seed: 1\nbase:\n\tsource: embedded\n", "my.yaml: line 3: is not YAML: "),
        (GOOD + "\nseed: 2\n", f"my.yaml: line {GOOD.count(chr(10)) + 2}: key 'seed' is given twice"),
        ("seed: 1 # Größe\n".encode("latin-1"), "my.yaml: line 1: is not UTF-8 text"),
        ("compute: &c {device: *c}\n", "my.yaml: line 1: a value contains itself"),
    ],
    ids=["evaluates", "no YAML", "twice", "no UTF-8", "recursive"],
)
def test_snakemake_says_the_same_line_and_nothing_is_evaluated(tmp_path, content, line):
    """Its own reading is replaced before it opens a file (the logger plugin calls `take_over`)."""
    (tmp_path / "my.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
    options = ["-n", "--snakefile", REPOSITORY / "Snakefile", "--configfile", "my.yaml", "--cores", "1"]
    command = [Path(sys.executable).parent / "snakemake", *options]
    result = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True)
    said = [text for text in result.stderr.splitlines() if not re.match("Using (workflow|profile)|host: ", text)]
    assert result.returncode and len(said) == 1 and said[0].startswith(line), result.stderr
    assert not (tmp_path / "PWNED").exists()


def test_other_workflows_configs_are_left_to_snakemake(tmp_path):
    (tmp_path / "Snakefile").write_text("print('seed is', config['seed'])\n")
    (tmp_path / "my.yaml").write_text("seed: 1\nseed: 2\n")
    command = [Path(sys.executable).parent / "snakemake", "-n", "--configfile", "my.yaml", "--cores", "1"]
    result = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True)
    assert result.returncode == 0 and "seed is 2" in result.stdout, result.stderr
