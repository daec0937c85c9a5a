// SPDX-License-Identifier: MIT
/*
 * The only program of a guest of ours: PID 1 of its initramfs. It fills some
 * memory (2 MiB, or memory_pages=N on the kernel's command line) with a pattern that
 * is the same in every guest, says on the console that it is ready and then waits.
 * Each line it is sent makes it check the
 * pattern, write to every page of it, check again and answer "intact" or
 * "corrupt": a merged page that lost its contents, or that a write went wrong
 * on, shows here. Other lines:
 *	read	only check it
 *	give	as a balloon does, say which pages the host may have
 *	take	have them back: fill them anew, and check
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define WORDS (4096 / sizeof(uint64_t))

static size_t pages = 512;
static uint64_t (*memory)[WORDS];
static uint64_t writes;		/* how often every page was written to */

static uint64_t pattern(size_t page, size_t word)
{
	if (word == page % WORDS)
		return writes;
	return (page * WORDS + word + 1) * 0x9e3779b97f4a7c15ull;
}

static void map(void)
{
	memory = mmap(NULL, pages * sizeof(*memory), PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
}

static void fill(void)
{
	for (size_t page = 0; page < pages; page++)
		for (size_t word = 0; word < WORDS; word++)
			memory[page][word] = pattern(page, word);
}

static void write_to_each_page(void)
{
	writes++;
	for (size_t page = 0; page < pages; page++)
		memory[page][page % WORDS] = writes;
}

/* Return the number of pages that are not as they must be. */
static int count_bad(void)
{
	int bad = 0;

	for (size_t page = 0; page < pages; page++) {
		size_t word = 0;

		while (word < WORDS && memory[page][word] == pattern(page, word))
			word++;
		bad += word < WORDS;
	}
	return bad;
}

/* The kernel gives PID 1 a console only if /dev/console is in the initramfs. */
static void open_console(void)
{
	if (fcntl(0, F_GETFD) != -1)
		return;
	mkdir("/dev", 0755);
	mknod("/dev/console", S_IFCHR | 0600, makedev(5, 1));
	open("/dev/console", O_RDWR);
	dup2(0, 1);
	dup2(0, 2);
}

static uint64_t frame_of(int pagemap, size_t page)
{
	uint64_t entry;
	off_t at = (uintptr_t)memory[page] / sizeof(*memory) * sizeof(entry);

	if (pread(pagemap, &entry, sizeof(entry), at) != sizeof(entry) || !(entry >> 63)) {
		printf("corrupt: page %zu has no frame\n", page);
		exit(1);
	}
	return entry & ((1ull << 55) - 1);
}

/* "given FRAME+NUMBER ... end": guest physical pages, which stay where they are. */
static void give(void)
{
	size_t first = 0, n;
	int fd;

	mkdir("/proc", 0555);
	mount("proc", "/proc", "proc", 0, NULL);
	fd = open("/proc/self/pagemap", O_RDONLY);
	madvise(memory, pages * sizeof(*memory), MADV_NOHUGEPAGE);
	printf("given");
	for (; first < pages; first += n) {
		uint64_t frame = frame_of(fd, first);

		for (n = 1; first + n < pages && frame_of(fd, first + n) == frame + n;)
			n++;
		printf(" %llx+%zx", (unsigned long long)frame, n);
	}
	printf(" end\n");
	fflush(stdout);
	close(fd);
}

static void answer(const char *line)
{
	int before, after;

	if (!strcmp(line, "give\n")) {
		give();
		return;
	}
	if (!strcmp(line, "take\n"))
		fill();
	before = after = count_bad();
	if (!strcmp(line, "\n")) {
		write_to_each_page();
		after = count_bad();
	}
	if (before || after)
		printf("corrupt: %d pages before writing, %d after\n", before, after);
	else
		printf("intact\n");
	fflush(stdout);
}

int main(void)
{
	char line[16];
	const char *wanted = getenv("memory_pages");

	open_console();
	if (wanted)
		pages = strtoul(wanted, NULL, 10);
	map();
	fill();
	printf("guest ready\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin))
		answer(line);
	for (;;)
		pause();
}
