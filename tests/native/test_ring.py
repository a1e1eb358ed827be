"""The drain against a real ring of the kernel: nothing lost uncounted, nothing torn."""

from __future__ import annotations

import select
import threading
import time

import numpy as np
import pytest

from eagle_eye.native.bpf import Object, Ring
from eagle_eye.native.errors import BpfError, BpfMapError

COUNTS = np.dtype(
    [("produced", "<u8"), ("dropped", "<u8"), ("discarded", "<u8"), ("of_another_size", "<u8"), ("_", "<u8", 4)]
)
WORDS = (1, 2, 4, 9)
DISCARDED, OF_ANOTHER_SIZE = 1, 2


def record(words: int) -> np.dtype:
    return np.dtype([("seq", "<u8", words)])


@pytest.fixture
def rings(opened):
    """The producer with rings of 4 KiB, or of `size_bytes`."""

    def load(size_bytes: int = 4096) -> Object:
        one = opened("rings")
        for words in WORDS:
            one.resize(f"ring_{words}", size_bytes)
        one.load()
        return one

    return load


def counts(loaded: Object, words: int) -> np.void:
    return loaded.map("counts").view(COUNTS)[WORDS.index(words)]


def drain_all(ring: Ring) -> np.ndarray:
    batches = []
    while len(batch := ring.drain()):
        batches.append(batch.copy())
    return np.concatenate(batches) if batches else ring.drain().copy()


@pytest.mark.parametrize("words", WORDS)
def test_records_of_each_type_arrive_whole_and_in_order(rings, run_program, words):
    loaded = rings(65536)
    ring = Ring(loaded.map(f"ring_{words}"), record(words))
    assert len(ring.drain()) == 0
    run_program(loaded, f"produce_{words}", 100)
    run_program(loaded, f"produce_{words}", 23)
    got = ring.drain()
    assert np.array_equal(got["seq"].reshape(123, words), np.repeat(np.arange(123), words).reshape(123, words))
    assert len(ring.drain()) == 0
    ring.close()


@pytest.mark.parametrize("words", WORDS)
def test_tiny_ring_produced_is_received_plus_dropped(rings, run_program, words):
    loaded = rings(4096)
    ring = Ring(loaded.map(f"ring_{words}"), record(words), capacity_records=7)
    received = 0
    for burst in (1, 5, 4000, 3, 997, 100_000):
        run_program(loaded, f"produce_{words}", burst)
        received += len(drain_all(ring))
    count = counts(loaded, words)
    assert count["produced"] == 105_006
    assert count["dropped"] > 100_000
    assert count["produced"] == received + count["dropped"]
    ring.close()


def test_four_rings_side_by_side(rings, run_program):
    loaded = rings(65536)
    opened = {words: Ring(loaded.map(f"ring_{words}"), record(words)) for words in WORDS}
    for words in WORDS:
        run_program(loaded, f"produce_{words}", 10 * words)
    assert {words: len(ring.drain()) for words, ring in opened.items()} == {1: 10, 2: 20, 4: 40, 9: 90}


def test_discarded_records_are_stepped_over(rings, run_program):
    loaded = rings(65536)
    ring = Ring(loaded.map("ring_4"), record(4))
    run_program(loaded, "produce_4", 100, DISCARDED)
    assert ring.drain()["seq"][:, 0].tolist() == [seq for seq in range(100) if seq % 4 != 3]
    assert counts(loaded, 4)["discarded"] == 25
    assert ring.bad_records == 0


def test_records_of_another_size_are_stepped_over_and_counted(rings, run_program):
    loaded = rings(65536)
    ring = Ring(loaded.map("ring_4"), record(4))
    run_program(loaded, "produce_4", 100, OF_ANOTHER_SIZE)
    assert len(ring.drain()) == 75
    assert ring.bad_records == counts(loaded, 4)["of_another_size"] == 25


def test_capacity_bounds_a_batch_and_the_rest_waits(rings, run_program):
    loaded = rings(65536)
    ring = Ring(loaded.map("ring_2"), record(2), capacity_records=10)
    run_program(loaded, "produce_2", 25)
    assert [len(ring.drain()) for _ in range(4)] == [10, 10, 5, 0]


def test_the_array_is_reused(rings, run_program):
    loaded = rings(65536)
    ring = Ring(loaded.map("ring_2"), record(2))
    run_program(loaded, "produce_2", 1)
    first = ring.drain()
    run_program(loaded, "produce_2", 1)
    assert np.shares_memory(first, ring.drain())


def test_only_urgent_records_wake_the_reader(rings, run_program):
    loaded = rings(65536)
    ring = Ring(loaded.map("ring_4"), record(4))
    poll = select.epoll()
    poll.register(ring.fd, select.EPOLLIN | select.EPOLLET)
    run_program(loaded, "produce_4", 5, 0, 0)
    assert poll.poll(0.05) == []
    run_program(loaded, "produce_4", 1, 0, 1)
    assert poll.poll(1) == [(ring.fd, select.EPOLLIN)]
    assert len(ring.drain()) == 6


def test_nothing_torn_and_every_loss_counted_while_another_thread_produces(rings, run_program):
    loaded = rings(16384)
    ring = Ring(loaded.map("ring_9"), record(9), capacity_records=64)
    producer = threading.Thread(target=lambda: [run_program(loaded, "produce_9", 500) for _ in range(400)])
    producer.start()
    received, last = 0, -1
    while producer.is_alive():
        received, last = check_batch(ring.drain()["seq"], received, last)
    producer.join()
    while len(rest := ring.drain()):
        received, last = check_batch(rest["seq"], received, last)
    count = counts(loaded, 9)
    assert count["produced"] == 200_000 == received + count["dropped"]
    assert received > 0


def check_batch(seq: np.ndarray, received: int, last: int) -> tuple[int, int]:
    if len(seq) == 0:
        return received, last
    assert (seq == seq[:, :1]).all(), "torn record"
    assert (np.diff(seq[:, 0].astype(np.int64), prepend=last) > 0).all(), "out of order"
    return received + len(seq), int(seq[-1, 0])


def test_ring_outlives_its_object_and_close_is_safe(rings, run_program):
    loaded = rings(65536)
    ring = Ring(loaded.map("ring_4"), record(4))
    run_program(loaded, "produce_4", 3)
    loaded.close()
    kept = ring.drain()
    assert len(kept) == 3
    ring.close()
    ring.close()
    assert kept["seq"][:, 0].tolist() == [0, 1, 2]
    with pytest.raises(BpfError, match="ring 'ring_4' is closed"):
        ring.drain()
    assert ring.bad_records == 0


def test_close_while_another_thread_drains(rings, run_program):
    loaded = rings(65536)
    failures = []

    def drain_until_closed(ring: Ring) -> None:
        try:
            while True:
                ring.drain()
        except BpfError:
            return
        except BaseException as why:
            failures.append(why)

    for _ in range(50):
        ring = Ring(loaded.map("ring_4"), record(4))
        drainers = [threading.Thread(target=drain_until_closed, args=(ring,)) for _ in range(3)]
        for drainer in drainers:
            drainer.start()
        run_program(loaded, "produce_4", 100)
        time.sleep(0.001)
        ring.close()
        for drainer in drainers:
            drainer.join(5)
            assert not drainer.is_alive()
    assert failures == []


def test_senseless_capacity_is_refused(rings):
    with pytest.raises(BpfMapError, match="room for one record"):
        Ring(rings().map("ring_4"), record(4), capacity_records=0)
