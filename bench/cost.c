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
#include <sched.h>
#include <stdbool.h>

#include "processes.h"

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

	ksmd_run(frames, sharing);
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
		last = process_does(&p[i], MERGE);
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
	for (size_t i = 0; i < processes; i++)
		process_close(&p[i]);
	while (wait(NULL) > 0)
		;
	free(p);
}

static void pin(pid_t pid, int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(pid, sizeof(set), &set))
		die("sched_setaffinity");
}

/* Nanoseconds until all but the first, which has merged, have merged on so many CPUs. */
static uint64_t merge_together(size_t processes, size_t pages, int cpus)
{
	struct process *p = calloc(processes, sizeof(*p));
	int dksm = domain_open();
	const char task = MERGE;
	uint64_t begin;

	if (!p)
		die("calloc");
	for (size_t i = 0; i < processes; i++) {
		process_start(&p[i], dksm, pages);
		pin(p[i].pid, i % cpus);
	}
	process_does(&p[0], MERGE);
	begin = now();
	for (size_t i = 1; i < processes; i++)
		if (write(p[i].ask, &task, 1) != 1)
			die("child");
	for (size_t i = 1; i < processes; i++)
		process_answer(&p[i]);
	begin = now() - begin;
	close(dksm);
	for (size_t i = 0; i < processes; i++)
		process_close(&p[i]);
	while (wait(NULL) > 0)
		;
	free(p);
	return begin;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* How much faster two CPUs are than one: the median of some rounds. */
static void run_parallel(size_t processes, size_t pages)
{
	enum { ROUNDS = 9 };
	double ratio[ROUNDS];

	for (int i = 0; i < ROUNDS; i++) {
		double one = merge_together(processes, pages, 1);

		ratio[i] = one / merge_together(processes, pages, 2);
	}
	qsort(ratio, ROUNDS, sizeof(*ratio), compare);
	printf("{\"policy\": \"dksm\", \"processes\": %zu, \"pages\": %zu, \"seed\": %llu, "
	       "\"speedup\": %.2f, \"speedup_low\": %.2f, \"speedup_high\": %.2f}\n",
	       processes, pages, (unsigned long long)seed, ratio[ROUNDS / 2],
	       ratio[0], ratio[ROUNDS - 1]);
}

static void usage(void)
{
	fputs("Usage: cost dksm|ksm|parallel|floor PROCESSES PAGES [SEED]\n"
	      "Print what it costs to merge PAGES in each of PROCESSES, as a line of JSON.\n"
	      "parallel: how much faster DKSM is on two CPUs (tools/vm without --icount).\n"
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
	else if (!strcmp(argv[1], "parallel") && atoi(argv[2]) > 2)
		run_parallel(atoi(argv[2]), atoi(argv[3]));
	else if ((!strcmp(argv[1], "dksm") || !strcmp(argv[1], "ksm")) && atoi(argv[2]) > 1)
		run(argv[1], atoi(argv[2]), atoi(argv[3]));
	else
		usage();
	return 0;
}
