/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#include "common.bpf.h"
#include "rate.bpf.h"
#include "sched.h"

LICENSE();

enum {
	STINTS = 8,
};

const volatile __u64 long_wait_ns = 10000000;
const volatile __u64 min_stint_ns = 150000;
const volatile __u32 events_per_second = 50;
const volatile __u64 task_pause_ns = 1000000000;
const volatile __u32 cgroup_hierarchy = CGROUP_UNIFIED;
const volatile bool use_task_storage = true;

static struct rate event_rate;

/* Since when a task waits, and on which CPU's queue; at_ns 0 while it does not wait. `half_asleep`: it was
 * preempted on its way to sleep, so that a wake-up may find it on the queue. `told_at_ns` and `told_wait_ns`:
 * of its last event. */
struct queued {
	__u64 at_ns;
	__u64 told_at_ns;
	__u64 told_wait_ns;
	__u32 cpu;
	__u32 half_asleep;
};

/* One task's turn on a CPU. */
struct stint {
	__u64 start_ns;
	__u64 end_ns;
	__u64 ran_ns;
	__u64 cgroup_id;
	__u32 pid;
	__u32 tgid;
	char comm[TASK_COMM_LEN];
};

/* Who runs on a CPU, and the last turns that were long enough to matter. */
struct cpu_runs {
	__u64 since_ns;
	__u64 running;
	__u32 running_pid;
	__u32 newest;
	struct stint stints[STINTS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sched_stats);
} stats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cpu_runs);
} runs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct queued);
} queued_storage SEC(".maps");

/* 3 MiB: Linux before 5.11 counts maps as locked memory, of which a service has 8 MiB by default. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 32768);
	__type(key, __u32);
	__type(value, struct queued);
} queued_hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} long_waits SEC(".maps");

static __always_inline struct queued *queued_of(struct task_struct *task)
{
	__u32 pid = task->pid;

	if (use_task_storage)
		return bpf_task_storage_get(&queued_storage, task, NULL, 0);
	return bpf_map_lookup_elem(&queued_hash, &pid);
}

static __always_inline struct queued *queued_create(struct task_struct *task)
{
	__u32 pid = task->pid;
	struct queued *queued, none = {};

	if (use_task_storage)
		return bpf_task_storage_get(&queued_storage, task, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	queued = bpf_map_lookup_elem(&queued_hash, &pid);
	if (queued)
		return queued;
	bpf_map_update_elem(&queued_hash, &pid, &none, BPF_ANY);
	return bpf_map_lookup_elem(&queued_hash, &pid);
}

static __always_inline void enqueue(struct queued *queued, __u32 cpu, __u64 now_ns, bool half_asleep,
				    struct sched_stats *stat)
{
	if (!queued) {
		stat->untracked++;
		return;
	}
	queued->at_ns = now_ns;
	queued->cpu = cpu;
	queued->half_asleep = half_asleep;
}

/* The turn of `task` is over. Short turns are left out, so that the few places hold what matters; one that goes
 * on after a short break is the same turn, under the name and cgroup that the task has by now. A turn that we
 * did not see begin is left out: the first, and one that follows a switch which the kernel did not trace. */
static __noinline void end_stint(struct cpu_runs *run, struct task_struct *task, __u64 now_ns)
{
	struct stint *stint = &run->stints[run->newest % STINTS];
	__u64 since_ns = run->since_ns;

	if (!since_ns || run->running != (__u64)task)
		return;
	if (stint->pid != (__u32)task->pid || since_ns - stint->end_ns >= min_stint_ns) {
		stint = &run->stints[++run->newest % STINTS];
		stint->start_ns = since_ns;
		stint->ran_ns = 0;
	}
	stint->end_ns = now_ns;
	stint->ran_ns += now_ns - since_ns;
	stint->cgroup_id = task_cgroup_id(task, cgroup_hierarchy);
	stint->pid = task->pid;
	stint->tgid = task->tgid;
	BPF_CORE_READ_INTO(&stint->comm, task, comm);
}

static __always_inline __u32 wait_slot(__u64 wait_ns)
{
	__u64 us = wait_ns >> 10;
	__u32 slot = 1;

	if (!us)
		return 0;
	if (us >> 32)
		return SCHED_WAIT_SLOTS - 1;
	if (us >> 16) { slot += 16; us >>= 16; }
	if (us >> 8) { slot += 8; us >>= 8; }
	if (us >> 4) { slot += 4; us >>= 4; }
	if (us >> 2) { slot += 2; us >>= 2; }
	if (us >> 1) slot += 1;
	return slot < SCHED_WAIT_SLOTS ? slot : SCHED_WAIT_SLOTS - 1;
}

/* How long `pid` held the CPU between the two times, as far as the kept turns tell. */
static __always_inline __u64 held_ns(struct cpu_runs *run, __u32 pid, __u64 from_ns, __u64 to_ns)
{
	__u64 total_ns = 0, start_ns = run->since_ns;

	if (run->running_pid == pid && start_ns < to_ns)
		total_ns = to_ns - (start_ns > from_ns ? start_ns : from_ns);
	for (int i = 0; i < STINTS; i++) {
		struct stint *stint = &run->stints[i];
		__u64 end_ns = stint->end_ns, ran_ns = stint->ran_ns;

		if (stint->pid != pid || end_ns <= from_ns)
			continue;
		total_ns += ran_ns < end_ns - from_ns ? ran_ns : end_ns - from_ns;
	}
	return total_ns;
}

static __always_inline void name_stint(struct sched_long_wait *wait, struct stint *stint)
{
	wait->ran_instead_pid = stint->pid;
	wait->ran_instead_tgid = stint->tgid;
	wait->ran_instead_cgroup_id = stint->cgroup_id;
	__builtin_memcpy(wait->ran_instead_comm, stint->comm, TASK_COMM_LEN);
}

/* The task that still runs on another CPU may end while we look: its pid must be the one we counted. */
static __always_inline void name_running(struct sched_long_wait *wait, struct cpu_runs *run, __u64 ran_ns)
{
	struct task_struct *task = (void *)run->running;
	__u32 pid = run->running_pid;

	if (ran_ns <= wait->ran_instead_ns || (__u32)BPF_CORE_READ(task, pid) != pid)
		return;
	wait->ran_instead_ns = ran_ns;
	wait->ran_instead_pid = pid;
	wait->ran_instead_tgid = BPF_CORE_READ(task, tgid);
	wait->ran_instead_cgroup_id = unproven_cgroup_id(task, cgroup_hierarchy);
	BPF_CORE_READ_INTO(&wait->ran_instead_comm, task, comm);
}

static __noinline void blame(struct sched_long_wait *wait, struct cpu_runs *run)
{
	__u64 from_ns = wait->at_ns - wait->wait_ns, to_ns = wait->at_ns;

	/* Newest first: of a task that changed its name or cgroup between two turns, the later one counts. */
	for (int i = 0; i < STINTS; i++) {
		struct stint *stint = &run->stints[(run->newest - i) % STINTS];
		__u64 ran_ns = held_ns(run, stint->pid, from_ns, to_ns);

		if (ran_ns <= wait->ran_instead_ns)
			continue;
		wait->ran_instead_ns = ran_ns;
		name_stint(wait, stint);
	}
	name_running(wait, run, held_ns(run, run->running_pid, from_ns, to_ns));
}

/* One task that waits again and again leaves room for others, unless it gets much worse. */
static __always_inline bool is_news(struct queued *queued, __u64 wait_ns, __u64 now_ns)
{
	if (queued->told_at_ns && now_ns - queued->told_at_ns < task_pause_ns && wait_ns < 2 * queued->told_wait_ns)
		return false;
	if (!rate_allows(&event_rate, now_ns, events_per_second))
		return false;
	queued->told_at_ns = now_ns;
	queued->told_wait_ns = wait_ns;
	return true;
}

static __noinline void report(struct task_struct *task, struct queued *queued, __u64 wait_ns, __u64 now_ns)
{
	__u32 queued_cpu = queued->cpu;
	struct sched_stats *stat = this_cpu_entry(&stats);
	struct cpu_runs *run = bpf_map_lookup_elem(&runs, &queued_cpu);
	struct sched_long_wait *wait;

	if (!stat || !run)
		return;
	stat->long_waits++;
	if (!is_news(queued, wait_ns, now_ns)) {
		stat->rate_limited++;
		return;
	}
	wait = ring_reserve(&long_waits, sizeof(*wait), &stat->ring_full);
	if (!wait)
		return;
	__builtin_memset(wait, 0, sizeof(*wait));
	wait->at_ns = now_ns;
	wait->wait_ns = wait_ns;
	wait->cgroup_id = task_cgroup_id(task, cgroup_hierarchy);
	wait->pid = task->pid;
	wait->tgid = task->tgid;
	wait->queued_cpu = queued_cpu;
	wait->run_cpu = bpf_get_smp_processor_id();
	BPF_CORE_READ_INTO(&wait->comm, task, comm);
	blame(wait, run);
	ring_submit(wait);
}

static __always_inline void end_wait(struct task_struct *task, struct sched_stats *stat, __u64 now_ns)
{
	struct queued *queued = queued_of(task);
	__u64 wait_ns;

	if (!queued || !queued->at_ns)
		return;
	/* Clocks of two CPUs may differ by a few nanoseconds. */
	wait_ns = now_ns > queued->at_ns ? now_ns - queued->at_ns : 0;
	queued->at_ns = 0;
	stat->wait_count[wait_slot(wait_ns)]++;
	stat->wait_sum_ns += wait_ns;
	if (wait_ns >= long_wait_ns)
		report(task, queued, wait_ns, now_ns);
}

static __always_inline int woken(struct task_struct *task)
{
	struct sched_stats *stat = this_cpu_entry(&stats);

	struct queued *queued;

	/* Woken before it got to sleep: it never left its CPU and does not wait. */
	if (!stat || task->on_cpu)
		return 0;
	queued = queued_create(task);
	if (!queued || !queued->at_ns || !queued->half_asleep)
		enqueue(queued, task_last_cpu(task), bpf_ktime_get_ns(), false, stat);
	return 0;
}

SEC("tp_btf/sched_wakeup")
int BPF_PROG(on_wakeup, struct task_struct *task)
{
	return woken(task);
}

SEC("tp_btf/sched_wakeup_new")
int BPF_PROG(on_wakeup_new, struct task_struct *task)
{
	return woken(task);
}

SEC("tp_btf/sched_switch")
int BPF_PROG(on_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	__u32 cpu = bpf_get_smp_processor_id();
	struct sched_stats *stat = bpf_map_lookup_elem(&stats, &cpu);
	struct cpu_runs *run = bpf_map_lookup_elem(&runs, &cpu);
	__u64 now_ns = bpf_ktime_get_ns();

	if (!stat || !run)
		return 0;
	stat->context_switches++;
	if (now_ns - run->since_ns >= min_stint_ns)
		end_stint(run, prev, now_ns);
	run->since_ns = now_ns;
	run->running = (__u64)next;
	run->running_pid = next->pid;
	if (prev->pid && (preempt || task_state(prev) == TASK_RUNNING))
		enqueue(queued_create(prev), cpu, now_ns, task_state(prev) != TASK_RUNNING, stat);
	if (next->pid)
		end_wait(next, stat, now_ns);
	return 0;
}
