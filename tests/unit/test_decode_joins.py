"""Records that belong together become one; those of another device, or of another report, do not."""

from itertools import chain, zip_longest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle_eye.probes.decode.grammar import decode_lines

SURPRISE = [
    "pcieport 0000:16:02.0: AER: Uncorrected (Fatal) error received: id=0010",
    "pcieport 0000:16:02.0: PCIe Bus Error: severity=Uncorrected (Fatal), type=Transaction Layer, id=1610(Receiver ID)",
    "pcieport 0000:16:02.0:   device [8086:6f04] error status/mask=00000020/00000000",
    "pcieport 0000:16:02.0:    [ 5] Surprise Down Error    (First)",
]


def correctable(port, device, source=None):
    """A report of a device behind a port, as Linux 6 prints it."""
    return [
        f"pcieport {port}: AER: Correctable error message received from {source or device}",
        f"nvidia {device}: PCIe Bus Error: severity=Correctable, type=Data Link Layer, (Transmitter ID)",
        f"nvidia {device}:   device [10de:2330] error status/mask=000010c0/0000a000",
        f"nvidia {device}:    [ 6] BadTLP                (First)",
        f"nvidia {device}:    [ 7] BadDLLP               ",
        f"nvidia {device}:    [12] Timeout               ",
    ]


def reports(lines):
    return [found.decoded for found in decode_lines(lines)]


def test_a_surprise_down_is_one_report_with_its_bit():
    (found,) = reports(SURPRISE)

    assert (found.code, found.device) == ("SDES", "0000:16:02.0")
    assert found.fields["severity"] == "fatal"
    assert found.fields["bits"] == ["SDES"]
    assert (found.fields["vendor_id"], found.fields["status"]) == (0x8086, 0x20)


def test_bits_are_named_from_the_status_word_when_their_lines_are_lost():
    (found,) = reports(SURPRISE[:-1])

    assert found.code == "SDES"
    assert found.fields["bits"] == ["SDES"]


def test_the_bit_that_was_first_is_the_code_and_otherwise_the_most_severe():
    lines = [
        "nvme 0000:41:00.0: PCIe Bus Error: severity=Uncorrectable (Non-Fatal), type=Transaction Layer, (Requester ID)",
        "nvme 0000:41:00.0:   device [144d:a80a] error status/mask=00104000/00000000",
        "nvme 0000:41:00.0:    [14] CmpltTO",
        "nvme 0000:41:00.0:    [20] UnsupReq               (First)",
    ]

    assert [found.code for found in reports(lines)] == ["UnsupReq"]
    assert [found.code for found in reports(lines[:3])] == ["CmpltTO"]


def test_a_masked_bit_is_not_named():
    lines = correctable("0000:00:03.1", "0000:07:00.0")[:2]
    lines.append("nvidia 0000:07:00.0:   device [10de:2330] error status/mask=00002040/00002000")

    (found,) = reports(lines)

    assert found.fields["bits"] == ["BadTLP"]


def test_a_tlp_header_ends_a_report():
    lines = [
        "pcieport 0000:b0:02.0: AER: Uncorrectable (Non-Fatal) error message received from 0000:b1:00.0",
        "mlx5_core 0000:b1:00.0: PCIe Bus Error: severity=Uncorrectable (Non-Fatal), type=Transaction Layer, "
        "(Receiver ID)",
        "mlx5_core 0000:b1:00.0:   device [15b3:1021] error status/mask=00100000/00400000",
        "mlx5_core 0000:b1:00.0:    [20] UnsupReq               (First)",
        "mlx5_core 0000:b1:00.0: AER:   TLP Header: 40000001 0000000f 92000000 00000000",
        "mlx5_core 0000:b1:00.0: AER: can't recover (no error_detected callback)",
    ]

    found, recovery = reports(lines)

    assert (found.code, found.device) == ("UnsupReq", "0000:b1:00.0")
    assert found.fields["tlp_header"] == "40000001 0000000f 92000000 00000000"
    assert found.fields["reporter"] == "0000:b0:02.0"
    assert recovery.code == "recovery_failed"


def test_firmware_first_reports_are_joined_and_named():
    lines = [
        "nvidia 0000:65:00.0: aer_status: 0x00004000, aer_mask: 0x00000000",
        "nvidia 0000:65:00.0:    [14] CmpltTO                (First)",
        "nvidia 0000:65:00.0: aer_layer=Transaction Layer, aer_agent=Requester ID",
        "nvidia 0000:65:00.0: aer_uncor_severity: 0x00062030",
    ]

    (found,) = reports(lines)

    assert (found.code, found.fields["layer"], found.fields["agent"]) == ("CmpltTO", "Transaction Layer", "Requester")


def test_one_announcement_with_two_devices_is_two_reports():
    port = "0000:00:03.1"
    announced = f"pcieport {port}: AER: Multiple Correctable error message received from 0000:00:00.0"
    own = [line.replace("nvidia 0000:07:00.0", f"pcieport {port}") for line in correctable(port, "0000:07:00.0")[1:]]

    found = reports([announced, *own, *correctable(port, "0000:07:00.0")[1:]])

    assert [one.device for one in found] == [port, "0000:07:00.0"]
    assert {one.code for one in found} == {"BadTLP"}
    assert found[0].fields["multiple"] is True


@given(st.data())
def test_reports_of_two_devices_however_interleaved(data):
    first = correctable("0000:00:01.0", "0000:07:00.0")
    second = correctable("0000:80:01.0", "0000:87:00.0", source="0000:87:00.0")
    turns = data.draw(st.permutations([0] * len(first) + [1] * len(second)))
    parts = (iter(first), iter(second))

    found = reports([next(parts[turn]) for turn in turns])

    assert sorted(one.device for one in found) == ["0000:07:00.0", "0000:87:00.0"]
    assert all(one.fields["bits"] == ["BadTLP", "BadDLLP", "Timeout"] for one in found)


def test_a_second_report_of_the_same_device_is_another():
    again = correctable("0000:00:01.0", "0000:07:00.0")

    assert [one.code for one in reports(again * 3)] == ["BadTLP"] * 3


CPER = [
    "{%d}[Hardware Error]: Hardware error from APEI Generic Hardware Error Source: 4",
    "{%d}[Hardware Error]: It has been corrected by h/w and requires no further action",
    "{%d}[Hardware Error]: event severity: corrected",
    "{%d}[Hardware Error]:  Error 0, type: corrected",
    "{%d}[Hardware Error]:  fru_text: DIMM B2",
    "{%d}[Hardware Error]:   section_type: memory error",
    "{%d}[Hardware Error]:   error_status: 0x0000000000000400",
    "{%d}[Hardware Error]:   physical_address: 0x000000abcdef0040",
    "{%d}[Hardware Error]:   node: 1 card: 2 module: 0 rank: 1 bank: 14 row: 5520 column: 8",
    "{%d}[Hardware Error]:   error_type: 2, single-bit ECC",
]


def test_firmware_records_are_joined_by_their_number():
    lines = chain.from_iterable(zip([line % 7 for line in CPER], [line % 8 for line in CPER], strict=True))

    found = reports(lines)

    assert [one.fields["record"] for one in found] == [7, 8]
    for one in found:
        assert one.code == "ghes_corrected"
        assert (one.fields["physical_address"], one.fields["row"]) == (0xABCDEF0040, 5520)
        assert (one.fields["error"], one.fields["fru_text"]) == ("single-bit ECC", "DIMM B2")


def test_a_firmware_record_about_a_pcie_device_names_it():
    lines = [
        "{2}[Hardware Error]: Hardware error from APEI Generic Hardware Error Source: 0",
        "{2}[Hardware Error]: event severity: fatal",
        "{2}[Hardware Error]:   section_type: PCIe error",
        "{2}[Hardware Error]:   port_type: 0, PCIe end point",
        "{2}[Hardware Error]:   command: 0x0547, status: 0x4010",
        "{2}[Hardware Error]:   device_id: 0000:5e:00.0",
        "{2}[Hardware Error]:   vendor_id: 0x10de, device_id: 0x2330",
        "{2}[Hardware Error]:   aer_uncor_status: 0x00004000, aer_uncor_mask: 0x00000000",
    ]

    (found,) = reports(lines)

    assert (found.code, found.device) == ("ghes_fatal", "0000:5e:00.0")
    assert (found.fields["vendor_id"], found.fields["aer_uncor_status"]) == (0x10DE, 0x4000)


def test_what_the_firmware_kept_of_the_boot_before_says_so():
    lines = [
        "BERT: Error records from previous boot:",
        "[Hardware Error]: event severity: fatal",
        "[Hardware Error]:   section_type: memory error",
    ]

    (found,) = reports(lines)

    assert (found.code, found.fields["previous_boot"]) == ("ghes_fatal", True)


def test_the_records_of_a_machine_check_are_one():
    lines = [
        "mce: [Hardware Error]: CPU 12: Machine Check: 0 Bank 7: 8c00004000010092",
        "mce: [Hardware Error]: TSC 0 ADDR 1f2ab3c40 MISC 140545480084086 ",
        "mce: [Hardware Error]: PROCESSOR 0:406f1 TIME 1700000000 SOCKET 1 APIC 20 microcode b00002a",
    ]

    (found,) = reports(lines)

    assert found.code == "mce_corrected"
    assert (found.fields["address"], found.fields["socket"]) == (0x1F2AB3C40, 1)
    assert (found.fields["microcode"], found.fields["corrected_count"]) == (0xB00002A, 1)


OOM = [
    "VLLM::EngineCor invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=985",
    "CPU: 3 PID: 900 Comm: VLLM::EngineCor Not tainted 6.8.0-45-generic #45-Ubuntu",
    "memory: usage 16777216kB, limit 16777216kB, failcnt 4",
    "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=cri.scope,mems_allowed=0-1,oom_memcg=/kubepods/pod-x,"
    "task_memcg=/kubepods/pod-x/cri.scope,task=python3,pid=901,uid=1000",
    "Memory cgroup out of memory: Killed process 901 (python3) total-vm:4kB, anon-rss:2kB, file-rss:0kB, "
    "shmem-rss:0kB, UID:1000 pgtables:1kB oom_score_adj:985",
    "oom_reaper: reaped process 901 (python3), now anon-rss:0kB, file-rss:0kB, shmem-rss:0kB",
]


def test_an_oom_kill_is_one_with_who_asked_the_limit_and_the_victim():
    kill = next(one for one in reports(OOM) if one.family == "mm.oom" and one.code)

    assert kill.code == "oom_kill_memcg"
    assert (kill.fields["invoked_by"], kill.fields["process"], kill.fields["pid"]) == (
        "VLLM::EngineCor",
        "python3",
        901,
    )
    assert (kill.fields["memcg"], kill.fields["memcg_limit_bytes"]) == ("/kubepods/pod-x", 16 << 30)
    assert kill.fields["anon_rss_bytes"] == 2048
    assert sum(bool(one.code) for one in reports(OOM)) == 1


def test_an_oom_kill_of_an_old_kernel_is_one_as_well():
    lines = [
        "java invoked oom-killer: gfp_mask=0x201da, order=0, oom_score_adj=0",
        "Task in /docker/7 killed as a result of limit of /docker/7",
        "Memory cgroup out of memory: Kill process 50 (java) score 1001 or sacrifice child",
        "Killed process 50 (java) total-vm:9kB, anon-rss:8kB, file-rss:0kB",
    ]

    (found,) = reports(lines)

    assert (found.code, found.fields["pid"]) == ("oom_kill_memcg", 50)
    assert (found.fields["score"], found.fields["total_vm_bytes"]) == (1001, 9216)


def test_two_kills_are_two():
    first, second = [line.replace("901", "777") for line in OOM], OOM

    assert [one.fields["pid"] for one in reports(first + second) if one.code] == [777, 901]


def test_a_hung_task_knows_who_holds_its_lock():
    lines = [
        "INFO: task nvidia-smi:912 blocked for more than 122 seconds.",
        "INFO: task ray::IDLE:913 blocked for more than 122 seconds.",
        "INFO: task nvidia-smi:912 is blocked on a mutex likely owned by task python3:4000.",
    ]

    owned, other = reports(lines)

    assert (owned.fields["owner_process"], owned.fields["owner_pid"], owned.fields["lock"]) == (
        "python3",
        4000,
        "mutex",
    )
    assert "owner_pid" not in other.fields


def test_a_stall_gathers_its_processors():
    lines = [
        "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
        "rcu: \t3-....: (20999 ticks this GP) idle=1d9/1/0x4000000000000000 softirq=1/1 fqs=5250",
        "rcu: \t11-...!: (0 ticks this GP) idle=9d0/0/0x0 softirq=1/1 fqs=2",
        "rcu: \t(detected by 2, t=21002 jiffies, g=9, q=57 ncpus=16)",
        "rcu: rcu_preempt kthread starved for 5250 jiffies! g9 f0x0 RCU_GP_WAIT_FQS(5) ->state=0x0 ->cpu=11",
    ]

    (found,) = reports(lines)

    assert found.code == "rcu_stall"
    assert (found.fields["cpus"], found.fields["jiffies"]) == ([3, 11], 21002)
    assert found.fields["starved_jiffies"] == 5250


def test_an_oops_is_one_with_where_it_was():
    lines = [
        "BUG: kernel NULL pointer dereference, address: 0000000000000008",
        "#PF: supervisor read access in kernel mode",
        "Oops: 0000 [#1] PREEMPT SMP NOPTI",
        "CPU: 14 PID: 4242 Comm: pt_main_thread Tainted: P           OE      6.5.0-41-generic #41~22.04.2-Ubuntu",
        "Hardware name: Somebody's server",
        "RIP: 0010:uvm_va_space_mm_unregister+0x1d/0x60 [nvidia_uvm]",
        "---[ end trace 0000000000000000 ]---",
    ]

    found = [one for one in reports(lines) if one.code]

    assert [one.code for one in found] == ["null_dereference"]
    assert (found[0].fields["cpu"], found[0].fields["process"]) == (14, "pt_main_thread")
    assert (found[0].fields["function"], found[0].fields["module"]) == ("uvm_va_space_mm_unregister", "nvidia_uvm")
    assert found[0].fields["tainted"] == "POE"


def test_an_oops_of_arm64_is_one_with_where_it_was():
    lines = [
        "Unable to handle kernel paging request at virtual address ffff8000aa000010",
        "Internal error: Oops: 0000000096000047 [#1] SMP",
        "CPU: 5 PID: 71 Comm: davinci Kdump: loaded Tainted: G           OE     5.10.0-60.18.0 #1",
        "pc : devdrv_manager_ioctl+0x40/0x90 [drv_devmng_host]",
    ]

    (found,) = reports(lines)

    assert (found.code, found.fields["oops"]) == ("page_fault", 1)
    assert (found.fields["function"], found.fields["module"]) == ("devdrv_manager_ioctl", "drv_devmng_host")


def test_what_a_scsi_command_ended_with_is_one():
    lines = [
        "sd 0:0:1:0: [sdb] tag#17 FAILED Result: hostbyte=DID_OK driverbyte=DRIVER_SENSE cmd_age=2s",
        "sd 0:0:1:0: [sdb] tag#17 Sense Key : Medium Error [current] ",
        "sd 0:0:1:0: [sdb] tag#17 Add. Sense: Unrecovered read error",
        "sd 0:0:1:0: [sdb] tag#17 CDB: Read(10) 28 00 00 00 08 00 00 00 08 00",
        "blk_update_request: critical medium error, dev sdb, sector 2048 op 0x0:(READ) flags 0x0 phys_seg 1",
    ]

    (found,) = reports(lines)

    assert (found.code, found.fields["sector"]) == ("scsi_medium_error", 2048)
    assert found.fields["additional_sense"] == "Unrecovered read error"


STORIES = {"aer": SURPRISE, "cper": [line % 1 for line in CPER], "oom": OOM}


@pytest.mark.parametrize("names", [("aer", "cper"), ("cper", "oom"), ("oom", "aer")])
def test_interleaved_families_do_not_mix(names):
    one, other = (STORIES[name] for name in names)
    mixed = [line for line in chain.from_iterable(zip_longest(one, other)) if line]
    apart = [*reports(one), *reports(other)]

    assert {(found.family, found.code, found.device) for found in reports(mixed)} == {
        (found.family, found.code, found.device) for found in apart
    }
