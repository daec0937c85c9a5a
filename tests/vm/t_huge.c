// SPDX-License-Identifier: MIT
/*
 * Transparent huge pages: as a source of pages to merge, at the edge of a range,
 * and as something that must not grow back over merged pages.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests.h"

#define PAGES 512		/* in a huge page */

static void thp_policy(const char *policy)
{
	if (write_str(THP_SYSFS "enabled", policy))
		SKIP("no transparent huge pages");
}

/* An aligned huge range, not populated; the rest around it stays unused. */
static struct region huge_range(void)
{
	unsigned char *p;

	p = SYS(mmap(NULL, 2 * HUGE_SIZE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	p = (unsigned char *)(((uintptr_t)p + HUGE_SIZE - 1) & ~(HUGE_SIZE - 1));
	return region_at(p, PAGES);
}

static struct region huge_page(void)
{
	struct region r;

	thp_policy("madvise");
	r = huge_range();
	SYS(madvise(r.addr, HUGE_SIZE, MADV_HUGEPAGE));
	r.addr[0] = 0;
	if (!frame_flag(frame_of(0, r.addr), KPF_THP))
		SKIP("no huge page to be had");
	return r;
}

/* The first @zero pages are zero, the others all different. */
static void fill_mixed(struct region *r, size_t zero)
{
	region_fill(r, 0, zero, SEED_ZERO, 0);
	region_fill(r, zero, r->pages - zero, 1 + zero, 1);
}

static void huge_page_source(void)
{
	struct peer p = peer_start(PAGES);
	struct region r = huge_page();
	int dom = domain_open("");

	fill_mixed(&r, 100);
	peer_fill(&p, 0, 100, SEED_ZERO, 0);
	peer_fill(&p, 100, PAGES - 100, 101, 1);
	EXPECT(merge(dom, DKSM_SELF, r.addr, HUGE_SIZE),
	       .published = PAGES - 100, .zero = 100);
	region_verify(&r);
	CHECK_EQ(count_flag(0, r.addr, PAGES, KPF_THP), 0);
	CHECK_EQ(count_merged(0, r.addr, PAGES), PAGES - 100);
	CHECK_EQ(count_flag(0, r.addr, PAGES, KPF_ZERO_PAGE), 100);
	EXPECT(peer_merge(&p, dom), .merged = PAGES - 100, .zero = 100);
	CHECK_EQ(peer_frame(&p, 300), frame_of(0, region_page(&r, 300)));
	region_poke(&r, 50, 0, 1);
	region_poke(&r, 300, 0, 1);
	peer_poke(&p, 301, 0, 1);
	region_verify(&r);
	peer_verify(&p);
}

/* Merged by another process, into frames that were there before. */
static void huge_page_joins_frames(void)
{
	struct peer p = peer_start(PAGES), q;
	int dom = domain_open("");
	struct region r;

	peer_fill(&p, 0, PAGES, 1, 1);
	EXPECT(peer_merge(&p, dom), .published = PAGES);
	r = huge_page();
	region_fill(&r, 0, PAGES, 1, 1);
	q = peer_start(1);		/* a child: the huge page is forked, too */
	EXPECT(merge(dom, DKSM_SELF, r.addr, HUGE_SIZE), .merged = PAGES);
	region_verify(&r);
	for (int i = 0; i < PAGES; i += 100)
		CHECK_EQ(peer_frame(&p, i), frame_of(0, region_page(&r, i)));
	region_poke(&r, 1, 1, 1);
	peer_verify(&p);
	peer_exit(&q);
	region_verify(&r);
}

/* Of a range that only begins or ends in a huge page, the rest stays as it is. */
static void range_partly_inside(void)
{
	struct region r = huge_page();
	u64 before[PAGES], after[PAGES];
	int dom = domain_open("");
	struct dksm_report rep;

	region_fill(&r, 0, PAGES, 1, 1);
	frames_read(0, r.addr, PAGES, before);
	rep = merge(dom, DKSM_SELF, region_page(&r, 100), 200 * PAGE_SIZE);
	CHECK_EQ(rep.scanned, 200);
	EXPECT(rep, .published = 200);
	CHECK_EQ(count_merged(0, r.addr, PAGES), 200);
	frames_read(0, r.addr, PAGES, after);
	CHECK(!memcmp(before, after, sizeof(before)));
	region_verify(&r);
	for (int i = 0; i < PAGES; i += 7)
		region_poke(&r, i, 1, i);
	region_verify(&r);
}

/*
 * A huge page of which each page has an entry of its own is split, too.  To split
 * it is to map the zero page where it is zero, also outside the range.
 */
static void huge_page_mapped_by_pages(void)
{
	struct region r = huge_page();
	int dom = domain_open("");

	fill_mixed(&r, 100);
	SYS(mprotect(region_page(&r, 200), PAGE_SIZE, PROT_READ));
	SYS(mprotect(region_page(&r, 200), PAGE_SIZE, PROT_READ | PROT_WRITE));
	CHECK_EQ(count_flag(0, r.addr, PAGES, KPF_THP), PAGES);
	EXPECT(merge(dom, DKSM_SELF, region_page(&r, 50), 100 * PAGE_SIZE),
	       .published = 50, .zero = 50);
	EXPECT(merge(dom, DKSM_SELF, r.addr, HUGE_SIZE), .published = PAGES - 150,
	       .skipped[DKSM_SKIP_ALREADY] = 50);
	CHECK_EQ(count_flag(0, r.addr, PAGES, KPF_ZERO_PAGE), 100);
	CHECK_EQ(count_flag(0, r.addr, PAGES, KPF_THP), 0);
	region_verify(&r);
}

/* Folios of 16 pages, merged from the middle of one to the middle of another. */
static void large_folios(void)
{
	struct region r = huge_range();
	int dom = domain_open("");

	if (write_str(THP_SYSFS "hugepages-64kB/enabled", "always"))
		SKIP("no folios of 64 KiB");
	fill_mixed(&r, 100);
	CHECK_OP(count_flag(0, r.addr, PAGES, KPF_THP), >, 0);
	EXPECT(merge(dom, DKSM_SELF, region_page(&r, 40), 100 * PAGE_SIZE),
	       .published = 40, .zero = 60);
	EXPECT(merge(dom, DKSM_SELF, r.addr, HUGE_SIZE), .published = PAGES - 140,
	       .zero = 32, .skipped[DKSM_SKIP_ALREADY] = 40);
	CHECK_EQ(count_flag(0, r.addr, PAGES, KPF_ZERO_PAGE), 100);
	CHECK_EQ(count_flag(0, r.addr, PAGES, KPF_THP), 0);
	region_verify(&r);
	for (int i = 0; i < PAGES; i += 7)
		region_poke(&r, i, 1, i);
	region_verify(&r);
}

/* Nothing to gain from a huge page outside the range: it is not split. */
static void neighbour_stays_huge(void)
{
	struct region r = huge_page();
	unsigned char *p = SYS(mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	int dom = domain_open("");

	region_fill(&r, 0, PAGES, 1, 1);
	SYS(madvise(p, PAGE_SIZE, MADV_NOHUGEPAGE));
	page_fill(p, 1);
	merge(dom, DKSM_SELF, p, PAGE_SIZE);
	CHECK(frame_flag(frame_of(0, r.addr), KPF_THP));
	region_verify(&r);
}

/* The kernel's huge zero page, mapped by reading. */
static void huge_zero_page(void)
{
	struct region r;
	int dom = domain_open("");

	thp_policy("madvise");
	r = huge_range();
	SYS(madvise(r.addr, HUGE_SIZE, MADV_HUGEPAGE));
	region_model(&r, 0, PAGES, SEED_ZERO, 0);
	region_verify(&r);
	CHECK_EQ(merge(dom, DKSM_SELF, r.addr, HUGE_SIZE).published, 0);
	region_verify(&r);
	region_poke(&r, 5, 5, 5);
	region_verify(&r);
	merge(dom, DKSM_SELF, r.addr, HUGE_SIZE);
	region_verify(&r);
	region_poke(&r, 6, 6, 6);
	region_verify(&r);
}

/* A huge page that is mapped by two processes since a fork, one an outsider. */
static void huge_page_after_fork(void)
{
	int dom = domain_open("");
	struct region r = huge_page();
	struct peer p;

	region_fill(&r, 0, PAGES, 1, 1);
	p = peer_start(PAGES);
	peer_fill(&p, 0, PAGES, 1, 1);
	EXPECT(merge(dom, DKSM_SELF, r.addr, HUGE_SIZE), .published = PAGES);
	EXPECT(peer_merge(&p, dom), .merged = PAGES);
	/* The peer still has the old huge range of its parent. */
	EXPECT(merge(dom, p.pidfd, r.addr, HUGE_SIZE), .merged = PAGES);
	CHECK_EQ(frame_maps(peer_frame(&p, 7)), 3);
	region_verify(&r);
	region_poke(&r, 10, 1, 1);
	region_verify(&r);
	peer_verify(&p);
}

/* ---- collapse ---------------------------------------------------------- */

/* Two regions of small pages with the same contents, merged with each other. */
static void small_pages_shared(struct region *r, struct peer *p, int dom)
{
	thp_policy("madvise");
	*p = peer_start(PAGES);
	*r = huge_range();
	SYS(madvise(r->addr, HUGE_SIZE, MADV_NOHUGEPAGE));
	region_fill(r, 0, PAGES, 1, 1);
	peer_fill(p, 0, PAGES, 1, 1);
	merge(dom, DKSM_SELF, r->addr, HUGE_SIZE);
	EXPECT(peer_merge(p, dom), .merged = PAGES);
}

static void check_still_shared(const struct region *r, const struct peer *p)
{
	u64 a[PAGES], b[PAGES];

	frames_read(0, r->addr, PAGES, a);
	frames_read(p->pid, p->addr, PAGES, b);
	for (int i = 0; i < PAGES; i++)
		CHECK_EQ(a[i], b[i]);
	CHECK_EQ(count_merged(0, r->addr, PAGES), PAGES);
}

static void collapse_leaves_frames_alone(void)
{
	int dom = domain_open("");
	struct region r;
	struct peer p;

	small_pages_shared(&r, &p, dom);
	SYS(madvise(r.addr, HUGE_SIZE, MADV_HUGEPAGE));
	madvise(r.addr, HUGE_SIZE, MADV_COLLAPSE);
	check_still_shared(&r, &p);
	region_verify(&r);
	/* With one page written the area is writable, which is what it takes. */
	region_poke(&r, 5, 0, 5);
	madvise(r.addr, HUGE_SIZE, MADV_COLLAPSE);
	region_verify(&r);
	peer_verify(&p);
	CHECK_EQ(count_merged(0, r.addr, PAGES), PAGES - 1);
	/* Frames that nobody shares yet are merged pages as well. */
	peer_exit(&p);
	madvise(r.addr, HUGE_SIZE, MADV_COLLAPSE);
	region_verify(&r);
	CHECK_EQ(count_merged(0, r.addr, PAGES), PAGES - 1);
}

struct collapse {
	void *addr;
	atomic_uint calls;
	atomic_bool stop;
};

static void *collapse_thread(void *arg)
{
	struct collapse *c = arg;

	while (!atomic_load(&c->stop)) {
		madvise(c->addr, HUGE_SIZE, MADV_COLLAPSE);
		atomic_fetch_add(&c->calls, 1);
	}
	return NULL;
}

/*
 * A collapse that has found no frame yet meets them when it takes the pages. The last
 * page is not merged: a collapse wants one that is writable.
 */
static void collapse_meets_a_merge(void)
{
	struct region r = huge_page();
	struct collapse c = { .addr = r.addr };
	u64 end = now_ms() + 5000, rounds = 0;
	int dom = domain_open("");
	struct dksm_report report;
	unsigned int calls;
	pthread_t thread;

	fill_mixed(&r, 50);
	CHECK_EQ(pthread_create(&thread, NULL, collapse_thread, &c), 0);
	while (now_ms() < end) {
		/* Every page is private again, and zero pages stay zero. */
		for (size_t i = 0; i < PAGES; i++)
			region_poke(&r, i, 1, i < 50 ? 0 : rounds);
		usleep(rounds++ * 37 % 2000);
		report = merge(dom, DKSM_SELF, r.addr, HUGE_SIZE - PAGE_SIZE);
		calls = atomic_load(&c.calls);
		while (atomic_load(&c.calls) - calls < 2)
			usleep(100);
		CHECK_OP(count_merged(0, r.addr, PAGES), >=, report.published);
		CHECK_OP(count_flag(0, r.addr, PAGES, KPF_ZERO_PAGE), >=,
			 report.zero);
	}
	test_note("%llu rounds", (unsigned long long)rounds);
	atomic_store(&c.stop, true);
	pthread_join(thread, NULL);
	region_verify(&r);
}

static u64 full_scans(void)
{
	return read_u64(THP_SYSFS "khugepaged/full_scans");
}

static void khugepaged_leaves_frames_alone(void)
{
	u64 end = now_ms() + 3000, scans;
	int dom = domain_open("");
	struct region r;
	struct peer p;

	small_pages_shared(&r, &p, dom);
	region_poke(&r, 5, 0, 5);
	if (write_u64(THP_SYSFS "khugepaged/scan_sleep_millisecs", 10) ||
	    write_u64(THP_SYSFS "khugepaged/pages_to_scan", 100000) ||
	    write_u64(THP_SYSFS "khugepaged/max_ptes_shared", 511))
		SKIP("no khugepaged");
	SYS(madvise(r.addr, HUGE_SIZE, MADV_HUGEPAGE));
	scans = full_scans();
	while (full_scans() < scans + 2 && now_ms() < end)
		sleep_ms(20);
	region_verify(&r);
	peer_verify(&p);
	CHECK_EQ(count_merged(0, r.addr, PAGES), PAGES - 1);
}

/* Collapsing may swallow merged zero pages; then they must not be counted. */
static void collapse_over_zero_pages(void)
{
	int dom = domain_open("");
	struct region r;

	thp_policy("madvise");
	r = huge_range();
	SYS(madvise(r.addr, HUGE_SIZE, MADV_NOHUGEPAGE));
	fill_mixed(&r, 200);
	EXPECT(merge(dom, DKSM_SELF, r.addr, 200 * PAGE_SIZE), .zero = 200);
	SYS(madvise(r.addr, HUGE_SIZE, MADV_HUGEPAGE));
	madvise(r.addr, HUGE_SIZE, MADV_COLLAPSE);
	region_verify(&r);
	CHECK_EQ(dksm_process(0, "pages_zero"),
		 count_flag(0, r.addr, PAGES, KPF_ZERO_PAGE));
	CHECK_EQ(dksm_domain("", "pages_zero"), dksm_process(0, "pages_zero"));
	region_poke(&r, 3, 3, 3);
	region_verify(&r);
	/* And merging again must find all of them. */
	merge(dom, DKSM_SELF, r.addr, 200 * PAGE_SIZE);
	CHECK_EQ(count_flag(0, r.addr, 200, KPF_ZERO_PAGE), 199);
	CHECK_EQ(dksm_process(0, "pages_zero"), 199);
	region_verify(&r);
}

const struct test tests_huge[] = {
	{ "huge_page_source", huge_page_source, 0 },
	{ "huge_page_joins_frames", huge_page_joins_frames, 0 },
	{ "range_partly_inside", range_partly_inside, 0 },
	{ "huge_page_mapped_by_pages", huge_page_mapped_by_pages, 0 },
	{ "large_folios", large_folios, 0 },
	{ "neighbour_stays_huge", neighbour_stays_huge, 0 },
	{ "huge_zero_page", huge_zero_page, 0 },
	{ "huge_page_after_fork", huge_page_after_fork, 0 },
	{ "collapse_leaves_frames_alone", collapse_leaves_frames_alone, 0 },
	{ "collapse_meets_a_merge", collapse_meets_a_merge, 0 },
	{ "khugepaged_leaves_frames_alone", khugepaged_leaves_frames_alone, 0 },
	{ "collapse_over_zero_pages", collapse_over_zero_pages, 0 },
	{ NULL, NULL, 0 },
};
