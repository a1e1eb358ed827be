from __future__ import annotations

import fcntl
import os
import select
import struct
import time

import pytest

from eagle_eye.native.engine_poll import SLOTS, EnginePoll, Times
from eagle_eye.probes.engine.vllm import wire

HEAD, URGENT, STATE = (wire.offset_of(wire.HEADER, name) for name in ("head", "urgent", "state"))
FLIGHT = wire.TICK_OFFSET + wire.offset_of(wire.TICK, "flight_started_ns")
SECOND_NS = 1_000_000_000


@pytest.fixture
def poll():
    made = EnginePoll(Times())
    yield made
    made.close()


@pytest.fixture
def ring(tmp_path):
    """`ring()` gives a file as large as a ring, whose writer lives."""
    made = []

    def make():
        file = (tmp_path / str(len(made))).open("w+b", buffering=0)
        file.truncate(wire.FILE_BYTES)
        fcntl.flock(file, fcntl.LOCK_EX)
        reader = os.open(file.name, os.O_RDONLY)
        made.append((file, reader))
        return file, reader

    yield make
    for file, reader in made:
        file.close()
        os.close(reader)


def write(file, offset, number):
    os.pwrite(file.fileno(), struct.pack("<Q", number), offset)


def woken(poll, timeout_s=10.0):
    """The slots of the next wake-up; [] when there is none."""
    return poll.take() if select.select([poll.fd], [], [], timeout_s)[0] else []


@pytest.mark.parametrize("offset", [HEAD, URGENT, STATE, wire.TICK_OFFSET])
def test_a_change_wakes_its_reader_once(poll, ring, offset):
    file, reader = ring()
    other = poll.add(ring()[1], 1)
    slot = poll.add(reader, 1)
    assert slot != other
    write(file, offset, 2)

    assert woken(poll) == [slot]
    assert woken(poll, 0.1) == []


def test_steps_wait_for_the_floor_and_urgent_ones_do_not(poll, ring):
    file, reader = ring()
    slot = poll.add(reader, 60 * SECOND_NS)
    write(file, HEAD, 1)
    assert woken(poll) == [slot]
    write(file, HEAD, 2)
    assert woken(poll, 0.3) == []
    write(file, URGENT, 1)
    assert woken(poll) == [slot]


def test_a_tick_waits_a_little_for_the_end_of_its_step(poll, ring):
    file, reader = ring()
    slot = poll.add(reader, 1)
    for head in range(1, 6):
        time.sleep(0.2)
        before = time.monotonic()
        write(file, HEAD, head)
        assert woken(poll) == [slot]
    write(file, wire.TICK_OFFSET, 2)

    assert woken(poll) == [slot]
    assert time.monotonic() - before >= 0.035
    write(file, HEAD, 6)
    assert woken(poll) == [slot]
    write(file, wire.TICK_OFFSET, 4)
    write(file, URGENT, 1)
    assert woken(poll) == [slot]


def test_a_writer_that_dies_wakes_its_reader(poll, ring):
    file, reader = ring()
    slot = poll.add(reader, 60 * SECOND_NS)
    write(file, HEAD, 1)
    woken(poll)
    fcntl.flock(file, fcntl.LOCK_UN)

    assert woken(poll) == [slot]
    assert woken(poll, 0.1) == []


def test_a_file_that_is_cut_short_wakes_its_reader_and_kills_nobody(poll, ring):
    file, reader = ring()
    slot = poll.add(reader, 60 * SECOND_NS)
    write(file, HEAD, 1)
    woken(poll)
    file.truncate(100)

    assert woken(poll) == [slot]


def test_what_is_removed_is_watched_no_more(poll, ring):
    file, reader = ring()
    before = len(os.listdir("/proc/self/fd"))
    slot = poll.add(reader, 1)
    poll.remove(slot)
    poll.remove(slot)
    write(file, HEAD, 1)

    assert woken(poll, 0.1) == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_there_is_room_for_so_many_and_no_more(poll, ring):
    _, reader = ring()
    slots = [poll.add(reader, 1) for _ in range(SLOTS + 1)]

    assert slots == [*range(SLOTS), None]


def test_without_files_nobody_looks(poll, ring):
    slot = poll.add(ring()[1], 1)
    poll.remove(slot)
    time.sleep(0.1)
    before = poll.counts().looks
    time.sleep(0.2)

    assert poll.counts().looks == before


def test_an_idle_ring_is_looked_at_less_often(poll, ring):
    file, reader = ring()
    poll.add(reader, 1)
    write(file, FLIGHT, 2**64 - 1)
    time.sleep(2.0)
    before, started = poll.counts().looks, time.monotonic()
    time.sleep(0.5)

    assert poll.counts().looks - before <= 110 * (time.monotonic() - started)


def test_closing_is_safe_twice(ring):
    before = len(os.listdir("/proc/self/fd"))
    poll = EnginePoll()
    poll.add(0, 1)
    poll.close()
    poll.close()

    assert len(os.listdir("/proc/self/fd")) == before
