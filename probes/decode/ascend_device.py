"""What an Ascend device, its black box, its runtime and its UB switches write."""

from __future__ import annotations

from . import scan
from .ascend import decode_module_line, event_code, is_exception
from .family import Decoded, Family

_NAME = "ascend.device_log"
_PEERS = frozenset({"na", "cpu", "npu", "L1", "L2"})
# The runtime's error classes: two letters of the component, four digits, all nines where it cannot tell more.
_RUNTIME = ("EZ", "EE", "EH", "EI", "EJ", "EK", "EL", "E1", "E2", "E3", "E4", "E5")


def _event(text: str) -> Decoded | None:
    code = event_code(text)
    if not code or text.startswith("[ascend]"):
        return None
    fields = scan.known(exception=is_exception(code) or None, **_black_box(text))
    return Decoded(_NAME, code, "", fields)


def _black_box(text: str) -> dict[str, object]:
    """`system exception code [0xB4060007]: ModuleName [TS], ExceptionReason [TS_EXCEPTION], TimeStamp […]`."""
    return {
        "module": scan.between(text, "ModuleName [", "]")[:32],
        "reason": scan.between(text, "ExceptionReason [", "]")[:64],
        "time_stamp": scan.between(text, "TimeStamp [", "]")[:32],
    }


def _forwarded(text: str) -> Decoded | None:
    """`[ERROR] KERNEL(5044,sklogd):2024-… [klogd.c:247][257382.2] [ascend] [ERROR] …`, of the device's kernel."""
    logger, mark, rest = text.partition("[ascend]")
    return decode_module_line(mark + rest, _NAME) if mark and " KERNEL(" in logger[:32] else None


def _switch(text: str) -> Decoded | None:
    """`[0x08520003,na,L2,na]`: alarm, fault, who it is about and port of a UB switch."""
    start = text.find("[0x")
    end = text.find("]", start)
    parts = text[start + 1 : end].split(",") if 0 <= start < end <= start + 64 else []
    # Dumps of memory look much like it.
    if len(parts) != 4 or len(parts[0]) != len("0x08520003") or parts[2] not in _PEERS:
        return None
    alarm = scan.hexadecimal(parts[0])
    if alarm is None or not all(part.isalnum() for part in parts):
        return None
    named = dict(zip(("alarm", "fault", "peer", "port"), parts, strict=True))
    return Decoded(_NAME, text[start : end + 1], "", {**named, "alarm": alarm})


def _runtime(text: str) -> Decoded | None:
    """`EZ9999: 2024-10-31-… The error from device(0), serial number is 3, there is an aivec error, core id is 0, …`."""
    code, colon, rest = text.partition(":")
    if not colon or len(code) != 6 or not code.startswith(_RUNTIME) or not code[2:].isdigit():
        return None
    fields = scan.known(
        device_index=scan.integer_after(rest, "from device("),
        serial_number=scan.integer_after(rest, "serial number is "),
        unit=_unit(rest),
        core=scan.integer_after(rest, "core id is "),
        error=scan.hexadecimal_after(rest, "error code = "),
        text=rest.strip()[:300],
    )
    return Decoded(_NAME, code, "", fields)


def _unit(text: str) -> str:
    """`there is an aivec error`: which unit of the device."""
    return scan.between(text, "there is an ", " error").strip()[:32]


def parse(text: str) -> Decoded | None:
    return _forwarded(text) or _runtime(text) or _event(text) or _switch(text)


FAMILY = Family(
    _NAME,
    ("] KERNEL(", "event_id", "event id", "eventid", "event_ID", "EventID", "EventId", "exception code [",
     "exception_id=", "[0x0", "9999:", *(f"{start}00" for start in _RUNTIME)),
    parse,
)  # fmt: skip
