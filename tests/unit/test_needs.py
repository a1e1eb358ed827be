"""What a machine may lack, on fixture trees and as an unprivileged user of this machine."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from eagle_eye.probes import needs
from eagle_eye.probes.needs import NEEDS, effective_capabilities
from eagle_eye.probes.paths import Paths
from eagle_eye.probes.registry import PROBES

EVERYTHING = (1 << 41) - 1
ADMIN = 1 << 21


@pytest.fixture
def machine(tmp_path):
    """A machine that has only the given files; `capabilities` and `btf` names are put in their places."""

    def make(files: dict[str, str] | None = None, *, capabilities: int = 0, btf: tuple[str, ...] = ()) -> Paths:
        given = {"proc/self/status": f"Name:\tx\nCapEff:\t{capabilities:016x}\n", **(files or {})}
        if btf:
            given["sys/kernel/btf/vmlinux"] = "\0" + "\0".join(btf) + "\0"
        for name, text in given.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return Paths(proc=tmp_path / "proc", sys=tmp_path / "sys", dev=tmp_path / "dev")

    return make


MET = {
    "btf": {"btf": ("anything",)},
    "cap_bpf": {"capabilities": 1 << 39},
    "cap_perfmon": {"capabilities": 1 << 38},
    "cap_syslog": {"capabilities": 1 << 34},
    "task_storage": {"btf": ("bpf_task_storage_get",)},
    "tracefs": {"files": {"sys/kernel/tracing/events/header_page": ""}},
    "kmsg": {"files": {"dev/kmsg": ""}},
    "psi": {"files": {"proc/pressure/cpu": "some total=1\n"}},
    "cgroup": {"files": {"sys/fs/cgroup/cgroup.controllers": "cpu\n"}},
}


@pytest.mark.parametrize("name", MET)
def test_a_need_is_met_by_just_what_it_names(machine, name):
    assert NEEDS[name].missing(machine(**MET[name])) == ""


@pytest.mark.parametrize("name", MET)
def test_on_a_bare_machine_it_is_missing_and_there_is_a_way_out(machine, name):
    missing = NEEDS[name].missing(machine())
    assert missing
    assert "\n" not in missing
    assert NEEDS[name].remedy


@pytest.mark.parametrize("name", ["cap_bpf", "cap_perfmon", "cap_syslog"])
def test_the_administrator_capability_covers_the_finer_ones(machine, name):
    assert NEEDS[name].missing(machine(capabilities=ADMIN)) == ""
    assert name.upper() in NEEDS[name].missing(machine(capabilities=EVERYTHING & ~ADMIN & ~(0xC400000000 | 1 << 38)))


def test_a_container_with_process_ids_of_its_own_sees_only_itself(machine):
    missing = NEEDS["host_pids"].missing
    assert missing(Paths()) == ""
    assert "not known" in missing(machine())
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a process namespace")
    code = "from eagle_eye.probes.needs import NEEDS, Paths\nprint(NEEDS['host_pids'].missing(Paths()))"
    inside = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code]
    done = subprocess.run(inside, capture_output=True, text=True, check=True)
    assert "only the tasks of its own container" in done.stdout


def test_no_proc_is_no_capability(tmp_path):
    assert effective_capabilities(Paths(proc=tmp_path)) == 0


def test_without_btf_task_storage_is_unknown_not_absent(machine):
    assert "type information" in NEEDS["task_storage"].missing(machine())
    assert "5.11" in NEEDS["task_storage"].missing(machine(btf=("anything",)))


def test_memlock_matters_only_where_the_kernel_counts_it(machine, monkeypatch):
    missing = NEEDS["memlock"].missing
    monkeypatch.setattr(resource, "getrlimit", lambda _: (8 << 20, 8 << 20))
    assert missing(machine(btf=("bpf_task_storage_get",))) == ""
    assert "8388608 bytes" in missing(machine(btf=("bpf_map_charge_init",)))
    assert missing(machine(btf=("bpf_map_charge_init",), capabilities=1 << 24)) == ""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (8 << 20, resource.RLIM_INFINITY))
    assert missing(machine(btf=("bpf_map_charge_init",))) == ""


def test_unbuilt_objects_are_named_with_the_command_that_builds_them(monkeypatch, tmp_path):
    bpf = pytest.importorskip("eagle_eye.native.bpf")
    assert NEEDS["bpf_objects"].missing(Paths()) == ""
    monkeypatch.setattr(bpf, "OBJECTS", tmp_path)
    assert "not built" in NEEDS["bpf_objects"].missing(Paths())
    assert NEEDS["bpf_objects"].remedy == "make build"


def test_every_need_of_every_probe_has_its_row():
    named = {name for spec in PROBES for name in (*spec.needs, *spec.optional)}
    assert named <= set(NEEDS)


def test_capabilities_agree_with_the_kernel():
    assert effective_capabilities(Paths()) == int(
        re.search(r"CapEff:\s*(\w+)", Path("/proc/self/status").read_text())[1], 16
    )


def test_task_storage_agrees_with_the_kernels_symbols():
    symbols = Path("/proc/kallsyms")
    if not symbols.exists() or NEEDS["btf"].missing(Paths()):
        pytest.skip("this kernel has no kallsyms or no BTF")
    known = " bpf_task_storage_get\n" in symbols.read_text()
    assert (NEEDS["task_storage"].missing(Paths()) == "") == known


AS_NOBODY = """
import os
# Before the change of user, for an interpreter in root's home.
import eagle_eye.native.bpf, eagle_eye.native.kmsg
from eagle_eye.probes.needs import NEEDS
from eagle_eye.probes.paths import Paths
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for need in NEEDS.values():
    print(f"{need.name}: {need.missing(Paths())}")
"""


def test_an_unprivileged_user_lacks_what_it_should():
    if os.geteuid() != 0:
        pytest.skip("needs root, to become nobody")
    done = subprocess.run([sys.executable, "-c", AS_NOBODY], capture_output=True, text=True, check=True)
    told = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert set(told) == set(NEEDS)
    assert "CAP_BPF" in told["cap_bpf"]
    assert "CAP_PERFMON" in told["cap_perfmon"]
    assert "CAP_SYSLOG" in told["cap_syslog"]
    if Path("/proc/sys/kernel/dmesg_restrict").read_text().strip() == "1":
        assert "CAP_SYSLOG" in told["kmsg"]
    assert told["cgroup"] == needs.NEEDS["cgroup"].missing(Paths())
