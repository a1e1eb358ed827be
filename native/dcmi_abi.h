/* SPDX-License-Identifier: Apache-2.0 */
/* The part of DCMI's binary interface (Ascend) that the sampler calls and the simulator offers, on LP64 machines.
 *
 * Numbers and layouts are those of Huawei's DCMI API references (Atlas A2, A3 and 950); the names are ours, so that
 * this header and Huawei's can be compared in one file.
 */
#ifndef EAGLE_EYE_DCMI_ABI_H
#define EAGLE_EYE_DCMI_ABI_H

#include <stdint.h>

#define DCMI_PCS 16          /* links of an NPU at most */
#define DCMI_VNPUS 32        /* virtual NPUs of an NPU at most */
#define DCMI_FAULT_CODES 128 /* raised at the same time at most */
#define DCMI_PROCESSES 32
#define DCMI_CARDS 64
#define DCMI_MCU_INVALID 0x7ffd /* in place of a temperature or voltage */
#define DCMI_MCU_FAILED 0x7fff
#define DCMI_NO_NUMBER 0xffffffff

enum dcmi_return {
	DCMI_OK = 0,
	DCMI_BAD_PARAMETER = -8001,
	DCMI_NO_PERMISSION = -8002,
	DCMI_MEMORY_FAILED = -8003,
	DCMI_SECURE_FUNCTION_FAILED = -8004,
	DCMI_INTERNAL = -8005,
	DCMI_TIMEOUT = -8006,
	DCMI_INVALID_DEVICE = -8007,
	DCMI_NO_DEVICE = -8008,
	DCMI_IOCTL_FAILED = -8009,
	DCMI_SEND_FAILED = -8010,
	DCMI_RECEIVE_FAILED = -8011,
	DCMI_NOT_READY = -8012,
	DCMI_NOT_IN_CONTAINER = -8013,
	DCMI_FILE_FAILED = -8014,
	DCMI_RESET_FAILED = -8015,
	DCMI_RESET_CANCELLED = -8016,
	DCMI_UPGRADING = -8017,
	DCMI_OCCUPIED = -8020,
	DCMI_PARTITION_MISMATCH = -8022,
	DCMI_NO_CONFIGURATION = -8023,
	DCMI_NOT_SUPPORTED = -8255,
};

enum dcmi_unit { DCMI_UNIT_NPU = 0, DCMI_UNIT_MCU = 1, DCMI_UNIT_CPU = 2 };
enum dcmi_memory { DCMI_DDR = 0, DCMI_SRAM = 1, DCMI_HBM = 2, DCMI_NPU = 3 };
enum dcmi_component { DCMI_COMPONENT_XLOADER = 1 /* what npu-smi calls the firmware */ };
enum dcmi_die_kind { DCMI_NDIE = 0, DCMI_VDIE = 1 };

enum dcmi_clock {
	DCMI_CLOCK_DDR = 1,
	DCMI_CLOCK_CONTROL_CPU = 2,
	DCMI_CLOCK_HBM = 6,
	DCMI_CLOCK_AICORE = 7,
	DCMI_CLOCK_AICORE_MAX = 9,
	DCMI_CLOCK_VECTOR = 12,
};

enum dcmi_load {
	DCMI_LOAD_MEMORY = 1,
	DCMI_LOAD_AICORE = 2,
	DCMI_LOAD_AICPU = 3,
	DCMI_LOAD_CONTROL_CPU = 4,
	DCMI_LOAD_MEMORY_BANDWIDTH = 5,
	DCMI_LOAD_HBM = 6,
	DCMI_LOAD_DDR = 8,
	DCMI_LOAD_HBM_BANDWIDTH = 10,
	DCMI_LOAD_VECTOR = 12,
	DCMI_LOAD_NPU = 13,
	DCMI_LOAD_CUBE = 14,
};

enum dcmi_network { DCMI_NETWORK_OK = 0, DCMI_NETWORK_INIT = 6, DCMI_NETWORK_IP_SET = 8, DCMI_NETWORK_UNKNOWN = 255 };

enum dcmi_main_command {
	DCMI_MAIN_HCCS = 16,
	DCMI_MAIN_VNPU = 52,
	DCMI_MAIN_PCIE = 55,
	DCMI_MAIN_SIO = 56,
};

enum dcmi_sub_command {
	DCMI_SUB_VNPU_ONE = 0,
	DCMI_SUB_VNPU_TOTAL = 1,
	DCMI_SUB_HCCS_LANES = 1,
	DCMI_SUB_HCCS_COUNTERS_32 = 3,
	DCMI_SUB_HCCS_COUNTERS = 5,
	DCMI_SUB_PCIE_ERRORS = 1,
	DCMI_SUB_SIO_CRC = 0,
};

enum dcmi_topology {
	DCMI_TOPOLOGY_SELF = 0,
	DCMI_TOPOLOGY_SYS = 1,
	DCMI_TOPOLOGY_PHB = 2,
	DCMI_TOPOLOGY_HCCS = 3,
	DCMI_TOPOLOGY_PXB = 4,
	DCMI_TOPOLOGY_PIX = 5,
	DCMI_TOPOLOGY_UNKNOWN = 6,
};

enum dcmi_assertion { DCMI_RECOVERY = 0, DCMI_OCCURRENCE = 1, DCMI_ONE_OFF = 2 };

struct dcmi_chip {
	char type[32];
	char name[32];
	char version[32];
	uint32_t aicores;
	char npu_name[32]; /* absent in the call's first version */
};

struct dcmi_pcie {
	uint32_t vendor;
	uint32_t subvendor;
	uint32_t device_id;
	uint32_t subdevice;
	int32_t domain;
	uint32_t bus;
	uint32_t device;
	uint32_t function;
	uint8_t reserved[32];
};

struct dcmi_board {
	uint32_t board_id;
	uint32_t pcb_id;
	uint32_t bom_id;
	uint32_t slot_id;
};

struct dcmi_die {
	uint32_t word[5];
};

struct dcmi_label {
	char product[256];
	char model[256];
	char manufacturer[256];
	char manufactured[256];
	char serial[256];
};

struct dcmi_hbm {
	uint64_t size_mib;
	uint32_t megahertz;
	uint32_t padding;
	uint64_t used_mib;
	int32_t celsius;
	uint32_t bandwidth_percent;
};

struct dcmi_ddr {
	uint64_t size_mib;
	uint64_t available_mib;
	uint32_t megahertz;
	uint32_t padding;
	uint64_t huge_page_kib;
	uint64_t huge_pages;
	uint64_t huge_pages_free;
	uint32_t used_percent;
	uint8_t reserved[60];
};

struct dcmi_loads {
	uint32_t cube_percent;
	uint32_t vector_percent;
	uint32_t aicore_percent;
	uint32_t npu_percent;
	uint32_t reserved[8];
};

struct dcmi_ecc {
	int32_t enabled;
	uint32_t single_bit; /* since the last start */
	uint32_t double_bit;
	uint32_t total_single_bit; /* in the device's life */
	uint32_t total_double_bit;
	uint32_t isolated_single_bit; /* pages */
	uint32_t isolated_double_bit;
	uint32_t next_isolated_single_bit; /* absent in older libraries */
	uint32_t next_isolated_double_bit;
};

struct dcmi_process {
	int32_t pid;
	uint32_t padding;
	uint64_t bytes;
};

struct dcmi_hccs_lanes {
	uint32_t ports;          /* bit map of those that are HCCS */
	uint32_t lanes[DCMI_PCS]; /* of the ports in the bit map, in order: bit 0 switched to HCCS, bits 1 to 8 in use */
	uint32_t reserved[16];
};

struct dcmi_hccs_counters_32 {
	uint32_t tx_flits[DCMI_PCS];
	uint32_t rx_flits[DCMI_PCS];
	uint32_t crc_errors[DCMI_PCS];
	uint32_t retries[DCMI_PCS];
	uint32_t reserved[64];
};

struct dcmi_hccs_counters {
	uint64_t tx_flits[DCMI_PCS];
	uint64_t rx_flits[DCMI_PCS];
	uint64_t crc_errors[DCMI_PCS];
	uint64_t retries[DCMI_PCS];
	uint64_t reserved[64];
};

struct dcmi_hccs_bandwidth {
	int32_t measure_ms; /* 1 to 1000; set before the call */
	uint32_t padding;
	double total_tx; /* gigabytes a second */
	double total_rx;
	double tx[DCMI_PCS];
	double rx[DCMI_PCS];
};

struct dcmi_pcie_bandwidth {
	int32_t measure_ms;       /* 0 to 2000; set before the call */
	uint32_t tx_posted[3];    /* megabytes a millisecond: least, most, mean */
	uint32_t tx_non_posted[3];
	uint32_t tx_completion[3];
	uint32_t tx_latency_ns[3];
	uint32_t rx_posted[3];
	uint32_t rx_non_posted[3];
	uint32_t rx_completion[3];
};

struct dcmi_pcie_errors {
	uint32_t tx_errors;
	uint32_t rx_errors;
	uint32_t link_crc_errors;
	uint32_t end_to_end_crc_errors;
	uint32_t retries;
	uint32_t reserved[32];
};

struct dcmi_sio {
	uint16_t tx_errors;
	uint16_t rx_errors;
	uint8_t reserved[8];
};

/* Of the network port. Frames of priority flow control come with a sum and eight priorities each way. */
struct dcmi_packets {
	uint64_t mac_tx_pause;
	uint64_t mac_rx_pause;
	uint64_t mac_tx_pfc[9];
	uint64_t mac_rx_pfc[9];
	uint64_t mac_tx_packets;
	uint64_t mac_tx_bytes;
	uint64_t mac_tx_bad_packets;
	uint64_t mac_tx_bad_bytes;
	uint64_t mac_rx_packets;
	uint64_t mac_rx_bytes;
	uint64_t mac_rx_bad_packets;
	uint64_t mac_rx_bad_bytes;
	uint64_t mac_rx_checksum_errors;
	uint64_t roce_rx_rc_packets;
	uint64_t roce_rx_packets;
	uint64_t roce_rx_errors;
	uint64_t roce_tx_rc_packets;
	uint64_t roce_tx_packets;
	uint64_t roce_tx_errors;
	uint64_t roce_completions;
	uint64_t roce_rx_congestion;
	uint64_t roce_tx_congestion;
	uint64_t roce_bad_acknowledgements;
	uint64_t roce_bad_sequence;
	uint64_t roce_verification_errors;
	uint64_t roce_bad_queue_pairs;
	uint64_t roce_retries;
	uint64_t roce_ecn_doorbells;
	uint64_t nic_tx_packets;
	uint64_t nic_tx_bytes;
	uint64_t nic_rx_packets;
	uint64_t nic_rx_bytes;
	int64_t seconds;
	int64_t microseconds;
	uint8_t reserved[64];
};

struct dcmi_base {
	uint64_t token;
	uint64_t token_max;
	uint64_t task_timeout;
	uint32_t group;
	uint8_t vip_mode;
	uint8_t reserved[31];
	uint8_t padding[4];
};

struct dcmi_computing {
	float aicores;
	float vector_cores;
	uint16_t units[8];
	uint64_t memory_mib;
	uint32_t ids[4];
	uint16_t cpus[5];
	uint16_t padding;
	uint32_t aicore_percent;
	uint64_t memory_total; /* the reference is silent about the unit of these two */
	uint64_t memory_free;
	uint8_t reserved[12];
	uint8_t padding_2[4];
};

struct dcmi_media {
	float unit[6];
	uint8_t reserved[32];
};

struct dcmi_vnpus {
	uint32_t count;
	uint32_t id[DCMI_VNPUS];
	uint32_t groups;
	uint32_t group_map;
	uint32_t padding;
	struct dcmi_base base;
	struct dcmi_computing computing;
	struct dcmi_media media;
};

struct dcmi_vnpu {
	uint32_t id; /* set before the call */
	uint32_t padding;
	char name[16];
	uint32_t status;
	uint32_t used_by_container;
	uint32_t vf;
	uint32_t group;
	uint64_t container_id;
	struct dcmi_base base;
	struct dcmi_computing computing;
	struct dcmi_media media;
};

struct dcmi_event_filter {
	uint64_t flags; /* 0: every event */
	uint32_t event_id;
	uint8_t severity;
	uint8_t node_type;
	uint8_t reserved[32];
	uint8_t padding[2];
};

struct dcmi_event {
	int32_t type; /* 0: the rest is filled */
	uint32_t padding;
	uint32_t event_id;
	uint16_t device; /* logical id */
	uint8_t node_type;
	uint8_t node_id;
	uint8_t sub_node_type;
	uint8_t sub_node_id;
	uint8_t severity; /* 0 notice, 1 minor, 2 major, 3 critical */
	uint8_t assertion;
	int32_t serial;
	int32_t notification;
	uint32_t padding_2;
	uint64_t raised_ms; /* since 1970 */
	char name[256];
	char info[32];
	uint8_t reserved[32];
};

_Static_assert(sizeof(struct dcmi_chip) == 132, "documented size");
_Static_assert(sizeof(struct dcmi_pcie) == 64, "documented size");
_Static_assert(sizeof(struct dcmi_hbm) == 32, "documented size");
_Static_assert(sizeof(struct dcmi_ddr) == 112, "documented size");
_Static_assert(sizeof(struct dcmi_loads) == 48, "documented size");
_Static_assert(sizeof(struct dcmi_ecc) == 36, "documented size");
_Static_assert(sizeof(struct dcmi_process) == 16, "documented size");
_Static_assert(sizeof(struct dcmi_hccs_lanes) == 132, "documented size");
_Static_assert(sizeof(struct dcmi_hccs_counters_32) == 512, "documented size");
_Static_assert(sizeof(struct dcmi_hccs_counters) == 1024, "documented size");
_Static_assert(sizeof(struct dcmi_hccs_bandwidth) == 280, "documented size");
_Static_assert(sizeof(struct dcmi_pcie_bandwidth) == 88, "documented size");
_Static_assert(sizeof(struct dcmi_pcie_errors) == 148, "documented size");
_Static_assert(sizeof(struct dcmi_sio) == 12, "documented size");
_Static_assert(sizeof(struct dcmi_packets) == 464, "documented size");
_Static_assert(sizeof(struct dcmi_event_filter) == 48, "documented size");
_Static_assert(sizeof(struct dcmi_event) == 360, "documented size");

#endif
