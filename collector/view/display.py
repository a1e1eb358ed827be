"""Where `run` shows what it sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, cast

from ...probes.model import Event, Snapshot
from .lines import PlainLines
from .outlet import Descriptor, Outlet

MAX_LINES = 1000
CLOSE_SECONDS = 1.0
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
