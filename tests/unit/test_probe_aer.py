"""Counters of PCI Express errors, in a tree like that of sysfs and in this machine's own."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle_eye.native.errors import UnavailableError
from eagle_eye.probes import aer
from eagle_eye.probes.aer import ERRORS, PERIOD_NS, SPEC
from eagle_eye.probes.paths import Paths

GPU, NIC, PORT, NVME, AUDIO, DISK = (
    "0000:9b:00.0",
    "0000:9c:00.0",
    "0000:97:01.0",
    "0000:03:00.0",
    "0000:9b:00.1",
    "0000:00:1f.2",
)
CORRECTABLE = ("RxErr", "BadTLP", "BadDLLP", "Rollover", "Timeout", "NonFatalErr", "CorrIntErr", "HeaderOF")
FATAL = ("Undefined", "DLP", "SDES", "TLP", "FCP", "CmpltTO", "CmpltAbrt", "UnxCmplt", "RxOF", "MalfTLP", "ECRC")


class Tree:
    """A machine's PCI devices as sysfs shows them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "bus/pci/devices").mkdir(parents=True)
        self.add(PORT, "0x060400")
        self.add(GPU, "0x030200", above=PORT)
        self.add(AUDIO, "0x040300", above=PORT)
        self.add(DISK, "0x010601")

    def add(self, address: str, kind: str, *, above: str = "", counts: bool = True) -> None:
        link = self.root / "bus/pci/devices" / address
        folder = (Path(os.path.realpath(link.parent / above)) if above else self.root / "devices/pci0000:00") / address
        folder.mkdir(parents=True)
        link.symlink_to(folder)
        (folder / "class").write_text(f"{kind}\n")
        if counts:
            for severity in ("correctable", "nonfatal", "fatal"):
                self.count(address, severity)

    def count(self, address: str, severity: str, **errors: int) -> None:
        names = CORRECTABLE if severity == "correctable" else FATAL
        total = {"correctable": "COR", "nonfatal": "NONFATAL", "fatal": "FATAL"}[severity]
        lines = [f"{name} {errors.get(name, 0)}" for name in names] + [f"TOTAL_ERR_{total} {sum(errors.values())}"]
        (self.root / "bus/pci/devices" / address / f"aer_dev_{severity}").write_text("\n".join(lines) + "\n")

    def remove(self, address: str) -> None:
        link = self.root / "bus/pci/devices" / address
        shutil.rmtree(os.path.realpath(link))
        link.unlink()


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


@pytest.fixture
def opened(context, tree):
    def make(max_devices=128):
        return aer.build(context("aer", Paths(sys=tree.root), max_devices=max_devices))

    return make


def values(sample):
    assert {series.metric for series in sample.series} <= {ERRORS}
    return {series.labels: series.value for series in sample.series}


def test_a_gpu_and_its_port_are_followed_and_nothing_else(tree, opened):
    told = values(opened().sample(1))
    assert {labels[0] for labels in told} == {GPU, PORT}
    assert told == {
        (device, severity, "total"): 0 for device in (GPU, PORT) for severity in ("correctable", "nonfatal", "fatal")
    }


def test_errors_are_counted_by_name(tree, opened):
    tree.count(GPU, "correctable", RxErr=3, BadTLP=4)
    told = values(opened().sample(1))
    assert told[GPU, "correctable", "RxErr"] == 3
    assert told[GPU, "correctable", "BadTLP"] == 4
    assert told[GPU, "correctable", "total"] == 7
    assert (GPU, "correctable", "Timeout") not in told


def test_a_rise_of_an_uncorrectable_error_is_a_fault_and_an_old_one_is_none(tree, opened):
    tree.count(PORT, "fatal", SDES=1)
    probe = opened()
    assert probe.sample(1000).faults == []
    tree.count(PORT, "fatal", SDES=3)
    tree.count(GPU, "nonfatal", CmpltTO=1)
    tree.count(GPU, "correctable", RxErr=900)
    faults = {fault.code: fault for fault in probe.sample(1000 + PERIOD_NS).faults}
    assert set(faults) == {"SDES", "CmpltTO"}
    port = faults["SDES"]
    assert (port.family, port.count, port.severity, port.device) == ("pcie.aer", 2, "fatal", PORT)
    assert (port.sources, port.entity, port.fields["since_ns"]) == (("sysfs",), f"pci:{PORT}", 1000)
    assert (faults["CmpltTO"].severity, faults["CmpltTO"].action) == ("error", "drain")
    assert len({fault.id for fault in faults.values()}) == 2
    assert probe.sample(1000 + 2 * PERIOD_NS).faults == []


def test_counters_that_begin_anew_are_no_negative_fault(tree, opened):
    tree.count(GPU, "fatal", DLP=5)
    probe = opened()
    probe.sample(1)
    tree.count(GPU, "fatal", DLP=1)
    assert [(fault.code, fault.count) for fault in probe.sample(2).faults] == [("DLP", 1)]


def test_devices_that_come_and_go(tree, opened):
    probe = opened()
    probe.sample(1)
    tree.remove(GPU)
    tree.add(NIC, "0x020700")
    tree.add(NVME, "0x010802")
    for n in range(2, 15):
        sample = probe.sample(n)
    assert {labels[0] for labels in values(sample)} == {NIC, NVME}


def test_what_is_left_out_or_silent_is_told(tree, opened):
    tree.add(NIC, "0x020000", counts=False)
    tree.add(NVME, "0x010802")
    degraded = opened(max_devices=1).sample(1).degraded
    assert "1 PCI devices do not count their errors: 0000:9c:00.0" in degraded
    assert "2 PCI devices are not followed" in degraded


def test_a_machine_without_counters_says_so(tmp_path, context):
    with pytest.raises(UnavailableError, match="counts its errors"):
        aer.build(context("aer", Paths(sys=tmp_path), max_devices=1))


@given(st.binary(max_size=300))
def test_any_content_is_read(content):
    counts = aer._parse(content)
    assert all(name and count >= 0 for name, count in counts.items())
    assert aer._risen({}, counts).keys() <= counts.keys()


def test_unchanged_counters_are_not_parsed_again(tree, opened, monkeypatch):
    probe = opened()
    first = probe.sample(1)
    monkeypatch.setattr(aer, "_parse", lambda content: pytest.fail("parsed although nothing changed"))
    assert values(probe.sample(2)) == values(first)


def test_this_machine(context):
    folder = Path("/sys/bus/pci/devices")
    way = {name for device in aer._wanted(folder) for name in aer._way(folder / device)}
    counting = {path.parent.name for path in folder.glob("*/aer_dev_fatal")} & way
    if not counting:
        with pytest.raises(UnavailableError):
            aer.build(context("aer", max_devices=4096))
        return
    told = values(aer.build(context("aer", max_devices=4096)).sample(1))
    assert {labels[0] for labels in told} == counting


def test_it_is_cheap_to_ask_for():
    assert SPEC.period_ns == PERIOD_NS
