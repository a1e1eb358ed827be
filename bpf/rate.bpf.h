/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* A bound on events per second and CPU, kept where the events arise. */
#ifndef EAGLE_EYE_RATE_BPF_H
#define EAGLE_EYE_RATE_BPF_H

#include "types.h"

struct rate {
	__u64 second_start_ns;
	__u32 used;
	__u32 reserved;
};

static __always_inline bool rate_allows(struct rate *rate, __u64 now_ns, __u32 per_second)
{
	if (now_ns - rate->second_start_ns >= 1000000000ULL) {
		rate->second_start_ns = now_ns;
		rate->used = 0;
	}
	if (rate->used >= per_second)
		return false;
	rate->used++;
	return true;
}

#endif
