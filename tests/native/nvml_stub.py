"""The stub library of nvml_stub.c: compiled for a test, with some of its symbols hidden if need be."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).parent
NATIVE = HERE.parent.parent / "native"

DOUBLE, U32, ULONG, U64, S64, S32, U16 = range(7)


class Answer(ctypes.Structure):
    _fields_ = [("code", ctypes.c_int32), ("calls", ctypes.c_uint32), ("value", ctypes.c_uint64)]


class Field(ctypes.Structure):
    _fields_ = [("status", ctypes.c_int32), ("type", ctypes.c_uint32), ("bits", ctypes.c_uint64)]


class Memory(ctypes.Structure):
    _fields_ = [
        ("version", ctypes.c_uint32), ("padding", ctypes.c_uint32), ("total", ctypes.c_uint64),
        ("reserved", ctypes.c_uint64), ("free", ctypes.c_uint64), ("used", ctypes.c_uint64),
    ]  # fmt: skip


class Fabric(ctypes.Structure):
    _fields_ = [
        ("version", ctypes.c_uint32), ("uuid", ctypes.c_uint8 * 16), ("status", ctypes.c_int32),
        ("clique", ctypes.c_uint32), ("state", ctypes.c_uint8), ("padding", ctypes.c_uint8 * 3),
        ("health_mask", ctypes.c_uint32), ("health_summary", ctypes.c_uint32),
    ]  # fmt: skip


def compile_stub(path: Path, *, without: Iterable[str] = ()) -> Path:
    """A library at `path`, without these symbols."""
    hidden = path.with_suffix(".map")
    names = "; ".join(["stub_hidden", *without])
    hidden.write_text(f"{{ global: *; local: {names}; }};")
    subprocess.run(
        ["cc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{NATIVE}", HERE / "nvml_stub.c",
         "-o", path, "-Wl,-soname,libnvidia-ml.so.1", f"-Wl,--version-script={hidden}"],
        check=True,
    )  # fmt: skip
    return path


class Stub:
    """The variables of a loaded stub."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.library = ctypes.CDLL(str(path))
        self.fields = (Field * 512).in_dll(self.library, "stub_field")
        self.memory = Memory.in_dll(self.library, "stub_memory_info")
        self.fabric = Fabric.in_dll(self.library, "stub_fabric_info")
        self.answer("count").value = 2
        self.set("fabric_version", 0x03000028)

    def answer(self, name: str) -> Answer:
        return Answer.in_dll(self.library, f"stub_{name}")

    def get(self, name: str) -> int:
        return ctypes.c_uint32.in_dll(self.library, f"stub_{name}").value

    def set(self, name: str, value: int) -> None:
        ctypes.c_uint32.in_dll(self.library, f"stub_{name}").value = value

    def field(self, number: int, bits: int, *, type: int = U64, status: int = 0) -> None:
        self.fields[number] = Field(status, type, bits)
