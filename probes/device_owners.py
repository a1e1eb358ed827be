"""What containers use of devices: the processes that the vendors list, HAMi's regions, and the names of their pods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from . import hami
from .attribution import Attribution, process_alive
from .device_messages import Process
from .device_metrics import DEVICE_LABELS, PREFIX, labels_of
from .kubelet_logs import KubeletLogs
from .model import Device
from .needs import NEEDS
from .options import Option
from .owner import NOBODY, Owner, named, only_holders
from .paths import Paths
from .pod_resources import SOCKET, PodResources
from .probe import Metric, Series

_LABELS = (*DEVICE_LABELS, "pod", "namespace", "container")
PROCESS_MEMORY = Metric(
    PREFIX + "process_memory_bytes",
    "gauge",
    "Device memory of a container's processes; a pod or container without a known name is told by its id.",
    _LABELS,
)
PROCESS_UTILIZATION = Metric(
    PREFIX + "process_utilization_ratio",
    "gauge",
    "Share of the device's time that a container's processes had.",
    _LABELS,
)
METRICS = (PROCESS_MEMORY, PROCESS_UTILIZATION)

POD_RESOURCES = Option(
    "pod_resources", "path", str(SOCKET), "the kubelet's socket that says which pod has which device"
)
HAMI = Option("hami", "boolean", False, "also publish the metrics that HAMi's dashboards ask for")
HAMI_ROOT = Option("hami_root", "path", str(hami.ROOT), "folder of HAMi's regions, one per container")
OPTIONS = (POD_RESOURCES, HAMI, HAMI_ROOT)

_PERIOD_NS = 1_000_000_000


class Users(Struct, frozen=True):
    """A device, the processes on it, and its memory; None is not known."""

    device: Device
    processes: Sequence[Process] = ()
    parent: Device | None = None
    memory: hami.DeviceMemory | None = None


class Use(Struct, frozen=True):
    """What all processes of one owner use of one device."""

    owner: Owner
    memory_bytes: int | None
    utilization_ratio: float | None


class DeviceOwners:
    """Series of who uses the devices, renewed once a second whatever the rate of samples."""

    def __init__(
        self,
        owner_of: Callable[[int], Owner],
        logs: KubeletLogs,
        pods: PodResources,
        regions: Callable[[], list[hami.Region]] | None,
    ) -> None:
        self._owner_of = owner_of
        self._logs = logs
        self._pods = pods
        self._regions = regions
        self._renewed_ns = -_PERIOD_NS
        self._series: list[Series] = []
        self._hami_problem = ""

    def series(self, now_ns: int, node: str, users: Iterable[Users]) -> list[Series]:
        """HAMi's among them where they were asked for. Opens files, at most once a second; never waits."""
        if now_ns - self._renewed_ns >= _PERIOD_NS:
            self._renewed_ns = now_ns
            devices = list(users)
            uses = {each.device.uuid: self._uses(each) for each in devices}
            self._series = [one for each in devices for one in _series(each, uses[each.device.uuid])]
            if self._regions:
                self._series += self._hami(node, devices, uses)
        return self._series

    @property
    def problem(self) -> str:
        """Why owners may be missing; "" also where there is no kubelet, as on most machines."""
        said = self._pods.snapshot()
        kubelet = "" if said.absent else " - ".join(filter(None, (said.problem, said.remedy)))
        return "; ".join(filter(None, (self._hami_problem, kubelet)))

    def close(self) -> None:
        self._pods.close()

    def _uses(self, users: Users) -> list[Use]:
        owners = [self._owner_of(process.pid) for process in users.processes]
        names = only_holders(owners, self._pods.snapshot().owners(*_kubelet_names(users.device)))
        owners = [named(owner, names.get(owner.pod_uid, owner)) for owner in owners]
        # By labels: a container that was restarted is the same one to who reads the metrics.
        together: dict[tuple[str, ...], tuple[Owner, list[Process]]] = {}
        for owner, process in zip(owners, users.processes, strict=True):
            together.setdefault(_labels(owner), (owner, []))[1].append(process)
        return [_use(owner, processes) for owner, processes in together.values()]

    def _hami(self, node: str, devices: Sequence[Users], uses: Mapping[str, list[Use]]) -> list[Series]:
        """A region knows better than the vendor what its container uses; one that cannot be read hides nothing."""
        regions = self._regions() if self._regions else []
        unread = [region.problem for region in regions if not region.usage]
        self._hami_problem = f"{len(unread)} regions of HAMi cannot be read: {unread[0]}" if unread else ""
        told = hami.uses(regions, self._logs.named)
        covered = {(use.uuid, use.owner.pod_uid) for use in told}
        listed = [
            hami.DeviceUse(uuid, use.owner, use.memory_bytes, use.utilization_ratio)
            for uuid, each in uses.items()
            for use in each
            if use.owner.pod_uid and (uuid, use.owner.pod_uid) not in covered
        ]
        return hami.series(node, [*told, *listed], [users.memory for users in devices if users.memory])


def build(paths: Paths, *, pod_resources: Path, hami_root: Path | None) -> DeviceOwners:
    """`hami_root` None leaves HAMi's metrics out.

    Where the node's processes are not to be seen, a pid means another process here: all are nobody's then.
    """
    logs = KubeletLogs()
    sees_node = not NEEDS["host_pids"].missing(paths)
    owner_of = Attribution(paths, logs).of if sees_node else lambda pid: NOBODY
    alive = process_alive(paths) if sees_node else None
    regions = (lambda: hami.regions(hami_root, alive)) if hami_root else None
    return DeviceOwners(owner_of, logs, PodResources(pod_resources), regions)


def _kubelet_names(device: Device) -> tuple[str, ...]:
    """A device may be told by uuid or by number; an instance only by uuid."""
    return (device.uuid,) if device.parent_uuid else (device.uuid, f"{device.vendor}:{device.index}")


def _use(owner: Owner, processes: Sequence[Process]) -> Use:
    memory = [process.memory_bytes for process in processes if process.memory_bytes is not None]
    ratios = [process.utilization_ratio for process in processes if process.utilization_ratio is not None]
    return Use(owner, sum(memory) if memory else None, min(1.0, sum(ratios)) if ratios else None)


def _series(users: Users, uses: Sequence[Use]) -> Iterator[Series]:
    own = labels_of(users.device, users.parent)
    for metric, values in (
        (PROCESS_MEMORY, [(use.owner, use.memory_bytes) for use in uses]),
        (PROCESS_UTILIZATION, [(use.owner, use.utilization_ratio) for use in uses]),
    ):
        for owner, value in values:
            if value is not None:
                yield Series(metric, value, (*own, *_labels(owner)), users.device.uuid)


def _labels(owner: Owner) -> tuple[str, str, str]:
    return owner.pod or owner.pod_uid, owner.namespace, owner.container or owner.container_id[:12]
