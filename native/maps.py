"""Maps of a loaded object, and mmapable arrays as numpy views."""

from __future__ import annotations

import errno as codes
import mmap
import threading
from collections.abc import Iterator as Iterates
from types import TracebackType
from typing import Any

import numpy as np

from ._bpf import ffi, lib
from .errors import BpfError, BpfMapError
from .failures import error_name

# From include/uapi/linux/bpf.h.
_PER_CPU_TYPES = frozenset({5, 6, 10, 21})
_MMAPABLE = 1 << 10


def possible_cpus() -> int:
    """CPUs that may ever come online: the number of entries of a per-CPU array."""
    count = int(lib.libbpf_num_possible_cpus())
    if count < 0:
        raise BpfError(f"cannot count CPUs: {error_name(-count)}", errno=-count)
    return count


def round_up_8(size_bytes: int) -> int:
    """The kernel aligns map values and ring records to 8 bytes."""
    return (size_bytes + 7) & ~7


class Guard:
    """One lock per object file. Entering it after close raises, where the C side would touch freed memory."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.closed = False
        self.lock = threading.RLock()

    def __enter__(self) -> None:
        self.lock.acquire()
        if self.closed:
            self.lock.release()
            raise BpfError(f"{self.name} is closed")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.lock.release()


class Map:
    """One map. Keys and values are bytes; a per-CPU map's value is that of all CPUs, one after the other."""

    def __init__(self, guard: Guard, handle: Any) -> None:
        self._guard = guard
        self.name: str = ffi.string(lib.bpf_map__name(handle)).decode()
        self.type = int(ffi.cast("int", lib.bpf_map__type(handle)))
        self.max_entries = int(lib.bpf_map__max_entries(handle))
        self.key_bytes = int(lib.bpf_map__key_size(handle))
        self.entry_bytes = int(lib.bpf_map__value_size(handle))
        self.value_bytes = self.entry_bytes
        if self.type in _PER_CPU_TYPES:
            self.value_bytes = round_up_8(self.entry_bytes) * possible_cpus()
        self._flags = int(lib.bpf_map__map_flags(handle))
        self._fd = int(lib.bpf_map__fd(handle))
        if self._fd < 0:
            raise BpfMapError(f"map '{self.name}' exists only after load()")

    @property
    def fd(self) -> int:
        """Owned by the object; closed with it."""
        with self._guard:
            return self._fd

    def get(self, key: bytes) -> bytes | None:
        """The value at `key`, None where there is none."""
        self._expect("key", key, self.key_bytes)
        value = ffi.new("char[]", self.value_bytes)
        with self._guard:
            failed = lib.bpf_map_lookup_elem(self._fd, key, value)
        if failed == -codes.ENOENT:
            return None
        self._check(failed, "look up")
        return bytes(ffi.buffer(value))

    def put(self, key: bytes, value: bytes) -> None:
        """Writes `value` at `key`, whether there was one or not."""
        self._expect("key", key, self.key_bytes)
        self._expect("value", value, self.value_bytes)
        with self._guard:
            failed = lib.bpf_map_update_elem(self._fd, key, value, 0)
        self._check(failed, "update")

    def delete(self, key: bytes) -> bool:
        """Whether there was something to delete."""
        self._expect("key", key, self.key_bytes)
        with self._guard:
            failed = lib.bpf_map_delete_elem(self._fd, key)
        if failed == -codes.ENOENT:
            return False
        self._check(failed, "delete from")
        return True

    def items(self) -> Iterates[tuple[bytes, bytes]]:
        """Keys and values, at most `max_entries`; what a program adds or deletes meanwhile may be missed."""
        key, following = ffi.NULL, ffi.new("char[]", self.key_bytes)
        for _ in range(self.max_entries):
            with self._guard:
                failed = lib.bpf_map_get_next_key(self._fd, key, following)
            if failed == -codes.ENOENT:
                return
            self._check(failed, "walk")
            here = bytes(ffi.buffer(following))
            value = self.get(here)
            if value is not None:
                yield here, value
            key = here

    def view(self, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        """The live array, shape (max_entries,), read-only: no copy, no system call.

        For arrays with BPF_F_MMAPABLE and for .bss, .data and .rodata. The memory stays mapped as
        long as the view lives, also after the object is closed; then nothing changes in it any more.
        """
        if self.type != lib.BPF_MAP_TYPE_ARRAY or not self._flags & _MMAPABLE:
            raise BpfMapError(f"map '{self.name}' is no array with BPF_F_MMAPABLE")
        if dtype.itemsize != self.entry_bytes:
            raise BpfMapError(
                f"map '{self.name}' holds values of {self.entry_bytes} bytes, the dtype has {dtype.itemsize}"
            )
        stride = round_up_8(self.entry_bytes)
        with self._guard:
            memory = mmap.mmap(self._fd, stride * self.max_entries, mmap.MAP_SHARED, mmap.PROT_READ)
        return np.ndarray((self.max_entries,), dtype, memory, strides=(stride,))

    def _expect(self, what: str, given: bytes, size_bytes: int) -> None:
        if len(given) != size_bytes:
            raise BpfMapError(f"map '{self.name}': the {what} has {len(given)} bytes instead of {size_bytes}")

    def _check(self, failed: int, what: str) -> None:
        if failed:
            raise BpfMapError(f"cannot {what} map '{self.name}': {error_name(-failed)}", errno=-failed)
