"""The same probes where something is missing: they say so, or do with less."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import struct
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from outcome import Outcome, Watched, expect

from eagle_eye.native.errors import UnavailableError
from eagle_eye.probes.probe import Spec

# From include/uapi/linux: sched.h, mount.h, capability.h.
CLONE_NEWNS = 0x20000
MS_REC_PRIVATE = 0x4000 | 1 << 18
CAPABILITY_VERSION_3 = 0x20080522
CAP_SYS_ADMIN, CAP_SYS_RESOURCE, CAP_PERFMON, CAP_BPF = 21, 24, 38, 39
SYSTEMD_MEMLOCK_BYTES = 8 << 20


def hide_btf() -> None:
    """An empty folder in place of the kernel's, for this process alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    must(libc.unshare(CLONE_NEWNS))
    must(libc.mount(b"none", b"/", None, MS_REC_PRIVATE, None))
    must(libc.mount(b"none", b"/sys/kernel/btf", b"tmpfs", 0, None))


def drop_capabilities(*capabilities: int) -> None:
    kept = (1 << 64) - 1
    for capability in capabilities:
        kept &= ~(1 << capability)
    header, sets = struct.pack("=Ii", CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    must(libc.capget(header, sets))
    for index in range(6):
        sets[index] &= kept >> (32 * (index // 3)) & 0xFFFFFFFF
    must(libc.capset(header, sets))


def forbid_bpf() -> None:
    drop_capabilities(CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF)


def keep_memlock_low() -> None:
    """As systemd starts a service: kernels before 5.11 count BPF maps as locked memory."""
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (SYSTEMD_MEMLOCK_BYTES, SYSTEMD_MEMLOCK_BYTES))
    drop_capabilities(CAP_SYS_RESOURCE)


def must(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Case(NamedTuple):
    """`need` is the name under which specs say what they do without it."""

    need: str
    take_away: Callable[[], None]


CASES = {
    "no BTF": Case("btf", hide_btf),
    "no CAP_BPF": Case("cap_bpf", forbid_bpf),
    "no CAP_SYS_RESOURCE": Case("cap_sys_resource", keep_memlock_low),
}


def try_all(case: Case, specs: Sequence[Spec]) -> list[Outcome]:
    """All probes at once, as in the agent, in a child that lacks something; each is held to what its spec says."""
    found = in_child(lambda: (case.take_away(), try_here(specs))[1])
    return [held_to(spec, case.need, outcome) for spec, outcome in zip(specs, found, strict=True)]


def held_to(spec: Spec, need: str, outcome: Outcome) -> Outcome:
    expected = "unavailable" if need in spec.needs else "degraded" if need in spec.optional else "ok"
    if outcome.result == expected:
        return outcome
    return Outcome("failed", detail=f"is {outcome.result}, not {expected}: {outcome.detail}")


def try_here(specs: Sequence[Spec]) -> list[Outcome]:
    with ExitStack() as stack:
        return [try_probe(spec, stack) for spec in specs]


def try_probe(spec: Spec, stack: ExitStack) -> Outcome:
    try:
        probe = stack.enter_context(Watched(spec))
    except UnavailableError as error:
        expect(error.remedy, f"no remedy is named: {error.message}")
        return Outcome("unavailable", detail=f"{error.message}; {error.remedy}")
    except Exception as error:
        return Outcome("failed", detail=f"{type(error).__name__}: {error}")
    return Outcome("degraded" if probe.last.degraded else "ok", detail=probe.last.degraded)


def in_child(work: Callable[[], list[Outcome]]) -> list[Outcome]:
    reader, writer = os.pipe()
    if not (pid := os.fork()):
        try:
            os.write(writer, json.dumps(work()).encode())
        except BaseException as error:
            os.write(writer, json.dumps(f"{type(error).__name__}: {error}").encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        said = json.load(pipe)
    os.waitpid(pid, 0)
    expect(isinstance(said, list), said)
    return [Outcome(*each) for each in said]
