"""docs/design/scale.md says what studies/scale/scale.py prints."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]


def test_the_page_has_the_printed_tables():
    command = [sys.executable, REPOSITORY / "studies/scale/scale.py"]
    printed = subprocess.run(command, check=True, text=True, capture_output=True).stdout
    rows = [line for line in printed.splitlines() if line.startswith("|") or line.endswith((".", "GB"))]
    assert len(rows) > 25
    page = (REPOSITORY / "docs/design/scale.md").read_text()
    assert [row for row in rows if row not in page] == []
