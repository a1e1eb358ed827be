"""How fast records leave the ring, and what a steady stream costs, beside BCC and libbpf in C.

Peers read rings of the same size and records of the same layout, filled by the same in-kernel loop.
CPU time is that of the reading thread or process alone.
"""

from __future__ import annotations

import importlib.util
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from bpf_run import run_program
from cffi import FFI
from harness import finish, table
from peers import run_bcc

from eagle_eye.native._bpf import lib
from eagle_eye.native.bpf import Object, Ring

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
RECORD = np.dtype([("at_ns", "u8"), ("duration_ns", "u8"), ("pid", "u4"), ("slot", "u4"), ("seq", "u8")])
COUNTS = np.dtype([("produced", "u8"), ("dropped", "u8")])
FILL_RECORDS, ROUNDS = 98_304, 101
RATE, TICK_S, STEADY_S = 90_000, 0.1, 10.0


def build(home: Path) -> Path:
    """The producer's object, by the product's own recipe."""
    spec = importlib.util.spec_from_file_location("eagle_eye_setup", ROOT / "setup.py")
    setup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    target = home / platform.machine() / "drain.bpf.o"
    setup.compile_bpf(HERE / "drain.bpf.c", target)
    return target


class Producer:
    """The loaded object, its ring and its own count of what it produced and lost."""

    def __init__(self, path: Path) -> None:
        self.object = Object(path)
        self.object.load()
        self.fd = lib.bpf_program__fd(self.object._find_program("produce"))
        self.ring_map = self.object.map("records")
        self.counts = self.object.map(".bss").view(COUNTS)

    def fill(self) -> None:
        run_program(self.fd, FILL_RECORDS)


def ns_per_record(producer: Producer, readers: dict[str, Callable[[], int]]) -> dict[str, float]:
    """Median over rounds of the thread's CPU time for one record; the readers take turns."""
    taken: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(ROUNDS):
        for name, consume in readers.items():
            producer.fill()
            start = time.thread_time_ns()
            count = consume()
            taken[name].append((time.thread_time_ns() - start) / count)
            assert count == FILL_RECORDS, count
    return {name: statistics.median(values) for name, values in taken.items()}


def drain_all(ring: Ring) -> int:
    received = 0
    while count := len(ring.drain()):
        received += count
    return received


def drain_and_count(ring: Ring, slots: np.ndarray) -> int:
    received = 0
    while count := len(records := ring.drain()):
        slots += np.bincount(records["slot"], minlength=32)
        received += count
    return received


@contextmanager
def peer_in_c(home: Path, ring_fd: int) -> Iterator[Callable[[], int]]:
    library = home / "peer_libbpf.so"
    source = HERE / "peer_libbpf.c"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", source, "-o", library, "-lbpf"], check=True)
    ffi = FFI()
    ffi.cdef("void *peer_open(int); unsigned long peer_consume(void *); void peer_close(void *);")
    peer = ffi.dlopen(str(library))
    handle = peer.peer_open(ring_fd)
    yield lambda: peer.peer_consume(handle)
    peer.peer_close(handle)


def steady(producer: Producer, ring: Ring) -> dict[str, float]:
    """Drain and aggregate every tick while another process produces at the rate."""
    slots, received = np.zeros(32, np.int64), 0
    command = [sys.executable, HERE / "bpf_run.py", str(producer.fd), str(RATE), str(STEADY_S)]
    produced_before = int(producer.counts["produced"][0])
    source = subprocess.Popen(command, pass_fds=[producer.fd])
    wall, cpu = time.monotonic(), time.process_time()
    while source.poll() is None:
        time.sleep(TICK_S)
        received += drain_and_count(ring, slots)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    lost = int(producer.counts["produced"][0]) - produced_before - received
    return {"cpu_ratio": cpu / wall, "records_per_second": received / wall, "lost": lost}


def bcc() -> dict[str, float]:
    return run_bcc(HERE / "peer_bcc.py", FILL_RECORDS, 5, RATE, TICK_S, STEADY_S)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        producer = Producer(build(Path(temporary)))
        ring, slots = Ring(producer.ring_map, RECORD), np.zeros(32, np.int64)
        with peer_in_c(Path(temporary), producer.ring_map.fd) as consume:
            readers = {
                "eagle-eye drain into numpy": lambda: drain_all(ring),
                "eagle-eye drain and bincount": lambda: drain_and_count(ring, slots),
                "libbpf callback in C": consume,
            }
            drained = ns_per_record(producer, readers)
        ours = steady(producer, ring)
        peer = bcc()
        assert producer.counts["dropped"][0] == 0
    report({**drained, "BCC callback in Python": peer["drain_ns_per_record"]}, ours, peer)


def report(drained: dict[str, float], ours: dict, peer: dict) -> None:
    table(
        "Records of 32 bytes out of a full ring",
        ("reader", "ns/record", "M records/s/core"),
        [(name, float(ns), 1e3 / ns) for name, ns in drained.items()],
    )
    table(
        f"Steady stream, read every {TICK_S:g} s",
        ("reader", "records/s", "CPU % of a core", "lost"),
        [
            (name, f"{one['records_per_second']:,.0f}", 100 * one["cpu_ratio"], one["lost"])
            for name, one in (("eagle-eye", ours), ("BCC", peer))
        ],
    )
    rates = list(drained.values())
    finish(
        "drain",
        {
            "drain_records_per_second": round(1e9 / rates[0]),
            "drain_and_bincount_records_per_second": round(1e9 / rates[1]),
            "libbpf_callback_records_per_second": round(1e9 / rates[2]),
            "bcc_callback_records_per_second": round(1e9 / rates[3]),
            "steady_records_per_second": round(ours["records_per_second"]),
            "steady_cpu_ratio": round(ours["cpu_ratio"], 6),
            "steady_lost_records": ours["lost"],
            "bcc_steady_records_per_second": round(peer["records_per_second"]),
            "bcc_steady_cpu_ratio": round(peer["cpu_ratio"], 6),
            "steady_bcc_over_ours": round(peer["cpu_ratio"] / ours["cpu_ratio"], 1),
        },
    )


if __name__ == "__main__":
    main()
