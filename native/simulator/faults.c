// SPDX-License-Identifier: Apache-2.0
/* How simulated calls go wrong, and how events come to those who wait. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "simulator.h"

#define HANG_LOOK_MS 10
#define WAIT_LOOK_MS 1000 /* the block may vanish while a call waits */
#define NS_PER_MS 1000000ULL

static void sleep_ms(uint32_t milliseconds)
{
	struct timespec left = {milliseconds / 1000, (milliseconds % 1000) * (long)NS_PER_MS};

	while (nanosleep(&left, &left) && errno == EINTR)
		;
}

/* As a broken vendor library would: at once, with no handler of the process in the way. */
static void crash(void)
{
	signal(SIGSEGV, SIG_DFL);
	raise(SIGSEGV);
	_exit(128 + SIGSEGV);
}

static int32_t run_fault(const struct simulated_fault *fault)
{
	if (__atomic_load_n(&fault->delay_ms, __ATOMIC_RELAXED))
		sleep_ms(fault->delay_ms);
	while (__atomic_load_n(&fault->hang, __ATOMIC_RELAXED) && simulation_now())
		sleep_ms(HANG_LOOK_MS);
	if (__atomic_load_n(&fault->crash, __ATOMIC_RELAXED))
		crash();
	return __atomic_load_n(&fault->code, __ATOMIC_RELAXED);
}

int32_t simulation_fault(const struct simulation *now, const struct simulated_device *device,
			 enum simulated_group group)
{
	int32_t code = run_fault(&now->fault[group]);

	return code || !device ? code : run_fault(&device->fault[group]);
}

void eagle_eye_simulation_event(struct simulation *block, const struct simulated_event *event)
{
	uint64_t sequence = block->event_sequence + 1;
	struct simulated_event *place = &block->event[(sequence - 1) % SIMULATED_EVENTS];

	__atomic_store_n(&place->sequence, 0, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	memcpy((char *)place + sizeof(sequence), (const char *)event + sizeof(sequence), sizeof(*event) - sizeof(sequence));
	__atomic_store_n(&place->sequence, sequence, __ATOMIC_RELEASE);
	__atomic_store_n(&block->event_sequence, sequence, __ATOMIC_RELEASE);
	__atomic_store_n(&block->event_wake, (uint32_t)sequence, __ATOMIC_RELEASE);
	syscall(SYS_futex, &block->event_wake, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* The first event after `sequence` that is still there: older ones may have been overwritten. */
static int read_event(const struct simulation *now, uint64_t sequence, struct simulated_event *found)
{
	uint64_t newest = __atomic_load_n(&now->event_sequence, __ATOMIC_ACQUIRE);
	uint64_t oldest = newest > SIMULATED_EVENTS ? newest - SIMULATED_EVENTS : 0;

	for (uint64_t last = sequence > oldest ? sequence : oldest; last < newest; last++) {
		const struct simulated_event *place = &now->event[last % SIMULATED_EVENTS];

		memcpy(found, place, sizeof(*found));
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (found->sequence == last + 1 && __atomic_load_n(&place->sequence, __ATOMIC_RELAXED) == last + 1)
			return 1;
	}
	return 0;
}

static void wait_for_wake(const struct simulation *now, uint64_t seen, uint64_t milliseconds)
{
	struct timespec left = {milliseconds / 1000, (milliseconds % 1000) * NS_PER_MS};

	syscall(SYS_futex, &now->event_wake, FUTEX_WAIT, (uint32_t)seen, &left, NULL, 0);
}

int simulation_wait_event(uint64_t sequence, uint64_t timeout_ms, struct simulated_event *found)
{
	uint64_t end_ns = simulation_clock_ns() + timeout_ms * NS_PER_MS;

	for (;;) {
		const struct simulation *now = simulation_now();
		uint64_t clock_ns = simulation_clock_ns();
		uint64_t left_ms = clock_ns < end_ns ? (end_ns - clock_ns + NS_PER_MS - 1) / NS_PER_MS : 0;
		uint64_t newest;

		if (!now)
			return -1;
		newest = __atomic_load_n(&now->event_sequence, __ATOMIC_ACQUIRE);
		if (read_event(now, sequence, found))
			return 1;
		if (!left_ms)
			return 0;
		wait_for_wake(now, newest, left_ms < WAIT_LOOK_MS ? left_ms : WAIT_LOOK_MS);
	}
}
