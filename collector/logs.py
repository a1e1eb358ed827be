"""Structured logs: key=value on a terminal, JSON lines otherwise; one chain for structlog and stdlib logging.

Values come from the kernel log, NATS and other strangers: nothing in them can end a line, start
another or speak to a terminal.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from ..probes.probe import Metric, Series
from .exporter import Source
from .log_writer import LineWriter

REPEAT_SECONDS = 10.0
REMEMBERED_LINES = 256
MAX_VALUE_CHARACTERS = 2000

LINES = Metric("eagle_eye_log_lines_total", "counter", "Log lines, also those not written.", ("level",))
LINES_DROPPED = Metric(
    "eagle_eye_log_lines_dropped_total",
    "counter",
    "Log lines not written: repeated, or because nobody took them in time.",
    ("reason",),
)

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_FIRST_KEYS = ["ts", "level", "component", "msg"]


class Logs:
    """The logging of this process until `close`.

    `level` is debug, info, warning or error; `fmt` is auto, logfmt or json; `stream` is stderr when None.
    """

    def __init__(self, level: str = "info", fmt: str = "auto", stream: TextIO | None = None) -> None:
        stream = sys.stderr if stream is None else stream
        self._writer = LineWriter(stream)
        self._repeats = _Repeats()
        self._lines: Counter[str] = Counter()
        as_json = fmt == "json" or (fmt == "auto" and not stream.isatty())
        sink = _Sink(self._writer)
        structlog.configure(
            processors=self._chain(as_json),
            wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
            logger_factory=lambda *_: sink,
            cache_logger_on_first_use=False,
        )
        self._bridge = _Bridge(_LEVELS[level])
        self._root_level = logging.root.level
        logging.root.addHandler(self._bridge)
        logging.root.setLevel(_LEVELS[level])
        logging.captureWarnings(True)

    def close(self, deadline_s: float = 1.0) -> bool:
        """Writes what is queued; False when the stream did not take it before the deadline."""
        logging.captureWarnings(False)
        logging.root.removeHandler(self._bridge)
        logging.root.setLevel(self._root_level)
        structlog.reset_defaults()
        return self._writer.close(deadline_s)

    def source(self) -> Source:
        """Lines by level, and those not written."""
        return Source("logs", (LINES, LINES_DROPPED), self._series)

    def _chain(self, as_json: bool) -> list[Processor]:
        return [
            self._count,
            structlog.processors.format_exc_info,
            self._repeats,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            structlog.processors.EventRenamer("msg"),
            _plain,
            _render_json if as_json else _render_logfmt,
        ]

    def _count(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        self._lines[method] += 1
        return event

    def _series(self) -> Iterator[Series]:
        for level, count in list(self._lines.items()):
            yield Series(LINES, count, (level,))
        yield Series(LINES_DROPPED, self._repeats.dropped, ("repeated",))
        yield Series(LINES_DROPPED, self._writer.dropped, ("slow_reader",))


class _Sink:
    """A logger as structlog calls it; the line is ready by then."""

    def __init__(self, writer: LineWriter) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = writer.write


class _Repeats:
    """Lets a line pass once in REPEAT_SECONDS; the next that passes says how often it was repeated."""

    def __init__(self) -> None:
        self.dropped = 0
        self._seen: OrderedDict[int, tuple[float, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        with self._lock:
            repeated = self._repeated(hash((method, repr(event))), time.monotonic())
        return {**event, "repeated": repeated} if repeated else event

    def _repeated(self, key: int, now: float) -> int:
        since, repeated = self._seen.pop(key, (-math.inf, 0))
        if now - since < REPEAT_SECONDS:
            self.dropped += 1
            self._seen[key] = since, repeated + 1
            raise structlog.DropEvent
        self._seen[key] = now, 0
        while len(self._seen) > REMEMBERED_LINES:
            self._seen.popitem(last=False)
        return repeated


class _Bridge(logging.Handler):
    """Gives records of stdlib logging (asyncio, aiohttp, nats) to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            method = next(name for name, number in reversed(_LEVELS.items()) if record.levelno >= number)
            write = getattr(structlog.get_logger(component=record.name), method)
            write(record.getMessage(), **({"exc_info": record.exc_info} if record.exc_info else {}))
        except Exception:
            self.handleError(record)


def _plain(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Keys that both formats can carry, values bounded; numbers, truth and None stay what they are."""
    ordered = {key: event.pop(key) for key in _FIRST_KEYS if key in event}
    return {_key(key): _value(value) for key, value in {**ordered, **event}.items()}


def _key(key: object) -> str:
    return "".join(one if one.isalnum() or one in "_.-" else "_" for one in str(key)[:64]) or "_"


def _value(value: object) -> Any:
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    text = str(value)
    return text if len(text) <= MAX_VALUE_CHARACTERS else text[:MAX_VALUE_CHARACTERS] + "…"


def _render_json(logger: WrappedLogger, method: str, event: EventDict) -> str:
    return json.dumps(event, separators=(",", ":"))


def _render_logfmt(logger: WrappedLogger, method: str, event: EventDict) -> str:
    return " ".join(f"{key}={_logfmt(value)}" for key, value in event.items())


def _logfmt(value: object) -> str:
    if value is None:
        return ""
    text = _words(value)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    escaped = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in escaped)
    return f'"{escaped}"' if not text or set(text) & set(' ="') or escaped != text else text


def _words(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
