"""Runs of the reduced world, and what the same results are."""

from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
REDUCED = REPOSITORY / "workflow/presets/reduced.yaml"
RUNS = REPOSITORY / ".cache/cluster"
COMPARED = ("world", "base", "supernet", "tasks", "search", "subnets", "quantized", "benchmarks", "agreement")


def command(folder: Path, *arguments: str) -> list[str | Path]:
    """A run of the reduced world in `folder`."""
    return ["snakemake", "--snakefile", REPOSITORY / "Snakefile", "--directory", folder,
            "--configfile", REDUCED, *arguments]  # fmt: skip


def assert_same_results(one: Path, other: Path, parts: Sequence[str] = COMPARED) -> None:
    """The results of both runs, but for times and the page that shows them, are the same files with the same bytes."""
    files = {}
    for run in (one, other):
        folders = [run / "results" / part for part in parts]
        assert all(any(folder.iterdir()) for folder in folders)
        paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        files[run] = {path.relative_to(run) for path in paths if not path.name.startswith(".")}
    assert files[one] == files[other]
    different = sorted(str(name) for name in files[one] if (one / name).read_bytes() != (other / name).read_bytes())
    assert not different, different
    print(f"{len(files[one])} files of {one.name} and {other.name}: the same bytes")
