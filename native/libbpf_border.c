// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include <errno.h>
#include <linux/perf_event.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bpf/btf.h>
#include <bpf/libbpf.h>

#include "libbpf_border.h"

#define LOG_BYTES 16384

static __thread char log_buffer[LOG_BYTES];
static __thread size_t log_used;

/* Keeps the end of what was logged: the verifier says at the end what was wrong. */
static void log_append(const char *text, size_t length)
{
	if (length >= LOG_BYTES) {
		text += length - (LOG_BYTES - 1);
		length = LOG_BYTES - 1;
	}
	if (log_used + length >= LOG_BYTES) {
		size_t kept = LOG_BYTES - 1 - length;

		memmove(log_buffer, log_buffer + log_used - kept, kept);
		log_used = kept;
	}
	memcpy(log_buffer + log_used, text, length);
	log_used += length;
	log_buffer[log_used] = '\0';
}

static int log_print(enum libbpf_print_level level, const char *format, va_list arguments)
{
	char *text = NULL;
	int length;

	if (level != LIBBPF_WARN)
		return 0;
	length = vasprintf(&text, format, arguments);
	if (length > 0)
		log_append(text, length);
	if (length >= 0)
		free(text);
	return 0;
}

void log_install(void)
{
	libbpf_set_print(log_print);
}

void log_clear(void)
{
	log_used = 0;
	log_buffer[0] = '\0';
}

const char *log_text(void)
{
	return log_buffer;
}

static int describe_integer(const struct btf *btf, const struct btf_var_secinfo *at, struct variable *found)
{
	const struct btf_type *type = btf__type_by_id(btf, btf__resolve_type(btf, at->type));

	if (!type || !(btf_is_int(type) || btf_is_any_enum(type)) || at->size > sizeof(uint64_t))
		return -EINVAL;
	found->offset_bytes = at->offset;
	found->size_bytes = at->size;
	found->is_bool = btf_is_int(type) && (btf_int_encoding(type) & BTF_INT_BOOL);
	found->is_signed = btf_is_int(type) ? !!(btf_int_encoding(type) & BTF_INT_SIGNED) : btf_kflag(type);
	return 0;
}

int find_integer(const struct bpf_object *object, const char *section, const char *name, struct variable *found)
{
	const struct btf *btf = bpf_object__btf(object);
	int id = btf ? btf__find_by_name_kind(btf, section, BTF_KIND_DATASEC) : -ENOENT;
	const struct btf_type *datasec = id > 0 ? btf__type_by_id(btf, id) : NULL;

	for (int i = 0; datasec && i < btf_vlen(datasec); i++) {
		const struct btf_var_secinfo *at = btf_var_secinfos(datasec) + i;
		const struct btf_type *variable = btf__type_by_id(btf, at->type);

		if (!strcmp(btf__name_by_offset(btf, variable->name_off), name))
			return describe_integer(btf, at, found);
	}
	return -ENOENT;
}

int perf_event_open_cpu_clock(int pid, int cpu, uint64_t frequency_hz)
{
	struct perf_event_attr attributes = {
		.type = PERF_TYPE_SOFTWARE,
		.config = PERF_COUNT_SW_CPU_CLOCK,
		.size = sizeof(attributes),
		.freq = 1,
		.sample_freq = frequency_hz,
	};
	int fd = syscall(SYS_perf_event_open, &attributes, pid, cpu, -1, PERF_FLAG_FD_CLOEXEC);

	return fd < 0 ? -errno : fd;
}
