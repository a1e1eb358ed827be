"""Runs a raw_tp program by its descriptor (BPF_PROG_TEST_RUN); as a script, at a steady rate.

    bpf_run.py FD RECORDS_PER_SECOND SECONDS

Standard library only: the distribution's Python runs it for the peers too.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import time

SYS_BPF = {"x86_64": 321, "aarch64": 280}.get(platform.machine(), 0)
BPF_PROG_TEST_RUN = 10
BURST_SECONDS = 0.01

_libc = ctypes.CDLL(None, use_errno=True)


class _TestRun(ctypes.Structure):
    # union bpf_attr, member test, of include/uapi/linux/bpf.h
    _fields_ = (
        ("prog_fd", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("data_in", ctypes.c_uint64),
        ("data_out", ctypes.c_uint64),
        ("repeat", ctypes.c_uint32),
        ("duration", ctypes.c_uint32),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_uint64),
        ("ctx_out", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
    )


def run_program(fd: int, *arguments: int) -> None:
    """Once, with up to three arguments in its context; raises OSError."""
    context = (ctypes.c_uint64 * 3)(*arguments)
    attributes = _TestRun(prog_fd=fd, ctx_in=ctypes.addressof(context), ctx_size_in=ctypes.sizeof(context))
    if _libc.syscall(SYS_BPF, BPF_PROG_TEST_RUN, ctypes.byref(attributes), ctypes.sizeof(attributes)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def produce(fd: int, records_per_second: float, seconds: float) -> None:
    """Short bursts that keep to the rate, whatever the scheduler does."""
    start, produced = time.monotonic(), 0
    while (elapsed := time.monotonic() - start) < seconds:
        due = int(elapsed * records_per_second) - produced
        run_program(fd, due)
        produced += due
        time.sleep(BURST_SECONDS)


if __name__ == "__main__":
    produce(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
