"""A thread in front of a terminal or pipe, so that one that takes nothing never holds up the agent."""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
PIPE_BYTES = 4096


class Outlet(Generic[T]):
    """Hands items to `write` one after another. At most `depth` wait; the oldest make room and are counted.

    `on_gone` is called, in the thread, when nobody reads any more; later items go nowhere.
    """

    def __init__(self, write: Callable[[T], None], depth: int, on_gone: Callable[[], None]) -> None:
        self.dropped = 0
        self.gone = False
        self._write = write
        self._on_gone = on_gone
        self._items: deque[T] = deque(maxlen=depth)
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="outlet", daemon=True)
        self._thread.start()

    def put(self, item: T) -> None:
        """Queues `item` and returns at once."""
        with self._changed:
            self.dropped += len(self._items) == self._items.maxlen
            self._items.append(item)
            self._changed.notify()

    def close(self, deadline_s: float) -> bool:
        """Writes what is queued; False when it was not taken before the deadline, and the thread is left behind."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(deadline_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (item := self._next()) is not None:
            try:
                self._write(item)
            except (OSError, ValueError):
                self.gone = True
                self._on_gone()
                return

    def _next(self) -> T | None:
        with self._changed:
            while not self._items and not self._closing:
                self._changed.wait()
            return self._items.popleft() if self._items else None


class Descriptor:
    """Text straight into a file descriptor, for `rich` and for lines.

    A write that hangs inside sys.stdout would hold its lock, and Python aborts on that lock when it ends.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, text: str) -> int:
        """Raises OSError when nobody reads any more."""
        rest = text.encode(errors="backslashreplace")
        while rest:
            select.select([], [self._fd], [])
            rest = rest[os.write(self._fd, rest[:PIPE_BYTES]) :]
        return len(text)

    def flush(self) -> None:
        """Nothing is kept back."""

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)
