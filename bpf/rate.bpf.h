/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* A bound on the events per second of the whole node, kept where the events arise. */
#ifndef EAGLE_EYE_RATE_BPF_H
#define EAGLE_EYE_RATE_BPF_H

#include "types.h"

struct rate {
	__u64 second_start_ns;
	__u64 used;
};

/* CPUs that ask at the same moment may both get the last place: no lock is worth so little. Another CPU may
 * have begun a second after this one looked at the clock. */
static __always_inline bool rate_allows(struct rate *rate, __u64 now_ns, __u32 per_second)
{
	if ((__s64)(now_ns - rate->second_start_ns) >= 1000000000LL) {
		rate->second_start_ns = now_ns;
		rate->used = 0;
	}
	if (rate->used >= per_second)
		return false;
	__sync_fetch_and_add(&rate->used, 1);
	return true;
}

#endif
