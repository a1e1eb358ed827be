// SPDX-License-Identifier: Apache-2.0
/* Simulated DCMI: fault events, brought by a thread of the library or asked for. */
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "dcmi_calls.h"

#define NS_PER_S 1000000000ULL
#define NS_PER_MS 1000000ULL
#define ALL_DEVICES (-1)
#define TIMEOUT_MAX_MS 30000
#define LOOK_MS 1000

static uint64_t realtime_ms(uint64_t at_ns)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (now.tv_sec * NS_PER_S + now.tv_nsec - (simulation_clock_ns() - at_ns)) / NS_PER_MS;
}

static void translate(const struct simulated_event *from, struct dcmi_event *to)
{
	memset(to, 0, sizeof(*to));
	to->event_id = (uint32_t)from->data;
	to->device = from->device;
	to->node_type = from->node_type;
	to->node_id = from->node_id;
	to->sub_node_type = from->sub_node_type;
	to->sub_node_id = from->sub_node_id;
	to->severity = from->severity;
	to->assertion = from->assertion;
	to->serial = to->notification = (int32_t)from->sequence;
	to->raised_ms = realtime_ms(from->at_ns);
	memcpy(to->name, from->name, SIMULATED_TEXT - 1);
}

static int passes(const struct dcmi_event *event, int device)
{
	return device == ALL_DEVICES || event->device == device;
}

/* ---- asked for ---- */

/* The driver's queue is the process's: asking of one device drops what came from others. */
static int next_of(int device, uint64_t timeout_ms, struct dcmi_event *to)
{
	static _Thread_local uint64_t seen;
	struct simulated_event found;
	int came = simulation_wait_event(seen, timeout_ms, &found);

	if (came < 0)
		return DCMI_INTERNAL;
	if (came)
		seen = found.sequence;
	if (came)
		translate(&found, to);
	return came && passes(to, device) ? DCMI_OK : DCMI_TIMEOUT;
}

static int wait_event(const struct npu_call *call, int timeout_ms, struct dcmi_event *to)
{
	if (!to || timeout_ms < -1 || timeout_ms > TIMEOUT_MAX_MS)
		return DCMI_BAD_PARAMETER;
	return next_of(call->logic, timeout_ms < 0 ? LOOK_MS : timeout_ms, to);
}

NPU_BOTH(dcmi_get_fault_event, dcmiv2_get_fault_event, SIMULATED_CALL_EVENTS,
	 (int timeout_ms, struct dcmi_event_filter filter, struct dcmi_event *to),
	 ((void)filter, wait_event(&call, timeout_ms, to)))

/* ---- brought ---- */

typedef void (*handler_t)(struct dcmi_event *);

static pthread_mutex_t subscribing = PTHREAD_MUTEX_INITIALIZER;
static handler_t handler;
static int subscribed_device;
static uint64_t subscribed_at; /* events before it are history */

static void *bring(void *unused)
{
	uint64_t seen = subscribed_at;
	struct simulated_event found;
	struct dcmi_event event;
	int came;

	(void)unused;
	while ((came = simulation_wait_event(seen, LOOK_MS, &found)) >= 0) {
		if (!came)
			continue;
		seen = found.sequence;
		translate(&found, &event);
		if (passes(&event, subscribed_device))
			handler(&event);
	}
	return NULL;
}

/* Once for a process, as the reference says. */
static int subscribe(const struct simulation *now, int device, handler_t to)
{
	pthread_t thread;
	int code = DCMI_OK;

	if (!to)
		return DCMI_BAD_PARAMETER;
	pthread_mutex_lock(&subscribing);
	if (handler) {
		code = DCMI_OCCUPIED;
	} else {
		handler = to;
		subscribed_device = device;
		subscribed_at = __atomic_load_n(&now->event_sequence, __ATOMIC_ACQUIRE);
		code = pthread_create(&thread, NULL, bring, NULL) ? DCMI_INTERNAL : DCMI_OK;
		if (code == DCMI_OK)
			pthread_detach(thread);
	}
	pthread_mutex_unlock(&subscribing);
	return code;
}

EXPORTED int dcmi_subscribe_fault_event(int card, int chip, struct dcmi_event_filter filter, handler_t to)
{
	const struct simulation *now;
	struct npu_call call = {0};
	int all = card == ALL_DEVICES && chip == ALL_DEVICES;
	int code = npu_begin_library(&now, NPU_CARDS, SIMULATED_CALL_EVENTS);

	(void)filter;
	if (!code && !all)
		code = npu_begin_card(&call, card, chip, SIMULATED_CALL_EVENTS);
	return code ? code : subscribe(now, all ? ALL_DEVICES : (int)call.logic, to);
}

EXPORTED int dcmiv2_subscribe_fault_event(int device, struct dcmi_event_filter filter, handler_t to)
{
	const struct simulation *now;
	int code = npu_begin_library(&now, NPU_FLAT, SIMULATED_CALL_EVENTS);

	(void)filter;
	return code ? code : subscribe(now, device, to);
}
