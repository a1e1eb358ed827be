// SPDX-License-Identifier: Apache-2.0
/* Simulated NVML: events that callers wait for. */
#include <pthread.h>
#include <stdlib.h>

#include "nvml_calls.h"

#define KNOWN_TYPES 0xffffULL
#define SETS 64

struct nvml_event_set {
	int used;
	uint64_t seen; /* sequence of the last event that this set has looked at */
	uint64_t types[SIMULATED_DEVICES];
};

static pthread_mutex_t changing = PTHREAD_MUTEX_INITIALIZER;
static struct nvml_event_set sets[SETS];

static struct nvml_event_set *take_free(void)
{
	for (int n = 0; n < SETS; n++) {
		if (!sets[n].used)
			return &sets[n];
	}
	return NULL;
}

EXPORTED nvml_return_t nvmlEventSetCreate(struct nvml_event_set **to)
{
	const struct simulation *now;
	nvml_return_t code = nvml_begin_system(&now, SIMULATED_CALL_EVENTS);

	if (code)
		return code;
	if (!to)
		return NVML_RETURN_INVALID_ARGUMENT;
	pthread_mutex_lock(&changing);
	*to = take_free();
	if (*to)
		**to = (struct nvml_event_set){.used = 1, .seen = __atomic_load_n(&now->event_sequence, __ATOMIC_ACQUIRE)};
	pthread_mutex_unlock(&changing);
	return *to ? NVML_RETURN_OK : NVML_RETURN_INSUFFICIENT_RESOURCES;
}

static int is_set(const struct nvml_event_set *set)
{
	uintptr_t first = (uintptr_t)sets, at = (uintptr_t)set;

	return at >= first && at < first + sizeof(sets) && (at - first) % sizeof(*set) == 0 && set->used;
}

EXPORTED nvml_return_t nvmlEventSetFree(struct nvml_event_set *set)
{
	if (!is_set(set))
		return NVML_RETURN_INVALID_ARGUMENT;
	pthread_mutex_lock(&changing);
	set->used = 0;
	pthread_mutex_unlock(&changing);
	return NVML_RETURN_OK;
}

EXPORTED nvml_return_t nvmlDeviceGetSupportedEventTypes(nvml_device_t handle, uint64_t *types)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin_whole(&call, handle, SIMULATED_CALL_EVENTS);

	if (!code && types)
		*types = KNOWN_TYPES;
	return !code && !types ? NVML_RETURN_INVALID_ARGUMENT : code;
}

EXPORTED nvml_return_t nvmlDeviceRegisterEvents(nvml_device_t handle, uint64_t types, struct nvml_event_set *set)
{
	struct nvml_call call;
	nvml_return_t code = nvml_begin_whole(&call, handle, SIMULATED_CALL_EVENTS);

	if (code)
		return code;
	if (!is_set(set))
		return NVML_RETURN_INVALID_ARGUMENT;
	if (types & ~KNOWN_TYPES)
		return NVML_RETURN_NOT_SUPPORTED;
	__atomic_or_fetch(&set->types[handle->slot], types, __ATOMIC_RELAXED);
	return NVML_RETURN_OK;
}

static void fill(const struct simulation *now, const struct simulated_event *event, struct nvml_event *to)
{
	*to = (struct nvml_event){
		.device = nvml_handle(now, &now->device[event->device], -1),
		.type = event->type,
		.data = event->data,
		.gpu_instance = event->gpu_instance,
		.compute_instance = event->compute_instance,
	};
}

static int is_wanted(const struct nvml_event_set *set, const struct simulated_event *event)
{
	return event->device < SIMULATED_DEVICES && (set->types[event->device] & event->type);
}

EXPORTED nvml_return_t nvmlEventSetWait_v2(struct nvml_event_set *set, struct nvml_event *to, uint32_t timeout_ms)
{
	const struct simulation *now;
	nvml_return_t code = nvml_begin_system(&now, SIMULATED_CALL_EVENTS);
	uint64_t end_ms = simulation_clock_ns() / 1000000 + timeout_ms;
	struct simulated_event event;

	if (code)
		return code;
	if (!is_set(set) || !to)
		return NVML_RETURN_INVALID_ARGUMENT;
	for (;;) {
		uint64_t clock_ms = simulation_clock_ns() / 1000000;
		int found = simulation_wait_event(set->seen, clock_ms < end_ms ? end_ms - clock_ms : 0, &event);

		if (found <= 0)
			return found ? NVML_RETURN_UNKNOWN : NVML_RETURN_TIMEOUT;
		set->seen = event.sequence;
		if (!is_wanted(set, &event))
			continue;
		fill(now, &event, to);
		return NVML_RETURN_OK;
	}
}

EXPORTED nvml_return_t nvmlEventSetWait(struct nvml_event_set *set, struct nvml_event *to, uint32_t timeout_ms)
{
	return nvmlEventSetWait_v2(set, to, timeout_ms);
}
