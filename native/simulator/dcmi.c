// SPDX-License-Identifier: Apache-2.0
/* Simulated DCMI: the library, its cards and devices. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "dcmi_calls.h"

static int started; /* interfaces, a bit each */

uint32_t npu_number(double value)
{
	return isnan(value) || value < 0 || value >= UINT32_MAX ? UINT32_MAX : (uint32_t)(value + 0.5);
}

double npu_value(const struct npu_call *call, enum simulated_quantity quantity)
{
	return simulation_value(call->device, quantity);
}

int npu_present(const struct npu_call *call, enum simulated_quantity quantity)
{
	return !isnan(npu_value(call, quantity));
}

void npu_text(const struct npu_call *call, char *to, size_t capacity, const char *from)
{
	if (simulation_text(call->device, to, capacity, from))
		to[0] = 0;
}

static int offers(const struct simulation *now, enum npu_interface interface)
{
	const struct simulated_device *first = simulation_device(now, 0);
	double told = first ? simulation_value(first, SIMULATED_DCMI_INTERFACES) : NAN;

	return (isnan(told) ? NPU_CARDS : (int)told) & interface;
}

int npu_start_library(enum npu_interface interface)
{
	enum simulation_state state = simulation_open(SIMULATED_ASCEND);
	int code;

	if (state != SIMULATION_READY)
		return state == SIMULATION_ABSENT ? DCMI_NO_DEVICE : DCMI_FILE_FAILED;
	if (!offers(simulation_now(), interface))
		return DCMI_NOT_SUPPORTED;
	code = simulation_fault(simulation_now(), NULL, SIMULATED_CALL_INIT);
	if (!code)
		__atomic_or_fetch(&started, interface, __ATOMIC_RELEASE);
	return code;
}

EXPORTED int dcmi_init(void)
{
	return npu_start_library(NPU_CARDS);
}

EXPORTED int dcmiv2_init(void)
{
	return npu_start_library(NPU_FLAT);
}

int npu_begin_library(const struct simulation **now, enum npu_interface interface, enum simulated_group group)
{
	if (!(__atomic_load_n(&started, __ATOMIC_ACQUIRE) & interface))
		return DCMI_NOT_SUPPORTED;
	*now = simulation_now();
	return *now ? simulation_fault(*now, NULL, group) : DCMI_INTERNAL;
}

/* ---- one device ---- */

static int find(struct npu_call *call, int card, int chip)
{
	for (uint32_t logic = 0; logic < SIMULATED_DEVICES; logic++) {
		const struct simulated_device *device = simulation_device(call->now, logic);

		if (device && (int)device->identity.card == card && (int)device->identity.chip == chip) {
			call->device = device;
			call->logic = logic;
			return DCMI_OK;
		}
	}
	return DCMI_INVALID_DEVICE;
}

static int go_wrong(const struct npu_call *call, enum simulated_group group)
{
	int code = simulation_fault(call->now, call->device, group);

	return !code && call->device->lost ? DCMI_NO_DEVICE : code;
}

static int begin(struct npu_call *call, enum npu_interface interface)
{
	if (!(__atomic_load_n(&started, __ATOMIC_ACQUIRE) & interface))
		return DCMI_NOT_SUPPORTED;
	call->now = simulation_now();
	return call->now ? DCMI_OK : DCMI_INTERNAL;
}

int npu_begin_card(struct npu_call *call, int card, int chip, enum simulated_group group)
{
	int code = begin(call, NPU_CARDS);

	if (!code)
		code = find(call, card, chip);
	return code ? code : go_wrong(call, group);
}

int npu_begin_flat(struct npu_call *call, int device, enum simulated_group group)
{
	int code = begin(call, NPU_FLAT);

	if (code)
		return code;
	call->device = simulation_device(call->now, device);
	call->logic = device;
	return call->device ? go_wrong(call, group) : DCMI_INVALID_DEVICE;
}

/* ---- lists ---- */

static int is_listed(const int32_t *list, int count, int32_t card)
{
	for (int n = 0; n < count; n++)
		if (list[n] == card)
			return 1;
	return 0;
}

EXPORTED int dcmi_get_card_list(int32_t *count, int32_t *list, int capacity)
{
	const struct simulation *now;
	int code = npu_begin_library(&now, NPU_CARDS, SIMULATED_CALL_INIT);
	int found = 0;

	for (uint32_t logic = 0; !code && logic < SIMULATED_DEVICES; logic++) {
		const struct simulated_device *device = simulation_device(now, logic);

		if (device && found < capacity && !is_listed(list, found, device->identity.card))
			list[found++] = device->identity.card;
	}
	*count = found;
	return code;
}

static int chips_in(const struct simulation *now, int card)
{
	int chips = 0;

	for (uint32_t logic = 0; logic < SIMULATED_DEVICES; logic++) {
		const struct simulated_device *device = simulation_device(now, logic);

		if (device && (int)device->identity.card == card && (int)device->identity.chip >= chips)
			chips = device->identity.chip + 1;
	}
	return chips;
}

EXPORTED int dcmi_get_device_id_in_card(int card, int32_t *chips, int32_t *mcu, int32_t *cpu)
{
	const struct simulation *now;
	int code = npu_begin_library(&now, NPU_CARDS, SIMULATED_CALL_INIT);

	if (code)
		return code;
	*chips = chips_in(now, card);
	*mcu = *chips;
	*cpu = -1;
	return *chips ? DCMI_OK : DCMI_INVALID_DEVICE;
}

EXPORTED int dcmi_get_device_num_in_card(int card, int32_t *chips)
{
	int32_t mcu, cpu;

	return dcmi_get_device_id_in_card(card, chips, &mcu, &cpu);
}

EXPORTED int dcmi_get_device_logic_id(int32_t *logic, int card, int chip)
{
	struct npu_call call;
	int code = npu_begin_card(&call, card, chip, SIMULATED_CALL_INIT);

	*logic = code ? -1 : (int32_t)call.logic;
	return code;
}

EXPORTED int dcmi_get_card_id_device_id_from_logicid(int32_t *card, int32_t *chip, uint32_t logic)
{
	const struct simulation *now;
	int code = npu_begin_library(&now, NPU_CARDS, SIMULATED_CALL_INIT);
	const struct simulated_device *device = code ? NULL : simulation_device(now, logic);

	if (!code && !device)
		code = DCMI_INVALID_DEVICE;
	if (code)
		return code;
	*card = device->identity.card;
	*chip = device->identity.chip;
	return DCMI_OK;
}

EXPORTED int dcmiv2_get_device_list(int32_t *list, int32_t *count, int capacity)
{
	const struct simulation *now;
	int code = npu_begin_library(&now, NPU_FLAT, SIMULATED_CALL_INIT);

	*count = 0;
	for (int logic = 0; !code && logic < SIMULATED_DEVICES && *count < capacity; logic++)
		if (simulation_device(now, logic))
			list[(*count)++] = logic;
	return code;
}

static int count_all(int32_t *count, enum npu_interface interface)
{
	const struct simulation *now;
	int code = npu_begin_library(&now, interface, SIMULATED_CALL_INIT);

	if (!code)
		*count = now->reported_count >= 0 ? now->reported_count : (int32_t)simulation_count(now);
	return code;
}

EXPORTED int dcmi_get_all_device_count(int32_t *count)
{
	return count_all(count, NPU_CARDS);
}

EXPORTED int dcmiv2_get_all_device_count(int32_t *count)
{
	return count_all(count, NPU_FLAT);
}

static int tell(char *to, uint32_t capacity, const char *from)
{
	return simulation_label(from, to, capacity) ? DCMI_BAD_PARAMETER : DCMI_OK;
}

static int version(char *to, uint32_t capacity, enum npu_interface interface, int driver)
{
	const struct simulation *now;
	int code = npu_begin_library(&now, interface, SIMULATED_CALL_IDENTITY);

	return code ? code : tell(to, capacity, driver ? now->driver_version : now->library_version);
}

EXPORTED int dcmi_get_dcmi_version(char *to, uint32_t capacity)
{
	return version(to, capacity, NPU_CARDS, 0);
}

EXPORTED int dcmiv2_get_dcmi_version(char *to, uint32_t capacity)
{
	return version(to, capacity, NPU_FLAT, 0);
}

EXPORTED int dcmi_get_driver_version(char *to, uint32_t capacity)
{
	return version(to, capacity, NPU_CARDS, 1);
}

EXPORTED int dcmiv2_get_driver_version(char *to, uint32_t capacity)
{
	return version(to, capacity, NPU_FLAT, 1);
}

/* ---- topology ---- */

static int relation(const struct npu_call *one, const struct npu_call *two)
{
	if (one->logic == two->logic)
		return DCMI_TOPOLOGY_SELF;
	for (int link = 0; link < SIMULATED_LINKS; link++)
		if (one->device->link[link].present && one->device->link[link].remote_device == (int32_t)two->logic)
			return DCMI_TOPOLOGY_HCCS;
	if (one->device->identity.pcie_switch == two->device->identity.pcie_switch)
		return DCMI_TOPOLOGY_PIX;
	return one->device->identity.numa_node == two->device->identity.numa_node ? DCMI_TOPOLOGY_PHB : DCMI_TOPOLOGY_SYS;
}

EXPORTED int dcmi_get_topo_info_by_device_id(int card, int chip, int other_card, int other_chip, int32_t *topology)
{
	struct npu_call one, two;
	int code = npu_begin_card(&one, card, chip, SIMULATED_CALL_TOPOLOGY);

	if (!code)
		code = npu_begin_card(&two, other_card, other_chip, SIMULATED_CALL_TOPOLOGY);
	if (!code)
		*topology = relation(&one, &two);
	return code;
}

EXPORTED int dcmiv2_get_topo_info_by_device_id(int device, int other, int32_t *topology)
{
	struct npu_call one, two;
	int code = npu_begin_flat(&one, device, SIMULATED_CALL_TOPOLOGY);

	if (!code)
		code = npu_begin_flat(&two, other, SIMULATED_CALL_TOPOLOGY);
	if (!code)
		*topology = relation(&one, &two);
	return code;
}
