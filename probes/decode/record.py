r"""One tokenizer for a line of any kernel log: where it came from, when, and its text.

It takes /dev/kmsg's `prio,seq,usec,flags;text`, dmesg with any of its options but JSON, syslog, journalctl in its usual
formats and JSON, pstore's `<4>[  1.23] text`, and bare text.
"""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from msgspec import Meta, Struct, field

from ...native.kmsg import LEVELS
from ...native.kmsg import decoded as plain

MAX_TEXT = 8192  # characters; what the kernel itself allows for a record

_KMSG = re.compile(r"(\d{1,6}),(\d{1,20}),(\d{1,20}),[^;\n]{0,200};", re.ASCII)
_DAY_TIME = r"\d{4}-\d\d-\d\d[-T ]\d\d:\d\d:\d\d"
_ZONE = r"(?:Z| ?[+-]\d\d:?\d\d| [A-Z]{3,5})?"
# dmesg writes a comma before the fraction and no host name behind the time.
_DMESG_ISO = re.compile(rf"({_DAY_TIME},\d{{1,9}}{_ZONE}) ", re.ASCII)
_SYSLOG = re.compile(
    rf"((?:[A-Z][a-z]{{2}} )?(?:{_DAY_TIME}|[A-Z][a-z]{{2}} [ \d]\d \d\d:\d\d:\d\d)(?:\.\d{{1,9}})?{_ZONE}) "
    r"(?:[\w.-]{1,253} ([A-Za-z_][\w./@-]{0,63})(?:\[\d{1,10}\])?: )?",
    re.ASCII,
)
_NUMBER_LEVEL = re.compile(r"<(\d{1,3})>1? ?", re.ASCII)
_NAMED_LEVEL = re.compile(r"[a-z]\w{2,7} {0,8}:([a-z]{3,7}) {0,3}: ", re.ASCII)
_UPTIME = re.compile(r"\[ {0,12}(\d{1,10})\.(\d{1,9})(?: <[^>\n]{1,20}>)?\] ?", re.ASCII)
_CLOCK = re.compile(
    rf"\[([A-Z][a-z]{{2}} [A-Z][a-z]{{2}} [ \d]\d \d\d:\d\d:\d\d \d{{4}}|[A-Z][a-z]{{2}} ?\d\d? ?\d\d:\d\d"
    rf"|{_DAY_TIME}(?:[.,]\d{{1,9}})?|[ +<]{{1,12}}\d{{1,8}}\.\d{{1,9}}>?)\] ?",
    re.ASCII,
)
_CALLER = re.compile(r"\[ {0,12}[TC]\d{1,10}\] |[\w.-]{1,253} kernel(?:: | - - - )", re.ASCII)
_LEVELS = {**{name: number for number, name in enumerate(LEVELS)}, "warn": 4}
_KERNEL = frozenset({None, "kernel", "vmunix"})


class Record(Struct, frozen=True, gc=False):
    """One record. `line` is its place in the log: the number of its line or, of /dev/kmsg itself, of the record.

    `at_ns` counts from the boot, `level` is 0 (emerg) to 7 (debug); both -1 where the line does not say. `stamp` is
    the time as it was written. `program` is who wrote it: "" for the kernel.
    """

    text: str
    line: int = 0
    at_ns: int = -1
    stamp: str = ""
    level: int = -1
    program: str = ""


class _JournalEntry(Struct):
    message: str | list[Annotated[int, Meta(ge=0, le=255)]] = field(name="MESSAGE")
    priority: str = field(name="PRIORITY", default="")
    program: str = field(name="SYSLOG_IDENTIFIER", default="")
    transport: str = field(name="_TRANSPORT", default="")
    # The kernel's own time, not the journal's.
    monotonic: str = field(name="_SOURCE_MONOTONIC_TIMESTAMP", default="")
    realtime: str = field(name="__REALTIME_TIMESTAMP", default="")


def tokenize(line: str, number: int = 0) -> Record:
    r"""The record of one line, its number being `number`. Never raises.

    Escapes (`\x0a`) are undone; control characters other than tab and newline come out escaped.
    """
    line = line[: MAX_TEXT + 512]
    first = line[:1]
    if first == " ":  # dmesg indents the later lines of a record
        return Record(_clean(line.lstrip(" ")), number)
    if first == "[":
        return _from_text_log(line, number, -1, 0)
    if first == "{" and (record := _journal(line, number)):
        return record
    if first.isdigit() and (found := _KMSG.match(line)):
        priority, micros = int(found[1]), int(found[3])
        stamp = f"{micros // 1_000_000}.{micros % 1_000_000:06}"
        return Record(_clean(line[found.end() :]), number, micros * 1000, stamp, priority & 7)
    return _from_text_log(line, number, *_level(line, 0))


def _journal(line: str, number: int) -> Record | None:
    """An entry as `journalctl -o json` prints it."""
    try:
        entry = msgspec.json.decode(line, type=_JournalEntry) if '"MESSAGE"' in line else None
    except msgspec.MsgspecError:
        return None
    if entry is None:
        return None
    micros = int(entry.monotonic) if entry.monotonic.isdecimal() and len(entry.monotonic) < 20 else -1
    level = int(entry.priority) if entry.priority in set("01234567") else -1
    program = "" if entry.transport == "kernel" or entry.program in _KERNEL else entry.program
    stamp = entry.realtime if entry.realtime.isdecimal() and len(entry.realtime) < 20 else ""
    message = entry.message if isinstance(entry.message, str) else bytes(entry.message).decode("utf-8", "replace")
    return Record(_clean(message), number, max(micros * 1000, -1), stamp, level, program)


def _from_text_log(line: str, number: int, level: int, at: int) -> Record:
    stamp, program, at_ns = "", "", -1
    if line[at : at + 1] != "[":
        stamp, program, at = _wall_clock(line, at)
        if stamp and "#012" in line:  # rsyslog's newline
            line = line.replace("#012", "\n")
        if level < 0 and stamp:
            level, at = _level(line, at)
    if line[at : at + 1] == "[":
        at_ns, written, at = _bracketed(line, at)
        stamp = stamp or written
    if stamp and (caller := _CALLER.match(line, at)):
        at = caller.end()
    return Record(_clean(line[at:]), number, at_ns, stamp, level, program)


def _level(line: str, at: int) -> tuple[int, int]:
    """Level, and where it ends."""
    if line.startswith("<", at):
        found = _NUMBER_LEVEL.match(line, at)
        return (int(found[1]) & 7, found.end()) if found else (-1, at)
    found = _NAMED_LEVEL.match(line, at) if ":" in line[at + 4 : at + 16] else None
    return (_LEVELS[found[1]], found.end()) if found and found[1] in _LEVELS else (-1, at)


def _wall_clock(line: str, at: int) -> tuple[str, str, int]:
    """Time as written, program, and where they end."""
    # Every form has one of these here, and looking is cheaper than matching.
    if line[at + 3 : at + 4] != " " and line[at + 4 : at + 5] != "-":
        return "", "", at
    if found := _DMESG_ISO.match(line, at):
        return found[1], "", found.end()
    if found := _SYSLOG.match(line, at):
        return found[1], "" if found[2] in _KERNEL else found[2], found.end()
    return "", "", at


def _bracketed(line: str, at: int) -> tuple[int, str, int]:
    """Nanoseconds since the boot, time as written, and where it ends."""
    if found := _UPTIME.match(line, at):
        return int(found[1]) * 1_000_000_000 + int(found[2].ljust(9, "0")), f"{found[1]}.{found[2]}", found.end()
    if found := _CLOCK.match(line, at):
        return -1, found[1].strip(), found.end()
    return -1, "", at


def _clean(text: str) -> str:
    text = text[:MAX_TEXT]
    if "\\x" in text or not text.isprintable():
        return plain(text.encode("utf-8", "surrogatepass"))
    return text
