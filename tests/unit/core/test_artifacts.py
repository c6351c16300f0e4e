"""Artifacts: written whole or not at all, equal values are equal bytes, and bad files are named in one line."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_nas.core import artifacts
from llama_nas.core.errors import UserError


def names(folder) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.json"
    artifacts.write_json(target, {"value": 1})
    before = target.read_bytes()
    with pytest.raises(KeyboardInterrupt), artifacts.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert target.read_bytes() == before and names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("value", [float("nan"), {"a": float("inf")}, object()])
def test_what_is_no_json_leaves_the_old_file(tmp_path, value):
    target = tmp_path / "a.json"
    artifacts.write_json(target, [])
    with pytest.raises((ValueError, TypeError)):
        artifacts.write_json(target, value)
    assert artifacts.read_json(target) == [] and names(tmp_path) == ["a.json"]


def test_a_failed_folder_leaves_the_old_folder_and_nothing_else(tmp_path):
    target = tmp_path / "model"
    with artifacts.atomic_folder(target) as folder:
        (folder / "weights").write_text("old")
    with pytest.raises(RuntimeError), artifacts.atomic_folder(target) as folder:
        (folder / "weights").write_text("new")
        raise RuntimeError
    assert (target / "weights").read_text() == "old" and names(tmp_path) == ["model"]


def test_a_folder_replaces_the_old_one_whole(tmp_path):
    target = tmp_path / "model"
    for name in ("old", "new"):
        with artifacts.atomic_folder(target) as folder:
            (folder / name).touch()
            assert name not in names(tmp_path)
    assert names(target) == ["new"] and names(tmp_path) == ["model"]


def test_the_target_appears_only_when_it_is_complete(tmp_path):
    target = tmp_path / "deep" / "er" / "a.txt"
    with artifacts.atomic_path(target) as temporary:
        temporary.write_text("text")
        assert not target.exists()
        assert temporary.parent == target.parent  # the same disk: a rename, not a copy
    assert target.read_text() == "text"


def test_a_killed_process_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.txt"
    artifacts.write_text(target, "old")
    code = f"""
import os
from llama_nas.core.artifacts import atomic_path
with atomic_path({str(target)!r}) as temporary:
    temporary.write_text("half")
    os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    assert target.read_text() == "old"


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_floats_of_a_table_read_back_to_the_same_floats(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("table") / "t.csv"
    artifacts.write_table(path, pd.DataFrame({"subnet_id": ["0"] * len(values), "value": values}))
    again = artifacts.read_table(path)
    assert np.array_equal(again["value"].to_numpy(dtype=float), np.array(values))
    before = path.read_bytes()
    artifacts.write_table(path, again.astype({"value": float}))
    assert path.read_bytes() == before


def test_subnet_ids_stay_text(tmp_path):
    ids = ["0000", "0010", "1e10", "00xx"]
    artifacts.write_table(tmp_path / "t.csv", pd.DataFrame({"subnet_id": ids}))
    assert artifacts.read_table(tmp_path / "t.csv")["subnet_id"].tolist() == ids


def test_bad_tables_are_named_in_one_line(tmp_path):
    path = tmp_path / "t.csv"
    with pytest.raises(UserError, match=r"t\.csv: not found"):
        artifacts.read_table(path)
    path.touch()
    with pytest.raises(UserError, match=r"t\.csv: empty, expected columns a"):
        artifacts.read_table(path, ["a"])
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"t\.csv: column c, d is missing"):
        artifacts.read_table(path, ["a", "c", "d"])


def test_bad_json_is_named_in_one_line(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(UserError, match=r"a\.json: not found"):
        artifacts.read_json(path)
    path.write_text("{")
    with pytest.raises(UserError, match=r"a\.json: not valid JSON"):
        artifacts.read_json(path)


def test_json_keeps_the_order_of_keys_and_every_digit(tmp_path):
    artifacts.write_json(tmp_path / "a.json", {"b": 0.1 + 0.2, "a": "ü"})
    assert (tmp_path / "a.json").read_text() == '{\n  "b": 0.30000000000000004,\n  "a": "ü"\n}\n'


def test_file_digest_is_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert artifacts.file_digest(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_folder_digest_sees_names_and_contents_but_no_hidden_files(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_text("1")
    digest = artifacts.folder_digest(tmp_path)
    (tmp_path / ".snakemake_timestamp").touch()
    assert artifacts.folder_digest(tmp_path) == digest
    (tmp_path / "sub" / "a").write_text("2")
    changed = artifacts.folder_digest(tmp_path)
    (tmp_path / "sub" / "a").rename(tmp_path / "sub" / "b")
    assert len({digest, changed, artifacts.folder_digest(tmp_path)}) == 3


def test_derived_seeds_depend_on_every_part_and_not_on_the_hash_seed():
    seeds = [
        artifacts.derived_seed(*purpose)
        for purpose in [(1, "fit", "arc", 1), (2, "fit", "arc", 1), (1, "fit", "arc", 11), (1, "fit", "arc1", 1), (1,)]
    ]
    assert len(set(seeds)) == 5 and all(0 <= seed < 2**63 for seed in seeds)
    code = "from llama_nas.core.artifacts import derived_seed; print(derived_seed(1, 'fit', 'arc', 1))"
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert int(printed.stdout) == seeds[0]


def test_files_get_the_usual_mode(tmp_path):
    """safetensors writes files that only their owner may read; colleagues and containers need them, too."""
    umask = os.umask(0o022)
    try:
        with artifacts.atomic_folder(tmp_path / "folder") as temporary:
            (temporary / "weights").write_bytes(b"")
            (temporary / "weights").chmod(0o600)
    finally:
        os.umask(umask)
    assert (tmp_path / "folder/weights").stat().st_mode & 0o777 == 0o644
