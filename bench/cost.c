// SPDX-License-Identifier: MIT
/*
 * What merging costs: P processes hold N pages each, equal across the processes
 * and different within one; they are merged by DKSM or by ksmd, and the CPU time
 * that took is printed as JSON.  Or the floor: what it costs to compare two pages,
 * and to move the mapping of one.
 *
 * Run it under `tools/vm --icount`: there the clock counts instructions, so a
 * nanosecond is an instruction.  For KSM the time is that of madvise() plus that
 * of ksmd, which scans without a pause, until all pages are shared.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/dksm.h>

#define PAGE 4096UL
#define KSM "/sys/kernel/mm/ksm/"
#define DKSM "/sys/kernel/mm/dksm/"

struct process {
	pid_t pid;
	int ask;	/* "merge yourself" */
	int answer;	/* nanoseconds it took */
};

static void die(const char *what)
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

static long file_number(const char *path)
{
	long value = -1;
	FILE *f = fopen(path, "r");

	if (!f || fscanf(f, "%ld", &value) != 1)
		die(path);
	fclose(f);
	return value;
}

static void file_set(const char *path, const char *value)
{
	FILE *f = fopen(path, "w");

	if (!f || fputs(value, f) < 0 || fclose(f))
		die(path);
}

static int domain_open(void)
{
	struct dksm_domain_args args = {
		.size = sizeof(args), .flags = DKSM_DOMAIN_CREATE,
		.name = "cost",
	};
	int fd = open("/dev/dksm", O_RDWR);

	if (fd < 0 || ioctl(fd, DKSM_IOC_DOMAIN, &args))
		die("/dev/dksm");
	return fd;
}

static void merge_dksm(int fd, char *memory, size_t pages)
{
	struct dksm_range_args args = {
		.size = sizeof(args), .pidfd = DKSM_SELF,
		.addr = (uintptr_t)memory, .len = pages * PAGE,
	};

	if (ioctl(fd, DKSM_IOC_MERGE, &args))
		die("DKSM_IOC_MERGE");
	if (args.report.merged + args.report.published != pages) {
		fprintf(stderr, "cost: only %llu of %zu pages merged\n",
			(unsigned long long)(args.report.merged +
					     args.report.published), pages);
		exit(1);
	}
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

/* A child: fill, say so, and for each question merge and answer with the time. */
static void child_run(int dksm, size_t pages, int ask, int answer)
{
	char *memory = fill(pages);
	uint64_t spent = 0;
	char c;

	while (write(answer, &spent, sizeof(spent)) == sizeof(spent) &&
	       read(ask, &c, 1) == 1) {
		uint64_t begin = now();

		if (dksm >= 0)
			merge_dksm(dksm, memory, pages);
		else if (madvise(memory, pages * PAGE, MADV_MERGEABLE))
			die("MADV_MERGEABLE");
		spent = now() - begin;
	}
	_exit(0);
}

static uint64_t process_answer(struct process *p)
{
	uint64_t spent;

	if (read(p->answer, &spent, sizeof(spent)) != sizeof(spent))
		die("child");
	return spent;
}

static void process_start(struct process *p, int dksm, size_t pages)
{
	int ask[2], answer[2];

	if (pipe2(ask, O_CLOEXEC) || pipe2(answer, O_CLOEXEC))
		die("pipe");
	p->pid = fork();
	if (p->pid < 0)
		die("fork");
	if (!p->pid) {
		close(ask[1]);
		close(answer[0]);
		child_run(dksm, pages, ask[0], answer[1]);
	}
	close(ask[0]);
	close(answer[1]);
	p->ask = ask[1];
	p->answer = answer[0];
	process_answer(p);
}

static uint64_t process_merge(struct process *p)
{
	if (write(p->ask, "m", 1) != 1)
		die("child");
	return process_answer(p);
}

static pid_t pid_of(const char *name)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	char path[300], comm[32];

	while (proc && (entry = readdir(proc))) {
		FILE *f;

		snprintf(path, sizeof(path), "/proc/%s/comm", entry->d_name);
		f = fopen(path, "r");
		if (!f)
			continue;
		if (fscanf(f, "%31s", comm) == 1 && !strcmp(comm, name)) {
			fclose(f);
			closedir(proc);
			return atoi(entry->d_name);
		}
		fclose(f);
	}
	fprintf(stderr, "cost: no process named %s\n", name);
	exit(1);
}

static uint64_t ksmd_spent(void)
{
	char path[64];
	unsigned long user, kernel;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid_of("ksmd"));
	f = fopen(path, "r");
	if (!f || fscanf(f, "%*d %*s %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
			 &user, &kernel) != 2)
		die(path);
	fclose(f);
	return (user + kernel) * (1000000000ULL / sysconf(_SC_CLK_TCK));
}

static uint64_t ksmd_wait(long frames, long sharing)
{
	uint64_t before = ksmd_spent();

	file_set(KSM "pages_to_scan", "1000");
	file_set(KSM "sleep_millisecs", "1");
	file_set(KSM "run", "1");
	while (file_number(KSM "pages_shared") < frames ||
	       file_number(KSM "pages_sharing") < sharing)
		usleep(2000);
	file_set(KSM "run", "0");
	return ksmd_spent() - before;
}

static void print(const char *policy, size_t processes, size_t pages,
		  uint64_t first, uint64_t last, uint64_t total, long metadata)
{
	size_t merged = (processes - 1) * pages;

	printf("{\"policy\": \"%s\", \"processes\": %zu, \"pages\": %zu, \"seed\": %llu, "
	       "\"total_ns\": %llu, \"ns_per_page\": %.1f",
	       policy, processes, pages, (unsigned long long)seed, (unsigned long long)total,
	       (double)total / (processes * pages));
	if (first)
		printf(", \"first_ns_per_page\": %.1f, \"last_ns_per_page\": %.1f",
		       (double)first / pages, (double)last / pages);
	if (metadata)
		printf(", \"metadata_bytes\": %ld, \"metadata_bytes_per_merged_mapping\": %.2f",
		       metadata, (double)metadata / merged);
	puts("}");
}

/* In 8 instructions for 8 bytes, as memcmp() of the kernel that is measured. */
static bool equal(const void *a, const void *b)
{
	uint64_t left = PAGE, word;

	asm volatile("1:	mov (%[b]), %[word]\n"
		     "	cmp %[word], (%[a])\n"
		     "	jne 2f\n"
		     "	add $8, %[a]\n"
		     "	add $8, %[b]\n"
		     "	sub $8, %[left]\n"
		     "	cmp $7, %[left]\n"
		     "	ja 1b\n"
		     "2:"
		     : [a] "+r" (a), [b] "+r" (b), [left] "+r" (left), [word] "=&r" (word)
		     : : "cc", "memory");
	return !left;
}

/* mremap() clears and sets one page table entry for each page. */
static void run_floor(size_t pages)
{
	char *a = fill(pages), *b = fill(pages), *room;
	uint64_t begin = now(), compared, moved;

	for (size_t i = 0; i < pages; i++)
		if (!equal(a + i * PAGE, b + i * PAGE))
			exit(1);
	compared = now() - begin;
	room = mmap(NULL, pages * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	begin = now();
	if (mremap(a, pages * PAGE, pages * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, room) != room)
		die("mremap");
	moved = now() - begin;
	printf("{\"policy\": \"floor\", \"processes\": 1, \"pages\": %zu, \"seed\": %llu, "
	       "\"compare_ns_per_page\": %.1f, \"move_ns_per_page\": %.1f, "
	       "\"ns_per_page\": %.1f}\n", pages, (unsigned long long)seed,
	       (double)compared / pages, (double)moved / pages,
	       (double)(compared + moved) / pages);
}

static void run(const char *policy, size_t processes, size_t pages)
{
	int dksm = strcmp(policy, "dksm") ? -1 : domain_open();
	struct process *p = calloc(processes, sizeof(*p));
	uint64_t total = 0, first = 0, last = 0;
	long metadata = 0;

	if (!p)
		die("calloc");
	for (size_t i = 0; i < processes; i++)
		process_start(&p[i], dksm, pages);
	for (size_t i = 0; i < processes; i++) {
		last = process_merge(&p[i]);
		if (!i)
			first = last;
		total += last;
	}
	if (dksm >= 0) {
		metadata = file_number(DKSM "metadata_bytes");
	} else {
		total += ksmd_wait(pages, (processes - 1) * pages);
		first = 0;
	}
	print(policy, processes, pages, first, last, total, metadata);
	for (size_t i = 0; i < processes; i++) {
		close(p[i].ask);
		close(p[i].answer);
	}
	while (wait(NULL) > 0)
		;
	free(p);
}

/* Two pipes for each process. */
static void raise_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		die("getrlimit");
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit))
		die("setrlimit");
}

static void usage(void)
{
	fputs("Usage: cost dksm|ksm|floor PROCESSES PAGES [SEED]\n"
	      "Print what it costs to merge PAGES in each of PROCESSES, as a line of JSON.\n"
	      "Example: tools/vm --icount --mem 3G -- build/bench/cost dksm 64 1000\n", stderr);
	exit(2);
}

int main(int argc, char **argv)
{
	if (argc < 4 || argc > 5 || atoi(argv[2]) < 1 || atoi(argv[3]) < 1)
		usage();
	raise_limit();
	if (argc == 5)
		seed = strtoull(argv[4], NULL, 10);
	if (!strcmp(argv[1], "floor"))
		run_floor(atoi(argv[3]));
	else if ((!strcmp(argv[1], "dksm") || !strcmp(argv[1], "ksm")) && atoi(argv[2]) > 1)
		run(argv[1], atoi(argv[2]), atoi(argv[3]));
	else
		usage();
	return 0;
}
