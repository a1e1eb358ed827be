"""The black box: written in a thread, read while it is written, bounded, and told when it cannot."""

import json
import os
import sqlite3
import subprocess
import threading
import time

import msgspec
import numpy as np
import pytest

from eagle_eye.collector.recorder import recorder as module
from eagle_eye.collector.recorder.engine_queue import MAX_STATES
from eagle_eye.collector.recorder.previous import SavedLog, last_words
from eagle_eye.collector.recorder.reading import Reading, newest_boot
from eagle_eye.collector.recorder.recorder import Recorder
from eagle_eye.collector.recorder.segment import DamagedError, SegmentReader, SegmentWriter
from eagle_eye.collector.recorder.steps import plain_steps
from eagle_eye.collector.recorder.store import Store, segment_paths
from eagle_eye.native.errors import UsageError
from eagle_eye.probes.engine.layout import STEPS, StepBatch
from eagle_eye.probes.model import EngineState
from eagle_eye.probes.probe import EventSource

ABOUT = {"boot_id": "boot", "encoding": "json"}
DAY_NS = 86400 * 10**9


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "FLUSH_S", 0.02)


@pytest.fixture
async def recorder(tmp_path):
    """`recorder(**how)` starts one on the folder of the test; all are stopped with it."""
    made = []

    def start(boot_id="boot", **how):
        source = EventSource("recorder", node="n", cluster="c", boot_id=boot_id)
        how = {"limit_bytes": 2**26, "keep_ns": DAY_NS, **how}
        made.append(Recorder(tmp_path / "recorder", source, **how))
        made[-1].start()
        return made[-1]

    yield start
    for each in made:
        await each.stop(5)


@pytest.fixture
def store(tmp_path):
    """`store(**how)` opens the folder of the test."""
    made = []

    def make(**how):
        made.append(Store(tmp_path / "recorder", **{"limit_bytes": 2**26, "keep_ns": DAY_NS, "about": ABOUT, **how}))
        return made[-1]

    yield make
    for each in made:
        each.close()


def wait_for(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def snapshot(number):
    values = {f"eagle_eye_series_{index}_total": number * index for index in range(200)}
    return json.dumps({"seq": number, "values": values}).encode()


def read(folder, boot_id="boot", kinds=None):
    return [(one.kind, one.at_ns, one.payload) for one in Reading(folder, boot_id).records(kinds=kinds)]


async def test_everything_comes_back_as_it_was_given(recorder, tmp_path):
    box = recorder()
    for number in range(300):
        box.snapshot(snapshot(number), number)
        box.event(b'{"id":"%d"}' % number, number)
        if number % 50 == 0:
            time.sleep(0.03)
    box.stall(b"{}", 7)
    box.kmsg([{"text": "a line"}], 8)
    state = EngineState(instance="i", engine="e", at_ns=9, kind="step", source="shm")
    box.engines([state])
    assert await box.stop(10)

    records = read(box.folder)
    assert [(at, body) for kind, at, body in records if kind == "snapshot"] == [(n, snapshot(n)) for n in range(300)]
    assert [body for kind, _, body in records if kind == "event"] == [b'{"id":"%d"}' % n for n in range(300)]
    assert [json.loads(body) for kind, _, body in records if kind == "kmsg"] == [[{"text": "a line"}]]
    assert [json.loads(body)[0]["engine"] for kind, _, body in records if kind == "engine"] == ["e"]
    assert box.statistics().records == {"snapshot": 300, "event": 300, "stall": 1, "kmsg": 1, "engine": 1}
    assert box.statistics().dropped == {}
    assert box.health().state == "off"
    plain = sum(len(snapshot(n)) for n in range(300))
    assert box.statistics().written_bytes < plain / 4


async def test_steps_of_a_second_are_one_record_per_rank_and_bounded(recorder, monkeypatch):
    monkeypatch.setattr(module, "FLUSH_S", 30)
    box = recorder()
    wait_for(lambda: box.health().state == "ok")
    for number in range(100):
        for rank in range(2):
            records = np.zeros(1, STEPS)
            records["end_ns"] = number * 10 + rank
            box.engines([], [StepBatch("i", "vllm", rank, 7, (), records)])
    state = EngineState(instance="i", engine="e", at_ns=9, kind="step", source="shm")
    for _ in range(50):
        box.engines([state] * 100)
    await box.stop(10)

    steps = [plain_steps(msgspec.msgpack.decode(body)) for kind, _, body in read(box.folder) if kind == "step"]
    assert [(one["dp_rank"], len(one["rows"])) for one in steps] == [(0, 100), (1, 100)]
    column = steps[1]["columns"].index("end_ns")
    assert [row[column] for row in steps[1]["rows"]] == [number * 10 + 1 for number in range(100)]
    (states,) = [json.loads(body) for kind, _, body in read(box.folder) if kind == "engine"]
    assert len(states) == MAX_STATES
    assert box.statistics().dropped == {("engine", "queue_full"): 5000 - MAX_STATES}


async def test_it_is_read_while_it_is_written(recorder):
    box = recorder()
    seen = 0
    for number in range(20):
        box.event(b"%d" % number, number)
        wait_for(lambda n=number: box.statistics().records.get("event") == n + 1)
        bodies = [body for _, _, body in read(box.folder)]
        assert bodies == [b"%d" % n for n in range(number + 1)]
        seen += 1
    assert seen == 20


def test_only_the_time_and_the_boot_that_were_asked_for_are_read(store, tmp_path):
    one = store()
    one.write({"event": [(number, b"%d" % number) for number in range(100)]})
    one.close()
    store(about={**ABOUT, "boot_id": "other"}).write({"event": [(50, b"other")]})
    reading = Reading(tmp_path / "recorder", "boot")

    assert [one.at_ns for one in reading.records(20, 30)] == list(range(20, 31))
    assert list(reading.records(kinds={"snapshot"})) == []
    assert reading.damaged == 0
    assert newest_boot(tmp_path / "recorder") == "other"


async def test_a_full_queue_drops_and_counts_and_events_outlive_snapshots(recorder, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(Recorder, "_flush", lambda self: release.wait(20))
    box = recorder()
    wait_for(lambda: box._busy_since_s)
    monkeypatch.setattr(module, "QUEUE_BYTES", 100_000)
    for number in range(100):
        box.snapshot(b"x" * 1000, number)
    for number in range(20):
        box.event(b"y" * 1000, number)
    dropped = box.statistics().dropped
    monkeypatch.setattr(module, "HUNG_AFTER_S", 0)

    assert dropped[("snapshot", "queue_full")] == 100 - 50_000 // 1100
    assert ("event", "queue_full") not in dropped
    assert box.health().state == "hung"
    assert not await box.stop(0.05), "a disk that hangs does not hold the stop"
    release.set()


def test_the_oldest_files_go_when_the_limit_is_reached(store, tmp_path):
    limit = 2 * 2**20
    one = store(limit_bytes=limit)
    for number in range(400):
        one.write({"event": [(number, os.urandom(20_000))]})
    sizes = sum(path.stat().st_size for path in (tmp_path / "recorder").iterdir())
    numbers = [at for _, at, _ in read(tmp_path / "recorder")]

    assert sizes <= limit * 1.1
    assert numbers == list(range(numbers[0], 400))
    assert len(numbers) > 50


def test_files_go_when_they_are_too_old_but_not_because_the_clock_jumped(store, tmp_path):
    one = store()
    one.write({"event": [(1, b"old")]})
    one.close()
    path = segment_paths(tmp_path / "recorder")[0]
    os.utime(path, ns=(time.time_ns() - 2 * DAY_NS,) * 2)
    two = store()
    two.write({"event": [(2, b"new")]})
    two.close_segment()
    os.utime(two.segments[-1].path, ns=(1, 1))
    two.write({"event": [(3, b"newer")]})

    assert [body for _, _, body in read(tmp_path / "recorder")] == [b"new", b"newer"]


def test_a_folder_has_one_recorder(store):
    store()

    with pytest.raises(UsageError, match="another agent"):
        store()


def test_a_file_that_cannot_be_read_is_set_aside_and_the_one_before_it_taken(store, tmp_path):
    for number in range(2):
        one = store()
        one.write({"event": [(number, b"%d" % number)]})
        one.close()
    newest = segment_paths(tmp_path / "recorder")[-1]
    newest.write_bytes(b"SQLite format 3\0" + os.urandom(8192))
    one = store()
    reader = one.take_over()
    reader.close()
    one.write({"event": [(2, b"2")]})

    assert one.set_aside == 1
    assert newest.with_suffix(".damaged").exists()
    assert [body for _, _, body in read(tmp_path / "recorder")] == [b"0", b"2"]


def test_a_batch_that_rotted_is_passed_over_and_counted(store, tmp_path):
    one = store()
    for number in range(10):
        one.write({"event": [(number, b"%d" % number)]})
    one.close()
    path = segment_paths(tmp_path / "recorder")[0]
    database = sqlite3.connect(path)
    (body,) = database.execute("SELECT body FROM batch WHERE id = 5").fetchone()
    database.execute("UPDATE batch SET body = ? WHERE id = 5", (body[:-1] + bytes([body[-1] ^ 1]),))
    database.commit()
    database.close()
    reading = Reading(tmp_path / "recorder", "boot")

    assert [one.at_ns for one in reading.records()] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert reading.damaged == 1


@pytest.mark.parametrize("body", [b"", b"no database", os.urandom(5000)])
def test_a_file_of_somebody_else_is_refused(tmp_path, body):
    path = tmp_path / "00000001.sqlite"
    path.write_bytes(body)

    with pytest.raises(DamagedError):
        SegmentReader(path)


def test_a_closed_file_can_be_read_where_nothing_can_be_written(tmp_path):
    writer = SegmentWriter(tmp_path / "00000001.sqlite", ABOUT)
    writer.write({"event": [(1, b"1")]}, 0)
    writer.close(end="clean")

    assert [path.name for path in tmp_path.iterdir()] == ["00000001.sqlite"]
    assert SegmentReader(tmp_path / "00000001.sqlite").about["end"] == "clean"


@pytest.mark.needs_mounts
async def test_a_full_disk_is_told_counted_and_survived(recorder, tmp_path):
    folder = tmp_path / "recorder"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=True)
    try:
        filler = folder / "filler"
        box = recorder()
        wait_for(lambda: box.health().state == "ok")
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):  # noqa: PT012
            while True:
                file.write(b"x" * 4096)
        box.event(os.urandom(300_000), 1)
        wait_for(lambda: box.health().state == "failing")
        assert sum(count for (kind, _), count in box.statistics().dropped.items() if kind == "event") == 1
        filler.unlink()
        wait_for(lambda: box.health().state in ("ok", "degraded"))
        box.event(b"after", 2)
        assert await box.stop(10)
        assert [body for _, _, body in read(folder)] == [b"after"]
    finally:
        await box.stop(5)
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def freezable(tmp_path):
    """The recorder's folder as a file system of its own, which `fsfreeze` makes hang as a sick disk does."""
    image, folder = tmp_path / "disk", tmp_path / "recorder"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(16 * 2**20)
    try:
        subprocess.run(["mkfs.ext4", "-q", image], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", image, folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system in a file here: {error}")
    yield folder
    subprocess.run(["fsfreeze", "-u", folder], check=False, capture_output=True)
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.needs_mounts
async def test_a_disk_that_hangs_holds_up_nobody(recorder, freezable, monkeypatch):
    monkeypatch.setattr(module, "HUNG_AFTER_S", 0.2)
    box = recorder()
    wait_for(lambda: box.health().state == "ok")
    subprocess.run(["fsfreeze", "-f", freezable], check=True)
    for number in range(1000):
        box.snapshot(b"x" * 20_000, number)
        box.event(b"%d" % number, number)
    wait_for(lambda: box.health().state == "hung")
    assert not await box.stop(0.1)
    assert sum(box.statistics().dropped.values()) > 500
    subprocess.run(["fsfreeze", "-u", freezable], check=True)

    assert await box.stop(10)
    assert [body for kind, _, body in read(freezable) if kind == "event"] == [b"%d" % n for n in range(1000)]


# The recording before this one


async def previous_of(recorder, boot_id="boot", **how):
    events, found = [], []
    box = recorder(boot_id, on_event=events.append, on_previous=found.append, **how)
    wait_for(lambda: found)
    await box.stop(5)
    return events, found[0]


async def test_a_boot_that_ended_in_order_is_told_so(recorder):
    box = recorder("first")
    box.event(b"1", 1)
    await box.stop(5)
    events, previous = await previous_of(recorder, "second")

    assert [(one.kind, one.severity, one.attributes["end"]) for one in events] == [
        ("recorder.previous_boot", "info", "clean")
    ]
    assert previous.boot_id == "first"


async def test_the_same_boot_and_an_agent_that_stopped_is_nothing_to_tell(recorder):
    box = recorder()
    box.event(b"1", 1)
    await box.stop(5)

    assert (await previous_of(recorder))[0] == []


def crash(store, boot_id, at_ns=1):
    """A recording as a crash leaves it: with its log beside the file, and no mark."""
    one = store(about={**ABOUT, "boot_id": boot_id})
    one.write({"event": [(at_ns, b"last")]})
    folder, path = one.folder, one._writer.path
    copies = {each.name: each.read_bytes() for each in folder.iterdir() if each.name.startswith(path.name)}
    one.close()
    for name, body in copies.items():
        (folder / name).write_bytes(body)
    assert f"{path.name}-wal" in copies


async def test_an_agent_that_died_and_a_node_that_died_are_told_apart(recorder, store):
    crash(store, "first")
    events, _ = await previous_of(recorder, "first")
    assert [(one.kind, one.severity) for one in events] == [("recorder.previous_run", "warning")]

    crash(store, "second")
    events, previous = await previous_of(recorder, "third")
    assert [(one.kind, one.severity, one.attributes["end"]) for one in events] == [
        ("recorder.previous_boot", "warning", "unclean")
    ]
    assert events[0].attributes["previous_boot_id"] == "second"
    assert previous.last_ns == 1


async def test_the_dark_time_counts_from_the_last_record(recorder, store, tmp_path):
    crash(store, "first", time.monotonic_ns())
    folder = tmp_path / "recorder"
    for path in folder.glob("*.sqlite"):
        os.utime(path, (1, 1))  # only its log was written since

    events, previous = await previous_of(recorder, "first")

    assert 0 <= events[0].attributes["dark_seconds"] < 60
    assert abs(previous.last_wall_ns - time.time_ns()) < 60e9


async def test_the_end_of_a_boot_that_is_over_outlives_retention_within_its_bound(recorder, store, tmp_path):
    crash(store, "first")
    await previous_of(recorder, "second")
    one = store(limit_bytes=2**20, about={**ABOUT, "boot_id": "second"})
    for number in range(200):
        one.write({"event": [(number, os.urandom(20_000))]})

    assert [body for _, _, body in read(tmp_path / "recorder", "first")] == [b"last"]
    assert sum(path.stat().st_size for path in (tmp_path / "recorder").iterdir()) <= 1.2 * 2**20


PANIC = """Panic#1 Part1
<4>[  812.100000] CPU: 3 PID: 4711 Comm: python Not tainted
<0>[  812.200000] Kernel panic - not syncing: Fatal exception in interrupt
<0>[  812.300000] Kernel Offset: disabled
"""


async def test_saved_kernel_logs_are_taken_in_once_and_left_where_they_are(recorder, store, tmp_path):
    folder = tmp_path / "pstore"
    (folder / "archived/7101").mkdir(parents=True)
    (folder / "dmesg-erst-7101").write_text(PANIC)
    (folder / "archived/7101/dmesg.txt").write_bytes(os.urandom(1000))
    crash(store, "first")
    events, previous = await previous_of(recorder, "second", pstore=[folder, folder / "archived", tmp_path / "absent"])
    again, _ = await previous_of(recorder, "second", pstore=[folder])

    assert events[0].attributes["last_words"] == "Kernel panic - not syncing: Fatal exception in interrupt"
    assert (events[0].severity, len(events[0].attributes["saved_logs"])) == ("error", 2)
    assert again == []
    assert (folder / "dmesg-erst-7101").read_text() == PANIC
    saved = [json.loads(body) for _, _, body in read(tmp_path / "recorder", "second", {"pstore"})]
    assert [one["text"] for one in saved if one["name"] == "dmesg-erst-7101"] == [PANIC]
    assert [one["boot_id"] for one in saved] == ["first", "first"]
    assert any("not text" in one["text"] for one in saved)
    assert previous.saved_logs


def test_last_words_are_of_the_newest_log_that_has_any():
    logs = [SavedLog("a", 1, PANIC), SavedLog("b", 3, "nothing"), SavedLog("c", 2, "<1>[ 1.0] BUG: unable to handle")]

    assert last_words(logs) == "BUG: unable to handle"
    assert last_words([]) == ""
