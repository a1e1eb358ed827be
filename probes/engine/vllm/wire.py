"""The shared memory between an engine and its observer: one file, one writer process, any number of readers.

A file of `FILE_BYTES` under /dev/shm, named `NAME_PREFIX` + instance + ".ring" (mode 0600), little-endian:

| Offset | What |
|---|---|
| 0 | `HEADER`: written once, before the file gets its name, except for its last four fields |
| 256 | `TICK`: the latest word of the ticker; its guards are odd while it is written, equal and even when it is whole |
| 512 | `LEASE`: CLOCK_MONOTONIC nanoseconds until which a reader wants records; the only thing a reader writes |
| 1024 | `HISTOGRAMS`: for each of HISTOGRAM_NAMES a count per bucket (not summed up), then the sum in nanoseconds |
| 4096 | the handshake: `HANDSHAKE_BYTES` at most of JSON, as many as the header says |
| 8192 | the ring: `SLOTS` records of `SLOT_BYTES` each |

Record number n (from 0) lies in slot n % SLOTS. It begins and ends with the guard n + 1; a reader copies it and
believes it when both guards are right. `head` is the number of records written, raised after the record is whole.
`urgent` rises, after `head`, with every edge: what a router should hear of at once.
Totals and histograms only rise, so that a reader who missed records misses no counts. Those of tokens and times cover
what happened while some reader held a lease; `step`, preemptions and finished requests are counted always.
The writer holds flock(LOCK_EX) on the file while it lives: whoever gets a lock on it knows that it is dead.
The ring of a front-end process has REQUEST records and HISTOGRAMS; that of an EngineCore has STEP records and TICK.
Times are CLOCK_MONOTONIC nanoseconds. Unknown numbers are all ones. Needs nothing but the standard library.
"""

from __future__ import annotations

import struct

MAGIC = b"EEYERING"
VERSION_MAJOR = 1  # another layout: readers refuse
VERSION_MINOR = 0  # fields added where there was padding: readers go on
NAME_PREFIX = "eagle-eye-engine-"
SLOT_BYTES = 256
SLOTS = 2048
RING_OFFSET = 8192
FILE_BYTES = RING_OFFSET + SLOTS * SLOT_BYTES
TICK_OFFSET = 256
LEASE_OFFSET = 512
HISTOGRAM_OFFSET = 1024
HANDSHAKE_OFFSET = 4096
HANDSHAKE_BYTES = 4096
LEASE_NS = 3_000_000_000
TICK_NS = 25_000_000  # how often the ticker speaks of a step that goes on
HEARTBEAT_NS = 1_000_000_000  # how long it is silent at most while a reader listens

HISTOGRAM_NAMES = ("time_to_first_token", "inter_token", "queue", "prefill", "end_to_end")
HISTOGRAM_BUCKETS = 32
# Upper bounds in seconds, doubling from 0.5 ms; the last bucket has none.
HISTOGRAM_BOUNDS = tuple(0.0005 * 2**n for n in range(HISTOGRAM_BUCKETS - 1))

U16, U32, U64 = "H", "I", "Q"
UNKNOWN = {U16: 2**16 - 1, U32: 2**32 - 1, U64: 2**64 - 1}

# (name, struct code), in order, without holes: every field lies at a multiple of its size.
HEADER = (
    ("magic", "8s"), ("version_major", U16), ("version_minor", U16), ("slot_bytes", U32), ("slots", U32),
    ("handshake_bytes", U32), ("pid", U64), ("created_ns", U64),
    ("head", U64), ("urgent", U64), ("dropped", U64), ("state", U64),
)  # fmt: skip

STATE_RUNNING, STATE_DRAINING, STATE_GONE = 0, 1, 2
KIND_STEP, KIND_REQUEST = 1, 2

TICK = (
    ("begin", U64), ("at_ns", U64), ("flight_step", U64), ("flight_started_ns", U64),
    ("running", U32), ("waiting", U32), ("deferred", U32), ("input_queue", U32),
    ("waiting_prefill_tokens", U64), ("kv_blocks_free", U32), ("reserved", U32), ("end", U64),
)  # fmt: skip

STEP = (
    ("begin", U64), ("kind", U16), ("edges", U16), ("input_queue", U32), ("step", U64),
    ("start_ns", U64), ("end_ns", U64), ("schedule_ns", U32), ("update_ns", U32),
    ("running", U32), ("waiting", U32), ("deferred", U32), ("kv_blocks_free", U32), ("kv_blocks_total", U32),
    ("prefill_requests", U32), ("prefill_tokens", U32), ("decode_requests", U32), ("decode_tokens", U32),
    ("hook_ns", U32), ("waiting_prefill_tokens", U64), ("running_context_tokens", U64),
    ("preemptions_total", U64), ("prefill_tokens_total", U64), ("decode_tokens_total", U64),
    ("prefix_queries_total", U64), ("prefix_hits_total", U64), ("draft_tokens_total", U64),
    ("accepted_tokens_total", U64), ("finished_stop_total", U64), ("finished_length_total", U64),
    ("finished_abort_total", U64), ("finished_error_total", U64), ("thread_id", U64), ("padding", "48s"), ("end", U64),
)  # fmt: skip

REQUEST = (
    ("begin", U64), ("kind", U16), ("reason", U16), ("preemptions", U32), ("at_ns", U64), ("id", "64s"),
    ("time_to_first_token_ns", U64), ("queue_ns", U64), ("prefill_ns", U64), ("decode_ns", U64),
    ("end_to_end_ns", U64), ("inter_token_ns", U64), ("prompt_tokens", U32), ("generated_tokens", U32),
    ("cached_tokens", U32), ("engine_index", U32), ("padding", "96s"), ("end", U64),
)  # fmt: skip

EDGE_QUEUE, EDGE_KV, EDGE_PREEMPTION, EDGE_IN_FLIGHT, EDGE_STATE = 1, 2, 4, 8, 16
REASONS = ("", "stop", "length", "abort", "error")


def format_of(fields: tuple[tuple[str, str], ...]) -> struct.Struct:
    return struct.Struct("<" + "".join(code for _, code in fields))


def offset_of(fields: tuple[tuple[str, str], ...], name: str) -> int:
    """Of a field, from the start of its record."""
    names = [field for field, _ in fields]
    return struct.calcsize("<" + "".join(code for _, code in fields[: names.index(name)]))
