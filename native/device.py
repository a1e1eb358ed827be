"""The board: device samples in shared memory, written by a worker process and read by the agent.

Without numpy unless `Board.read` is called, so that a worker starts fast. Layout: device.h.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from ._device import ffi, lib
from .errors import UnavailableError

if TYPE_CHECKING:
    import numpy as np

DEVICE_MAX = lib.DEVICE_MAX
LINKS_MAX = lib.DEVICE_LINKS
LANES = lib.DEVICE_LANES
OK, UNSUPPORTED, ABSENT = lib.DEVICE_OK, lib.DEVICE_UNSUPPORTED, lib.DEVICE_ABSENT
OUT_OF_RANGE, NOT_READ = lib.DEVICE_OUT_OF_RANGE, lib.DEVICE_NOT_READ

_BYTES = ffi.sizeof("struct device_board")
_FORMATS = {"uint32_t": "u4", "int32_t": "i4", "uint64_t": "u8", "double": "f8"}


def _names(enum: str, prefix: str) -> tuple[str, ...]:
    elements = sorted(ffi.typeof(enum).elements.items())
    return tuple(name.removeprefix(prefix).lower() for _, name in elements[:-1])


FIELDS = _names("enum device_field", "DEVICE_")
LINK_FIELDS = _names("enum device_link_field", "DEVICE_LINK_")
GROUPS = _names("enum device_group", "DEVICE_GROUP_")
FIELD = {name: number for number, name in enumerate(FIELDS)}
GROUP = {name: number for number, name in enumerate(GROUPS)}


def group_mask(groups: Sequence[str]) -> int:
    """One bit for each group, for `sample()` of a vendor's library; KeyError for an unknown name."""
    return sum(1 << GROUP[name] for name in set(groups))


def sample_dtype() -> np.dtype[Any]:
    """The structured dtype of one device's sample."""
    import numpy as np

    fields = ffi.typeof("struct device_sample").fields
    return np.dtype(
        {
            "names": [name for name, _ in fields],
            "formats": [_format(field.type) for _, field in fields],
            "offsets": [field.offset for _, field in fields],
            "itemsize": ffi.sizeof("struct device_sample"),
        }
    )


def _format(ctype: Any) -> Any:
    if ctype.kind == "array":
        return (_format(ctype.item), (ctype.length,))
    return _FORMATS[ctype.cname]


@dataclass(frozen=True)
class Call:
    """A group of vendor calls that a thread of the worker is in; `slot` is None when it concerns no device.

    `function` is the number of the symbol in the library's own table, 0 when unknown.
    """

    group: str
    slot: int | None
    function: int
    thread: int
    started_ns: int


@dataclass(frozen=True)
class CallTimes:
    """Durations of one group's calls since the board was made; bucket i counts 2^i to 2^(i+1) - 1 ns."""

    calls: int
    sum_ns: int
    buckets: tuple[int, ...]


class Board:
    """The shared memory. Whoever writes it, a reader's indices stay in bounds and its size cannot change."""

    def __init__(self, fd: int) -> None:
        """Maps a board that create() made in another process; takes `fd` over.

        Raises UnavailableError when it is no board, or one of another version of this module.
        """
        self.fd = fd
        self.torn = 0
        try:
            self._memory = mmap.mmap(fd, _BYTES)
        except (OSError, ValueError) as why:
            raise UnavailableError(f"the device board cannot be mapped: {why}") from None
        self._pointer: Any = ffi.from_buffer("struct device_board *", self._memory)
        self._array: np.ndarray[Any, Any] | None = None
        if not lib.device_board_valid(self.pointer):
            self.close()
            raise UnavailableError(
                "the device board is of another version", remedy="restart the agent after an upgrade"
            )

    @classmethod
    def create(cls) -> Self:
        """A new board of nothing but absent values, in memory that no other process can resize."""
        fd = os.memfd_create("eagle-eye-devices", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, _BYTES)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        with mmap.mmap(fd, _BYTES) as memory:
            pointer = ffi.from_buffer("struct device_board *", memory)
            lib.device_board_init(pointer)
            ffi.release(pointer)
        return cls(fd)

    @property
    def pointer(self) -> Any:
        """`struct device_board *`, for the vendors' modules; ValueError once the board is closed."""
        if self.fd < 0:
            raise ValueError("the device board is closed")
        return self._pointer

    @property
    def beat(self) -> int:
        """Rounds of samples so far."""
        return int(self.pointer.beat)

    @contextmanager
    def call(self, group: str, *, slot: int | None = None, lane: int = 1) -> Iterator[None]:
        """Marks the vendor calls inside the block as in flight. Each thread has its own lane; 0 is sample()'s."""
        number = lib.DEVICE_NO_SLOT if slot is None else slot
        lib.device_call_begin(self.pointer, _lane(lane), GROUP[group], number, 0)
        try:
            yield
        finally:
            lib.device_call_end(self.pointer, lane)

    def in_flight(self, lane: int) -> Call | None:
        """The call that a lane is in now."""
        call = ffi.new("struct device_call *")
        if not lib.device_call_read(self.pointer, _lane(lane), call):
            return None
        group = GROUPS[call.group] if call.group < len(GROUPS) else f"unknown {call.group}"
        slot = int(call.slot) if call.slot < DEVICE_MAX else None
        return Call(group, slot, int(call.function), int(call.thread), int(call.started_ns))

    def clear_calls(self) -> None:
        """Forgets what a worker was in when it was killed."""
        lib.device_calls_clear(self.pointer)

    def clear(self, slot: int) -> None:
        """Makes every value of a slot absent, before another device takes it."""
        lib.device_sample_clear(self.pointer, _slot(slot))

    def call_times(self, group: str) -> CallTimes:
        times = self.pointer.call_times[GROUP[group]]
        return CallTimes(int(times.calls), int(times.sum_ns), tuple(times.buckets))

    def value(self, slot: int, field: str) -> tuple[float, int]:
        """One value and its status, NaN unless OK; for tests and rare readers."""
        sample = self.pointer.samples[_slot(slot)]
        return float(sample.value[FIELD[field]]), int(sample.status[FIELD[field]])

    def read(self, count: int = DEVICE_MAX) -> np.ndarray[Any, Any]:
        """Consistent copies of the first `count` slots, of sample_dtype(); valid until the next read.

        A slot that its writer kept busy the whole time keeps its earlier copy and is counted in `torn`.
        """
        array = self._copies()
        for slot in range(min(count, DEVICE_MAX)):
            if lib.device_sample_read(self.pointer, slot, self._scratch):
                self.torn += 1
            else:
                array[slot] = self._copied
        return array[:count]

    def _copies(self) -> np.ndarray[Any, Any]:
        if self._array is None:
            import numpy as np

            raw = np.zeros((DEVICE_MAX + 1) * ffi.sizeof("struct device_sample"), np.uint8)
            self._array = raw.view(sample_dtype())
            self._scratch = ffi.cast("struct device_sample *", self._array[-1:].ctypes.data)
            self._copied = self._array[-1]
            for slot in range(DEVICE_MAX):
                lib.device_sample_reset(ffi.cast("struct device_sample *", self._array[slot:].ctypes.data))
        return self._array

    def close(self) -> None:
        """Safe twice."""
        if self.fd >= 0:
            ffi.release(self._pointer)
            self._memory.close()
            os.close(self.fd)
        self.fd = -1


def _lane(lane: int) -> int:
    if not 0 <= lane < LANES:
        raise ValueError(f"lanes are 0 to {LANES - 1}, not {lane}")
    return lane


def _slot(slot: int) -> int:
    if not 0 <= slot < DEVICE_MAX:
        raise ValueError(f"slots are 0 to {DEVICE_MAX - 1}, not {slot}")
    return slot
