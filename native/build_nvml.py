"""Describes the C module `eagle_eye.native._nvml` to setup.py. NVML itself is opened at run time."""

from __future__ import annotations

import re
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent


def declarations(header: str) -> str:
    """The part of a C header that cffi can read."""
    header = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    return "\n".join(line for line in header.splitlines() if not line.startswith("#"))


ffibuilder = FFI()
ffibuilder.cdef(declarations((HERE / "nvml_border.h").read_text()))
ffibuilder.set_source(
    "eagle_eye.native._nvml",
    '#include "nvml_border.h"',
    sources=[f"native/{name}.c" for name in ("nvml_load", "nvml_sample", "nvml_fields", "nvml_calls", "device_board")],
    include_dirs=["native"],
    depends=[f"native/{name}.h" for name in ("nvml_border", "nvml_functions", "nvml_abi", "device")],
    libraries=["dl"],
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fstack-protector-strong"],
)
