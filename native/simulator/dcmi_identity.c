// SPDX-License-Identifier: Apache-2.0
/* Simulated DCMI: who a device is and who uses it. */
#include <stdio.h>
#include <string.h>

#include "dcmi_calls.h"

#define CPUS_OF_NODE 24
#define CPUS_BYTES 32

static int chip_first(const struct npu_call *call, struct dcmi_chip *to)
{
	memset(to, 0, offsetof(struct dcmi_chip, npu_name));
	strcpy(to->type, "Ascend");
	npu_text(call, to->name, sizeof(to->name), call->device->identity.name);
	strcpy(to->version, "V1");
	to->aicores = call->device->identity.cores;
	return DCMI_OK;
}

static int chip_second(const struct npu_call *call, struct dcmi_chip *to)
{
	memset(to->npu_name, 0, sizeof(to->npu_name));
	npu_text(call, to->npu_name, sizeof(to->npu_name), call->device->identity.name);
	return chip_first(call, to);
}

NPU_BOTH(dcmi_get_device_chip_info_v2, dcmiv2_get_device_chip_info, SIMULATED_CALL_IDENTITY, (struct dcmi_chip *to),
	 chip_second(&call, to))

EXPORTED int dcmi_get_device_chip_info(int card, int chip_id, struct dcmi_chip *to)
{
	struct npu_call call;
	int code = npu_begin_card(&call, card, chip_id, SIMULATED_CALL_IDENTITY);

	return code ? code : chip_first(&call, to);
}

static int pcie(const struct npu_call *call, struct dcmi_pcie *to)
{
	const struct simulated_identity *identity = &call->device->identity;

	memset(to, 0, sizeof(*to));
	to->vendor = identity->pci_id & 0xffff;
	to->device_id = identity->pci_id >> 16;
	to->subvendor = identity->pci_subsystem_id & 0xffff;
	to->subdevice = identity->pci_subsystem_id >> 16;
	to->domain = identity->pci_domain;
	to->bus = identity->pci_bus;
	to->device = identity->pci_device;
	return DCMI_OK;
}

NPU_BOTH(dcmi_get_device_pcie_info_v2, dcmiv2_get_device_pcie_info, SIMULATED_CALL_IDENTITY, (struct dcmi_pcie *to),
	 pcie(&call, to))

static int board(const struct npu_call *call, struct dcmi_board *to)
{
	*to = (struct dcmi_board){.board_id = call->device->identity.board_id, .slot_id = call->device->identity.card};
	return DCMI_OK;
}

NPU_BOTH(dcmi_get_device_board_info, dcmiv2_get_device_board_info, SIMULATED_CALL_IDENTITY, (struct dcmi_board *to),
	 board(&call, to))

/* "185011D4-21104518-…": five numbers. */
static int die(const struct npu_call *call, int kind, struct dcmi_die *to)
{
	char uuid[SIMULATED_TEXT + 1];
	uint32_t *word = to->word;

	if (kind != DCMI_VDIE && kind != DCMI_NDIE)
		return DCMI_BAD_PARAMETER;
	npu_text(call, uuid, sizeof(uuid), call->device->identity.uuid);
	if (sscanf(uuid, "%8x-%8x-%8x-%8x-%8x", &word[0], &word[1], &word[2], &word[3], &word[4]) != 5)
		return DCMI_NOT_SUPPORTED;
	return DCMI_OK;
}

NPU_BOTH(dcmi_get_device_die_v2, dcmiv2_get_device_die_id, SIMULATED_CALL_IDENTITY, (int kind, struct dcmi_die *to),
	 die(&call, kind, to))

static int label(const struct npu_call *call, struct dcmi_label *to)
{
	memset(to, 0, sizeof(*to));
	npu_text(call, to->product, sizeof(to->product), call->device->identity.part_number);
	npu_text(call, to->model, sizeof(to->model), call->device->identity.name);
	npu_text(call, to->serial, sizeof(to->serial), call->device->identity.serial);
	strcpy(to->manufacturer, "Huawei (simulated)");
	return DCMI_OK;
}

NPU_BOTH(dcmi_get_device_elabel_info, dcmiv2_get_device_elabel_info, SIMULATED_CALL_IDENTITY, (struct dcmi_label *to),
	 label(&call, to))

static int component(const struct npu_call *call, int kind, char *to, uint32_t capacity)
{
	if (kind != DCMI_COMPONENT_XLOADER)
		return DCMI_BAD_PARAMETER;
	return simulation_text(call->device, to, capacity, call->device->identity.firmware) ? DCMI_BAD_PARAMETER : DCMI_OK;
}

NPU_BOTH(dcmi_get_device_component_static_version, dcmiv2_get_device_component_static_version, SIMULATED_CALL_IDENTITY,
	 (int kind, char *to, uint32_t capacity), component(&call, kind, to, capacity))

static int affinity(const struct npu_call *call, char *to, int32_t *length)
{
	int node = call->device->identity.numa_node;

	if (node < 0)
		return DCMI_NOT_SUPPORTED;
	*length = snprintf(to, CPUS_BYTES, "%d-%d", node * CPUS_OF_NODE, (node + 1) * CPUS_OF_NODE - 1);
	return DCMI_OK;
}

NPU_BOTH(dcmi_get_affinity_cpu_info_by_device_id, dcmiv2_get_affinity_cpu_info_by_dev_id, SIMULATED_CALL_TOPOLOGY,
	 (char *to, int32_t *length), affinity(&call, to, length))

static int kind_of(uint32_t *kind)
{
	*kind = DCMI_UNIT_NPU;
	return DCMI_OK;
}

/* Also of a lost device: its driver still knows what it was. */
EXPORTED int dcmi_get_device_type(int card, int chip_id, uint32_t *kind)
{
	struct npu_call call;
	int code = npu_begin_card(&call, card, chip_id, SIMULATED_CALL_INIT);

	return code && code != DCMI_NO_DEVICE ? code : kind_of(kind);
}

EXPORTED int dcmiv2_get_device_type(int device, uint32_t *kind)
{
	struct npu_call call;
	int code = npu_begin_flat(&call, device, SIMULATED_CALL_INIT);

	return code && code != DCMI_NO_DEVICE ? code : kind_of(kind);
}

static int processes(const struct npu_call *call, struct dcmi_process *to, int32_t *count)
{
	struct simulated_process all[SIMULATED_PROCESSES];

	simulation_copy(call->device, all, call->device->process, sizeof(all));
	*count = 0;
	for (uint32_t n = 0; n < SIMULATED_PROCESSES; n++)
		if (all[n].pid)
			to[(*count)++] = (struct dcmi_process){all[n].pid, 0, all[n].memory_bytes};
	return DCMI_OK;
}

NPU_BOTH(dcmi_get_device_resource_info, dcmiv2_get_device_proc_mem_info, SIMULATED_CALL_PROCESSES,
	 (struct dcmi_process *to, int32_t *count), processes(&call, to, count))

static int faults(const struct npu_call *call, int32_t *count, uint32_t *codes, uint32_t capacity)
{
	*count = 0;
	for (uint32_t n = 0; n < SIMULATED_ERROR_CODES && call->device->error_code[n]; n++) {
		if ((uint32_t)*count >= capacity)
			return DCMI_BAD_PARAMETER;
		codes[(*count)++] = call->device->error_code[n];
	}
	return DCMI_OK;
}

NPU_BOTH(dcmi_get_device_errorcode_v2, dcmiv2_get_device_error_code_list, SIMULATED_CALL_HEALTH,
	 (int32_t *count, uint32_t *codes, uint32_t capacity), faults(&call, count, codes, capacity))
