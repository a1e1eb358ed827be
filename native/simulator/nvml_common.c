// SPDX-License-Identifier: Apache-2.0
/* What every simulated NVML call begins with: initialised? a handle? to go wrong? */
#include <math.h>
#include <pthread.h>

#include "nvml_calls.h"

#define PLACES (SIMULATED_INSTANCES + 1)

static pthread_mutex_t changing = PTHREAD_MUTEX_INITIALIZER;
static int initialised; /* how often: each needs its nvmlShutdown */
static struct nvml_device handles[SIMULATED_DEVICES][PLACES];

static void make_handles(void)
{
	for (uint32_t slot = 0; slot < SIMULATED_DEVICES; slot++) {
		for (int place = 0; place < PLACES; place++)
			handles[slot][place] = (struct nvml_device){slot, place - 1};
	}
}

static nvml_return_t open_for_nvidia(void)
{
	switch (simulation_open(SIMULATED_NVIDIA)) {
	case SIMULATION_READY:
		return simulation_fault(simulation_now(), NULL, SIMULATED_CALL_INIT);
	case SIMULATION_ABSENT:
		return NVML_RETURN_DRIVER_NOT_LOADED;
	default:
		return NVML_RETURN_UNKNOWN;
	}
}

EXPORTED nvml_return_t nvmlInitWithFlags(uint32_t flags)
{
	nvml_return_t code = open_for_nvidia();

	(void)flags;
	if (code)
		return code;
	pthread_mutex_lock(&changing);
	make_handles();
	__atomic_add_fetch(&initialised, 1, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&changing);
	return NVML_RETURN_OK;
}

EXPORTED nvml_return_t nvmlInit_v2(void)
{
	return nvmlInitWithFlags(0);
}

EXPORTED nvml_return_t nvmlInit(void)
{
	return nvmlInitWithFlags(0);
}

EXPORTED nvml_return_t nvmlShutdown(void)
{
	nvml_return_t code = NVML_RETURN_OK;

	pthread_mutex_lock(&changing);
	if (initialised)
		initialised--;
	else
		code = NVML_RETURN_UNINITIALIZED;
	pthread_mutex_unlock(&changing);
	return code;
}

nvml_return_t nvml_begin_system(const struct simulation **now, enum simulated_group group)
{
	if (!__atomic_load_n(&initialised, __ATOMIC_ACQUIRE))
		return NVML_RETURN_UNINITIALIZED;
	*now = simulation_now();
	return *now ? simulation_fault(*now, NULL, group) : NVML_RETURN_UNKNOWN;
}

static int is_handle(nvml_device_t handle)
{
	uintptr_t first = (uintptr_t)handles, at = (uintptr_t)handle;

	return at >= first && at < first + sizeof(handles) && (at - first) % sizeof(*handle) == 0;
}

static nvml_return_t look_up(struct nvml_call *call, nvml_device_t handle)
{
	if (!__atomic_load_n(&initialised, __ATOMIC_ACQUIRE))
		return NVML_RETURN_UNINITIALIZED;
	call->now = simulation_now();
	if (!call->now)
		return NVML_RETURN_UNKNOWN;
	if (!is_handle(handle))
		return NVML_RETURN_INVALID_ARGUMENT;
	call->device = &call->now->device[handle->slot];
	call->instance = handle->instance < 0 ? NULL : &call->device->instance[handle->instance];
	return NVML_RETURN_OK;
}

static nvml_return_t still_there(const struct nvml_call *call)
{
	if (!call->device->present || call->device->lost)
		return NVML_RETURN_GPU_IS_LOST;
	return call->instance && !call->instance->present ? NVML_RETURN_NOT_FOUND : NVML_RETURN_OK;
}

nvml_return_t nvml_begin(struct nvml_call *call, nvml_device_t handle, enum simulated_group group)
{
	nvml_return_t code = look_up(call, handle);

	if (!code)
		code = simulation_fault(call->now, call->device, group);
	return code ? code : still_there(call);
}

nvml_return_t nvml_begin_plain(struct nvml_call *call, nvml_device_t handle)
{
	nvml_return_t code = look_up(call, handle);

	return code ? code : still_there(call);
}

nvml_return_t nvml_begin_whole(struct nvml_call *call, nvml_device_t handle, enum simulated_group group)
{
	nvml_return_t code = nvml_begin(call, handle, group);

	return code || !call->instance ? code : NVML_RETURN_NOT_SUPPORTED;
}

nvml_device_t nvml_handle(const struct simulation *now, const struct simulated_device *device, int32_t instance)
{
	return &handles[device - now->device][instance + 1];
}

uint32_t nvml_u32(double value)
{
	uint64_t whole = simulation_integer(value + 0.5);

	return whole < UINT32_MAX ? whole : UINT32_MAX;
}

nvml_return_t nvml_get_u64(nvml_device_t handle, enum simulated_group group, enum simulated_quantity of, double scale,
			   uint64_t *to)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin_whole(&call, handle, group);
	double value;

	if (code)
		return code;
	if (!to)
		return NVML_RETURN_INVALID_ARGUMENT;
	value = simulation_value(call.device, of);
	if (isnan(value))
		return NVML_RETURN_NOT_SUPPORTED;
	*to = simulation_integer(value * scale + 0.5);
	return NVML_RETURN_OK;
}

nvml_return_t nvml_get_u32(nvml_device_t handle, enum simulated_group group, enum simulated_quantity of, double scale,
			   uint32_t *to)
{
	uint64_t wide = 0;
	nvml_return_t code = nvml_get_u64(handle, group, of, scale, &wide);

	if (code)
		return code;
	if (!to)
		return NVML_RETURN_INVALID_ARGUMENT;
	*to = wide < UINT32_MAX ? wide : UINT32_MAX;
	return NVML_RETURN_OK;
}
