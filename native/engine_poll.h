/* SPDX-License-Identifier: Apache-2.0 */
/* A thread that watches the heads of engines' rings and wakes their reader. The offsets are those of
 * probes/engine/vllm/wire.py; files are read, not mapped: who shortens a mapped file kills its reader. */
#ifndef EAGLE_EYE_ENGINE_POLL_H
#define EAGLE_EYE_ENGINE_POLL_H

#include <stdint.h>

#define ENGINE_POLL_SLOTS 256

struct engine_poll_times {
	uint64_t busy_ns;   /* shortest time between two looks */
	uint64_t flight_ns; /* longest time between two looks while steps go on */
	uint64_t idle_ns;   /* longest time between two looks */
	uint64_t alive_ns;  /* between two tries whether a writer still lives */
};

struct engine_poll_counts {
	uint64_t looks;
	uint64_t wakes;
	uint64_t cpu_ns; /* of the thread */
};

struct engine_poll;

struct engine_poll *engine_poll_start(struct engine_poll_times times);
void engine_poll_stop(struct engine_poll *poll);
int engine_poll_fd(const struct engine_poll *poll);
int engine_poll_add(struct engine_poll *poll, int fd, uint64_t floor_ns);
void engine_poll_remove(struct engine_poll *poll, int slot);
uint32_t engine_poll_take(struct engine_poll *poll, uint32_t *slots, uint32_t max);
struct engine_poll_counts engine_poll_counts(struct engine_poll *poll);

#endif
