"""What an Xid says after its number: a reader for each body that has a layout of its own.

A body that none of them knows keeps its text, and its words that are well known: channel, class, offset and the like.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import scan
from .cursor import Cursor

_CAUSE = " caused by previous Xid "
_MAX_MESSAGE = 512
_MAX_WORDS = 64
_WELL_KNOWN = {
    "Ch": "channel",
    "ChID": "channel",
    "ChId": "channel",
    "Channel": "channel",
    "channel": "channel",
    "Class": "class",
    "Offset": "offset",
    "Data": "data",
    "Info": "info",
    "intr": "interrupt",
    "intr0": "interrupt",
    "ErrorCode": "error_code",
}
Fields = dict[str, Any]


def read_body(code: int, body: str, fields: Fields) -> bool:
    """Adds to `fields` what `body` says; true when it tells the end of a fault. Never raises."""
    fields["message"] = body[:_MAX_MESSAGE]
    said, _, previous = body.partition(_CAUSE)
    cause = scan.integer(previous)
    if cause is not None:
        fields["cause"] = str(cause)
    _well_known_words(said, fields)
    reader = _READERS.get(code)
    return bool(reader and reader(said, fields))


def _well_known_words(body: str, fields: Fields) -> None:
    """`Ch 0000000c`, `Channel ID 0000000d intr0 00040000`, `Class 0000cbc0, Offset 00000000`."""
    words = body[:_MAX_MESSAGE].split(None, _MAX_WORDS)
    for word, value in zip(words, words[1:], strict=False):
        name = _WELL_KNOWN.get(word)
        if name and name not in fields:
            _put_hexadecimal(name, value, fields)
    if body.startswith("Channel ID ") and len(words) > 2:
        _put_hexadecimal("channel", words[2], fields)


def _put_hexadecimal(name: str, value: str, fields: Fields) -> None:
    digits = value.rstrip(",.:")
    number = scan.hexadecimal(digits)
    if number is not None and digits.removeprefix("0x").isalnum():
        fields[name] = hex(number)


def _mmu_fault(body: str, fields: Fields) -> None:
    """`MMU Fault: ENGINE GRAPHICS GPCCLIENT_T1_8 faulted @ 0x73ac_1c000000. Fault is of type FAULT_PDE ACCESS_…`."""
    cursor = Cursor(body)
    if not cursor.skip_past("MMU Fault: ENGINE "):
        return
    engine, _, client = cursor.until(" faulted @ ").rpartition(" ")
    address = cursor.until(". ").replace("_", "")
    fields.update(scan.known(engine=engine[:64], client=client[:64], va=address[:32]))
    if cursor.take("Fault is of type "):
        kind, access = cursor.word(), scan.after(cursor.rest(), " ")
        fields.update(scan.known(fault_type=kind, access_type=scan.word(access)))


def _exception(body: str, fields: Fields) -> None:
    """`Graphics SM Warp Exception on (GPC 9, TPC 1, SM 1): Out Of Range Address`."""
    exception, _, rest = body.partition(" Exception on (")
    place, closed, error = rest.partition("): ")
    if not closed:
        return
    fields["exception"] = exception[:64]
    for word in place.split(", ")[:8]:
        unit, _, number = word.partition(" ")
        if unit.isascii() and unit.isalnum() and number.isdecimal():
            fields[unit.lower()[:8]] = scan.integer(number)
    fields["error"] = error[:128]


def _timeout_of_context_switch(body: str, fields: Fields) -> None:
    """`Ch 00000046, errorString CTX SWITCH TIMEOUT, Info 0x2c02c`; newer drivers leave out `errorString`."""
    parts = body.split(", ", 3)
    if len(parts) > 1:
        fields["error"] = parts[1].removeprefix("errorString ").strip()[:128]


def _containment(body: str, fields: Fields) -> None:
    """`Contained: SM (0x1). RST: No, D-RST: No`, `Uncontained: LTC TAG (0x2, 0x1). physAddr: 0x12 RST: Yes, …`."""
    word, colon, rest = body.partition(": ")
    if not colon or word not in ("Contained", "Uncontained"):
        return
    fields["containment"] = word.lower()
    fields["unit"] = rest.partition("(")[0].strip(" .")[:64]
    fields["unit_values"] = [part.strip() for part in scan.between(rest, "(", ")").split(",")[:8]]
    fields.update(
        scan.known(
            reset_needed=_yes(rest, " RST: "),
            drain_reset_needed=_yes(rest, "D-RST: "),
            physical_address=_hex_after(rest, "physAddr: "),
        )
    )


def _yes(text: str, mark: str) -> bool | None:
    return {"Yes": True, "No": False}.get(scan.word_after(text, mark))


def _hex_after(text: str, mark: str) -> str | None:
    number = scan.hexadecimal_after(text, mark)
    return None if number is None else hex(number)


def _remap(body: str, fields: Fields) -> None:
    """`Row Remapper: New row marked for remapping, reset gpu to activate.`, `Row Remapper Error: (0x…) - All reserved…`."""
    if "marked for remapping" in body or "page retired" in body:
        fields["remap"] = "pending"
    elif "All reserved rows" in body:
        fields["remap"] = "no_spare_row"
    elif "Error" in body or "ailed" in body:
        fields["remap"] = "failed"
    fields.update(scan.known(address=_hex_after(body, "(0x")))


def _double_bit_error(body: str, fields: Fields) -> None:
    """`An uncorrectable double bit error (DBE) has been detected on GPU in the framebuffer at partition 3, subpartition 1.`"""
    if "DBE" in body or "double bit" in body:
        fields["ecc"] = "double_bit"
    for name in ("partition", "subpartition"):
        fields.update(scan.known(**{name: scan.integer_after(body, f" {name} ")}))


def _gsp_timeout(body: str, fields: Fields) -> None:
    """`Timeout after 6s of waiting for RPC response from GPU4 GSP! Expected function 76 (GSP_RM_CONTROL) (0x2 0x4).`

    Before R550 `Timeout waiting for RPC from GSP1!`; from R590 on `sequence N` comes before the parameters.
    """
    cursor = Cursor(body)
    if cursor.take("Timeout after "):
        fields.update(scan.known(timeout_seconds=cursor.integer()))
    gpu = scan.integer_after(body, " from GPU")
    fields.update(scan.known(gpu=scan.integer_after(body, " from GSP") if gpu is None else gpu))
    if not cursor.skip_past("Expected function "):
        return
    fields.update(scan.known(function=cursor.integer(), function_name=scan.between(cursor.until(")") + ")", "(", ")")))
    fields.update(scan.known(sequence=scan.integer_after(cursor.rest(), " sequence ")))
    parameters = scan.between(cursor.rest(), "(", ")").split()
    fields["parameters"] = parameters[:8]


def _nvlink(body: str, fields: Fields) -> None:
    """`NVLink: fatal error detected on link 6(0x10000, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0)`."""
    cursor = Cursor(body)
    if not cursor.skip_past(" on link "):
        return
    fields.update(scan.known(link=cursor.integer()))
    fields["severity"] = "fatal" if "fatal error" in body and "non-fatal" not in body else "nonfatal"
    fields["words"] = [word.strip() for word in scan.between(cursor.rest(), "(", ")").split(",")[:16]]


def _uncorrectable_ecc(body: str, fields: Fields) -> None:
    """`An uncorrectable ECC error detected (possible firmware handling failure) DRAM:1, LTC:0, MMU:0, PCIE:0`."""
    for word in body.split()[:_MAX_WORDS]:
        place, colon, number = word.rstrip(",.").partition(":")
        if colon and place.isascii() and place.isalpha() and place.isupper():
            fields.update(scan.known(**{f"{place.lower()[:8]}_errors": scan.integer(number)}))


def _recovery_action(body: str, fields: Fields) -> bool:
    """`GPU recovery action changed from 0x0 (None) to 0x4 (Drain and Reset)`; true when none is needed any more."""
    cursor = Cursor(body)
    if not cursor.skip_past("action changed from "):
        return False
    for which, mark in (("from", " to "), ("to", "\n")):
        number, name = cursor.hexadecimal(), scan.between(cursor.until(mark), "(", ")")
        fields.update(scan.known(**{f"{which}_action": number, f"{which}_action_name": name[:64]}))
    return fields.get("to_action") == 0


def _nvlink5(body: str, fields: Fields) -> None:
    """`NETIR/NETIR_INT Fatal XC0 i0 Link -1 (0xINTRINFO 0xSTATUS 0x… …)`.

    Where the sub-code is in INTRINFO depends on the driver: bits 9:5 before R575 (v1), bits 6:0 since (v2).
    """
    unit, severity, xc, instance, link = [*body.partition("(")[0].replace(" Link ", " ").split(None, 5), *[""] * 5][:5]
    words = [scan.hexadecimal(word) for word in scan.between(body, "(", ")").split()[:8]]
    if severity not in ("Fatal", "Nonfatal") or not xc.startswith("XC") or not words or None in words:
        return
    intrinfo = words[0] or 0
    name, _, sub_unit = unit[:64].partition("/")
    fields.update(
        scan.known(
            unit=name,
            sub_unit=sub_unit,
            severity=severity.lower(),
            xc=scan.integer(xc[2:]),
            instance=scan.integer(instance[1:]),
            link=scan.integer(link),
        )
    )
    fields["words"] = [f"{word:#010x}" for word in words]
    fields["intrinfo"] = fields["words"][0]
    if len(words) > 1:
        fields["error_status"] = fields["words"][1]
    fields["subcode_v1"] = intrinfo >> 5 & 0x1F
    fields["subcode_v2"] = intrinfo & 0x7F
    fields["link_down_reason"] = intrinfo >> 20 & 0x3F


_READERS: dict[int, Callable[[str, Fields], bool | None]] = {
    13: _exception,
    31: _mmu_fault,
    48: _double_bit_error,
    63: _remap,
    64: _remap,
    74: _nvlink,
    94: _containment,
    95: _containment,
    109: _timeout_of_context_switch,
    119: _gsp_timeout,
    120: _gsp_timeout,
    140: _uncorrectable_ecc,
    154: _recovery_action,
    **dict.fromkeys(range(144, 151), _nvlink5),
}
