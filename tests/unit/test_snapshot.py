"""Snapshots: series keys, interval quantiles, and what is left out."""

import time

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle_eye.collector.snapshot import Composer, quantile_of, series_key
from eagle_eye.probes.model import Snapshot
from eagle_eye.probes.probe import EventSource, Histogram, Metric, Sample, Series

WAIT = Metric("eagle_eye_wait_seconds", "histogram", "Waits.")
EXITS = Metric("eagle_eye_exits_total", "counter", "Exits.", ("reason",))
BOUNDS = (1.0, 2.0, 4.0)


def waits(*counts: int) -> Sample:
    return Sample(series=[Series(WAIT, Histogram(BOUNDS, np.array(counts, np.uint64), float(sum(counts))))])


def compose(composer: Composer, sample: Sample, at_ns: int = 5) -> Snapshot:
    return composer.compose(10, 500, [("sched", at_ns, sample)], [])


@pytest.fixture
def composer() -> Composer:
    return Composer(node="n1", cluster="c", boot_id="b")


def test_series_key_is_written_as_prometheus_writes_it():
    assert series_key(Series(EXITS, 1.0, ("ok",))) == 'eagle_eye_exits_total{reason="ok"}'
    assert series_key(Series(EXITS, 1.0, ('a"\\\nb',))) == 'eagle_eye_exits_total{reason="a\\"\\\\\\nb"}'


def test_quantiles_are_of_the_interval_and_counts_run_on(composer):
    compose(composer, waits(100, 0, 0, 0))
    values = compose(composer, waits(100, 0, 10, 0)).host[0].values

    assert values["eagle_eye_wait_seconds_count"] == 110
    assert 2.0 < values['eagle_eye_wait_seconds{quantile="0.5"}'] <= 4.0


def test_a_probe_that_counts_from_zero_again_has_quantiles_of_what_it_counted_since(composer):
    compose(composer, waits(100, 0, 50, 0))
    values = compose(composer, waits(3, 0, 0, 0)).host[0].values

    assert values['eagle_eye_wait_seconds{quantile="0.99"}'] <= 1.0


def test_an_interval_without_samples_has_no_quantile(composer):
    compose(composer, waits(1, 1, 1, 0))
    values = compose(composer, waits(1, 1, 1, 0)).host[0].values

    assert 'eagle_eye_wait_seconds{quantile="0.99"}' not in values


def test_a_probe_that_never_succeeded_is_left_out(composer):
    assert compose(composer, Sample(), at_ns=0).host == ()


def test_sequence_rises_and_json_round_trips(composer):
    first, second = compose(composer, waits(1, 0, 0, 0)), compose(composer, waits(1, 0, 0, 0))

    assert second.seq == first.seq + 1
    assert msgspec.json.decode(msgspec.json.encode(second), type=Snapshot) == second


@given(
    counts=st.lists(st.integers(0, 10**6), min_size=4, max_size=4).filter(any),
    quantile=st.floats(0.01, 0.99),
)
def test_quantile_lies_in_the_bucket_that_holds_its_rank(counts, quantile):
    edges = (0.0, *BOUNDS, BOUNDS[-1])
    rank = quantile * sum(counts)
    bucket = next(i for i in range(4) if sum(counts[: i + 1]) > rank or i == 3)

    value = quantile_of(BOUNDS, counts, quantile)

    assert edges[bucket] <= value <= edges[bucket + 1]


def test_a_step_of_the_wall_clock_shows_in_the_offset_and_nowhere_else(composer, monkeypatch):
    before = compose(composer, waits(1, 0, 0, 0))
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() - 3600 * 10**9)
    after = compose(composer, waits(2, 0, 0, 0))
    event = EventSource("sched", node="n", cluster="c", boot_id="b").make("sched.long_wait", 77, entity="host")

    hour_s = (before.wall_offset_ns - after.wall_offset_ns) / 1e9
    assert hour_s == pytest.approx(3600, abs=1)
    assert (after.seq, after.at_ns) == (before.seq + 1, before.at_ns)
    assert event.wall_offset_ns == pytest.approx(after.wall_offset_ns, abs=1e9)
    assert event.id == "b:sched:77", "ids follow the monotonic clock"
