/* SPDX-License-Identifier: Apache-2.0 */
#include "nvml_border.h"
#include "nvml_functions.h"

#include <string.h>

#ifndef RELEARN_NS
#define RELEARN_NS 60000000000ull
#endif

int32_t nvml_status(int returned)
{
	if (returned == NVML_RETURN_NOT_SUPPORTED || returned == NVML_RETURN_FUNCTION_NOT_FOUND)
		return DEVICE_UNSUPPORTED;
	return returned;
}

/* After one of these the device or the library answers nothing: asking on can only hang. */
int nvml_noted(struct nvml_reading *reading, int returned)
{
	if (returned == NVML_RETURN_GPU_IS_LOST || returned == NVML_RETURN_RESET_REQUIRED ||
	    returned == NVML_RETURN_UNINITIALIZED || returned == NVML_RETURN_LIBRARY_MISMATCH)
		reading->error = returned;
	return returned;
}

/* What a device could not tell it may tell after a reset, or once MIG is off. */
static void forget_learned(struct nvml_slot *slot, uint64_t now_ns)
{
	if (slot->learned_ns && now_ns - slot->learned_ns < RELEARN_NS)
		return;
	slot->learned_ns = now_ns;
	slot->links_known = 0;
	memset(slot->unsupported, 0, sizeof(slot->unsupported));
	memset(slot->unsupported_request, 0, sizeof(slot->unsupported_request));
	memset(slot->unsupported_link_request, 0, sizeof(slot->unsupported_link_request));
	memset(slot->unsupported_link, 0, sizeof(slot->unsupported_link));
}

static void sample_group(struct nvml_reading *reading, uint32_t slot, uint32_t group)
{
	device_call_begin(reading->board, 0, group, slot, 0);
	reading->sample->group_at_ns[group] = reading->board->calls[0].started_ns;
	nvml_read_group(reading, group);
	device_call_end(reading->board, 0);
}

static int sample_device(struct nvml *nvml, struct device_board *board, uint32_t slot, uint64_t groups)
{
	struct nvml_slot *watched = &nvml->slots[slot];
	struct device_sample *sample = &watched->sample;
	struct nvml_reading reading = {&nvml->api, watched, sample, board, NVML_RETURN_OK};

	sample->at_ns = device_now_ns();
	forget_learned(watched, sample->at_ns);
	for (uint32_t group = 0; group < DEVICE_GROUPS; group++)
		if (groups & 1ull << group)
			sample_group(&reading, slot, group);
	sample->error = reading.error;
	sample->samples++;
	sample->took_ns = device_now_ns() - sample->at_ns;
	device_sample_publish(board, slot, sample);
	return reading.error;
}

uint32_t nvml_sample(struct nvml *nvml, void *shared, uint64_t slots, uint64_t groups)
{
	struct device_board *board = shared;
	uint32_t failed = 0;

	slots &= nvml_watched(nvml);
	for (uint32_t slot = 0; slot < DEVICE_MAX; slot++)
		if (slots & 1ull << slot)
			failed += sample_device(nvml, board, slot, groups) != NVML_RETURN_OK;
	__atomic_fetch_add(&board->beat, 1, __ATOMIC_RELEASE);
	return failed;
}
