"""Any bytes in a ring: the reader refuses or counts them, and what it tells stays lawful."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import time

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eagle_eye.collector.garbage import GarbageError, refuse_garbage
from eagle_eye.probes.engine.finder import Found
from eagle_eye.probes.engine.layout import REQUEST, STEP, RefusedError, read_handshake
from eagle_eye.probes.engine.metrics import Ledger, parts_of, parts_of_rank, parts_of_requests
from eagle_eye.probes.engine.rank import STEP_BOUNDS, Rank, StepTimes, is_readable
from eagle_eye.probes.engine.ring import Ring
from eagle_eye.probes.engine.simulator import Scenario, SimulatedEngine
from eagle_eye.probes.engine.vllm import wire
from eagle_eye.probes.engines import SPEC
from eagle_eye.probes.probe import Sample, Series

NAME = f"{wire.NAME_PREFIX}x.ring"
HOT = [wire.offset_of(wire.HEADER, name) for name, _ in wire.HEADER]
HOT += [wire.TICK_OFFSET + wire.offset_of(wire.TICK, name) for name, _ in wire.TICK]
HOT += [
    wire.RING_OFFSET + slot * wire.SLOT_BYTES + wire.offset_of(wire.STEP, name)
    for slot in (0, 7)
    for name, _ in wire.STEP
]
HOT += [wire.HISTOGRAM_OFFSET + 8 * word for word in (0, 31, 32, 33)]
PLACES = st.sampled_from(HOT) | st.integers(0, wire.RING_OFFSET + 10 * wire.SLOT_BYTES)
NOISE = st.binary(min_size=1, max_size=16) | st.integers(0, 2**64 - 1).map(lambda number: struct.pack("<Q", number))


def a_ring(folder):
    """A whole ring of a dozen steps, as bytes."""
    engine = SimulatedEngine(Scenario(requests_per_second=500), directory=str(folder), seed=1)
    engine.ring.lease[0] = 2**62
    while engine.steps < 12:
        engine.act(engine.due_ns)
    with open(engine.ring.path, "rb") as file:
        whole = file.read()
    engine.close()
    return whole


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return a_ring(tmp_path_factory.mktemp("ring"))


@contextlib.contextmanager
def opened(path):
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        ring = Ring(path.name, folder)
        try:
            yield ring
        finally:
            ring.close()
    finally:
        os.close(folder)


@given(
    st.lists(st.tuples(PLACES, NOISE), max_size=6),
    st.lists(st.tuples(PLACES, NOISE), max_size=6),
    st.integers(0, 20_000),
)
@settings(max_examples=150)
def test_hostile_bytes_before_and_while_reading(tmp_path_factory, whole, before, later, kept):
    path = tmp_path_factory.getbasetemp() / NAME
    path.write_bytes(changed(whole, before))
    now_ns, ledger = time.monotonic_ns(), Ledger()
    with contextlib.suppress(RefusedError), opened(path) as ring:
        rank = Rank(Found(ring, (0, 0, ""), -1), now_ns)
        for step in range(3):
            is_readable(rank, now_ns)
            state = rank.state(now_ns, gone=step == 2)
            assert json.loads(msgspec.json.encode(state))["instance"]
            parts = [
                *parts_of(state, now_ns),
                *parts_of_rank(rank, state),
                *parts_of_requests(state, ring.histograms()),
            ]
            refuse_garbage(
                SPEC, Sample(series=ledger.series(parts), dropped={"overrun": rank.missed, "plugin": rank.dropped})
            )
            msgspec.json.encode({"missed": rank.missed, "dropped": rank.dropped})
            path.write_bytes(changed(whole, later)[: wire.FILE_BYTES if kept % 3 else kept])


def changed(whole, changes):
    data = bytearray(whole)
    for place, noise in changes:
        data[place : place + len(noise)] = noise
    return bytes(data)


KEYS = st.sampled_from(["engine", "instance", "pid", "model", "worker_pids", "heartbeat_ns"])
LEAVES = st.none() | st.integers() | st.text()
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner))


@given(st.binary(max_size=500) | JSON.map(lambda value: json.dumps(value).encode()))
def test_a_handshake_is_read_or_refused(raw):
    try:
        found = read_handshake(raw)
    except RefusedError:
        return
    assert found.engine
    assert 0 < found.heartbeat_ns <= 60 * 10**9


@pytest.mark.parametrize(
    "change",
    [
        {"engine": ""},
        {"model": "x" * 257},
        {"pid": -1},
        {"pid": 2**63},
        {"worker_pids": [1] * 300},
        {"lacks": ["x"] * 33},
        {"max_running": -1},
    ],
)
def test_handshakes_out_of_bounds_are_refused(change):
    hello = {"engine": "vllm", "instance": "i"}
    assert read_handshake(json.dumps(hello).encode()).role == "both"
    with pytest.raises(RefusedError):
        read_handshake(json.dumps(hello | change).encode())


def test_the_reader_sees_the_layout_that_the_writer_packs():
    for dtype, fields in ((STEP, wire.STEP), (REQUEST, wire.REQUEST)):
        assert dtype.itemsize == wire.SLOT_BYTES
        assert all(dtype.fields[name][1] == wire.offset_of(fields, name) for name, _ in fields)


def test_a_record_that_is_being_overwritten_is_missed_and_no_other(tmp_path, whole):
    path = tmp_path / NAME
    half = wire.RING_OFFSET + 5 * wire.SLOT_BYTES
    path.write_bytes(changed(whole, [(half, struct.pack("<Q", 99))]))
    with opened(path) as ring:
        batch = ring.records(ring.top().head)

        assert batch.missed == ring.missed == 1
        assert 6 not in [int.from_bytes(step[:8], "little") for step in batch.steps]
        assert len(batch.steps) + batch.others == ring.delivered == ring.top().head - 1


def test_durations_are_counted_by_phase():
    steps = np.zeros(4, STEP)
    steps["start_ns"], steps["end_ns"] = 1000, [1_001_000, 5_001_000, 900, 2**63]
    steps["prefill_tokens"], steps["decode_tokens"] = [9, 9, 0, 0], [0, 1, 1, 1]
    times = StepTimes()
    times.add(steps)

    assert times.counts["prefill"].tolist() == [1] + [0] * len(STEP_BOUNDS)
    assert times.counts["mixed"].argmax() == 3
    assert (times.counts["decode"][0], times.counts["decode"][-1]) == (1, 1)
    assert times.total_ns["prefill"] == 1_000_000


def test_series_that_come_again_are_checked_once():
    wrong = (Series(SPEC.metrics[0], 1.0, ("too", "few")),)
    with pytest.raises(GarbageError):
        refuse_garbage(SPEC, Sample(series=wrong))
    with pytest.raises(GarbageError):
        refuse_garbage(SPEC, Sample(series=wrong), checked=(wrong[0],))
    with pytest.raises(GarbageError):
        refuse_garbage(SPEC, Sample(series=list(wrong)), checked=list(wrong))
    assert refuse_garbage(SPEC, Sample(series=wrong), checked=wrong).series is wrong
