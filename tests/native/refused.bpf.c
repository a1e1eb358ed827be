// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* The verifier refuses this: an unchecked pointer. */
#include "common.bpf.h"

LICENSE();

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} values SEC(".maps");

SEC("raw_tp")
int unchecked(void *ctx)
{
	__u32 key = 0;
	__u64 *value = bpf_map_lookup_elem(&values, &key);

	return *value;
}

SEC("raw_tp")
int accepted(void *ctx)
{
	return 0;
}
