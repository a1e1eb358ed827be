"""One line on the accelerators: how many, how busy, how hot. Simulated ones are called so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ...probes.model import Snapshot
from .words import clean, percent

BUSY = "eagle_eye_device_utilization_ratio"
CORE = 'eagle_eye_device_temperature_celsius{sensor="core"}'
POWER = "eagle_eye_device_power_watts"


def accelerators(snapshot: Snapshot) -> str:
    """`8 NVIDIA H100 (simulated)  busy 63.0 %  hottest 71 C  3 900 W`; what no device tells is left out."""
    whole = [device for device in snapshot.devices if not device.parent_uuid]
    if not whole:
        return ""
    models = Counter(clean(device.model or device.vendor) for device in whole)
    names = ", ".join(f"{count} {model}" for model, count in models.items())
    if any(device.simulated for device in whole) and "simulated" not in names:
        names += " (simulated)"
    return "  ".join([names, *_figures(snapshot)])


def _figures(snapshot: Snapshot) -> Iterator[str]:
    if busy := _values(snapshot, BUSY):
        yield f"busy {percent(sum(busy) / len(busy))}"
    if hot := _values(snapshot, CORE):
        yield f"hottest {max(hot):.0f} C"
    if power := _values(snapshot, POWER):
        yield f"{sum(power):.0f} W"


def _values(snapshot: Snapshot, name: str) -> list[float]:
    return [reading.values[name] for reading in snapshot.device_readings if name in reading.values]
