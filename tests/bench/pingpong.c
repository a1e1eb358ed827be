/* Two processes on one CPU hand a byte to each other: pingpong CPU ROUND_TRIPS prints ns per context switch.
 * CPU time of both, which holds the switches too; other tasks of that CPU do not count. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static void answer(int from, int to)
{
	char byte;

	while (read(from, &byte, 1) == 1 && write(to, &byte, 1) == 1)
		;
	_exit(0);
}

static double used_ns(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return time.tv_sec * 1e9 + time.tv_nsec;
}

int main(int argc, char **argv)
{
	int to[2], back[2];
	char byte = 0;
	cpu_set_t set;
	double start_ns;
	clockid_t child_clock;
	pid_t child;
	long trips = argc == 3 ? atol(argv[2]) : 0;

	CPU_ZERO(&set);
	CPU_SET(argc == 3 ? atoi(argv[1]) : 0, &set);
	if (!trips || sched_setaffinity(0, sizeof(set), &set) || pipe(to) || pipe(back))
		return 2;
	child = fork();
	if (child == 0) {
		close(to[1]);
		close(back[0]);
		answer(to[0], back[1]);
	}
	if (clock_getcpuclockid(child, &child_clock))
		return 3;
	start_ns = used_ns(CLOCK_PROCESS_CPUTIME_ID) + used_ns(child_clock);
	for (long i = 0; i < trips; i++)
		if (write(to[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
			return 1;
	printf("%.1f\n", (used_ns(CLOCK_PROCESS_CPUTIME_ID) + used_ns(child_clock) - start_ns) / (2.0 * trips));
	return 0;
}
