/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Faults that the kernel and its drivers tell by tracepoint, besides what they write to the log. */
#ifndef EAGLE_EYE_TRACEPOINTS_H
#define EAGLE_EYE_TRACEPOINTS_H

#ifndef __bpf__
#include <linux/types.h>
#endif

enum {
	FAULT_POINT_XID = 0,
	FAULT_POINT_SXID = 1,
	FAULT_POINT_AER = 2,
	FAULT_POINT_MC = 3,
	FAULT_POINT_MCE = 4,
	FAULT_POINT_HANG = 5,
	FAULT_POINT_BLOCK = 6,
	FAULT_POINT_KINDS = 7,
};

struct fault_point_stats {
	__u64 hits[FAULT_POINT_KINDS];
	__u64 rate_limited;
	__u64 ring_full;
	__u64 reserved[7];
};

/* What `numbers` hold: xid, sxid: code. aer: status, severity. mc: type, count, controller, address,
 * log2 of the grain. mce: cpu, bank, status, address, misc, global status. hang: pid. block: error, bytes,
 * sector, flags. `pid` and `comm` are those of the task that ran. */
struct fault_point {
	__u64 at_ns;
	__u64 numbers[6];
	__u32 kind;
	__u32 pid;
	char comm[16];
	char device[64];
	char text[256];
};

_Static_assert(sizeof(struct fault_point_stats) == 128, "fault_point_stats");
_Static_assert(sizeof(struct fault_point) == 400, "fault_point");

#endif
