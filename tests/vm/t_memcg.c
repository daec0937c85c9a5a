// SPDX-License-Identifier: MIT
/*
 * Accounting: memory cgroups are charged for what they use, resident sizes count
 * what is mapped, a group can go while its frames live on, and a sharer that is
 * killed for lack of memory takes nothing along.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests.h"

/* Large against the batches in which the kernel keeps such numbers. */
#define N 1024
#define SLACK (160 * PAGE_SIZE)

static u64 group_current(const char *group)
{
	return cgroup_read(group, "memory.current", NULL);
}

static bool near(u64 a, u64 b)
{
	return (a > b ? a - b : b - a) <= SLACK;
}

static void check_near(const char *what, u64 value, u64 want)
{
	if (!near(value, want))
		FAIL("%s is %llu, wanted about %llu", what,
		     (unsigned long long)value, (unsigned long long)want);
}

static u64 resident_pages(pid_t pid)
{
	char path[40];
	unsigned long size, resident;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/statm", pid);
	f = fopen(path, "re");
	if (!f || fscanf(f, "%lu %lu", &size, &resident) != 2)
		FAIL("%s: %s", path, strerror(errno));
	fclose(f);
	return resident;
}

static struct peer start_in(const char *group, size_t pages)
{
	struct peer p = peer_start(pages);

	cgroup_enter(group, p.pid);
	return p;
}

static void charges_follow_the_frames(void)
{
	const char *a = cgroup_make("-a"), *b = cgroup_make("-b");
	struct peer p[2] = { start_in(a, N), start_in(b, N) };
	u64 full[2], rss[2], bytes = N * PAGE_SIZE;
	int dom = domain_open("");

	for (int i = 0; i < 2; i++) {
		peer_fill(&p[i], 0, N, 1, 1);
		rss[i] = resident_pages(p[i].pid);
	}
	full[0] = group_current(a);
	full[1] = group_current(b);
	CHECK_OP(full[1], >=, bytes);
	EXPECT(peer_merge(&p[0], dom), .published = N);
	check_near("the publisher's charge", group_current(a), full[0]);
	EXPECT(peer_merge(&p[1], dom), .merged = N);
	check_near("the sharer's charge", group_current(b), full[1] - bytes);
	check_near("the publisher's charge", group_current(a), full[0]);
	/* What a process maps is resident in it, shared or not. */
	for (int i = 0; i < 2; i++)
		check_near("the resident size",
			   resident_pages(p[i].pid) * PAGE_SIZE,
			   rss[i] * PAGE_SIZE);
	EXPECT(peer_unmerge(&p[1], dom), .unmerged = N);
	check_near("the charge after unmerge", group_current(b), full[1]);
	peers_verify(p, 2);
	peer_exit(&p[1]);
	CHECK_OP(group_current(b), <, bytes / 2);
	peer_verify(&p[0]);
}

static void zero_pages_are_not_resident(void)
{
	struct peer p = peer_start(N);
	int dom = domain_open("");
	u64 full, bytes = N * PAGE_SIZE;

	peer_fill(&p, 0, N, SEED_ZERO, 0);
	full = resident_pages(p.pid) * PAGE_SIZE;
	EXPECT(peer_merge(&p, dom), .zero = N);
	check_near("the resident size", resident_pages(p.pid) * PAGE_SIZE,
		   full - bytes);
	peer_verify(&p);
	for (int i = 0; i < N / 2; i++)
		peer_fill(&p, i, 1, 1 + i, 0);
	check_near("the resident size", resident_pages(p.pid) * PAGE_SIZE,
		   full - bytes / 2);
	unmerge(dom, p.pidfd, p.addr, bytes);
	check_near("the resident size", resident_pages(p.pid) * PAGE_SIZE, full);
	peer_verify(&p);
}

/* The group of the first owner is removed while others use its frames. */
static void group_of_the_owner_goes(void)
{
	const char *a = cgroup_make("-a"), *b = cgroup_make("-b");
	struct peer p[3] = { start_in(a, 64), start_in(b, 64), start_in(b, 64) };
	int dom = domain_open("");

	for (int i = 0; i < 2; i++) {
		peer_fill(&p[i], 0, 64, 1, 1);
		peer_merge(&p[i], dom);
	}
	peer_exit(&p[0]);
	for (int i = 0; i < 100 && rmdir(a); i++) {
		if (errno != EBUSY || i == 99)
			FAIL("rmdir %s: %s", a, strerror(errno));
		sleep_ms(20);
	}
	peer_verify(&p[1]);
	peer_fill(&p[2], 0, 64, 1, 1);
	EXPECT(peer_merge(&p[2], dom), .merged = 64);
	if (peer_migrate(&p[1], 0))
		check_shared(&p[1], &p[2], 0, 64);
	peer_poke(&p[1], 1, 1, 1);
	peers_verify(&p[1], 2);
}

static _Noreturn void eat_memory(void)
{
	for (;;) {
		char *p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			_exit(EXIT_FAIL);
		memset(p, 1, 1 << 20);
	}
}

static long op_eat(struct region *r UNUSED, const long *arg UNUSED)
{
	eat_memory();
}

static void limit(const char *group, const char *file, const char *val)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", group, file);
	write_str(path, val);
}

static void oom_of(int victim)
{
	const char *small = cgroup_make("");
	struct peer p[3] = { peer_start(64), peer_start(64), peer_start(64) };
	int dom = domain_open("");

	limit(small, "memory.swap.max", "0");
	limit(small, "memory.max", "8M");
	cgroup_enter(small, p[victim].pid);
	for (int i = 0; i < 3; i++) {
		peer_fill(&p[i], 0, 64, 1, 1);
		peer_merge(&p[i], dom);
	}
	check_shared(&p[0], &p[2], 0, 64);
	peer_post(&p[victim], op_eat);
	for (int i = 0; i < 3000 && !cgroup_read(small, "memory.events",
						 "oom_kill"); i++)
		sleep_ms(10);
	CHECK_OP(cgroup_read(small, "memory.events", "oom_kill"), >, 0);
	peer_kill(&p[victim]);
	for (int i = 0; i < 3; i++) {
		if (i == victim)
			continue;
		peer_verify(&p[i]);
		peer_poke(&p[i], i, i, i);
	}
	for (int i = 0; i < 3; i++)
		if (i != victim)
			peer_verify(&p[i]);
}

static void oom_kill_of_a_sharer(void)
{
	oom_of(1);
}

static void oom_kill_of_the_first_owner(void)
{
	oom_of(0);
}

/* Copies for which there is no room are not made, and nobody is killed for them. */
static void unmerge_stops_at_the_limit(void)
{
	const char *group = cgroup_make("");
	struct peer p[3] = { start_in(group, N), start_in(group, N),
			     start_in(group, N) };
	struct dksm_report rep;
	int dom = domain_open("");
	char max[24];

	for (int i = 0; i < 3; i++) {
		peer_fill(&p[i], 0, N, 1, 1);
		peer_merge(&p[i], dom);
	}
	limit(group, "memory.swap.max", "0");
	snprintf(max, sizeof(max), "%llu", (unsigned long long)
		 group_current(group) + N * PAGE_SIZE / 2);
	limit(group, "memory.max", max);
	CHECK_EQ(dksm_range(dom, DKSM_IOC_UNMERGE, p[2].pidfd, p[2].addr,
			    N * PAGE_SIZE, &rep), -ENOMEM);
	CHECK_OP(rep.unmerged, >=, N / 4);
	CHECK_OP(rep.unmerged, <, N);
	CHECK_EQ(count_merged(p[2].pid, p[2].addr, N), N - rep.unmerged);
	CHECK_EQ(cgroup_read(group, "memory.events", "oom_kill"), 0);
	peers_verify(p, 3);
	limit(group, "memory.max", "max");
	unmerge(dom, p[2].pidfd, p[2].addr, N * PAGE_SIZE);
	check_private(p[2].pid, p[2].addr, N);
	peers_verify(p, 3);
}

const struct test tests_memcg[] = {
	{ "charges_follow_the_frames", charges_follow_the_frames, 0 },
	{ "zero_pages_are_not_resident", zero_pages_are_not_resident, 0 },
	{ "group_of_the_owner_goes", group_of_the_owner_goes, 0 },
	{ "unmerge_stops_at_the_limit", unmerge_stops_at_the_limit, 0 },
	{ "oom_kill_of_a_sharer", oom_kill_of_a_sharer, 0 },
	{ "oom_kill_of_the_first_owner", oom_kill_of_the_first_owner, 0 },
	{ NULL, NULL, 0 },
};
