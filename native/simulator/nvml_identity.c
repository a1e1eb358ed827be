// SPDX-License-Identifier: Apache-2.0
/* Simulated NVML: who a device is. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "nvml_calls.h"

#define SYSTEM_VENDOR_BASE_CLASS 3 /* PCI: display controller */
#define SUB_CLASS_3D 2

static nvml_return_t device_text(nvml_device_t handle, size_t offset, char *to, uint32_t capacity)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin_whole(&call, handle, SIMULATED_CALL_IDENTITY);
	const char *from;

	if (code)
		return code;
	if (!to)
		return NVML_RETURN_INVALID_ARGUMENT;
	from = (const char *)call.device + offset;
	if (!*from)
		return NVML_RETURN_NOT_SUPPORTED;
	return simulation_text(call.device, to, capacity, from) ? NVML_RETURN_INSUFFICIENT_SIZE : NVML_RETURN_OK;
}

/* For numbers that do not change while a device is there. */
static nvml_return_t device_number(nvml_device_t handle, enum simulated_group group, size_t offset, uint32_t *to)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin_whole(&call, handle, group);

	if (code)
		return code;
	if (!to)
		return NVML_RETURN_INVALID_ARGUMENT;
	memcpy(to, (const char *)call.device + offset, sizeof(*to));
	return NVML_RETURN_OK;
}

EXPORTED nvml_return_t nvmlDeviceGetName(nvml_device_t handle, char *name, uint32_t length)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin(&call, handle, SIMULATED_CALL_IDENTITY);
	char text[SIMULATED_TEXT + 1];

	if (code)
		return code;
	if (!name)
		return NVML_RETURN_INVALID_ARGUMENT;
	simulation_text(call.device, text, sizeof(text), call.instance ? call.instance->name : call.device->identity.name);
	return simulation_label(text, name, length) ? NVML_RETURN_INSUFFICIENT_SIZE : NVML_RETURN_OK;
}

EXPORTED nvml_return_t nvmlDeviceGetUUID(nvml_device_t handle, char *uuid, uint32_t length)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin(&call, handle, SIMULATED_CALL_IDENTITY);
	const char *from;

	if (code)
		return code;
	if (!uuid)
		return NVML_RETURN_INVALID_ARGUMENT;
	from = call.instance ? call.instance->uuid : call.device->identity.uuid;
	return simulation_text(call.device, uuid, length, from) ? NVML_RETURN_INSUFFICIENT_SIZE : NVML_RETURN_OK;
}

EXPORTED nvml_return_t nvmlDeviceGetSerial(nvml_device_t handle, char *serial, uint32_t length)
{
	return device_text(handle, offsetof(struct simulated_device, identity.serial), serial, length);
}

EXPORTED nvml_return_t nvmlDeviceGetBoardPartNumber(nvml_device_t handle, char *number, uint32_t length)
{
	return device_text(handle, offsetof(struct simulated_device, identity.part_number), number, length);
}

EXPORTED nvml_return_t nvmlDeviceGetVbiosVersion(nvml_device_t handle, char *version, uint32_t length)
{
	return device_text(handle, offsetof(struct simulated_device, identity.firmware), version, length);
}

EXPORTED nvml_return_t nvmlDeviceGetInforomImageVersion(nvml_device_t handle, char *version, uint32_t length)
{
	return device_text(handle, offsetof(struct simulated_device, identity.inforom), version, length);
}

EXPORTED nvml_return_t nvmlDeviceGetInforomVersion(nvml_device_t handle, uint32_t object, char *version, uint32_t length)
{
	(void)object;
	return nvmlDeviceGetInforomImageVersion(handle, version, length);
}

EXPORTED nvml_return_t nvmlDeviceGetMinorNumber(nvml_device_t handle, uint32_t *minor)
{
	return device_number(handle, SIMULATED_CALL_IDENTITY, offsetof(struct simulated_device, identity.minor), minor);
}

EXPORTED nvml_return_t nvmlDeviceGetBoardId(nvml_device_t handle, uint32_t *board)
{
	return device_number(handle, SIMULATED_CALL_IDENTITY, offsetof(struct simulated_device, identity.board_id), board);
}

EXPORTED nvml_return_t nvmlDeviceGetModuleId(nvml_device_t handle, uint32_t *module)
{
	return device_number(handle, SIMULATED_CALL_IDENTITY, offsetof(struct simulated_device, identity.minor), module);
}

EXPORTED nvml_return_t nvmlDeviceGetArchitecture(nvml_device_t handle, uint32_t *architecture)
{
	size_t offset = offsetof(struct simulated_device, identity.architecture);

	return device_number(handle, SIMULATED_CALL_IDENTITY, offset, architecture);
}

EXPORTED nvml_return_t nvmlDeviceGetNumGpuCores(nvml_device_t handle, uint32_t *cores)
{
	return device_number(handle, SIMULATED_CALL_IDENTITY, offsetof(struct simulated_device, identity.cores), cores);
}

EXPORTED nvml_return_t nvmlDeviceGetMemoryBusWidth(nvml_device_t handle, uint32_t *bits)
{
	size_t offset = offsetof(struct simulated_device, identity.memory_bus_bits);

	return device_number(handle, SIMULATED_CALL_IDENTITY, offset, bits);
}

EXPORTED nvml_return_t nvmlDeviceGetNumFans(nvml_device_t handle, uint32_t *fans)
{
	return device_number(handle, SIMULATED_CALL_FAN, offsetof(struct simulated_device, identity.fans), fans);
}

EXPORTED nvml_return_t nvmlDeviceGetNumaNodeId(nvml_device_t handle, uint32_t *node)
{
	nvml_return_t code =
		device_number(handle, SIMULATED_CALL_TOPOLOGY, offsetof(struct simulated_device, identity.numa_node), node);

	return !code && *node == UINT32_MAX ? NVML_RETURN_NOT_SUPPORTED : code;
}

EXPORTED nvml_return_t nvmlDeviceGetBrand(nvml_device_t handle, uint32_t *brand)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin_whole(&call, handle, SIMULATED_CALL_IDENTITY);

	if (!code && brand)
		*brand = 14; /* NVML_BRAND_NVIDIA */
	return !code && !brand ? NVML_RETURN_INVALID_ARGUMENT : code;
}

EXPORTED nvml_return_t nvmlDeviceGetCudaComputeCapability(nvml_device_t handle, int32_t *major, int32_t *minor)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin(&call, handle, SIMULATED_CALL_IDENTITY);

	if (code)
		return code;
	if (!major || !minor)
		return NVML_RETURN_INVALID_ARGUMENT;
	*major = call.device->identity.compute_capability_major;
	*minor = call.device->identity.compute_capability_minor;
	return NVML_RETURN_OK;
}

EXPORTED nvml_return_t nvmlDeviceGetIndex(nvml_device_t handle, uint32_t *index)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin(&call, handle, SIMULATED_CALL_IDENTITY);

	if (code)
		return code;
	if (!index)
		return NVML_RETURN_INVALID_ARGUMENT;
	for (*index = 0; *index < SIMULATED_DEVICES; ++*index) {
		if (simulation_device(call.now, *index) == call.device)
			return NVML_RETURN_OK;
	}
	return NVML_RETURN_NOT_FOUND;
}

static void fill_pci(const struct simulated_identity *identity, struct nvml_pci *pci)
{
	*pci = (struct nvml_pci){
		.domain = identity->pci_domain,
		.bus = identity->pci_bus,
		.device = identity->pci_device,
		.device_id = identity->pci_id,
		.subsystem_id = identity->pci_subsystem_id,
	};
	snprintf(pci->bus_id, sizeof(pci->bus_id), "%08X:%02X:%02X.0", pci->domain, pci->bus & 0xff, pci->device & 0xff);
	snprintf(pci->bus_id_legacy, sizeof(pci->bus_id_legacy), "%04X:%02X:%02X.0", pci->domain & 0xffff,
		 pci->bus & 0xff, pci->device & 0xff);
}

EXPORTED nvml_return_t nvmlDeviceGetPciInfo_v3(nvml_device_t handle, struct nvml_pci *pci)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin(&call, handle, SIMULATED_CALL_IDENTITY);

	if (code)
		return code;
	if (!pci)
		return NVML_RETURN_INVALID_ARGUMENT;
	fill_pci(&call.device->identity, pci);
	return NVML_RETURN_OK;
}

EXPORTED nvml_return_t nvmlDeviceGetPciInfo_v2(nvml_device_t handle, struct nvml_pci *pci)
{
	return nvmlDeviceGetPciInfo_v3(handle, pci);
}

EXPORTED nvml_return_t nvmlDeviceGetPciInfoExt(nvml_device_t handle, struct nvml_pci_extended *pci)
{
	struct nvml_pci plain;
	nvml_return_t code = nvmlDeviceGetPciInfo_v3(handle, &plain);

	if (code)
		return code;
	if (!pci)
		return NVML_RETURN_INVALID_ARGUMENT;
	if (pci->version != VERSION_WORD(*pci, 1))
		return NVML_RETURN_VERSION_MISMATCH;
	*pci = (struct nvml_pci_extended){pci->version,        plain.domain,       plain.bus, plain.device,
					  plain.device_id,     plain.subsystem_id, SYSTEM_VENDOR_BASE_CLASS,
					  SUB_CLASS_3D,        ""};
	memcpy(pci->bus_id, plain.bus_id, sizeof(pci->bus_id));
	return NVML_RETURN_OK;
}

EXPORTED nvml_return_t nvmlDeviceGetNvLinkRemotePciInfo_v2(nvml_device_t handle, uint32_t link, struct nvml_pci *pci)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin_whole(&call, handle, SIMULATED_CALL_LINKS);
	int32_t remote;

	if (code)
		return code;
	if (!pci || link >= SIMULATED_LINKS)
		return NVML_RETURN_INVALID_ARGUMENT;
	if (!call.device->link[link].present)
		return NVML_RETURN_NOT_SUPPORTED;
	remote = call.device->link[link].remote_device;
	if (remote >= 0 && remote < SIMULATED_DEVICES) {
		fill_pci(&call.now->device[remote].identity, pci);
		return NVML_RETURN_OK;
	}
	/* A switch: on a bus of its own, by links. */
	fill_pci(&(struct simulated_identity){.pci_bus = 0xc0 + link % 4, .pci_id = 0x22a310de}, pci);
	return NVML_RETURN_OK;
}
