"""Freezes one bundle. Runs in a process of its own: what hangs in /proc or on the disk hangs only there.

Started by `COMMAND` with an `Order` in JSON on standard input, it prints a `Result` in JSON. SIGTERM ends the wait
for the end of the window, not the writing.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from ... import __version__
from ...probes.paths import Paths
from .bundle import CONFIG, MANIFEST, PROCESSES, RECORDS, Manifest, Trigger
from .copying import Copy
from .order import Order, Result
from .processes import device_holders, facts_of
from .redact import redacted
from .versions import hashes, versions

# The recorder writes once a second, and a disk takes its time.
FLUSHED_AFTER_S = 2.5


def write(order: Order, wait: Callable[[float], object]) -> Result:
    """Writes the bundle whole or not at all; `wait` sleeps for so many seconds. Raises OSError."""
    os.umask(0o077)
    paths = Paths(proc=Path(order.proc), sys=Path(order.sys))
    pids = [*order.trigger.pids, *device_holders(paths.proc)] if order.live else []
    observed = [facts_of(paths.proc, pids)]
    end_ns = order.at_ns + order.after_ns
    if order.live:
        wait(max(0.0, (end_ns - time.monotonic_ns()) / 1e9))
        observed.append(facts_of(paths.proc, pids))
        wait(FLUSHED_AFTER_S)
        end_ns = min(end_ns, time.monotonic_ns())
    folder = Path(order.home) / order.id
    unfinished = folder.with_name(f".{order.id}.tmp")
    unfinished.mkdir(parents=True)
    try:
        window = order.at_ns - order.before_ns, end_ns
        copy = Copy(Path(order.recorder), order.boot_id, *window, order.saved_logs)
        copy.write(unfinished / RECORDS)
        _dump(unfinished / PROCESSES, redacted(observed))
        _dump(unfinished / CONFIG, redacted(order.config))
        _dump(unfinished / MANIFEST, _manifest(order, copy, end_ns, paths))
        _sync(unfinished)
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    size_bytes = sum(each.stat().st_size for each in folder.iterdir())
    return Result(order.id, str(folder), size_bytes, tuple(copy.incomplete))


def _manifest(order: Order, copy: Copy, end_ns: int, paths: Paths) -> Manifest:
    return Manifest(
        id=order.id,
        trigger=msgspec.convert(redacted(msgspec.to_builtins(order.trigger)), Trigger),
        node=order.node,
        cluster=order.cluster,
        boot_id=order.boot_id,
        at_ns=order.at_ns,
        wall_offset_ns=order.wall_offset_ns,
        start_ns=order.at_ns - order.before_ns,
        end_ns=end_ns,
        agent=__version__,
        versions=redacted(versions(paths)),
        hashes=hashes(),
        counts=dict(+copy.counts),
        incomplete=tuple(copy.incomplete),
        simulated=order.simulated or copy.simulated,
    )


def _dump(path: Path, value: Any) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")


def _sync(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def main() -> None:
    """The process."""
    hurry = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: hurry.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    try:
        answer = msgspec.json.encode(write(order, hurry.wait))
    except OSError as error:
        answer = msgspec.json.encode({"error": str(error)})
    sys.stdout.buffer.write(answer + b"\n")
    sys.stdout.buffer.flush()
    os._exit(0)  # a thread that hangs in /proc is not waited for
