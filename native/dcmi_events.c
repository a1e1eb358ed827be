/* SPDX-License-Identifier: Apache-2.0 */
/* Fault events into a bounded queue without locks.
 *
 * The library calls back on a thread of its own, once for all devices. Where it cannot, a thread of ours asks each
 * device in turn; the driver then forgets what happens to one device while another is asked, so the raised fault
 * codes of the health group stay the complete picture.
 */
#include "dcmi_library.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define ALL_DEVICES (-1)
#define ASK_MS 100
#define NAP_NS 100000000 /* after an answer that came at once and held nothing */

/* Each place counts rounds: a producer may fill it at its own position, the consumer empty it one later. */
struct place {
	uint64_t position;
	struct npu_fault fault;
};

static struct place places[NPU_QUEUE];
static uint64_t next_in;
static uint64_t next_out;
static uint64_t lost;
static int wake_fd = -1;
static pthread_once_t prepared = PTHREAD_ONCE_INIT;

static void prepare(void)
{
	for (uint64_t n = 0; n < NPU_QUEUE; n++)
		places[n].position = n;
	wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
}

int npu_wake_fd(void)
{
	pthread_once(&prepared, prepare);
	return wake_fd;
}

uint64_t npu_lost(void)
{
	return __atomic_load_n(&lost, __ATOMIC_RELAXED);
}

/* NULL: full. Any number of producers. */
static struct place *claim(uint64_t *position)
{
	*position = __atomic_load_n(&next_in, __ATOMIC_RELAXED);
	for (;;) {
		struct place *place = &places[*position % NPU_QUEUE];
		int64_t ahead = (int64_t)(__atomic_load_n(&place->position, __ATOMIC_ACQUIRE) - *position);

		if (ahead < 0)
			return NULL;
		if (ahead == 0 && __atomic_compare_exchange_n(&next_in, position, *position + 1, true,
							       __ATOMIC_RELAXED, __ATOMIC_RELAXED))
			return place;
		if (ahead > 0)
			*position = __atomic_load_n(&next_in, __ATOMIC_RELAXED);
	}
}

static struct npu_fault fault_of(const struct dcmi_event *event)
{
	struct npu_fault fault = {
		.at_ns = device_now_ns(),
		.raised_ms = event->raised_ms,
		.event_id = event->event_id,
		.device = event->device,
		.node_type = event->node_type,
		.node_id = event->node_id,
		.sub_node_type = event->sub_node_type,
		.sub_node_id = event->sub_node_id,
		.severity = event->severity,
		.assertion = event->assertion,
		.serial = event->serial,
		.notification = event->notification,
	};

	memcpy(fault.name, event->name, sizeof(event->name));
	memcpy(fault.info, event->info, sizeof(event->info));
	return fault;
}

static void wake(void)
{
	uint64_t one = 1;
	int saved = errno;

	/* Full is as good: it is readable. */
	if (write(wake_fd, &one, sizeof(one)) < 0)
		errno = saved;
}

static void take(struct dcmi_event *event)
{
	uint64_t position;
	struct place *place;

	if (!event || event->type != 0)
		return;
	place = claim(&position);
	if (!place) {
		__atomic_fetch_add(&lost, 1, __ATOMIC_RELAXED);
		return;
	}
	place->fault = fault_of(event);
	__atomic_store_n(&place->position, position + 1, __ATOMIC_RELEASE);
	wake();
}

/* One consumer. */
uint32_t npu_drain(struct npu_fault *faults, uint32_t capacity)
{
	uint64_t wakes;
	uint32_t count = 0;

	if (read(npu_wake_fd(), &wakes, sizeof(wakes)) < 0)
		wakes = 0;
	while (count < capacity) {
		struct place *place = &places[next_out % NPU_QUEUE];

		if (__atomic_load_n(&place->position, __ATOMIC_ACQUIRE) != next_out + 1)
			return count;
		faults[count++] = place->fault;
		__atomic_store_n(&place->position, next_out + NPU_QUEUE, __ATOMIC_RELEASE);
		next_out++;
	}
	wake(); /* there may be more */
	return count;
}

/* ---- who asks ---- */

struct asker {
	struct npu_calls call;
	struct npu_unit unit[DEVICE_MAX];
	uint32_t count;
};

static struct asker asker;

static int ask_one(const struct npu_unit *unit)
{
	struct npu_reading reading = {.call = &asker.call, .unit = unit};
	struct dcmi_event_filter every = {0};
	NPU_ROOM(struct dcmi_event, event);
	int code = NPU_ASK(&reading, wait_event, ASK_MS, every, &event.value);

	if (code == DCMI_OK)
		take(&event.value);
	return code;
}

static void *ask_all(void *unused)
{
	struct timespec nap = {.tv_nsec = NAP_NS};

	(void)unused;
	for (;;) {
		uint32_t waited = 0;

		for (uint32_t n = 0; n < asker.count; n++) {
			int code = ask_one(&asker.unit[n]);

			waited += code == DCMI_OK || code == DCMI_TIMEOUT;
		}
		if (!waited)
			nanosleep(&nap, NULL);
	}
	return NULL;
}

/* It lives as long as the process, as the library's own would. Signals are for the process's other threads. */
static int start_asking(const struct npu_library *library)
{
	pthread_t thread;
	sigset_t all, before;
	int failed;

	asker.call = library->call;
	asker.count = library->count;
	memcpy(asker.unit, library->unit, sizeof(asker.unit));
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	failed = pthread_create(&thread, NULL, ask_all, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (failed)
		return DCMI_MEMORY_FAILED;
	pthread_detach(thread);
	return DCMI_OK;
}

static bool can_ask(const struct npu_library *library)
{
	struct npu_unit unit = library->count ? library->unit[0] : (struct npu_unit){-1, -1, -1, -1};

	return (library->call.wait_event_v2 && unit.id >= 0) || (library->call.wait_event && unit.card >= 0);
}

static int push(const struct npu_library *library)
{
	struct dcmi_event_filter every = {0};

	if (library->interface == 2 && library->call.subscribe_v2)
		return library->call.subscribe_v2(ALL_DEVICES, every, take);
	if (library->interface == 1 && library->call.subscribe)
		return library->call.subscribe(ALL_DEVICES, ALL_DEVICES, every, take);
	return DEVICE_UNSUPPORTED;
}

int npu_subscribe(struct npu_library *library, int32_t *how)
{
	static int32_t running = NPU_EVENTS_NONE;
	int code = DCMI_OK;

	npu_wake_fd();
	if (running == NPU_EVENTS_NONE) {
		code = push(library);
		running = code == DCMI_OK ? NPU_EVENTS_PUSHED : NPU_EVENTS_NONE;
	}
	if (running == NPU_EVENTS_NONE && can_ask(library)) {
		code = start_asking(library);
		running = code == DCMI_OK ? NPU_EVENTS_ASKED : NPU_EVENTS_NONE;
	}
	library->subscribed |= running != NPU_EVENTS_NONE;
	*how = running;
	return code;
}
