"""The drain on a hand-made ring: busy and broken headers, and never a byte read or written outside."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eagle_eye.native._bpf import ffi, lib

SIZE = 4096
BUSY, DISCARDED = 1 << 31, 1 << 30
CANARY = b"\xc5" * 64
ROOT = Path(__file__).parent.parent.parent

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
MAP_FIXED = 0x10


class HandMadeRing:
    """Data mapped twice in a row as the kernel does, with an unreadable page on either side."""

    def __init__(self) -> None:
        fd = os.memfd_create("ring")
        os.ftruncate(fd, SIZE)
        self.bytes = mmap.mmap(fd, SIZE)
        guarded = libc.mmap(None, 4 * SIZE, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        for half in (1, 2):
            assert libc.mmap(guarded + half * SIZE, SIZE, mmap.PROT_READ, mmap.MAP_SHARED | MAP_FIXED, fd, 0)
        os.close(fd)
        self.positions = ffi.new("uint64_t[2]")
        data = ffi.cast("uint8_t *", guarded + SIZE)
        self.ring = ffi.new("struct ring *", [self.positions, self.positions + 1, data, SIZE, 0])

    def reset(self, content: bytes, consumer: int, producer: int) -> None:
        self.bytes[:] = content.ljust(SIZE, b"\0")
        self.positions[0], self.positions[1] = consumer, producer
        self.ring.bad_records = 0

    def drain(self, record_bytes: int, capacity: int) -> list[bytes]:
        room = record_bytes * capacity
        out = ffi.new("uint8_t[]", room + len(CANARY))
        ffi.buffer(out)[room:] = CANARY
        count = lib.ring_drain(self.ring, out, record_bytes, capacity)
        assert count <= capacity
        assert bytes(ffi.buffer(out))[room:] == CANARY
        return [bytes(ffi.buffer(out))[i * record_bytes : (i + 1) * record_bytes] for i in range(count)]


HAND_MADE = HandMadeRing()


def record(payload: bytes, flags: int = 0) -> bytes:
    return (struct.pack("<II", len(payload) | flags, 0) + payload).ljust(8 + (len(payload) + 7) // 8 * 8, b"\0")


def test_stops_at_the_first_busy_record_and_goes_on_later():
    content = record(b"a" * 16) + record(b"b" * 16, BUSY) + record(b"c" * 16)
    HAND_MADE.reset(content, 0, len(content))
    assert HAND_MADE.drain(16, 8) == [b"a" * 16]
    assert HAND_MADE.positions[0] == 24
    HAND_MADE.bytes[24:48] = record(b"b" * 16)
    assert HAND_MADE.drain(16, 8) == [b"b" * 16, b"c" * 16]
    assert HAND_MADE.positions[0] == 72


def test_discarded_and_odd_records():
    content = record(b"a" * 16, DISCARDED) + record(b"b" * 9) + record(b"") + record(b"c" * 16)
    HAND_MADE.reset(content, 0, len(content))
    assert HAND_MADE.drain(16, 8) == [b"c" * 16]
    assert HAND_MADE.ring.bad_records == 2


def test_a_discarded_record_that_is_still_busy_is_waited_for():
    content = record(b"a" * 16, DISCARDED | BUSY)
    HAND_MADE.reset(content, 0, len(content))
    assert HAND_MADE.drain(16, 8) == []
    assert HAND_MADE.positions[0] == 0


def test_no_more_than_the_room_there_is():
    HAND_MADE.reset(b"".join(record(bytes([number]) * 16) for number in range(5)), 0, 120)
    assert HAND_MADE.drain(16, 2) == [bytes(16), b"\1" * 16]
    assert HAND_MADE.positions[0] == 48
    assert HAND_MADE.drain(16, 8) == [b"\2" * 16, b"\3" * 16, b"\4" * 16]


def test_a_record_across_the_end_is_whole():
    start = SIZE - 16
    whole = record(bytes(range(32)))
    HAND_MADE.reset(whole[16:] + bytes(SIZE - 40) + whole[:16], 5 * SIZE + start, 5 * SIZE + start + 40)
    assert HAND_MADE.drain(32, 8) == [bytes(range(32))]
    assert HAND_MADE.positions[0] == 6 * SIZE + 24


def test_positions_wrap_around_64_bits():
    HAND_MADE.reset(bytes(SIZE - 24) + record(b"z" * 16), 2**64 - 24, 0)
    assert HAND_MADE.drain(16, 8) == [b"z" * 16]
    assert HAND_MADE.positions[0] == 0


@pytest.mark.parametrize(
    ("consumer", "producer"), [(0, SIZE + 8), (8, 0), (0, 12), (4, 28), (0, 2**64 - 8), (2**63, 0)]
)
def test_senseless_positions_are_counted_and_not_read(consumer, producer):
    HAND_MADE.reset(record(b"a" * 16) * 3, consumer, producer)
    assert HAND_MADE.drain(16, 8) == []
    assert HAND_MADE.ring.bad_records == 1
    assert HAND_MADE.positions[0] == producer


def test_a_record_longer_than_what_was_produced_is_counted_and_not_read():
    HAND_MADE.reset(record(b"a" * 16) + struct.pack("<II", 0x3FFFFFFF, 0), 0, 48)
    assert HAND_MADE.drain(16, 8) == [b"a" * 16]
    assert HAND_MADE.ring.bad_records == 1
    assert HAND_MADE.positions[0] == 48


def model(
    content: bytes, consumer: int, producer: int, record_bytes: int, capacity: int
) -> tuple[list[bytes], int, int]:
    """What the drain ought to do, plainly: records, consumer position, bad records."""
    if (producer - consumer) % 2**64 > SIZE or consumer % 8 or producer % 8:
        return [], producer, 1
    got, bad, position = [], 0, consumer
    while position != producer and len(got) < capacity:
        twice, at = content * 2, position % SIZE
        (header,) = struct.unpack_from("<I", twice, at)
        length = header & ~(BUSY | DISCARDED)
        stored = 8 + (length + 7) // 8 * 8
        if header & BUSY:
            break
        if stored > (producer - position) % 2**64:
            return got, producer, bad + 1
        if not header & DISCARDED:
            if length == record_bytes:
                got.append(twice[at + 8 : at + 8 + length])
            else:
                bad += 1
        position = (position + stored) % 2**64
    return got, position, bad


lengths = st.sampled_from([0, 1, 7, 8, 16, 24, 100, SIZE - 8, SIZE, 0x3FFFFFFF])
flags = st.sampled_from([0, 0, 0, 0, BUSY, DISCARDED, BUSY | DISCARDED])
headers = st.builds(lambda length, flag: struct.pack("<II", length | flag, 0), lengths, flags)
pieces = st.one_of(headers, st.binary(max_size=32), st.builds(record, st.binary(min_size=16, max_size=16), flags))
good_records = st.binary(min_size=16, max_size=16).map(record)
contents = st.one_of(st.lists(pieces, max_size=200), st.lists(good_records, max_size=170)).map(
    lambda parts: b"".join(parts)[:SIZE].ljust(SIZE, b"\0")
)
words = st.integers(0, SIZE // 8).map(lambda word: word * 8)
starts = st.one_of(st.just(0), words, st.integers(0, 2**64 - 1), words.map(lambda word: 2**64 - SIZE + word - 8))


@settings(max_examples=600, deadline=None)
@given(
    contents,
    starts,
    st.one_of(words, st.integers(0, 2**64 - 1)),
    st.sampled_from([1, 8, 16, 24, SIZE]),
    st.integers(1, 300),
)
def test_hostile_contents(content, consumer, distance, record_bytes, capacity):
    producer = (consumer + distance) % 2**64
    HAND_MADE.reset(content, consumer, producer)
    got = HAND_MADE.drain(record_bytes, capacity)
    assert (got, HAND_MADE.positions[0], HAND_MADE.ring.bad_records) == model(
        content, consumer, producer, record_bytes, capacity
    )


def test_arm64_code_acquires_and_releases():
    clang = shutil.which("clang")
    if clang is None:
        pytest.skip("clang is not installed")
    command = [clang, "--target=aarch64-linux-gnu", "-ffreestanding", "-O2", "-S", "-o", "-", "native/ring.c"]
    assembly = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    instructions = [line.split()[0] for line in assembly.splitlines() if line.startswith("\t") and line.split()]
    assert sum(name in ("ldar", "ldapr") for name in instructions) >= 2, "producer position and record header"
    assert "stlr" in instructions, "consumer position"
