/* SPDX-License-Identifier: Apache-2.0 */
/* What is asked rarely: who a device is, who uses it, what is wrong with it. */
#include "dcmi_library.h"

#include <math.h>
#include <string.h>

#define MIB 1048576ull
#define ROOM_BYTES 4096 /* for texts whose length the reference does not bound */

/* Texts of the library end at NUL or with their field. */
static void copy_text(char *to, size_t capacity, const char *from, size_t length)
{
	size_t used = strnlen(from, length < capacity - 1 ? length : capacity - 1);

	memcpy(to, from, used);
	to[used] = 0;
}

#define COPY(to, from) copy_text(to, sizeof(to), from, sizeof(from))

static void read_chip(struct npu_reading *reading, struct npu_identity *identity)
{
	NPU_ROOM(struct dcmi_chip, chip);

	identity->chip_status = NPU_ASK(reading, chip, &chip.value);
	if (identity->chip_status == DEVICE_UNSUPPORTED) {
		chip.value.npu_name[0] = 0;
		identity->chip_status = NPU_ASK(reading, chip_first, &chip.value);
	}
	if (identity->chip_status != DCMI_OK)
		return;
	COPY(identity->type, chip.value.type);
	COPY(identity->name, chip.value.name);
	COPY(identity->version, chip.value.version);
	COPY(identity->npu_name, chip.value.npu_name);
	identity->aicores = chip.value.aicores;
}

static void read_label(struct npu_reading *reading, struct npu_identity *identity)
{
	NPU_ROOM(struct dcmi_label, label);

	identity->label_status = NPU_ASK(reading, label, &label.value);
	if (identity->label_status != DCMI_OK)
		return;
	COPY(identity->product, label.value.product);
	COPY(identity->model, label.value.model);
	COPY(identity->manufacturer, label.value.manufacturer);
	COPY(identity->serial, label.value.serial);
}

static void read_die(struct npu_reading *reading, struct npu_identity *identity)
{
	NPU_ROOM(struct dcmi_die, die);

	identity->die_status = NPU_ASK(reading, die, DCMI_VDIE, &die.value);
	if (identity->die_status != DCMI_OK)
		identity->die_status = NPU_ASK(reading, die, DCMI_NDIE, &die.value);
	if (identity->die_status == DCMI_OK)
		memcpy(identity->die, die.value.word, sizeof(identity->die));
}

static void read_place(struct npu_reading *reading, struct npu_identity *identity)
{
	NPU_ROOM(struct dcmi_pcie, pcie);
	NPU_ROOM(struct dcmi_board, board);

	identity->pci_status = NPU_ASK(reading, pcie, &pcie.value);
	identity->pci_domain = pcie.value.domain;
	identity->pci_bus = pcie.value.bus;
	identity->pci_device = pcie.value.device;
	identity->pci_function = pcie.value.function;
	identity->board_status = NPU_ASK(reading, board, &board.value);
	identity->board_id = board.value.board_id;
	identity->slot_id = board.value.slot_id;
}

static void read_firmware(struct npu_reading *reading, struct npu_identity *identity)
{
	char version[ROOM_BYTES] = {0};
	int code = NPU_ASK(reading, component, DCMI_COMPONENT_XLOADER, version, sizeof(identity->firmware) - 1);

	if (code == DCMI_OK)
		copy_text(identity->firmware, sizeof(identity->firmware), version, sizeof(version));
}

static void read_cpus(struct npu_reading *reading, struct npu_identity *identity)
{
	char cpus[ROOM_BYTES] = {0};
	int32_t length = sizeof(identity->cpus);

	identity->cpus_status = NPU_ASK(reading, affinity, cpus, &length);
	if (identity->cpus_status == DCMI_OK)
		copy_text(identity->cpus, sizeof(identity->cpus), cpus, sizeof(cpus));
}

int npu_identify(struct npu_library *library, uint32_t index, struct npu_identity *identity)
{
	struct npu_reading reading;

	memset(identity, 0, sizeof(*identity));
	if (index >= library->count)
		return DCMI_INVALID_DEVICE;
	reading = npu_aside(library, &library->unit[index]);
	read_chip(&reading, identity);
	read_label(&reading, identity);
	read_die(&reading, identity);
	read_place(&reading, identity);
	read_firmware(&reading, identity);
	read_cpus(&reading, identity);
	identity->boot_status_status = NPU_ASK(&reading, boot, &identity->boot_status);
	return reading.gone;
}

/* ---- lists ---- */

static uint32_t bounded(int32_t count, uint32_t capacity)
{
	return count < 0 ? 0 : (uint32_t)count < capacity ? (uint32_t)count : capacity;
}

int npu_processes(struct npu_library *library, uint32_t index, struct npu_process *found, uint32_t capacity,
		  uint32_t *count)
{
	struct dcmi_process processes[4 * DCMI_PROCESSES]; /* a newer library may know more */
	int32_t told = DCMI_PROCESSES;
	struct npu_reading reading;
	int code;

	*count = 0;
	if (index >= library->count)
		return DCMI_INVALID_DEVICE;
	memset(processes, 0, sizeof(processes));
	reading = npu_aside(library, &library->unit[index]);
	code = NPU_ASK(&reading, processes, processes, &told);
	if (code != DCMI_OK)
		return code;
	*count = bounded(told, capacity < 4 * DCMI_PROCESSES ? capacity : 4 * DCMI_PROCESSES);
	for (uint32_t n = 0; n < *count; n++)
		found[n] = (struct npu_process){processes[n].pid, 0, processes[n].bytes};
	return code;
}

int npu_fault_codes(struct npu_library *library, uint32_t index, uint32_t *found, uint32_t capacity, uint32_t *count)
{
	struct npu_reading reading;
	int32_t told = 0;
	int code;

	*count = 0;
	if (index >= library->count)
		return DCMI_INVALID_DEVICE;
	reading = npu_aside(library, &library->unit[index]);
	code = NPU_ASK(&reading, faults, &told, found, capacity);
	if (code == DCMI_OK)
		*count = bounded(told, capacity);
	return code;
}

static int read_instance(struct npu_reading *reading, uint32_t id, struct npu_instance *found)
{
	NPU_ROOM(struct dcmi_vnpu, vnpu);
	uint32_t size = sizeof(vnpu.value), percent;
	int code;

	memset(&vnpu, 0, sizeof(vnpu));
	vnpu.value.id = id;
	code = NPU_ASK(reading, info, DCMI_MAIN_VNPU, DCMI_SUB_VNPU_ONE, &vnpu.value, &size);
	percent = vnpu.value.computing.aicore_percent;
	*found = (struct npu_instance){
		.id = id,
		.used_by_container = vnpu.value.used_by_container,
		.container_id = vnpu.value.container_id,
		.memory_bytes = vnpu.value.computing.memory_mib * MIB,
		.aicores = vnpu.value.computing.aicores,
		.utilization_ratio = percent > 100 ? NAN : percent / 100.0,
	};
	COPY(found->name, vnpu.value.name);
	return code;
}

int npu_instances(struct npu_library *library, uint32_t index, struct npu_instance *found, uint32_t capacity,
		  uint32_t *count)
{
	NPU_ROOM(struct dcmi_vnpus, vnpus);
	uint32_t size = sizeof(vnpus.value);
	struct npu_reading reading;
	int code;

	*count = 0;
	if (index >= library->count)
		return DCMI_INVALID_DEVICE;
	reading = npu_aside(library, &library->unit[index]);
	code = NPU_ASK(&reading, info, DCMI_MAIN_VNPU, DCMI_SUB_VNPU_TOTAL, &vnpus.value, &size);
	for (uint32_t n = 0; code == DCMI_OK && n < vnpus.value.count && n < DCMI_VNPUS && *count < capacity; n++)
		if (read_instance(&reading, vnpus.value.id[n], &found[*count]) == DCMI_OK)
			++*count;
	return code;
}

int npu_topology(struct npu_library *library, uint32_t index, uint32_t other, int32_t *topology)
{
	const struct npu_unit *one = &library->unit[index], *two = &library->unit[other];

	if (index >= library->count || other >= library->count)
		return DCMI_INVALID_DEVICE;
	if (one->id >= 0 && two->id >= 0 && library->call.topology_v2_)
		return library->call.topology_v2_(one->id, two->id, topology);
	if (one->card >= 0 && two->card >= 0 && library->call.topology_)
		return library->call.topology_(one->card, one->chip, two->card, two->chip, topology);
	return DEVICE_UNSUPPORTED;
}
