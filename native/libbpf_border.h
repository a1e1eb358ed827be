/* SPDX-License-Identifier: Apache-2.0 */
#ifndef EAGLE_EYE_LIBBPF_BORDER_H
#define EAGLE_EYE_LIBBPF_BORDER_H

struct bpf_object;

/* libbpf's warnings go to a bounded buffer of the calling thread instead of standard error. */
void log_install(void);
void log_clear(void);
const char *log_text(void);

/* Where a global variable lies in its section, from the object's BTF. */
struct variable {
	uint32_t offset_bytes;
	uint32_t size_bytes;
	int is_signed;
	int is_bool;
};

/* 0, or -ENOENT when the object has no such variable, -EINVAL when it is not an integer. */
int find_integer(const struct bpf_object *object, const char *section, const char *name, struct variable *found);

/* A software cpu-clock event; its descriptor or a negative errno. */
int perf_event_open_cpu_clock(int pid, int cpu, uint64_t frequency_hz);

#endif
