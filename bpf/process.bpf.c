/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#include "common.bpf.h"
#include "rate.bpf.h"
#include "process.h"

LICENSE();

/* Of include/linux/sched/signal.h: all threads are told to exit, with signal_struct.group_exit_code. */
#define SIGNAL_GROUP_EXIT 4
/* Of include/linux/sched/signal.h: the two values of `info` that are no pointers. */
#define SEND_SIG_NOINFO 0
#define SEND_SIG_PRIV 1
/* Of include/trace/events/signal.h. */
#define TRACE_SIGNAL_DELIVERED 0
#define TRACE_SIGNAL_LOSE_INFO 4
#define SIGKILL 9
/* CHLD CONT STOP TSTP TTIN TTOU URG WINCH: they end no process. */
#define HARMLESS_SIGNALS (1ULL << 17 | 1ULL << 18 | 1ULL << 19 | 1ULL << 20 | 1ULL << 21 | 1ULL << 22 | 1ULL << 23 | 1ULL << 28)

const volatile __u32 events_per_second = 100;
const volatile __u32 cgroup_hierarchy = CGROUP_UNIFIED;
const volatile __u32 memory_hierarchy = CGROUP_UNIFIED;

/* Signals have their own bound, so that a storm of ordinary exits hides no kill. */
static struct rate exec_rate, exit_rate, killed_rate;

struct signal_key {
	__u32 pid;
	__u32 signal;
};

struct sender {
	__u64 at_ns;
	__u64 cgroup_id;
	__u32 pid;
	__u32 uid;
	__u32 flags;
	__u32 reserved;
	char comm[TASK_COMM_LEN];
};

struct group_key {
	__u64 start_ns;
	__u32 pid;
	__u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct process_stats);
} stats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct signal_key);
	__type(value, struct sender);
} senders SEC(".maps");

/* Groups that have ended, where the kernel does not tell the last thread from one that ends beside it. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct group_key);
	__type(value, __u32);
} ended SEC(".maps");

/* Tasks that the kernel itself sent a SIGKILL, where mark_victim names no more than a pid. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, struct process_oom);
} killed_by_kernel SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} execs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} exits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} ooms SEC(".maps");

static __always_inline bool victim_is_task(void)
{
	return bpf_core_field_exists(struct trace_event_raw_mark_victim, uid);
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	struct process_stats *stat = this_cpu_entry(&stats);
	__u64 now_ns = bpf_ktime_get_ns();
	struct process_exec *exec;

	if (!stat)
		return 0;
	stat->execs++;
	if (!rate_allows(&exec_rate, now_ns, events_per_second)) {
		stat->rate_limited++;
		return 0;
	}
	exec = ring_reserve(&execs, sizeof(*exec), &stat->exec_ring_full);
	if (!exec)
		return 0;
	exec->at_ns = now_ns;
	exec->cgroup_id = task_cgroup_id(task, cgroup_hierarchy);
	exec->pid = task->tgid;
	exec->parent_pid = task->real_parent->tgid;
	exec->uid = task->cred->uid.val;
	exec->reserved = 0;
	BPF_CORE_READ_INTO(&exec->comm, task, comm);
	exec->filename[0] = 0;
	bpf_probe_read_kernel_str(exec->filename, sizeof(exec->filename), bprm->filename);
	ring_submit(exec);
	return 0;
}

/* Two threads that end at the same time both see that none lives: the first one to say so counts. */
static __always_inline bool is_first_to_end(struct task_struct *leader)
{
	struct group_key key = { .start_ns = leader->start_time, .pid = leader->pid };
	__u32 one = 1;

	return bpf_map_update_elem(&ended, &key, &one, BPF_NOEXIST) == 0;
}

static __always_inline bool is_group_dead(struct task_struct *task, __u64 *ctx)
{
	if (bpf_core_field_exists(struct trace_event_raw_sched_process_exit, group_dead))
		return ctx[1];
	if (task->signal->live.counter > 0)
		return false;
	return task->signal->nr_threads == 1 || is_first_to_end(task->group_leader);
}

static __always_inline __u32 wait_status(struct task_struct *leader)
{
	return leader->signal->flags & SIGNAL_GROUP_EXIT ? leader->signal->group_exit_code : leader->exit_code;
}

static __always_inline __u32 exit_reason(struct task_struct *task, __u32 status)
{
	__u32 signal = status & 0x7f;

	if (signal == SIGKILL && task->signal->oom_mm)
		return PROCESS_EXIT_OOM;
	if (signal)
		return PROCESS_EXIT_SIGNAL;
	return status ? PROCESS_EXIT_ERROR : PROCESS_EXIT_OK;
}

static __always_inline void name_sender(struct process_exit *exit)
{
	struct signal_key key = { .pid = exit->pid, .signal = exit->status & 0x7f };
	struct sender *sender = key.signal ? bpf_map_lookup_elem(&senders, &key) : NULL;

	/* An older entry belongs to a process that had the same pid. */
	if (!sender || sender->at_ns < exit->start_ns)
		return;
	exit->sender = SENDER_KNOWN | sender->flags;
	exit->sender_pid = sender->pid;
	exit->sender_uid = sender->uid;
	exit->sender_cgroup_id = sender->cgroup_id;
	__builtin_memcpy(exit->sender_comm, sender->comm, TASK_COMM_LEN);
	bpf_map_delete_elem(&senders, &key);
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit, struct task_struct *task)
{
	struct process_stats *stat = this_cpu_entry(&stats);
	struct task_struct *leader = task->group_leader;
	__u64 now_ns = bpf_ktime_get_ns();
	struct process_exit *exit;
	__u32 status, reason;

	if (!stat || task->flags & PF_KTHREAD || !is_group_dead(task, ctx))
		return 0;
	status = wait_status(leader) & 0xffff;
	reason = exit_reason(task, status);
	stat->exits[reason & (EXIT_REASONS - 1)]++;
	if (!rate_allows(reason >= PROCESS_EXIT_SIGNAL ? &killed_rate : &exit_rate, now_ns, events_per_second)) {
		stat->rate_limited++;
		return 0;
	}
	exit = ring_reserve(&exits, sizeof(*exit), &stat->exit_ring_full);
	if (!exit)
		return 0;
	__builtin_memset(exit, 0, sizeof(*exit));
	exit->at_ns = now_ns;
	exit->start_ns = leader->start_time;
	exit->cgroup_id = task_cgroup_id(task, cgroup_hierarchy);
	exit->pid = task->tgid;
	exit->parent_pid = leader->real_parent->tgid;
	exit->uid = task->cred->uid.val;
	exit->status = status;
	exit->reason = reason;
	BPF_CORE_READ_INTO(&exit->comm, leader, comm);
	name_sender(exit);
	if (reason >= PROCESS_EXIT_SIGNAL)
		ring_submit_urgent(exit);
	else
		ring_submit(exit);
	return 0;
}

static __always_inline bool is_from_kernel(__u64 info)
{
	struct kernel_siginfo *siginfo = (void *)info;

	if (info <= SEND_SIG_PRIV)
		return info == SEND_SIG_PRIV;
	return BPF_CORE_READ(siginfo, si_code) > 0;
}

static __always_inline void remember_sender(struct task_struct *task, __u32 signal, bool from_kernel)
{
	struct signal_key key = { .pid = task->tgid, .signal = signal };
	struct sender sender = { .at_ns = bpf_ktime_get_ns() };

	if (from_kernel) {
		sender.flags = SENDER_KERNEL;
	} else {
		struct task_struct *current = (void *)bpf_get_current_task();

		sender.pid = bpf_get_current_pid_tgid() >> 32;
		sender.uid = bpf_get_current_uid_gid();
		sender.cgroup_id = unproven_cgroup_id(current, cgroup_hierarchy);
		bpf_get_current_comm(sender.comm, sizeof(sender.comm));
	}
	bpf_map_update_elem(&senders, &key, &sender, BPF_ANY);
}

static __always_inline __u64 at_least_zero(__s64 pages)
{
	return pages > 0 ? pages : 0;
}

static __always_inline void describe_victim(struct process_oom *oom, struct task_struct *task)
{
	struct mm_struct *mm = task->mm;
	struct task_struct *current = (void *)bpf_get_current_task();

	__builtin_memset(oom, 0, sizeof(*oom));
	oom->at_ns = bpf_ktime_get_ns();
	oom->cgroup_id = task_cgroup_id(task, memory_hierarchy);
	oom->pid = task->tgid;
	oom->thread_pid = task->pid;
	oom->uid = task->cred->uid.val;
	oom->oom_score_adj = task->signal->oom_score_adj;
	oom->victim_known = 1;
	BPF_CORE_READ_INTO(&oom->comm, task, comm);
	oom->trigger_pid = bpf_get_current_pid_tgid() >> 32;
	oom->trigger_cgroup_id = unproven_cgroup_id(current, memory_hierarchy);
	bpf_get_current_comm(oom->trigger_comm, sizeof(oom->trigger_comm));
	if (!mm)
		return;
	oom->total_vm_pages = mm->total_vm;
	oom->anon_pages = at_least_zero(MM_RSS_PAGES(mm, MM_ANONPAGES));
	oom->file_pages = at_least_zero(MM_RSS_PAGES(mm, MM_FILEPAGES));
	oom->shmem_pages = at_least_zero(MM_RSS_PAGES(mm, MM_SHMEMPAGES));
	oom->swap_pages = at_least_zero(MM_RSS_PAGES(mm, MM_SWAPENTS));
	oom->page_tables_bytes = mm->pgtables_bytes.counter;
}

/* `info` is read as a number: 0 and 1 are no pointers, which the verifier would not let us ask. */
SEC("tp_btf/signal_generate")
int BPF_PROG(on_signal, int sig, struct kernel_siginfo *unread, struct task_struct *task, int group, int result)
{
	__u32 signal = sig, pid = task->pid;
	struct process_oom oom;
	__u64 info = 0;

	if (signal < 32 && (HARMLESS_SIGNALS >> signal & 1))
		return 0;
	bpf_probe_read_kernel(&info, sizeof(info), &ctx[1]);
	if (result == TRACE_SIGNAL_DELIVERED || result == TRACE_SIGNAL_LOSE_INFO)
		remember_sender(task, signal, is_from_kernel(info));
	if (!victim_is_task() && signal == SIGKILL && info == SEND_SIG_PRIV) {
		describe_victim(&oom, task);
		bpf_map_update_elem(&killed_by_kernel, &pid, &oom, BPF_ANY);
	}
	return 0;
}

static __always_inline void recall_victim(struct process_oom *oom, __u32 pid)
{
	struct process_oom *killed = bpf_map_lookup_elem(&killed_by_kernel, &pid);

	__builtin_memset(oom, 0, sizeof(*oom));
	if (killed)
		__builtin_memcpy(oom, killed, sizeof(*oom));
	oom->at_ns = bpf_ktime_get_ns();
	oom->thread_pid = pid;
	if (!killed)
		oom->pid = pid;
}

SEC("tp_btf/mark_victim")
int on_oom(__u64 *ctx)
{
	struct process_stats *stat = this_cpu_entry(&stats);
	struct process_oom *oom;

	if (!stat)
		return 0;
	stat->oom_kills++;
	oom = ring_reserve(&ooms, sizeof(*oom), &stat->oom_ring_full);
	if (!oom)
		return 0;
	if (victim_is_task())
		describe_victim(oom, (void *)ctx[0]);
	else
		recall_victim(oom, ctx[0]);
	ring_submit_urgent(oom);
	return 0;
}
