// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* One map of each kind, and constants of each width. */
#include "common.bpf.h"

LICENSE();

const volatile __u8 narrow = 1;
const volatile __s32 negative = 0;
const volatile __u64 wide = 0;
const volatile bool flag = false;
const volatile char text[8] = "text";

__u64 seen[4];

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
} hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} per_cpu SEC(".maps");

struct three_words {
	__u32 word[3];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 3);
	__type(key, __u32);
	__type(value, struct three_words);
} mmapable SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} plain SEC(".maps");

SEC("raw_tp")
int report(void *ctx)
{
	seen[0] = narrow;
	seen[1] = negative;
	seen[2] = wide;
	seen[3] = flag + text[0];
	return 0;
}
