/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The record of the drain benchmark: the same for us and for every peer. */
#ifndef EAGLE_EYE_BENCH_RECORDS_H
#define EAGLE_EYE_BENCH_RECORDS_H

struct bench_record {
	unsigned long long at_ns;
	unsigned long long duration_ns;
	unsigned int pid;
	unsigned int slot;
	unsigned long long seq;
};

struct bench_counts {
	unsigned long long produced;
	unsigned long long dropped;
};

#endif
