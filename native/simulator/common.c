// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "simulator.h"

#define NS_PER_S 1000000000ULL
#define LOOK_NS 1000000ULL
#define READ_ATTEMPTS 1000 /* a writer that died in the middle must not hold up a reader */

const int eagle_eye_simulated = 1;

static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;
static const struct simulation *block;
static int block_fd = -1;

uint64_t simulation_clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * NS_PER_S + now.tv_nsec;
}

static int is_whole(const struct simulation *found)
{
	return found->magic == SIMULATION_MAGIC && found->version == SIMULATION_VERSION &&
	       found->bytes == sizeof(*found) && (found->vendor == SIMULATED_NVIDIA || found->vendor == SIMULATED_ASCEND);
}

static int is_long_enough(int fd)
{
	struct stat file;

	return fstat(fd, &file) == 0 && S_ISREG(file.st_mode) && file.st_size >= (off_t)sizeof(struct simulation);
}

static const struct simulation *map(int fd)
{
	void *found;

	if (!is_long_enough(fd))
		return NULL;
	found = mmap(NULL, sizeof(struct simulation), PROT_READ, MAP_SHARED, fd, 0);
	return found == MAP_FAILED ? NULL : found;
}

static void open_block(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return;
	block_fd = fd;
	__atomic_store_n(&block, map(fd), __ATOMIC_RELEASE);
	if (!block)
		close(fd);
}

/* The mapping stays: a thread that brings events may still be at work. */
static void __attribute__((destructor)) close_block(void)
{
	int fd = __atomic_exchange_n(&block_fd, -1, __ATOMIC_ACQ_REL);

	if (fd >= 0)
		close(fd);
}

enum simulation_state simulation_open(enum simulated_vendor vendor)
{
	const char *path = secure_getenv(SIMULATION_VARIABLE);
	const struct simulation *now;

	if (!path || !*path)
		return SIMULATION_ABSENT;
	pthread_mutex_lock(&opening);
	if (!block)
		open_block(path);
	pthread_mutex_unlock(&opening);
	now = simulation_now();
	if (!now)
		return SIMULATION_BROKEN;
	return now->vendor == (uint32_t)vendor ? SIMULATION_READY : SIMULATION_ABSENT;
}

/*
 * Touching a page past the end of a file that shrank would be SIGBUS. Asked at most once a millisecond: samplers
 * make hundreds of calls in that time.
 */
static int is_still_long_enough(void)
{
	static uint64_t asked_ns;
	uint64_t now_ns = simulation_clock_ns();

	if (now_ns - __atomic_load_n(&asked_ns, __ATOMIC_RELAXED) < LOOK_NS)
		return 1;
	if (!is_long_enough(block_fd))
		return 0;
	__atomic_store_n(&asked_ns, now_ns, __ATOMIC_RELAXED);
	return 1;
}

const struct simulation *simulation_now(void)
{
	const struct simulation *found = __atomic_load_n(&block, __ATOMIC_ACQUIRE);

	return found && is_still_long_enough() && is_whole(found) ? found : NULL;
}

void simulation_copy(const struct simulated_device *device, void *to, const void *from, size_t size)
{
	for (int attempt = 0; attempt < READ_ATTEMPTS; attempt++) {
		uint64_t before = __atomic_load_n(&device->generation, __ATOMIC_ACQUIRE);

		memcpy(to, from, size);
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (!(before & 1) && before == __atomic_load_n(&device->generation, __ATOMIC_RELAXED))
			return;
		sched_yield();
	}
}

/* Each device belongs to the one writer that holds the file's lock. */
void eagle_eye_simulation_write(struct simulated_device *device, const struct simulated_device *next)
{
	uint64_t odd = device->generation | 1;

	__atomic_store_n(&device->generation, odd, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	memcpy((char *)device + sizeof(odd), (const char *)next + sizeof(odd), sizeof(*device) - sizeof(odd));
	__atomic_store_n(&device->generation, odd + 1, __ATOMIC_RELEASE);
}

int simulation_text(const struct simulated_device *device, char *to, size_t capacity, const char *from)
{
	char text[SIMULATED_TEXT + 1] = {0};
	size_t length;

	simulation_copy(device, text, from, SIMULATED_TEXT);
	length = strlen(text);
	if (length >= capacity)
		return -1;
	memcpy(to, text, length + 1);
	return 0;
}

int simulation_label(const char *text, char *to, size_t capacity)
{
	int length = snprintf(to, capacity, "%.*s (simulated)", SIMULATED_TEXT, text);

	return length >= 0 && (size_t)length < capacity ? 0 : -1;
}

static const struct simulated_device *at_place(const struct simulation *now, uint32_t place)
{
	uint32_t slot = now->order[place];

	return slot < SIMULATED_DEVICES && now->device[slot].present ? &now->device[slot] : NULL;
}

const struct simulated_device *simulation_device(const struct simulation *now, uint32_t index)
{
	for (uint32_t place = 0; place < SIMULATED_DEVICES; place++) {
		const struct simulated_device *device = at_place(now, place);

		if (device && index-- == 0)
			return device;
	}
	return NULL;
}

uint32_t simulation_count(const struct simulation *now)
{
	uint32_t count = 0;

	if (now->reported_count >= 0)
		return now->reported_count;
	for (uint32_t place = 0; place < SIMULATED_DEVICES; place++)
		count += at_place(now, place) != NULL;
	return count;
}

uint64_t simulation_integer(double value)
{
	if (!(value > 0))
		return 0;
	return value < 0x1p64 ? (uint64_t)value : UINT64_MAX;
}
