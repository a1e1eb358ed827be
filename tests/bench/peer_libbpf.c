// SPDX-License-Identifier: Apache-2.0
/* The peer in C: libbpf's own reader with a callback that copies the record. */
#include <stdlib.h>
#include <string.h>

#include <bpf/libbpf.h>

#include "records.h"

#define ROOM 8192

struct peer {
	struct ring_buffer *reader;
	struct bench_record records[ROOM];
	unsigned long count;
};

static int take(void *context, void *data, size_t size)
{
	struct peer *peer = context;

	if (size == sizeof(struct bench_record))
		memcpy(&peer->records[peer->count++ % ROOM], data, size);
	return 0;
}

struct peer *peer_open(int ring_fd)
{
	struct peer *peer = calloc(1, sizeof(*peer));

	if (peer)
		peer->reader = ring_buffer__new(ring_fd, take, peer, NULL);
	return peer;
}

unsigned long peer_consume(struct peer *peer)
{
	peer->count = 0;
	ring_buffer__consume(peer->reader);
	return peer->count;
}

void peer_close(struct peer *peer)
{
	ring_buffer__free(peer->reader);
	free(peer);
}
