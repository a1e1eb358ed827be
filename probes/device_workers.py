"""Keeps device workers: one per library for all healthy devices, one alone for each device that hung or crashed it.

A thread of its own watches the calls in flight. A worker whose call is past its deadline is killed and replaced by
one that leaves that device alone; the device is tried again by a worker of its own, later each time, and stays there
when it answers, so that it cannot hold up the others a second time. Nothing here waits for a worker.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import structlog

from ..native.device import Call
from ..native.errors import EagleEyeError
from .device_events import DeviceEvents
from .device_faults import FatalFaults
from .device_messages import Failure, Inventory, Message, Occurrence, Process, Processes, Target
from .device_process import COMMAND, CRASHES, WorkerProcess, signal_name
from .device_seats import Library, Seat, View
from .device_times import CallTimes
from .device_worker import EVENT_WAIT_MS, EXIT_CHANGED, EXIT_FAILED
from .model import Device
from .probe import Series

INIT_DEADLINE_NS = 30_000_000_000
STEADY_NS = 30_000_000_000
DYING_CHECK_NS = 100_000_000
UNKILLABLE_NS = 1_000_000_000


log = structlog.get_logger()


class Workers:
    """Starts at once. `proc` is where kernel stacks of workers are read."""

    def __init__(
        self,
        libraries: Sequence[Library],
        events: DeviceEvents,
        *,
        rate_ns: int,
        deadline_ns: int,
        retry: int,
        proc: Path = Path("/proc"),
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._events = events
        self._rate_ns = rate_ns
        self._deadline_ns = deadline_ns
        init_ns = max(INIT_DEADLINE_NS, deadline_ns)
        self._deadlines_ns = {"init": init_ns, "events": EVENT_WAIT_MS * 1_000_000 + deadline_ns}
        self._proc = proc
        self._command = command
        self._seats = [Seat(library) for library in libraries]
        self._dying: list[tuple[WorkerProcess, int]] = []
        self.faults = FatalFaults(retry)
        self._times = CallTimes()
        self.inventories: dict[str, Inventory] = {}
        self.processes: dict[str, tuple[Process, ...]] = {}
        self.bad_messages = 0
        self._lock = threading.RLock()
        self._first = threading.Event()
        self._stopping = False
        self._stop_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._work, name="device-workers", daemon=True)
        self._thread.start()

    # For the probe, in its own thread.

    def wait_for_first(self, timeout_s: float) -> None:
        """Until every library has told its devices, or failed to."""
        self._first.wait(timeout_s)

    @contextlib.contextmanager
    def views(self) -> Iterator[list[View]]:
        """Boards that stay open inside the block, which must be short.

        Raises EagleEyeError when nobody looks after the workers any more.
        """
        if not self._thread.is_alive():
            raise EagleEyeError("the thread that keeps the device workers has ended")
        with self._lock:
            yield [View(seat.inventory, seat.worker.board) for seat in self._seats if seat.inventory and seat.worker]

    def call_times(self) -> list[Series]:
        with self._lock:
            return list(self._times.series([seat.worker.board for seat in self._seats if seat.worker]))

    def stuck(self) -> dict[str, bool]:
        """Devices that are kept apart because their calls hung or crashed; true for those that are left alone."""
        with self._lock:
            alone = self._alone().items()
            return {uuid: seat.worker is None and not self.faults.may_enter(uuid) for uuid, seat in alone}

    def troubles(self) -> list[str]:
        """One sentence for each thing that keeps devices from being seen."""
        with self._lock:
            return [*self._failed(), *self._quarantined(), *self._unreachable(), *self._unkillable()]

    def close(self) -> None:
        """Ends every worker; the thread stays behind when one of them cannot be ended. Safe twice."""
        if not self._stopping:
            self._stopping = True
            os.eventfd_write(self._stop_fd, 1)
        self._thread.join(1.0)

    def _failed(self) -> Iterator[str]:
        works = any(inventory.devices for inventory in self.inventories.values())
        for seat in self._seats:
            # Where one vendor's devices are, another vendor's library without a driver is only left over.
            if seat.trouble and not seat.only and not (seat.unavailable and works):
                yield f"{seat.library.vendor}: {seat.trouble}"

    def _alone(self) -> dict[str, Seat]:
        return {seat.only.uuid: seat for seat in self._seats if seat.only and seat.stuck_since_ns}

    def _quarantined(self) -> Iterator[str]:
        left = self.stuck()
        for uuid, seat in self._alone().items():
            state = f"left alone after fault {self.faults.code(uuid)}" if left[uuid] else "tried again by itself"
            words = f"{self._events.label(uuid)} hung or crashed the vendor's library and is {state}"
            yield ": ".join(filter(None, (words, seat.trouble)))

    def _unreachable(self) -> Iterator[str]:
        for inventory in self.inventories.values():
            for index, why in inventory.unreachable.items():
                yield f"{inventory.vendor} device {index} cannot be reached: {why}"

    def _unkillable(self) -> Iterator[str]:
        now_ns = time.monotonic_ns()
        for worker, killed_ns in self._dying:
            if now_ns - killed_ns > UNKILLABLE_NS and worker.is_uninterruptible(self._proc):
                yield f"worker {worker.pid} sleeps in the kernel, where not even SIGKILL reaches it"

    # In the thread of its own, which is the parent that the workers must not outlive.

    def _work(self) -> None:
        while not self._stopping:
            with self._lock:
                until_ns = self._turn(time.monotonic_ns())
            self._wait(until_ns)
        with self._lock:
            for seat in self._seats:
                self._retire(seat, time.monotonic_ns())
        while self._dying:
            self._reap()
            time.sleep(0.005)
        os.close(self._stop_fd)

    def _turn(self, now_ns: int) -> int:
        """Looks after every seat; until when nothing can become due unless somebody speaks or ends."""
        self._reap()
        due_ns = [now_ns + self._deadline_ns]
        for seat in list(self._seats):
            self._serve(seat, now_ns)
            due_ns += self._due(seat)
        if all(seat.inventory or seat.trouble or seat.failures for seat in self._seats):
            self._first.set()
        return min(due_ns)

    def _serve(self, seat: Seat, now_ns: int) -> None:
        if seat.worker is None:
            if now_ns >= seat.not_before_ns:
                self._start(seat, now_ns)
            return
        self._hear(seat, seat.worker)
        call = seat.worker.overdue(now_ns, self._deadlines_ns, self._deadline_ns)
        status = seat.worker.ended()
        if status is not None:
            self._hear(seat, seat.worker)
            self._ended(seat, status, now_ns)
        elif call is not None:
            self._stuck(seat, call, now_ns)
        elif seat.worker.hung_up:
            seat.worker.kill()
        elif seat.recovered:
            self._recovered(seat, now_ns)
        elif seat.inventory and seat.failures and not seat.stuck_since_ns:
            seat.failures *= now_ns - seat.worker.started_ns < STEADY_NS

    def _due(self, seat: Seat) -> list[int]:
        if seat.worker is None:
            return [seat.not_before_ns] if self._allowed(seat) else []
        calls = seat.worker.calls()
        due_ns = [call.started_ns + self._deadlines_ns.get(call.group, self._deadline_ns) for call in calls]
        return [*due_ns, time.monotonic_ns() + 4 * self._rate_ns] if seat.stuck_since_ns else due_ns

    def _wait(self, until_ns: int) -> None:
        poll = select.poll()
        poll.register(self._stop_fd, select.POLLIN)
        for seat in self._seats:
            if seat.worker:
                for fd in seat.worker.wake_fds:
                    poll.register(fd, select.POLLIN)
        if self._dying:
            until_ns = min(until_ns, time.monotonic_ns() + DYING_CHECK_NS)
        poll.poll(max(0, until_ns - time.monotonic_ns()) / 1e6)

    def _allowed(self, seat: Seat) -> bool:
        return not seat.is_waiting and (seat.only is None or self.faults.may_enter(seat.only.uuid))

    def _faulty(self, seat: Seat) -> list[str]:
        """The devices with a fatal fault that a worker in this seat would touch."""
        if seat.only:
            return [seat.only.uuid]
        known = {uuid: self._events.devices.get(uuid) for uuid in self.faults.devices() if uuid not in seat.avoid}
        return [uuid for uuid, device in known.items() if device and device.vendor == seat.library.vendor]

    def _start(self, seat: Seat, now_ns: int) -> None:
        if not self._allowed(seat):
            return
        for uuid in self._faulty(seat):
            if not self.faults.enter(uuid):
                self._quarantine(seat, uuid, 0, now_ns)
        orders = {
            "vendor": seat.library.vendor,
            "library": seat.library.path,
            "rate_ns": self._rate_ns,
            "avoid": tuple(seat.avoid.values()),
            "only": seat.only,
        }
        seat.inventory = None
        try:
            seat.worker = WorkerProcess(self._command, orders, started_ns=now_ns)
        except (OSError, EagleEyeError) as error:
            seat.trouble = f"no worker can be started: {error}"
            seat.back_off(now_ns)

    def _retire(self, seat: Seat, now_ns: int) -> None:
        """The worker is ended, however long that takes; the seat is free at once."""
        worker, seat.worker = seat.worker, None
        if worker is None:
            return
        worker.kill()
        self._times.retire(worker.board)
        self.bad_messages += worker.bad_messages
        worker.close()
        self._dying.append((worker, now_ns))

    def _reap(self) -> None:
        self._dying = [(worker, killed_ns) for worker, killed_ns in self._dying if worker.ended() is None]

    # ---- what workers do ----

    def _hear(self, seat: Seat, worker: WorkerProcess) -> None:
        for message in worker.receive():
            self._take(seat, message)

    def _take(self, seat: Seat, message: Message) -> None:
        if isinstance(message, Inventory):
            self._take_inventory(seat, message)
        elif isinstance(message, Processes):
            if message.uuid in self._events.devices:
                self.processes[message.uuid] = message.processes
        elif isinstance(message, Occurrence):
            self._take_occurrence(message)
        elif isinstance(message, Failure):
            seat.trouble = " - ".join(filter(None, (message.message, message.remedy)))
            seat.unavailable = message.unavailable

    def _take_inventory(self, seat: Seat, inventory: Inventory) -> None:
        found = {device.uuid: device for device in inventory.devices}
        if {inventory.vendor, *(device.vendor for device in found.values())} != {seat.library.vendor}:
            self.bad_messages += 1
            return
        seat.take(inventory)
        if seat.only is None:
            self._compare(seat, inventory, found)
        elif found and seat.only.uuid not in found:
            self._rename(seat, next(iter(found)))
        self._events.devices |= found

    def _compare(self, seat: Seat, inventory: Inventory, found: dict[str, Device]) -> None:
        """Tells which devices came and went since the library's last inventory."""
        known = self._events.devices
        apart = {one.only.uuid for one in self._seats if one.only}
        before = {uuid for uuid, device in known.items() if device.vendor == inventory.vendor} - apart
        gone = {uuid for uuid in before - set(found) if known[uuid].parent_uuid not in apart}
        is_first = inventory.vendor not in self.inventories
        self.inventories[inventory.vendor] = inventory
        for uuid in gone:
            why = inventory.unreachable.get(known[uuid].index, "the library no longer lists it")
            self._events.report("device.vanished", uuid, "error", reason=why)
            del known[uuid]
            self.processes.pop(uuid, None)
            self.faults.close(uuid)
        known |= found
        for uuid in [] if is_first else sorted(set(found) - before):
            self._events.report("device.appeared", uuid)
        for one in self._seats:
            if one.only and one.only.uuid in inventory.moved:
                one.only = seat.avoid[one.only.uuid]

    def _rename(self, seat: Seat, uuid: str) -> None:
        """A device that hung before it had said who it is now has."""
        assert seat.only is not None
        nameless = seat.only.uuid
        self._events.devices.pop(nameless, None)
        seat.only = Target(uuid, seat.only.index)
        for one in self._seats:
            if nameless in one.avoid:
                del one.avoid[nameless]
                one.avoid[uuid] = seat.only

    def _take_occurrence(self, one: Occurrence) -> None:
        if one.uuid in self._events.devices:
            self.faults.take(one)
        self._events.report_foreign(one.kind, one.uuid, one.severity, one.at_ns, one.attributes)

    def _stuck(self, seat: Seat, call: Call, now_ns: int) -> None:
        assert seat.worker is not None
        uuid = seat.uuid(call.slot)
        self._events.report(
            "device.call_stuck",
            uuid,
            "error",
            group=call.group,
            function=seat.function(call.function),
            stuck_seconds=(now_ns - call.started_ns) / 1e9,
            stack=seat.worker.kernel_stack(self._proc, call.thread),
            uninterruptible=seat.worker.is_uninterruptible(self._proc),
            worker_pid=seat.worker.pid,
            library=seat.library.path,
        )
        self._replace(seat, call, call.started_ns, now_ns)

    def _ended(self, seat: Seat, status: int, now_ns: int) -> None:
        assert seat.worker is not None
        if status == EXIT_CHANGED and now_ns - seat.worker.started_ns > self._deadline_ns:
            self._retire(seat, now_ns)
            return
        # The sampler's call comes before those of other threads, waiting for events last.
        call = next(iter(seat.worker.calls()), None) if -status in CRASHES else None
        uuid = seat.uuid(call.slot) if call else seat.uuid(None)
        if status not in (EXIT_CHANGED, EXIT_FAILED):
            self._report_death(seat, status, call, uuid)
        self._replace(seat, call, now_ns, now_ns)

    def _report_death(self, seat: Seat, status: int, call: Call | None, uuid: str) -> None:
        assert seat.worker is not None
        self._events.report(
            "device.worker_died",
            uuid,
            "error",
            signal=signal_name(-status) if status < 0 else "",
            exit_code=status if status >= 0 else None,
            group=call.group if call else "",
            function=seat.function(call.function) if call else "",
            worker_pid=seat.worker.pid,
            library=seat.library.path,
        )
        if not seat.trouble:
            seat.trouble = (
                f"its worker ended by {signal_name(-status)}" if status < 0 else f"its worker ended: {status}"
            )

    def _replace(self, seat: Seat, call: Call | None, since_ns: int, now_ns: int) -> None:
        """Frees the seat; the device of `call`, if any, gets one of its own."""
        former = seat.worker
        self._retire(seat, now_ns)
        uuid = seat.uuid(call.slot) if call else ""
        if seat.only is None and uuid:
            assert call is not None
            solo = self._quarantine(seat, uuid, call.slot or 0, since_ns)
            solo.back_off(now_ns)
            solo.former, seat.trouble = former, ""
            return
        seat.former = former
        seat.stuck_since_ns = seat.stuck_since_ns or (since_ns if seat.only else 0)
        seat.back_off(now_ns)

    def _quarantine(self, seat: Seat, uuid: str, index: int, since_ns: int) -> Seat:
        """From now on the device has a seat of its own."""
        known = self._events.devices.get(uuid)
        if known and known.parent_uuid:
            known = self._events.devices.get(known.parent_uuid, known)
        device = known or Device(vendor=seat.library.vendor, index=index, uuid=uuid)
        self._events.devices[device.uuid] = device
        solo = Seat(seat.library, Target(device.uuid, device.index))
        solo.stuck_since_ns = since_ns
        seat.avoid[device.uuid] = Target(device.uuid, device.index)
        self._seats.append(solo)
        log.warning("device is kept apart", device=self._events.label(device.uuid))
        return solo

    def _recovered(self, seat: Seat, now_ns: int) -> None:
        assert seat.only is not None
        self._events.report("device.call_recovered", seat.only.uuid, stuck_seconds=(now_ns - seat.stuck_since_ns) / 1e9)
        seat.stuck_since_ns = 0
