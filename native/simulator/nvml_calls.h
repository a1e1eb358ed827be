/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the simulated NVML share. */
#ifndef EAGLE_EYE_SIMULATOR_NVML_CALLS_H
#define EAGLE_EYE_SIMULATOR_NVML_CALLS_H

#include "../nvml_abi.h"
#include "simulator.h"

typedef int32_t nvml_return_t;

/* A handle: a device, or one of its MIG instances. */
struct nvml_device {
	uint32_t slot;
	int32_t instance; /* -1: the device itself */
};

/* The structs below are those parts of NVML's interface that the sampler does without. */
struct nvml_bar1 {
	uint64_t total_bytes;
	uint64_t free_bytes;
	uint64_t used_bytes;
};

struct nvml_row_banks {
	uint32_t max;
	uint32_t high;
	uint32_t partial;
	uint32_t low;
	uint32_t none;
};

struct nvml_attributes {
	uint32_t multiprocessors;
	uint32_t shared_copy_engines;
	uint32_t shared_decoders;
	uint32_t shared_encoders;
	uint32_t shared_jpegs;
	uint32_t shared_ofas;
	uint32_t gpu_instance_slices;
	uint32_t compute_instance_slices;
	uint64_t memory_mebibytes;
};

struct nvml_ecc_counts {
	uint64_t l1;
	uint64_t l2;
	uint64_t device_memory;
	uint64_t registers;
};

struct nvml_pci_extended {
	uint32_t version;
	uint32_t domain;
	uint32_t bus;
	uint32_t device;
	uint32_t device_id;
	uint32_t subsystem_id;
	uint32_t base_class;
	uint32_t sub_class;
	char bus_id[32];
};

struct nvml_process_utilization_info {
	uint64_t timestamp_us;
	uint32_t pid;
	uint32_t sm_percent;
	uint32_t memory_percent;
	uint32_t encoder_percent;
	uint32_t decoder_percent;
	uint32_t jpeg_percent;
	uint32_t ofa_percent;
};

struct nvml_processes_utilization {
	uint32_t version;
	uint32_t count;
	uint64_t last_seen_us;
	struct nvml_process_utilization_info *processes;
};

_Static_assert(sizeof(struct nvml_bar1) == 24, "NVML: nvmlBAR1Memory_t");
_Static_assert(sizeof(struct nvml_row_banks) == 20, "NVML: nvmlRowRemapperHistogramValues_t");
_Static_assert(sizeof(struct nvml_attributes) == 40, "NVML: nvmlDeviceAttributes_t");
_Static_assert(sizeof(struct nvml_ecc_counts) == 32, "NVML: nvmlEccErrorCounts_t");
_Static_assert(sizeof(struct nvml_pci_extended) == 64, "NVML: nvmlPciInfoExt_v1_t");
_Static_assert(sizeof(struct nvml_process_utilization_info) == 40, "NVML: nvmlProcessUtilizationInfo_v1_t");
_Static_assert(sizeof(struct nvml_processes_utilization) == 24, "NVML: nvmlProcessesUtilizationInfo_v1_t");

/* One call on a device, once it has been let in. `instance` is NULL unless the handle is a MIG one. */
struct nvml_call {
	const struct simulation *now;
	const struct simulated_device *device;
	const struct simulated_instance *instance;
};

#define VERSION_WORD(type, number) (sizeof(type) | (number) << 24)

/* Every call begins with one of these; the code is what the call returns unless it is NVML_RETURN_OK. */
nvml_return_t nvml_begin_system(const struct simulation **now, enum simulated_group group);
nvml_return_t nvml_begin(struct nvml_call *call, nvml_device_t handle, enum simulated_group group);

/* The same for the call whose parts belong to groups of their own. */
nvml_return_t nvml_begin_plain(struct nvml_call *call, nvml_device_t handle);

/* The same for calls that do not know MIG handles. */
nvml_return_t nvml_begin_whole(struct nvml_call *call, nvml_device_t handle, enum simulated_group group);

nvml_device_t nvml_handle(const struct simulation *now, const struct simulated_device *device, int32_t instance);

/* A quantity times `scale`; NVML_RETURN_NOT_SUPPORTED when the device has no such thing. */
nvml_return_t nvml_get_u64(nvml_device_t handle, enum simulated_group group, enum simulated_quantity of, double scale,
			   uint64_t *to);
nvml_return_t nvml_get_u32(nvml_device_t handle, enum simulated_group group, enum simulated_quantity of, double scale,
			   uint32_t *to);

uint32_t nvml_u32(double value);
int nvml_is_ecc_location(uint32_t location);
enum simulated_quantity nvml_ecc_quantity(uint32_t kind, uint32_t lifetime, uint32_t location);

/* NaN when no location is known. */
double nvml_ecc_total(const struct simulated_device *device, uint32_t kind, uint32_t lifetime);

#endif
