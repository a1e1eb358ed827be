/* Known behaviour for the kernel programs to see: workload NAME. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void nap(long ms)
{
	struct timespec time = { ms / 1000, ms % 1000 * 1000000 };

	/* As a system call: a vforked child shares its parent's memory and should touch little of it. */
	syscall(SYS_nanosleep, &time, NULL);
}

/* The parent of a vforked child sleeps uninterruptibly until the child ends. */
static void vfork_for(long ms)
{
	if (vfork() == 0) {
		syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
		nap(ms);
		_exit(0);
	}
}

static void *end_process_late(void *unused)
{
	nap(50);
	syscall(SYS_exit, 5);
	return unused;
}

static void *end_process_together(void *unused)
{
	nap(20);
	syscall(SYS_exit, 0);
	return unused;
}

static int run(const char *name)
{
	pthread_t threads[8];

	if (!strcmp(name, "vfork")) {
		vfork_for(3600 * 1000);
		nap(3600 * 1000);
	} else if (!strcmp(name, "vfork-often")) {
		for (;;)
			vfork_for(50);
	} else if (!strcmp(name, "leader-first")) {
		/* Whose code is the process's differs between kernels. */
		pthread_create(&threads[0], NULL, end_process_late, NULL);
		syscall(SYS_exit, 9);
	} else if (!strcmp(name, "together")) {
		for (int i = 0; i < 8; i++)
			pthread_create(&threads[i], NULL, end_process_together, NULL);
		nap(20);
		syscall(SYS_exit, 4);
	} else if (!strcmp(name, "crash")) {
		*(volatile int *)8 = 1;
	} else {
		return 2;
	}
	return 0;
}

int main(int argc, char **argv)
{
	return argc == 2 ? run(argv[1]) : 2;
}
