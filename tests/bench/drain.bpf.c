// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Produces as many records as its first argument says. */
#include "common.bpf.h"

#include "records.h"

LICENSE();

struct bpf_raw_tracepoint_args {
	__u64 args[3];
};

struct bench_counts counts;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} records SEC(".maps");

static long produce_one(__u64 i, void *unused)
{
	struct bench_record *record = ring_reserve(&records, sizeof(*record), &counts.dropped);
	__u64 seq = counts.produced++;

	if (!record)
		return 0;
	record->at_ns = bpf_ktime_get_ns();
	record->duration_ns = seq * 977;
	record->pid = seq & 0xffff;
	record->slot = seq & 31;
	record->seq = seq;
	ring_submit(record);
	return 0;
}

SEC("raw_tp")
int produce(struct bpf_raw_tracepoint_args *ctx)
{
	bpf_loop(ctx->args[0], produce_one, NULL, 0);
	return 0;
}
