"""The kubelet's List answer, decoded. Of its message types only the fields that say who holds what.

Field numbers: k8s.io/kubelet/pkg/apis/podresources/v1/api.proto
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from msgspec import Struct

_PACKAGE = "eagle_eye.podresources"
# Message → field → (number, type); a type that is a message of the same table, or str; all but names repeat.
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "ListPodResourcesResponse": {"pod_resources": (1, "PodResources")},
    "PodResources": {"name": (1, ""), "namespace": (2, ""), "containers": (3, "ContainerResources")},
    "ContainerResources": {
        "name": (1, ""),
        "devices": (2, "ContainerDevices"),
        "dynamic_resources": (5, "DynamicResource"),
    },
    "ContainerDevices": {"resource_name": (1, ""), "device_ids": (2, "")},
    "DynamicResource": {"claim_resources": (4, "ClaimResource")},
    "ClaimResource": {"driver_name": (2, ""), "pool_name": (3, ""), "device_name": (4, "")},
}
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_DEVICE_ID = re.compile(r"[\x21-\x7e]{1,253}")
_MAX_HOLDERS = 16384

_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
# "::2" is the replica that time slicing and MPS give out; the device is the one before it.
_NVIDIA_UUID = re.compile(rf"((?:GPU|MIG)-{_UUID}|MIG-GPU-{_UUID}/\d{{1,3}}/\d{{1,3}})(?:::\d{{1,5}})?", re.IGNORECASE)
_INDEX = re.compile(r"(\d{1,3}(?::\d{1,3})?)(?:::\d{1,5})?")
# Ascend910-3 is a whole chip; Ascend910-2c-100-3 and Ascend310P-2c.1cpu-100-3 a virtual one with id 100 on chip 3.
_ASCEND = re.compile(r"Ascend[0-9]+[A-Z]?[0-9]?-(?:[0-9a-z_.]+-\d{1,5}-)?(\d{1,3})")


class Holder(Struct, frozen=True):
    """A container and one device that it was given, by the id under which the kubelet knows it."""

    namespace: str
    pod: str
    container: str
    resource: str
    device_id: str


def parse(data: bytes) -> tuple[dict[str, tuple[Holder, ...]], int]:
    """Holders by device (see `device_of`), and how many entries were left out: names that cannot be, too many.

    Raises ValueError when `data` is no such message, ImportError where protobuf is not installed.
    """
    from google.protobuf.message import DecodeError

    response = _message_class()()
    try:
        response.ParseFromString(data)
    except DecodeError as error:
        raise ValueError(f"not a ListPodResourcesResponse: {error}") from error
    found: dict[str, list[Holder]] = {}
    rejected = 0
    for number, holder in enumerate(_holders(response)):
        if number < _MAX_HOLDERS and _is_sane(holder):
            found.setdefault(device_of(holder), []).append(holder)
        else:
            rejected += 1
    return {device: tuple(holders) for device, holders in found.items() if device}, rejected


def device_of(holder: Holder) -> str:
    """Which device an id means: "GPU-…" or "MIG-…" uuid, `nvidia:0`, `nvidia:0:1` (MIG), `ascend:3`.

    "" where the id alone does not tell: HAMi's (GPU-…-4), whose scheduler chooses another device than the kubelet,
    and those of dynamic resource allocation.
    """
    if found := _NVIDIA_UUID.fullmatch(holder.device_id):
        return found[1]
    if holder.resource.startswith("nvidia.com/") and (found := _INDEX.fullmatch(holder.device_id)):
        return f"nvidia:{found[1]}"
    if holder.resource.startswith("huawei.com/") and (found := _ASCEND.fullmatch(holder.device_id)):
        return f"ascend:{int(found[1])}"
    return ""


def _holders(response: Any) -> Iterator[Holder]:
    for pod in response.pod_resources:
        for container in pod.containers:
            for resource, device_id in _given(container):
                yield Holder(pod.namespace, pod.name, container.name, resource, device_id)


def _given(container: Any) -> Iterator[tuple[str, str]]:
    for devices in container.devices:
        for device_id in devices.device_ids:
            yield devices.resource_name, device_id
    for dynamic in container.dynamic_resources:
        for claim in dynamic.claim_resources:
            yield claim.driver_name, f"{claim.pool_name}/{claim.device_name}"


def _is_sane(holder: Holder) -> bool:
    names = (holder.namespace, holder.pod, holder.container)
    return all(map(_NAME.fullmatch, names)) and bool(_DEVICE_ID.fullmatch(holder.device_id))


@cache
def _message_class() -> Any:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message_factory import GetMessageClass

    file = FileDescriptorProto(name="podresources.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            message.field.add(name=field, number=number, **_type(field, kind))
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.ListPodResourcesResponse"))


def _type(field: str, kind: str) -> dict[str, Any]:
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field

    label = Field.LABEL_REPEATED if kind or field == "device_ids" else Field.LABEL_OPTIONAL
    if kind:
        return {"label": label, "type": Field.TYPE_MESSAGE, "type_name": f".{_PACKAGE}.{kind}"}
    return {"label": label, "type": Field.TYPE_STRING}
