/* SPDX-License-Identifier: Apache-2.0 */
/* The library: opened, started, its devices found. */
#include "dcmi_library.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const symbols[NPU_FUNCTIONS] = {
	"",
#define X(name, card, flat, ...) card, flat,
	DCMI_DEVICE_CALLS(X)
#undef X
#define X(name, symbol, ...) symbol,
	DCMI_LIBRARY_CALLS(X)
#undef X
};

uint32_t npu_functions(void)
{
	return NPU_FUNCTIONS;
}

const char *npu_function_name(uint32_t function)
{
	return function < NPU_FUNCTIONS ? symbols[function] : "";
}

int npu_has_function(const struct npu_library *library, uint32_t function)
{
	return function > 0 && function < NPU_FUNCTIONS && library->symbol[function - 1];
}

int npu_simulated(const struct npu_library *library)
{
	return dlsym(library->handle, "eagle_eye_simulated") != NULL;
}

static void resolve(struct npu_library *library)
{
	for (uint32_t function = 1; function < NPU_FUNCTIONS; function++)
		library->symbol[function - 1] = symbols[function][0] ? dlsym(library->handle, symbols[function]) : NULL;
}

static bool has_flat_interface(const struct npu_calls *call)
{
	return call->init_v2_ && call->device_list_v2_;
}

static bool has_card_interface(const struct npu_calls *call)
{
	return call->init_ && call->card_list_ && (call->ids_in_card_ || call->devices_in_card_);
}

/* 0, or -1 with a reason. */
static int load(struct npu_library *library, const char *path, char *reason, uint32_t capacity)
{
	library->handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!library->handle) {
		snprintf(reason, capacity, "%s", dlerror());
		return -1;
	}
	resolve(library);
	if (has_flat_interface(&library->call) || has_card_interface(&library->call))
		return 0;
	snprintf(reason, capacity, "%s is no DCMI library: it can neither start nor list devices", path);
	return -1;
}

struct npu_library *npu_open(const char *path, char *reason, uint32_t capacity)
{
	struct npu_library *library = calloc(1, sizeof(*library));

	snprintf(reason, capacity, "no memory");
	if (library && load(library, path, reason, capacity) == 0)
		return library;
	npu_close(library);
	return NULL;
}

/* A library that may call back, from a thread that nothing ends, has to stay. */
void npu_close(struct npu_library *library)
{
	if (library && library->handle && !library->subscribed)
		dlclose(library->handle);
	free(library);
}

/* ---- start ---- */

static int flat_count(const struct npu_library *library)
{
	int32_t ids[DEVICE_MAX], count = 0;
	int code = library->call.device_list_v2_(ids, &count, DEVICE_MAX);

	return code == DCMI_OK ? count : code;
}

static int start_flat(struct npu_library *library)
{
	int code = has_flat_interface(&library->call) ? library->call.init_v2_() : DEVICE_UNSUPPORTED;

	if (code == DCMI_OK)
		code = flat_count(library);
	if (code == 0)
		code = DCMI_NO_DEVICE;
	return code < 0 || code == DEVICE_UNSUPPORTED ? code : DCMI_OK;
}

int npu_start(struct npu_library *library)
{
	int flat = start_flat(library);
	int cards = library->call.init_ ? library->call.init_() : DEVICE_UNSUPPORTED;

	library->interface = flat == DCMI_OK ? 2 : cards == DCMI_OK && has_card_interface(&library->call) ? 1 : 0;
	if (library->interface)
		return DCMI_OK;
	if (cards != DCMI_OK && cards != DEVICE_UNSUPPORTED)
		return cards;
	return flat == DEVICE_UNSUPPORTED ? DCMI_NOT_SUPPORTED : flat;
}

int npu_interface(const struct npu_library *library)
{
	return library->interface;
}

/* ---- devices ---- */

static bool is_npu(const struct npu_library *library, const struct npu_unit *unit)
{
	struct npu_reading reading = npu_aside(library, unit);
	uint32_t kind = DCMI_UNIT_NPU;

	return NPU_ASK(&reading, kind, &kind) != DCMI_OK || kind == DCMI_UNIT_NPU;
}

static void add(struct npu_library *library, struct npu_unit unit)
{
	if (library->count < DEVICE_MAX && is_npu(library, &unit))
		library->unit[library->count++] = unit;
}

static int chips_of(const struct npu_library *library, int card, int32_t *chips)
{
	int32_t mcu, cpu;
	int code = DEVICE_UNSUPPORTED;

	*chips = 0;
	if (library->call.ids_in_card_)
		code = library->call.ids_in_card_(card, chips, &mcu, &cpu);
	if (code != DCMI_OK && library->call.devices_in_card_)
		code = library->call.devices_in_card_(card, chips);
	return code;
}

static int logic_of(const struct npu_library *library, int card, int chip)
{
	int32_t logic = -1;

	if (!library->call.logic_id_ || library->call.logic_id_(&logic, card, chip) != DCMI_OK)
		return -1;
	return logic;
}

static int find_in_card(struct npu_library *library, int card)
{
	int32_t chips;
	int code = chips_of(library, card, &chips);

	for (int chip = 0; code == DCMI_OK && chip < chips && chip < DEVICE_MAX; chip++)
		add(library, (struct npu_unit){card, chip, -1, logic_of(library, card, chip)});
	return code;
}

static int find_cards(struct npu_library *library, uint32_t *refused)
{
	int32_t cards[DCMI_CARDS] = {0}, count = 0;
	int code = library->call.card_list_(&count, cards, DCMI_CARDS);

	for (int n = 0; code == DCMI_OK && n < count && n < DCMI_CARDS; n++)
		*refused += find_in_card(library, cards[n]) != DCMI_OK;
	return code;
}

/* What only the card interface can do is asked of it also where the flat one is in use. */
static struct npu_unit with_card(const struct npu_library *library, int id)
{
	struct npu_unit unit = {-1, -1, id, id};
	int32_t card, chip;

	if (library->call.card_of_logic_id_ && library->call.card_of_logic_id_(&card, &chip, id) == DCMI_OK) {
		unit.card = card;
		unit.chip = chip;
	}
	return unit;
}

static int find_flat(struct npu_library *library)
{
	int32_t ids[DEVICE_MAX] = {0}, count = 0;
	int code = library->call.device_list_v2_(ids, &count, DEVICE_MAX);

	for (int n = 0; code == DCMI_OK && n < count && n < DEVICE_MAX; n++)
		add(library, with_card(library, ids[n]));
	return code;
}

int npu_find(struct npu_library *library, uint32_t *refused)
{
	int code;

	*refused = 0;
	library->count = 0;
	if (!library->interface)
		return DCMI_NOT_READY;
	code = library->interface == 2 ? find_flat(library) : find_cards(library, refused);
	return code == DCMI_OK ? (int)library->count : code;
}

int npu_unit(const struct npu_library *library, uint32_t index, struct npu_unit *unit)
{
	if (index >= library->count)
		return DCMI_INVALID_DEVICE;
	*unit = library->unit[index];
	return DCMI_OK;
}

int npu_reported_count(const struct npu_library *library, int32_t *count)
{
	int (*all_count)(int32_t *) = library->interface == 2 ? library->call.all_count_v2_ : library->call.all_count_;

	return all_count ? all_count(count) : DEVICE_UNSUPPORTED;
}

int npu_versions(const struct npu_library *library, char *library_version, char *driver_version, uint32_t capacity)
{
	const struct npu_calls *call = &library->call;
	bool flat = library->interface == 2;
	int (*version)(char *, uint32_t) = flat && call->version_v2_ ? call->version_v2_ : call->version_;
	int (*driver)(char *, uint32_t) = flat && call->driver_version_v2_ ? call->driver_version_v2_ :
									   call->driver_version_;

	memset(library_version, 0, capacity);
	memset(driver_version, 0, capacity);
	if (driver && driver(driver_version, capacity - 1) != DCMI_OK)
		driver_version[0] = 0;
	return version ? version(library_version, capacity - 1) : DEVICE_UNSUPPORTED;
}

/* ---- calls to one device ---- */

struct npu_reading npu_aside(const struct npu_library *library, const struct npu_unit *unit)
{
	return (struct npu_reading){.call = &library->call, .unit = unit};
}

int npu_noted(struct npu_reading *reading, int code)
{
	if (code == DCMI_NO_DEVICE || code == DCMI_INVALID_DEVICE)
		reading->gone = code;
	return code == DCMI_NOT_SUPPORTED ? DEVICE_UNSUPPORTED : code;
}

void npu_name_call(const struct npu_reading *reading, uint32_t function)
{
	if (reading->board)
		device_call_function(reading->board, 0, function);
}
