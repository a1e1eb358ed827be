"""The queue of messages that must arrive, from the collector to the acknowledgement.

    head      in memory: sent and not yet acknowledged, then ready to send
    disk      older than `waiting`, not in memory; read back as the head drains
    waiting   in memory: came while the head was full, on its way to the disk

Everything that is not acknowledged when the disk's turn comes is written to the spool; online and offline
differ only in how fast the head drains. When the disk refuses or hangs, messages go on flowing through
memory; what memory cannot hold is refused and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import structlog

from ..native.errors import UsageError
from .flight import Entry, Flight
from .io_thread import IoThread
from .spool import Record, Spool

log = structlog.get_logger()
T = TypeVar("T")

WRITE_BYTES = 512 * 1024
READ_RECORDS = 512
HEAD_RECORDS = 8192
OPEN_DEADLINE_S = 2.0
RETRY_S = 1.0
CURSOR_DELAY_S = 0.1
WRITE_DELAY_S = 0.02
HUNG_AFTER_S = 1.0


class Outbox:
    """Keeps order. `head` is what can be sent and is sent; each message leaves it once it is settled.

    All methods belong to the event loop's thread and none of them blocks it. `on_ready` is called when there is
    something new to send. Set `prompt` while messages are acknowledged as fast as they come: the disk then gets
    only what is not acknowledged within WRITE_DELAY_S, the most that a kill can cost.

    Counters: `appended`, `recovered` (from an earlier agent), `settled`, `dropped` by reason; at any time
    appended + recovered = settled + dropped + queued.
    """

    def __init__(self, directory: Path, on_ready: Callable[[], None], *, spool_bytes: int, memory_bytes: int) -> None:
        self.appended = 0
        self.recovered = 0
        self.settled = 0
        self.dropped: Counter[str] = Counter()
        self.head = Flight(self._pass)
        self.prompt = False
        self._directory = directory
        self._on_ready = on_ready
        self._spool_bytes = spool_bytes
        self._half_bytes = memory_bytes // 2
        self._waiting: deque[Entry] = deque()
        self._unwritten: deque[Entry] = deque()
        self._waiting_bytes = 0
        self._behind = False
        self._loaded = 0
        self._last = 0
        self._cursor = 0
        self._spool: Spool | None = None
        self._opening: asyncio.Future[Spool] | None = None
        self._catching_up = False
        self._io = IoThread("eagle-eye-spool")
        self._todo = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._busy_since: float | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._cursor_timer: asyncio.TimerHandle | None = None
        self._error = ""

    # Life

    async def start(self) -> None:
        """Open the spool; a disk that refuses or does not answer leaves memory. Raises UsageError when it is taken."""
        self._opening = self._io.call(self._open)
        await asyncio.wait({self._opening}, timeout=OPEN_DEADLINE_S)
        if self._opening.done() and isinstance(self._opening.exception(), UsageError):
            self._io.close()
            self._opening.result()
        if self._opening.done() and self._opening.exception() is None:
            await self._adopt()
        self._todo.set()
        self._task = asyncio.create_task(self._run(), name="spool")

    async def stop(self, deadline_s: float) -> bool:
        """Write what has not arrived to the disk; False when the disk did not take it in time."""
        self._stopping.set()
        self._todo.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=deadline_s)
            if not self._task.done():
                self._task.cancel()
                self._abandon()
        self._io.close()
        return all(entry.passed for entry in self._unwritten)

    def _open(self) -> Spool:
        return Spool(self._directory, max_bytes=self._spool_bytes)

    # Collector's side

    def append(self, record: Record) -> None:
        """Take `record` over; what memory cannot hold while the disk does not take it is counted `memory_full`."""
        self.appended += 1
        entry = Entry(record)
        if self._waiting_bytes + entry.size_bytes > self._half_bytes:
            self.dropped["memory_full"] += 1
            return
        self._waiting.append(entry)
        self._waiting_bytes += entry.size_bytes
        self._unwritten.append(entry)
        self._promote()
        if self.prompt and not self._behind:
            self._write_soon()
        else:
            self._todo.set()

    def _write_soon(self) -> None:
        """What is acknowledged within WRITE_DELAY_S needs no disk: a call of its thread costs more than the sending."""
        if self._write_timer is None:
            self._write_timer = asyncio.get_running_loop().call_later(WRITE_DELAY_S, self._write_now)

    def _write_now(self) -> None:
        self._write_timer = None
        self._forget_passed()
        if self._unwritten:
            self._todo.set()

    def _forget_passed(self) -> None:
        while self._unwritten and self._unwritten[0].passed:
            self._unwritten.popleft()

    def refuse(self, reason: str) -> None:
        """Count a message that is not even queued."""
        self.appended += 1
        self.dropped[reason] += 1

    def _promote(self) -> None:
        while self._waiting and not self._behind and self._has_room():
            entry = self._waiting.popleft()
            self._waiting_bytes -= entry.size_bytes
            entry.promoted = True
            self._make_ready(entry)

    def _has_room(self) -> bool:
        return self.head.size_bytes < self._half_bytes and len(self.head) < HEAD_RECORDS

    def _make_ready(self, entry: Entry) -> None:
        self.head.add(entry)
        self._on_ready()

    def _pass(self, entry: Entry) -> None:
        if entry.drop_reason:
            self.dropped[entry.drop_reason] += 1
        else:
            self.settled += 1
        self._advance_cursor(entry)
        if self._behind and self._has_room():
            self._todo.set()
        self._promote()

    # What is held

    @property
    def queued(self) -> int:
        """Messages that have not arrived."""
        on_disk_only = self._last - self._loaded if self._behind else 0
        return len(self.head) + len(self._waiting) + on_disk_only

    @property
    def spooled(self) -> int:
        """Messages that have not arrived and would outlive a kill now."""
        return self._last - self._cursor

    @property
    def spool_bytes(self) -> int:
        """Bytes that the spool takes on disk."""
        return self._spool.size_bytes if self._spool else 0

    @property
    def disk_reason(self) -> str:
        """Why messages are not safe from a kill at the moment; "" when they are."""
        busy_s = 0.0 if self._busy_since is None else asyncio.get_running_loop().time() - self._busy_since
        if busy_s > HUNG_AFTER_S:
            return f"the disk under {self._directory} has not answered for {busy_s:.0f} s; events are held in memory"
        return self._error

    # Disk

    async def _run(self) -> None:
        while not self._stopping.is_set():
            await self._todo.wait()
            self._todo.clear()
            self._report(await self._sync())
            if self._error:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), RETRY_S)
                self._todo.set()
        self._report(await self._sync())
        self._abandon()
        if self._spool is not None:
            with contextlib.suppress(OSError):
                await self._save_cursor()
            await self._call(self._spool.close)

    def _abandon(self) -> None:
        """Count what only memory has and dies with it, as `stopped`."""
        gone = self._spool.dropped_through if self._spool else 0
        for queue in (self.head.flying, self.head.ready, self._waiting):
            kept = [entry for entry in queue if entry.number > gone or entry.done]
            self.dropped["stopped"] += len(queue) - len(kept)
            queue.clear()
            queue.extend(kept)
        self._cursor = max(self._cursor, gone)

    async def _sync(self) -> str:
        """Bring disk and memory together; why that failed, "" when it did not."""
        reason = ""
        for step in (self._adopt, self._write, self._save_cursor, self._refill):
            try:
                await step()
            except UsageError as error:
                reason = error.message
            except OSError as error:
                reason = f"the spool under {self._directory} cannot be used: {error.strerror or error}"
        return reason

    def _report(self, reason: str) -> None:
        if reason != self._error:
            self._error = reason
            if reason:
                log.warning("spool unavailable", reason=reason, held_in_memory=len(self._unwritten))
            else:
                log.info("spool available")

    async def _call(self, function: Callable[..., T], *arguments: object) -> T:
        self._busy_since = asyncio.get_running_loop().time()
        try:
            return await self._io.call(function, *arguments)
        finally:
            self._busy_since = None

    async def _adopt(self) -> None:
        """Take the spool over once it is open: what an earlier agent left goes before everything else."""
        if self._spool is not None:
            return
        if self._opening is None:
            self._opening = self._io.call(self._open)
        self._busy_since = asyncio.get_running_loop().time()
        try:
            spool = await self._opening
        finally:
            self._opening = self._busy_since = None
        self._spool = spool
        self._loaded = self._cursor = spool.acked
        self._last = spool.last
        self.recovered = spool.last - spool.acked + spool.gap + spool.torn
        self.dropped["spool_full"] += spool.gap
        self.dropped["torn"] += spool.torn
        self._behind = self._catching_up = spool.last > spool.acked

    async def _write(self) -> None:
        while self._spool is not None and (batch := self._next_batch()):
            first = await self._call(self._spool.append, [entry.record for entry in batch])
            self._written(batch, first)

    def _next_batch(self) -> list[Entry]:
        self._forget_passed()
        # Numbers of the earlier agent's records must all be loaded before memory's own follow them.
        if self._catching_up and self._unwritten and self._unwritten[0].promoted:
            return []
        batch, size_bytes = [], 0
        for entry in self._unwritten:
            if size_bytes > WRITE_BYTES:
                break
            if not entry.passed:
                batch.append(entry)
                size_bytes += entry.size_bytes
        return batch

    def _written(self, batch: list[Entry], first: int) -> None:
        while self._unwritten and self._unwritten.popleft() is not batch[-1]:
            pass
        for number, entry in enumerate(batch, first):
            entry.number = number
            if entry.passed:
                self._advance_cursor(entry)
            if entry.promoted:
                self._loaded = number
            else:
                self._waiting_bytes -= self._waiting.popleft().size_bytes
                self._behind = True
        self._last = first + len(batch) - 1
        self._count_dropped()

    def _count_dropped(self) -> None:
        """What the spool dropped is lost only where memory has not seen it."""
        if self._spool is not None and self._spool.dropped_through > self._loaded:
            self.dropped["spool_full"] += self._spool.dropped_through - self._loaded
            self._loaded = self._spool.dropped_through

    def _advance_cursor(self, entry: Entry) -> None:
        if entry.number > self._cursor:
            self._cursor = entry.number
            if not self._cursor_timer:
                self._cursor_timer = asyncio.get_running_loop().call_later(CURSOR_DELAY_S, self._wake_for_cursor)

    def _wake_for_cursor(self) -> None:
        self._cursor_timer = None
        self._todo.set()

    async def _save_cursor(self) -> None:
        if self._spool is not None and self._cursor > self._spool.acked:
            await self._call(self._spool.ack, self._cursor)

    async def _refill(self) -> None:
        while self._spool is not None and self._behind and self._has_room():
            damaged = self._spool.damaged
            found, through = await self._call(self._spool.read, self._loaded, READ_RECORDS, WRITE_BYTES)
            self.dropped["damaged"] += self._spool.damaged - damaged
            for number, record in found:
                self._make_ready(Entry(record, number))
            self._loaded = through
            self._behind = self._loaded < self._last
            self._catching_up &= self._behind
        self._promote()
