// SPDX-License-Identifier: Apache-2.0
/* Simulated NVML: nvmlDeviceGetFieldValues. */
#include <math.h>
#include <time.h>

#include "nvml_calls.h"

#define NANO 1e9
#define MILLI 1e3
#define PER_KIBI (1.0 / 1024.0)
#define PER_MEGA 1e-6

enum scope { OF_DEVICE, OF_LINK };

struct field {
	uint16_t id;
	uint8_t type;
	uint8_t group;
	uint8_t scope;
	uint16_t quantity;
	double scale;
};

#define U32 NVML_TYPE_U32
#define U64 NVML_TYPE_U64
#define DEVICE(id, type, group, quantity, scale)                                                                       \
	{id, type, SIMULATED_CALL_##group, OF_DEVICE, SIMULATED_##quantity, scale}
#define LINK(id, type, group, quantity, scale) {id, type, SIMULATED_CALL_##group, OF_LINK, SIMULATED_LINK_##quantity, scale}
#define ECC(id, quantity) DEVICE(id, U64, ECC_LOCATIONS, ECC_##quantity, 1.0)

/* In the order of ids, for the search. */
static const struct field FIELDS[] = {
	DEVICE(1, U32, ECC, ECC_MODE, 1.0),
	DEVICE(2, U32, ECC, ECC_MODE, 1.0),
	ECC(7, CORRECTED_VOLATILE_L1),
	ECC(8, UNCORRECTED_VOLATILE_L1),
	ECC(9, CORRECTED_VOLATILE_L2),
	ECC(10, UNCORRECTED_VOLATILE_L2),
	ECC(11, CORRECTED_VOLATILE_DRAM),
	ECC(12, UNCORRECTED_VOLATILE_DRAM),
	ECC(13, CORRECTED_VOLATILE_REGISTER),
	ECC(14, UNCORRECTED_VOLATILE_REGISTER),
	ECC(15, CORRECTED_VOLATILE_TEXTURE),
	ECC(16, UNCORRECTED_VOLATILE_TEXTURE),
	ECC(17, UNCORRECTED_VOLATILE_CBU),
	ECC(18, CORRECTED_AGGREGATE_L1),
	ECC(19, UNCORRECTED_AGGREGATE_L1),
	ECC(20, CORRECTED_AGGREGATE_L2),
	ECC(21, UNCORRECTED_AGGREGATE_L2),
	ECC(22, CORRECTED_AGGREGATE_DRAM),
	ECC(23, UNCORRECTED_AGGREGATE_DRAM),
	ECC(24, CORRECTED_AGGREGATE_REGISTER),
	ECC(25, UNCORRECTED_AGGREGATE_REGISTER),
	ECC(26, CORRECTED_AGGREGATE_TEXTURE),
	ECC(27, UNCORRECTED_AGGREGATE_TEXTURE),
	ECC(28, UNCORRECTED_AGGREGATE_CBU),
	DEVICE(29, U64, RETIRED_PAGES, RETIRED_PAGES_CORRECTED, 1.0),
	DEVICE(30, U64, RETIRED_PAGES, RETIRED_PAGES_UNCORRECTED, 1.0),
	DEVICE(31, U64, RETIRED_PAGES, RETIRED_PAGES_PENDING, 1.0),
	DEVICE(74, U64, THROTTLE, THROTTLE_POWER_SECONDS, NANO),
	DEVICE(75, U64, THROTTLE, THROTTLE_THERMAL_SECONDS, NANO),
	DEVICE(76, U64, THROTTLE, THROTTLE_SYNC_BOOST_SECONDS, NANO),
	DEVICE(77, U64, THROTTLE, THROTTLE_BOARD_LIMIT_SECONDS, NANO),
	DEVICE(78, U64, THROTTLE, THROTTLE_LOW_UTILIZATION_SECONDS, NANO),
	DEVICE(79, U64, THROTTLE, THROTTLE_RELIABILITY_SECONDS, NANO),
	DEVICE(80, U64, THROTTLE, THROTTLE_APP_CLOCKS_SECONDS, NANO),
	DEVICE(81, U64, THROTTLE, THROTTLE_BASE_CLOCKS_SECONDS, NANO),
	DEVICE(82, U32, TEMPERATURE, MEMORY_TEMPERATURE_CELSIUS, 1.0),
	DEVICE(83, U64, POWER, ENERGY_JOULES, MILLI),
	DEVICE(92, U64, RETIRED_PAGES, RETIRED_PAGES_PENDING, 1.0),
	DEVICE(93, U64, RETIRED_PAGES, RETIRED_PAGES_PENDING, 1.0),
	DEVICE(94, U32, PCIE_ERRORS, PCIE_REPLAYS, 1.0),
	DEVICE(95, U32, PCIE_ERRORS, PCIE_REPLAY_ROLLOVERS, 1.0),
	LINK(138, U64, LINKS, TX_BYTES, PER_KIBI),
	LINK(139, U64, LINKS, RX_BYTES, PER_KIBI),
	LINK(140, U64, LINKS, TX_BYTES, PER_KIBI),
	LINK(141, U64, LINKS, RX_BYTES, PER_KIBI),
	DEVICE(142, U32, REMAPPED_ROWS, REMAPPED_ROWS_CORRECTABLE, 1.0),
	DEVICE(143, U32, REMAPPED_ROWS, REMAPPED_ROWS_UNCORRECTABLE, 1.0),
	DEVICE(144, U32, REMAPPED_ROWS, REMAPPED_ROWS_PENDING, 1.0),
	DEVICE(145, U32, REMAPPED_ROWS, REMAPPED_ROWS_FAILED, 1.0),
	LINK(161, U64, LINK_ERRORS, REPLAY_ERRORS, 1.0),
	LINK(162, U64, LINK_ERRORS, RECOVERY_ERRORS, 1.0),
	LINK(163, U64, LINK_ERRORS, CRC_FLIT_ERRORS, 1.0),
	LINK(164, U32, LINKS, SPEED_BYTES_PER_SECOND, PER_MEGA),
	LINK(165, U32, LINKS, UP, 1.0),
	LINK(166, U32, LINKS, VERSION, 1.0),
	DEVICE(169, U32, PCIE_ERRORS, PCIE_RECOVERIES, 1.0),
	DEVICE(173, U32, PCIE_ERRORS, PCIE_CORRECTABLE_ERRORS, 1.0),
	DEVICE(179, U32, PCIE_ERRORS, PCIE_NONFATAL_ERRORS, 1.0),
	DEVICE(180, U32, PCIE_ERRORS, PCIE_FATAL_ERRORS, 1.0),
	DEVICE(185, U32, POWER, POWER_WATTS, MILLI),
	DEVICE(186, U32, POWER, POWER_WATTS, MILLI),
	DEVICE(187, U32, LIMITS, POWER_LIMIT_MIN_WATTS, MILLI),
	DEVICE(188, U32, LIMITS, POWER_LIMIT_MAX_WATTS, MILLI),
	DEVICE(189, U32, LIMITS, POWER_LIMIT_DEFAULT_WATTS, MILLI),
	DEVICE(190, U32, LIMITS, POWER_LIMIT_WATTS, MILLI),
	DEVICE(192, U32, LIMITS, POWER_LIMIT_WATTS, MILLI),
	DEVICE(197, U64, PCIE, PCIE_TX_BYTES, 1.0),
	DEVICE(198, U64, PCIE, PCIE_RX_BYTES, 1.0),
	LINK(201, U64, LINKS, TX_PACKETS, 1.0),
	LINK(202, U64, LINKS, TX_BYTES, 1.0),
	LINK(203, U64, LINKS, RX_PACKETS, 1.0),
	LINK(204, U64, LINKS, RX_BYTES, 1.0),
	LINK(215, U64, LINK_ERRORS, RECOVERY_ERRORS, 1.0),
	LINK(221, U64, LINK_ERRORS, SYMBOL_ERRORS, 1.0),
	DEVICE(226, U32, HEALTH, RESET_STATUS, 1.0),
	DEVICE(230, U32, HEALTH, RECOVERY_ACTION, 1.0),
	DEVICE(269, U64, THROTTLE, THROTTLE_SW_THERMAL_SECONDS, NANO),
	DEVICE(270, U64, THROTTLE, THROTTLE_HW_THERMAL_SECONDS, NANO),
	DEVICE(271, U64, THROTTLE, THROTTLE_HW_POWER_BRAKE_SECONDS, NANO),
	DEVICE(308, U32, TEMPERATURE, TEMPERATURE_CELSIUS, 1.0),
};

static const struct field *find(uint32_t id)
{
	uint32_t low = 0, high = sizeof(FIELDS) / sizeof(*FIELDS);

	while (low < high) {
		uint32_t middle = (low + high) / 2;

		if (FIELDS[middle].id == id)
			return &FIELDS[middle];
		if (FIELDS[middle].id < id)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

static double sum_of_links(const struct simulated_device *device, enum simulated_link_quantity of)
{
	double sum = NAN;

	for (uint32_t link = 0; link < SIMULATED_LINKS; link++) {
		double value = simulation_link_value(device, link, of);

		if (!isnan(value))
			sum = isnan(sum) ? value : sum + value;
	}
	return sum;
}

static double count_links(const struct simulated_device *device)
{
	double count = 0.0;

	for (uint32_t link = 0; link < SIMULATED_LINKS; link++)
		count += device->link[link].present != 0;
	return count;
}

static double value_of(const struct simulated_device *device, const struct field *field, uint32_t scope)
{
	if (field->scope == OF_DEVICE)
		return simulation_value(device, field->quantity);
	if (scope == NVML_ALL_LINKS)
		return sum_of_links(device, field->quantity);
	return simulation_link_value(device, scope, field->quantity);
}

static void put(struct nvml_field_value *to, uint32_t type, double value)
{
	to->type = type;
	to->status = isnan(value) ? NVML_RETURN_NOT_SUPPORTED : NVML_RETURN_OK;
	to->value.u64 = 0;
	if (type == NVML_TYPE_U32)
		to->value.u32 = nvml_u32(value);
	else
		to->value.u64 = simulation_integer(value + 0.5);
}

/* A group that goes wrong does so once a call, however many of its fields are asked for. */
struct verdicts {
	uint64_t known;
	int32_t code[SIMULATED_GROUPS];
};

static int32_t verdict(struct verdicts *verdicts, const struct nvml_call *call, enum simulated_group group)
{
	if (!(verdicts->known & 1ULL << group)) {
		verdicts->known |= 1ULL << group;
		verdicts->code[group] = simulation_fault(call->now, call->device, group);
	}
	return verdicts->code[group];
}

static void fill_ecc_total(const struct nvml_call *call, struct verdicts *verdicts, struct nvml_field_value *to)
{
	uint32_t kind = (to->field - NVML_FIELD_ECC_CORRECTED_VOLATILE) & 1;
	uint32_t lifetime = (to->field - NVML_FIELD_ECC_CORRECTED_VOLATILE) / 2;
	int32_t code = verdict(verdicts, call, SIMULATED_CALL_ECC);

	put(to, NVML_TYPE_U64, nvml_ecc_total(call->device, kind, lifetime));
	if (code)
		to->status = code;
}

static void fill(const struct nvml_call *call, struct verdicts *verdicts, struct nvml_field_value *to)
{
	const struct field *field = find(to->field);
	int32_t code;

	if (to->field >= NVML_FIELD_ECC_CORRECTED_VOLATILE && to->field <= NVML_FIELD_ECC_UNCORRECTED_AGGREGATE) {
		fill_ecc_total(call, verdicts, to);
	} else if (to->field == NVML_FIELD_LINK_COUNT) {
		put(to, NVML_TYPE_U32, count_links(call->device));
	} else if (!field) {
		to->status = to->field ? NVML_RETURN_NOT_SUPPORTED : NVML_RETURN_INVALID_ARGUMENT;
	} else {
		code = verdict(verdicts, call, field->group);
		put(to, field->type, value_of(call->device, field, to->scope) * field->scale);
		if (code)
			to->status = code;
	}
}

EXPORTED nvml_return_t nvmlDeviceGetFieldValues(nvml_device_t handle, int32_t count, struct nvml_field_value *values)
{
	struct verdicts verdicts = {0};
	struct nvml_call call;
	struct timespec now;
	nvml_return_t code = nvml_begin_plain(&call, handle);

	if (code)
		return code;
	if (!values || count <= 0)
		return NVML_RETURN_INVALID_ARGUMENT;
	clock_gettime(CLOCK_REALTIME, &now);
	for (int32_t n = 0; n < count; n++) {
		values[n].timestamp_us = now.tv_sec * 1000000LL + now.tv_nsec / 1000;
		values[n].latency_us = 0;
		if (call.instance) /* these fields are of whole devices */
			values[n].status = NVML_RETURN_NOT_SUPPORTED;
		else
			fill(&call, &verdicts, &values[n]);
	}
	return NVML_RETURN_OK;
}
