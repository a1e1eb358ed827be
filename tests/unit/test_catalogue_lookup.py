"""Looking codes up: any family, any code, any driver, and never an exception."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle_eye.probes.catalogue.lookup import look_up
from eagle_eye.probes.decode.family import Decoded
from eagle_eye.probes.faults import make_fault


def test_a_code_of_the_catalogue():
    entry = look_up(Decoded("nvidia.xid", "79"))
    assert entry is not None
    assert entry.known
    assert (entry.severity, entry.action, entry.bucket) == ("fatal", "reboot_node", "RESTART_BM")


def test_a_code_that_nobody_knows_is_told_as_such_and_is_no_healthy_one():
    entry = look_up(Decoded("nvidia.xid", "4711"), "580.65.06")
    assert entry is not None
    assert not entry.known
    assert (entry.severity, entry.action) == ("error", "watch")
    assert "4711" in entry.meaning


@pytest.mark.parametrize(
    "decoded", [Decoded("nvidia.identity", "570.86.15"), Decoded("nvidia.xid"), Decoded("storage")]
)
def test_what_only_informs_is_no_fault(decoded):
    assert look_up(decoded) is None
    assert make_fault(decoded, at_ns=1, source="kmsg") is None


@given(st.text(), st.text(), st.text(), st.dictionaries(st.text(), st.integers() | st.text()))
def test_hostile_input_never_raises(family, code, driver, fields):
    assert (look_up(Decoded(family, code, fields=fields), driver) is None) == (not code or family == "nvidia.identity")


def test_a_fault_says_whose_it_is_and_what_told_it():
    decoded = Decoded("nvidia.xid", "79", "0000:9b:00.0", {"pid": 7, "process": "python3"})
    fault = make_fault(
        decoded, at_ns=5, source="kmsg", driver="570.86.15", event_id="boot:kmsg:12", uuids={"0000:9b:00.0": "GPU-1"}
    )
    assert fault is not None
    assert (fault.id, fault.event_id, fault.entity) == ("boot:faults.kmsg:12", "boot:kmsg:12", "GPU-1")
    assert (fault.pid, fault.process, fault.sources, fault.phase) == (7, "python3", ("kmsg",), "once")


@pytest.mark.parametrize(("device", "entity"), [("0000:9b:00.0", "pci:0000:9b:00.0"), ("", "host")])
def test_a_fault_of_no_known_device(device, entity):
    fault = make_fault(Decoded("nvidia.xid", "79", device), at_ns=5, source="kmsg")
    assert fault is not None
    assert fault.entity == entity


def test_a_recovery_asks_for_nothing():
    fault = make_fault(Decoded("nvidia.xid", "79", recovery=True), at_ns=5, source="kmsg")
    assert fault is not None
    assert (fault.phase, fault.severity, fault.action) == ("recovery", "info", "none")


@given(st.dictionaries(st.sampled_from(["pid", "process", "cause", "assertion", "subcode"]), st.integers() | st.text()))
def test_a_fault_takes_any_field(fields):
    assert make_fault(Decoded("nvidia.xid", "79", fields=fields), at_ns=1, source="kmsg") is not None
