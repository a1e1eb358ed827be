"""What a device worker tells the agent, beside the board: one MessagePack object per datagram.

The worker runs a vendor's library, so the agent reads its words as anybody's: typed, bounded, never obeyed.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from .model import Device, DeviceLink, Severity

# Below the default of net.core.wmem_default, so that a datagram of this size can be sent.
MAX_MESSAGE_BYTES = 128 * 1024
MAX_SLOTS = 64

Vendor = Literal["nvidia", "ascend"]
Slot = Annotated[int, Meta(ge=0, lt=MAX_SLOTS)]
Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Ratio = Annotated[float, Meta(ge=0, le=1)]
Text = Annotated[str, Meta(max_length=4096)]
Name = Annotated[str, Meta(max_length=256)]


class Target(Struct, frozen=True):
    """A device by what it is (`uuid`) and by where it was last (`index`)."""

    uuid: str
    index: int


def nameless(vendor: Vendor, index: int) -> str:
    """In place of the uuid of a device that hung before it said who it is."""
    return f"{vendor}-{index}"


class Orders(Struct, frozen=True):
    """What a worker is started with. `only` alone is sampled when it is set; nobody touches those to `avoid`."""

    vendor: Vendor
    library: str
    rate_ns: int
    board_fd: int
    socket_fd: int
    parent_pid: int
    avoid: tuple[Target, ...] = ()
    only: Target | None = None


class Inventory(Struct, frozen=True, tag="inventory"):
    """All devices of a library. `slots` tells which uuid a slot of the board holds.

    `unreachable` are devices that do not say who they are: the vendor's words by index. `moved` are devices to avoid
    that turned up at another index.
    """

    vendor: Vendor
    driver: Name
    simulated: bool
    functions: Annotated[tuple[Name, ...], Meta(max_length=512)]
    devices: Annotated[tuple[Device, ...], Meta(max_length=1024)]
    slots: Annotated[dict[Slot, Name], Meta(max_length=MAX_SLOTS)]
    links: Annotated[tuple[DeviceLink, ...], Meta(max_length=4096)] = ()
    unreachable: Annotated[dict[Slot, Name], Meta(max_length=MAX_SLOTS)] = {}
    moved: Annotated[dict[Name, Slot], Meta(max_length=MAX_SLOTS)] = {}


class Process(Struct, frozen=True):
    """A process that has a device open, by its id in the worker's PID namespace; None is what nobody can say."""

    pid: Annotated[int, Meta(gt=0, lt=1 << 31)]
    memory_bytes: Count | None = None
    utilization_ratio: Ratio | None = None
    instance_uuid: Name = ""


class Processes(Struct, frozen=True, tag="processes"):
    """All processes of one device now."""

    uuid: Name
    processes: Annotated[tuple[Process, ...], Meta(max_length=2048)]


class Occurrence(Struct, frozen=True, tag="occurrence"):
    """Something that the vendor's library reported when it happened; it becomes an event."""

    kind: Literal["device.xid", "device.fault", "device.notice"]
    uuid: Name
    at_ns: Count
    severity: Severity
    attributes: Annotated[dict[Name, int | float | bool | Name | None], Meta(max_length=32)]


class Failure(Struct, frozen=True, tag="failure"):
    """The worker ends; `unavailable` says that the machine lacks what the library needs, such as the driver."""

    message: Text
    remedy: Text = ""
    unavailable: bool = False


Message = Inventory | Processes | Occurrence | Failure

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """Raises ValueError for a message that no datagram can hold."""
    data = _encoder.encode(message)
    if len(data) > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of {len(data)} bytes is too long")
    return data


def parse(data: bytes) -> Message:
    """Raises ValueError for anything that is no message."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"no message: {error}") from None
