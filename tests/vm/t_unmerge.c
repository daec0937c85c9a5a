// SPDX-License-Identifier: MIT
/*
 * DKSM_IOC_UNMERGE: exactly the pages asked for become private again, with the
 * same contents, and nothing is left of them in the frames.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests.h"

#define N 32

static void start_shared(struct peer *p, size_t n, int dom)
{
	for (size_t i = 0; i < n; i++) {
		p[i] = peer_start(N);
		peer_fill(&p[i], 0, N, 1, 1);
		peer_merge(&p[i], dom);
	}
	check_shared(&p[0], &p[n - 1], 0, N);
}

static void unmerge_all(void)
{
	int dom = domain_open("");
	struct peer p[3];

	start_shared(p, 3, dom);
	EXPECT(peer_unmerge(&p[0], dom), .unmerged = N);
	check_private(p[0].pid, p[0].addr, N);
	check_shared(&p[1], &p[2], 0, N);
	CHECK_EQ(dksm_process(p[0].pid, "pages_merged"), 0);
	peers_verify(p, 3);
	EXPECT(peer_unmerge(&p[0], dom), .unmerged = 0);
	for (int page = 0; page < N; page++)
		peer_poke(&p[0], page, page, page);
	peers_verify(p, 3);
	EXPECT(peer_unmerge(&p[1], dom), .unmerged = N);
	EXPECT(peer_unmerge(&p[2], dom), .unmerged = N);
	wait_frames("", 0);
	CHECK_EQ(dksm_domain("", "pages_sharing"), 0);
	peers_verify(p, 3);
}

static void unmerge_only_the_range(void)
{
	int dom = domain_open("");
	struct peer p[2];

	start_shared(p, 2, dom);
	EXPECT(unmerge(dom, p[1].pidfd, peer_page(&p[1], 5), 9 * PAGE_SIZE),
	       .unmerged = 9);
	check_shared(&p[0], &p[1], 0, 5);
	check_shared(&p[0], &p[1], 14, N - 14);
	check_private(p[1].pid, peer_page(&p[1], 5), 9);
	CHECK_EQ(dksm_process(p[1].pid, "pages_merged"), N - 9);
	peers_verify(p, 2);
	EXPECT(peer_merge(&p[1], dom), .merged = 9,
	       .skipped[DKSM_SKIP_ALREADY] = N - 9);
	check_shared(&p[0], &p[1], 0, N);
	peers_verify(p, 2);
}

static void unmerge_within_one_process(void)
{
	struct region r = region_map(512);
	int dom = domain_open("");

	region_fill(&r, 0, 512, 0xcf, 0);
	/* The cap makes two frames of 512 equal pages. */
	CHECK_EQ(merge(dom, DKSM_SELF, r.addr, region_bytes(&r)).published, 2);
	EXPECT(unmerge(dom, DKSM_SELF, r.addr, region_bytes(&r)),
	       .unmerged = 512);
	check_private(0, r.addr, 512);
	region_verify(&r);
}

static void unmerge_zero_pages(void)
{
	struct region r = region_map(64);
	int dom = domain_open("");

	region_fill(&r, 0, 64, SEED_ZERO, 0);
	EXPECT(merge(dom, DKSM_SELF, r.addr, region_bytes(&r)), .zero = 64);
	CHECK_EQ(dksm_process(0, "pages_zero"), 64);
	unmerge(dom, DKSM_SELF, r.addr, region_bytes(&r) / 2);
	CHECK_EQ(dksm_process(0, "pages_zero"), 32);
	check_private(0, r.addr, 32);
	CHECK_EQ(count_flag(0, region_page(&r, 32), 32, KPF_ZERO_PAGE), 32);
	region_verify(&r);
	for (int i = 32; i < 64; i++)
		region_poke(&r, i, 0, i);
	CHECK_EQ(dksm_process(0, "pages_zero"), 0);
	CHECK_EQ(dksm_domain("", "pages_zero"), 0);
	check_private(0, r.addr, 64);
	region_verify(&r);
}

static void unmerge_after_discard(void)
{
	struct region r = region_map(N);
	int dom = domain_open("");
	u64 e[N];

	region_fill(&r, 0, N, 0xcf, 0);
	merge(dom, DKSM_SELF, r.addr, region_bytes(&r));
	SYS(madvise(r.addr, N / 2 * PAGE_SIZE, MADV_DONTNEED));
	region_model(&r, 0, N / 2, SEED_ZERO, 0);
	EXPECT(unmerge(dom, DKSM_SELF, r.addr, region_bytes(&r)),
	       .unmerged = N / 2);
	pagemap_read(0, r.addr, N, e);
	for (int i = 0; i < N / 2; i++)
		CHECK_EQ(e[i] & PM_PRESENT, 0);
	check_private(0, region_page(&r, N / 2), N / 2);
	region_verify(&r);
}

/* Pages without access, half of them written by a debugger first. */
static void unmerge_of_no_access(void)
{
	struct region r = region_map(N);
	int dom = domain_open(""), fd;

	region_fill(&r, 0, N, 0x11, 0);
	SYS(mprotect(r.addr, region_bytes(&r), PROT_NONE));
	EXPECT(merge(dom, DKSM_SELF, r.addr, region_bytes(&r)),
	       .published = 1, .merged = N - 1);
	fd = SYS(open("/proc/self/mem", O_RDWR));
	for (u64 i = 0; i < N / 2; i++) {
		CHECK_EQ(SYS(pwrite(fd, &i, sizeof(i),
				    (uintptr_t)region_page(&r, i))), sizeof(i));
		region_model_patch(&r, i, 0, i);
	}
	close(fd);
	EXPECT(unmerge(dom, DKSM_SELF, region_page(&r, N / 2),
		       N / 2 * PAGE_SIZE), .unmerged = N / 2);
	check_private(0, r.addr, N);
	SYS(mprotect(r.addr, region_bytes(&r), PROT_READ | PROT_WRITE));
	region_verify(&r);
}

/* Pages that were never merged are left alone. */
static void unmerge_of_ordinary_memory(void)
{
	struct region r = region_map(N);
	int dom = domain_open(""), fd, err;
	u64 before[N / 2], after[N / 2];
	struct dksm_report rep;

	region_fill(&r, 0, N / 2, 1, 1);
	frames_read(0, r.addr, N / 2, before);
	/* In no domain yet and asking through an unbound descriptor. */
	fd = dksm_open();
	err = dksm_range(fd, DKSM_IOC_UNMERGE, DKSM_SELF, r.addr,
			 region_bytes(&r), &rep);
	CHECK(!err || err == -ENOENT);
	EXPECT(rep, .unmerged = 0);
	merge(dom, DKSM_SELF, region_page(&r, N / 2), N / 2 * PAGE_SIZE);
	EXPECT(unmerge(fd, DKSM_SELF, r.addr, region_bytes(&r)), .unmerged = 0);
	frames_read(0, r.addr, N / 2, after);
	CHECK(!memcmp(before, after, sizeof(before)));
	SYS(munmap(region_page(&r, 4), PAGE_SIZE));
	CHECK_EQ(dksm_range(fd, DKSM_IOC_UNMERGE, DKSM_SELF, r.addr,
			    region_bytes(&r), NULL), -ENOMEM);
	region_verify_range(&r, 0, 4);
}

/* The hole is reported and the rest is done. */
static void unmerge_over_a_hole(void)
{
	struct region r = region_map(N);
	int dom = domain_open("");
	struct dksm_report rep;

	region_fill(&r, 0, N, 1, 1);
	merge(dom, DKSM_SELF, r.addr, region_bytes(&r));
	SYS(munmap(region_page(&r, 10), 2 * PAGE_SIZE));
	region_model(&r, 10, 2, SEED_ANY, 0);
	CHECK_EQ(dksm_range(dom, DKSM_IOC_UNMERGE, DKSM_SELF, r.addr,
			    region_bytes(&r), &rep), -ENOMEM);
	EXPECT(rep, .unmerged = N - 2);
	check_private(0, r.addr, 10);
	check_private(0, region_page(&r, 12), N - 12);
	region_verify(&r);
}

static void unmerge_and_merge_in_turns(void)
{
	int dom = domain_open("");
	struct peer p[2];

	start_shared(p, 2, dom);
	for (int round = 0; round < 10; round++) {
		EXPECT(peer_unmerge(&p[round % 2], dom), .unmerged = N);
		peers_verify(p, 2);
		EXPECT(peer_merge(&p[round % 2], dom), .merged = N);
		check_shared(&p[0], &p[1], 0, N);
	}
	peers_verify(p, 2);
}

/* A forked pair: each side is on its own. */
static void unmerge_after_fork(void)
{
	int dom = domain_open("");
	struct peer p[3];

	start_shared(p, 2, dom);
	p[2] = peer_fork(&p[1]);
	EXPECT(peer_unmerge(&p[1], dom), .unmerged = N);
	check_shared(&p[0], &p[2], 0, N);
	check_private(p[1].pid, p[1].addr, N);
	EXPECT(peer_unmerge(&p[2], dom), .unmerged = N);
	check_private(p[2].pid, p[2].addr, N);
	peer_poke(&p[1], 0, 0, 1);
	peer_poke(&p[2], 0, 0, 2);
	peers_verify(p, 3);
}

const struct test tests_unmerge[] = {
	{ "unmerge_all", unmerge_all, 0 },
	{ "unmerge_only_the_range", unmerge_only_the_range, 0 },
	{ "unmerge_within_one_process", unmerge_within_one_process, 0 },
	{ "unmerge_zero_pages", unmerge_zero_pages, 0 },
	{ "unmerge_after_discard", unmerge_after_discard, 0 },
	{ "unmerge_of_no_access", unmerge_of_no_access, 0 },
	{ "unmerge_of_ordinary_memory", unmerge_of_ordinary_memory, 0 },
	{ "unmerge_over_a_hole", unmerge_over_a_hole, 0 },
	{ "unmerge_and_merge_in_turns", unmerge_and_merge_in_turns, 0 },
	{ "unmerge_after_fork", unmerge_after_fork, 0 },
	{ NULL, NULL, 0 },
};
