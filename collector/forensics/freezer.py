"""Freezes bundles for the agent: takes triggers, starts a writer for each, tells what became of it."""

from __future__ import annotations

import subprocess
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any

import msgspec
import structlog
from msgspec import Struct

from ...probes.model import Event
from ...probes.probe import EventSource
from ..recorder.previous import Previous, SavedLog, last_words
from . import shelf
from .bundle import Trigger, bundle_folders
from .order import COMMAND, Order, Result
from .triggers import Policy, Triggers, pids_in

POLL_S = 0.5
MAX_WAITING = 4
# For the writing itself, beside the wait for the end of the window.
WRITE_DEADLINE_S = 60.0
SPARE_BYTES = 8 * 2**20
# Processes that grave events named shortly before a trigger are involved.
GRAVE = frozenset({"error", "fatal"})
NAMED_NS = 10 * 10**9
MAX_NAMED = 16

log = structlog.get_logger(component="forensics")


class Bounds(Struct, frozen=True):
    """How much is frozen: the window, the number of bundles and their bytes."""

    before_ns: int
    after_ns: int
    bundles: int
    limit_bytes: int


class Wanted(Struct, frozen=True):
    """A trigger at its time. Of a boot that is over, `boot_id` is set; `done` is where a person waits."""

    trigger: Trigger
    at_ns: int
    wall_offset_ns: int
    boot_id: str = ""
    done: Path | None = None
    saved_logs: tuple[SavedLog, ...] = ()


class Freezer:
    """`event`, `look_back` and `observe` may be called from any thread and never wait; all else is its own thread's.

    `common` are the fields of every order that do not change; `on_event` gets `forensics.frozen`, in that thread.
    """

    def __init__(
        self,
        home: Path,
        source: EventSource,
        *,
        policy: Policy,
        bounds: Bounds,
        common: Mapping[str, Any],
        on_event: Callable[[Event], None],
    ) -> None:
        self.home = home
        self.frozen: Counter[str] = Counter()
        self.disk: tuple[int, int] = (0, 0)
        self._source = source
        self._triggers = Triggers(policy)
        self._bounds = bounds
        self._common = common
        self._on_event = on_event
        self._waiting: Queue[Wanted] = Queue(MAX_WAITING)
        self._pids: tuple[int, ...] = ()
        self._simulated = False
        self._named: deque[tuple[int, Sequence[int]]] = deque(maxlen=MAX_NAMED)
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="forensics", daemon=True)

    @property
    def refused(self) -> dict[str, int]:
        """Triggers for which nothing was frozen, by reason."""
        return dict(self._triggers.refused)

    def start(self) -> None:
        """Returns at once."""
        self._thread.start()

    def stop(self, deadline_s: float) -> None:
        """Ends the wait of a window; blocks for at most the deadline."""
        self._stopping.set()
        process = self._process
        if process is not None:
            with suppress(OSError):
                process.terminate()
        self._thread.join(deadline_s)

    def observe(self, pids: Sequence[int], simulated: bool) -> None:
        """Processes of the engines that there are now, and whether devices are simulated."""
        self._pids, self._simulated = tuple(pids), simulated

    def event(self, event: Event) -> None:
        """Looks whether this event is a reason."""
        now_ns = time.monotonic_ns()
        if event.severity in GRAVE and (pids := pids_in(event.attributes)):
            self._named.append((now_ns, pids))
        trigger = self._triggers.judge(event, now_ns)
        if trigger is None:
            return
        near = (pid for at_ns, pids in self._named if now_ns - at_ns < NAMED_NS for pid in pids)
        trigger = msgspec.structs.replace(trigger, pids=tuple(dict.fromkeys((*trigger.pids, *near))))
        self._triggers.cover(event.at_ns + self._bounds.after_ns, event.severity)
        self._want(Wanted(trigger, event.at_ns, event.wall_offset_ns))

    def look_back(self, previous: Previous) -> None:
        """A boot that crashed, as far as it was recorded."""
        boot_id, words = previous.boot_id, last_words(previous.saved_logs)
        reason = f"the boot before crashed: {words}" if words else "the boot before ended without a stop"
        trigger = Trigger(reason=reason, kind="recorder.previous_boot", entity="host", cause=f"boot:{boot_id}")
        if self._triggers.allow(trigger, time.monotonic_ns()):
            offset_ns = previous.last_wall_ns - previous.last_ns
            self._want(Wanted(trigger, previous.last_ns, offset_ns, boot_id, saved_logs=previous.saved_logs))

    def _want(self, wanted: Wanted) -> None:
        try:
            self._waiting.put_nowait(wanted)
        except Full:
            self._triggers.refused["busy"] += 1

    # The thread

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                wanted = self._waiting.get(timeout=POLL_S)
            except Empty:
                wanted = None
            try:
                self._serve(wanted)
            except Exception as error:
                self.frozen["failed"] += 1
                log.warning("no evidence could be frozen", reason=str(error)[:500])

    def _serve(self, wanted: Wanted | None) -> None:
        if wanted is not None:
            self._freeze(wanted)
        for done, request in shelf.requests(self.home):
            now_ns = time.monotonic_ns()
            trigger = Trigger(reason=request.reason, kind="request", severity="info", pids=request.pids)
            self._freeze(Wanted(trigger, now_ns, time.time_ns() - now_ns, done=done))

    def _freeze(self, wanted: Wanted) -> None:
        shelf.make_room(
            self.home, most=self._bounds.bundles, limit_bytes=self._bounds.limit_bytes, spare_bytes=SPARE_BYTES
        )
        raw = self._run(self._order(wanted))
        if wanted.done is not None:
            shelf.answer(wanted.done, raw)
        self._tell(wanted.trigger, raw)
        folders = bundle_folders(self.home)
        self.disk = (len(folders), sum(map(shelf.size_of, folders)))

    def _order(self, wanted: Wanted) -> Order:
        trigger = msgspec.structs.replace(wanted.trigger, pids=(*wanted.trigger.pids, *self._pids))
        return Order(
            id=shelf.new_id(self.home, trigger.reason, wanted.at_ns + wanted.wall_offset_ns),
            home=str(self.home),
            trigger=trigger,
            node=self._source.node,
            cluster=self._source.cluster,
            boot_id=wanted.boot_id or self._source.boot_id,
            at_ns=wanted.at_ns,
            wall_offset_ns=wanted.wall_offset_ns,
            before_ns=self._bounds.before_ns,
            after_ns=self._bounds.after_ns,
            simulated=self._simulated,
            live=not wanted.boot_id,
            saved_logs=wanted.saved_logs,
            **self._common,
        )

    def _run(self, order: Order) -> bytes:
        """The writer's answer. What hangs is killed, and left behind where that does not help."""
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._process = process
        try:
            if self._stopping.is_set():
                process.terminate()
            deadline_s = WRITE_DEADLINE_S + (self._bounds.after_ns / 1e9 if order.live else 0)
            return process.communicate(msgspec.json.encode(order), timeout=deadline_s)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            return msgspec.json.encode({"error": f"the writer did not end within {deadline_s:g} s"})
        finally:
            self._process = None

    def _tell(self, trigger: Trigger, raw: bytes) -> None:
        try:
            result = msgspec.json.decode(raw, type=Result)
        except msgspec.DecodeError:
            self.frozen["failed"] += 1
            log.warning("no evidence could be frozen", reason=raw[:500].decode("utf-8", "replace") or "the writer died")
            return
        self.frozen["incomplete" if result.incomplete else "whole"] += 1
        self._on_event(
            self._source.make(
                "forensics.frozen",
                time.monotonic_ns(),
                entity=trigger.entity or "host",
                severity="warning" if result.incomplete else "info",
                bundle=result.id,
                reason=trigger.reason,
                trigger=trigger.event,
                folder=result.folder,
                size_bytes=result.size_bytes,
                incomplete=list(result.incomplete),
            )
        )
