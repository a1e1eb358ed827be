/* SPDX-License-Identifier: Apache-2.0 */
/* Which device is read when, and its readings onto the board. */
#include "dcmi_library.h"

#include <string.h>

#define BIT(n) (1ull << (n))
#define TURN_GROUPS (BIT(DEVICE_GROUP_UTILIZATION_BY_UNIT) | BIT(DEVICE_GROUP_BANDWIDTH))

static const uint32_t turn_groups[] = {DEVICE_GROUP_UTILIZATION_BY_UNIT, DEVICE_GROUP_BANDWIDTH};

int npu_watch(struct npu_library *library, uint32_t slot, uint32_t index)
{
	struct npu_slot *watched = &library->slot[slot];

	if (slot >= DEVICE_MAX)
		return DCMI_BAD_PARAMETER;
	if (index >= library->count)
		return DCMI_INVALID_DEVICE;
	memset(watched, 0, sizeof(*watched));
	device_sample_reset(&watched->sample);
	watched->sample.index = index;
	watched->unit = library->unit[index];
	watched->watched = true;
	return DCMI_OK;
}

void npu_forget(struct npu_library *library, uint32_t slot)
{
	if (slot < DEVICE_MAX)
		library->slot[slot].watched = false;
}

uint64_t npu_watched(const struct npu_library *library)
{
	uint64_t slots = 0;

	for (uint32_t slot = 0; slot < DEVICE_MAX; slot++)
		if (library->slot[slot].watched)
			slots |= BIT(slot);
	return slots;
}

static void sample_group(struct npu_reading *reading, uint32_t slot, uint32_t group)
{
	device_call_begin(reading->board, 0, group, slot, 0);
	reading->slot->sample.group_at_ns[group] = reading->board->calls[0].started_ns;
	npu_read_group(reading, group);
	device_call_end(reading->board, 0);
}

static bool sample_device(struct npu_library *library, struct device_board *board, uint32_t slot, uint64_t groups)
{
	struct npu_slot *watched = &library->slot[slot];
	struct device_sample *sample = &watched->sample;
	struct npu_reading reading = {&library->call, &watched->unit, watched, board, 0};

	sample->at_ns = device_now_ns();
	for (uint32_t group = 0; group < DEVICE_GROUPS; group++)
		if (groups & BIT(group) && npu_reads_group(group))
			sample_group(&reading, slot, group);
	sample->error = reading.gone;
	sample->samples++;
	sample->took_ns = device_now_ns() - sample->at_ns;
	device_sample_publish(board, slot, sample);
	return reading.gone != 0;
}

/* The first slot of `slots` at or after `turn`, round again from the start; `turn` moves behind it. */
static uint64_t whose_turn(uint64_t slots, uint32_t *turn)
{
	for (uint32_t tried = 0; tried < DEVICE_MAX; tried++) {
		uint32_t slot = (*turn + tried) % DEVICE_MAX;

		if (slots & BIT(slot)) {
			*turn = slot + 1;
			return BIT(slot);
		}
	}
	return 0;
}

struct turn {
	uint64_t slots; /* one, or none */
	uint64_t groups;
};

/* What takes long comes one at a time: one device, one of those groups. */
static struct turn next_turn(struct npu_library *library, uint64_t slots, uint64_t groups)
{
	for (uint32_t tried = 0; tried < 2; tried++) {
		uint32_t n = library->turn_group++ % 2;

		if (groups & BIT(turn_groups[n]))
			return (struct turn){whose_turn(slots, &library->turn[n]), BIT(turn_groups[n])};
	}
	return (struct turn){0, 0};
}

uint32_t npu_sample(struct npu_library *library, void *shared, uint64_t slots, uint64_t groups)
{
	struct device_board *board = shared;
	struct turn turn;
	uint32_t gone = 0;

	slots &= npu_watched(library);
	turn = next_turn(library, slots, groups);
	for (uint32_t slot = 0; slot < DEVICE_MAX; slot++) {
		uint64_t mine = groups & ~TURN_GROUPS;

		mine |= turn.slots & BIT(slot) ? turn.groups : 0;
		if (slots & BIT(slot) && mine)
			gone += sample_device(library, board, slot, mine);
	}
	__atomic_fetch_add(&board->beat, 1, __ATOMIC_RELEASE);
	return gone;
}
