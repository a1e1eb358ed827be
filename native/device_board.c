/* SPDX-License-Identifier: Apache-2.0 */
#include "device.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define READ_TRIES 64
#define NS_PER_S 1000000000ull

_Static_assert(sizeof(struct device_sample) % 8 == 0, "copied in words");
_Static_assert(offsetof(struct device_sample, links) == 8, "the words after sequence and error");
_Static_assert(offsetof(struct device_board, samples) % 8 == 0, "words are aligned");

struct range {
	double lowest;
	double highest;
};

#define RATIO {0, 1}
#define CELSIUS {-100, 1000}
#define FLAG {0, 1}

/* A field without an entry may have any value that is not negative. */
static const struct range ranges[DEVICE_FIELDS] = {
	[DEVICE_UTILIZATION_RATIO ... DEVICE_OPTICAL_FLOW_RATIO] = RATIO,
	[DEVICE_TEMPERATURE_CELSIUS ... DEVICE_MEMORY_MAX_TEMPERATURE_CELSIUS] = CELSIUS,
	[DEVICE_POWER_WATTS ... DEVICE_POWER_LIMIT_WATTS] = {0, 100e3},
	[DEVICE_VOLTAGE_VOLTS] = {0, 1e3},
	[DEVICE_CLOCK_GRAPHICS_HERTZ ... DEVICE_CLOCK_DDR_HERTZ] = {0, 100e9},
	[DEVICE_PERFORMANCE_STATE] = {0, 15}, /* NVML's "unknown" is 32 */
	[DEVICE_PCIE_LINK_GENERATION ... DEVICE_PCIE_LINK_WIDTH] = {0, 64},
	[DEVICE_REMAPPED_ROWS_PENDING ... DEVICE_REMAPPED_ROWS_FAILED] = FLAG,
	[DEVICE_FAN_RATIO] = {0, 2}, /* NVML: may exceed 100 % */
	[DEVICE_OPTICAL_PRESENT] = FLAG,
	[DEVICE_OPTICAL_TEMPERATURE_CELSIUS] = CELSIUS,
	[DEVICE_OPTICAL_VOLTAGE_VOLTS] = {0, 1e3},
	[DEVICE_OPTICAL_TX_POWER_WATTS ... DEVICE_OPTICAL_RX_POWER_WATTS] = {0, 1e3},
};

static const struct range any = {0, (double)UINT64_MAX};

uint64_t device_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * NS_PER_S + now.tv_nsec;
}

/* ---- one sample ---- */

static int32_t checked(int32_t status, double value, struct range range)
{
	if (status != DEVICE_OK)
		return status;
	if (isnan(value))
		return DEVICE_ABSENT;
	return value < range.lowest || value > range.highest ? DEVICE_OUT_OF_RANGE : DEVICE_OK;
}

void device_set(struct device_sample *sample, uint32_t field, int32_t status, double value)
{
	struct range range = ranges[field].highest > 0 ? ranges[field] : any;

	status = checked(status, value, range);
	sample->status[field] = status;
	sample->value[field] = status == DEVICE_OK ? value : NAN;
}

void device_set_link(struct device_sample *sample, uint32_t link, uint32_t field, int32_t status, double value)
{
	status = checked(status, value, any);
	sample->link_status[link][field] = status;
	sample->link_value[link][field] = status == DEVICE_OK ? value : NAN;
}

void device_sample_reset(struct device_sample *sample)
{
	memset(sample, 0, sizeof(*sample));
	sample->error = DEVICE_NOT_READ;
	for (uint32_t field = 0; field < DEVICE_FIELDS; field++)
		device_set(sample, field, DEVICE_NOT_READ, NAN);
	for (uint32_t link = 0; link < DEVICE_LINKS; link++)
		for (uint32_t field = 0; field < DEVICE_LINK_FIELDS; field++)
			device_set_link(sample, link, field, DEVICE_NOT_READ, NAN);
}

/* ---- samples on the board ---- */

static void copy_words(void *to, const void *from, size_t bytes)
{
	const uint64_t *source = from;
	uint64_t *target = to;

	for (size_t word = 0; word < bytes / 8; word++)
		__atomic_store_n(&target[word], __atomic_load_n(&source[word], __ATOMIC_RELAXED), __ATOMIC_RELAXED);
}

static void copy_sample(struct device_sample *to, const struct device_sample *from)
{
	__atomic_store_n(&to->error, __atomic_load_n(&from->error, __ATOMIC_RELAXED), __ATOMIC_RELAXED);
	copy_words(&to->links, &from->links, sizeof(*to) - offsetof(struct device_sample, links));
}

/* A writer that was killed in here left an odd sequence: the next one still begins odd and ends even. */
void device_sample_publish(struct device_board *board, uint32_t slot, const struct device_sample *from)
{
	struct device_sample *to = &board->samples[slot];
	uint32_t writing = (to->sequence + 1) | 1;

	__atomic_store_n(&to->sequence, writing, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	copy_sample(to, from);
	__atomic_store_n(&to->sequence, writing + 1, __ATOMIC_RELEASE);
}

int device_sample_read(const struct device_board *board, uint32_t slot, struct device_sample *to)
{
	const struct device_sample *from = &board->samples[slot];

	for (int tries = 0; tries < READ_TRIES; tries++) {
		uint32_t before = __atomic_load_n(&from->sequence, __ATOMIC_ACQUIRE);

		copy_sample(to, from);
		to->sequence = before;
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (!(before & 1) && __atomic_load_n(&from->sequence, __ATOMIC_RELAXED) == before)
			return 0;
	}
	return -1;
}

void device_sample_clear(struct device_board *board, uint32_t slot)
{
	struct device_sample empty;

	device_sample_reset(&empty);
	device_sample_publish(board, slot, &empty);
}

void device_board_init(struct device_board *board)
{
	board->bytes = sizeof(*board);
	board->version = DEVICE_BOARD_VERSION;
	for (uint32_t slot = 0; slot < DEVICE_MAX; slot++)
		device_sample_clear(board, slot);
	__atomic_store_n(&board->magic, DEVICE_BOARD_MAGIC, __ATOMIC_RELEASE);
}

int device_board_valid(const struct device_board *board)
{
	return __atomic_load_n(&board->magic, __ATOMIC_ACQUIRE) == DEVICE_BOARD_MAGIC &&
	       board->version == DEVICE_BOARD_VERSION && board->bytes == sizeof(*board);
}

/* ---- calls in flight ---- */

static int32_t thread_id(void)
{
	static __thread int32_t id;

	if (id == 0)
		id = syscall(SYS_gettid);
	return id;
}

static void store(uint32_t *to, uint32_t value)
{
	__atomic_store_n(to, value, __ATOMIC_RELAXED);
}

void device_call_begin(struct device_board *board, uint32_t lane, uint32_t group, uint32_t slot, uint32_t function)
{
	struct device_call *call = &board->calls[lane];

	store(&call->group, group);
	store(&call->slot, slot);
	store(&call->function, function);
	__atomic_store_n(&call->thread, thread_id(), __ATOMIC_RELAXED);
	__atomic_store_n(&call->started_ns, device_now_ns(), __ATOMIC_RELEASE);
}

void device_call_function(struct device_board *board, uint32_t lane, uint32_t function)
{
	store(&board->calls[lane].function, function);
}

static uint32_t bucket_of(uint64_t duration_ns)
{
	uint32_t bucket = duration_ns ? 63 - __builtin_clzll(duration_ns) : 0;

	return bucket < DEVICE_CALL_BUCKETS ? bucket : DEVICE_CALL_BUCKETS - 1;
}

static void add(uint64_t *counter, uint64_t amount)
{
	__atomic_fetch_add(counter, amount, __ATOMIC_RELAXED);
}

void device_call_end(struct device_board *board, uint32_t lane)
{
	struct device_call *call = &board->calls[lane];
	struct device_call_times *times = &board->call_times[call->group];
	uint64_t duration_ns = device_now_ns() - call->started_ns;

	__atomic_store_n(&call->started_ns, 0, __ATOMIC_RELEASE);
	add(&times->calls, 1);
	add(&times->sum_ns, duration_ns);
	add(&times->buckets[bucket_of(duration_ns)], 1);
}

/* 0 when the lane is in no call, or is just entering or leaving one. */
int device_call_read(const struct device_board *board, uint32_t lane, struct device_call *to)
{
	const struct device_call *call = &board->calls[lane];
	uint64_t started_ns = __atomic_load_n(&call->started_ns, __ATOMIC_ACQUIRE);

	copy_words(to, call, sizeof(*to));
	to->started_ns = started_ns;
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return started_ns && __atomic_load_n(&call->started_ns, __ATOMIC_RELAXED) == started_ns;
}

/* For a new worker: what the killed one was in is over. */
void device_calls_clear(struct device_board *board)
{
	for (uint32_t lane = 0; lane < DEVICE_LANES; lane++)
		__atomic_store_n(&board->calls[lane].started_ns, 0, __ATOMIC_RELEASE);
}
