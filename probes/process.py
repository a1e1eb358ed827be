"""Processes that start a program, end, or are killed for want of memory; with who sent the fatal signal."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .cgroup import CgroupTree
from .kernel import PROGRAM_NEEDS, Cgroups, text
from .model import Event, Severity
from .options import Option
from .probe import Context, Metric, Sample, Series, Spec

if TYPE_CHECKING:
    from ..native.bpf import Object

EXITS = Metric(
    "eagle_eye_process_exits_total",
    "counter",
    "Processes that ended: ok (code 0), error (another code), signal, or oom (killed by the OOM killer).",
    ("reason",),
)
EXECS = Metric("eagle_eye_process_execs_total", "counter", "Programs started by exec.")
OOM_KILLS = Metric("eagle_eye_oom_kills_total", "counter", "Processes killed by the OOM killer.")

EVENTS_PER_SECOND = Option(
    "events_per_second",
    "integer",
    200,
    "bound on each of: exec events, exit events, events of exits by signal, of this node; what is above is counted",
    minimum=1,
    maximum=10_000,
)

# enum in bpf/process.h.
REASONS = ("ok", "error", "signal", "oom")
_SENDER_KNOWN, _SENDER_KERNEL = 1, 2

_PAGE_BYTES = os.sysconf("SC_PAGESIZE")
_FILENAME_BYTES = 128
# Signals by which a program did not choose to end.
_GRAVE = {"SIGKILL", "SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE", "SIGSYS", "SIGTRAP"}
_RINGS = {"execs": "process_exec", "exits": "process_exit", "ooms": "process_oom"}


class ProcessProbe:
    def __init__(self, context: Context, *, ring_bytes: int = 256 * 1024) -> None:
        from ..native.bpf import Ring, record_dtype

        self._events = context.events
        self._cgroups = Cgroups(CgroupTree(context.paths))
        self._object = _load(context, self._cgroups, ring_bytes)
        self._stats = self._object.map("stats").view(record_dtype("process_stats"))
        self._rings = {name: Ring(self._object.map(name), record_dtype(struct)) for name, struct in _RINGS.items()}
        self._object.attach_all()

    def sample(self, now_ns: int) -> Sample:
        read = (("execs", self._exec), ("exits", self._exit), ("ooms", self._oom))
        found = [(int(record["at_ns"]), make, record) for name, make in read for record in self._rings[name].drain()]
        events = [make(record) for _, make, record in sorted(found, key=lambda entry: entry[0])]
        return Sample(self._series(), events, self._dropped())

    def wake_fds(self) -> Sequence[int]:
        return self._rings["exits"].fd, self._rings["ooms"].fd

    def close(self) -> None:
        for ring in self._rings.values():
            ring.close()
        self._object.close()

    def _series(self) -> tuple[Series, ...]:
        exits = self._stats["exits"].sum(axis=0).tolist()
        return (
            *(Series(EXITS, count, (reason,)) for reason, count in zip(REASONS, exits, strict=True)),
            Series(EXECS, int(self._stats["execs"].sum())),
            Series(OOM_KILLS, int(self._stats["oom_kills"].sum())),
        )

    def _dropped(self) -> dict[str, int]:
        full = sum(int(self._stats[name].sum()) for name in ("exec_ring_full", "exit_ring_full", "oom_ring_full"))
        bad = sum(ring.bad_records for ring in self._rings.values())
        return {"rate_limited": int(self._stats["rate_limited"].sum()), "ring_full": full, "bad_record": bad}

    def _make(self, kind: str, record: Any, severity: Severity, **attributes: Any) -> Event:
        return self._events.make(kind, record["at_ns"], entity="host", severity=severity, **attributes)

    def _exec(self, record: Any) -> Event:
        filename = bytes(record["filename"])
        return self._make(
            "process.exec",
            record,
            "info",
            **_names(record),
            **self._cgroups.of(record["cgroup_id"]),
            filename=text(filename),
            **({"filename_truncated": True} if len(filename) == _FILENAME_BYTES - 1 else {}),
        )

    def _exit(self, record: Any) -> Event:
        ended = exit_status(int(record["status"]))
        reason = REASONS[record["reason"]]
        return self._make(
            "process.exit",
            record,
            exit_severity(reason, ended.get("signal", "")),
            **_names(record),
            **self._cgroups.of(record["cgroup_id"]),
            reason=reason,
            **ended,
            runtime_seconds=(int(record["at_ns"]) - int(record["start_ns"])) / 1e9,
            **self._sender(record),
        )

    def _sender(self, record: Any) -> dict[str, Any]:
        """Left out when the signal was sent before the probe began."""
        if not record["sender"] & _SENDER_KNOWN:
            return {}
        if record["sender"] & _SENDER_KERNEL:
            return {"sender": {"kernel": True}}
        names = {
            "task": text(record["sender_comm"]),
            "pid": int(record["sender_pid"]),
            "uid": int(record["sender_uid"]),
        }
        return {"sender": {"kernel": False, **names, **self._cgroups.of(record["sender_cgroup_id"])}}

    def _oom(self, record: Any) -> Event:
        trigger: dict[str, Any] = {"task": text(record["trigger_comm"]), "pid": int(record["trigger_pid"])}
        known: dict[str, Any] = {"pid": int(record["pid"])}
        if record["victim_known"]:
            trigger |= self._cgroups.of(record["trigger_cgroup_id"], "memory")
            known = {**self._victim(record), "trigger": trigger}
        return self._make("process.oom_kill", record, "error", **known)

    def _victim(self, record: Any) -> dict[str, Any]:
        pages = {kind: int(record[f"{kind}_pages"]) for kind in ("total_vm", "anon", "file", "shmem", "swap")}
        where = self._cgroups.of(record["cgroup_id"], "memory")
        return {
            "task": text(record["comm"]),
            "pid": int(record["pid"]),
            "uid": int(record["uid"]),
            **where,
            **self._memory(where.get("cgroup", "")),
            "resident_bytes": (pages["anon"] + pages["file"] + pages["shmem"]) * _PAGE_BYTES,
            **{f"{kind}_bytes": count * _PAGE_BYTES for kind, count in pages.items()},
            "page_tables_bytes": int(record["page_tables_bytes"]),
            "oom_score_adj": int(record["oom_score_adj"]),
        }

    def _memory(self, cgroup: str) -> dict[str, int]:
        """Of the victim's cgroup, when the event is read: what the victim held may be free by then."""
        tree = self._cgroups.tree
        figures = {
            "cgroup_limit_bytes": tree.memory_limit_bytes(cgroup) if cgroup else None,
            "cgroup_usage_bytes": tree.memory_usage_bytes(cgroup) if cgroup else None,
        }
        return {name: value for name, value in figures.items() if value is not None}


def _names(record: Any) -> dict[str, Any]:
    return {
        "task": text(record["comm"]),
        "pid": int(record["pid"]),
        "parent_pid": int(record["parent_pid"]),
        "uid": int(record["uid"]),
    }


def exit_status(status: int) -> dict[str, Any]:
    """A wait(2) status as `exit_code`, or `signal` and `core_dumped`."""
    number = status & 0x7F
    if not number:
        return {"exit_code": status >> 8 & 0xFF}
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"SIG{number}"
    return {"signal": name, "core_dumped": bool(status & 0x80)}


def exit_severity(reason: str, signal_name: str) -> Severity:
    if reason == "oom":
        return "error"
    return "warning" if signal_name in _GRAVE else "info"


def _load(context: Context, cgroups: Cgroups, ring_bytes: int) -> Object:
    from ..native.bpf import Object, possible_cpus

    program = Object.named("process")
    program.resize("stats", possible_cpus())
    for ring in _RINGS:
        program.resize(ring, ring_bytes)
    program.set_constants(
        events_per_second=context.options["events_per_second"],
        cgroup_hierarchy=cgroups.hierarchy(),
        memory_hierarchy=cgroups.hierarchy("memory"),
    )
    program.load()
    return program


def build(context: Context) -> ProcessProbe:
    return ProcessProbe(context)


SPEC = Spec(
    name="process",
    help="Programs started, processes ended and by whom, and OOM kills with the victim's memory.",
    build=build,
    metrics=(EXITS, EXECS, OOM_KILLS),
    needs=PROGRAM_NEEDS,
    optional=("cgroup",),
    options=(EVENTS_PER_SECOND,),
    cost="about 1 µs per exec and exit, 0.3 µs per signal",
)
