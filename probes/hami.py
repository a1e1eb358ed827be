"""Containers that share devices under HAMi: their regions, and the metrics that HAMi's dashboards ask for."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from msgspec import Struct

from .hami_region import Usage, read
from .owner import Owner
from .probe import Metric, Series

# HAMi's default HOOK_PATH, on the node.
ROOT = Path("/usr/local/vgpu/containers")
_FOLDER = re.compile(
    r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32})_([a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)"
)
_MAX_REGIONS = 1024
_MAX_FILES = 64

# These names, labels and the percent are HAMi's own.
VGPU_LABELS = ("pod", "namespace", "device", "container")
VGPU_MEMORY = Metric(
    "hami_vgpu_memory_usage_bytes", "gauge", "Device memory that the container uses.", VGPU_LABELS, foreign=True
)
VGPU_UTILIZATION = Metric(
    "hami_vgpu_utilization_percent",
    "gauge",
    "Compute of the device that the container uses.",
    VGPU_LABELS,
    foreign=True,
)
GPU_MEMORY_TOTAL = Metric(
    "hami_gpu_memory_total_bytes", "gauge", "Memory of the device.", ("node", "device"), foreign=True
)
GPU_MEMORY_USED = Metric(
    "hami_gpu_memory_used_bytes", "gauge", "Used memory of the device.", ("node", "device"), foreign=True
)
METRICS = (VGPU_MEMORY, VGPU_UTILIZATION, GPU_MEMORY_TOTAL, GPU_MEMORY_USED)


class Region(Struct, frozen=True):
    """A container's region; `usage` is None where it cannot be read, for the reason in `problem`."""

    pod_uid: str
    container: str
    usage: Usage | None
    problem: str = ""

    @property
    def owner(self) -> Owner:
        return Owner(pod_uid=self.pod_uid, container=self.container)


class DeviceUse(Struct, frozen=True):
    """What one container uses of one device; None is not known, and gives no series."""

    uuid: str
    owner: Owner
    memory_used_bytes: int | None = None
    utilization_ratio: float | None = None


class DeviceMemory(Struct, frozen=True):
    uuid: str
    used_bytes: float | None = None
    total_bytes: float | None = None


def regions(root: Path = ROOT, alive: Callable[[int], bool] | None = None) -> list[Region]:
    """The regions under `root`, a folder POD-UID_CONTAINER each; at most 1024, in order. Empty where HAMi is not.

    `alive` is as in `hami_region.read`.
    """
    try:
        with os.scandir(root) as entries:
            names = sorted(entry.name for entry in islice(entries, _MAX_REGIONS) if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []
    found = ((_FOLDER.fullmatch(name), root / name) for name in names)
    return [region for match, path in found if match and (region := _region(match[1], match[2], path, alive))]


def _region(pod_uid: str, container: str, folder: Path, alive: Callable[[int], bool] | None) -> Region | None:
    """None for a container that has not used a device yet."""
    try:
        with os.scandir(folder) as entries:
            files = sorted(entry.name for entry in islice(entries, _MAX_FILES) if entry.name.endswith(".cache"))
        return Region(pod_uid, container, read(folder / files[0], alive)) if files else None
    except (OSError, ValueError) as error:
        return Region(pod_uid, container, None, str(error))


def uses(found: Iterable[Region], names: Callable[[Owner], Owner] = lambda owner: owner) -> list[DeviceUse]:
    """What the regions tell. `names` adds a pod's names, as `KubeletLogs.named` does."""
    return [
        DeviceUse(share.uuid, names(region.owner), share.memory_used_bytes, share.utilization_ratio)
        for region in found
        if region.usage
        for share in region.usage.shares
    ]


def series(node: str, used: Iterable[DeviceUse], devices: Iterable[DeviceMemory]) -> list[Series]:
    """HAMi's metrics. A device is told by its uuid; a pod without a name by its uid; one series per set of labels."""
    memory: dict[tuple[str, ...], float] = {}
    percent: dict[tuple[str, ...], float] = {}
    for use in used:
        labels = _labels(use)
        _add(memory, labels, use.memory_used_bytes)
        _add(percent, labels, None if use.utilization_ratio is None else use.utilization_ratio * 100)
    return [
        *_series(VGPU_MEMORY, memory),
        *_series(VGPU_UTILIZATION, percent),
        *(one for device in devices for one in _device_series(node, device)),
    ]


def _labels(use: DeviceUse) -> tuple[str, ...]:
    owner = use.owner
    return owner.pod or owner.pod_uid, owner.namespace, use.uuid, owner.container


def _add(sums: dict[tuple[str, ...], float], labels: tuple[str, ...], value: float | None) -> None:
    if value is not None:
        sums[labels] = sums.get(labels, 0) + value


def _series(metric: Metric, values: Mapping[tuple[str, ...], float]) -> Iterator[Series]:
    return (Series(metric, float(value), labels, entity=labels[2]) for labels, value in values.items())


def _device_series(node: str, device: DeviceMemory) -> Iterator[Series]:
    for metric, value in ((GPU_MEMORY_TOTAL, device.total_bytes), (GPU_MEMORY_USED, device.used_bytes)):
        if value is not None:
            yield Series(metric, float(value), (node, device.uuid), entity=device.uuid)
