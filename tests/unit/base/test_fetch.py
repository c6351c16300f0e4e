"""Fetching from a Hub (a small server with the Hub's addresses on loopback), and taking a local folder."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.support.models import WIDTHS, write_supernet

from llama_nas.base.take import take_base
from llama_nas.core.errors import UserError
from llama_nas.models.folder import load_model

COMMIT = "c0ffee" * 6 + "0000"
UNWANTED = ["pytorch_model.bin", "modeling_evil.py", "consolidated.safetensors", "original/model.safetensors"]


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub 2.4 asks of the Hub, served from `server.repositories`: address -> folder."""

    def do_GET(self):
        self.server.requests.append(self.path)
        path = self.path.partition("?")[0].lstrip("/")
        api = path.startswith("api/")
        address = path.removeprefix("api/").removeprefix("models/")
        for name, folder in self.server.repositories.items():
            if address.startswith(f"{name}/"):
                return self.repository(folder, address.removeprefix(f"{name}/"), api)
        self.answer(401, {"X-Error-Code": "RepoNotFound"})

    def do_HEAD(self):
        self.do_GET()

    def repository(self, folder: Path, what: str, api: bool):
        verb, revision, *rest = what.split("/", 2)
        if revision not in (COMMIT, "main"):
            return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
        files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
        if api and verb == "revision":
            siblings = [{"rfilename": name} | digests(path) for name, path in files.items()]
            return self.answer(200, {}, {"id": "x/y", "sha": COMMIT, "siblings": siblings})
        if api and verb == "tree":
            tree = [{"type": "file", "path": f, "size": p.stat().st_size, "oid": f} for f, p in files.items()]
            return self.answer(200, {}, tree)
        if "gated" in str(folder):
            return self.answer(403, {"X-Error-Code": "GatedRepo"})
        if rest[0] == self.server.failing:
            return self.answer(403, {})  # a 5xx would be tried again for half a minute
        content = files[rest[0]].read_bytes()
        if rest[0] == self.server.corrupting:
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.answer(200, {"X-Repo-Commit": COMMIT, "ETag": f'"{rest[0].encode().hex()}"'}, content)

    def answer(self, status: int, headers: dict, body=b""):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


def digests(path: Path) -> dict:
    """What the Hub says of a file with `blobs=true`: weights are in LFS, the rest are git blobs."""
    content = path.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if path.suffix != ".safetensors":
        return {"blobId": blob}
    sha256 = hashlib.sha256(content).hexdigest()
    return {"blobId": "of the pointer", "lfs": {"size": len(content), "sha256": sha256, "pointerSize": 134}}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model of several weight files among files that no run needs."""
    folder = write_supernet(tmp_path_factory.mktemp("hub") / "model", shard="200KB")
    for name in [*UNWANTED, "LICENSE.txt"]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    return folder


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    (data / "easy").mkdir()
    for name in ("README.md", "easy/test.parquet", "loader.py"):
        (data / name).write_text(name)
    pickled = tmp_path_factory.mktemp("pickled")
    for name in ("config.json", "pytorch_model.bin"):
        (pickled / name).write_text("{}")
    gated = tmp_path_factory.mktemp("gated")
    for path in model.glob("*.*"):
        (gated / path.name).symlink_to(path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.repositories = {"o/model": model, "datasets/o/data": data, "o/pickled": pickled, "o/locked": gated}
    server.requests = []
    server.failing = server.corrupting = None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def fetch(server, output: Path, repo: str, *arguments: str, kind="model", revision="main", **environment: str):
    server.requests.clear()
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    clean |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(output.parent / "home")}
    command = [sys.executable, "-m", "llama_nas.cli", f"fetch-{kind}", "--repo", repo]
    command += ["--revision", revision, "--output", str(output), *arguments]
    return subprocess.run(command, env=clean | environment, capture_output=True, text=True, timeout=120)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_model_arrives_whole_without_pickles_or_code(server, model, tmp_path):
    result = fetch(server, tmp_path / "base", "o/model", "--depths", "4", "6", "--widths", *map(str, WIDTHS))
    assert result.returncode == 0, result.stderr
    assert f"is commit {COMMIT}" in result.stderr and "Fetching" in result.stderr
    assert names(tmp_path / "base") == names(model) - set(UNWANTED)
    for name in names(tmp_path / "base"):
        assert (tmp_path / "base" / name).read_bytes() == (model / name).read_bytes()
    assert not list(tmp_path.glob(".*"))
    asked = [path for path in server.requests if "/resolve/" in path]
    assert asked[0].endswith("/config.json") and all(f"/resolve/{COMMIT}/" in path for path in asked)
    load_model(tmp_path / "base", "fp32")


@pytest.mark.parametrize(
    ("depths", "message"), [("7", "space.depths [7] must lie in 1..6"), ("6 4", "distinct and ascending")]
)
def test_a_space_that_does_not_fit_stops_before_any_weight(server, tmp_path, depths, message):
    result = fetch(server, tmp_path / "base", "o/model", "--depths", *depths.split(), "--widths", "96")
    assert result.returncode == 2 and message in result.stderr.splitlines()[-1]
    assert not any("safetensors" in path for path in server.requests)
    assert not (tmp_path / "base").exists()


def test_a_dataset_arrives_without_its_code(server, tmp_path):
    result = fetch(server, tmp_path / "data", "o/data", kind="dataset", revision=COMMIT)
    assert result.returncode == 0, result.stderr
    assert names(tmp_path / "data") == {"README.md", "easy/test.parquet"}


def test_an_interrupted_download_goes_on(server, model, tmp_path):
    server.failing = max(model.glob("model-*.safetensors")).name
    first = fetch(server, tmp_path / "base", "o/model")
    assert first.returncode == 2 and "Traceback" not in first.stderr, first.stderr
    assert not (tmp_path / "base").exists()
    (partial,) = tmp_path.glob(".base.*.partial")
    there = {path.name for path in partial.iterdir() if path.is_file()}
    assert there >= {"config.json"} and server.failing not in there
    server.failing = None
    server.requests.clear()
    second = fetch(server, tmp_path / "base", "o/model")
    assert second.returncode == 0, second.stderr
    assert not there & {path.rpartition("/")[2] for path in server.requests if "/resolve/" in path}
    assert names(tmp_path / "base") == names(model) - set(UNWANTED)
    load_model(tmp_path / "base", "fp32")


@pytest.mark.parametrize("file", ["model-00002-of-00004.safetensors", "tokenizer.json"])
def test_a_file_that_changed_on_the_way_is_refused_and_fetched_anew(server, model, tmp_path, file):
    server.corrupting = file
    result = fetch(server, tmp_path / "base", "o/model")
    assert result.returncode == 2 and not (tmp_path / "base").exists()
    assert f"o/model: {file} does not have the digest that the Hub publishes" in result.stderr.splitlines()[-1]
    server.corrupting = None
    again = fetch(server, tmp_path / "base", "o/model")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "base" / file).read_bytes() == (model / file).read_bytes()


@pytest.mark.parametrize(
    ("repo", "arguments", "message"),
    [
        ("o/nothing", {}, "does not know this repository; if it is private, set HF_TOKEN"),
        ("o/nothing", {"HF_TOKEN": "hf_none"}, "this HF_TOKEN may not see it"),
        ("o/model", {"revision": "v9"}, "no such revision"),
        ("o/locked", {}, "gates this repository: set HF_TOKEN"),
        ("o/locked", {"HF_TOKEN": "hf_none"}, "gates this repository: accept its licence"),
        ("o/pickled", {}, "pickled weights are never read"),
        ("not a repo", {}, "not a Hub id"),
        ("o/model", {"HF_HUB_OFFLINE": "1"}, "without HF_HUB_OFFLINE"),
        ("o/model", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached"),
    ],
)
def test_what_the_hub_refuses_is_one_line(server, tmp_path, repo, arguments, message):
    result = fetch(server, tmp_path / "base", repo, **arguments)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr.splitlines()[-1] and "Traceback" not in result.stderr
    assert repo in result.stderr.splitlines()[-1]
    assert not (tmp_path / "base").exists()


def test_the_workflow_fetches_once_and_resources_can_be_copied_to_where_there_is_no_internet(server, tmp_path):
    repository = Path(__file__).resolve().parents[3]
    config = tmp_path / "hub.json"
    settings = {
        "base": {"source": "hub", "hub_id": "o/model", "revision": COMMIT},
        "instructions": {"hub_id": "o/data", "revision": COMMIT},
        "space": {"depths": [4, 6], "widths": list(WIDTHS)},
        "tasks": {"arc_easy": {"metric": "acc", "dataset": "o/data", "revision": COMMIT}},
    }
    config.write_text(json.dumps(settings))

    def snakemake(folder: str, *targets: str, **environment: str):
        command = ["snakemake", "--snakefile", repository / "Snakefile", "--cores", "2", "--configfile", config]
        result = subprocess.run(
            [*command, "--directory", tmp_path / folder, *targets],
            env=os.environ | environment, capture_output=True, text=True,
        )  # fmt: skip
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    server.requests.clear()
    here = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "1"}  # a user's own is overruled
    snakemake("login-node", "results/base", "resources/hub/o/data", **here)
    asked = [request for request in server.requests if "o/" in request]  # the client also asks for things of its own
    assert asked and all(COMMIT in request for request in asked)
    shutil.copytree(tmp_path / "login-node/resources", tmp_path / "cluster/resources")
    server.requests.clear()
    plan = snakemake("cluster", "fronts", "--dry-run", **here)
    assert "rule take_base" in plan and "rule fetch_" not in plan
    snakemake("cluster", "results/base", **here)
    assert names(tmp_path / "cluster/results/base") == names(tmp_path / "login-node/results/base")
    assert not any("o/" in request for request in server.requests)


def test_a_local_model_is_linked_without_what_no_run_needs(model, tmp_path):
    take_base(tmp_path / "base", source=model)
    assert names(tmp_path / "base") == names(model) - set(UNWANTED)
    for name in names(tmp_path / "base"):
        assert (tmp_path / "base" / name).samefile(model / name)
    load_model(tmp_path / "base", "fp32")


def test_links_of_a_hub_cache_are_followed(model, tmp_path):
    (tmp_path / "snapshot").mkdir()
    for path in model.glob("*.*"):
        (tmp_path / "snapshot" / path.name).symlink_to(path)
    take_base(tmp_path / "base", source=tmp_path / "snapshot")
    assert not any(path.is_symlink() for path in (tmp_path / "base").iterdir())
    load_model(tmp_path / "base", "fp32")


def test_where_links_are_impossible_files_are_copied(model, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    take_base(tmp_path / "base", source=model)
    assert not (tmp_path / "base/config.json").samefile(model / "config.json")
    load_model(tmp_path / "base", "fp32")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("", "base.path: .*config.json: not found"),
        ("config.json", "base.path: .*config.json: not found"),
        ("model.safetensors.index.json", "base.path: .*only safetensors"),
        ("model-00001-of-00004.safetensors", "base.path: .*model-00001-of-00004.safetensors: not found"),
        ("tokenizer.json", "base.path: .*no tokenizer"),
    ],
)
def test_an_incomplete_local_folder_is_refused_by_its_config_key(model, tmp_path, missing, message):
    source = tmp_path / "source"
    if missing:
        source.mkdir()
        for path in model.glob("*.*"):
            if path.name != missing:
                (source / path.name).symlink_to(path)
    with pytest.raises(UserError, match=message):
        take_base(tmp_path / "base", source=source)
    assert not (tmp_path / "base").exists()


def test_a_truncated_file_is_refused(model, tmp_path):
    take_base(tmp_path / "copy", source=model)
    weights = min((tmp_path / "copy").glob("*.safetensors"))
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content[:-1])
    with pytest.raises(UserError, match=rf"base\.path: .*{weights.name}: not a complete"):
        take_base(tmp_path / "base", source=tmp_path / "copy")
