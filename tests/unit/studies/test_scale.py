"""docs/scale.md says what benchmarks/scale.py prints."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_page_has_the_printed_tables():
    printed = subprocess.run(
        [sys.executable, REPOSITORY / "benchmarks/scale.py"], check=True, text=True, capture_output=True
    ).stdout
    rows = [line for line in printed.splitlines() if line.startswith("|") or line.endswith((".", "GB"))]
    assert len(rows) > 25
    page = (REPOSITORY / "docs/scale.md").read_text()
    assert [row for row in rows if row not in page] == []
