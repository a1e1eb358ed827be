/* SPDX-License-Identifier: Apache-2.0 */
#include "nvml_border.h"
#include "nvml_functions.h"

#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct symbol {
	size_t offset;
	const char *name;
	const char *older;
};

#define NVML_SYMBOL(name, arguments, symbol, older) {offsetof(struct nvml_api, name), symbol, older},
static const struct symbol symbols[] = {NVML_API(NVML_SYMBOL)};
#undef NVML_SYMBOL

uint32_t nvml_functions(void)
{
	return NVML_FUNCTIONS;
}

const char *nvml_function_name(uint32_t function)
{
	return function < NVML_FUNCTIONS ? symbols[function].name : "";
}

static void *resolved(const struct nvml *nvml, uint32_t function)
{
	void *found;

	memcpy(&found, (const char *)&nvml->api + symbols[function].offset, sizeof(found));
	return found;
}

int nvml_has_function(const struct nvml *nvml, uint32_t function)
{
	return function < NVML_FUNCTIONS && resolved(nvml, function);
}

int nvml_simulated(const struct nvml *nvml)
{
	return nvml->simulated;
}

static void resolve(struct nvml *nvml, const struct symbol *symbol)
{
	void *found = symbol->name[0] ? dlsym(nvml->library, symbol->name) : NULL;

	if (!found && symbol->older)
		found = dlsym(nvml->library, symbol->older);
	memcpy((char *)&nvml->api + symbol->offset, &found, sizeof(found));
}

/* The simulator says what it is; nothing but a label depends on it. */
static void resolve_all(struct nvml *nvml)
{
	for (uint32_t function = 0; function < NVML_FUNCTIONS; function++)
		resolve(nvml, &symbols[function]);
	nvml->simulated = dlsym(nvml->library, "eagle_eye_simulated") != NULL;
}

static int complete(const struct nvml_api *api)
{
	return (api->init_with_flags || api->init) && api->shutdown && api->count && api->handle_by_index;
}

static int load(struct nvml *nvml, const char *path, char *words, uint32_t size)
{
	nvml->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!nvml->library) {
		snprintf(words, size, "%s", dlerror());
		return NVML_OPEN_NO_LIBRARY;
	}
	resolve_all(nvml);
	return complete(&nvml->api) ? NVML_OPEN_OK : NVML_OPEN_WRONG_LIBRARY;
}

/* The pages of a slot are the kernel's until its device is watched. */
struct nvml *nvml_open(const char *path, int *error, char *words, uint32_t size)
{
	struct nvml *nvml = calloc(1, sizeof(*nvml));

	words[0] = 0;
	*error = nvml ? load(nvml, path, words, size) : NVML_OPEN_NO_MEMORY;
	if (*error == NVML_OPEN_OK)
		return nvml;
	nvml_close(nvml);
	return NULL;
}

void nvml_close(struct nvml *nvml)
{
	if (nvml && nvml->library)
		dlclose(nvml->library);
	free(nvml);
}

int nvml_init(struct nvml *nvml)
{
	return nvml->api.init_with_flags ? nvml->api.init_with_flags(NVML_INIT_NO_GPUS) : nvml->api.init();
}

int nvml_shutdown(struct nvml *nvml)
{
	for (uint32_t slot = 0; slot < DEVICE_MAX; slot++)
		nvml_forget(nvml, slot);
	return nvml->api.shutdown();
}

int nvml_count(struct nvml *nvml, uint32_t *count)
{
	return nvml->api.count(count);
}

/* ---- devices ---- */

static int watch(struct nvml *nvml, uint32_t slot, nvml_device_t handle, int returned)
{
	struct nvml_slot *watched = &nvml->slots[slot];

	if (returned != NVML_RETURN_OK)
		return returned;
	memset(watched, 0, sizeof(*watched));
	device_sample_reset(&watched->sample);
	watched->handle = handle;
	return handle ? NVML_RETURN_OK : NVML_RETURN_NOT_FOUND;
}

int nvml_watch_index(struct nvml *nvml, uint32_t slot, uint32_t index)
{
	nvml_device_t handle = NULL;
	int returned = nvml->api.handle_by_index(index, &handle);

	return watch(nvml, slot, handle, returned);
}

/* GPU and MIG devices alike. */
int nvml_watch_uuid(struct nvml *nvml, uint32_t slot, const char *uuid)
{
	nvml_device_t handle = NULL;
	int returned = NVML_RETURN_FUNCTION_NOT_FOUND;

	if (nvml->api.handle_by_uuid)
		returned = nvml->api.handle_by_uuid(uuid, &handle);
	return watch(nvml, slot, handle, returned);
}

void nvml_forget(struct nvml *nvml, uint32_t slot)
{
	nvml->slots[slot].handle = NULL;
}

uint64_t nvml_watched(const struct nvml *nvml)
{
	uint64_t slots = 0;

	for (uint32_t slot = 0; slot < DEVICE_MAX; slot++)
		if (nvml->slots[slot].handle)
			slots |= 1ull << slot;
	return slots;
}
