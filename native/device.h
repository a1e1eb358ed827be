/* SPDX-License-Identifier: Apache-2.0 */
/* One record for an accelerator of any vendor, and the board in shared memory that holds all of them.
 *
 * Values are in base units (bytes, seconds, hertz, watts, joules, volts, celsius, ratios from 0 to 1).
 * A value whose status is not DEVICE_OK is NaN.
 */
#ifndef EAGLE_EYE_DEVICE_H
#define EAGLE_EYE_DEVICE_H

#include <stdint.h>

#define DEVICE_MAX 64
#define DEVICE_LINKS 36 /* NVML_NVLINK_MAX_LINKS; HCCS has 16 */
#define DEVICE_LANES 4
#define DEVICE_CALL_BUCKETS 40
#define DEVICE_NO_SLOT 0xffffffff
#define DEVICE_BOARD_MAGIC 0x4543495645444545
#define DEVICE_BOARD_VERSION 1

/* Beside these a status is the vendor's own return code: NVML 1 to 999, DCMI -8001 to -8255. */
enum device_status {
	DEVICE_OK = 0,
	DEVICE_UNSUPPORTED = 0x10000,  /* the library lacks the symbol, or says that device or driver cannot tell */
	DEVICE_ABSENT = 0x10001,       /* the vendor's "not available" sentinel, or NaN */
	DEVICE_OUT_OF_RANGE = 0x10002, /* a value that cannot be, such as a ratio of 3 */
	DEVICE_NOT_READ = 0x10003,     /* never asked for */
};

/* Vendor calls that share a deadline, a clock for their duration and a name. */
enum device_group {
	DEVICE_GROUP_INIT,
	DEVICE_GROUP_IDENTITY,
	DEVICE_GROUP_UTILIZATION,
	DEVICE_GROUP_CODEC,
	DEVICE_GROUP_MEMORY,
	DEVICE_GROUP_TEMPERATURE,
	DEVICE_GROUP_POWER,
	DEVICE_GROUP_CLOCKS,
	DEVICE_GROUP_THROTTLE,
	DEVICE_GROUP_PCIE,
	DEVICE_GROUP_PCIE_ERRORS,
	DEVICE_GROUP_LINKS,
	DEVICE_GROUP_LINK_ERRORS,
	DEVICE_GROUP_ECC,
	DEVICE_GROUP_ECC_LOCATIONS,
	DEVICE_GROUP_REMAPPED_ROWS,
	DEVICE_GROUP_RETIRED_PAGES,
	DEVICE_GROUP_FAN,
	DEVICE_GROUP_FABRIC,
	DEVICE_GROUP_LIMITS,
	DEVICE_GROUP_HEALTH,
	DEVICE_GROUP_NETWORK,
	DEVICE_GROUP_TOPOLOGY,
	DEVICE_GROUP_PROCESSES,
	DEVICE_GROUP_EVENTS,
	DEVICE_GROUP_UTILIZATION_BY_UNIT, /* DCMI: one kind of unit a call, 36 ms each */
	DEVICE_GROUP_BANDWIDTH,           /* DCMI: measures while the caller waits */
	DEVICE_GROUP_DDR,
	DEVICE_GROUPS
};

enum device_field {
	DEVICE_UTILIZATION_RATIO,
	DEVICE_MEMORY_UTILIZATION_RATIO, /* of time in which memory was read or written */
	DEVICE_MEMORY_BANDWIDTH_RATIO,
	DEVICE_AICORE_RATIO,
	DEVICE_VECTOR_RATIO,
	DEVICE_CUBE_RATIO,
	DEVICE_AICPU_RATIO,
	DEVICE_CONTROL_CPU_RATIO,
	DEVICE_ENCODER_RATIO,
	DEVICE_DECODER_RATIO,
	DEVICE_JPEG_RATIO,
	DEVICE_OPTICAL_FLOW_RATIO,

	DEVICE_MEMORY_TOTAL_BYTES,
	DEVICE_MEMORY_USED_BYTES,
	DEVICE_MEMORY_FREE_BYTES,
	DEVICE_MEMORY_RESERVED_BYTES,
	DEVICE_DDR_TOTAL_BYTES,
	DEVICE_DDR_USED_BYTES,

	DEVICE_TEMPERATURE_CELSIUS,
	DEVICE_MEMORY_TEMPERATURE_CELSIUS,
	DEVICE_SLOWDOWN_TEMPERATURE_CELSIUS,
	DEVICE_SHUTDOWN_TEMPERATURE_CELSIUS,
	DEVICE_MEMORY_MAX_TEMPERATURE_CELSIUS,

	DEVICE_POWER_WATTS,
	DEVICE_POWER_AVERAGE_WATTS, /* over one second */
	DEVICE_POWER_LIMIT_WATTS,
	DEVICE_ENERGY_JOULES, /* counter */
	DEVICE_VOLTAGE_VOLTS,

	DEVICE_CLOCK_GRAPHICS_HERTZ,
	DEVICE_CLOCK_SM_HERTZ,
	DEVICE_CLOCK_MEMORY_HERTZ,
	DEVICE_CLOCK_VIDEO_HERTZ,
	DEVICE_CLOCK_AICORE_HERTZ,
	DEVICE_CLOCK_AICORE_MAX_HERTZ,
	DEVICE_CLOCK_VECTOR_HERTZ,
	DEVICE_CLOCK_CONTROL_CPU_HERTZ,
	DEVICE_CLOCK_DDR_HERTZ,
	DEVICE_CLOCK_EVENT_REASONS, /* NVML's bit mask at this moment */
	DEVICE_PERFORMANCE_STATE,   /* 0 is the fastest */

	/* Counters of the time in which clocks were held down. */
	DEVICE_THROTTLE_POWER_CAP_SECONDS,
	DEVICE_THROTTLE_THERMAL_SECONDS,
	DEVICE_THROTTLE_SYNC_BOOST_SECONDS,
	DEVICE_THROTTLE_BOARD_LIMIT_SECONDS,
	DEVICE_THROTTLE_LOW_UTILIZATION_SECONDS,
	DEVICE_THROTTLE_RELIABILITY_SECONDS,
	DEVICE_THROTTLE_SW_THERMAL_SECONDS,
	DEVICE_THROTTLE_HW_THERMAL_SECONDS,
	DEVICE_THROTTLE_HW_POWER_BRAKE_SECONDS,

	/* Counters, but for generation and width. */
	DEVICE_PCIE_TX_BYTES,
	DEVICE_PCIE_RX_BYTES,
	DEVICE_PCIE_REPLAYS,
	DEVICE_PCIE_CORRECTABLE_ERRORS,
	DEVICE_PCIE_NON_FATAL_ERRORS,
	DEVICE_PCIE_FATAL_ERRORS,
	DEVICE_PCIE_RECOVERIES,
	DEVICE_PCIE_LINK_GENERATION,
	DEVICE_PCIE_LINK_WIDTH,

	/* Counters by kind, lifetime and location. `MEMORY` is device memory (HBM or GDDR). */
	DEVICE_ECC_CORRECTED_VOLATILE_TOTAL,
	DEVICE_ECC_CORRECTED_VOLATILE_L1,
	DEVICE_ECC_CORRECTED_VOLATILE_L2,
	DEVICE_ECC_CORRECTED_VOLATILE_MEMORY,
	DEVICE_ECC_CORRECTED_VOLATILE_REGISTER,
	DEVICE_ECC_CORRECTED_VOLATILE_TEXTURE,
	DEVICE_ECC_CORRECTED_VOLATILE_SHARED,
	DEVICE_ECC_CORRECTED_VOLATILE_CBU,
	DEVICE_ECC_CORRECTED_VOLATILE_SRAM,
	DEVICE_ECC_CORRECTED_VOLATILE_DDR,
	DEVICE_ECC_CORRECTED_VOLATILE_NPU,
	DEVICE_ECC_CORRECTED_AGGREGATE_TOTAL,
	DEVICE_ECC_CORRECTED_AGGREGATE_L1,
	DEVICE_ECC_CORRECTED_AGGREGATE_L2,
	DEVICE_ECC_CORRECTED_AGGREGATE_MEMORY,
	DEVICE_ECC_CORRECTED_AGGREGATE_REGISTER,
	DEVICE_ECC_CORRECTED_AGGREGATE_TEXTURE,
	DEVICE_ECC_CORRECTED_AGGREGATE_SHARED,
	DEVICE_ECC_CORRECTED_AGGREGATE_CBU,
	DEVICE_ECC_CORRECTED_AGGREGATE_SRAM,
	DEVICE_ECC_CORRECTED_AGGREGATE_DDR,
	DEVICE_ECC_CORRECTED_AGGREGATE_NPU,
	DEVICE_ECC_UNCORRECTED_VOLATILE_TOTAL,
	DEVICE_ECC_UNCORRECTED_VOLATILE_L1,
	DEVICE_ECC_UNCORRECTED_VOLATILE_L2,
	DEVICE_ECC_UNCORRECTED_VOLATILE_MEMORY,
	DEVICE_ECC_UNCORRECTED_VOLATILE_REGISTER,
	DEVICE_ECC_UNCORRECTED_VOLATILE_TEXTURE,
	DEVICE_ECC_UNCORRECTED_VOLATILE_SHARED,
	DEVICE_ECC_UNCORRECTED_VOLATILE_CBU,
	DEVICE_ECC_UNCORRECTED_VOLATILE_SRAM,
	DEVICE_ECC_UNCORRECTED_VOLATILE_DDR,
	DEVICE_ECC_UNCORRECTED_VOLATILE_NPU,
	DEVICE_ECC_UNCORRECTED_AGGREGATE_TOTAL,
	DEVICE_ECC_UNCORRECTED_AGGREGATE_L1,
	DEVICE_ECC_UNCORRECTED_AGGREGATE_L2,
	DEVICE_ECC_UNCORRECTED_AGGREGATE_MEMORY,
	DEVICE_ECC_UNCORRECTED_AGGREGATE_REGISTER,
	DEVICE_ECC_UNCORRECTED_AGGREGATE_TEXTURE,
	DEVICE_ECC_UNCORRECTED_AGGREGATE_SHARED,
	DEVICE_ECC_UNCORRECTED_AGGREGATE_CBU,
	DEVICE_ECC_UNCORRECTED_AGGREGATE_SRAM,
	DEVICE_ECC_UNCORRECTED_AGGREGATE_DDR,
	DEVICE_ECC_UNCORRECTED_AGGREGATE_NPU,

	DEVICE_REMAPPED_ROWS_CORRECTABLE,
	DEVICE_REMAPPED_ROWS_UNCORRECTABLE,
	DEVICE_REMAPPED_ROWS_PENDING, /* 0 or 1 */
	DEVICE_REMAPPED_ROWS_FAILED,  /* 0 or 1 */

	DEVICE_RETIRED_PAGES_SINGLE_BIT, /* of Ascend: isolated pages */
	DEVICE_RETIRED_PAGES_DOUBLE_BIT,
	DEVICE_RETIRED_PAGES_PENDING_SINGLE_BIT, /* NVML: 0 or 1; Ascend: pages isolated at the next start */
	DEVICE_RETIRED_PAGES_PENDING_DOUBLE_BIT,

	DEVICE_FAN_RATIO,
	DEVICE_FABRIC_STATE,  /* NVML: 1 not started, 2 in progress, 3 completed */
	DEVICE_FABRIC_STATUS, /* NVML: the return code of a completed fabric probe */
	DEVICE_FABRIC_HEALTH_MASK,
	DEVICE_RECOVERY_ACTION, /* NVML: 0 none, 1 reset, 2 reboot, 3 drain, 4 drain and reset, ... */
	DEVICE_HEALTH,          /* DCMI: 0 healthy, larger is worse */
	DEVICE_ERROR_CODES,     /* how many fault codes are raised now */

	DEVICE_NETWORK_HEALTH, /* DCMI: 0 healthy, else the reason */
	DEVICE_ROCE_TX_PACKETS,
	DEVICE_ROCE_RX_PACKETS,
	DEVICE_ROCE_TX_ERRORS,
	DEVICE_ROCE_RX_ERRORS,
	DEVICE_OPTICAL_PRESENT,
	DEVICE_OPTICAL_TEMPERATURE_CELSIUS,
	DEVICE_OPTICAL_VOLTAGE_VOLTS,
	DEVICE_OPTICAL_TX_POWER_WATTS,
	DEVICE_OPTICAL_RX_POWER_WATTS,

	DEVICE_ROCE_TX_BYTES,
	DEVICE_ROCE_RX_BYTES,
	DEVICE_ROCE_TX_PFC_PACKETS, /* pause frames of priority flow control */
	DEVICE_ROCE_RX_PFC_PACKETS,
	DEVICE_ROCE_RETRIES,
	DEVICE_SIO_TX_ERRORS, /* CRC errors between the dies of one package */
	DEVICE_SIO_RX_ERRORS,
	DEVICE_PCIE_TX_BYTES_PER_SECOND, /* no counters: the mean over a short while */
	DEVICE_PCIE_RX_BYTES_PER_SECOND,
	DEVICE_FIELDS
};

/* All but the state and the rates are counters. */
enum device_link_field {
	DEVICE_LINK_STATE, /* 0 down, 1 up */
	DEVICE_LINK_TX_BYTES,
	DEVICE_LINK_RX_BYTES,
	DEVICE_LINK_TX_PACKETS,
	DEVICE_LINK_RX_PACKETS,
	DEVICE_LINK_CRC_ERRORS,
	DEVICE_LINK_CRC_DATA_ERRORS,
	DEVICE_LINK_ECC_DATA_ERRORS,
	DEVICE_LINK_REPLAYS,
	DEVICE_LINK_RECOVERIES,
	DEVICE_LINK_RECOVERIES_SUCCESSFUL,
	DEVICE_LINK_RECOVERIES_FAILED,
	DEVICE_LINK_MALFORMED_PACKET_ERRORS,
	DEVICE_LINK_BUFFER_OVERRUN_ERRORS,
	DEVICE_LINK_RX_ERRORS,
	DEVICE_LINK_RX_REMOTE_ERRORS,
	DEVICE_LINK_RX_GENERAL_ERRORS,
	DEVICE_LINK_INTEGRITY_ERRORS,
	DEVICE_LINK_TX_DISCARDS,
	DEVICE_LINK_EFFECTIVE_ERRORS,
	DEVICE_LINK_SYMBOL_ERRORS,
	DEVICE_LINK_TX_BYTES_PER_SECOND, /* no counters: the mean over a short while */
	DEVICE_LINK_RX_BYTES_PER_SECOND,
	DEVICE_LINK_FIELDS
};

struct device_sample {
	uint32_t sequence; /* odd while it is being written: read again */
	int32_t error;     /* of the device as a whole, such as "lost"; DEVICE_NOT_READ before the first sample */
	uint32_t links;    /* how many of the device's links follow */
	uint32_t index;    /* the vendor's, for labels */
	uint64_t samples;
	uint64_t at_ns;   /* CLOCK_MONOTONIC when the last sample began */
	uint64_t took_ns; /* of the last sample */
	uint64_t group_at_ns[DEVICE_GROUPS]; /* CLOCK_MONOTONIC when the group was read last, 0 never */
	double value[DEVICE_FIELDS];
	int32_t status[DEVICE_FIELDS];
	double link_value[DEVICE_LINKS][DEVICE_LINK_FIELDS];
	int32_t link_status[DEVICE_LINKS][DEVICE_LINK_FIELDS];
};

/* The vendor calls that one thread of the worker is in now. Written before, cleared after them. */
struct device_call {
	uint64_t started_ns; /* CLOCK_MONOTONIC, 0 when in none; stored last, cleared first */
	uint32_t group;
	uint32_t slot;     /* DEVICE_NO_SLOT when it concerns no device */
	uint32_t function; /* number in the border's table of symbols, 0 when unknown */
	int32_t thread;    /* the kernel's id of the thread */
};

struct device_call_times {
	uint64_t calls;
	uint64_t sum_ns;
	uint64_t buckets[DEVICE_CALL_BUCKETS]; /* bucket i counts durations from 2^i to 2^(i+1) - 1 ns */
};

struct device_board {
	uint64_t magic;
	uint32_t version;
	uint32_t bytes; /* of this struct */
	int32_t pid;    /* of the worker that writes */
	uint32_t devices;
	uint64_t beat; /* sampling rounds so far */
	struct device_call calls[DEVICE_LANES]; /* lane 0 is the sampler's */
	struct device_call_times call_times[DEVICE_GROUPS];
	struct device_sample samples[DEVICE_MAX];
};

/* Sets every value to NaN and DEVICE_NOT_READ. A board in use is not initialized again for a new worker. */
void device_board_init(struct device_board *board);
int device_board_valid(const struct device_board *board);
void device_sample_reset(struct device_sample *sample);
void device_sample_clear(struct device_board *board, uint32_t slot);

/* Around each group's vendor calls; call_function names the one that comes next. */
void device_call_begin(struct device_board *board, uint32_t lane, uint32_t group, uint32_t slot, uint32_t function);
void device_call_function(struct device_board *board, uint32_t lane, uint32_t function);
void device_call_end(struct device_board *board, uint32_t lane);
int device_call_read(const struct device_board *board, uint32_t lane, struct device_call *to);
void device_calls_clear(struct device_board *board);

/* Publishes `from`, all but its sequence, under the sequence of the board's sample. */
void device_sample_publish(struct device_board *board, uint32_t slot, const struct device_sample *from);
/* 0, or -1 when the writer was in it at each of a few tries (`to` then holds the last one). */
int device_sample_read(const struct device_board *board, uint32_t slot, struct device_sample *to);

/* Set one field of a sample. A value that is NaN or outside its field's plausible range becomes a status. */
void device_set(struct device_sample *sample, uint32_t field, int32_t status, double value);
void device_set_link(struct device_sample *sample, uint32_t link, uint32_t field, int32_t status, double value);

uint64_t device_now_ns(void);

#endif
