/* threads COUNT: that many threads asleep; prints a line when all are there, ends with its input. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void *sleep_for_ever(void *unused)
{
	for (;;)
		pause();
	return unused;
}

int main(int argc, char **argv)
{
	pthread_attr_t small;
	pthread_t thread;

	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 16384);
	for (int i = argc == 2 ? atoi(argv[1]) : 0; i > 1; i--)
		if (pthread_create(&thread, &small, sleep_for_ever, NULL)) {
			perror("pthread_create");
			return 1;
		}
	puts("ready");
	fflush(stdout);
	getchar();
	return 0;
}
