/* SPDX-License-Identifier: Apache-2.0 */
/* What nvmlDeviceGetFieldValues does not serve: a call for each. */
#include "nvml_functions.h"

#include <math.h>

#define PERCENT 0.01
#define MEGA 1e6

static int asked(const struct nvml_reading *reading, uint32_t field)
{
	return !reading->slot->unsupported[field];
}

static void set(struct nvml_reading *reading, uint32_t field, int returned, double value)
{
	int32_t status = nvml_status(returned);

	device_set(reading->sample, field, status, value);
	reading->slot->unsupported[field] = status == DEVICE_UNSUPPORTED;
}

static void set_u32(struct nvml_reading *reading, uint32_t field, int returned, const unsigned int *raw, double unit)
{
	set(reading, field, returned, *raw == NVML_NOT_AVAILABLE_32 ? NAN : *raw * unit);
}

static void set_u64(struct nvml_reading *reading, uint32_t field, int returned, const unsigned long long *raw)
{
	set(reading, field, returned, *raw == NVML_NOT_AVAILABLE_64 ? NAN : (double)*raw);
}

/* ---- groups ---- */

static void read_utilization(struct nvml_reading *reading)
{
	struct nvml_utilization rates = {0};
	int returned;

	if (!asked(reading, DEVICE_UTILIZATION_RATIO))
		return;
	returned = NVML_CALL(reading, utilization, &rates);
	set_u32(reading, DEVICE_UTILIZATION_RATIO, returned, &rates.gpu_percent, PERCENT);
	set_u32(reading, DEVICE_MEMORY_UTILIZATION_RATIO, returned, &rates.memory_percent, PERCENT);
}

static void read_codec(struct nvml_reading *reading)
{
	unsigned int percent = 0, period_us;

	if (asked(reading, DEVICE_ENCODER_RATIO))
		set_u32(reading, DEVICE_ENCODER_RATIO, NVML_CALL(reading, encoder, &percent, &period_us), &percent, PERCENT);
	if (asked(reading, DEVICE_DECODER_RATIO))
		set_u32(reading, DEVICE_DECODER_RATIO, NVML_CALL(reading, decoder, &percent, &period_us), &percent, PERCENT);
	if (asked(reading, DEVICE_JPEG_RATIO))
		set_u32(reading, DEVICE_JPEG_RATIO, NVML_CALL(reading, jpeg, &percent, &period_us), &percent, PERCENT);
	if (asked(reading, DEVICE_OPTICAL_FLOW_RATIO))
		set_u32(reading, DEVICE_OPTICAL_FLOW_RATIO, NVML_CALL(reading, optical_flow, &percent, &period_us), &percent,
			PERCENT);
}

static int another_version(int returned)
{
	return returned == NVML_RETURN_FUNCTION_NOT_FOUND || returned == NVML_RETURN_VERSION_MISMATCH;
}

static int memory(struct nvml_reading *reading, struct nvml_memory_v2 *memory)
{
	struct nvml_memory old = {0};
	int returned;

	memory->version = NVML_MEMORY_V2;
	returned = NVML_CALL(reading, memory_v2, memory);
	if (!another_version(returned))
		return returned;
	returned = NVML_CALL(reading, memory, &old);
	*memory = (struct nvml_memory_v2){.total_bytes = old.total_bytes,
					  .reserved_bytes = NVML_NOT_AVAILABLE_64,
					  .free_bytes = old.free_bytes,
					  .used_bytes = old.used_bytes};
	return returned;
}

/* More than there is cannot be. */
static double part_of(uint64_t part, uint64_t total)
{
	if (part == NVML_NOT_AVAILABLE_64 || total == NVML_NOT_AVAILABLE_64)
		return NAN;
	return part <= total ? (double)part : -1;
}

static void read_memory(struct nvml_reading *reading)
{
	struct nvml_memory_v2 found = {0};
	int returned;

	if (!asked(reading, DEVICE_MEMORY_TOTAL_BYTES))
		return;
	returned = memory(reading, &found);
	set(reading, DEVICE_MEMORY_TOTAL_BYTES, returned, part_of(found.total_bytes, found.total_bytes));
	set(reading, DEVICE_MEMORY_USED_BYTES, returned, part_of(found.used_bytes, found.total_bytes));
	set(reading, DEVICE_MEMORY_FREE_BYTES, returned, part_of(found.free_bytes, found.total_bytes));
	set(reading, DEVICE_MEMORY_RESERVED_BYTES, returned, part_of(found.reserved_bytes, found.total_bytes));
}

static void read_temperature(struct nvml_reading *reading)
{
	struct nvml_temperature sensor = {.version = NVML_TEMPERATURE_V1, .sensor = NVML_SENSOR_GPU};
	unsigned int celsius = 0;
	int returned;

	if (!asked(reading, DEVICE_TEMPERATURE_CELSIUS))
		return;
	returned = NVML_CALL(reading, temperature_v1, &sensor);
	if (!another_version(returned) && returned != NVML_RETURN_NOT_SUPPORTED) {
		set(reading, DEVICE_TEMPERATURE_CELSIUS, returned, sensor.celsius == -1 ? NAN : sensor.celsius);
		return;
	}
	returned = NVML_CALL(reading, temperature, NVML_SENSOR_GPU, &celsius);
	set_u32(reading, DEVICE_TEMPERATURE_CELSIUS, returned, &celsius, 1);
}

static void read_power(struct nvml_reading *reading)
{
	unsigned int milliwatts = 0;

	/* Only where the driver has no field for it: on newer devices this is a mean of a second. */
	if (nvml_field_unsupported(reading->slot, DEVICE_POWER_WATTS) && asked(reading, DEVICE_POWER_WATTS))
		set_u32(reading, DEVICE_POWER_WATTS, NVML_CALL(reading, power, &milliwatts), &milliwatts, 1e-3);
}

static void read_clock(struct nvml_reading *reading, uint32_t field, int domain)
{
	unsigned int megahertz = 0;

	if (asked(reading, field))
		set_u32(reading, field, NVML_CALL(reading, clock, domain, &megahertz), &megahertz, MEGA);
}

static void read_clocks(struct nvml_reading *reading)
{
	unsigned long long reasons = 0;
	int state = 0, returned;

	read_clock(reading, DEVICE_CLOCK_GRAPHICS_HERTZ, NVML_DOMAIN_GRAPHICS);
	read_clock(reading, DEVICE_CLOCK_SM_HERTZ, NVML_DOMAIN_SM);
	read_clock(reading, DEVICE_CLOCK_MEMORY_HERTZ, NVML_DOMAIN_MEMORY);
	read_clock(reading, DEVICE_CLOCK_VIDEO_HERTZ, NVML_DOMAIN_VIDEO);
	if (asked(reading, DEVICE_CLOCK_EVENT_REASONS))
		set_u64(reading, DEVICE_CLOCK_EVENT_REASONS, NVML_CALL(reading, event_reasons, &reasons), &reasons);
	if (!asked(reading, DEVICE_PERFORMANCE_STATE))
		return;
	returned = NVML_CALL(reading, performance_state, &state);
	set(reading, DEVICE_PERFORMANCE_STATE, returned, state == NVML_PERFORMANCE_UNKNOWN ? NAN : state);
}

static void read_pcie_link(struct nvml_reading *reading)
{
	unsigned int raw = 0;

	if (asked(reading, DEVICE_PCIE_LINK_GENERATION))
		set_u32(reading, DEVICE_PCIE_LINK_GENERATION, NVML_CALL(reading, pcie_generation, &raw), &raw, 1);
	if (asked(reading, DEVICE_PCIE_LINK_WIDTH))
		set_u32(reading, DEVICE_PCIE_LINK_WIDTH, NVML_CALL(reading, pcie_width, &raw), &raw, 1);
}

_Static_assert(DEVICE_ECC_CORRECTED_VOLATILE_SRAM - DEVICE_ECC_CORRECTED_VOLATILE_L1 == NVML_ECC_SRAM &&
		       DEVICE_ECC_CORRECTED_VOLATILE_MEMORY - DEVICE_ECC_CORRECTED_VOLATILE_L1 == NVML_ECC_DEVICE_MEMORY,
	       "locations are in NVML's order");

static void read_ecc(struct nvml_reading *reading, uint32_t first, int kind, int lifetime)
{
	for (uint32_t location = 0; location < NVML_ECC_LOCATIONS; location++) {
		unsigned long long count = 0;

		if (asked(reading, first + location))
			set_u64(reading, first + location, NVML_CALL(reading, ecc, kind, lifetime, location, &count), &count);
	}
}

static void read_ecc_locations(struct nvml_reading *reading)
{
	read_ecc(reading, DEVICE_ECC_CORRECTED_VOLATILE_L1, NVML_ECC_CORRECTED, NVML_ECC_VOLATILE);
	read_ecc(reading, DEVICE_ECC_CORRECTED_AGGREGATE_L1, NVML_ECC_CORRECTED, NVML_ECC_AGGREGATE);
	read_ecc(reading, DEVICE_ECC_UNCORRECTED_VOLATILE_L1, NVML_ECC_UNCORRECTED, NVML_ECC_VOLATILE);
	read_ecc(reading, DEVICE_ECC_UNCORRECTED_AGGREGATE_L1, NVML_ECC_UNCORRECTED, NVML_ECC_AGGREGATE);
}

static void read_fan(struct nvml_reading *reading)
{
	unsigned int percent = 0;

	if (asked(reading, DEVICE_FAN_RATIO))
		set_u32(reading, DEVICE_FAN_RATIO, NVML_CALL(reading, fan, &percent), &percent, PERCENT);
}

/* Of an older driver: there is no health. */
static int old_fabric(struct nvml_reading *reading, struct nvml_fabric *fabric)
{
	struct nvml_fabric_v1 old = {0};
	int returned = NVML_CALL(reading, fabric_v1, &old);

	fabric->version = 0;
	fabric->state = old.state;
	fabric->status = old.status;
	return returned;
}

static int fabric(struct nvml_reading *reading, struct nvml_fabric *fabric)
{
	static const uint32_t versions[] = {NVML_FABRIC_V3, NVML_FABRIC_V2};

	for (uint32_t i = 0; i < sizeof(versions) / sizeof(*versions); i++) {
		int returned;

		fabric->version = versions[i];
		returned = NVML_CALL(reading, fabric, fabric);
		if (!another_version(returned))
			return returned;
	}
	return old_fabric(reading, fabric);
}

static void read_fabric(struct nvml_reading *reading)
{
	struct nvml_fabric found = {0};
	int returned;

	if (!asked(reading, DEVICE_FABRIC_STATE))
		return;
	returned = fabric(reading, &found);
	if (returned == NVML_RETURN_OK && found.state == NVML_FABRIC_NOT_SUPPORTED)
		returned = NVML_RETURN_NOT_SUPPORTED;
	set(reading, DEVICE_FABRIC_STATE, returned, found.state);
	set(reading, DEVICE_FABRIC_HEALTH_MASK, returned, found.version ? found.health_mask : NAN);
	set(reading, DEVICE_FABRIC_STATUS, returned, found.state == NVML_FABRIC_COMPLETED ? found.status : NAN);
}

static void read_threshold(struct nvml_reading *reading, uint32_t field, int threshold)
{
	unsigned int celsius = 0;

	if (asked(reading, field))
		set_u32(reading, field, NVML_CALL(reading, threshold, threshold, &celsius), &celsius, 1);
}

static void read_thresholds(struct nvml_reading *reading)
{
	read_threshold(reading, DEVICE_SHUTDOWN_TEMPERATURE_CELSIUS, NVML_THRESHOLD_SHUTDOWN);
	read_threshold(reading, DEVICE_SLOWDOWN_TEMPERATURE_CELSIUS, NVML_THRESHOLD_SLOWDOWN);
	read_threshold(reading, DEVICE_MEMORY_MAX_TEMPERATURE_CELSIUS, NVML_THRESHOLD_MEMORY_MAX);
}

/* ---- links ---- */

static uint32_t count_links(struct nvml_reading *reading)
{
	uint32_t links = 0;
	double count;
	int active;

	if (nvml_read_one(reading, NVML_FIELD_LINK_COUNT, &count) == DEVICE_OK && count >= 0)
		return count < DEVICE_LINKS ? count : DEVICE_LINKS;
	while (links < DEVICE_LINKS && NVML_CALL(reading, link_state, links, &active) == NVML_RETURN_OK)
		links++;
	return links;
}

static void learn_links(struct nvml_reading *reading)
{
	uint32_t links;

	if (reading->slot->links_known)
		return;
	links = count_links(reading);
	if (reading->error)
		return;
	reading->slot->links = reading->sample->links = links;
	reading->slot->links_known = 1;
}

static int asked_link(const struct nvml_reading *reading, uint32_t field)
{
	return nvml_link_field_unsupported(reading->slot, field) && !reading->slot->unsupported_link[field];
}

static void read_link_states(struct nvml_reading *reading)
{
	uint32_t supported = 0;

	for (uint32_t link = 0; link < reading->slot->links; link++) {
		int active = 0;
		int32_t status = nvml_status(NVML_CALL(reading, link_state, link, &active));

		device_set_link(reading->sample, link, DEVICE_LINK_STATE, status, active != 0);
		supported += status != DEVICE_UNSUPPORTED;
	}
	reading->slot->unsupported_link[DEVICE_LINK_STATE] = supported == 0;
}

static void read_link_counter(struct nvml_reading *reading, uint32_t field, int kind)
{
	uint32_t supported = 0;

	if (!asked_link(reading, field))
		return;
	for (uint32_t link = 0; link < reading->slot->links; link++) {
		unsigned long long count = 0;
		int32_t status = nvml_status(NVML_CALL(reading, link_error, link, kind, &count));

		device_set_link(reading->sample, link, field, status,
				count == NVML_NOT_AVAILABLE_64 ? NAN : (double)count);
		supported += status != DEVICE_UNSUPPORTED;
	}
	reading->slot->unsupported_link[field] = supported == 0;
}

static void read_links(struct nvml_reading *reading)
{
	learn_links(reading);
	nvml_read_link_fields(reading, DEVICE_GROUP_LINKS);
	if (asked_link(reading, DEVICE_LINK_STATE))
		read_link_states(reading);
}

static void read_link_errors(struct nvml_reading *reading)
{
	learn_links(reading);
	nvml_read_link_fields(reading, DEVICE_GROUP_LINK_ERRORS);
	read_link_counter(reading, DEVICE_LINK_CRC_ERRORS, NVML_LINK_CRC_FLIT);
	read_link_counter(reading, DEVICE_LINK_CRC_DATA_ERRORS, NVML_LINK_CRC_DATA);
	read_link_counter(reading, DEVICE_LINK_ECC_DATA_ERRORS, NVML_LINK_ECC_DATA);
	read_link_counter(reading, DEVICE_LINK_REPLAYS, NVML_LINK_REPLAY);
	read_link_counter(reading, DEVICE_LINK_RECOVERIES, NVML_LINK_RECOVERY);
}

/* ---- */

typedef void (*reader)(struct nvml_reading *reading);

static const reader readers[DEVICE_GROUPS] = {
	[DEVICE_GROUP_UTILIZATION] = read_utilization,
	[DEVICE_GROUP_CODEC] = read_codec,
	[DEVICE_GROUP_MEMORY] = read_memory,
	[DEVICE_GROUP_TEMPERATURE] = read_temperature,
	[DEVICE_GROUP_POWER] = read_power,
	[DEVICE_GROUP_CLOCKS] = read_clocks,
	[DEVICE_GROUP_PCIE_ERRORS] = read_pcie_link,
	[DEVICE_GROUP_LINKS] = read_links,
	[DEVICE_GROUP_LINK_ERRORS] = read_link_errors,
	[DEVICE_GROUP_ECC_LOCATIONS] = read_ecc_locations,
	[DEVICE_GROUP_FAN] = read_fan,
	[DEVICE_GROUP_FABRIC] = read_fabric,
	[DEVICE_GROUP_LIMITS] = read_thresholds,
};

void nvml_read_group(struct nvml_reading *reading, uint32_t group)
{
	nvml_read_fields(reading, group);
	if (readers[group])
		readers[group](reading);
}
