"""The real `run` and `agent`, as a user starts and stops them."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

EAGLE_EYE = [sys.executable, "-m", "eagle_eye"]
ANY_PORTS = ["--listen", "127.0.0.1:0", "--nats-port", "0"]
NO_BPF = ["setpriv", "--bounding-set=-bpf,-perfmon,-sys_admin"]
needs_setpriv = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv to drop privilege"
)


def environment(tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EAGLE_EYE_")}
    return {**kept, "TMPDIR": str(tmp_path)}


def to_the_end(tmp_path, *words, prefix=(), timeout=60):
    return subprocess.run(
        [*prefix, *EAGLE_EYE, *words],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


@contextlib.contextmanager
def running(tmp_path, *words):
    """The command once it has said where it is; its output so far in `lines`."""
    with open(tmp_path / "stderr", "w") as errors:
        process = subprocess.Popen(
            [*EAGLE_EYE, *words], env=environment(tmp_path), stdout=subprocess.PIPE, stderr=errors, text=True
        )
    lines = []
    try:
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if " snapshot " in line:
                break
        yield process, lines
    finally:
        process.kill()
        process.communicate()


def url(lines, name):
    return next(line.partition("=")[2] for line in lines if line.startswith(f"{name}_url="))


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def gone(pid, seconds=5.0):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


def left_behind(tmp_path):
    return [path.name for path in tmp_path.glob("eagle-eye-*")]


@pytest.mark.needs_bpf
def test_a_run_of_two_seconds_tells_where_it_is_and_leaves_nothing(tmp_path):
    done = to_the_end(tmp_path, "run", "-d", "2.2", *ANY_PORTS)
    lines = done.stdout.splitlines()
    seconds = [line for line in lines if " snapshot " in line]

    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"nats://127\.0\.0\.1:\d+", url(lines, "nats"))
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/metrics", url(lines, "metrics"))
    assert len(seconds) == 3
    for name in ("run_queue_p99_seconds", "memory_available_bytes", "cpu_waiting_ratio", "context_switches_per_second"):
        assert f" {name}=" in seconds[-1]
    assert not [line for line in lines if "(?)" in line or " ? " in line], "a sentence lacks what it names"
    assert left_behind(tmp_path) == []


@pytest.mark.needs_bpf
def test_the_page_is_where_it_says(tmp_path):
    with running(tmp_path, "run", *ANY_PORTS) as (_, lines):
        page = urllib.request.urlopen(url(lines, "metrics"), timeout=5)
        text = page.read().decode()

    assert "eagle_eye_sched_context_switches_total " in text
    assert 'eagle_eye_self_cpu_seconds_total{process="nats_server"}' in text


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGINT, 130)])
def test_a_signal_stops_it_in_order(number, code, tmp_path):
    with running(tmp_path, "run", *ANY_PORTS) as (process, _):
        (server,) = children(process.pid)
        process.send_signal(number)

        assert process.wait(10) == code
        assert gone(server)
    assert "stopping" in (tmp_path / "stderr").read_text()
    assert left_behind(tmp_path) == []


def test_a_second_interrupt_does_not_wait(tmp_path):
    with running(tmp_path, "run", *ANY_PORTS, "--interval", "50ms") as (process, _):
        (server,) = children(process.pid)
        os.kill(server, signal.SIGSTOP)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        asked = time.monotonic()

        assert process.wait(10) == 130
        assert time.monotonic() - asked < 0.5
        os.kill(server, signal.SIGCONT)
        assert gone(server)
    assert left_behind(tmp_path) == []


def test_a_reader_that_has_seen_enough_ends_it_quietly(tmp_path):
    command = f"{sys.executable} -m eagle_eye run {' '.join(ANY_PORTS)} --log-level error | head -n 4"
    done = subprocess.run(
        ["sh", "-c", command], env=environment(tmp_path), capture_output=True, text=True, check=False, timeout=30
    )

    assert len(done.stdout.splitlines()) == 4
    assert done.stderr == ""
    assert left_behind(tmp_path) == []


def test_a_state_folder_that_was_given_stays(tmp_path):
    state = tmp_path / "state"
    done = to_the_end(tmp_path, "run", "-d", "0.5", *ANY_PORTS, "--state-dir", str(state))

    assert done.returncode == 0, done.stderr
    assert (state / "nats").is_dir()


def test_ports_that_are_taken_are_named_with_the_flag(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        nats = to_the_end(tmp_path, "run", "-d", "1", "--listen", "127.0.0.1:0", "--nats-port", port)
        metrics = to_the_end(tmp_path, "run", "-d", "1", "--listen", f"127.0.0.1:{port}", "--nats-port", "0")

    for done, flag in ((nats, "--nats-port"), (metrics, "--listen")):
        assert done.returncode == 2
        assert port in done.stderr
        assert flag in done.stderr.splitlines()[-1]
    assert left_behind(tmp_path) == []


def test_default_ports_that_a_service_has_already_make_room(tmp_path):
    with contextlib.ExitStack() as stack:
        for port in (4222, 9750):
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
        done = to_the_end(tmp_path, "run", "-d", "0.5")

    assert done.returncode == 0, done.stderr
    assert not re.search(r"^(nats|metrics)_url=\S+:(4222|9750)\b", done.stdout, re.MULTILINE)


@needs_setpriv
def test_without_privilege_it_starts_with_what_works(tmp_path):
    done = to_the_end(tmp_path, "run", "-d", "1.2", *ANY_PORTS, prefix=NO_BPF)
    seconds = [line for line in done.stdout.splitlines() if " snapshot " in line]

    assert done.returncode == 0, done.stderr
    assert "sched=unavailable" in seconds[-1]
    assert "tasks=degraded" in seconds[-1]
    assert "memory_available_bytes=" in seconds[-1]
    assert "context_switches_per_second" not in seconds[-1]


@needs_setpriv
def test_asked_for_the_impossible_it_says_why_and_ends_with_3(tmp_path):
    done = to_the_end(tmp_path, "run", "--sched", *ANY_PORTS, "--log-level", "error", prefix=NO_BPF)
    *_, message, remedy = done.stderr.splitlines()

    assert done.returncode == 3
    assert message.startswith("eagle-eye: probe sched was asked for and cannot work here")
    assert "CAP_BPF" in message
    assert remedy.startswith("  try: ")
    assert left_behind(tmp_path) == []


def test_the_agent_starts_and_stops_without_nats(tmp_path):
    words = ["agent", "--nats", "nats://127.0.0.1:1", "--listen", "127.0.0.1:0", "--state-dir", str(tmp_path / "state")]
    process = subprocess.Popen(
        [*EAGLE_EYE, *words, "--log-format", "json"], env=environment(tmp_path), stderr=subprocess.PIPE, text=True
    )
    try:
        ready = next(line for line in process.stderr if '"msg":"ready"' in line)
        assert re.search(r'"metrics_url":"http://127\.0\.0\.1:\d+/metrics"', ready)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.communicate()


def test_two_agents_do_not_share_a_state_folder(tmp_path):
    state = ["--state-dir", str(tmp_path / "state")]
    with running(tmp_path, "run", *ANY_PORTS, *state) as (process, _):
        second = to_the_end(tmp_path, "run", *ANY_PORTS, *state, "--log-level", "error")

        assert second.returncode == 2
        assert str(tmp_path / "state") in second.stderr
        assert "--state-dir" in second.stderr.splitlines()[-1]
        assert process.poll() is None
