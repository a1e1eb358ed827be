"""Bundles: frozen out of the black box, read by people, by Perfetto, by today's rules, and never by trust."""

import contextlib
import io
import json
import os
import subprocess
import tarfile
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eagle_eye.__main__ import main
from eagle_eye.collector.commands import forensics as command
from eagle_eye.collector.forensics import archive, copying, shelf
from eagle_eye.collector.forensics import processes as processes_module
from eagle_eye.collector.forensics.bundle import Bundle, Trigger, load_folder
from eagle_eye.collector.forensics.copying import Copy
from eagle_eye.collector.forensics.order import COMMAND, NICE, Order
from eagle_eye.collector.forensics.perfetto import trace
from eagle_eye.collector.forensics.processes import device_holders, facts_of
from eagle_eye.collector.forensics.replay import replay
from eagle_eye.collector.forensics.report import report
from eagle_eye.collector.forensics.timeline import timeline
from eagle_eye.collector.forensics.triggers import Policy, Triggers, pids_in
from eagle_eye.collector.forensics.writer import write
from eagle_eye.collector.recorder.steps import packed_steps
from eagle_eye.collector.recorder.store import Store
from eagle_eye.native.errors import EagleEyeError, UsageError
from eagle_eye.probes.decode.grammar import decode
from eagle_eye.probes.faults import make_fault
from eagle_eye.probes.model import Event, Incident, IncidentPart

SECOND = 10**9
NOW = 1000 * SECOND
OFFSET = 1_800_000_000 * SECOND
GPU = "GPU-5e1ec7ed-0100-4000-8000-000000000000"
BDF = "0000:9b:00.0"
XID = "NVRM: Xid (PCI:0000:9b:00): 79, pid=4711, name=python3, GPU has fallen off the bus."
SECRET = "hf_abcdefghijklmnopqrstuvwxyzABCDEF"


def event(kind, at_ns, number, severity="info", entity="host", **attributes):
    return Event(f"boot:test:{number}", kind, at_ns, OFFSET, "n", "boot", entity, severity, attributes)


def snapshot(number, at_ns, **more):
    hot = 90.0 if number == 15 else 60.0 + number % 2
    values = {
        "eagle_eye_device_temperature_celsius": hot,
        'eagle_eye_device_pcie_errors_total{kind="fatal"}': number // 10,
    }
    device = {"vendor": "nvidia", "index": 0, "uuid": GPU, "pci_bdf": BDF, "driver": "570.86.15", "model": "H100"}
    return {
        "node": "n", "cluster": "c", "boot_id": "boot", "agent": "a", "seq": number, "at_ns": at_ns,
        "wall_offset_ns": OFFSET, "interval_ns": SECOND, "host": [],
        "health": [{"probe": "kmsg", "state": "ok" if number < 12 else "failing", "reason": "gone"}],
        "devices": [device],
        "device_readings": [{"entity": GPU, "probe": "devices", "at_ns": at_ns, "values": values}], **more,
    }  # fmt: skip


def xid_fault(text=XID):
    return make_fault(
        decode(text), at_ns=NOW, source="kmsg", driver="570.86.15", event_id="boot:kmsg:7", uuids={BDF: GPU}
    )


def fault_event(fault, **changed):
    attributes = msgspec.to_builtins(fault)
    own = {name: attributes.pop(name, None) for name in ("id", "at_ns", "entity", "severity")}
    return event("nvidia.xid", NOW, 8, **{"severity": own["severity"], "entity": GPU, **attributes, **changed})


@pytest.fixture
def recording(tmp_path):
    """Twenty seconds around an Xid, in a recorder's folder; `recording(events=…)` records these instead."""

    def make(events=None):
        store = Store(
            tmp_path / "recorder", limit_bytes=2**26, keep_ns=10**15, about={"boot_id": "boot", "encoding": "json"}
        )
        kernel = event("kmsg.record", NOW - 2_000_000, 7, "error", text=XID, level="err", log_time_ns=NOW, sequence=7)
        told = [
            kernel,
            fault_event(xid_fault()),
            event("process.exec", NOW - 5 * SECOND, 9, task="sh", pid=12, filename=f"/bin/x --api-key {SECRET}"),
        ]
        told = told if events is None else events
        steps = np.zeros(40, [("start_ns", "<i8"), ("end_ns", "<i8"), ("running", "<i4")])
        steps["start_ns"] = NOW - np.arange(40)[::-1] * 100_000_000
        steps["end_ns"] = steps["start_ns"] + 20_000_000
        steps["end_ns"][30] += 900_000_000
        moments = [(n, NOW + (n - 10) * SECOND) for n in range(20)]
        gone = {"instance": "i", "engine": "vllm", "at_ns": NOW + SECOND, "kind": "gone", "source": "shm"}
        batches = {
            "snapshot": [(at_ns, msgspec.json.encode(snapshot(n, at_ns))) for n, at_ns in moments],
            "event": [(one.at_ns, msgspec.json.encode(one)) for one in told],
            "engine": [(NOW, msgspec.json.encode([gone]))],
            "step": [(NOW, packed_steps({"engine": "vllm", "dp_rank": 0}, steps))],
        }
        store.write(batches)
        store.close()
        return tmp_path / "recorder"

    return make


@pytest.fixture
def bundle(recording, tmp_path):
    """`bundle(events=…)` freezes the recording; the bundle as it is loaded again."""

    def make(events=None, **changed):
        trigger = Trigger("nvidia.xid 79", "incident.opened", "fatal", GPU, "boot:incidents:1", "c", (os.getpid(),))
        order = Order(
            id=f"20260101T000000Z-test{len(list(tmp_path.glob('forensics/*')))}", home=str(tmp_path / "forensics"),
            recorder=str(recording(events)), trigger=trigger, node="n", cluster="c", boot_id="boot", at_ns=NOW,
            wall_offset_ns=OFFSET, before_ns=8 * SECOND, after_ns=5 * SECOND,
            config=({"key": "nats.url", "value": "nats://u:hunter2xyz@h:4222"},), live=False,
        )  # fmt: skip
        return load_folder(Path(write(msgspec.structs.replace(order, **changed), lambda _: None).folder))

    return make


def test_the_window_is_frozen_in_order_and_without_secrets(bundle):
    frozen = bundle()
    lines = list(frozen.lines())

    assert [line.at_ns for line in lines] == sorted(line.at_ns for line in lines)
    assert frozen.manifest.counts == {"snapshot": 14, "event": 3, "engine": 1, "step": 1}
    assert all(NOW - 8 * SECOND <= line.at_ns <= NOW + 5 * SECOND for line in lines)
    assert "unreadable" not in {line.kind for line in lines}
    assert frozen.manifest.incomplete == ()
    everything = b"".join(frozen.files.values()) + msgspec.json.encode([line.data for line in lines])
    assert SECRET.encode() not in everything
    assert b"hunter2xyz" not in everything
    assert frozen.manifest.versions["kernel"] == os.uname().release
    assert all(len(digest) == 64 for digest in frozen.manifest.hashes.values())


def test_a_recording_in_messagepack_gives_the_same_lines(tmp_path):
    told = event("process.exec", NOW, 1, task="sh", pid=1, filename=f"/bin/x --token {SECRET}")
    about = {"boot_id": "boot", "encoding": "msgpack"}
    store = Store(tmp_path / "recorder", limit_bytes=2**26, keep_ns=10**15, about=about)
    store.write({"event": [(NOW, msgspec.msgpack.encode(told))]})
    store.close()
    copy = Copy(tmp_path / "recorder", "boot", NOW - SECOND, NOW + SECOND)
    copy.write(tmp_path / "out")
    (line,) = zstandard.decompress((tmp_path / "out").read_bytes(), 2**20).splitlines()

    data = json.loads(line)["data"]
    assert data["attributes"] == {"task": "sh", "pid": 1, "filename": "/bin/x --token ***"}
    assert msgspec.convert(data, Event).id == told.id


def test_what_is_farthest_from_the_trigger_goes_first(bundle, monkeypatch):
    told = [event("kmsg.record", NOW + at * 100_000_000, at + 50, "error", text="x" * 500) for at in range(-40, 40)]
    monkeypatch.setattr(copying, "OTHER_BYTES", 40_000)
    frozen = bundle(told)
    kept = [line.at_ns for line in frozen.lines() if line.kind == "event"]

    assert kept == [one.at_ns for one in told][-len(kept) :]
    assert NOW in kept
    assert f"the first {80 - len(kept)} records did not fit" in str(frozen.manifest.incomplete)
    assert frozen.manifest.counts["event"] == len(kept)


def test_a_bundle_of_a_boot_that_is_over_says_that_its_devices_were_simulated(recording, bundle, tmp_path):
    assert not bundle().manifest.simulated
    store = Store(
        tmp_path / "recorder", limit_bytes=2**26, keep_ns=10**15, about={"boot_id": "boot", "encoding": "json"}
    )
    devices = [{"vendor": "nvidia", "index": 0, "uuid": GPU, "simulated": True}]
    store.write({"snapshot": [(NOW, msgspec.json.encode(snapshot(1, NOW) | {"devices": devices}))]})
    store.close()

    order = Order(
        id="20260101T000000Z-simulated", home=str(tmp_path / "forensics"), recorder=str(tmp_path / "recorder"),
        trigger=Trigger("t", "recorder.previous_boot"), node="n", cluster="c", boot_id="boot", at_ns=NOW,
        wall_offset_ns=OFFSET, before_ns=SECOND, after_ns=SECOND, live=False,
    )  # fmt: skip
    assert load_folder(Path(write(order, lambda _: None).folder)).manifest.simulated


def test_the_process_that_writes_is_nice():
    with subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        ends = time.monotonic() + 20
        while os.getpriority(os.PRIO_PROCESS, process.pid) < NICE:
            assert time.monotonic() < ends
            time.sleep(0.01)
        process.communicate(b"no order")
    assert process.returncode == 1


def test_what_is_missing_is_said(bundle, tmp_path):
    frozen = bundle(boot_id="another")

    assert frozen.manifest.incomplete == ("no snapshot of that time was recorded",)


def test_the_timeline_tells_what_stands_out(bundle):
    told = [(entry.kind, entry.entity, entry.text) for entry in timeline(bundle())]
    kinds = {kind for kind, _, _ in told}

    assert {"kmsg.record", "nvidia.xid", "process.exec", "engine.state", "engine.slow_step"} <= kinds
    assert ("probe.state", "host", "kmsg went from ok to failing: gone") in told
    assert any(kind == "counter" and "pcie_errors" in text and entity == GPU for kind, entity, text in told)
    assert [kind for kind, _, text in told if "is 90" in text] == ["outlier"]
    assert len([1 for kind, _, _ in told if kind == "engine.slow_step"]) == 1


def members(path):
    with zstandard.open(path, "rb") as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        return {member.name.rpartition("/")[2]: tar.extractfile(member).read() for member in tar}


def test_an_export_is_read_by_its_readers_and_is_the_same_twice(bundle, tmp_path):
    frozen = bundle()
    archive.export(frozen, tmp_path / "a.tar.zst", force=False)
    archive.export(frozen, tmp_path / "b.tar.zst", force=False)
    files = members(tmp_path / "a.tar.zst")

    assert (tmp_path / "a.tar.zst").read_bytes() == (tmp_path / "b.tar.zst").read_bytes()
    lines = [json.loads(line) for line in files["records.jsonl"].splitlines()]
    assert len(lines) == sum(frozen.manifest.counts.values())
    check_trace(json.loads(files["trace.json"]))
    report = files["report.md"].decode()
    assert [line for line in report.splitlines() if line.startswith("## ")] == [
        "## What", "## When", "## Cause", "## Action", "## Evidence", "## Timeline",
    ]  # fmt: skip
    assert "has fallen off the bus" in report
    assert "- device at +0.000 s: temperature_celsius 60" in report
    assert len(report) < 16_000
    with pytest.raises(UsageError, match="already"):
        archive.export(frozen, tmp_path / "a.tar.zst", force=False)
    archive.export(frozen, tmp_path / "a.tar.zst", force=True)


def check_trace(trace):
    """The rules of the Trace Event Format, as its readers need them."""
    assert trace["displayTimeUnit"] in ("ms", "ns")
    named = {one["pid"] for one in trace["traceEvents"] if one["ph"] == "M" and one["name"] == "process_name"}
    phases = set()
    for one in trace["traceEvents"]:
        phases.add(one["ph"])
        assert isinstance(one["pid"], int)
        assert isinstance(one["tid"], int)
        assert one["pid"] in named
        if one["ph"] == "M":
            assert one["args"]["name"]
            continue
        assert isinstance(one["ts"], int | float)
        assert one["ts"] >= 0
        assert one["name"]
        if one["ph"] == "X":
            assert one["dur"] >= 0
        elif one["ph"] == "i":
            assert one["s"] in ("g", "p", "t")
        else:
            assert one["ph"] == "C"
            assert all(isinstance(value, int | float) for value in one["args"].values())
    assert phases == {"M", "X", "i", "C"}


def test_an_archive_is_a_bundle_again(bundle, tmp_path):
    frozen = bundle()
    archive.export(frozen, tmp_path / "a.tar.zst", force=False)
    again = archive.load(tmp_path / "a.tar.zst")

    assert again.manifest == frozen.manifest
    assert list(again.lines()) == list(frozen.lines())
    assert timeline(again) == timeline(frozen)


def test_a_report_obeys_nothing_in_foreign_text(bundle):
    evil = "```\n# x\n[click](http://evil) <script>"
    frozen = bundle([event("kmsg.record", NOW, 1, "error", text=evil, level="err")], trigger=Trigger(evil, "request"))
    text = report(frozen, timeline(frozen))

    assert text.count("```") == 2
    assert "[click]" not in text.partition("```")[0]
    assert "<script>" not in text.partition("```")[0]


# Archives of somebody else


def forged(path, *files, kind=tarfile.REGTYPE):
    with (
        zstandard.open(path, "wb") as stream,
        tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, body in files:
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = (
                len(body),
                kind,
                "/etc/passwd" if kind != tarfile.REGTYPE else "",
            )
            tar.addfile(member, io.BytesIO(body))
    return path


def manifest(frozen):
    return frozen.files["manifest.json"]


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "x/../manifest.json",
        "x/y/manifest.json",
        "x/evil.sh",
        "x" * 300 + "/manifest.json",
    ],
)
def test_a_forged_archive_is_refused(tmp_path, name, bundle):
    body = manifest(bundle())
    with pytest.raises(EagleEyeError, match=r"refused|no bundle"):
        archive.load(forged(tmp_path / "f.tar.zst", (name, body)))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_an_archive_holds_plain_files_only(tmp_path, kind):
    with pytest.raises(EagleEyeError, match="refused"):
        archive.load(forged(tmp_path / "f.tar.zst", ("x/manifest.json", b""), kind=kind))


def test_a_bomb_is_refused_before_it_goes_off(tmp_path):
    member = tarfile.TarInfo("x/manifest.json")
    member.size = 2**40
    path = tmp_path / "f.tar.zst"
    compressor = zstandard.ZstdCompressor(level=1)
    with path.open("wb") as file, compressor.stream_writer(file) as stream:
        stream.write(member.tobuf(tarfile.GNU_FORMAT))
        for _ in range(64):
            stream.write(bytes(2**20))

    with pytest.raises(EagleEyeError, match="larger"):
        archive.load(path)


@pytest.mark.parametrize("body", [b"", b"no archive", zstandard.ZstdCompressor().compress(b"x" * 5000)])
def test_garbage_is_refused(tmp_path, body):
    path = tmp_path / "f.tar.zst"
    path.write_bytes(body)

    with pytest.raises(EagleEyeError, match="refused"):
        archive.load(path)


def test_a_cut_or_twisted_archive_is_refused_or_read(bundle, tmp_path):
    path = tmp_path / "a.tar.zst"
    archive.export(bundle(), path, force=False)
    whole = path.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 60)):
        for body in (whole[:at], whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :]):
            path.write_bytes(body)
            with contextlib.suppress(EagleEyeError):
                timeline(archive.load(path))


STRANGE = [
    b"[]",
    b"{}",
    b'{"kind":"event","at_ns":1}',
    b'{"kind":"event","at_ns":1,"data":[]}',
    b'{"kind":"snapshot","at_ns":1,"data":{"health":5}}',
    b'{"kind":"kmsg","at_ns":1,"data":[5]}',
    b'{"kind":"step","at_ns":1,"data":{"engine":"e","columns":["start_ns"],"rows":[[1]]}}',
    b'{"kind":"x","at_ns":1,"data":1}',
]


@pytest.mark.parametrize("line", STRANGE)
def test_records_of_no_known_shape_are_told_or_refused(bundle, tmp_path, line):
    frozen = bundle()
    path = forged(tmp_path / "f.tar.zst", ("x/manifest.json", manifest(frozen)), ("x/records.jsonl", line + b"\n"))
    try:
        entries = timeline(archive.load(path))
    except EagleEyeError:
        return
    assert [entry.kind for entry in entries] == ["unreadable"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = [
    "data",
    "kind",
    "at_ns",
    "attributes",
    "incidents",
    "devices",
    "health",
    "device_readings",
    "values",
    "rows",
    "columns",
    "text",
    "level",
    "log_time_ns",
    "code",
    "severity",
    "parts",
    "family",
    "threads",
    "pid",
    "driver",
    "topology",
    "engine",
]


def twisted(value, field, other):
    """The same with `other` wherever a member is called `field`."""
    if isinstance(value, dict):
        return {key: other if key == field else twisted(one, field, other) for key, one in value.items()}
    return [twisted(one, field, other) for one in value] if isinstance(value, list) else value


INCIDENT = {
    "id": "i", "node": "n", "entity": GPU, "family": "nvidia.xid", "code": "79", "mnemonic": "m", "severity": "fatal",
    "action": "drain", "state": "open", "opened_wall_ns": 1, "updated_wall_ns": 1, "parts": [], "occurrences": 1,
}  # fmt: skip


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.sampled_from(FIELDS), other=JSON)
def test_twisted_bundles_are_read_or_refused_and_nothing_else(whole, field, other):
    lines = [twisted(msgspec.to_builtins(line), field, other) for line in whole.lines()]
    facts = twisted([[{"pid": 1, "threads": [{"tid": 1, "state": "D", "stack": "x"}]}]], field, other)
    records = b"\n".join(msgspec.json.encode(line) for line in lines)
    files = {"records.jsonl.zst": zstandard.compress(records), "processes.json": msgspec.json.encode(facts)}
    bundle = Bundle(whole.manifest, {**whole.files, **files}, 1)
    for reader in (replay, lambda one: report(one, timeline(one)), lambda one: trace(one, timeline(one))):
        with contextlib.suppress(EagleEyeError):
            reader(bundle)


@pytest.fixture
def whole(bundle):
    """A bundle with an incident in it."""
    kernel = event("kmsg.record", NOW - 1, 7, "error", text=XID, level="err", log_time_ns=NOW, sequence=7)
    opened = msgspec.structs.replace(event("incident.opened", NOW, 9, "fatal", GPU), attributes=INCIDENT)
    return bundle([kernel, fault_event(xid_fault()), opened])


# Replay


def test_the_same_rules_say_the_same(bundle):
    found = replay(bundle())

    assert [(one.what, one.family, one.code, one.entity) for one in found if one.what == "fault"] == [
        ("fault", "nvidia.xid", "79", GPU)
    ]
    assert all(one.same for one in found if one.what == "fault")


@pytest.mark.parametrize(
    ("events", "then", "today"),
    [
        (lambda kernel: [kernel], None, "fatal"),
        (lambda kernel: [fault_event(xid_fault())], "fatal", None),
        (lambda kernel: [kernel, fault_event(xid_fault(), severity="warning")], "warning", "fatal"),
    ],
)
def test_other_rules_differ(bundle, events, then, today):
    kernel = event("kmsg.record", NOW - 1, 7, "error", text=XID, level="err", log_time_ns=NOW, sequence=7)
    (fault,) = [one for one in replay(bundle(events(kernel))) if one.what == "fault"]

    assert not fault.same
    assert (fault.then and fault.then["severity"], fault.today and fault.today["severity"]) == (then, today)


def test_an_incident_is_compared_as_it_was_told_last(bundle):
    fallen = f"NVRM: GPU {BDF}: GPU has fallen off the bus."
    first = {"family": "nvidia.fallen", "code": "fallen_off_bus", "severity": "fatal", "action": "reboot_node"}
    last = {"family": "nvidia.xid", "code": "79", "severity": "fatal", "action": "reboot_node"}
    last["mnemonic"] = xid_fault().mnemonic
    lines = [
        event("kmsg.record", NOW - at, 7 + at, "error", text=text, level="err", log_time_ns=NOW - at, sequence=9 - at)
        for at, text in ((1, fallen), (0, XID))
    ]
    told = [
        msgspec.structs.replace(
            event(f"incident.{change}", NOW, 20 + at, entity=GPU), attributes={"entity": GPU, **attributes}
        )
        for at, (change, attributes) in enumerate(
            [
                ("opened", {"id": "a", **first}),
                ("opened", {"id": "b", **last, "entity": "pci:other"}),
                ("cleared", {"id": "b", **last, "entity": "pci:other", "cleared_by": "merged into a"}),
                ("updated", {"id": "a", **last}),
            ]
        )
    ]

    found = [one for one in replay(bundle([*lines, *told])) if one.what == "incident"]

    assert [(one.entity, one.code, one.same) for one in found] == [(GPU, "79", True)]


def test_an_incident_from_before_the_window_is_no_difference(bundle):
    old = {"id": "a", "entity": "pci:other", "family": "nvidia.xid", "code": "48", "opened_wall_ns": 1}
    told = event("incident.cleared", NOW, 20, entity="pci:other")

    assert replay(bundle([msgspec.structs.replace(told, attributes=old)])) == []


def test_faults_are_decoded_again_under_the_driver_of_then(bundle):
    text = f"NVRM: Xid (PCI:{BDF}): 149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 08 (0x000026c2 0x0 0x0 0x0 0x0 0x0)"
    then = make_fault(
        decode(text), at_ns=NOW, source="kmsg", driver="535.104", event_id="boot:kmsg:7", uuids={BDF: GPU}
    )
    kernel = event("kmsg.record", NOW - 1, 7, "error", text=text, level="err", log_time_ns=NOW, sequence=7)
    (fault,) = [one for one in replay(bundle([kernel, fault_event(then)])) if one.what == "fault"]

    assert fault.same


def test_a_report_says_on_which_device_what_was_told(bundle):
    xids = (("149", "cause", GPU, 1), ("45", "victim", "GPU-other", 3))
    parts = tuple(
        IncidentPart("nvidia.xid", code, role, "f", entity, count, 1, 1) for code, role, entity, count in xids
    )
    common = {"mnemonic": "", "severity": "error", "action": "none", "state": "open", "occurrences": 4}
    one = Incident("a", "n", GPU, "nvidia.xid", "149", **common, opened_wall_ns=1, updated_wall_ns=1, parts=parts)
    told = event("incident.opened", NOW, 1, entity=GPU)
    frozen = bundle([msgspec.structs.replace(told, attributes=msgspec.to_builtins(one))])

    text = report(frozen, timeline(frozen))

    assert "- cause: `nvidia.xid` `149`, told once by ?" in text
    assert "- victim: `nvidia.xid` `45` on `GPU-other`, told 3 times by ?" in text


# The command


def test_the_command_lists_shows_exports_and_replays(bundle, tmp_path, capsys):
    bundle()
    state = ["--state-dir", str(tmp_path)]

    assert main(["forensics", "list", *state]) == 0
    assert "nvidia.xid 79" in capsys.readouterr().out
    assert main(["forensics", "show", "last", "--since", "1s", "--until", "1s", *state]) == 0
    shown = capsys.readouterr().out
    assert "fallen off the bus" in shown
    assert "process.exec" not in shown
    assert main(["forensics", "show", "last", "-j", *state]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert min(row["seconds"] for row in rows) < 0 < max(row["seconds"] for row in rows)
    assert main(["forensics", "export", "last", "-o", str(tmp_path / "x.tar.zst"), *state]) == 0
    assert (tmp_path / "x.tar.zst").stat().st_mode & 0o077 == 0
    assert main(["forensics", "export", "last", "-o", str(tmp_path / "none/x.tar.zst"), *state]) == 2
    # The recording has no incident, today's rules make one.
    assert main(["forensics", "replay", str(tmp_path / "x.tar.zst"), *state]) == 1
    assert "only today incident nvidia.xid 79" in capsys.readouterr().out
    assert main(["forensics", "show", "nonsense", *state]) == 2


def test_without_an_agent_the_end_of_the_recording_is_frozen(recording, tmp_path, capsys):
    recording()

    assert main(["forensics", "freeze", "--reason", "Looks odd", "--state-dir", str(tmp_path)]) == 0
    name = capsys.readouterr().out.strip()
    assert name.endswith("-looks-odd")
    assert load_folder(tmp_path / "forensics" / name).manifest.counts["snapshot"] == 20


def test_without_a_black_box_it_says_so(tmp_path):
    with pytest.raises(UsageError, match="no black box"):
        command._freeze(None, tmp_path)


# Triggers and bounds


def opened(number, severity="error", family="nvidia.xid", **attributes):
    return event("incident.opened", number, number, severity, GPU, family=family, code="79", **attributes)


def test_incidents_of_the_severity_and_family_are_triggers():
    triggers = Triggers(Policy("error", ("nvidia.", "pcie."), 0, 100))

    assert triggers.judge(opened(1), 1).cause == f"{GPU}:nvidia.xid:79"
    assert triggers.judge(opened(2, "warning"), 2) is None
    assert triggers.judge(opened(3, family="storage"), 3) is None
    assert triggers.judge(event("device.call_stuck", 4, 4, "error", GPU), 4) is not None
    assert triggers.judge(event("process.exit", 5, 5, "error"), 5) is None


def test_one_cause_cools_down_and_an_hour_has_a_budget():
    triggers = Triggers(Policy("error", (), 600 * SECOND, 3))
    granted = [triggers.judge(opened(n, family=f"f{n % 5}"), n * SECOND) is not None for n in range(20)]

    assert sum(granted) == 3
    assert triggers.refused["cool_down"] + triggers.refused["budget"] == 17
    assert triggers.judge(opened(1, family="late"), 4000 * SECOND) is not None


def test_what_a_bundle_will_hold_anyway_is_no_reason_unless_it_is_worse():
    triggers = Triggers(Policy("warning", (), 0, 100))
    triggers.cover(10, "error")

    assert triggers.judge(opened(5, family="a"), 5) is None
    assert triggers.judge(opened(6, "fatal", family="b"), 6) is not None
    assert triggers.judge(opened(11, family="a"), 11) is not None
    assert triggers.refused == {"same_window": 1}


def test_processes_that_an_event_names():
    assert pids_in({"pid": 3, "parts": [{"pid": 4}, {"worker_pids": [5, 6]}], "x": "7", "ran_instead": {"pid": 8}}) == [
        3,
        4,
        5,
        6,
        8,
    ]


def test_the_oldest_bundles_make_room(tmp_path):
    for number in range(10):
        folder = tmp_path / f"2026010{number}T000000Z-x"
        folder.mkdir()
        (folder / "manifest.json").write_bytes(b"x" * 1000)
    shelf.make_room(tmp_path, most=8, limit_bytes=10**6, spare_bytes=0)
    assert len(list(tmp_path.iterdir())) == 7
    shelf.make_room(tmp_path, most=8, limit_bytes=5500, spare_bytes=1000)

    assert sorted(path.name[:8] for path in tmp_path.iterdir()) == [f"2026010{number}" for number in range(6, 10)]


def test_a_name_tells_no_secret(tmp_path):
    assert shelf.new_id(tmp_path, f"slow token={SECRET}", 0) == "19700101T000000Z-slow-token"


def test_requests_are_taken_once_and_garbage_is_thrown_away(tmp_path):
    done = shelf.ask(tmp_path, shelf.Request("why", (3,)))
    (tmp_path / "requests" / f"{'a' * 32}.json").write_bytes(b"{garbage")
    (found,) = shelf.requests(tmp_path)
    shelf.answer(found[0], b"answer")

    assert found == (done, shelf.Request("why", (3,)))
    assert list(shelf.requests(tmp_path)) == []
    assert [path.name for path in (tmp_path / "requests").iterdir()] == [done.name]
    assert done.read_bytes() == b"answer"


# Facts of processes


def test_facts_of_a_real_process():
    (facts,) = facts_of(Path("/proc"), [os.getpid()])

    assert facts["exists"]
    assert facts["threads_total"] >= 1
    assert {"state", "wchan", "stack", "comm"} <= set(facts["threads"][0])
    assert "VmRSS" in facts["status"]
    assert facts["cmdline"]


def test_a_process_that_is_gone_is_a_fact_too():
    assert [one["exists"] for one in facts_of(Path("/proc"), [2**22 + 1])] == [False]


def test_a_process_that_hangs_whoever_asks_costs_its_deadline_only(tmp_path, monkeypatch):
    monkeypatch.setattr(processes_module, "DEADLINE_S", 0.2)
    folder = tmp_path / "7"
    (folder / "task/7").mkdir(parents=True)
    (folder / "comm").write_text("stuck\n")
    os.mkfifo(folder / "cmdline")
    started = time.monotonic()
    (facts,) = facts_of(tmp_path, [7])
    threading.Thread(target=lambda: (folder / "cmdline").open("wb").close(), daemon=True).start()

    assert facts["comm"] == "stuck"
    assert facts["not_told_in_time"] == "cmdline"
    assert time.monotonic() - started < 10


def test_holders_of_devices_are_found(tmp_path):
    (tmp_path / "42/fd").mkdir(parents=True)
    (tmp_path / "42/fd/3").symlink_to("/dev/nvidia0")
    (tmp_path / "43/fd").mkdir(parents=True)
    (tmp_path / "43/fd/3").symlink_to("/dev/nvidiactl")
    (tmp_path / "44/fd").mkdir(parents=True)
    (tmp_path / "44/fd/9").symlink_to("/dev/davinci7")

    assert device_holders(tmp_path) == [42, 44]
