"""Decodes kernel logs: which faults they tell of, what each means and what to do.

FILE is a log as dmesg, journalctl, syslog, pstore or /dev/kmsg write it, or
/dev/kmsg itself; - or nothing is standard input, which may go on for ever.
Lines that tell of nothing known are left out. The driver's version, on which
meanings depend, is taken from the log itself where it says so. Exit status: 0
also when there are faults, 1 when the log cannot be read.
"""

from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from ...native.errors import UsageError
from ...probes.catalogue.scale import in_words
from ...probes.decode.grammar import Decoder, Found
from ...probes.decode.record import tokenize
from ...probes.faults import make_fault
from ...probes.model import Fault
from ..log_input import lines_of, opened

USAGE = "decode [-h] [-j] [--all] [--driver VERSION] [FILE|-]"
EXAMPLES = """\
  eagle-eye kmsg decode /var/log/kern.log     what went wrong, one line each
  journalctl -k -b -1 | eagle-eye kmsg decode -j | jq .fault.action
  dmesg --follow | eagle-eye kmsg decode -    as it happens
"""
_JSON = msgspec.json.Encoder()
_OF_A_FAULT = (
    "mnemonic", "severity", "action", "bucket", "meaning", "check", "subcode", "cause", "phase", "entity", "driver",
    "pid", "process", "count",
)  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, prog="eagle-eye kmsg")
    decode = commands.add_parser("decode", help="faults that FILE tells of", description=__doc__)
    decode.add_argument("file", nargs="?", default="-", metavar="FILE", help="a kernel log; - is standard input")
    decode.add_argument("-j", "--json", action="store_true", help="one JSON object per decoded record and line")
    decode.add_argument("--all", action="store_true", help="with -j also lines that are not known, family null")
    decode.add_argument("--driver", default="", metavar="VERSION", help="of the GPU's driver, such as 570.86.15")


def run(arguments: argparse.Namespace) -> int:
    if arguments.file == "-" and sys.stdin.isatty():
        raise UsageError("there is nothing to read on a terminal", remedy="dmesg | eagle-eye kmsg decode")
    if arguments.all and not arguments.json:
        raise UsageError("--all shows what only -j can tell apart", remedy="eagle-eye kmsg decode -j --all")
    show = _json if arguments.json else _text
    log = _Log(arguments.driver, _unknown if arguments.all else None)
    with opened(arguments.file) as file:
        for data, now_ns in lines_of(file, lambda: log.waits):
            sys.stdout.writelines(f"{line}\n" for line in log.shown(data, now_ns, show))
            sys.stdout.flush()
    return 0


class _Log:
    """One log while it is read, with what it has said about drivers and devices so far."""

    def __init__(self, driver: str, unknown: Callable[[int, str], str] | None) -> None:
        self._decoder = Decoder()
        self._given_driver = self._driver = driver
        self._uuids: dict[str, str] = {}
        self._rest = _Rest(unknown) if unknown else None

    @property
    def waits(self) -> bool:
        return self._decoder.waits

    def shown(self, data: bytes, now_ns: int | None, show: Callable[[Found, Fault | None], str]) -> Iterator[str]:
        """What the next lines say, as `show` writes it; b"" when there are none for now, `now_ns` None at the end."""
        found = self._decoder.take_lines(data, now_ns or 0) if data else self._decoder.flush(now_ns)
        if self._rest:
            self._rest.add(data)
        for one in found:
            self._learn(one)
            if self._rest:
                yield from self._rest.before(one)
            text = show(one, self._fault(one))
            if text:
                yield text
        if self._rest and not self.waits:
            yield from self._rest.all()

    def _learn(self, found: Found) -> None:
        said = found.decoded.fields
        if found.decoded.family == "nvidia.identity":
            self._driver = self._given_driver or said.get("driver", self._driver)
            if "uuid" in said and len(self._uuids) < 1024:
                self._uuids[found.decoded.device] = said["uuid"]

    def _fault(self, found: Found) -> Fault | None:
        at_ns = max(found.record.at_ns, 0)
        return make_fault(
            found.decoded, at_ns=at_ns, source="kmsg", driver=self._driver, uuids=self._uuids, count=found.count
        )


class _Rest:
    """The lines that are in no decoded record, kept until it is sure that they are not."""

    def __init__(self, show: Callable[[int, str], str]) -> None:
        self._show = show
        self._lines: deque[tuple[int, bytes]] = deque()
        self._covered: set[int] = set()
        self._next = 1

    def add(self, data: bytes) -> None:
        for line in data.splitlines():
            self._lines.append((self._next, line))
            self._next += 1

    def before(self, found: Found) -> Iterator[str]:
        """Those before `found`, whose own are not among them."""
        self._covered.update(found.lines)
        yield from self._until(found.lines[0])

    def all(self) -> Iterator[str]:
        yield from self._until(self._next)
        self._covered.clear()

    def _until(self, line: int) -> Iterator[str]:
        while self._lines and self._lines[0][0] < line:
            number, text = self._lines.popleft()
            if number not in self._covered and text.strip():
                yield self._show(number, text.decode("utf-8", "replace"))


def _json(found: Found, fault: Fault | None) -> str:
    decoded = found.decoded
    row: dict[str, Any] = {
        "line": found.lines[0],
        "family": decoded.family,
        "code": decoded.code,
        "device": decoded.device,
        "fields": decoded.fields,
        "fault": {name: getattr(fault, name) for name in _OF_A_FAULT} if fault else None,
        "time": found.record.stamp,
    }
    if len(found.lines) > 1:
        row["lines"] = found.lines
    return _JSON.encode(row).decode()


def _unknown(line: int, text: str) -> str:
    record = tokenize(text, line)
    row = {"line": line, "family": None, "code": "", "device": "", "fields": {"text": record.text}, "fault": None}
    return _JSON.encode({**row, "time": record.stamp}).decode()


def _text(found: Found, fault: Fault | None) -> str:
    """`TIME  DEVICE  FAMILY CODE MNEMONIC  SEVERITY, ACTION: MEANING`, "" where there is no fault."""
    if fault is None:
        return ""
    times = f" ({fault.count} times)" if fault.count > 1 else ""
    name = f"{fault.family} {fault.code} {fault.mnemonic}".rstrip()
    ends = "over" if fault.phase == "recovery" else f"{fault.severity}, {in_words(fault.action)}"
    words = " ".join(fault.meaning.split())
    return f"{found.record.stamp or found.lines[0]}  {fault.device or 'host'}  {name}{times}  {ends}: {words}"
