"""A probe that raises, hangs or returns garbage stays its own problem; one that wakes is heard at once."""

import asyncio
import os
import threading
import time
import weakref

import numpy as np
import pytest

from eagle_eye.collector.runner import Runner
from eagle_eye.native.errors import UnavailableError
from eagle_eye.probes.probe import Histogram, Metric, Sample, Series, Spec

GAUGE = Metric("eagle_eye_test_value", "gauge", "A value.")
LABELLED = Metric("eagle_eye_test_labelled", "gauge", "A value.", ("name",))
WAITS = Metric("eagle_eye_test_waits_seconds", "histogram", "Waits.")


class Fake:
    """A probe whose rounds are given by a function."""

    def __init__(self, round_, fds=()):
        self.round = round_
        self.fds = fds
        self.closed = False

    def sample(self, now_ns):
        return self.round()

    def wake_fds(self):
        return self.fds

    def close(self):
        self.closed = True


@pytest.fixture
def make(context):
    events = []

    def runner(build, **spec):
        spec = Spec(name="test", help="", build=build, metrics=(GAUGE, LABELLED, WAITS), **spec)
        made = Runner(spec, context(), lambda sample: events.extend(sample.events))
        made.seen = events
        return made

    return runner


def good():
    return Sample(series=[Series(GAUGE, 1.0)])


def waits(bounds, counts, total=1.0):
    return Sample(series=[Series(WAITS, Histogram(bounds, counts, total))])


async def test_a_good_round_is_ok(make):
    probe = Fake(good)
    runner = make(lambda context: probe)
    await runner.start()

    assert runner.state == "ok"
    assert runner.sample.series[0].value == 1.0
    assert await runner.stop(1)
    assert probe.closed


async def test_unavailable_says_why_and_how_to_mend_it(make):
    def build(context):
        raise UnavailableError("no BTF", remedy="boot a kernel with it")

    runner = make(build)
    await runner.start()

    assert runner.health.state == "unavailable"
    assert (runner.health.reason, runner.health.remedy) == ("no BTF", "boot a kernel with it")
    assert runner.request(time.monotonic_ns()) is None
    await runner.stop(1)


@pytest.mark.parametrize(
    ("garbage", "said"),
    [
        (None, "not a Sample"),
        (Sample(series=[Series(GAUGE, float("nan"))]), "finite"),
        (Sample(series=[Series(GAUGE, "1")]), "finite"),
        (Sample(series=[Series(GAUGE, 1.0, ("extra",))]), "label values"),
        (Sample(series=[Series(Metric("eagle_eye_other", "gauge", ""), 1.0)]), "declares"),
        (Sample(series=[Series(GAUGE, np.int64(1))]), "int or float"),
        (Sample(series=[Series(GAUGE, np.float64(1))]), "int or float"),
        (Sample(series=[Series(GAUGE, True)]), "int or float"),
        (Sample(series=[Series(LABELLED, 1.0, (5,))]), "no strings"),
        (Sample(series=[Series(WAITS, 1.0)]), "not a Histogram"),
        (waits((1.0,), [1, 2]), "no array of integers"),
        (waits((1.0,), np.array(["a", "b"])), "no array of integers"),
        (waits((1.0,), np.array([1, 2, 3])), "3 counts for 1 bounds"),
        (waits((1.0,), np.array([1, 2]), total=None), "total or bounds"),
        (waits(("1",), np.array([1, 2])), "total or bounds"),
        (Sample(events=["boom"]), "not an Event"),
        (Sample(dropped=None), "counts by reason"),
        (Sample(dropped={"ring_full": np.int64(1)}), "a reason and a count"),
        (Sample(degraded=7), "not a sentence"),
    ],
)
async def test_garbage_is_a_failure_that_names_it(make, garbage, said):
    runner = make(lambda context: Fake(lambda: garbage))
    await runner.start()

    assert runner.state == "failing"
    assert said in runner.health.reason
    await runner.stop(1)


async def test_wake_fds_that_raise_or_cannot_be_watched_are_failures(make, tmp_path):
    def raises():
        raise ValueError("no ring")

    broken = Fake(good)
    broken.wake_fds = raises
    runner = make(lambda context: broken)
    await runner.start()
    assert (runner.state, "no ring" in runner.health.reason) == ("failing", True)
    assert await runner.stop(1)

    with (tmp_path / "regular").open("w") as file:
        runner = make(lambda context: Fake(good, (file.fileno(),)))
        await runner.start()
        await asyncio.sleep(0.05)
        assert runner.state == "failing"
        assert await runner.stop(1)


async def test_a_build_that_failed_halfway_leaves_nothing_behind(make):
    class Attached:
        """Like an object of libbpf: what it holds goes with it."""

    attached = []

    def build(context):
        half = Attached()
        attached.append(weakref.ref(half))
        raise UnavailableError("no hook")

    runner = make(build)
    await runner.start()

    assert attached[0]() is None
    assert runner.error.message == "no hook"
    await runner.stop(1)


async def test_a_failing_probe_backs_off_and_is_built_anew_after_three_failures(make):
    built = []

    def build(context):
        built.append(Fake(good if len(built) == 1 else lambda: 1 / 0))
        return built[-1]

    runner = make(build)
    await runner.start()
    assert runner.request(time.monotonic_ns()) is None, "it is in back-off"
    for _ in range(3):
        await runner.request(time.monotonic_ns() + 10**12)

    assert built[0].closed
    assert runner.state == "ok"
    await runner.stop(1)


async def test_a_hung_round_is_marked_left_alone_and_recovers(make):
    release = threading.Event()
    rounds = iter([good, lambda: release.wait(10) and good(), good])
    runner = make(lambda context: Fake(lambda: next(rounds)()), deadline_ns=50_000_000)
    await runner.start()
    stuck = runner.request(time.monotonic_ns())
    await asyncio.sleep(0.1)
    runner.watch(time.monotonic_ns())

    assert runner.state == "hung"
    assert "0.05 s" in runner.health.reason
    assert runner.request(time.monotonic_ns()) is None
    release.set()
    await stuck
    assert runner.state == "ok"
    await runner.stop(1)


async def test_stop_does_not_wait_for_a_hung_round(make):
    release = threading.Event()
    runner = make(lambda context: Fake(lambda: release.wait(10)))
    runner.start()
    started = time.monotonic()

    assert not await runner.stop(0.1)
    assert time.monotonic() - started < 1
    release.set()


async def test_a_readable_descriptor_asks_for_a_round_at_once(make):
    read, write = os.pipe()
    rounds = []

    def round_():
        rounds.append(time.monotonic())
        if len(rounds) > 1:
            os.read(read, 100)
        return good()

    runner = make(lambda context: Fake(round_, (read,)))
    await runner.start()
    await asyncio.sleep(0.05)
    assert len(rounds) == 1, "nothing to read, no round"
    os.write(write, b"x")
    sent = time.monotonic()
    await asyncio.sleep(0.1)

    assert len(rounds) == 2
    assert rounds[1] - sent < 0.05
    await runner.stop(1)
    os.close(read)
    os.close(write)


async def test_a_round_that_a_descriptor_asked_for_is_watched_as_any_other(make):
    read, write = os.pipe()
    release = threading.Event()
    rounds = iter([good, lambda: release.wait(30) and good()])
    runner = make(lambda context: Fake(lambda: next(rounds, good)(), (read,)), deadline_ns=50_000_000)
    await runner.start()
    os.write(write, b"x")
    end_s = time.monotonic() + 10
    while runner.state != "hung" and time.monotonic() < end_s:
        await asyncio.sleep(0.02)
        runner.watch(time.monotonic_ns())

    assert runner.state == "hung"
    assert runner.request(time.monotonic_ns()) is None
    release.set()
    while runner.state == "hung" and time.monotonic() < end_s:
        await asyncio.sleep(0.02)
    assert runner.state == "ok"
    await runner.stop(10)
    os.close(read)
    os.close(write)


async def test_what_is_always_readable_costs_a_round_per_gap_and_what_was_closed_none(make):
    read, write = os.pipe()
    os.write(write, b"x")
    rounds = []
    runner = make(lambda context: Fake(lambda: rounds.append(1) or good(), (read,)), wake_gap_ns=50_000_000)
    started = time.monotonic()
    await runner.start()
    await asyncio.sleep(0.5)
    assert 2 <= len(rounds) <= (time.monotonic() - started) / 0.05 + 1

    os.close(read)
    os.close(write)
    await asyncio.sleep(0.2)
    ended = len(rounds)
    await asyncio.sleep(0.3)
    assert len(rounds) <= ended + 1
    await runner.request(time.monotonic_ns())
    assert runner.state == "ok", "requests still come through"
    await runner.stop(10)


async def test_a_probe_that_fails_is_not_woken_until_it_is_asked_again(make):
    read, write = os.pipe()
    os.write(write, b"x")
    rounds = []
    runner = make(lambda context: Fake(lambda: rounds.append(1) or 1 / 0, (read,)), wake_gap_ns=1_000_000)
    await runner.start()
    await asyncio.sleep(0.2)

    assert len(rounds) == 1
    await runner.stop(10)
    os.close(read)
    os.close(write)


async def test_samples_do_not_pile_up_while_the_event_loop_is_busy(make):
    read, write = os.pipe()
    os.write(write, b"x")
    rounds = []
    runner = make(lambda context: Fake(lambda: rounds.append(1) or good(), (read,)), wake_gap_ns=0)
    await runner.start()
    before = len(rounds)
    time.sleep(0.3)

    assert len(rounds) - before <= 5
    before = len(rounds)
    await asyncio.sleep(0.3)
    assert len(rounds) > before + 5, "and go on when it is not"
    await runner.stop(10)
    os.close(read)
    os.close(write)
