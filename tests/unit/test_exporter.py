"""The page of metrics: what it says, and that nothing a probe returns can break it."""

from __future__ import annotations

import shutil
import subprocess
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from eagle_eye.collector.exporter import SERIES_DROPPED, Exporter, Source
from eagle_eye.collector.families import MAX_LABEL_CHARACTERS, MAX_SERIES, check_metric
from eagle_eye.collector.own_health import build_info, probe_health
from eagle_eye.native.errors import EagleEyeError
from eagle_eye.probes.model import Health
from eagle_eye.probes.probe import Histogram, Metric, Sample, Series, Spec

WAITS = Metric("eagle_eye_test_wait_seconds", "histogram", "Waits.", ("cpu",))
SEEN = Metric("eagle_eye_test_seen_total", "counter", "Things seen.", ("kind",))
SIZE = Metric("eagle_eye_test_size_bytes", "gauge", "Size.")
EMPTY = Metric("eagle_eye_test_empty_total", "counter", "Nothing\nyet.")

GOLDEN = """\
# HELP eagle_eye_series_dropped_total Series left off the page because they were not lawful, by source and reason.
# TYPE eagle_eye_series_dropped_total counter
# HELP eagle_eye_test_wait_seconds Waits.
# TYPE eagle_eye_test_wait_seconds histogram
eagle_eye_test_wait_seconds_bucket{cpu="0",le="1e-06"} 2.0
eagle_eye_test_wait_seconds_bucket{cpu="0",le="0.5"} 2.0
eagle_eye_test_wait_seconds_bucket{cpu="0",le="1.0"} 5.0
eagle_eye_test_wait_seconds_bucket{cpu="0",le="+Inf"} 6.0
eagle_eye_test_wait_seconds_count{cpu="0"} 6.0
eagle_eye_test_wait_seconds_sum{cpu="0"} 4.25
# HELP eagle_eye_test_seen_total Things seen.
# TYPE eagle_eye_test_seen_total counter
eagle_eye_test_seen_total{kind="a \\"b\\" \\\\ c"} 3.0
# HELP eagle_eye_test_size_bytes Size.
# TYPE eagle_eye_test_size_bytes gauge
eagle_eye_test_size_bytes -1.5
# HELP eagle_eye_test_empty_total Nothing\\nyet.
# TYPE eagle_eye_test_empty_total counter
"""


def histogram(*counts: int, total: float = 4.25) -> Histogram:
    return Histogram((1e-6, 0.5, 1.0), np.array(counts, dtype=np.uint64), total)


def exporter_of(*series: Series, metrics: tuple[Metric, ...] = (WAITS, SEEN, SIZE, EMPTY)) -> Exporter:
    exporter = Exporter()
    exporter.add(Source("test", metrics, lambda: series))
    return exporter


def page(exporter: Exporter, *, openmetrics: bool = False) -> str:
    return exporter.render(exporter.gather(), openmetrics=openmetrics).decode()


def drops(exporter: Exporter) -> dict[str, float]:
    return {one.labels[1]: one.value for one in exporter._drops()}


def test_the_page_is_as_written_down():
    exporter = exporter_of(
        Series(WAITS, histogram(2, 0, 3, 1), ("0",)), Series(SEEN, 3, ('a "b" \\ c',)), Series(SIZE, -1.5)
    )
    assert page(exporter) == GOLDEN


def test_openmetrics_says_the_same():
    exporter = exporter_of(Series(WAITS, histogram(2, 0, 3, 1), ("0",)), Series(SEEN, 3, ("a",)), Series(SIZE, 7))

    def samples(families):
        return {(one.name, *sorted(one.labels.items())): one.value for family in families for one in family.samples}

    text = samples(parse_text(page(exporter)))
    assert text == samples(parse_openmetrics(page(exporter, openmetrics=True)))
    assert text["eagle_eye_test_wait_seconds_bucket", ("cpu", "0"), ("le", "+Inf")] == 6


def test_nothing_reaches_the_global_registry():
    exporter_of(Series(SIZE, 1))
    assert not [name for name in REGISTRY._names_to_collectors if name.startswith("eagle_eye")]


@given(
    st.lists(st.integers(0, 2**53 - 1), min_size=1, max_size=40).filter(lambda counts: sum(counts) < 2**53),
    st.floats(0, 1e12),
)
def test_a_histogram_is_cumulative_and_exact(counts, total):
    bounds = tuple(2.0**power for power in range(len(counts) - 1))
    exporter = exporter_of(Series(WAITS, Histogram(bounds, np.array(counts, dtype=np.uint64), total), ("0",)))
    family = next(one for one in parse_text(page(exporter)) if one.name == WAITS.name)
    buckets = [one.value for one in family.samples if one.name.endswith("_bucket")]
    rest = {one.name: one.value for one in family.samples if not one.name.endswith("_bucket")}
    assert buckets == list(np.cumsum(counts))
    assert rest == {f"{WAITS.name}_count": sum(counts), f"{WAITS.name}_sum": total}


@given(st.lists(st.text(st.characters(), max_size=60), max_size=8, unique=True))
def test_any_label_value_gives_a_page_that_parses(values):
    for parse, openmetrics in ((parse_text, False), (parse_openmetrics, True)):
        exporter = exporter_of(*(Series(SEEN, 1, (value,)) for value in values), metrics=(SEEN,))
        text = page(exporter, openmetrics=openmetrics)
        shown = next(one for one in parse(text) if one.name == "eagle_eye_test_seen").samples
        assert len(shown) + drops(exporter).get("duplicate", 0) == len(values)
        assert not any(unicodedata.category(one) in {"Cc", "Cs"} for one in text.replace("\n", ""))


def test_label_values_are_cut_and_their_controls_replaced():
    exporter = exporter_of(Series(SEEN, 1, ("a\x00b\nc\ud800" + "x" * 5000,)))
    family = next(one for one in parse_text(page(exporter)) if one.name == "eagle_eye_test_seen")
    value = family.samples[0].labels["kind"]
    assert value.startswith("a\ufffdb\ufffdc\ufffdxx")
    assert len(value) == MAX_LABEL_CHARACTERS


BAD = [
    (Series(SEEN, 1), "wrong_label_count"),
    (Series(SEEN, 1, "x"), "wrong_label_count"),
    (Series(SEEN, float("nan"), ("x",)), "not_a_count"),
    (Series(SEEN, -1, ("x",)), "not_a_count"),
    (Series(SEEN, float("inf"), ("x",)), "not_a_count"),
    (Series(SIZE, float("nan")), "not_a_number"),
    (Series(SIZE, "text"), "malformed"),
    (Series(SIZE, histogram(1, 1, 1, 1)), "malformed"),
    (Series(WAITS, 3.0, ("0",)), "bad_histogram"),
    (Series(WAITS, histogram(1, 2, 3), ("0",)), "bad_histogram"),
    (Series(WAITS, histogram(1, 2, 3, 4, total=float("nan")), ("0",)), "bad_histogram"),
    (Series(WAITS, Histogram((2.0, 1.0), np.array([1, 2, 3]), 0), ("0",)), "bad_histogram"),
    (Series(WAITS, Histogram((1.0,), np.array([1, -2]), 0), ("0",)), "bad_histogram"),
    (Series(WAITS, Histogram(([],), np.array([1, 2]), 0), ("0",)), "malformed"),
    (Series(Metric("eagle_eye_other", "gauge", "Other."), 1), "undeclared_metric"),
    ("not a series", "malformed"),
    (None, "malformed"),
]


@pytest.mark.parametrize(("series", "reason"), BAD)
def test_a_bad_series_is_left_off_and_counted(series, reason):
    exporter = exporter_of(series, Series(SIZE, 5))
    for rounds in (1, 2):
        text = page(exporter)
        assert "eagle_eye_test_size_bytes 5.0\n" in text
        assert drops(exporter) == {reason: rounds}
    assert f'eagle_eye_series_dropped_total{{reason="{reason}",source="test"}} 1.0' in text


def test_a_series_that_comes_twice_is_shown_once():
    exporter = exporter_of(Series(SIZE, 1), Series(SIZE, 2))
    assert "eagle_eye_test_size_bytes 1.0\n" in page(exporter)
    assert drops(exporter) == {"duplicate": 1}


def test_too_many_series_are_cut():
    exporter = exporter_of(*(Series(SEEN, 1, (str(number),)) for number in range(MAX_SERIES + 7)))
    assert page(exporter).count("eagle_eye_test_seen_total{") == MAX_SERIES
    assert drops(exporter) == {"too_many_series": 7}


def test_a_source_that_fails_costs_only_itself():
    exporter = exporter_of(Series(SIZE, 1))
    exporter.add(Source("broken", (Metric("eagle_eye_broken", "gauge", "Broken."),), lambda: 1 / 0))
    assert "eagle_eye_test_size_bytes 1.0\n" in page(exporter)
    assert drops(exporter) == {"source_failed": 1}


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (SIZE, "eagle_eye_test_size_bytes is declared by test and by second"),
        (Metric("eagle_eye_test_seen", "gauge", "Clash."), "eagle_eye_test_seen"),
        (SERIES_DROPPED, "declared by exporter and by second"),
    ],
)
def test_a_name_that_is_taken_is_refused(other, words):
    exporter = exporter_of()
    with pytest.raises(EagleEyeError, match=words):
        exporter.add(Source("second", (other,), tuple))
    assert page(exporter).count("# TYPE eagle_eye_test_size_bytes ") == 1


@pytest.mark.parametrize(
    "metric",
    [
        Metric("other_things", "gauge", "Help."),
        Metric("eagle_eye_Things", "gauge", "Help."),
        Metric("eagle_eye_things", "counter", "Help."),
        Metric("eagle_eye_things_total", "gauge", "Help."),
        Metric("eagle_eye_things_count", "gauge", "Help."),
        Metric("eagle_eye_things", "summary", "Help."),
        Metric("eagle_eye_things", "gauge", " "),
        Metric("eagle_eye_things", "gauge", "Help.", ("le",)),
        Metric("eagle_eye_things", "gauge", "Help.", ("a", "a")),
        Metric("eagle_eye_things", "gauge", "Help.", ("a-b",)),
    ],
)
def test_an_unlawful_metric_is_refused(metric):
    with pytest.raises(EagleEyeError, match=repr(metric.name)):
        Exporter().add(Source("test", (metric,), tuple))
    check_metric(SIZE)


def health_of(state: str) -> Health:
    return Health(
        probe="test",
        state=state,
        events=4,
        dropped={"ring_full": 2},
        last_success_ns=1,
        duration_ns=1_500_000,
    )


def probe_page(state: str) -> str:
    health = [health_of(state)]
    exporter = Exporter()
    spec = Spec("test", "A test.", lambda context: None, (SIZE,))
    exporter.add_probes([spec], lambda: {"test": Sample([Series(SIZE, 9)])}, lambda: health)
    exporter.add(probe_health(lambda: health))
    return page(exporter)


@pytest.mark.parametrize("state", ["ok", "degraded"])
def test_a_probe_that_works_is_up_and_its_series_shown(state):
    text = probe_page(state)
    assert "eagle_eye_test_size_bytes 9.0\n" in text
    assert 'eagle_eye_probe_up{probe="test"} 1.0\n' in text
    assert f'eagle_eye_probe_state{{probe="test",state="{state}"}} 1.0\n' in text
    assert 'eagle_eye_probe_duration_seconds{probe="test"} 0.0015\n' in text
    assert 'eagle_eye_events_total{probe="test"} 4.0\n' in text
    assert 'eagle_eye_events_dropped_total{probe="test",reason="ring_full"} 2.0\n' in text


@pytest.mark.parametrize("state", ["starting", "failing", "hung", "unavailable"])
def test_a_probe_that_knows_nothing_shows_no_old_values(state):
    text = probe_page(state)
    assert "\neagle_eye_test_size_bytes " not in text
    assert "# TYPE eagle_eye_test_size_bytes gauge\n" in text
    assert 'eagle_eye_probe_up{probe="test"} 0.0\n' in text
    states = [line for line in text.splitlines() if line.startswith("eagle_eye_probe_state{")]
    assert len(states) == 7
    assert [line for line in states if line.endswith(" 1.0")] == [
        f'eagle_eye_probe_state{{probe="test",state="{state}"}} 1.0'
    ]


def test_a_probe_that_is_off_is_neither_up_nor_down():
    text = probe_page("off")
    assert "\neagle_eye_probe_up{" not in text
    assert 'eagle_eye_probe_state{probe="test",state="off"} 1.0\n' in text


def test_promtool_finds_nothing_to_say():
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: apt install prometheus")
    exporter = exporter_of(
        Series(WAITS, histogram(1, 2, 3, 4), ("0",)),
        Series(SEEN, 1, ('\x00\n"\\{}=\u2028é',)),
        Series(SIZE, float("inf")),
    )
    exporter.add(probe_health(lambda: [health_of("ok")]))
    exporter.add(build_info("1.2.3", ""))
    done = subprocess.run([promtool, "check", "metrics"], input=page(exporter), capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
