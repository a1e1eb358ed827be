"""The live screen on a real terminal of 80 by 24, and on smaller ones."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eagle_eye.probes.registry import PROBES

pytestmark = [
    pytest.mark.skipif(not shutil.which("tmux"), reason="needs tmux: apt install tmux"),
    pytest.mark.needs_bpf,
]


class Terminal:
    """A tmux server of our own with one window that runs a command and then a shell."""

    def __init__(self, folder, command, width=80, height=24):
        self._tmux = ["tmux", "-S", str(folder / "tmux"), "-f", "/dev/null"]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("EAGLE_EYE_", "TMUX"))}
        self._environment = {**kept, "TMPDIR": str(folder), "LC_ALL": "C.UTF-8", "PS1": "$ "}
        self._call("new-session", "-d", "-x", str(width), "-y", str(height), f"{command}; echo status=$?; exec sh")

    def _call(self, *words):
        return subprocess.run(
            [*self._tmux, *words], env=self._environment, capture_output=True, text=True, check=True
        ).stdout

    def lines(self):
        return self._call("capture-pane", "-p").split("\n")

    def keys(self, *keys):
        self._call("send-keys", *keys)

    def resize(self, width, height):
        self._call("resize-window", "-x", str(width), "-y", str(height))

    def wait_for(self, pattern, seconds=15):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            lines = self.lines()
            if any(re.search(pattern, line) for line in lines):
                return lines
            time.sleep(0.05)
        raise AssertionError(f"{pattern!r} did not come; the screen was\n" + "\n".join(self.lines()))

    def close(self):
        subprocess.run([*self._tmux, "kill-server"], check=False, capture_output=True)


@pytest.fixture
def terminal(tmp_path):
    open_ones = []

    def start(*words, **size):
        command = " ".join(
            [sys.executable, "-m", "eagle_eye", "run", "--listen", "127.0.0.1:0", "--nats-port", "0", *words]
        )
        open_ones.append(Terminal(tmp_path, command, **size))
        return open_ones[-1]

    yield start
    for one in open_ones:
        one.close()


def test_one_screen_of_80_by_24_tells_all(terminal):
    screen = terminal("--simulate", "h100x8")
    lines = screen.wait_for(r"^switches +[\d ]+/s")

    assert re.match(r"Eagle Eye \S+ +costs [\d.]+ %, [\d.]+ MiB +every 500 ms +up ", lines[0])
    assert re.match(r"nats nats://127\.0\.0\.1:\d+ +metrics http://127\.0\.0\.1:\d+/metrics$", lines[1])
    assert any(re.match(r"run queue +p50 [\d.]+ us +p99 [\d.]+ [um]s", line) for line in lines)
    assert any(
        re.match(r"waiting +cpu [\d.]+/[\d.]+ %  memory [\d.]+/[\d.]+ %  io [\d.]+/[\d.]+ %  \(some/all tasks\)$", line)
        for line in lines
    )
    assert any(re.match(r"memory +[\d.]+ \w+ of [\d.]+ \w+ available, OOM kills \d+ +load \d", line) for line in lines)
    assert any(re.match(r"tasks +\d+ uninterruptible, \d+ stuck", line) for line in lines)
    names = [*(spec.name for spec in PROBES), "nats", "recorder"]
    shown = [name for name in names if any(re.match(rf"{name} +[a-z]+ +[\d.]+ +[\d ]+ +\d", line) for line in lines)]
    left_out = sum(int(found[1]) for line in lines if (found := re.match(r"and (\d+) ok$", line)))
    # The more there is to tell of the node, the fewer lines are left; those that do not work have one always.
    assert len(shown) >= 2
    assert len(shown) + left_out == len(names), "those that work have a line each while there is room"
    screen.wait_for(r"^\d\d:\d\d:\d\d \w+\.\w+ ")


@pytest.mark.skipif(not os.access("/dev/kmsg", os.W_OK), reason="needs a writable kernel log")
def test_what_the_kernel_says_is_only_text(terminal):
    screen = terminal()
    screen.wait_for(r"^switches +[\d ]+/s")
    Path("/dev/kmsg").write_text("eagle eye [red]screen[/red] \x1b[2J test\n")

    screen.wait_for(r"kmsg\.record eagle eye \[red\]screen\[/red\] \\x1b\[2J test")


def test_a_small_terminal_gets_the_top_of_it(terminal):
    screen = terminal(width=40, height=12)
    lines = screen.wait_for(r"^switches +[\d ]+/s")
    assert lines[0].startswith("Eagle Eye")
    assert lines[0].endswith("…")

    screen.resize(100, 30)
    screen.wait_for(r"^─{100}$")
    screen.wait_for(r"^kmsg +ok ")


def test_ctrl_c_gives_the_terminal_back(terminal):
    screen = terminal()
    screen.wait_for(r"^switches +[\d ]+/s")
    screen.keys("C-c")
    lines = screen.wait_for(r"^status=130$")

    assert not any("Eagle Eye" in line for line in lines)


def test_a_closed_terminal_ends_it_and_leaves_nothing(terminal, tmp_path):
    screen = terminal()
    screen.wait_for(r"^switches +[\d ]+/s")
    assert list(tmp_path.glob("eagle-eye-*"))
    screen.close()

    until = time.monotonic() + 10
    while list(tmp_path.glob("eagle-eye-*")) and time.monotonic() < until:
        time.sleep(0.05)
    assert not list(tmp_path.glob("eagle-eye-*"))


def test_a_stopped_terminal_does_not_stop_the_agent(terminal, tmp_path):
    screen = terminal("-d", "3")
    screen.wait_for(r"^switches +[\d ]+/s")
    screen.keys("C-s")
    time.sleep(4)
    screen.keys("C-q")

    screen.wait_for(r"^status=0$")


def test_plain_lines_on_request(terminal):
    screen = terminal("--plain", "-d", "1", width=200)

    screen.wait_for(r"^\S+Z snapshot seq=1 ")
    screen.wait_for(r"^status=0$")
