"""The grammar: asks each text's families, joins records that belong together, and counts repeats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from msgspec import structs

from ...native.sift import Sift
from .families import FAMILIES
from .family import Decoded, Family
from .lines import MAX_LINE_BYTES
from .notices import NOTICE_TRIGGERS, Notice, read_notice
from .record import Record, tokenize
from .waiting_room import HOLD_NS, Found, WaitingRoom

__all__ = ["HOLD_NS", "Decoder", "Found", "decode", "decode_lines", "sift"]

_MAX_LIMITED = 256
_NOTICE_MASK = 1 << 63
_BYTES_MASK = 1 << 62
# So the journal prints a message that is not plain text: its triggers are found once it is read.
_MESSAGE_OF_BYTES = b'"MESSAGE":['
_Parsed = tuple[Family, Decoded]


def decode(text: str) -> Decoded | None:
    """What the text of one record says by itself, without time and level; None when no family knows it."""
    found = _parse_any(text)
    return found[1] if found else None


def decode_lines(lines: Iterable[str]) -> Iterator[Found]:
    """What the lines of a log say, in order; their numbers start with 1."""
    decoder = Decoder()
    for number, line in enumerate(lines, 1):
        mask = sift().text(line.encode("utf-8", "replace"))
        if mask:
            yield from decoder.take(tokenize(line, number), None if mask & _BYTES_MASK else mask)
    yield from decoder.flush()


@cache
def sift() -> Sift:
    """Finds the texts that any family wants to see; bit n of a mask is `FAMILIES[n]`."""
    if len(FAMILIES) > 62:
        raise ValueError("a mask has room for 62 families")
    masks: dict[bytes, int] = dict.fromkeys(map(str.encode, NOTICE_TRIGGERS), _NOTICE_MASK)
    masks[_MESSAGE_OF_BYTES] = _BYTES_MASK
    for number, family in enumerate(FAMILIES):
        for trigger in map(str.encode, family.triggers):
            masks[trigger] = masks.get(trigger, 0) | 1 << number
    return Sift(masks)


class Decoder:
    """Decodes one log. What it gives is in the order of the log, and is whole; its state is bounded.

    An incomplete record is held until others that belong to it have come, at most for 64 records and, when the log is
    live, for `HOLD_NS`: call `flush` with the time when nothing comes.
    """

    def __init__(self) -> None:
        self._waiting = WaitingRoom()
        self._last: tuple[Family, Found] | None = None
        self._suppressed = (-2, 0)  # line, and how many were left out before the next
        self._printed_one_of: dict[tuple[str, str, str], int] = {}
        self._next_line = 1

    @property
    def waits(self) -> bool:
        """Whether something is held that only `flush` or another record will give."""
        return bool(self._waiting)

    def take_lines(self, data: bytes, now_ns: int = 0) -> list[Found]:
        """The next lines of a text log, whole ones. `now_ns` is CLOCK_MONOTONIC, 0 where nothing is live."""
        hits, self._next_line = sift().lines(data, self._next_line)
        given: list[Found] = []
        for mask, line, start, length in hits:
            text = data[start : start + min(length, MAX_LINE_BYTES)].decode("utf-8", "replace")
            given += self.take(tokenize(text.rstrip("\r"), line), None if mask & _BYTES_MASK else mask, now_ns)
        return given + self._waiting.leave(self._next_line - 1, now_ns)

    def take(self, record: Record, mask: int | None = None, now_ns: int = 0) -> list[Found]:
        """The next record that has a trigger; `mask` is what `sift` said of it, None where nobody asked."""
        if not record.program:
            mask = sift().text(record.text.encode("utf-8", "replace")) if mask is None else mask
            if mask & _NOTICE_MASK and (notice := read_notice(record.text)):
                return self._take_notice(notice, record, now_ns)
            parsed = _parse(record.text, mask)
            if parsed:
                return self._add(*parsed, record, now_ns)
        return self._waiting.leave(record.line, now_ns)

    def flush(self, now_ns: int | None = None) -> list[Found]:
        """What has waited long enough at `now_ns`; all of it without one."""
        return self._waiting.leave_in_time(now_ns)

    def _add(self, family: Family, decoded: Decoded, record: Record, now_ns: int, count: int = 1) -> list[Found]:
        """Takes in what was decoded; gives what need not wait."""
        if "printed_one_of" in decoded.fields:
            self._learn(decoded)
        decoded = self._with_losses(decoded, record.line, count)
        waiting = self._waiting
        found = waiting.join(family, decoded, record, now_ns) if waiting else None
        if found is None:
            found = Found(decoded, record, (record.line,), count)
            if not waiting and not decoded.incomplete:
                self._last = (family, found)
                return [found]
            waiting.enter(family, found, now_ns)
        self._last = (family, found)
        return waiting.leave(record.line, now_ns)

    def _take_notice(self, notice: Notice, record: Record, now_ns: int) -> list[Found]:
        """Repeats of the record before or of the notice's own text, or some that were left out."""
        if notice.suppressed:
            self._suppressed = (record.line, notice.suppressed)
            return []
        if notice.text:
            parsed = _parse_any(tokenize(notice.text).text)
            return self._add(*parsed, record, now_ns, notice.repeats) if parsed else []
        if self._last is None or self._last[1].lines[-1] != record.line - 1:
            return []
        family, before = self._last
        return self._add(family, structs.replace(before.decoded, incomplete=False), record, now_ns, notice.repeats)

    def _learn(self, decoded: Decoded) -> None:
        """A driver that has begun to print only one of so many: the codes of it are counted too low from here on."""
        if len(self._printed_one_of) < _MAX_LIMITED:
            for code in decoded.fields.get("limits", ()):
                self._printed_one_of[decoded.family, code, decoded.device] = decoded.fields["printed_one_of"]

    def _with_losses(self, decoded: Decoded, line: int, count: int) -> Decoded:
        if count == 1 and not self._printed_one_of and self._suppressed[0] != line - 1:
            return decoded
        more: dict[str, Any] = {"repeats": count} if count > 1 else {}
        if self._suppressed[0] == line - 1:
            more["suppressed"] = self._suppressed[1]
        printed_one_of = self._printed_one_of.get((decoded.family, decoded.code, decoded.device))
        if printed_one_of:
            more["printed_one_of"] = printed_one_of
        return structs.replace(decoded, fields={**decoded.fields, **more}) if more else decoded


def _parse_any(text: str) -> _Parsed | None:
    return _parse(text, sift().text(text.encode("utf-8", "replace")))


def _parse(text: str, mask: int) -> _Parsed | None:
    """The first family of `mask` that knows `text`."""
    mask &= _BYTES_MASK - 1
    while mask:
        family = FAMILIES[(mask & -mask).bit_length() - 1]
        decoded = family.parse(text)
        if decoded is not None:
            return family, decoded
        mask &= mask - 1
    return None
