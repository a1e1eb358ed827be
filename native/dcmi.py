"""Ascend NPUs through DCMI, opened at run time: one C call samples all watched devices onto a board.

Devices are watched in slots of the board. Calls that concern one device or the library, such as identity(), can
block for ever in a broken driver like any vendor call: their caller marks them with `Board.call`.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ._dcmi import ffi, lib
from .dcmi_returns import failure
from .dcmi_types import TOPOLOGY, Fault, Identity, Instance, Process, Unit, fault_of, identity_of, instance_of, text
from .device import DEVICE_MAX, UNSUPPORTED, Board
from .errors import DeviceError, UnavailableError

LIBRARY = "libdcmi.so"
FOLDERS = (
    "/usr/local/dcmi",
    "/usr/local/Ascend/driver/lib64/driver",
    "/usr/local/Ascend/driver/lib64/common",
    "/usr/local/Ascend/driver/lib64",
)
"""Where the driver's installer puts the library when the loader does not know it."""

ALL_SLOTS = (1 << DEVICE_MAX) - 1

FUNCTIONS = tuple(ffi.string(lib.npu_function_name(number)).decode() for number in range(lib.npu_functions()))
"""DCMI's names by the number in `Call.function`; "" is no function that is known."""

HOT_GROUPS = ("utilization", "memory", "temperature", "power")
"""What a sample of every tick holds: calls of 50 µs at most."""

SECOND_GROUPS = ("clocks", "health", "ecc", "links", "pcie_errors", "network", "ddr")
"""What is enough once a second."""

TURN_GROUPS = ("utilization_by_unit", "bandwidth")
"""What takes its caller 20 to 40 ms: each sample reads one of these of one device, in turn."""

_VERSION_BYTES = 128
_DRAIN = 64


class Dcmi:
    """An open library; init() before anything else. One thread may call sample() and one drain() beside the rest.

    Raises UnavailableError when the library is not there, or is no DCMI.
    """

    def __init__(self, path: str | os.PathLike[str] = LIBRARY) -> None:
        """Opens `path` as the loader finds it; a plain file name is looked for in FOLDERS too."""
        self._handle: Any = ffi.NULL
        self._initialized = False
        self.refused = 0
        reason = ffi.new("char[512]")
        reasons = []
        for candidate in _candidates(os.fspath(path)):
            self._handle = lib.npu_open(os.fsencode(candidate), reason, ffi.sizeof(reason))
            if self._handle != ffi.NULL:
                self.path = candidate
                break
            reasons.append(text(reason))
        else:
            raise UnavailableError(
                f"DCMI cannot be opened: {reasons[-1]}",
                remedy="install the Ascend driver; in a container mount /usr/local/dcmi and"
                " /usr/local/Ascend/driver, and put driver/lib64/driver and lib64/common into LD_LIBRARY_PATH",
            )
        self._faults = ffi.new("struct npu_fault[]", _DRAIN)

    @property
    def simulated(self) -> bool:
        """The library is the simulator's."""
        return bool(lib.npu_simulated(self._open()))

    @property
    def missing(self) -> tuple[str, ...]:
        """Functions that this version of the library lacks, those of the other interface among them."""
        handle = self._open()
        return tuple(name for number, name in enumerate(FUNCTIONS) if name and not lib.npu_has_function(handle, number))

    @property
    def interface(self) -> int:
        """2: flat device numbers (A3, 950), 1: cards and chips, 0: not initialized."""
        return int(lib.npu_interface(self._open()))

    def init(self) -> None:
        """Starts the library and finds the devices. Safe twice. Raises UnavailableError."""
        if self._initialized:
            return
        code = lib.npu_start(self._open())
        if code:
            raise failure("DCMI did not start", code, of_machine=True)
        self._initialized = True
        self.find()

    def find(self) -> int:
        """Looks for devices anew; how many there are. Their indices hold until the next find().

        `refused` is then the number of cards that are listed but do not answer.
        """
        refused = ffi.new("uint32_t *")
        count = lib.npu_find(self._started(), refused)
        self.refused = int(refused[0])
        if count < 0 or count >= UNSUPPORTED:
            raise failure("the NPUs cannot be listed", count)
        return int(count)

    def count(self) -> int:
        """Devices of the last find()."""
        return len(self.units())

    def reported_count(self) -> int | None:
        """How many devices the driver says there are: more than find() gave, when one dropped out."""
        count = ffi.new("int32_t *", -1)
        code = lib.npu_reported_count(self._started(), count)
        return int(count[0]) if code == 0 and count[0] >= 0 else None

    def units(self) -> tuple[Unit, ...]:
        """The devices of the last find(), by index."""
        handle, raw = self._started(), ffi.new("struct npu_unit *")
        units: list[Unit] = []
        while len(units) < DEVICE_MAX and lib.npu_unit(handle, len(units), raw) == 0:
            units.append(Unit(raw.card, raw.chip, raw.id, raw.logic))
        return tuple(units)

    def versions(self) -> tuple[str, str]:
        """Of DCMI and of the driver; "" where the library does not tell."""
        dcmi, driver = ffi.new("char[]", _VERSION_BYTES), ffi.new("char[]", _VERSION_BYTES)
        code = lib.npu_versions(self._started(), dcmi, driver, _VERSION_BYTES)
        return ("" if code else text(dcmi)), text(driver)

    def watch(self, slot: int, index: int) -> None:
        """Samples this device in a slot from now on, also when a later find() gives it another index."""
        _check_slot(slot)
        code = lib.npu_watch(self._started(), slot, index)
        if code:
            raise failure(f"the NPU with index {index} cannot be watched", code)

    def forget(self, slot: int) -> None:
        """Samples this slot no longer."""
        _check_slot(slot)
        lib.npu_forget(self._open(), slot)

    @property
    def watched(self) -> int:
        """The mask of slots that are watched."""
        return int(lib.npu_watched(self._open()))

    def sample(self, board: Board, groups: int, slots: int = ALL_SLOTS) -> int:
        """Samples the watched devices of a mask of slots in a mask of groups (`device.group_mask`), without the GIL.

        Every value lands on the board with its own status. Returns how many devices are gone. Each group's calls
        are marked in lane 0 while they run.
        """
        return int(lib.npu_sample(self._started(), board.pointer, slots, groups))

    def identity(self, index: int) -> Identity:
        """Raises DeviceError for a device that is gone."""
        raw = ffi.new("struct npu_identity *")
        code = lib.npu_identify(self._started(), index, raw)
        if code:
            raise failure(f"the NPU with index {index} cannot be identified", code)
        return identity_of(raw)

    def processes(self, index: int) -> tuple[Process, ...]:
        """Processes that have memory of the device, by their pid on the host."""
        found = self._list("processes", lib.npu_processes, index, "struct npu_process[]", 4 * lib.DCMI_PROCESSES)
        return tuple(Process(row.pid, row.bytes) for row in found if row.pid > 0)

    def fault_codes(self, index: int) -> tuple[int, ...]:
        """Event ids of the faults that are raised now."""
        return tuple(self._list("fault codes", lib.npu_fault_codes, index, "uint32_t[]", lib.DCMI_FAULT_CODES))

    def instances(self, index: int) -> tuple[Instance, ...]:
        """Virtual NPUs of the device; none where it is not divided or cannot be."""
        found = self._list(
            "virtual NPUs", lib.npu_instances, index, "struct npu_instance[]", lib.DCMI_VNPUS, optional=True
        )
        return tuple(instance_of(row) for row in found)

    def topology(self, index: int, other: int) -> str:
        """The way between two devices, one of `dcmi_types.TOPOLOGY`; "" where the library does not tell."""
        number = ffi.new("int32_t *", -1)
        code = lib.npu_topology(self._started(), index, other, number)
        return TOPOLOGY[number[0]] if code == 0 and 0 <= number[0] < len(TOPOLOGY) else ""

    def subscribe(self) -> str:
        """Gathers fault events from now on: "pushed" by the library, or "asked" for in a thread.

        The library allows it once in a process and ends it with the process; later calls change nothing. Asked
        for, with several devices some events may never come: fault_codes() stays complete. Raises DeviceError.
        """
        how = ffi.new("int32_t *")
        code = lib.npu_subscribe(self._started(), how)
        if how[0] == lib.NPU_EVENTS_NONE:
            raise failure("fault events cannot be subscribed", code)
        return "pushed" if how[0] == lib.NPU_EVENTS_PUSHED else "asked"

    @property
    def wake_fd(self) -> int:
        """Readable when fault events wait."""
        return int(lib.npu_wake_fd())

    @property
    def lost(self) -> int:
        """Fault events that found the queue full, in this process's life."""
        return int(lib.npu_lost())

    def drain(self) -> tuple[Fault, ...]:
        """Fault events that came since the last call, in their order; never blocks."""
        events: list[Fault] = []
        while count := lib.npu_drain(self._faults, _DRAIN):
            events.extend(fault_of(self._faults[n]) for n in range(count))
            if count < _DRAIN or len(events) >= lib.NPU_QUEUE:
                break
        return tuple(events)

    def close(self) -> None:
        """Safe twice. A library that was subscribed to stays loaded: it may still call back."""
        self._initialized = False
        if self._handle != ffi.NULL:
            lib.npu_close(self._handle)
        self._handle = ffi.NULL

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _list(self, what: str, ask: Any, index: int, array: str, capacity: int, *, optional: bool = False) -> list[Any]:
        found, count = ffi.new(array, capacity), ffi.new("uint32_t *")
        code = ask(self._started(), index, found, capacity, count)
        if code and not (optional and code == UNSUPPORTED):
            raise failure(f"the {what} of the NPU with index {index} cannot be read", code)
        return [found[n] for n in range(count[0])]

    def _open(self) -> Any:
        if self._handle == ffi.NULL:
            raise DeviceError("DCMI is closed", code=-8005)
        return self._handle

    def _started(self) -> Any:
        if not self._initialized:
            raise failure("init() comes first", -8012)
        return self._open()


def _candidates(path: str) -> list[str]:
    """The loader's own search first, then the host's folders where the file is there."""
    if "/" in path:
        return [path]
    found = [str(file) for file in (Path(folder) / path for folder in FOLDERS) if file.exists()]
    return [path, *found]


def _check_slot(slot: int) -> None:
    if not 0 <= slot < DEVICE_MAX:
        raise ValueError(f"slots are 0 to {DEVICE_MAX - 1}, not {slot}")
