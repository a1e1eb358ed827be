"""Faults that the kernel and its drivers tell by tracepoint: also those that are kept out of the kernel log.

Most are put in the words that the log would have for them and read by the same grammar, so that one fault told in
both ways has one code.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import structs

from ..native.errors import BpfAttachError
from .decode import hang
from .decode.family import Decoded
from .decode.grammar import decode_lines
from .decode.pcie_report import described
from .decode.scan import integer, known
from .faults import make_fault
from .kernel import PROGRAM_NEEDS, text
from .kmsg import nvidia_version
from .model import Fault
from .options import Option
from .probe import Context, Metric, Sample, Series, Spec

HITS = Metric(
    "eagle_eye_tracepoint_faults_total", "counter", "Faults that the tracepoint told, of any kind.", ("tracepoint",)
)
ATTACHED = Metric(
    "eagle_eye_tracepoint_attached",
    "gauge",
    "1 where the running kernel or driver has the tracepoint.",
    ("tracepoint",),
)

# In the order of the enum in bpf/tracepoints.h: tracepoint and its program.
TRACEPOINTS = {
    "nvidia_dev_xid": "on_xid",
    "nvswitch_dev_sxid": "on_sxid",
    "aer_event": "on_aer",
    "mc_event": "on_mc",
    "mce_record": "on_mce",
    "sched_process_hang": "on_hang",
    "block_rq_error": "on_block",
}
# A driver may be loaded at any time.
_TRY_AGAIN_NS = 30_000_000_000
_AER_SEVERITIES = ("nonfatal", "fatal", "corrected", "fatal")  # include/linux/aer.h; the last is for containment
_MC_TYPES = ("CE", "UE", "UE", "UE")  # enum hw_event_mc_err_type; a deferred and a fatal one are no less uncorrected
# blk_errors of block/blk-core.c, by blk_status_t.
_BLOCK_ERRORS = {
    1: "operation not supported", 2: "timeout", 3: "critical space allocation", 4: "recoverable transport",
    5: "critical target", 6: "reservation conflict", 7: "critical medium", 8: "protection", 9: "kernel resource",
}  # fmt: skip
_OPERATIONS = {0: "READ", 1: "WRITE", 2: "FLUSH", 3: "DISCARD", 5: "SECURE_ERASE", 9: "WRITE_ZEROES"}


class TracepointProbe:
    def __init__(self, context: Context) -> None:
        from ..native.bpf import Object, Ring, possible_cpus, record_dtype

        self._events = context.events
        self._paths = context.paths
        self._driver = ""
        self._hung_after = context.paths.proc / "sys/kernel/hung_task_timeout_secs"
        self._object = Object.named("tracepoints")
        self._object.resize("stats", possible_cpus())
        self._object.set_constants(per_second=context.options["faults_per_second"])
        self._object.load()
        self._stats = self._object.map("stats").view(record_dtype("fault_point_stats"))
        self._ring = Ring(self._object.map("points"), record_dtype("fault_point"))
        self._attached: set[str] = set()
        self._try_ns = time.monotonic_ns() + _TRY_AGAIN_NS
        self._unread = 0
        self._attach()

    def sample(self, now_ns: int) -> Sample:
        if now_ns >= self._try_ns:
            self._try_ns = now_ns + _TRY_AGAIN_NS
            self._attach()
        faults = [fault for record in self._ring.drain() if (fault := self._fault(record)) is not None]
        return Sample(list(self._series()), dropped=self._dropped(), faults=faults)

    def wake_fds(self) -> Sequence[int]:
        return (self._ring.fd,)

    def close(self) -> None:
        self._ring.close()
        self._object.close()

    def _attach(self) -> None:
        self._driver = nvidia_version(self._paths)
        for name, program in TRACEPOINTS.items():
            if name not in self._attached:
                with suppress(BpfAttachError):
                    self._object.attach(program)
                    self._attached.add(name)

    def _fault(self, record: Any) -> Fault | None:
        at_ns = int(record["at_ns"])
        decoded = read(record, self._hung_after)
        event_id = f"{self._events.boot_id}:tracepoints:{at_ns}"
        if decoded is None:
            self._unread += 1
            return None
        driver = self._driver if decoded.family.startswith("nvidia.") else ""
        return make_fault(decoded, at_ns=at_ns, source="tracepoint", driver=driver, event_id=event_id)

    def _series(self) -> Iterator[Series]:
        hits = self._stats["hits"].sum(axis=0).tolist()
        for name, count in zip(TRACEPOINTS, hits, strict=True):
            yield Series(HITS, count, (name,))
            yield Series(ATTACHED, int(name in self._attached), (name,))

    def _dropped(self) -> dict[str, int]:
        counts = {reason: int(self._stats[reason].sum()) for reason in ("rate_limited", "ring_full")}
        return {**counts, "bad_record": self._ring.bad_records, "not_understood": self._unread}


def read(record: Any, hung_after: Path) -> Decoded | None:
    """What a record of `struct fault_point` says; None when the grammar does not know it."""
    numbers = [int(number) for number in record["numbers"]]
    said = _READERS[record["kind"]](numbers, text(record["device"]), text(record["text"]), hung_after)
    if not isinstance(said, str):
        return said
    return next((found.decoded for found in decode_lines(said.splitlines())), None)


Numbers = list[int]


def _xid(numbers: Numbers, device: str, message: str, _: Path) -> str:
    return f"NVRM: Xid (PCI:{device}): {numbers[0]}, {message}"


def _sxid(numbers: Numbers, device: str, message: str, _: Path) -> str:
    return f"SXid (PCI:{device}): {numbers[0]}, {message}"


def _aer(numbers: Numbers, device: str, _message: str, _: Path) -> Decoded:
    """Layer and agent, which the log has, are not told."""
    status, severity = numbers[:2]
    told = _AER_SEVERITIES[severity] if severity < len(_AER_SEVERITIES) else "nonfatal"
    return structs.replace(
        described(Decoded("pcie.aer", "", device, {"severity": told, "status": status})), incomplete=False
    )


def _memory(numbers: Numbers, label: str, message: str, _: Path) -> str:
    kind, count, controller, address = numbers[:4]
    how = _MC_TYPES[kind] if kind < len(_MC_TYPES) else "CE"
    where = f"page:0x{address >> 12:x} offset:0x{address & 0xFFF:x}"
    return f"EDAC MC{controller}: {count} {how} {message or 'error'} on {label or 'unknown memory'} ({where})"


def _machine_check(numbers: Numbers, _device: str, _message: str, _: Path) -> str:
    cpu, bank, status, _address, _misc, global_status = numbers
    return f"mce: [Hardware Error]: CPU {cpu}: Machine Check: {global_status} Bank {bank}: {status:016x}"


def _hang(numbers: Numbers, _device: str, task: str, hung_after: Path) -> Decoded:
    seconds = None
    with suppress(OSError, ValueError):
        seconds = integer(hung_after.read_text())
    return Decoded(hang.FAMILY.name, "hung_task", "", known(process=task, pid=numbers[0], blocked_seconds=seconds))


def _block(numbers: Numbers, device: str, _message: str, _: Path) -> str:
    status, _bytes, sector, flags = numbers[:4]
    operation = _OPERATIONS.get(flags & 0xFF, "UNKNOWN")
    error = _BLOCK_ERRORS.get(status, "I/O")
    return f"{error} error, dev {device}, sector {sector} op 0x{flags & 0xFF:x}:({operation}) flags 0x{flags & ~0xFF:x}"


# By the enum of bpf/tracepoints.h.
_READERS = (_xid, _sxid, _aer, _memory, _machine_check, _hang, _block)


SPEC = Spec(
    name="tracepoints",
    help="Faults told by tracepoint: Xid, SXid, PCIe AER, memory, machine check, hung task, block device.",
    build=TracepointProbe,
    metrics=(HITS, ATTACHED),
    needs=PROGRAM_NEEDS,
    period_ns=10_000_000_000,
    options=(
        Option(
            "faults_per_second", "integer", 200, "bound on the faults of each tracepoint", minimum=1, maximum=10_000
        ),
    ),
    cost="nothing until there is a fault",
)
