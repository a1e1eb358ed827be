"""The handshake: who writes a ring. Nothing of any request is in it."""

from __future__ import annotations

import os
import uuid
from typing import Any

from . import __version__, wire

# Not the prefix of the agent's settings: it refuses those that it does not know.
_GROUP = "_EAGLE_EYE_ENGINE_GROUP"
_LONGEST = 256
_MOST_WORKERS = 64


def engine_handshake(scheduler: Any, engine: Any, lacks: list[str]) -> dict[str, Any]:
    """Of one EngineCore. Raises AttributeError where vLLM's configuration has changed beyond recognition."""
    config = scheduler.vllm_config
    parallel = config.parallel_config
    limits = config.scheduler_config
    pool = getattr(getattr(scheduler, "kv_cache_manager", None), "block_pool", None)
    return {
        **_handshake(config, uuid.uuid4().hex[:16]),
        "role": role_of(config),
        "dp_rank": dp_rank_of(parallel),
        "worker_pids": _workers_of(engine),
        "max_running": getattr(limits, "max_num_seqs", None),
        "max_batched_tokens": getattr(limits, "max_num_batched_tokens", None),
        "kv_block_tokens": getattr(scheduler, "block_size", None),
        "kv_blocks_total": pool.num_gpu_blocks - 1 if pool is not None else None,
        "tensor_parallel": getattr(parallel, "tensor_parallel_size", None),
        "pipeline_parallel": getattr(parallel, "pipeline_parallel_size", None),
        "async_scheduling": bool(getattr(limits, "async_scheduling", False)),
        "log_stats": bool(getattr(scheduler, "log_stats", False)),
        "lacks": lacks,
    }


def frontend_handshake(config: Any) -> dict[str, Any]:
    """Of one front-end process."""
    return {**_handshake(config, uuid.uuid4().hex[:16]), "role": "frontend", "dp_rank": 0, "lacks": []}


def _handshake(config: Any, instance: str) -> dict[str, Any]:
    return {
        "engine": "vllm",
        "version": version()[:_LONGEST],
        "plugin": __version__,
        "instance": instance,
        "group": group_of(config)[:_LONGEST],
        "model": model_of(config),
        "pid": os.getpid(),
        "pid_namespace": _namespace(),
        "start_ticks": _start_ticks(),
        "tick_ns": wire.TICK_NS,
        "heartbeat_ns": wire.HEARTBEAT_NS,
        "simulated": False,
    }


def mark_group() -> None:
    """In the first process of a server, for all those that it starts."""
    os.environ.setdefault(_GROUP, uuid.uuid4().hex[:16])


def group_of(config: Any) -> str:
    """The same in all processes of one server."""
    # vLLM's own mark is better while it lasts: each of several API servers makes one of its own.
    several = getattr(config.parallel_config, "_api_process_count", 1) > 1
    own = "" if several else str(getattr(config, "instance_id", ""))
    return own or os.environ.get(_GROUP, "")


def version() -> str:
    try:
        from vllm.version import __version__ as found
    except ImportError:
        return ""
    return str(found)


def model_of(config: Any) -> str:
    """As requests name it."""
    model = config.model_config
    served = getattr(model, "served_model_name", None) or getattr(model, "model", "")
    return str(served[0] if isinstance(served, (list, tuple)) else served)[:_LONGEST]


def dp_rank_of(parallel: Any) -> int:
    # Ranks of models without experts are engines of their own, all with rank 0; the index tells them apart.
    index = getattr(parallel, "data_parallel_index", None)
    return int(index if index is not None else getattr(parallel, "data_parallel_rank", 0))


def role_of(config: Any) -> str:
    transfer = getattr(config, "kv_transfer_config", None)
    roles = {"kv_producer": "prefill", "kv_consumer": "decode"}
    return roles.get(getattr(transfer, "kv_role", None) or "", "both")


def _workers_of(engine: Any) -> list[int]:
    """Their pids; in one process with the engine there are none."""
    workers = getattr(getattr(engine, "model_executor", None), "workers", None) or ()
    found = (getattr(getattr(worker, "proc", None), "pid", None) for worker in list(workers)[:_MOST_WORKERS])
    return [pid for pid in found if isinstance(pid, int)]


def _namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _start_ticks() -> int:
    """When this process began, in clock ticks since boot: tells it from a later one with its pid."""
    try:
        with open("/proc/self/stat", "rb") as stat:
            return int(stat.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0
