"""A short process: dead cycles are looked for rarely, and not at its end."""

import subprocess
import sys

from llama_nas.core.process import COLLECT_AFTER

# Says of itself when Python finds it in a dead cycle.
CYCLE = """
import gc, sys

class Cycle:
    def __init__(self):
        self.own = self
    def __del__(self):
        sys.stdout.write("found ")

cycle = Cycle()
"""
RARELY = "from llama_nas.core.process import collect_rarely; collect_rarely()"


def said(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_at_the_end_nothing_is_searched():
    """What is in a cycle then is not found any more; with Python's own settings it is."""
    assert said(CYCLE) == "found "
    assert said(CYCLE + RARELY) == ""


def test_before_the_end_dead_cycles_are_found_all_the_same():
    """At the latest when so many new objects are there; a long stage does not fill the memory."""
    dead = f"{RARELY}\n{CYCLE}\ndel cycle\n"
    assert said(dead + f"objects = [[] for _ in range({COLLECT_AFTER} + 1000)]") == "found "
    assert said(dead + "objects = [[] for _ in range(1000)]") == ""
