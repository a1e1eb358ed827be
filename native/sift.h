/* SPDX-License-Identifier: Apache-2.0 */
/* Which texts hold one of many literals: one pass, one table look-up per byte. */
#ifndef EAGLE_EYE_SIFT_H
#define EAGLE_EYE_SIFT_H

#include <stddef.h>
#include <stdint.h>

#define SIFT_MIN_BYTES 4 /* shortest literal, which the hash covers */
#define SIFT_MAX_BYTES 64 /* longest literal */
#define SIFT_MAX_LITERALS 1024

struct kmsg_record;
struct sift;

struct sift_hit {
	uint64_t mask; /* of all literals that the line holds, ORed */
	uint64_t line; /* number of the line, from that of the call on */
	uint64_t start; /* of the line in the data */
	uint64_t bytes; /* of the line, without its newline */
};

struct sift_place {
	uint64_t offset; /* of the next line in the data */
	uint64_t line;   /* its number */
};

struct sift *sift_new(void);
void sift_free(struct sift *sift);
int sift_add(struct sift *sift, const char *literal, uint32_t bytes, uint64_t mask);

uint64_t sift_text(const struct sift *sift, const char *text, size_t bytes);
void sift_records(const struct sift *sift, const char *buffer, size_t bytes, const struct kmsg_record *records,
		  uint32_t count, uint64_t *masks);
uint32_t sift_lines(const struct sift *sift, const char *data, size_t bytes, struct sift_place *place,
		    struct sift_hit *hits, uint32_t max);

#endif
