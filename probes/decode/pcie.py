"""PCIe errors: AER reports, whose records are joined into one, recovery, containment and hot-plug."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import structs

from . import scan
from .aer_bits import by_printed_name
from .family import Decoded, Family
from .pcie_report import described, join

_NAME = "pcie.aer"
_SEVERITIES = (("Non-Fatal", "nonfatal"), ("Fatal", "fatal"), ("Correct", "corrected"))

# How it ended: (words, code, is it the end of a fault).
_OUTCOMES = (
    ("can't recover (", "recovery_failed", False),
    ("device recovery failed", "recovery_failed", False),
    ("device recovery successful", "recovery_successful", True),
    ("subordinate device reset failed", "recovery_failed", False),
    ("link has been reset (", "", False),
    ("broadcast ", "", False),
    ("error_detected() callback", "", False),
    ("can't find device of ID", "", False),
)
_SLOT = (
    ("Link Down", "slot_link_down", False),
    ("Card not present", "slot_card_not_present", False),
    ("Power fault", "slot_power_fault", False),
    ("Cannot train link", "slot_link_training_failed", False),
    ("No link", "slot_link_training_failed", False),
    ("Link Up", "slot_link_down", True),
    ("Card present", "slot_card_not_present", True),
    ("Link status", "", False),
    ("Attention button pressed", "", False),
    ("Button", "", False),
    ("Powering", "", False),
)


def _announcement(text: str, driver: str, device: str) -> Decoded | None:
    """`Multiple Correctable error message received from 0000:00:00.0`, in its wordings since 2.6."""
    many = text.startswith("Multiple ")
    text = text.removeprefix("Multiple ")
    source_text = scan.after(text, "error received: ") or scan.after(text, "error message received from ")
    severity = severity_of(text.partition(" error ")[0]) if source_text else ""
    if not severity:
        return None
    source = scan.pci_address(source_text.removeprefix("id=")) or _requester(source_text)
    # Requester 0 is what a port reports when it lost count of who it was.
    unknown = not source or source.partition(":")[2] == "00:00.0"
    fields = scan.known(
        driver=driver,
        reporter=device,
        source_device="" if unknown else source,
        severity=severity,
        multiple=many or None,
    )
    return _report(device if unknown else source, fields)


def _requester(text: str) -> str:
    """`id=00e0` of old kernels: bus, device and function in 16 bits."""
    number = scan.hexadecimal_after(text, "id=")
    if number is None or number > 0xFFFF:
        return ""
    return f"0000:{number >> 8:02x}:{number >> 3 & 31:02x}.{number & 7}"


def severity_of(text: str) -> str:
    return next((name for mark, name in _SEVERITIES if mark in text), "")


def _bus_error(text: str, driver: str, device: str) -> Decoded | None:
    """`PCIe Bus Error: severity=Corrected, type=Data Link Layer, id=0010(Transmitter ID)`."""
    if not text.startswith("PCIe Bus Error: "):
        return None
    severity = severity_of(scan.between(text, "severity=", ","))
    if not severity:
        return None
    fields = scan.known(
        driver=driver,
        severity=severity,
        layer=scan.between(text, "type=", ",").strip(),
        agent=scan.between(text, "(", " ID)")
        if severity == "corrected"
        else text.rpartition("(")[2].partition(" ID")[0],
    )
    return _report(device, fields)


def _status(text: str, driver: str, device: str) -> Decoded | None:
    """`device [8086:6f04] error status/mask=00000020/00000000`."""
    ids, mark, values = text.partition("] error status/mask=")
    if not mark or not ids.startswith("device ["):
        return None
    vendor, _, model = ids.removeprefix("device [").partition(":")
    status, _, mask = values.partition("/")
    fields = {
        **scan.known(driver=driver, vendor_id=scan.hexadecimal(vendor), device_id=scan.hexadecimal(model)),
        **scan.known(status=scan.hexadecimal(status), mask=scan.hexadecimal(mask)),
    }
    return _report(device, fields) if "status" in fields else None


def _firmware_status(text: str, driver: str, device: str) -> Decoded | None:
    """`aer_status: 0x00004000, aer_mask: 0x00000000`, as GHES prints it, and what it adds."""
    if text.startswith("aer_status: "):
        status, mask = scan.hexadecimal_after(text, "aer_status: "), scan.hexadecimal_after(text, "aer_mask: ")
        return _report(device, scan.known(driver=driver, status=status, mask=mask)) if status is not None else None
    if text.startswith("aer_layer="):
        layer, agent = scan.between(text, "aer_layer=", ","), scan.after(text, "aer_agent=").removesuffix(" ID")
        return _report(device, scan.known(driver=driver, layer=layer, agent=agent))
    if text.startswith("aer_uncor_severity: "):
        severity_mask = scan.hexadecimal_after(text, "aer_uncor_severity: ")
        return _report(device, scan.known(driver=driver, uncorrectable_severity=severity_mask))
    return None


def _bit(text: str, driver: str, device: str) -> Decoded | None:
    """`[ 5] Surprise Down Error    (First)`."""
    number, closed, name = text.removeprefix("[").partition("]")
    if not closed or not text.startswith("["):
        return None
    name = name.strip()
    first = name.endswith("(First)")
    bit = by_printed_name(name.removesuffix("(First)").strip())
    if bit is None or scan.integer(number) != bit.bit:
        return None
    return _report(device, scan.known(driver=driver, bits=[bit.name], first=bit.name if first else ""))


def _header(text: str, driver: str, device: str) -> Decoded | None:
    """`TLP Header: 04000001 0020000f 05000000 00000000`, behind which nothing more comes."""
    if not text.startswith(("TLP Header: ", "TLP Header (Flit): ")):
        return None
    words = text.partition(": ")[2].split()[:14]
    return _report(device, scan.known(driver=driver, tlp_header=" ".join(words)))


def _report(device: str, fields: dict[str, Any]) -> Decoded:
    return structs.replace(described(Decoded(_NAME, "", device, fields)), incomplete=True)


_PARTS: tuple[Callable[[str, str, str], Decoded | None], ...] = (
    _announcement, _bus_error, _status, _bit, _firmware_status, _header,
)  # fmt: skip


def _outcome(text: str, driver: str, device: str) -> Decoded | None:
    for mark, code, recovery in _OUTCOMES:
        if mark in text:
            return Decoded(_NAME, code, device, {"driver": driver, "outcome": text[:200]}, recovery)
    return None


def _containment(text: str, driver: str, device: str) -> Decoded | None:
    """`DPC: containment event, status:0x1f01 source:0x0000` and what Downstream Port Containment says besides."""
    if "containment event" not in text and "detected" not in text:
        return None
    fields = scan.known(
        driver=driver,
        status=scan.hexadecimal_after(text, "status:"),
        source_id=scan.hexadecimal_after(text, "source:"),
        reason=text[:200],
    )
    return Decoded(_NAME, "dpc_containment", device, fields)


def _hot_plug(text: str, driver: str, device: str) -> Decoded | None:
    slot = scan.between(text, "Slot(", ")")
    said = scan.after(text, "): ")
    for mark, code, recovery in _SLOT:
        if slot and said.startswith(mark):
            return Decoded(_NAME, code, device, {"driver": driver, "slot": slot[:64], "state": said[:200]}, recovery)
    return None


def _gone(text: str, driver: str, device: str) -> Decoded | None:
    """`Unable to change power state from D3cold to D0, device inaccessible`, `not ready 65535ms after …; giving up`.

    Until 5.18 `can't change power state from D3cold to D0 (config space inaccessible)`.
    """
    asleep = " change power state " in text and text.endswith(("device inaccessible", "config space inaccessible)"))
    if not asleep and not (text.startswith("not ready ") and "; giving up" in text):
        return None
    return Decoded(_NAME, "device_inaccessible", device, {"driver": driver, "reason": text[:200]})


def parse(text: str) -> Decoded | None:
    driver, device, rest = scan.device_message(text)
    if not device:
        return None
    if rest.startswith("pciehp: "):
        return _hot_plug(rest.removeprefix("pciehp: "), driver, device)
    if rest.startswith("DPC: "):
        return _containment(rest.removeprefix("DPC: "), driver, device)
    of_aer = rest.startswith("AER: ")
    rest = rest.removeprefix("AER: ").lstrip()
    for part in _PARTS:
        found = part(rest, driver, device)
        if found is not None:
            return found
    return _outcome(rest, driver, device) if of_aer else _gone(rest, driver, device)


FAMILY = Family(
    _NAME,
    ("AER: ", "PCIe Bus Error: ", "] error status/mask=", "    [", "aer_status: ", "aer_layer=", "aer_uncor_severity: ",
     "TLP Header", "device inaccessible", "config space inaccessible", "; giving up", "pciehp: Slot(", "DPC: "),
    parse,
    join,
)  # fmt: skip
