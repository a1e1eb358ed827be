"""BPF objects through libbpf: open, set constants, load, attach, read.

Every failure raises one of errors.py; nothing is printed. Objects may be shared between threads.
"""

from __future__ import annotations

import errno as codes
import os
import platform
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from . import failures
from ._bpf import ffi, lib
from .errors import BpfAttachError, BpfError, BpfLoadError, BpfMapError, EagleEyeError, UnavailableError
from .layout import record_dtype
from .maps import Guard, Map, possible_cpus
from .ring import Iterator, Ring

__all__ = ["Object", "Link", "Map", "Ring", "Iterator", "record_dtype", "possible_cpus", "libbpf_version"]

OBJECTS = Path(__file__).parent.parent / "bpf" / "obj"
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_SELF_ATTACHING = ("tp_btf/", "raw_tp/", "raw_tracepoint/", "tp/", "tracepoint/")

# A load holds the kernel's whole BTF, some 10 MB: one at a time bounds what start-up takes. One that hangs
# in the kernel must not keep the others, though.
_loading = threading.Lock()
_LOADING_WAIT_S = 5.0

lib.log_install()


def libbpf_version() -> str:
    """Of the library in use, such as "1.1"."""
    return str(ffi.string(lib.libbpf_version_string()).decode()).removeprefix("v")


class Link:
    """An attached program; close() detaches it."""

    def __init__(self, guard: Guard, program: str, handle: Any) -> None:
        self.program = program
        self._guard = guard
        self._handle: Any = ffi.gc(handle, lib.bpf_link__destroy)

    def close(self) -> None:
        """Safe twice."""
        with self._guard.lock:
            if self._handle is not None:
                ffi.release(self._handle)
            self._handle = None

    @property
    def attached(self) -> bool:
        """Until close() of the link or of its object."""
        return self._handle is not None

    def iterate(self) -> int:
        """A new descriptor that makes one sweep of an iterator program; the caller closes it."""
        with self._guard:
            if self._handle is None:
                raise BpfError(f"program '{self.program}' is detached")
            fd = int(lib.bpf_iter_create(lib.bpf_link__fd(self._handle)))
        if fd < 0:
            raise BpfError(f"program '{self.program}' is no iterator: {failures.error_name(-fd)}", errno=-fd)
        return fd


class Object:
    """One BPF object file: open, set_constants, resize, leave_out, load, attach, close.

    Raises BpfLoadError when the file is no BPF object.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._guard = Guard(path.name)
        self._links: list[Link] = []
        lib.log_clear()
        handle = lib.bpf_object__open_file(os.fsencode(path), ffi.NULL)
        if handle == ffi.NULL:
            raise failures.open_failed(str(path), ffi.errno, _log())
        self._handle: Any = ffi.gc(handle, lib.bpf_object__close)

    @classmethod
    def named(cls, name: str) -> Self:
        """The package's own object for this machine; UnavailableError when it was not built."""
        machine = platform.machine()
        path = OBJECTS / _MACHINES.get(machine, machine) / f"{name}.bpf.o"
        if not path.exists():
            raise UnavailableError(f"the BPF object {name} is not built for {machine}", remedy="make build")
        return cls(path)

    def set_constants(self, **values: int | bool) -> None:
        """Sets `const volatile` integers, before load. BpfLoadError for an unknown name or a value too large."""
        for name, value in values.items():
            with self._guard:
                self._set_constant(name, value)

    def _set_constant(self, name: str, value: int | bool) -> None:
        found = ffi.new("struct variable *")
        if lib.find_integer(self._handle, b".rodata", name.encode(), found):
            raise BpfLoadError(f"{self.name} has no integer constant '{name}'")
        rodata = lib.bpf_object__find_map_by_name(self._handle, b".rodata")
        size = ffi.new("size_t *")
        start = lib.bpf_map__initial_value(rodata, size)
        if start == ffi.NULL or lib.bpf_map__fd(rodata) >= 0:
            raise BpfLoadError(f"{self.name} is loaded: '{name}' can no longer be set")
        if found.is_bool and value not in (0, 1):
            raise BpfLoadError(f"{self.name}: '{name}' is true or false, not {value}")
        try:
            raw = int(value).to_bytes(found.size_bytes, "little", signed=bool(found.is_signed))
        except OverflowError:
            raise BpfLoadError(f"{self.name}: {value} does not fit '{name}' ({_width(found)})") from None
        ffi.memmove(ffi.cast("char *", start) + found.offset_bytes, raw, len(raw))

    def resize(self, map_name: str, max_entries: int) -> None:
        """Sets a map's number of entries (bytes, for a ring buffer), before load."""
        with self._guard:
            failed = lib.bpf_map__set_max_entries(self._find_map(map_name), max_entries)
        if failed:
            raise BpfMapError(f"cannot resize '{map_name}': {failures.error_name(-failed)}", errno=-failed)

    def leave_out(self, name: str) -> None:
        """Does not load this program, or does not create this map, where the kernel has no use for it."""
        with self._guard:
            program = lib.bpf_object__find_program_by_name(self._handle, name.encode())
            if program != ffi.NULL:
                failed = lib.bpf_program__set_autoload(program, False)
            else:
                failed = lib.bpf_map__set_autocreate(self._find_map(name), False)
        if failed:
            raise BpfLoadError(f"{self.name} is loaded: '{name}' can no longer be left out", errno=-failed)

    def load(self) -> None:
        """Loads maps and programs; BpfLoadError with the verifier's last lines, UnavailableError where the
        machine lacks a capability, BTF or a hook."""
        with _one_at_a_time(), self._guard:
            lib.log_clear()
            failed = lib.bpf_object__load(self._handle)
            log = _log()
        if failed:
            raise failures.load_failed(self.name, -failed, log)

    def attach(self, program: str) -> Link:
        """By its section: tp_btf, raw_tp, tp, iter."""
        with self._guard:
            handle = self._find_program(program)
            return self._attach(program, lib.bpf_program__attach, handle)

    def attach_all(self) -> None:
        """All loaded programs that attach by their section, except iterators."""
        with self._guard:
            for handle in self._programs():
                if lib.bpf_program__autoload(handle) and _section(handle).startswith(_SELF_ATTACHING):
                    name = ffi.string(lib.bpf_program__name(handle)).decode()
                    self._attach(name, lib.bpf_program__attach, handle)

    def attach_uprobe(self, program: str, binary: Path, offset: int, *, pid: int = -1, on_return: bool = False) -> Link:
        """At a file offset of `binary`, in all processes or one; `on_return` fires when the function returns."""
        if not binary.is_file():
            raise BpfAttachError(f"program '{program}' did not attach: {binary} is no file", errno=codes.ENOENT)
        with self._guard:
            handle = self._find_program(program)
            path = os.fsencode(binary)
            return self._attach(program, lib.bpf_program__attach_uprobe, handle, on_return, pid, path, offset)

    def attach_perf_event(self, program: str, *, cpu: int, frequency_hz: int, pid: int = -1) -> Link:
        """To a software clock of one CPU that ticks `frequency_hz` times per second of CPU work."""
        with self._guard:
            handle = self._find_program(program)
            event = lib.perf_event_open_cpu_clock(pid, cpu, frequency_hz)
            if event < 0:
                raise failures.attach_failed(program, _section(handle), -event, "")
            try:
                return self._attach(program, lib.bpf_program__attach_perf_event, handle, event)
            except EagleEyeError:
                os.close(event)
                raise

    def map(self, name: str) -> Map:
        """A map, after load; BpfMapError when there is none of that name."""
        with self._guard:
            return Map(self._guard, self._find_map(name))

    def close(self) -> None:
        """Detaches all links, frees maps and programs. Safe twice."""
        with self._guard.lock:
            if not self._guard.closed:
                for link in self._links:
                    link.close()
                ffi.release(self._handle)
                self._guard.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _attach(self, name: str, how: Any, handle: Any, *arguments: Any) -> Link:
        if lib.bpf_program__fd(handle) < 0:
            raise BpfAttachError(f"program '{name}' of {self.name} is not loaded")
        lib.log_clear()
        link = how(handle, *arguments)
        if link == ffi.NULL:
            raise failures.attach_failed(name, _section(handle), ffi.errno, _log())
        self._links = [earlier for earlier in self._links if earlier.attached]
        self._links.append(Link(self._guard, name, link))
        return self._links[-1]

    def _programs(self) -> list[Any]:
        found = [lib.bpf_object__next_program(self._handle, ffi.NULL)]
        while found[-1] != ffi.NULL:
            found.append(lib.bpf_object__next_program(self._handle, found[-1]))
        return found[:-1]

    def _find_program(self, name: str) -> Any:
        program = lib.bpf_object__find_program_by_name(self._handle, name.encode())
        if program == ffi.NULL:
            names = ", ".join(ffi.string(lib.bpf_program__name(one)).decode() for one in self._programs())
            raise BpfAttachError(f"{self.name} has no program '{name}'; it has {names}", errno=codes.ENOENT)
        return program

    def _find_map(self, name: str) -> Any:
        found = lib.bpf_object__find_map_by_name(self._handle, name.encode())
        if found == ffi.NULL:
            raise BpfMapError(f"{self.name} has no map '{name}'", errno=codes.ENOENT)
        return found


@contextmanager
def _one_at_a_time() -> Generator[None, None, None]:
    alone = _loading.acquire(timeout=_LOADING_WAIT_S)
    try:
        yield
    finally:
        if alone:
            _loading.release()


def _log() -> str:
    return str(ffi.string(lib.log_text()).decode(errors="replace"))


def _section(handle: Any) -> str:
    return str(ffi.string(lib.bpf_program__section_name(handle)).decode())


def _width(found: Any) -> str:
    return f"{'signed' if found.is_signed else 'unsigned'}, {8 * found.size_bytes} bits"
