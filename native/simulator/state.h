/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state block that the simulated vendor libraries read: one file, mapped shared. Values are laws of motion in
 * base units (seconds, bytes, hertz, watts, degrees Celsius, ratios), so that they move with no process that moves
 * them. `eagle_eye.native.simulator` reads these declarations too: names of settings follow from the enums.
 */
#ifndef EAGLE_EYE_SIMULATOR_STATE_H
#define EAGLE_EYE_SIMULATOR_STATE_H

#include <stdint.h>

#define SIMULATION_MAGIC 0x4c5553455945 /* "EYESUL", read as a little-endian number */
#define SIMULATION_VERSION 1
#define SIMULATED_DEVICES 64
#define SIMULATED_LINKS 18
#define SIMULATED_PROCESSES 32
#define SIMULATED_INSTANCES 8
#define SIMULATED_ERROR_CODES 16
#define SIMULATED_EVENTS 256
#define SIMULATED_TEXT 96

enum simulated_vendor { SIMULATED_NVIDIA = 1, SIMULATED_ASCEND = 2 };

/* What a device can measure; both vendors share a value where it means the same. */
enum simulated_quantity {
	SIMULATED_UTILIZATION_RATIO,
	SIMULATED_MEMORY_UTILIZATION_RATIO, /* time in which memory was read or written */
	SIMULATED_ENCODER_RATIO,
	SIMULATED_DECODER_RATIO,
	SIMULATED_JPEG_RATIO,
	SIMULATED_OFA_RATIO,
	SIMULATED_AICORE_RATIO,
	SIMULATED_VECTOR_RATIO,
	SIMULATED_CUBE_RATIO,
	SIMULATED_AICPU_RATIO,
	SIMULATED_CONTROL_CPU_RATIO,
	SIMULATED_MEMORY_BANDWIDTH_RATIO,
	SIMULATED_DDR_BANDWIDTH_RATIO,
	SIMULATED_MEMORY_TOTAL_BYTES,
	SIMULATED_MEMORY_USED_BYTES, /* besides what processes and instances use */
	SIMULATED_MEMORY_RESERVED_BYTES,
	SIMULATED_BAR1_TOTAL_BYTES,
	SIMULATED_BAR1_USED_BYTES,
	SIMULATED_DDR_TOTAL_BYTES,
	SIMULATED_DDR_USED_BYTES,
	SIMULATED_TEMPERATURE_CELSIUS,
	SIMULATED_MEMORY_TEMPERATURE_CELSIUS,
	SIMULATED_TEMPERATURE_SHUTDOWN_CELSIUS,
	SIMULATED_TEMPERATURE_SLOWDOWN_CELSIUS,
	SIMULATED_TEMPERATURE_MAX_CELSIUS,
	SIMULATED_MEMORY_TEMPERATURE_MAX_CELSIUS,
	SIMULATED_POWER_WATTS,
	SIMULATED_BOARD_POWER_WATTS,
	SIMULATED_POWER_LIMIT_WATTS,
	SIMULATED_POWER_LIMIT_DEFAULT_WATTS,
	SIMULATED_POWER_LIMIT_MIN_WATTS,
	SIMULATED_POWER_LIMIT_MAX_WATTS,
	SIMULATED_ENERGY_JOULES, /* what was used before the power last changed; the library adds power over time */
	SIMULATED_VOLTAGE_VOLTS,
	SIMULATED_CLOCK_GRAPHICS_HERTZ,
	SIMULATED_CLOCK_SM_HERTZ,
	SIMULATED_CLOCK_MEMORY_HERTZ,
	SIMULATED_CLOCK_VIDEO_HERTZ,
	SIMULATED_CLOCK_GRAPHICS_MAX_HERTZ,
	SIMULATED_CLOCK_SM_MAX_HERTZ,
	SIMULATED_CLOCK_MEMORY_MAX_HERTZ,
	SIMULATED_CLOCK_VIDEO_MAX_HERTZ,
	SIMULATED_CLOCK_AICORE_HERTZ,
	SIMULATED_CLOCK_AICORE_MAX_HERTZ,
	SIMULATED_CLOCK_VECTOR_HERTZ,
	SIMULATED_CLOCK_CONTROL_CPU_HERTZ,
	SIMULATED_CLOCK_DDR_HERTZ,
	SIMULATED_CLOCK_EVENT_REASONS, /* NVML's bits */
	SIMULATED_PERFORMANCE_STATE,
	SIMULATED_FAN_RATIO,
	SIMULATED_THROTTLE_POWER_SECONDS,
	SIMULATED_THROTTLE_THERMAL_SECONDS,
	SIMULATED_THROTTLE_SYNC_BOOST_SECONDS,
	SIMULATED_THROTTLE_BOARD_LIMIT_SECONDS,
	SIMULATED_THROTTLE_LOW_UTILIZATION_SECONDS,
	SIMULATED_THROTTLE_RELIABILITY_SECONDS,
	SIMULATED_THROTTLE_APP_CLOCKS_SECONDS,
	SIMULATED_THROTTLE_BASE_CLOCKS_SECONDS,
	SIMULATED_THROTTLE_SW_THERMAL_SECONDS,
	SIMULATED_THROTTLE_HW_THERMAL_SECONDS,
	SIMULATED_THROTTLE_HW_POWER_BRAKE_SECONDS,
	SIMULATED_PCIE_TX_BYTES,
	SIMULATED_PCIE_RX_BYTES,
	SIMULATED_PCIE_REPLAYS,
	SIMULATED_PCIE_REPLAY_ROLLOVERS,
	SIMULATED_PCIE_RECOVERIES,
	SIMULATED_PCIE_CORRECTABLE_ERRORS,
	SIMULATED_PCIE_NONFATAL_ERRORS,
	SIMULATED_PCIE_FATAL_ERRORS,
	SIMULATED_PCIE_GENERATION,
	SIMULATED_PCIE_GENERATION_MAX,
	SIMULATED_PCIE_WIDTH,
	SIMULATED_PCIE_WIDTH_MAX,
	SIMULATED_ECC_MODE,
	SIMULATED_ECC_CORRECTED_VOLATILE_L1,
	SIMULATED_ECC_CORRECTED_VOLATILE_L2,
	SIMULATED_ECC_CORRECTED_VOLATILE_DRAM,
	SIMULATED_ECC_CORRECTED_VOLATILE_REGISTER,
	SIMULATED_ECC_CORRECTED_VOLATILE_TEXTURE,
	SIMULATED_ECC_CORRECTED_VOLATILE_SHARED,
	SIMULATED_ECC_CORRECTED_VOLATILE_CBU,
	SIMULATED_ECC_CORRECTED_VOLATILE_SRAM,
	SIMULATED_ECC_UNCORRECTED_VOLATILE_L1,
	SIMULATED_ECC_UNCORRECTED_VOLATILE_L2,
	SIMULATED_ECC_UNCORRECTED_VOLATILE_DRAM,
	SIMULATED_ECC_UNCORRECTED_VOLATILE_REGISTER,
	SIMULATED_ECC_UNCORRECTED_VOLATILE_TEXTURE,
	SIMULATED_ECC_UNCORRECTED_VOLATILE_SHARED,
	SIMULATED_ECC_UNCORRECTED_VOLATILE_CBU,
	SIMULATED_ECC_UNCORRECTED_VOLATILE_SRAM,
	SIMULATED_ECC_CORRECTED_AGGREGATE_L1,
	SIMULATED_ECC_CORRECTED_AGGREGATE_L2,
	SIMULATED_ECC_CORRECTED_AGGREGATE_DRAM,
	SIMULATED_ECC_CORRECTED_AGGREGATE_REGISTER,
	SIMULATED_ECC_CORRECTED_AGGREGATE_TEXTURE,
	SIMULATED_ECC_CORRECTED_AGGREGATE_SHARED,
	SIMULATED_ECC_CORRECTED_AGGREGATE_CBU,
	SIMULATED_ECC_CORRECTED_AGGREGATE_SRAM,
	SIMULATED_ECC_UNCORRECTED_AGGREGATE_L1,
	SIMULATED_ECC_UNCORRECTED_AGGREGATE_L2,
	SIMULATED_ECC_UNCORRECTED_AGGREGATE_DRAM,
	SIMULATED_ECC_UNCORRECTED_AGGREGATE_REGISTER,
	SIMULATED_ECC_UNCORRECTED_AGGREGATE_TEXTURE,
	SIMULATED_ECC_UNCORRECTED_AGGREGATE_SHARED,
	SIMULATED_ECC_UNCORRECTED_AGGREGATE_CBU,
	SIMULATED_ECC_UNCORRECTED_AGGREGATE_SRAM,
	SIMULATED_REMAPPED_ROWS_CORRECTABLE,
	SIMULATED_REMAPPED_ROWS_UNCORRECTABLE,
	SIMULATED_REMAPPED_ROWS_PENDING,
	SIMULATED_REMAPPED_ROWS_FAILED,
	SIMULATED_ROW_BANKS_MAX, /* banks of memory by how many spare rows they have left */
	SIMULATED_ROW_BANKS_HIGH,
	SIMULATED_ROW_BANKS_PARTIAL,
	SIMULATED_ROW_BANKS_LOW,
	SIMULATED_ROW_BANKS_NONE,
	SIMULATED_RETIRED_PAGES_CORRECTED,
	SIMULATED_RETIRED_PAGES_UNCORRECTED,
	SIMULATED_RETIRED_PAGES_PENDING,
	SIMULATED_FABRIC_STATE,
	SIMULATED_FABRIC_STATUS,
	SIMULATED_FABRIC_HEALTH,
	SIMULATED_RECOVERY_ACTION,
	SIMULATED_RESET_STATUS,
	SIMULATED_MIG_MODE,
	SIMULATED_PERSISTENCE_MODE,
	SIMULATED_HEALTH,
	SIMULATED_NETWORK_HEALTH,
	SIMULATED_BOOT_STATUS,
	SIMULATED_ROCE_LINK_UP,
	SIMULATED_ROCE_TX_BYTES,
	SIMULATED_ROCE_RX_BYTES,
	SIMULATED_ROCE_TX_ERRORS,
	SIMULATED_ROCE_RX_ERRORS,
	SIMULATED_OPTICAL_PRESENT,
	SIMULATED_OPTICAL_TEMPERATURE_CELSIUS,
	SIMULATED_OPTICAL_VOLTAGE_VOLTS,
	SIMULATED_OPTICAL_TX_POWER_WATTS,
	SIMULATED_OPTICAL_RX_POWER_WATTS,
	SIMULATED_SIO_TX_ERRORS,
	SIMULATED_SIO_RX_ERRORS,
	SIMULATED_ROCE_TX_PACKETS,
	SIMULATED_ROCE_RX_PACKETS,
	SIMULATED_ROCE_TX_PFC_PACKETS,
	SIMULATED_ROCE_RX_PFC_PACKETS,
	SIMULATED_ROCE_RETRIES,
	SIMULATED_DCMI_INTERFACES, /* bit 0 cards, bit 1 flat device numbers; absent: cards */
	SIMULATED_QUANTITIES
};

/* Of one NVLink or HCCS link. */
enum simulated_link_quantity {
	SIMULATED_LINK_UP,
	SIMULATED_LINK_VERSION,
	SIMULATED_LINK_SPEED_BYTES_PER_SECOND,
	SIMULATED_LINK_TX_BYTES,
	SIMULATED_LINK_RX_BYTES,
	SIMULATED_LINK_TX_PACKETS,
	SIMULATED_LINK_RX_PACKETS,
	SIMULATED_LINK_CRC_FLIT_ERRORS,
	SIMULATED_LINK_CRC_DATA_ERRORS,
	SIMULATED_LINK_REPLAY_ERRORS,
	SIMULATED_LINK_RECOVERY_ERRORS,
	SIMULATED_LINK_ECC_ERRORS,
	SIMULATED_LINK_SYMBOL_ERRORS,
	SIMULATED_LINK_QUANTITIES
};

/* Kinds of vendor calls: the unit in which calls are made to fail. */
enum simulated_group {
	SIMULATED_CALL_INIT,
	SIMULATED_CALL_IDENTITY,
	SIMULATED_CALL_UTILIZATION,
	SIMULATED_CALL_CODEC,
	SIMULATED_CALL_MEMORY,
	SIMULATED_CALL_TEMPERATURE,
	SIMULATED_CALL_POWER,
	SIMULATED_CALL_CLOCKS,
	SIMULATED_CALL_THROTTLE,
	SIMULATED_CALL_PCIE,
	SIMULATED_CALL_PCIE_ERRORS,
	SIMULATED_CALL_LINKS,
	SIMULATED_CALL_LINK_ERRORS,
	SIMULATED_CALL_ECC,
	SIMULATED_CALL_ECC_LOCATIONS,
	SIMULATED_CALL_REMAPPED_ROWS,
	SIMULATED_CALL_RETIRED_PAGES,
	SIMULATED_CALL_FAN,
	SIMULATED_CALL_FABRIC,
	SIMULATED_CALL_LIMITS,
	SIMULATED_CALL_HEALTH,
	SIMULATED_CALL_NETWORK,
	SIMULATED_CALL_TOPOLOGY,
	SIMULATED_CALL_PROCESSES,
	SIMULATED_CALL_MIG,
	SIMULATED_CALL_EVENTS,
	SIMULATED_CALL_UTILIZATION_BY_UNIT,
	SIMULATED_CALL_BANDWIDTH,
	SIMULATED_CALL_DDR,
	SIMULATED_GROUPS
};

/*
 * At time t: base + rate * (t - since) + wobble * sin(2 pi (t - since) / period), kept within low and high.
 * A base of NaN: this device has no such thing.
 */
struct simulated_value {
	double base;
	double rate_per_s;
	double wobble;
	double period_s;
	double low;
	double high;
	uint64_t since_ns; /* CLOCK_MONOTONIC */
};

struct simulated_fault {
	int32_t code; /* the vendor's return code; 0: none */
	uint32_t delay_ms;
	uint32_t hang;  /* the call does not return before this is 0 again */
	uint32_t crash; /* the call ends its process by SIGSEGV */
};

struct simulated_link {
	struct simulated_value value[SIMULATED_LINK_QUANTITIES];
	int32_t remote_device; /* -1: a switch */
	uint32_t present;
};

struct simulated_process {
	uint32_t pid;
	uint32_t graphics; /* 0: compute */
	uint32_t gpu_instance;     /* UINT32_MAX: none */
	uint32_t compute_instance; /* UINT32_MAX: none */
	uint64_t memory_bytes;
	double utilization_ratio;
	double memory_utilization_ratio;
	double encoder_ratio;
	double decoder_ratio;
};

/* A MIG instance or a vNPU. */
struct simulated_instance {
	uint32_t present;
	uint32_t gpu_instance;
	uint32_t compute_instance;
	uint32_t slices; /* of compute */
	uint32_t memory_slices;
	uint32_t multiprocessors;
	uint64_t memory_total_bytes;
	uint64_t memory_used_bytes;
	double utilization_ratio;
	char uuid[SIMULATED_TEXT];
	char name[SIMULATED_TEXT];
};

struct simulated_identity {
	char name[SIMULATED_TEXT];
	char uuid[SIMULATED_TEXT];
	char serial[SIMULATED_TEXT];
	char part_number[SIMULATED_TEXT];
	char firmware[SIMULATED_TEXT]; /* VBIOS of a GPU */
	char inforom[SIMULATED_TEXT];
	uint32_t pci_domain;
	uint32_t pci_bus;
	uint32_t pci_device;
	uint32_t pci_id;           /* device << 16 | vendor */
	uint32_t pci_subsystem_id;
	uint32_t pcie_switch; /* devices with the same number share one */
	int32_t numa_node;
	uint32_t minor;
	uint32_t board_id;
	uint32_t card; /* Ascend: chip `chip` of card `card` */
	uint32_t chip;
	uint32_t architecture;
	uint32_t compute_capability_major;
	uint32_t compute_capability_minor;
	uint32_t cores;
	uint32_t memory_bus_bits;
	uint32_t fans;
	uint32_t padding;
};

struct simulated_device {
	uint64_t generation; /* odd while a writer is at work */
	uint32_t present;
	uint32_t lost; /* fallen off the bus: every call says so */
	struct simulated_identity identity;
	struct simulated_value value[SIMULATED_QUANTITIES];
	struct simulated_link link[SIMULATED_LINKS];
	struct simulated_process process[SIMULATED_PROCESSES];
	struct simulated_instance instance[SIMULATED_INSTANCES];
	struct simulated_fault fault[SIMULATED_GROUPS];
	uint32_t error_code[SIMULATED_ERROR_CODES]; /* Ascend, present ones first, 0: none */
};

/* NVML: type and data (an Xid). DCMI: data is the event id, the rest as in its fault events. */
struct simulated_event {
	uint64_t sequence; /* from 1; the entry is whole once this is set */
	uint64_t at_ns;    /* CLOCK_MONOTONIC */
	uint64_t type;
	uint64_t data;
	uint32_t device;
	uint32_t gpu_instance;
	uint32_t compute_instance;
	uint32_t severity;
	uint32_t assertion;
	uint32_t node_type;
	uint32_t node_id;
	uint32_t sub_node_type;
	uint32_t sub_node_id;
	uint32_t padding;
	char name[SIMULATED_TEXT];
};

struct simulation {
	uint64_t magic;
	uint32_t version;
	uint32_t bytes; /* of this struct: a block of another build is refused */
	uint32_t vendor;
	int32_t reported_count; /* what the library says the number of devices is; -1: the truth */
	uint64_t started_ns;    /* CLOCK_MONOTONIC */
	char profile[SIMULATED_TEXT];
	char driver_version[SIMULATED_TEXT];
	char library_version[SIMULATED_TEXT];
	uint32_t cuda_version;
	uint32_t padding;
	uint32_t order[SIMULATED_DEVICES]; /* which device answers to an index; only present ones count */
	struct simulated_fault fault[SIMULATED_GROUPS]; /* of calls on every device and on none */
	uint32_t event_wake; /* a futex: lower half of the last sequence */
	uint32_t event_padding;
	uint64_t event_sequence; /* of the newest event, 0: none yet */
	struct simulated_event event[SIMULATED_EVENTS]; /* event n is at (n - 1) % SIMULATED_EVENTS */
	struct simulated_device device[SIMULATED_DEVICES];
};

#endif
