"""The state block of a simulation, as state.h declares it: a mapped file with one writer at a time."""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from cffi import FFI

from ..errors import EagleEyeError, UnavailableError

HERE = Path(__file__).resolve().parent
LIBRARIES = HERE / "lib"
VENDORS = {"nvidia": 1, "ascend": 2}
NONE_U32 = 0xFFFFFFFF
_DEFINE = re.compile(r"#define \w+ (0x[0-9a-f]+|[0-9]+)")
_FUNCTIONS = """
void eagle_eye_simulation_write(struct simulated_device *device, const struct simulated_device *next);
void eagle_eye_simulation_event(struct simulation *block, const struct simulated_event *event);
double eagle_eye_simulation_law(const struct simulated_value *law, uint64_t now_ns);
double eagle_eye_simulation_energy(const struct simulated_device *device, uint64_t now_ns);
"""


@cache
def declarations() -> Any:
    """cffi's view of state.h."""
    text = re.sub(r"/\*.*?\*/", "", (HERE / "state.h").read_text(), flags=re.DOTALL)
    lines = [line for line in text.splitlines() if not line.startswith("#") or _DEFINE.match(line)]
    ffi = FFI()
    ffi.cdef("\n".join(lines) + _FUNCTIONS)
    return ffi


@cache
def writer() -> Any:
    """The C half of writing, which orders memory as the readers expect."""
    try:
        return declarations().dlopen(str(LIBRARIES / "libnvidia-ml.so.1"))
    except OSError as error:
        remedy = "build them: python setup.py build_simulator --inplace"
        raise UnavailableError(f"the simulated vendor libraries are not built: {error}", remedy=remedy) from None


@cache
def names_of(enum: str, prefix: str) -> dict[str, int]:
    """Constants of an enum in state.h by the names that users write, in the enum's order."""
    constants: dict[str, int] = declarations().typeof(f"enum {enum}").relements
    named = {name.removeprefix(prefix).lower(): value for name, value in constants.items() if name.startswith(prefix)}
    return dict(sorted(((n, v) for n, v in named.items() if n not in _COUNTS), key=lambda item: item[1]))


_COUNTS = ("quantities", "link_quantities", "groups")


def quantities() -> dict[str, int]:
    return names_of("simulated_quantity", "SIMULATED_")


def link_quantities() -> dict[str, int]:
    named = names_of("simulated_link_quantity", "SIMULATED_LINK_")
    return {name: value for name, value in named.items() if name != "quantities"}


def groups() -> dict[str, int]:
    return names_of("simulated_group", "SIMULATED_CALL_")


class Block:
    """A mapped state file; `state` is its `struct simulation`."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = path
        self._ffi = declarations()
        self.size_bytes: int = self._ffi.sizeof("struct simulation")
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if create else 0)
        self._fd = os.open(path, flags, 0o600)
        try:
            self._map(create)
        except BaseException:
            os.close(self._fd)
            raise

    def _map(self, create: bool) -> None:
        if create:
            os.ftruncate(self._fd, self.size_bytes)
        elif os.fstat(self._fd).st_size < self.size_bytes:
            raise self._no_state_file()
        self._memory = mmap.mmap(self._fd, self.size_bytes)
        self.state: Any = self._ffi.cast("struct simulation *", self._ffi.from_buffer(self._memory))[0]
        if create:
            self._start()
        elif not self._is_whole():
            raise self._no_state_file()

    def _is_whole(self) -> bool:
        state = self.state
        of_this_version = state.magic == writer_magic() and state.version == 1 and state.bytes == self.size_bytes
        return of_this_version and state.vendor in VENDORS.values()

    def _no_state_file(self) -> EagleEyeError:
        remedy = "name the file that `eagle-eye simulate run` printed; it serves the version that made it"
        return EagleEyeError(f"{self.path} is no state file of a simulation", remedy=remedy)

    def _start(self) -> None:
        state = self.state
        state.magic, state.version, state.bytes = writer_magic(), 1, self.size_bytes
        state.started_ns, state.reported_count = time.monotonic_ns(), -1
        for slot in range(len(state.order)):
            state.order[slot] = slot
        for device in state.device:
            _clear(device)

    def head(self) -> Any:
        """A writable view of everything before the devices."""
        offset: int = self._ffi.offsetof("struct simulation", "device")
        return memoryview(self._memory)[:offset]

    @contextmanager
    def lock(self) -> Iterator[Any]:
        """The state, for one writer of all processes."""
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            yield self.state
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    @contextmanager
    def edit(self, slot: int) -> Iterator[Any]:
        """A copy of a device, written back in one piece at the end. Hold the lock."""
        copy = self._ffi.new("struct simulated_device *", self.state.device[slot])
        yield copy
        writer().eagle_eye_simulation_write(self._ffi.addressof(self.state, "device", slot), copy)

    def send(self, event: dict[str, Any]) -> None:
        """Puts an event in the queue and wakes who waits. Hold the lock."""
        made = self._ffi.new("struct simulated_event *", event)
        made.at_ns = time.monotonic_ns()
        writer().eagle_eye_simulation_event(self._ffi.addressof(self.state), made)

    def close(self) -> None:
        if self._fd < 0:
            return
        self.state = None
        os.close(self._fd)
        self._fd = -1


def writer_magic() -> int:
    magic: int = writer().SIMULATION_MAGIC
    return magic


def _clear(device: Any) -> None:
    laws = [*device.value, *(law for link in device.link for law in link.value)]
    for law in laws:
        law.base, law.low, law.high = math.nan, 0.0, math.inf
    for link in device.link:
        link.remote_device = -1
