/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Run-queue waits: from the wake-up or preemption of a task until a CPU runs it. */
#ifndef EAGLE_EYE_SCHED_H
#define EAGLE_EYE_SCHED_H

#ifndef __bpf__
#include <linux/types.h>
#endif

/* Slot k counts waits below 1024 << k nanoseconds (1.0 us to 8.6 s); the last one everything above. */
enum {
	SCHED_WAIT_SLOTS = 25,
};

/* One per CPU, written by that CPU only. */
struct sched_stats {
	__u64 wait_count[SCHED_WAIT_SLOTS];
	__u64 wait_sum_ns;
	__u64 context_switches;
	__u64 long_waits;
	__u64 rate_limited;
	__u64 ring_full;
	__u64 untracked;
	__u64 reserved;
};

/* A wait past the threshold, and the task that held `queued_cpu` longest meanwhile (pid 0 = idle). */
struct sched_long_wait {
	__u64 at_ns;
	__u64 wait_ns;
	__u64 cgroup_id;
	__u64 ran_instead_ns;
	__u64 ran_instead_cgroup_id;
	__u32 pid;
	__u32 tgid;
	__u32 queued_cpu;
	__u32 run_cpu;
	__u32 ran_instead_pid;
	__u32 ran_instead_tgid;
	char comm[16];
	char ran_instead_comm[16];
};

_Static_assert(sizeof(struct sched_stats) == 256, "sched_stats");
_Static_assert(sizeof(struct sched_long_wait) == 96, "sched_long_wait");

#endif
