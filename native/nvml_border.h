/* SPDX-License-Identifier: Apache-2.0 */
/* What Python sees of NVML: a library opened at run time, devices watched in slots, one call that samples them. */
#ifndef EAGLE_EYE_NVML_BORDER_H
#define EAGLE_EYE_NVML_BORDER_H

#include <stdint.h>

struct nvml;

enum nvml_open_error { NVML_OPEN_OK, NVML_OPEN_NO_LIBRARY, NVML_OPEN_WRONG_LIBRARY, NVML_OPEN_NO_MEMORY };

/* NULL with the reason in `error`, and dlopen's words in `words`. */
struct nvml *nvml_open(const char *path, int *error, char *words, uint32_t size);
void nvml_close(struct nvml *nvml);
int nvml_simulated(const struct nvml *nvml);

/* The table of symbols: its length, their names, newest first, and whether the library has one of them. */
uint32_t nvml_functions(void);
const char *nvml_function_name(uint32_t function);
int nvml_has_function(const struct nvml *nvml, uint32_t function);

/* These return NVML's codes. */
int nvml_init(struct nvml *nvml);
int nvml_shutdown(struct nvml *nvml);
int nvml_count(struct nvml *nvml, uint32_t *count);
int nvml_watch_index(struct nvml *nvml, uint32_t slot, uint32_t index);
int nvml_watch_uuid(struct nvml *nvml, uint32_t slot, const char *uuid);
void nvml_forget(struct nvml *nvml, uint32_t slot);
uint64_t nvml_watched(const struct nvml *nvml);

/* Samples the watched devices of a mask in groups of a mask (bit 1 << enum device_group) onto a struct device_board
 * in which this is the one writer; the number of devices that answered with an error of the whole device. */
uint32_t nvml_sample(struct nvml *nvml, void *board, uint64_t slots, uint64_t groups);

#endif
