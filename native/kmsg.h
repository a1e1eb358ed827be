/* SPDX-License-Identifier: Apache-2.0 */
/* Kernel-log records in batches. The format is Documentation/ABI/testing/dev-kmsg of the kernel. */
#ifndef EAGLE_EYE_KMSG_H
#define EAGLE_EYE_KMSG_H

#include <stdint.h>

#define KMSG_RECORD_MAX 8192 /* CONSOLE_EXT_LOG_MAX, the largest read() of any kernel so far */

struct kmsg_record {
	uint64_t seq;
	uint64_t time_ns;
	uint64_t text_hash;     /* of level, facility and text; addresses and numbers of four digits or more are alike */
	uint64_t template_hash; /* the same, but all numbers are alike */
	uint64_t fact_hash;     /* the same, but only pids, numbers of six digits and addresses (0x, nine) or more are alike */
	uint32_t text_offset;   /* into the batch's buffer; still escaped */
	uint32_t text_bytes;
	uint32_t dict_offset; /* lines " KEY=value\n", still escaped */
	uint32_t dict_bytes;
	uint32_t caller; /* thread or CPU number */
	uint16_t facility;
	uint8_t level;
	uint8_t caller_kind;  /* 'T', 'C', or 0 where the kernel does not tell */
	uint8_t continuation; /* 'c' first fragment of a line, '+' a later one, else 0 */
	uint8_t padding[7];
};

struct kmsg_log {
	uint64_t seed;      /* of the hashes */
	uint64_t overruns;  /* EPIPE: the kernel overwrote records before they were read */
	uint64_t rejected;  /* EINVAL: a record larger than KMSG_RECORD_MAX */
	uint64_t malformed; /* records that are not in the format */
	uint32_t used;      /* bytes in the buffer */
	uint32_t consumed;  /* bytes of them that have become records */
	int32_t fd;
	int32_t error;     /* errno of the last read, when it was none of the above */
	uint32_t drained;  /* 1 when the last read found nothing more */
	uint32_t skipping; /* 1 inside a record larger than KMSG_RECORD_MAX */
};

struct kmsg_reader;

uint32_t kmsg_next(struct kmsg_log *log, struct kmsg_reader *reader, char *buffer, uint32_t capacity,
		   struct kmsg_record *records, uint32_t max);
uint32_t kmsg_parse(struct kmsg_log *log, const char *data, uint32_t length, int at_end, struct kmsg_record *records,
		    uint32_t max, uint32_t *consumed);
int kmsg_read_once(struct kmsg_log *log, char *buffer);

struct kmsg_reader *kmsg_start(int fd, uint32_t capacity);
void kmsg_stop(struct kmsg_reader *reader);
int kmsg_wake_fd(const struct kmsg_reader *reader);
void kmsg_collect(struct kmsg_reader *reader, struct kmsg_log *log, char *buffer, uint32_t capacity);

/* A descriptor that is readable from `after_ns` after it was set, until it is set again; 0 sets it to never. */
int kmsg_alarm_open(void);
int kmsg_alarm_set(int fd, uint64_t after_ns);

#endif
