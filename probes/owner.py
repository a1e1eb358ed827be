"""What a cgroup path says of its processes' owner: the container and, on a Kubernetes node, the pod."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from msgspec import Struct
from msgspec.structs import replace

from .cgroup import container_of

# Static pods have the digest of their manifest instead of a UUID; the systemd driver writes "_" for "-".
_POD = re.compile(
    r"(?:.*-)?pod([0-9a-f]{8}(?:([-_])[0-9a-f]{4})(?:\2[0-9a-f]{4}){2}\2[0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?(:.*)?"
)
# A process is in one container in all hierarchies; these are the ones that runtimes always create.
_CONTROLLERS = ("memory", "cpu", "pids", "devices", "name=systemd", "")


class Owner(Struct, frozen=True):
    """`container_id` has 64 hex digits, `pod_uid` is as in the Kubernetes API; names are as the kubelet has them.

    Below a pod the container is the pod's, also when the process is in one nested deeper.
    """

    container_id: str = ""
    pod_uid: str = ""
    pod: str = ""
    namespace: str = ""
    container: str = ""


NOBODY = Owner()


def owner_of(text: str) -> Owner:
    """From the text of /proc/PID/cgroup, version 1, 2 or both: the owner, without names."""
    return max(map(owner_of_path, _paths(text)), key=_told, default=NOBODY)


def owner_of_path(path: str) -> Owner:
    """From one cgroup path, under the systemd or the cgroupfs driver, of any runtime.

    Of pods within a container within a pod it is the outer one: the node's own kubelet knows only that.
    """
    names = path.split("/")
    for depth, name in enumerate(names):
        if found := _POD.fullmatch(name):
            # containerd under the cgroupfs driver may write both into one name: "…pod<uid>.slice:cri-containerd:<id>".
            below = [found[3] or "", *names[depth + 1 :]]
            container = next(filter(None, map(container_of, below)), "")
            return Owner(container, found[1].replace("_", "-"))
    return Owner(container_of(path))


def only_holders(owners: Iterable[Owner], holders: Iterable[Owner]) -> dict[str, Owner]:
    """Names for pods by uid, out of who uses one device and who the kubelet gave it to.

    One pod uses it and one container holds it, else nothing: sharing would make it a guess.
    """
    uids = {owner.pod_uid for owner in owners} - {""}
    named = set(holders)
    if len(uids) == len(named) == 1:
        return {uids.pop(): named.pop()}
    return {}


def named(owner: Owner, names: Owner) -> Owner:
    """`owner` with the names of another, where it has none."""
    if owner.pod or not names.pod:
        return owner
    return replace(owner, pod=names.pod, namespace=names.namespace, container=names.container)


def _told(owner: Owner) -> tuple[bool, bool]:
    return bool(owner.pod_uid), bool(owner.container_id)


def _paths(text: str) -> Iterator[str]:
    """Most telling hierarchy first. A line is "ID:controllers:path"; paths may hold colons."""
    by_controller: dict[str, str] = {}
    for line in text.splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            by_controller.update((controller, parts[2]) for controller in parts[1].split(","))
    yield from (by_controller.pop(name) for name in _CONTROLLERS if name in by_controller)
    yield from by_controller.values()
