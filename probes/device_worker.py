"""The process that calls a vendor's library. It may hang, crash or be killed at any moment.

It is a fresh interpreter without numpy. Its main thread samples the hot groups at each beat and the slow ones once
a second; a second thread looks for changes and processes, a third waits for the vendor's events.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Protocol

import msgspec

from ..native.device import Board
from ..native.errors import EagleEyeError, UnavailableError
from .device_messages import Failure, Inventory, Message, Occurrence, Orders, Process, Processes, Target, encode

EXIT_FAILED, EXIT_CHANGED = 3, 4
SLOW_NS = 1_000_000_000
EVENT_WAIT_MS = 1000
RARE_LANE, EVENT_LANE = 1, 2

_PR_SET_PDEATHSIG = 1

# Marks a group of vendor calls in flight: `with calls("identity", slot): ...`
Calls = Callable[[str, int | None], AbstractContextManager[None]]


class Vendor(Protocol):
    """A vendor's library, as a worker uses it. Every method may raise EagleEyeError, hang or crash."""

    hot: int
    slow: int

    def open(self, calls: Calls) -> None:
        """Loads and initializes the library."""
        ...

    def inventory(self, calls: Calls, *, avoid: Sequence[Target], only: Target | None) -> Inventory:
        """Who is there; watches the devices of `slots`."""
        ...

    def sample(self, board: Board, groups: int) -> None:
        """Reads `groups` of all watched devices onto the board."""
        ...

    def present(self, calls: Calls) -> dict[int, str]:
        """The uuid by index of the devices that answer; "" for those that do not, or must not be asked."""
        ...

    def processes(self, calls: Calls) -> dict[str, tuple[Process, ...]]:
        """Processes by the uuid of their device."""
        ...

    def wait(self, timeout_ms: int) -> list[Occurrence]:
        """What happened since the last call, waiting for something to happen."""
        ...


class Worker:
    def __init__(self, orders: Orders, vendor: Vendor) -> None:
        self._orders = orders
        self._vendor = vendor
        self._board = Board(orders.board_fd)
        self._socket = socket.socket(fileno=orders.socket_fd)

    def run(self) -> None:
        """Works until the process ends. Raises EagleEyeError when the library cannot be used."""
        self._vendor.open(self._calls(0))
        inventory = self._vendor.inventory(self._calls(0), avoid=self._orders.avoid, only=self._orders.only)
        _require(self._orders.only, inventory)
        self._tell(inventory)
        for work in (self._watch_changes, self._watch_events):
            threading.Thread(target=self._guarded, args=(work,), daemon=True).start()
        self._beat()

    def _beat(self) -> None:
        due_ns = time.monotonic_ns()
        slow_ns = due_ns
        while True:
            groups = self._vendor.hot
            if due_ns >= slow_ns:
                groups |= self._vendor.slow
                slow_ns += SLOW_NS
            self._vendor.sample(self._board, groups)
            due_ns = next_beat(due_ns, self._orders.rate_ns)
            time.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)

    def _watch_changes(self) -> None:
        calls = self._calls(RARE_LANE)
        known = self._vendor.present(calls)
        while True:
            for uuid, processes in self._vendor.processes(calls).items():
                self._tell(Processes(uuid, processes))
            time.sleep(SLOW_NS / 1e9)
            now = self._vendor.present(calls)
            if differ(known, now):
                os._exit(EXIT_CHANGED)
            known |= {index: uuid for index, uuid in now.items() if uuid}

    def _watch_events(self) -> None:
        while True:
            with self._board.call("events", lane=EVENT_LANE):
                found = self._vendor.wait(EVENT_WAIT_MS)
            for occurrence in found:
                self._tell(occurrence)

    def _guarded(self, work: Callable[[], None]) -> None:
        """A thread that fails takes the process along: what is half blind must be seen to be."""
        try:
            work()
        except Exception as error:
            self.tell_failure(error)
        finally:
            os._exit(EXIT_FAILED)

    def tell_failure(self, error: Exception) -> None:
        """Says why this process ends, as far as anybody listens."""
        remedy = getattr(error, "remedy", "")
        message = error.message if isinstance(error, EagleEyeError) else f"{type(error).__name__}: {error}"
        with suppress(OSError):
            self._tell(Failure(message[:1024], remedy[:1024], isinstance(error, UnavailableError)))

    def _calls(self, lane: int) -> Calls:
        return lambda group, slot: self._board.call(group, slot=slot, lane=lane)

    def _tell(self, message: Message) -> None:
        self._socket.send(encode(message))


def _require(only: Target | None, inventory: Inventory) -> None:
    """A worker for one device has nothing to watch without it: it ends, and is tried again later."""
    if only and not inventory.slots:
        why = inventory.unreachable.get(only.index, "the library does not list it")
        raise EagleEyeError(f"device {only.index} ({only.uuid}) cannot be reached: {why}")


def next_beat(due_ns: int, rate_ns: int) -> int:
    """When the beat after `due_ns` is due; those that are over are left out, and the rest keep their places."""
    late = (time.monotonic_ns() - due_ns) // rate_ns
    return due_ns + rate_ns * max(1, late + 1)


def differ(before: dict[int, str], now: dict[int, str]) -> bool:
    """Whether there are more, fewer or other devices; one that does not answer is not another one."""
    if before.keys() != now.keys():
        return True
    return any(uuid and before[index] != uuid for index, uuid in now.items())


def end_with(parent_pid: int) -> None:
    """Kills this process when its parent ends, however that ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(EXIT_FAILED)


def main(vendor: Callable[[Orders], Vendor] | None = None) -> None:
    """The orders are the first argument, in JSON."""
    orders = msgspec.json.decode(sys.argv[1], type=Orders)
    end_with(orders.parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the agent, which ends its workers itself
    worker = Worker(orders, (vendor or vendor_of)(orders))
    try:
        worker.run()
    except Exception as error:
        worker.tell_failure(error)
    finally:
        # Not exit(): another thread may sit in the library, whose own ending must not be waited for.
        os._exit(EXIT_FAILED)


def vendor_of(orders: Orders) -> Vendor:
    if orders.vendor == "nvidia":
        from .nvidia import Nvidia

        return Nvidia(orders.library)
    from .ascend import Ascend

    return Ascend(orders.library)


if __name__ == "__main__":
    main()
