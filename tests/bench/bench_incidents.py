"""What a fault costs on its way into an incident, and what open incidents weigh; CPU time of one thread.

The peer is the least that any deduplication does: NVSentinel's key (node, check, entities, codes) in a dictionary with
a time to live (its ADR-039), written in Python here. It knows no causes, no actions and no end.
"""

from __future__ import annotations

import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

from harness import finish, table

from eagle_eye.collector.incidents import state
from eagle_eye.collector.incidents.book import MAX_OPEN
from eagle_eye.collector.incidents.incidents import Incidents
from eagle_eye.probes.model import Fault
from eagle_eye.probes.paths import Paths
from eagle_eye.probes.probe import Sample

COUNT = 20_000
# A fiftieth of the 50 ms from a line to its event, also when every fault is a new one.
BOUND_US = 1000.0
SECOND_NS = 1_000_000_000
EPISODE = ("145", "149", "45", "45", "154")


def fault(number: int, code: str, at_ns: int, device: int = 0, **more: object) -> Fault:
    address = f"0000:{device:02x}:00.0"
    return Fault(
        id=f"bench:faults.kmsg:{number}",
        at_ns=at_ns,
        entity=f"pci:{address}",
        family="nvidia.xid",
        code=code,
        device=address,
        severity="error",
        action="reset_device",
        sources=("kmsg",),
        **more,  # type: ignore[arg-type]
    )


def repeats(start_ns: int) -> list[Fault]:
    """29 kinds of one code on 8 devices, as in NVSentinel's issue 1120."""
    return [fault(at + 1, "95", start_ns + at * 10_000, at % 8, fields={"unit": at % 29}) for at in range(COUNT)]


def episodes(start_ns: int) -> list[Fault]:
    """A minute apart, each with a cause, victims and a verdict, on 8 devices in turn."""
    return [
        fault(at + 1, EPISODE[at % 5], start_ns + at // 5 * 60 * SECOND_NS + at % 5 * 10_000_000, at // 5 % 8)
        for at in range(COUNT // 4)
    ]


def distinct(start_ns: int) -> list[Fault]:
    """Codes that nobody knows: each opens an incident and, past the bound, displaces another."""
    return [fault(at + 1, str(10_000 + at), start_ns + at * SECOND_NS // 100) for at in range(COUNT // 8)]


def cost_us(faults: Sequence[Fault], take: Callable[[Fault], object]) -> float:
    started_ns = time.thread_time_ns()
    for one in faults:
        take(one)
    return (time.thread_time_ns() - started_ns) / len(faults) / 1e3


def incidents(folder: Path) -> Incidents:
    return Incidents(folder, node="n", cluster="c", boot_id="bench", paths=Paths(sys=folder))


def peer() -> Callable[[Fault], object]:
    known: dict[tuple[str, str, str, tuple[str, ...]], int] = {}

    def take(one: Fault) -> bool:
        key = ("node", one.family, one.entity, (one.code,))
        before_ns = known.get(key)
        known[key] = one.at_ns
        return before_ns is None or one.at_ns - before_ns > 600 * SECOND_NS

    return take


def main() -> None:
    metrics: dict[str, object] = {}
    rows = []
    for name, make in (("repeats", repeats), ("episodes", episodes), ("distinct", distinct)):
        with tempfile.TemporaryDirectory() as folder:
            one = incidents(Path(folder))
            faults = make(time.monotonic_ns())
            ours = cost_us(faults, lambda told, one=one: one.take(Sample(faults=(told,))))  # type: ignore[misc]
        theirs = cost_us(faults, peer())
        rows.append([name, ours, theirs])
        metrics[f"{name}_us"] = round(ours, 2)
        metrics[f"{name}_peer_us"] = round(theirs, 2)
    table("CPU time per fault, microseconds", ["faults", "Eagle Eye", "ADR-039 key"], rows)
    metrics |= weight()
    metrics["bound_us"] = BOUND_US
    metrics["within_bound"] = all(float(str(metrics[f"{row[0]}_us"])) <= BOUND_US for row in rows)
    finish("incidents", metrics)


def weight() -> dict[str, object]:
    """Memory of as many open incidents as there may be, and what saving them costs."""
    with tempfile.TemporaryDirectory() as folder:
        faults = distinct(time.monotonic_ns())[:MAX_OPEN]
        tracemalloc.start()
        one = incidents(Path(folder))
        before, _ = tracemalloc.get_traced_memory()
        for told in faults:
            one.take(Sample(faults=(told,)))
        used = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        started_ns = time.thread_time_ns()
        one.save()
        save_ms = (time.thread_time_ns() - started_ns) / 1e6
        size = (Path(folder) / state.FILE).stat().st_size
    table("1024 open incidents", ["memory, MiB", "file, MiB", "save, ms CPU"], [[used / 2**20, size / 2**20, save_ms]])
    return {"open_bytes": used, "file_bytes": size, "save_ms": round(save_ms, 2)}


if __name__ == "__main__":
    main()
