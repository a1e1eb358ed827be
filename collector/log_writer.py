"""Writes lines in a thread of its own, so that a stuck terminal or pipe never holds up the agent."""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from typing import TextIO

MAX_LINES = 1000
MAX_LINE_CHARACTERS = 16_384
PIPE_BYTES = 4096


class LineWriter:
    """A bounded queue in front of a stream; lines that do not fit are dropped and counted."""

    def __init__(self, stream: TextIO) -> None:
        self.dropped = 0
        self._stream = stream
        self._fd = _descriptor(stream)
        self._lines: deque[str] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="log", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Queues `line` and returns at once."""
        with self._changed:
            if len(self._lines) >= MAX_LINES or self._closing:
                self.dropped += 1
                return
            self._lines.append(line[:MAX_LINE_CHARACTERS])
            self._changed.notify()

    def close(self, deadline_s: float) -> bool:
        """Writes what is queued; False when the stream did not take it all before the deadline."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(deadline_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while lines := self._next():
            try:
                self._put("\n".join(lines) + "\n")
            except (OSError, ValueError):
                self.dropped += len(lines)

    def _put(self, text: str) -> None:
        if self._fd is None:
            self._stream.write(text)
            self._stream.flush()
            return
        # Not through the stream: a write that hangs would hold its lock when the interpreter ends.
        rest = text.encode(errors="backslashreplace")
        while rest:
            select.select([], [self._fd], [])
            rest = rest[os.write(self._fd, rest[:PIPE_BYTES]) :]

    def _next(self) -> list[str]:
        with self._changed:
            while not self._lines and not self._closing:
                self._changed.wait()
            lines = list(self._lines)
            self._lines.clear()
            return lines


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None
