"""Takes what the agent sees and writes it once a second, in a thread that alone waits for the disk."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from msgspec import Struct

from ...native.errors import EagleEyeError
from ...probes.model import EngineState, Event, Health, HealthState
from ...probes.paths import Paths
from ...probes.probe import EventSource
from .engine_queue import EngineQueue
from .previous import Previous, examine, tell
from .segment import Item, Kind
from .store import Store

if TYPE_CHECKING:
    from ...probes.engine.layout import StepBatch

FLUSH_S = 1.0
QUEUE_BYTES = 8 * 2**20
# Bulk may fill half of the queue, so that events still find a place while the disk is stuck.
BULK: frozenset[str] = frozenset({"snapshot"})
ITEM_BYTES = 100
HUNG_AFTER_S = 5.0
RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0)
RECENT_S = 60.0

log = structlog.get_logger(component="recorder")


class RecorderStatistics(Struct, frozen=True):
    """Counters since the start and the state now. `dropped` is by (kind, reason)."""

    records: Mapping[str, int]
    dropped: Mapping[tuple[str, str], int]
    written_bytes: int
    disk_bytes: int
    files: int
    set_aside: int
    flush_seconds: float


class Recorder:
    """The black box of one agent. All but `stop` may be called from any thread; none of them waits.

    `payload`s are as they went to NATS; `encoding` says how. Events of the recorder itself go to `on_event`, called
    in its thread, and what it found of the recording before to `on_previous`.
    """

    def __init__(
        self,
        folder: Path,
        source: EventSource,
        *,
        limit_bytes: int,
        keep_ns: int,
        encoding: str = "json",
        pstore: Sequence[Path] = (),
        on_event: Callable[[Event], None] = lambda event: None,
        on_previous: Callable[[Previous], None] = lambda previous: None,
    ) -> None:
        self.folder = folder
        self._source = source
        self._limits = {"limit_bytes": limit_bytes, "keep_ns": keep_ns}
        self._about = {
            "boot_id": source.boot_id,
            "node": source.node,
            "cluster": source.cluster,
            "encoding": encoding,
            "opened_wall_ns": str(time.time_ns()),
        }
        self._pstore = pstore
        self._on_event = on_event
        self._on_previous = on_previous
        self._lock = threading.Lock()
        self._queue: deque[tuple[Kind, int, bytes]] = deque()
        self._queued_bytes = 0
        self._engines = EngineQueue()
        self._wake = threading.Event()
        self._stopping = False
        self._records: Counter[str] = Counter()
        self._dropped: Counter[tuple[str, str]] = Counter()
        self._last_drop_s = float("-inf")
        self._written_bytes = 0
        self._disk: tuple[int, int, int] = (0, 0, 0)
        self._flush_s = 0.0
        self._busy_since_s = 0.0
        self._last_success_ns = 0
        self._reason = ""
        self._state: HealthState = "starting"
        self._store: Store | None = None
        self._ended: Future[None] = Future()
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)

    # What the agent calls

    def start(self) -> None:
        """Returns at once; the folder is opened in the thread."""
        self._thread.start()

    async def stop(self, deadline_s: float) -> bool:
        """Writes what waits and marks the end; False when the disk did not take it in time."""
        self._stopping = True
        self._wake.set()
        done, _ = await asyncio.wait({asyncio.wrap_future(self._ended)}, timeout=deadline_s)
        return bool(done)

    def snapshot(self, payload: bytes | None, at_ns: int) -> None:
        """A snapshot, encoded."""
        self._add("snapshot", at_ns, payload)

    def event(self, payload: bytes | None, at_ns: int) -> None:
        """An event, encoded."""
        self._add("event", at_ns, payload)

    def stall(self, payload: bytes | None, at_ns: int) -> None:
        """A stall, encoded."""
        self._add("stall", at_ns, payload)

    def engines(self, states: Sequence[EngineState], batches: Sequence[StepBatch] = ()) -> None:
        """States of engines as they changed, and what their schedulers did."""
        if states or batches:
            self._engines.add(states, batches)

    def kmsg(self, records: Sequence[Mapping[str, Any]], at_ns: int) -> None:
        """Kernel records that were no events, as one record in JSON; each has the attributes of `kmsg.record`."""
        if records:
            self._add("kmsg", at_ns, msgspec.json.encode(records))

    def _add(self, kind: Kind, at_ns: int, payload: bytes | None) -> None:
        if payload is None:
            return
        room_bytes = QUEUE_BYTES // 2 if kind in BULK else QUEUE_BYTES
        with self._lock:
            if self._queued_bytes + len(payload) + ITEM_BYTES > room_bytes:
                self._drop(kind, "queue_full", 1)
                return
            self._queued_bytes += len(payload) + ITEM_BYTES
            self._queue.append((kind, at_ns, payload))

    def _drop(self, kind: str, reason: str, count: int) -> None:
        self._dropped[kind, reason] += count
        self._last_drop_s = time.monotonic()

    # The thread

    def _work(self) -> None:
        failures = 0
        try:
            self._busy(self._open)
            while not self._stopping:
                self._wake.wait(FLUSH_S if not failures else RETRY_S[min(failures, len(RETRY_S)) - 1])
                failures = 0 if self._busy(self._flush) else failures + 1
            if self._busy(self._flush):
                self._state = "off"
        except (EagleEyeError, OSError, sqlite3.Error) as error:
            self._state, self._reason = "failing", f"nothing is recorded: {error}"
            log.warning("the recorder does not work", reason=str(error))
        except Exception as error:
            self._state, self._reason = "failing", f"nothing is recorded: {type(error).__name__}: {error}"[:500]
            log.exception("the recorder broke")
        finally:
            self._close()
            self._refuse_all()
            self._ended.set_result(None)

    def _busy(self, step: Callable[[], bool]) -> bool:
        started_s = self._busy_since_s = time.monotonic()
        try:
            return step()
        finally:
            self._busy_since_s = 0.0
            self._flush_s = time.monotonic() - started_s

    def _open(self) -> bool:
        self._store = Store(self.folder, about=self._about, **self._limits)
        previous = examine(self._store, self._source.boot_id, self._pstore)
        now_ns = time.monotonic_ns()
        for saved in previous.saved_logs:
            self._add("pstore", now_ns, msgspec.json.encode(saved))
        told = tell(previous, self._source.boot_id)
        if told is not None:
            kind, severity, attributes = told
            self._on_event(
                self._source.make(kind, now_ns, entity="host", severity=severity, **attributes)  # type: ignore[arg-type]
            )
        self._on_previous(previous)
        return self._flush()

    def _take_queue(self) -> dict[str, list[Item]]:
        with self._lock:
            queue, self._queue = self._queue, deque()
            self._queued_bytes = 0
        batches: dict[str, list[Item]] = {}
        for kind, at_ns, payload in queue:
            batches.setdefault(kind, []).append((at_ns, payload))
        return batches | self._engines.take()

    def _flush(self) -> bool:
        assert self._store is not None
        batches = self._take_queue()
        try:
            if batches:
                self._written_bytes += self._store.write(batches)
                self._records.update({kind: len(items) for kind, items in batches.items()})
            self._disk = (self._store.size_bytes, len(self._store.segments) + 1, self._store.set_aside)
        except (OSError, sqlite3.Error) as error:
            self._fail(batches, error)
            return False
        self._state, self._reason, self._last_success_ns = "ok", "", time.monotonic_ns()
        return True

    def _fail(self, batches: Mapping[str, Sequence[Item]], error: Exception) -> None:
        """What could not be written is gone; the next flush tries a new file."""
        assert self._store is not None
        full = _is_full(error)
        for kind, items in batches.items():
            self._drop(kind, "disk_full" if full else "disk_error", len(items))
        if self._state != "failing":
            log.warning("the recorder cannot write", reason=str(error), folder=str(self.folder))
        self._state, self._reason = "failing", f"the disk does not take the recording: {error}"[:500]
        for step in (self._store.close_segment, self._store.prune):
            with suppress(OSError, sqlite3.Error):
                step()

    def _close(self) -> None:
        if self._store is not None:
            with suppress(OSError, sqlite3.Error):
                self._store.close(**({"end": "clean"} if self._stopping else {}))

    def _refuse_all(self) -> None:
        for kind, items in self._take_queue().items():
            self._drop(kind, "stopped", len(items))

    # What others see

    def statistics(self) -> RecorderStatistics:
        """A reading of now."""
        with self._lock:
            dropped = dict(self._dropped)
        dropped |= {(kind, "queue_full"): count for kind, count in self._engines.dropped.items() if count}
        disk_bytes, files, set_aside = self._disk
        return RecorderStatistics(
            dict(self._records), dropped, self._written_bytes, disk_bytes, files, set_aside, self._flush_s
        )

    def health(self) -> Health:
        """Of the recorder, in the words of a probe's health."""
        state, reason = self._state, self._reason
        busy_since_s = self._busy_since_s
        if busy_since_s and time.monotonic() - busy_since_s > HUNG_AFTER_S:
            state, reason = "hung", f"the disk has not answered for {time.monotonic() - busy_since_s:.0f} s"
        elif state == "ok" and time.monotonic() - self._last_drop_s < RECENT_S:
            state, reason = "degraded", "records were dropped in the last minute, for the disk was slow"
        dropped: Counter[str] = Counter()
        for (_, why), count in self.statistics().dropped.items():
            dropped[why] += count
        return Health(
            probe="recorder",
            state=state,
            reason=reason,
            events=sum(self._records.values()),
            dropped=dict(dropped),
            last_success_ns=self._last_success_ns,
            duration_ns=int(self._flush_s * 1e9),
        )


def pstore_folders(paths: Paths, archive: Path) -> tuple[Path, ...]:
    """Where the kernel's saved logs are: its own file system, and where systemd moves them."""
    return (paths.sys / "fs/pstore", archive)


def _is_full(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "sqlite_errorname", "") == "SQLITE_FULL"
