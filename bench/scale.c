// SPDX-License-Identifier: MIT
/*
 * What it costs that a page has many owners: P processes hold N pages each, equal
 * across the processes and different within one, merged by DKSM, by ksmd or not at
 * all. Then frames are moved, memory is compacted, pages are written to, unmerged
 * and swapped out, and the processes end; the times are printed as JSON.
 *
 * Run it under `tools/vm --icount --nodes 2`, with swap: there a nanosecond is an
 * instruction.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "processes.h"

#define CGROUP "/sys/fs/cgroup/"
#define GROUP CGROUP "scale/"
#define SWAPPED (1ULL << 62)	/* in /proc/PID/pagemap */

enum { MOVE_ALL = 1 << 2 };	/* MPOL_MF_MOVE_ALL */

static const char *policy;
static size_t processes, pages;
static struct process *owners;

/* One frame for all of its owners, or one for each. */
static size_t frames(void)
{
	return strcmp(policy, "none") ? pages : pages * processes;
}

static void owners_start(int dksm)
{
	for (size_t i = 0; i < processes; i++)
		process_start(&owners[i], dksm, pages);
	if (!strcmp(policy, "none"))
		return;
	for (size_t i = 0; i < processes; i++)
		process_does(&owners[i], MERGE);
	if (!strcmp(policy, "ksm"))
		ksmd_run(pages, (processes - 1) * pages);
}

/* All at once; their pipes too. */
static uint64_t owners_end(void)
{
	uint64_t begin = now();

	for (size_t i = 0; i < processes; i++)
		kill(owners[i].pid, SIGKILL);
	while (wait(NULL) > 0)
		;
	begin = now() - begin;
	for (size_t i = 0; i < processes; i++)
		process_close(&owners[i]);
	if (!strcmp(policy, "ksm"))
		file_set(KSM "run", "2");	/* forget them */
	return begin;
}

/* The pages of the first owner to node 1; nanoseconds for each. */
static double move(void)
{
	void *address[pages];
	int node[pages], status[pages];
	uint64_t begin;

	for (size_t i = 0; i < pages; i++) {
		address[i] = owners[0].memory + i * PAGE;
		node[i] = 1;
	}
	begin = now();
	if (syscall(SYS_move_pages, owners[0].pid, pages, address, node, status, MOVE_ALL))
		die("move_pages");
	begin = now() - begin;
	for (size_t i = 0; i < pages; i++) {
		if (status[i] == 1)
			continue;
		fprintf(stderr, "scale: page %zu was not moved: %d\n", i, status[i]);
		exit(1);
	}
	return (double)begin / pages;
}

/* Pages that were migrated since the machine has booted. */
static uint64_t migrated(void)
{
	unsigned long long value = 0;
	char name[64];
	FILE *f = fopen("/proc/vmstat", "r");

	while (f && fscanf(f, "%63s %llu", name, &value) == 2)
		if (!strcmp(name, "pgmigrate_success"))
			break;
	if (!f)
		die("/proc/vmstat");
	fclose(f);
	return value;
}

static uint64_t compact(uint64_t *moved)
{
	uint64_t before = migrated(), begin = now();

	file_set("/proc/sys/vm/compact_memory", "1");
	begin = now() - begin;
	*moved = migrated() - before;
	return begin;
}

static bool swapped(const struct process *p)
{
	uint64_t entry[pages];
	size_t count = 0;
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", p->pid);
	fd = open(path, O_RDONLY);
	if (fd < 0 || pread(fd, entry, sizeof(entry), (uintptr_t)p->memory / PAGE * 8) !=
		      (ssize_t)sizeof(entry))
		die(path);
	close(fd);
	for (size_t i = 0; i < pages; i++)
		count += !!(entry[i] & SWAPPED);
	return count == pages;
}

/* A page used of late would go to the active list and stay there for long. */
static void forget_use(void)
{
	char path[64];

	for (size_t i = 0; i < processes; i++) {
		snprintf(path, sizeof(path), "/proc/%d/clear_refs", owners[i].pid);
		file_set(path, "1");
	}
}

/*
 * Reclaim until all of the owners' pages are swapped out, and so what else they
 * have; nanoseconds for each frame of theirs.
 */
static double reclaim(void)
{
	uint64_t begin, spent = 0;
	char bytes[32];
	int fd;

	snprintf(bytes, sizeof(bytes), "%zu", frames() * PAGE);
	fd = open(GROUP "memory.reclaim", O_WRONLY);
	if (fd < 0)
		die(GROUP "memory.reclaim");
	for (int round = 0; !swapped(&owners[0]) || !swapped(&owners[processes - 1]); round++) {
		if (round == 100) {
			fputs("scale: the pages cannot be swapped out\n", stderr);
			exit(1);
		}
		forget_use();
		begin = now();
		/* EAGAIN: not as much as was wanted. */
		if (write(fd, bytes, strlen(bytes)) < 0 && errno != EAGAIN)
			die("memory.reclaim");
		spent += now() - begin;
	}
	close(fd);
	return (double)spent / frames();
}

static void enter_group(void)
{
	char self[16];

	file_set(CGROUP "cgroup.subtree_control", "+memory");
	if (mkdir(GROUP, 0755) && errno != EEXIST)
		die(GROUP);
	snprintf(self, sizeof(self), "%d", getpid());
	file_set(GROUP "cgroup.procs", self);
}

static void run(void)
{
	int dksm = strcmp(policy, "dksm") ? -1 : domain_open();
	double moved, written, unmerged = 0, torn, out;
	uint64_t compacted, compact_moved;

	owners_start(dksm);
	moved = move();
	compacted = compact(&compact_moved);
	written = (double)process_does(&owners[1], WRITE) / pages;
	if (strcmp(policy, "none"))
		unmerged = (double)process_does(&owners[2], UNMERGE) / pages;
	torn = (double)owners_end() / (processes * pages);
	owners_start(dksm);
	out = reclaim();
	owners_end();
	printf("{\"policy\": \"%s\", \"sharers\": %zu, \"pages\": %zu, \"seed\": %llu, "
	       "\"migrate_ns_per_frame\": %.1f, \"compact_ns\": %llu, \"compact_moved\": %llu, "
	       "\"write_ns_per_page\": %.1f, \"unmerge_ns_per_page\": %.1f, "
	       "\"teardown_ns_per_mapping\": %.1f, \"reclaim_ns_per_frame\": %.1f}\n",
	       policy, processes, pages, (unsigned long long)seed, moved,
	       (unsigned long long)compacted, (unsigned long long)compact_moved, written, unmerged, torn, out);
}

static void usage(void)
{
	fputs("Usage: scale dksm|ksm|none PROCESSES PAGES [SEED]\n"
	      "Print what it costs that PAGES have so many owners, as a line of JSON.\n"
	      "At least 3 processes; needs two nodes, swap and cgroup v2.\n"
	      "Example: tools/vm --icount --nodes 2 --mem 3G -- sh -c 'bench/swap.sh && "
	      "build/bench/scale dksm 256 64'\n", stderr);
	exit(2);
}

int main(int argc, char **argv)
{
	if (argc < 4 || argc > 5 || atoi(argv[2]) < 3 || atoi(argv[3]) < 1)
		usage();
	policy = argv[1];
	if (strcmp(policy, "dksm") && strcmp(policy, "ksm") && strcmp(policy, "none"))
		usage();
	processes = atoi(argv[2]);
	pages = atoi(argv[3]);
	if (argc == 5)
		seed = strtoull(argv[4], NULL, 10);
	owners = calloc(processes, sizeof(*owners));
	if (!owners)
		die("calloc");
	raise_limit();
	enter_group();
	run();
	return 0;
}
