"""One worker process as the agent sees it: its board, its messages, what it is stuck in, its end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..native.device import LANES, Board, Call
from .device_messages import MAX_MESSAGE_BYTES, Message, Orders, parse

COMMAND = (sys.executable, "-P", "-m", "eagle_eye.probes.device_worker")
MESSAGES_PER_TURN = 256
# What a faulty library brings about; other signals come from outside and accuse no device.
CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGTRAP})
_MAX_STACK_BYTES = 4096


class WorkerProcess:
    """Raises OSError when no process can be started. Its thread must live as long as the worker: see PDEATHSIG."""

    def __init__(self, command: Sequence[str], orders: dict[str, Any], *, started_ns: int) -> None:
        self.started_ns = started_ns
        self.bad_messages = 0
        self.hung_up = False
        self.board = Board.create()
        mine, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            full = Orders(board_fd=self.board.fd, socket_fd=other.fileno(), parent_pid=os.getpid(), **orders)
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                    [*command, msgspec.json.encode(full).decode()],
                    pass_fds=(full.board_fd, full.socket_fd),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                )
            except OSError:
                mine.close()
                self.board.close()
                raise
        mine.setblocking(False)
        self._socket = mine
        self.pid = self._process.pid
        self._pid_fd = os.pidfd_open(self.pid)

    @property
    def wake_fds(self) -> list[int]:
        """Readable when it speaks or ends."""
        return [self._pid_fd] if self.hung_up else [self._pid_fd, self._socket.fileno()]

    def receive(self) -> list[Message]:
        """Messages that came since the last call, a bounded number; those that are none are counted."""
        found: list[Message] = []
        for _ in range(MESSAGES_PER_TURN):
            try:
                data, _, flags, _ = self._socket.recvmsg(MAX_MESSAGE_BYTES)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.hung_up = True
                break
            try:
                found.append(parse(data if not flags & socket.MSG_TRUNC else b""))
            except ValueError:
                self.bad_messages += 1
        return found

    def overdue(self, now_ns: int, deadlines_ns: dict[str, int], default_ns: int) -> Call | None:
        """The call that has been under way for longest beyond its group's deadline."""
        calls = [call for lane in range(LANES) if (call := self.board.in_flight(lane))]
        late = [call for call in calls if now_ns - call.started_ns >= deadlines_ns.get(call.group, default_ns)]
        return min(late, key=lambda call: call.started_ns, default=None)

    def calls(self) -> list[Call]:
        """The calls that all its threads are in, or were in when it died."""
        return [call for lane in range(LANES) if (call := self.board.in_flight(lane))]

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def ended(self) -> int | None:
        """Its exit status, a signal's number negative; None while it lives, also when SIGKILL cannot reach it."""
        return self._process.poll()

    def close(self) -> None:
        os.close(self._pid_fd)
        self._socket.close()
        self.board.close()

    def kernel_stack(self, proc: Path, thread: int) -> list[str]:
        """Where in the kernel a thread of it is, innermost first; the one function that may always be read, or []."""
        folder = proc / str(self.pid) / "task" / str(thread)
        with contextlib.suppress(OSError), (folder / "stack").open("rb") as file:
            lines = file.read(_MAX_STACK_BYTES).decode(errors="replace").splitlines()
            if frames := [line.partition("] ")[2] or line for line in lines if line]:
                return frames
        with contextlib.suppress(OSError):
            name = (folder / "wchan").read_text(errors="replace").strip()
            return [name] if name not in ("", "0") else []
        return []

    def is_uninterruptible(self, proc: Path) -> bool:
        """Whether a thread of it is in state D, in which no signal ends it."""
        with contextlib.suppress(OSError):
            for task in (proc / str(self.pid) / "task").iterdir():
                if (task / "stat").read_text(errors="replace").rpartition(") ")[2].startswith("D"):
                    return True
        return False


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
