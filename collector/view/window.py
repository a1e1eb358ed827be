"""The last second of snapshots: values now, and how fast counters rise."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from functools import lru_cache

from msgspec import Struct

from ...probes.model import Snapshot

WINDOW_NS = 1_000_000_000
STALE_NS = 5_000_000_000
MAX_SNAPSHOTS = 64

_SERIES = re.compile(r"(\w+)(?:\{(.*)\})?", re.DOTALL)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")


class Point(Struct, frozen=True):
    """One value with its labels and the time at which it was read."""

    name: str
    labels: dict[str, str]
    value: float
    at_ns: int


class Window:
    """The newest snapshot, and those of the second before it to take rates from.

    What a probe read more than 5 s ago is not known now.
    """

    def __init__(self) -> None:
        self._snapshots: deque[tuple[int, dict[str, tuple[float, int]]]] = deque(maxlen=MAX_SNAPSHOTS)

    def add(self, snapshot: Snapshot) -> None:
        fresh = [one for one in snapshot.host if snapshot.at_ns - one.at_ns <= max(STALE_NS, 3 * snapshot.interval_ns)]
        points = {key: (value, one.at_ns) for one in fresh for key, value in one.values.items()}
        self._snapshots.append((snapshot.at_ns, points))
        while len(self._snapshots) > 2 and snapshot.at_ns - self._snapshots[1][0] >= WINDOW_NS:
            self._snapshots.popleft()

    def value(self, name: str, **labels: str) -> float | None:
        """The value of one series now; None when it is not known."""
        return next((point.value for point in self._now(name) if point.labels == labels), None)

    def total(self, name: str) -> float | None:
        """The sum over all series of a metric; None when there are none."""
        values = [point.value for point in self._now(name)]
        return sum(values) if values else None

    def rates(self, name: str) -> list[tuple[dict[str, str], float]]:
        """Labels and rise per second of every series of a counter whose past is known."""
        found = [(point.labels, self._rate(key, point)) for key, point in self._keyed(name)]
        return [(labels, rate) for labels, rate in found if rate is not None]

    def rate(self, name: str, **labels: str) -> float | None:
        """Rise per second of one series; None when its past is not known."""
        return next((rate for found, rate in self.rates(name) if found == labels), None)

    def _rate(self, key: str, now: Point) -> float | None:
        for _, points in self._snapshots:
            value, at_ns = points.get(key, (now.value, now.at_ns))
            if at_ns < now.at_ns:
                return (now.value - value) * 1e9 / (now.at_ns - at_ns) if value <= now.value else None
        return None

    def _now(self, name: str) -> Iterator[Point]:
        return (point for _, point in self._keyed(name))

    def _keyed(self, name: str) -> Iterator[tuple[str, Point]]:
        if not self._snapshots:
            return
        for key, (value, at_ns) in self._snapshots[-1][1].items():
            if key.startswith(name):
                found, labels = parse_key(key)
                if found == name:
                    yield key, Point(name, labels, value, at_ns)


@lru_cache(maxsize=4096)
def parse_key(key: str) -> tuple[str, dict[str, str]]:
    """Name and labels of a series as a snapshot writes it; the key itself when it is no series."""
    found = _SERIES.fullmatch(key)
    if found is None:
        return key, {}
    pairs = _LABEL.findall(found[2] or "")
    return found[1], {label: _ESCAPED.sub(_unescape, value) for label, value in pairs}


def _unescape(found: re.Match[str]) -> str:
    return "\n" if found[1] == "n" else found[1]
