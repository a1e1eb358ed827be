"""The same probes where something is missing: they say so, or do with less."""

from __future__ import annotations

import ctypes
import os
import pickle
import struct
from collections.abc import Callable

from outcome import Outcome, Watched, expect

from eagle_eye.native.errors import UnavailableError
from eagle_eye.probes.probe import Spec

# From include/uapi/linux: sched.h, mount.h, capability.h.
CLONE_NEWNS = 0x20000
MS_REC_PRIVATE = 0x4000 | 1 << 18
CAPABILITY_VERSION_3 = 0x20080522
BPF_CAPABILITIES = (21, 38, 39)


def hide_btf() -> None:
    """An empty folder in place of the kernel's, for this process alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    must(libc.unshare(CLONE_NEWNS))
    must(libc.mount(b"none", b"/", None, MS_REC_PRIVATE, None))
    must(libc.mount(b"none", b"/sys/kernel/btf", b"tmpfs", 0, None))


def drop_capabilities() -> None:
    """All but CAP_SYS_ADMIN, CAP_PERFMON and CAP_BPF."""
    kept = (1 << 64) - 1
    for capability in BPF_CAPABILITIES:
        kept &= ~(1 << capability)
    header, sets = struct.pack("=Ii", CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    must(libc.capget(header, sets))
    for index in range(6):
        sets[index] &= kept >> (32 * (index // 3)) & 0xFFFFFFFF
    must(libc.capset(header, sets))


def must(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def missing(need: str, take_away: Callable[[], None]) -> Callable[[Spec], Outcome]:
    """A check that takes something away in a child and holds the probe to what its spec says of `need`."""

    def check(spec: Spec) -> Outcome:
        outcome: Outcome = in_child(lambda: (take_away(), try_probe(spec))[1])
        expected = "unavailable" if need in spec.needs else "degraded" if need in spec.optional else "ok"
        if outcome.result == expected:
            return outcome
        return Outcome("failed", detail=f"is {outcome.result}, not {expected}: {outcome.detail}")

    return check


def try_probe(spec: Spec) -> Outcome:
    try:
        with Watched(spec) as probe:
            return Outcome("degraded" if probe.last.degraded else "ok", detail=probe.last.degraded)
    except UnavailableError as error:
        if not error.remedy:
            return Outcome("failed", detail=f"no remedy is named: {error.message}")
        return Outcome("unavailable", detail=f"{error.message}; {error.remedy}")


def in_child(work: Callable[[], Outcome]) -> Outcome:
    reader, writer = os.pipe()
    if not (pid := os.fork()):
        try:
            outcome = work()
        except BaseException as error:
            outcome = Outcome("failed", detail=f"{type(error).__name__}: {error}")
        os.write(writer, pickle.dumps(tuple(outcome)))
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    expect(said, "the child ended without a word")
    return Outcome(*pickle.loads(said))


CASES = {
    "no BTF": missing("btf", hide_btf),
    "no CAP_BPF": missing("cap_bpf", drop_capabilities),
}
