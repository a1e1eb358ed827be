"""The incident engine: repeats, sources, ends, bounds, events, and what survives a restart."""

import random
import re
import sys
import time
from functools import partial
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eagle_eye.collector.incidents import book, engine
from eagle_eye.collector.incidents.merge import MAX_KEYS, Merger
from eagle_eye.collector.incidents.places import canonical
from eagle_eye.collector.incidents.rules import load
from eagle_eye.collector.incidents.selectors import Codes
from eagle_eye.native.errors import UsageError
from eagle_eye.probes.catalogue.lookup import look_up
from eagle_eye.probes.decode.family import Decoded
from eagle_eye.probes.model import Device, Event, Fault, Incident
from eagle_eye.probes.probe import Sample

sys.path.insert(0, str(Path(__file__).parent))
from story import RULES, SECOND_NS, WALL_OFFSET_NS, Node, another, incidents_in, kinds, only, shape, xid


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path, {})


@pytest.fixture
def incidents(tmp_path):
    """The incidents of a machine, from the same state folder each time."""
    return partial(incidents_in, tmp_path)


# Codes and addresses.


@pytest.mark.parametrize(
    ("text", "family", "code", "matches"),
    [
        ("nvidia.xid 43 45", "nvidia.xid", "45", True),
        ("nvidia.xid 43 45", "nvidia.xid", "44", False),
        ("nvidia.xid 144-150", "nvidia.xid", "150", True),
        ("nvidia.xid 144-150", "nvidia.xid", "151", False),
        ("nvidia.xid 144-150", "nvidia.xid", "1\u06650", False),
        ("nvidia.xid", "nvidia.xid", "7", True),
        ("nvidia.xid", "nvidia.sxid", "7", False),
        ("ascend.*", "ascend.device_log", "0x1", True),
        ("ascend.* 0x2", "ascend.device_log", "0x1", False),
    ],
)
def test_a_selector_matches_its_codes_alone(text, family, code, matches):
    assert Codes(text).match(family, code) is matches


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("0000:9B:00", "0000:9b:00.0"),
        ("00000000:9B:00.0", "0000:9b:00.0"),
        ("9b:00.3", "0000:9b:00.3"),
        ("host", ""),
        ("GPU-1", ""),
        ("0000:9b:00.9", ""),
    ],
)
def test_addresses_have_one_form(written, meant):
    assert canonical(written) == meant


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ("window: 2s", "window: soon", "no duration"),
        ("role: victim", "role: culprit", "culprit"),
        ("scope: peer", "scope: galaxy", "galaxy"),
        ("action: replace", "action: explode", "explode"),
        ("lead: 2s", "laed: 2s", "laed"),
    ],
)
def test_a_mistake_in_the_rules_is_named(before, after, named):
    text = (Path(engine.__file__).parent / "rules.yaml").read_text()

    with pytest.raises(UsageError, match=named):
        load(text.replace(before, after, 1))


CODES = {"cause", "effect", "by", "clears", "of", "ends", "primary"}


def _texts(value, name=""):
    """Every text of the rules that names codes."""
    if isinstance(value, str):
        yield from [value] if name in CODES else []
    elif isinstance(value, dict):
        yield from (text for key, inner in value.items() for text in _texts(inner, key))
    elif isinstance(value, list):
        yield from (text for inner in value for text in _texts(inner, name))


def test_the_rules_speak_of_codes_that_the_catalogue_knows():
    raw = yaml.safe_load((Path(engine.__file__).parent / "rules.yaml").read_text())
    families = {"ascend.*": "ascend.device_log", "nic.*": "nic.mlx5"}
    named = [
        (families.get(family, family), code)
        for text in _texts(raw)
        for family, *codes in [text.split()]
        for code in codes
        if not re.fullmatch(r"\d+-\d+", code)
    ]

    unknown = [one for one in named if not look_up(Decoded(*one)).known]

    assert len(named) > 150
    assert unknown == []


# One fault, several sources.


def test_two_sources_of_one_fault_are_one_fault_in_one_incident(node):
    node.take(xid(79, 100.0, fields={"message": "GPU has fallen off the bus."}))
    node.take(xid(79, 100.3, source="nvml", subcode="", driver="595.45"))

    part = only(node.engine.book.open.values()).primary
    assert (part.count, part.sources) == (1, ("kmsg", "nvml"))
    assert (node.told, node.merged) == (1, 1)


def test_the_library_may_be_first_and_by_another_name_of_the_device(tmp_path):
    node = Node(tmp_path, {"devices": {"0000:01:00.0": "GPU-1"}})
    node.places.learn([Device(vendor="nvidia", index=0, uuid="MIG-7", parent_uuid="GPU-1", kind="mig")])

    node.take(xid(31, 99.9, source="nvml", entity="MIG-7", address=""))
    node.take(xid(31, 100.0))

    record = only(node.engine.book.open.values())
    assert (record.primary.place.entity, record.primary.count) == ("GPU-1", 1)


def test_subcodes_tell_faults_apart_only_where_both_sources_have_one(node):
    node.take(xid(145, 100.0, subcode="3"))
    node.take(xid(145, 100.1, source="tracepoint"))
    node.take(xid(145, 100.2, source="nvml", subcode="4"))

    assert node.told == 2


def test_each_of_many_is_matched_once():
    merger = Merger(RULES.merge.window)
    folded = xid(31, 100.0, count=5)

    new = merger.new("e", folded)
    again = [merger.new("e", xid(31, 100.0 + at / 10, source="nvml")) for at in range(7)]

    assert (new, again) == (5, [0, 0, 0, 0, 0, 1, 1])


def test_log_and_library_of_an_npu_tell_one_fault(tmp_path):
    node = Node(tmp_path, {})
    npu = Device(vendor="ascend", index=5, uuid="NPU-5", pci_bdf="0000:c1:00.0", kind="npu")
    told = {"phase": "occurrence", "address": ""}
    node.take(xid("0x80E01801", 100.0, family="ascend.event", entity="npu:5", **told))
    uuids = node.places.learn([npu])
    node.merger.rename(uuids)
    node.engine.rename(uuids)
    node.take(xid("0x80E01801", 100.2, family="ascend.event", entity="NPU-5", source="dcmi", **told))

    record = only(node.engine.book.open.values())
    assert (record.primary.key[0], record.primary.count) == ("NPU-5", 1)
    assert (record.primary.family, record.primary.sources) == ("ascend.event", ("dcmi", "kmsg"))

    node.take(
        xid("0x80E01801", 300.0, family="ascend.event", entity="NPU-5", source="dcmi", phase="recovery", address="")
    )
    assert record.cleared_by == "recovery"


def test_a_counter_that_is_read_seconds_later_counts_nothing_twice():
    merger = Merger(RULES.merge.window)
    line = xid("SDES", 100.0, family="pcie.aer")
    counter = xid("SDES", 104.9, family="pcie.aer", source="sysfs", fields={"since_ns": round(99.9 * SECOND_NS)})
    later = xid("SDES", 109.9, family="pcie.aer", source="sysfs", fields={"since_ns": round(104.9 * SECOND_NS)})

    assert [merger.new("e", fault) for fault in (line, counter, later)] == [1, 0, 1]


def test_another_time_is_another_fault():
    merger = Merger(RULES.merge.window)

    assert [merger.new("e", xid(31, at, source=source)) for at, source in ((1, "kmsg"), (9, "nvml"))] == [1, 1]


@given(st.lists(st.tuples(st.sampled_from(["kmsg", "nvml", "tracepoint"]), st.integers(0, 1000)), max_size=60))
def test_no_source_alone_is_ever_merged_with_itself(tellings):
    merger = Merger(RULES.merge.window)

    counts = {}
    new = 0
    for source, at_ms in sorted(tellings, key=lambda one: one[1]):
        counts[source] = counts.get(source, 0) + 1
        new += merger.new("e", xid(31, 100 + at_ms / 1000, source=source))

    assert max(counts.values(), default=0) <= new <= len(tellings)


def test_the_memory_of_sources_is_bounded():
    merger = Merger(RULES.merge.window)
    for at in range(MAX_KEYS + 500):
        merger.new(f"entity {at}", xid(31, 100))

    assert len(merger._tellings) == MAX_KEYS


# An incident's life.


def test_repeats_are_counted_and_told_once_a_second(incidents):
    one = incidents()
    now_s = time.monotonic()

    events = [
        event
        for at in range(500)
        for event in one.take(Sample(faults=[xid(31, now_s + at / 1e4, number=at + 1, fields={"va": "0x1"})]))
    ]

    assert kinds(events) == ["nvidia.xid", "incident.opened"]
    assert only(one.open()).occurrences == 500
    assert kinds(one.tick()) == ["incident.updated"]
    assert kinds(one.tick()) == []


def test_a_fault_that_goes_on_is_told_again_every_ten_minutes_and_the_rest_counted(incidents):
    one = incidents()
    now_s = time.monotonic()

    told = [
        event
        for minute in range(0, 25, 4)
        for event in one.take(Sample(faults=[xid(31, now_s + 60 * minute, number=minute + 1)]))
        if event.kind == "nvidia.xid"
    ]

    assert [round((event.at_ns / SECOND_NS - now_s) / 60) for event in told] == [0, 12, 24]
    series = {one.metric.name: one.value for one in one.source().collect()}
    assert series["eagle_eye_fault_events_folded_total"] == 4


def test_disks_are_told_apart_and_are_no_accelerators(incidents):
    one = incidents()
    disks = [
        xid("block_io_error", time.monotonic(), address="", entity="host", family="storage", fields={"disk": name})
        for name in ("sda", "nvme0n1")
    ]

    events = one.take(Sample(faults=disks))

    assert [event.entity for event in events if event.kind == "storage"] == ["disk:sda", "disk:nvme0n1"]
    active = [series.labels for series in one.source().collect() if series.metric.name == "eagle_eye_fault_active"]
    assert active == [("", "", "", f"disk:{name}", "storage", "block_io_error") for name in ("sda", "nvme0n1")]


def test_the_event_of_an_incident_is_the_incident(incidents):
    one = incidents()

    fault, opened = one.take(Sample(faults=[xid(79, time.monotonic(), severity="fatal", action="reboot_node")]))

    incident = msgspec.convert(opened.attributes, Incident)
    assert (incident.code, incident.action, incident.severity) == ("79", "reboot_node", "fatal")
    assert fault.attributes["incident"] == incident.id
    assert fault.id == incident.parts[0].fault
    assert (fault.severity, fault.entity) == ("fatal", incident.entity)


def test_faults_that_differ_are_told_each_and_alike_ones_once(incidents):
    one = incidents()
    now_s = time.monotonic()

    events = [
        event
        for at in range(290)
        for event in one.take(Sample(faults=[xid(95, now_s + at / 1e3, number=at + 1, fields={"unit": at % 29})]))
    ]

    assert sum(kind == "nvidia.xid" for kind in kinds(events)) == 29


def test_a_victim_that_comes_first_is_given_its_cause(node):
    node.take(xid(45, 100.0, action="restart_application"))
    changes = node.take(xid(145, 100.1, severity="fatal", action="reset_device"))

    record = only(node.engine.book.open.values())
    assert [change.kind for change in changes] == ["updated"]
    assert changes[0].urgent
    assert (record.primary.code, record.action) == ("145", "reset_device")
    assert [part.role for part in record.parts] == ["cause", "victim"]


def test_what_is_far_apart_in_time_is_not_one_incident(node):
    node.take(xid(48, 100))
    node.take(xid(43, 1000))

    assert len(node.engine.book.open) == 2


def test_a_late_cause_joins_what_it_explains(node):
    node.take(xid(45, 100.0, address="0000:01:00.0", cause="145"))
    node.take(xid(45, 100.1, address="0000:02:00.0", cause="145"))
    assert len(node.engine.book.open) == 2

    changes = node.take(xid(145, 100.2, address="0000:03:00.0"))

    record = only(node.engine.book.open.values())
    assert [change.kind for change in changes] == ["cleared", "updated"]
    assert changes[0].record.cleared_by == f"merged into {record.id}"
    assert {(part.code, part.role) for part in record.parts} == {("145", "cause"), ("45", "victim")}


def test_the_driver_names_the_action_and_changes_its_mind(node):
    node.take(xid(79, 100.0, action="reboot_node", severity="fatal"))
    node.take(xid(154, 100.1, action="reset_device", fields={"to_action": 1}))
    record = only(node.engine.book.open.values())
    assert record.action == "reset_device"

    node.take(xid(154, 101.5, action="reboot_node", fields={"to_action": 2}))
    assert record.action == "reboot_node"

    node.take(xid(154, 200.0, action="none", phase="recovery", fields={"to_action": 0}))
    assert record.state == "cleared"


def test_a_reset_that_is_seen_ends_what_it_mends_and_nothing_else(incidents, tmp_path):
    one = incidents()
    now_s = time.monotonic()
    device = Device(vendor="nvidia", index=0, uuid="GPU-1", pci_bdf="0000:01:00.0")
    one.take(Sample(devices=[device]))
    one.take(Sample(faults=[xid(95, now_s, action="reset_device"), xid(64, now_s - 500, action="replace")]))
    went = Event("b:d:1", "device.vanished", 1, 0, "node", "boot", "GPU-1")
    came = Event("b:d:2", "device.appeared", 2, 0, "node", "boot", "GPU-1")

    assert "incident.cleared" not in kinds(one.take(Sample(events=[came])))
    events = one.take(Sample(events=[went, came]))

    assert kinds(events) == ["incident.cleared"]
    assert events[0].attributes["cleared_by"] == "the device went away and came back"
    assert [incident.code for incident in one.open()] == ["64"]


def test_occurrence_and_recovery(node):
    code, family = "0x80E18400", "ascend.device_log"
    node.take(xid(code, 100, family=family, phase="occurrence", severity="warning"))
    record = only(node.engine.book.open.values())
    node.engine.tick(round(1e6 * SECOND_NS), WALL_OFFSET_NS)
    assert record.state == "open", "silence does not end what recovery ends"

    node.take(xid(code, 200, family=family, phase="recovery", severity="info", action="none"))
    assert (record.state, record.cleared_by) == ("cleared", "recovery")

    node.take(xid(code, 300, family=family, phase="occurrence", severity="warning"))
    assert (record.state, record.reopened, len(node.engine.book.open)) == ("open", 1, 1)


def test_a_recovery_that_arrives_before_its_occurrence_counts(node):
    code, family = "0x80E18400", "ascend.device_log"
    node.take(xid(code, 200.1, family=family, phase="recovery", action="none"))
    changes = node.take(xid(code, 200.0, family=family, phase="occurrence"))

    assert [change.kind for change in changes] == ["opened", "cleared"]


def test_a_verdict_is_about_the_time_before_the_operator_cleared_it(node):
    node.take(xid(79, 100, severity="fatal", action="reboot_node"))
    node.take(xid(154, 101, severity="error", action="reset_device"))
    record = only(node.engine.book.open.values())
    assert record.action == "reset_device"
    node.engine.clear(record, "operator: replaced", 200 * SECOND_NS + WALL_OFFSET_NS)

    node.take(xid(79, 300, severity="fatal", action="reboot_node"))

    assert (record.state, record.reopened, record.action) == ("open", 1, "reboot_node")
    assert record.export("n", "c").occurrences == 3


def test_one_off_faults_end_by_silence_and_come_back_as_the_same(node):
    node.take(xid(13, 100, severity="warning", action="restart_application"))
    record = only(node.engine.book.open.values())

    assert node.engine.tick(200 * SECOND_NS, 200 * SECOND_NS + WALL_OFFSET_NS) == []
    node.engine.tick(800 * SECOND_NS, 800 * SECOND_NS + WALL_OFFSET_NS)
    assert (record.state, record.cleared_by) == ("cleared", "silence for 10 min")

    assert node.take(xid(13, 900))[0].kind == "reopened"
    assert record.reopened == 1


def test_long_after_its_end_it_is_another(node):
    node.take(xid(13, 100, severity="warning", action="restart_application"))
    first = only(node.engine.book.open.values())
    node.engine.tick(800 * SECOND_NS, 800 * SECOND_NS + WALL_OFFSET_NS)

    node.take(xid(13, 20_000))

    assert only(node.engine.book.open.values()).id != first.id


def test_too_often_is_worse_but_a_burst_is_one_occasion(node):
    unit = {"gpc": 1, "tpc": 3}
    for at in range(50):
        node.take(xid(13, 100 + at / 100, action="restart_application", fields=unit))
    record = only(node.engine.book.open.values())
    assert (record.action, record.escalated) == ("restart_application", "")

    node.take(xid(13, 200, fields=unit))
    node.take(xid(13, 300, fields={"gpc": 2, "tpc": 3}))
    assert record.escalated == ""
    changes = node.take(xid(13, 400, fields=unit))

    assert "escalated" in [change.kind for change in changes]
    assert (record.action, record.escalated) == ("reset_device", "illegal access in the same unit")


def test_what_the_vendor_wants_confirmed_stays_after_recovery(node):
    code, family = "0x80A18008", "ascend.device_log"
    for at in (100, 200):
        node.take(xid(code, at, family=family, phase="occurrence", action="reset_device"))
        node.take(xid(code, at + 50, family=family, phase="recovery", action="none"))

    record = only(node.engine.book.open.values())
    assert (record.sticky, record.escalated) == (True, "2 times in 24 h: ManuallySeparateNPU")
    node.engine.clear(record, "operator: replaced", WALL_OFFSET_NS)
    assert not node.engine.book.open


def test_codes_that_are_worse_together(node):
    family = "ascend.device_log"
    node.take(xid("0x81078603", 100, family=family, phase="occurrence", action="none"))
    node.take(xid("0x8C1F860B", 110, family=family, phase="occurrence", action="none"))

    record = only(node.engine.book.open.values())
    assert (record.primary.code, record.action) == ("0x81078603", "drain")
    assert record.escalated == "together with 0x81078603: Separate"


def test_a_device_gets_its_name_once_it_is_known(incidents):
    one = incidents()
    one.take(Sample(faults=[xid(31, time.monotonic())]))
    assert only(one.open()).entity == "pci:0000:01:00.0"

    one.take(Sample(devices=[Device(vendor="nvidia", index=3, uuid="GPU-3", pci_bdf="00000000:01:00.0")]))
    one.take(Sample(faults=[xid(31, time.monotonic(), source="nvml", entity="GPU-3", address="")]))

    incident = only(one.open())
    assert (incident.entity, incident.occurrences, incident.parts[0].sources) == ("GPU-3", 1, ("kmsg", "nvml"))


# Bounds.


def test_the_most_severe_stay_when_there_are_too_many(node, monkeypatch):
    monkeypatch.setattr(book, "MAX_OPEN", 10)
    for at in range(10):
        node.take(xid(1000 + at, 100 + at, severity="error"))

    changes = node.take(xid(2000, 200, severity="fatal"))
    assert [change.kind for change in changes] == ["cleared", "opened"]
    assert changes[0].record.primary.code == "1000"
    assert node.take(xid(2001, 201, severity="warning")) == []

    assert len(node.engine.book.open) == 10
    assert node.engine.dropped == {"displaced": 1, "too_many_open": 1}


def test_eight_hundred_thousand_faults_of_29_kinds(tmp_path):
    node = Node(tmp_path, {})
    distinct = [
        xid(95, 100, address=f"0000:{at % 8:02x}:00.0", fields={"unit": f"LTC {at}"}, severity="fatal")
        for at in range(29)
    ]
    most = 0
    for at in range(20_000):
        fault = another(distinct[at % 29], at_ns=100 * SECOND_NS + at * 40_000, count=40)
        node.take(fault)
        most = max(most, len(node.engine.book.open))

    assert most == 8 <= 29
    assert node.in_incidents == 800_000
    assert len(node.merger._tellings) == 8
    assert sum(map(len, node.merger._tellings.values())) <= 8 * 64


@given(
    told=st.lists(
        st.tuples(
            st.sampled_from([13, 31, 43, 45, 48, 63, 74, 79, 94, 95, 145, 149, 154]),
            st.integers(0, 3),
            st.integers(0, 999),
            st.sampled_from(["", "145", "149"]),
            st.sampled_from(["warning", "error", "fatal"]),
        ),
        max_size=14,
    ),
    seed=st.integers(0, 1 << 30),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_faults_within_a_second_make_the_same_incidents_in_any_order(tmp_path, told, seed):
    faults = [
        xid(code, 100 + at_ms / 1000, address=f"0000:0{device}:00.0", cause=cause, number=at + 1, severity=severity)
        for at, (code, device, at_ms, cause, severity) in enumerate(told)
    ]
    shuffled = list(faults)
    random.Random(seed).shuffle(shuffled)
    one, other = Node(tmp_path, {}), Node(tmp_path, {})
    for fault in faults:
        one.take(fault)
    for fault in shuffled:
        other.take(fault)

    assert shape(one) == shape(other)
    assert one.in_incidents == len(faults)


field = st.one_of(st.integers(-5, 1 << 40), st.text(max_size=8), st.none(), st.lists(st.integers(), max_size=3))


@given(
    st.lists(
        st.builds(
            Fault,
            id=st.text(max_size=30),
            at_ns=st.integers(0, 1 << 62),
            entity=st.one_of(st.sampled_from(["", "host", "pci:0000:01:00.0", "npu:3", "GPU-1"]), st.text(max_size=8)),
            family=st.one_of(
                st.sampled_from(["nvidia.xid", "pcie.aer", "ascend.event"]), st.text(min_size=1, max_size=8)
            ),
            code=st.one_of(st.sampled_from(["45", "79", "154", "SDES", "0x81078603"]), st.text(max_size=8)),
            severity=st.sampled_from(["info", "warning", "error", "fatal"]),
            action=st.sampled_from(["none", "watch", "drain", "replace"]),
            phase=st.sampled_from(["occurrence", "recovery", "once"]),
            cause=st.sampled_from(["", "145", "79"]),
            sources=st.lists(st.sampled_from(["kmsg", "nvml", ""]), max_size=2).map(tuple),
            count=st.integers(-1, 1 << 40),
            pid=st.integers(0, 3),
            fields=st.dictionaries(st.sampled_from(["since_ns", "to_action", "gpc", "tpc", "x"]), field, max_size=4),
        ),
        max_size=20,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_told_is_taken_told_and_kept(tmp_path, faults):
    one = incidents_in(tmp_path / str(time.monotonic_ns()))

    events = [*one.take(Sample(faults=faults)), *one.tick()]
    one.save()

    assert one._engine.dropped["failed"] == 0
    assert all(msgspec.json.encode(event) for event in events)
    assert sum(kind == "incident.opened" for kind in kinds(events)) >= bool(one.open())


def test_a_milder_effect_takes_nothing_of_the_severity_that_was_told_before(node):
    node.take(xid("SDES", 100.0, family="pcie.aer", severity="fatal"))
    node.take(xid("79", 100.1, severity="error"))

    incident = only(node.engine.book.open.values())
    assert {part.role for part in incident.parts} == {"cause", "precursor"}
    assert incident.severity == "fatal"
