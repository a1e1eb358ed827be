// SPDX-License-Identifier: Apache-2.0
/* Simulated NVML: the library, the driver, and finding devices. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "nvml_calls.h"

static const char *const MEANINGS[] = {
	[NVML_RETURN_OK] = "Success",
	[NVML_RETURN_UNINITIALIZED] = "Uninitialized",
	[NVML_RETURN_INVALID_ARGUMENT] = "Invalid Argument",
	[NVML_RETURN_NOT_SUPPORTED] = "Not Supported",
	[NVML_RETURN_NO_PERMISSION] = "Insufficient Permissions",
	[NVML_RETURN_ALREADY_INITIALIZED] = "Already Initialized",
	[NVML_RETURN_NOT_FOUND] = "Not Found",
	[NVML_RETURN_INSUFFICIENT_SIZE] = "Insufficient Size",
	[NVML_RETURN_INSUFFICIENT_POWER] = "Insufficient External Power",
	[NVML_RETURN_DRIVER_NOT_LOADED] = "Driver Not Loaded",
	[NVML_RETURN_TIMEOUT] = "Timeout",
	[NVML_RETURN_IRQ_ISSUE] = "Interrupt Request Issue",
	[NVML_RETURN_LIBRARY_NOT_FOUND] = "Library Not Found",
	[NVML_RETURN_FUNCTION_NOT_FOUND] = "Function Not Found",
	[NVML_RETURN_CORRUPTED_INFOROM] = "Corrupted infoROM",
	[NVML_RETURN_GPU_IS_LOST] = "GPU is lost",
	[NVML_RETURN_RESET_REQUIRED] = "GPU requires reset",
	[NVML_RETURN_OPERATING_SYSTEM] = "Operating System call failed",
	[NVML_RETURN_LIBRARY_MISMATCH] = "Driver/library version mismatch",
	[NVML_RETURN_IN_USE] = "In use by another client",
	[NVML_RETURN_MEMORY] = "Insufficient Memory",
	[NVML_RETURN_NO_DATA] = "No data",
	[NVML_RETURN_INSUFFICIENT_RESOURCES] = "Insufficient Resources",
	[NVML_RETURN_FREQUENCY_NOT_SUPPORTED] = "Frequency not supported",
	[NVML_RETURN_VERSION_MISMATCH] = "Argument version mismatch",
	[NVML_RETURN_DEPRECATED] = "Deprecated",
	[NVML_RETURN_NOT_READY] = "Not Ready",
	[NVML_RETURN_GPU_NOT_FOUND] = "GPU not found",
	[NVML_RETURN_INVALID_STATE] = "Invalid State",
};

EXPORTED const char *nvmlErrorString(nvml_return_t code)
{
	size_t known = sizeof(MEANINGS) / sizeof(*MEANINGS);
	const char *meaning = code >= 0 && (size_t)code < known ? MEANINGS[code] : NULL;

	return meaning ? meaning : "Unknown Error";
}

/* A text of the block itself; writers change it in one piece before any reader is there. */
static nvml_return_t system_text(const char *from, char *to, uint32_t capacity)
{
	if (!to)
		return NVML_RETURN_INVALID_ARGUMENT;
	return simulation_label(from, to, capacity) ? NVML_RETURN_INSUFFICIENT_SIZE : NVML_RETURN_OK;
}

EXPORTED nvml_return_t nvmlSystemGetDriverVersion(char *version, uint32_t length)
{
	const struct simulation *now;
	nvml_return_t code = nvml_begin_system(&now, SIMULATED_CALL_IDENTITY);

	return code ? code : system_text(now->driver_version, version, length);
}

EXPORTED nvml_return_t nvmlSystemGetNVMLVersion(char *version, uint32_t length)
{
	const struct simulation *now;
	nvml_return_t code = nvml_begin_system(&now, SIMULATED_CALL_IDENTITY);

	return code ? code : system_text(now->library_version, version, length);
}

EXPORTED nvml_return_t nvmlSystemGetCudaDriverVersion(int32_t *version)
{
	const struct simulation *now;
	nvml_return_t code = nvml_begin_system(&now, SIMULATED_CALL_IDENTITY);

	if (code)
		return code;
	if (!version)
		return NVML_RETURN_INVALID_ARGUMENT;
	*version = now->cuda_version;
	return NVML_RETURN_OK;
}

EXPORTED nvml_return_t nvmlSystemGetCudaDriverVersion_v2(int32_t *version)
{
	return nvmlSystemGetCudaDriverVersion(version);
}

EXPORTED nvml_return_t nvmlSystemGetProcessName(uint32_t pid, char *name, uint32_t length)
{
	const struct simulation *now;
	nvml_return_t code = nvml_begin_system(&now, SIMULATED_CALL_PROCESSES);
	char path[64], text[256] = "";
	FILE *file;

	if (code)
		return code;
	if (!name || !length)
		return NVML_RETURN_INVALID_ARGUMENT;
	snprintf(path, sizeof(path), "/proc/%u/comm", pid);
	file = fopen(path, "re");
	if (!file)
		return NVML_RETURN_NOT_FOUND;
	if (!fgets(text, sizeof(text), file))
		text[0] = '\0';
	fclose(file);
	text[strcspn(text, "\n")] = '\0';
	snprintf(name, length, "%s", text);
	return NVML_RETURN_OK;
}

EXPORTED nvml_return_t nvmlDeviceGetCount_v2(uint32_t *count)
{
	const struct simulation *now;
	nvml_return_t code = nvml_begin_system(&now, SIMULATED_CALL_INIT);

	if (code)
		return code;
	if (!count)
		return NVML_RETURN_INVALID_ARGUMENT;
	*count = simulation_count(now);
	return NVML_RETURN_OK;
}

EXPORTED nvml_return_t nvmlDeviceGetCount(uint32_t *count)
{
	return nvmlDeviceGetCount_v2(count);
}

/* The handle of a device, once it has answered. */
static nvml_return_t give(const struct simulation *now, const struct simulated_device *device, nvml_device_t *to)
{
	struct nvml_call call;
	nvml_device_t handle;
	nvml_return_t code;

	if (!device)
		return NVML_RETURN_NOT_FOUND;
	handle = nvml_handle(now, device, -1);
	code = nvml_begin(&call, handle, SIMULATED_CALL_INIT);
	if (!code)
		*to = handle;
	return code;
}

EXPORTED nvml_return_t nvmlDeviceGetHandleByIndex_v2(uint32_t index, nvml_device_t *handle)
{
	const struct simulation *now;
	nvml_return_t code = nvml_begin_system(&now, SIMULATED_CALL_INIT);

	if (code)
		return code;
	if (!handle || index >= simulation_count(now))
		return NVML_RETURN_INVALID_ARGUMENT;
	return give(now, simulation_device(now, index), handle);
}

EXPORTED nvml_return_t nvmlDeviceGetHandleByIndex(uint32_t index, nvml_device_t *handle)
{
	return nvmlDeviceGetHandleByIndex_v2(index, handle);
}

/* The present device whose text at `offset` is `wanted`. */
static const struct simulated_device *find(const struct simulation *now, size_t offset, const char *wanted)
{
	char text[SIMULATED_TEXT + 1];

	for (uint32_t index = 0; index < SIMULATED_DEVICES; index++) {
		const struct simulated_device *device = simulation_device(now, index);

		if (!device)
			return NULL;
		if (!simulation_text(device, text, sizeof(text), (const char *)device + offset) && !strcmp(text, wanted))
			return device;
	}
	return NULL;
}

static nvml_return_t give_named(size_t offset, const char *wanted, nvml_device_t *handle)
{
	const struct simulation *now;
	nvml_return_t code = nvml_begin_system(&now, SIMULATED_CALL_INIT);

	if (code)
		return code;
	if (!wanted || !handle)
		return NVML_RETURN_INVALID_ARGUMENT;
	return give(now, find(now, offset, wanted), handle);
}

/* MIG instances have UUIDs of their own. */
static int give_instance(const char *uuid, nvml_device_t *handle)
{
	const struct simulation *now = simulation_now();
	char text[SIMULATED_TEXT + 1];

	for (uint32_t slot = 0; now && slot < SIMULATED_DEVICES; slot++) {
		const struct simulated_device *device = &now->device[slot];

		for (int32_t n = 0; device->present && n < SIMULATED_INSTANCES; n++) {
			if (!device->instance[n].present ||
			    simulation_text(device, text, sizeof(text), device->instance[n].uuid) || strcmp(text, uuid))
				continue;
			*handle = nvml_handle(now, device, n);
			return 1;
		}
	}
	return 0;
}

EXPORTED nvml_return_t nvmlDeviceGetHandleByUUID(const char *uuid, nvml_device_t *handle)
{
	nvml_return_t code = give_named(offsetof(struct simulated_device, identity.uuid), uuid, handle);

	if (code == NVML_RETURN_NOT_FOUND && give_instance(uuid, handle))
		return NVML_RETURN_OK;
	return code;
}

EXPORTED nvml_return_t nvmlDeviceGetHandleBySerial(const char *serial, nvml_device_t *handle)
{
	return give_named(offsetof(struct simulated_device, identity.serial), serial, handle);
}

static const struct simulated_device *find_pci(const struct simulation *now, uint32_t domain, uint32_t bus,
					       uint32_t place)
{
	for (uint32_t index = 0; index < SIMULATED_DEVICES; index++) {
		const struct simulated_device *device = simulation_device(now, index);

		if (!device || (device->identity.pci_domain == domain && device->identity.pci_bus == bus &&
				device->identity.pci_device == place))
			return device;
	}
	return NULL;
}

EXPORTED nvml_return_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvml_device_t *handle)
{
	const struct simulation *now;
	nvml_return_t code = nvml_begin_system(&now, SIMULATED_CALL_INIT);
	uint32_t domain = 0, bus = 0, place = 0;

	if (code)
		return code;
	if (!bus_id || !handle || sscanf(bus_id, "%x:%x:%x", &domain, &bus, &place) != 3)
		return NVML_RETURN_INVALID_ARGUMENT;
	return give(now, find_pci(now, domain, bus, place), handle);
}

EXPORTED nvml_return_t nvmlDeviceGetHandleByPciBusId(const char *bus_id, nvml_device_t *handle)
{
	return nvmlDeviceGetHandleByPciBusId_v2(bus_id, handle);
}
