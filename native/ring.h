/* SPDX-License-Identifier: Apache-2.0 */
#ifndef EAGLE_EYE_RING_H
#define EAGLE_EYE_RING_H

/*
 * A BPF ring buffer as the kernel maps it (kernel/bpf/ringbuf.c): one page for the consumer, one for the
 * producer, then the data, mapped twice in a row so that a record never wraps.
 */
struct ring {
	uint64_t *consumer_position;
	const uint64_t *producer_position;
	const uint8_t *data;
	uint64_t size_bytes;
	uint64_t bad_records;
};

/* Copies up to `capacity` records of `record_bytes` to `out`, one after the other, and gives their room
 * back to the kernel. Records of another size are skipped and counted. Returns how many were copied. */
size_t ring_drain(struct ring *ring, uint8_t *out, size_t record_bytes, size_t capacity);

#endif
