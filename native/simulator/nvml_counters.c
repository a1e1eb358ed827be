// SPDX-License-Identifier: Apache-2.0
/* Simulated NVML: PCIe, NVLink, ECC, remapped rows, retired pages, fabric. */
#include <math.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

#include "nvml_calls.h"

#define KIBI 1024.0
#define RETIRED_PAGE_BYTES 0x10000ULL
#define FABRIC_V2_BYTES (NVML_FABRIC_V2 & 0xffffff)

EXPORTED nvml_return_t nvmlDeviceGetPcieReplayCounter(nvml_device_t handle, uint32_t *count)
{
	return nvml_get_u32(handle, SIMULATED_CALL_PCIE_ERRORS, SIMULATED_PCIE_REPLAYS, 1.0, count);
}

/* NVML watches a counter for 20 ms; here its rate is known. */
EXPORTED nvml_return_t nvmlDeviceGetPcieThroughput(nvml_device_t handle, uint32_t counter, uint32_t *kilobytes_per_s)
{
	const struct timespec window = {0, 20000000};
	struct nvml_call call;
	nvml_return_t code = nvml_begin_whole(&call, handle, SIMULATED_CALL_PCIE);
	enum simulated_quantity of = SIMULATED_PCIE_TX_BYTES + counter;
	double before;

	if (code)
		return code;
	if (counter > 1 || !kilobytes_per_s)
		return NVML_RETURN_INVALID_ARGUMENT;
	before = simulation_value(call.device, of);
	if (isnan(before))
		return NVML_RETURN_NOT_SUPPORTED;
	nanosleep(&window, NULL);
	*kilobytes_per_s = nvml_u32((simulation_value(call.device, of) - before) / 0.02 / KIBI);
	return NVML_RETURN_OK;
}

EXPORTED nvml_return_t nvmlDeviceGetCurrPcieLinkGeneration(nvml_device_t handle, uint32_t *generation)
{
	return nvml_get_u32(handle, SIMULATED_CALL_PCIE, SIMULATED_PCIE_GENERATION, 1.0, generation);
}

EXPORTED nvml_return_t nvmlDeviceGetCurrPcieLinkWidth(nvml_device_t handle, uint32_t *width)
{
	return nvml_get_u32(handle, SIMULATED_CALL_PCIE, SIMULATED_PCIE_WIDTH, 1.0, width);
}

EXPORTED nvml_return_t nvmlDeviceGetMaxPcieLinkGeneration(nvml_device_t handle, uint32_t *generation)
{
	return nvml_get_u32(handle, SIMULATED_CALL_LIMITS, SIMULATED_PCIE_GENERATION_MAX, 1.0, generation);
}

EXPORTED nvml_return_t nvmlDeviceGetMaxPcieLinkWidth(nvml_device_t handle, uint32_t *width)
{
	return nvml_get_u32(handle, SIMULATED_CALL_LIMITS, SIMULATED_PCIE_WIDTH_MAX, 1.0, width);
}

static nvml_return_t link_value(nvml_device_t handle, enum simulated_group group, uint32_t link,
				enum simulated_link_quantity of, uint64_t *to)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin_whole(&call, handle, group);
	double value;

	if (code)
		return code;
	if (!to || link >= NVML_LINKS_MAX)
		return NVML_RETURN_INVALID_ARGUMENT;
	value = simulation_link_value(call.device, link, of);
	if (isnan(value))
		return NVML_RETURN_NOT_SUPPORTED;
	*to = simulation_integer(value + 0.5);
	return NVML_RETURN_OK;
}

static nvml_return_t link_u32(nvml_device_t handle, uint32_t link, enum simulated_link_quantity of, uint32_t *to)
{
	uint64_t wide = 0;
	nvml_return_t code = link_value(handle, SIMULATED_CALL_LINKS, link, of, to ? &wide : NULL);

	if (!code)
		*to = wide;
	return code;
}

EXPORTED nvml_return_t nvmlDeviceGetNvLinkState(nvml_device_t handle, uint32_t link, uint32_t *active)
{
	return link_u32(handle, link, SIMULATED_LINK_UP, active);
}

EXPORTED nvml_return_t nvmlDeviceGetNvLinkVersion(nvml_device_t handle, uint32_t link, uint32_t *version)
{
	return link_u32(handle, link, SIMULATED_LINK_VERSION, version);
}

EXPORTED nvml_return_t nvmlDeviceGetNvLinkCapability(nvml_device_t handle, uint32_t link, uint32_t what, uint32_t *has)
{
	nvml_return_t code = link_u32(handle, link, SIMULATED_LINK_UP, has);

	if (!code)
		*has = what != 4; /* everything but a bridge of SLI */
	return code;
}

EXPORTED nvml_return_t nvmlDeviceGetNvLinkErrorCounter(nvml_device_t handle, uint32_t link, uint32_t kind, uint64_t *count)
{
	static const enum simulated_link_quantity known[] = {
		[NVML_LINK_REPLAY] = SIMULATED_LINK_REPLAY_ERRORS,
		[NVML_LINK_RECOVERY] = SIMULATED_LINK_RECOVERY_ERRORS,
		[NVML_LINK_CRC_FLIT] = SIMULATED_LINK_CRC_FLIT_ERRORS,
		[NVML_LINK_CRC_DATA] = SIMULATED_LINK_CRC_DATA_ERRORS,
		[NVML_LINK_ECC_DATA] = SIMULATED_LINK_ECC_ERRORS,
	};

	if (kind >= sizeof(known) / sizeof(*known))
		return NVML_RETURN_INVALID_ARGUMENT;
	return link_value(handle, SIMULATED_CALL_LINK_ERRORS, link, known[kind], count);
}

EXPORTED nvml_return_t nvmlDeviceGetNvLinkRemoteDeviceType(nvml_device_t handle, uint32_t link, uint32_t *type)
{
	nvml_return_t code = link_u32(handle, link, SIMULATED_LINK_UP, type);
	struct nvml_call call;

	if (!code)
		code = nvml_begin_whole(&call, handle, SIMULATED_CALL_LINKS);
	if (!code)
		*type = call.device->link[link].remote_device < 0 ? 2 : 0; /* switch, GPU */
	return code;
}

int nvml_is_ecc_location(uint32_t location)
{
	return location < NVML_ECC_LOCATIONS;
}

enum simulated_quantity nvml_ecc_quantity(uint32_t kind, uint32_t lifetime, uint32_t location)
{
	return SIMULATED_ECC_CORRECTED_VOLATILE_L1 + (lifetime * 2 + kind) * NVML_ECC_LOCATIONS + location;
}

double nvml_ecc_total(const struct simulated_device *device, uint32_t kind, uint32_t lifetime)
{
	double sum = 0.0;
	int known = 0;

	for (uint32_t location = 0; location < NVML_ECC_LOCATIONS; location++) {
		double value = simulation_value(device, nvml_ecc_quantity(kind, lifetime, location));

		if (!isnan(value)) {
			sum += value;
			known = 1;
		}
	}
	return known ? sum : NAN;
}

EXPORTED nvml_return_t nvmlDeviceGetMemoryErrorCounter(nvml_device_t handle, uint32_t kind, uint32_t lifetime,
						       uint32_t location, uint64_t *count)
{
	if (kind > NVML_ECC_UNCORRECTED || lifetime > NVML_ECC_AGGREGATE || !nvml_is_ecc_location(location))
		return NVML_RETURN_INVALID_ARGUMENT;
	return nvml_get_u64(handle, SIMULATED_CALL_ECC_LOCATIONS, nvml_ecc_quantity(kind, lifetime, location), 1.0, count);
}

EXPORTED nvml_return_t nvmlDeviceGetTotalEccErrors(nvml_device_t handle, uint32_t kind, uint32_t lifetime, uint64_t *count)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin_whole(&call, handle, SIMULATED_CALL_ECC);
	double sum;

	if (code)
		return code;
	if (kind > NVML_ECC_UNCORRECTED || lifetime > NVML_ECC_AGGREGATE || !count)
		return NVML_RETURN_INVALID_ARGUMENT;
	sum = nvml_ecc_total(call.device, kind, lifetime);
	if (isnan(sum))
		return NVML_RETURN_NOT_SUPPORTED;
	*count = simulation_integer(sum);
	return NVML_RETURN_OK;
}

EXPORTED nvml_return_t nvmlDeviceGetDetailedEccErrors(nvml_device_t handle, uint32_t kind, uint32_t lifetime,
						      struct nvml_ecc_counts *to)
{
	uint64_t *const counts[] = {&to->l1, &to->l2, &to->device_memory, &to->registers};

	if (!to)
		return NVML_RETURN_INVALID_ARGUMENT;
	memset(to, 0, sizeof(*to));
	for (uint32_t location = 0; location < sizeof(counts) / sizeof(*counts); location++) {
		nvml_return_t code = nvmlDeviceGetMemoryErrorCounter(handle, kind, lifetime, location, counts[location]);

		if (code && code != NVML_RETURN_NOT_SUPPORTED)
			return code;
	}
	return NVML_RETURN_OK;
}

EXPORTED nvml_return_t nvmlDeviceGetEccMode(nvml_device_t handle, uint32_t *current, uint32_t *pending)
{
	nvml_return_t code = nvml_get_u32(handle, SIMULATED_CALL_ECC, SIMULATED_ECC_MODE, 1.0, current);

	if (!code && pending)
		*pending = *current;
	return code;
}

EXPORTED nvml_return_t nvmlDeviceGetRemappedRows(nvml_device_t handle, uint32_t *correctable, uint32_t *uncorrectable,
						 uint32_t *pending, uint32_t *failed)
{
	uint32_t *const to[] = {correctable, uncorrectable, pending, failed};

	for (uint32_t n = 0; n < sizeof(to) / sizeof(*to); n++) {
		nvml_return_t code = nvml_get_u32(handle, SIMULATED_CALL_REMAPPED_ROWS,
						  SIMULATED_REMAPPED_ROWS_CORRECTABLE + n, 1.0, to[n]);

		if (code)
			return code;
	}
	return NVML_RETURN_OK;
}

EXPORTED nvml_return_t nvmlDeviceGetRowRemapperHistogram(nvml_device_t handle, struct nvml_row_banks *to)
{
	uint32_t counts[5] = {0};

	if (!to)
		return NVML_RETURN_INVALID_ARGUMENT;
	for (uint32_t n = 0; n < sizeof(counts) / sizeof(*counts); n++) {
		nvml_return_t code =
			nvml_get_u32(handle, SIMULATED_CALL_REMAPPED_ROWS, SIMULATED_ROW_BANKS_MAX + n, 1.0, &counts[n]);

		if (code)
			return code;
	}
	memcpy(to, counts, sizeof(counts));
	return NVML_RETURN_OK;
}

EXPORTED nvml_return_t nvmlDeviceGetRetiredPages_v2(nvml_device_t handle, uint32_t cause, uint32_t *count,
						    uint64_t *addresses, uint64_t *timestamps)
{
	uint32_t room, found = 0;
	nvml_return_t code;

	if (!count || cause > NVML_RETIRED_DOUBLE_BIT)
		return NVML_RETURN_INVALID_ARGUMENT;
	room = *count;
	code = nvml_get_u32(handle, SIMULATED_CALL_RETIRED_PAGES, SIMULATED_RETIRED_PAGES_CORRECTED + cause, 1.0, &found);
	if (code)
		return code;
	*count = found;
	if (room < found)
		return NVML_RETURN_INSUFFICIENT_SIZE;
	for (uint32_t n = 0; addresses && n < found; n++)
		addresses[n] = (n * 2 + cause + 1) * RETIRED_PAGE_BYTES;
	for (uint32_t n = 0; timestamps && n < found; n++)
		timestamps[n] = 0;
	return NVML_RETURN_OK;
}

EXPORTED nvml_return_t nvmlDeviceGetRetiredPages(nvml_device_t handle, uint32_t cause, uint32_t *count,
						 uint64_t *addresses)
{
	return nvmlDeviceGetRetiredPages_v2(handle, cause, count, addresses, NULL);
}

EXPORTED nvml_return_t nvmlDeviceGetRetiredPagesPendingStatus(nvml_device_t handle, uint32_t *pending)
{
	return nvml_get_u32(handle, SIMULATED_CALL_RETIRED_PAGES, SIMULATED_RETIRED_PAGES_PENDING, 1.0, pending);
}

static nvml_return_t fabric(nvml_device_t handle, struct nvml_fabric *to)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin_whole(&call, handle, SIMULATED_CALL_FABRIC);
	double state;

	if (code)
		return code;
	state = simulation_value(call.device, SIMULATED_FABRIC_STATE);
	if (isnan(state))
		return NVML_RETURN_NOT_SUPPORTED;
	memset(to->cluster_uuid, 0xee, sizeof(to->cluster_uuid));
	to->status = nvml_u32(simulation_value(call.device, SIMULATED_FABRIC_STATUS));
	to->clique = 1;
	to->state = nvml_u32(state);
	to->health_mask = nvml_u32(simulation_value(call.device, SIMULATED_FABRIC_HEALTH));
	return NVML_RETURN_OK;
}

EXPORTED nvml_return_t nvmlDeviceGetGpuFabricInfoV(nvml_device_t handle, struct nvml_fabric *to)
{
	struct nvml_fabric found = {0};
	nvml_return_t code;

	if (!to)
		return NVML_RETURN_INVALID_ARGUMENT;
	if (to->version != NVML_FABRIC_V2 && to->version != NVML_FABRIC_V3)
		return NVML_RETURN_VERSION_MISMATCH;
	code = fabric(handle, &found);
	if (code)
		return code;
	found.version = to->version;
	memcpy(to, &found, to->version == NVML_FABRIC_V2 ? FABRIC_V2_BYTES : sizeof(found));
	return NVML_RETURN_OK;
}

EXPORTED nvml_return_t nvmlDeviceGetGpuFabricInfo(nvml_device_t handle, struct nvml_fabric_v1 *to)
{
	struct nvml_fabric found = {0};
	nvml_return_t code = fabric(handle, &found);

	if (code)
		return code;
	if (!to)
		return NVML_RETURN_INVALID_ARGUMENT;
	memcpy(to->cluster_uuid, found.cluster_uuid, sizeof(to->cluster_uuid));
	to->status = found.status;
	to->clique = found.clique;
	to->state = found.state;
	return NVML_RETURN_OK;
}
