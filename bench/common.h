/* SPDX-License-Identifier: MIT */
/*
 * What programs share that measure merging: pages that are equal in all processes.
 */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <linux/dksm.h>

#define PAGE 4096UL

static _Noreturn void die(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

static int domain_open(void)
{
	struct dksm_domain_args args = {
		.size = sizeof(args), .flags = DKSM_DOMAIN_CREATE,
		.name = "bench",
	};
	int fd = open("/dev/dksm", O_RDWR);

	if (fd < 0 || ioctl(fd, DKSM_IOC_DOMAIN, &args))
		die("/dev/dksm");
	return fd;
}

static uint64_t seed = 1;

static char *fill(size_t pages)
{
	char *memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		die("mmap");
	madvise(memory, pages * PAGE, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < pages; i++)
		for (size_t word = 0; word < PAGE / 8; word++)
			((uint64_t *)(memory + i * PAGE))[word] =
				(i + seed) * 0x9e3779b97f4a7c15ULL + word;
	return memory;
}

/* Of descriptors. */
static void raise_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		die("getrlimit");
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit))
		die("setrlimit");
}

#endif /* BENCH_COMMON_H */
