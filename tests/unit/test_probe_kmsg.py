"""The kernel-log probe on fixture files and on the real log: counts, gaps, floods."""

import ctypes
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eagle_eye.native.errors import UnavailableError
from eagle_eye.probes import kmsg
from eagle_eye.probes.kmsg import SPEC, facility_name
from eagle_eye.probes.kmsg_order import LogClock

DEFAULTS = {option.name: option.parse(option.default, option.name) for option in SPEC.options}
SIZE_BUFFER = 10  # SYSLOG_ACTION_SIZE_BUFFER, include/linux/syslog.h
PRINTK_DEVKMSG = Path("/proc/sys/kernel/printk_devkmsg")


def line(seq: int, text: str, *, level: int = 6, flags: str = "-", properties: str = "") -> str:
    return f"{level},{seq},{seq * 1000},{flags};{text}\n{properties}"


@pytest.fixture
def opened(context, tmp_path):
    probes = []

    def make(text: str = "", **options):
        path = options.pop("path", tmp_path / "log")
        if not path.exists():
            path.write_text(text)
        probes.append(kmsg.build(context("kmsg", **{**DEFAULTS, "path": path, "from": "boot", **options})))
        return probes[-1]

    yield make
    for probe in probes:
        probe.close()


def values(sample) -> dict:
    return {
        (series.metric.name.removeprefix("eagle_eye_kmsg_"), *series.labels): series.value for series in sample.series
    }


def text_of(event) -> str:
    return event.attributes.get("text", "")


def texts(sample) -> list[str]:
    return [text_of(event) for event in sample.events if event.kind == "kmsg.record"]


# ---- events ----


def test_a_record_becomes_an_event_with_all_its_parts(opened):
    properties = " SUBSYSTEM=pci\n DEVICE=+pci:0000:3b:00.0\n"
    (event,) = opened(line(7, r"bad\x0aworse", level=3, flags="c,caller=T42", properties=properties)).sample(1).events
    assert (event.kind, event.id, event.severity, event.entity) == ("kmsg.record", "boot:kmsg:7", "error", "host")
    assert event.at_ns == 7_000_000
    assert event.attributes == {
        "level": "err",
        "facility": "kern",
        "sequence": 7,
        "log_time_ns": 7_000_000,
        "text": "bad\nworse",
        "subsystem": "pci",
        "device": "+pci:0000:3b:00.0",
        "caller": "T42",
        "continuation": True,
    }


@pytest.mark.parametrize(
    ("level", "severity"),
    list(enumerate(["fatal", "fatal", "fatal", "error", "warning", "info", "info", "info"])),
)
def test_severity_follows_the_level(opened, level, severity):
    sample = opened(line(1, "x", level=level)).sample(1)
    assert sample.events[0].severity == severity
    assert values(sample)["records_total", sample.events[0].attributes["level"]] == 1


def test_lesser_levels_are_counted_but_make_no_events(opened):
    sample = opened(line(1, "a", level=4) + line(2, "b", level=5), min_level="warning").sample(1)
    assert texts(sample) == ["a"]
    assert values(sample)["records_total", "notice"] == 1
    assert sample.dropped["rate_limited"] == 0


@pytest.mark.parametrize(("number", "name"), [(0, "kern"), (3, "daemon"), (16, "local0"), (23, "local7"), (14, "14")])
def test_facilities_have_their_syslog_names(number, name):
    assert facility_name(number) == name


def test_what_is_no_record_is_counted(opened):
    sample = opened("garbage\n" + line(1, "fine") + "\n").sample(1)
    assert texts(sample) == ["fine"]
    assert sample.dropped["malformed"] == 2


# ---- losses ----


def test_a_gap_in_the_sequence_is_counted_and_said(opened):
    sample = opened(line(1, "a") + line(5, "b") + line(6, "c") + line(8, "d")).sample(9)
    (lost,) = (event for event in sample.events if event.kind == "kmsg.lost")
    assert lost.attributes == {"records": 4}
    assert lost.severity == "warning"
    assert values(sample)["lost_records_total",] == sample.dropped["overwritten"] == 4


def test_a_gap_between_two_rounds_is_counted_once(opened, tmp_path):
    probe = opened(line(1, "a"))
    probe.sample(1)
    with open(tmp_path / "log", "a") as file:
        file.write(line(4, "b"))
    assert [event.kind for event in probe.sample(2).events] == ["kmsg.record", "kmsg.lost"]
    assert values(probe.sample(3))["lost_records_total",] == 2
    assert probe.sample(4).events == []


@pytest.mark.parametrize("sequence", [(5, 1), (2**64 - 1, 0), (0, 2**64 - 1, 3)])
def test_hostile_sequence_numbers_break_nothing(opened, sequence):
    sample = opened("".join(line(1, "x").replace("6,1,", f"6,{seq},") for seq in sequence)).sample(1)
    assert len(texts(sample)) == len(sequence)


def test_a_log_that_goes_and_comes_back_is_said_and_read(opened, tmp_path):
    probe = opened(line(1, "a"))
    assert probe.sample(1).degraded == ""
    (tmp_path / "log").unlink()
    assert "has gone" in probe.sample(2).degraded
    (tmp_path / "log").write_text(line(2, "b"))
    back = probe.sample(3)
    assert (texts(back), back.degraded) == (["b"], "")


def test_a_missing_log_names_itself(context, tmp_path):
    with pytest.raises(UnavailableError, match="nowhere"):
        kmsg.build(context("kmsg", **DEFAULTS | {"path": tmp_path / "nowhere"}))


def test_a_regular_file_wakes_nobody_and_a_fifo_does(opened, tmp_path):
    (alarm,) = opened().wake_fds()
    assert select.select([alarm], [], [], 0)[0] == []
    os.mkfifo(tmp_path / "fifo")
    probe = opened(path=tmp_path / "fifo")
    fd, _ = probe.wake_fds()
    assert select.select([fd], [], [], 0)[0] == []
    (tmp_path / "fifo").write_text(line(1, "woken"))
    assert select.select([fd], [], [], 1)[0] == [fd]
    assert texts(probe.sample(1)) == ["woken"]


# ---- floods ----


def drained(probe, now_ns: int = 1) -> tuple[list, dict]:
    """Events of rounds at `now_ns` until one reads nothing new, and the final drop counts: a round is short."""
    events, sample, before = [], None, None
    while before != (before := read_so_far(sample := probe.sample(now_ns))):
        events += sample.events
    return events, sample.dropped


@pytest.fixture
def flooded(opened, tmp_path):
    """A probe that has caught up, and then many lines."""

    def make(lines):
        probe = opened("", **{"from": "end"})
        probe.sample(1)
        (tmp_path / "log").write_text("".join(lines))
        return probe

    return make


def read_so_far(sample) -> float:
    return sum(value for key, value in values(sample).items() if key[0] == "records_total")


def accounted(events, dropped) -> int:
    return (
        sum(event.attributes.get("repeats", 1) for event in events if event.kind == "kmsg.record")
        + dropped["rate_limited"]
    )


def test_what_the_log_holds_at_the_start_is_no_flood(opened):
    events, dropped = drained(opened("".join(line(n, f"unit {n % 3000} of {n % 7}") for n in range(3000))))
    assert len(events) == 3000
    assert dropped["rate_limited"] == 0


def test_a_flood_of_one_text_becomes_a_few_events_and_a_count(flooded):
    probe = flooded(line(n, f"flood {n + 100000}") for n in range(5000))
    first, _ = drained(probe)
    assert len(first) == 10
    later = probe.sample(2_000_000_000)
    (summary,) = later.events
    assert summary.attributes["repeats"] == 4990
    assert summary.attributes["text"] == "flood 104999"
    assert summary.id == "boot:kmsg:4999"
    assert accounted([*first, *later.events], later.dropped) == 5000


def test_a_flood_of_lines_that_all_differ_is_limited_and_counted(flooded):
    words = [secrets.token_hex(4).translate(str.maketrans("0123456789", "ghijklmnop")) for _ in range(5000)]
    events, dropped = drained(flooded(line(n, word) for n, word in enumerate(words)))
    assert len(events) == 1000
    assert dropped["rate_limited"] == 4000


def test_rare_lines_and_errors_come_through_a_flood(flooded):
    flood = [line(n, f"device {n % 1000} of {n % 997} is noisy") for n in range(20_000)]
    for n in range(500, 20_000, 2000):
        flood[n] = line(n, f"rare {chr(65 + n // 2000)} line")
        flood[n + 1] = line(n + 1, f"rare {chr(65 + n // 2000)} error", level=3)
    events, dropped = drained(flooded(flood))
    rare = [text for text in map(text_of, events) if text.startswith("rare")]
    assert rare == [f"rare {letter} {what}" for letter in "ABCDEFGHIJ" for what in ("line", "error")]
    assert dropped["rate_limited"] > 10_000


def test_a_rare_fault_code_comes_through_a_flood_of_another(flooded):
    flood = [line(n, f"NVRM: Xid (PCI:0000:3b:00): 31, pid={10000 + n}, Ch 0000001e", level=3) for n in range(8000)]
    flood[6000] = line(6000, "NVRM: Xid (PCI:0000:3b:00): 79, pid=10001, GPU has fallen off the bus.", level=3)
    flood[6001] = line(6001, "NVRM: Xid (PCI:0000:86:00): 31, pid=10001, Ch 0000001e", level=3)
    found = [text_of(event) for event in drained(flooded(flood))[0]]
    assert any("): 79" in text for text in found)
    assert any("PCI:0000:86:00" in text for text in found)
    assert len(found) == 12


# ---- clocks ----


def test_the_log_clock_follows_the_least_delay():
    clock, hour_ns = LogClock(), 3600 * 10**9
    clock.learn(youngest_ns=hour_ns - 5_000_000, read_ns=hour_ns)
    assert clock.skew_ns == 5_000_000
    clock.learn(youngest_ns=2 * hour_ns + 300_000, read_ns=2 * hour_ns)
    assert clock.skew_ns == -300_000


def test_a_late_record_moves_the_log_clock_by_no_more_than_the_drift():
    clock, hour_ns = LogClock(), 3600 * 10**9
    clock.learn(youngest_ns=hour_ns, read_ns=hour_ns)
    clock.learn(youngest_ns=hour_ns, read_ns=hour_ns + 10**9)
    assert clock.skew_ns == 100_000


# ---- the real log ----


@pytest.fixture
def unlimited_writers():
    """The kernel limits what a user process may write, unless told otherwise."""
    if os.geteuid() != 0 or not os.access(PRINTK_DEVKMSG, os.W_OK):
        pytest.skip("needs root and a writable kernel.printk_devkmsg")
    before = PRINTK_DEVKMSG.read_text()
    PRINTK_DEVKMSG.write_text("on\n")
    yield
    PRINTK_DEVKMSG.write_text(before)


def until_written(probe, writer) -> tuple[list, list]:
    """Runs the probe as the agent does, woken by its descriptor, until the writer has left and all is read."""
    events, samples, poll = [], [], select.poll()
    poll.register(probe.wake_fds()[0], select.POLLIN)
    while True:
        idle = not poll.poll(1200)
        samples.append(probe.sample(time.monotonic_ns()))
        events += samples[-1].events
        if idle and writer.poll() is not None:
            return events, samples


WRITER = """
import os, sys
fd = os.open("/dev/kmsg", os.O_WRONLY)
for n in range(int(sys.argv[2])):
    os.write(fd, b"<14>%s flood line %d\\n" % (sys.argv[1].encode(), n))
    if n % 20000 == 10000:
        letter = chr(65 + n // 20000)
        os.write(fd, f"<14>{sys.argv[1]} rare line {letter}\\n".encode())
        os.write(fd, f"<11>{sys.argv[1]} rare error {letter}\\n".encode())
"""


def test_a_line_written_to_the_real_log_is_an_event_at_once_and_on_the_monotonic_clock(opened, unlimited_writers):
    probe = opened(path=Path("/dev/kmsg"), **{"from": "end"})
    probe.sample(time.monotonic_ns())
    mark = f"eagle-eye test {secrets.token_hex(8)}"
    before_ns = time.monotonic_ns()
    Path("/dev/kmsg").write_text(f"<12>{mark}\n")
    assert select.select(probe.wake_fds(), [], [], 1)[0]
    (event,) = (e for e in probe.sample(time.monotonic_ns()).events if e.attributes.get("text") == mark)
    after_ns = time.monotonic_ns()
    assert after_ns - before_ns < 100_000_000
    assert before_ns - 10_000_000 < event.at_ns <= after_ns
    assert event.severity == "warning"


@pytest.mark.timeout(180)
def test_two_hundred_thousand_lines_leave_the_probe_seeing(opened, unlimited_writers, record_property):
    probe, mark = opened(path=Path("/dev/kmsg"), **{"from": "end"}), secrets.token_hex(8)
    cpu = time.process_time()
    writer = subprocess.Popen([sys.executable, "-c", WRITER, mark, "200000"])
    events, samples = until_written(probe, writer)
    record_property("cpu_seconds", time.process_time() - cpu)
    counts = values(samples[-1])
    read = read_so_far(samples[-1])
    lost = counts["lost_records_total",]
    assert read + lost >= 200_020
    assert accounted(events, samples[-1].dropped) == read
    assert sum(e.attributes["records"] for e in events if e.kind == "kmsg.lost") == lost
    found = [text for text in map(text_of, events) if mark in text and "rare" in text]
    expected = [f"{mark} rare {what} {letter}" for letter in "ABCDEFGHIJ" for what in ("line", "error")]
    assert set(found) <= set(expected)
    assert len(expected) - len(found) <= lost
    assert len(events) < 3000
    Path("/dev/kmsg").write_text(f"<14>{mark} after\n")
    assert select.select(probe.wake_fds(), [], [], 1)[0]
    assert f"{mark} after" in texts(probe.sample(time.monotonic_ns()))


STOPPED = """
import json, os, signal, sys, time
from pathlib import Path
from eagle_eye.probes.kmsg import SPEC, build
from eagle_eye.probes.paths import Paths
from eagle_eye.probes.probe import Context, EventSource

options = {option.name: option.parse(option.default, option.name) for option in SPEC.options}
probe = build(Context(Paths(), options, EventSource("kmsg", node="n", cluster="c", boot_id="b")))
first = probe._log.next_sequence
os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(0.2)
sample = probe.sample(time.monotonic_ns())
print(json.dumps({
    "first": first,
    "next": probe._losses._next,
    "lost_events": [e.attributes["records"] for e in sample.events if e.kind == "kmsg.lost"],
    "series": {":".join([s.metric.name, *s.labels]): s.value for s in sample.series},
    "dropped": sample.dropped,
}))
"""


def test_an_overrun_is_counted_exactly(unlimited_writers):
    """The whole process stands still while more is written than the kernel keeps."""
    stopped = subprocess.Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, text=True)
    os.waitpid(stopped.pid, os.WUNTRACED)
    # The kernel has one descriptor per 32 bytes of log buffer (kernel/printk), so this is too much for it.
    lines = 2 * ctypes.CDLL(None).klogctl(SIZE_BUFFER, None, 0) // 32
    subprocess.run([sys.executable, "-c", WRITER, secrets.token_hex(8), str(lines)], check=True)
    os.kill(stopped.pid, signal.SIGCONT)
    told = json.loads(stopped.communicate(timeout=30)[0])
    read = sum(value for key, value in told["series"].items() if key.startswith("eagle_eye_kmsg_records_total"))
    lost = told["series"]["eagle_eye_kmsg_lost_records_total"]
    assert told["series"]["eagle_eye_kmsg_overruns_total"] >= 1
    assert lost >= lines // 2
    assert lost == told["dropped"]["overwritten"] == sum(told["lost_events"])
    assert told["first"] + read + lost == told["next"]
    assert read + lost >= lines
