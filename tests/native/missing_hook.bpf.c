// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Hooks that no kernel has. */
#include "common.bpf.h"

LICENSE();

SEC("tp_btf/eagle_eye_no_such_hook")
int on_missing_tp_btf(void *ctx)
{
	return 0;
}

SEC("raw_tp/eagle_eye_no_such_hook")
int on_missing_raw_tp(void *ctx)
{
	return 0;
}

SEC("tp/eagle_eye/no_such_hook")
int on_missing_tp(void *ctx)
{
	return 0;
}
