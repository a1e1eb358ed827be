/* SPDX-License-Identifier: Apache-2.0 */
#include "sift.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "kmsg.h"

#define HASH_BITS 16
#define CHAINS 4096

struct literal {
	char text[SIFT_MAX_BYTES];
	uint32_t bytes;
	uint16_t next; /* literal of the same chain, plus one; 0 ends it */
	uint64_t mask;
};

struct sift {
	uint64_t present[(1 << HASH_BITS) / 64]; /* 8 KiB: stays in the first cache */
	uint16_t chains[CHAINS];		 /* first literal of each, plus one */
	uint32_t count;
	struct literal literals[SIFT_MAX_LITERALS];
};

static uint32_t hash_at(const char *at)
{
	uint32_t gram;

	memcpy(&gram, at, sizeof(gram));
	return (gram * 2654435761u) >> (32 - HASH_BITS);
}

struct sift *sift_new(void)
{
	return calloc(1, sizeof(struct sift));
}

void sift_free(struct sift *sift)
{
	free(sift);
}

int sift_add(struct sift *sift, const char *literal, uint32_t bytes, uint64_t mask)
{
	if (bytes < SIFT_MIN_BYTES || bytes > SIFT_MAX_BYTES || sift->count == SIFT_MAX_LITERALS)
		return -1;

	uint32_t hash = hash_at(literal);
	struct literal *added = &sift->literals[sift->count++];

	memcpy(added->text, literal, bytes);
	added->bytes = bytes;
	added->mask = mask;
	added->next = sift->chains[hash % CHAINS];
	sift->chains[hash % CHAINS] = sift->count;
	sift->present[hash / 64] |= 1ULL << (hash % 64);
	return 0;
}

static uint64_t literals_at(const struct sift *sift, uint32_t hash, const char *at, const char *end)
{
	uint64_t mask = 0;

	for (uint32_t next = sift->chains[hash % CHAINS]; next; next = sift->literals[next - 1].next) {
		const struct literal *literal = &sift->literals[next - 1];

		if ((size_t)(end - at) >= literal->bytes && !memcmp(at, literal->text, literal->bytes))
			mask |= literal->mask;
	}
	return mask;
}

uint64_t sift_text(const struct sift *sift, const char *text, size_t bytes)
{
	const char *end = text + bytes;
	uint64_t mask = 0;

	if (bytes < SIFT_MIN_BYTES)
		return 0;
	for (const char *at = text; at <= end - SIFT_MIN_BYTES; at++) {
		uint32_t hash = hash_at(at);

		if (sift->present[hash / 64] >> (hash % 64) & 1)
			mask |= literals_at(sift, hash, at, end);
	}
	return mask;
}

void sift_records(const struct sift *sift, const char *buffer, size_t bytes, const struct kmsg_record *records,
		  uint32_t count, uint64_t *masks)
{
	for (uint32_t i = 0; i < count; i++) {
		size_t start = records[i].text_offset, length = records[i].text_bytes;
		bool inside = start <= bytes && length <= bytes - start;

		masks[i] = inside ? sift_text(sift, buffer + start, length) : 0;
	}
}

uint32_t sift_lines(const struct sift *sift, const char *data, size_t bytes, struct sift_place *place,
		    struct sift_hit *hits, uint32_t max)
{
	uint32_t found = 0;

	while (place->offset < bytes && found < max) {
		const char *start = data + place->offset;
		const char *newline = memchr(start, '\n', bytes - place->offset);
		size_t length = newline ? (size_t)(newline - start) : bytes - place->offset;
		uint64_t mask = sift_text(sift, start, length);

		if (mask)
			hits[found++] = (struct sift_hit){ mask, place->line, place->offset, length };
		place->offset += length + 1;
		place->line++;
	}
	if (place->offset > bytes)
		place->offset = bytes;
	return found;
}
