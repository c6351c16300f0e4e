"""The reduced world in the images of `make images`, by `snakemake --sdm apptainer`, as a user without privileges.

Run by hand (`make test-containers`, docs/guide/cluster.md); with PYTEST_ARGS="-k search" the search image alone.
"""

import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.cluster.runs import REPOSITORY, RUNS, assert_same_results, command

FAMILIES = ("search", "score", "train")
USER = "unprivileged"  # made by .ci/packages


@pytest.fixture(scope="module")
def folder() -> Path:
    """An empty run folder."""
    return empty(RUNS / "containers")


def empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    give_away(folder)
    return folder


def give_away(folder: Path) -> None:
    """Let a folder and all in it belong to the user who runs the jobs."""
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, pwd.getpwnam(USER).pw_uid, -1)


def run(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess:
    """A command with a HOME of its own and nothing of this repository on Python's path; not as root."""
    user = ["runuser", "-u", USER, "--"] if os.geteuid() == 0 else []
    own = ["env", "--unset=PYTHONPATH", f"HOME={folder}"]
    return subprocess.run([*user, *own, *arguments], cwd=folder, text=True, capture_output=True)


def in_images(folder: Path, *targets: str) -> str:
    result = run(folder, *command(folder, "--sdm", "apptainer", "--cores", "2", *targets))
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stderr


def image(family: str) -> Path:
    version = re.search(r'^version = "(.*)"', (REPOSITORY / "pyproject.toml").read_text(), re.M)[1]
    return REPOSITORY / f"containers/{family}-{version}.sif"


@pytest.mark.parametrize("family", [f"{family}_image" for family in FAMILIES])
def test_an_image_passes_its_own_test_and_names_itself(folder, family):
    family = family.removesuffix("_image")
    result = run(folder, "apptainer", "exec", image(family), "python", "/opt/llama-nas/selftest.py", family)
    assert result.returncode == 0, result.stdout + result.stderr
    labels = run(folder, "apptainer", "inspect", image(family)).stdout
    assert f"org.opencontainers.image.title: llama-nas-{family}" in labels


def test_the_stages_of_the_search_image_give_the_same_bytes(local):
    """Each on what the other images' stages gave on the host, copied in the order in which a run makes it."""
    folder, search = empty(RUNS / "search-image"), "results/search/arc_easy"

    def take(*paths: str) -> None:
        for path in paths:
            if (local / path).is_dir():
                shutil.copytree(local / path, folder / path, copy_function=shutil.copy)
            else:
                shutil.copy(local / path, folder / path)
            give_away(folder)

    log = in_images(folder, "results/world")
    take("results/base", "results/tasks", "results/rows")
    log += in_images(folder, "results/space.json")
    take("results/supernet")
    for number in (1, 2):
        log += in_images(folder, f"{search}/round_{number}/candidates.csv")
        take(f"{search}/round_{number}/shard_1-of-1.csv")
    log += in_images(folder, f"{search}/finalists/candidates.csv")
    take(f"{search}/finalists/shard_1-of-1.csv", "results/benchmarks")
    log += in_images(folder, "fronts")
    ran = set(re.findall(r"^local(?:rule|checkpoint) (\w+):", log, re.M))
    assert ran == {"make_world", "declare_space", "sample", "gather", "propose", "choose_finalists", "find_front"}
    assert set(re.findall(r"Activating singularity image (\S+)", log)) == {str(image("search"))}
    assert_same_results(local, folder, ["world", "base", "tasks", "space.json", "search"])


def test_a_stage_of_each_family_gives_the_same_bytes(local, folder):
    log = in_images(folder, "results/tasks/arc_easy")
    used = set(re.findall(r"Activating singularity image (\S+)", log))
    assert used == {str(image(family)) for family in FAMILIES}
    assert_same_results(local, folder, ["world", "base", "tasks"])


def test_the_whole_run_gives_the_same_bytes(local, folder):
    in_images(folder)
    assert_same_results(local, folder)


def test_a_search_image_of_other_code_says_so_and_stops(folder):
    stage = "llama-nas enumerate-space --space never --output never --code 0123456789abcdef".split()
    result = run(folder, "apptainer", "--quiet", "exec", image("search"), *stage)
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
    assert "is not the workflow's: renew the containers with `make images`" in result.stderr
