/* SPDX-License-Identifier: Apache-2.0 */
/* A libnvidia-ml.so.1 that answers what a test wrote into the variables below. */
#include "nvml_abi.h"

#include <string.h>
#include <unistd.h>

#define ANSWERS(X)                                                                                                     \
	X(init) X(shutdown) X(count) X(handle) X(field_values) X(utilization) X(encoder) X(decoder) X(jpeg)            \
	X(optical_flow) X(memory_v2) X(memory) X(temperature_v1) X(temperature) X(threshold) X(power) X(clock)         \
	X(event_reasons) X(performance_state) X(pcie_generation) X(pcie_width) X(link_state) X(link_error) X(ecc)      \
	X(fan) X(fabric) X(fabric_v1)

/* The value of a function with arguments is `value` plus a number made of them. */
struct answer {
	int32_t code;
	uint32_t calls;
	uint64_t value;
};
struct field {
	int32_t status;
	uint32_t type;
	uint64_t bits; /* of the value; the scope is added */
};

#define VARIABLE(name) struct answer stub_##name;
ANSWERS(VARIABLE)
struct field stub_field[512];
struct nvml_memory_v2 stub_memory_info;
struct nvml_fabric stub_fabric_info;
uint32_t stub_fabric_version; /* the newest that is known */
uint32_t stub_refuse_field;   /* with this id a batch of several fields fails as a whole */
uint32_t stub_sleep_us;       /* of utilization */
uint32_t stub_batches;

static char devices[64];

static int answer(struct answer *answer)
{
	answer->calls++;
	return answer->code;
}

int nvmlInitWithFlags(unsigned int flags) { return flags == NVML_INIT_NO_GPUS || !flags ? answer(&stub_init) : 2; }
int nvmlInit_v2(void) { return answer(&stub_init); }
int nvmlInit(void) { return answer(&stub_init); }
int nvmlShutdown(void) { return answer(&stub_shutdown); }

int nvmlDeviceGetCount_v2(unsigned int *count)
{
	*count = stub_count.value;
	return answer(&stub_count);
}
int nvmlDeviceGetCount(unsigned int *count) { return nvmlDeviceGetCount_v2(count); }

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvml_device_t *device)
{
	if (index >= stub_count.value)
		return NVML_RETURN_INVALID_ARGUMENT;
	*device = (nvml_device_t)&devices[index];
	return answer(&stub_handle);
}
int nvmlDeviceGetHandleByIndex(unsigned int index, nvml_device_t *device)
{
	return nvmlDeviceGetHandleByIndex_v2(index, device);
}
/* Ours are named GPU-<letter of the index>. */
int nvmlDeviceGetHandleByUUID(const char *uuid, nvml_device_t *device)
{
	if (strncmp(uuid, "GPU-", 4) || strlen(uuid) != 5)
		return NVML_RETURN_NOT_FOUND;
	return nvmlDeviceGetHandleByIndex_v2(uuid[4] - 'a', device);
}

static void fill(struct nvml_field_value *value)
{
	struct field *field = &stub_field[value->field % 512];

	value->status = field->status;
	value->type = field->type;
	value->value.u64 = field->bits + value->scope;
}
int nvmlDeviceGetFieldValues(nvml_device_t device, int count, struct nvml_field_value *values)
{
	(void)device;
	stub_batches += count > 1;
	for (int i = 0; i < count; i++)
		if (stub_refuse_field && values[i].field == stub_refuse_field)
			return NVML_RETURN_INVALID_ARGUMENT;
	for (int i = 0; i < count; i++)
		fill(&values[i]);
	return answer(&stub_field_values);
}

int nvmlDeviceGetUtilizationRates(nvml_device_t device, struct nvml_utilization *rates)
{
	(void)device;
	usleep(stub_sleep_us);
	*rates = (struct nvml_utilization){stub_utilization.value, stub_utilization.value >> 32};
	return answer(&stub_utilization);
}

#define CODEC(symbol, name)                                                                                            \
	int symbol(nvml_device_t device, unsigned int *percent, unsigned int *period_us)                               \
	{                                                                                                              \
		(void)device;                                                                                          \
		*percent = stub_##name.value;                                                                          \
		*period_us = 1000;                                                                                     \
		return answer(&stub_##name);                                                                           \
	}
CODEC(nvmlDeviceGetEncoderUtilization, encoder)
CODEC(nvmlDeviceGetDecoderUtilization, decoder)
CODEC(nvmlDeviceGetJpgUtilization, jpeg)
CODEC(nvmlDeviceGetOfaUtilization, optical_flow)

int nvmlDeviceGetMemoryInfo_v2(nvml_device_t device, struct nvml_memory_v2 *memory)
{
	(void)device;
	if (memory->version != NVML_MEMORY_V2)
		return NVML_RETURN_VERSION_MISMATCH;
	*memory = stub_memory_info;
	return answer(&stub_memory_v2);
}
int nvmlDeviceGetMemoryInfo(nvml_device_t device, struct nvml_memory *memory)
{
	(void)device;
	memory->total_bytes = stub_memory_info.total_bytes;
	memory->free_bytes = stub_memory_info.free_bytes;
	memory->used_bytes = stub_memory_info.used_bytes + stub_memory_info.reserved_bytes;
	return answer(&stub_memory);
}

int nvmlDeviceGetTemperatureV(nvml_device_t device, struct nvml_temperature *temperature)
{
	(void)device;
	temperature->celsius = stub_temperature_v1.value;
	return answer(&stub_temperature_v1);
}

#define ONE(symbol, name, type)                                                                                        \
	int symbol(nvml_device_t device, type *value)                                                                  \
	{                                                                                                              \
		(void)device;                                                                                          \
		*value = stub_##name.value;                                                                            \
		return answer(&stub_##name);                                                                           \
	}
ONE(nvmlDeviceGetPowerUsage, power, unsigned int)
ONE(nvmlDeviceGetPerformanceState, performance_state, int)
ONE(nvmlDeviceGetCurrPcieLinkGeneration, pcie_generation, unsigned int)
ONE(nvmlDeviceGetCurrPcieLinkWidth, pcie_width, unsigned int)
ONE(nvmlDeviceGetFanSpeed, fan, unsigned int)
ONE(nvmlDeviceGetCurrentClocksEventReasons, event_reasons, unsigned long long)
ONE(nvmlDeviceGetCurrentClocksThrottleReasons, event_reasons, unsigned long long)

#define TWO(symbol, name, type, factor)                                                                                \
	int symbol(nvml_device_t device, int which, type *value)                                                       \
	{                                                                                                              \
		(void)device;                                                                                          \
		*value = stub_##name.value + which * factor;                                                           \
		return answer(&stub_##name);                                                                           \
	}
TWO(nvmlDeviceGetTemperature, temperature, unsigned int, 1)
TWO(nvmlDeviceGetTemperatureThreshold, threshold, unsigned int, 1)
TWO(nvmlDeviceGetClockInfo, clock, unsigned int, 100)
TWO(nvmlDeviceGetNvLinkState, link_state, int, 0)

int nvmlDeviceGetNvLinkErrorCounter(nvml_device_t device, unsigned int link, int kind, unsigned long long *count)
{
	(void)device;
	*count = stub_link_error.value + link * 10 + kind;
	return answer(&stub_link_error);
}
int nvmlDeviceGetMemoryErrorCounter(nvml_device_t device, int kind, int lifetime, int location,
				    unsigned long long *count)
{
	(void)device;
	*count = stub_ecc.value + kind * 1000 + lifetime * 100 + location;
	return answer(&stub_ecc);
}
int nvmlDeviceGetGpuFabricInfoV(nvml_device_t device, struct nvml_fabric *fabric)
{
	uint32_t version = fabric->version;

	(void)device;
	if (version > stub_fabric_version)
		return NVML_RETURN_VERSION_MISMATCH;
	memcpy(fabric, &stub_fabric_info, version & 0xffff);
	fabric->version = version;
	return answer(&stub_fabric);
}
int nvmlDeviceGetGpuFabricInfo(nvml_device_t device, struct nvml_fabric_v1 *fabric)
{
	(void)device;
	fabric->state = stub_fabric_info.state;
	fabric->status = stub_fabric_info.status;
	return answer(&stub_fabric_v1);
}
