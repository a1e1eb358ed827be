/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#include "common.bpf.h"
#include "tasks.h"

LICENSE();

/* TASK_REPORT of include/linux/sched.h: the state bits that /proc shows. */
#define REPORTED_STATES 0x7f

enum {
	STATE_UNINTERRUPTIBLE = 2,
	STATE_IDLE = 8,
};

const volatile __u32 cgroup_hierarchy = CGROUP_UNIFIED;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct task_counts);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct task_blocked);
} scratch SEC(".maps");

/* As task_state_index() of include/linux/sched.h. */
static __always_inline __u32 state_index(__u32 state, __u32 exit_state)
{
	__u32 reported = (state | exit_state) & REPORTED_STATES, index = reported != 0;

	if ((state & (TASK_UNINTERRUPTIBLE | TASK_NOLOAD)) == (TASK_UNINTERRUPTIBLE | TASK_NOLOAD))
		return STATE_IDLE;
	if (state & (TASK_RTLOCK_WAIT | TASK_FROZEN))
		return STATE_UNINTERRUPTIBLE;
	if (reported >> 4) { index += 4; reported >>= 4; }
	if (reported >> 2) { index += 2; reported >>= 2; }
	if (reported >> 1) index += 1;
	return index;
}

static __always_inline bool is_blocked(__u32 state)
{
	return (state & TASK_UNINTERRUPTIBLE) && !(state & TASK_NOLOAD);
}

static __noinline bool write_blocked(struct seq_file *seq, struct task_struct *task)
{
	__u32 zero = 0;
	struct task_blocked *blocked = bpf_map_lookup_elem(&scratch, &zero);
	long bytes;

	if (!blocked)
		return false;
	blocked->start_ns = task->start_time;
	blocked->switches = task->nvcsw + task->nivcsw;
	blocked->cgroup_id = task_cgroup_id(task, cgroup_hierarchy);
	blocked->pid = task->pid;
	blocked->tgid = task->tgid;
	BPF_CORE_READ_INTO(&blocked->comm, task, comm);
	bytes = bpf_get_task_stack(task, blocked->stack, sizeof(blocked->stack), 0);
	blocked->frames = bytes > 0 ? bytes / sizeof(__u64) : 0;
	return bpf_seq_write(seq, blocked, sizeof(*blocked)) == 0;
}

/* A record that did not fit is asked for again with the next read: only then is its task counted. */
SEC("iter/task")
int sweep(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	__u32 zero = 0, state, index;
	struct task_counts *count = bpf_map_lookup_elem(&counts, &zero);

	if (!task || !count)
		return 0;
	state = task_state(task);
	if (is_blocked(state) && !write_blocked(ctx->meta->seq, task))
		return 0;
	index = state_index(state, task->exit_state);
	if (index < TASK_STATES)
		count->by_state[index]++;
	return 0;
}
