/* SPDX-License-Identifier: Apache-2.0 */
/* What each group of calls reads, and how DCMI's units become base units. */
#include "dcmi_library.h"

#include <math.h>
#include <string.h>

#define MIB 1048576.0
#define MEGAHERTZ 1e6

void npu_set(struct npu_reading *reading, uint32_t field, int status, double value)
{
	device_set(&reading->slot->sample, field, status, value);
}

/* All ones: the library did not fill it, or says "none". */
void npu_set_number(struct npu_reading *reading, uint32_t field, int status, uint32_t number, double unit)
{
	npu_set(reading, field, status, number == DCMI_NO_NUMBER ? NAN : number * unit);
}

void npu_set_part(struct npu_reading *reading, uint32_t field, int status, uint32_t number, double parts)
{
	npu_set(reading, field, status, number == DCMI_NO_NUMBER ? NAN : number / parts);
}

void npu_set_counter(struct npu_reading *reading, uint32_t field, int status, uint64_t count)
{
	npu_set(reading, field, status, count == UINT64_MAX ? NAN : (double)count);
}

/* ---- utilization ---- */

static void read_utilization(struct npu_reading *reading)
{
	NPU_ROOM(struct dcmi_loads, loads);
	int status = NPU_ASK(reading, loads, &loads.value);

	/* Where the call is missing, read_load has the fields. */
	reading->slot->loads_known = status != DEVICE_UNSUPPORTED;
	if (status == DEVICE_UNSUPPORTED)
		return;
	npu_set_part(reading, DEVICE_UTILIZATION_RATIO, status, loads.value.npu_percent, 100);
	npu_set_part(reading, DEVICE_AICORE_RATIO, status, loads.value.aicore_percent, 100);
	npu_set_part(reading, DEVICE_VECTOR_RATIO, status, loads.value.vector_percent, 100);
	npu_set_part(reading, DEVICE_CUBE_RATIO, status, loads.value.cube_percent, 100);
}

/* A kind of unit that the chip does not measure may read 0 or 100 with "success" (seen on 910B3: vector and cube 0,
 * NPU 100). Those kinds count as measured once they were seen in between.
 */
static const struct load {
	int kind;
	uint32_t field;
	bool in_loads; /* the one call of read_utilization tells it too */
	bool doubtful;
} loads_by_unit[] = {
	{DCMI_LOAD_AICORE, DEVICE_AICORE_RATIO, true, false},
	{DCMI_LOAD_NPU, DEVICE_UTILIZATION_RATIO, true, true},
	{DCMI_LOAD_AICPU, DEVICE_AICPU_RATIO, false, false},
	{DCMI_LOAD_VECTOR, DEVICE_VECTOR_RATIO, true, true},
	{DCMI_LOAD_CONTROL_CPU, DEVICE_CONTROL_CPU_RATIO, false, false},
	{DCMI_LOAD_CUBE, DEVICE_CUBE_RATIO, true, true},
};

#define LOADS (sizeof(loads_by_unit) / sizeof(loads_by_unit[0]))

static bool is_worth_asking(const struct npu_slot *slot, const struct load *load)
{
	return !slot->load_refused[load->kind] && !(load->in_loads && slot->loads_known);
}

static const struct load *next_load(struct npu_slot *slot)
{
	for (uint32_t tried = 0; tried < LOADS; tried++) {
		const struct load *load = &loads_by_unit[slot->next_load++ % LOADS];

		if (is_worth_asking(slot, load))
			return load;
	}
	return NULL;
}

static bool is_measured(struct npu_slot *slot, const struct load *load, uint32_t percent)
{
	if (percent > 0 && percent < 100)
		slot->load_moved[load->kind] = true;
	return !load->doubtful || slot->load_moved[load->kind];
}

static void read_load(struct npu_reading *reading)
{
	const struct load *load = next_load(reading->slot);
	uint32_t percent = DCMI_NO_NUMBER;
	int status;

	if (!load)
		return;
	status = NPU_ASK(reading, load, load->kind, &percent);
	reading->slot->load_refused[load->kind] = status == DEVICE_UNSUPPORTED;
	if (status == DCMI_OK && !is_measured(reading->slot, load, percent))
		status = DEVICE_ABSENT;
	npu_set_part(reading, load->field, status, percent, 100);
}

/* ---- memory, temperature, power, clocks ---- */

static double celsius(int32_t reading)
{
	return reading == DCMI_MCU_INVALID || reading == DCMI_MCU_FAILED || reading == -1 ? NAN : reading;
}

static double bytes(uint64_t mib)
{
	return mib == 0 || mib == UINT64_MAX ? NAN : (double)mib * MIB;
}

static void read_memory(struct npu_reading *reading)
{
	NPU_ROOM(struct dcmi_hbm, hbm);
	int status = NPU_ASK(reading, hbm, &hbm.value);
	double total = bytes(hbm.value.size_mib);
	double used = isnan(total) || hbm.value.used_mib == UINT64_MAX ? NAN : (double)hbm.value.used_mib * MIB;

	npu_set(reading, DEVICE_MEMORY_TOTAL_BYTES, status, total);
	npu_set(reading, DEVICE_MEMORY_USED_BYTES, status, used);
	npu_set(reading, DEVICE_MEMORY_FREE_BYTES, status, total - used);
	npu_set(reading, DEVICE_MEMORY_TEMPERATURE_CELSIUS, status, isnan(total) ? NAN : celsius(hbm.value.celsius));
	npu_set_part(reading, DEVICE_MEMORY_BANDWIDTH_RATIO, status, hbm.value.bandwidth_percent, 100);
	npu_set_number(reading, DEVICE_CLOCK_MEMORY_HERTZ, status, hbm.value.megahertz, MEGAHERTZ);
}

static void read_ddr(struct npu_reading *reading)
{
	NPU_ROOM(struct dcmi_ddr, ddr);
	int status = NPU_ASK(reading, ddr, &ddr.value);
	double total = bytes(ddr.value.size_mib);
	double free = ddr.value.available_mib == UINT64_MAX ? NAN : (double)ddr.value.available_mib * MIB;

	npu_set(reading, DEVICE_DDR_TOTAL_BYTES, status, total);
	npu_set(reading, DEVICE_DDR_USED_BYTES, status, total - free);
}

static void read_temperature(struct npu_reading *reading)
{
	int32_t degrees = -1;
	int status = NPU_ASK(reading, temperature, &degrees);

	npu_set(reading, DEVICE_TEMPERATURE_CELSIUS, status, celsius(degrees));
}

static void read_power(struct npu_reading *reading)
{
	int32_t tenths = -1;
	int status = NPU_ASK(reading, power, &tenths);

	npu_set(reading, DEVICE_POWER_WATTS, status, tenths == -1 ? NAN : tenths / 10.0);
}

static void read_voltage(struct npu_reading *reading)
{
	uint32_t hundredths = DCMI_NO_NUMBER;
	int status = NPU_ASK(reading, voltage, &hundredths);
	bool absent = hundredths == DCMI_MCU_INVALID || hundredths == DCMI_MCU_FAILED;

	npu_set_part(reading, DEVICE_VOLTAGE_VOLTS, status, absent ? DCMI_NO_NUMBER : hundredths, 100);
}

static void read_clocks(struct npu_reading *reading)
{
	static const struct {
		int kind;
		uint32_t field;
	} clocks[] = {
		{DCMI_CLOCK_AICORE, DEVICE_CLOCK_AICORE_HERTZ},
		{DCMI_CLOCK_AICORE_MAX, DEVICE_CLOCK_AICORE_MAX_HERTZ},
		{DCMI_CLOCK_VECTOR, DEVICE_CLOCK_VECTOR_HERTZ},
		{DCMI_CLOCK_CONTROL_CPU, DEVICE_CLOCK_CONTROL_CPU_HERTZ},
		{DCMI_CLOCK_DDR, DEVICE_CLOCK_DDR_HERTZ},
	};

	for (uint32_t n = 0; n < sizeof(clocks) / sizeof(clocks[0]); n++) {
		uint32_t megahertz = DCMI_NO_NUMBER;
		int status = NPU_ASK(reading, frequency, clocks[n].kind, &megahertz);

		npu_set_number(reading, clocks[n].field, status, megahertz, MEGAHERTZ);
	}
	read_voltage(reading);
}

/* ---- health and errors ---- */

static void read_health(struct npu_reading *reading)
{
	uint32_t level = DCMI_NO_NUMBER, codes[DCMI_FAULT_CODES];
	int32_t count = -1;
	int status = NPU_ASK(reading, health, &level);

	if (status == DCMI_OK && level == DCMI_NO_NUMBER)
		reading->gone = DCMI_NO_DEVICE; /* so the reference says of this number */
	npu_set_number(reading, DEVICE_HEALTH, status, level, 1);
	status = NPU_ASK(reading, faults, &count, codes, DCMI_FAULT_CODES);
	npu_set(reading, DEVICE_ERROR_CODES, status, count < 0 ? NAN : count);
}

struct ecc_fields {
	int memory;
	uint32_t corrected;
	uint32_t corrected_total;
	uint32_t uncorrected;
	uint32_t uncorrected_total;
};

static void read_ecc_of(struct npu_reading *reading, const struct ecc_fields *to)
{
	NPU_ROOM(struct dcmi_ecc, ecc);
	int status = NPU_ASK(reading, ecc, to->memory, &ecc.value);
	uint32_t single = ecc.value.isolated_single_bit;

	if (status == DCMI_OK && ecc.value.enabled == 0)
		status = DEVICE_ABSENT;
	npu_set_number(reading, to->corrected, status, ecc.value.single_bit, 1);
	npu_set_number(reading, to->corrected_total, status, ecc.value.total_single_bit, 1);
	npu_set_number(reading, to->uncorrected, status, ecc.value.double_bit, 1);
	npu_set_number(reading, to->uncorrected_total, status, ecc.value.total_double_bit, 1);
	if (to->memory != DCMI_HBM)
		return;
	/* The reference: reserved, and 0 where nothing counts it. */
	npu_set_number(reading, DEVICE_RETIRED_PAGES_SINGLE_BIT, status == DCMI_OK && !single ? DEVICE_ABSENT : status,
		       single, 1);
	npu_set_number(reading, DEVICE_RETIRED_PAGES_DOUBLE_BIT, status, ecc.value.isolated_double_bit, 1);
	npu_set_number(reading, DEVICE_RETIRED_PAGES_PENDING_SINGLE_BIT, status, ecc.value.next_isolated_single_bit, 1);
	npu_set_number(reading, DEVICE_RETIRED_PAGES_PENDING_DOUBLE_BIT, status, ecc.value.next_isolated_double_bit, 1);
}

#define ECC(memory, place) \
	{memory, DEVICE_ECC_CORRECTED_VOLATILE_##place, DEVICE_ECC_CORRECTED_AGGREGATE_##place, \
	 DEVICE_ECC_UNCORRECTED_VOLATILE_##place, DEVICE_ECC_UNCORRECTED_AGGREGATE_##place}

static void read_ecc(struct npu_reading *reading)
{
	static const struct ecc_fields fields[] = {
		ECC(DCMI_HBM, MEMORY), ECC(DCMI_DDR, DDR), ECC(DCMI_SRAM, SRAM), ECC(DCMI_NPU, NPU)};

	for (uint32_t n = 0; n < sizeof(fields) / sizeof(fields[0]); n++)
		read_ecc_of(reading, &fields[n]);
}

/* Groups without an entry are those of other vendors. */
static void (*const readers[DEVICE_GROUPS])(struct npu_reading *) = {
	[DEVICE_GROUP_UTILIZATION] = read_utilization,
	[DEVICE_GROUP_UTILIZATION_BY_UNIT] = read_load,
	[DEVICE_GROUP_MEMORY] = read_memory,
	[DEVICE_GROUP_DDR] = read_ddr,
	[DEVICE_GROUP_TEMPERATURE] = read_temperature,
	[DEVICE_GROUP_POWER] = read_power,
	[DEVICE_GROUP_CLOCKS] = read_clocks,
	[DEVICE_GROUP_HEALTH] = read_health,
	[DEVICE_GROUP_ECC] = read_ecc,
	[DEVICE_GROUP_LINKS] = npu_read_links,
	[DEVICE_GROUP_PCIE_ERRORS] = npu_read_pcie_errors,
	[DEVICE_GROUP_BANDWIDTH] = npu_read_bandwidth,
	[DEVICE_GROUP_NETWORK] = npu_read_network,
};

bool npu_reads_group(uint32_t group)
{
	return group < DEVICE_GROUPS && readers[group];
}

void npu_read_group(struct npu_reading *reading, uint32_t group)
{
	readers[group](reading);
}
