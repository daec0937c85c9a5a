// SPDX-License-Identifier: MIT
/*
 * Sharing itself: between two processes, between many, inside one; with zero
 * pages; up to the cap; never across domains; for as long as somebody maps it.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests.h"

#define N 32

static void two_processes(void)
{
	int dom = domain_open("");
	struct peer p[2] = { peer_start(N), peer_start(N) };

	peer_fill(&p[0], 0, N, 1, 1);
	peer_fill(&p[1], 0, N, 1, 1);
	EXPECT(peer_merge(&p[0], dom), .published = N);
	EXPECT(peer_merge(&p[1], dom), .merged = N);
	check_shared(&p[0], &p[1], 0, N);
	CHECK_EQ(frame_maps(peer_frame(&p[0], 0)), 2);
	for (int i = 0; i < 2; i++)
		CHECK_EQ(count_merged(p[i].pid, p[i].addr, N), N);
	CHECK(frame_flag(peer_frame(&p[0], 0), KPF_ANON));
	peers_verify(p, 2);

	peer_poke(&p[1], 3, 17, 0xee);
	peers_verify(p, 2);
	CHECK_OP(peer_frame(&p[0], 3), !=, peer_frame(&p[1], 3));
	check_shared(&p[0], &p[1], 0, 3);
	check_shared(&p[0], &p[1], 4, N - 4);
	check_private(p[1].pid, peer_page(&p[1], 3), 1);
	CHECK_EQ(count_merged(p[1].pid, p[1].addr, N), N - 1);
}

/* The bug of the first prototype: the owner's write showed up everywhere. */
static void first_owner_writes(void)
{
	int dom = domain_open("");
	struct peer p[3] = { peer_start(N), peer_start(N), peer_start(N) };

	for (int i = 0; i < 3; i++) {
		peer_fill(&p[i], 0, N, 1, 1);
		peer_merge(&p[i], dom);
	}
	for (size_t page = 0; page < N; page++)
		peer_poke(&p[0], page, page * 16, ~page);
	peers_verify(p, 3);
	check_private(p[0].pid, p[0].addr, N);
	check_shared(&p[1], &p[2], 0, N);
}

static void second_owner_writes_then_first(void)
{
	int dom = domain_open("");
	struct peer p[2] = { peer_start(N), peer_start(N) };

	for (int i = 0; i < 2; i++) {
		peer_fill(&p[i], 0, N, 1, 1);
		peer_merge(&p[i], dom);
	}
	for (size_t page = 0; page < N; page++)
		peer_poke(&p[1], page, 511, page);
	peers_verify(p, 2);
	/* Now nobody else maps the frames: still no write in place. */
	for (size_t page = 0; page < N; page++)
		peer_poke(&p[0], page, 0, page);
	peers_verify(p, 2);
	check_private(p[0].pid, p[0].addr, N);
	check_private(p[1].pid, p[1].addr, N);
}

static void sixty_four_processes(void)
{
	static u64 pfn[64 * N];
	struct peer p[64];
	int dom = domain_open("");

	for (int i = 0; i < 64; i++) {
		p[i] = peer_start(N);
		peer_fill(&p[i], 0, N, 100, 1);
	}
	for (int i = 0; i < 64; i++) {
		if (i)
			EXPECT(peer_merge(&p[i], dom), .merged = N);
		else
			EXPECT(peer_merge(&p[i], dom), .published = N);
	}
	for (int i = 0; i < 64; i++)
		frames_read(p[i].pid, p[i].addr, N, &pfn[i * N]);
	for (int i = 0; i < N; i++)
		CHECK_EQ(frame_maps(pfn[i]), 64);
	CHECK_EQ(distinct(pfn, 64 * N), N);
	peers_verify(p, 64);

	for (int i = 0; i < 64; i++)
		peer_poke(&p[i], i % N, i, i);
	peers_verify(p, 64);
	for (int i = 0; i < 32; i++)
		peer_exit(&p[i]);
	peers_verify(p + 32, 32);
}

static void within_one_process(void)
{
	struct region r = region_map(64);
	int dom = domain_open("");
	u64 pfn[64];

	for (int i = 0; i < 64; i++)
		region_fill(&r, i, 1, 1 + i % 4, 0);
	EXPECT(merge(dom, DKSM_SELF, r.addr, region_bytes(&r)),
	       .published = 4, .merged = 60);
	frames_read(0, r.addr, 64, pfn);
	for (int i = 0; i < 4; i++)
		CHECK_EQ(frame_maps(pfn[i]), 16);
	for (int i = 4; i < 64; i++)
		CHECK_EQ(pfn[i], pfn[i % 4]);
	CHECK_EQ(distinct(pfn, 64), 4);
	region_verify(&r);
	for (int i = 0; i < 64; i += 3)
		region_poke(&r, i, i, i);
	region_verify(&r);
	EXPECT(merge(dom, DKSM_SELF, r.addr, region_bytes(&r)),
	       .published = 22, .skipped[DKSM_SKIP_ALREADY] = 42);
	region_verify(&r);
}

static void all_write_in_random_order(void)
{
	enum { PROCS = 6, PAGES = 12, ALL = PROCS * PAGES };
	u64 state = 0x1234567;
	int dom = domain_open(""), order[ALL] = { 0 };
	struct peer p[PROCS];

	for (int i = 0; i < PROCS; i++) {
		p[i] = peer_start(PAGES);
		peer_fill(&p[i], 0, PAGES, 1, 1);
		peer_merge(&p[i], dom);
	}
	for (int i = 0; i < ALL; i++) {
		int j = rnd(&state) % (i + 1);

		order[i] = order[j];
		order[j] = i;
	}
	for (int i = 0; i < ALL; i++) {
		peer_poke(&p[order[i] % PROCS], order[i] / PROCS,
			  rnd(&state) % 512, i);
		if (i % 8 == 0)
			peers_verify(p, PROCS);
	}
	peers_verify(p, PROCS);
	for (int i = 0; i < PROCS; i++)
		check_private(p[i].pid, p[i].addr, PAGES);
}

/* A page that gets its old contents back finds its old frame back. */
static void write_restore_merge(void)
{
	int dom = domain_open("");
	struct peer p[2] = { peer_start(N), peer_start(N) };

	for (int i = 0; i < 2; i++) {
		peer_fill(&p[i], 0, N, 1, 1);
		peer_merge(&p[i], dom);
	}
	for (int round = 0; round < 3; round++) {
		peer_poke(&p[1], 5, 9, round);
		peer_verify(&p[0]);
		peer_fill(&p[1], 5, 1, 6, 0);
		EXPECT(peer_merge(&p[1], dom), .merged = 1,
		       .skipped[DKSM_SKIP_ALREADY] = N - 1);
		check_shared(&p[0], &p[1], 0, N);
		peers_verify(p, 2);
	}
}

static void merging_again_changes_nothing(void)
{
	int dom = domain_open("");
	struct peer p[2] = { peer_start(N), peer_start(N) };

	for (int round = 0; round < 3; round++)
		for (int i = 0; i < 2; i++) {
			if (!round)
				peer_fill(&p[i], 0, N, 1, 1);
			if (!round)
				peer_merge(&p[i], dom);
			else
				EXPECT(peer_merge(&p[i], dom),
				       .skipped[DKSM_SKIP_ALREADY] = N);
		}
	check_shared(&p[0], &p[1], 0, N);
	peers_verify(p, 2);
}

static void sharing_outlives_the_owner(void)
{
	int dom = domain_open("");
	struct peer p[3] = { peer_start(N), peer_start(N), peer_start(N) };

	for (int i = 0; i < 3; i++)
		peer_fill(&p[i], 0, N, 1, 1);
	peer_merge(&p[0], dom);
	peer_merge(&p[1], dom);
	peer_exit(&p[0]);
	peer_verify(&p[1]);
	EXPECT(peer_merge(&p[2], dom), .merged = N);
	check_shared(&p[1], &p[2], 0, N);
	peer_migrate(&p[1], 0);
	check_shared(&p[1], &p[2], 0, N);
	peer_poke(&p[2], 0, 0, 1);
	peers_verify(&p[1], 2);
}

/* Frames that nobody maps any more must not be found again. */
static void frames_die_with_their_last_user(void)
{
	int dom = domain_open("");
	struct peer p[2] = { peer_start(N), peer_start(N) };

	peer_fill(&p[0], 0, N, 1, 1);
	EXPECT(peer_merge(&p[0], dom), .published = N);
	CHECK_EQ(dksm_domain("", "pages_shared"), N);
	peer_exit(&p[0]);
	wait_frames("", 0);
	peer_fill(&p[1], 0, N, 1, 1);
	EXPECT(peer_merge(&p[1], dom), .published = N);
	peer_verify(&p[1]);
}

static void unpopulated_stays_unpopulated(void)
{
	struct region r = region_map(N);
	int dom = domain_open("");
	u64 e[N];

	region_fill(&r, 0, N / 2, 1, 1);
	EXPECT(merge(dom, DKSM_SELF, r.addr, region_bytes(&r)),
	       .published = N / 2);
	pagemap_read(0, r.addr, N, e);
	for (int i = N / 2; i < N; i++)
		CHECK_EQ(e[i] & (PM_PRESENT | PM_SWAP), 0);
	region_model(&r, N / 2, N / 2, SEED_ZERO, 0);
	region_verify(&r);
}

static void by_pidfd(void)
{
	int dom = domain_open("");
	struct peer p[2] = { peer_start(N), peer_start(N) };
	char name[DKSM_NAME_SIZE];

	for (int i = 0; i < 2; i++) {
		peer_fill(&p[i], 0, N, 1, 1);
		dksm_process_domain(p[i].pid, name);
		CHECK(!strcmp(name, ""));
	}
	EXPECT(merge(dom, p[0].pidfd, p[0].addr, N * PAGE_SIZE), .published = N);
	EXPECT(merge(dom, p[1].pidfd, p[1].addr, N * PAGE_SIZE), .merged = N);
	for (int i = 0; i < 2; i++) {
		dksm_process_domain(p[i].pid, name);
		CHECK(!strcmp(name, domain_name("")));
	}
	/* The caller itself did not join. */
	dksm_process_domain(0, name);
	CHECK(!strcmp(name, ""));
	check_shared(&p[0], &p[1], 0, N);
	peer_poke(&p[0], 1, 1, 1);
	peers_verify(p, 2);
	EXPECT(unmerge(dom, p[1].pidfd, p[1].addr, N * PAGE_SIZE), .unmerged = N);
	check_private(p[1].pid, p[1].addr, N);
	peers_verify(p, 2);
}

/* A pidfd of the caller means the caller. */
static void by_own_pidfd(void)
{
	struct region r = region_map(N);
	struct peer p = peer_start(N);
	int dom = domain_open("");
	int self = SYS((int)syscall(SYS_pidfd_open, getpid(), 0));

	region_fill(&r, 0, N, 1, 1);
	peer_fill(&p, 0, N, 1, 1);
	EXPECT(merge(dom, self, r.addr, region_bytes(&r)), .published = N);
	EXPECT(peer_merge(&p, dom), .merged = N);
	CHECK_EQ(frame_of(0, r.addr), peer_frame(&p, 0));
	region_verify(&r);
	peer_verify(&p);
}

/* Stack, heap and data of a running program: it must not notice. */
static long op_merge_all(struct region *r, const long *arg)
{
	u64 state = 99;

	for (int round = 0; round < 3; round++) {
		struct dksm_report rep = merge(arg[0], DKSM_SELF, NULL, 0);
		char text[64], *heap = strdup("kept on the heap");

		CHECK_OP(rep.scanned, >=, r->pages);
		if (!round)
			CHECK_OP(rep.merged + rep.published, >=, r->pages);
		snprintf(text, sizeof(text), "%d %llu", round,
			 (unsigned long long)rnd(&state));
		CHECK(text[0] == '0' + round);
		CHECK(heap && !strcmp(heap, "kept on the heap"));
		free(heap);
		region_verify(r);
	}
	return 0;
}

static void whole_process(void)
{
	int dom = domain_open("");
	struct peer p[2] = { peer_start(N), peer_start(N) };

	for (int i = 0; i < 2; i++)
		peer_fill(&p[i], 0, N, 1, 1);
	for (int i = 0; i < 2; i++)
		peer_call(&p[i], op_merge_all, dom);
	check_shared(&p[0], &p[1], 0, N);
	for (int i = 0; i < 2; i++) {
		CHECK_OP(merge(dom, p[i].pidfd, NULL, 0).scanned, >, N);
		peer_verify(&p[i]);
	}
	peer_poke(&p[0], 0, 0, 5);
	peers_verify(p, 2);
	for (int i = 0; i < 2; i++) {
		CHECK_OP(unmerge(dom, p[i].pidfd, NULL, 0).unmerged, >=, N - 1);
		CHECK_EQ(dksm_process(p[i].pid, "pages_merged"), 0);
		peer_verify(&p[i]);
		check_private(p[i].pid, p[i].addr, N);
	}
}

static void domains_never_share(void)
{
	int dom[2] = { domain_open(".a"), domain_open(".b") };
	struct peer p[4];
	u64 pfn[4 * N];

	for (int i = 0; i < 4; i++) {
		p[i] = peer_start(N);
		peer_fill(&p[i], 0, N, 1, 1);
	}
	for (int i = 0; i < 4; i++) {
		if (i < 2)
			EXPECT(peer_merge(&p[i], dom[i % 2]), .published = N);
		else
			EXPECT(peer_merge(&p[i], dom[i % 2]), .merged = N);
		frames_read(p[i].pid, p[i].addr, N, &pfn[i * N]);
	}
	check_shared(&p[0], &p[2], 0, N);
	check_shared(&p[1], &p[3], 0, N);
	CHECK_EQ(distinct(pfn, 4 * N), 2 * N);
	CHECK_EQ(dksm_domain(".a", "pages_shared"), N);
	CHECK_EQ(dksm_domain(".b", "pages_shared"), N);
	peer_poke(&p[0], 0, 0, 3);
	peer_poke(&p[3], 0, 1, 4);
	peers_verify(p, 4);
}

static void zero_pages(void)
{
	int dom = domain_open("");
	struct peer p = peer_start(64);

	CHECK_EQ(dksm_global("use_zero_pages"), 1);
	peer_fill(&p, 0, 40, SEED_ZERO, 0);
	peer_fill(&p, 40, 24, 1, 1);
	EXPECT(peer_merge(&p, dom), .zero = 40, .published = 24);
	CHECK_EQ(count_flag(p.pid, p.addr, 64, KPF_ZERO_PAGE), 40);
	CHECK_EQ(count_merged(p.pid, p.addr, 64), 24);
	CHECK_EQ(peer_frame(&p, 0), peer_frame(&p, 39));
	CHECK_EQ(dksm_process(p.pid, "pages_zero"), 40);
	CHECK_EQ(dksm_domain("", "pages_zero"), 40);
	peer_verify(&p);

	peer_poke(&p, 7, 7, 7);
	peer_verify(&p);
	CHECK_EQ(dksm_process(p.pid, "pages_zero"), 39);
	CHECK_EQ(dksm_domain("", "pages_zero"), 39);
	check_private(p.pid, peer_page(&p, 7), 1);
	CHECK_EQ(peer_madvise(&p, 0, 4, MADV_DONTNEED), 0);
	CHECK_EQ(dksm_process(p.pid, "pages_zero"), 35);
	peer_verify(&p);
}

static void zero_pages_off(void)
{
	int dom = domain_open("");
	struct peer p = peer_start(64);

	CHECK_EQ(write_u64(DKSM_SYSFS "use_zero_pages", 0), 0);
	CHECK_EQ(dksm_global("use_zero_pages"), 0);
	peer_fill(&p, 0, 40, SEED_ZERO, 0);
	peer_fill(&p, 40, 24, 1, 1);
	EXPECT(peer_merge(&p, dom), .merged = 39, .published = 25);
	CHECK_EQ(count_flag(p.pid, p.addr, 64, KPF_ZERO_PAGE), 0);
	CHECK_EQ(count_merged(p.pid, p.addr, 64), 64);
	CHECK_EQ(dksm_domain("", "pages_zero"), 0);
	peer_verify(&p);
	peer_poke(&p, 0, 0, 1);
	peer_verify(&p);
	CHECK_EQ(write_u64(DKSM_SYSFS "use_zero_pages", 1), 0);
}

/* Pages that are the kernel's own zero page cost nothing and stay correct. */
static void read_faulted_zero_pages(void)
{
	struct region r = region_map(N);
	int dom = domain_open("");

	region_model(&r, 0, N, SEED_ZERO, 0);
	region_verify(&r);
	CHECK_EQ(merge(dom, DKSM_SELF, r.addr, region_bytes(&r)).published, 0);
	region_verify(&r);
	CHECK_EQ(count_flag(0, r.addr, N, KPF_ZERO_PAGE), N);
	region_poke(&r, 3, 3, 3);
	region_verify(&r);
}

static void cap_on_sharing(void)
{
	struct peer p[10];
	u64 pfn[10 * 4];
	int dom = domain_open("");

	CHECK_EQ(write_u64(DKSM_SYSFS "max_page_sharing", 4), 0);
	for (int i = 0; i < 10; i++) {
		p[i] = peer_start(4);
		peer_fill(&p[i], 0, 4, 1, 1);
		peer_merge(&p[i], dom);
	}
	for (int i = 0; i < 10; i++)
		frames_read(p[i].pid, p[i].addr, 4, &pfn[i * 4]);
	for (int i = 0; i < 40; i++)
		CHECK_OP(frame_maps(pfn[i]), <=, 4);
	for (int i = 0; i < 10; i++)
		CHECK_EQ(count_merged(p[i].pid, p[i].addr, 4), 4);
	CHECK_EQ(distinct(pfn, 40), 4 * 3);
	CHECK_EQ(dksm_domain("", "pages_shared"), 12);
	CHECK_EQ(dksm_domain("", "pages_sharing"), 28);
	peers_verify(p, 10);
	for (int i = 0; i < 10; i++)
		peer_poke(&p[i], i % 4, i, i);
	peers_verify(p, 10);
}

static void cap_inside_one_process(void)
{
	struct region r = region_map(10);
	int dom = domain_open("");
	u64 pfn[10];

	CHECK_EQ(write_u64(DKSM_SYSFS "max_page_sharing", 4), 0);
	region_fill(&r, 0, 10, 7, 0);
	EXPECT(merge(dom, DKSM_SELF, r.addr, region_bytes(&r)),
	       .published = 3, .merged = 7);
	frames_read(0, r.addr, 10, pfn);
	for (int i = 0; i < 10; i++)
		CHECK_OP(frame_maps(pfn[i]), <=, 4);
	CHECK_EQ(distinct(pfn, 10), 3);
	region_verify(&r);
}

/* Images are padded with equal pages: a run of these needs one map, not many. */
static void padding_costs_little(void)
{
	enum { ENDS = 8, PAGES = 600 };
	int dom = domain_open("");
	struct peer p[3];

	for (size_t i = 0; i < 3; i++) {
		u64 before = dksm_domain("", "metadata_bytes");

		p[i] = peer_start(PAGES);
		peer_fill(&p[i], 0, PAGES, 1, 0);
		peer_fill(&p[i], 0, ENDS, 10, 1);
		peer_fill(&p[i], PAGES - ENDS, ENDS, 20, 1);
		peer_merge(&p[i], dom);
		CHECK_EQ(count_merged(p[i].pid, p[i].addr, PAGES), PAGES);
		/* Of the padding; and of the pages at the ends, in the first. */
		CHECK_OP(dksm_domain("", "metadata_bytes") - before, <,
			 PAGES + (i ? 1000 : 2500));
	}
	check_shared(&p[0], &p[2], 0, ENDS);
	check_shared(&p[1], &p[2], PAGES - ENDS, ENDS);
	for (size_t i = 0; i < 3; i++) {
		peer_migrate(&p[i], PAGES / 2 + i * 10);
		CHECK_EQ(count_merged(p[i].pid, p[i].addr, PAGES), PAGES);
	}
	for (size_t i = 0; i < 60; i++)
		peer_poke(&p[i % 3], i * 10, i % 512, i);
	peers_verify(p, 3);
	peer_merge(&p[0], dom);
	peer_exit(&p[1]);
	EXPECT(peer_unmerge(&p[0], dom), .unmerged = PAGES);
	peers_verify(&p[0], 1);
	peers_verify(&p[2], 1);
}

static void knob_ranges(void)
{
	static const struct {
		const char *name, *bad[5];
	} knobs[] = {
		{ "max_page_sharing", { "0", "-1", "x", "4x",
					"99999999999999999999999999" } },
		{ "use_zero_pages", { "2", "-1", "x" } },
		{ "merge_across_nodes", { "2", "-1", "x" } },
		{ "learn", { "-1", "x", "99999999999999999999999999" } },
	};
	char path[80];

	for (size_t i = 0; i < ARRAY_SIZE(knobs); i++) {
		u64 was = dksm_global(knobs[i].name);

		snprintf(path, sizeof(path), DKSM_SYSFS "%s", knobs[i].name);
		for (int j = 0; j < 5 && knobs[i].bad[j]; j++)
			CHECK_OP(write_str(path, knobs[i].bad[j]), <, 0);
		CHECK_EQ(dksm_global(knobs[i].name), was);
	}
	CHECK_EQ(dksm_global("max_page_sharing"), 256);
	CHECK_EQ(write_u64(DKSM_SYSFS "max_page_sharing", 2), 0);
	CHECK_EQ(dksm_global("max_page_sharing"), 2);
}

const struct test tests_share[] = {
	{ "two_processes", two_processes, 0 },
	{ "first_owner_writes", first_owner_writes, 0 },
	{ "second_owner_writes_then_first", second_owner_writes_then_first, 0 },
	{ "sixty_four_processes", sixty_four_processes, TEST_SLOW },
	{ "within_one_process", within_one_process, 0 },
	{ "all_write_in_random_order", all_write_in_random_order, 0 },
	{ "write_restore_merge", write_restore_merge, 0 },
	{ "merging_again_changes_nothing", merging_again_changes_nothing, 0 },
	{ "sharing_outlives_the_owner", sharing_outlives_the_owner, 0 },
	{ "frames_die_with_their_last_user", frames_die_with_their_last_user, 0 },
	{ "unpopulated_stays_unpopulated", unpopulated_stays_unpopulated, 0 },
	{ "by_pidfd", by_pidfd, 0 },
	{ "by_own_pidfd", by_own_pidfd, 0 },
	{ "whole_process", whole_process, 0 },
	{ "domains_never_share", domains_never_share, 0 },
	{ "zero_pages", zero_pages, 0 },
	{ "zero_pages_off", zero_pages_off, 0 },
	{ "read_faulted_zero_pages", read_faulted_zero_pages, 0 },
	{ "cap_on_sharing", cap_on_sharing, 0 },
	{ "cap_inside_one_process", cap_inside_one_process, 0 },
	{ "padding_costs_little", padding_costs_little, 0 },
	{ "knob_ranges", knob_ranges, 0 },
	{ NULL, NULL, 0 },
};
