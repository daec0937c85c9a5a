// SPDX-License-Identifier: MIT
/*
 * Sharing that lasts: whatever changed guests' memory, what is equal again is shared
 * again when they are idle, and nothing is done while nothing changes.
 */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "tests.h"

#define DATA VM_PAGES
#define N 256
#define AGAIN_MS 30000
#define FEW 16

/* Two idle guests that share @n pages from DATA on. */
static void start_sharing(struct peer *p, int dom, size_t n)
{
	for (int i = 0; i < 2; i++) {
		p[i] = vm_start(DATA + n, 1);
		CHECK_EQ(dksm_attach(dom, p[i].pidfd, 0), 0);
		peer_call(&p[i], op_guest_fill, DATA, n, 1000, 1);
	}
}

/* Both halt now and then, for so long at most. */
static void wait_shared(const struct peer *p, size_t first, size_t n)
{
	u64 end = now_ms() + AGAIN_MS;

	while (count_shared(&p[0], &p[1], first, n) < n && now_ms() < end)
		for (int i = 0; i < 2; i++)
			peer_call(&p[i], op_guest_halt, 2, 50, 0, 0);
	if (count_shared(&p[0], &p[1], first, n) < n)
		for (int i = 0; i < 2; i++)
			test_note("%llu passes, %llu rounds, %llu pages changed",
				  (unsigned long long)dksm_process(p[i].pid, "idle_passes"),
				  (unsigned long long)dksm_process(p[i].pid, "idle_rounds"),
				  (unsigned long long)dksm_process(p[i].pid, "idle_changed"));
	check_shared(&p[0], &p[1], first, n);
}

/* They rest until there is nothing more to do. */
static void settle(const struct peer *p)
{
	for (int round = 0; round < 15; round++)
		for (int i = 0; i < 2; i++)
			peer_call(&p[i], op_guest_halt, 2, 50, 0, 0);
}

static void verify_both(const struct peer *p, size_t n, u64 seed)
{
	for (int i = 0; i < 2; i++)
		CHECK_EQ(peer_call(&p[i], op_guest_verify, DATA, n, seed, 1), 0);
	peers_verify(p, 2);
}

static void lasting_rewritten(void)
{
	struct peer p[2];

	start_sharing(p, domain_open(""), N);
	wait_shared(p, DATA, N);
	for (u64 seed = 2000; seed <= 4000; seed += 1000) {
		settle(p);
		for (int i = 0; i < 2; i++)
			peer_call(&p[i], op_guest_fill, DATA, N, seed, 1);
		CHECK_EQ(count_shared(&p[0], &p[1], DATA, N), 0);
		wait_shared(p, DATA, N);
		verify_both(p, N, seed);
	}
}

/* A little of much: no more than one in a hundred may be lost. */
static void lasting_rewritten_in_part(void)
{
	enum { MUCH = 4096, PART = 64 };
	struct peer p[2];

	start_sharing(p, domain_open(""), MUCH);
	wait_shared(p, DATA, MUCH);
	settle(p);
	for (int i = 0; i < 2; i++)
		peer_call(&p[i], op_guest_fill, DATA + 100, PART, 9000, 1);
	wait_shared(p, DATA + 100, PART);
	for (int i = 0; i < 2; i++)
		CHECK_EQ(peer_call(&p[i], op_guest_verify, DATA + 100, PART, 9000, 1), 0);
	peers_verify(p, 2);
}

static void lasting_swapped(void)
{
	const char *group = cgroup_make("");
	int dom = domain_open("");
	char path[256];
	struct peer p[2];

	CHECK_EQ(swap_start(64 << 20), 0);
	for (int i = 0; i < 2; i++) {
		p[i] = vm_start(DATA + N, 1);
		cgroup_enter(group, p[i].pid);
		CHECK_EQ(dksm_attach(dom, p[i].pidfd, 0), 0);
		peer_call(&p[i], op_guest_fill, DATA, N, 1000, 1);
	}
	wait_shared(p, DATA, N);
	settle(p);
	snprintf(path, sizeof(path), "%s/memory.reclaim", group);
	for (int i = 0; i < 20; i++)
		write_str(path, "4M");
	verify_both(p, N, 1000);
	CHECK_EQ(count_shared(&p[0], &p[1], DATA, N), 0);
	wait_shared(p, DATA, N);
	verify_both(p, N, 1000);
}

/* As a balloon does it, which the guest fills again when it gets it back. */
static void lasting_refilled(void)
{
	struct peer p[2];

	start_sharing(p, domain_open(""), N);
	wait_shared(p, DATA, N);
	settle(p);
	for (int i = 0; i < 2; i++) {
		CHECK_EQ(peer_madvise(&p[i], DATA, N / 2, MADV_DONTNEED), 0);
		settle(p);
		peer_call(&p[i], op_guest_fill, DATA, N / 2, 1000, 1);
	}
	wait_shared(p, DATA, N);
	verify_both(p, N, 1000);
}

/* The VMM loads the image once more, and the guest boots once more. */
static void lasting_reset(void)
{
	struct peer p[2];

	start_sharing(p, domain_open(""), N);
	wait_shared(p, DATA, N);
	settle(p);
	for (int i = 0; i < 2; i++) {
		peer_fill(&p[i], DATA, N / 2, 6000, 1);
		peer_call(&p[i], op_vm_load);
		peer_call(&p[i], op_guest_fill, DATA + N / 2, N / 2, 6000 + N / 2, 1);
	}
	wait_shared(p, DATA, N);
	verify_both(p, N, 6000);
}

/*
 * Pages that nobody else had, so that nothing tells when they are written to, become
 * equal to others while their guests work.
 */
static void lasting_overwritten(void)
{
	enum { PAGES = 1024 };
	int dom = domain_open("");
	struct peer p[2];
	u64 end;

	for (int i = 0; i < 2; i++) {
		p[i] = vm_start(DATA + PAGES, 1);
		CHECK_EQ(dksm_attach(dom, p[i].pidfd, 0), 0);
		peer_call(&p[i], op_guest_fill, DATA, PAGES, 100000 * (i + 1), 1);
	}
	settle(p);
	check_private(p[0].pid, peer_page(&p[0], DATA), PAGES);
	for (int i = 0; i < 2; i++)
		for (end = now_ms() + 3000; now_ms() < end;)
			peer_call(&p[i], op_guest_fill, DATA, PAGES, 5000, 1);
	wait_shared(p, DATA, PAGES);
	verify_both(p, PAGES, 5000);
}

/* Two guests that do nothing for so many seconds but to halt again now and then. */
static void rest(const struct peer *p, int seconds)
{
	u64 end = now_ms() + seconds * 1000;

	while (now_ms() < end)
		for (int i = 0; i < 2; i++)
			peer_call(&p[i], op_guest_halt, 1, 1000, 0, 0);
}

/* Nothing changes: no time is spent, from half a minute on after the last round. */
static void lasting_costs_nothing(void)
{
	struct peer p[2];
	u64 ns, passes;

	start_sharing(p, domain_open(""), N);
	wait_shared(p, DATA, N);
	settle(p);
	/* The last round may come late: what others owe is seen to after a while. */
	do {
		passes = dksm_domain("", "idle_passes");
		rest(p, 36);
	} while (dksm_domain("", "idle_passes") > passes);
	ns = dksm_domain("", "idle_ns");
	rest(p, 20);
	CHECK_EQ(dksm_domain("", "idle_ns"), ns);
	CHECK_EQ(dksm_domain("", "idle_passes"), passes);
	verify_both(p, N, 1000);
}

/*
 * What a guest writes all the time is merged and copied again and again, but ever less
 * often: passes do not follow each other at once.
 */
static void lasting_is_not_thrashing(void)
{
	u64 passes, copies, begin = now_ms();
	struct peer p[2];

	start_sharing(p, domain_open(""), N);
	wait_shared(p, DATA, N);
	passes = dksm_process(p[0].pid, "idle_passes");
	copies = dksm_process(p[0].pid, "cow_breaks");
	for (u64 round = 0; round < 150; round++)
		for (int i = 0; i < 2; i++) {
			peer_call(&p[i], op_guest_fill, DATA, N / 2, 10000 + round * N, 1);
			peer_call(&p[i], op_guest_halt, 2, 50, 0, 0);
		}
	passes = dksm_process(p[0].pid, "idle_passes") - passes;
	copies = dksm_process(p[0].pid, "cow_breaks") - copies;
	test_note("%llu passes and %llu copies", (unsigned long long)passes,
		  (unsigned long long)copies);
	/* Two for each rest of 16 s, and those before it is that long. */
	CHECK_OP(passes, <=, 10 + (now_ms() - begin) / 8000);
	/* But for so few that it is not worth a pass. */
	for (u64 end = now_ms() + AGAIN_MS; now_ms() < end &&
	     count_shared(&p[0], &p[1], DATA, N) < N - FEW;)
		for (int i = 0; i < 2; i++)
			peer_call(&p[i], op_guest_halt, 2, 50, 0, 0);
	CHECK_OP(count_shared(&p[0], &p[1], DATA, N), >=, N - FEW);
	peers_verify(p, 2);
}

/* Between two guests with the same memory come others with memory of their own. */
static void strangers_between(size_t strangers)
{
	enum { PAGES = 2048 };
	int dom = domain_open("");
	struct peer small = vm_start(DATA + 64, 1), p[2], other;

	CHECK_EQ(dksm_attach(dom, small.pidfd, 0), 0);
	peer_call(&small, op_guest_halt, 20, 50, 0, 0);
	start_sharing(p, dom, PAGES);
	for (int round = 0; round < 15; round++)
		peer_call(&p[0], op_guest_halt, 2, 50, 0, 0);
	for (size_t i = 0; i < strangers; i++) {
		other = vm_start(DATA + PAGES, 1);
		CHECK_EQ(dksm_attach(dom, other.pidfd, 0), 0);
		peer_call(&other, op_guest_fill, DATA, PAGES, 100000 * (i + 1), 1);
		for (int round = 0; round < 15; round++)
			peer_call(&other, op_guest_halt, 2, 50, 0, 0);
	}
	wait_shared(p, DATA, PAGES);
	verify_both(p, PAGES, 1000);
}

static void lasting_past_one_stranger(void)
{
	strangers_between(1);
}

static void lasting_past_twelve_strangers(void)
{
	strangers_between(12);
}

const struct test tests_lasting[] = {
	{ "lasting_rewritten", lasting_rewritten, TEST_SLOW },
	{ "lasting_rewritten_in_part", lasting_rewritten_in_part, TEST_SLOW },
	{ "lasting_swapped", lasting_swapped, 0 },
	{ "lasting_refilled", lasting_refilled, TEST_SLOW },
	{ "lasting_reset", lasting_reset, TEST_SLOW },
	{ "lasting_overwritten", lasting_overwritten, TEST_SLOW },
	{ "lasting_costs_nothing", lasting_costs_nothing, TEST_SLOW },
	{ "lasting_is_not_thrashing", lasting_is_not_thrashing, TEST_SLOW },
	{ "lasting_past_one_stranger", lasting_past_one_stranger, TEST_SLOW },
	{ "lasting_past_twelve_strangers", lasting_past_twelve_strangers, TEST_SLOW },
	{ NULL, NULL, 0 },
};
