"""Changing how a value moves: every change begins where the value is now."""

from __future__ import annotations

import math
import re
from typing import Any

from ..errors import UsageError
from .block import declarations, writer

# What only rises while a device runs; setting it keeps its rate.
_COUNTER = re.compile(
    r"(tx|rx)_(bytes|packets|errors)|throttle_\w+|energy_joules|\w+_errors|pcie_\w*(replays|rollovers|recoveries)"
    r"|ecc_(un)?corrected_\w+"
)
_UNITS = {
    "": 1.0, "%": 0.01, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40, "KB": 1e3, "MB": 1e6, "GB": 1e9,
    "Hz": 1.0, "kHz": 1e3, "MHz": 1e6, "GHz": 1e9, "W": 1.0, "mW": 1e-3, "kW": 1e3, "J": 1.0, "kJ": 1e3, "MJ": 1e6,
    "s": 1.0, "ms": 1e-3, "us": 1e-6, "min": 60.0, "h": 3600.0, "C": 1.0, "V": 1.0, "mV": 1e-3,
}  # fmt: skip
_QUANTITY = re.compile(r"(-?(?:0x[0-9a-fA-F]+|[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?))\s*([A-Za-z%]*)")
_WORDS = {"true": 1.0, "yes": 1.0, "on": 1.0, "false": 0.0, "no": 0.0, "off": 0.0, "none": math.nan, "inf": math.inf}
PARTS = ("value", "rate", "wobble", "period", "low", "high")
TEMPERATURE = "celsius"


def number(raw: object, key: str) -> float:
    """`raw` in base units: 700, 40GiB, 1.98GHz, 85%, on, none (the device has no such thing).

    Raises UsageError naming the key.
    """
    if isinstance(raw, bool | int | float):
        return float(raw)
    text = str(raw).strip()
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    found = _QUANTITY.fullmatch(text)
    if found is None or found[2] not in _UNITS:
        raise UsageError(
            f"{key}: {text[:60]!r} is no number", remedy="such as 700, 40GiB, 1.98GHz, 85%, 200ms, on, none"
        )
    digits = found[1]
    return (int(digits, 16) if "0x" in digits else float(digits)) * _UNITS[found[2]]


def is_counter(name: str) -> bool:
    return _COUNTER.fullmatch(name) is not None


def rebase(law: Any, now_ns: int) -> None:
    """The same value, counted from now."""
    if law.since_ns and not math.isnan(law.base):
        law.base = writer().eagle_eye_simulation_law(declarations().addressof(law), now_ns)
    law.since_ns = now_ns


def change(law: Any, name: str, part: str, value: float, now_ns: int, *, over_s: float = 0.0) -> None:
    """Sets one part of a law; `over_s` lets the value move there in that time."""
    if part != "value":
        if math.isnan(law.base):
            raise UsageError(f"{name}.{part}: this device has no {name}", remedy=f"give it a value first: {name}=0")
        rebase(law, now_ns)
        setattr(law, {"rate": "rate_per_s", "period": "period_s"}.get(part, part), value)
        return
    if over_s > 0 and not math.isnan(law.base):
        _ramp(law, value, now_ns, over_s)
        return
    law.base, law.since_ns = value, now_ns
    law.low = -math.inf if TEMPERATURE in name else 0.0
    law.high = 1.0 if name.endswith("_ratio") else math.inf
    if not is_counter(name):
        law.rate_per_s = 0.0
    law.wobble = 0.0


def _ramp(law: Any, target: float, now_ns: int, over_s: float) -> None:
    rebase(law, now_ns)
    law.wobble = 0.0
    law.rate_per_s = (target - law.base) / over_s
    law.low, law.high = (law.low, target) if target > law.base else (target, law.high)
