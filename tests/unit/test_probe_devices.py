"""Devices: real workers on the simulated vendor libraries; hangs, crashes, and what comes and goes."""

import os
import signal
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle_eye.native.errors import EagleEyeError, UnavailableError
from eagle_eye.native.simulator import LIBRARIES, Simulation
from eagle_eye.probes import devices
from eagle_eye.probes.device_counters import Monotone
from eagle_eye.probes.device_events import MAX_EVENTS, DeviceEvents
from eagle_eye.probes.device_library import find_library
from eagle_eye.probes.device_messages import Failure, Inventory, encode, parse
from eagle_eye.probes.device_process import WorkerProcess
from eagle_eye.probes.device_worker import differ, next_beat
from eagle_eye.probes.devices import SPEC, DevicesProbe
from eagle_eye.probes.model import Device
from eagle_eye.probes.probe import EventSource

DEFAULTS = {option.name: option.parse(option.default, option.name) for option in SPEC.options}
BUSY_S = 20.0  # a shared machine takes its time to start an interpreter


class Bench:
    """A simulated machine and the probe that watches it; `events` are all that the probe has told."""

    def __init__(self, simulation: Simulation, probe: DevicesProbe) -> None:
        self.simulation = simulation
        self.probe = probe
        self.events = []
        self.faults = []

    def sample(self):
        sample = self.probe.sample(time.monotonic_ns())
        self.events += sample.events
        self.faults += sample.faults
        return sample

    def values(self, index: int) -> dict:
        """Values of a device by the metric's short name and its own labels."""
        return {
            (series.metric.name.removeprefix("eagle_eye_device_"), *series.labels[3:]): series.value
            for series in self.sample().series
            if series.entity != "host" and series.labels[0] == str(index)
        }

    def health(self, index: int) -> str:
        return next(key[1] for key, value in self.values(index).items() if key[0] == "health" and value)

    def until(self, condition, timeout_s: float = BUSY_S):
        deadline = time.monotonic() + timeout_s
        while not (found := condition()):
            assert time.monotonic() < deadline, (self.sample().degraded, [(e.kind, e.attributes) for e in self.events])
            time.sleep(0.02)
        return found

    def event(self, kind: str, **attributes):
        """The first event of a kind with these attributes."""

        def found():
            self.sample()
            wanted = attributes.items()
            plain = [e for e in self.events if e.kind == kind and all(e.attributes.get(k) == v for k, v in wanted)]
            return plain[0] if plain else None

        return self.until(found)

    def pids(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/self/task/{self.thread_id()}/children").read_text().split()]

    def thread_id(self) -> int:
        return self.probe.workers._thread.native_id


@pytest.fixture
def bench(context, monkeypatch):
    """`bench(profile, **options)` starts one; all are stopped with the test."""
    made = []

    def make(profile: str = "h100x8", **options) -> Bench:
        simulation = Simulation(profile)
        for name, value in simulation.environment().items():
            monkeypatch.setenv(name, value)
        probe = devices.build(context("devices", **DEFAULTS | options))
        made.append(Bench(simulation, probe))
        made[-1].until(lambda: made[-1].sample().devices)
        made[-1].until(lambda: ("power_watts",) in made[-1].values(0))
        return made[-1]

    yield make
    for each in made:
        each.probe.close()
        each.simulation.remove()


# ---- what is told ----


@pytest.mark.parametrize(
    ("profile", "kind", "model"), [("h100x8", "gpu", "NVIDIA H100"), ("ascend910bx8", "npu", "Ascend 910B")]
)
def test_eight_devices_speak_the_same_words(bench, profile, kind, model):
    one = bench(profile)
    one.simulation.set("all", temperature_celsius=47, power_watts=300, memory_used_bytes="10GiB")
    one.until(lambda: one.values(7).get(("temperature_celsius", "core")) == 47)
    sample = one.sample()

    assert [device.index for device in sample.devices] == list(range(8))
    assert len({device.uuid for device in sample.devices}) == 8
    assert {device.kind for device in sample.devices} == {kind}
    assert all(device.model.startswith(model) and device.simulated and device.pci_bdf for device in sample.devices)
    assert sample.degraded == ""
    assert sample.topology
    for index in range(8):
        values = one.values(index)
        assert values["power_watts",] == pytest.approx(300, abs=1)
        assert values["memory_used_bytes",] == 10 * 2**30
        assert values["utilization_ratio",] <= 1
        assert values["ecc_errors_total", "corrected", "memory", "volatile"] == 0
        assert values["health", "ok"] == 1


def test_what_a_device_cannot_say_is_absent(bench):
    one = bench()
    assert ("voltage_volts",) not in one.values(0)

    one.simulation.set(3, {"call.power.code": 3})
    one.until(lambda: ("power_watts",) not in one.values(3))
    assert ("power_watts",) in one.values(4)
    assert one.health(3) == "ok"


def test_every_series_is_declared_and_no_number_is_nan(bench):
    one = bench()
    for series in one.sample().series:
        assert series.metric in SPEC.metrics
        assert len(series.labels) == len(series.metric.labels)
        if series.metric.kind != "histogram":
            assert np.isfinite(series.value)


def test_mig_instances_name_their_parent(bench):
    one = bench("a100-mig")
    found = one.sample().devices
    instances = [device for device in found if device.kind == "mig"]

    assert instances
    assert {device.parent_uuid for device in instances} <= {device.uuid for device in found if device.kind == "gpu"}


def test_calls_are_timed_by_group(bench):
    one = bench()
    counts = {
        series.labels[0]: int(series.value.counts.sum())
        for series in one.sample().series
        if series.metric.name == "eagle_eye_device_call_seconds"
    }

    assert counts["power"] >= 8
    assert "events" not in counts, "waiting is no duration"


def test_processes_arrive_by_pid(bench):
    one = bench()
    one.simulation.set(2, {"process.1234.memory_bytes": "3GiB"})
    uuid = one.sample().devices[2].uuid

    process = one.until(lambda: (one.sample(), one.probe.workers.processes.get(uuid))[1])[0]
    assert (process.pid, process.memory_bytes) == (1234, 3 * 2**30)


# ---- what goes wrong ----


def test_a_call_that_hangs_is_told_within_its_deadline_and_costs_nobody_else(bench):
    one = bench(deadline=500_000_000)
    uuid = one.sample().devices[3].uuid
    hung = time.monotonic_ns()
    one.simulation.set(3, {"call.power.hang": 1})
    event = one.event("device.call_stuck")

    assert event.entity == uuid
    assert event.attributes["group"] == "power"
    assert event.attributes["function"].startswith("nvmlDevice")
    assert event.attributes["stack"], "where in the kernel it is"
    assert event.attributes["stuck_seconds"] >= 0.5
    # At most one beat until the call is made, the deadline, and 100 ms; the rest is the machine's.
    assert event.at_ns - hung < (0.1 + 0.5 + 0.1 + 0.2) * 1e9
    one.until(lambda: one.health(4) == "ok" and ("power_watts",) in one.values(4))
    assert one.health(3) == "stuck"
    assert "hung or crashed" in one.sample().degraded
    one.simulation.set(3, fault="clear")
    recovered = one.event("device.call_recovered")
    assert recovered.entity == uuid
    one.until(lambda: one.health(3) == "ok")
    assert one.sample().degraded == ""


def test_a_device_that_hung_once_cannot_hold_up_the_others_again(bench):
    one = bench(deadline=300_000_000)
    one.simulation.set(3, {"call.power.hang": 1})
    one.event("device.call_stuck")
    one.simulation.set(3, fault="clear")
    one.event("device.call_recovered")
    one.until(lambda: one.health(0) == "ok")
    main = one.probe.workers._seats[0].worker.pid
    one.simulation.set(3, {"call.power.hang": 1})
    one.until(lambda: (one.sample(), [e.kind for e in one.events].count("device.call_stuck"))[1] >= 2)

    assert one.probe.workers._seats[0].worker.pid == main


def test_a_crash_in_the_library_is_told_and_the_device_kept_apart(bench):
    one = bench()
    uuid = one.sample().devices[5].uuid
    one.simulation.set(5, {"call.memory.crash": 1})
    event = one.event("device.worker_died")

    assert event.attributes["signal"] == "SIGSEGV"
    assert event.attributes["group"] == "memory"
    assert event.entity == uuid
    one.until(lambda: one.health(0) == "ok" and one.health(5) == "stuck")
    one.simulation.set(5, fault="clear")
    one.event("device.call_recovered")


def test_a_worker_that_is_killed_is_replaced(bench):
    one = bench()
    os.kill(one.probe.workers._seats[0].worker.pid, signal.SIGKILL)

    assert one.event("device.worker_died").attributes["signal"] == "SIGKILL"
    before = time.monotonic_ns()
    one.until(lambda: min(one.sample().taken_ns.values()) > before)
    assert one.sample().degraded == ""


def test_a_worker_killed_from_outside_accuses_no_device(bench):
    one = bench()
    one.simulation.set(3, {"call.power.delay": "200ms"})  # so that it is in that call most of the time
    worker = one.probe.workers._seats[0].worker
    one.until(lambda: any(call.group == "power" for call in worker.calls()))
    os.kill(worker.pid, signal.SIGKILL)
    event = one.event("device.worker_died", signal="SIGKILL")

    assert event.entity == "host"
    assert one.probe.workers.stuck() == {}
    one.until(lambda: one.health(3) == "ok")


def test_a_library_that_hangs_as_a_whole_is_told(bench):
    one = bench(deadline=300_000_000)
    one.simulation.set("node", {"call.identity.hang": 1})
    event = one.event("device.call_stuck", group="identity")

    assert event.entity in ("host", *one.sample().taken_ns)


def test_a_device_with_a_fatal_fault_is_left_alone_after_its_tries(bench):
    one = bench(deadline=200_000_000, retry=1)
    one.simulation.set(6, xid=119)
    event = one.event("device.xid")
    one.simulation.set(6, fault="hang")
    one.until(lambda: "left alone after fault 119" in one.sample().degraded)

    assert event.severity == "fatal"
    stuck = [event for event in one.events if event.kind == "device.call_stuck"]
    assert 1 <= len(stuck) <= 2
    time.sleep(1.5)
    one.sample()
    assert [event for event in one.events if event.kind == "device.call_stuck"] == stuck


def test_a_fatal_fault_is_never_healthy_until_the_device_was_reset(bench):
    one = bench()
    one.simulation.set(4, xid=119)
    one.until(lambda: one.health(4) == "failed")
    assert one.health(5) == "ok"
    one.simulation.set(4, present=0)
    one.event("device.vanished")
    one.simulation.set(4, present=1)

    one.until(lambda: one.sample().devices[4].index == 4 and one.health(4) == "ok")


def test_a_device_that_is_lost_after_it_hung_has_not_recovered(bench):
    one = bench(deadline=300_000_000)
    one.simulation.set(6, {"call.power.hang": 1})
    one.event("device.call_stuck")
    one.simulation.set(6, {"call.power.hang": 0}, lost=1)
    one.until(lambda: "device 6 (GPU-" in one.sample().degraded and "cannot be reached" in one.sample().degraded)
    assert one.health(6) == "stuck"
    assert "device.call_recovered" not in [event.kind for event in one.events]
    one.simulation.set(6, lost=0)
    one.event("device.call_recovered")

    one.until(lambda: one.health(6) == "ok")


def test_nobody_follows_a_worker_that_cannot_be_killed(bench, monkeypatch):
    one = bench(deadline=200_000_000)
    with monkeypatch.context() as patch:
        patch.setattr(WorkerProcess, "kill", lambda worker: worker._process.send_signal(signal.SIGSTOP))
        one.simulation.set(6, {"call.power.hang": 1})
        event = one.event("device.call_stuck")
        one.until(lambda: one.health(0) == "ok")
        time.sleep(2.0)  # longer than the first back-off, the start of a worker and its deadline
        one.sample()
    assert [event.kind for event in one.events].count("device.call_stuck") == 1
    one.simulation.set(6, fault="clear")
    os.kill(event.attributes["worker_pid"], signal.SIGKILL)

    one.event("device.call_recovered")


def test_an_xid_arrives_as_an_event(bench):
    one = bench()
    one.simulation.set(1, xid=63)
    event = one.event("device.xid")

    assert event.attributes["xid"] == 63
    assert event.attributes["device"] == 1
    device = one.sample().devices[1]
    assert event.entity == device.uuid
    fault = next(fault for fault in one.faults if fault.event_id == event.id)
    assert (fault.family, fault.code, fault.sources, fault.entity) == ("nvidia.xid", "63", ("nvml",), device.uuid)
    assert (fault.device, fault.driver, fault.simulated) == (device.pci_bdf, device.driver, True)
    assert (fault.severity, fault.action, event.severity) == ("warning", "watch", "warning")


def test_an_ascend_fault_is_decoded(bench):
    one = bench("ascend910bx8")
    one.simulation.set(2, event=0x80E01801)
    event = one.event("device.fault")

    assert event.attributes["event_id"] == "0x80E01801"
    assert event.attributes["meaning"]
    assert event.entity == one.sample().devices[2].uuid
    fault = next(fault for fault in one.faults if fault.event_id == event.id)
    assert (fault.family, fault.code, fault.sources) == ("ascend.event", "0x80E01801", ("dcmi",))
    assert (fault.entity, fault.phase, fault.bucket) == (event.entity, "occurrence", "RestartBusiness")
    assert fault.meaning.startswith(event.attributes["meaning"])


def test_a_lost_device_is_failed_and_comes_back(bench):
    one = bench()
    one.simulation.set(7, lost=1)

    assert one.event("device.vanished").attributes["device"] == 7
    one.until(lambda: one.health(0) == "ok")
    one.simulation.set(7, fault="clear")
    one.event("device.appeared")
    one.until(lambda: one.health(7) == "ok")


def test_a_device_that_is_gone_is_told_and_the_others_keep_their_values(bench):
    one = bench()
    gone = one.sample().devices[2].uuid
    one.simulation.set(2, present=0)
    assert one.event("device.vanished").entity == gone

    one.until(lambda: len(one.sample().devices) == 7)
    one.until(lambda: ("power_watts",) in one.values(0))
    assert gone not in [device.uuid for device in one.sample().devices]
    one.simulation.set(2, present=1)
    one.until(lambda: len(one.sample().devices) == 8)


def test_counters_go_on_rising_when_they_begin_anew(bench):
    one = bench()
    before = one.values(0)["energy_joules_total",]
    assert before > 1e6
    one.simulation.set(0, counters=0)
    event = one.event("device.counter_reset")

    assert "energy_joules" in event.attributes["counters"]
    assert one.values(0)["energy_joules_total",] >= before


def test_without_its_keeper_the_probe_fails_instead_of_showing_old_values(bench, monkeypatch):
    one = bench(deadline=100_000_000)
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    one.probe.workers._turn = None  # its next call raises
    one.until(lambda: not one.probe.workers._thread.is_alive())

    with pytest.raises(EagleEyeError, match="has ended"):
        one.sample()


def test_devices_of_another_vendor_are_a_bad_message(bench):
    one = bench()
    workers, seat = one.probe.workers, one.probe.workers._seats[0]
    before = one.sample().devices
    told = Inventory("nvidia", "1", False, (), (Device(vendor="other", index=0, uuid="x"),), {0: "x"})
    with workers._lock:
        workers._take_inventory(seat, told)

    assert workers.bad_messages == 1
    assert one.sample().devices == before


def test_close_leaves_no_worker(bench):
    one = bench()
    pids = one.pids()
    assert pids
    one.probe.close()

    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


# ---- where there is nothing ----


def test_without_a_library_it_is_unavailable_at_once(context):
    started = time.monotonic()
    with pytest.raises(UnavailableError, match="neither NVML"):
        devices.build(context("devices", **DEFAULTS | {"nvml": "libno.so.1", "dcmi": "libno.so"}))
    assert time.monotonic() - started < 0.1


def test_a_library_that_is_something_else_degrades_with_the_way_out(context, monkeypatch):
    wrong = find_library("libz.so.1") or find_library("libc.so.6")
    probe = devices.build(context("devices", **DEFAULTS | {"nvml": wrong, "dcmi": "libno.so"}))
    try:
        sample = probe.sample(time.monotonic_ns())
        assert "is no NVML" in sample.degraded
        assert sample.devices == ()
    finally:
        probe.close()


def test_a_library_without_its_simulation_says_that_it_cannot_start(context, monkeypatch, tmp_path):
    monkeypatch.setenv("LD_LIBRARY_PATH", str(LIBRARIES))
    monkeypatch.setenv("EAGLE_EYE_SIMULATION", str(tmp_path / "none"))
    probe = devices.build(context("devices", **DEFAULTS))
    try:
        assert "NVML did not start" in probe.sample(time.monotonic_ns()).degraded
    finally:
        probe.close()


def test_libraries_are_found_as_the_loader_does(tmp_path):
    (tmp_path / "libx.so").write_bytes(b"")
    cache = tmp_path / "cache"
    cache.write_bytes(b"ld.so-1.7.0\0\0" + str(tmp_path / "libx.so").encode() + b"\0more\0")

    assert find_library("libx.so", {"LD_LIBRARY_PATH": f"/nowhere::{tmp_path}"}, cache=Path("/none")) == str(
        tmp_path / "libx.so"
    )
    assert find_library("libx.so", {}, cache=cache) == str(tmp_path / "libx.so")
    assert find_library("libx.so", {}, cache=Path("/none")) == ""
    assert find_library(str(tmp_path / "libx.so")) == str(tmp_path / "libx.so")
    assert find_library(str(tmp_path)) == ""


def test_a_worker_starts_without_numpy():
    import subprocess

    code = "import sys, eagle_eye.probes.device_worker, eagle_eye.probes.nvidia, eagle_eye.probes.ascend\n"
    code += "assert 'numpy' not in sys.modules, sorted(sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code]).returncode == 0


# ---- messages are foreign ----


def test_a_message_survives_the_way():
    message = Failure("no driver", "modprobe nvidia")
    assert parse(encode(message)) == message


@given(st.binary(max_size=300))
def test_noise_is_no_message(data):
    try:
        parse(data)
    except ValueError:
        return


_words = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.dictionaries(st.sampled_from([*Inventory.__struct_fields__, "type", "message"]), _words),
    st.sampled_from(["inventory", "processes", "occurrence", "failure", "other"]),
)
def test_what_looks_like_a_message_is_typed_or_refused(fields, tag):
    data = msgspec.msgpack.encode(fields | {"type": tag})
    try:
        message = parse(data)
    except ValueError:
        return
    if isinstance(message, Inventory):
        assert all(0 <= slot < 64 for slot in message.slots)


def test_a_message_that_is_too_long_is_not_sent():
    with pytest.raises(ValueError, match="too long"):
        encode(Failure("x" * 200_000))


def test_events_are_bounded_counted_and_cannot_pass_for_ours():
    events = DeviceEvents(EventSource("devices", node="n", cluster="c", boot_id="b"))
    events.report_foreign("device.xid", "GPU-1", "error", 2**62, {"uuid": "forged", "xid": 79, "at_ns": 1})
    for _ in range(MAX_EVENTS + 5):
        events.report("device.appeared", "")
    taken = events.take()

    assert taken[0].attributes == {"xid": 79, "uuid": "GPU-1"}
    assert taken[0].at_ns <= time.monotonic_ns()
    assert len(taken) == MAX_EVENTS
    assert events.dropped == 6
    events.close()
    events.report("device.appeared", "")
    assert events.take() == []


# ---- small parts ----


@given(st.lists(st.floats(0, 1e12) | st.just(float("nan")), min_size=1, max_size=40))
def test_a_counter_never_falls(readings):
    counter = Monotone(np.array([True]))
    shown = [float(counter.take(np.array([reading]))[0][0]) for reading in readings]
    present = [value for value in shown if not np.isnan(value)]

    assert present == sorted(present)
    assert [np.isnan(value) for value in shown] == [np.isnan(reading) for reading in readings]


def test_a_gauge_may_fall():
    gauge = Monotone(np.array([False]))
    gauge.take(np.array([5.0]))
    assert gauge.take(np.array([3.0]))[0].tolist() == [3.0]


@given(st.integers(0, 10**10))
def test_beats_keep_their_places(late_ns):
    now = time.monotonic_ns()
    due = now - late_ns
    after = next_beat(due, 10**8)

    assert after > now
    assert (after - due) % 10**8 == 0


def test_a_device_that_does_not_answer_is_not_another_one():
    assert not differ({0: "a", 1: "b"}, {0: "a", 1: ""})
    assert differ({0: "a", 1: "b"}, {0: "b", 1: "a"})
    assert differ({0: "a"}, {0: "a", 1: "b"})
    assert differ({0: "a", 1: ""}, {0: "a", 1: "b"})
