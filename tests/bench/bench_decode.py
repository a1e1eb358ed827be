"""Lines of a kernel log per second of CPU, on one core: ordinary ones, faults of each family, and a few faults in many.

The peers are the lists of regular expressions of gpud, NVSentinel and node-problem-detector, each tried on every line
until one matches, all with Python's `re`: the method is compared, not the language. `share found` is how many of the
fault lines each knows at all; what they do then is not counted. Ours decodes in full and joins what belongs together.
"""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from harness import finish, table
from peer_patterns import PEERS

from eagle_eye.native.kmsg import KernelLog
from eagle_eye.probes.decode.grammar import Decoder, decode, sift
from eagle_eye.probes.decode.record import tokenize

HERE = Path(__file__).parent
FIXTURES = HERE.parent / "fixtures" / "decode"
ORDINARY = (HERE / "ordinary.log").read_text().splitlines()
ORDINARY_LINES, FAULT_LINES, PEER_LINES = 200_000, 20_000, 5_000
CHUNK_LINES = 2000
ROUNDS = 5


def fault_lines() -> dict[str, list[str]]:
    """Lines with a fault, by family."""
    found = defaultdict(list)
    for path in sorted(FIXTURES.glob("*.jsonl")):
        for row in path.read_text().splitlines():
            record = tokenize(json.loads(row)["line"])
            decoded = decode(record.text)
            if decoded:
                name = "nic" if decoded.family.startswith("nic.") else decoded.family
                found[name].append(record.text.replace("\n", "\\x0a"))
    return dict(found)


def log_of(texts: list[str], count: int) -> list[str]:
    """So many lines with these texts in turn, as dmesg prints them; each is different, as far apart as in a storm."""
    return [f"[{100 + n / 100:12.6f}] {texts[n % len(texts)]}" for n in range(count)]


def chunks_of(lines: list[str]) -> list[bytes]:
    return [("\n".join(lines[at : at + CHUNK_LINES]) + "\n").encode() for at in range(0, len(lines), CHUNK_LINES)]


def per_second(count: int, work: Callable[[], object]) -> float:
    """Best of several rounds, in CPU time of this thread."""
    least = float("inf")
    for _ in range(ROUNDS):
        start = time.thread_time_ns()
        work()
        least = min(least, time.thread_time_ns() - start)
    return count / least * 1e9


def ours(lines: list[str]) -> float:
    chunks = chunks_of(lines)

    def work() -> None:
        decoder = Decoder()
        for chunk in chunks:
            decoder.take_lines(chunk)
        decoder.flush()

    return per_second(len(lines), work)


def peer(patterns: Iterable[str], lines: list[str]) -> float:
    searches = [re.compile(pattern).search for pattern in patterns]
    few = lines[:PEER_LINES]
    return per_second(len(few), lambda: [any(search(line) for search in searches) for line in few])


def share(patterns: Iterable[str], lines: list[str]) -> float:
    compiled = [re.compile(pattern) for pattern in patterns]
    return sum(any(one.search(line) for one in compiled) for line in lines) / len(lines)


def sift_of_the_kernel_log(lines: list[str], folder: Path) -> float:
    """The search alone, in the batches as they are read from /dev/kmsg."""
    path = folder / "bench_decode.kmsg"
    path.write_text("".join(f"6,{number},{number},-;{line}\n" for number, line in enumerate(lines[:CHUNK_LINES])))
    log = KernelLog(path, from_boot=True)
    batch = log.read()
    rate = per_second(100 * len(batch.records), lambda: [sift().records(batch) for _ in range(100)])
    log.close()
    path.unlink()
    return rate


def main() -> None:
    families = fault_lines()
    every = [text for texts in families.values() for text in texts]
    ordinary = log_of(ORDINARY, ORDINARY_LINES)
    logs = {
        "ordinary lines": ordinary,
        "1 fault in 100 lines": log_of([*(ORDINARY * 3)[:99], every[0]], ORDINARY_LINES),
        "faults of all families": log_of(every, FAULT_LINES),
        **{f"faults, {name}": log_of(texts, FAULT_LINES) for name, texts in sorted(families.items())},
    }
    rates = {name: {"eagle_eye": ours(lines)} for name, lines in logs.items()}
    for name in ("ordinary lines", "1 fault in 100 lines", "faults of all families"):
        rates[name] |= {who: peer(patterns, logs[name]) for who, patterns in PEERS.items()}
    shares = {"eagle_eye": 1.0, **{who: share(patterns, every) for who, patterns in PEERS.items()}}
    searched = sift_of_the_kernel_log(ordinary, HERE / "results")
    heads = ["eagle_eye", *PEERS]
    rows = [(name, *(rate.get(who, "-") for who in heads)) for name, rate in rates.items()]
    rows.append(("share of the fault lines found", *(shares[who] for who in heads)))
    table("Lines per second of CPU", ("log", *heads), rows)
    finish(
        "decode",
        {
            "lines_per_second": {name: {who: round(one) for who, one in rate.items()} for name, rate in rates.items()},
            "found_ratio": {who: round(one, 3) for who, one in shares.items()},
            "fault_lines": len(every),
            "kernel_log_records_sifted_per_second": round(searched),
            "bytes_per_ordinary_line": round(sum(map(len, ordinary)) / len(ordinary) + 1, 1),
        },
    )


if __name__ == "__main__":
    main()
