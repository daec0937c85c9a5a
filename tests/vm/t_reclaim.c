// SPDX-License-Identifier: MIT
/*
 * Memory under pressure: swapping merged pages out, which needs every one of
 * their mappings to be found, and in again; and pages that may be dropped
 * (MADV_FREE), which must not take along what others share with them.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests.h"

#define N 64

static void need_swap(void)
{
	int err = swap_start(64 << 20);

	if (err)
		SKIP("no swap on zram: %s", strerror(-err));
}

/* Peers in one memory cgroup, so that they can be pushed out together. */
static const char *start_in_group(struct peer *p, size_t n, size_t pages)
{
	const char *group = cgroup_make("");

	for (size_t i = 0; i < n; i++) {
		p[i] = peer_start(pages);
		cgroup_enter(group, p[i].pid);
	}
	return group;
}

static void fill_and_merge(const struct peer *p, size_t n, int dom)
{
	for (size_t i = 0; i < n; i++) {
		peer_fill(&p[i], 0, p[i].pages, 1, 1);
		peer_merge(&p[i], dom);
	}
}

static size_t count_swapped(const struct peer *p, size_t n)
{
	size_t count = 0;

	for (size_t i = 0; i < n; i++) {
		u64 e[p[i].pages];

		pagemap_read(p[i].pid, p[i].addr, p[i].pages, e);
		for (size_t page = 0; page < p[i].pages; page++)
			count += !!(e[page] & PM_SWAP);
	}
	return count;
}

static void forget_use(const struct peer *p)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/%d/clear_refs", p->pid);
	CHECK_EQ(write_str(path, "1"), 0);
}

/* What the group's memory looks like, for whoever has to find out why. */
static void note_group(const char *group)
{
	static const char *const keys[] = {
		"anon", "active_anon", "inactive_anon", "unevictable",
		"swapcached", "pgscan", "pgsteal", "pgactivate", "pgdeactivate",
	};
	char text[300];
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		n += snprintf(text + n, sizeof(text) - n, " %s %llu", keys[i],
			      (unsigned long long)
			      cgroup_read(group, "memory.stat", keys[i]));
	test_note("%s", text);
}

static void push_out(const char *group, const struct peer *p, size_t n)
{
	u64 end = now_ms() + 10000;
	size_t all = 0;

	for (size_t i = 0; i < n; i++)
		all += p[i].pages;
	/*
	 * Pages that were just used go to the active list, and a group this small
	 * is not told so for two seconds: make them look unused instead.
	 */
	while (count_swapped(p, n) < all && now_ms() < end) {
		for (size_t i = 0; i < n; i++)
			forget_use(&p[i]);
		cgroup_reclaim(group, all * PAGE_SIZE);
	}
	if (count_swapped(p, n) == all)
		return;
	note_group(group);
	FAIL("%zu of %zu merged pages cannot be swapped out",
	     all - count_swapped(p, n), all);
}

static void swap_out_and_in(void)
{
	struct peer p[3];
	const char *group;
	int dom;

	need_swap();
	dom = domain_open("");
	group = start_in_group(p, 3, N);
	fill_and_merge(p, 3, dom);
	check_shared(&p[0], &p[2], 0, N);
	push_out(group, p, 3);
	CHECK_EQ(dksm_process(p[1].pid, "pages_merged"), 0);
	peers_verify(p, 3);
	/* Sharing may be lost now; another call must win it back. */
	for (int i = 0; i < 3; i++)
		peer_merge(&p[i], dom);
	check_shared(&p[0], &p[1], 0, N);
	check_shared(&p[0], &p[2], 0, N);
	for (int i = 0; i < 3; i++)
		peer_poke(&p[i], i, 0, i);
	peers_verify(p, 3);
}

/* A page is written right after it came back, and before the others read it. */
static void write_after_swap_in(void)
{
	struct peer p[3];
	const char *group;

	need_swap();
	group = start_in_group(p, 3, N);
	fill_and_merge(p, 3, domain_open(""));
	push_out(group, p, 3);
	for (int page = 0; page < N; page++)
		peer_poke(&p[page % 3], page, page, page);
	peers_verify(p, 3);
	push_out(group, p, 3);
	peers_verify(p, 3);
}

static void swapped_pages_are_counted(void)
{
	struct peer p[2];
	const char *group;
	int dom;

	need_swap();
	dom = domain_open("");
	group = start_in_group(p, 2, N);
	for (int i = 0; i < 2; i++)
		peer_fill(&p[i], 0, N, 1, 1);
	push_out(group, p, 2);
	EXPECT(peer_merge(&p[0], dom), .skipped[DKSM_SKIP_SWAPPED] = N);
	CHECK_EQ(count_swapped(p, 1), N);
	peers_verify(p, 2);
	peer_merge(&p[0], dom);
	EXPECT(peer_merge(&p[1], dom), .merged = N);
	peers_verify(p, 2);
}

/* Some sharers forked, some moved, some left: all mappings must be found. */
static long op_move(struct region *r, const long *arg UNUSED)
{
	void *to = SYS(mmap(NULL, region_bytes(r), PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));

	r->addr = SYS(mremap(r->addr, region_bytes(r), region_bytes(r),
			     MREMAP_MAYMOVE | MREMAP_FIXED, to));
	return (long)r->addr;
}

static void swap_out_after_changes(void)
{
	struct peer p[4];
	const char *group;
	int dom;

	need_swap();
	dom = domain_open("");
	group = start_in_group(p, 3, N);
	fill_and_merge(p, 3, dom);
	p[3] = peer_fork(&p[1]);
	p[2].addr = (unsigned char *)peer_call(&p[2], op_move);
	CHECK_EQ(peer_mprotect(&p[1], 10, 10, PROT_NONE), 0);
	peer_exit(&p[0]);
	push_out(group, p + 1, 3);
	CHECK_EQ(peer_mprotect(&p[1], 10, 10, PROT_READ | PROT_WRITE), 0);
	peers_verify(p + 1, 3);
	peer_poke(&p[3], 1, 1, 1);
	peers_verify(p + 1, 3);
}

static long op_write_for(struct region *r, const long *arg)
{
	u64 end = now_ms() + arg[0], state = getpid();

	while (now_ms() < end) {
		size_t page = rnd(&state) % r->pages;

		if (rnd(&state) % 4)
			region_poke(r, page, page, rnd(&state));
		else
			region_verify_range(r, page, 1);
	}
	region_verify(r);
	return 0;
}

static void swap_out_while_writing(void)
{
	u64 end = now_ms() + 1500;
	const char *group;
	struct peer p[3];
	int dom;

	need_swap();
	dom = domain_open("");
	group = start_in_group(p, 3, N);
	fill_and_merge(p, 3, dom);
	for (int i = 0; i < 3; i++)
		peer_post(&p[i], op_write_for, 1500);
	while (now_ms() < end) {
		cgroup_reclaim(group, 2 * N * PAGE_SIZE);
		for (int i = 0; i < 3; i++)
			merge(dom, p[i].pidfd, p[i].addr, N * PAGE_SIZE);
	}
	for (int i = 0; i < 3; i++)
		peer_result(&p[i]);
	peers_verify(p, 3);
}

/* MADV_PAGEOUT: of one's own frame; of a shared one it may do nothing. */
static void pageout_advice(void)
{
	struct peer p[2];
	int dom;

	need_swap();
	dom = domain_open("");
	p[0] = peer_start(N);
	p[1] = peer_start(N);
	for (int i = 0; i < 2; i++) {
		peer_fill(&p[i], 0, N, 1 + i * 32, 1);
		peer_merge(&p[i], dom);
	}
	/* Half of the pages have one mapping, half have two. */
	for (int i = 0; i < 2; i++)
		CHECK_EQ(peer_madvise(&p[i], 0, N, MADV_PAGEOUT), 0);
	peers_verify(p, 2);
	CHECK_EQ(peer_madvise(&p[0], 0, N, MADV_COLD), 0);
	for (int i = 0; i < 2; i++)
		peer_poke(&p[i], 5, 5, 5);
	peers_verify(p, 2);
}

/* ---- pages that may be dropped ----------------------------------------- */

static bool zero_or(const unsigned char *page, u64 seed)
{
	return page_diff(page, SEED_ZERO) < 0 || page_diff(page, seed) < 0;
}

/* After MADV_FREE a page is what it was or zero, and nothing else. */
static long op_verify_dropped(struct region *r, const long *arg UNUSED)
{
	for (size_t i = 0; i < r->pages; i++)
		if (!zero_or(region_page(r, i), 1 + i))
			FAIL("page %zu is neither the old one nor zero", i);
	return 0;
}

static void reclaim_hard(const char *group, const struct peer *p, size_t n)
{
	for (int round = 0; round < 4; round++) {
		for (size_t i = 0; i < n; i++)
			forget_use(&p[i]);
		cgroup_reclaim(group, 4 * N * PAGE_SIZE);
	}
}

/*
 * @when: what the first process does between filling its pages and the second
 * one's merge; then both are put under pressure.
 */
enum free_when { FREE_THEN_MERGE, PUBLISH_THEN_FREE, SHARE_THEN_FREE };

static void droppable(enum free_when when, bool swap)
{
	struct peer p[2];
	const char *group;
	int dom;

	if (swap)
		need_swap();
	dom = domain_open("");
	group = start_in_group(p, 2, N);
	for (int i = 0; i < 2; i++)
		peer_fill(&p[i], 0, N, 1, 1);
	if (when == FREE_THEN_MERGE)
		CHECK_EQ(peer_madvise(&p[0], 0, N, MADV_FREE), 0);
	peer_merge(&p[0], dom);
	if (when == PUBLISH_THEN_FREE)
		CHECK_EQ(peer_madvise(&p[0], 0, N, MADV_FREE), 0);
	peer_merge(&p[1], dom);
	if (when == SHARE_THEN_FREE)
		CHECK_EQ(peer_madvise(&p[0], 0, N, MADV_FREE), 0);
	reclaim_hard(group, p, 2);
	peer_verify(&p[1]);
	peer_call(&p[0], op_verify_dropped);
	reclaim_hard(group, p, 2);
	peer_verify(&p[1]);
	/* What is written afterwards stays. */
	peer_fill(&p[0], 0, N, 1, 1);
	reclaim_hard(group, p, 2);
	peers_verify(p, 2);
}

static void free_then_merge(void)
{
	droppable(FREE_THEN_MERGE, false);
}

static void publish_then_free(void)
{
	droppable(PUBLISH_THEN_FREE, false);
}

static void share_then_free(void)
{
	droppable(SHARE_THEN_FREE, false);
}

static void publish_then_free_with_swap(void)
{
	droppable(PUBLISH_THEN_FREE, true);
}

/* Without swap merged pages cannot go anywhere, whatever the pressure. */
static void reclaim_without_swap(void)
{
	struct peer p[2];
	const char *group = start_in_group(p, 2, N);

	fill_and_merge(p, 2, domain_open(""));
	reclaim_hard(group, p, 2);
	CHECK_EQ(count_swapped(p, 2), 0);
	check_shared(&p[0], &p[1], 0, N);
	peers_verify(p, 2);
}

const struct test tests_reclaim[] = {
	{ "swap_out_and_in", swap_out_and_in, 0 },
	{ "write_after_swap_in", write_after_swap_in, 0 },
	{ "swapped_pages_are_counted", swapped_pages_are_counted, 0 },
	{ "swap_out_after_changes", swap_out_after_changes, 0 },
	{ "swap_out_while_writing", swap_out_while_writing, 0 },
	{ "pageout_advice", pageout_advice, 0 },
	{ "free_then_merge", free_then_merge, 0 },
	{ "publish_then_free", publish_then_free, 0 },
	{ "share_then_free", share_then_free, 0 },
	{ "publish_then_free_with_swap", publish_then_free_with_swap, 0 },
	{ "reclaim_without_swap", reclaim_without_swap, 0 },
	{ NULL, NULL, 0 },
};
