/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Raw tracepoints, as they need neither tracefs nor the BTF of the driver's module. */
#include "common.bpf.h"
#include "hardware.bpf.h"
#include "rate.bpf.h"
#include "tracepoints.h"

LICENSE();

const volatile __u32 per_second = 200;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fault_point_stats);
} stats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 128 * 1024);
} points SEC(".maps");

/* One per kind: no flood of one hides another. */
struct rate rates[FAULT_POINT_KINDS];

struct raw_arguments {
	__u64 args[12];
};

static __always_inline struct fault_point *begin(__u32 kind)
{
	struct fault_point_stats *stat = this_cpu_entry(&stats);
	struct fault_point *point;

	if (!stat || kind >= FAULT_POINT_KINDS)
		return NULL;
	stat->hits[kind]++;
	if (!rate_allows(&rates[kind], bpf_ktime_get_ns(), per_second)) {
		__sync_fetch_and_add(&stat->rate_limited, 1);
		return NULL;
	}
	point = ring_reserve(&points, sizeof(*point), &stat->ring_full);
	if (!point)
		return NULL;
	__builtin_memset(point, 0, sizeof(*point));
	point->at_ns = bpf_ktime_get_ns();
	point->kind = kind;
	point->pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(point->comm, sizeof(point->comm));
	return point;
}

static __always_inline void pci_fault(struct raw_arguments *ctx, __u32 kind)
{
	struct pci_dev *device = (void *)ctx->args[0];
	struct fault_point *point;

	if (!bpf_core_type_exists(struct pci_dev))
		return;
	point = begin(kind);
	if (!point)
		return;
	bpf_probe_read_kernel_str(point->device, sizeof(point->device), BPF_CORE_READ(device, dev.kobj.name));
	point->numbers[0] = (__u32)ctx->args[1];
	bpf_probe_read_kernel_str(point->text, sizeof(point->text), (void *)ctx->args[2]);
	ring_submit_urgent(point);
}

/* (const struct pci_dev *, u32 code, const char *message), in open-gpu-kernel-modules since 575.51.02. */
SEC("raw_tp/nvidia_dev_xid")
int on_xid(struct raw_arguments *ctx)
{
	pci_fault(ctx, FAULT_POINT_XID);
	return 0;
}

SEC("raw_tp/nvswitch_dev_sxid")
int on_sxid(struct raw_arguments *ctx)
{
	pci_fault(ctx, FAULT_POINT_SXID);
	return 0;
}

/* (const char *device, u32 status, u8 severity, u8 tlp_header_valid, tlp header) */
SEC("raw_tp/aer_event")
int on_aer(struct raw_arguments *ctx)
{
	struct fault_point *point = begin(FAULT_POINT_AER);

	if (!point)
		return 0;
	bpf_probe_read_kernel_str(point->device, sizeof(point->device), (void *)ctx->args[0]);
	point->numbers[0] = (__u32)ctx->args[1];
	point->numbers[1] = (__u8)ctx->args[2];
	ring_submit_urgent(point);
	return 0;
}

/* (type, message, label, count, controller, top, middle and low layer, address, grain bits, syndrome, detail) */
SEC("raw_tp/mc_event")
int on_mc(struct raw_arguments *ctx)
{
	struct fault_point *point = begin(FAULT_POINT_MC);

	if (!point)
		return 0;
	bpf_probe_read_kernel_str(point->text, sizeof(point->text), (void *)ctx->args[1]);
	bpf_probe_read_kernel_str(point->device, sizeof(point->device), (void *)ctx->args[2]);
	point->numbers[0] = (__u32)ctx->args[0];
	point->numbers[1] = (__u32)ctx->args[3];
	point->numbers[2] = (__u8)ctx->args[4];
	point->numbers[3] = ctx->args[8];
	point->numbers[4] = (__u8)ctx->args[9];
	ring_submit_urgent(point);
	return 0;
}

/* (struct mce *), since v6.13 (struct mce_hw_err *), which begins with a struct mce. */
SEC("raw_tp/mce_record")
int on_mce(struct raw_arguments *ctx)
{
	struct mce *mce = (void *)ctx->args[0];
	struct fault_point *point;

	if (!bpf_core_type_exists(struct mce))
		return 0;
	point = begin(FAULT_POINT_MCE);
	if (!point)
		return 0;
	point->numbers[0] = BPF_CORE_READ(mce, extcpu);
	point->numbers[1] = BPF_CORE_READ(mce, bank);
	point->numbers[2] = BPF_CORE_READ(mce, status);
	point->numbers[3] = BPF_CORE_READ(mce, addr);
	point->numbers[4] = BPF_CORE_READ(mce, misc);
	point->numbers[5] = BPF_CORE_READ(mce, mcgstatus);
	ring_submit_urgent(point);
	return 0;
}

/* (struct task_struct *): also when the log's budget of hung-task warnings is used up. */
SEC("raw_tp/sched_process_hang")
int on_hang(struct raw_arguments *ctx)
{
	struct fault_point *point = begin(FAULT_POINT_HANG);
	struct task_struct *task = (void *)ctx->args[0];

	if (!point)
		return 0;
	point->numbers[0] = BPF_CORE_READ(task, pid);
	bpf_probe_read_kernel_str(point->text, sizeof(task->comm), task->comm);
	ring_submit_urgent(point);
	return 0;
}

/* (struct request *, blk_status_t, unsigned int bytes), since v5.17. */
SEC("raw_tp/block_rq_error")
int on_block(struct raw_arguments *ctx)
{
	struct request *request = (void *)ctx->args[0];
	struct fault_point *point;
	struct gendisk *disk;

	if (!bpf_core_field_exists(struct request_queue, disk))
		return 0;
	point = begin(FAULT_POINT_BLOCK);
	if (!point)
		return 0;
	disk = BPF_CORE_READ(request, q, disk);
	if (disk)
		bpf_probe_read_kernel_str(point->device, sizeof(disk->disk_name), disk->disk_name);
	point->numbers[0] = (__u8)ctx->args[1];
	point->numbers[1] = (__u32)ctx->args[2];
	point->numbers[2] = BPF_CORE_READ(request, __sector);
	point->numbers[3] = BPF_CORE_READ(request, cmd_flags);
	ring_submit_urgent(point);
	return 0;
}
