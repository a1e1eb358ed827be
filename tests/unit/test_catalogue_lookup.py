"""Looking codes up: any family, any code, any driver, and never an exception."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle_eye.probes.catalogue import nvlink5
from eagle_eye.probes.catalogue.lookup import FAMILIES, look_up
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


NAMES = [
    "severity",
    "intrinfo",
    "error_status",
    "unit",
    "sub_unit",
    "to_action",
    "remap",
    "gravity",
    "reset_needed",
    "mca_class",
    "device_index",
]
CODES = ["79", "144", "149", "154", "20034", "0x80E01801", "[0x08520003,na,L2,na]", "EZ9999", "SDES", "\n79", "79,"]
VALUES = st.integers() | st.text() | st.none() | st.lists(st.text()) | st.floats() | st.booleans()
ANY = {
    "family": st.text() | st.sampled_from(FAMILIES),
    "code": st.text() | st.integers().map(str) | st.integers(0, 2**32).map(hex) | st.sampled_from(CODES),
    "driver": st.text() | st.sampled_from(["570.86.15", "999999999.1", "v535"]),
    "fields": st.dictionaries(st.text() | st.sampled_from(NAMES), VALUES),
}


@given(**ANY)
def test_hostile_input_never_raises(family, code, driver, fields):
    decoded = Decoded(family, code, fields=fields)
    entry = look_up(decoded, driver)
    assert (entry is None) == (not code or family == "nvidia.identity")
    assert (make_fault(decoded, at_ns=1, source="kmsg", driver=driver) is None) == (entry is None)
    if entry is not None and not entry.known:
        assert (entry.severity, entry.action) not in {("info", "replace"), ("fatal", "none")}
        assert entry.meaning


# ---- one number, two drivers ----


@pytest.mark.parametrize(
    ("code", "driver", "mnemonic", "bucket"),
    [
        ("144", "550.54.15", "ROBUST_CHANNEL_KEY_ROTATION_ERROR", "RESTART_VM"),
        ("144", "560.35.03", "NVLINK_SAW_ERROR", "WORKFLOW_NVLINK5_ERR"),
        ("139", "535.288.01", "ROBUST_CHANNEL_FAST_PATH_ERROR", ""),
        ("139", "560.35.03", "ROBUST_CHANNEL_OFA1_ERROR", "RESTART_APP"),
        ("137", "575.57.08", "NVLINK_FLA_PRIV_ERR", "IGNORE"),
        ("137", "580.95.05", "NVLINK_PRIV_ERR", "IGNORE"),
        ("166", "580.82.07", "NVLINK_SECURE_INTERRUPT_ERROR", ""),
        ("166", "595.45.04", "NVLINK_SECURE_NVLE_ERROR", ""),
        ("144", "", "NVLINK_SAW_ERROR", "WORKFLOW_NVLINK5_ERR"),
        ("144", "no version", "NVLINK_SAW_ERROR", "WORKFLOW_NVLINK5_ERR"),
        ("79", "390.157", "ROBUST_CHANNEL_GPU_HAS_FALLEN_OFF_THE_BUS", "RESTART_BM"),
    ],
)
def test_the_meaning_is_that_of_the_driver(code, driver, mnemonic, bucket):
    entry = look_up(Decoded("nvidia.xid", code), driver)
    assert (entry.mnemonic, entry.bucket) == (mnemonic, bucket)


def test_without_a_driver_both_meanings_are_told():
    assert "keys" in look_up(Decoded("nvidia.xid", "144")).meaning
    assert "keys" not in look_up(Decoded("nvidia.xid", "144"), "570.86.15").meaning
    for code in ("13", "162"):  # only its name changed; was kept free
        assert "not known" not in look_up(Decoded("nvidia.xid", code)).meaning
    assert "not known" not in nvlink("0x00000001", "0x00000001", code="144").meaning  # registers tell the driver


def nvlink(intrinfo, status, *, code="145", driver="", **fields):
    return look_up(Decoded("nvidia.xid", code, fields={"intrinfo": intrinfo, "error_status": status, **fields}), driver)


@pytest.mark.parametrize(
    ("driver", "intrinfo", "unit"),
    [("570.86.15", "0x040868e2", "RLW_SRC_TRACK"), ("580.65.06", "0x00000004", "RLW_REMAP")],
)
def test_nvlink_registers_are_read_as_the_driver_writes_them(driver, intrinfo, unit):
    status = "0x00000008"
    assert nvlink(intrinfo, status, driver=driver).subcode == unit
    other = "580.65.06" if driver.startswith("570") else "570.86.15"
    entry = nvlink(intrinfo, status, driver=other)
    assert entry.subcode == ""
    assert "None of the known rules" in entry.meaning
    assert nvlink(intrinfo, status, driver=other, unit=unit).subcode == unit  # the unit's name says which


def test_an_nvlink_rule_decides_how_bad_it_is():
    harmless = nvlink("0x00000004", "0x00000100", driver="580.65.06")
    broken = nvlink("0x00000004", "0x00000140", driver="580.65.06")  # two errors: the worse one counts
    assert (harmless.severity, harmless.action, harmless.bucket) == ("info", "none", "IGNORE")
    assert (broken.severity, broken.action, broken.bucket) == ("fatal", "reset_device", "RESET_GPU")
    assert "nvidia.xid:48" in broken.victims


def test_a_receive_pipe_that_wants_a_reset_says_so_in_one_bit():
    assert nvlink("0x000000c2", "0x00000001", driver="570.86.15").action == "watch"
    assert nvlink("0x000004c2", "0x00000001", driver="570.86.15").action == "reset_device"


def test_registers_that_name_another_unit_than_the_line_are_told():
    assert "registers another one" in nvlink("0x00000004", "0x00000100", driver="580.65.06", unit="TREX").meaning


def test_no_register_reads_in_two_ways():
    """So that a line without a known driver has one meaning; the bits that rules look at are 25 to 20 and 10 to 0."""
    for xid in nvlink5.XIDS:
        for intrinfo in range(0x800):
            both = [nvlink5.match(xid, intrinfo, 1, driver=driver).meaning for driver in ("570.1", "580.1")]
            assert not all(both) or both[0] == both[1]
            assert nvlink5.match(xid, intrinfo, 1).meaning == (both[0] or both[1])


REGISTER = st.integers(0, 2**32 - 1)


@given(st.sampled_from(sorted(nvlink5.XIDS)), REGISTER, REGISTER, st.text(), st.text())
def test_any_registers_have_a_match_or_a_note(xid, intrinfo, status, unit, driver):
    match = nvlink5.match(xid, intrinfo, status, unit=unit, driver=driver)
    assert bool(match.unit) == bool(match.severity)
    assert match.unit or match.note


@pytest.mark.parametrize(
    ("number", "action"),
    [(0, "none"), (1, "reset_device"), (2, "reboot_node"), (3, "drain"), (4, "drain"), (5, "drain"), (6, "drain")],
)
def test_xid_154_asks_for_what_the_driver_asks_for(number, action):
    entry = look_up(Decoded("nvidia.xid", "154", fields={"to_action": number}))
    assert (entry.action, entry.subcode) == (action, str(number))
    assert entry.known == (number < 6)


def test_a_contained_error_that_wants_a_reset_says_so():
    plain = look_up(Decoded("nvidia.xid", "94", fields={"reset_needed": False, "drain_reset_needed": False}))
    later = look_up(Decoded("nvidia.xid", "94", fields={"reset_needed": False, "drain_reset_needed": True}))
    now = look_up(Decoded("nvidia.xid", "94", fields={"reset_needed": True}))
    assert [entry.action for entry in (plain, later, now)] == ["restart_application", "drain", "reset_device"]


@pytest.mark.parametrize(
    ("code", "told", "severity", "action"),
    [
        ("20034", None, "error", "watch"),
        ("20034", "fatal", "fatal", "reset_device"),
        ("22003", None, "fatal", "reset_device"),
        ("22003", "nonfatal", "error", "watch"),
        ("12028", "fatal", "fatal", "reset_device"),
        ("11012", "correctable", "warning", "watch"),
        ("99999", "fatal", "fatal", "reset_device"),
    ],
)
def test_an_sxid_is_as_severe_as_its_line_says(code, told, severity, action):
    entry = look_up(Decoded("nvidia.sxid", code, fields={"severity": told}))
    assert (entry.severity, entry.action) == (severity, action)


# ---- Ascend ----


@pytest.mark.parametrize("code", ["0x80E01801", "0x80e01801", "80E01801"])
@pytest.mark.parametrize("family", ["ascend.event", "ascend.host_kernel", "ascend.device_log"])
def test_an_ascend_event_is_one_fault_whoever_tells_it(family, code):
    fault = make_fault(Decoded(family, code), at_ns=1, source="kmsg")
    assert (fault.family, fault.code, fault.bucket) == ("ascend.event", "0x80E01801", "RestartBusiness")
    assert (fault.severity, fault.action) == ("fatal", "restart_application")


def test_the_level_of_a_code_that_its_maker_does_not_explain_is_kept():
    entry = look_up(Decoded("ascend.event", "0x80F78C02"))
    assert (entry.bucket, entry.action) == ("RestartNPU", "reset_device")
    assert "queue" in entry.meaning


@pytest.mark.parametrize(
    ("code", "gravity", "severity", "action"),
    [
        ("0x80C80206", "", "warning", "watch"),  # temperature above a warning limit, of a core without a row
        ("0x80C8020B", "", "fatal", "drain"),
        ("0x8EAA0001", "minor", "warning", "watch"),
        ("0x8EAA0001", "notice", "info", "none"),
        ("0x8EAA0001", "critical", "fatal", "drain"),
        ("0x8EAA0001", "", "error", "drain"),
        ("0xA6FF4711", "", "error", "drain"),
    ],
)
def test_an_ascend_code_without_a_row_follows_its_bits_or_its_own_gravity(code, gravity, severity, action):
    entry = look_up(Decoded("ascend.event", code, fields={"gravity": gravity}))
    assert not entry.known
    assert (entry.severity, entry.action) == (severity, action)


def test_other_lines_of_ascend():
    switch = look_up(Decoded("ascend.device_log", "[0x00f103b0,155907,na,na]"))
    assert (switch.bucket, switch.action) == ("SeparateFault", "drain")
    assert look_up(Decoded("ascend.device_log", "EZ9999")).action == "restart_application"
    assert look_up(Decoded("ascend.host_kernel", "pcie_dma_error")).action == "drain"


def test_a_line_that_only_knows_the_number_of_an_npu():
    decoded = Decoded("ascend.host_kernel", "0x80E01801", fields={"device_index": 5})
    assert make_fault(decoded, at_ns=1, source="kmsg").entity == "npu:5"
    assert make_fault(decoded, at_ns=1, source="kmsg", uuids={"npu:5": "NPU-5"}).entity == "NPU-5"


# ---- others ----


@pytest.mark.parametrize(("told", "severity"), [("nonfatal", "error"), ("fatal", "fatal")])
def test_a_pcie_error_is_as_severe_as_its_report_says(told, severity):
    assert look_up(Decoded("pcie.aer", "CmpltTO", fields={"severity": told})).severity == severity
    assert look_up(Decoded("pcie.aer", "MalfTLP", fields={"severity": told})).severity == severity


def test_all_network_cards_have_one_table():
    assert look_up(Decoded("nic.mlx5", "link_down")) == look_up(Decoded("nic.i40e", "link_down"))


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
