// SPDX-License-Identifier: Apache-2.0
/* Simulated NVML: utilization, memory, temperature, power, clocks, fans. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "nvml_calls.h"

#define PERCENT 100.0
#define MILLI 1e3
#define PER_MEGAHERTZ 1e-6
#define SAMPLING_PERIOD_US 166666

EXPORTED nvml_return_t nvmlDeviceGetUtilizationRates(nvml_device_t handle, struct nvml_utilization *to)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin_whole(&call, handle, SIMULATED_CALL_UTILIZATION);
	double gpu, memory;

	if (code)
		return code;
	if (!to)
		return NVML_RETURN_INVALID_ARGUMENT;
	gpu = simulation_value(call.device, SIMULATED_UTILIZATION_RATIO);
	memory = simulation_value(call.device, SIMULATED_MEMORY_UTILIZATION_RATIO);
	if (isnan(gpu) || isnan(memory))
		return NVML_RETURN_NOT_SUPPORTED;
	*to = (struct nvml_utilization){nvml_u32(gpu * PERCENT), nvml_u32(memory * PERCENT)};
	return NVML_RETURN_OK;
}

static nvml_return_t engine(nvml_device_t handle, enum simulated_quantity of, uint32_t *percent, uint32_t *period_us)
{
	nvml_return_t code = nvml_get_u32(handle, SIMULATED_CALL_CODEC, of, PERCENT, percent);

	if (!code && period_us)
		*period_us = SAMPLING_PERIOD_US;
	return code;
}

EXPORTED nvml_return_t nvmlDeviceGetEncoderUtilization(nvml_device_t handle, uint32_t *percent, uint32_t *period_us)
{
	return engine(handle, SIMULATED_ENCODER_RATIO, percent, period_us);
}

EXPORTED nvml_return_t nvmlDeviceGetDecoderUtilization(nvml_device_t handle, uint32_t *percent, uint32_t *period_us)
{
	return engine(handle, SIMULATED_DECODER_RATIO, percent, period_us);
}

EXPORTED nvml_return_t nvmlDeviceGetJpgUtilization(nvml_device_t handle, uint32_t *percent, uint32_t *period_us)
{
	return engine(handle, SIMULATED_JPEG_RATIO, percent, period_us);
}

EXPORTED nvml_return_t nvmlDeviceGetOfaUtilization(nvml_device_t handle, uint32_t *percent, uint32_t *period_us)
{
	return engine(handle, SIMULATED_OFA_RATIO, percent, period_us);
}

static void instance_memory(const struct simulated_instance *instance, struct nvml_memory_v2 *to)
{
	uint64_t total = instance->memory_total_bytes;
	uint64_t used = instance->memory_used_bytes < total ? instance->memory_used_bytes : total;

	to->total_bytes = total;
	to->reserved_bytes = 0;
	to->used_bytes = used;
	to->free_bytes = total - used;
}

static void device_memory(const struct simulated_device *device, struct nvml_memory_v2 *to)
{
	double total = simulation_value(device, SIMULATED_MEMORY_TOTAL_BYTES);
	double reserved = simulation_value(device, SIMULATED_MEMORY_RESERVED_BYTES);
	double used = simulation_memory_used(device);

	to->total_bytes = simulation_integer(total);
	to->reserved_bytes = simulation_integer(fmin(reserved, total));
	to->used_bytes = simulation_integer(fmin(used, total - (double)to->reserved_bytes));
	to->free_bytes = to->total_bytes - to->reserved_bytes - to->used_bytes;
}

static nvml_return_t memory(nvml_device_t handle, struct nvml_memory_v2 *to)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin(&call, handle, SIMULATED_CALL_MEMORY);

	if (code)
		return code;
	if (call.instance)
		instance_memory(call.instance, to);
	else if (isnan(call.device->value[SIMULATED_MEMORY_TOTAL_BYTES].base))
		return NVML_RETURN_NOT_SUPPORTED;
	else
		device_memory(call.device, to);
	return NVML_RETURN_OK;
}

EXPORTED nvml_return_t nvmlDeviceGetMemoryInfo(nvml_device_t handle, struct nvml_memory *to)
{
	struct nvml_memory_v2 found;
	nvml_return_t code = memory(handle, &found);

	if (code)
		return code;
	if (!to)
		return NVML_RETURN_INVALID_ARGUMENT;
	*to = (struct nvml_memory){found.total_bytes, found.free_bytes, found.used_bytes + found.reserved_bytes};
	return NVML_RETURN_OK;
}

EXPORTED nvml_return_t nvmlDeviceGetMemoryInfo_v2(nvml_device_t handle, struct nvml_memory_v2 *to)
{
	if (to && to->version != NVML_MEMORY_V2)
		return NVML_RETURN_VERSION_MISMATCH;
	return to ? memory(handle, to) : NVML_RETURN_INVALID_ARGUMENT;
}

EXPORTED nvml_return_t nvmlDeviceGetBAR1MemoryInfo(nvml_device_t handle, struct nvml_bar1 *to)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin(&call, handle, SIMULATED_CALL_MEMORY);
	double share = 1.0;
	uint64_t total, used;

	if (code)
		return code;
	if (!to)
		return NVML_RETURN_INVALID_ARGUMENT;
	if (call.instance)
		share = (double)call.instance->memory_total_bytes /
			simulation_value(call.device, SIMULATED_MEMORY_TOTAL_BYTES);
	total = simulation_integer(simulation_value(call.device, SIMULATED_BAR1_TOTAL_BYTES) * share);
	used = simulation_integer(simulation_value(call.device, SIMULATED_BAR1_USED_BYTES) * share);
	*to = (struct nvml_bar1){total, used < total ? total - used : 0, used};
	return total ? NVML_RETURN_OK : NVML_RETURN_NOT_SUPPORTED;
}

EXPORTED nvml_return_t nvmlDeviceGetTemperature(nvml_device_t handle, uint32_t sensor, uint32_t *celsius)
{
	if (sensor != NVML_SENSOR_GPU)
		return NVML_RETURN_INVALID_ARGUMENT;
	return nvml_get_u32(handle, SIMULATED_CALL_TEMPERATURE, SIMULATED_TEMPERATURE_CELSIUS, 1.0, celsius);
}

EXPORTED nvml_return_t nvmlDeviceGetTemperatureV(nvml_device_t handle, struct nvml_temperature *to)
{
	uint32_t celsius = 0;
	nvml_return_t code;

	if (!to)
		return NVML_RETURN_INVALID_ARGUMENT;
	if (to->version != NVML_TEMPERATURE_V1)
		return NVML_RETURN_VERSION_MISMATCH;
	code = nvmlDeviceGetTemperature(handle, to->sensor, &celsius);
	if (!code)
		to->celsius = celsius;
	return code;
}

EXPORTED nvml_return_t nvmlDeviceGetTemperatureThreshold(nvml_device_t handle, uint32_t threshold, uint32_t *celsius)
{
	static const enum simulated_quantity known[] = {
		[NVML_THRESHOLD_SHUTDOWN] = SIMULATED_TEMPERATURE_SHUTDOWN_CELSIUS,
		[NVML_THRESHOLD_SLOWDOWN] = SIMULATED_TEMPERATURE_SLOWDOWN_CELSIUS,
		[NVML_THRESHOLD_MEMORY_MAX] = SIMULATED_MEMORY_TEMPERATURE_MAX_CELSIUS,
		[3] = SIMULATED_TEMPERATURE_MAX_CELSIUS,
	};

	if (threshold >= sizeof(known) / sizeof(*known))
		return NVML_RETURN_NOT_SUPPORTED;
	return nvml_get_u32(handle, SIMULATED_CALL_LIMITS, known[threshold], 1.0, celsius);
}

EXPORTED nvml_return_t nvmlDeviceGetPowerUsage(nvml_device_t handle, uint32_t *milliwatts)
{
	return nvml_get_u32(handle, SIMULATED_CALL_POWER, SIMULATED_POWER_WATTS, MILLI, milliwatts);
}

EXPORTED nvml_return_t nvmlDeviceGetTotalEnergyConsumption(nvml_device_t handle, uint64_t *millijoules)
{
	return nvml_get_u64(handle, SIMULATED_CALL_POWER, SIMULATED_ENERGY_JOULES, MILLI, millijoules);
}

EXPORTED nvml_return_t nvmlDeviceGetPowerManagementLimit(nvml_device_t handle, uint32_t *milliwatts)
{
	return nvml_get_u32(handle, SIMULATED_CALL_LIMITS, SIMULATED_POWER_LIMIT_WATTS, MILLI, milliwatts);
}

EXPORTED nvml_return_t nvmlDeviceGetEnforcedPowerLimit(nvml_device_t handle, uint32_t *milliwatts)
{
	return nvmlDeviceGetPowerManagementLimit(handle, milliwatts);
}

EXPORTED nvml_return_t nvmlDeviceGetPowerManagementDefaultLimit(nvml_device_t handle, uint32_t *milliwatts)
{
	return nvml_get_u32(handle, SIMULATED_CALL_LIMITS, SIMULATED_POWER_LIMIT_DEFAULT_WATTS, MILLI, milliwatts);
}

EXPORTED nvml_return_t nvmlDeviceGetPowerManagementLimitConstraints(nvml_device_t handle, uint32_t *min, uint32_t *max)
{
	nvml_return_t code = nvml_get_u32(handle, SIMULATED_CALL_LIMITS, SIMULATED_POWER_LIMIT_MIN_WATTS, MILLI, min);

	if (code)
		return code;
	return nvml_get_u32(handle, SIMULATED_CALL_LIMITS, SIMULATED_POWER_LIMIT_MAX_WATTS, MILLI, max);
}

EXPORTED nvml_return_t nvmlDeviceGetPowerManagementMode(nvml_device_t handle, uint32_t *enabled)
{
	return nvml_get_u32(handle, SIMULATED_CALL_LIMITS, SIMULATED_PERSISTENCE_MODE, 1.0, enabled);
}

EXPORTED nvml_return_t nvmlDeviceGetPersistenceMode(nvml_device_t handle, uint32_t *enabled)
{
	return nvml_get_u32(handle, SIMULATED_CALL_IDENTITY, SIMULATED_PERSISTENCE_MODE, 1.0, enabled);
}

EXPORTED nvml_return_t nvmlDeviceGetClockInfo(nvml_device_t handle, uint32_t domain, uint32_t *megahertz)
{
	if (domain > NVML_DOMAIN_VIDEO)
		return NVML_RETURN_INVALID_ARGUMENT;
	return nvml_get_u32(handle, SIMULATED_CALL_CLOCKS, SIMULATED_CLOCK_GRAPHICS_HERTZ + domain, PER_MEGAHERTZ,
			    megahertz);
}

EXPORTED nvml_return_t nvmlDeviceGetMaxClockInfo(nvml_device_t handle, uint32_t domain, uint32_t *megahertz)
{
	if (domain > NVML_DOMAIN_VIDEO)
		return NVML_RETURN_INVALID_ARGUMENT;
	return nvml_get_u32(handle, SIMULATED_CALL_LIMITS, SIMULATED_CLOCK_GRAPHICS_MAX_HERTZ + domain, PER_MEGAHERTZ,
			    megahertz);
}

EXPORTED nvml_return_t nvmlDeviceGetClock(nvml_device_t handle, uint32_t domain, uint32_t which, uint32_t *megahertz)
{
	if (which == 0)
		return nvmlDeviceGetClockInfo(handle, domain, megahertz);
	return nvmlDeviceGetMaxClockInfo(handle, domain, megahertz);
}

EXPORTED nvml_return_t nvmlDeviceGetApplicationsClock(nvml_device_t handle, uint32_t domain, uint32_t *megahertz)
{
	return nvmlDeviceGetMaxClockInfo(handle, domain, megahertz);
}

EXPORTED nvml_return_t nvmlDeviceGetCurrentClocksEventReasons(nvml_device_t handle, uint64_t *reasons)
{
	return nvml_get_u64(handle, SIMULATED_CALL_CLOCKS, SIMULATED_CLOCK_EVENT_REASONS, 1.0, reasons);
}

EXPORTED nvml_return_t nvmlDeviceGetCurrentClocksThrottleReasons(nvml_device_t handle, uint64_t *reasons)
{
	return nvmlDeviceGetCurrentClocksEventReasons(handle, reasons);
}

EXPORTED nvml_return_t nvmlDeviceGetSupportedClocksEventReasons(nvml_device_t handle, uint64_t *reasons)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin_whole(&call, handle, SIMULATED_CALL_CLOCKS);

	if (!code && reasons)
		*reasons = 0x1ff;
	return !code && !reasons ? NVML_RETURN_INVALID_ARGUMENT : code;
}

EXPORTED nvml_return_t nvmlDeviceGetSupportedClocksThrottleReasons(nvml_device_t handle, uint64_t *reasons)
{
	return nvmlDeviceGetSupportedClocksEventReasons(handle, reasons);
}

EXPORTED nvml_return_t nvmlDeviceGetPerformanceState(nvml_device_t handle, uint32_t *state)
{
	return nvml_get_u32(handle, SIMULATED_CALL_CLOCKS, SIMULATED_PERFORMANCE_STATE, 1.0, state);
}

EXPORTED nvml_return_t nvmlDeviceGetPowerState(nvml_device_t handle, uint32_t *state)
{
	return nvmlDeviceGetPerformanceState(handle, state);
}

EXPORTED nvml_return_t nvmlDeviceGetFanSpeed(nvml_device_t handle, uint32_t *percent)
{
	return nvml_get_u32(handle, SIMULATED_CALL_FAN, SIMULATED_FAN_RATIO, PERCENT, percent);
}

EXPORTED nvml_return_t nvmlDeviceGetFanSpeed_v2(nvml_device_t handle, uint32_t fan, uint32_t *percent)
{
	(void)fan;
	return nvmlDeviceGetFanSpeed(handle, percent);
}

/* The reason's counter of time; the reference is the time since boot. */
EXPORTED nvml_return_t nvmlDeviceGetViolationStatus(nvml_device_t handle, uint32_t policy, struct nvml_violation *to)
{
	enum simulated_quantity of = SIMULATED_THROTTLE_POWER_SECONDS + policy;
	nvml_return_t code;

	if (!to)
		return NVML_RETURN_INVALID_ARGUMENT;
	if (policy == 10 || policy == 11)
		of = SIMULATED_THROTTLE_APP_CLOCKS_SECONDS + (policy - 10);
	else if (of > SIMULATED_THROTTLE_RELIABILITY_SECONDS)
		return NVML_RETURN_INVALID_ARGUMENT;
	code = nvml_get_u64(handle, SIMULATED_CALL_THROTTLE, of, 1e9, &to->violation_ns);
	if (!code)
		to->reference_ns = simulation_clock_ns();
	return code;
}
