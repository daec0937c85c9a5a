// SPDX-License-Identifier: MIT
/*
 * Changes of the address space under merged memory: munmap, mremap, mprotect,
 * madvise, mlock, areas split and joined.  After each the frames are moved, so
 * that a reverse map left behind shows up.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
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

/* After the frame of @page moved, both must still map one frame. */
static void migrate_and_check(const struct peer *p, size_t n, size_t page)
{
	if (!peer_migrate(&p[0], page))
		return;
	for (size_t i = 1; i < n; i++)
		check_shared(&p[0], &p[i], page, 1);
	peers_verify(p, n);
}

static long op_munmap(struct region *r, const long *arg)
{
	SYS(munmap(region_page(r, arg[0]), arg[1] * PAGE_SIZE));
	region_model(r, arg[0], arg[1], SEED_ANY, 0);
	return 0;
}

static void partial_munmap(void)
{
	int dom = domain_open("");
	struct peer p[3];

	start_shared(p, 3, dom);
	peer_call(&p[1], op_munmap, 8, 8);	/* leaves two areas */
	peers_verify(p, 3);
	CHECK_EQ(frame_maps(peer_frame(&p[0], 8)), 2);
	CHECK_EQ(frame_maps(peer_frame(&p[0], 7)), 3);
	migrate_and_check(p, 3, 7);
	migrate_and_check(p, 3, 16);
	if (peer_migrate(&p[0], 10))
		check_shared(&p[0], &p[2], 10, 1);
	peer_call(&p[1], op_munmap, 0, 8);
	peer_call(&p[1], op_munmap, 16, N - 16);
	CHECK_EQ(frame_maps(peer_frame(&p[0], 0)), 2);
	CHECK_EQ(dksm_process(p[1].pid, "pages_merged"), 0);
	peer_poke(&p[0], 9, 9, 9);
	peers_verify(p, 3);
}

/* New memory where merged memory was must not be taken for the old. */
static long op_remap_fresh(struct region *r, const long *arg)
{
	SYS(mmap(region_page(r, arg[0]), arg[1] * PAGE_SIZE,
		 PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	SYS(madvise(region_page(r, arg[0]), arg[1] * PAGE_SIZE,
		    MADV_NOHUGEPAGE));
	region_fill(r, arg[0], arg[1], arg[2], 1);
	return 0;
}

static void new_memory_at_the_old_place(void)
{
	int dom = domain_open("");
	struct peer p[2];

	start_shared(p, 2, dom);
	peer_call(&p[1], op_remap_fresh, 4, 20, 500);
	if (peer_migrate(&p[0], 5))
		peers_verify(p, 2);
	EXPECT(peer_merge(&p[1], dom), .published = 20,
	       .skipped[DKSM_SKIP_ALREADY] = N - 20);
	migrate_and_check(p, 2, 3);
	peer_migrate(&p[1], 5);
	peers_verify(p, 2);
	peer_fill(&p[1], 4, 20, 5, 1);
	EXPECT(peer_merge(&p[1], dom), .merged = 20,
	       .skipped[DKSM_SKIP_ALREADY] = N - 20);
	migrate_and_check(p, 2, 6);
}

/* ---- mremap ------------------------------------------------------------ */

/* Moves @arg[1] pages from @arg[0] on; the rest of the region is unmapped. */
static long op_mremap_move(struct region *r, const long *arg)
{
	size_t first = arg[0], n = arg[1];
	void *to, *from = region_page(r, first);

	to = SYS(mmap(NULL, (n + 5) * PAGE_SIZE, PROT_NONE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	to = (char *)to + 5 * PAGE_SIZE;
	to = SYS(mremap(from, n * PAGE_SIZE, n * PAGE_SIZE,
			MREMAP_MAYMOVE | MREMAP_FIXED, to));
	CHECK(to != from);
	if (first)
		SYS(munmap(r->addr, first * PAGE_SIZE));
	if (r->pages > first + n)
		SYS(munmap(region_page(r, first + n),
			   (r->pages - first - n) * PAGE_SIZE));
	r->addr = to;
	r->pages = n;
	for (size_t i = 0; i < n; i++) {
		r->seed[i] = r->seed[first + i];
		r->patch_word[i] = r->patch_word[first + i];
		r->patch[i] = r->patch[first + i];
	}
	return (long)to;
}

static void peer_mremap(struct peer *p, size_t first, size_t n)
{
	p->addr = (unsigned char *)peer_call(p, op_mremap_move, first, n);
	p->pages = n;
}

static void mremap_moves(void)
{
	int dom = domain_open("");
	struct peer p[3];

	start_shared(p, 3, dom);
	peer_mremap(&p[1], 0, N);
	peers_verify(p, 3);
	if (peer_migrate(&p[0], 0))
		check_shared(&p[0], &p[2], 0, 1);
	peer_migrate(&p[1], 1);
	peers_verify(p, 3);
	peer_poke(&p[1], 2, 0, 7);
	peer_poke(&p[0], 3, 0, 8);
	peers_verify(p, 3);
	/* Whatever the move cost is won back by one more call. */
	peer_fill(&p[1], 2, 1, 3, 0);
	peer_merge(&p[1], dom);
	check_shared(&p[1], &p[2], 0, N);
	migrate_and_check(&p[1], 2, 12);
	peer_poke(&p[1], 12, 1, 1);
	peers_verify(p, 3);
}

/* The first owner of the frames moves, and then goes away. */
static void mremap_of_the_first_owner(void)
{
	int dom = domain_open("");
	struct peer p[3];

	start_shared(p, 3, dom);
	peer_mremap(&p[0], 0, N);
	peers_verify(p, 3);
	migrate_and_check(&p[1], 2, 4);
	peer_exit(&p[0]);
	peers_verify(&p[1], 2);
	migrate_and_check(&p[1], 2, 5);
	peer_poke(&p[2], 6, 6, 6);
	peers_verify(&p[1], 2);
}

static void mremap_of_a_part(void)
{
	int dom = domain_open("");
	struct peer p[2];

	start_shared(p, 2, dom);
	peer_mremap(&p[1], 10, 12);
	peers_verify(p, 2);
	for (int i = 0; i < 12; i += 4)
		peer_migrate(&p[1], i);
	for (int i = 1; i < N; i += 8)
		peer_migrate(&p[0], i);
	peers_verify(p, 2);
	EXPECT(peer_merge(&p[0], dom), .skipped[DKSM_SKIP_ALREADY] = N);
	peer_merge(&p[1], dom);
	for (int i = 0; i < 12; i++)
		CHECK_EQ(peer_frame(&p[1], i), peer_frame(&p[0], 10 + i));
	peer_poke(&p[1], 0, 0, 1);
	peer_poke(&p[0], 11, 0, 1);
	peers_verify(p, 2);
}

/* Shrinks to @arg[0] pages, then grows to @arg[1], which may move it. */
static long op_mremap_resize(struct region *r, const long *arg)
{
	r->addr = SYS(mremap(r->addr, region_bytes(r), arg[0] * PAGE_SIZE, 0));
	r->addr = SYS(mremap(r->addr, arg[0] * PAGE_SIZE, arg[1] * PAGE_SIZE,
			     MREMAP_MAYMOVE));
	region_model(r, arg[0], r->pages - arg[0], SEED_ZERO, 0);
	return (long)r->addr;
}

static void mremap_shrinks_and_grows(void)
{
	int dom = domain_open("");
	struct peer p[2];

	start_shared(p, 2, dom);
	/* More than was there: the model covers the first N only. */
	p[1].addr = (unsigned char *)peer_call(&p[1], op_mremap_resize, 12,
					       4 * N);
	peers_verify(p, 2);
	peer_migrate(&p[0], 4);
	peer_migrate(&p[0], 20);
	peer_migrate(&p[1], 5);
	peers_verify(p, 2);
	peer_poke(&p[1], 1, 1, 1);
	peer_poke(&p[1], 20, 1, 1);
	peer_poke(&p[0], 2, 2, 2);
	peers_verify(p, 2);
	peer_fill(&p[1], 0, N, 1, 1);
	peer_merge(&p[1], dom);
	CHECK_EQ(peer_frame(&p[1], 0), peer_frame(&p[0], 0));
	check_shared(&p[0], &p[1], 3, N - 3);
	peers_verify(p, 2);
}

static long op_mremap_dontunmap(struct region *r, const long *arg UNUSED)
{
	struct region old = region_at(r->addr, r->pages);

	r->addr = SYS(mremap(r->addr, region_bytes(r), region_bytes(r),
			     MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL));
	region_model(&old, 0, old.pages, SEED_ZERO, 0);
	region_verify(&old);
	region_fill(&old, 0, old.pages, 900, 1);
	region_verify(r);
	return (long)r->addr;
}

static void mremap_dontunmap(void)
{
	int dom = domain_open("");
	struct peer p[2];

	start_shared(p, 2, dom);
	p[1].addr = (unsigned char *)peer_call(&p[1], op_mremap_dontunmap);
	peers_verify(p, 2);
	peer_migrate(&p[0], 0);
	peer_migrate(&p[1], 1);
	peers_verify(p, 2);
	peer_poke(&p[1], 2, 2, 2);
	peer_poke(&p[0], 3, 3, 3);
	peers_verify(p, 2);
	peer_merge(&p[1], dom);
	check_shared(&p[0], &p[1], 4, N - 4);
	migrate_and_check(p, 2, 8);
}

/* A child shares the frames at an address the parent has left. */
static void mremap_after_fork(void)
{
	int dom = domain_open("");
	struct peer p[3];

	start_shared(p, 2, dom);
	p[2] = peer_fork(&p[1]);
	peer_mremap(&p[1], 0, N);
	peers_verify(p, 3);
	migrate_and_check(&p[2], 1, 0);
	check_shared(&p[0], &p[2], 0, N);
	peer_mremap(&p[2], 0, N);
	peers_verify(p, 3);
	peer_migrate(&p[0], 1);
	peer_migrate(&p[2], 2);
	peer_poke(&p[2], 3, 3, 3);
	peers_verify(p, 3);
}

/* ---- mprotect ---------------------------------------------------------- */

static void mprotect_toggles(void)
{
	static const int prots[] = { PROT_READ, PROT_NONE, PROT_READ | PROT_EXEC };
	int dom = domain_open("");
	struct peer p[2];

	start_shared(p, 2, dom);
	for (size_t i = 0; i < ARRAY_SIZE(prots); i++) {
		CHECK_EQ(peer_mprotect(&p[0], 4, 20, prots[i]), 0);
		peer_verify(&p[1]);
		check_shared(&p[0], &p[1], 0, N);
		if (peer_migrate(&p[1], 8 + i))
			check_shared(&p[0], &p[1], 0, N);
		CHECK_EQ(peer_mprotect(&p[0], 4, 20, PROT_READ | PROT_WRITE), 0);
		peers_verify(p, 2);
		check_shared(&p[0], &p[1], 0, N);
	}
	for (size_t page = 0; page < N; page++)
		peer_poke(&p[page % 2], page, 0, page);
	peers_verify(p, 2);
}

static void merge_under(int prot, bool whole)
{
	int dom = domain_open("");
	struct peer p[2] = { peer_start(N), peer_start(N) };

	for (int i = 0; i < 2; i++) {
		peer_fill(&p[i], 0, N - 4, 1, 1);
		peer_fill(&p[i], N - 4, 4, SEED_ZERO, 0);
		CHECK_EQ(peer_mprotect(&p[i], whole ? 0 : 8, whole ? N : 8, prot),
			 0);
	}
	EXPECT(peer_merge(&p[0], dom), .published = N - 4, .zero = 4);
	EXPECT(merge(dom, p[1].pidfd, p[1].addr, N * PAGE_SIZE),
	       .merged = N - 4, .zero = 4);
	check_shared(&p[0], &p[1], 0, N);
	for (int i = 0; i < 2; i++)
		CHECK_EQ(peer_mprotect(&p[i], 0, N, PROT_READ | PROT_WRITE), 0);
	peers_verify(p, 2);
	check_shared(&p[0], &p[1], 0, N);
	for (size_t page = 0; page < N; page++)
		peer_poke(&p[page % 2], page, 0, page);
	peers_verify(p, 2);
}

static void merge_of_no_access(void)
{
	merge_under(PROT_NONE, true);
}

static void merge_of_read_only(void)
{
	merge_under(PROT_READ, true);
}

static void merge_of_partly_no_access(void)
{
	merge_under(PROT_NONE, false);
}

static sigjmp_buf fault_jump;

static void on_fault(int sig UNUSED)
{
	siglongjmp(fault_jump, 1);
}

static long op_faults_on_access(struct region *r, const long *arg)
{
	volatile u64 *w = region_page(r, arg[0]);
	int faults = 0;

	signal(SIGSEGV, on_fault);
	if (sigsetjmp(fault_jump, 1))
		faults++;
	else
		(void)*w;
	if (sigsetjmp(fault_jump, 1))
		faults++;
	else
		*w = 1;
	signal(SIGSEGV, SIG_DFL);
	return faults;
}

/* Merging must not give a page more rights than its area has. */
static void protections_hold(void)
{
	int dom = domain_open("");
	struct peer p[2] = { peer_start(N), peer_start(N) };

	for (int i = 0; i < 2; i++) {
		peer_fill(&p[i], 0, N, 1, 1);
		CHECK_EQ(peer_mprotect(&p[i], 0, 8, PROT_NONE), 0);
		CHECK_EQ(peer_mprotect(&p[i], 8, 8, PROT_READ), 0);
		peer_merge(&p[i], dom);
	}
	for (int i = 0; i < 2; i++) {
		CHECK_EQ(peer_call(&p[i], op_faults_on_access, 0), 2);
		CHECK_EQ(peer_call(&p[i], op_faults_on_access, 8), 1);
	}
	CHECK_EQ(unmerge(dom, p[1].pidfd, p[1].addr, N * PAGE_SIZE).unmerged, N);
	CHECK_EQ(peer_call(&p[1], op_faults_on_access, 0), 2);
	CHECK_EQ(peer_call(&p[1], op_faults_on_access, 8), 1);
	for (int i = 0; i < 2; i++)
		CHECK_EQ(peer_mprotect(&p[i], 0, N, PROT_READ | PROT_WRITE), 0);
	peers_verify(p, 2);
}

/* ---- madvise, mlock ---------------------------------------------------- */

static long op_discard(struct region *r, const long *arg)
{
	SYS(madvise(region_page(r, arg[0]), arg[1] * PAGE_SIZE, MADV_DONTNEED));
	region_model(r, arg[0], arg[1], SEED_ZERO, 0);
	return 0;
}

static void discard_inside(void)
{
	int dom = domain_open("");
	struct peer p[3];

	start_shared(p, 3, dom);
	peer_call(&p[1], op_discard, 6, 10);
	CHECK_EQ(frame_maps(peer_frame(&p[0], 6)), 2);
	CHECK_EQ(dksm_process(p[1].pid, "pages_merged"), N - 10);
	if (peer_migrate(&p[0], 7))
		check_shared(&p[0], &p[2], 0, N);
	peers_verify(p, 3);
	peer_fill(&p[1], 6, 10, 7, 1);
	EXPECT(peer_merge(&p[1], dom), .merged = 10,
	       .skipped[DKSM_SKIP_ALREADY] = N - 10);
	check_shared(&p[0], &p[1], 0, N);
	peer_call(&p[0], op_discard, 0, N);
	peers_verify(p, 3);
}

static void many_areas_with_holes(void)
{
	int dom = domain_open("");
	struct peer p[2] = { peer_start(4 * N), peer_start(4 * N) };
	struct dksm_report rep;

	for (int i = 0; i < 2; i++) {
		peer_fill(&p[i], 0, 4 * N, 1, 1);
		for (int page = 0; page < 4 * N; page += 4) {
			peer_call(&p[i], op_munmap, page, 1);
			CHECK_EQ(peer_mprotect(&p[i], page + 2, 1, PROT_READ), 0);
		}
		CHECK_EQ(peer_call(&p[i], op_merge, dom), -ENOMEM);
		rep = peer_report(&p[i]);
		if (i)
			EXPECT(rep, .merged = 3 * N);
		else
			EXPECT(rep, .published = 3 * N);
	}
	for (int page = 1; page < 4 * N; page += 4)
		check_shared(&p[0], &p[1], page, 3);
	peers_verify(p, 2);
	for (int page = 1; page < 4 * N; page += 16)
		if (peer_migrate(&p[1], page))
			check_shared(&p[0], &p[1], page, 3);
	peer_poke(&p[1], 5, 5, 5);
	peers_verify(p, 2);
}

/* Two areas that became one, and one that became three, after the merge. */
static void areas_joined_and_split(void)
{
	int dom = domain_open("");
	struct peer p[2] = { peer_start(N), peer_start(N) };

	for (int i = 0; i < 2; i++) {
		peer_fill(&p[i], 0, N, 1, 1);
		CHECK_EQ(peer_mprotect(&p[i], 0, N / 2, PROT_READ), 0);
		peer_merge(&p[i], dom);
		CHECK_EQ(peer_mprotect(&p[i], 0, N, PROT_READ | PROT_WRITE), 0);
	}
	migrate_and_check(p, 2, N / 2 - 1);
	migrate_and_check(p, 2, N / 2);
	CHECK_EQ(peer_mprotect(&p[1], 5, 3, PROT_READ), 0);
	migrate_and_check(p, 2, 4);
	migrate_and_check(p, 2, 6);
	migrate_and_check(p, 2, 9);
	peer_exit(&p[0]);
	peer_poke(&p[1], 4, 4, 4);
	peer_verify(&p[1]);
}

static long op_mlock(struct region *r, const long *arg)
{
	if (arg[0])
		return mlock(r->addr, region_bytes(r)) ? -errno : 0;
	return munlock(r->addr, region_bytes(r)) ? -errno : 0;
}

static void locked_memory(void)
{
	int dom = domain_open("");
	struct peer p[2] = { peer_start(N), peer_start(N) };

	for (int i = 0; i < 2; i++) {
		peer_fill(&p[i], 0, N, 1, 1);
		CHECK_EQ(peer_call(&p[i], op_mlock, 1), 0);
	}
	for (int i = 0; i < 2; i++) {
		peer_merge(&p[i], dom);
		peers_verify(p, 2);
	}
	peer_poke(&p[0], 1, 1, 1);
	peer_poke(&p[1], 2, 1, 1);
	CHECK_EQ(peer_call(&p[0], op_mlock, 0), 0);
	peers_verify(p, 2);
	peer_merge(&p[0], dom);
	peer_merge(&p[1], dom);
	peers_verify(p, 2);
	/* Locking a merged area that can be written makes its pages private. */
	CHECK_EQ(peer_call(&p[1], op_mlock, 0), 0);
	peer_merge(&p[1], dom);
	CHECK_EQ(peer_call(&p[1], op_mlock, 1), 0);
	peers_verify(p, 2);
	peer_exit(&p[0]);
	peer_verify(&p[1]);
}

const struct test tests_map[] = {
	{ "partial_munmap", partial_munmap, 0 },
	{ "new_memory_at_the_old_place", new_memory_at_the_old_place, 0 },
	{ "mremap_moves", mremap_moves, 0 },
	{ "mremap_of_the_first_owner", mremap_of_the_first_owner, 0 },
	{ "mremap_of_a_part", mremap_of_a_part, 0 },
	{ "mremap_shrinks_and_grows", mremap_shrinks_and_grows, 0 },
	{ "mremap_dontunmap", mremap_dontunmap, 0 },
	{ "mremap_after_fork", mremap_after_fork, 0 },
	{ "mprotect_toggles", mprotect_toggles, 0 },
	{ "merge_of_no_access", merge_of_no_access, 0 },
	{ "merge_of_read_only", merge_of_read_only, 0 },
	{ "merge_of_partly_no_access", merge_of_partly_no_access, 0 },
	{ "protections_hold", protections_hold, 0 },
	{ "discard_inside", discard_inside, 0 },
	{ "many_areas_with_holes", many_areas_with_holes, 0 },
	{ "areas_joined_and_split", areas_joined_and_split, 0 },
	{ "locked_memory", locked_memory, 0 },
	{ NULL, NULL, 0 },
};
