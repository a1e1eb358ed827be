/* SPDX-License-Identifier: Apache-2.0 */
#ifndef EAGLE_EYE_NVML_FUNCTIONS_H
#define EAGLE_EYE_NVML_FUNCTIONS_H

#include "device.h"
#include "nvml_abi.h"

/* name, arguments, symbol, the symbol of older drivers with the same arguments or NULL */
#define NVML_API(X)                                                                                                    \
	X(none, (void), "", NULL)                                                                                      \
	X(init_with_flags, (unsigned int flags), "nvmlInitWithFlags", NULL)                                            \
	X(init, (void), "nvmlInit_v2", "nvmlInit")                                                                     \
	X(shutdown, (void), "nvmlShutdown", NULL)                                                                      \
	X(count, (unsigned int *count), "nvmlDeviceGetCount_v2", "nvmlDeviceGetCount")                                 \
	X(handle_by_index, (unsigned int index, nvml_device_t *device), "nvmlDeviceGetHandleByIndex_v2",               \
	  "nvmlDeviceGetHandleByIndex")                                                                                \
	X(handle_by_uuid, (const char *uuid, nvml_device_t *device), "nvmlDeviceGetHandleByUUID", NULL)                \
	X(field_values, (nvml_device_t device, int count, struct nvml_field_value *values),                            \
	  "nvmlDeviceGetFieldValues", NULL)                                                                            \
	X(utilization, (nvml_device_t device, struct nvml_utilization *rates), "nvmlDeviceGetUtilizationRates", NULL)  \
	X(encoder, (nvml_device_t device, unsigned int *percent, unsigned int *period_us),                             \
	  "nvmlDeviceGetEncoderUtilization", NULL)                                                                     \
	X(decoder, (nvml_device_t device, unsigned int *percent, unsigned int *period_us),                             \
	  "nvmlDeviceGetDecoderUtilization", NULL)                                                                     \
	X(jpeg, (nvml_device_t device, unsigned int *percent, unsigned int *period_us),                                \
	  "nvmlDeviceGetJpgUtilization", NULL)                                                                         \
	X(optical_flow, (nvml_device_t device, unsigned int *percent, unsigned int *period_us),                        \
	  "nvmlDeviceGetOfaUtilization", NULL)                                                                         \
	X(memory_v2, (nvml_device_t device, struct nvml_memory_v2 *memory), "nvmlDeviceGetMemoryInfo_v2", NULL)        \
	X(memory, (nvml_device_t device, struct nvml_memory *memory), "nvmlDeviceGetMemoryInfo", NULL)                 \
	X(temperature_v1, (nvml_device_t device, struct nvml_temperature *temperature), "nvmlDeviceGetTemperatureV",   \
	  NULL)                                                                                                        \
	X(temperature, (nvml_device_t device, int sensor, unsigned int *celsius), "nvmlDeviceGetTemperature", NULL)    \
	X(threshold, (nvml_device_t device, int threshold, unsigned int *celsius),                                     \
	  "nvmlDeviceGetTemperatureThreshold", NULL)                                                                   \
	X(power, (nvml_device_t device, unsigned int *milliwatts), "nvmlDeviceGetPowerUsage", NULL)                    \
	X(clock, (nvml_device_t device, int domain, unsigned int *megahertz), "nvmlDeviceGetClockInfo", NULL)          \
	X(event_reasons, (nvml_device_t device, unsigned long long *reasons),                                          \
	  "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")                       \
	X(performance_state, (nvml_device_t device, int *state), "nvmlDeviceGetPerformanceState", NULL)                \
	X(pcie_generation, (nvml_device_t device, unsigned int *generation), "nvmlDeviceGetCurrPcieLinkGeneration",    \
	  NULL)                                                                                                        \
	X(pcie_width, (nvml_device_t device, unsigned int *width), "nvmlDeviceGetCurrPcieLinkWidth", NULL)             \
	X(link_state, (nvml_device_t device, unsigned int link, int *active), "nvmlDeviceGetNvLinkState", NULL)        \
	X(link_error, (nvml_device_t device, unsigned int link, int kind, unsigned long long *count),                  \
	  "nvmlDeviceGetNvLinkErrorCounter", NULL)                                                                     \
	X(ecc, (nvml_device_t device, int kind, int lifetime, int location, unsigned long long *count),                \
	  "nvmlDeviceGetMemoryErrorCounter", NULL)                                                                     \
	X(fan, (nvml_device_t device, unsigned int *percent), "nvmlDeviceGetFanSpeed", NULL)                           \
	X(fabric, (nvml_device_t device, struct nvml_fabric *fabric), "nvmlDeviceGetGpuFabricInfoV", NULL)         \
	X(fabric_v1, (nvml_device_t device, struct nvml_fabric_v1 *fabric), "nvmlDeviceGetGpuFabricInfo", NULL)

#define NVML_NUMBER(name, arguments, symbol, older) NVML_FN_##name,
enum nvml_function { NVML_API(NVML_NUMBER) NVML_FUNCTIONS };
#undef NVML_NUMBER

#define NVML_POINTER(name, arguments, symbol, older) int(*name) arguments;
struct nvml_api {
	NVML_API(NVML_POINTER)
};
#undef NVML_POINTER

#define NVML_REQUESTS_MAX 64

/* A watched device, and what is known of it. */
struct nvml_slot {
	nvml_device_t handle; /* NULL: not watched */
	uint64_t learned_ns;  /* since when what follows is believed; it spares calls that cannot succeed */
	uint32_t links;
	uint8_t links_known;
	uint8_t unsupported[DEVICE_FIELDS]; /* by a call of its own */
	uint8_t unsupported_request[NVML_REQUESTS_MAX];
	uint8_t unsupported_link_request[NVML_REQUESTS_MAX];
	uint8_t unsupported_link[DEVICE_LINK_FIELDS]; /* by a call of its own */
	struct device_sample sample;
};

struct nvml {
	void *library;
	int simulated;
	struct nvml_api api;
	struct nvml_slot slots[DEVICE_MAX];
};

/* One device while it is sampled. */
struct nvml_reading {
	const struct nvml_api *api;
	struct nvml_slot *slot;
	struct device_sample *sample;
	struct device_board *board;
	int error; /* of the whole device: no further call is made */
};

int nvml_noted(struct nvml_reading *reading, int returned);

/* Calls NVML unless the symbol is missing or the device has failed; marks the function as the one in flight. */
#define NVML_CALL(reading, name, ...)                                                                                  \
	((reading)->error         ? (reading)->error                                                                   \
	 : !(reading)->api->name  ? NVML_RETURN_FUNCTION_NOT_FOUND                                                     \
				  : (device_call_function((reading)->board, 0, NVML_FN_##name),                        \
				     nvml_noted(reading, (reading)->api->name((reading)->slot->handle, __VA_ARGS__))))

/* NVML's code as a status of device.h. */
int32_t nvml_status(int returned);

/* nvml_fields.c: everything of a group that nvmlDeviceGetFieldValues serves, in one call. */
void nvml_read_fields(struct nvml_reading *reading, uint32_t group);
void nvml_read_link_fields(struct nvml_reading *reading, uint32_t group);
int nvml_field_unsupported(const struct nvml_slot *slot, uint32_t field);
int nvml_link_field_unsupported(const struct nvml_slot *slot, uint32_t field);
int nvml_read_one(struct nvml_reading *reading, uint32_t field, double *value);

/* nvml_calls.c: one group. */
void nvml_read_group(struct nvml_reading *reading, uint32_t group);

#endif
