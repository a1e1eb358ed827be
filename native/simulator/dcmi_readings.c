// SPDX-License-Identifier: Apache-2.0
/* Simulated DCMI: what a device measures. */
#include <math.h>
#include <string.h>
#include <time.h>

#include "dcmi_calls.h"

#define MIB 1048576.0
#define LOAD_MS 36 /* as dcmi_get_device_utilization_rate takes on a 910B3 */
#define NS_PER_MS 1000000

static int number(const struct npu_call *call, enum simulated_quantity quantity, double unit, uint32_t *to)
{
	double value = npu_value(call, quantity);

	if (isnan(value))
		return DCMI_NOT_SUPPORTED;
	*to = npu_number(value / unit);
	return DCMI_OK;
}

static int signed_number(const struct npu_call *call, enum simulated_quantity quantity, double unit, int32_t *to)
{
	double value = npu_value(call, quantity);

	if (isnan(value))
		return DCMI_NOT_SUPPORTED;
	*to = (int32_t)lround(value / unit);
	return DCMI_OK;
}

NPU_BOTH(dcmi_get_device_power_info, dcmiv2_get_device_power_info, SIMULATED_CALL_POWER, (int32_t *tenths),
	 signed_number(&call, SIMULATED_POWER_WATTS, 0.1, tenths))
NPU_BOTH(dcmi_get_device_temperature, dcmiv2_get_device_temperature, SIMULATED_CALL_TEMPERATURE, (int32_t *celsius),
	 signed_number(&call, SIMULATED_TEMPERATURE_CELSIUS, 1, celsius))
NPU_BOTH(dcmi_get_device_voltage, dcmiv2_get_device_voltage, SIMULATED_CALL_CLOCKS, (uint32_t *hundredths),
	 number(&call, SIMULATED_VOLTAGE_VOLTS, 0.01, hundredths))
NPU_BOTH(dcmi_get_device_health, dcmiv2_get_device_health, SIMULATED_CALL_HEALTH, (uint32_t *level),
	 number(&call, SIMULATED_HEALTH, 1, level))
NPU_BOTH(dcmi_get_device_network_health, dcmiv2_get_device_network_health, SIMULATED_CALL_NETWORK, (uint32_t *result),
	 number(&call, SIMULATED_NETWORK_HEALTH, 1, result))
NPU_BOTH(dcmi_get_device_boot_status, dcmiv2_get_device_boot_status, SIMULATED_CALL_IDENTITY, (uint32_t *status),
	 number(&call, SIMULATED_BOOT_STATUS, 1, status))

static int frequency(const struct npu_call *call, int kind, uint32_t *megahertz)
{
	switch (kind) {
	case DCMI_CLOCK_DDR:
		return number(call, SIMULATED_CLOCK_DDR_HERTZ, 1e6, megahertz);
	case DCMI_CLOCK_CONTROL_CPU:
		return number(call, SIMULATED_CLOCK_CONTROL_CPU_HERTZ, 1e6, megahertz);
	case DCMI_CLOCK_HBM:
		return number(call, SIMULATED_CLOCK_MEMORY_HERTZ, 1e6, megahertz);
	case DCMI_CLOCK_AICORE:
		return number(call, SIMULATED_CLOCK_AICORE_HERTZ, 1e6, megahertz);
	case DCMI_CLOCK_AICORE_MAX:
		return number(call, SIMULATED_CLOCK_AICORE_MAX_HERTZ, 1e6, megahertz);
	case DCMI_CLOCK_VECTOR:
		return number(call, SIMULATED_CLOCK_VECTOR_HERTZ, 1e6, megahertz);
	default:
		return DCMI_BAD_PARAMETER;
	}
}

NPU_BOTH(dcmi_get_device_frequency, dcmiv2_get_device_frequency, SIMULATED_CALL_CLOCKS, (int kind, uint32_t *megahertz),
	 frequency(&call, kind, megahertz))

/* ---- utilization ---- */

static uint32_t percent(const struct npu_call *call, enum simulated_quantity quantity)
{
	return npu_number(npu_value(call, quantity) * 100);
}

/* Older libraries lack this call: a device without an overall utilization stands for them. */
static int loads(const struct npu_call *call, struct dcmi_loads *to)
{
	if (!npu_present(call, SIMULATED_UTILIZATION_RATIO))
		return DCMI_NOT_SUPPORTED;
	memset(to, 0, sizeof(*to));
	to->npu_percent = percent(call, SIMULATED_UTILIZATION_RATIO);
	to->aicore_percent = percent(call, SIMULATED_AICORE_RATIO);
	to->vector_percent = percent(call, SIMULATED_VECTOR_RATIO);
	to->cube_percent = percent(call, SIMULATED_CUBE_RATIO);
	return DCMI_OK;
}

NPU_BOTH(dcmi_get_device_multi_utilization_rate, dcmiv2_get_device_multi_utilization_rate, SIMULATED_CALL_UTILIZATION,
	 (struct dcmi_loads *to), loads(&call, to))

/* As on a 910B3: what is not measured is no error, but 0, and the NPU as a whole 100. */
static int load(const struct npu_call *call, int kind, uint32_t *to)
{
	static const struct {
		int kind;
		enum simulated_quantity quantity;
		uint32_t unmeasured;
	} kinds[] = {
		{DCMI_LOAD_AICORE, SIMULATED_AICORE_RATIO, 0},
		{DCMI_LOAD_AICPU, SIMULATED_AICPU_RATIO, 0},
		{DCMI_LOAD_CONTROL_CPU, SIMULATED_CONTROL_CPU_RATIO, 0},
		{DCMI_LOAD_HBM_BANDWIDTH, SIMULATED_MEMORY_BANDWIDTH_RATIO, 0},
		{DCMI_LOAD_VECTOR, SIMULATED_VECTOR_RATIO, 0},
		{DCMI_LOAD_NPU, SIMULATED_UTILIZATION_RATIO, 100},
		{DCMI_LOAD_CUBE, SIMULATED_CUBE_RATIO, 0},
	};
	struct timespec takes = {.tv_nsec = LOAD_MS * NS_PER_MS};

	nanosleep(&takes, NULL);
	for (uint32_t n = 0; n < sizeof(kinds) / sizeof(kinds[0]); n++) {
		if (kinds[n].kind == kind) {
			*to = npu_present(call, kinds[n].quantity) ? percent(call, kinds[n].quantity) : kinds[n].unmeasured;
			return DCMI_OK;
		}
	}
	return DCMI_NOT_SUPPORTED;
}

NPU_BOTH(dcmi_get_device_utilization_rate, dcmiv2_get_device_utilization_rate, SIMULATED_CALL_UTILIZATION_BY_UNIT,
	 (int kind, uint32_t *to), load(&call, kind, to))

/* ---- memory ---- */

static int hbm(const struct npu_call *call, struct dcmi_hbm *to)
{
	if (!npu_present(call, SIMULATED_MEMORY_TOTAL_BYTES))
		return DCMI_NOT_SUPPORTED;
	to->size_mib = simulation_integer(npu_value(call, SIMULATED_MEMORY_TOTAL_BYTES) / MIB);
	to->used_mib = simulation_integer(simulation_memory_used(call->device) / MIB);
	to->megahertz = npu_number(npu_value(call, SIMULATED_CLOCK_MEMORY_HERTZ) / 1e6);
	to->celsius = (int32_t)npu_number(npu_value(call, SIMULATED_MEMORY_TEMPERATURE_CELSIUS));
	to->bandwidth_percent = percent(call, SIMULATED_MEMORY_BANDWIDTH_RATIO);
	return DCMI_OK;
}

NPU_BOTH(dcmi_get_device_hbm_info, dcmiv2_get_device_hbm_info, SIMULATED_CALL_MEMORY, (struct dcmi_hbm *to),
	 hbm(&call, to))

static int ddr(const struct npu_call *call, struct dcmi_ddr *to)
{
	double total = npu_value(call, SIMULATED_DDR_TOTAL_BYTES);
	double used = npu_value(call, SIMULATED_DDR_USED_BYTES);

	if (isnan(total))
		return DCMI_NOT_SUPPORTED;
	memset(to, 0, sizeof(*to));
	to->size_mib = simulation_integer(total / MIB);
	to->available_mib = simulation_integer((total - used) / MIB);
	to->megahertz = npu_number(npu_value(call, SIMULATED_CLOCK_DDR_HERTZ) / 1e6);
	to->used_percent = npu_number(used / total * 100);
	return DCMI_OK;
}

EXPORTED int dcmi_get_device_memory_info_v3(int card, int chip, struct dcmi_ddr *to)
{
	struct npu_call call;
	int code = npu_begin_card(&call, card, chip, SIMULATED_CALL_DDR);

	return code ? code : ddr(&call, to);
}

/* The documented length of older libraries: the last two counters are not theirs. */
static int ecc(const struct npu_call *call, int memory, struct dcmi_ecc *to)
{
	int sram = memory == DCMI_SRAM;

	if ((memory != DCMI_HBM && !sram) || !npu_present(call, SIMULATED_ECC_MODE))
		return DCMI_NOT_SUPPORTED;
	if (!npu_present(call, sram ? SIMULATED_ECC_CORRECTED_VOLATILE_SRAM : SIMULATED_ECC_CORRECTED_VOLATILE_DRAM))
		return DCMI_NOT_SUPPORTED;
	to->enabled = npu_number(npu_value(call, SIMULATED_ECC_MODE));
	to->single_bit = npu_number(npu_value(
		call, sram ? SIMULATED_ECC_CORRECTED_VOLATILE_SRAM : SIMULATED_ECC_CORRECTED_VOLATILE_DRAM));
	to->double_bit = npu_number(npu_value(
		call, sram ? SIMULATED_ECC_UNCORRECTED_VOLATILE_SRAM : SIMULATED_ECC_UNCORRECTED_VOLATILE_DRAM));
	to->total_single_bit = npu_number(npu_value(
		call, sram ? SIMULATED_ECC_CORRECTED_AGGREGATE_SRAM : SIMULATED_ECC_CORRECTED_AGGREGATE_DRAM));
	to->total_double_bit = npu_number(npu_value(
		call, sram ? SIMULATED_ECC_UNCORRECTED_AGGREGATE_SRAM : SIMULATED_ECC_UNCORRECTED_AGGREGATE_DRAM));
	to->isolated_single_bit = npu_number(npu_value(call, SIMULATED_RETIRED_PAGES_CORRECTED));
	to->isolated_double_bit = npu_number(npu_value(call, SIMULATED_RETIRED_PAGES_UNCORRECTED));
	return DCMI_OK;
}

NPU_BOTH(dcmi_get_device_ecc_info, dcmiv2_get_device_ecc_info, SIMULATED_CALL_ECC, (int memory, struct dcmi_ecc *to),
	 ecc(&call, memory, to))
