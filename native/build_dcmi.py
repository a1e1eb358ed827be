"""Describes the C module `eagle_eye.native._dcmi` to setup.py. DCMI itself is opened at run time."""

from __future__ import annotations

import re
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
PARTS = ("dcmi", "dcmi_sample", "dcmi_groups", "dcmi_links", "dcmi_identity", "dcmi_events", "device_board")


def declarations(header: str) -> str:
    """The part of a C header that cffi can read: no comments, assertions, nor directives but numeric defines."""
    header = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    header = re.sub(r"_Static_assert\(.*?\);", "", header, flags=re.DOTALL)
    number = re.compile(r"#define \w+ (0x[0-9a-f]+|[0-9]+)\s*$")
    return "\n".join(line for line in header.splitlines() if not line.startswith("#") or number.match(line))


ffibuilder = FFI()
ffibuilder.cdef("".join(declarations((HERE / name).read_text()) for name in ("dcmi_abi.h", "dcmi.h")))
ffibuilder.set_source(
    "eagle_eye.native._dcmi",
    '#include "dcmi_abi.h"\n#include "dcmi.h"',
    sources=[f"native/{name}.c" for name in PARTS],
    include_dirs=["native"],
    depends=[f"native/{name}.h" for name in ("dcmi", "dcmi_abi", "dcmi_calls", "dcmi_library", "device")],
    libraries=["dl", "pthread"],
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fstack-protector-strong"],
)
