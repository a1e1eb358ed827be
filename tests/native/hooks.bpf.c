// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* One program per kind of hook; each counts its hits of one process in a global variable. */
#include "common.bpf.h"

LICENSE();

const volatile __u32 watched_tgid = 0;

struct hits {
	__u64 tp_btf;
	__u64 raw_tp;
	__u64 tp;
	__u64 uprobe;
	__u64 uretprobe;
	__u64 perf_event;
};

struct hits hits;

static __always_inline int hit(__u64 *counter)
{
	if (bpf_get_current_pid_tgid() >> 32 == watched_tgid)
		__sync_fetch_and_add(counter, 1);
	return 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(on_tp_btf, struct pt_regs *registers, long id)
{
	return hit(&hits.tp_btf);
}

SEC("raw_tp/sys_enter")
int on_raw_tp(void *ctx)
{
	return hit(&hits.raw_tp);
}

SEC("tp/raw_syscalls/sys_enter")
int on_tp(struct trace_event_raw_sys_enter *ctx)
{
	return hit(&hits.tp);
}

SEC("uprobe")
int on_uprobe(struct pt_regs *ctx)
{
	return hit(&hits.uprobe);
}

SEC("uprobe")
int on_uretprobe(struct pt_regs *ctx)
{
	return hit(&hits.uretprobe);
}

SEC("perf_event")
int on_perf_event(struct bpf_perf_event_data *ctx)
{
	return hit(&hits.perf_event);
}

struct seen_task {
	__u64 cgroup_id;
	__u32 pid;
	__u32 tgid;
	char comm[TASK_COMM_LEN];
};

SEC("iter/task")
int on_task(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct seen_task seen = {};

	if (!task)
		return 0;
	seen.cgroup_id = task_cgroup_id(task, CGROUP_UNIFIED);
	seen.pid = task->pid;
	seen.tgid = task->tgid;
	BPF_CORE_READ_INTO(&seen.comm, task, comm);
	bpf_seq_write(ctx->meta->seq, &seen, sizeof(seen));
	return 0;
}
