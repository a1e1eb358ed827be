"""States and steps of engines on their way to the recorder: they are many and small, and encoded once per flush."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from ...probes.model import EngineState
from .steps import packed_steps

if TYPE_CHECKING:
    from ...probes.engine.layout import StepBatch

# Of a second, sixteen ranks make two thousand; what a slow disk lets wait beyond that is not worth more memory.
MAX_STATES = 4096
MAX_BATCHES = 4096


class EngineQueue:
    """Any thread adds, one takes. `dropped` counts by kind what found no place."""

    def __init__(self) -> None:
        self.dropped: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._states: list[EngineState] = []
        self._batches: list[StepBatch] = []

    def add(self, states: Sequence[EngineState], batches: Sequence[StepBatch]) -> None:
        """Takes them over as they are."""
        with self._lock:
            room = MAX_STATES - len(self._states)
            self._states += states[:room]
            self.dropped["engine"] += max(0, len(states) - room)
            room = MAX_BATCHES - len(self._batches)
            self._batches += batches[:room]
            self.dropped["step"] += max(0, len(batches) - room)

    def take(self) -> dict[str, list[tuple[int, bytes]]]:
        """Records by kind: all states as one, in JSON, and the steps of each rank as one, in the form of steps.py."""
        with self._lock:
            states, self._states = self._states, []
            batches, self._batches = self._batches, []
        taken: dict[str, list[tuple[int, bytes]]] = {}
        if states:
            taken["engine"] = [(states[-1].at_ns, msgspec.json.encode(states))]
        if steps := [_joined(own) for own in _by_rank(batches) if len(own[-1].records)]:
            taken["step"] = steps
        return taken


def _by_rank(batches: Sequence[StepBatch]) -> list[list[StepBatch]]:
    ranks: dict[tuple[str, int], list[StepBatch]] = {}
    for batch in batches:
        ranks.setdefault((batch.instance, batch.dp_rank), []).append(batch)
    return list(ranks.values())


def _joined(batches: Sequence[StepBatch]) -> tuple[int, bytes]:
    last = batches[-1]
    about: dict[str, Any] = {"engine": last.engine, "instance": last.instance, "pid": last.pid, "dp_rank": last.dp_rank}
    records = np.concatenate([batch.records for batch in batches])
    return int(records["end_ns"][-1]), packed_steps(about, records)
