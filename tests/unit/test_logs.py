"""Logs: both formats, lines that strangers cannot forge, and an agent that no reader holds up."""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import re
import subprocess
import sys
import time

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from eagle_eye.collector import logs as logs_module
from eagle_eye.collector.log_writer import MAX_LINES, LineWriter
from eagle_eye.collector.logs import MAX_VALUE_CHARACTERS, Logs

PAIR = re.compile(r'([^\s="]+)=("(?:[^"\\]|\\.)*"|[^\s="]*)(?: |$)')


class Stream(io.StringIO):
    def __init__(self, *, terminal: bool = False) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    @property
    def lines(self) -> list[str]:
        return self.getvalue().splitlines()


@pytest.fixture
def logging_to():
    """`logging_to(stream, level=, fmt=)` starts the logs; they are closed with the test."""
    started = []

    def start(stream, **options):
        started.append(Logs(stream=stream, **options))
        return started[-1]

    yield start
    for logs in started:
        logs.close()


def written(stream: Stream, logs: Logs) -> list[str]:
    assert logs.close(5)
    return stream.lines


def fields(line: str) -> dict[str, str]:
    found = list(PAIR.finditer(line))
    assert "".join(one[0] for one in found) == line
    return {one[1]: one[2] for one in found}


def dropped(logs: Logs) -> dict[str, float]:
    return {one.labels[0]: one.value for one in logs.source().collect() if "dropped" in one.metric.name}


def test_a_terminal_gets_pairs_and_a_pipe_gets_json(logging_to):
    for terminal, fmt in ((True, "auto"), (False, "logfmt")):
        stream = Stream(terminal=terminal)
        logs = logging_to(stream, fmt=fmt)
        structlog.get_logger(component="web").info("two words", probe="sched", n=3, good=True, none=None)
        (line,) = written(stream, logs)
        assert re.fullmatch(r"ts=\d{4}-\d\d-\d\dT[\d:.]+Z level=info component=web .*", line)
        assert line.endswith('msg="two words" probe=sched n=3 good=true none=')
    stream = Stream()
    logs = logging_to(stream)
    structlog.get_logger(component="web").warning("two words", n=3, ratio=float("nan"), good=True)
    (line,) = written(stream, logs)
    record = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", record.pop("ts"))
    assert record == {"level": "warning", "component": "web", "msg": "two words", "n": 3, "ratio": "nan", "good": True}


@given(st.text(st.characters(), max_size=80), st.text(st.characters(), min_size=1, max_size=20))
def test_no_value_and_no_key_forges_a_line(value, key):
    stream = Stream()
    logs = Logs(stream=stream, fmt="logfmt")
    structlog.get_logger().info(value, text=value, **{f"k{key}": value})
    (line,) = written(stream, logs)
    assert line.isprintable()
    pairs = fields(line)
    assert list(pairs)[:3] == ["ts", "level", "msg"]
    assert len(pairs) == 5
    shown = pairs["text"]
    assert (ast.literal_eval(shown) if shown.startswith('"') else shown) == value


@given(st.text(st.characters(), max_size=80))
def test_a_json_line_gives_the_value_back(value):
    stream = Stream()
    logs = Logs(stream=stream, fmt="json")
    structlog.get_logger().info("said", text=value)
    (line,) = written(stream, logs)
    assert line.isascii()
    assert json.loads(line)["text"] == value


def test_terminal_sequences_are_shown_and_not_obeyed(logging_to):
    stream = Stream()
    logs = logging_to(stream, fmt="logfmt")
    structlog.get_logger().info("kernel said", line="\x1b]0;owned\x07\x9b31m\u202ereverse")
    (line,) = written(stream, logs)
    assert r'line="\x1b]0;owned\x07\x9b31m\u202ereverse"' in line


def test_levels(logging_to):
    stream = Stream()
    logs = logging_to(stream, level="warning", fmt="json")
    log = structlog.get_logger()
    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    logging.getLogger("nats").info("e")
    assert [json.loads(line)["msg"] for line in written(stream, logs)] == ["c", "d"]


def test_stdlib_records_and_exceptions_take_the_same_way(logging_to):
    stream = Stream()
    logs = logging_to(stream, fmt="json")
    try:
        raise ValueError("broken\nthing")
    except ValueError:
        logging.getLogger("nats.aio").exception("lost %s", "connection")
    record = json.loads(written(stream, logs)[0])
    assert (record["level"], record["component"], record["msg"]) == ("error", "nats.aio", "lost connection")
    assert record["exception"].endswith("ValueError: broken\nthing")


def test_a_repeated_line_is_written_once_and_counted(logging_to, monkeypatch):
    monkeypatch.setattr(logs_module, "REPEAT_SECONDS", 0.2)
    stream = Stream()
    logs = logging_to(stream, fmt="json")
    log = structlog.get_logger()
    for _ in range(50):
        log.error("again", n=1)
    log.error("again", n=2)
    time.sleep(0.25)
    log.error("again", n=1)
    records = [json.loads(line) for line in written(stream, logs)]
    assert [(one["n"], one.get("repeated")) for one in records] == [(1, None), (2, None), (1, 49)]
    assert dropped(logs) == {"repeated": 49, "slow_reader": 0}


def test_long_values_are_cut(logging_to):
    stream = Stream()
    logs = logging_to(stream, fmt="json")
    structlog.get_logger().info("long", text="x" * 10**6)
    assert len(json.loads(written(stream, logs)[0])["text"]) == MAX_VALUE_CHARACTERS + 1


def test_a_reader_that_stops_costs_lines_and_not_time():
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        writer = LineWriter(stream)
        started = time.monotonic()
        total = 5 * MAX_LINES
        for number in range(total):
            writer.write(f"{number} {'x' * 100}")
        assert time.monotonic() - started < 1
        assert writer.dropped > MAX_LINES
        assert not writer.close(0.1)
        text = b""
        while text.count(b"\n") < total - writer.dropped:
            text += os.read(reading, 65536)
        assert writer.close(5)
        os.close(reading)
    numbers = [int(line.split()[0]) for line in text.splitlines()]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == total - writer.dropped


def test_a_closed_reader_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        writer = LineWriter(stream)
        writer.write("nobody hears this")
        assert writer.close(5)
    assert writer.dropped == 1


def test_the_process_ends_though_nobody_reads_its_log():
    program = (
        "import structlog\n"
        "from eagle_eye.collector.logs import Logs\n"
        "logs = Logs()\n"
        "for number in range(3000): structlog.get_logger().info('line', number=number, text='x' * 200)\n"
        "assert not logs.close(0.2)\n"
    )
    reading, writing = os.pipe()
    try:
        done = subprocess.run([sys.executable, "-c", program], stderr=writing, timeout=20)
    finally:
        os.close(reading)
        os.close(writing)
    assert done.returncode == 0


def test_everything_is_as_before_when_closed():
    handlers, level = list(logging.root.handlers), logging.root.level
    Logs(stream=Stream()).close()
    assert (logging.root.handlers, logging.root.level) == (handlers, level)
    assert not structlog.is_configured()
