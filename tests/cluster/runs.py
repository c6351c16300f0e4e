"""Runs of the reduced world, and what the same results are."""

from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
REDUCED = REPOSITORY / "workflow/presets/reduced.yaml"
RUNS = REPOSITORY / ".cache/cluster"
COMPARED = (
    *("world", "base", "space.json", "supernet", "tasks"),
    *("search", "patterns", "networks", "benchmarks", "agreement"),
)


def command(folder: Path, *arguments: str) -> list[str | Path]:
    """A run of the reduced world in `folder`, with Snakemake's own lines."""
    return ["snakemake", "--snakefile", REPOSITORY / "Snakefile", "--directory", folder,
            "--configfile", REDUCED, "--printshellcmds", *arguments]  # fmt: skip


def files_of(part: Path) -> list[Path]:
    """The files of a part of the results, which is a folder or a file; fails if there are none."""
    paths = [part, *part.rglob("*")]
    files = [path for path in paths if path.is_file() and not path.name.startswith(".")]
    assert files, f"{part} is not there"
    return files


def assert_same_results(one: Path, other: Path, parts: Sequence[str] = COMPARED) -> None:
    """The results of both runs, but for times and the page that shows them, are the same files with the same bytes."""
    files = {
        run: {path.relative_to(run) for part in parts for path in files_of(run / "results" / part)}
        for run in (one, other)
    }
    assert files[one] == files[other]
    different = sorted(str(name) for name in files[one] if (one / name).read_bytes() != (other / name).read_bytes())
    assert not different, different
    print(f"{len(files[one])} files of {one.name} and {other.name}: the same bytes")
