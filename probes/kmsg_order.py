"""The kernel log's own time and numbers: which records are missing, and when one was written."""

from __future__ import annotations

from typing import Any

import numpy as np


class LogClock:
    """Turns the log's time into CLOCK_MONOTONIC.

    The log is stamped with the scheduler's clock, which no NTP steers; both begin at boot and drift apart
    by some 10 ppm. A record is read after it was written, so the least delay seen, give or take the drift
    since, is the difference of the clocks.
    """

    def __init__(self) -> None:
        self.skew_ns = 0
        self._learned_ns = 0

    def learn(self, youngest_ns: int, read_ns: int) -> None:
        """From a record that was read as soon as it was there."""
        drift_ns = (read_ns - self._learned_ns) // 10_000
        self.skew_ns = min(read_ns - youngest_ns, self.skew_ns + drift_ns)
        self._learned_ns = read_ns


class Losses:
    """Counts gaps in the sequence numbers."""

    def __init__(self, next_sequence: int | None) -> None:
        self.records = 0
        self._next = next_sequence

    def add(self, sequence: np.ndarray[Any, Any], overruns: int) -> None:
        """`overruns` happened before these records; where no number is known yet, each lost at least one."""
        if not len(sequence):
            return
        if self._next is None:
            self.records += overruns
            self._next = int(sequence[0])
        expected = np.concatenate([np.array([self._next], np.uint64), sequence[:-1] + np.uint64(1)])
        behind = sequence > expected
        self.records += sum((sequence[behind] - expected[behind]).tolist())
        self._next = (int(sequence[-1]) + 1) % 2**64
