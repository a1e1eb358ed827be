/* SPDX-License-Identifier: Apache-2.0 */
#include "kmsg.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

_Static_assert(sizeof(struct kmsg_record) == 72, "read as a numpy dtype");

struct cursor {
	const char *at;
	const char *end;
};

static bool skip(struct cursor *c, char expected)
{
	if (c->at == c->end || *c->at != expected)
		return false;
	c->at++;
	return true;
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_hex(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool is_alphanumeric(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool number(struct cursor *c, uint64_t max, uint64_t *value)
{
	const char *start = c->at;

	for (*value = 0; c->at < c->end && is_digit(*c->at); c->at++) {
		uint64_t digit = *c->at - '0';

		if (*value > (max - digit) / 10)
			return false;
		*value = *value * 10 + digit;
	}
	return c->at > start;
}

/* ---- hashes ---- */

#define HUGE_DIGITS	6
#define HUGE_HEX_DIGITS 9

struct hashes {
	uint64_t text;
	uint64_t template;
	uint64_t fact;
};

static uint64_t mixed(uint64_t hash, unsigned char byte)
{
	hash = (hash ^ byte) * 0x9E3779B97F4A7C15ull;
	return hash ^ (hash >> 29);
}

static uint64_t mixed_all(uint64_t hash, const char *at, const char *end)
{
	for (; at < end; at++)
		hash = mixed(hash, *at);
	return hash;
}

/* `huge` numbers are counters and addresses; shorter ones may be a code, a device or a register. */
static void hash_number(struct hashes *h, const char *at, const char *end, bool varies, bool huge)
{
	h->template = mixed(h->template, '#');
	h->text = varies ? mixed(h->text, '#') : mixed_all(h->text, at, end);
	h->fact = huge ? mixed(h->fact, '#') : mixed_all(h->fact, at, end);
}

static void hash_word(struct hashes *h, const char *at, const char *end)
{
	while (at < end) {
		const char *digits = at;

		while (at < end && is_digit(*at))
			at++;
		if (at > digits) {
			hash_number(h, digits, at, at - digits >= 4, at - digits >= HUGE_DIGITS);
			continue;
		}
		h->text = mixed(h->text, *at);
		h->fact = mixed(h->fact, *at);
		h->template = mixed(h->template, *at++);
	}
}

static bool is_address(const char *at, const char *end)
{
	if (end - at < 3 || at[0] != '0' || (at[1] != 'x' && at[1] != 'X'))
		return false;
	for (at += 2; at < end; at++)
		if (!is_hex(*at))
			return false;
	return true;
}

static bool is_number(const char *at, const char *end)
{
	bool digits = false;

	for (; at < end; at++) {
		if (!is_hex(*at))
			return false;
		digits |= is_digit(*at);
	}
	return digits;
}

static bool has_letter(const char *at, const char *end)
{
	while (at < end && is_digit(*at))
		at++;
	return at < end;
}

/* A PCI domain ("0000:3b:00.0") tells devices apart, unlike other numbers of its length. */
static bool is_pci_domain(const char *at, const char *end, const char *text_end)
{
	return end - at == 4 && end < text_end && *end == ':';
}

/* Which process it was says nothing of what failed. */
static bool is_pid(const char *at, const char *text)
{
	return at - text >= 4 && !memcmp(at - 4, "pid=", 4);
}

static struct hashes hash_text(const char *at, const char *end, uint64_t seed)
{
	struct hashes h = {seed, ~seed, seed};
	const char *text = at;

	while (at < end) {
		const char *start = at;

		while (at < end && is_alphanumeric(*at))
			at++;
		if (at == start) {
			h.text = mixed(h.text, *at);
			h.fact = mixed(h.fact, *at);
			h.template = mixed(h.template, *at++);
		} else if (is_address(start, at)) {
			hash_number(&h, start, at, true, at - start >= 2 + HUGE_HEX_DIGITS);
		} else if (is_number(start, at)) {
			hash_number(&h, start, at, at - start >= 4 && !is_pci_domain(start, at, end),
				    is_pid(start, text) || (at - start >= HUGE_DIGITS && !has_letter(start, at)));
		} else {
			hash_word(&h, start, at);
		}
	}
	return h;
}

/* ---- one record ---- */

static void parse_flags(struct cursor *c, struct kmsg_record *r)
{
	for (; c->at < c->end && *c->at != ',' && *c->at != ';'; c->at++)
		if (*c->at == 'c' || *c->at == '+')
			r->continuation = *c->at;
}

static void parse_caller(const char *at, const char *end, struct kmsg_record *r)
{
	static const char name[] = "caller=";
	struct cursor c = {at + sizeof(name), end};
	uint64_t caller;

	if (end - at <= (ptrdiff_t)sizeof(name) || memcmp(at, name, sizeof(name) - 1))
		return;
	if ((c.at[-1] != 'T' && c.at[-1] != 'C') || !number(&c, UINT32_MAX, &caller) || c.at != end)
		return;
	r->caller_kind = at[sizeof(name) - 1];
	r->caller = caller;
}

static void parse_fields(struct cursor *c, struct kmsg_record *r)
{
	while (skip(c, ',')) {
		const char *start = c->at;

		while (c->at < c->end && *c->at != ',' && *c->at != ';')
			c->at++;
		parse_caller(start, c->at, r);
	}
}

/* prefix,seq,time[,flags[,field]...];  Kernels before 3.6 have no flags. */
static bool parse_header(struct cursor *c, struct kmsg_record *r)
{
	uint64_t prefix, time_us;

	if (!number(c, 0x7ff, &prefix) || !skip(c, ',') || !number(c, UINT64_MAX, &r->seq) || !skip(c, ','))
		return false;
	if (!number(c, INT64_MAX / 1000, &time_us))
		return false;
	r->level = prefix & 7;
	r->facility = prefix >> 3;
	r->time_ns = time_us * 1000;
	if (skip(c, ','))
		parse_flags(c, r);
	parse_fields(c, r);
	return skip(c, ';');
}

static bool parse_record(const char *data, uint32_t start, uint32_t size, uint64_t seed, struct kmsg_record *r)
{
	const char *text_end = memchr(data + start, '\n', size);
	struct cursor c = {data + start, text_end};
	struct hashes hashes;

	memset(r, 0, sizeof(*r));
	if (!parse_header(&c, r))
		return false;
	hashes = hash_text(c.at, text_end, mixed(mixed(seed, r->level), r->facility));
	r->text_hash = hashes.text;
	r->template_hash = hashes.template;
	r->fact_hash = hashes.fact;
	r->text_offset = c.at - data;
	r->text_bytes = text_end - c.at;
	r->dict_offset = text_end + 1 - data;
	r->dict_bytes = start + size - r->dict_offset;
	return true;
}

/* ---- many records ---- */

/* Bytes of the record at `data`: a line and the lines after it that begin with a space. */
static uint32_t record_bytes(const char *data, uint32_t length, bool at_end, bool *complete)
{
	uint32_t size = 0;

	*complete = false;
	while (size <= KMSG_RECORD_MAX) {
		const char *newline = memchr(data + size, '\n', length - size);

		if (!newline)
			return length;
		size = newline + 1 - data;
		if (size == length || data[size] != ' ') {
			*complete = size < length || at_end;
			return size;
		}
	}
	return size;
}

/* Skips a record that is too large; its last byte stays, so that the next byte decides whether it goes on. */
static uint32_t skip_record(struct kmsg_log *log, uint32_t size, bool complete)
{
	if (!log->skipping)
		log->malformed++;
	log->skipping = !complete;
	return complete ? size : size - 1;
}

uint32_t kmsg_parse(struct kmsg_log *log, const char *data, uint32_t length, int at_end, struct kmsg_record *records,
		    uint32_t max, uint32_t *consumed)
{
	uint32_t count = 0;
	uint32_t at = 0;

	while (count < max && at < length) {
		bool complete;
		uint32_t size = record_bytes(data + at, length - at, at_end, &complete);

		if (!complete && size <= KMSG_RECORD_MAX)
			break;
		if (log->skipping || size > KMSG_RECORD_MAX) {
			at += skip_record(log, size, complete);
			continue;
		}
		if (parse_record(data, at, size, log->seed, &records[count]))
			count++;
		else
			log->malformed++;
		at += size;
	}
	*consumed = at;
	return count;
}

/* Appends one record to the buffer, which has room for it; 0 when nothing more can be read now. */
int kmsg_read_once(struct kmsg_log *log, char *buffer)
{
	ssize_t got = read(log->fd, buffer + log->used, KMSG_RECORD_MAX);

	if (got > 0) {
		log->used += got;
		return 1;
	}
	if (got == 0 || errno == EAGAIN) {
		log->drained = 1;
		return 0;
	}
	if (errno == EPIPE)
		log->overruns++;
	else if (errno == EINVAL)
		log->rejected++;
	else if (errno != EINTR)
		log->error = errno;
	return log->error == 0;
}

static void read_some(struct kmsg_log *log, char *buffer, uint32_t capacity, uint32_t max)
{
	log->error = 0;
	log->drained = 0;
	while (max-- && capacity - log->used >= KMSG_RECORD_MAX)
		if (!kmsg_read_once(log, buffer))
			break;
}

/* Parses what the last call left over and what there is more, from the reader or, where that is NULL, from
 * the log itself; returns the number of records. */
uint32_t kmsg_next(struct kmsg_log *log, struct kmsg_reader *reader, char *buffer, uint32_t capacity,
		   struct kmsg_record *records, uint32_t max)
{
	log->used -= log->consumed;
	memmove(buffer, buffer + log->consumed, log->used);
	if (reader)
		kmsg_collect(reader, log, buffer, capacity);
	else
		read_some(log, buffer, capacity, max);
	return kmsg_parse(log, buffer, log->used, log->drained, records, max, &log->consumed);
}
