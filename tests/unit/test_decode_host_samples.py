"""The shared real lines of the host's and Ascend's families: each says what its sample expects."""

import json
from pathlib import Path

import pytest

from eagle_eye.probes.decode.grammar import decode
from eagle_eye.probes.decode.record import tokenize

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "kmsg_samples.jsonl"
PORT, OTHER_PORT, GPU = "0000:00:02.0", "0000:00:03.1", "0000:07:00.0"
# What the samples say in their own words, as code, device and fields.
EXPECTED = {
    "recovery impossible": ("recovery_failed", "0000:01:00.0", {}),
    "reported by the GPU itself": ("aer_correctable", GPU, {"layer": "Data Link Layer", "agent": "Transmitter"}),
    "multi": ("aer_correctable", OTHER_PORT, {"multiple": True, "severity": "corrected"}),
    "card removed": ("slot_card_not_present", "0000:97:01.0", {"slot": "6"}),
    "corrected DLL": ("aer_correctable", PORT, {"severity": "corrected", "layer": "Data Link Layer"}),
    "status": ("aer", OTHER_PORT, {"status": 0x1000, "mask": 0x6000}),
    "fatal TL": ("aer_fatal", PORT, {"severity": "fatal", "layer": "Transaction Layer"}),
    "GPU bit12": ("Timeout", GPU, {"bits": ["Timeout"]}),
    "correctable (new wording)": ("aer_correctable", OTHER_PORT, {"reporter": OTHER_PORT}),
    "hot-plug link down -> card drop": ("slot_link_down", "0000:97:01.0", {"slot": "6"}),
    "bit6": ("BadTLP", OTHER_PORT, {"bits": ["BadTLP"]}),
    "GPU status": ("aer", GPU, {"vendor_id": 0x10DE, "device_id": 0x2184, "status": 0x1000}),
    "aer status via GHES": ("aer", "0000:65:00.0", {"status": 0x4000, "mask": 0}),
    "status bit5": ("aer", PORT, {"status": 0x20, "mask": 0}),
    "bit5 Surprise Down -> Xid 79 102 ms later": ("SDES", PORT, {"first": "SDES"}),
    "error_type": ("", "", {"record": 1, "error_type": 17}),
    "mce bank 7": ("mce_corrected", "", {"cpu": 12, "bank": 7, "mca_class": "memory_controller", "channel": 2}),
    "address": ("", "", {"record": 1, "physical_address": 0x400CD8D202E0}),
    "page isolation (EulerOS)": ("page_offline", "", {"page_frame": 0x2043F3DB2}),
    "mce logged": ("mce_logged", "", {}),
    "dram coordinates": ("", "", {"node": 2, "module": 22, "rank": 0, "bank": 10, "row": 9914, "column": 96}),
    "GHES start": ("", "", {"record": 1, "source": 0}),
    "global kill": ("oom_kill", "", {"pid": 6033, "process": "java", "score": 367}),
    "oom start (very old)": ("", "", {"invoked_by": "postgres", "gfp_mask": 0x201D2, "order": 0}),
    "memcg kill (<5.x)": ("oom_kill_memcg", "", {"pid": 1012, "process": "heapster", "score": 1035}),
    "memcg kill": ("oom_kill_memcg", "", {"pid": 1012, "anon_rss_bytes": 65536 << 10, "uid": 0}),
    "soft lockup in a CUDA thread": ("soft_lockup", "", {"process": "cuda-EvtHandlr", "pid": 2255424, "cpu": 0}),
    "hard lockup": ("hard_lockup", "", {"cpu": 34}),
    "soft lockup": ("soft_lockup", "", {"cpu": 18, "blocked_seconds": 27, "pid": 2254956}),
    "rcu stall": ("rcu_stall", "", {"flavour": "rcu_sched", "self_detected": True}),
    "hung task": ("hung_task", "", {"process": "kcompactd1", "pid": 1177, "blocked_seconds": 120}),
    "nfs down": ("nfs_not_responding", "", {"server": "7.247.192.16"}),
    "ext4 error": ("fs_error", "", {"disk": "sdb", "inode": 4014082, "process": "updatedb"}),
    "xfs log error": ("fs_io_error", "", {"disk": "md127", "error": -5}),
    "nfs lock": ("nfs_lock_reclaim_failed", "", {}),
    "md fail": ("md_array_failed", "", {"array": "md0", "member": "nvme0n1p1"}),
    "block io error (old)": ("block_io_error", "", {"disk": "sde", "sector": 52428288}),
    "superblock": ("fs_io_error", "", {"disk": "dm-0"}),
    "buffer io": ("buffer_io_error", "", {"disk": "dm-0", "block": 1308098575}),
    "ro remount": ("fs_remounted_read_only", "", {"disk": "md0"}),
    "nvme timeout": ("nvme_timeout", "", {"controller": "nvme4", "tag": 22, "queue": 0, "opcode": 2}),
    "link up (no colon after bdf)": ("link_down", "0000:41:00.0", {"interface": "enp65s0f0np0"}),
    "degraded link width": ("bandwidth_limited", "0000:9c:00.0", {"limiting_device": "0000:97:01.0"}),
    "unplugged": ("cable_unplugged", "0000:41:00.1", {"module": 1}),
    "health compromised (fatal)": ("health_compromised", "0000:41:00.0", {}),
    "access_reg noise": ("access_reg_failed", "0000:d2:00.0", {"syndrome": 0x305684, "pid": 1441871}),
    "slot power": ("insufficient_power", "0000:5c:00.0", {"slot_watts": 27}),
    "hw error (fatal)": ("hardware_error", "0000:41:00.0", {"syndrome": 8}),
    "oops": ("null_dereference", "", {}),
    "oops 2": ("divide_error", "", {"error": 0}),
    "fd limit": ("file_max_reached", "", {"limit": 1000000}),
    "page alloc": ("page_allocation_failure", "", {"process": "python3", "order": 4}),
    "netdev leak": ("netdevice_leak", "", {"interface": "lo", "usage": 1}),
    "conntrack full": ("conntrack_full", "", {}),
    "SIGILL": ("trap", "", {"trap": "invalid opcode", "library": "libtorch_cpu.so", "process": "VLLM::EngineCor"}),
    "pstore ERST record": ("", "", {"cpu": 0, "pid": 1899, "process": "bash"}),
    "PCIe DMA error record": ("pcie_dma_error", "", {"module": "drv_pcie", "line": 228, "level": "error"}),
    "enumeration (CFG_FEATURE_HOST_LOG layout: module before level)": ("", "", {"device_index": 7, "level": "info"}),
    "bbox exception id (bits 28-29 set)": ("0xA6193215", "", {"exception": True, "module": "devdrv"}),
    "device 5 ENODEV": ("device_unreachable", "", {"device_index": 5, "result": -19}),
    "TS exception (older wording)": ("0xB4060007", "", {"device_index": 0, "ts_index": 0, "module": "tsdrv"}),
    "driver fault-injection op trace": ("", "", {"device_index": 0, "module": "dms"}),
    "SVM page fault": ("svm_page_fault", "", {"host_pid": 1885445, "virtual_address": 0x1240F1FA0000}),
    "someone called dcmi_get_fault_event / subscribe on dev 5 -> HBM UE": ("0x80E01801", "", {"device_index": 5}),
    "UB switch fault key": ("[0x08520003,na,L2,na]", "", {"peer": "L2", "alarm": 0x08520003}),
    "HBM multi-bit ECC": ("0x80E01801", "", {}),
    "bbox TS exception": ("0xB4060007", "", {"module": "TS", "reason": "TS_EXCEPTION", "exception": True}),
    "runtime (plog/stderr) AIV error": ("EZ9999", "", {"device_index": 0, "unit": "aivec", "error": 0x10}),
    "SRAM UE": ("neuron_sram_uncorrectable", "", {}),
    "Trainium/Inferentia HBM UE": ("neuron_hbm_uncorrectable", "", {}),
}


def samples():
    """(line, class, what is expected) of the samples that are not NVIDIA's."""
    if not SHARED.exists():
        return [pytest.param(None, None, None, marks=pytest.mark.skip(reason=f"{SHARED} is not there"))]
    rows = [json.loads(line) for line in SHARED.read_text().splitlines()]
    rows = [row for row in rows if not row["cls"].startswith("nvidia.") and "nvidia-peermem" not in row["line"]]
    rows = [row for row in rows if "NVRM: " not in row["line"]]
    for row in rows:
        row["expect"] += " 2" if row["expect"] == "oops" and row["line"].startswith("divide") else ""
    return [pytest.param(row["line"], row["cls"], row["expect"], id=row["expect"][:40]) for row in rows]


@pytest.mark.parametrize(("line", "family", "expected"), samples())
def test_a_shared_line_says_what_is_expected(line, family, expected):
    code, device, fields = EXPECTED[expected]

    found = decode(tokenize(line).text)

    assert found is not None
    assert found.family == ("kernel.fault" if family == "kmsg.record" else family)
    assert (found.code, found.device) == (code, device)
    assert {name: found.fields.get(name) for name in fields} == fields
    assert found.recovery == (expected == "link up (no colon after bdf)")


@pytest.mark.skipif(not SHARED.exists(), reason=f"{SHARED} is not there")
def test_every_expectation_has_its_line():
    assert {param.values[2] for param in samples()} == set(EXPECTED)
