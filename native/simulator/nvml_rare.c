// SPDX-License-Identifier: Apache-2.0
/* Simulated NVML: what other programs ask and the sampler does not. */
#include <stddef.h>

#include "nvml_calls.h"

/* A switch that is off on every machine without a display. */
static nvml_return_t off(nvml_device_t handle, uint32_t *to)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin_whole(&call, handle, SIMULATED_CALL_IDENTITY);

	if (code)
		return code;
	if (!to)
		return NVML_RETURN_INVALID_ARGUMENT;
	*to = 0;
	return NVML_RETURN_OK;
}

static nvml_return_t not_here(nvml_device_t handle)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin(&call, handle, SIMULATED_CALL_IDENTITY);

	return code ? code : NVML_RETURN_NOT_SUPPORTED;
}

EXPORTED nvml_return_t nvmlDeviceGetDisplayActive(nvml_device_t handle, uint32_t *active)
{
	return off(handle, active);
}

EXPORTED nvml_return_t nvmlDeviceGetDisplayMode(nvml_device_t handle, uint32_t *mode)
{
	return off(handle, mode);
}

EXPORTED nvml_return_t nvmlDeviceGetComputeMode(nvml_device_t handle, uint32_t *mode)
{
	return off(handle, mode);
}

EXPORTED nvml_return_t nvmlDeviceGetAccountingMode(nvml_device_t handle, uint32_t *mode)
{
	return off(handle, mode);
}

/* Driver models are of Windows. */
EXPORTED nvml_return_t nvmlDeviceGetDriverModel(nvml_device_t handle, uint32_t *current, uint32_t *pending)
{
	(void)current, (void)pending;
	return not_here(handle);
}

EXPORTED nvml_return_t nvmlDeviceGetDriverModel_v2(nvml_device_t handle, uint32_t *current, uint32_t *pending)
{
	(void)current, (void)pending;
	return not_here(handle);
}

EXPORTED nvml_return_t nvmlDeviceGetVirtualizationMode(nvml_device_t handle, uint32_t *mode)
{
	return off(handle, mode);
}

EXPORTED nvml_return_t nvmlDeviceGetGpuOperationMode(nvml_device_t handle, uint32_t *current, uint32_t *pending)
{
	(void)current, (void)pending;
	return not_here(handle);
}

EXPORTED nvml_return_t nvmlDeviceGetIrqNum(nvml_device_t handle, uint32_t *number)
{
	(void)number;
	return not_here(handle);
}

EXPORTED nvml_return_t nvmlDeviceGetMultiGpuBoard(nvml_device_t handle, uint32_t *is)
{
	return off(handle, is);
}
