"""The launcher of the ranks."""

import subprocess
import sys

IMPORTED = """
import sys, llama_nas.training.launch
print({"transformers", "accelerate", "deepspeed"} & set(sys.modules))
"""


def test_the_launcher_imports_less_than_its_ranks():
    """They start when it is there, and import transformers, accelerate and DeepSpeed in their own time."""
    assert subprocess.run([sys.executable, "-c", IMPORTED], check=True, capture_output=True).stdout == b"set()\n"
