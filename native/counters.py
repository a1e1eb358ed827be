"""Counters that never fall, over sources that start again from 0 when a driver, a device or a library does."""

from __future__ import annotations

from typing import Any

import numpy as np


class Monotone:
    """An array of counters. What a source had counted before it fell is kept as an offset.

    A source that wrapped counts as one that fell: the units between its last reading and its highest are lost,
    and none are made up.
    """

    def __init__(self, shape: int | tuple[int, ...]) -> None:
        self._last = np.full(shape, np.nan)
        self._offset = np.zeros(shape)
        self.fell = np.zeros(shape, bool)
        """Which counters fell at the last update."""

    def update(self, raw: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The counters as they are to be told, float64 of the same shape; NaN where `raw` is NaN (absent)."""
        self.fell = raw < self._last
        self._offset[self.fell] += self._last[self.fell]
        self._last = np.where(np.isnan(raw), self._last, raw)
        return np.asarray(raw + self._offset)

    def forget(self, index: int | tuple[int, ...]) -> None:
        """Starts an element, or a row, anew: its source is another one now."""
        self._last[index] = np.nan
        self._offset[index] = 0
