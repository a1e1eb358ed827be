/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the DCMI border share. */
#ifndef EAGLE_EYE_DCMI_LIBRARY_H
#define EAGLE_EYE_DCMI_LIBRARY_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "dcmi.h"
#include "dcmi_calls.h"
#include "device.h"

#define NPU_LOADS 16 /* kinds of unit whose load can be asked for are numbered below this */

/* Symbols in the order of the tables, the card interface's before the flat one's. */
enum npu_function {
	NPU_NO_FUNCTION,
#define X(name, ...) NPU_CALL_##name, NPU_CALL_##name##_v2,
	DCMI_DEVICE_CALLS(X)
#undef X
#define X(name, ...) NPU_CALL_##name##_,
	DCMI_LIBRARY_CALLS(X)
#undef X
	NPU_FUNCTIONS
};

struct npu_calls {
#define X(name, card, flat, ...) \
	int (*name)(int, int, __VA_ARGS__); \
	int (*name##_v2)(int, __VA_ARGS__);
	DCMI_DEVICE_CALLS(X)
#undef X
#define X(name, symbol, ...) int (*name##_)(__VA_ARGS__);
	DCMI_LIBRARY_CALLS(X)
#undef X
};

_Static_assert(sizeof(struct npu_calls) == (NPU_FUNCTIONS - 1) * sizeof(void (*)(void)), "one pointer a symbol");

struct npu_slot {
	bool watched;
	struct npu_unit unit;
	struct device_sample sample;
	uint32_t next_load;           /* place in the table of kinds of unit */
	bool load_refused[NPU_LOADS]; /* says that it is not supported */
	bool load_moved[NPU_LOADS];   /* was once neither 0 nor 100: it is measured */
	bool loads_known;             /* one call tells what most of the slow ones would */
	uint32_t ports;                 /* links that are HCCS, a bit each; 0: not asked yet */
	struct dcmi_hccs_counters hccs; /* widened from 32 bits, where the library has no more */
};

struct npu_library {
	union {
		struct npu_calls call;
		void *symbol[NPU_FUNCTIONS - 1];
	};
	void *handle;
	int interface;
	bool subscribed; /* a thread of the library may call back */
	uint32_t count;
	struct npu_unit unit[DEVICE_MAX];
	uint32_t turn[2]; /* of those groups: the slot after the last one */
	uint32_t turn_group;
	struct npu_slot slot[DEVICE_MAX];
};

/* Calls to one device, in a group of the sampler's or (board NULL) beside it. */
struct npu_reading {
	const struct npu_calls *call;
	const struct npu_unit *unit;
	struct npu_slot *slot;
	struct device_board *board;
	int32_t gone; /* code that says that there is no such device, 0: none did */
};

int npu_noted(struct npu_reading *reading, int code);
void npu_name_call(const struct npu_reading *reading, uint32_t function);
struct npu_reading npu_aside(const struct npu_library *library, const struct npu_unit *unit);

/* Calls `name` of the interface that knows both the device and the function. */
#define NPU_ASK(reading, name, ...) \
	npu_noted(reading, \
		  (reading)->call->name##_v2 && (reading)->unit->id >= 0 ? \
			  (npu_name_call(reading, NPU_CALL_##name##_v2), \
			   (reading)->call->name##_v2((reading)->unit->id, __VA_ARGS__)) : \
		  (reading)->call->name && (reading)->unit->card >= 0 ? \
			  (npu_name_call(reading, NPU_CALL_##name), \
			   (reading)->call->name((reading)->unit->card, (reading)->unit->chip, __VA_ARGS__)) : \
			  DEVICE_UNSUPPORTED)

/* Room that a newer library may fill beyond the layout known here; what it does not fill stays all ones. */
#define NPU_ROOM(type, name) \
	union { \
		type value; \
		unsigned char room[sizeof(type) + 256]; \
	} name; \
	__builtin_memset(&name, 0xff, sizeof(name))

/* A value that is NaN, or all ones of its type, is absent. */
void npu_set(struct npu_reading *reading, uint32_t field, int status, double value);
void npu_set_number(struct npu_reading *reading, uint32_t field, int status, uint32_t number, double unit);
void npu_set_part(struct npu_reading *reading, uint32_t field, int status, uint32_t number, double parts);
void npu_set_counter(struct npu_reading *reading, uint32_t field, int status, uint64_t count);

void npu_read_links(struct npu_reading *reading);
void npu_read_pcie_errors(struct npu_reading *reading);
void npu_read_bandwidth(struct npu_reading *reading);
void npu_read_network(struct npu_reading *reading);
bool npu_reads_group(uint32_t group);
void npu_read_group(struct npu_reading *reading, uint32_t group);

#endif
