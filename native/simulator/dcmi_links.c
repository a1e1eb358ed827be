// SPDX-License-Identifier: Apache-2.0
/* Simulated DCMI: links, network, virtual NPUs. */
#include <math.h>
#include <string.h>
#include <time.h>

#include "dcmi_calls.h"

#define MIB 1048576.0
#define NS_PER_MS 1000000
#define LANE_READY 0x1
#define FOUR_LANES 0x1e

static uint64_t link_count(const struct npu_call *call, int link, enum simulated_link_quantity quantity)
{
	double value = simulation_link_value(call->device, link, quantity);

	return isnan(value) ? 0 : simulation_integer(value);
}

static int has_links(const struct npu_call *call)
{
	for (int link = 0; link < DCMI_PCS; link++)
		if (call->device->link[link].present)
			return 1;
	return 0;
}

static void hccs(const struct npu_call *call, struct dcmi_hccs_counters *to)
{
	memset(to, 0, sizeof(*to));
	for (int link = 0; link < DCMI_PCS; link++) {
		to->tx_flits[link] = link_count(call, link, SIMULATED_LINK_TX_PACKETS);
		to->rx_flits[link] = link_count(call, link, SIMULATED_LINK_RX_PACKETS);
		to->crc_errors[link] = link_count(call, link, SIMULATED_LINK_CRC_FLIT_ERRORS);
		to->retries[link] = link_count(call, link, SIMULATED_LINK_REPLAY_ERRORS);
	}
}

/* As the driver's 32-bit counters, which begin again at 0. */
static void hccs_32(const struct npu_call *call, struct dcmi_hccs_counters_32 *to)
{
	struct dcmi_hccs_counters wide;

	hccs(call, &wide);
	memset(to, 0, sizeof(*to));
	for (int link = 0; link < DCMI_PCS; link++) {
		to->tx_flits[link] = (uint32_t)wide.tx_flits[link];
		to->rx_flits[link] = (uint32_t)wide.rx_flits[link];
		to->crc_errors[link] = (uint32_t)wide.crc_errors[link];
		to->retries[link] = (uint32_t)wide.retries[link];
	}
}

static void lanes(const struct npu_call *call, struct dcmi_hccs_lanes *to)
{
	int place = 0;

	memset(to, 0, sizeof(*to));
	for (int link = 0; link < DCMI_PCS; link++) {
		if (!call->device->link[link].present)
			continue;
		to->ports |= 1u << link;
		to->lanes[place++] = link_count(call, link, SIMULATED_LINK_UP) ? LANE_READY | FOUR_LANES : LANE_READY;
	}
}

static int hccs_info(const struct npu_call *call, uint32_t sub, void *to, uint32_t size)
{
	if (!has_links(call))
		return DCMI_NOT_SUPPORTED;
	if (sub == DCMI_SUB_HCCS_COUNTERS && size >= sizeof(struct dcmi_hccs_counters))
		hccs(call, to);
	else if (sub == DCMI_SUB_HCCS_COUNTERS_32 && size >= sizeof(struct dcmi_hccs_counters_32))
		hccs_32(call, to);
	else if (sub == DCMI_SUB_HCCS_LANES && size >= sizeof(struct dcmi_hccs_lanes))
		lanes(call, to);
	else
		return DCMI_BAD_PARAMETER;
	return DCMI_OK;
}

static int pcie_info(const struct npu_call *call, struct dcmi_pcie_errors *to, uint32_t size)
{
	if (!npu_present(call, SIMULATED_PCIE_REPLAYS))
		return DCMI_NOT_SUPPORTED;
	if (size < sizeof(*to))
		return DCMI_BAD_PARAMETER;
	memset(to, 0, sizeof(*to));
	to->retries = npu_number(npu_value(call, SIMULATED_PCIE_REPLAYS));
	to->link_crc_errors = npu_number(npu_value(call, SIMULATED_PCIE_CORRECTABLE_ERRORS));
	to->end_to_end_crc_errors = npu_number(npu_value(call, SIMULATED_PCIE_NONFATAL_ERRORS));
	return DCMI_OK;
}

static int sio_info(const struct npu_call *call, struct dcmi_sio *to, uint32_t size)
{
	if (!npu_present(call, SIMULATED_SIO_TX_ERRORS))
		return DCMI_NOT_SUPPORTED;
	if (size < sizeof(*to))
		return DCMI_BAD_PARAMETER;
	memset(to, 0, sizeof(*to));
	to->tx_errors = (uint16_t)npu_number(npu_value(call, SIMULATED_SIO_TX_ERRORS));
	to->rx_errors = (uint16_t)npu_number(npu_value(call, SIMULATED_SIO_RX_ERRORS));
	return DCMI_OK;
}

/* ---- virtual NPUs ---- */

static int vnpus(const struct npu_call *call, struct dcmi_vnpus *to)
{
	struct simulated_instance all[SIMULATED_INSTANCES];

	simulation_copy(call->device, all, call->device->instance, sizeof(all));
	memset(to, 0, sizeof(*to));
	for (uint32_t n = 0; n < SIMULATED_INSTANCES; n++)
		if (all[n].present)
			to->id[to->count++] = all[n].gpu_instance;
	return DCMI_OK;
}

static int vnpu(const struct npu_call *call, struct dcmi_vnpu *to)
{
	struct simulated_instance all[SIMULATED_INSTANCES];

	simulation_copy(call->device, all, call->device->instance, sizeof(all));
	for (uint32_t n = 0; n < SIMULATED_INSTANCES; n++) {
		if (!all[n].present || all[n].gpu_instance != to->id)
			continue;
		memcpy(to->name, all[n].name, sizeof(to->name));
		to->used_by_container = all[n].memory_used_bytes > 0;
		to->computing.aicores = all[n].slices;
		to->computing.memory_mib = simulation_integer((double)all[n].memory_total_bytes / MIB);
		to->computing.aicore_percent = npu_number(all[n].utilization_ratio * 100);
		return DCMI_OK;
	}
	return DCMI_INVALID_DEVICE;
}

static int vnpu_info(const struct npu_call *call, uint32_t sub, void *to, uint32_t size)
{
	if (sub == DCMI_SUB_VNPU_TOTAL && size >= sizeof(struct dcmi_vnpus))
		return vnpus(call, to);
	if (sub == DCMI_SUB_VNPU_ONE && size >= sizeof(struct dcmi_vnpu))
		return vnpu(call, to);
	return DCMI_BAD_PARAMETER;
}

/* ---- the call that has them all ---- */

static enum simulated_group group_of(int main)
{
	switch (main) {
	case DCMI_MAIN_HCCS:
	case DCMI_MAIN_SIO:
		return SIMULATED_CALL_LINKS;
	case DCMI_MAIN_PCIE:
		return SIMULATED_CALL_PCIE_ERRORS;
	default:
		return SIMULATED_CALL_MIG;
	}
}

static int info(const struct npu_call *call, int main, uint32_t sub, void *to, const uint32_t *size)
{
	switch (main) {
	case DCMI_MAIN_HCCS:
		return hccs_info(call, sub, to, *size);
	case DCMI_MAIN_SIO:
		return sio_info(call, to, *size);
	case DCMI_MAIN_PCIE:
		return pcie_info(call, to, *size);
	case DCMI_MAIN_VNPU:
		return vnpu_info(call, sub, to, *size);
	default:
		return DCMI_NOT_SUPPORTED;
	}
}

NPU_BOTH(dcmi_get_device_info, dcmiv2_get_device_info, group_of(main), (int main, uint32_t sub, void *to, uint32_t *size),
	 info(&call, main, sub, to, size))

/* ---- bandwidth ---- */

static void measure(int32_t milliseconds)
{
	struct timespec takes = {milliseconds / 1000, milliseconds % 1000 * (long)NS_PER_MS};

	nanosleep(&takes, NULL);
}

/* A counter's pace in units of 10^9 a second, which is also 10^6 a millisecond. */
static double pace(const struct simulated_value *law)
{
	return isnan(law->base) ? 0.0 : law->rate_per_s / 1e9;
}

static int pcie_bandwidth(const struct npu_call *call, struct dcmi_pcie_bandwidth *to)
{
	if (!npu_present(call, SIMULATED_PCIE_TX_BYTES))
		return DCMI_NOT_SUPPORTED;
	if (to->measure_ms < 0 || to->measure_ms > 2000)
		return DCMI_BAD_PARAMETER;
	measure(to->measure_ms);
	memset((char *)to + sizeof(to->measure_ms), 0, sizeof(*to) - sizeof(to->measure_ms));
	for (int n = 0; n < 3; n++) {
		to->tx_posted[n] = npu_number(pace(&call->device->value[SIMULATED_PCIE_TX_BYTES]));
		to->rx_posted[n] = npu_number(pace(&call->device->value[SIMULATED_PCIE_RX_BYTES]));
	}
	return DCMI_OK;
}

NPU_BOTH(dcmi_get_pcie_link_bandwidth_info, dcmiv2_get_pcie_link_bandwidth_info, SIMULATED_CALL_BANDWIDTH,
	 (struct dcmi_pcie_bandwidth *to), pcie_bandwidth(&call, to))

EXPORTED int dcmi_get_hccs_link_bandwidth_info(int card, int chip, struct dcmi_hccs_bandwidth *to)
{
	struct npu_call call;
	int code = npu_begin_card(&call, card, chip, SIMULATED_CALL_BANDWIDTH);

	if (code)
		return code;
	if (!has_links(&call))
		return DCMI_NOT_SUPPORTED;
	if (to->measure_ms < 1 || to->measure_ms > 1000)
		return DCMI_BAD_PARAMETER;
	measure(to->measure_ms);
	to->total_tx = to->total_rx = 0;
	for (int link = 0; link < DCMI_PCS; link++) {
		to->tx[link] = pace(&call.device->link[link].value[SIMULATED_LINK_TX_BYTES]);
		to->rx[link] = pace(&call.device->link[link].value[SIMULATED_LINK_RX_BYTES]);
		to->total_tx += to->tx[link];
		to->total_rx += to->rx[link];
	}
	return DCMI_OK;
}

/* ---- network ---- */

static uint64_t count(const struct npu_call *call, enum simulated_quantity quantity)
{
	double value = npu_value(call, quantity);

	return isnan(value) ? 0 : simulation_integer(value);
}

static int packets(const struct npu_call *call, int port, struct dcmi_packets *to)
{
	if (port != 0)
		return DCMI_BAD_PARAMETER;
	if (!npu_present(call, SIMULATED_NETWORK_HEALTH))
		return DCMI_NOT_SUPPORTED;
	memset(to, 0, sizeof(*to));
	to->roce_tx_packets = count(call, SIMULATED_ROCE_TX_PACKETS);
	to->roce_rx_packets = count(call, SIMULATED_ROCE_RX_PACKETS);
	to->roce_tx_errors = count(call, SIMULATED_ROCE_TX_ERRORS);
	to->roce_rx_errors = count(call, SIMULATED_ROCE_RX_ERRORS);
	to->roce_retries = count(call, SIMULATED_ROCE_RETRIES);
	to->mac_tx_bytes = count(call, SIMULATED_ROCE_TX_BYTES);
	to->mac_rx_bytes = count(call, SIMULATED_ROCE_RX_BYTES);
	to->mac_tx_pfc[0] = count(call, SIMULATED_ROCE_TX_PFC_PACKETS);
	to->mac_rx_pfc[0] = count(call, SIMULATED_ROCE_RX_PFC_PACKETS);
	return DCMI_OK;
}

NPU_BOTH(dcmi_get_netdev_pkt_stats_info, dcmiv2_get_netdev_pkt_stats_info, SIMULATED_CALL_NETWORK,
	 (int port, struct dcmi_packets *to), packets(&call, port, to))
