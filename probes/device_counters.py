"""Counters that stay counters when a driver is loaded anew, a device reset or a worker replaced."""

from __future__ import annotations

from typing import Any

import numpy as np


class Monotone:
    """An array of values of which those in `counters` may only rise; NaN is absent and changes nothing."""

    def __init__(self, counters: np.ndarray[Any, Any]) -> None:
        self._counters = counters
        self._last = np.full(counters.shape, np.nan)
        self._base = np.zeros(counters.shape)

    def take(self, values: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """The values as they go on rising, and which of them began anew."""
        fell = self._counters & (values < self._last)
        if fell.any():
            self._base[fell] += self._last[fell]
        self._last = np.where(np.isnan(values), self._last, values)
        return values + self._base, fell
