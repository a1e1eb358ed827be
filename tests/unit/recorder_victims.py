"""Recorders that are killed: each is a fork of this process, which tells what it knew to be on disk by then.

Arguments: folder, how many. Prints one JSON line each: the events it knew to be stored, and when it was killed.
"""

import json
import os
import random
import select
import signal
import sys
import time
from pathlib import Path

from eagle_eye.collector.recorder import recorder as module
from eagle_eye.probes.probe import EventSource

FLUSH_S = 0.01


def record(folder: Path, victim: int, pipe: int) -> None:
    module.FLUSH_S = FLUSH_S
    source = EventSource("recorder", node="n", cluster="c", boot_id="boot")
    box = module.Recorder(folder, source, limit_bytes=2**26, keep_ns=10**15)
    box.start()
    number = 0
    while True:
        for _ in range(20):
            box.event(b'{"victim":%d,"number":%d}' % (victim, number), time.monotonic_ns())
            number += 1
        box.snapshot(b'{"filler":"%s"}' % (b"x" * random.randrange(20_000)), time.monotonic_ns())
        time.sleep(0.002)
        os.write(pipe, b"%d\n" % box.statistics().records.get("event", 0))
        assert box.health().state in ("starting", "ok"), box.health()


def listen(pipe: int, seconds: float, until_written: bool = False) -> bytes:
    """What comes in that time, or until anything but a zero came."""
    told = b""
    end_s = time.monotonic() + seconds
    while (left_s := end_s - time.monotonic()) > 0 and not (until_written and told.strip(b"0\n")):
        if select.select([pipe], [], [], left_s)[0]:
            told += os.read(pipe, 65536)
    return told


def kill_one(folder: Path, victim: int) -> dict:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            record(folder, victim, writing)
        finally:
            os.write(writing, b"-1\n")
            os._exit(1)
    os.close(writing)
    # Most have written something by then; the others die while they make their file.
    told = listen(reading, 20.0, until_written=True) if random.random() < 0.7 else b""
    told += listen(reading, random.uniform(0.0, 0.06))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while more := os.read(reading, 65536):
        told += more
    os.close(reading)
    lines = told.split(b"\n")[:-1]
    return {"victim": victim, "stored": int(lines[-1]) if lines else 0}


if __name__ == "__main__":
    for victim in range(int(sys.argv[2])):
        print(json.dumps(kill_one(Path(sys.argv[1]), victim)), flush=True)
