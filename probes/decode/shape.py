"""Shapes of kernel messages, written much as the kernel's own format strings, and matched by scanning.

`nvme {controller:w}: I/O {tag:d} QID {queue:d} timeout` is literal text with slots between. A text matches when it
holds the literals in that order and every slot converts; a shape starts where the text starts unless it begins with
`*`, and what follows its end does not matter. Each literal is searched once, so time is linear in the text.

Slots are `{name:type}`: nothing = text, `w` = one word, `d` = decimal, `x` = hexadecimal, `f` = with a fraction,
`kB` = kilobytes given as bytes, `ms` = milliseconds given as seconds, `pci` = PCI address. Before a literal a slot
fills the text up to it; at the end of a shape it takes what it can. `device` goes to Decoded.device, a name with
leading `_` is thrown away.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from msgspec import Struct

from . import scan
from .family import Decoded

_SLOT = re.compile(r"\{([a-z_][a-z0-9_]*)(?::([A-Za-z]+))?\}")
_FRACTION = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,15})?")
_LONGEST_VALUE = 200  # characters of a field that is text
_LONGEST_TRIGGER = 64
_TABLE = Path(__file__).with_name("shapes.csv")


class Shape(Struct, frozen=True):
    """One shape. `pieces` are (slot, type, literal that ends it); `start` is the literal before the first slot."""

    family: str
    code: str
    recovery: bool
    anywhere: bool
    start: str
    pieces: tuple[tuple[str, str, str], ...]
    anchor: str


def compile_shape(family: str, code: str, written: str, recovery: bool = False) -> Shape:
    """The shape as it is `written`. Raises ValueError when two slots touch or the start says nothing."""
    anywhere = written.startswith("*")
    parts = _SLOT.split(written[anywhere:])
    start, names, types, literals = parts[0], parts[1::3], parts[2::3], parts[3::3]
    if any(not literal for literal in literals[:-1]):
        raise ValueError(f"two slots of {written!r} touch")
    if anywhere and not start:
        raise ValueError(f"{written!r} begins nowhere")
    pieces = tuple((name, kind or "", literal) for name, kind, literal in zip(names, types, literals, strict=True))
    return Shape(family, code, recovery, anywhere, start, pieces, max((start, *literals), key=len))


def match(shape: Shape, text: str) -> Decoded | None:
    """What `text` says by `shape`, or None when it has another shape."""
    at = text.find(shape.start) if shape.anywhere else 0
    if at < 0 or not text.startswith(shape.start, at):
        return None
    at += len(shape.start)
    fields: dict[str, Any] = {}
    for name, kind, literal in shape.pieces:
        end = text.find(literal, at) if literal else len(text)
        value = None if end < 0 else _convert(text[at:end], kind, not literal)
        if value is None:
            return None
        if not name.startswith("_"):
            fields[name] = value
        at = end + len(literal)
    return Decoded(shape.family, shape.code, str(fields.pop("device", "")), fields, shape.recovery)


def match_first(shapes: Sequence[Shape], text: str) -> Decoded | None:
    for shape in shapes:
        if shape.anchor in text:
            found = match(shape, text)
            if found is not None:
                return found
    return None


def _convert(text: str, kind: str, open_ended: bool) -> Any:
    if kind in ("", "w"):
        return _text(text, kind, open_ended)
    if kind == "pci":
        return scan.pci_address(text) or None
    if kind == "f":
        return _decimal_fraction(text, open_ended)
    if not open_ended and not _is_number(text.strip(), kind):
        return None
    number = scan.hexadecimal(text) if kind == "x" else scan.integer(text)
    if number is None:
        return None
    return {"kB": number * 1024, "ms": number / 1000}.get(kind, number)


def _decimal_fraction(text: str, open_ended: bool) -> float | None:
    found = _FRACTION.match(text)
    return float(found[0]) if found and (open_ended or found.end() == len(text)) else None


def _text(text: str, kind: str, open_ended: bool) -> str | None:
    if kind == "w":
        taken = scan.word(text[: _LONGEST_VALUE + 1]) if open_ended else text
        return taken if len(taken) <= _LONGEST_VALUE and taken.split(None, 1) == [taken] else None
    text = text[:_LONGEST_VALUE].strip()
    return text or None


def _is_number(text: str, kind: str) -> bool:
    digits = text.removeprefix("0x") if kind == "x" else text.removeprefix("-")
    return text.isascii() and (digits.isalnum() if kind == "x" else digits.isdigit())


def read_shapes(path: Path = _TABLE) -> tuple[Shape, ...]:
    """All shapes of a table with the columns family, code, phase and shape, in its order; `#` starts a comment."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return tuple(
            compile_shape(row["family"], row["code"], row["shape"], row["phase"] == "recovery") for row in rows
        )


SHAPES = read_shapes()


@cache
def shapes_of(*families: str) -> tuple[Shape, ...]:
    """The shapes of these families; a name that ends in a dot stands for all that start with it."""
    return tuple(
        shape
        for shape in SHAPES
        if any(shape.family.startswith(name) if name.endswith(".") else shape.family == name for name in families)
    )


Parse = Callable[[str], Decoded | None]


def first_of(*parsers: Parse) -> Parse:
    """A parser that asks these in turn."""

    def parse(text: str) -> Decoded | None:
        for one in parsers:
            found = one(text)
            if found is not None:
                return found
        return None

    return parse


def by_shapes(*families: str) -> Parse:
    return partial(match_first, shapes_of(*families))


def triggers_of(*families: str) -> tuple[str, ...]:
    """What a text must hold for one of their shapes to match: the longest literal of each."""
    return tuple(dict.fromkeys(shape.anchor[:_LONGEST_TRIGGER] for shape in shapes_of(*families)))
