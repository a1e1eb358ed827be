"""The thread in front of a terminal or pipe: the agent never waits for a reader."""

import contextlib
import os
import pty
import re
import threading
import time

import pytest
from msgspec.structs import replace

from eagle_eye.collector.view.display import LineDisplay
from eagle_eye.collector.view.live import LiveDisplay
from eagle_eye.collector.view.outlet import Descriptor, Outlet
from eagle_eye.probes.model import Snapshot

SECOND_NS = 1_000_000_000


def snapshot(second):
    return Snapshot(
        node="node1",
        cluster="default",
        boot_id="boot",
        agent="agent",
        seq=second,
        at_ns=second * SECOND_NS,
        wall_offset_ns=0,
        interval_ns=SECOND_NS,
        host=(),
        health=(),
    )


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for fd in ends:
        with contextlib.suppress(OSError):
            os.close(fd)


def test_all_lines_arrive_in_order_when_somebody_reads(pipe):
    reader, writer = pipe
    display = LineDisplay(writer, lambda: None, {"nats": "nats://h:1"})
    for second in range(1, 24):
        display.add(snapshot(second), ())
    display.close()
    os.close(writer)

    lines = os.fdopen(reader, closefd=False).read().splitlines()
    assert lines[0] == "nats_url=nats://h:1"
    assert [line.split("seq=")[1].strip() for line in lines[1:]] == [str(n) for n in range(1, 24)]
    assert display.dropped == 0


def test_a_reader_that_takes_nothing_costs_lines_not_time(pipe):
    reader, writer = pipe
    outlet = Outlet(Descriptor(writer).write, 10, lambda: None)
    Descriptor(writer).write("x" * 65536)
    started = time.monotonic()
    for number in range(5000):
        outlet.put(f"{number}\n")
    put_seconds = time.monotonic() - started
    closed = outlet.close(0.2)

    # Ten wait, and one may be in the hand of the thread.
    assert put_seconds < 1
    assert not closed
    assert 5000 - 11 <= outlet.dropped <= 5000 - 10
    os.read(reader, 65536)
    assert outlet.close(5), "the thread ends before its descriptor is given to others"


def test_a_reader_that_has_gone_is_told_once(pipe):
    reader, writer = pipe
    os.close(reader)
    told = threading.Event()
    display = LineDisplay(writer, told.set, {})
    display.add(snapshot(1), ())

    assert told.wait(5)
    assert display.gone
    display.add(snapshot(2), ())
    display.close()


def test_a_slow_terminal_sees_the_latest_and_never_a_queue():
    shown, begun, go_on = [], threading.Event(), threading.Event()

    def write(item):
        begun.set()
        go_on.wait(5)
        shown.append(item)

    outlet = Outlet(write, 1, lambda: None)
    outlet.put(0)
    assert begun.wait(5)
    for item in range(1, 10):
        outlet.put(item)
    go_on.set()

    assert outlet.close(5)
    assert shown == [0, 9]


def drawn(monkeypatch, **environment):
    """What a live screen writes to a terminal from its start to its end."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    master, terminal = pty.openpty()
    display = LiveDisplay(terminal, lambda: None, "6.1.0", {"NATS": "nats://h:1"})
    display.add(snapshot(1), ())
    display.close()
    os.close(terminal)
    written = b""
    with contextlib.suppress(OSError):  # Linux says EIO when the other side is closed
        while chunk := os.read(master, 65536):
            written += chunk
    os.close(master)
    return written


def test_the_live_screen_gives_the_terminal_back(monkeypatch):
    written = drawn(monkeypatch)

    assert written.startswith(b"\x1b[?1049h")
    assert b"Eagle Eye" in written
    assert b"\x1b[?25h" in written[-20:]
    assert written.endswith(b"\x1b[?1049l")


def test_no_color_is_honoured(monkeypatch):
    colour = re.compile(rb"\x1b\[[0-9;]*3[0-7]m")

    assert colour.search(drawn(monkeypatch))
    assert not colour.search(drawn(monkeypatch, NO_COLOR="1"))


def test_fewer_frames_than_snapshots_are_drawn(monkeypatch):
    put = []
    monkeypatch.setattr(Outlet, "put", lambda self, item: put.append(item))
    display = LiveDisplay(1, lambda: None, "6.1.0", {})
    for beat in range(20):
        display.add(replace(snapshot(1), at_ns=SECOND_NS + beat * 100_000_000), ())

    assert len(put) == 7
