// SPDX-License-Identifier: Apache-2.0
/* Simulated NVML: processes and what they use. */
#include <string.h>
#include <time.h>

#include "nvml_calls.h"

#define PERCENT 100.0
#define US_PER_S 1000000ULL
#define NS_PER_US 1000ULL

/* Copies the processes of a device, or of a MIG instance; gives how many. */
static uint32_t processes_of(const struct nvml_call *call, struct simulated_process *found)
{
	struct simulated_process all[SIMULATED_PROCESSES];
	uint32_t count = 0;

	simulation_copy(call->device, all, call->device->process, sizeof(all));
	for (uint32_t n = 0; n < SIMULATED_PROCESSES; n++) {
		if (all[n].pid && (!call->instance || all[n].gpu_instance == call->instance->gpu_instance))
			found[count++] = all[n];
	}
	return count;
}

static nvml_return_t running(nvml_device_t handle, uint32_t *room, struct nvml_process *to, int graphics)
{
	struct simulated_process found[SIMULATED_PROCESSES];
	struct nvml_call call;
	nvml_return_t code = nvml_begin(&call, handle, SIMULATED_CALL_PROCESSES);
	uint32_t count, wanted = 0;

	if (code)
		return code;
	if (!room)
		return NVML_RETURN_INVALID_ARGUMENT;
	count = processes_of(&call, found);
	for (uint32_t n = 0; n < count; n++) {
		if (!found[n].graphics != !graphics)
			continue;
		if (to && wanted < *room)
			to[wanted] = (struct nvml_process){found[n].pid, 0, found[n].memory_bytes, found[n].gpu_instance,
							   found[n].compute_instance};
		wanted++;
	}
	code = wanted > *room ? NVML_RETURN_INSUFFICIENT_SIZE : NVML_RETURN_OK;
	*room = wanted;
	return code;
}

EXPORTED nvml_return_t nvmlDeviceGetComputeRunningProcesses_v3(nvml_device_t handle, uint32_t *count,
							       struct nvml_process *to)
{
	return running(handle, count, to, 0);
}

EXPORTED nvml_return_t nvmlDeviceGetComputeRunningProcesses_v2(nvml_device_t handle, uint32_t *count,
							       struct nvml_process *to)
{
	return running(handle, count, to, 0);
}

EXPORTED nvml_return_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvml_device_t handle, uint32_t *count,
								struct nvml_process *to)
{
	return running(handle, count, to, 1);
}

EXPORTED nvml_return_t nvmlDeviceGetGraphicsRunningProcesses_v2(nvml_device_t handle, uint32_t *count,
								struct nvml_process *to)
{
	return running(handle, count, to, 1);
}

EXPORTED nvml_return_t nvmlDeviceGetMPSComputeRunningProcesses_v3(nvml_device_t handle, uint32_t *count,
								  struct nvml_process *to)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin(&call, handle, SIMULATED_CALL_PROCESSES);

	(void)to;
	if (!code && count)
		*count = 0;
	return !code && !count ? NVML_RETURN_INVALID_ARGUMENT : code;
}

static uint64_t wall_clock_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec * US_PER_S + now.tv_nsec / NS_PER_US;
}

/* The driver keeps samples of the last seconds, six a second: those after `last_seen_us`, one for each process. */
static nvml_return_t samples(nvml_device_t handle, uint64_t last_seen_us, struct simulated_process *found,
			     uint32_t *count, uint64_t *at_us)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin_whole(&call, handle, SIMULATED_CALL_PROCESSES);
	uint64_t period_us = US_PER_S / 6;

	if (code)
		return code;
	*at_us = wall_clock_us() / period_us * period_us;
	if (simulation_value(call.device, SIMULATED_MIG_MODE) > 0)
		return NVML_RETURN_NOT_SUPPORTED;
	*count = processes_of(&call, found);
	return *count && *at_us > last_seen_us ? NVML_RETURN_OK : NVML_RETURN_NOT_FOUND;
}

EXPORTED nvml_return_t nvmlDeviceGetProcessUtilization(nvml_device_t handle, struct nvml_process_utilization *to,
						       uint32_t *room, uint64_t last_seen_us)
{
	struct simulated_process found[SIMULATED_PROCESSES];
	uint32_t count = 0;
	uint64_t at_us;
	nvml_return_t code = samples(handle, last_seen_us, found, &count, &at_us);

	if (code)
		return code;
	if (!room)
		return NVML_RETURN_INVALID_ARGUMENT;
	if (!to || *room < count) {
		*room = count;
		return NVML_RETURN_INSUFFICIENT_SIZE;
	}
	for (uint32_t n = 0; n < count; n++) {
		to[n] = (struct nvml_process_utilization){
			found[n].pid, 0, at_us, nvml_u32(found[n].utilization_ratio * PERCENT),
			nvml_u32(found[n].memory_utilization_ratio * PERCENT), nvml_u32(found[n].encoder_ratio * PERCENT),
			nvml_u32(found[n].decoder_ratio * PERCENT)};
	}
	*room = count;
	return NVML_RETURN_OK;
}

EXPORTED nvml_return_t nvmlDeviceGetProcessesUtilizationInfo(nvml_device_t handle, struct nvml_processes_utilization *to)
{
	struct simulated_process found[SIMULATED_PROCESSES];
	uint32_t count = 0, room;
	uint64_t at_us;
	nvml_return_t code;

	if (!to)
		return NVML_RETURN_INVALID_ARGUMENT;
	if (to->version != VERSION_WORD(*to, 1))
		return NVML_RETURN_VERSION_MISMATCH;
	code = samples(handle, to->last_seen_us, found, &count, &at_us);
	if (code)
		return code;
	room = to->count;
	to->count = count;
	if (!to->processes || room < count)
		return NVML_RETURN_INSUFFICIENT_SIZE;
	for (uint32_t n = 0; n < count; n++) {
		to->processes[n] = (struct nvml_process_utilization_info){
			at_us, found[n].pid, nvml_u32(found[n].utilization_ratio * PERCENT),
			nvml_u32(found[n].memory_utilization_ratio * PERCENT), nvml_u32(found[n].encoder_ratio * PERCENT),
			nvml_u32(found[n].decoder_ratio * PERCENT), 0, 0};
	}
	return NVML_RETURN_OK;
}
