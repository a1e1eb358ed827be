"""How long vendor calls took, summed over all workers that ever were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..native.device import GROUPS, Board
from .probe import Histogram, Metric, Series

CALL_SECONDS = Metric(
    "eagle_eye_device_call_seconds", "histogram", "Duration of calls into the vendor's library.", ("group",)
)

# Every second power of two, from 1 us to 17 s. Boards count in powers of two of nanoseconds: bucket i ends at 2^(i+1).
_EXPONENTS = tuple(range(10, 36, 2))
BOUNDS = tuple(2**exponent / 1e9 for exponent in _EXPONENTS)
_EDGES = (0, *_EXPONENTS)
# Waiting is what that call is for.
_SHOWN = tuple(group for group in GROUPS if group != "events")


class CallTimes:
    def __init__(self) -> None:
        self._past: dict[str, tuple[np.ndarray[Any, Any], int]] = {}

    def retire(self, board: Board) -> None:
        """Keeps what a board counted that will be read no more."""
        for group in _SHOWN:
            self._past[group] = self._total(group, [board])

    def series(self, boards: Sequence[Board]) -> Iterator[Series]:
        """The past and what `boards` have counted so far."""
        for group in _SHOWN:
            counts, sum_ns = self._total(group, boards)
            if counts.any():
                merged = np.add.reduceat(counts, _EDGES)
                yield Series(CALL_SECONDS, Histogram(BOUNDS, merged, sum_ns / 1e9), (group,))

    def _total(self, group: str, boards: Sequence[Board]) -> tuple[np.ndarray[Any, Any], int]:
        counts, sum_ns = self._past.get(group, (np.zeros(40, np.uint64), 0))
        for times in (board.call_times(group) for board in boards):
            counts = counts + np.array(times.buckets, np.uint64)
            sum_ns += times.sum_ns
        return counts, sum_ns
