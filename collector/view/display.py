"""Where `run` and `agent` show what they see: plain lines, or the live screen on a terminal."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol, cast

from rich.console import Console
from rich.live import Live

from ...probes.model import Event, Snapshot
from ..self_cost import read_usage
from .lines import PlainLines
from .outlet import Descriptor, Outlet
from .screen import Cost, State, View, screen

MAX_LINES = 1000
CLOSE_SECONDS = 1.0
COST_SPAN_SECONDS = 5.0
LEAVE_SCREEN = b"\x1b[?25h\x1b[?1049l"


class Display(Protocol):
    """Takes snapshots and events at any speed and never blocks."""

    @property
    def gone(self) -> bool:
        """Whether nobody reads any more."""
        ...

    @property
    def dropped(self) -> int:
        """Lines that were not written because nobody took them in time."""
        ...

    def add(self, snapshot: Snapshot, events: Sequence[Event]) -> None: ...

    def close(self) -> None: ...


class LineDisplay:
    """Plain lines into a descriptor, each of `addresses` first: `nats_url=nats://127.0.0.1:4222`."""

    def __init__(self, fd: int, on_gone: Callable[[], None], addresses: Mapping[str, str]) -> None:
        self._lines = PlainLines()
        out = Descriptor(fd)
        self._outlet: Outlet[str] = Outlet(lambda line: cast(None, out.write(line + "\n")), MAX_LINES, on_gone)
        for name, address in addresses.items():
            self._outlet.put(f"{name}_url={address}")

    @property
    def gone(self) -> bool:
        return self._outlet.gone

    @property
    def dropped(self) -> int:
        return self._outlet.dropped

    def add(self, snapshot: Snapshot, events: Sequence[Event]) -> None:
        for line in self._lines.add(snapshot, events):
            self._outlet.put(line)

    def close(self) -> None:
        self._outlet.close(CLOSE_SECONDS)


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
        self._outlet: Outlet[State] = Outlet(self._show, 1, on_gone)

    @property
    def gone(self) -> bool:
        return self._outlet.gone

    def add(self, snapshot: Snapshot, events: Sequence[Event]) -> None:
        self._outlet.put(self._view.add(snapshot, events, self._meter.read()))

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
