"""Fatal faults: open until their recovery is told or the device was reset; each try is counted."""

from eagle_eye.probes.device_faults import FatalFaults
from eagle_eye.probes.device_messages import Occurrence


def xid(number: int, severity: str = "fatal") -> Occurrence:
    return Occurrence("device.xid", "a", 1, severity, {"xid": number})


def fault(code: str, assertion: str, severity: str = "fatal") -> Occurrence:
    return Occurrence("device.fault", "a", 1, severity, {"event_id": code, "assertion": assertion})


def test_a_device_without_a_fatal_fault_may_always_be_entered():
    faults = FatalFaults(0)
    faults.take(xid(63, "error"))

    assert all(faults.enter("a") for _ in range(10))
    assert faults.code("a") == ""
    assert faults.devices() == []


def test_a_device_with_one_is_entered_as_often_as_allowed():
    faults = FatalFaults(2)
    faults.take(xid(119))

    assert [faults.enter("a") for _ in range(4)] == [True, True, False, False]
    assert faults.enter("b")
    assert faults.code("a") == "119"


def test_a_device_that_was_reset_may_be_entered_again():
    faults = FatalFaults(0)
    faults.take(xid(79))
    assert not faults.may_enter("a")
    faults.close("a")

    assert faults.enter("a")


def test_only_the_recovery_of_the_same_fault_closes_it():
    faults = FatalFaults(0)
    faults.take(fault("0x1", "occurrence"))
    faults.take(fault("0x2", "recovery", "info"))
    assert faults.devices() == ["a"]
    faults.take(fault("0x1", "recovery", "info"))

    assert faults.devices() == []
