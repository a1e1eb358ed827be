/* SPDX-License-Identifier: Apache-2.0 */
/* A thread that moves records out of the kernel's small log buffer into a larger one, whatever else keeps the
 * process busy: at 100 000 lines a second, 128 KiB of log are overwritten within 30 ms. */
#include "kmsg.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define FLOOD_READS 16
#define NAP_NS 1000000

struct kmsg_reader {
	pthread_mutex_t lock;
	pthread_t thread;
	struct kmsg_log log; /* `consumed` to `used` of the buffer wait to be collected */
	uint32_t capacity;
	int wake_fd;
	int stop_fd;
	bool stopping;
	char buffer[];
};

static void make_room(struct kmsg_reader *r)
{
	if (r->capacity - r->log.used >= KMSG_RECORD_MAX || r->log.consumed == 0)
		return;
	r->log.used -= r->log.consumed;
	memmove(r->buffer, r->buffer + r->log.consumed, r->log.used);
	r->log.consumed = 0;
}

struct round {
	uint32_t reads;
	bool full;
	bool over;
};

/* The lock is held for one read at a time, so that nobody waits long for it. */
static bool read_one(struct kmsg_reader *r, struct round *round)
{
	bool more;

	pthread_mutex_lock(&r->lock);
	make_room(r);
	round->full = r->capacity - r->log.used < KMSG_RECORD_MAX;
	more = !r->stopping && !round->full && kmsg_read_once(&r->log, r->buffer);
	round->over = r->stopping || r->log.error;
	pthread_mutex_unlock(&r->lock);
	return more;
}

/* A pause lets records gather: one wake-up for many costs less than one for each. */
static void wait_for_records(const struct kmsg_reader *r, const struct round *round)
{
	struct pollfd fds[] = {{.fd = r->stop_fd, .events = POLLIN}, {.fd = r->log.fd, .events = POLLIN}};
	struct timespec nap = {.tv_nsec = NAP_NS};

	if (round->reads >= FLOOD_READS || round->full)
		nanosleep(&nap, NULL);
	else
		poll(fds, 2, -1);
}

static void *run(void *reader)
{
	struct kmsg_reader *r = reader;
	struct round round;

	do {
		memset(&round, 0, sizeof(round));
		while (read_one(r, &round))
			round.reads++;
		if (round.reads || round.over)
			eventfd_write(r->wake_fd, 1);
		if (!round.over)
			wait_for_records(r, &round);
	} while (!round.over);
	return NULL;
}

static int start_thread(struct kmsg_reader *r)
{
	sigset_t all, before;
	int error;

	/* Signals are for the threads that expect them. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&r->thread, NULL, run, r);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return error;
}

static void destroy(struct kmsg_reader *r)
{
	if (r->wake_fd >= 0)
		close(r->wake_fd);
	if (r->stop_fd >= 0)
		close(r->stop_fd);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

/* The pages of the buffer are the kernel's until a flood touches them. NULL when there is no memory or thread. */
struct kmsg_reader *kmsg_start(int fd, uint32_t capacity)
{
	struct kmsg_reader *r = malloc(sizeof(*r) + capacity);

	if (!r)
		return NULL;
	memset(r, 0, sizeof(*r));
	r->log.fd = fd;
	r->capacity = capacity;
	r->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pthread_mutex_init(&r->lock, NULL);
	if (r->wake_fd >= 0 && r->stop_fd >= 0 && start_thread(r) == 0)
		return r;
	destroy(r);
	return NULL;
}

/* Does not close the log. */
void kmsg_stop(struct kmsg_reader *r)
{
	pthread_mutex_lock(&r->lock);
	r->stopping = true;
	pthread_mutex_unlock(&r->lock);
	eventfd_write(r->stop_fd, 1);
	pthread_join(r->thread, NULL);
	destroy(r);
}

int kmsg_wake_fd(const struct kmsg_reader *r)
{
	return r->wake_fd;
}

/* Moves what has gathered to the end of `buffer`, as much as fits. */
void kmsg_collect(struct kmsg_reader *r, struct kmsg_log *log, char *buffer, uint32_t capacity)
{
	uint32_t room = capacity - log->used;
	uint32_t size;
	eventfd_t wakes;

	pthread_mutex_lock(&r->lock);
	size = r->log.used - r->log.consumed;
	log->drained = size <= room;
	if (log->drained)
		eventfd_read(r->wake_fd, &wakes);
	else
		size = room;
	memcpy(buffer + log->used, r->buffer + r->log.consumed, size);
	r->log.consumed += size;
	if (log->drained)
		r->log.used = r->log.consumed = 0;
	log->used += size;
	log->overruns += r->log.overruns;
	log->rejected += r->log.rejected;
	r->log.overruns = r->log.rejected = 0;
	log->error = r->log.error;
	pthread_mutex_unlock(&r->lock);
}
