"""Faults of what was decoded and of what the catalogue says about it, whichever source told it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .catalogue.lookup import look_up
from .decode.family import Decoded
from .model import Fault, FaultPhase

_PHASES: dict[Any, FaultPhase] = {"recovery": "recovery", "occurrence": "occurrence"}


def make_fault(
    decoded: Decoded,
    *,
    at_ns: int,
    source: str,
    driver: str = "",
    event_id: str = "",
    uuids: Mapping[str, str] = {},
    entity: str = "",
    count: int = 1,
    simulated: bool = False,
) -> Fault | None:
    """The fault, or None where the record only informs.

    `event_id` is that of the event which told it, and the fault's id is made of it; `uuids` says the uuid of a
    device by PCI address; `entity` says it where the source knows. Never raises for what a decoder gives.
    """
    entry = look_up(decoded, driver)
    if entry is None:
        return None
    fields = decoded.fields
    return Fault(
        id=fault_id(event_id, at_ns),
        at_ns=at_ns,
        entity=entity or _entity(decoded.device, uuids),
        family=decoded.family,
        code=decoded.code,
        mnemonic=entry.mnemonic,
        subcode=entry.subcode or _text(fields.get("subcode")),
        severity="info" if decoded.recovery else entry.severity,
        action="none" if decoded.recovery else entry.action,
        driver=driver,
        event_id=event_id,
        device=decoded.device,
        bucket=entry.bucket,
        meaning=entry.meaning,
        check=entry.check,
        cause=_text(fields.get("cause")),
        phase="recovery" if decoded.recovery else _PHASES.get(fields.get("assertion"), "once"),
        sources=(source,),
        count=count,
        pid=_number(fields.get("pid")),
        process=_text(fields.get("process")),
        simulated=simulated,
        fields=fields,
    )


def fault_id(event_id: str, at_ns: int) -> str:
    """`boot:probe:seq` becomes `boot:faults.probe:seq`: an id of its own that never repeats within a boot."""
    boot, _, rest = event_id.partition(":")
    return f"{boot}:faults.{rest}" if rest else f"faults:{at_ns}"


def _entity(device: str, uuids: Mapping[str, str]) -> str:
    if not device:
        return "host"
    return uuids.get(device) or f"pci:{device}"


def _text(value: object) -> str:
    return str(value)[:256] if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
