"""Who is alive in a folder: only the kernel knows, and it forgets no one who is."""

import platform
import signal
import subprocess
import sys

from llama_nas.core.presence import present

HOLD = """
import sys, time
from pathlib import Path
from llama_nas.core.presence import present
with present(Path(sys.argv[1])):
    print("here", flush=True)
    time.sleep(100)
"""


def test_a_living_process_is_named_and_a_killed_one_is_not(tmp_path):
    path = tmp_path / "runs.txt"
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "here\n"
        with present(path) as others:
            assert others == [f"process {other.pid} on {platform.node()}"]
        other.send_signal(signal.SIGKILL)
    with present(path) as others:
        assert others == []


def test_a_run_that_came_before_the_living_one_goes_unnoticed_by_none(tmp_path):
    """Two that live beside each other: the first one's end does not make the second one look gone."""
    path = tmp_path / "runs.txt"
    with (
        present(path),
        subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True) as other,
    ):
        assert other.stdout.readline() == "here\n"
        other.send_signal(signal.SIGSTOP)
        with present(path) as others:
            assert f"process {other.pid} on {platform.node()}" in others
        other.send_signal(signal.SIGKILL)


def test_a_run_of_another_host_counts_as_alive(tmp_path):
    path = tmp_path / "runs.txt"
    path.write_text("process 7 on elsewhere\n")
    with present(path) as others:
        assert others == ["process 7 on elsewhere"]
    with present(path) as others:
        assert others == ["process 7 on elsewhere"]
