"""Event ids of Ascend's device management, taken apart bit by bit.

An id names where something happened (environment and node type), what noticed it (sensor type) and what it saw
(event state), so a code that no catalogue describes still has a meaning. The layout is that of the CANN driver's
dms_event_converge.h:

    bits 31:30  environment: 01 host, 10 device
    bits 29:28  not 0: the code of an exception in the black box, laid out in another way
    bits 27:17  node type; its upper three bits: 000 hardware and kernel, 110 user software, 111 product
    bits 16:9   sensor type; 0xFE is the product's own
    bits 8:0    event state
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

Kind = Literal["event", "exception", "product", "unknown"]

_ENVIRONMENTS = {1: "host", 2: "device"}
_USER_SOFTWARE = 0b110
_PRODUCT = 0b111
_PRODUCT_SENSOR = 0xFE
SEVERITIES = ("notice", "minor", "major", "critical")  # by the number in a DCMI fault event
ASSERTIONS = ("recovery", "occurrence", "one-off")


@dataclass(frozen=True, slots=True)
class Decoded:
    """What an event id says. A text that is not known is ""; `unknown` then tells what, and why."""

    code: int
    kind: Kind
    environment: str = ""
    layer: str = ""
    node_type: int = 0
    component: str = ""
    sensor_type: int = 0
    sensor: str = ""
    state: int = 0
    meaning: str = ""
    severity: str = ""
    unknown: str = ""

    def __str__(self) -> str:
        said = ": ".join(part for part in (self._where(), self.meaning) if part)
        if not self.unknown:
            return said
        return f"{said} ({self.unknown})" if said else self.unknown

    def _where(self) -> str:
        component = self.component or (f"node type 0x{self.node_type:X}" if self.kind == "event" else "")
        return " ".join(part for part in (self.environment, component) if part)


def decode(code: int) -> Decoded:
    """What any number given as an event id says, or why it says nothing. Never raises."""
    if not 0 <= code < 1 << 32:
        return Decoded(code, "unknown", unknown=f"0x{code & (1 << 64) - 1:X} is no event id: these have 32 bits")
    environment = _ENVIRONMENTS.get(code >> 30, "")
    if code >> 28 & 0b11:
        return Decoded(code, "exception", environment, unknown="a black-box exception code, not an event id")
    if not environment:
        return Decoded(code, "unknown", unknown=f"0x{code:08X} names neither host nor device as its environment")
    return _event(code, environment)


def _event(code: int, environment: str) -> Decoded:
    node_type, sensor_type, state = code >> 17 & 0x7FF, code >> 9 & 0xFF, code & 0x1FF
    layer = {_USER_SOFTWARE: "user software", _PRODUCT: "product", 0: "hardware and kernel"}.get(node_type >> 8, "")
    known = _states().get((sensor_type, state), ("", ""))
    sensor = _sensors().get(sensor_type, "")
    product = node_type >> 8 == _PRODUCT or sensor_type == _PRODUCT_SENSOR
    return Decoded(
        code=code,
        kind="product" if product else "event",
        environment=environment,
        layer=layer,
        node_type=node_type,
        component=_components().get(node_type, ""),
        sensor_type=sensor_type,
        sensor=sensor,
        state=state,
        meaning=known[1],
        severity=known[0],
        unknown=_unknown(node_type, sensor_type, state, product),
    )


def _unknown(node_type: int, sensor_type: int, state: int, product: bool) -> str:
    if product:
        return "a code of the product's own, whose meaning only its maker tells"
    missing = []
    if node_type not in _components():
        missing.append(f"node type 0x{node_type:X}")
    if sensor_type not in _sensors():
        missing.append(f"sensor type 0x{sensor_type:02X}")
    elif (sensor_type, state) not in _states():
        missing.append(f"state 0x{state:X} of sensor {_sensors()[sensor_type]}")
    return f"{' and '.join(missing)} not in the catalogue" if missing else ""


@cache
def _components() -> dict[int, str]:
    return {int(row["node_type"], 16): row["component"] for row in _rows("ascend_node_types.csv")}


@cache
def _sensors() -> dict[int, str]:
    return {int(row["sensor_type"], 16): row["sensor"] for row in _rows("ascend_event_decode.csv")}


@cache
def _states() -> dict[tuple[int, int], tuple[str, str]]:
    """(severity, meaning) by (sensor type, event state)."""
    return {
        (int(row["sensor_type"], 16), int(row["event_state"], 16)): (row["severity"], row["meaning"])
        for row in _rows("ascend_event_decode.csv")
    }


def _rows(name: str) -> Iterator[dict[str, Any]]:
    with resources.files(__package__).joinpath("catalogue", name).open(encoding="utf-8") as file:
        yield from csv.DictReader(file)
