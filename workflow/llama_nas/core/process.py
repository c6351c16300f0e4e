"""A process that lives shortly: most of its time is imports, and Python's search for dead cycles is a part of them."""

import atexit
import gc

# New objects after which Python looks for dead cycles. At the usual 700 a tenth of a job's imports is looking through
# what they have made.
COLLECT_AFTER = 100_000


def collect_rarely() -> None:
    """Let this process look for dead cycles rarely, and not at its end.

    What is alive at the end dies with the process. To look through it all, the modules of torch and transformers among
    it, takes Python about a second (studies/startup/startup.py).
    """
    gc.set_threshold(COLLECT_AFTER)
    atexit.register(gc.freeze)
