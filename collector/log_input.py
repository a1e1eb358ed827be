"""Reads a log file, a pipe or /dev/kmsg in chunks of whole lines, and tells when a pipe falls silent."""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import BinaryIO

from ..native.errors import EagleEyeError
from ..probes.decode.grammar import HOLD_NS
from ..probes.decode.lines import WholeLines

_CHUNK_BYTES = 256 * 1024
_PACKED = {b"\x1f\x8b": "zcat", b"\x28\xb5\x2f\xfd": "zstdcat", b"BZh": "bzcat", b"\xfd7zXZ": "xzcat"}


def opened(path: str) -> AbstractContextManager[BinaryIO]:
    """The file at `path`, or standard input for "-", unbuffered. Raises OSError."""
    return nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb", buffering=0)


def lines_of(file: BinaryIO, waiting: Callable[[], bool]) -> Iterator[tuple[bytes, int | None]]:
    """Whole lines, and when they came (CLOCK_MONOTONIC; 0 of a regular file, which is not live).

    No lines are given when none have come for a while although `waiting`, and once at the end, then without a time.
    Raises EagleEyeError for a compressed file.
    """
    descriptor = file.fileno()
    live = not stat.S_ISREG(os.fstat(descriptor).st_mode)
    lines = WholeLines()
    for number, chunk in enumerate(_chunks(descriptor, waiting)):
        if number == 0:
            _refuse_packed(chunk, str(file.name))
        whole = lines.add(chunk)
        if whole or not chunk:
            yield whole, time.monotonic_ns() if live else 0
    if last := lines.last():
        yield last, time.monotonic_ns() if live else 0
    yield b"", None


def _chunks(descriptor: int, waiting: Callable[[], bool]) -> Iterator[bytes]:
    """What there is to read, b"" when nothing came for as long as anything may wait."""
    while True:
        if waiting() and not select.select([descriptor], [], [], HOLD_NS / 1e9)[0]:
            yield b""
            continue
        try:
            chunk = os.read(descriptor, _CHUNK_BYTES)
        except OSError as error:
            # /dev/kmsg: records were overwritten before they were read; the next read goes on behind them.
            if error.errno != errno.EPIPE:
                raise
            continue
        if not chunk:
            return
        yield chunk


def _refuse_packed(start: bytes, name: str) -> None:
    for magic, program in _PACKED.items():
        if start.startswith(magic):
            raise EagleEyeError(f"{name} is compressed", remedy=f"{program} {name} | eagle-eye kmsg decode")
