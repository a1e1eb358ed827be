"""Who uses the devices: processes in a /proc, a pod-resources server, HAMi's regions."""

import pytest

from eagle_eye.probes.attribution import Attribution
from eagle_eye.probes.device_messages import Process
from eagle_eye.probes.device_owners import DeviceOwners, Users, build
from eagle_eye.probes.hami import DeviceMemory, Region
from eagle_eye.probes.hami_region import Share, Usage
from eagle_eye.probes.kubelet_logs import KubeletLogs
from eagle_eye.probes.model import Device
from eagle_eye.probes.paths import Paths
from eagle_eye.probes.pod_resources import PodSnapshot, ask
from eagle_eye.probes.pod_resources_message import Holder

GPU = Device(vendor="nvidia", index=0, uuid="GPU-0", model="H100")
OTHER = Device(vendor="nvidia", index=1, uuid="GPU-1", model="H100")
UID = "2f7a1b7e-6d43-4f0a-9a11-0c5a6f1b2c3d"
OTHER_UID = "11111111-2222-3333-4444-555555555555"
ID, OTHER_ID = "ab" * 32, "cd" * 32
SECOND = 1_000_000_000


class Pods:
    def __init__(self, *holders: tuple[str, Holder]) -> None:
        self.told = PodSnapshot({device: (holder,) for device, holder in holders})

    def snapshot(self) -> PodSnapshot:
        return self.told

    def close(self) -> None:
        pass


@pytest.fixture
def run(tmp_path):
    def run(pid: int, path: str) -> None:
        folder = tmp_path / "proc" / str(pid)
        folder.mkdir(parents=True)
        (folder / "stat").write_text(f"{pid} (x) R {' '.join(['0'] * 18)} 5\n")
        (folder / "cgroup").write_text(f"0::{path}\n")

    return run


@pytest.fixture
def make(tmp_path):
    def make(*holders: tuple[str, Holder], regions: list[Region] | None = None) -> DeviceOwners:
        logs = KubeletLogs(tmp_path / "pods", tmp_path / "containers")
        attribution = Attribution(Paths(proc=tmp_path / "proc"), logs)
        return DeviceOwners(attribution.of, logs, Pods(*holders), None if regions is None else lambda: regions)

    return make


def flat(series):
    assert len({(one.metric.name, one.labels) for one in series}) == len(series)
    assert all(len(one.labels) == len(one.metric.labels) for one in series)
    return {(one.metric.name.removeprefix("eagle_eye_device_"), *one.labels): one.value for one in series}


def test_processes_are_added_up_by_pod_and_the_unknown_stays_unknown(make, run):
    run(1, f"/kubepods/pod{UID}/{ID}")
    run(2, f"/kubepods/pod{UID}/{ID}")
    run(3, f"/docker/{OTHER_ID}")
    run(4, "/user.slice")
    processes = [Process(1, 10, 0.25), Process(2, 20), Process(3, 5, 0.5), Process(4, None, 0.125), Process(99, 1)]

    assert flat(make().series(0, "n", [Users(GPU, processes)])) == {
        ("process_memory_bytes", "0", "GPU-0", "H100", UID, "", ID[:12]): 30,
        ("process_memory_bytes", "0", "GPU-0", "H100", "", "", OTHER_ID[:12]): 5,
        ("process_memory_bytes", "0", "GPU-0", "H100", "", "", ""): 1,
        ("process_utilization_ratio", "0", "GPU-0", "H100", UID, "", ID[:12]): 0.25,
        ("process_utilization_ratio", "0", "GPU-0", "H100", "", "", OTHER_ID[:12]): 0.5,
        ("process_utilization_ratio", "0", "GPU-0", "H100", "", "", ""): 0.125,
    }


@pytest.mark.parametrize("device", ["GPU-0", "nvidia:0"])
def test_the_kubelet_names_the_pod_that_holds_the_device(make, run, device):
    run(1, f"/kubepods/pod{UID}/{ID}")
    owners = make((device, Holder("default", "llama-0", "engine", "nvidia.com/gpu", "x")))

    assert flat(owners.series(0, "n", [Users(GPU, [Process(1, 10)])])) == {
        ("process_memory_bytes", "0", "GPU-0", "H100", "llama-0", "default", "engine"): 10
    }


def test_a_second_pod_on_the_device_makes_names_a_guess(make, run):
    run(1, f"/kubepods/pod{UID}/{ID}")
    run(2, f"/kubepods/pod{OTHER_UID}/{OTHER_ID}")
    owners = make(("GPU-0", Holder("default", "llama-0", "engine", "nvidia.com/gpu", "x")))
    found = owners.series(0, "n", [Users(GPU, [Process(1, 10), Process(2, 20)])])

    assert {one.labels[3] for one in found} == {UID, OTHER_UID}


def test_a_restarted_container_is_one_series(make, run, tmp_path):
    run(1, f"/kubepods/pod{UID}/{ID}")
    run(2, f"/kubepods/pod{UID}/{OTHER_ID}")
    (tmp_path / "pods" / f"default_llama-0_{UID}").mkdir(parents=True)
    (tmp_path / "containers").mkdir()
    for id_ in (ID, OTHER_ID):
        (tmp_path / "containers" / f"llama-0_default_engine-{id_}.log").symlink_to("/nowhere")

    assert flat(make().series(0, "n", [Users(GPU, [Process(1, 10), Process(2, 20)])])) == {
        ("process_memory_bytes", "0", "GPU-0", "H100", "llama-0", "default", "engine"): 30
    }


def test_instances_are_called_by_their_parent_and_only_by_uuid(make, run):
    run(1, f"/kubepods/pod{UID}/{ID}")
    mig = Device(vendor="nvidia", index=0, uuid="MIG-0", model="1g.10gb", kind="mig", parent_uuid="GPU-1")
    owners = make(("nvidia:0", Holder("default", "wrong", "engine", "nvidia.com/gpu", "0")))
    (found,) = owners.series(0, "n", [Users(mig, [Process(1, 10)], OTHER)])

    assert found.labels == ("1:0", "MIG-0", "1g.10gb", UID, "", ID[:12])
    assert found.entity == "MIG-0"


def test_it_is_renewed_once_a_second(make, run):
    run(1, f"/kubepods/pod{UID}/{ID}")
    owners = make()
    first = owners.series(0, "n", [Users(GPU, [Process(1, 10)])])

    assert owners.series(SECOND - 1, "n", [Users(GPU, [Process(1, 20)])]) == first
    assert owners.series(SECOND, "n", [Users(GPU, [Process(1, 20)])])[0].value == 20


def test_hamis_metrics_come_from_regions_and_for_other_pods_from_processes(make, run):
    run(1, f"/kubepods/pod{UID}/{ID}")
    run(2, f"/kubepods/pod{OTHER_UID}/{OTHER_ID}")
    run(3, "/user.slice")
    share = Share("GPU-0", 7, 8, 0.5, None)
    regions = [Region(UID, "engine", Usage("1.2", 1, 0, (share,))), Region(UID, "bad", None, "no region")]
    owners = make(regions=regions)
    users = Users(GPU, [Process(1, 10), Process(2, 20), Process(3, 30)], memory=DeviceMemory("GPU-0", 60, 80))
    found = flat([one for one in owners.series(0, "node-a", [users]) if one.metric.name.startswith("hami_")])

    assert found == {
        ("hami_vgpu_memory_usage_bytes", UID, "", "GPU-0", "engine"): 7,
        ("hami_vgpu_utilization_percent", UID, "", "GPU-0", "engine"): 50,
        ("hami_vgpu_memory_usage_bytes", OTHER_UID, "", "GPU-0", ""): 20,
        ("hami_gpu_memory_total_bytes", "node-a", "GPU-0"): 80,
        ("hami_gpu_memory_used_bytes", "node-a", "GPU-0"): 60,
    }
    assert owners.problem == "1 regions of HAMi cannot be read: no region"


def test_a_kubelet_that_gives_no_usable_answer_is_told_and_none_at_all_is_normal(make):
    owners = make()
    owners._pods.told = PodSnapshot(problem="the kubelet refused: no", remedy="look")
    assert owners.problem == "the kubelet refused: no - look"
    owners._pods.told = PodSnapshot(problem="no kubelet", remedy="mount it", absent=True)
    assert owners.problem == ""


def test_only_a_socket_that_does_not_exist_is_absent(tmp_path):
    (tmp_path / "file").write_text("")
    assert ask(tmp_path / "none", deadline_s=1).absent
    assert not ask(tmp_path / "file", deadline_s=1).absent


def test_without_the_switch_nothing_of_hami_is_published(make, run):
    users = Users(GPU, memory=DeviceMemory("GPU-0", 60, 80))

    assert make().series(0, "node-a", [users]) == []
    assert make(regions=[]).series(0, "node-a", [users]) != []


def test_in_a_container_that_sees_other_processes_all_are_nobodys(run, tmp_path):
    run(1, f"/kubepods/pod{UID}/{ID}")
    (tmp_path / "proc/self/ns").mkdir(parents=True)
    (tmp_path / "proc/self/ns/pid").symlink_to("pid:[4026532222]")
    owners = build(Paths(proc=tmp_path / "proc"), pod_resources=tmp_path / "none.sock", hami_root=None)
    try:
        assert [one.labels[3:] for one in owners.series(0, "n", [Users(GPU, [Process(1, 10)])])] == [("", "", "")]
    finally:
        owners.close()


def test_on_this_machine(tmp_path):
    owners = build(Paths(), pod_resources=tmp_path / "none.sock", hami_root=tmp_path)
    try:
        (found,) = owners.series(0, "n", [Users(GPU, [Process(1, 10)])])
        assert found.value == 10
        assert owners.problem == ""
    finally:
        owners.close()
