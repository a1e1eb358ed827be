"""One AER report out of its records: which belong together, and what they say as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from msgspec import structs

from .aer_bits import BITS, Severity, bits_of, most_severe
from .family import Decoded

_SIDE: dict[str, Severity] = {"corrected": "correctable", "nonfatal": "uncorrectable", "fatal": "uncorrectable"}
_OF_ONE_LINE = ("severity", "layer", "status", "tlp_header", "uncorrectable_severity")


def join(earlier: Decoded, later: Decoded) -> Decoded | None:
    """Both as one report, or None when they are of two devices or of two reports."""
    if not (earlier.incomplete and later.incomplete):
        return None
    old, new = earlier.fields, later.fields
    if "reporter" in new or not _same_device(earlier, later) or _repeats(old, new):
        return None
    # The port announces, the device that made the error details: it is the one that the report is about.
    device = later.device if "layer" in new and "layer" not in old else earlier.device
    fields = {**old, **new, "driver": new["driver"]}
    if "bits" in old and "bits" in new:
        fields["bits"] = list(dict.fromkeys([*old["bits"], *new["bits"]]))
    return described(structs.replace(earlier, device=device, fields=fields), new.get("bits", []))


def _same_device(earlier: Decoded, later: Decoded) -> bool:
    if earlier.device == later.device:
        return True
    announced = "reporter" in earlier.fields and "layer" not in earlier.fields
    same_domain = earlier.device[:4] == later.device[:4]
    return announced and (
        earlier.fields["reporter"] == later.device or ("source_device" not in earlier.fields and same_domain)
    )


def _repeats(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """A line that the report already has begins another; the severity alone is said by several."""
    announced = "reporter" in old and "layer" not in old
    return any(
        name in new and name in old
        for name in _OF_ONE_LINE
        if not (name == "severity" and (announced or "bits" in new))
    )


def described(report: Decoded, printed: Sequence[str] = ()) -> Decoded:
    """With the bits named from the status word where their lines are missing, and the code of the first of them.

    `printed` are the bits of its last line. They come lowest first, so with the highest a correctable report is whole.
    """
    fields = dict(report.fields)
    side = _side(fields)
    if side and "status" in fields:
        set_bits = bits_of(fields["status"] & ~fields.get("mask", 0), side) or bits_of(fields["status"], side)
        fields["bits"] = list(dict.fromkeys([*set_bits, *fields.get("bits", [])]))
    if side and "severity" not in fields and side == "correctable":
        fields["severity"] = "corrected"
    code = fields.get("first") or most_severe(fields.get("bits", [])) or _unnamed(fields)
    whole = side == "correctable" and "status" in fields and fields["bits"][-1:] == list(printed)
    return structs.replace(report, code=code, fields=fields, incomplete=not (whole or "tlp_header" in fields))


def _side(fields: dict[str, Any]) -> Severity | None:
    """Which of the two status registers it is about: that of its severity or of a bit that was named."""
    if "severity" in fields:
        return _SIDE[fields["severity"]]
    if "uncorrectable_severity" in fields or "tlp_header" in fields:
        return "uncorrectable"
    return cast(Severity, BITS[fields["bits"][0]].severity) if fields.get("bits") else None


def _unnamed(fields: dict[str, Any]) -> str:
    severity = fields.get("severity", "")
    return f"aer_{'correctable' if severity == 'corrected' else severity}" if severity else "aer"
