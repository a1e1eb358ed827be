"""The screen's line on accelerators, and that a simulated one is never taken for a real one."""

from eagle_eye.collector.view.accelerators import accelerators
from eagle_eye.collector.view.lines import PlainLines
from eagle_eye.probes.model import Device, Reading, Snapshot


def snapshot(*devices: Device, **values: float) -> Snapshot:
    readings = tuple(Reading(entity=one.uuid, probe="devices", at_ns=1, values=values) for one in devices)
    return Snapshot(
        node="n", cluster="c", boot_id="b", agent="a", seq=1, at_ns=1, wall_offset_ns=0, interval_ns=500_000_000,
        host=(), health=(), devices=devices, device_readings=readings,
    )  # fmt: skip


def gpu(index: int, **more) -> Device:
    return Device(vendor="nvidia", index=index, uuid=f"GPU-{index}", model="H100", **more)


def test_no_device_is_no_line():
    assert accelerators(snapshot()) == ""


def test_devices_are_counted_by_model_and_instances_are_not():
    line = accelerators(snapshot(gpu(0), gpu(1), gpu(2, parent_uuid="GPU-0"), eagle_eye_device_power_watts=350.0))

    assert line.startswith("2 H100")
    assert "W" in line
    assert "busy" not in line, "what no device tells is left out"
    assert "simulated" not in line


def test_simulated_devices_are_called_so_on_screen_and_in_plain_lines():
    simulated = snapshot(gpu(0, simulated=True))

    assert "(simulated)" in accelerators(simulated)
    assert any("simulated_devices=1" in line for line in PlainLines().add(simulated, ()))
    assert not any("simulated" in line for line in PlainLines().add(snapshot(gpu(0)), ()))


def test_foreign_text_in_a_model_is_only_text():
    hostile = Device(vendor="nvidia", index=0, uuid="GPU-0", model="\x1b[2J[bold]x")

    assert "\x1b" not in accelerators(snapshot(hostile))
