"""Getting a base model or a dataset: from the Hugging Face Hub at a pinned revision, or from a local folder."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from llama_nas.artifacts import atomic_folder, file_digest
from llama_nas.errors import UserError
from llama_nas.hf_folder import (
    SIDE_FILES,
    TOKENIZER_FILES,
    WEIGHTS,
    WEIGHTS_INDEX,
    check_base,
    matching_files,
    weight_files,
)
from llama_nas.space import SearchSpace

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

log = logging.getLogger(__name__)

# Neither pickled weights nor code is ever fetched.
MODEL_PATTERNS = ["config.json", WEIGHTS, "model-*-of-*.safetensors", WEIGHTS_INDEX, *SIDE_FILES]
DATASET_PATTERNS = ["README.md", "LICENSE*", "*.parquet", "*.json", "*.jsonl", "*.csv", "*.tsv"]


def fetch_repository(
    output: Path, repo: str, kind: str, revision: str, depths: Sequence[int], widths: Sequence[int]
) -> None:
    """Download a Hub repository to `output`: safetensors, configs and tokenizer of a model; the tables of a dataset.

    kind: model or dataset. A model's config.json comes first and is checked, against the space too where `depths`
    and `widths` are given, before any weight. Files that an interrupted download has finished are kept beside `output`
    and used by the next try; every file is compared with the digest that the Hub publishes for it. Raises UserError
    for what the Hub refuses, in one line.
    """
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    from huggingface_hub.utils import filter_repo_objects

    logging.getLogger("httpx2").setLevel(logging.WARNING)  # else a line per request
    patterns = MODEL_PATTERNS if kind == "model" else DATASET_PATTERNS
    with _hub_errors(f"{repo} at revision {revision}"):
        hub = HfApi()
        about = hub.model_info if kind == "model" else hub.dataset_info
        info = about(repo, revision=revision, files_metadata=True)
    commit = info.sha
    files = {file.rfilename: file for file in info.siblings or []}
    wanted = list(filter_repo_objects(files, allow_patterns=patterns))
    log.info("%s at revision %s is commit %s", repo, revision, commit)
    _check_listing(repo, kind, wanted)

    partial = output.parent / f".{output.name}.{hashlib.sha256(f'{repo}@{commit}'.encode()).hexdigest()[:8]}.partial"
    partial.mkdir(parents=True, exist_ok=True)
    with _hub_errors(f"{repo} at revision {revision}"):
        if kind == "model":
            hf_hub_download(repo, "config.json", revision=commit, local_dir=partial)
            shape = check_base(partial)
            if depths or widths:
                SearchSpace.for_model(shape, depths, widths)
        snapshot_download(repo, repo_type=kind, revision=commit, local_dir=partial, allow_patterns=patterns)
    # Where the Hub is lost on the way, snapshot_download returns what there is of the folder with a warning.
    missing = [name for name in wanted if not (partial / name).is_file()]
    if missing:
        raise UserError(f"{repo}: {len(missing)} files could not be fetched, {missing[0]} first; run again to go on")
    for name in wanted:
        _check_digest(repo, partial / name, files[name])
    shutil.rmtree(partial / ".cache", ignore_errors=True)
    if output.is_dir():
        shutil.rmtree(output)
    os.replace(partial, output)


def _check_listing(repo: str, kind: str, names: Sequence[str]) -> None:
    if kind == "dataset":
        if not names:
            raise UserError(f"{repo}: has none of {', '.join(DATASET_PATTERNS)}; a dataset must be plain tables")
        return
    if "config.json" not in names:
        raise UserError(f"{repo}: has no config.json; expected a Hugging Face model")
    if WEIGHTS not in names and WEIGHTS_INDEX not in names:
        raise UserError(f"{repo}: has no {WEIGHTS}; pickled weights are never read, choose a safetensors revision")


def _check_digest(repo: str, path: Path, published: RepoSibling) -> None:
    """Compare a file with the digest that the Hub publishes: sha256 of a large file, git's own of a small one."""
    if published.lfs is not None:
        same = file_digest(path) == published.lfs.sha256
    else:
        content = path.read_bytes()
        same = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == published.blob_id
    if not same:
        path.unlink()
        raise UserError(f"{repo}: {path.name} does not have the digest that the Hub publishes; run again to fetch it")


@contextlib.contextmanager
def _hub_errors(what: str) -> Iterator[None]:
    """Turn what the Hub client raises into one line that says what to do."""
    from httpx2 import HTTPError
    from huggingface_hub import errors, get_token

    try:
        yield
    except errors.GatedRepoError:
        advice = "accept its licence on the Hub" if get_token() else "set HF_TOKEN after accepting its licence there"
        raise UserError(f"{what}: the Hub gates this repository: {advice}") from None
    except errors.RepositoryNotFoundError:
        advice = "this HF_TOKEN may not see it" if get_token() else "if it is private, set HF_TOKEN"
        raise UserError(f"{what}: the Hub does not know this repository; {advice}") from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{what}: the repository has no such revision") from None
    except errors.HFValidationError as error:
        raise UserError(f"{what}: not a Hub id, which is OWNER/NAME ({str(error).splitlines()[0]})") from None
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError):
        raise UserError(
            f"{what}: the Hub cannot be reached; fetch where there is internet, without HF_HUB_OFFLINE"
        ) from None
    except HTTPError as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{what}: the Hub cannot be reached or failed: {reason[0]}") from None


def take_local_model(
    output: Path, source: Path, depths: Sequence[int], widths: Sequence[int], depth_selection: str
) -> None:
    """Make `output` a folder of hard links (copies on another disk) to the files of a local model that the run needs.

    Raises UserError, naming the config key `base.path`, for a folder that is not a complete safetensors model.
    """
    try:
        SearchSpace.for_model(check_base(source), depths, widths, depth_selection)
        weights = weight_files(source)
    except UserError as error:
        raise UserError(str(error) if "config.yaml" in str(error) else f"config.yaml: base.path: {error}") from None
    for path in weights:
        try:
            with safe_open(path, framework="np"):
                pass
        except SafetensorError as error:
            raise UserError(f"config.yaml: base.path: {path}: not a complete safetensors file ({error})") from None
    if not matching_files(source, TOKENIZER_FILES[:2]) and not (source / "vocab.json").exists():
        raise UserError(f"config.yaml: base.path: {source}: no tokenizer.json or tokenizer.model found")
    config = [source / "config.json"]
    index = [] if weights[0].name == WEIGHTS else [source / WEIGHTS_INDEX]
    with atomic_folder(output) as folder:
        for path in [*config, *index, *weights, *matching_files(source, SIDE_FILES)]:
            _link(path.resolve(), folder / path.name)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or links to files of others are forbidden
        shutil.copyfile(source, target)
