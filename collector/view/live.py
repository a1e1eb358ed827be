"""The live screen on a terminal, drawn in a thread of its own."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, cast

from rich.console import Console
from rich.live import Live

from ...probes.model import Event, Snapshot
from ..self_cost import read_usage
from .display import CLOSE_SECONDS
from .outlet import Descriptor, Outlet
from .screen import screen
from .state import Cost, State, View

COST_SPAN_SECONDS = 5.0
# A frame costs 2 ms of CPU, and nobody reads faster.
FRAME_NS = 240_000_000


class LiveDisplay:
    """The live screen; a terminal that is slow or stopped sees fewer of them."""

    dropped = 0

    def __init__(self, fd: int, on_gone: Callable[[], None], kernel: str, addresses: Mapping[str, str]) -> None:
        console = Console(file=cast(IO[str], Descriptor(fd)))
        self._live = Live(
            console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self._view = View(kernel, addresses)
        self._meter = CostMeter()
        self._drawn_ns = -FRAME_NS
        self._outlet: Outlet[State] = Outlet(self._show, 1, on_gone)

    @property
    def gone(self) -> bool:
        return self._outlet.gone

    def add(self, snapshot: Snapshot, events: Sequence[Event]) -> None:
        self._view.add(snapshot, events)
        if snapshot.at_ns - self._drawn_ns >= FRAME_NS:
            self._drawn_ns = snapshot.at_ns
            self._outlet.put(self._view.state(self._meter.read()))

    def close(self) -> None:
        if self._outlet.close(CLOSE_SECONDS) and not self.gone:
            self._live.stop()

    def _show(self, state: State) -> None:
        if not self._live.is_started:
            self._live.start()
        width, height = self._live.console.size
        self._live.update(screen(state, width, height), refresh=True)


class CostMeter:
    """CPU share of the last seconds and resident memory of this process."""

    def __init__(self) -> None:
        self._readings: deque[tuple[float, float]] = deque(maxlen=128)

    def read(self) -> Cost:
        now, used = time.monotonic(), time.process_time()
        while self._readings and now - self._readings[0][0] > COST_SPAN_SECONDS:
            self._readings.popleft()
        self._readings.append((now, used))
        since, before = self._readings[0]
        ratio = (used - before) / (now - since) if now > since else 0.0
        return Cost(ratio, read_usage(Path("/proc"), "self").resident_bytes)
