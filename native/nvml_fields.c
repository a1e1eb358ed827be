/* SPDX-License-Identifier: Apache-2.0 */
#include "nvml_functions.h"

#include <math.h>
#include <string.h>

#define BATCH 128 /* values in one call; links times fields may be more */

struct request {
	uint16_t id;
	uint8_t group;
	uint8_t field; /* enum device_field or enum device_link_field */
	double unit;
	uint16_t instead_of; /* asked only where this id is unsupported: another counter, so never both by turns */
};

#define KIB 1024

static const struct request requests[] = {
	{NVML_FIELD_MEMORY_TEMPERATURE, DEVICE_GROUP_TEMPERATURE, DEVICE_MEMORY_TEMPERATURE_CELSIUS, 1, 0},
	{NVML_FIELD_POWER_INSTANT, DEVICE_GROUP_POWER, DEVICE_POWER_WATTS, 1e-3, 0},
	{NVML_FIELD_POWER_AVERAGE, DEVICE_GROUP_POWER, DEVICE_POWER_AVERAGE_WATTS, 1e-3, 0},
	{NVML_FIELD_ENERGY, DEVICE_GROUP_POWER, DEVICE_ENERGY_JOULES, 1e-3, 0},
	{NVML_FIELD_VIOLATION_POWER, DEVICE_GROUP_THROTTLE, DEVICE_THROTTLE_POWER_CAP_SECONDS, 1e-9, 0},
	{NVML_FIELD_VIOLATION_THERMAL, DEVICE_GROUP_THROTTLE, DEVICE_THROTTLE_THERMAL_SECONDS, 1e-9, 0},
	{NVML_FIELD_VIOLATION_SYNC_BOOST, DEVICE_GROUP_THROTTLE, DEVICE_THROTTLE_SYNC_BOOST_SECONDS, 1e-9, 0},
	{NVML_FIELD_VIOLATION_BOARD_LIMIT, DEVICE_GROUP_THROTTLE, DEVICE_THROTTLE_BOARD_LIMIT_SECONDS, 1e-9, 0},
	{NVML_FIELD_VIOLATION_LOW_UTILIZATION, DEVICE_GROUP_THROTTLE, DEVICE_THROTTLE_LOW_UTILIZATION_SECONDS, 1e-9, 0},
	{NVML_FIELD_VIOLATION_RELIABILITY, DEVICE_GROUP_THROTTLE, DEVICE_THROTTLE_RELIABILITY_SECONDS, 1e-9, 0},
	{NVML_FIELD_VIOLATION_SW_THERMAL, DEVICE_GROUP_THROTTLE, DEVICE_THROTTLE_SW_THERMAL_SECONDS, 1e-9, 0},
	{NVML_FIELD_VIOLATION_HW_THERMAL, DEVICE_GROUP_THROTTLE, DEVICE_THROTTLE_HW_THERMAL_SECONDS, 1e-9, 0},
	{NVML_FIELD_VIOLATION_HW_POWER_BRAKE, DEVICE_GROUP_THROTTLE, DEVICE_THROTTLE_HW_POWER_BRAKE_SECONDS, 1e-9, 0},
	{NVML_FIELD_PCIE_TX_BYTES, DEVICE_GROUP_PCIE, DEVICE_PCIE_TX_BYTES, 1, 0},
	{NVML_FIELD_PCIE_RX_BYTES, DEVICE_GROUP_PCIE, DEVICE_PCIE_RX_BYTES, 1, 0},
	{NVML_FIELD_PCIE_REPLAYS, DEVICE_GROUP_PCIE, DEVICE_PCIE_REPLAYS, 1, 0},
	{NVML_FIELD_PCIE_CORRECTABLE_ERRORS, DEVICE_GROUP_PCIE_ERRORS, DEVICE_PCIE_CORRECTABLE_ERRORS, 1, 0},
	{NVML_FIELD_PCIE_NON_FATAL_ERRORS, DEVICE_GROUP_PCIE_ERRORS, DEVICE_PCIE_NON_FATAL_ERRORS, 1, 0},
	{NVML_FIELD_PCIE_FATAL_ERRORS, DEVICE_GROUP_PCIE_ERRORS, DEVICE_PCIE_FATAL_ERRORS, 1, 0},
	{NVML_FIELD_PCIE_RECOVERIES, DEVICE_GROUP_PCIE_ERRORS, DEVICE_PCIE_RECOVERIES, 1, 0},
	{NVML_FIELD_ECC_CORRECTED_VOLATILE, DEVICE_GROUP_ECC, DEVICE_ECC_CORRECTED_VOLATILE_TOTAL, 1, 0},
	{NVML_FIELD_ECC_UNCORRECTED_VOLATILE, DEVICE_GROUP_ECC, DEVICE_ECC_UNCORRECTED_VOLATILE_TOTAL, 1, 0},
	{NVML_FIELD_ECC_CORRECTED_AGGREGATE, DEVICE_GROUP_ECC, DEVICE_ECC_CORRECTED_AGGREGATE_TOTAL, 1, 0},
	{NVML_FIELD_ECC_UNCORRECTED_AGGREGATE, DEVICE_GROUP_ECC, DEVICE_ECC_UNCORRECTED_AGGREGATE_TOTAL, 1, 0},
	{NVML_FIELD_REMAPPED_CORRECTABLE, DEVICE_GROUP_REMAPPED_ROWS, DEVICE_REMAPPED_ROWS_CORRECTABLE, 1, 0},
	{NVML_FIELD_REMAPPED_UNCORRECTABLE, DEVICE_GROUP_REMAPPED_ROWS, DEVICE_REMAPPED_ROWS_UNCORRECTABLE, 1, 0},
	{NVML_FIELD_REMAPPED_PENDING, DEVICE_GROUP_REMAPPED_ROWS, DEVICE_REMAPPED_ROWS_PENDING, 1, 0},
	{NVML_FIELD_REMAPPED_FAILED, DEVICE_GROUP_REMAPPED_ROWS, DEVICE_REMAPPED_ROWS_FAILED, 1, 0},
	{NVML_FIELD_RETIRED_SINGLE_BIT, DEVICE_GROUP_RETIRED_PAGES, DEVICE_RETIRED_PAGES_SINGLE_BIT, 1, 0},
	{NVML_FIELD_RETIRED_DOUBLE_BIT, DEVICE_GROUP_RETIRED_PAGES, DEVICE_RETIRED_PAGES_DOUBLE_BIT, 1, 0},
	{NVML_FIELD_RETIRED_PENDING_SINGLE_BIT, DEVICE_GROUP_RETIRED_PAGES, DEVICE_RETIRED_PAGES_PENDING_SINGLE_BIT, 1,
	 0},
	{NVML_FIELD_RETIRED_PENDING_DOUBLE_BIT, DEVICE_GROUP_RETIRED_PAGES, DEVICE_RETIRED_PAGES_PENDING_DOUBLE_BIT, 1,
	 0},
	{NVML_FIELD_POWER_LIMIT, DEVICE_GROUP_LIMITS, DEVICE_POWER_LIMIT_WATTS, 1e-3, 0},
	{NVML_FIELD_RECOVERY_ACTION, DEVICE_GROUP_HEALTH, DEVICE_RECOVERY_ACTION, 1, 0},
};

static const struct request link_requests[] = {
	{NVML_FIELD_LINK_STATE, DEVICE_GROUP_LINKS, DEVICE_LINK_STATE, 1, 0},
	{NVML_FIELD_LINK_TX_BYTES, DEVICE_GROUP_LINKS, DEVICE_LINK_TX_BYTES, 1, 0},
	{NVML_FIELD_LINK_RX_BYTES, DEVICE_GROUP_LINKS, DEVICE_LINK_RX_BYTES, 1, 0},
	{NVML_FIELD_LINK_DATA_TX, DEVICE_GROUP_LINKS, DEVICE_LINK_TX_BYTES, KIB, NVML_FIELD_LINK_TX_BYTES},
	{NVML_FIELD_LINK_DATA_RX, DEVICE_GROUP_LINKS, DEVICE_LINK_RX_BYTES, KIB, NVML_FIELD_LINK_RX_BYTES},
	{NVML_FIELD_LINK_TX_PACKETS, DEVICE_GROUP_LINKS, DEVICE_LINK_TX_PACKETS, 1, 0},
	{NVML_FIELD_LINK_RX_PACKETS, DEVICE_GROUP_LINKS, DEVICE_LINK_RX_PACKETS, 1, 0},
	{NVML_FIELD_LINK_CRC, DEVICE_GROUP_LINK_ERRORS, DEVICE_LINK_CRC_ERRORS, 1, 0},
	{NVML_FIELD_LINK_REPLAYS, DEVICE_GROUP_LINK_ERRORS, DEVICE_LINK_REPLAYS, 1, 0},
	{NVML_FIELD_LINK_RECOVERY_EVENTS, DEVICE_GROUP_LINK_ERRORS, DEVICE_LINK_RECOVERIES, 1, 0},
	{NVML_FIELD_LINK_RECOVERIES, DEVICE_GROUP_LINK_ERRORS, DEVICE_LINK_RECOVERIES, 1,
	 NVML_FIELD_LINK_RECOVERY_EVENTS},
	{NVML_FIELD_LINK_RECOVERIES_SUCCESSFUL, DEVICE_GROUP_LINK_ERRORS, DEVICE_LINK_RECOVERIES_SUCCESSFUL, 1, 0},
	{NVML_FIELD_LINK_RECOVERIES_FAILED, DEVICE_GROUP_LINK_ERRORS, DEVICE_LINK_RECOVERIES_FAILED, 1, 0},
	{NVML_FIELD_LINK_MALFORMED_PACKETS, DEVICE_GROUP_LINK_ERRORS, DEVICE_LINK_MALFORMED_PACKET_ERRORS, 1, 0},
	{NVML_FIELD_LINK_BUFFER_OVERRUNS, DEVICE_GROUP_LINK_ERRORS, DEVICE_LINK_BUFFER_OVERRUN_ERRORS, 1, 0},
	{NVML_FIELD_LINK_RX_ERRORS, DEVICE_GROUP_LINK_ERRORS, DEVICE_LINK_RX_ERRORS, 1, 0},
	{NVML_FIELD_LINK_RX_REMOTE_ERRORS, DEVICE_GROUP_LINK_ERRORS, DEVICE_LINK_RX_REMOTE_ERRORS, 1, 0},
	{NVML_FIELD_LINK_RX_GENERAL_ERRORS, DEVICE_GROUP_LINK_ERRORS, DEVICE_LINK_RX_GENERAL_ERRORS, 1, 0},
	{NVML_FIELD_LINK_INTEGRITY_ERRORS, DEVICE_GROUP_LINK_ERRORS, DEVICE_LINK_INTEGRITY_ERRORS, 1, 0},
	{NVML_FIELD_LINK_TX_DISCARDS, DEVICE_GROUP_LINK_ERRORS, DEVICE_LINK_TX_DISCARDS, 1, 0},
	{NVML_FIELD_LINK_EFFECTIVE_ERRORS, DEVICE_GROUP_LINK_ERRORS, DEVICE_LINK_EFFECTIVE_ERRORS, 1, 0},
	{NVML_FIELD_LINK_SYMBOL_ERRORS, DEVICE_GROUP_LINK_ERRORS, DEVICE_LINK_SYMBOL_ERRORS, 1, 0},
};

#define REQUESTS (sizeof(requests) / sizeof(*requests))
#define LINK_REQUESTS (sizeof(link_requests) / sizeof(*link_requests))

_Static_assert(REQUESTS <= NVML_REQUESTS_MAX && LINK_REQUESTS <= NVML_REQUESTS_MAX, "one flag each");

/* ---- one answer ---- */

static double unsigned_or_nan(uint64_t value, uint64_t not_available)
{
	return value == not_available ? NAN : (double)value;
}

static double signed_or_nan(int64_t value)
{
	return value == -1 ? NAN : (double)value;
}

/* NaN where the value is a sentinel or its type is unknown. */
static double number(const struct nvml_field_value *answer)
{
	switch (answer->type) {
	case NVML_TYPE_DOUBLE:
		return answer->value.real;
	case NVML_TYPE_U32:
		return unsigned_or_nan(answer->value.u32, UINT32_MAX);
	case NVML_TYPE_ULONG:
	case NVML_TYPE_U64:
		return unsigned_or_nan(answer->value.u64, UINT64_MAX);
	case NVML_TYPE_S64:
		return signed_or_nan(answer->value.s64);
	case NVML_TYPE_S32:
		return signed_or_nan(answer->value.s32);
	case NVML_TYPE_U16:
		return unsigned_or_nan(answer->value.u16, UINT16_MAX);
	default:
		return NAN;
	}
}

/* An older driver calls an id that it does not know an invalid argument. */
static int32_t status(struct nvml_reading *reading, const struct nvml_field_value *answer)
{
	if (answer->status == NVML_RETURN_INVALID_ARGUMENT)
		return DEVICE_UNSUPPORTED;
	return nvml_status(nvml_noted(reading, answer->status));
}

/* ---- many ---- */

/* A library that refuses a whole batch for one id is asked for one at a time. */
static void ask(struct nvml_reading *reading, struct nvml_field_value *values, int count)
{
	int returned = NVML_CALL(reading, field_values, count, values);

	if (returned == NVML_RETURN_OK)
		return;
	for (int i = 0; i < count; i++) {
		if (returned == NVML_RETURN_INVALID_ARGUMENT && count > 1)
			ask(reading, &values[i], 1);
		else
			values[i].status = returned;
	}
}

static void ask_all(struct nvml_reading *reading, struct nvml_field_value *values, int count)
{
	for (int done = 0; done < count; done += BATCH)
		ask(reading, values + done, count - done < BATCH ? count - done : BATCH);
}

/* Where a library forgets to answer, its silence is an error. */
static struct nvml_field_value question(uint32_t id, uint32_t scope)
{
	return (struct nvml_field_value){.field = id, .scope = scope, .status = NVML_RETURN_UNKNOWN};
}

int nvml_read_one(struct nvml_reading *reading, uint32_t id, double *value)
{
	struct nvml_field_value values[1] = {question(id, 0)};
	int32_t found;

	ask(reading, values, 1);
	found = status(reading, values);
	*value = found == DEVICE_OK ? number(values) : NAN;
	return found;
}

void nvml_read_fields(struct nvml_reading *reading, uint32_t group)
{
	struct nvml_field_value values[REQUESTS];
	uint32_t asked[REQUESTS];
	int count = 0;

	for (uint32_t i = 0; i < REQUESTS; i++) {
		if (requests[i].group != group || reading->slot->unsupported_request[i])
			continue;
		values[count] = question(requests[i].id, 0);
		asked[count++] = i;
	}
	ask_all(reading, values, count);
	for (int i = 0; i < count; i++) {
		const struct request *request = &requests[asked[i]];
		int32_t found = status(reading, &values[i]);

		device_set(reading->sample, request->field, found, number(&values[i]) * request->unit);
		reading->slot->unsupported_request[asked[i]] = found == DEVICE_UNSUPPORTED;
	}
}

/* No id could tell this field of the device. */
int nvml_field_unsupported(const struct nvml_slot *slot, uint32_t field)
{
	for (uint32_t i = 0; i < REQUESTS; i++)
		if (requests[i].field == field && !slot->unsupported_request[i])
			return 0;
	return 1;
}

/* ---- links ---- */

static uint32_t link_request(uint16_t id)
{
	uint32_t i = 0;

	while (link_requests[i].id != id)
		i++;
	return i;
}

static int wanted(const struct nvml_slot *slot, uint32_t i, uint32_t group)
{
	const struct request *request = &link_requests[i];

	if (request->group != group || slot->unsupported_link_request[i])
		return 0;
	return !request->instead_of || slot->unsupported_link_request[link_request(request->instead_of)];
}

static uint32_t select_links(const struct nvml_slot *slot, uint32_t group, uint32_t *selected)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < LINK_REQUESTS; i++)
		if (wanted(slot, i, group))
			selected[count++] = i;
	return count;
}

static double link_number(const struct request *request, const struct nvml_field_value *answer)
{
	double value = number(answer) * request->unit;

	if (request->field == DEVICE_LINK_STATE)
		return value == NVML_LINK_ACTIVE || value == NVML_LINK_SLEEP;
	return value;
}

/* One field of all links; `stride` values lie between two of them. */
static void take_links(struct nvml_reading *reading, uint32_t i, const struct nvml_field_value *values, uint32_t stride)
{
	uint32_t supported = 0;

	for (uint32_t link = 0; link < reading->slot->links; link++) {
		const struct nvml_field_value *answer = &values[link * stride];
		int32_t found = status(reading, answer);

		device_set_link(reading->sample, link, link_requests[i].field, found,
				link_number(&link_requests[i], answer));
		supported += found != DEVICE_UNSUPPORTED;
	}
	reading->slot->unsupported_link_request[i] = supported == 0;
}

void nvml_read_link_fields(struct nvml_reading *reading, uint32_t group)
{
	struct nvml_field_value values[DEVICE_LINKS * LINK_REQUESTS];
	uint32_t selected[LINK_REQUESTS];
	uint32_t count = select_links(reading->slot, group, selected);
	uint32_t links = reading->slot->links;

	for (uint32_t link = 0; link < links; link++)
		for (uint32_t i = 0; i < count; i++)
			values[link * count + i] = question(link_requests[selected[i]].id, link);
	ask_all(reading, values, links * count);
	if (links)
		for (uint32_t i = 0; i < count; i++)
			take_links(reading, selected[i], &values[i], count);
}

/* The same for a field of the links. */
int nvml_link_field_unsupported(const struct nvml_slot *slot, uint32_t field)
{
	for (uint32_t i = 0; i < LINK_REQUESTS; i++)
		if (link_requests[i].field == field && !slot->unsupported_link_request[i])
			return 0;
	return 1;
}
