"""The peer in Python: BCC's ring buffer with a callback per record. Prints one JSON object.

    python3 peer_bcc.py FILL_RECORDS ROUNDS RECORDS_PER_SECOND TICK_SECONDS SECONDS

Runs under the distribution's Python, which has BCC (package python3-bpfcc), never in our own process.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bcc import BPF
from bpf_run import run_program

PROGRAM = """
RECORDS_H
BPF_RINGBUF_OUTPUT(records, 1024);
BPF_ARRAY(counts, struct bench_counts, 1);

static long produce_one(u64 i, void *unused)
{
    int zero = 0;
    struct bench_counts *count = counts.lookup(&zero);
    if (!count)
        return 1;
    u64 seq = count->produced++;
    struct bench_record *record = records.ringbuf_reserve(sizeof(struct bench_record));
    if (!record) {
        count->dropped++;
        return 0;
    }
    record->at_ns = bpf_ktime_get_ns();
    record->duration_ns = seq * 977;
    record->pid = seq & 0xffff;
    record->slot = seq & 31;
    record->seq = seq;
    records.ringbuf_submit(record, BPF_RB_NO_WAKEUP);
    return 0;
}

int produce(struct bpf_raw_tracepoint_args *ctx)
{
    u64 due = ctx->args[0];
    for (int i = 0; i < 4096; i++) {
        if (i >= due)
            break;
        if (produce_one(i, 0))
            break;
    }
    return 0;
}
"""
MAX_BURST = 4096


class Peer:
    def __init__(self) -> None:
        header = (Path(__file__).parent / "records.h").read_text()
        self.bpf = BPF(text=PROGRAM.replace("RECORDS_H", header))
        self.fd = self.bpf.load_func("produce", BPF.RAW_TRACEPOINT).fd
        self.records = self.bpf["records"]
        self.slots = [0] * 32
        self.received = 0
        self.records.open_ring_buffer(self.take)

    def take(self, context, data, size):
        """What a user of BCC writes: the record as an object, then something done with its fields."""
        record = self.records.event(data)
        self.slots[record.slot] += 1
        self.received += 1
        return 0

    def counts(self) -> tuple[int, int]:
        count = self.bpf["counts"][0]
        return count.produced, count.dropped


def drain_ns_per_record(peer: Peer, fill: int, rounds: int) -> float:
    taken = []
    for _ in range(rounds):
        for _ in range(fill // MAX_BURST):
            run_program(peer.fd, MAX_BURST)
        before, start = peer.received, time.thread_time_ns()
        peer.bpf.ring_buffer_consume()
        taken.append((time.thread_time_ns() - start) / (peer.received - before))
    return statistics.median(taken)


def steady(peer: Peer, rate: float, tick_s: float, seconds: float) -> dict[str, float]:
    script = str(Path(__file__).parent / "bpf_run.py")
    before = peer.received
    producer = subprocess.Popen([sys.executable, script, str(peer.fd), str(rate), str(seconds)], pass_fds=[peer.fd])
    wall, cpu = time.monotonic(), time.process_time()
    while producer.poll() is None:
        time.sleep(tick_s)
        peer.bpf.ring_buffer_consume()
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    return {"cpu_ratio": cpu / wall, "records_per_second": (peer.received - before) / wall}


def main() -> None:
    fill, rounds = int(sys.argv[1]), int(sys.argv[2])
    rate, tick_s, seconds = map(float, sys.argv[3:6])
    peer = Peer()
    result = {"drain_ns_per_record": drain_ns_per_record(peer, fill, rounds), **steady(peer, rate, tick_s, seconds)}
    produced, dropped = peer.counts()
    print(json.dumps({**result, "dropped": dropped, "lost": produced - dropped - peer.received}))


if __name__ == "__main__":
    main()
