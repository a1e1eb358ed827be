"""SGLang's own load snapshots in /dev/shm: no plugin is needed, and what they lack stays unknown.

Layout: sglang/srt/managers/load_snapshot.py, version 2. A slot per rank holds the length and a msgpack map, in which
what is zero is left out. A writer holds the file's lock for the moment in which it writes; so does this reader, and
never waits for it.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import time
from collections.abc import Iterator

import msgspec
from msgspec import Struct

from ..model import EngineState
from ..owner import NOBODY, Owner
from .layout import RefusedError

NAME_PREFIX = "sglang_loads_"
STALE_NS = 3_000_000_000
_HEADER = struct.Struct("<4sHHI")
_LENGTH = struct.Struct("<I")
_VERSION = 2
_MAX_RANKS = 64
_MAX_SLOT_BYTES = 1 << 20
_ROLES = {1: "prefill", 2: "decode"}


class Load(Struct, frozen=True):
    """What SGLang tells of a rank, by its own names; counts are of requests and tokens."""

    timestamp: float = 0.0
    dp_rank: int = 0
    num_running_reqs: int = 0
    num_waiting_reqs: int = 0
    num_waiting_uncached_tokens: int | None = None
    num_used_tokens: int = 0
    max_total_num_tokens: int = 0
    max_running_requests: int = 0
    token_usage: float = 0.0
    disagg_mode: int = 0
    queue_retracted: int = 0


_decoder = msgspec.msgpack.Decoder(Load)


class LoadFile:
    """An open file of load snapshots. Raises RefusedError for what is none of a version that is known, OSError."""

    def __init__(self, name: str, folder: int) -> None:
        self.name = name
        self.instance = name.removeprefix(NAME_PREFIX).removesuffix(".shm")
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        self.fd = os.open(name, flags, dir_fd=folder)
        self.writers: tuple[int, ...] = ()
        try:
            self._slots, self._slot_bytes = self._greet()
        except (RefusedError, OSError):
            self.close()
            raise

    def close(self) -> None:
        """Safe twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def loads(self) -> list[Load] | None:
        """Of every rank that has written; None while a writer has the file. Raises RefusedError, OSError."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        try:
            return list(self._loads())
        finally:
            fcntl.flock(self.fd, fcntl.LOCK_UN)

    def _loads(self) -> Iterator[Load]:
        for rank in range(self._slots):
            offset = _HEADER.size + rank * self._slot_bytes
            (length,) = _LENGTH.unpack(self._read(_LENGTH.size, offset))
            if not 0 < length <= self._slot_bytes - _LENGTH.size:
                continue
            try:
                load = _decoder.decode(self._read(length, offset + _LENGTH.size))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            if load.dp_rank == rank and _is_plausible(load):
                yield load

    def _greet(self) -> tuple[int, int]:
        status = os.fstat(self.fd)
        if not stat.S_ISREG(status.st_mode):
            raise RefusedError("not a regular file")
        magic, version, ranks, slot_bytes = _HEADER.unpack(self._read(_HEADER.size, 0))
        if magic != b"SLNS" or version != _VERSION:
            raise RefusedError(f"load snapshots of unknown version {version}")
        if not 0 < ranks <= _MAX_RANKS or not _LENGTH.size < slot_bytes <= _MAX_SLOT_BYTES:
            raise RefusedError("load snapshots of unlawful size")
        return ranks, slot_bytes

    def _read(self, length: int, offset: int) -> bytes:
        data = os.pread(self.fd, length, offset)
        if len(data) < length:
            raise RefusedError("the file is too short")
        return data


def _is_plausible(load: Load) -> bool:
    counts = (
        load.num_running_reqs, load.num_waiting_reqs, load.num_waiting_uncached_tokens or 0,
        load.max_total_num_tokens, load.max_running_requests,
    )  # fmt: skip
    return all(0 <= count < 2**40 for count in counts) and 0 <= load.timestamp < 2**40 and load.token_usage >= 0


def state_of(
    load: Load, instance: str, now_ns: int, *, pid: int, alive: bool | None, owner: Owner = NOBODY
) -> EngineState:
    """`alive` None: it is not known whether the writer lives. An engine that rests writes nothing."""
    age_ns = round((time.time() - load.timestamp) * 1e9) if load.timestamp else STALE_NS + 1
    resting = not load.num_running_reqs and not load.num_waiting_reqs
    old = not -STALE_NS < age_ns <= STALE_NS
    if alive is False:
        kind = "gone"
    elif old:
        kind = "idle" if resting and alive and load.timestamp else "unknown"
    else:
        kind = "idle" if resting else "step"
    return EngineState(
        instance=f"{instance}:{load.dp_rank}",
        engine="sglang",
        at_ns=now_ns - max(0, age_ns) if load.timestamp else now_ns,
        kind=kind,  # type: ignore[arg-type]
        source="shm",
        dp_rank=load.dp_rank,
        role=_ROLES.get(load.disagg_mode, "both"),
        pid=pid,
        pod=owner.pod or owner.pod_uid,
        container=owner.container or owner.container_id,
        running=load.num_running_reqs,
        waiting=load.num_waiting_reqs,
        waiting_prefill_tokens=load.num_waiting_uncached_tokens,
        max_running=load.max_running_requests or None,
        kv_blocks_total=load.max_total_num_tokens or None,
        kv_blocks_free=max(0, load.max_total_num_tokens - load.num_used_tokens) if load.max_total_num_tokens else None,
        kv_block_tokens=1 if load.max_total_num_tokens else None,
        kv_usage_ratio=min(1.0, load.token_usage) if load.max_total_num_tokens else None,
    )
