/* proc_sweep ROUNDS: reads /proc/PID/task/TID/stat of every task; prints ns and tasks of the quickest round. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static long states[256];

static int look(const char *pid, const char *tid)
{
	char path[64], stat[512], *end;
	int fd;
	long got;

	snprintf(path, sizeof(path), "/proc/%.16s/task/%.16s/stat", pid, tid);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return 0;
	got = read(fd, stat, sizeof(stat) - 1);
	close(fd);
	if (got <= 0)
		return 0;
	stat[got] = 0;
	end = strrchr(stat, ')');
	if (!end)
		return 0;
	states[(unsigned char)end[2]]++;
	return 1;
}

static long look_at_threads(const char *pid)
{
	char path[32];
	struct dirent *entry;
	long tasks = 0;
	DIR *folder;

	snprintf(path, sizeof(path), "/proc/%.16s/task", pid);
	folder = opendir(path);
	while (folder && (entry = readdir(folder)))
		if (entry->d_name[0] != '.')
			tasks += look(pid, entry->d_name);
	if (folder)
		closedir(folder);
	return tasks;
}

static long sweep(void)
{
	struct dirent *entry;
	long tasks = 0;
	DIR *folder = opendir("/proc");

	while (folder && (entry = readdir(folder)))
		if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9')
			tasks += look_at_threads(entry->d_name);
	if (folder)
		closedir(folder);
	return tasks;
}

static double now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
	return time.tv_sec * 1e9 + time.tv_nsec;
}

int main(int argc, char **argv)
{
	double best_ns = 0, best_tasks = 1;

	for (int round = argc == 2 ? atoi(argv[1]) : 1; round > 0; round--) {
		double start_ns = now_ns(), tasks = sweep(), ns = now_ns() - start_ns;

		if (!best_ns || ns / tasks < best_ns / best_tasks) {
			best_ns = ns;
			best_tasks = tasks;
		}
	}
	printf("%.0f %.0f\n", best_ns, best_tasks);
	return 0;
}
