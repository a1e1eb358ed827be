"""Settings of the C library that keep a process with many quiet threads small."""

from __future__ import annotations

import ctypes
import os

# malloc.h of glibc.
M_TRIM_THRESHOLD = -1
M_ARENA_MAX = -8

ARENAS = 2
TRIM_BYTES = 128 * 1024


def be_frugal() -> None:
    """Bounds what malloc keeps per thread, and leaves numpy's matrix threads unstarted: nobody here multiplies any.

    To be called before numpy is imported and before threads are started. Other C libraries than glibc are left alone.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, ARENAS)
        mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)
