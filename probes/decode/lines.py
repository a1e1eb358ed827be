"""Whole lines out of chunks of a file or pipe, in bounded memory."""

from __future__ import annotations

MAX_LINE_BYTES = 16_384


class WholeLines:
    """Gives the lines that each chunk completes. What a line has beyond 16 KiB is thrown away."""

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False

    def add(self, chunk: bytes) -> bytes:
        """The lines that `chunk` completes, with their newlines; b"" when there is none."""
        if self._skipping:
            newline = chunk.find(b"\n")
            if newline < 0:
                return b""
            chunk, self._skipping = chunk[newline:], False
        end = chunk.rfind(b"\n") + 1
        whole = self._rest + chunk[:end] if end else b""
        self._keep(chunk[end:] if end else self._rest + chunk)
        return whole

    def last(self) -> bytes:
        """A last line without a newline."""
        rest, self._rest, self._skipping = self._rest, b"", False
        return rest

    def _keep(self, rest: bytes) -> None:
        self._skipping = len(rest) > MAX_LINE_BYTES
        self._rest = rest[:MAX_LINE_BYTES]
