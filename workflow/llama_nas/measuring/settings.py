"""Settings of timed runs: each field is a key of the config and an option of the command line."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SpeedSettings:
    """How the speed of finished models is measured.

    Args:
        batch_size: rows of a prefill
        sequence_length: tokens of a prefill, context of a decode
        new_tokens: tokens decoded per run
        max_batch: the saturated decode's batch is at most this
        repeats: turns after warm-up, in each of which every model runs once; a ratio has an interval from 6 on
    """

    batch_size: int
    sequence_length: int
    new_tokens: int
    max_batch: int
    repeats: int


@dataclass(frozen=True)
class CostSettings:
    """How the seconds of single layers are measured.

    Args:
        batch_size: rows of a prefill and of a decode
        sequence_length: tokens of a prefill, context of a decode
        new_tokens: tokens decoded per run
        repeats: timed runs of each network
        checks: random networks timed to check the sums
    """

    batch_size: int
    sequence_length: int
    new_tokens: int
    repeats: int
    checks: int
