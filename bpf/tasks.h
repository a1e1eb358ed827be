/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* One sweep over all tasks: how many are in which state, and each one that sleeps uninterruptibly. */
#ifndef EAGLE_EYE_TASKS_H
#define EAGLE_EYE_TASKS_H

#ifndef __bpf__
#include <linux/types.h>
#endif

enum {
	TASK_STATES = 9,
	TASK_STACK_FRAMES = 32,
};

/* In the order of the letters of /proc/PID/stat: R S D T t X Z P I. Grows with every sweep. */
struct task_counts {
	__u64 by_state[TASK_STATES];
	__u64 reserved[7];
};

/* Innermost frame first; `switches` stays the same for as long as the task did not run. */
struct task_blocked {
	__u64 start_ns;
	__u64 switches;
	__u64 cgroup_id;
	__u32 pid;
	__u32 tgid;
	__u32 frames;
	__u32 reserved;
	char comm[16];
	__u64 stack[TASK_STACK_FRAMES];
};

_Static_assert(sizeof(struct task_counts) == 128, "task_counts");
_Static_assert(sizeof(struct task_blocked) == 312, "task_blocked");

#endif
