"""Incidents over restarts, kills and reboots, by the operator's word, and as figures on the page."""

import asyncio
import os
import random
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from eagle_eye.collector.exporter import Exporter
from eagle_eye.collector.incidents import requests, state
from eagle_eye.probes.model import Device
from eagle_eye.probes.probe import Sample

sys.path.insert(0, str(Path(__file__).parent))
from story import SECOND_NS, incidents_in, kinds, only, xid


@pytest.fixture
def incidents(tmp_path):
    """The incidents of a machine, from the same state folder each time."""
    return partial(incidents_in, tmp_path)


# The state.


def test_incidents_outlive_the_agent(incidents):
    before = incidents()
    before.take(Sample(faults=[xid(79, time.monotonic(), severity="fatal", action="reboot_node")]))
    before.save()

    after = incidents()

    assert after.open() == before.open()
    again = after.take(Sample(faults=[xid(45, time.monotonic())]))
    assert "incident.opened" not in kinds(again)
    assert len(only(after.open()).parts) == 2


def test_a_log_that_is_read_again_from_its_start_counts_nothing_twice(incidents):
    faults = [xid(31, time.monotonic(), number=number) for number in (5, 6, 7)]
    before = incidents()
    before.take(Sample(faults=faults))
    before.save()

    after = incidents()
    events = after.take(Sample(faults=[*faults, xid(31, time.monotonic(), number=8)]))

    assert only(after.open()).occurrences == 4
    assert len([one for one in events if one.kind == "nvidia.xid"]) == 1


def test_another_log_with_numbers_of_its_own_is_no_repetition(incidents):
    before = incidents()
    before.take(Sample(faults=[xid(31, time.monotonic() - 10, number=12_000)]))
    before.save()

    after = incidents()
    after.take(Sample(faults=[xid(31, time.monotonic(), number=7)]))

    assert only(after.open()).occurrences == 2


def test_a_reboot_ends_what_was_of_the_boot_and_notes_the_rest(incidents):
    before = incidents()
    now_s = time.monotonic()
    before.take(
        Sample(
            faults=[
                xid("oom_kill", now_s, family="mm.oom", address="", entity="host", action="none"),
                xid(64, now_s, action="replace", severity="error"),
                xid(79, now_s, address="0000:02:00.0", action="reboot_node", severity="fatal"),
            ]
        )
    )
    before.save()

    after = incidents("another boot")
    events = after.tick()

    assert kinds(events) == ["incident.cleared"]
    assert (events[0].attributes["family"], events[0].attributes["cleared_by"]) == ("mm.oom", "reboot")
    assert {one.code: bool(one.note) for one in after.open()} == {"79": True, "64": True}

    record = next(one for one in after._engine.book.open.values() if one.primary.code == "79")
    later_ns = record.updated_wall_ns + 601 * SECOND_NS
    ended = after._engine.tick(later_ns, later_ns)
    assert [(one.record.primary.code, one.record.cleared_by) for one in ended] == [
        ("79", "reboot, and silence for 10 min")
    ]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\0" * 5000, b'{"boot_id": 7}', b'{"boot_id":"b","schema":9}', b"[1,2,3]"]
)
def test_a_damaged_state_is_set_aside(incidents, tmp_path, content):
    folder = tmp_path / "incidents"
    folder.mkdir()
    (folder / state.FILE).write_bytes(content)

    one = incidents()
    one.take(Sample(faults=[xid(31, time.monotonic())]))
    one.save()

    assert len(one.open()) == 1
    assert only(folder.glob("state.json.damaged-*")).read_bytes() == content
    assert len(incidents().open()) == 1


def test_a_kill_at_any_moment_leaves_a_valid_state(incidents, tmp_path):
    folder = tmp_path / "incidents"
    choose = random.Random(1)
    for _ in range(40):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            one = incidents()
            for number in range(1, 10_000):
                one.take(Sample(faults=[xid(31, time.monotonic(), number=time.monotonic_ns(), count=number)]))
                one.save()
                os.write(writing, f"{only(one.open()).occurrences}\n".encode())
            os._exit(0)
        os.close(writing)
        first = os.read(reading, 4096)
        time.sleep(choose.random() * 0.01)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        said = (first + _rest(reading)).decode().rpartition("\n")[0].splitlines()

        saved = state.read(folder)

        assert saved is not None
        assert only(saved.records).parts[0].count >= int(said[-1])


def _rest(fd):
    with os.fdopen(fd, "rb") as file:
        return file.read()


# The operator.


def test_the_operator_ends_an_incident(incidents, tmp_path):
    one = incidents()
    one.take(Sample(faults=[xid(79, time.monotonic())]))
    wanted = only(one.open()).id
    requests.put(tmp_path / "incidents", requests.Request(id=wanted, reason="GPU replaced", by="ann"))

    (event,) = one.tick()

    assert (event.kind, event.attributes["cleared_by"]) == ("incident.cleared", "operator (ann): GPU replaced")
    assert one.open() == ()
    assert list(requests.waiting(tmp_path / "incidents")) == []


def _foreign(path):
    path.write_bytes(b'{"id":"x","reason":"y"}')
    os.chown(path, 12345, 12345)


def _open_to_all(path):
    path.write_bytes(b'{"id":"x","reason":"y"}')
    path.chmod(0o666)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_bytes(b"{"),
        lambda path: path.write_bytes(b'{"id":"x","reason":""}'),
        lambda path: path.write_bytes(b'{"id":"x","reason":"' + b"y" * 9000 + b'"}'),
        lambda path: path.symlink_to("/etc/hostname"),
        lambda path: os.mkfifo(path),
        _open_to_all,
        pytest.param(_foreign, marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")),
    ],
)
def test_what_is_no_request_of_ours_is_refused_and_removed(tmp_path, make):
    folder = tmp_path / requests.FOLDER
    folder.mkdir()
    make(folder / "1.json")

    assert list(requests.waiting(tmp_path)) == []
    assert list(folder.iterdir()) == []


# Figures.


def test_the_page_tells_faults_and_incidents_and_their_end(incidents):
    one = incidents()
    exporter = Exporter()
    exporter.add(one.source())
    device = Device(vendor="nvidia", index=2, uuid="GPU-2", model="H100", pci_bdf="0000:01:00.0")
    one.take(Sample(devices=[device]))
    one.take(Sample(faults=[xid(79, time.monotonic(), severity="fatal", action="reboot_node", count=3)]))

    page = exporter.render(exporter.gather()).decode()
    active = (
        'eagle_eye_fault_active{code="79",device="0000:01:00.0",family="nvidia.xid",gpu="2",model="H100",uuid="GPU-2"}'
    )
    assert 'eagle_eye_faults_total{code="79",family="nvidia.xid"} 3.0' in page
    assert f"{active} 1.0" in page
    assert 'eagle_eye_incidents_open{action="reboot_node",severity="fatal"} 1.0' in page

    record = only(one._engine.book.open.values())
    one._tell([one._engine.clear(record, "operator: test", time.time_ns())], time.monotonic_ns())
    page = exporter.render(exporter.gather()).decode()
    assert f"{active} 0.0" in page
    assert 'eagle_eye_incidents_open{action="reboot_node",severity="fatal"} 0.0' in page
    assert 'eagle_eye_incidents_total{change="cleared"} 1.0' in page
    assert "eagle_eye_incident_open_seconds_count 1.0" in page

    record.cleared_wall_ns -= 3600 * SECOND_NS
    assert active not in exporter.render(exporter.gather()).decode()


def test_codes_of_a_hostile_log_do_not_fill_the_page(incidents):
    one = incidents()
    now_s = time.monotonic()
    for at in range(1500):
        one.take(Sample(faults=[xid(10_000 + at, now_s + at, number=at + 1)]))

    series = [series for series in one.source().collect() if series.metric.name == "eagle_eye_faults_total"]

    assert len(series) <= 501
    assert sum(series.value for series in series) == 1500
    assert len(one.open()) == 64


def test_a_fault_that_cannot_be_taken_costs_no_other(incidents):
    one = incidents()
    broken = xid(31, time.monotonic(), fields={"x": object()}, meaning=7)  # type: ignore[arg-type]

    events = one.take(Sample(faults=[broken, xid(79, time.monotonic())]))

    assert "incident.opened" in kinds(events)
    assert {incident.code for incident in one.open()} >= {"79"}


async def test_a_disk_that_hangs_holds_up_nothing_that_is_told(incidents, tmp_path, monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(state, "write", lambda *_: released.wait(60))
    one = incidents()
    published = []
    task = asyncio.create_task(one.run(published.extend))
    await asyncio.sleep(0.05)
    one.take(Sample(faults=[xid(79, time.monotonic())]))
    requests.put(tmp_path / "incidents", requests.Request(id=only(one.open()).id, reason="seen"))

    deadline = time.monotonic() + 20
    while "incident.cleared" not in kinds(published) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    released.set()
    task.cancel()
    await asyncio.wait({task})

    assert kinds(published) == ["incident.cleared"]


async def test_a_folder_that_cannot_be_written_is_counted_and_tried_again(incidents, tmp_path):
    (tmp_path / "incidents").write_text("no folder")
    one = incidents()
    task = asyncio.create_task(one.run(lambda events: None))

    def errors():
        return next(one.value for one in one_source.collect() if one.metric.name.endswith("save_errors_total"))

    one_source = one.source()
    deadline = time.monotonic() + 20
    while errors() < 2 and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    (tmp_path / "incidents").unlink()
    while not (tmp_path / "incidents" / state.FILE).exists() and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.wait({task})

    assert errors() >= 2
    assert state.read(tmp_path / "incidents") is not None
