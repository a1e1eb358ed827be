"""Describes the C module `eagle_eye.native._device` to setup.py: the board that workers write and the agent reads."""

from __future__ import annotations

import re
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent


def declarations(header: str) -> str:
    """The part of a C header that cffi can read: no directives except plain numeric defines."""
    header = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    number = re.compile(r"#define \w+ (0x[0-9a-f]+|[0-9]+)\s*$")
    return "\n".join(line for line in header.splitlines() if not line.startswith("#") or number.match(line))


ffibuilder = FFI()
ffibuilder.cdef(declarations((HERE / "device.h").read_text()))
ffibuilder.set_source(
    "eagle_eye.native._device",
    '#include "device.h"',
    sources=["native/device_board.c"],
    include_dirs=["native"],
    depends=["native/device.h"],
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fstack-protector-strong"],
)
