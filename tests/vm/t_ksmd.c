// SPDX-License-Identifier: MIT
/*
 * KSM at work on the same memory: ksmd runs while pages are merged, written and
 * unmerged here.  Contents must be right at all times, and neither may take the
 * other's frames for its own.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "tests.h"

#define N 64

#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#endif

static void ksm_run(unsigned int mode)
{
	CHECK_EQ(write_u64(KSM_SYSFS "run", mode), 0);
}

static void ksm_fast(void)
{
	CHECK_EQ(write_u64(KSM_SYSFS "pages_to_scan", 10000), 0);
	CHECK_EQ(write_u64(KSM_SYSFS "sleep_millisecs", 2), 0);
	write_u64(KSM_SYSFS "smart_scan", 0);
}

/* Waits until ksmd has seen everything there is @n times. */
static void ksm_scans(unsigned int n)
{
	u64 from = read_u64(KSM_SYSFS "full_scans"), end = now_ms() + 20000;

	ksm_run(1);
	while (read_u64(KSM_SYSFS "full_scans") < from + n && now_ms() < end)
		sleep_ms(5);
	CHECK_OP(read_u64(KSM_SYSFS "full_scans"), >=, from + n);
}

static void start_mergeable(struct peer *p, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		p[i] = peer_start(N);
		CHECK_EQ(peer_madvise(&p[i], 0, N, MADV_MERGEABLE), 0);
		peer_fill(&p[i], 0, N, 1, 1);
	}
	ksm_fast();
}

static size_t frames_in_all(const struct peer *p, size_t n)
{
	u64 pfn[n * N];

	for (size_t i = 0; i < n; i++)
		frames_read(p[i].pid, p[i].addr, N, &pfn[i * N]);
	return distinct(pfn, n * N);
}

/* What KSM merged first is KSM's: counted, left alone, and still right. */
static void ksm_merged_first(void)
{
	int dom = domain_open("");
	struct dksm_report rep;
	struct peer p[3];

	start_mergeable(p, 3);
	ksm_scans(4);
	ksm_run(0);
	CHECK_EQ(frames_in_all(p, 2), N);
	rep = peer_merge(&p[0], dom);
	CHECK_EQ(rep.skipped[DKSM_SKIP_KSM], N);
	peers_verify(p, 3);
	CHECK_EQ(dksm_process(p[0].pid, "pages_merged"), 0);
	EXPECT(peer_unmerge(&p[0], dom), .unmerged = 0);
	/* Released by KSM they can be merged. */
	ksm_run(2);
	peers_verify(p, 3);
	ksm_run(0);
	for (int i = 0; i < 3; i++)
		peer_merge(&p[i], dom);
	check_shared(&p[0], &p[2], 0, N);
	CHECK_EQ(frames_in_all(p, 3), N);
	CHECK_EQ(dksm_domain("", "pages_sharing"), 2 * N);
	peer_poke(&p[1], 1, 1, 1);
	peers_verify(p, 3);
}

/* What was merged here first stays; ksmd does not dissolve or adopt it. */
static void ksm_runs_afterwards(void)
{
	int dom = domain_open("");
	struct peer p[3];
	u64 merged;

	start_mergeable(p, 3);
	peer_merge(&p[0], dom);
	EXPECT(peer_merge(&p[1], dom), .merged = N);
	ksm_scans(4);
	peers_verify(p, 3);
	check_shared(&p[0], &p[1], 0, N);
	CHECK_EQ(dksm_domain("", "pages_shared"), N);
	CHECK_EQ(dksm_domain("", "pages_sharing"), N);
	peer_poke(&p[0], 3, 3, 3);
	peer_poke(&p[2], 4, 4, 4);
	peers_verify(p, 3);
	ksm_run(2);
	peers_verify(p, 3);
	/* KSM's own unmerge may or may not have dissolved ours. */
	merged = dksm_process(p[1].pid, "pages_merged");
	EXPECT(peer_unmerge(&p[1], dom), .unmerged = merged);
	CHECK_EQ(dksm_process(p[1].pid, "pages_merged"), 0);
	peers_verify(p, 3);
	check_private(p[1].pid, p[1].addr, N);
}

static void unmergeable_over_our_frames(void)
{
	int dom = domain_open("");
	struct peer p[2];

	start_mergeable(p, 2);
	peer_merge(&p[0], dom);
	EXPECT(peer_merge(&p[1], dom), .merged = N);
	CHECK_EQ(peer_madvise(&p[0], 0, N, MADV_UNMERGEABLE), 0);
	check_shared(&p[0], &p[1], 0, N);
	peers_verify(p, 2);
	peer_poke(&p[0], 0, 0, 1);
	peer_poke(&p[1], 1, 0, 1);
	peers_verify(p, 2);
	peer_merge(&p[0], dom);
	check_shared(&p[0], &p[1], 2, N - 2);
	peers_verify(p, 2);
}

/* KSM lets go of what is its own: neither our frames nor our zero pages. */
static void ksm_unmerges_its_own(void)
{
	int dom = domain_open("");
	struct peer p[2];

	start_mergeable(p, 2);
	for (int i = 0; i < 2; i++)
		peer_fill(&p[i], N / 2, N / 2, SEED_ZERO, 0);
	peer_merge(&p[0], dom);
	EXPECT(peer_merge(&p[1], dom), .merged = N / 2, .zero = N / 2);
	ksm_scans(3);
	ksm_run(2);
	check_shared(&p[0], &p[1], 0, N);
	CHECK_EQ(count_flag(p[1].pid, peer_page(&p[1], N / 2), N / 2, KPF_ZERO_PAGE), N / 2);
	CHECK_EQ(dksm_process(p[0].pid, "cow_breaks"), 0);
	peers_verify(p, 2);
	ksm_run(0);
	peer_poke(&p[0], 0, 0, 1);
	peer_poke(&p[1], N - 1, 0, 1);
	peers_verify(p, 2);
}

/* Zero pages under KSM's own policy and ours, counted once each. */
static void zero_pages_of_both(void)
{
	int dom = domain_open("");
	struct peer p[2];

	start_mergeable(p, 2);
	write_u64(KSM_SYSFS "use_zero_pages", 1);
	for (int i = 0; i < 2; i++)
		peer_fill(&p[i], 0, N, SEED_ZERO, 0);
	EXPECT(peer_merge(&p[0], dom), .zero = N);
	ksm_scans(3);
	peers_verify(p, 2);
	merge(dom, p[1].pidfd, p[1].addr, N * PAGE_SIZE);
	CHECK_EQ(count_flag(p[1].pid, p[1].addr, N, KPF_ZERO_PAGE), N);
	ksm_run(2);
	peers_verify(p, 2);
	ksm_run(0);
	for (int i = 0; i < N; i++)
		peer_poke(&p[i % 2], i, 0, i);
	peers_verify(p, 2);
}

/* @arg: descriptor, milliseconds, first seed. */
static long op_churn(struct region *r, const long *arg)
{
	u64 end = now_ms() + arg[1], state = getpid() * 7919ULL;

	while (now_ms() < end) {
		size_t page = rnd(&state) % N;

		switch (rnd(&state) % 8) {
		case 0:
			merge(arg[0], DKSM_SELF, r->addr, region_bytes(r));
			break;
		case 1:
			unmerge(arg[0], DKSM_SELF, region_page(r, page),
				(N - page) * PAGE_SIZE);
			break;
		case 2:
			region_fill(r, page, 1, rnd(&state) % 4, 0);
			break;
		case 3:
			region_verify(r);
			break;
		case 4:
			SYS(madvise(r->addr, region_bytes(r), rnd(&state) % 4 ?
				    MADV_MERGEABLE : MADV_UNMERGEABLE));
			break;
		default:
			region_poke(r, page, page, rnd(&state) % 4);
		}
	}
	region_verify(r);
	return 0;
}

static void ksm_churn(unsigned int ms, unsigned int modes)
{
	int dom[2] = { domain_open(".a"), domain_open(".b") };
	u64 end = now_ms() + ms;
	struct peer p[3];

	start_mergeable(p, 3);
	for (int i = 0; i < 3; i++)
		peer_post(&p[i], op_churn, dom[i % 2], ms);
	for (unsigned int i = 0; now_ms() < end; i++) {
		ksm_run(1 + i % modes);
		sleep_ms(50);
	}
	ksm_run(1);
	for (int i = 0; i < 3; i++)
		peer_result(&p[i]);
	peers_verify(p, 3);
	ksm_run(2);
	peers_verify(p, 3);
	for (int i = 0; i < 3; i++) {
		unmerge(dom[i % 2], p[i].pidfd, p[i].addr, N * PAGE_SIZE);
		CHECK_EQ(count_merged(p[i].pid, p[i].addr, N), 0);
	}
	peers_verify(p, 3);
}

static void ksmd_runs_meanwhile(void)
{
	ksm_churn(1500, 1);
}

static void ksmd_unmerges_meanwhile(void)
{
	ksm_churn(1500, 2);
}

/* A process that is mergeable as a whole, by prctl, and forks. */
static long op_prctl(struct region *r UNUSED, const long *arg)
{
	return prctl(PR_SET_MEMORY_MERGE, arg[0], 0, 0, 0) ? -errno : 0;
}

static void ksm_for_the_whole_process(void)
{
	int dom = domain_open("");
	struct peer p[3] = { peer_start(N), peer_start(N) };

	for (int i = 0; i < 2; i++) {
		if (peer_call(&p[i], op_prctl, 1))
			SKIP("no PR_SET_MEMORY_MERGE");
		peer_fill(&p[i], 0, N, 1, 1);
	}
	ksm_fast();
	ksm_run(1);
	for (int i = 0; i < 2; i++)
		merge(dom, p[i].pidfd, NULL, 0);
	p[2] = peer_fork(&p[1]);
	ksm_scans(2);
	peers_verify(p, 3);
	for (int i = 0; i < 3; i++)
		peer_poke(&p[i], i, i, i);
	CHECK_EQ(peer_call(&p[0], op_prctl, 0), 0);
	peers_verify(p, 3);
	ksm_run(2);
	for (int i = 0; i < 3; i++)
		unmerge(dom, p[i].pidfd, NULL, 0);
	peers_verify(p, 3);
}

const struct test tests_ksmd[] = {
	{ "ksm_merged_first", ksm_merged_first, TEST_KSMD },
	{ "ksm_runs_afterwards", ksm_runs_afterwards, TEST_KSMD },
	{ "unmergeable_over_our_frames", unmergeable_over_our_frames, TEST_KSMD },
	{ "ksm_unmerges_its_own", ksm_unmerges_its_own, 0 },
	{ "zero_pages_of_both", zero_pages_of_both, TEST_KSMD },
	{ "ksmd_runs_meanwhile", ksmd_runs_meanwhile, TEST_KSMD },
	{ "ksmd_unmerges_meanwhile", ksmd_unmerges_meanwhile, TEST_KSMD },
	{ "ksm_for_the_whole_process", ksm_for_the_whole_process, TEST_KSMD },
	{ NULL, NULL, 0 },
};
