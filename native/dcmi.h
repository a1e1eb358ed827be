/* SPDX-License-Identifier: Apache-2.0 */
/* Ascend NPUs through libdcmi.so, opened at run time.
 *
 * Functions return DCMI_OK, a DCMI return code, or DEVICE_UNSUPPORTED where the library lacks the symbol.
 * One thread calls them, but npu_sample and npu_drain may each have their own; npu_lost is for any.
 */
#ifndef EAGLE_EYE_DCMI_H
#define EAGLE_EYE_DCMI_H

#include <stdint.h>

#define NPU_QUEUE 512 /* faults that wait to be drained; a power of two */
#define NPU_EVENTS_NONE 0
#define NPU_EVENTS_PUSHED 1 /* the library's own thread brings them */
#define NPU_EVENTS_ASKED 2  /* a thread of ours asks each device in turn */

struct npu_unit {
	int32_t card; /* -1: the card interface does not know it */
	int32_t chip;
	int32_t id;    /* of the flat interface, -1: it does not know it */
	int32_t logic; /* as fault events name it, -1: unknown */
};

/* Texts end with NUL and are as the library gave them; "" where it does not tell. */
struct npu_identity {
	char type[33];
	char name[33];
	char version[33];
	char npu_name[33];
	char product[257];
	char model[257];
	char manufacturer[257];
	char serial[257];
	char firmware[257];
	char cpus[513]; /* "0-23,48-71" */
	uint32_t aicores;
	uint32_t die[5]; /* all 0: unknown */
	uint32_t boot_status;
	uint32_t board_id;
	uint32_t slot_id;
	uint32_t pci_domain;
	uint32_t pci_bus;
	uint32_t pci_device;
	uint32_t pci_function;
	int32_t chip_status; /* of the calls that filled it */
	int32_t die_status;
	int32_t board_status;
	int32_t label_status;
	int32_t pci_status;
	int32_t cpus_status;
	int32_t boot_status_status;
};

struct npu_process {
	int32_t pid;
	uint32_t padding;
	uint64_t bytes;
};

struct npu_instance {
	uint32_t id;
	uint32_t used_by_container;
	uint64_t container_id;
	uint64_t memory_bytes;
	double aicores;
	double utilization_ratio; /* NaN where it cannot be */
	char name[17];
};

struct npu_fault {
	uint64_t at_ns;     /* CLOCK_MONOTONIC when it came */
	uint64_t raised_ms; /* since 1970, by the driver's clock */
	uint32_t event_id;
	uint32_t device; /* logical id */
	uint8_t node_type;
	uint8_t node_id;
	uint8_t sub_node_type;
	uint8_t sub_node_id;
	uint8_t severity;
	uint8_t assertion;
	uint8_t padding[2];
	int32_t serial;
	int32_t notification;
	char name[257];
	char info[33];
};

struct npu_library;

/* NULL with a reason when the file cannot be opened or is no DCMI library. */
struct npu_library *npu_open(const char *path, char *reason, uint32_t capacity);
void npu_close(struct npu_library *library);
int npu_simulated(const struct npu_library *library);

/* The table of symbols: its length, their names, and whether the library has one of them. Number 0 is none. */
uint32_t npu_functions(void);
const char *npu_function_name(uint32_t function);
int npu_has_function(const struct npu_library *library, uint32_t function);

/* Starts the library: the flat interface where there is one with devices, else the card interface. */
int npu_start(struct npu_library *library);
int npu_interface(const struct npu_library *library); /* 2 flat, 1 cards, 0 not started */
/* Looks for devices anew; their number, or a return code. `refused` counts cards that did not answer. */
int npu_find(struct npu_library *library, uint32_t *refused);
int npu_unit(const struct npu_library *library, uint32_t index, struct npu_unit *unit);
int npu_reported_count(const struct npu_library *library, int32_t *count);
int npu_versions(const struct npu_library *library, char *library_version, char *driver_version, uint32_t capacity);

/* Device `index` of the last npu_find has `slot` from now on. */
int npu_watch(struct npu_library *library, uint32_t slot, uint32_t index);
void npu_forget(struct npu_library *library, uint32_t slot);
uint64_t npu_watched(const struct npu_library *library);

/* Samples the watched devices of a mask in groups of a mask (bit 1 << enum device_group) onto a struct device_board
 * in which this is the one writer; the number of devices that are gone. Of what takes long, the groups
 * UTILIZATION_BY_UNIT and BANDWIDTH, each call reads one of one device in turn.
 */
uint32_t npu_sample(struct npu_library *library, void *board, uint64_t slots, uint64_t groups);

/* Of device `index` of the last npu_find. The lists set `count`, never above `capacity`. */
int npu_identify(struct npu_library *library, uint32_t index, struct npu_identity *identity);
int npu_processes(struct npu_library *library, uint32_t index, struct npu_process *found, uint32_t capacity,
		  uint32_t *count);
int npu_fault_codes(struct npu_library *library, uint32_t index, uint32_t *found, uint32_t capacity, uint32_t *count);
int npu_instances(struct npu_library *library, uint32_t index, struct npu_instance *found, uint32_t capacity,
		  uint32_t *count);
int npu_topology(struct npu_library *library, uint32_t index, uint32_t other, int32_t *topology);

/* Starts to gather fault events, once for the process; `how` tells in which way. */
int npu_subscribe(struct npu_library *library, int32_t *how);
int npu_wake_fd(void); /* readable when faults wait */
uint32_t npu_drain(struct npu_fault *faults, uint32_t capacity);
uint64_t npu_lost(void); /* faults that found the queue full */

#endif
