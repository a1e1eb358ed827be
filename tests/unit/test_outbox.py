"""The outbox against a plain model: whatever happens to sender, disk and process, in whatever order."""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eagle_eye.collector import outbox as outbox_module
from eagle_eye.collector.outbox import Outbox
from eagle_eye.collector.spool import Record
from eagle_eye.native.errors import UsageError

SPOOL_BYTES = 64 * 1024
MEMORY_BYTES = 16 * 1024


def record(number: int, size: int) -> Record:
    return Record(str(number), "s", "application/json", b"x" * size)


def make(directory: Path, spool_bytes: int = SPOOL_BYTES) -> Outbox:
    return Outbox(directory, lambda: None, spool_bytes=spool_bytes, memory_bytes=MEMORY_BYTES)


async def quiet(box: Outbox) -> None:
    """Until the disk has nothing to do, or refuses."""
    for _ in range(2000):
        idle = box._busy_since is None and not box._todo.is_set()
        if idle and (box._error or all(entry.passed or entry.number for entry in box._unwritten)):
            return
        await asyncio.sleep(0.001)
    raise AssertionError("the disk is never done")


def check_books(box: Outbox) -> None:
    assert box.appended + box.recovered == box.settled + sum(box.dropped.values()) + box.queued
    assert box.queued >= 0


class World:
    """One life of the directory after another: what was sent, in the order of its first time, and what was stored."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.produced = 0
        self.dropped = 0
        self.deaths = 0
        self.first_sent: list[int] = []
        self.stored: set[int] = set()
        self.flying: list[tuple[int, int]] = []
        self.lost_in_crash: set[int] = set()
        self.box = make(directory)

    def append(self, count: int, size: int) -> None:
        for _ in range(count):
            self.produced += 1
            before = self.box.dropped.total()
            self.box.append(record(self.produced, size))
            if self.box.dropped.total() > before:
                self.lost_in_crash.add(self.produced)

    async def append_slowly(self, count: int, size: int) -> None:
        """Slower than the disk, so that memory refuses nothing and the disk takes what the head does not."""
        for number in range(count):
            self.append(1, size)
            if number % 4 == 3:
                await quiet(self.box)

    def send(self, count: int) -> None:
        for _ in range(count):
            message = self.box.head.peek()
            if message is None:
                return
            number = int(message.id)
            self.flying.append((self.box.head.take(), number))
            if number not in self.first_sent:
                self.first_sent.append(number)

    def settle(self, count: int) -> None:
        for token, number in self.flying[:count]:
            assert self.box.head.settle(token)
            assert not self.box.head.settle(token)
            self.stored.add(number)
        del self.flying[:count]

    def settle_out_of_turn(self, index: int) -> None:
        if index < len(self.flying):
            token, number = self.flying.pop(index)
            assert self.box.head.settle(token)
            self.stored.add(number)

    def rewind(self) -> None:
        late = [token for token, _ in self.flying]
        self.box.head.rewind()
        self.flying.clear()
        assert not any(map(self.box.head.settle, late))

    async def die(self) -> None:
        """What the kernel does at a kill: nothing more is written, descriptors close."""
        await quiet(self.box)
        box = self.box
        on_disk_from = box._cursor
        self.lost_in_crash |= {
            int(entry.record.id) for entry in box._unwritten if entry.record is not None and not entry.number
        }
        self.dropped += box.dropped["spool_full"]
        self.deaths += 1
        assert box._task is not None
        box._task.cancel()
        await asyncio.wait({box._task})
        spool = box._spool
        assert spool is not None
        assert on_disk_from <= spool.last
        for fd in (spool._write_fd, spool._cursor_fd, spool._lock.fd):
            if fd >= 0:
                os.close(fd)
        box._io.close()
        self.flying.clear()
        self.box = make(self.directory)
        await self.box.start()

    async def finish(self) -> None:
        self.rewind()
        for _ in range(2000):
            await quiet(self.box)
            self.send(10_000)
            if not self.flying:
                break
            self.settle(10_000)
            check_books(self.box)
        assert self.box.queued == 0
        self.dropped += self.box.dropped["spool_full"]
        await self.box.stop(2.0)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 20), st.integers(0, 900)),
        st.tuples(st.just("append slowly"), st.integers(1, 120), st.sampled_from([0, 300, 900])),
        st.tuples(st.just("send"), st.integers(1, 30)),
        st.tuples(st.just("settle"), st.integers(1, 30)),
        st.tuples(st.just("settle one out of turn"), st.integers(0, 30)),
        st.tuples(st.sampled_from(["rewind", "quiet", "turn", "die", "fill disk", "free disk"])),
    ),
    min_size=5,
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_order_is_kept_and_every_message_is_accounted_for(script) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox_module, "RETRY_S", 0.005)
        patch.setattr(outbox_module, "CURSOR_DELAY_S", 0.001)
        patch.setattr(outbox_module, "READ_RECORDS", 5)
        asyncio.run(play(World(Path(name) / "spool"), script))


async def play(world: World, script) -> None:
    await world.box.start()
    full = False
    for step, *arguments in script:
        match step:
            case "append":
                world.append(*arguments)
            case "send":
                world.send(*arguments)
            case "settle":
                world.settle(*arguments)
            case "append slowly":
                await world.append_slowly(*arguments)
            case "settle one out of turn":
                world.settle_out_of_turn(*arguments)
            case "rewind":
                world.rewind()
            case "quiet":
                await quiet(world.box)
            case "turn":
                await asyncio.sleep(0)
            case "die":
                await world.die()
                full = False
            case "fill disk" if not full:
                full = True
                world.box._spool.append = refuse
            case "free disk" if full:
                full = False
                del world.box._spool.append
        check_books(world.box)
    if full:
        del world.box._spool.append
    await world.finish()
    expected = set(range(1, world.produced + 1)) - world.lost_in_crash
    assert world.first_sent == sorted(world.first_sent)
    missing = len(expected - world.stored)
    assert missing <= world.dropped if world.deaths else missing == world.dropped
    assert world.stored <= set(range(1, world.produced + 1))


def refuse(records) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_what_is_settled_at_once_need_not_touch_the_disk_again(tmp_path: Path) -> None:
    box = make(tmp_path)
    await box.start()
    for number in range(1, 101):
        box.append(record(number, 10))
        token = box.head.take()
        box.head.settle(token)
    await quiet(box)
    assert box.spool_bytes == 0
    await box.stop(1.0)


async def test_a_call_that_never_returns_does_not_hold_up_stop_or_memory(tmp_path: Path) -> None:
    box = make(tmp_path)
    await box.start()
    hang = threading.Event()
    assert box._spool is not None
    box._spool.append = lambda records: hang.wait(30) and 0
    started = asyncio.get_running_loop().time()
    for number in range(1, 11):
        box.append(record(number, 10))
    await asyncio.sleep(0.05)
    for _ in range(10):
        assert box.head.settle(box.head.take())
    assert box.settled == 10
    box.append(record(11, 10))
    assert not await box.stop(0.2)
    assert asyncio.get_running_loop().time() - started < 1.0
    hang.set()


async def test_a_taken_directory_is_refused(tmp_path: Path) -> None:
    first = make(tmp_path)
    await first.start()
    with pytest.raises(UsageError, match="uses"):
        await make(tmp_path).start()
    assert await first.stop(1.0)
