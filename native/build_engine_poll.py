"""Describes the C module `eagle_eye.native._engine_poll` to setup.py."""

from __future__ import annotations

import re
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent


def declarations(header: str) -> str:
    """The part of a C header that cffi can read: no directives except plain numeric defines."""
    kept = [line for line in header.splitlines() if not line.startswith("#") or re.match(r"#define \w+ \d+", line)]
    return re.sub(r"/\*.*?\*/", "", "\n".join(kept), flags=re.DOTALL)


ffibuilder = FFI()
ffibuilder.cdef(declarations((HERE / "engine_poll.h").read_text()))
ffibuilder.set_source(
    "eagle_eye.native._engine_poll",
    '#include "engine_poll.h"',
    sources=["native/engine_poll.c"],
    include_dirs=["native"],
    depends=["native/engine_poll.h"],
    libraries=["pthread"],
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fstack-protector-strong"],
)
