/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "engine_poll.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

/* Of the file: head, urgent, dropped and state, then the tick's guard and its times. */
#define HEAD_OFFSET 40
#define STATE_OFFSET 64
#define TICK_OFFSET 256
#define LOOK_BYTES (TICK_OFFSET + 32)
/* A look comes late by this part of the time that a ring has been quiet. */
#define QUIET_PARTS 128
/* Of a ring whose steps are no further apart than so many looks, every other look is left out. */
#define QUICK_LOOKS 16
#define AT_WORK_NS 500000000u
/* Since the end of the step before, which was at most a floor old when it was told: no word grows older than 60 ms. */
#define TICK_WAITS_NS 35000000u

struct look {
	uint64_t head;
	uint64_t urgent;
	uint64_t state;
	uint64_t tick;
	uint64_t flight_started;
	bool broken;
	bool dead; /* the writer holds the file's lock as long as it lives */
};

struct slot {
	int fd; /* -1 when free */
	bool changed;
	struct look told; /* what the reader was last woken for */
	struct look last;
	uint64_t moved_ns;
	uint64_t woken_ns;
	uint64_t stepped_ns; /* when the reader was last woken for a step, not for a tick */
	uint64_t asked_ns;    /* when its lock was tried */
	uint64_t interval_ns; /* between steps, learned */
	uint64_t floor_ns;
};

struct engine_poll {
	pthread_mutex_t lock;
	pthread_cond_t wanted;
	pthread_t thread;
	struct engine_poll_times times;
	struct engine_poll_counts counts;
	int wake_fd;
	uint32_t used; /* slots below it may be in use */
	uint32_t rings;
	bool stopping;
	struct slot slots[ENGINE_POLL_SLOTS];
};

static uint64_t now_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t word(const unsigned char *bytes, size_t offset)
{
	uint64_t value;

	memcpy(&value, bytes + offset - HEAD_OFFSET, sizeof(value));
	return value;
}

static struct look look_at(int fd)
{
	unsigned char bytes[LOOK_BYTES - HEAD_OFFSET];
	struct look seen = {.broken = true};

	if (pread(fd, bytes, sizeof(bytes), HEAD_OFFSET) != (ssize_t)sizeof(bytes))
		return seen;
	seen.broken = false;
	seen.head = word(bytes, HEAD_OFFSET);
	seen.urgent = word(bytes, HEAD_OFFSET + 8);
	seen.state = word(bytes, STATE_OFFSET);
	seen.tick = word(bytes, TICK_OFFSET);
	seen.flight_started = word(bytes, TICK_OFFSET + 24);
	return seen;
}

static bool is_same(const struct look *a, const struct look *b)
{
	return a->head == b->head && a->urgent == b->urgent && a->state == b->state && a->tick == b->tick &&
	       a->broken == b->broken && a->dead == b->dead;
}

static bool is_urgent(const struct look *a, const struct look *b)
{
	return a->urgent != b->urgent || a->state != b->state || a->broken != b->broken || a->dead != b->dead;
}

static bool is_dead(struct engine_poll *p, struct slot *s, uint64_t now)
{
	if (now - s->asked_ns < p->times.alive_ns || s->last.dead)
		return s->last.dead;
	s->asked_ns = now;
	if (flock(s->fd, LOCK_SH | LOCK_NB) < 0)
		return false;
	flock(s->fd, LOCK_UN);
	return true;
}

static bool in_flight(const struct look *seen)
{
	return seen->flight_started != 0 && seen->flight_started != UINT64_MAX;
}

static void note_move(struct slot *s, const struct look *seen, uint64_t now)
{
	uint64_t steps = seen->head - s->last.head, each;

	if (!steps)
		return;
	each = (now - s->moved_ns) / steps;
	s->interval_ns = s->interval_ns ? s->interval_ns - s->interval_ns / 8 + each / 8 : each;
	s->moved_ns = now;
}

/* Steps come about as regularly as before: none is looked for right after one. */
static uint64_t nap_of(const struct engine_poll *p, const struct slot *s, uint64_t now)
{
	uint64_t quiet = now - s->moved_ns, expected = s->interval_ns - s->interval_ns / 16;
	uint64_t least = s->interval_ns < p->times.busy_ns * QUICK_LOOKS ? 2 * p->times.busy_ns : p->times.busy_ns;
	bool at_work = in_flight(&s->last) || quiet < AT_WORK_NS;
	uint64_t longest = at_work ? p->times.flight_ns : p->times.idle_ns;
	uint64_t nap = quiet / QUIET_PARTS;

	if (quiet < expected)
		nap = expected - quiet;
	if (nap > longest)
		nap = longest;
	return nap > least ? nap : least;
}

/* A word is fresh when it leaves at the end of a step: that is taken up to half a step sooner than the floor, and
 * waited for a little longer, unless it is late. */
static bool is_time(const struct slot *s, uint64_t now)
{
	uint64_t step = s->interval_ns < s->floor_ns ? s->interval_ns : 0;

	if (s->moved_ns == now)
		return now - s->stepped_ns + step / 2 >= s->floor_ns;
	return now - s->woken_ns >= s->floor_ns && now - s->moved_ns >= step + step / 4;
}

/* The end of a step tells all that its first tick would have told shortly before. */
static bool waits_for_step(const struct slot *s, const struct look *seen, uint64_t now)
{
	bool first = seen->head == s->told.head && s->woken_ns == s->stepped_ns;

	return first && now - s->moved_ns < s->interval_ns + s->interval_ns / 8 && now - s->woken_ns < TICK_WAITS_NS;
}

/* Whether the reader must hear of this ring now. */
static bool is_due(struct engine_poll *p, struct slot *s, uint64_t now)
{
	struct look seen = look_at(s->fd);

	seen.dead = is_dead(p, s, now);
	note_move(s, &seen, now);
	s->last = seen;
	if (s->changed || is_same(&seen, &s->told))
		return false;
	if (!is_urgent(&seen, &s->told) && (!is_time(s, now) || waits_for_step(s, &seen, now)))
		return false;
	if (seen.head != s->told.head)
		s->stepped_ns = now;
	s->told = seen;
	s->woken_ns = now;
	s->changed = true;
	return true;
}

/* Looks at every ring; gives how long to sleep. */
static uint64_t round_of(struct engine_poll *p)
{
	uint64_t now = now_ns(CLOCK_MONOTONIC), one = 1, nap = p->times.idle_ns;
	bool due = false;

	for (uint32_t i = 0; i < p->used; i++) {
		struct slot *s = &p->slots[i];

		if (s->fd < 0)
			continue;
		due |= is_due(p, s, now);
		if (nap_of(p, s, now) < nap)
			nap = nap_of(p, s, now);
	}
	p->counts.looks++;
	if (due) {
		p->counts.wakes++;
		while (write(p->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
			;
	}
	return nap;
}

static void *work(void *argument)
{
	struct engine_poll *p = argument;
	struct timespec nap = {0};

	pthread_setname_np(pthread_self(), "engine-poll");
	pthread_mutex_lock(&p->lock);
	while (!p->stopping) {
		if (!p->rings) {
			pthread_cond_wait(&p->wanted, &p->lock);
			continue;
		}
		uint64_t ns = round_of(p);

		pthread_mutex_unlock(&p->lock);
		nap.tv_sec = (time_t)(ns / 1000000000u);
		nap.tv_nsec = (long)(ns % 1000000000u);
		clock_nanosleep(CLOCK_MONOTONIC, 0, &nap, NULL);
		pthread_mutex_lock(&p->lock);
		p->counts.cpu_ns = now_ns(CLOCK_THREAD_CPUTIME_ID);
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

/* The interpreter's threads handle signals; this one must not be interrupted by them. */
static int start_thread(struct engine_poll *p)
{
	sigset_t all, before;
	int failed;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	failed = pthread_create(&p->thread, NULL, work, p);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return failed;
}

struct engine_poll *engine_poll_start(struct engine_poll_times times)
{
	struct engine_poll *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->times = times;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->wanted, NULL);
	for (uint32_t i = 0; i < ENGINE_POLL_SLOTS; i++)
		p->slots[i].fd = -1;
	p->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (p->wake_fd >= 0 && start_thread(p) == 0)
		return p;
	if (p->wake_fd >= 0)
		close(p->wake_fd);
	free(p);
	return NULL;
}

void engine_poll_stop(struct engine_poll *p)
{
	pthread_mutex_lock(&p->lock);
	p->stopping = true;
	pthread_cond_signal(&p->wanted);
	pthread_mutex_unlock(&p->lock);
	pthread_join(p->thread, NULL);
	for (uint32_t i = 0; i < p->used; i++)
		if (p->slots[i].fd >= 0)
			close(p->slots[i].fd);
	close(p->wake_fd);
	free(p);
}

int engine_poll_fd(const struct engine_poll *p)
{
	return p->wake_fd;
}

/* Watches a file through a descriptor of its own; gives the slot, or -1 when all are taken or errno tells why not. */
int engine_poll_add(struct engine_poll *p, int fd, uint64_t floor_ns)
{
	int own = dup(fd), slot = -1;

	if (own < 0)
		return -1;
	pthread_mutex_lock(&p->lock);
	for (uint32_t i = 0; i < ENGINE_POLL_SLOTS && slot < 0; i++)
		if (p->slots[i].fd < 0)
			slot = (int)i;
	if (slot >= 0) {
		p->slots[slot] = (struct slot){.fd = own, .moved_ns = now_ns(CLOCK_MONOTONIC), .floor_ns = floor_ns};
		p->rings++;
		if ((uint32_t)slot >= p->used)
			p->used = (uint32_t)slot + 1;
		pthread_cond_signal(&p->wanted);
	}
	pthread_mutex_unlock(&p->lock);
	if (slot < 0)
		close(own);
	return slot;
}

void engine_poll_remove(struct engine_poll *p, int slot)
{
	pthread_mutex_lock(&p->lock);
	if (slot >= 0 && slot < ENGINE_POLL_SLOTS && p->slots[slot].fd >= 0) {
		close(p->slots[slot].fd);
		p->slots[slot] = (struct slot){.fd = -1};
		p->rings--;
	}
	while (p->used && p->slots[p->used - 1].fd < 0)
		p->used--;
	pthread_mutex_unlock(&p->lock);
}

/* The slots that changed since they were last taken; empties the descriptor. */
uint32_t engine_poll_take(struct engine_poll *p, uint32_t *slots, uint32_t max)
{
	uint64_t ignored;
	uint32_t count = 0;

	while (read(p->wake_fd, &ignored, sizeof(ignored)) < 0 && errno == EINTR)
		;
	pthread_mutex_lock(&p->lock);
	for (uint32_t i = 0; i < p->used && count < max; i++) {
		if (!p->slots[i].changed)
			continue;
		p->slots[i].changed = false;
		slots[count++] = i;
	}
	pthread_mutex_unlock(&p->lock);
	return count;
}

struct engine_poll_counts engine_poll_counts(struct engine_poll *p)
{
	struct engine_poll_counts counts;

	pthread_mutex_lock(&p->lock);
	counts = p->counts;
	pthread_mutex_unlock(&p->lock);
	return counts;
}
