"""Describes the C module `eagle_eye.native._sift` to setup.py."""

from __future__ import annotations

import re
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent


def declarations(header: str) -> str:
    """The part of a C header that cffi can read: no directives except plain numeric defines."""
    lines = [re.sub(r"/\*.*?\*/", "", line).rstrip() for line in header.splitlines()]
    return "\n".join(line for line in lines if not line.startswith("#") or re.fullmatch(r"#define \w+ \d+", line))


ffibuilder = FFI()
ffibuilder.cdef(declarations((HERE / "sift.h").read_text()))
ffibuilder.set_source(
    "eagle_eye.native._sift",
    '#include "sift.h"',
    sources=["native/sift.c"],
    include_dirs=["native"],
    depends=["native/sift.h", "native/kmsg.h"],
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fstack-protector-strong"],
)
