"""Taking words and numbers out of a text, from left to right, once. Nothing here raises.

What is not there reads as "" or None; numbers longer than 64 bits are none.
"""

from __future__ import annotations

import re

# The lexical tokens that have no simple split. Bounded, so that no text makes them slow.
_DECIMAL = re.compile(r"\s{0,8}(?!0[xX][0-9a-fA-F])(-?[0-9]{1,19})(?![0-9])")
_HEXADECIMAL = re.compile(r"\s{0,8}(?:0x)?([0-9a-f]{1,16})(?![0-9a-fx])", re.IGNORECASE | re.ASCII)
_PCI = re.compile(
    r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([0-9a-f]{2})(?:\.([0-7]))?(?![0-9a-f.])", re.IGNORECASE | re.ASCII
)


def after(text: str, mark: str) -> str:
    """What follows the first `mark`."""
    return text.partition(mark)[2]


def between(text: str, left: str, right: str) -> str:
    """What lies between the first `left` and the next `right`; "" where one of them is missing."""
    start = text.find(left)
    if start < 0:
        return ""
    start += len(left)
    end = text.find(right, start)
    return text[start:end] if end >= 0 else ""


def word(text: str) -> str:
    """The first word, without the colon, comma or full stop behind it."""
    parts = text.split(None, 1)
    return parts[0].rstrip(":,.;!") if parts else ""


def word_after(text: str, mark: str) -> str:
    return word(after(text, mark))


def integer(text: str) -> int | None:
    """The decimal number that `text` starts with; of a hexadecimal one none, not its 0."""
    found = _DECIMAL.match(text)
    return int(found[1]) if found else None


def integer_after(text: str, mark: str) -> int | None:
    return integer(after(text, mark))


def hexadecimal(text: str) -> int | None:
    """The hexadecimal number that `text` starts with, with or without 0x."""
    found = _HEXADECIMAL.match(text)
    return int(found[1], 16) if found else None


def hexadecimal_after(text: str, mark: str) -> int | None:
    return hexadecimal(after(text, mark))


def pci_address(text: str) -> str:
    """The PCI address that `text` starts with as `dddd:bb:dd.f`, function and domain 0 where it leaves them out."""
    found = _PCI.match(text)
    if not found:
        return ""
    domain, bus, device, function = found.groups()
    return f"{domain or '0000'}:{bus}:{device}.{function or 0}".lower()


def device_message(text: str) -> tuple[str, str, str]:
    """Driver, PCI address and the rest of `driver 0000:41:00.0: rest`, as the kernel's dev_printk writes it.

    Three times "" where the text is no such one.
    """
    driver, _, rest = text.partition(" ")
    name, _, rest = rest.partition(" ")
    address = pci_address(name) if name.count(":") >= 2 else ""
    return (driver, address, rest.lstrip()) if address and driver else ("", "", "")


def known(**fields: object) -> dict[str, object]:
    """The fields that were found: without None and ""."""
    return {name: value for name, value in fields.items() if value is not None and value != ""}
