"""Names of pods and containers out of the kubelet's log folders, which say them exactly and need no permission.

The kubelet keeps `/var/log/pods/NAMESPACE_POD_UID/` for each pod of the node, and the link
`/var/log/containers/POD_NAMESPACE_CONTAINER-ID.log` for each container.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from msgspec.structs import replace

from .owner import Owner

PODS = Path("/var/log/pods")
CONTAINERS = Path("/var/log/containers")
_NAME = r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?"
_POD = re.compile(rf"({_NAME})_({_NAME})_([0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}|[0-9a-f]{{32}})")
_CONTAINER = re.compile(rf"({_NAME})_({_NAME})_({_NAME})-([0-9a-f]{{64}})\.log")
_MAX_ENTRIES = 8192
# A name that is not there yet is looked for again, but no more often than this.
_REFRESH_NS = 5_000_000_000


class KubeletLogs:
    """Reads the folders when it is asked for a pod or container that it does not know, at most every 5 s."""

    def __init__(
        self, pods: Path = PODS, containers: Path = CONTAINERS, *, clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._folders = pods, containers
        self._clock_ns = clock_ns
        self._read_ns = -_REFRESH_NS
        self._pods: dict[str, tuple[str, str]] = {}
        self._containers: dict[str, str] = {}

    def named(self, owner: Owner) -> Owner:
        """`owner` with the names that the kubelet has for it."""
        if not owner.pod_uid:
            return owner
        if owner.pod_uid not in self._pods or not (owner.container or owner.container_id in self._containers):
            self._refresh()
        namespace, pod = self._pods.get(owner.pod_uid, ("", ""))
        container = self._containers.get(owner.container_id, owner.container)
        return replace(owner, pod=pod, namespace=namespace, container=container)

    def _refresh(self) -> None:
        now = self._clock_ns()
        if now - self._read_ns < _REFRESH_NS:
            return
        self._read_ns = now
        pods, containers = self._folders
        self._pods = {found[3]: (found[1], found[2]) for found in _matches(pods, _POD)}
        self._containers = {found[4]: found[3] for found in _matches(containers, _CONTAINER)}


def _matches(folder: Path, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from filter(None, (pattern.fullmatch(entry.name) for entry in islice(entries, _MAX_ENTRIES)))
    except OSError:
        return
