/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Processes that begin another program, end, or are killed for want of memory. */
#ifndef EAGLE_EYE_PROCESS_H
#define EAGLE_EYE_PROCESS_H

#ifndef __bpf__
#include <linux/types.h>
#endif

enum {
	EXIT_REASONS = 4,
};

/* Index of process_stats.exits; PROCESS_EXIT_OOM is a SIGKILL that the OOM killer sent. */
enum {
	PROCESS_EXIT_OK = 0,
	PROCESS_EXIT_ERROR = 1,
	PROCESS_EXIT_SIGNAL = 2,
	PROCESS_EXIT_OOM = 3,
};

enum {
	SENDER_KNOWN = 1,
	SENDER_KERNEL = 2,
};

/* One per CPU, written by that CPU only. */
struct process_stats {
	__u64 exits[EXIT_REASONS];
	__u64 execs;
	__u64 oom_kills;
	__u64 rate_limited;
	__u64 exec_ring_full;
	__u64 exit_ring_full;
	__u64 oom_ring_full;
	__u64 reserved[6];
};

struct process_exec {
	__u64 at_ns;
	__u64 cgroup_id;
	__u32 pid;
	__u32 parent_pid;
	__u32 uid;
	__u32 reserved;
	char comm[16];
	char filename[128];
};

/* `status` as wait() gives it; the sender is that of the signal in it. `pid` are process ids, not threads'. */
struct process_exit {
	__u64 at_ns;
	__u64 start_ns;
	__u64 cgroup_id;
	__u64 sender_cgroup_id;
	__u32 pid;
	__u32 parent_pid;
	__u32 uid;
	__u32 status;
	__u32 reason;
	__u32 sender;
	__u32 sender_pid;
	__u32 sender_uid;
	char comm[16];
	char sender_comm[16];
};

/* Figures are zero, and `victim_known` too, when an older kernel named only a pid that we did not see killed. */
struct process_oom {
	__u64 at_ns;
	__u64 cgroup_id;
	__u64 trigger_cgroup_id;
	__u64 total_vm_pages;
	__u64 anon_pages;
	__u64 file_pages;
	__u64 shmem_pages;
	__u64 swap_pages;
	__u64 page_tables_bytes;
	__u32 pid;
	__u32 thread_pid;
	__u32 uid;
	__s32 oom_score_adj;
	__u32 trigger_pid;
	__u32 victim_known;
	char comm[16];
	char trigger_comm[16];
};

_Static_assert(sizeof(struct process_stats) == 128, "process_stats");
_Static_assert(sizeof(struct process_exec) == 176, "process_exec");
_Static_assert(sizeof(struct process_exit) == 96, "process_exit");
_Static_assert(sizeof(struct process_oom) == 128, "process_oom");

#endif
