"""Models and datasets from the Hugging Face Hub, at a pinned revision."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llama_nas.core.artifacts import file_digest
from llama_nas.core.errors import UserError
from llama_nas.core.space import SearchSpace
from llama_nas.models.folder import SIDE_FILES, WEIGHTS, WEIGHTS_INDEX, check_base

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

log = logging.getLogger(__name__)

# Neither pickled weights nor code is ever fetched.
MODEL_PATTERNS = ["config.json", WEIGHTS, "model-*-of-*.safetensors", WEIGHTS_INDEX, *SIDE_FILES]
DATASET_PATTERNS = ["README.md", "LICENSE*", "*.parquet", "*.json", "*.jsonl", "*.csv", "*.tsv"]


def fetch_model(
    output: Path, *, repo: str, revision: str, depths: Sequence[int] = (), widths: Sequence[int] = ()
) -> None:
    """Fetch a model from the Hugging Face Hub at a pinned revision: safetensors, configs, tokenizer and licences.

    config.json comes first and is checked before any weight.

    Args:
        repo: Hub id, e.g. meta-llama/Llama-2-7b-hf
        revision: commit hash, tag or branch; a hash pins the run
        depths: layer counts of the space, checked against config.json
        widths: MLP widths of the space, checked against config.json
        output: folder
    """

    def check(folder: Path) -> None:
        shape = check_base(folder)
        if depths or widths:
            SearchSpace.declare(shape, depths, widths)

    _fetch(output, repo, "model", revision, check)


def fetch_dataset(output: Path, *, repo: str, revision: str) -> None:
    """Fetch a dataset from the Hugging Face Hub at a pinned revision: its tables.

    Args:
        repo: Hub id, e.g. allenai/ai2_arc
        revision: commit hash, tag or branch; a hash pins the run
        output: folder
    """
    _fetch(output, repo, "dataset", revision, lambda folder: None)


def _fetch(output: Path, repo: str, kind: str, revision: str, check: Callable[[Path], None]) -> None:
    """Download a repository. check: what is wrong with a model's config.json.

    Files that an interrupted download has finished are kept beside `output` and used by the next try; every file is
    compared with the digest that the Hub publishes for it. Raises UserError for what the Hub refuses, in one line.
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
            check(partial)
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
