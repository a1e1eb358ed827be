"""Describes the C module `eagle_eye.native._kmsg` to setup.py."""

from __future__ import annotations

import re
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent


def declarations(header: str) -> str:
    """The part of a C header that cffi can read: no directives except plain numeric defines."""
    kept = [line for line in header.splitlines() if not line.startswith("#") or re.match(r"#define \w+ \d+", line)]
    return "\n".join(re.sub(r"/\*.*?\*/", "", line) for line in kept)


ffibuilder = FFI()
ffibuilder.cdef(declarations((HERE / "kmsg.h").read_text()))
ffibuilder.set_source(
    "eagle_eye.native._kmsg",
    '#include "kmsg.h"',
    sources=["native/kmsg.c", "native/kmsg_reader.c", "native/kmsg_alarm.c"],
    include_dirs=["native"],
    depends=["native/kmsg.h"],
    libraries=["pthread"],
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fstack-protector-strong"],
)
