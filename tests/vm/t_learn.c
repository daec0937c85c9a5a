// SPDX-License-Identifier: MIT
/*
 * What is written to soon after loading is recognised in the next virtual machine
 * and left alone; what is not, is shared all the same.
 */
#include <errno.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tests.h"

#define DATA VM_PAGES
#define N 48			/* pages of data */
#define HOT 12			/* the first of them are written to */
#define PAGES (DATA + N)

static struct peer vm_filled(int dom, unsigned int flags, u64 seed, u64 step)
{
	struct peer p = vm_start(PAGES, 1);

	peer_fill(&p, DATA, N, seed, step);
	CHECK_EQ(dksm_attach(dom, p.pidfd, flags | DKSM_ATTACH_NO_IDLE), 0);
	return p;
}

static struct peer vm_loaded(int dom, unsigned int flags)
{
	return vm_filled(dom, flags, 100, 1);
}

/* Both share all of it before either boots. */
static void pair_loaded(struct peer *p, int dom, unsigned int flags)
{
	for (int i = 0; i < 2; i++) {
		p[i] = vm_loaded(dom, flags);
		peer_call(&p[i], op_vm_run_once, 0);
	}
	check_shared(&p[0], &p[1], DATA, N);
}

static void boot(const struct peer *p, size_t hot)
{
	for (size_t i = 0; i < hot; i++)
		peer_call(p, op_guest_poke, DATA + i, 9, i + 1);
	CHECK_EQ(peer_call(p, op_guest_verify, DATA + hot, N - hot, 100 + hot,
			   1), 0);
	peer_verify(p);
}

static u64 breaks(const struct peer *p)
{
	return dksm_process(p->pid, "cow_breaks");
}

static u64 learned(const struct peer *p)
{
	return dksm_process_report(p->pid, "load").skipped[DKSM_SKIP_LEARNED];
}

/* Page faults that it takes to write to each of some pages. */
static long op_faults(struct region *r, const long *arg)
{
	struct rusage before, after;

	SYS(getrusage(RUSAGE_SELF, &before));
	for (long i = 0; i < arg[1]; i++) {
		volatile u64 *word = region_page(r, arg[0] + i);
		u64 same = *word;

		*word = same;
	}
	SYS(getrusage(RUSAGE_SELF, &after));
	return after.ru_minflt - before.ru_minflt;
}

/* What is left alone may be written to as if there had been no merge. */
static void learn_costs_no_faults(void)
{
	int dom = domain_open("");
	struct peer p[3];

	pair_loaded(p, dom, 0);
	boot(&p[0], HOT);
	boot(&p[1], HOT);
	p[2] = vm_loaded(dom, 0);
	peer_call(&p[2], op_vm_run_once, 0);
	CHECK_OP(learned(&p[2]), >=, HOT);
	CHECK_OP(peer_call(&p[2], op_faults, DATA, HOT), <, HOT / 2);
	CHECK_OP(peer_call(&p[2], op_faults, DATA + HOT, N - HOT), >=, N - HOT);
	peers_verify(p, 3);
}

/* From the third machine on: no copies, and nothing shareable is lost. */
static void learn_what_is_written(void)
{
	int dom = domain_open("");
	struct peer p[4];

	pair_loaded(p, dom, 0);
	for (int i = 0; i < 2; i++) {
		CHECK_EQ(learned(&p[i]), 0);
		boot(&p[i], HOT);
		CHECK_OP(breaks(&p[i]), >=, HOT);
	}
	for (int i = 2; i < 4; i++) {
		p[i] = vm_loaded(dom, 0);
		boot(&p[i], HOT);
		CHECK_OP(learned(&p[i]), >=, HOT);
		/* What their processors write to may be shared, once. */
		CHECK_OP(breaks(&p[i]), <=, 2);
		check_shared(&p[0], &p[i], DATA + HOT, N - HOT);
		check_private(p[i].pid, peer_page(&p[i], DATA), HOT);
	}
	CHECK_OP(dksm_domain("", "learned_volatile"), >=, HOT);
	peers_verify(p, 4);
}

/* Pages of zeroes are told by where they are. */
static void learn_zero_pages(void)
{
	int dom = domain_open("");
	struct peer p[3];

	for (int i = 0; i < 3; i++) {
		p[i] = vm_filled(dom, 0, SEED_ZERO, 0);
		peer_call(&p[i], op_vm_run_once, 0);
		check_shared(&p[0], &p[i], DATA + HOT, N - HOT);
		if (i) {
			check_private(p[i].pid, peer_page(&p[i], DATA), HOT);
			CHECK_OP(learned(&p[i]), >=, HOT);
			CHECK_OP(peer_call(&p[i], op_faults, DATA, HOT), <, HOT / 2);
		}
		for (size_t j = 0; j < HOT; j++)
			peer_call(&p[i], op_guest_poke, DATA + j, 9, j + 1);
	}
	peers_verify(p, 3);
}

/* One of several that write does not make a content volatile; most do. */
static void learn_from_the_majority(void)
{
	int dom = domain_open("");
	struct peer p[5];

	for (int i = 0; i < 4; i++) {
		p[i] = vm_loaded(dom, 0);
		CHECK_EQ(dksm_domain("", "learned_volatile"), 0);
	}
	for (int i = 0; i < 4; i++)	/* nothing but the merge */
		peer_call(&p[i], op_vm_run_once, 0);
	peer_call(&p[0], op_guest_poke, DATA, 0, 1);
	p[4] = vm_loaded(dom, 0);
	peer_call(&p[4], op_vm_run_once, 0);
	check_shared(&p[1], &p[4], DATA, N);
	peer_exit(&p[4]);
	for (int i = 1; i < 4; i++)
		peer_call(&p[i], op_guest_poke, DATA, 0, 1);
	p[4] = vm_loaded(dom, 0);
	peer_call(&p[4], op_vm_run_once, 0);
	check_private(p[4].pid, peer_page(&p[4], DATA), 1);
	check_shared(&p[1], &p[4], DATA + 1, N - 1);
}

/* After so many machines a content gets another chance. */
static void learn_ages(void)
{
	int dom = domain_open(""), machines = 1, shared_at = 0;
	struct peer p[2];

	CHECK_EQ(write_u64(DKSM_SYSFS "learn", 32769), -EINVAL);
	CHECK_EQ(write_u64(DKSM_SYSFS "learn", 8), 0);
	pair_loaded(p, dom, 0);
	for (int i = 0; i < 2; i++)
		boot(&p[i], 1);
	for (int i = 0; i < 2; i++)
		peer_exit(&p[i]);
	while (!shared_at && machines < 40) {
		for (int i = 0; i < 2; i++) {
			p[i] = vm_loaded(dom, 0);
			boot(&p[i], 0);	/* the workload has changed */
		}
		machines += 2;
		if (peer_frame(&p[0], DATA) == peer_frame(&p[1], DATA))
			shared_at = machines;
		for (int i = 0; i < 2; i++)
			peer_exit(&p[i]);
	}
	test_note("shared again by machine %d", shared_at);
	CHECK_OP(shared_at, >=, 8);
	CHECK_OP(shared_at, <=, 16);
}

static void learn_can_be_off(void)
{
	int dom = domain_open("");
	struct peer p[4];

	pair_loaded(p, dom, DKSM_ATTACH_NO_LEARN);
	CHECK_EQ(write_u64(DKSM_SYSFS "learn", 0), 0);
	pair_loaded(p + 2, dom, 0);
	for (int i = 0; i < 4; i++) {
		/* The first two with the knob on. */
		CHECK_EQ(write_u64(DKSM_SYSFS "learn", i < 2 ? 128 : 0), 0);
		boot(&p[i], HOT);
		CHECK_OP(breaks(&p[i]), >=, HOT);
		CHECK_EQ(learned(&p[i]), 0);
	}
	CHECK_EQ(dksm_domain("", "learned_volatile"), 0);
	peers_verify(p, 4);
}

/* Many contents: the table is as large as members pay for, and no larger. */
static void learn_is_bounded(void)
{
	enum { LOTS = 2000, VMS = 8 };
	int dom = domain_open("");
	struct peer p[VMS];
	u64 before;

	for (int i = 0; i < VMS; i++) {
		p[i] = vm_start(DATA + LOTS, 1);
		peer_fill(&p[i], DATA, LOTS, 1000, 1);
		CHECK_EQ(dksm_attach(dom, p[i].pidfd, DKSM_ATTACH_NO_IDLE), 0);
		peer_call(&p[i], op_vm_run_once, 0);
	}
	before = dksm_domain("", "metadata_bytes");
	for (int i = 0; i < VMS; i++)
		peer_call(&p[i], op_guest_fill, DATA, LOTS, 1, 0);
	CHECK_OP(dksm_domain("", "learned_volatile"), <=, LOTS + DATA);
	/* So many guests pay for all. */
	CHECK_OP(dksm_domain("", "learned_volatile"), >, LOTS - LOTS / 25);
	CHECK_OP(dksm_domain("", "metadata_bytes"), <=, before);
	peers_verify(p, VMS);
}

const struct test tests_learn[] = {
	{ "learn_costs_no_faults", learn_costs_no_faults, 0 },
	{ "learn_what_is_written", learn_what_is_written, 0 },
	{ "learn_zero_pages", learn_zero_pages, 0 },
	{ "learn_from_the_majority", learn_from_the_majority, TEST_SLOW },
	{ "learn_ages", learn_ages, TEST_SLOW },
	{ "learn_can_be_off", learn_can_be_off, TEST_SLOW },
	{ "learn_is_bounded", learn_is_bounded, TEST_SLOW },
	{ NULL, NULL, 0 },
};
