/* SPDX-License-Identifier: Apache-2.0 */
/* The part of NVML's binary interface that the sampler calls and the simulator offers, on LP64 machines.
 *
 * Numbers and layouts are those of NVIDIA's API reference (NVML 12 and 13); the names are ours, so that this
 * header and NVIDIA's can be compared in one file.
 */
#ifndef EAGLE_EYE_NVML_ABI_H
#define EAGLE_EYE_NVML_ABI_H

#include <stdint.h>

#define NVML_LINKS_MAX 36
#define NVML_ALL_LINKS 0xffffffff
#define NVML_NOT_AVAILABLE_32 0xffffffff
#define NVML_NOT_AVAILABLE_64 0xffffffffffffffff
#define NVML_INIT_NO_GPUS 1 /* flag of nvmlInitWithFlags: no error on a machine without a GPU */

typedef struct nvml_device *nvml_device_t;

enum nvml_return {
	NVML_RETURN_OK = 0,
	NVML_RETURN_UNINITIALIZED = 1,
	NVML_RETURN_INVALID_ARGUMENT = 2,
	NVML_RETURN_NOT_SUPPORTED = 3,
	NVML_RETURN_NO_PERMISSION = 4,
	NVML_RETURN_ALREADY_INITIALIZED = 5,
	NVML_RETURN_NOT_FOUND = 6,
	NVML_RETURN_INSUFFICIENT_SIZE = 7,
	NVML_RETURN_INSUFFICIENT_POWER = 8,
	NVML_RETURN_DRIVER_NOT_LOADED = 9,
	NVML_RETURN_TIMEOUT = 10,
	NVML_RETURN_IRQ_ISSUE = 11,
	NVML_RETURN_LIBRARY_NOT_FOUND = 12,
	NVML_RETURN_FUNCTION_NOT_FOUND = 13,
	NVML_RETURN_CORRUPTED_INFOROM = 14,
	NVML_RETURN_GPU_IS_LOST = 15,
	NVML_RETURN_RESET_REQUIRED = 16,
	NVML_RETURN_OPERATING_SYSTEM = 17,
	NVML_RETURN_LIBRARY_MISMATCH = 18,
	NVML_RETURN_IN_USE = 19,
	NVML_RETURN_MEMORY = 20,
	NVML_RETURN_NO_DATA = 21,
	NVML_RETURN_VGPU_ECC_NOT_SUPPORTED = 22,
	NVML_RETURN_INSUFFICIENT_RESOURCES = 23,
	NVML_RETURN_FREQUENCY_NOT_SUPPORTED = 24,
	NVML_RETURN_VERSION_MISMATCH = 25,
	NVML_RETURN_DEPRECATED = 26,
	NVML_RETURN_NOT_READY = 27,
	NVML_RETURN_GPU_NOT_FOUND = 28,
	NVML_RETURN_INVALID_STATE = 29,
	NVML_RETURN_RESET_NOT_SUPPORTED = 30,
	NVML_RETURN_UNKNOWN = 999,
};

enum nvml_domain { NVML_DOMAIN_GRAPHICS = 0, NVML_DOMAIN_SM = 1, NVML_DOMAIN_MEMORY = 2, NVML_DOMAIN_VIDEO = 3 };
enum nvml_sensor { NVML_SENSOR_GPU = 0 };
enum nvml_threshold { NVML_THRESHOLD_SHUTDOWN = 0, NVML_THRESHOLD_SLOWDOWN = 1, NVML_THRESHOLD_MEMORY_MAX = 2 };
enum nvml_ecc_kind { NVML_ECC_CORRECTED = 0, NVML_ECC_UNCORRECTED = 1 };
enum nvml_ecc_lifetime { NVML_ECC_VOLATILE = 0, NVML_ECC_AGGREGATE = 1 };
enum nvml_fabric_state { NVML_FABRIC_NOT_SUPPORTED = 0, NVML_FABRIC_COMPLETED = 3 };
enum nvml_performance_state { NVML_PERFORMANCE_UNKNOWN = 32 };
enum nvml_retirement { NVML_RETIRED_SINGLE_BIT = 0, NVML_RETIRED_DOUBLE_BIT = 1 };
enum nvml_link_error {
	NVML_LINK_REPLAY = 0,
	NVML_LINK_RECOVERY = 1,
	NVML_LINK_CRC_FLIT = 2,
	NVML_LINK_CRC_DATA = 3,
	NVML_LINK_ECC_DATA = 4,
};
enum nvml_link_state { NVML_LINK_INACTIVE = 0, NVML_LINK_ACTIVE = 1, NVML_LINK_SLEEP = 2, NVML_LINK_NO_TRAFFIC = 3 };
enum nvml_ecc_location {
	NVML_ECC_L1 = 0,
	NVML_ECC_L2 = 1,
	NVML_ECC_DEVICE_MEMORY = 2,
	NVML_ECC_REGISTER = 3,
	NVML_ECC_TEXTURE = 4,
	NVML_ECC_SHARED = 5,
	NVML_ECC_CBU = 6,
	NVML_ECC_SRAM = 7,
	NVML_ECC_LOCATIONS
};

/* Ids for nvmlDeviceGetFieldValues. "of a link": the scope is the link's number. */
enum nvml_field {
	NVML_FIELD_ECC_CORRECTED_VOLATILE = 3,
	NVML_FIELD_ECC_UNCORRECTED_VOLATILE = 4,
	NVML_FIELD_ECC_CORRECTED_AGGREGATE = 5,
	NVML_FIELD_ECC_UNCORRECTED_AGGREGATE = 6,
	NVML_FIELD_RETIRED_SINGLE_BIT = 29,
	NVML_FIELD_RETIRED_DOUBLE_BIT = 30,
	NVML_FIELD_RETIRED_PENDING = 31,
	NVML_FIELD_VIOLATION_POWER = 74, /* this and the next five: ns */
	NVML_FIELD_VIOLATION_THERMAL = 75,
	NVML_FIELD_VIOLATION_SYNC_BOOST = 76,
	NVML_FIELD_VIOLATION_BOARD_LIMIT = 77,
	NVML_FIELD_VIOLATION_LOW_UTILIZATION = 78,
	NVML_FIELD_VIOLATION_RELIABILITY = 79,
	NVML_FIELD_MEMORY_TEMPERATURE = 82,
	NVML_FIELD_ENERGY = 83, /* mJ */
	NVML_FIELD_LINK_COUNT = 91,
	NVML_FIELD_RETIRED_PENDING_SINGLE_BIT = 92,
	NVML_FIELD_RETIRED_PENDING_DOUBLE_BIT = 93,
	NVML_FIELD_PCIE_REPLAYS = 94,
	NVML_FIELD_LINK_DATA_TX = 138, /* KiB of a link; needs no NVLink 5 */
	NVML_FIELD_LINK_DATA_RX = 139,
	NVML_FIELD_REMAPPED_CORRECTABLE = 142,
	NVML_FIELD_REMAPPED_UNCORRECTABLE = 143,
	NVML_FIELD_REMAPPED_PENDING = 144,
	NVML_FIELD_REMAPPED_FAILED = 145,
	NVML_FIELD_LINK_REPLAYS = 161, /* of a link, as the next two */
	NVML_FIELD_LINK_RECOVERIES = 162,
	NVML_FIELD_LINK_CRC = 163,
	NVML_FIELD_LINK_STATE = 165, /* enum nvml_link_state */
	NVML_FIELD_PCIE_RECOVERIES = 169,
	NVML_FIELD_PCIE_CORRECTABLE_ERRORS = 173,
	NVML_FIELD_PCIE_NON_FATAL_ERRORS = 179,
	NVML_FIELD_PCIE_FATAL_ERRORS = 180,
	NVML_FIELD_POWER_AVERAGE = 185, /* this and the next: mW; the scope 0 is the GPU */
	NVML_FIELD_POWER_INSTANT = 186,
	NVML_FIELD_POWER_LIMIT = 190,
	NVML_FIELD_PCIE_TX_BYTES = 197,
	NVML_FIELD_PCIE_RX_BYTES = 198,
	NVML_FIELD_LINK_TX_PACKETS = 201, /* of a link, NVLink 5, as all up to 221 */
	NVML_FIELD_LINK_TX_BYTES = 202,
	NVML_FIELD_LINK_RX_PACKETS = 203,
	NVML_FIELD_LINK_RX_BYTES = 204,
	NVML_FIELD_LINK_MALFORMED_PACKETS = 206,
	NVML_FIELD_LINK_BUFFER_OVERRUNS = 207,
	NVML_FIELD_LINK_RX_ERRORS = 208,
	NVML_FIELD_LINK_RX_REMOTE_ERRORS = 209,
	NVML_FIELD_LINK_RX_GENERAL_ERRORS = 210,
	NVML_FIELD_LINK_INTEGRITY_ERRORS = 211,
	NVML_FIELD_LINK_TX_DISCARDS = 212,
	NVML_FIELD_LINK_RECOVERIES_SUCCESSFUL = 213,
	NVML_FIELD_LINK_RECOVERIES_FAILED = 214,
	NVML_FIELD_LINK_RECOVERY_EVENTS = 215,
	NVML_FIELD_LINK_EFFECTIVE_ERRORS = 219,
	NVML_FIELD_LINK_SYMBOL_ERRORS = 221,
	NVML_FIELD_RECOVERY_ACTION = 230,
	NVML_FIELD_VIOLATION_SW_THERMAL = 269, /* this and the next two: ns */
	NVML_FIELD_VIOLATION_HW_THERMAL = 270,
	NVML_FIELD_VIOLATION_HW_POWER_BRAKE = 271,
};

enum nvml_value_type {
	NVML_TYPE_DOUBLE = 0,
	NVML_TYPE_U32 = 1,
	NVML_TYPE_ULONG = 2, /* 64 bits on Linux */
	NVML_TYPE_U64 = 3,
	NVML_TYPE_S64 = 4,
	NVML_TYPE_S32 = 5,
	NVML_TYPE_U16 = 6,
};

union nvml_value {
	double real;
	int32_t s32;
	uint32_t u32;
	uint64_t u64;
	int64_t s64;
	uint16_t u16;
};

struct nvml_field_value {
	uint32_t field;
	uint32_t scope;
	int64_t timestamp_us; /* since 1970 */
	int64_t latency_us;
	uint32_t type; /* enum nvml_value_type */
	int32_t status; /* enum nvml_return; the value counts only with NVML_RETURN_OK */
	union nvml_value value;
};

struct nvml_utilization {
	uint32_t gpu_percent;
	uint32_t memory_percent;
};

struct nvml_memory {
	uint64_t total_bytes;
	uint64_t free_bytes;
	uint64_t used_bytes; /* with what is reserved */
};

#define NVML_MEMORY_V2 0x02000028 /* a version word is size | version << 24 */

struct nvml_memory_v2 {
	uint32_t version;
	uint32_t padding;
	uint64_t total_bytes;
	uint64_t reserved_bytes;
	uint64_t free_bytes;
	uint64_t used_bytes;
};

#define NVML_TEMPERATURE_V1 0x0100000c

struct nvml_temperature {
	uint32_t version;
	uint32_t sensor;
	int32_t celsius;
};

/* Before NVML 12.3 the fabric's state came without a version. */
struct nvml_fabric_v1 {
	uint8_t cluster_uuid[16];
	int32_t status;
	uint32_t clique;
	uint8_t state;
	uint8_t padding[3];
};

#define NVML_FABRIC_V2 0x02000024
#define NVML_FABRIC_V3 0x03000028

/* Version 2 ends after the health mask. */
struct nvml_fabric {
	uint32_t version;
	uint8_t cluster_uuid[16];
	int32_t status;
	uint32_t clique;
	uint8_t state;
	uint8_t padding[3];
	uint32_t health_mask;
	uint8_t health_summary;
	uint8_t padding_3[3];
};

struct nvml_pci {
	char bus_id_legacy[16];
	uint32_t domain;
	uint32_t bus;
	uint32_t device;
	uint32_t device_id; /* device << 16 | vendor */
	uint32_t subsystem_id;
	char bus_id[32];
};

struct nvml_process {
	uint32_t pid;
	uint32_t padding;
	uint64_t used_bytes;
	uint32_t gpu_instance;
	uint32_t compute_instance;
};

struct nvml_process_utilization {
	uint32_t pid;
	uint32_t padding;
	uint64_t timestamp_us;
	uint32_t sm_percent;
	uint32_t memory_percent;
	uint32_t encoder_percent;
	uint32_t decoder_percent;
};

struct nvml_sampled_value {
	uint64_t timestamp_us;
	union nvml_value value;
};

struct nvml_event {
	nvml_device_t device;
	uint64_t type;
	uint64_t data; /* of an Xid event its number */
	uint32_t gpu_instance;
	uint32_t compute_instance;
};

struct nvml_violation {
	uint64_t reference_ns;
	uint64_t violation_ns;
};

#endif
