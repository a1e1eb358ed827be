"""The shape that every family of kernel-log records fills in, and what its parser gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct, field


class Decoded(Struct, frozen=True, omit_defaults=True):
    """A record, or several joined, that a family knows.

    `family` is its name, more special than the parser's own where that helps (`nvidia.xid`). `code` is the number
    or name that the catalogue knows it by, "" where it only informs (`nvidia.identity`); `device` the PCI address
    as `dddd:bb:dd.f` in lower case. `recovery` tells the end of a fault. `incomplete`: records that continue this
    one may follow, and `Family.join` takes them in.
    """

    family: str
    code: str = ""
    device: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    recovery: bool = False
    incomplete: bool = False


class Family(Struct, frozen=True):
    """A parser. It is asked only about texts that hold one of its `triggers` (plain ASCII, four letters or more).

    `parse` takes the text of one record, without time and level, and gives None when it is not the family's.
    `join` takes an incomplete earlier record and a later one of the same log, and gives both as one, or None when
    the later one does not belong to it. Neither raises, whatever the text.
    """

    name: str
    triggers: tuple[str, ...]
    parse: Callable[[str], Decoded | None]
    join: Callable[[Decoded, Decoded], Decoded | None] | None = None
