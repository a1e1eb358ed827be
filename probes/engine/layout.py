"""The engine's ring as its reader sees it: dtypes of its records, and a handshake that is believed only so far."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from ..model import Step
from .vllm import wire

_KINDS = {wire.U16: "<u2", wire.U32: "<u4", wire.U64: "<u8"}
# More than any engine has; what lies above is no reading.
MOST_TEXT = 256
MOST_LACKS = 32
MOST_WORKERS = 256
_LONGEST_HEARTBEAT_NS = 60_000_000_000
_DEFAULT_HEARTBEAT_NS = 1_000_000_000

Array = np.ndarray[Any, np.dtype[Any]]


def dtype_of(fields: tuple[tuple[str, str], ...]) -> np.dtype[Any]:
    """Of a table of `wire`: little-endian, without holes."""
    return np.dtype([(name, _KINDS.get(code, f"V{code[:-1]}" if code[-1] == "s" else code)) for name, code in fields])


HEADER = dtype_of(wire.HEADER)
TICK = dtype_of(wire.TICK)
STEP = dtype_of(wire.STEP)
REQUEST = dtype_of(wire.REQUEST)
TOP_BYTES = wire.TICK_OFFSET + TICK.itemsize

_KEPT = (
    "step", "start_ns", "end_ns", "schedule_ns", "update_ns", "running", "waiting", "deferred", "input_queue", "edges",
    "prefill_requests", "prefill_tokens", "decode_requests", "decode_tokens", "kv_blocks_free", "kv_blocks_total",
    "preemptions_total", "thread_id",
)  # fmt: skip
# What is kept of a step for the timeline: columns of STEP.
STEPS = np.dtype([(name, STEP[name]) for name in _KEPT])


def compact(steps: Array) -> Array:
    """STEPS of records of dtype STEP; a copy."""
    kept = np.empty(len(steps), STEPS)
    for name in _KEPT:
        kept[name] = steps[name]
    return kept


def joined(parts: list[Array]) -> Array:
    """Records of one dtype, one after the other; as bytes, since numpy takes long to see that two dtypes are one."""
    if len(parts) == 1:
        return parts[0]
    dtype = parts[0].dtype
    return np.concatenate([part.view(f"V{dtype.itemsize}") for part in parts]).view(dtype)


class StepBatch(Struct, frozen=True, eq=False):
    """Steps of one rank in order, dtype STEPS, written once.

    Process and thread ids are the node's, 0 where they could not be seen.
    """

    instance: str
    engine: str
    dp_rank: int
    pid: int
    worker_pids: tuple[int, ...]
    records: Array

    def steps(self) -> Iterator[Step]:
        """One by one, for who wants few of them."""
        for one in self.records:
            free, total = int(one["kv_blocks_free"]), int(one["kv_blocks_total"])
            yield Step(
                engine=self.instance,
                seq=int(one["step"]),
                start_ns=int(one["start_ns"]),
                end_ns=int(one["end_ns"]),
                running=int(one["running"]),
                waiting=int(one["waiting"]),
                tokens=int(one["prefill_tokens"]) + int(one["decode_tokens"]),
                kv_usage_ratio=1 - free / total if total > 0 and free <= total else 0.0,
                dp_rank=self.dp_rank,
                pid=self.pid,
                thread_id=int(one["thread_id"]),
                worker_pids=self.worker_pids,
            )


class Handshake(Struct, frozen=True, omit_defaults=True):
    """Who writes a ring. `role` is both, prefill, decode, or frontend: an API server, which schedules nothing.

    `group` is the same for all ranks and front ends of one server. `pid` and `worker_pids` are as seen in the PID
    namespace with inode `pid_namespace`. `heartbeat_ns` is the longest silence that it promises, `lacks` what this
    engine's version does not tell.
    """

    engine: str
    instance: str
    version: str = ""
    plugin: str = ""
    group: str = ""
    role: str = "both"
    model: str = ""
    dp_rank: int = 0
    pid: int = 0
    max_running: int | None = None
    max_batched_tokens: int | None = None
    kv_block_tokens: int | None = None
    kv_blocks_total: int | None = None
    tick_ns: int = 50_000_000
    heartbeat_ns: int = _DEFAULT_HEARTBEAT_NS
    lacks: tuple[str, ...] = ()
    simulated: bool = False
    pid_namespace: int = 0
    worker_pids: tuple[int, ...] = ()

    @property
    def is_frontend(self) -> bool:
        return self.role == "frontend"


class RefusedError(Exception):
    """This file is no ring of ours; the message says why."""


def read_handshake(raw: bytes) -> Handshake:
    """Raises RefusedError. Unknown keys are ignored, texts and numbers bounded."""
    try:
        found = msgspec.json.decode(raw, type=Handshake)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedError(f"the handshake cannot be read: {error}") from None
    texts = (found.engine, found.instance, found.version, found.plugin, found.group, found.role, found.model)
    if any(len(text) > MOST_TEXT for text in (*texts, *found.lacks)) or len(found.lacks) > MOST_LACKS:
        raise RefusedError("the handshake has texts that are too long")
    if not found.engine or not found.instance:
        raise RefusedError("the handshake names no engine or no instance")
    times = (found.tick_ns, found.heartbeat_ns)
    numbers = (found.dp_rank, found.pid, found.pid_namespace, *found.worker_pids, *times)
    if len(found.worker_pids) > MOST_WORKERS:
        raise RefusedError("the handshake names too many workers")
    limits = (found.max_running, found.max_batched_tokens, found.kv_block_tokens, found.kv_blocks_total)
    if any(not 0 <= number < 2**62 for number in (*numbers, *(limit or 0 for limit in limits))):
        raise RefusedError("the handshake has numbers out of range")
    return _within_reason(found)


def _within_reason(found: Handshake) -> Handshake:
    role = found.role if found.role in ("both", "prefill", "decode", "frontend") else "both"
    heartbeat_ns = min(max(found.heartbeat_ns, 10_000_000), _LONGEST_HEARTBEAT_NS)
    return msgspec.structs.replace(found, role=role, heartbeat_ns=heartbeat_ns)


class Unpacker:
    """One record as plain numbers, None where a field is all ones. Quicker than numpy where there is only one."""

    def __init__(self, fields: tuple[tuple[str, str], ...]) -> None:
        self._struct = wire.format_of(fields)
        self._names = [name for name, _ in fields]
        self._unknown = [wire.UNKNOWN.get(code) for _, code in fields]

    def __call__(self, raw: bytes, offset: int = 0) -> dict[str, Any]:
        values = self._struct.unpack_from(raw, offset)
        triples = zip(self._names, values, self._unknown, strict=True)
        return {name: None if value == unknown else value for name, value, unknown in triples}


unpack_header, unpack_tick, unpack_step = Unpacker(wire.HEADER), Unpacker(wire.TICK), Unpacker(wire.STEP)
