/* SPDX-License-Identifier: Apache-2.0 */
/* Groups that tell about ways out of the device: HCCS, SIO, PCIe, network. */
#include "dcmi_library.h"

#include <math.h>
#include <string.h>

#define MEASURE_MS 10 /* for which a bandwidth call keeps its caller waiting */

/* ---- HCCS and SIO ---- */

static int ask_info(struct npu_reading *reading, int main, uint32_t sub, void *to, uint32_t size)
{
	memset(to, 0xff, size);
	return NPU_ASK(reading, info, main, sub, to, &size);
}

/* A count that fell from the upper half of 32 bits went round; from the lower half it began anew. */
static uint64_t widened(uint64_t before, uint32_t now)
{
	uint64_t rounds = before >> 32 << 32;
	uint32_t low = (uint32_t)before;

	if (now >= low)
		return rounds | now;
	return low >> 31 ? rounds + (1ull << 32) + now : now;
}

static void widen(struct dcmi_hccs_counters *to, const struct dcmi_hccs_counters_32 *from)
{
	for (int link = 0; link < DCMI_PCS; link++) {
		to->tx_flits[link] = widened(to->tx_flits[link], from->tx_flits[link]);
		to->rx_flits[link] = widened(to->rx_flits[link], from->rx_flits[link]);
		to->crc_errors[link] = widened(to->crc_errors[link], from->crc_errors[link]);
		to->retries[link] = widened(to->retries[link], from->retries[link]);
	}
}

static int ask_hccs(struct npu_reading *reading, struct dcmi_hccs_counters *counters)
{
	struct dcmi_hccs_counters_32 narrow;
	int status = ask_info(reading, DCMI_MAIN_HCCS, DCMI_SUB_HCCS_COUNTERS, counters, sizeof(*counters));

	if (status == DCMI_OK)
		return status;
	status = ask_info(reading, DCMI_MAIN_HCCS, DCMI_SUB_HCCS_COUNTERS_32, &narrow, sizeof(narrow));
	if (status == DCMI_OK)
		widen(&reading->slot->hccs, &narrow);
	*counters = reading->slot->hccs;
	return status;
}

#define HCCS_LINKS 8 /* of them the reference speaks; without a bit map no one knows which are wired */
#define LANE_READY 0x1
#define LANES_USED 0x1fe
#define ALL_PORTS ((1u << HCCS_LINKS) - 1)

/* -1: no such link, else whether it is up. `lanes` are those of the ports in the bit map only. */
static int link_state(const struct dcmi_hccs_lanes *lanes, int link)
{
	uint32_t before = lanes->ports & ((1u << link) - 1);
	uint32_t state = lanes->lanes[__builtin_popcount(before & 0xffff)];

	if (!(lanes->ports & 1u << link))
		return -1;
	return state & LANE_READY && state & LANES_USED;
}

static void set_link(struct npu_reading *reading, int link, uint32_t field, int status, uint64_t count)
{
	device_set_link(&reading->slot->sample, link, field, status, count == UINT64_MAX ? NAN : (double)count);
}

static void set_hccs(struct npu_reading *reading, int link, int status, const struct dcmi_hccs_counters *counters)
{
	set_link(reading, link, DEVICE_LINK_TX_PACKETS, status, counters->tx_flits[link]);
	set_link(reading, link, DEVICE_LINK_RX_PACKETS, status, counters->rx_flits[link]);
	set_link(reading, link, DEVICE_LINK_CRC_ERRORS, status, counters->crc_errors[link]);
	set_link(reading, link, DEVICE_LINK_REPLAYS, status, counters->retries[link]);
}

static void read_sio(struct npu_reading *reading)
{
	struct dcmi_sio sio;
	int status = ask_info(reading, DCMI_MAIN_SIO, DCMI_SUB_SIO_CRC, &sio, sizeof(sio));

	npu_set(reading, DEVICE_SIO_TX_ERRORS, status, sio.tx_errors);
	npu_set(reading, DEVICE_SIO_RX_ERRORS, status, sio.rx_errors);
}

void npu_read_links(struct npu_reading *reading)
{
	struct dcmi_hccs_counters counters;
	struct dcmi_hccs_lanes lanes;
	int status = ask_hccs(reading, &counters);
	int map = ask_info(reading, DCMI_MAIN_HCCS, DCMI_SUB_HCCS_LANES, &lanes, sizeof(lanes));

	if (map != DCMI_OK)
		lanes.ports = ALL_PORTS;
	reading->slot->ports = lanes.ports;
	for (int link = 0; link < DCMI_PCS; link++) {
		int state = link_state(&lanes, link);

		set_hccs(reading, link, state < 0 ? DEVICE_ABSENT : status, &counters);
		set_link(reading, link, DEVICE_LINK_STATE, state < 0 ? DEVICE_ABSENT : map, state);
	}
	reading->slot->sample.links = status == DCMI_OK ? DCMI_PCS : 0;
	read_sio(reading);
}

/* ---- PCIe and bandwidth ---- */

void npu_read_pcie_errors(struct npu_reading *reading)
{
	struct dcmi_pcie_errors errors;
	int status = ask_info(reading, DCMI_MAIN_PCIE, DCMI_SUB_PCIE_ERRORS, &errors, sizeof(errors));

	npu_set_number(reading, DEVICE_PCIE_REPLAYS, status, errors.retries, 1);
	/* By the PCIe specification a bad link CRC is correctable, a bad end-to-end CRC not, and not fatal. */
	npu_set_number(reading, DEVICE_PCIE_CORRECTABLE_ERRORS, status, errors.link_crc_errors, 1);
	npu_set_number(reading, DEVICE_PCIE_NON_FATAL_ERRORS, status, errors.end_to_end_crc_errors, 1);
}

#define MEAN 2
#define MEGABYTES_A_MILLISECOND 1e9
#define GIGABYTES_A_SECOND 1e9

static double pcie_rate(const uint32_t *posted, const uint32_t *completion)
{
	if (posted[MEAN] == DCMI_NO_NUMBER || completion[MEAN] == DCMI_NO_NUMBER)
		return NAN;
	return ((double)posted[MEAN] + completion[MEAN]) * MEGABYTES_A_MILLISECOND;
}

static void read_pcie_bandwidth(struct npu_reading *reading)
{
	NPU_ROOM(struct dcmi_pcie_bandwidth, pcie);
	int status;

	pcie.value.measure_ms = MEASURE_MS;
	status = NPU_ASK(reading, pcie_bandwidth, &pcie.value);
	npu_set(reading, DEVICE_PCIE_TX_BYTES_PER_SECOND, status,
	    pcie_rate(pcie.value.tx_posted, pcie.value.tx_completion));
	npu_set(reading, DEVICE_PCIE_RX_BYTES_PER_SECOND, status,
	    pcie_rate(pcie.value.rx_posted, pcie.value.rx_completion));
}

void npu_read_bandwidth(struct npu_reading *reading)
{
	NPU_ROOM(struct dcmi_hccs_bandwidth, hccs);
	uint32_t ports = reading->slot->ports ? reading->slot->ports : ALL_PORTS;
	int status;

	hccs.value.measure_ms = MEASURE_MS;
	status = NPU_ASK(reading, hccs_bandwidth, &hccs.value);
	for (int link = 0; link < DCMI_PCS; link++) {
		struct device_sample *sample = &reading->slot->sample;
		int known = ports & 1u << link ? status : DEVICE_ABSENT;

		device_set_link(sample, link, DEVICE_LINK_TX_BYTES_PER_SECOND, known,
				hccs.value.tx[link] * GIGABYTES_A_SECOND);
		device_set_link(sample, link, DEVICE_LINK_RX_BYTES_PER_SECOND, known,
				hccs.value.rx[link] * GIGABYTES_A_SECOND);
	}
	read_pcie_bandwidth(reading);
}

/* ---- network ---- */

void npu_read_network(struct npu_reading *reading)
{
	NPU_ROOM(struct dcmi_packets, packets);
	uint32_t result = DCMI_NETWORK_UNKNOWN;
	int status = NPU_ASK(reading, network, &result);

	npu_set(reading, DEVICE_NETWORK_HEALTH, status, result >= DCMI_NETWORK_UNKNOWN ? NAN : result);
	status = NPU_ASK(reading, packets, 0, &packets.value);
	npu_set_counter(reading, DEVICE_ROCE_TX_PACKETS, status, packets.value.roce_tx_packets);
	npu_set_counter(reading, DEVICE_ROCE_RX_PACKETS, status, packets.value.roce_rx_packets);
	npu_set_counter(reading, DEVICE_ROCE_TX_ERRORS, status, packets.value.roce_tx_errors);
	npu_set_counter(reading, DEVICE_ROCE_RX_ERRORS, status, packets.value.roce_rx_errors);
	npu_set_counter(reading, DEVICE_ROCE_TX_BYTES, status, packets.value.mac_tx_bytes);
	npu_set_counter(reading, DEVICE_ROCE_RX_BYTES, status, packets.value.mac_rx_bytes);
	npu_set_counter(reading, DEVICE_ROCE_TX_PFC_PACKETS, status, packets.value.mac_tx_pfc[0]);
	npu_set_counter(reading, DEVICE_ROCE_RX_PFC_PACKETS, status, packets.value.mac_rx_pfc[0]);
	npu_set_counter(reading, DEVICE_ROCE_RETRIES, status, packets.value.roce_retries);
}
