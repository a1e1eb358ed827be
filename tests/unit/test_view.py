"""The live screen and the plain lines: what is unknown is not zero, and foreign text is only text."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from eagle_eye.collector.view import figures
from eagle_eye.collector.view.lines import PlainLines
from eagle_eye.collector.view.screen import _probes, chosen, screen, sparkline
from eagle_eye.collector.view.sentences import SENTENCES, sentence
from eagle_eye.collector.view.state import MAX_EVENTS_PER_KIND, MAX_KINDS, Cost, View
from eagle_eye.collector.view.window import Window, parse_key
from eagle_eye.collector.view.words import clean, count, percent, rate, seconds, size, span
from eagle_eye.probes.model import Event, Health, Reading, Snapshot
from eagle_eye.probes.registry import PROBES

HALF_SECOND_NS = 500_000_000
QUANTILE = 'eagle_eye_sched_run_queue_seconds{quantile="%s"}'
SWITCHES = "eagle_eye_sched_context_switches_total"
THROTTLED = 'eagle_eye_cgroup_throttled_seconds_total{cgroup="%s"}'
SOME_CPU = 'eagle_eye_pressure_waiting_seconds_total{resource="cpu",kind="some"}'


def snapshot(beat, values=None, *, health=(), node="node1", read_beat=None):
    at_ns = beat * HALF_SECOND_NS
    read_ns = at_ns if read_beat is None else read_beat * HALF_SECOND_NS
    reading = Reading(entity="host", probe="test", at_ns=read_ns, values=values or {})
    return Snapshot(
        node=node,
        cluster="default",
        boot_id="boot",
        agent="agent",
        seq=beat,
        at_ns=at_ns,
        wall_offset_ns=1_700_000_000_000_000_000,
        interval_ns=HALF_SECOND_NS,
        host=(reading,),
        health=health,
    )


def event(kind="sched.long_wait", at_ns=HALF_SECOND_NS, severity="warning", **attributes):
    return Event(
        id=f"boot:test:{at_ns}",
        kind=kind,
        at_ns=at_ns,
        wall_offset_ns=1_700_000_000_000_000_000,
        node="node1",
        boot_id="boot",
        entity="host",
        severity=severity,
        attributes=attributes,
    )


def added(view, snapshot, events, cost=None):
    view.add(snapshot, events)
    return view.state(cost)


def shown(state, width=80, height=24):
    console = Console(width=width, height=height, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(screen(state, width, height))
    return capture.get().split("\n")[:-1]


def row(lines, name):
    return next(line for line in lines if line.startswith(name))


@pytest.fixture
def view():
    return View("6.1.0", {"NATS": "nats://127.0.0.1:4222", "metrics": "http://127.0.0.1:9750/metrics"})


def test_rates_come_from_the_second_before_and_values_from_now(view):
    for beat in range(1, 6):
        values = {
            QUANTILE % "0.5": 12e-6,
            QUANTILE % "0.99": 0.0012 * beat,
            SWITCHES: 2500.0 * beat,
            SOME_CPU: 0.05 * beat,
            THROTTLED % "/kubepods/a": 0.1 * beat,
            "eagle_eye_cgroup_left_out": 0.0,
            THROTTLED % "/kubepods/idle": 3.0,
        }
        state = added(view, snapshot(beat, values), ())

    lines = shown(state)
    assert "p50 12.0 us" in row(lines, "run queue")
    assert "p99 6.00 ms" in row(lines, "run queue")
    assert "5 000/s" in row(lines, "switches")
    assert "cpu 10.0/- %" in row(lines, "waiting")
    assert "throttled  a 20.0 %" in row(lines, "throttled")
    assert "idle" not in row(lines, "throttled")


def test_what_is_unknown_is_never_shown_as_zero(view):
    lines = shown(added(view, snapshot(1), ()))

    assert "p99 - " in row(lines, "run queue")
    assert "cpu -/- %" in row(lines, "waiting")
    assert "- uninterruptible, - stuck" in row(lines, "tasks")
    assert row(lines, "kernel log").split() == ["kernel", "log", "-"]
    assert row(lines, "throttled").split() == ["throttled", "-"]
    assert not [line for line in lines if " 0" in line.replace("127.0.0.1", "").replace("up 0", "")]


def test_a_counter_that_starts_anew_has_no_rate():
    window = Window()
    window.add(snapshot(1, {SWITCHES: 500.0}))
    window.add(snapshot(2, {SWITCHES: 3.0}))

    assert window.rate(SWITCHES) is None


def test_a_slow_probe_has_the_rate_of_its_own_readings():
    window = Window()
    for beat in range(1, 8):
        window.add(snapshot(beat, {SWITCHES: float(beat // 2 * 2 * 10)}, read_beat=beat // 2 * 2))

    assert window.rate(SWITCHES) == pytest.approx(20)


def test_a_reading_that_no_longer_comes_has_no_rate():
    window = Window()
    for beat in range(1, 8):
        window.add(snapshot(beat, {SWITCHES: 10.0}, read_beat=1))

    assert window.rate(SWITCHES) is None


def test_labels_are_read_as_prometheus_writes_them():
    assert parse_key('a_total{x="1",y="q\\"\\\\\\n{}"}') == ("a_total", {"x": "1", "y": 'q"\\\n{}'})
    assert parse_key("a_total") == ("a_total", {})


def test_every_probe_says_its_state_and_why(view):
    health = (
        Health("sched", "ok", events=12, duration_ns=310_000),
        Health("tasks", "unavailable", reason="needs CAP_BPF"),
        Health("kmsg", "ok", dropped={"ring_full": 2, "rate_limited": 1}),
        Health("quiet", "off"),
    )
    lines = shown(added(view, snapshot(1, health=health), ()))

    assert row(lines, "sched").split() == ["sched", "ok", "0.31", "12", "0"]
    assert row(lines, "tasks       unavail").endswith("needs CAP_BPF")
    assert row(lines, "kmsg").split()[-1] == "3"
    assert not [line for line in lines if line.startswith("quiet")]


def test_many_probes_leave_room_for_events_and_the_sick_come_first(view):
    well = tuple(Health(f"probe{n}", "ok") for n in range(20))
    sick = (Health("late", "hung", reason="for 3 s"), Health("poor", "unavailable", reason="no BTF"))
    state = added(view, snapshot(1, health=(*well, *sick)), [event("kmsg.record", 1, text="hello")])
    lines = shown(state)

    assert len(lines) <= 24
    assert [line.split()[0] for line in lines[12:14]] == ["late", "poor"]
    assert lines[12].endswith("for 3 s")
    assert re.fullmatch(r"and 1\d ok *", row(lines, "and "))
    assert [line for line in lines if line.endswith("kmsg.record hello")]


def test_a_reading_of_long_ago_is_not_known_now():
    window = Window()
    window.add(snapshot(20, {SWITCHES: 10.0}, read_beat=9))
    assert window.value(SWITCHES) is None

    window.add(snapshot(21, {SWITCHES: 10.0}, read_beat=20))
    assert window.value(SWITCHES) == 10


def test_newest_events_come_first_and_memory_is_bounded(view):
    for beat in range(1, 200):
        state = added(view, snapshot(beat), [event("kmsg.record", beat * HALF_SECOND_NS, text=f"line {beat}")])
        added(view, snapshot(beat), [event(f"kind.{beat}", beat)])

    lines = [line for line in shown(state, height=90) if "kmsg.record" in line]
    assert lines[0].endswith("line 199")
    assert lines[1].endswith("line 198")
    assert len(state.events) <= MAX_KINDS * MAX_EVENTS_PER_KIND


def test_a_rare_severe_event_is_not_pushed_out_by_frequent_ones():
    waits = [event("sched.long_wait", 10 + n) for n in range(50)]
    execs = [event("process.exec", 100 + n, severity="info") for n in range(50)]
    kill = event("process.oom_kill", 1, severity="error")
    picked = chosen([kill, *waits, *execs], 4)

    assert [one.kind for one in picked] == ["process.exec", "sched.long_wait", "sched.long_wait", "process.oom_kill"]
    assert picked[0].at_ns == 149
    assert [one.at_ns for one in picked[1:3]] == [59, 58]
    assert chosen([kill, *waits], 0) == []


def test_own_cost_and_addresses_are_on_top(view):
    lines = shown(added(view, snapshot(1), (), Cost(cpu_ratio=0.006, resident_bytes=60 << 20)))

    assert "costs 0.6 %, 60.0 MiB" in lines[0]
    assert lines[1] == "NATS nats://127.0.0.1:4222  metrics http://127.0.0.1:9750/metrics"


def test_every_figure_is_a_metric_that_a_probe_declares():
    declared = {metric.name for spec in PROBES for metric in spec.metrics}
    used = {name for name in vars(figures).values() if isinstance(name, str) and name.startswith("eagle_eye_")}

    assert used <= declared


def test_every_kind_that_a_probe_makes_has_a_sentence():
    # The probe `devices` tells of one device at a time.
    names = "|".join(name for spec in PROBES for name in (spec.name, spec.name.removesuffix("s")))
    probes = Path(figures.__file__).parents[2] / "probes"
    agent = [
        path
        for name in ("recorder", "forensics", "incidents")
        for path in (probes.parent / "collector" / name).glob("*.py")
    ]
    parts = (names, probes.glob("*.py")), ("recorder|forensics|incident", agent)
    made = {
        kind
        for names, paths in parts
        for path in paths
        for kind in re.findall(rf'"((?:{names})\.[a-z_]+)"', path.read_text())
    }

    assert len(made) >= 5
    assert made == set(SENTENCES)


ATTRIBUTES = sorted({one for form in SENTENCES.values() for one in re.findall(r"{(\w+)", form)})
foreign = st.text(max_size=60)


@settings(deadline=None)
@given(
    text=foreign,
    width=st.integers(1, 100),
    height=st.integers(1, 40),
    kind=st.one_of(st.sampled_from(sorted(SENTENCES)), foreign.filter(bool)),
    value=st.one_of(
        foreign, st.integers(), st.floats(), st.none(), st.lists(foreign), st.dictionaries(foreign, foreign)
    ),
)
def test_any_text_stays_text_inside_the_screen(text, width, height, kind, value):
    names = (*ATTRIBUTES, text or "x")
    hostile = event(kind, **dict.fromkeys(names, value))
    health = (Health(text, "failing", reason=text),)
    values = {THROTTLED % text: 1.0, "eagle_eye_cgroup_left_out": 0.0}
    view = View(text, {"NATS": text})
    added(view, snapshot(1, values, health=health, node=text), [hostile])
    state = added(view, snapshot(2, {**values, THROTTLED % text: 2.0}, health=health, node=text), [hostile])

    lines = shown(state, width, height)

    assert len(lines) <= height
    for line in lines:
        assert cell_len(line) <= width
        assert line.isprintable()


@given(text=foreign, kind=foreign.filter(bool))
def test_any_event_is_one_plain_line(text, kind):
    hostile = event(kind, **{"comm": text, text or "x": text})

    for line in PlainLines().add(snapshot(1, {text: 1.0}, health=(Health("x", "failing", reason=text),)), [hostile]):
        assert line.isprintable()


def test_plain_lines_come_once_a_second_and_once_per_event():
    lines = PlainLines()
    written = [list(lines.add(snapshot(beat, {SWITCHES: 10.0 * beat}), ())) for beat in range(1, 9)]

    assert [len(one) for one in written] == [1, 0, 1, 0, 1, 0, 1, 0]
    assert written[2][0] == "2023-11-14T22:13:21.500Z snapshot seq=3 context_switches_per_second=20"


def test_a_plain_line_names_probes_that_do_not_work():
    health = (Health("sched", "ok"), Health("tasks", "unavailable"), Health("link", "off"))
    (line,) = PlainLines().add(snapshot(2, health=health), ())

    assert line == "2023-11-14T22:13:21.000Z snapshot seq=2 tasks=unavailable"


def test_markup_of_the_kernel_is_not_markup_of_ours(view):
    state = added(view, snapshot(1), [event("kmsg.record", text="[red]x[/red] \x1b[2J \u202e")])

    line = next(line for line in shown(state) if "kmsg.record" in line)
    assert line.endswith("[red]x[/red] \\x1b[2J \\u202e")


def test_an_event_without_its_attributes_says_so():
    for kind, form in SENTENCES.items():
        assert "{" not in sentence(event(kind))
        assert "?" in sentence(event(kind)), form


@pytest.mark.parametrize(
    ("kind", "attributes", "words"),
    [
        (
            "sched.long_wait",
            {
                "task": "engine",
                "pid": 7,
                "wait_seconds": 0.0234,
                "cpu": 1,
                "ran_instead": {"task": "hog", "pid": 9, "share_ratio": 0.98},
            },
            "engine (7) waited 23.4 ms behind hog (9), 98.0 % of it, for CPU 1",
        ),
        (
            "sched.long_wait",
            {"task": "engine", "pid": 7, "wait_seconds": 0.0234, "cpu": 1},
            "engine (7) waited 23.4 ms for CPU 1",
        ),
        (
            "tasks.stuck",
            {"task": "dd", "pid": 7, "stuck_seconds": 5.0, "stack": ["io_schedule+0x46", "b"]},
            "dd (7) has made no progress for 5.00 s, in io_schedule+0x46",
        ),
        ("process.exit", {"task": "sh", "pid": 7, "exit_code": 0}, "sh (7) ended with exit code 0"),
        (
            "process.exit",
            {"task": "sh", "pid": 7, "signal": "SIGKILL", "sender": {"task": "bash", "pid": 3}},
            "sh (7) ended by SIGKILL sent by bash (3)",
        ),
        (
            "process.exit",
            {"task": "sh", "pid": 7, "signal": "SIGKILL", "sender": {"kernel": True}},
            "sh (7) ended by SIGKILL",
        ),
        (
            "process.oom_kill",
            {"task": "eater", "pid": 7, "resident_bytes": 50 << 20, "cgroup": "/small"},
            "eater (7) killed for want of memory, 50.0 MiB resident, in /small",
        ),
        ("kmsg.record", {"text": "a\nb", "repeats": 3}, "a\\nb (3 times)"),
    ],
)
def test_sentences(kind, attributes, words):
    assert sentence(event(kind, **attributes)) == words


def test_an_unknown_kind_still_tells_all_it_has():
    assert sentence(event("new.kind", pid=3, comm="a b")) == "pid=3 comm=a b"


def test_sparkline_is_logarithmic_and_blank_where_nothing_is_known():
    assert sparkline([1e-9, 1e-5, 1e-3, 1e-1, None, 9.0]) == "▁▁▅█ █"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (seconds(0.0), "0.00 us"),
        (seconds(1.2e-5), "12.0 us"),
        (seconds(0.25), "250 ms"),
        (seconds(61), "61.0 s"),
        (seconds(None), "-"),
        (size(512), "512 B"),
        (size(3.25 * 2**30), "3.25 GiB"),
        (count(12340), "12 340"),
        (rate(0.34), "0.3/s"),
        (rate(12340.4), "12 340/s"),
        (rate(0), "0/s"),
        (percent(0.1234), "12.3 %"),
        (span(59), "59 s"),
        (span(3600), "1 h 0 m"),
        (span(90061), "1 d 1 h"),
        (clean("a\tb\x1b[0m\u200b"), "a\\tb\\x1b[0m\\u200b"),
    ],
)
def test_words(words, text):
    assert words == text


def test_the_name_of_every_probe_fits_its_column():
    rows = _probes([Health(probe=spec.name, state="ok", reason="x") for spec in PROBES], 99)

    assert {row.plain.index("ok") for row in rows[1:]} == {rows[0].plain.index("state")}
