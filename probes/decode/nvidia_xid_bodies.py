"""What an Xid says after its number: a reader for each body that has a layout of its own.

A body that none of them knows keeps its text, and its words that are well known: channel, class, offset and the like.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from . import scan
from .cursor import Cursor

_CAUSE = " caused by previous Xid "
_MAX_MESSAGE = 512
_MAX_WORDS = 64
_HEXADECIMAL_DIGITS = frozenset("0123456789abcdefABCDEF")
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
    said = body
    if _CAUSE in body:
        said, _, previous = body.partition(_CAUSE)
        fields.update(scan.known(cause=_number_as_text(previous)))
    words = said[:_MAX_MESSAGE].split(None, _MAX_WORDS)
    if not _WELL_KNOWN.keys().isdisjoint(words):
        _well_known_words(words, fields)
    reader = _READERS.get(code)
    return bool(reader and reader(said, fields))


def _number_as_text(text: str) -> str:
    number = scan.integer(text)
    return "" if number is None else str(number)


def _well_known_words(words: list[str], fields: Fields) -> None:
    """`Ch 0000000c`, `Channel ID 0000000d intr0 00040000`, `Class 0000cbc0, Offset 00000000`."""
    for word, value in pairwise(words):
        name = _WELL_KNOWN.get(word)
        if name and name not in fields:
            _put_hexadecimal(name, value, fields)
    if words[:2] == ["Channel", "ID"] and len(words) > 2:
        _put_hexadecimal("channel", words[2], fields)


def _put_hexadecimal(name: str, value: str, fields: Fields) -> None:
    number = _hexadecimal(value.rstrip(",.:"))
    if number is not None:
        fields[name] = hex(number)


def _hexadecimal(word: str) -> int | None:
    """The number that the whole of `word` is, with or without 0x, of at most 64 bits."""
    digits = word[2:] if word.startswith("0x") else word
    if len(digits) > 16 or not _HEXADECIMAL_DIGITS.issuperset(digits):
        return None
    return int(digits, 16) if digits else None


def _decimal(word: str) -> int | None:
    digits = word.removeprefix("-")
    return int(word) if digits.isdigit() and digits.isascii() and len(digits) < 10 else None


def _mmu_fault(body: str, fields: Fields) -> None:
    """`MMU Fault: ENGINE GRAPHICS GPCCLIENT_T1_8 faulted @ 0x73ac_1c000000. Fault is of type FAULT_PDE ACCESS_…`."""
    head, _, tail = body.partition(" faulted @ ")
    client = head.partition("MMU Fault: ENGINE ")[2]
    if not client:
        return
    fields["engine"], _, fields["client"] = client[:128].rpartition(" ")
    address, _, tail = tail.partition(". Fault is of type ")
    fields["va"] = address.replace("_", "")[:32]
    if tail:
        fields["fault_type"], _, access = tail[:128].partition(" ")
        fields["access_type"] = access.rstrip(" .")


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
    where = rest.partition(". ")[0]
    fields["unit"] = where.partition("(")[0].strip(" .")[:64]
    values = scan.between(where, "(", ")")
    if values:
        fields["unit_values"] = [part.strip() for part in values.split(",")[:8]]
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
    """`Row Remapper: New row marked for remapping, …`, `Row Remapper Error: (0x…) - All reserved rows for bank …`."""
    if "marked for remapping" in body or "page retired" in body:
        fields["remap"] = "pending"
    elif "All reserved rows" in body:
        fields["remap"] = "no_spare_row"
    elif "Error" in body or "ailed" in body:
        fields["remap"] = "failed"
    fields.update(scan.known(address=_hex_after(body, "(0x")))


def _double_bit_error(body: str, fields: Fields) -> None:
    """`An uncorrectable double bit error (DBE) … in the framebuffer at partition 3, subpartition 1.`"""
    if "DBE" in body or "double bit" in body:
        fields["ecc"] = "double_bit"
    for name in ("partition", "subpartition"):
        fields.update(scan.known(**{name: scan.integer_after(body, f" {name} ")}))


def _gsp_timeout(body: str, fields: Fields) -> None:
    """`Timeout after 6s of waiting for RPC response from GPU4 GSP! Expected function 76 (GSP_RM_CONTROL) (0x2 0x4).`

    Before R550 `Timeout waiting for RPC from GSP1!`; from R590 on `sequence N` comes before the parameters.
    """
    timeout, _, rest = body.partition(" of waiting for ")
    if rest:
        fields.update(scan.known(timeout_seconds=_decimal(timeout.removeprefix("Timeout after ").removesuffix("s"))))
    source, _, rest = body.partition("! Expected function ")
    gpu = _decimal(source.partition(" from G")[2][2:].partition(" ")[0])
    if gpu is not None:
        fields["gpu"] = gpu
    if not rest:
        return
    function, _, rest = rest.partition(" (")
    name, _, rest = rest.partition(")")
    fields.update(scan.known(function=_decimal(function), function_name=name[:64]))
    sequence, _, parameters = rest.partition("(")
    if " sequence " in sequence:
        fields.update(scan.known(sequence=_decimal(sequence.strip().removeprefix("sequence "))))
    fields["parameters"] = parameters[:256].partition(")")[0].split()


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
    before, found, after = body.partition(" changed from ")[2].partition(" to ")
    if not found:
        return False
    for which, said in (("from", before), ("to", after)):
        number, _, name = said.partition(" (")
        fields.update(scan.known(**{f"{which}_action": _hexadecimal(number)}))
        fields[f"{which}_action_name"] = name[:64].partition(")")[0]
    return fields.get("to_action") == 0


def _nvlink5(body: str, fields: Fields) -> None:
    """`NETIR/NETIR_INT Fatal XC0 i0 Link -1 (0xINTRINFO 0xSTATUS 0x… …)`.

    Where the sub-code is in INTRINFO depends on the driver: bits 9:5 before R575 (v1), bits 6:0 since (v2).
    """
    head, _, rest = body.partition("(")
    parts = head.split(None, 6)
    words = rest[:256].partition(")")[0].split()
    intrinfo = _hexadecimal(words[0]) if words else None
    if len(parts) < 6 or parts[1] not in ("Fatal", "Nonfatal") or intrinfo is None:
        return
    xc, instance, link = _decimal(parts[2][2:]), _decimal(parts[3][1:]), _decimal(parts[5])
    if xc is None or instance is None or link is None:
        return
    fields["unit"], _, sub_unit = parts[0][:64].partition("/")
    if sub_unit:
        fields["sub_unit"] = sub_unit
    fields["severity"] = parts[1].lower()
    fields["xc"], fields["instance"], fields["link"] = xc, instance, link
    fields["words"] = words
    fields["intrinfo"] = words[0]
    if len(words) > 1:
        fields["error_status"] = words[1]
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
