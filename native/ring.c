// SPDX-License-Identifier: Apache-2.0
#include <stddef.h>
#include <stdint.h>

#include "ring.h"

#define HEADER_BYTES 8
#define BUSY (1u << 31)
#define DISCARDED (1u << 30)

static uint64_t stored_bytes(uint32_t header)
{
	uint64_t length = header & ~(BUSY | DISCARDED);

	return (HEADER_BYTES + length + 7) & ~7ull;
}

/* The kernel never breaks this; a mapping that does is not read any further. */
static int plausible(const struct ring *ring, uint64_t start, uint64_t end)
{
	return end - start <= ring->size_bytes && !((start | end) & 7);
}

size_t ring_drain(struct ring *ring, uint8_t *out, size_t record_bytes, size_t capacity)
{
	uint64_t position = *ring->consumer_position;
	const uint64_t end = __atomic_load_n(ring->producer_position, __ATOMIC_ACQUIRE);
	const uint64_t mask = ring->size_bytes - 1;
	size_t count = 0;

	if (!plausible(ring, position, end)) {
		ring->bad_records++;
		position = end;
	}
	while (position != end && count < capacity) {
		const uint8_t *record = ring->data + (position & mask);
		const uint32_t header = __atomic_load_n((const uint32_t *)record, __ATOMIC_ACQUIRE);
		const uint64_t stored = stored_bytes(header);

		if (header & BUSY)
			break;
		if (stored > end - position) {
			ring->bad_records++;
			position = end;
			break;
		}
		if (header == record_bytes) {
			__builtin_memcpy(out + count * record_bytes, record + HEADER_BYTES, record_bytes);
			count++;
		} else if (!(header & DISCARDED)) {
			ring->bad_records++;
		}
		position += stored;
	}
	__atomic_store_n(ring->consumer_position, position, __ATOMIC_RELEASE);
	return count;
}
