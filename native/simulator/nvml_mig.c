// SPDX-License-Identifier: Apache-2.0
/* Simulated NVML: how a device is partitioned. */
#include <math.h>
#include <string.h>

#include "nvml_calls.h"

#define MIG_DEVICES_MAX 7
#define MEBI 0x100000

EXPORTED nvml_return_t nvmlDeviceGetMigMode(nvml_device_t handle, uint32_t *current, uint32_t *pending)
{
	nvml_return_t code = nvml_get_u32(handle, SIMULATED_CALL_MIG, SIMULATED_MIG_MODE, 1.0, current);

	if (!code && pending)
		*pending = *current;
	return code;
}

EXPORTED nvml_return_t nvmlDeviceIsMigDeviceHandle(nvml_device_t handle, uint32_t *is_instance)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin(&call, handle, SIMULATED_CALL_MIG);

	if (code)
		return code;
	if (!is_instance)
		return NVML_RETURN_INVALID_ARGUMENT;
	*is_instance = call.instance != NULL;
	return NVML_RETURN_OK;
}

static nvml_return_t number_of_instance(nvml_device_t handle, size_t offset, uint32_t *to)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin(&call, handle, SIMULATED_CALL_MIG);

	if (code)
		return code;
	if (!to || !call.instance)
		return NVML_RETURN_INVALID_ARGUMENT;
	memcpy(to, (const char *)call.instance + offset, sizeof(*to));
	return NVML_RETURN_OK;
}

EXPORTED nvml_return_t nvmlDeviceGetGpuInstanceId(nvml_device_t handle, uint32_t *id)
{
	return number_of_instance(handle, offsetof(struct simulated_instance, gpu_instance), id);
}

EXPORTED nvml_return_t nvmlDeviceGetComputeInstanceId(nvml_device_t handle, uint32_t *id)
{
	return number_of_instance(handle, offsetof(struct simulated_instance, compute_instance), id);
}

EXPORTED nvml_return_t nvmlDeviceGetMaxMigDeviceCount(nvml_device_t handle, uint32_t *count)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin_whole(&call, handle, SIMULATED_CALL_MIG);

	if (code)
		return code;
	if (!count)
		return NVML_RETURN_INVALID_ARGUMENT;
	*count = isnan(simulation_value(call.device, SIMULATED_MIG_MODE)) ? 0 : MIG_DEVICES_MAX;
	return NVML_RETURN_OK;
}

EXPORTED nvml_return_t nvmlDeviceGetMigDeviceHandleByIndex(nvml_device_t handle, uint32_t index, nvml_device_t *to)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin_whole(&call, handle, SIMULATED_CALL_MIG);

	if (code)
		return code;
	if (!to || index >= SIMULATED_INSTANCES)
		return NVML_RETURN_INVALID_ARGUMENT;
	if (!(simulation_value(call.device, SIMULATED_MIG_MODE) > 0) || !call.device->instance[index].present)
		return NVML_RETURN_NOT_FOUND;
	*to = nvml_handle(call.now, call.device, index);
	return NVML_RETURN_OK;
}

EXPORTED nvml_return_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvml_device_t handle, nvml_device_t *to)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin(&call, handle, SIMULATED_CALL_MIG);

	if (code)
		return code;
	if (!to || !call.instance)
		return NVML_RETURN_INVALID_ARGUMENT;
	*to = nvml_handle(call.now, call.device, -1);
	return NVML_RETURN_OK;
}

EXPORTED nvml_return_t nvmlDeviceGetAttributes_v2(nvml_device_t handle, struct nvml_attributes *to)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin(&call, handle, SIMULATED_CALL_MIG);

	if (code)
		return code;
	if (!to)
		return NVML_RETURN_INVALID_ARGUMENT;
	if (!call.instance)
		return NVML_RETURN_NOT_SUPPORTED;
	*to = (struct nvml_attributes){
		.multiprocessors = call.instance->multiprocessors,
		.shared_copy_engines = call.instance->slices,
		.shared_decoders = call.instance->slices / 2,
		.gpu_instance_slices = call.instance->slices,
		.compute_instance_slices = call.instance->slices,
		.memory_mebibytes = call.instance->memory_total_bytes / MEBI,
	};
	return NVML_RETURN_OK;
}
