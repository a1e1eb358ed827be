/* SPDX-License-Identifier: Apache-2.0 */
/* What the simulated vendor libraries share: the state block, and the ways in which a call goes wrong. */
#ifndef EAGLE_EYE_SIMULATOR_H
#define EAGLE_EYE_SIMULATOR_H

#include <stddef.h>
#include <stdint.h>

#include "state.h"

#define SIMULATION_VARIABLE "EAGLE_EYE_SIMULATION" /* names the file of the state block */
#define EXPORTED __attribute__((visibility("default")))

enum simulation_state {
	SIMULATION_READY,
	SIMULATION_ABSENT, /* none is named, or one of another vendor: as on a machine without this driver */
	SIMULATION_BROKEN, /* no file, or one that is no state block */
};

enum simulation_state simulation_open(enum simulated_vendor vendor);

/* The open block, NULL when it is not, or no longer, a whole one. */
const struct simulation *simulation_now(void);

uint64_t simulation_clock_ns(void);

/* Copies `size` bytes at `from`, a part of `device`, as one writer left them. */
void simulation_copy(const struct simulated_device *device, void *to, const void *from, size_t size);

/* The law at the present time; NaN when the device has no such value. */
double simulation_law(const struct simulated_value *law, uint64_t now_ns);
double simulation_value(const struct simulated_device *device, enum simulated_quantity quantity);
double simulation_link_value(const struct simulated_device *device, uint32_t link, enum simulated_link_quantity of);

/* Bytes of memory in use, with those of processes and instances. */
double simulation_memory_used(const struct simulated_device *device);

/* Copies a text of `device`, always ended by NUL; 0, or -1 when `capacity` is too small. */
int simulation_text(const struct simulated_device *device, char *to, size_t capacity, const char *from);

/* The same with " (simulated)" at its end. */
int simulation_label(const char *text, char *to, size_t capacity);

/* Which device answers to `index`, NULL: none. */
const struct simulated_device *simulation_device(const struct simulation *now, uint32_t index);
uint32_t simulation_count(const struct simulation *now);

/*
 * Runs what is to go wrong in calls of `group` on `device` (NULL: calls on none): delays, hangs, crashes;
 * gives the code to return, 0: go on.
 */
int32_t simulation_fault(const struct simulation *now, const struct simulated_device *device,
			 enum simulated_group group);

/* Waits for the event after `sequence`; 1: `found` holds it, 0: none came in time, -1: the block is gone. */
int simulation_wait_event(uint64_t sequence, uint64_t timeout_ms, struct simulated_event *found);

/* `value` as an unsigned integer; what does not fit is cut off, NaN is 0. */
uint64_t simulation_integer(double value);

/* For the writer; exported, so that both sides order memory alike. */
EXPORTED void eagle_eye_simulation_write(struct simulated_device *device, const struct simulated_device *next);
EXPORTED void eagle_eye_simulation_event(struct simulation *block, const struct simulated_event *event);
EXPORTED double eagle_eye_simulation_law(const struct simulated_value *law, uint64_t now_ns);
EXPORTED double eagle_eye_simulation_energy(const struct simulated_device *device, uint64_t now_ns);

/* Its presence tells that the library is simulated. */
EXPORTED extern const int eagle_eye_simulated;

#endif
