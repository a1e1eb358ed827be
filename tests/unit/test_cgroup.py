"""Cgroup trees of every kind: fixtures of version 1, 2 and hybrid, and the real one."""

import os
import secrets
import subprocess
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle_eye.probes import cgroup_ids
from eagle_eye.probes.cgroup import CgroupTree, container_of
from eagle_eye.probes.paths import Paths

ID = "4f5c0e1d2b3a49586776859403a2b1c0" * 2
POD = "pod2f7a1b7e-6d43-4f0a-9a11-0c5a6f1b2c3d"
SLICE = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-{POD.replace('-', '_')}.slice"


# ---- containers ----


@pytest.mark.parametrize(
    "path",
    [
        f"/docker/{ID}",
        f"/system.slice/docker-{ID}.scope",
        f"/kubepods/burstable/{POD}/{ID}",
        f"/kubepods/{POD}/{ID}",
        f"{SLICE}/cri-containerd-{ID}.scope",
        f"{SLICE}/crio-{ID}.scope",
        f"{SLICE}/crio-{ID}.scope/container",
        f"/system.slice/containerd.service/kubepods-besteffort-{POD}.slice:cri-containerd:{ID}",
        f"/machine.slice/libpod-{ID}.scope",
        f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container",
        f"/docker/{'ab' * 32}/kubelet{SLICE}/cri-containerd-{ID}.scope",
        f"/ecs/task/{ID}",
    ],
)
def test_the_container_is_found(path):
    assert container_of(path) == ID


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "/system.slice/ssh.service",
        SLICE,
        f"/kubepods/burstable/{POD}",
        f"/system.slice/crio-conmon-{ID}.scope",
        f"/machine.slice/libpod-conmon-{ID}.scope",
        f"/docker/{ID[:-1]}",
        f"/docker/{ID}0",
        f"/docker/{ID.upper()}",
        f"/a/{ID}.service",
    ],
)
def test_what_is_no_container_has_no_id(path):
    assert container_of(path) == ""


hex_ids = st.text("0123456789abcdef", min_size=64, max_size=64)
names = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1, max_size=20)
shapes = st.sampled_from(
    ["{}", "docker-{}.scope", "cri-containerd-{}.scope", "crio-{}.scope", "x.slice:cri-containerd:{}"]
)


@given(
    above=st.lists(names, max_size=4),
    shape=shapes,
    container=hex_ids,
    below=st.lists(st.sampled_from(["init.scope", "container"]), max_size=2),
)
def test_any_id_is_found_wherever_it_stands(above, shape, container, below):
    assert container_of("/" + "/".join([*above, shape.format(container), *below])) == container


@given(path=st.text(max_size=300))
def test_any_text_gives_an_id_or_nothing(path):
    found = container_of(path)
    assert found == "" or (len(found) == 64 and found in path)


# ---- fixture trees ----


def grow(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / "fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


V1 = {
    "cpu,cpuacct/cgroup.procs": "",
    f"cpu,cpuacct/docker/{ID}/cgroup.procs": "",
    "memory/cgroup.procs": "",
    "memory/memory.limit_in_bytes": "9223372036854771712\n",
    f"memory/docker/{ID}/memory.limit_in_bytes": "1073741824\n",
    f"memory/docker/{ID}/memory.usage_in_bytes": "4096\n",
    "pids/cgroup.procs": "",
}
V2 = {
    "cgroup.controllers": "cpu memory\n",
    "cgroup.procs": "",
    "kubepods/memory.max": "1000\n",
    "kubepods/memory.current": "900\n",
    f"kubepods/{POD}/memory.max": "max\n",
    f"kubepods/{POD}/memory.current": "400\n",
    "free/memory.max": "max\n",
    "free/memory.current": "1\n",
}
HYBRID = {**V1, "unified/cgroup.controllers": "", "unified/cgroup.procs": ""}


@pytest.fixture
def tree(tmp_path):
    def make(files: dict[str, str]) -> CgroupTree:
        grow(tmp_path, files)
        return CgroupTree(Paths(sys=tmp_path))

    return make


# Cgroups of version 2 that somebody called by the names of version 1 controllers.
V2_MISLEADING = {**V2, "cpu/cgroup.procs": "", "memory/cgroup.procs": "", "pids/cgroup.procs": ""}


@pytest.mark.parametrize(
    ("files", "version", "v1_cpu"),
    [
        (V1, "v1", True),
        (V2, "v2", False),
        (V2_MISLEADING, "v2", False),
        (HYBRID, "hybrid", True),
        ({}, "none", False),
    ],
)
def test_the_version_is_seen(tree, files, version, v1_cpu):
    made = tree(files)
    assert (made.version, made.uses_v1_cpu, made.uses_v1_memory) == (version, v1_cpu, v1_cpu)


def test_controllers_are_where_they_are_mounted(tree, tmp_path):
    made, base = tree(HYBRID), tmp_path / "fs/cgroup"
    assert made.root("cpu") == base / "cpu,cpuacct"
    assert made.root("memory") == base / "memory"
    assert made.root("hugetlb") == base / "unified"


def test_memory_in_version_1(tree):
    made = tree(V1)
    assert made.memory_limit_bytes(f"/docker/{ID}") == 1 << 30
    assert made.memory_usage_bytes(f"/docker/{ID}") == 4096
    assert made.memory_limit_bytes("/") is None


def test_memory_in_version_2_is_limited_by_those_above(tree):
    made = tree(V2)
    assert made.memory_limit_bytes(f"/kubepods/{POD}") == 1000
    assert made.memory_usage_bytes(f"/kubepods/{POD}") == 400
    assert made.memory_limit_bytes("/free") is None
    assert made.memory_usage_bytes("/gone") is None


def test_ids_are_found_by_searching_where_handles_do_not_work(tree, tmp_path):
    made = tree(V1)
    container = tmp_path / f"fs/cgroup/cpu,cpuacct/docker/{ID}"
    assert made.path_of(container.stat().st_ino) == f"/docker/{ID}"
    assert made.path_of((7 << 32) | container.stat().st_ino) == f"/docker/{ID}"
    assert made.path_of(container.parents[1].stat().st_ino) == "/"
    assert made.path_of(2**63) == ""


def test_unknown_ids_do_not_search_the_tree_again_and_again(tree, monkeypatch):
    made, searched = tree(V1), []
    monkeypatch.setattr(cgroup_ids, "walk", lambda root: searched.append(root) or iter(["/"]))
    for cgroup_id in range(2**40, 2**40 + 50):
        assert made.path_of(cgroup_id) == ""
    assert len(searched) == 1


def test_a_tree_of_many_cgroups_is_remembered_in_part(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(cgroup_ids, "_MAX_NAMES", 10)
    made = tree({f"cpu,cpuacct/{n}/cgroup.procs": "" for n in range(50)} | V1)
    folders = [path for path in (tmp_path / "fs/cgroup/cpu,cpuacct").iterdir() if path.is_dir()]
    assert any(made.path_of(path.stat().st_ino) for path in folders)
    assert len(made._names[made.root("cpu")]._known) <= 10


def test_a_name_that_is_not_utf8_can_still_be_published(tree, tmp_path):
    made = tree(V1)
    odd = os.fsencode(tmp_path / "fs/cgroup/cpu,cpuacct") + b"/od\xffd"
    os.mkdir(odd)
    assert made.path_of(os.stat(odd).st_ino).encode() == "/od�d".encode()


def test_no_tree_at_all_gives_nothing(tree):
    made = tree({})
    assert made.root("cpu") is None
    assert made.path_of(1) == ""
    assert made.memory_limit_bytes("/") is None
    assert list(made.walk("cpu")) == []


# ---- the real tree ----


@pytest.fixture
def controller(request) -> str:
    return getattr(request, "param", "memory")


every_controller = pytest.mark.parametrize("controller", ["cpu", "memory", "pids"], indirect=True)


@pytest.fixture
def real(controller):
    """A fresh cgroup in the real hierarchy of a controller."""
    root = CgroupTree(Paths()).root(controller)
    if os.geteuid() != 0 or root is None:
        pytest.skip("needs root and cgroups")
    group = root / f"eagle-eye-test-{secrets.token_hex(4)}" / "inner"
    group.mkdir(parents=True)
    yield controller, root, group
    group.rmdir()
    group.parent.rmdir()


@every_controller
def test_a_real_cgroup_is_found_at_once_and_not_after_it_is_gone(real):
    controller, root, group = real
    made = CgroupTree(Paths())
    assert made.path_of(root.stat().st_ino, controller) == "/"
    assert made.path_of(group.stat().st_ino, controller) == "/" + str(group.relative_to(root))
    inner = group / "short"
    inner.mkdir()
    inner_id = inner.stat().st_ino
    inner.rmdir()
    assert made.path_of(inner_id, controller) == ""


@every_controller
def test_searching_finds_the_same_as_handles(real):
    controller, root, group = real
    by_handle, by_search = CgroupTree(Paths()), CgroupTree(Paths())
    by_search.path_of(0, controller)
    by_search._names[root]._by_handle = False
    by_search._names[root]._searched = -100.0
    for each in (root, group.parent, group):
        assert by_search.path_of(each.stat().st_ino, controller) == by_handle.path_of(each.stat().st_ino, controller)


@every_controller
def test_the_path_of_a_process_is_the_one_in_proc(real):
    controller, _, group = real
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        (group / "cgroup.procs").write_text(str(sleeper.pid))
        lines = Path(f"/proc/{sleeper.pid}/cgroup").read_text().splitlines()
        told = {name: path for _, names, path in (line.split(":", 2) for line in lines) for name in names.split(",")}
        assert CgroupTree(Paths()).path_of(group.stat().st_ino, controller) == told.get(controller, told.get(""))
    finally:
        sleeper.kill()
        sleeper.wait()


def test_memory_of_a_real_cgroup(real):
    _, root, group = real
    made, path = CgroupTree(Paths()), "/" + str(group.relative_to(root))
    limit = group / ("memory.limit_in_bytes" if made.uses_v1_memory else "memory.max")
    limit.write_text(str(64 << 20))
    assert made.memory_limit_bytes(path) == 64 << 20
    assert 0 <= made.memory_usage_bytes(path) < 64 << 20
    assert made.memory_usage_bytes("/") < psutil.virtual_memory().total
