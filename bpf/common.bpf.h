/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What more than one program needs. Included after types.h; brings libbpf's headers along. */
#ifndef EAGLE_EYE_COMMON_BPF_H
#define EAGLE_EYE_COMMON_BPF_H

#include "types.h"

#include <bpf/bpf_helpers.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define LICENSE() char LICENSE[] SEC("license") = "Dual BSD/GPL"

/* Which hierarchy names a task's cgroup: 0 the unified one, else a version 1 controller. */
enum cgroup_hierarchy {
	CGROUP_UNIFIED = 0,
	CGROUP_V1_CPU = 1,
	CGROUP_V1_MEMORY = 2,
	CGROUP_V1_PIDS = 3,
};

/* This CPU's entry of an array with one entry per CPU. */
static __always_inline void *this_cpu_entry(void *map)
{
	__u32 cpu = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(map, &cpu);
}

/* Room for one record, or NULL after counting the loss. Atomic, because an interrupt may lose one too. */
static __always_inline void *ring_reserve(void *ring, __u64 size_bytes, __u64 *dropped)
{
	void *record = bpf_ringbuf_reserve(ring, size_bytes, 0);

	if (!record && dropped)
		__sync_fetch_and_add(dropped, 1);
	return record;
}

/* Left for the next periodic drain. */
static __always_inline void ring_submit(void *record)
{
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
}

/* Wakes the reader at once. */
static __always_inline void ring_submit_urgent(void *record)
{
	bpf_ringbuf_submit(record, BPF_RB_FORCE_WAKEUP);
}

/*
 * The readers below follow pointers without a helper call, which the verifier allows for pointers whose
 * type it knows: arguments of tp_btf programs and iterators, and bpf_get_current_task_btf().
 */

static __always_inline __u32 task_state(struct task_struct *task)
{
	if (bpf_core_field_exists(task->__state))
		return task->__state;
	return ((struct task_struct___old *)task)->state;
}

static __always_inline __u32 task_last_cpu(struct task_struct *task)
{
	if (bpf_core_field_exists(task->thread_info.cpu))
		return task->thread_info.cpu;
	return ((struct task_struct___old *)task)->cpu;
}

/* Pages of one kind (MM_ANONPAGES, …), signed. Since v6.2 an estimate: what CPUs hold back is not in it.
 * A macro, because CO-RE relocates an array element only where the index is a constant. The older array is
 * read by helper: the verifiers of 5.10 and 6.1 follow no array whose element type is a typedef. */
#define MM_RSS_PAGES(mm, kind)                                                                                  \
	(bpf_core_field_exists(((struct mm_struct___old *)(mm))->rss_stat.count)                                 \
		 ? (__s64)BPF_CORE_READ((struct mm_struct___old *)(mm), rss_stat.count[kind].counter)            \
		 : (mm)->rss_stat[kind].count)

static __always_inline __u64 kernfs_id(struct kernfs_node *node)
{
	struct kernfs_node___old *old = (void *)node;

	return bpf_core_field_exists(old->id.id) ? old->id.id : node->id;
}

#define CGROUP_V1_NODE(task, controller)                                                                        \
	(bpf_core_enum_value_exists(enum cgroup_subsys_id, controller)                                           \
		 ? cgroup_v1_node(task, bpf_core_enum_value(enum cgroup_subsys_id, controller))                  \
		 : NULL)

static __always_inline struct kernfs_node *cgroup_v1_node(struct task_struct *task, __u64 subsystem)
{
	return task->cgroups->subsys[subsystem]->cgroup->kn;
}

/* Equal to the inode number of the cgroup's folder (and to bpf_get_current_cgroup_id() for the unified
 * hierarchy); 0 when the controller is not built into this kernel. */
static __always_inline __u64 task_cgroup_id(struct task_struct *task, __u32 hierarchy)
{
	struct kernfs_node *node;

	if (hierarchy == CGROUP_V1_CPU)
		node = CGROUP_V1_NODE(task, cpu_cgrp_id);
	else if (hierarchy == CGROUP_V1_MEMORY)
		node = CGROUP_V1_NODE(task, memory_cgrp_id);
	else if (hierarchy == CGROUP_V1_PIDS)
		node = CGROUP_V1_NODE(task, pids_cgrp_id);
	else
		node = task->cgroups->dfl_cgrp->kn;
	return node ? kernfs_id(node) : 0;
}

#define CGROUP_V1_INDEX(controller)                                                                             \
	(bpf_core_enum_value_exists(enum cgroup_subsys_id, controller)                                           \
		 ? (int)bpf_core_enum_value(enum cgroup_subsys_id, controller)                                   \
		 : -1)

static __always_inline __u64 unproven_kernfs_id(struct kernfs_node *node)
{
	struct kernfs_node___old *old = (void *)node;

	return bpf_core_field_exists(old->id.id) ? BPF_CORE_READ(old, id.id) : BPF_CORE_READ(node, id);
}

/* As task_cgroup_id(), for a task that the verifier does not vouch for (bpf_get_current_task(), a stored
 * pointer): reads by helper. */
static __always_inline __u64 unproven_cgroup_id(struct task_struct *task, __u32 hierarchy)
{
	struct css_set *set = BPF_CORE_READ(task, cgroups);
	struct cgroup_subsys_state *css = NULL;
	int index = hierarchy == CGROUP_V1_CPU	    ? CGROUP_V1_INDEX(cpu_cgrp_id)
		    : hierarchy == CGROUP_V1_MEMORY ? CGROUP_V1_INDEX(memory_cgrp_id)
						    : CGROUP_V1_INDEX(pids_cgrp_id);

	if (hierarchy == CGROUP_UNIFIED)
		return unproven_kernfs_id(BPF_CORE_READ(set, dfl_cgrp, kn));
	if (index < 0)
		return 0;
	bpf_probe_read_kernel(&css, sizeof(css),
			      (void *)set + bpf_core_field_offset(struct css_set, subsys) + sizeof(css) * index);
	return unproven_kernfs_id(BPF_CORE_READ(css, cgroup, kn));
}

#endif
