"""Faults of what was decoded and of what the catalogue says about it, whichever source told it."""

from __future__ import annotations

from collections.abc import Mapping

from .catalogue import ascend
from .catalogue.lookup import look_up
from .decode.family import Decoded
from .model import Fault, FaultPhase

_PHASES: dict[str, FaultPhase] = {"recovery": "recovery", "occurrence": "occurrence"}


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

    `event_id` is that of the event which told it, and the fault's id is made of it. `uuids` says the uuid of a
    device by PCI address, or by `npu:` and the number of an Ascend device; `entity` says it where the source knows.
    Never raises for what a decoder gives.
    """
    entry = look_up(decoded, driver)
    if entry is None:
        return None
    fields = decoded.fields
    family, code = name_of(decoded)
    return Fault(
        id=fault_id(event_id, at_ns),
        at_ns=at_ns,
        entity=entity or _entity(decoded, uuids),
        family=family,
        code=code,
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
        phase="recovery" if decoded.recovery else _PHASES.get(str(fields.get("assertion")), "once"),
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


def name_of(decoded: Decoded) -> tuple[str, str]:
    """Family and code of the fault: an event of an Ascend device has one name, whichever log or library told it."""
    if decoded.family in ascend.FAMILIES and ascend.is_of_device(decoded.code):
        return ascend.EVENTS, ascend.event_code(decoded.code) or decoded.code
    return decoded.family, decoded.code


def _entity(decoded: Decoded, uuids: Mapping[str, str]) -> str:
    """Ascend's host driver tells the number of a device instead of its address."""
    number = _number(decoded.fields.get("device_index"))
    key = decoded.device
    if not key and decoded.family in ascend.FAMILIES and "device_index" in decoded.fields:
        key = f"npu:{number}"
    return uuids.get(key) or (key if not decoded.device else f"pci:{key}") or "host"


def _text(value: object) -> str:
    return str(value)[:256] if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
