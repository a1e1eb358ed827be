// SPDX-License-Identifier: Apache-2.0
/* Simulated NVML: which devices are near to which, and to which processors. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "nvml_calls.h"

#define BITS_PER_LONG (8 * sizeof(unsigned long))

enum ancestor {
	INTERNAL = 0,
	ONE_SWITCH = 10,
	SAME_NODE = 40,
	SYSTEM = 50,
};

static enum ancestor ancestor(const struct simulated_device *one, const struct simulated_device *other)
{
	if (one == other || one->identity.board_id == other->identity.board_id)
		return INTERNAL;
	if (one->identity.pcie_switch == other->identity.pcie_switch)
		return ONE_SWITCH;
	return one->identity.numa_node == other->identity.numa_node ? SAME_NODE : SYSTEM;
}

static nvml_return_t begin_pair(struct nvml_call *call, struct nvml_call *other, nvml_device_t a, nvml_device_t b)
{
	nvml_return_t code = nvml_begin_whole(call, a, SIMULATED_CALL_TOPOLOGY);

	return code ? code : nvml_begin_whole(other, b, SIMULATED_CALL_TOPOLOGY);
}

EXPORTED nvml_return_t nvmlDeviceGetTopologyCommonAncestor(nvml_device_t a, nvml_device_t b, uint32_t *level)
{
	struct nvml_call call, other;
	nvml_return_t code = begin_pair(&call, &other, a, b);

	if (code)
		return code;
	if (!level)
		return NVML_RETURN_INVALID_ARGUMENT;
	*level = ancestor(call.device, other.device);
	return NVML_RETURN_OK;
}

EXPORTED nvml_return_t nvmlDeviceOnSameBoard(nvml_device_t a, nvml_device_t b, int32_t *same)
{
	uint32_t level = SYSTEM;
	nvml_return_t code = nvmlDeviceGetTopologyCommonAncestor(a, b, &level);

	if (!code && same)
		*same = level == INTERNAL;
	return !code && !same ? NVML_RETURN_INVALID_ARGUMENT : code;
}

EXPORTED nvml_return_t nvmlDeviceGetTopologyNearestGpus(nvml_device_t handle, uint32_t level, uint32_t *count,
							nvml_device_t *to)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin_whole(&call, handle, SIMULATED_CALL_TOPOLOGY);
	uint32_t room, found = 0;

	if (code)
		return code;
	if (!count)
		return NVML_RETURN_INVALID_ARGUMENT;
	room = *count;
	for (uint32_t index = 0; index < SIMULATED_DEVICES; index++) {
		const struct simulated_device *other = simulation_device(call.now, index);

		if (!other || other == call.device || ancestor(call.device, other) != (enum ancestor)level)
			continue;
		if (to && found < room)
			to[found] = nvml_handle(call.now, other, -1);
		found++;
	}
	*count = to && found > room ? room : found;
	return NVML_RETURN_OK;
}

static int are_linked(const struct simulated_device *device, const struct simulated_device *other, uint32_t slot)
{
	for (uint32_t link = 0; link < SIMULATED_LINKS; link++) {
		const struct simulated_link *to = &device->link[link];

		if (to->present && (to->remote_device == (int32_t)slot || (to->remote_device < 0 && other->link[link].present)))
			return 1;
	}
	return 0;
}

/* Index 2 asks for NVLink; the others (read, write, atomics, …) for what both ways of transfer can do. */
EXPORTED nvml_return_t nvmlDeviceGetP2PStatus(nvml_device_t a, nvml_device_t b, uint32_t index, uint32_t *status)
{
	struct nvml_call call, other;
	nvml_return_t code = begin_pair(&call, &other, a, b);
	int linked;

	if (code)
		return code;
	if (!status)
		return NVML_RETURN_INVALID_ARGUMENT;
	linked = are_linked(call.device, other.device, other.device - call.now->device);
	*status = index != 2 || linked ? 0 : 5; /* OK, or not supported */
	return NVML_RETURN_OK;
}

/* Sets the bits that a list such as "0-3,8" names. */
static void set_bits(const char *list, unsigned long *set, uint32_t words)
{
	uint32_t first, last;
	int read;

	while (sscanf(list, "%u%n", &first, &read) == 1) {
		list += read;
		last = first;
		if (sscanf(list, "-%u%n", &last, &read) == 1)
			list += read;
		for (uint32_t bit = first; bit <= last && bit / BITS_PER_LONG < words; bit++)
			set[bit / BITS_PER_LONG] |= 1UL << bit % BITS_PER_LONG;
		list += *list == ',';
	}
}

/* The processors of the device's node, as this machine has them; all of them when it lacks the node. */
EXPORTED nvml_return_t nvmlDeviceGetCpuAffinity(nvml_device_t handle, uint32_t words, unsigned long *set)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin_whole(&call, handle, SIMULATED_CALL_TOPOLOGY);
	char path[96], list[4096] = "";
	FILE *file;

	if (code)
		return code;
	if (!set || !words)
		return NVML_RETURN_INVALID_ARGUMENT;
	memset(set, 0, words * sizeof(*set));
	snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/cpulist", call.device->identity.numa_node);
	file = fopen(path, "re");
	if (!file)
		file = fopen("/sys/devices/system/cpu/online", "re");
	if (!file)
		return NVML_RETURN_NOT_SUPPORTED;
	if (fgets(list, sizeof(list), file))
		set_bits(list, set, words);
	fclose(file);
	return NVML_RETURN_OK;
}

EXPORTED nvml_return_t nvmlDeviceGetCpuAffinityWithinScope(nvml_device_t handle, uint32_t words, unsigned long *set,
							   uint32_t scope)
{
	(void)scope;
	return nvmlDeviceGetCpuAffinity(handle, words, set);
}

EXPORTED nvml_return_t nvmlDeviceGetMemoryAffinity(nvml_device_t handle, uint32_t words, unsigned long *set,
						   uint32_t scope)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin_whole(&call, handle, SIMULATED_CALL_TOPOLOGY);
	uint32_t node;

	(void)scope;
	if (code)
		return code;
	if (!set || !words)
		return NVML_RETURN_INVALID_ARGUMENT;
	node = call.device->identity.numa_node;
	memset(set, 0, words * sizeof(*set));
	if (node / BITS_PER_LONG < words)
		set[node / BITS_PER_LONG] = 1UL << node % BITS_PER_LONG;
	return NVML_RETURN_OK;
}
