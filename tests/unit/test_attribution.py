"""Owners of processes: cgroup paths of every runtime and driver, reused pids, the kubelet's log folders."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle_eye.probes.attribution import _MAX_PROCESSES, Attribution, process_alive
from eagle_eye.probes.kubelet_logs import KubeletLogs
from eagle_eye.probes.owner import NOBODY, Owner, named, only_holders, owner_of, owner_of_path
from eagle_eye.probes.paths import Paths

ID = "4f5c0e1d2b3a49586776859403a2b1c0" * 2
OTHER_ID = "ab" * 32
UID = "2f7a1b7e-6d43-4f0a-9a11-0c5a6f1b2c3d"
OTHER_UID = "11111111-2222-3333-4444-555555555555"
STATIC_UID = "0123456789abcdef0123456789abcdef"
SLICE_UID = UID.replace("-", "_")
SLICE = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICE_UID}.slice"
IN_POD = Owner(ID, UID)


# ---- paths ----


@pytest.mark.parametrize(
    ("path", "owner"),
    [
        (f"{SLICE}/cri-containerd-{ID}.scope", IN_POD),
        (f"{SLICE}/crio-{ID}.scope", IN_POD),
        (f"{SLICE}/crio-{ID}.scope/container", IN_POD),
        (f"{SLICE}/docker-{ID}.scope", IN_POD),
        (f"/kubepods.slice/kubepods-pod{SLICE_UID}.slice/cri-containerd-{ID}.scope", IN_POD),
        (f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{SLICE_UID}.slice/crio-{ID}.scope", IN_POD),
        (f"/kubepods/burstable/pod{UID}/{ID}", IN_POD),
        (f"/kubepods/besteffort/pod{UID}/{ID}", IN_POD),
        (f"/kubepods/pod{UID}/{ID}", IN_POD),
        (f"/kubepods/burstable/pod{UID}/crio-{ID}", IN_POD),
        (f"/system.slice/containerd.service/kubepods-besteffort-pod{SLICE_UID}.slice:cri-containerd:{ID}", IN_POD),
        (f"/kubepods-besteffort-pod{UID}.slice:cri-containerd:{ID}", IN_POD),
        (f"/kubepods/burstable/pod{STATIC_UID}/{ID}", Owner(ID, STATIC_UID)),
        (f"/kubepods.slice/kubepods-pod{STATIC_UID}.slice/crio-{ID}.scope", Owner(ID, STATIC_UID)),
        # kind and k3d: a node that is itself a container
        (f"/docker/{OTHER_ID}/kubelet/kubepods/burstable/pod{UID}/{ID}", IN_POD),
        (f"/system.slice/docker-{OTHER_ID}.scope/kubelet.slice/kubelet-kubepods.slice"
         f"/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{SLICE_UID}.slice"
         f"/cri-containerd-{ID}.scope", IN_POD),
        (f"/docker/{OTHER_ID}/k3s/kubepods/pod{UID}/{ID}", IN_POD),
        # containers within a pod's container belong to the pod's
        (f"{SLICE}/cri-containerd-{ID}.scope/docker/{OTHER_ID}", IN_POD),
        (f"/kubepods/pod{UID}/{ID}/kubepods/pod{OTHER_UID}/{OTHER_ID}", IN_POD),
        # as a container with a cgroup namespace of its own sees its neighbours
        (f"/../../pod{UID}/{ID}", IN_POD),
        (f"/../cri-containerd-{ID}.scope", Owner(ID)),
        # no Kubernetes
        (f"/docker/{ID}", Owner(ID)),
        (f"/system.slice/docker-{ID}.scope", Owner(ID)),
        (f"/machine.slice/libpod-{ID}.scope/container", Owner(ID)),
        (f"/machine.slice/machine-libpod_pod_{OTHER_ID}.slice/libpod-{ID}.scope", Owner(ID)),
        # a pod's own processes, and those that watch a container from outside
        (SLICE, Owner("", UID)),
        (f"{SLICE}/crio-conmon-{ID}.scope", Owner("", UID)),
        # nobody's
        ("/", NOBODY),
        ("", NOBODY),
        ("/system.slice/ssh.service", NOBODY),
        ("/kubepods.slice/kubepods-burstable.slice", NOBODY),
        ("/kubepods/burstable/pod1234", NOBODY),
        (f"/kubepods/pod{UID.upper()}", NOBODY),
        (f"/kubepods/pod{UID[:-1]}", NOBODY),
        (f"/kubepods/pod{UID.replace('-', '_', 1)}", NOBODY),
        (f"/user.slice/pod{UID}-backup", NOBODY),
    ],
)  # fmt: skip
def test_the_owner_is_read_from_a_path(path, owner):
    assert owner_of_path(path) == owner


runtimes = st.sampled_from(["cri-containerd-{}.scope", "crio-{}.scope", "docker-{}.scope", "{}", "crio-{}"])
classes = st.sampled_from(["", "burstable", "besteffort"])
uids = st.uuids().map(str)
ids = st.text("0123456789abcdef", min_size=64, max_size=64)
prefixes = st.sampled_from(["", f"/docker/{OTHER_ID}", "/system.slice/k3s.service", f"/docker/{OTHER_ID}/kubelet"])
below = st.lists(st.sampled_from(["init.scope", "container", "app.slice", f"docker/{OTHER_ID}"]), max_size=3)


@given(uids, ids, classes, runtimes, prefixes, below, st.booleans())
def test_whatever_the_driver_the_owner_is_the_same(uid, id_, class_, runtime, prefix, below, systemd):
    dashed = f"kubepods-{class_}" if class_ else "kubepods"
    by_systemd = f"/kubepods.slice/{dashed}.slice/{dashed}-pod{uid.replace('-', '_')}.slice"
    by_cgroupfs = f"/kubepods/{class_}/pod{uid}".replace("//", "/")
    path = "/".join([prefix + (by_systemd if systemd else by_cgroupfs), runtime.format(id_), *below])

    assert owner_of_path(path) == Owner(id_, uid)


lines = st.builds(
    "{}:{}:{}".format,
    st.integers(0, 99),
    st.sampled_from(["", "memory", "cpu,cpuacct", "name=systemd", "pids"]),
    st.one_of(st.text(), st.sampled_from([SLICE, f"/docker/{ID}", f"{SLICE}/crio-{ID}.scope"])),
)


@given(st.one_of(st.text(), st.lists(lines).map("\n".join)))
def test_any_text_gives_an_owner_that_it_names(text):
    owner = owner_of(text)

    assert owner.container_id in text
    assert re.fullmatch("|[0-9a-f]{64}", owner.container_id)
    assert owner.pod_uid in text.replace("_", "-")
    assert (owner.pod, owner.namespace, owner.container) == ("", "", "")


@pytest.mark.parametrize(
    "text",
    [
        f"0::{SLICE}/cri-containerd-{ID}.scope\n",
        f"12:memory:{SLICE}/cri-containerd-{ID}.scope\n3:cpu,cpuacct:{SLICE}/cri-containerd-{ID}.scope\n",
        f"11:pids:/kubepods/pod{UID}/{ID}\n1:name=systemd:/kubepods/pod{UID}/{ID}\n0::/system.slice/containerd.service\n",
        f"12:rdma:/\n11:memory:/\n1:name=systemd:{SLICE}/crio-{ID}.scope\n0::/\n",
        f"7:hugetlb:{SLICE}\n6:cpu:{SLICE}/crio-{ID}.scope\n",
        f"2:memory:/kubepods-besteffort-pod{UID}.slice:cri-containerd:{ID}\n",
    ],
)
def test_versions_1_2_and_hybrid_tell_the_same(text):
    assert owner_of(text) == IN_POD


# ---- processes ----


class Node:
    """A /proc and the kubelet's log folders, and a clock to turn."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now_ns = 10**12
        self.logs = KubeletLogs(root / "pods", root / "containers", clock_ns=lambda: self.now_ns)
        self.attribution = Attribution(Paths(proc=root / "proc"), self.logs, clock_ns=lambda: self.now_ns)

    def run(self, pid: int, cgroup: str, *, started: int = 100, name: str = "python", state: str = "R") -> None:
        folder = self.root / "proc" / str(pid)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "stat").write_text(f"{pid} ({name}) {state} {' '.join(['0'] * 18)} {started} 0 0\n")
        (folder / "cgroup").write_text(f"0::{cgroup}\n")

    def log(self, namespace: str, pod: str, uid: str, container: str = "", id_: str = ID) -> None:
        (self.root / "pods" / f"{namespace}_{pod}_{uid}").mkdir(parents=True)
        (self.root / "containers").mkdir(exist_ok=True)
        if container:
            (self.root / "containers" / f"{pod}_{namespace}_{container}-{id_}.log").symlink_to("/nowhere")


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


def test_a_process_is_attributed(node):
    node.run(7, f"{SLICE}/crio-{ID}.scope")

    assert node.attribution.of(7) == IN_POD
    assert node.attribution.of(8) == NOBODY


@pytest.mark.parametrize("name", ["a) R 1 2", "sh (x)", ") ) )", "", "\n"])
def test_a_pid_that_is_used_again_is_another_process(node, name):
    node.run(7, f"{SLICE}/crio-{ID}.scope", started=100, name=name)
    assert node.attribution.of(7) == IN_POD

    node.run(7, f"/docker/{OTHER_ID}", started=101, name=name)
    assert node.attribution.of(7) == Owner(OTHER_ID)


def test_the_same_process_is_read_once_and_again_after_a_while(node):
    node.run(7, "/system.slice/containerd.service")
    assert node.attribution.of(7) == NOBODY

    node.run(7, f"{SLICE}/crio-{ID}.scope")
    assert node.attribution.of(7) == NOBODY
    node.now_ns += 11 * 10**9
    assert node.attribution.of(7) == IN_POD


def test_a_process_without_start_time_is_never_remembered(node):
    node.run(7, f"/docker/{ID}")
    (node.root / "proc/7/stat").write_text("garbage")
    assert node.attribution.of(7) == Owner(ID)

    (node.root / "proc/7/cgroup").unlink()
    assert node.attribution.of(7) == NOBODY


def test_memory_is_bounded(node):
    node.run(1, f"/docker/{ID}")
    (node.root / "proc").joinpath("1").rename(node.root / "proc/x")
    for pid in range(1, _MAX_PROCESSES + 10):
        (node.root / "proc" / str(pid)).symlink_to("x")
        node.attribution.of(pid)

    assert len(node.attribution._known) == _MAX_PROCESSES


def test_garbage_in_proc_is_nobodys(node):
    node.run(7, "/")
    (node.root / "proc/7/cgroup").write_bytes(b"\xff\xfe\x00:\n:::::\n0:" + b"x" * 200_000)

    assert node.attribution.of(7) == NOBODY


def test_real_processes_are_nobodys_or_in_their_container():
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        text = Path(f"/proc/{sleeper.pid}/cgroup").read_text()
        assert Attribution(Paths()).of(sleeper.pid).container_id == owner_of(text).container_id
    finally:
        sleeper.kill()
        sleeper.wait()
    assert Attribution(Paths()).of(sleeper.pid) == NOBODY


def test_whether_a_process_runs(node):
    node.run(7, "/", state="S", name="a) Z")
    node.run(8, "/", state="Z")
    alive = process_alive(Paths(proc=node.root / "proc"))

    assert (alive(7), alive(8), alive(9)) == (True, False, False)
    assert process_alive(Paths())(os.getpid())


# ---- names ----


def test_names_come_from_the_kubelets_log_folders(node):
    node.run(7, f"{SLICE}/crio-{ID}.scope")
    node.log("default", "llama-0", UID, "engine")

    assert node.attribution.of(7) == Owner(ID, UID, "llama-0", "default", "engine")


def test_static_pods_have_names_too(node):
    node.run(7, f"/kubepods/pod{STATIC_UID}/{ID}")
    node.log("kube-system", "etcd-node.a", STATIC_UID, "etcd")

    assert node.attribution.of(7) == Owner(ID, STATIC_UID, "etcd-node.a", "kube-system", "etcd")


def test_a_pod_of_another_uid_lends_no_name(node):
    node.run(7, f"{SLICE}/crio-{ID}.scope")
    node.log("default", "llama-0", OTHER_UID, "engine", OTHER_ID)

    assert node.attribution.of(7) == IN_POD


def test_a_pod_that_is_new_is_found_a_little_later(node):
    node.run(7, f"{SLICE}/crio-{ID}.scope")
    assert node.attribution.of(7) == IN_POD

    node.log("default", "llama-0", UID, "engine")
    assert node.attribution.of(7).pod == ""
    node.now_ns += 6 * 10**9
    assert node.attribution.of(7).pod == "llama-0"


@pytest.mark.parametrize(
    "name", ["no", "a_b", f"A_b_{UID}", f"a_b_{UID}x", f"a_b_c_{UID}", f"a_{'b' * 300}_{UID}", "\n"]
)
def test_other_folders_are_no_pods(node, name):
    (node.root / "pods").mkdir()
    if len(name) < 256:
        (node.root / "pods" / name).mkdir()
    node.run(7, f"{SLICE}/crio-{ID}.scope")

    assert node.attribution.of(7) == IN_POD


def test_a_device_of_one_pod_and_one_holder_names_the_pod():
    holder = Owner(pod="llama-0", namespace="default", container="engine")
    other = Owner(pod="other", namespace="default", container="engine")

    assert only_holders([IN_POD, Owner(OTHER_ID, UID)], [holder]) == {UID: holder}
    assert only_holders([IN_POD, NOBODY], [holder]) == {UID: holder}
    assert only_holders([IN_POD], [holder, other]) == {}
    assert only_holders([IN_POD, Owner(OTHER_ID, OTHER_UID)], [holder]) == {}
    assert only_holders([Owner(ID)], [holder]) == {}
    assert only_holders([IN_POD], []) == {}


def test_names_are_added_but_not_replaced():
    names = Owner(pod="llama-0", namespace="default", container="engine")

    assert named(IN_POD, names) == Owner(ID, UID, "llama-0", "default", "engine")
    assert named(Owner(ID, UID, pod="mine"), names).pod == "mine"
    assert named(IN_POD, NOBODY) == IN_POD
