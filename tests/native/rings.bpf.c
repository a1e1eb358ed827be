// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * A producer for four rings of different record sizes, run with BPF_PROG_TEST_RUN. Needs no CO-RE, so
 * that it loads in a millisecond. Arguments: how many records, and what every fourth one is.
 */
#include "common.bpf.h"

LICENSE();

enum odd_record {
	ALL_ALIKE = 0,
	DISCARDED = 1,
	OF_ANOTHER_SIZE = 2,
};

struct counts {
	__u64 produced;
	__u64 dropped;
	__u64 discarded;
	__u64 of_another_size;
	__u64 reserved[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, struct counts);
} counts SEC(".maps");

#define RING(name, bytes)                      \
	struct {                               \
		__uint(type, BPF_MAP_TYPE_RINGBUF); \
		__uint(max_entries, 4096);     \
	} name SEC(".maps")

struct produce {
	__u64 odd;
	__u64 urgent;
};

/* A record is a run of words that all hold its sequence number, so that a torn one shows. */
#define PRODUCER(index, words)                                                                              \
	RING(ring_##words, 8 * words);                                                                      \
	static long one_##words(__u64 i, struct produce *how)                                               \
	{                                                                                                   \
		__u32 key = index;                                                                          \
		struct counts *count = bpf_map_lookup_elem(&counts, &key);                                  \
		__u64 *record;                                                                              \
		__u64 seq;                                                                                  \
                                                                                                            \
		if (!count)                                                                                 \
			return 1;                                                                           \
		if (how->odd == OF_ANOTHER_SIZE && i % 4 == 3) {                                            \
			record = ring_reserve(&ring_##words, 8 * words + 4, NULL);                          \
			if (record) {                                                                       \
				count->of_another_size++;                                                   \
				ring_submit(record);                                                        \
			}                                                                                   \
			return 0;                                                                           \
		}                                                                                           \
		seq = count->produced++;                                                                    \
		record = ring_reserve(&ring_##words, 8 * words, &count->dropped);                           \
		if (!record)                                                                                \
			return 0;                                                                           \
		_Pragma("unroll") for (int word = 0; word < words; word++) record[word] = seq;              \
		if (how->odd == DISCARDED && i % 4 == 3) {                                                  \
			count->discarded++;                                                                 \
			bpf_ringbuf_discard(record, BPF_RB_NO_WAKEUP);                                      \
		} else if (how->urgent) {                                                                   \
			ring_submit_urgent(record);                                                         \
		} else {                                                                                    \
			ring_submit(record);                                                                \
		}                                                                                           \
		return 0;                                                                                   \
	}                                                                                                   \
	SEC("raw_tp")                                                                                       \
	int produce_##words(struct bpf_raw_tracepoint_args *ctx)                                            \
	{                                                                                                   \
		struct produce how = { .odd = ctx->args[1], .urgent = ctx->args[2] };                       \
                                                                                                            \
		bpf_loop(ctx->args[0], one_##words, &how, 0);                                               \
		return 0;                                                                                   \
	}

struct bpf_raw_tracepoint_args {
	__u64 args[3];
};

PRODUCER(0, 1)
PRODUCER(1, 2)
PRODUCER(2, 4)
PRODUCER(3, 9)
