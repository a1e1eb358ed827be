/* SPDX-License-Identifier: Apache-2.0 */
#include "kmsg.h"

#include <errno.h>
#include <sys/timerfd.h>

int kmsg_alarm_open(void)
{
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);

	return fd < 0 ? -errno : fd;
}

int kmsg_alarm_set(int fd, uint64_t after_ns)
{
	struct itimerspec when = {.it_value = {after_ns / 1000000000, after_ns % 1000000000}};

	return timerfd_settime(fd, 0, &when, NULL) ? -errno : 0;
}
