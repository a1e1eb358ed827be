"""A seat: the devices that one worker at a time is for, and when the next worker may sit down."""

from __future__ import annotations

from msgspec import Struct

from ..native.device import Board
from .device_messages import Inventory, Target, Vendor, nameless
from .device_process import WorkerProcess

RECOVERED_BEATS = 3
FIRST_BACKOFF_NS, LONGEST_BACKOFF_NS = 500_000_000, 300_000_000_000


class Library(Struct, frozen=True):
    """A vendor's library, by name or path as the dynamic loader takes it."""

    vendor: Vendor
    path: str


class View(Struct, frozen=True, eq=False):
    """What may be read of one worker now."""

    inventory: Inventory
    board: Board


class Seat:
    """For all devices of a library but those to `avoid`, or for `only` one."""

    def __init__(self, library: Library, only: Target | None = None) -> None:
        self.library = library
        self.only = only
        self.avoid: dict[str, Target] = {}
        self.worker: WorkerProcess | None = None
        self.former: WorkerProcess | None = None
        self.inventory: Inventory | None = None
        self.last_known: dict[int, str] = {}
        self.trouble = ""
        self.unavailable = False
        self.failures = 0
        self.not_before_ns = 0
        self.stuck_since_ns = 0

    def back_off(self, now_ns: int) -> None:
        """The next worker comes later each time."""
        self.not_before_ns = now_ns + min(LONGEST_BACKOFF_NS, FIRST_BACKOFF_NS << min(self.failures, 20))
        self.failures += 1

    def uuid(self, slot: int | None) -> str:
        """Of the device in a slot of the board; "" when that is nobody's.

        Before the worker has told its devices, a slot is the vendor's index.
        """
        if self.only is not None:
            return self.only.uuid
        if slot is None:
            return ""
        if self.inventory is None:
            return self.last_known.get(slot) or nameless(self.library.vendor, slot)
        return self.inventory.slots.get(slot, "")

    def take(self, inventory: Inventory) -> None:
        self.inventory, self.trouble, self.unavailable = inventory, "", False
        self.last_known = {device.index: device.uuid for device in inventory.devices if not device.parent_uuid}
        for uuid, index in inventory.moved.items():
            if uuid in self.avoid:
                self.avoid[uuid] = Target(uuid, index)

    def function(self, number: int) -> str:
        """The vendor's name of a function that a call in flight has reached."""
        names = self.inventory.functions if self.inventory else ()
        return names[number] if 0 < number < len(names) else ""

    @property
    def is_waiting(self) -> bool:
        """Whether the last worker has yet to end: in uninterruptible sleep, the next would only join it there."""
        return self.former is not None and self.former.ended() is None

    @property
    def recovered(self) -> bool:
        """Whether the device that was stuck has been read again, a few times and without an error."""
        if not self.stuck_since_ns or self.worker is None or self.inventory is None:
            return False
        board = self.worker.board
        return board.beat >= RECOVERED_BEATS and not any(
            board.pointer.samples[slot].error for slot in self.inventory.slots
        )
