"""What the black box costs at two snapshots a second, and how much it writes.

Real snapshots and events of this machine at rest and with eight simulated GPUs, taken from NATS, are replayed at their
own pace into: the recorder; a file of JSON lines, synced once a second; SQLite without compression, one transaction a
second. All at the same time, each in its own thread, whose CPU time is taken from its own clock; what handing over
costs the caller is part of it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import nats
from bench_agent import COMMAND, find, start
from harness import finish, table

from eagle_eye.collector.recorder.recorder import Recorder
from eagle_eye.probes.probe import EventSource

BOUND_CPU_RATIO = 0.003
LIMIT_BYTES = 256 * 2**20
CAPTURED = 40
INTERVAL_S = 0.5
LOADS = {"at_rest": (), "h100x8": ("--simulate", "h100x8")}


async def capture(folder: Path, words: tuple[str, ...]) -> list[tuple[bytes, list[bytes]]]:
    """Snapshots, each with the events that came before it."""
    with ExitStack() as stack:
        _, lines = start(
            stack, COMMAND, "run", "--plain", "--nats-port", "0", "--listen", "127.0.0.1:0", "--no-recorder",
            "--state-dir", folder, *words,
        )  # fmt: skip
        client = await nats.connect(await asyncio.to_thread(find, lines, r"nats_url=(\S+)"))
        found: list[tuple[bytes, list[bytes]]] = []
        events: list[bytes] = []

        async def take(message: nats.aio.msg.Msg) -> None:
            nonlocal events
            if message.subject.endswith(".snapshot"):
                found.append((message.data, events))
                events = []
            elif ".event." in message.subject:
                events.append(message.data)

        await client.subscribe("eagle_eye.v1.>", cb=take)
        while len(found) < CAPTURED:
            await asyncio.sleep(0.1)
        await client.close()
        return found


class Peer:
    """Somebody who keeps the same messages, in a thread of its own, written out once a second."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting: list[tuple[int, bytes]] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def add(self, at_ns: int, payload: bytes) -> None:
        with self._lock:
            self._waiting.append((at_ns, payload))

    def _work(self) -> None:
        self.open()
        while not self._stop.wait(1.0):
            with self._lock:
                waiting, self._waiting = self._waiting, []
            self.write(waiting)

    def stop(self) -> None:
        self._stop.set()
        self.thread.join(10)

    def open(self) -> None:
        raise NotImplementedError

    def write(self, waiting: list[tuple[int, bytes]]) -> None:
        raise NotImplementedError


class JsonLines(Peer):
    def open(self) -> None:
        self._file = self.path.open("ab", buffering=0)

    def write(self, waiting: list[tuple[int, bytes]]) -> None:
        self._file.write(b"".join(payload + b"\n" for _, payload in waiting))
        os.fsync(self._file.fileno())


class PlainSqlite(Peer):
    def open(self) -> None:
        self._database = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute("CREATE TABLE message (at_ns INTEGER, payload BLOB)")

    def write(self, waiting: list[tuple[int, bytes]]) -> None:
        self._database.execute("BEGIN")
        self._database.executemany("INSERT INTO message VALUES (?, ?)", waiting)
        self._database.execute("COMMIT")


def size_bytes(path: Path) -> int:
    """Of a file or of all in a folder, with what SQLite keeps beside a file."""
    files = path.rglob("*") if path.is_dir() else path.parent.glob(f"{path.name}*")
    return sum(each.stat().st_size for each in files if each.is_file())


def paced(messages: list[tuple[bytes, list[bytes]]], seconds: float) -> Iterator[tuple[bytes, list[bytes]]]:
    """The same again and again, each at its time."""
    due_s = time.monotonic()
    for index in range(int(seconds / INTERVAL_S)):
        due_s += INTERVAL_S
        time.sleep(max(0.0, due_s - time.monotonic()))
        yield messages[index % len(messages)]


def cpu_s(thread: threading.Thread) -> float:
    assert thread.ident is not None
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


def measure(folder: Path, messages: list[tuple[bytes, list[bytes]]], seconds: float) -> dict[str, dict[str, float]]:
    source = EventSource("recorder", node="n", cluster="c", boot_id="boot")
    recorder = Recorder(folder / "recorder", source, limit_bytes=LIMIT_BYTES, keep_ns=10**15)
    recorder.start()
    peers = {"json_lines": JsonLines(folder / "lines"), "plain_sqlite": PlainSqlite(folder / "plain.db")}
    time.sleep(1.5)
    threads = {"recorder": recorder._thread, **{name: peer.thread for name, peer in peers.items()}}
    before = {name: cpu_s(thread) for name, thread in threads.items()}
    handing_s = dict.fromkeys(threads, 0.0)
    for snapshot, events in paced(messages, seconds):
        now_ns = time.monotonic_ns()
        started_s = time.thread_time()
        recorder.snapshot(snapshot, now_ns)
        for event in events:
            recorder.event(event, now_ns)
        handing_s["recorder"] += time.thread_time() - started_s
        for name, peer in peers.items():
            started_s = time.thread_time()
            for payload in (snapshot, *events):
                peer.add(now_ns, payload)
            handing_s[name] += time.thread_time() - started_s
    time.sleep(1.5)
    after = {name: cpu_s(thread) for name, thread in threads.items()}
    asyncio.run(recorder.stop(10))
    for peer in peers.values():
        peer.stop()
    sizes = {
        "recorder": size_bytes(folder / "recorder"),
        "json_lines": size_bytes(folder / "lines"),
        "plain_sqlite": size_bytes(folder / "plain.db"),
    }
    assert not recorder.statistics().dropped
    return {
        name: {
            "cpu_ratio": round((after[name] - before[name] + handing_s[name]) / seconds, 6),
            "bytes_per_hour": round(sizes[name] / seconds * 3600),
            "hours_in_256_MiB": round(LIMIT_BYTES / (sizes[name] / seconds * 3600), 2),
        }
        for name in threads
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each measurement")
    seconds = parser.parse_args().seconds
    results: dict[str, object] = {}
    for load, words in LOADS.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            messages = asyncio.run(capture(folder / "state", words))
            found = measure(folder, messages, seconds)
        average = sum(len(snapshot) for snapshot, _ in messages) / len(messages)
        results[load] = {"snapshot_bytes": round(average), **found}
        rows = [
            (name, 100 * one["cpu_ratio"], one["bytes_per_hour"] / 1e6, one["hours_in_256_MiB"])
            for name, one in found.items()
        ]
        title = f"{load}: 2 snapshots/s of {average / 1000:.0f} kB, {seconds:g} s; bound 0.3 %"
        table(title, ("what", "% of a core", "MB an hour", "hours in 256 MiB"), rows)
    kept = all(one["recorder"]["cpu_ratio"] <= BOUND_CPU_RATIO for one in results.values())  # type: ignore[index]
    finish("recorder", {**results, "bounds_kept": kept})


if __name__ == "__main__":
    main()
