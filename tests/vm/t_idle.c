// SPDX-License-Identifier: MIT
/*
 * Merging when a guest is idle: what it populated while it booted is shared with
 * others, an event ends the work at once, and there is an end to it.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests.h"

#define DATA VM_PAGES
#define N 256			/* pages that the guest populates */
#define MORE 400		/* populated to have one more pass */
#define ROUNDS 3
#define PAGES (DATA + N + ROUNDS * MORE)

static struct peer vm_booted(int dom, unsigned int flags, u64 seed)
{
	struct peer p = vm_start(PAGES, 1);

	CHECK_EQ(dksm_attach(dom, p.pidfd, flags), 0);
	peer_call(&p, op_guest_fill, DATA, N / 2, seed, 1);
	peer_call(&p, op_guest_fill, DATA + N / 2, N / 2, SEED_ZERO, 0);
	return p;
}

static void check_guest(const struct peer *p, u64 seed)
{
	CHECK_EQ(peer_call(p, op_guest_verify, DATA, N / 2, seed, 1), 0);
	CHECK_EQ(peer_call(p, op_guest_verify, DATA + N / 2, N / 2, SEED_ZERO,
			   0), 0);
	peer_verify(p);
}

static u64 passes(const struct peer *p)
{
	return dksm_process(p->pid, "idle_passes");
}

/* Halts in such steps until that many passes are complete. */
static void wait_passes_of(const struct peer *p, u64 n, long ms)
{
	for (long left = 30000; passes(p) < n; left -= ms) {
		if (left <= 0)
			FAIL("%llu passes after 30 s, wanted %llu",
			     (unsigned long long)passes(p),
			     (unsigned long long)n);
		peer_call(p, op_guest_halt, 1, ms, 0, 0);
	}
}

static void wait_passes(const struct peer *p, u64 n)
{
	wait_passes_of(p, n, 50);
}

static void one_more_pass(const struct peer *p, size_t first)
{
	u64 before = passes(p);

	peer_call(p, op_guest_fill, first, MORE, 7000, 1);
	wait_passes(p, before + 1);
}

/*
 * A page that somebody held just then, or that the kernel moved since it was
 * seen, is for a later pass.  There is one when there is more memory, behind @end.
 */
static void check_shared_in_the_end(const struct peer *a, const struct peer *b,
				    size_t first, size_t n, size_t end)
{
	for (int i = 0; i < ROUNDS && count_shared(a, b, first, n) < n; i++) {
		test_note("%zu of %zu pages shared so far",
			  count_shared(a, b, first, n), n);
		one_more_pass(a, end + i * MORE);
		one_more_pass(b, end + i * MORE);
	}
	check_shared(a, b, first, n);
}

static void check_booted_shared(const struct peer *a, const struct peer *b)
{
	check_shared_in_the_end(a, b, DATA, N / 2, DATA + N);
}

static void idle_shares_what_booted(void)
{
	int dom = domain_open("");
	struct peer p[3];

	for (int i = 0; i < 3; i++) {
		p[i] = vm_booted(dom, 0, 500);
		check_private(p[i].pid, peer_page(&p[i], DATA), N);
		/* A page that waits for the LRU in some CPU is for the second. */
		wait_passes(&p[i], 2);
		/* No one has the same yet: nothing is published for nobody. */
		if (!i)
			CHECK_EQ(dksm_process_report(p[0].pid,
						     "idle").published, 0);
		CHECK_EQ(count_flag(p[i].pid, peer_page(&p[i], DATA + N / 2),
				    N / 2, KPF_ZERO_PAGE), N / 2);
		test_note("longest step %llu us",
			  (unsigned long long)dksm_process(p[i].pid,
						"idle_step_ns_max") / 1000);
	}
	check_booted_shared(&p[0], &p[1]);
	check_booted_shared(&p[0], &p[2]);
	for (int i = 0; i < 3; i++) {
		check_guest(&p[i], 500);
		peer_call(&p[i], op_guest_poke, DATA + i, 3, i + 1);
		peer_call(&p[i], op_guest_poke, DATA + N - 1 - i, 3, i + 1);
	}
	peers_verify(p, 3);
}

static void idle_can_be_off(void)
{
	int dom = domain_open("");
	struct peer p[2];

	for (int i = 0; i < 2; i++) {
		u64 before;

		p[i] = vm_booted(dom, DKSM_ATTACH_NO_IDLE, 500);
		before = passes(&p[i]);
		peer_call(&p[i], op_guest_halt, 2, 200, 0, 0);
		CHECK_EQ(passes(&p[i]), before);
		check_private(p[i].pid, peer_page(&p[i], DATA), N);
	}
}

/* Its first passes are over. */
static struct peer vm_settled(int dom)
{
	struct peer p = vm_start(PAGES, 1);

	CHECK_EQ(dksm_attach(dom, p.pidfd, 0), 0);
	peer_call(&p, op_guest_fill, DATA, N, 500, 1);
	wait_passes(&p, 2);
	return p;
}

/* Two passes, the second a second later; then only if there is more. */
static void idle_comes_to_an_end(void)
{
	struct peer p = vm_settled(domain_open(""));
	u64 n;

	CHECK_EQ(write_u64(DKSM_SYSFS "busy_percent", 0), 0);
	peer_call(&p, op_guest_halt, 60, 50, 0, 0);
	n = passes(&p);
	peer_call(&p, op_guest_halt, 60, 50, 0, 0);
	CHECK_EQ(passes(&p), n);
	peer_call(&p, op_guest_fill, DATA + N, MORE, 5000, 1);
	wait_passes(&p, n + 2);
	peer_call(&p, op_guest_halt, 60, 50, 0, 0);
	CHECK_EQ(passes(&p), n + 2);
	peer_verify(&p);
}

/* Events all the time: it gets somewhere all the same, and harms nobody. */
static void idle_between_events(void)
{
	int dom = domain_open("");
	struct peer p[2];
	u64 ns = 0;

	for (int i = 0; i < 2; i++) {
		p[i] = vm_booted(dom, 0, 500);
		/* The guest writes to the last pages before each halt. */
		for (int round = 0; round < 300 && passes(&p[i]) < 2; round++)
			peer_call(&p[i], op_guest_halt, 20, 1, DATA + N - 4, 4);
		CHECK_OP(passes(&p[i]), >=, 1);
		ns = dksm_process(p[i].pid, "idle_step_ns_max");
		test_note("longest step %llu us", (unsigned long long)ns / 1000);
	}
	peers_verify(p, 2);
	for (int i = 0; i < 2; i++)
		CHECK_EQ(peer_call(&p[i], op_guest_verify, DATA, N / 2, 500, 1),
			 0);
	check_booted_shared(&p[0], &p[1]);
}

/* One processor computes: the guest is not idle, and its time is its own. */
static void idle_means_all_processors(void)
{
	int dom = domain_open("");
	struct peer p = vm_start(PAGES, 3), q = vm_start(PAGES, 3);
	u64 before;

	CHECK_EQ(write_u64(DKSM_SYSFS "busy_percent", 0), 0);
	CHECK_EQ(dksm_attach(dom, p.pidfd, 0), 0);
	CHECK_EQ(dksm_attach(dom, q.pidfd, 0), 0);
	before = passes(&p);
	peer_call(&p, op_guest_fill, DATA, N, SEED_ZERO, 0);
	peer_call(&q, op_guest_fill, DATA, N, SEED_ZERO, 0);
	peer_call(&p, op_vm_others, 1);
	peer_call(&q, op_vm_others, 0);
	peer_call(&p, op_guest_halt, 4, 100, 0, 0);
	CHECK_EQ(passes(&p), before);
	wait_passes(&q, before + 2);
	CHECK_EQ(count_flag(q.pid, peer_page(&q, DATA), N, KPF_ZERO_PAGE), N);
}

static void idle_several_at_once(void)
{
	enum { VMS = 6 };
	int dom = domain_open(""), done = 0;
	struct peer p[VMS];

	for (int i = 0; i < VMS; i++)
		p[i] = vm_booted(dom, 0, 500);
	for (int round = 0; round < 300 && done < VMS; round++) {
		for (int i = 0; i < VMS; i++)
			peer_post(&p[i], op_guest_halt, 1, 100, 0, 0);
		done = 0;
		for (int i = 0; i < VMS; i++) {
			peer_result(&p[i]);
			done += passes(&p[i]) >= 2;
		}
	}
	CHECK_EQ(done, VMS);
	for (int i = 0; i < VMS; i++)
		check_guest(&p[i], 500);
	for (int i = 1; i < VMS; i++)
		check_booted_shared(&p[0], &p[i]);
}

/* Killed at any moment, some of them while others look for their pages. */
static void idle_cut_short_by_a_kill(void)
{
	int dom = domain_open("");
	struct peer stays = vm_booted(dom, 0, 500);
	u64 state = 54321;

	for (int round = 0; round < 6; round++) {
		struct peer p[3];

		for (int i = 0; i < 3; i++)
			p[i] = vm_booted(dom, 0, 500);
		for (int i = 0; i < 3; i++)
			peer_post(&p[i], op_guest_halt_for_ever);
		for (u64 spin = rnd(&state) % 20000000; spin; spin--)
			__asm__ volatile("");
		for (int i = 0; i < 3; i++)
			peer_kill(&p[i]);
		peer_call(&stays, op_guest_halt, 1, 10, 0, 0);
	}
	check_guest(&stays, 500);
}

static long op_huge(struct region *r, const long *arg UNUSED)
{
	return madvise(r->addr, region_bytes(r), MADV_HUGEPAGE) ? -errno : 0;
}

static void idle_splits_huge_pages(void)
{
	enum { HUGE = 6 * HUGE_SIZE / PAGE_SIZE, FIRST = 1024, N_HUGE = 512 };
	int dom = domain_open("");
	struct peer p[2];

	for (int i = 0; i < 2; i++) {
		p[i] = vm_start(HUGE, 1);
		CHECK_EQ(peer_call(&p[i], op_huge), 0);
		CHECK_EQ(dksm_attach(dom, p[i].pidfd, 0), 0);
		peer_call(&p[i], op_guest_fill, FIRST, N_HUGE, 500, 1);
		CHECK_OP(count_flag(p[i].pid, peer_page(&p[i], FIRST),
				    N_HUGE, KPF_THP), >, 0);
		wait_passes(&p[i], 2);
	}
	check_shared_in_the_end(&p[0], &p[1], FIRST, N_HUGE, FIRST + N_HUGE);
	CHECK_OP(dksm_process(p[1].pid, "huge_split"), >=, 1);
	for (int i = 0; i < 2; i++)
		CHECK_EQ(peer_call(&p[i], op_guest_verify, FIRST, N_HUGE, 500,
				   1), 0);
	peers_verify(p, 2);
}

/* Left alone at the start, since others wrote to it; but this one does not. */
static void idle_shares_what_was_not_written(void)
{
	enum { HOT = 32 };
	int dom = domain_open("");
	struct peer w[2], p[3];

	for (int i = 0; i < 2; i++) {
		w[i] = vm_start(PAGES, 1);
		peer_fill(&w[i], DATA, N, 100, 1);
		CHECK_EQ(dksm_attach(dom, w[i].pidfd, DKSM_ATTACH_NO_IDLE), 0);
		peer_call(&w[i], op_vm_run_once, 0);
	}
	for (int i = 0; i < 2; i++)
		for (int page = 0; page < HOT; page++)
			peer_call(&w[i], op_guest_poke, DATA + page, 9, 1);
	for (int i = 1; i < 3; i++) {
		p[i] = vm_start(PAGES, 1);
		peer_fill(&p[i], DATA, N, 100, 1);
		CHECK_EQ(dksm_attach(dom, p[i].pidfd, 0), 0);
		peer_call(&p[i], op_vm_run_once, 0);
		CHECK_OP(dksm_process_report(p[i].pid,
				"load").skipped[DKSM_SKIP_LEARNED], >=, HOT);
		check_private(p[i].pid, peer_page(&p[i], DATA), HOT);
		wait_passes(&p[i], 2);
	}
	check_shared_in_the_end(&p[1], &p[2], DATA, HOT, DATA + N);
	peers_verify(w, 2);
	peers_verify(p + 1, 2);
}

/* The kernel moves pages: then one is seen twice, in two places. */
static void idle_is_not_misled_by_moves(void)
{
	struct peer p = vm_settled(domain_open(""));

	for (int node = 0; node < 2; node++)
		if (peer_move(&p, DATA, N, node) < 0)
			SKIP("move_pages: %s", strerror(errno));
	peer_call(&p, op_guest_fill, DATA + N, MORE, 5000, 1);
	wait_passes(&p, 3);
	CHECK_EQ(dksm_process_report(p.pid, "idle").published, 0);
	peer_verify(&p);
}

/*
 * Gets some of @n frames that somebody has freed, and fills them with the contents of
 * @seed, @seed + 1, … in the order of @frame.
 */
static size_t reuse_frames(const u64 *frame, size_t n, u64 seed)
{
	enum { CHUNK = 4096, CHUNKS = 64 };
	size_t found = 0;
	u64 mine[CHUNK];

	for (int chunk = 0; chunk < CHUNKS && !found; chunk++) {
		struct region r = region_map(CHUNK);

		/* Not the next peer's, too. */
		SYS(madvise(r.addr, region_bytes(&r), MADV_DONTFORK));
		for (size_t i = 0; i < CHUNK; i++)
			region_poke(&r, i, 0, 1);
		frames_read(0, r.addr, CHUNK, mine);
		for (size_t i = 0; i < CHUNK * n; i++) {
			if (mine[i / n] != frame[i % n])
				continue;
			page_fill(region_page(&r, i / n), seed + i % n);
			found++;
		}
	}
	return found;
}

/*
 * A page that was seen may be somebody else's by now, who is in no domain. Whether it
 * has a content that one knows is nothing for members to find out.
 */
static void idle_looks_at_members_only(void)
{
	int dom = domain_open("");
	u64 frame[N];
	struct peer p;
	size_t found;
	cpu_set_t one;

	/* Who allocates gets what was freed last on that processor. */
	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	SYS(sched_setaffinity(0, sizeof(one), &one));
	p = vm_settled(dom);
	frames_read(p.pid, peer_page(&p, DATA), N, frame);
	peer_kill(&p);
	found = reuse_frames(frame, N, 500);
	test_note("%zu of %d frames are mine now", found, N);
	CHECK_OP(found, >, 0);
	p = vm_settled(dom);
	CHECK_EQ(dksm_process_report(p.pid, "idle").published, 0);
	peer_verify(&p);
}

/* Steps are short, but what they publish one after the other is kept together. */
static void idle_costs_little_memory(void)
{
	enum { MANY = 768 };
	int dom = domain_open("");
	struct peer p[2];
	u64 before = 0, bytes;

	for (int i = 0; i < 2; i++) {
		p[i] = vm_start(DATA + MANY + ROUNDS * MORE, 1);
		CHECK_EQ(dksm_attach(dom, p[i].pidfd, 0), 0);
		peer_call(&p[i], op_guest_fill, DATA, MANY, 500, 1);
		/* Together within one idle moment; not across them. */
		wait_passes_of(&p[i], 2, 1000);
		if (!i)		/* the tables of the domain */
			before = dksm_domain("", "metadata_bytes");
	}
	bytes = dksm_domain("", "metadata_bytes") - before;
	test_note("%llu bytes a page", (unsigned long long)bytes / MANY);
	CHECK_OP(bytes, <=, 96 * MANY);
	check_shared_in_the_end(&p[0], &p[1], DATA, MANY, DATA + MANY);
	peers_verify(p, 2);
}

const struct test tests_idle[] = {
	{ "idle_shares_what_booted", idle_shares_what_booted, 0 },
	{ "idle_can_be_off", idle_can_be_off, 0 },
	{ "idle_comes_to_an_end", idle_comes_to_an_end, TEST_SLOW },
	{ "idle_between_events", idle_between_events, TEST_SLOW },
	{ "idle_means_all_processors", idle_means_all_processors, 0 },
	{ "idle_several_at_once", idle_several_at_once, TEST_SLOW },
	{ "idle_cut_short_by_a_kill", idle_cut_short_by_a_kill, TEST_SLOW },
	{ "idle_splits_huge_pages", idle_splits_huge_pages, TEST_SLOW },
	{ "idle_shares_what_was_not_written",
	  idle_shares_what_was_not_written, TEST_SLOW },
	{ "idle_is_not_misled_by_moves", idle_is_not_misled_by_moves, TEST_SLOW },
	{ "idle_looks_at_members_only", idle_looks_at_members_only, 0 },
	{ "idle_costs_little_memory", idle_costs_little_memory, TEST_SLOW },
	{ NULL, NULL, 0 },
};
