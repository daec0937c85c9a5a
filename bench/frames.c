// SPDX-License-Identifier: MIT
/*
 * How many page frames ranges of memory of several processes need: distinct
 * frames, by /proc/PID/pagemap, without the zero page.  A question is a line of
 * "PID START BYTES" for each range, then an empty line; the answer is a line of
 * "PAGES FRAMES".
 *
 * As demo/frames.py, but fast enough to be asked every second.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096UL
#define PRESENT (1ULL << 63)
#define FRAME_MASK ((1ULL << 55) - 1)
#define FRAMES_MAX (1UL << 24)		/* 64 GiB */
#define CHUNK 4096

static unsigned char seen[FRAMES_MAX / 8];
static unsigned long pages, frames;
static uint64_t zero_frame;

static _Noreturn void die(const char *what)
{
	perror(what);
	exit(1);
}

static int pagemap_open(int pid)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		die(path);
	return fd;
}

static void entry_count(uint64_t entry)
{
	uint64_t frame = entry & FRAME_MASK;

	if (!(entry & PRESENT) || frame >= FRAMES_MAX)
		return;
	pages++;
	if (frame == zero_frame || seen[frame / 8] & 1 << frame % 8)
		return;
	seen[frame / 8] |= 1 << frame % 8;
	frames++;
}

static void range_count(int pid, unsigned long start, unsigned long bytes)
{
	unsigned long page = start / PAGE, end = (start + bytes) / PAGE;
	uint64_t entries[CHUNK];
	int fd = pagemap_open(pid);

	while (page < end) {
		size_t want = end - page < CHUNK ? end - page : CHUNK;
		ssize_t got = pread(fd, entries, want * 8, page * 8);

		if (got <= 0)
			die("pagemap");
		for (ssize_t i = 0; i < got / 8; i++)
			entry_count(entries[i]);
		page += got / 8;
	}
	close(fd);
}

/* Reading what was never written maps the zero page. */
static void zero_frame_find(void)
{
	volatile char *page = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = pagemap_open(getpid());
	uint64_t entry;

	if (page == MAP_FAILED || *page ||
	    pread(fd, &entry, 8, (uintptr_t)page / PAGE * 8) != 8 || !(entry & PRESENT))
		die("zero page");
	zero_frame = entry & FRAME_MASK;
	close(fd);
}

int main(void)
{
	unsigned long start, bytes;
	char line[128];
	int pid;

	zero_frame_find();
	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "%d %lu %lu", &pid, &start, &bytes) == 3) {
			range_count(pid, start, bytes);
			continue;
		}
		printf("%lu %lu\n", pages, frames);
		fflush(stdout);
		memset(seen, 0, sizeof(seen));
		pages = frames = 0;
	}
	return 0;
}
