"""Faults in the kernel log: found in any flood, folded when they repeat, counted when they cannot be decoded."""

import random
import select
import time
from collections import Counter

import pytest

from eagle_eye.native.kmsg import KernelLog
from eagle_eye.probes import kmsg, kmsg_faults
from eagle_eye.probes.decode.waiting_room import HOLD_RECORDS
from eagle_eye.probes.kmsg import SPEC
from eagle_eye.probes.kmsg_faults import TOLD_ALIKE, TOLD_AT_ONCE, TOLD_PER_SECOND, WINDOW_NS, LogFaults

DEFAULTS = {option.name: option.parse(option.default, option.name) for option in SPEC.options}
NVIDIA = "NVRM: Xid (PCI:0000:{bus:02x}:00): {code}, pid={pid}, name=python3, Uncontained: LTC TAG (0x2, 0x1)."
AER = [
    "pcieport 0000:00:02.0: AER: Uncorrected (Fatal) error received: 0000:00:02.0",
    "pcieport 0000:00:02.0: PCIe Bus Error: severity=Uncorrected (Fatal), type=Transaction Layer, (Receiver ID)",
    "pcieport 0000:00:02.0:   device [8086:6f04] error status/mask=00000020/00000000",
    "pcieport 0000:00:02.0:    [ 5] SDES                   (First)",
]


def line(seq: int, text: str, *, priority: int = 3, at_us: int | None = None) -> str:
    return f"{priority},{seq},{seq if at_us is None else at_us},-;{text}\n"


@pytest.fixture
def opened(context, tmp_path):
    probes = []

    def make(text: str = ""):
        path = tmp_path / "log"
        path.touch()
        probes.append(kmsg.build(context("kmsg", **{**DEFAULTS, "path": path})))
        path.write_text(text)
        return probes[-1]

    yield make
    for probe in probes:
        probe.close()


def faults_of(probe, records: int) -> list:
    """All that so many records tell, with the counts of the last window and what had to wait for its turn."""
    found, read = [], 0
    while read < records:
        sample = probe.sample(time.monotonic_ns())
        found += sample.faults
        read = sum(one.value for one in sample.series if one.metric is kmsg.RECORDS)
    while select.select([probe.wake_fds()[-1]], [], [], 0.5)[0]:
        found += probe.sample(time.monotonic_ns()).faults
    time.sleep(WINDOW_NS / 1e9)
    return [*found, *probe.sample(time.monotonic_ns()).faults]


def test_an_xid_is_a_fault_with_its_meaning_in_the_round_that_reads_it(opened):
    (fault,) = opened(line(7, NVIDIA.format(bus=0x9B, code=95, pid=1234))).sample(time.monotonic_ns()).faults

    assert (fault.family, fault.code, fault.device, fault.entity) == (
        "nvidia.xid", "95", "0000:9b:00.0", "pci:0000:9b:00.0",
    )  # fmt: skip
    assert (fault.id, fault.event_id, fault.at_ns) == ("boot:faults.kmsg:7", "boot:kmsg:7", 7000)
    assert (fault.pid, fault.process, fault.sources, fault.count) == (1234, "python3", ("kmsg",), 1)
    assert fault.action != "none"
    assert fault.meaning
    assert not fault.simulated


def test_ordinary_lines_are_no_faults(opened):
    lines = "".join(line(n, f"usb 1-{n}: new high-speed USB device number {n}") for n in range(500))

    assert list(opened(lines).sample(time.monotonic_ns()).faults) == []


def test_who_writes_to_the_log_in_the_kernels_place_makes_simulated_faults_and_daemons_make_none(opened):
    xid = NVIDIA.format(bus=1, code=79, pid=1)
    faults = opened(line(1, xid, priority=8 + 3) + line(2, f"systemd[1]: {xid}", priority=3 * 8 + 3)).sample(1).faults

    assert [(fault.code, fault.simulated) for fault in faults] == [("79", True)]


def test_the_records_of_one_aer_error_are_one_fault_and_wait_for_nobody_for_long(opened):
    probe = opened("".join(line(n, text) for n, text in enumerate(AER, 1)))
    found = list(probe.sample(time.monotonic_ns()).faults)
    if not found:
        assert select.select([probe.wake_fds()[-1]], [], [], 5)[0], "the probe asks for a round to tell it"
        found = list(probe.sample(time.monotonic_ns()).faults)

    assert [(fault.family, fault.code, fault.device) for fault in found] == [("pcie.aer", "SDES", "0000:00:02.0")]


def test_a_driver_version_that_the_log_tells_is_the_one_that_later_codes_are_read_under(opened):
    loading = "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  550.90.07  Fri May 31 09:35:42 UTC 2024"
    (fault,) = opened(line(1, loading) + line(2, NVIDIA.format(bus=1, code=144, pid=1))).sample(1).faults

    assert fault.driver == "550.90.07"
    assert "NVLINK" not in fault.mnemonic.upper()


def test_800_000_lines_of_29_distinct_faults_are_all_counted_and_none_is_missed(opened):
    # As in a real cluster: one code on several GPUs, repeated for hours; the process ids say nothing new.
    distinct = [(bus, code) for bus in range(0x10, 0x18) for code in (48, 63, 94, 95)][:29]
    pick = random.Random(7)
    weights = [10_000, *[1] * 28]
    chosen = pick.choices(distinct, weights, k=800_000 - 29) + distinct
    pids = [pick.randrange(100_000, 999_999) for _ in range(64)]
    text = "".join(line(n, NVIDIA.format(bus=bus, code=code, pid=pids[n % 64])) for n, (bus, code) in enumerate(chosen))
    probe = opened(text)
    found = faults_of(probe, 800_000)

    counts = Counter()
    for fault in found:
        counts[fault.device, fault.code] += fault.count
    assert len(counts) == 29
    assert sum(counts.values()) == 800_000
    assert counts == Counter((f"0000:{bus:02x}:00.0", str(code)) for bus, code in chosen)
    assert probe.sample(time.monotonic_ns()).dropped["fault_flood"] == 0
    assert len(found) < 29 * 2 * 60, "folded before they are told"
    assert len({fault.id for fault in found}) == len(found)


def test_a_flood_of_ever_new_numbers_does_not_hide_another_fault_inside_it(opened, monkeypatch):
    monkeypatch.setattr(kmsg_faults, "TOLD_PER_SECOND", 5000)  # what waits behind it is told sooner
    flood = [f"nvidia-nvswitch0: SXid (PCI:0000:06:00.0): {20_000 + n % 70_000}, Fatal, x" for n in range(200_000)]
    flood[123_456] = NVIDIA.format(bus=2, code=79, pid=1)
    found = faults_of(opened("".join(line(n, text) for n, text in enumerate(flood))), len(flood))

    assert sum(fault.code == "79" and fault.device == "0000:02:00.0" for fault in found) == 1


def test_more_distinct_faults_than_can_be_decoded_are_counted_and_memory_stays_bounded(opened, monkeypatch):
    monkeypatch.setattr(kmsg_faults, "MAX_WAITING", 500)
    monkeypatch.setattr(kmsg_faults, "TOLD_PER_SECOND", 5000)
    # Codes of five digits keep them apart.
    lines = [f"nvidia-nvswitch0: SXid (PCI:0000:06:00.0): {n}, Fatal, Link 01 x" for n in range(10_000, 22_000)]
    probe = opened("".join(line(n, text) for n, text in enumerate(lines)))
    found = faults_of(probe, len(lines))
    dropped = probe.sample(time.monotonic_ns()).dropped["fault_flood"]

    assert dropped > 0
    assert sum(fault.count for fault in found) + dropped == len(lines)
    assert len(probe._faults._seen) <= 500


def test_one_fault_with_ever_new_details_is_told_a_few_times_and_then_as_a_number(opened):
    words = [f"{chr(97 + n % 26)}{chr(97 + n // 26 % 26)}{chr(97 + n // 676)}" for n in range(4000)]
    lines = [f"nvidia-nvswitch0: SXid (PCI:0000:06:00.0): 11004, Fatal, Link 01 {word}" for word in words]
    probe = opened("".join(line(n, text) for n, text in enumerate(lines)))
    found = faults_of(probe, len(lines))
    dropped = probe.sample(time.monotonic_ns()).dropped["fault_flood"]

    assert len(found) < len(lines) / 10
    assert sum(fault.count for fault in found) + dropped == len(lines)
    assert len({fault.fields["message"] for fault in found}) >= TOLD_ALIKE
    assert len({fault.id for fault in found}) == len(found)


def test_one_fault_on_many_devices_is_told_for_each(opened):
    buses = range(0x10, 0x10 + 3 * TOLD_ALIKE)
    found = faults_of(opened("".join(line(bus, NVIDIA.format(bus=bus, code=95, pid=1)) for bus in buses)), len(buses))

    assert {fault.device for fault in found} == {f"0000:{bus:02x}:00.0" for bus in buses}


def test_what_waits_for_more_records_when_a_window_ends_keeps_its_number_and_where_it_came_from(tmp_path):
    path = tmp_path / "log"
    texts = [AER[0], AER[0], AER[0], *AER[1:]]
    path.write_text("".join(line(n, text, priority=8 + 3) for n, text in enumerate(texts, 1)))
    log = KernelLog(path, from_boot=True)
    faults = LogFaults("boot")
    now_ns = 5 * WINDOW_NS
    faults.flush(now_ns - WINDOW_NS + 1)
    found = [*faults.take(log.read(), 0, now_ns), *faults.flush(now_ns + 1)]
    assert found == [], "it still waits"
    found = [*faults.flush(now_ns + WINDOW_NS // 2), *faults.flush(now_ns + 3 * WINDOW_NS)]
    log.close()

    assert [(fault.code, fault.simulated, fault.count) for fault in found] == [("SDES", True, 1), ("SDES", True, 2)]


def test_however_many_distinct_faults_come_at_once_their_readers_get_them_in_portions_and_the_rare_one_first(tmp_path):
    lines = [f"nvidia-nvswitch0: SXid (PCI:0000:06:00.0): {n}, Fatal, Link 01 x" for n in range(10_000, 12_000)]
    lines.append(NVIDIA.format(bus=2, code=79, pid=1))
    path = tmp_path / "log"
    path.write_text("".join(line(n, text) for n, text in enumerate(lines)))
    log = KernelLog(path, from_boot=True)
    faults, now_ns, portions = LogFaults("boot"), 5 * WINDOW_NS, []
    batch = log.read()
    portions.append(faults.take(batch, 0, now_ns))
    while faults.hold_ns:
        now_ns += WINDOW_NS // 10
        portions.append(faults.flush(now_ns))
    log.close()

    assert "79" in {fault.code for fault in portions[0]}
    assert all(len(portion) <= TOLD_AT_ONCE for portion in portions)
    assert max(map(len, portions[2:])) <= TOLD_PER_SECOND // 10 + HOLD_RECORDS
    assert len(portions) / 10 >= (len(lines) - TOLD_AT_ONCE - HOLD_RECORDS) / TOLD_PER_SECOND
    assert {fault.code for portion in portions for fault in portion} == {"79", *map(str, range(10_000, 12_000))}


def test_a_flood_of_ever_new_words_of_one_family_does_not_hide_a_fault_of_another(opened, monkeypatch):
    monkeypatch.setattr(kmsg_faults, "MAX_WAITING", 3000)
    words = [f"{chr(97 + n % 26)}{chr(97 + n // 26 % 26)}{chr(97 + n // 676 % 26)}" for n in range(8000)]
    flood = [f"nvidia-nvswitch0: SXid (PCI:0000:06:00.0): 11004, Fatal, {word}" for word in words]
    flood.append(NVIDIA.format(bus=2, code=79, pid=1))
    found = faults_of(opened("".join(line(n, text) for n, text in enumerate(flood))), len(flood))

    assert sum(fault.code == "79" for fault in found) == 1
