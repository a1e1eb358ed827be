r"""One tokenizer for a line of any kernel log: where it came from, when, and its text.

It takes /dev/kmsg's `prio,seq,usec,flags;text`, dmesg with any of its options, syslog and journalctl in their usual
formats, pstore's `<4>[  1.23] text`, and bare text.
"""

from __future__ import annotations

import re

from msgspec import Struct

from ...native.kmsg import decoded as plain

MAX_TEXT = 8192  # characters; what the kernel itself allows for a record
_KMSG = re.compile(r"(\d{1,6}),(\d{1,20}),(\d{1,20}),[^;\n]{0,200};")
_SYSLOG = re.compile(
    r"(?P<when>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d(?:\.\d{1,9})?"
    r"|\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z| ?[+-]\d\d:?\d\d)?)"
    r"(?: (?P<host>[\w.:-]{1,253}) (?P<program>[\w./@-]{1,64})(?:\[\d{1,10}\])?:)? "
)
_LEVEL = re.compile(r"<(\d{1,3})>1? ?|([a-z]\w{2,8}) {0,8}:([a-z]{3,7}) {0,3}: ")
_STAMP = re.compile(
    r"\[(?P<uptime> {0,12}\d{1,10}\.\d{1,9})(?: <[^>\n]{1,20}>)?\] ?(?P<late>\[ {0,12}[TC]\d{1,10}\] )?"
    r"|\[(?P<clock>[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}|[A-Z][a-z]{2} ?\d\d? ?\d\d:\d\d"
    r"|\d{4}-\d\d-\d\d[-T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?|[ +<]{1,12}\d{1,8}\.\d{1,9}>?)\] ?"
)
_CALLER = re.compile(r"\[ {0,12}[TC]\d{1,10}\] ")
_KERNEL = frozenset({"", "kernel", "vmunix"})


class Record(Struct, frozen=True):
    """One record. `at_ns` counts from the boot, -1 where the line does not say; `stamp` is the time as it was written.

    `program` is who wrote it: "" for the kernel. `level` and `seq` are -1 where the line does not say.
    """

    text: str
    line: int = 0
    at_ns: int = -1
    stamp: str = ""
    level: int = -1
    seq: int = -1
    program: str = ""


def tokenize(line: str, number: int = 0) -> Record:
    r"""The record of one line, its number being `number`. Never raises.

    Escapes (`\x0a`) are undone; control characters other than tab and newline come out escaped.
    """
    line = line[: MAX_TEXT + 512]
    found = _KMSG.match(line)
    if found:
        priority, seq, micros = map(int, found.groups())
        return Record(_plain(line[found.end() :]), number, micros * 1000, found[3], priority & 7, seq)
    return _from_text_log(line, number)


def _from_text_log(line: str, number: int) -> Record:
    level, at = _level(line, 0)
    syslog = _SYSLOG.match(line, at)
    stamp, program = "", ""
    if syslog:
        stamp, program, at = syslog["when"], syslog["program"] or "", syslog.end()
    if level < 0:
        level, at = _level(line, at)
    found = _STAMP.match(line, at)
    at_ns = -1
    if found:
        at = found.end()
        stamp = stamp or (found["uptime"] or found["clock"]).strip()
        at_ns = _nanoseconds(found["uptime"]) if found["uptime"] else -1
    caller = _CALLER.match(line, at)
    text = _plain(line[caller.end() if caller else at :])
    return Record(text, number, at_ns, stamp, level, program="" if program in _KERNEL else program)


def _level(line: str, at: int) -> tuple[int, int]:
    found = _LEVEL.match(line, at)
    if not found:
        return -1, at
    if found[1]:
        return int(found[1]) & 7, found.end()
    return (_LEVELS[found[3]], found.end()) if found[3] in _LEVELS else (-1, at)


_LEVELS = {
    name: number for number, name in enumerate(("emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"))
}


def _nanoseconds(uptime: str) -> int:
    seconds, _, fraction = uptime.strip().partition(".")
    return int(seconds) * 1_000_000_000 + int(fraction.ljust(9, "0"))


def _plain(text: str) -> str:
    text = text[:MAX_TEXT]
    if "\\x" in text or not text.isprintable():
        return plain(text.encode("utf-8", "surrogatepass"))
    return text
