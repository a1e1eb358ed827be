"""Pressure, load, memory and throttling: fixture trees of all cgroup versions, and this machine."""

import contextlib
import os
import resource
import secrets
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle_eye.probes import pressure
from eagle_eye.probes.cgroup import CgroupTree
from eagle_eye.probes.paths import Paths
from eagle_eye.probes.pressure import SPEC
from eagle_eye.probes.throttling import Throttle, parsed

DEFAULTS = {option.name: option.parse(option.default, option.name) for option in SPEC.options}
ID = "4f5c0e1d2b3a49586776859403a2b1c0" * 2
SLICE = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod2f7a1b7e.slice"
SECOND_NS = 10**9

PROC = {
    "pressure/cpu": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\nfull avg10=0.00 avg60=0.00 total=0\n",
    "pressure/irq": "full avg10=0.00 avg60=0.00 avg300=0.00 total=2\n",
    "loadavg": "0.50 1.25 2.00 3/400 12345\n",
    "meminfo": "MemTotal:       1024 kB\nMemAvailable:    512 kB\nHugePages_Total:       3\nSwapFree:          0 kB\n",
}
V1_STAT = "nr_periods 100\nnr_throttled 40\nthrottled_time 2500000000\n"
V2_STAT = (
    "usage_usec 9\nuser_usec 5\nsystem_usec 4\nnr_periods 100\nnr_throttled 40\nthrottled_usec 2500000\nnr_bursts 0\n"
)


def v1(path: str, *, quota: str = "50000", stat: str = V1_STAT, mount: str = "cpu,cpuacct") -> dict[str, str]:
    folder = f"{mount}/{path}"
    return {f"{mount}/cgroup.procs": "", f"{folder}/cpu.cfs_quota_us": quota + "\n", f"{folder}/cpu.stat": stat}


def v2(path: str, *, quota: str = "50000 100000", stat: str = V2_STAT) -> dict[str, str]:
    return {"cgroup.controllers": "cpu\n", f"{path}/cpu.max": quota + "\n", f"{path}/cpu.stat": stat}


@pytest.fixture
def opened(context, tmp_path):
    probes = []

    def make(cgroups: dict[str, str] | None = None, proc: dict[str, str] | None = None, **options):
        grow(tmp_path / "proc", PROC if proc is None else proc)
        grow(tmp_path / "sys/fs/cgroup", cgroups or {})
        paths = Paths(proc=tmp_path / "proc", sys=tmp_path / "sys")
        probes.append(pressure.build(context("pressure", paths=paths, **DEFAULTS | options)))
        return probes[-1]

    yield make
    for probe in probes:
        probe.close()


def grow(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def values(sample) -> dict:
    return {(series.metric.name.removeprefix("eagle_eye_"), *series.labels): series.value for series in sample.series}


def throttled(sample) -> dict[str, float]:
    name = "eagle_eye_cgroup_throttled_seconds_total"
    return {series.labels[0]: series.value for series in sample.series if series.metric.name == name}


def settled(probe, start_s: int = 0):
    """Enough rounds for a small tree to be walked twice."""
    for n in range(10):
        sample = probe.sample((start_s + n) * SECOND_NS)
    return sample


# ---- /proc ----


def test_the_kernels_figures_are_in_base_units(opened):
    assert values(opened().sample(1)) == {
        ("pressure_waiting_seconds_total", "cpu", "some"): 1.5,
        ("pressure_waiting_seconds_total", "cpu", "full"): 0.0,
        ("pressure_waiting_seconds_total", "irq", "full"): 2e-6,
        ("load_average", "1m"): 0.5,
        ("load_average", "5m"): 1.25,
        ("load_average", "15m"): 2.0,
        ("memory_size_bytes",): 1 << 20,
        ("memory_available_bytes",): 1 << 19,
        ("memory_swap_free_bytes",): 0,
        ("cgroup_left_out",): 0,
    }


def test_a_file_is_read_anew_each_round(opened, tmp_path):
    probe = opened()
    probe.sample(1)
    (tmp_path / "proc/loadavg").write_text("9.00 1.25 2.00 3/400 12345\n")
    assert values(probe.sample(2))["load_average", "1m"] == 9.0


def test_without_psi_the_probe_works_and_says_what_is_missing(opened):
    sample = opened(proc={"loadavg": PROC["loadavg"]}).sample(1)
    assert "psi=1" in sample.degraded
    assert values(sample)["load_average", "15m"] == 2.0


def test_with_psi_nothing_is_said(opened):
    assert opened().sample(1).degraded == ""


def test_an_empty_machine_breaks_nothing(opened):
    assert values(opened(proc={}).sample(1)) == {("cgroup_left_out",): 0}


# ---- throttling on fixture trees ----


@pytest.mark.parametrize(
    ("files", "cgroup"),
    [
        (v1(f"docker/{ID}"), f"/docker/{ID}"),
        (v1(f"kubepods/burstable/pod1/{ID}", mount="cpu"), f"/kubepods/burstable/pod1/{ID}"),
        (v1(f"docker/{ID}") | {"unified/cgroup.controllers": "hugetlb\n"}, f"/docker/{ID}"),
        (v2(f"{SLICE}/cri-containerd-{ID}.scope"), f"/{SLICE}/cri-containerd-{ID}.scope"),
        (v2(f"kubepods/burstable/pod1/{ID}"), f"/kubepods/burstable/pod1/{ID}"),
    ],
    ids=["v1", "v1-kubepods", "hybrid", "v2-systemd", "v2-cgroupfs"],
)
def test_a_throttled_container_is_found_in_every_version(opened, files, cgroup):
    sample = settled(opened(files))
    assert throttled(sample) == {cgroup: 2.5}
    assert values(sample)["cgroup_throttled_periods_total", cgroup] == 40
    assert values(sample)["cgroup_periods_total", cgroup] == 100


@pytest.mark.parametrize("files", [v1("free", quota="-1"), v2("free", quota="max 100000")])
def test_a_cgroup_without_a_quota_is_not_followed(opened, files):
    assert throttled(settled(opened(files))) == {}


def test_a_new_container_is_found_later(opened, tmp_path):
    probe = opened(v2("old"))
    settled(probe)
    grow(tmp_path / "sys/fs/cgroup", v2("new"))
    assert throttled(settled(probe, 100)) == {"/old": 2.5, "/new": 2.5}


def test_more_cgroups_than_allowed_are_counted_and_said(opened):
    files = {name: text for n in range(7) for name, text in v2(f"job{n}").items()}
    probe = opened(files, max_cgroups=5)
    sample = settled(probe)
    assert len(throttled(sample)) == 5
    assert values(sample)["cgroup_left_out",] == 2
    assert "2 cgroups" in sample.degraded
    assert "max_cgroups" in sample.degraded


def test_cgroups_that_no_descriptor_is_left_for_are_said(opened):
    files = {name: text for n in range(7) for name, text in v2(f"job{n}").items()}
    probe = opened(files)
    used = len(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 3, hard))
    try:
        sample = settled(probe)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert 0 < len(throttled(sample)) < 7
    assert "not followed" in sample.degraded


def test_every_cgroup_has_its_turn(opened, tmp_path):
    files = {name: text for n in range(100) for name, text in v2(f"job{n}").items()}
    probe = opened(files)
    for n in range(40):
        probe.sample(n * SECOND_NS)
    grow(tmp_path / "sys/fs/cgroup", {f"job{n}/cpu.stat": V2_STAT.replace("2500000", "7000000") for n in range(100)})
    for n in range(40, 50):
        sample = probe.sample(n * SECOND_NS)
    assert set(throttled(sample).values()) == {7.0}
    assert len(throttled(sample)) == 100


def test_descriptors_are_given_back(context, tmp_path):
    grow(tmp_path / "sys/fs/cgroup", {name: text for n in range(9) for name, text in v2(f"job{n}").items()})
    process = psutil.Process()
    before = process.num_fds()
    probe = pressure.build(context("pressure", paths=Paths(sys=tmp_path / "sys"), **DEFAULTS))
    settled(probe)
    assert process.num_fds() >= before + 9
    probe.close()
    assert process.num_fds() == before


@given(
    data=st.one_of(
        st.binary(max_size=200), st.text("nr_periods throttled_usec0123456789\n", max_size=200).map(str.encode)
    )
)
def test_a_broken_cpu_stat_gives_figures_or_a_value_error(data):
    with contextlib.suppress(ValueError):
        assert isinstance(parsed(data), Throttle)


# ---- this machine ----


@pytest.fixture
def real(context):
    probe = pressure.build(context("pressure", **DEFAULTS))
    yield probe
    probe.close()


def test_memory_and_load_agree_with_psutil(real):
    ours, theirs, swap = values(real.sample(1)), psutil.virtual_memory(), psutil.swap_memory()
    assert ours["memory_size_bytes",] == theirs.total
    assert ours["memory_available_bytes",] == pytest.approx(theirs.available, rel=0.05)
    assert ours["memory_swap_size_bytes",] == swap.total
    assert [ours["load_average", window] for window in ("1m", "5m", "15m")] == pytest.approx(os.getloadavg(), abs=0.2)


def test_cpu_pressure_rises_when_three_spin_on_one_cpu(real):
    if not Path("/proc/pressure/cpu").exists():
        pytest.skip("this kernel has no PSI, or it is off")
    before = values(real.sample(1))["pressure_waiting_seconds_total", "cpu", "some"]
    spin = "import os, time\nos.sched_setaffinity(0, {0})\nuntil = time.time() + 1\nwhile time.time() < until: pass"
    spinners = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(3)]
    for spinner in spinners:
        spinner.wait()
    after = values(real.sample(2))["pressure_waiting_seconds_total", "cpu", "some"]
    assert after - before > 0.5


@pytest.fixture
def group():
    """A real cgroup with a quota of a tenth of a CPU."""
    tree = CgroupTree(Paths())
    root = tree.root("cpu")
    if os.geteuid() != 0 or root is None:
        pytest.skip("needs root and the cpu controller")
    made = root / f"eagle-eye-test-{secrets.token_hex(4)}"
    made.mkdir()
    if tree.uses_v1_cpu:
        (made / "cpu.cfs_quota_us").write_text("10000")
    elif (made / "cpu.max").exists():
        (made / "cpu.max").write_text("10000 100000")
    else:
        made.rmdir()
        pytest.skip("the cpu controller is not enabled at the root of the tree")
    yield made
    for path in (*made.glob("*/"), made):
        path.rmdir()


def test_a_container_at_its_quota_is_seen_to_be_throttled(real, group):
    name = f"/{group.name}"
    settled(real)
    before = throttled(real.sample(20 * SECOND_NS)).get(name, 0.0)
    spin_in(group, 1.5)
    sample = settled(real, 30)
    assert throttled(sample)[name] - before > 0.7
    theirs = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    assert values(sample)["cgroup_throttled_periods_total", name] == int(theirs["nr_throttled"]) >= 5


SPIN = """
import sys, time
with open(sys.argv[1], "w") as procs:
    procs.write("0")
until = time.monotonic() + float(sys.argv[2])
while time.monotonic() < until:
    pass
"""


def spin_in(group: Path, seconds: float) -> None:
    """Uses a whole CPU, as far as the quota lets it. Joins when it has started, which takes CPU time too."""
    subprocess.run([sys.executable, "-c", SPIN, group / "cgroup.procs", str(seconds)], check=True)


def remade(group: Path) -> Path:
    if (group / "cgroup.subtree_control").exists():
        (group / "cgroup.subtree_control").write_text("+cpu")
    inner = group / "inner"
    inner.mkdir()
    quota = "cpu.cfs_quota_us" if (inner / "cpu.cfs_quota_us").exists() else "cpu.max"
    # Less than the cgroup above has, else that one would be throttled in its stead.
    (inner / quota).write_text("3000")
    return inner


def test_a_real_cgroup_that_goes_takes_its_series_along_and_coming_back_goes_on_from_its_totals(real, group):
    name, inner = f"/{group.name}/inner", remade(group)
    spin_in(inner, 0.6)
    first = throttled(settled(real))[name]
    assert first > 0.2
    inner.rmdir()
    assert name not in throttled(settled(real, 100))
    inner = remade(group)
    assert throttled(settled(real, 200))[name] == first
    spin_in(inner, 0.6)
    assert throttled(settled(real, 300))[name] > first + 0.2


def test_a_round_at_rest_is_cheap(real):
    settled(real)
    begin = time.thread_time()
    for n in range(200):
        real.sample((100 * SECOND_NS) + n * SECOND_NS // 2)
    assert (time.thread_time() - begin) / 200 < 0.001
