"""The grammar: asks each text's families, joins records that belong together, and counts repeats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from msgspec import Struct, structs

from ...native.sift import Sift
from .families import FAMILIES
from .family import Decoded, Family
from .notices import NOTICE_TRIGGERS, Notice, read_notice
from .record import Record, tokenize

HOLD_NS = 20_000_000
HOLD_RECORDS = 64
_MAX_HELD = 64
_MAX_LINES = 256
_MAX_LIMITED = 256
_JOIN_NS = 1_000_000_000
_NOTICE_MASK = 1 << 63
_MAX_LINE_BYTES = 16_384

_Parsed = tuple[Family, Decoded]


class Found(Struct, frozen=True):
    """What was decoded, of which record, and the places in the log of all records that it covers.

    `count` is how often the log says that it came: more than 1 for a record that tells of repeats.
    """

    decoded: Decoded
    record: Record
    lines: tuple[int, ...]
    count: int = 1


def decode(text: str) -> Decoded | None:
    """What the text of one record says by itself, without time and level; None when no family knows it."""
    found = _parse_any(text)
    return found[1] if found else None


def decode_lines(texts: Iterable[str]) -> Iterator[Found]:
    """What the lines of a log say, in order; their numbers start with 1."""
    decoder = Decoder()
    for text in texts:
        yield from decoder.take_lines(text.encode("utf-8", "replace").replace(b"\n", b" "))
    yield from decoder.flush()


@cache
def sift() -> Sift:
    """Finds the texts that any family wants to see; bit n of a mask is `FAMILIES[n]`."""
    if len(FAMILIES) > 63:
        raise ValueError("a mask has room for 63 families")
    masks: dict[bytes, int] = dict.fromkeys(map(str.encode, NOTICE_TRIGGERS), _NOTICE_MASK)
    for number, family in enumerate(FAMILIES):
        for trigger in map(str.encode, family.triggers):
            masks[trigger] = masks.get(trigger, 0) | 1 << number
    return Sift(masks)


class _Held:
    """Something that waits for its other records, or for others before it."""

    def __init__(self, family: Family, found: Found, now_ns: int) -> None:
        self.family = family
        self.found = found
        self.since_ns = now_ns

    @property
    def open(self) -> bool:
        return self.found.decoded.incomplete and len(self.found.lines) < _MAX_LINES

    def close(self) -> None:
        self.found = structs.replace(self.found, decoded=structs.replace(self.found.decoded, incomplete=False))


class Decoder:
    """Decodes one log. What it gives is in the order of the log, and is whole: its state is bounded.

    An incomplete record is held until others that belong to it have come, at most for 64 records and, when the log is
    live, for `HOLD_NS`: call `flush` with the time when nothing comes.
    """

    def __init__(self) -> None:
        self._held: list[_Held] = []
        self._last: tuple[Family, Found] | None = None
        self._suppressed = Notice(0, 0)
        self._suppressed_line = -1
        self._printed_one_of: dict[tuple[str, str, str], int] = {}
        self._next_line = 1

    def take_lines(self, data: bytes, now_ns: int = 0) -> list[Found]:
        """The next lines of a text log, whole ones. `now_ns` is CLOCK_MONOTONIC, 0 where nothing is live."""
        hits, self._next_line = sift().lines(data, self._next_line)
        given: list[Found] = []
        for hit in hits:
            line = data[hit.start : min(hit.end, hit.start + _MAX_LINE_BYTES)].decode("utf-8", "replace")
            given += self.take(tokenize(line.rstrip("\r"), hit.line), hit.mask, now_ns)
        return given

    def take(self, record: Record, mask: int | None = None, now_ns: int = 0) -> list[Found]:
        """The next record that has a trigger; `mask` is what `sift` said of it."""
        self._expire(record.line, now_ns)
        if record.program:
            return self._ready()
        mask = sift().text(record.text.encode("utf-8", "replace")) if mask is None else mask
        notice = read_notice(record.text) if mask & _NOTICE_MASK else None
        if notice is None:
            self._add(_parse(record.text, mask), record, now_ns)
        elif notice.text:
            self._add(_parse_any(tokenize(notice.text).text), record, now_ns, notice.repeats)
        elif notice.repeats:
            self._repeat(record, notice.repeats, now_ns)
        else:
            self._suppressed, self._suppressed_line = notice, record.line
        return self._ready()

    def flush(self, now_ns: int | None = None) -> list[Found]:
        """What has waited long enough at `now_ns`; all of it without one."""
        for held in self._held:
            if now_ns is None or now_ns - held.since_ns >= HOLD_NS:
                held.close()
        return self._ready()

    def _add(self, parsed: _Parsed | None, record: Record, now_ns: int, count: int = 1) -> None:
        if parsed is None:
            return
        family, decoded = parsed
        self._learn(decoded)
        decoded = self._with_losses(decoded, record.line, count)
        if not self._join(family, decoded, record):
            self._hold(family, Found(decoded, record, (record.line,), count), now_ns)

    def _join(self, family: Family, decoded: Decoded, record: Record) -> bool:
        if family.join is None:
            return False
        for held in reversed(self._held):
            if held.open and held.family is family and _close_in_time(held.found.record, record):
                joined = family.join(held.found.decoded, decoded)
                if joined is not None:
                    held.found = structs.replace(held.found, decoded=joined, lines=(*held.found.lines, record.line))
                    self._last = (family, held.found)
                    return True
        return False

    def _hold(self, family: Family, found: Found, now_ns: int) -> None:
        self._held.append(_Held(family, found, now_ns))
        self._last = (family, found)
        if len(self._held) > _MAX_HELD:
            self._held[0].close()

    def _repeat(self, record: Record, repeats: int, now_ns: int) -> None:
        """The record before, so many times more."""
        if self._last is None or self._last[1].lines[-1] != record.line - 1:
            return
        family, found = self._last
        decoded = structs.replace(found.decoded, fields={**found.decoded.fields, "repeats": repeats}, incomplete=False)
        self._hold(family, Found(decoded, record, (record.line,), repeats), now_ns)

    def _learn(self, decoded: Decoded) -> None:
        """A driver that has begun to print only one of so many: the codes of it are counted too low from here on."""
        printed_one_of = decoded.fields.get("printed_one_of")
        if printed_one_of and not decoded.code and len(self._printed_one_of) < _MAX_LIMITED:
            for code in decoded.fields["limits"]:
                self._printed_one_of[decoded.family, code, decoded.device] = printed_one_of

    def _with_losses(self, decoded: Decoded, line: int, count: int) -> Decoded:
        more: dict[str, Any] = {"repeats": count} if count > 1 else {}
        if self._suppressed_line == line - 1:
            more["suppressed"] = self._suppressed.suppressed
        printed_one_of = self._printed_one_of.get((decoded.family, decoded.code, decoded.device))
        if printed_one_of:
            more["printed_one_of"] = printed_one_of
        return structs.replace(decoded, fields={**decoded.fields, **more}) if more else decoded

    def _expire(self, line: int, now_ns: int) -> None:
        for held in self._held:
            if line - held.found.lines[-1] > HOLD_RECORDS or now_ns - held.since_ns >= HOLD_NS:
                held.close()

    def _ready(self) -> list[Found]:
        ready = next((n for n, held in enumerate(self._held) if held.open), len(self._held))
        given, self._held = self._held[:ready], self._held[ready:]
        return [held.found for held in given]


def _parse_any(text: str) -> _Parsed | None:
    return _parse(text, sift().text(text.encode("utf-8", "replace")))


def _parse(text: str, mask: int) -> _Parsed | None:
    """The first family of `mask` that knows `text`."""
    mask &= _NOTICE_MASK - 1
    while mask:
        family = FAMILIES[(mask & -mask).bit_length() - 1]
        decoded = family.parse(text)
        if decoded is not None:
            return family, decoded
        mask &= mask - 1
    return None


def _close_in_time(earlier: Record, later: Record) -> bool:
    return min(earlier.at_ns, later.at_ns) < 0 or abs(later.at_ns - earlier.at_ns) <= _JOIN_NS
