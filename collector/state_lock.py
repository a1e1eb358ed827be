"""One agent per state directory: an advisory lock that the kernel drops when its last holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from ..native.errors import UsageError


class StateLock:
    """Holds `directory/lock`, which carries our pid. `directory` is made (mode 0700) when absent.

    Raises UsageError when another process holds it, OSError when the directory cannot be written.
    `fd` may be handed to a child that works in the same directory: the lock then lasts as long as either.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self.fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self.fd)
            raise UsageError(
                f"another agent (pid {holder}) uses {directory}",
                remedy="stop that agent, or give this one a directory of its own with --state-dir",
            ) from None
        # The pid is for people only; a full disk must not keep the lock from its holder.
        with contextlib.suppress(OSError):
            os.ftruncate(self.fd, 0)
            os.pwrite(self.fd, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Let go; safe twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
