"""Progress of long work in a log file: one line now and then, with rate and time left."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
log = logging.getLogger(__name__)


def track(items: Iterable[Item], total: int, label: str, every: float = 5.0) -> Iterator[Item]:
    """Yield the items; every `every` seconds and at the end log how many are done, the rate and the time left."""
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= every or done == total:
            last, rate = now, done / max(now - start, 1e-9)
            log.info("%s %d/%d  %.3g/s  %.0f s left", label, done, total, rate, max(total - done, 0) / rate)
