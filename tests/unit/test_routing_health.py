"""What incidents, findings and device readings mean for an engine, and how its speed is learned."""

import pytest

from eagle_eye.collector.routing.health import STALE_NS, Judge, level_of
from eagle_eye.collector.routing.rates import STEPS_TO_KNOW, WARM_UP_STEPS, Rates
from eagle_eye.probes.model import Device, EngineState, Health, Incident, Reading, Snapshot

S = 10**9
GPUS = tuple(Device("nvidia", index, f"GPU-{index}", pci_bdf=f"0000:0{index}:00.0") for index in range(2))


def engine(**fields):
    return EngineState(instance="e1", engine="vllm", at_ns=1, kind="step", source="plugin", **fields)


def reading(uuid, at_ns, state="ok", **values):
    return Reading(uuid, "devices", at_ns, {f'eagle_eye_device_health{{state="{state}"}}': 1.0, **values})


def snapshot(at_ns, *, devices=GPUS, readings=None, incidents=(), health=()):
    if readings is None:
        readings = [reading(device.uuid, at_ns) for device in devices]
    return Snapshot(
        "n", "c", "b", "a", 1, at_ns, 0, S // 2, (), tuple(health), devices, tuple(readings), incidents=incidents
    )


def incident(entity="host", action="reset_device", severity="error", device="", state="open"):
    return Incident(
        "i", "n", entity, "nvidia.xid", "79", "", severity, action, state, 1, 1, (), 1, "fell off", "", device
    )


def verdict(engine, *snapshots, pids=None):
    judge = Judge()
    judge.take_pids(pids or {})
    for one in snapshots:
        judge.take_snapshot(one)
    return judge.verdict(engine, snapshots[-1].at_ns if snapshots else 0)


def test_nothing_known_is_unknown_and_never_ok():
    assert verdict(engine()).level == "unknown"
    judge = Judge()
    judge.take_snapshot(snapshot(S))
    assert judge.verdict(engine(), S + STALE_NS).level == "ok"
    assert judge.verdict(engine(), S + STALE_NS + 1).level == "unknown"


@pytest.mark.parametrize("state", ["starting", "failing", "hung", "off"])
def test_devices_that_nobody_watches_are_unknown(state):
    assert verdict(engine(), snapshot(S, devices=(), health=[Health("devices", state)])).level == "unknown"


def test_a_node_without_devices_and_troubles_is_ok():
    assert verdict(engine(), snapshot(S, devices=(), health=[Health("devices", "degraded")])).level == "ok"


@pytest.mark.parametrize(
    ("state", "level"),
    [("ok", "ok"), ("degraded", "degraded"), ("failed", "avoid"), ("stuck", "avoid"), ("unknown", "unknown")],
)
def test_a_device_that_the_engine_uses_counts_in_full(state, level):
    readings = [reading("GPU-0", S), reading("GPU-1", S, state)]
    found = verdict(engine(worker_pids=(7, 8)), snapshot(S, readings=readings), pids={"GPU-1": [8], "GPU-0": [1]})

    assert found.level == level
    assert ("gpu 1" in found.reason) == (level != "ok")
    assert verdict(engine(pid=1), snapshot(S, readings=readings), pids={"GPU-1": [8], "GPU-0": [1]}).level == "ok"


def test_when_nobody_knows_which_devices_it_uses_trouble_is_no_reason_to_avoid_it():
    found = verdict(engine(pid=99), snapshot(S, readings=[reading("GPU-0", S), reading("GPU-1", S, "failed")]))

    assert found.level == "degraded"
    assert "not known" in found.reason


def test_a_pod_finds_its_devices_by_name():
    key = 'eagle_eye_device_process_memory_bytes{pod="llm-0",namespace="ai",container="vllm"}'
    readings = [reading("GPU-0", S, **{key: 1e9}), reading("GPU-1", S, "failed")]

    assert verdict(engine(pod="llm-0"), snapshot(S, readings=readings)).level == "ok"


def test_a_reading_that_is_old_is_unknown():
    old = snapshot(10 * S, readings=[reading("GPU-0", 10 * S - STALE_NS - 1), reading("GPU-1", 10 * S)])

    assert verdict(engine(), old).level == "unknown"


def test_an_incident_concerns_who_uses_its_device_by_uuid_or_address():
    pids = {"GPU-0": [1], "GPU-1": [2]}
    for one in (incident("GPU-1"), incident("pci:0000:01:00.0", device="0000:01:00.0")):
        now = snapshot(S, incidents=(one,))
        assert verdict(engine(pid=2), now, pids=pids).level == "avoid"
        assert "nvidia.xid 79: reset_device" in verdict(engine(pid=2), now, pids=pids).reason
        assert verdict(engine(pid=1), now, pids=pids).level == "ok"
    assert verdict(engine(pid=1), snapshot(S, incidents=(incident("host", "reboot_node"),)), pids=pids).level == "avoid"
    assert verdict(engine(pid=1), snapshot(S, incidents=(incident(state="cleared"),)), pids=pids).level == "ok"


def test_a_device_that_fell_off_the_bus_is_remembered_by_who_used_it():
    judge = Judge()
    judge.take_pids({"GPU-0": [1], "GPU-1": [2]})
    judge.take_snapshot(snapshot(S))
    judge.take_pids({"GPU-0": [1]})
    judge.take_snapshot(snapshot(2 * S, devices=GPUS[:1]))
    judge.take_pids({"GPU-0": [1]})

    assert judge.verdict(engine(pid=1), 2 * S).level == "ok"
    assert judge.verdict(engine(pid=2), 2 * S).level == "avoid"
    judge.take_incidents([incident("pci:0000:01:00.0", "reboot_node", device="0000:01:00.0")])
    assert judge.verdict(engine(pid=1), 2 * S).level == "degraded", "it may have used that one, too"
    judge.take_snapshot(snapshot(3 * S))
    assert judge.verdict(engine(pid=1), 3 * S).level == "ok"


def test_a_warning_of_a_card_that_is_no_accelerator_is_no_reason():
    nic = incident("pci:0000:f1:00.0", "watch", "warning", device="0000:f1:00.0")

    assert verdict(engine(pid=1), snapshot(S, incidents=(nic,)), pids={"GPU-0": [1]}).level == "ok"


@pytest.mark.parametrize(
    ("severity", "action", "level"),
    [
        ("info", "watch", "ok"),
        ("error", "none", "ok"),
        ("warning", "watch", "degraded"),
        ("error", "restart_application", "degraded"),
        ("warning", "drain", "avoid"),
        ("error", "replace", "avoid"),
        ("fatal", "watch", "avoid"),
    ],
)
def test_what_an_action_means_for_who_sends_work(severity, action, level):
    assert level_of(severity, action) == level


def throttle(reason):
    return f'eagle_eye_device_throttle_seconds_total{{reason="{reason}"}}'


def test_pressure_is_the_share_of_time_in_which_clocks_were_held_down():
    def at(second, capped, hot, idle=0.0):
        values = {throttle("power_cap"): capped, throttle("hw_thermal"): hot, throttle("low_utilization"): idle}
        return snapshot(second * S, devices=GPUS[:1], readings=[reading("GPU-0", second * S, **values)])

    def found(*snapshots):
        return verdict(engine(pid=1), *snapshots, pids={"GPU-0": [1]})

    assert found(at(1, 5.0, 5.0)).pressure_ratio is None, "one reading is no rate"
    assert found(at(1, 0.0, 0.0), at(2, 0.25, 0.0, 1.0)).pressure_ratio == 0.25
    assert found(at(1, 0.0, 0.0), at(2, 0.9, 0.0)).level == "ok", "a cap of power is how it is meant to run"
    hot = found(at(1, 0.0, 0.0), at(2, 0.1, 0.8))
    assert (hot.pressure_ratio, hot.level) == (0.8, "degraded")
    assert "80% of the time" in hot.reason
    assert found(at(1, 0.0, 0.0), at(2, 0.0, 0.8), at(2, 0.0, 0.8)).pressure_ratio == 0.8, "the same reading again"
    assert found(at(1, 9.0, 9.0), at(2, 0.0, 0.0)).pressure_ratio == 0.0, "a counter that began anew"


def step(number, duration_s, **fields):
    return EngineState(
        instance="e", engine="x", at_ns=number, kind="step", source="plugin", step=number,
        step_duration_ns=round(duration_s * S), **fields,
    )  # fmt: skip


def test_rates_are_unknown_until_the_engine_has_warmed_up():
    rates = Rates()
    for number in range(1, WARM_UP_STEPS + 1):
        rates.learn(step(number, 30.0, prefill_tokens=10))
    for number in range(STEPS_TO_KNOW):
        assert rates.prefill.per_second is None
        rates.learn(step(100 + number, 0.1, prefill_tokens=1000))

    assert rates.prefill.per_second == pytest.approx(10_000)
    assert rates.decode.per_second is None


def test_decode_is_learned_from_steps_that_only_decode():
    rates = Rates()
    for number in range(1, 200):
        mixed = number % 2
        rates.learn(step(number, 0.2 if mixed else 0.02, prefill_tokens=2000 * mixed, decode_tokens=32))

    assert rates.decode.per_second == pytest.approx(1600)
    assert rates.prefill.per_second == pytest.approx(10_000)


def test_one_stall_does_not_make_an_engine_slow_and_a_change_of_speed_is_learned():
    rates = Rates()
    for number in range(1, 100):
        rates.learn(step(number, 0.1, prefill_tokens=1000))
    rates.learn(step(100, 900.0, prefill_tokens=1000))
    assert rates.prefill.per_second > 8000
    for number in range(101, 600):
        rates.learn(step(number, 0.2, prefill_tokens=1000))
    assert rates.prefill.per_second == pytest.approx(5000, rel=0.02)


def test_a_step_that_is_told_twice_counts_once_and_nonsense_not_at_all():
    rates = Rates()
    for _ in range(100):
        rates.learn(step(7, 0.1, prefill_tokens=1000))
    for number in range(100):
        rates.learn(step(number + 10, 0.0, prefill_tokens=1000))
        rates.learn(step(number + 10, 0.1, prefill_tokens=2**62))

    assert rates.prefill.per_second is None
