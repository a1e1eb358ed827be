"""Which records of a flood become events: bounded in rate, and never at the price of the rare ones."""

from __future__ import annotations

from typing import Any

import numpy as np

Indices = np.ndarray[Any, np.dtype[np.intp]]
Keys = np.ndarray[Any, np.dtype[np.uint64]]

WINDOW_NS = 1_000_000_000
ALIKE_PER_WINDOW = 10
_MAX_KEYS = 4096


class Bucket:
    """Token bucket: `rate` per second, at most `burst` at once."""

    def __init__(self, rate: float, burst: int) -> None:
        self.rate = rate
        self.burst = burst
        self.tokens = float(burst)
        self._at_ns = 0

    def refill(self, now_ns: int) -> None:
        self.tokens = min(self.burst, self.tokens + self.rate * max(0, now_ns - self._at_ns) / 1e9)
        self._at_ns = now_ns

    def take(self, wanted: int, *, keep: float = 0.0) -> int:
        """Tokens granted, at most `wanted`; `keep` of them stay in the bucket."""
        granted = max(0, min(wanted, int(self.tokens - keep)))
        self.tokens -= granted
        return granted


class Seen:
    """How often each key came in this window. Past `_MAX_KEYS` keys it starts afresh."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._keys: Keys = np.empty(0, np.uint64)
        self._counts = np.empty(0, np.int64)

    def rank(self, keys: Keys) -> np.ndarray[Any, np.dtype[np.int64]]:
        """For each key, how many equal ones came before it; all of them count from now on."""
        unique, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
        order = np.argsort(inverse, kind="stable")
        ranks = np.empty(len(keys), np.int64)
        ranks[order] = np.arange(len(keys)) - np.repeat(np.cumsum(counts) - counts, counts)
        ranks += self._before(unique)[inverse]
        self._add(unique, counts)
        return ranks

    def _before(self, unique: Keys) -> np.ndarray[Any, np.dtype[np.int64]]:
        if not len(self._keys):
            return np.zeros(len(unique), np.int64)
        at = np.minimum(np.searchsorted(self._keys, unique), len(self._keys) - 1)
        return np.where(self._keys[at] == unique, self._counts[at], 0)

    def _add(self, unique: Keys, counts: np.ndarray[Any, Any]) -> None:
        if len(self._keys) + len(unique) > _MAX_KEYS:
            self.clear()
        keys, inverse = np.unique(np.concatenate([self._keys, unique]), return_inverse=True)
        self._counts = np.bincount(inverse, np.concatenate([self._counts, counts])).astype(np.int64)
        self._keys = keys


class Admission:
    """Sorts records into admitted, repeated (the same text again and again) and limited (no tokens left).

    Errors have a bucket of their own, so no flood of lesser levels hides one. Of either bucket one half is
    kept for texts whose like has hardly been seen in this window, so no flood of one text hides another.
    """

    def __init__(self, rate: float, burst: int) -> None:
        self.urgent = Bucket(rate, burst)
        self.ordinary = Bucket(rate, burst)
        self._texts = Seen()
        self._templates = Seen()
        self._window_ns = 0

    def start_round(self, now_ns: int) -> bool:
        """Refills the buckets; true when a window has ended and a new one begins."""
        self.urgent.refill(now_ns)
        self.ordinary.refill(now_ns)
        if now_ns - self._window_ns < WINDOW_NS:
            return False
        self._window_ns = now_ns
        self._texts.clear()
        self._templates.clear()
        return True

    def sort(self, texts: Keys, templates: Keys, urgent: np.ndarray[Any, Any]) -> tuple[Indices, Indices]:
        """Indices of admitted and of repeated records, each ascending; the rest is limited."""
        repeated = self._texts.rank(texts) >= ALIKE_PER_WINDOW
        novel = self._templates.rank(templates) < ALIKE_PER_WINDOW
        admitted = [
            *self._take(self.urgent, novel, ~repeated & urgent),
            *self._take(self.ordinary, novel, ~repeated & ~urgent),
        ]
        return np.sort(np.concatenate(admitted)), np.flatnonzero(repeated)

    @staticmethod
    def _take(bucket: Bucket, novel: np.ndarray[Any, Any], mine: np.ndarray[Any, Any]) -> tuple[Indices, Indices]:
        rare, common = np.flatnonzero(mine & novel), np.flatnonzero(mine & ~novel)
        return rare[: bucket.take(len(rare))], common[: bucket.take(len(common), keep=bucket.burst / 2)]
