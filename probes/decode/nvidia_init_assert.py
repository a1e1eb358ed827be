"""NVIDIA's driver could not start a GPU, or found its own state wrong."""

from __future__ import annotations

from typing import Any

from . import scan
from .cursor import Cursor
from .family import Decoded, Family

NAME = "nvidia.init_assert"
_MAX_TEXT = 300
_ASSERTIONS = {
    "Assertion failed: ": "assertion_failed",
    "Check failed: ": "check_failed",
}
_WORDINGS = {
    "API mismatch: ": "api_mismatch",
    "The NVIDIA probe routine failed for ": "probe_failed",
    "None of the NVIDIA devices were ": "probe_failed",
}


_BAR_INVALID = "This PCI I/O region assigned to your NVIDIA device is invalid"


def parse(text: str) -> Decoded | None:
    if text.startswith("nvidia-peermem "):
        return _peermem(text)
    cursor = Cursor(text)
    if not cursor.take("NVRM: "):
        return None
    device, gpu = _which_gpu(cursor)
    said = cursor.rest()
    for wording, code in _ASSERTIONS.items():
        if wording in said:
            return Decoded(NAME, code, device, {**gpu, **_assertion(said, wording)})
    for wording, code in _WORDINGS.items():
        if said.startswith(wording):
            return Decoded(NAME, code, device, {**gpu, "message": said[:_MAX_TEXT]})
    if said.startswith("knvlink") and ("Rx Detect Link mask" in said or "RxDetLinkMask" in said):
        function, _, message = said.partition(": ")
        fields = {**gpu, "driver_function": function, "message": message[:_MAX_TEXT]}
        return Decoded(NAME, "nvlink_rx_detect_failed", device, fields)
    return _adapter(said, device, gpu) or _bar(said)


def _which_gpu(cursor: Cursor) -> tuple[str, dict[str, Any]]:
    """`GPU 0000:98:00.0: `, or from R570 on `GPU0 ` with the driver's own number of it."""
    at = cursor.at
    if cursor.take("GPU "):
        device = scan.pci_address(cursor.until(": "))
        if device:
            return device, {}
    elif cursor.take("GPU"):
        number = cursor.integer()
        if number is not None and (cursor.take(" ") or cursor.take(": ")):
            return "", {"gpu": number}
    cursor.at = at
    return "", {}


def _adapter(said: str, device: str, gpu: dict[str, Any]) -> Decoded | None:
    """`RmInitAdapter failed! (0x62:0x65:1792)`, `rm_init_adapter failed, device minor number 0`."""
    if not said.startswith(("RmInitAdapter failed", "rm_init_adapter failed")):
        return None
    status = scan.between(said, "failed! (", ")")
    minor = scan.integer_after(said, "minor number ")
    return Decoded(NAME, "rm_init_adapter_failed", device, {**gpu, **scan.known(status=status[:64], minor=minor)})


def _assertion(said: str, wording: str) -> dict[str, object]:
    """`FUNCTION: Assertion failed: WHAT [NV_ERR_NAME] (0x25) returned from EXPRESSION @ FILE:LINE`."""
    head, _, rest = said.partition(wording)
    claim, _, place = rest[:_MAX_TEXT].rpartition(" @ ")
    file, _, line = place.partition(":")
    return scan.known(
        driver_function=head.rstrip(": ")[:80],
        message=(claim or rest)[:_MAX_TEXT],
        status_name=scan.between(claim, "[", "]"),
        status=scan.hexadecimal_after(claim, "] ("),
        expression=scan.after(claim, "returned from "),
        source_file=file,
        source_line=scan.integer(line),
    )


def _bar(said: str) -> Decoded | None:
    """`This PCI … is invalid:`, and below it `NVRM: BAR1 is 0M @ 0x0 (PCI:0000:b1:00.0)`, mostly in one record."""
    headed = said.startswith(_BAR_INVALID)
    bar = scan.after(said, "NVRM: BAR") if headed else said.removeprefix("BAR")
    device = scan.pci_address(scan.between(bar, "(PCI:", ")"))
    if not headed and (bar == said or not device):
        return None
    fields = scan.known(bar=scan.integer(bar), size_mebibytes=scan.integer_after(bar, " is "))
    return Decoded(NAME, "bar_invalid" if device else "", device, fields)


def _peermem(text: str) -> Decoded | None:
    """`nvidia-peermem FUNCTION:LINE ERROR message`."""
    place, _, message = text.removeprefix("nvidia-peermem ").partition(" ERROR ")
    if not message:
        return None
    function, _, line = place.partition(":")
    fields = scan.known(driver_function=function[:80], source_line=scan.integer(line), message=message[:_MAX_TEXT])
    return Decoded(NAME, "peermem_error", fields=fields)


FAMILY = Family(
    NAME,
    (*_ASSERTIONS, *_WORDINGS, "Rx Detect Link mask", "RxDetLinkMask", "RmInitAdapter failed",
     "rm_init_adapter failed", "nvidia-peermem ", _BAR_INVALID, "M @ 0x"),
    parse,
)  # fmt: skip
