"""Kernel-log records in batches: /dev/kmsg, or a file or FIFO in its format."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import time
from pathlib import Path
from typing import Any

import numpy as np

from ._kmsg import ffi, lib
from .errors import UnavailableError

LEVELS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")

_BATCH_RECORDS = 2048
_BUFFER_BYTES = 256 * 1024
_READER_BYTES = 4 * 1024 * 1024
_BACKLOG_SECONDS = 1.0
_ESCAPE = re.compile(rb"\\x([0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_PROPERTY = re.compile(rb"^ ([A-Z_]{1,32})=(.*)$", re.MULTILINE)


def _dtype(struct: str) -> np.dtype[Any]:
    fields = [(name, field) for name, field in ffi.typeof(struct).fields if field.type.kind == "primitive"]
    return np.dtype(
        {
            "names": [name for name, _ in fields],
            "formats": [f"u{ffi.sizeof(field.type)}" for _, field in fields],
            "offsets": [field.offset for _, field in fields],
            "itemsize": ffi.sizeof(struct),
        }
    )


RECORD = _dtype("struct kmsg_record")


def decoded(raw: bytes) -> str:
    r"""Text of a record without the kernel's \xNN escapes.

    Control characters except tab and newline stay escaped, so that no terminal ever obeys them;
    what is not UTF-8 becomes U+FFFD.
    """
    plain = _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), raw)
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", plain.decode("utf-8", errors="replace"))


class Batch:
    """Records of one read, of dtype `RECORD`, and the buffer that they point into; valid until the next read."""

    def __init__(self, records: np.ndarray[Any, Any], buffer: memoryview, more: bool) -> None:
        self.records = records
        self.more = more
        self.buffer = buffer

    def text(self, index: int) -> str:
        record = self.records[index]
        return decoded(self._bytes(record["text_offset"], record["text_bytes"]))

    def properties(self, index: int) -> dict[str, str]:
        """Key and value of the lines below the text, such as SUBSYSTEM and DEVICE."""
        record = self.records[index]
        lines = self._bytes(record["dict_offset"], record["dict_bytes"])
        return {key.decode(): decoded(value) for key, value in _PROPERTY.findall(lines)}

    def _bytes(self, offset: int, length: int) -> bytes:
        return bytes(self.buffer[int(offset) : int(offset) + int(length)])


class KernelLog:
    """An open kernel log. Reading never blocks.

    Once all that was there has been read, a thread goes on reading into a larger buffer than the kernel's.
    The kernel holds back a line that was written without a newline until the next one comes.

    `overruns`, `rejected` and `malformed` count since it was opened: times the kernel overwrote records
    before they were read, records larger than the buffer, records that are not in the format.
    """

    def __init__(self, path: Path, *, from_boot: bool = False) -> None:
        """Opens `path` at its end or, `from_boot`, at the oldest record kept. Raises UnavailableError.

        On the device the way to the end is read, not jumped over: `next_sequence` is known from the start.
        """
        self.path = path
        self.missing = False
        self._buffer = bytearray(_BUFFER_BYTES)
        self._records = np.zeros(_BATCH_RECORDS, RECORD)
        self._c_buffer = ffi.from_buffer("char[]", self._buffer)
        self._c_records = ffi.from_buffer("struct kmsg_record[]", self._records)
        self._state = ffi.new("struct kmsg_log *", {"seed": secrets.randbits(64), "fd": -1})
        self._reader = ffi.NULL
        self.next_sequence: int | None = None
        try:
            self._open(from_boot)
        except OSError as error:
            self.close()
            raise UnavailableError(f"{path} cannot be read: {error.strerror}", remedy=f"ls -l {path}") from error

    @property
    def wake_fd(self) -> int | None:
        """Readable when there is something to read; None for a regular file, which always is."""
        if self.is_file:
            return None
        return lib.kmsg_wake_fd(self._reader) if self._reader else self._fd

    @property
    def _fd(self) -> int:
        return int(self._state.fd)

    @property
    def overruns(self) -> int:
        return int(self._state.overruns)

    @property
    def rejected(self) -> int:
        return int(self._state.rejected)

    @property
    def malformed(self) -> int:
        return int(self._state.malformed)

    def read(self) -> Batch:
        """What has arrived; `more` tells that another read would find more. Raises OSError."""
        if self.is_file:
            self._follow()
        count = lib.kmsg_next(self._state, self._reader, self._c_buffer, _BUFFER_BYTES, self._c_records, _BATCH_RECORDS)
        if self._state.error and not count:
            raise OSError(self._state.error, os.strerror(self._state.error), str(self.path))
        more = count == _BATCH_RECORDS or not self._state.drained
        if not (more or self.is_file or self._reader):
            self._start_reader()
        return Batch(self._records[:count], memoryview(self._buffer), more)

    def close(self) -> None:
        """Safe twice."""
        if self._reader:
            ffi.release(self._reader)
            self._reader = ffi.NULL
        if self._state.fd >= 0:
            os.close(self._state.fd)
            self._state.fd = -1

    def _start_reader(self) -> None:
        reader = lib.kmsg_start(self._fd, _READER_BYTES)
        if reader != ffi.NULL:
            self._reader = ffi.gc(reader, lib.kmsg_stop)

    def _open(self, from_boot: bool) -> None:
        self._state.fd = _opened(self.path)
        self.is_file = stat.S_ISREG(self._stat().st_mode)
        self.is_device = stat.S_ISCHR(self._stat().st_mode)
        if not from_boot and self.is_file:
            self._seek_end()
        elif not from_boot and self.is_device:
            self._read_to_end()

    def _seek_end(self) -> None:
        end = os.lseek(self._fd, 0, os.SEEK_END)
        self._state.skipping = end > 0 and os.pread(self._fd, 1, end - 1) != b"\n"

    def _read_to_end(self) -> None:
        until = time.monotonic() + _BACKLOG_SECONDS
        more = True
        while more and time.monotonic() < until:
            batch = self.read()
            if len(batch.records):
                self.next_sequence = int(batch.records["seq"][-1]) + 1
            more = batch.more

    def _follow(self) -> None:
        """A file may be cut short, or another put in its place: the new one is read from its start."""
        mine = self._stat()
        try:
            there = os.stat(self.path)
        except OSError:
            self.missing = True
            return
        self.missing = False
        position = os.lseek(self._fd, 0, os.SEEK_CUR)
        if mine.st_size < position:
            self._restart(self._fd)
        elif position == mine.st_size and not os.path.samestat(mine, there):
            self._replace()

    def _replace(self) -> None:
        old = self._fd
        self._restart(_opened(self.path))
        os.close(old)

    def _restart(self, fd: int) -> None:
        self._state.fd = fd
        self._state.used = self._state.consumed = self._state.skipping = 0
        os.lseek(fd, 0, os.SEEK_SET)

    def _stat(self) -> os.stat_result:
        return os.fstat(self._fd)


def _opened(path: Path) -> int:
    try:
        # A FIFO that is also open for writing never reports a hang-up when its writers leave.
        mode = os.O_RDWR if stat.S_ISFIFO(os.stat(path).st_mode) else os.O_RDONLY
        return os.open(path, mode | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _unavailable(path, error) from error


def _unavailable(path: Path, error: OSError) -> UnavailableError:
    if error.errno == errno.EPERM:
        return UnavailableError(
            f"{path} may not be read: without CAP_SYSLOG the kernel refuses while kernel.dmesg_restrict is 1",
            remedy="sudo sysctl -w kernel.dmesg_restrict=0",
        )
    return UnavailableError(f"{path} cannot be opened: {error.strerror}", remedy=f"ls -l {path}")
