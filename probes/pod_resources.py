"""Which container holds which device, as the kubelet tells on its pod-resources socket (List of version 1).

https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/device-plugins/#monitoring-device-plugin-resources
"""

from __future__ import annotations

import stat
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct

from ..native.errors import UnavailableError
from .grpc_call import call
from .owner import Owner
from .pod_resources_message import Holder, parse

SOCKET = Path("/var/lib/kubelet/pod-resources/kubelet.sock")
_METHOD = "/v1.PodResourcesLister/List"
# What gRPC's own clients take by default; a node's 110 pods with 8 devices each need 0.1 MiB.
_MAX_ANSWER_BYTES = 4 << 20
_KEPT_PERIODS = 3
_FAILURES: tuple[tuple[type[Exception], str, str], ...] = (
    (FileNotFoundError, "no kubelet: {path} does not exist", "mount the kubelet's pod-resources folder"),
    (PermissionError, "may not use {path}", "run as root"),
    (ConnectionRefusedError, "nobody listens at {path}", "systemctl status kubelet"),
    (UnavailableError, "the kubelet refused: {error}", ""),
)


class PodSnapshot(Struct, frozen=True):
    """`holders` by device: an NVIDIA uuid, `nvidia:<index>` or `ascend:<physical id>`; see `device_of`.

    `answered_ns` is 0 until the kubelet has answered. `problem` says why the latest question got no answer;
    what was told before stays for three periods. `absent`: there is no kubelet, as on most machines.
    """

    holders: Mapping[str, tuple[Holder, ...]] = {}
    answered_ns: int = 0
    rejected: int = 0
    problem: str = ""
    remedy: str = ""
    absent: bool = False

    def owners(self, *devices: str) -> frozenset[Owner]:
        """Names of the containers that hold any of the devices, without ids: the kubelet does not tell these."""
        found = (holder for device in devices for holder in self.holders.get(device, ()))
        return frozenset(
            Owner(pod=holder.pod, namespace=holder.namespace, container=holder.container) for holder in found
        )


class PodResources:
    """Asks the kubelet in a thread of its own, at most once in `period_s`, and only when somebody asks this."""

    def __init__(
        self,
        path: Path = SOCKET,
        *,
        period_s: float = 10,
        deadline_s: float = 2,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._path = path
        self._period_ns = int(period_s * 1e9)
        self._deadline_s = deadline_s
        self._clock_ns = clock_ns
        self._asked_ns: int | None = None
        self._last = PodSnapshot()
        self._asking: threading.Thread | None = None

    def snapshot(self) -> PodSnapshot:
        """What is known now; never waits. Starts a question when the latest one is older than the period."""
        now = self._clock_ns()
        due = self._asked_ns is None or now - self._asked_ns >= self._period_ns
        if due and not (self._asking and self._asking.is_alive()):
            self._asked_ns = now
            self._asking = threading.Thread(target=self._ask, name="pod-resources", daemon=True)
            self._asking.start()
        return self._last

    def close(self) -> None:
        """Waits for a question under way, at most its deadline."""
        if self._asking:
            self._asking.join(self._deadline_s + 1)

    def _ask(self) -> None:
        fresh = ask(self._path, deadline_s=self._deadline_s)
        now = self._clock_ns()
        if not fresh.problem:
            self._last = PodSnapshot(fresh.holders, answered_ns=now, rejected=fresh.rejected)
            return
        stale = now - self._last.answered_ns > _KEPT_PERIODS * self._period_ns
        holders = {} if stale else self._last.holders
        self._last = PodSnapshot(
            holders, self._last.answered_ns, self._last.rejected, fresh.problem, fresh.remedy, fresh.absent
        )


def ask(path: Path, *, deadline_s: float) -> PodSnapshot:
    """One question; blocks until the answer or the deadline. Every failure is told in `problem`, none raised."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return PodSnapshot(problem=f"{path} is no socket", remedy="name the kubelet's pod-resources socket")
        holders, rejected = parse(call(path, _METHOD, b"", deadline_s=deadline_s, most_bytes=_MAX_ANSWER_BYTES))
    except (UnavailableError, ImportError, OSError, ValueError) as error:
        return _failed(error, path)
    return PodSnapshot(holders, rejected=rejected)


def _failed(error: Exception, path: Path) -> PodSnapshot:
    if isinstance(error, ImportError):
        return PodSnapshot(problem=f"{error.name} is not installed", remedy="pip install 'eagle-eye[kubernetes]'")
    for kind, problem, remedy in _FAILURES:
        if isinstance(error, kind):
            absent = kind is FileNotFoundError
            return PodSnapshot(problem=problem.format(path=path, error=error), remedy=remedy, absent=absent)
    return PodSnapshot(problem=f"no usable answer from the kubelet: {error}")
