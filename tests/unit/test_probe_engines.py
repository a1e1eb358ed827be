"""The probe of engines, against rings that real writer processes write."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from eagle_eye.collector.garbage import refuse_garbage
from eagle_eye.probes.engine import finder
from eagle_eye.probes.engine.simulator import Scenario, SimulatedEngine
from eagle_eye.probes.engine.vllm import wire
from eagle_eye.probes.engine.vllm.ring import Ring as Writer
from eagle_eye.probes.engines import SPEC
from eagle_eye.probes.paths import Paths

STEP = wire.format_of(wire.STEP)
NAMES = [name for name, _ in wire.STEP[1:-1]]
WRITER = """
    import sys, time
    from eagle_eye.probes.engine.simulator import Fleet, Scenario, SimulatedEngine
    fleet = Fleet([SimulatedEngine(Scenario(requests_per_second=20), directory=sys.argv[1])])
    print(fleet.engines[0].instance, flush=True)
    fleet.run_until(time.monotonic_ns() + 60 * 10**9)
"""


class Watched:
    """A probe on a folder of its own, and all that it has told so far."""

    def __init__(self, probe):
        self.probe = probe
        self.events, self.states, self.steps = [], [], []
        self.round()

    def round(self):
        self.sample = refuse_garbage(SPEC, self.probe.sample(time.monotonic_ns()))
        self.events += self.sample.events
        self.states += self.sample.engines
        self.steps += self.sample.steps
        return self.sample

    def until(self, condition, timeout_s=20.0):
        end = time.monotonic() + timeout_s
        while not (found := condition(self)):
            assert time.monotonic() < end, (self.events, self.states[-3:], self.sample.degraded)
            time.sleep(0.01)
            self.round()
        return found

    def event(self, kind):
        return next((event for event in self.events if event.kind == kind), None)

    def values(self, name):
        return {one.labels: one.value for one in self.sample.series if one.metric.name == name}


@pytest.fixture
def shm(tmp_path):
    folder = tmp_path / "dev/shm"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def watch(context, tmp_path, shm, monkeypatch):
    """`watch(**options)` starts a probe that sees the test's folder as /dev/shm, and no containers unless told."""
    monkeypatch.setattr(finder, "PERIOD_S", 0.02)
    made = []

    def make(proc=None, **options):
        defaults = {o.name: None if o.default is None else o.parse(o.default, o.name) for o in SPEC.options}
        paths = Paths(proc=proc or tmp_path / "proc", dev=tmp_path / "dev")
        made.append(Watched(SPEC.build(context("engines", paths, **defaults | options))))
        return made[-1]

    yield make
    for each in made:
        each.probe.close()


@pytest.fixture
def writer(shm):
    """`writer(**handshake)` makes a ring that is written by hand."""
    made = []

    def make(**handshake):
        hello = {"engine": "vllm", "instance": f"{len(made):032x}", "model": "m", "heartbeat_ns": 10**9, **handshake}
        made.append(Writer(hello, str(shm)))
        return made[-1]

    yield make
    for each in made:
        if each.open:
            each.close()


@pytest.fixture
def process(shm):
    """`process()` starts a simulated engine in a process; gives it and its instance."""
    made = []

    def make(*before):
        command = [*before, sys.executable, "-c", textwrap.dedent(WRITER), str(shm)]
        made.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return made[-1], made[-1].stdout.readline().strip()

    yield make
    for each in made:
        each.kill()
        each.communicate()


def put(ring, step, **values):
    now_ns = time.monotonic_ns()
    fields = {"kind": wire.KIND_STEP, "step": step, "start_ns": now_ns - 5_000_000, "end_ns": now_ns, "padding": b""}
    fields |= {
        "running": 3,
        "kv_blocks_free": 25,
        "kv_blocks_total": 100,
        "decode_tokens": 3,
        "decode_tokens_total": 3 * step,
    }
    fields |= values
    ring.put(STEP, *(fields.get(name, 0) for name in NAMES))


def tick(ring, **values):
    names = [name for name, _ in wire.TICK[1:-1]]
    fields = {"at_ns": time.monotonic_ns(), "flight_started_ns": 2**64 - 1} | values
    ring.tick(*(fields.get(name, 0) for name in names))


def test_an_engine_is_found_read_and_counted(watch, process):
    watched = watch()
    _, instance = process()
    started = watched.until(lambda w: w.event("engine.started"))
    watched.until(lambda w: sum(len(batch.records) for batch in w.steps) > 20)

    assert (started.attributes["instance"], started.attributes["simulated"]) == (instance, True)
    state = watched.states[-1]
    assert (state.instance, state.source, state.simulated, state.max_running) == (instance, "plugin", True, 128)
    steps = [int(step) for batch in watched.steps for step in batch.records["step"]]
    assert steps == list(range(steps[0], steps[0] + len(steps)))
    watched.until(lambda w: w.values("eagle_eye_engine_steps_total"))
    assert watched.values("eagle_eye_engine_up") == {("vllm", "simulated-8b", "0", ""): 1.0}


def test_a_killed_engine_is_gone_at_once_and_its_file_is_removed(watch, process, shm):
    watched = watch()
    running, _ = process()
    watched.until(lambda w: w.states)
    os.kill(running.pid, signal.SIGKILL)
    gone = watched.until(lambda w: w.event("engine.gone"))

    assert (gone.severity, gone.attributes["died"]) == ("error", True)
    assert watched.states[-1].kind == "gone"
    assert list(shm.iterdir()) == []
    watched.until(lambda w: not w.values("eagle_eye_engine_up"))


def test_an_engine_that_ends_in_order_is_no_error(watch, writer):
    watched, ring = watch(), writer()
    put(ring, 1)
    watched.until(lambda w: w.states)
    ring.state(wire.STATE_DRAINING)
    watched.until(lambda w: w.states[-1].kind == "draining")
    ring.close()
    gone = watched.until(lambda w: w.event("engine.gone"))

    assert (gone.severity, gone.attributes["died"]) == ("info", False)


def test_a_prefill_that_goes_on_is_seen_with_what_waits_behind_it(watch, writer):
    watched, ring = watch(), writer()
    put(ring, 1)
    tick(ring, flight_step=2, flight_started_ns=time.monotonic_ns() - 2_000_000_000, running=1, input_queue=33)
    state = watched.until(lambda w: w.states and w.states[-1])

    assert (state.kind, state.running, state.input_queue) == ("tick", 1, 33)
    assert 2_000_000_000 <= state.in_flight_age_ns < 60_000_000_000


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({}, "idle"),
        ({"waiting": 1}, "step"),
        ({"running": 2**32 - 1, "waiting": 2**32 - 1, "input_queue": 2**32 - 1}, "unknown"),
    ],
)
def test_idle_is_not_unknown(watch, writer, values, kind):
    watched, ring = watch(), writer()
    tick(ring, **values)

    assert watched.until(lambda w: w.states and w.states[-1]).kind == kind


def test_a_silent_engine_is_unknown_and_its_load_is_told_no_more(watch, writer):
    watched, ring = watch(), writer(heartbeat_ns=100_000_000)
    tick(ring, running=1)
    watched.until(lambda w: w.event("engine.silent"))
    watched.until(lambda w: w.states[-1].kind == "unknown")

    assert watched.values("eagle_eye_engine_up") == {("vllm", "m", "0", ""): 0.0}
    assert watched.values("eagle_eye_engine_requests_running") == {}
    tick(ring, running=1)
    watched.until(lambda w: w.event("engine.heard"))


def test_every_record_is_delivered_or_counted_as_missed(watch, writer):
    watched, ring = watch(), writer()
    watched.until(lambda w: w.event("engine.started"))
    stop, written = threading.Event(), [0]

    def write():
        while not stop.is_set():
            written[0] += 1
            put(ring, written[0])

    thread = threading.Thread(target=write)
    thread.start()
    watched.until(lambda w: written[0] > 20_000)
    stop.set()
    thread.join()
    watched.until(lambda w: sum(len(b.records) for b in w.steps) + w.sample.dropped["overrun"] >= written[0])

    delivered = sum(len(batch.records) for batch in watched.steps)
    assert delivered + watched.sample.dropped["overrun"] == written[0]
    decoded = ("vllm", "m", "0", "", "decode")
    watched.until(lambda w: w.values("eagle_eye_engine_tokens_total").get(decoded) == 3 * written[0])


def test_an_overrun_is_counted_and_told(watch, writer):
    watched, ring = watch(), writer()
    watched.until(lambda w: w.event("engine.started"))
    for number in range(3 * wire.SLOTS):
        put(ring, number + 1)
    overrun = watched.until(lambda w: w.event("engine.ring_overrun"))

    assert overrun.attributes["records"] == 2 * wire.SLOTS
    assert watched.states[-1].step == 3 * wire.SLOTS


def test_steps_bear_the_process_and_thread_that_made_them(watch, writer):
    watched, ring = watch(), writer(pid=77)
    watched.until(lambda w: w.event("engine.started"))
    put(ring, 1, thread_id=77)
    put(ring, 2, thread_id=78, prefill_tokens=5)
    watched.until(lambda w: sum(len(batch.records) for batch in w.steps) == 2)
    first, second = (step for batch in watched.steps for step in batch.steps())

    assert (first.seq, first.pid, first.thread_id, first.tokens) == (1, 0, 0, 3)
    assert (second.tokens, second.kv_usage_ratio, second.running) == (8, 0.75, 3)
    assert second.end_ns - second.start_ns == 5_000_000


def test_two_agents_read_the_same_engine(watch, writer):
    first, second, ring = watch(), watch(), writer()
    for watched in (first, second):
        watched.until(lambda w: w.event("engine.started"))
    for number in range(100):
        put(ring, number + 1)
    for watched in (first, second):
        watched.until(lambda w: sum(len(batch.records) for batch in w.steps) == 100)


def test_an_agent_that_is_restarted_goes_on_with_the_newest_step(watch, writer):
    first, ring = watch(), writer()
    for number in range(50):
        put(ring, number + 1)
    first.until(lambda w: w.states and w.states[-1].step == 50)
    first.probe.close()
    second = watch()
    second.until(lambda w: w.states and w.steps)

    assert second.states[-1].step == 50
    assert sum(len(batch.records) for batch in second.steps) == 1


def test_a_round_between_two_full_ones_tells_states_at_once_and_leaves_series_and_steps_for_later(watch, writer):
    watched, ring = watch(), writer()
    watched.until(lambda w: w.states)
    for _ in range(20):
        before = watched.sample.series
        put(ring, len(watched.states) + 1)
        watched.round()
        watched.until(lambda w: w.sample.engines)
        if watched.sample.series is before:
            break

    assert watched.sample.series is before, "no new series for a state that changed"
    assert watched.sample.steps == []
    assert watched.sample.engines[0].kind == "step"
    watched.until(lambda w: w.steps and w.steps[-1].records["step"][-1] == w.states[-1].step)


def test_the_writer_knows_that_it_is_read(watch, writer):
    ring = writer()
    assert not ring.wanted()
    watch().until(lambda w: w.event("engine.started"))
    assert ring.wanted()


def test_thousands_of_restarts_leave_nothing(watch, shm):
    watched = watch()
    watched.round()
    before = len(os.listdir("/proc/self/fd"))
    for number in range(1000):
        engine = SimulatedEngine(Scenario(), directory=str(shm), seed=number)
        if number % 50 == 0:
            watched.until(lambda w: any(rank.key == engine.instance for rank in w.probe._ranks))
        engine.close()
    watched.until(lambda w: not len(w.probe._ranks))
    kinds = Counter(event.kind for event in watched.events)

    assert list(shm.iterdir()) == []
    assert kinds["engine.started"] == kinds["engine.gone"] >= 20
    watched.until(lambda w: len(os.listdir("/proc/self/fd")) <= before + 2)


def test_a_file_that_is_cut_short_ends_its_engine_and_nothing_else(watch, writer, shm):
    watched, ring, other = watch(), writer(), writer()
    for each in (ring, other):
        put(each, 1)
    watched.until(lambda w: len({state.instance for state in w.states}) == 2)
    os.truncate(ring.path, 200)
    gone = watched.until(lambda w: w.event("engine.gone"))
    put(other, 2)
    watched.until(lambda w: w.states[-1].step == 2)

    assert (gone.attributes["reason"], gone.severity) == ("the file is too short", "error")


def change_header(path, field, value):
    with open(path, "r+b") as file:
        file.seek(wire.offset_of(wire.HEADER, field))
        file.write(value)


def test_a_newer_minor_version_is_read_and_another_major_one_refused(watch, writer):
    ring, newer = writer(), writer()
    for each in (ring, newer):
        put(each, 1)
    change_header(newer.path, "version_minor", b"\x07\x00")
    change_header(ring.path, "version_major", b"\x02\x00")
    watched = watch()
    watched.until(lambda w: w.states and w.sample.degraded)

    assert {state.instance for state in watched.states} == {f"{1:032x}"}
    assert "version 2 of the ring, and version 1 is known here" in watched.sample.degraded


def test_what_is_no_ring_is_not_even_opened_for_long(watch, shm, tmp_path, writer):
    ring = writer()
    os.symlink(ring.path, shm / f"{wire.NAME_PREFIX}link.ring")
    os.mkfifo(shm / f"{wire.NAME_PREFIX}fifo.ring")
    (shm / f"{wire.NAME_PREFIX}folder.ring").mkdir()
    (shm / f"{wire.NAME_PREFIX}empty.ring").write_bytes(b"")
    (shm / f"{wire.NAME_PREFIX}zeros.ring").write_bytes(bytes(wire.FILE_BYTES))
    watched = watch()
    watched.until(lambda w: "(and 4 more)" in w.sample.degraded)

    assert len(watched.probe._finder.refused) == 5
    assert len(watched.probe._ranks) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_whose_file_it_is_is_told(watch, writer):
    ring = writer()
    os.chown(ring.path, 65534, 65534)

    assert watch().until(lambda w: w.event("engine.started")).attributes["uid"] == 65534


def test_a_second_engine_of_the_same_name_is_refused(watch, writer, shm, tmp_path):
    ring = writer()
    watched = watch()
    watched.until(lambda w: w.event("engine.started"))
    copy = shm / f"{wire.NAME_PREFIX}copy.ring"
    copy.write_bytes(Path(ring.path).read_bytes())
    watched.until(lambda w: "is called" in w.sample.degraded)

    assert len(watched.probe._ranks) == 1


def test_no_more_than_the_limit(watch, writer):
    watched = watch(max_engines=2)
    rings = [writer() for _ in range(3)]
    watched.until(lambda w: "1 engines are not followed" in w.sample.degraded)
    followed = {event.attributes["instance"] for event in watched.events}
    next(ring for ring in rings if any(instance in ring.path for instance in followed)).close()
    watched.until(lambda w: sum(event.kind == "engine.started" for event in w.events) == 3)


def test_a_word_from_the_future_is_no_older_than_now(watch, writer):
    watched, ring = watch(), writer()
    put(ring, 1, end_ns=2**63, start_ns=2**62)
    state = watched.until(lambda w: w.states and w.states[-1])

    assert state.at_ns <= time.monotonic_ns()
    assert json.loads(msgspec.json.encode(state))["step"] == 1


def test_several_front_ends_are_one_series(watch, writer):
    watched = watch()
    for _ in range(2):
        ring = writer(role="frontend")
        ring.count(0, 3, 5)
        ring.add(0, 10_000_000)
    watched.until(
        lambda w: any(v.counts.sum() == 10 for v in w.values("eagle_eye_engine_time_to_first_token_seconds").values())
    )

    assert watched.states == []
    (histogram,) = watched.values("eagle_eye_engine_time_to_first_token_seconds").values()
    assert histogram.total == 0.02


def test_totals_go_on_over_a_restart(watch, writer):
    watched = watch()
    for _ in range(2):
        ring = writer()
        put(ring, 10)
        watched.until(lambda w: w.values("eagle_eye_engine_up"))
        ring.close()
        watched.until(lambda w: not w.values("eagle_eye_engine_up"))

    assert watched.values("eagle_eye_engine_steps_total") == {("vllm", "m", "0", ""): 20.0}


@pytest.mark.needs_mounts
def test_an_engine_in_a_container_is_found_with_its_pid_outside(watch, shm, tmp_path):
    script = f"mount -t tmpfs tmpfs /dev/shm && exec {sys.executable} -c '{textwrap.dedent(WRITER)}' /dev/shm"
    command = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            instance = running.stdout.readline().strip()
            watched = watch(proc=Path("/proc"))
            watched.until(lambda w: any(state.instance == instance for state in w.states))
            state = next(state for state in watched.states if state.instance == instance)
            children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
            assert state.pid == int(children[0])
            batch = watched.until(lambda w: next((batch for batch in w.steps if batch.pid == state.pid), None))
            assert set(batch.records["thread_id"]) == {state.pid}
            os.kill(state.pid, signal.SIGKILL)
            watched.until(lambda w: any(s.instance == instance and s.kind == "gone" for s in w.states))
        finally:
            running.kill()


def test_without_engines_there_is_nothing(watch):
    watched = watch()
    sample = watched.round()

    assert (list(sample.series), list(sample.engines), sample.degraded) == ([], [], "")
    assert len(watched.probe.wake_fds()) == 2
    assert "engine-poll" not in {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
