"""The beat: steady, and not held up by a probe that hangs."""

import asyncio
import contextlib
import threading

from eagle_eye.collector.runner import Runner
from eagle_eye.collector.schedule import Schedule
from eagle_eye.collector.snapshot import Composer
from eagle_eye.probes.probe import Metric, Sample, Series, Spec

GAUGE = Metric("eagle_eye_test_value", "gauge", "A value.")
MS = 1_000_000


class Probe:
    def __init__(self, round_):
        self.sample = round_

    def wake_fds(self):
        return ()

    def close(self):
        pass


def good(now_ns):
    return Sample(series=[Series(GAUGE, 1.0)])


def runner(context, name, round_, **spec):
    spec = Spec(name=name, help="", build=lambda _: Probe(round_), metrics=(GAUGE,), **spec)
    return Runner(spec, context(name), lambda sample: None)


def make_schedule(runners, interval_ns, on_snapshot):
    composer = Composer(node="n", cluster="c", boot_id="b")
    return Schedule(runners, composer, interval_ns, lambda: [each.health for each in runners], on_snapshot)


async def beat(runners, seconds, interval_ns):
    snapshots = []
    schedule = make_schedule(runners, interval_ns, snapshots.append)
    await schedule.first_round(1)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(schedule.run(), seconds)
    for each in runners:
        await each.stop(0.1)
    return schedule, snapshots


async def test_a_hung_probe_does_not_slow_the_beat_of_the_others(context):
    release = threading.Event()

    def hang(now_ns):
        release.wait(30)
        return good(now_ns)

    runners = [runner(context, "good", good), runner(context, "bad", hang, deadline_ns=50 * MS)]
    schedule, snapshots = await beat([runners[0]], 0.6, 50 * MS)
    alone = len(snapshots)
    runners[0] = runner(context, "good", good)
    snapshots = []
    schedule = make_schedule(runners, 50 * MS, snapshots.append)
    await schedule.first_round(0.1)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(schedule.run(), 0.6)

    assert alone >= 10
    assert len(snapshots) >= 10
    last = snapshots[-1]
    assert [reading.probe for reading in last.host] == ["good"]
    assert last.at_ns - last.host[0].at_ns < 50 * MS, "the good probe is fresh"
    release.set()
    for each in runners:
        await each.stop(1)


async def test_a_probe_with_a_period_of_its_own_runs_on_it(context):
    rounds = {"each": 0, "slow": 0}

    def count(name):
        def round_(now_ns):
            rounds[name] += 1
            return good(now_ns)

        return round_

    runners = [
        runner(context, "each", count("each")),
        runner(context, "slow", count("slow"), period_ns=200 * MS),
    ]
    _, snapshots = await beat(runners, 0.65, 50 * MS)

    assert 10 <= rounds["each"] <= 14
    assert 3 <= rounds["slow"] <= 5
    assert len(snapshots[-1].host) == 2


async def test_missed_beats_are_counted_and_not_made_up_for(context):
    made = []

    def block(snapshot):
        made.append(snapshot)
        if len(made) == 1:
            threading.Event().wait(0.3)

    # One with a period of its own misses turns too, but no snapshot.
    runners = [runner(context, "each", good), runner(context, "often", good, period_ns=20 * MS)]
    schedule = make_schedule(runners, 50 * MS, block)
    await schedule.first_round(1)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(schedule.run(), 0.6)
    for each in runners:
        await each.stop(1)

    assert 4 <= schedule.missed_beats <= 6
    assert len(made) < 9
