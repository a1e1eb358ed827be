/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the simulated DCMI share. */
#ifndef EAGLE_EYE_SIMULATOR_DCMI_CALLS_H
#define EAGLE_EYE_SIMULATOR_DCMI_CALLS_H

#include "../dcmi_abi.h"
#include "simulator.h"

enum npu_interface { NPU_CARDS = 1, NPU_FLAT = 2 };

struct npu_call {
	const struct simulation *now;
	const struct simulated_device *device;
	uint32_t logic; /* of the device */
};

/* DCMI's code when the library is not started, lacks the interface, or the call is to go wrong. */
int npu_begin_library(const struct simulation **now, enum npu_interface interface, enum simulated_group group);
int npu_begin_card(struct npu_call *call, int card, int chip, enum simulated_group group);
int npu_begin_flat(struct npu_call *call, int device, enum simulated_group group);
int npu_start_library(enum npu_interface interface);

/* Rounded; NaN and what does not fit is the greatest number. */
uint32_t npu_number(double value);
int npu_present(const struct npu_call *call, enum simulated_quantity quantity);
double npu_value(const struct npu_call *call, enum simulated_quantity quantity);
void npu_text(const struct npu_call *call, char *to, size_t capacity, const char *from);

/* One function in both interfaces: `fill` gets the call and the arguments after the device. */
#define NPU_BOTH(card_name, flat_name, group, parameters, fill) \
	EXPORTED int card_name(int card, int chip, NPU_UNPACK parameters) \
	{ \
		struct npu_call call; \
		int code = npu_begin_card(&call, card, chip, group); \
\
		return code ? code : fill; \
	} \
	EXPORTED int flat_name(int device, NPU_UNPACK parameters) \
	{ \
		struct npu_call call; \
		int code = npu_begin_flat(&call, device, group); \
\
		return code ? code : fill; \
	}
#define NPU_UNPACK(...) __VA_ARGS__

#endif
