// SPDX-License-Identifier: MIT
/*
 * Sharing on second sight: who has nobody to share with pays nothing; a start is
 * bounded, and hears signals; whoever attaches a running guest gets it merged at
 * once; guests that are never idle are merged, too; and nobody can spoil what others
 * have from it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "tests.h"

#define DATA VM_PAGES
#define N 256
#define HUGE (HUGE_SIZE / PAGE_SIZE)

static u64 passes(const struct peer *p)
{
	return dksm_process(p->pid, "idle_passes");
}

static void halt_all(const struct peer *p, int n, int rounds)
{
	for (int round = 0; round < rounds; round++)
		for (int i = 0; i < n; i++)
			peer_call(&p[i], op_guest_halt, 2, 50, 0, 0);
}

/* ---- the start --------------------------------------------------------- */

static struct dksm_report load_report(const struct peer *p)
{
	struct dksm_report rep = dksm_process_report(p->pid, "load");

	CHECK_EQ(rep.scanned, rep.merged + rep.published + rep.zero +
			      report_skipped(&rep));
	return rep;
}

/* No more pages than the knob says; the rest when they are idle. */
static void load_is_bounded(void)
{
	enum { PAGES = 2048, BOUND = 256, STEP = 64 };
	int dom = domain_open("");
	struct peer p[2];

	CHECK_EQ(write_u64(DKSM_SYSFS "load_pages", BOUND), 0);
	for (int i = 0; i < 2; i++) {
		p[i] = vm_start(DATA + PAGES, 1);
		CHECK_EQ(dksm_attach(dom, p[i].pidfd, 0), 0);
		peer_fill(&p[i], DATA, PAGES, 500, 1);
		peer_call(&p[i], op_vm_run_once, 0);
		CHECK_EQ(dksm_process(p[i].pid, "vms"), 1);
		CHECK_OP(load_report(&p[i]).scanned, <=, BOUND + STEP);
	}
	CHECK_OP(count_shared(&p[0], &p[1], DATA, PAGES), <=, BOUND + STEP);
	/* To share it anew counts as three. */
	CHECK_OP(count_shared(&p[0], &p[1], DATA, PAGES), >=, BOUND / 3 - STEP);
	for (int i = 0; i < 200 && count_shared(&p[0], &p[1], DATA, PAGES) < PAGES; i++)
		halt_all(p, 2, 1);
	check_shared(&p[0], &p[1], DATA, PAGES);
	peers_verify(p, 2);
}

static void alarm_rings(int signal UNUSED)
{
}

/* Runs with an alarm every @arg[0] us; what KVM_RUN returned. */
static long op_vm_run_alarmed(struct region *r, const long *arg)
{
	struct sigaction action = { .sa_handler = alarm_rings };
	const struct timespec us = { .tv_nsec = arg[0] * 1000 };
	struct itimerspec soon = { us, us };
	struct sigevent event = {
		.sigev_notify = SIGEV_THREAD_ID,
		.sigev_signo = SIGALRM,
		._sigev_un._tid = gettid(),
	};
	timer_t timer;
	long err;

	SYS(sigaction(SIGALRM, &action, NULL));
	SYS(timer_create(CLOCK_MONOTONIC, &event, &timer));
	SYS(timer_settime(timer, 0, &soon, NULL));
	err = op_vm_run_once(r, (long[]){ 0 });
	SYS(timer_delete(timer));
	return err;
}

/*
 * A signal ends it, and the next KVM_RUN goes on where it was.  (Of a first one that
 * is interrupted, Linux may begin the system call again by itself.)
 */
static void check_load_in_parts(int dom, const char *suffix)
{
	enum { PAGES = 8192 };
	struct peer p[2];
	u64 parts;

	CHECK_EQ(write_u64(DKSM_SYSFS "load_pages", PAGES * 4), 0);
	for (int i = 0; i < 2; i++) {
		p[i] = vm_start(DATA + PAGES, 1);
		CHECK_EQ(dksm_attach(dom, p[i].pidfd, DKSM_ATTACH_NO_IDLE), 0);
		peer_fill(&p[i], DATA, PAGES, 500, 1);
		while (peer_call(&p[i], op_vm_run_alarmed, 5000) == -EINTR)
			CHECK_OP(load_report(&p[i]).scanned, <=, PAGES + DATA);
		CHECK_EQ(dksm_process(p[i].pid, "vms"), 1);
	}
	parts = dksm_domain(suffix, "merge_calls");
	test_note("in %llu parts", (unsigned long long)parts);
	CHECK_OP(parts, >=, 4);
	CHECK_EQ(load_report(&p[0]).scanned, load_report(&p[1]).scanned);
	CHECK_OP(count_shared(&p[0], &p[1], DATA, PAGES), >=, PAGES - 64);
	peers_verify(p, 2);
}

static void load_hears_signals(void)
{
	check_load_in_parts(domain_open(""), "");
}

static void untrusted_load_hears_signals(void)
{
	int dom = dksm_open();

	CHECK_EQ(dksm_bind(dom, domain_name("-untrusted"), DKSM_DOMAIN_CREATE |
			   DKSM_DOMAIN_UNTRUSTED), 0);
	check_load_in_parts(dom, "-untrusted");
}

/* ---- huge pages -------------------------------------------------------- */

static long op_huge(struct region *r, const long *arg UNUSED)
{
	return madvise(r->addr, region_bytes(r), MADV_HUGEPAGE) ? -errno : 0;
}

/*
 * Two guests with so many huge pages of which so many pages each are equal; small
 * pages in who is not in the set @huge.
 */
static void start_huge(struct peer *p, int dom, size_t pages, size_t equal,
		       unsigned int huge)
{
	for (int i = 0; i < 2; i++) {
		p[i] = vm_start(2 * HUGE + pages, 1);
		if (huge & 1 << i)
			CHECK_EQ(peer_call(&p[i], op_huge), 0);
		/* None of zeroes. */
		peer_fill(&p[i], DATA, 2 * HUGE + pages - DATA, 100000 * (i + 1), 1);
		for (size_t at = 0; equal && at < pages; at += HUGE)
			peer_fill(&p[i], HUGE + at, equal, 900000 + at, 1);
		CHECK_EQ(dksm_attach(dom, p[i].pidfd, 0), 0);
		peer_call(&p[i], op_vm_run_once, 0);
	}
	halt_all(p, 2, 20);
}

static size_t count_huge(const struct peer *p, size_t pages)
{
	return count_flag(p->pid, peer_page(p, HUGE), pages, KPF_THP);
}

static void check_stay_huge(size_t equal)
{
	enum { PAGES = 4 * HUGE };
	int dom = domain_open("");
	struct peer p[2];

	start_huge(p, dom, PAGES, equal, 3);
	for (int i = 0; i < 2; i++) {
		CHECK_OP(passes(&p[i]), >=, 2);
		CHECK_OP(count_huge(&p[i], PAGES), >=, PAGES - 2 * HUGE);
		CHECK_EQ(dksm_process(p[i].pid, "huge_split"), 0);
	}
	peers_verify(p, 2);
}

static void huge_pages_alone_stay(void)
{
	check_stay_huge(0);
}

static void huge_pages_with_little_in_common_stay(void)
{
	check_stay_huge(8);
}

static void split_what_is_in_common(unsigned int huge)
{
	enum { PAGES = 4 * HUGE, EQUAL = 128 };
	int dom = domain_open("");
	struct peer p[2];

	start_huge(p, dom, PAGES, EQUAL, huge);
	for (size_t at = HUGE; at < HUGE + PAGES; at += HUGE) {
		for (int i = 0; i < 150 && count_shared(&p[0], &p[1], at, EQUAL) < EQUAL; i++)
			halt_all(p, 2, 1);
		check_shared(&p[0], &p[1], at, EQUAL);
	}
	peers_verify(p, 2);
}

static void huge_pages_with_much_in_common_split(void)
{
	split_what_is_in_common(3);
}

static void huge_pages_of_the_first_split(void)
{
	split_what_is_in_common(1);
}

static void huge_pages_of_the_second_split(void)
{
	split_what_is_in_common(2);
}

static long op_collapse(struct region *r, const long *arg)
{
	return madvise(region_page(r, arg[0]), arg[1] * PAGE_SIZE, MADV_COLLAPSE) ?
	       -errno : 0;
}

/* What was split for too little becomes huge again as with KSM, and stays so. */
static void huge_pages_collapse_again(void)
{
	enum { PAGES = 2 * HUGE, EQUAL = 8 };
	int dom = domain_open("");
	struct peer p[2];

	CHECK_EQ(write_u64(DKSM_SYSFS "huge_min", 1), 0);
	start_huge(p, dom, PAGES, EQUAL, 3);
	check_shared(&p[0], &p[1], HUGE, EQUAL);
	CHECK_EQ(count_huge(&p[1], PAGES), 0);
	CHECK_EQ(write_u64(DKSM_SYSFS "huge_min", 64), 0);
	CHECK_EQ(peer_call(&p[1], op_collapse, HUGE, PAGES), 0);
	CHECK_EQ(count_huge(&p[1], PAGES), PAGES);
	halt_all(p, 2, 20);
	CHECK_EQ(count_huge(&p[1], PAGES), PAGES);
	peers_verify(p, 2);
}

/* ---- attaching what runs ----------------------------------------------- */

static void check_attached_shared(const struct peer *p, int dom)
{
	for (int i = 0; i < 2; i++)
		CHECK_EQ(dksm_attach(dom, p[i].pidfd, 0), 0);
	check_shared(&p[0], &p[1], DATA, N);
	CHECK_OP(dksm_process_report(p[1].pid, "attach").published, >=, N);
}

static void vm_pair(struct peer *p, unsigned int vcpus)
{
	for (int i = 0; i < 2; i++) {
		p[i] = vm_start(DATA + N, vcpus);
		peer_call(&p[i], op_guest_fill, DATA, N, 500, 1);
	}
}

/* Their VMM does not run them at all. */
static void attach_of_paused(void)
{
	struct peer p[2];

	vm_pair(p, 1);
	check_attached_shared(p, domain_open(""));
	peers_verify(p, 2);
}

static void attach_of_halted(void)
{
	struct peer p[2];

	vm_pair(p, 1);
	for (int i = 0; i < 2; i++)
		peer_post(&p[i], op_guest_halt_for_ever);
	sleep_ms(200);
	check_attached_shared(p, domain_open(""));
	for (int i = 0; i < 2; i++)
		peer_kill(&p[i]);
}

static void attach_of_computing(void)
{
	struct peer p[2];

	vm_pair(p, 2);
	for (int i = 0; i < 2; i++)
		peer_call(&p[i], op_vm_others, 1);
	check_attached_shared(p, domain_open(""));
	peers_verify(p, 2);
}

/*
 * A relative outside the domain has a page that its child, a member, had once: the
 * child must not learn from its own pages what is in it.
 */
static void attach_asks_who_maps_a_page(void)
{
	int dom = domain_open("");
	struct peer p[2];

	p[0] = peer_start(2 * N);
	peer_fill(&p[0], 0, 2 * N, 500, 1);
	p[1] = peer_fork(&p[0]);
	peer_call(&p[1], op_vm_open, 1);	/* merged at once, for that */
	CHECK_EQ(dksm_attach(dom, p[1].pidfd, 0), 0);
	CHECK_OP(dksm_process_report(p[1].pid, "attach").scanned, <, N);
	/* The child writes something else there, and the guess elsewhere. */
	peer_fill(&p[1], 0, N, 7000, 1);
	peer_fill(&p[1], N, N, 500, 1);
	CHECK_EQ(dksm_attach(dom, p[1].pidfd, 0), 0);
	CHECK_EQ(count_merged(p[1].pid, peer_page(&p[1], 0), 2 * N), 0);
	peers_verify(p, 2);
}

/* ---- guests that are never idle ---------------------------------------- */

/* Within a minute; four on kernels that check themselves, which are ten times as slow. */
static void busy_guests_are_merged(void)
{
	bool checks = !access("/proc/self/fail-nth", F_OK) ||
		      !access("/sys/kernel/debug/kcsan", F_OK);
	u64 begin = now_ms(), took = 0, most = checks ? 240000 : 60000;
	int dom = domain_open("");
	struct peer p[2];

	for (int i = 0; i < 2; i++) {
		p[i] = vm_start(DATA + N, 2);
		CHECK_EQ(dksm_attach(dom, p[i].pidfd, 0), 0);
		peer_call(&p[i], op_vm_others, 1);
		peer_call(&p[i], op_guest_fill, DATA, N, 500, 1);
	}
	while (count_shared(&p[0], &p[1], DATA, N) < N && took < most) {
		sleep_ms(200);
		took = now_ms() - begin;
	}
	for (int i = 0; i < 2; i++)
		test_note("%llu passes, %llu hashed, %llu ns", (unsigned long long)passes(&p[i]),
			  (unsigned long long)dksm_process(p[i].pid, "idle_hashed"),
			  (unsigned long long)dksm_process_report(p[i].pid, "idle").ns);
	check_shared(&p[0], &p[1], DATA, N);
	for (int i = 0; i < 2; i++)
		CHECK_OP(dksm_process_report(p[i].pid, "idle").ns, <=,
			 took * 1000000 / 100 * 2);
	peers_verify(p, 2);
}

/* ---- what others do ---------------------------------------------------- */

/* The first guest of an image rewrites all of it at once: the next are as well off. */
static void learning_is_not_poisoned(void)
{
	enum { OWN = 16384 };
	int dom = domain_open("");
	struct peer big, p[4];
	u64 before;

	for (int i = 0; i < 4; i++) {
		p[i] = vm_start(DATA + N, 1);
		peer_fill(&p[i], DATA, N, 500, 1);
		CHECK_EQ(dksm_attach(dom, p[i].pidfd, DKSM_ATTACH_NO_IDLE), 0);
		peer_call(&p[i], op_vm_run_once, 0);
		if (!i)
			peer_call(&p[0], op_guest_fill, DATA, N, 7000, 1);
	}
	for (int i = 2; i < 4; i++)
		check_shared(&p[1], &p[i], DATA, N);
	/* One with much of its own changes nothing. */
	before = dksm_domain("", "learned_volatile");
	CHECK_OP(before, <=, DATA);
	big = vm_start(DATA + OWN, 1);
	peer_fill(&big, DATA, OWN, 1000000, 1);
	CHECK_EQ(dksm_attach(dom, big.pidfd, DKSM_ATTACH_NO_IDLE), 0);
	peer_call(&big, op_vm_run_once, 0);
	peer_call(&big, op_guest_fill, DATA, OWN, 2000000, 1);
	CHECK_OP(dksm_domain("", "learned_volatile"), <=, before + DATA);
	peers_verify(p, 4);
	peer_verify(&big);
}

/* What a VMM does to its memory as soon as it was merged says nothing of the next. */
static void check_teaches_nothing(peer_fn fn)
{
	int dom = domain_open("");
	struct peer p[4];
	long err;

	for (int i = 0; i < 4; i++) {
		p[i] = vm_start(DATA + N, 1);
		peer_fill(&p[i], DATA, N, 500, 1);
		CHECK_EQ(dksm_attach(dom, p[i].pidfd, DKSM_ATTACH_NO_IDLE), 0);
		peer_call(&p[i], op_vm_run_once, 0);
		if (i == 1)
			check_shared(&p[0], &p[1], DATA, N);
		for (int k = 0; i == 1 && k < 2; k++) {
			err = peer_call_args(&p[k], fn, (long[4]){ DATA, N });
			if (err == -ENOENT)
				SKIP("no gup_test");
			CHECK_EQ(err, 0);
			check_private(p[k].pid, peer_page(&p[k], DATA), N);
		}
	}
	CHECK_OP(dksm_domain("", "learned_volatile"), <=, DATA);
	check_shared(&p[2], &p[3], DATA, N);
	peers_verify(p, 4);
}

static void learning_heeds_no_pins(void)
{
	check_teaches_nothing(op_pin);
}

/* As from a disk, to where it was. */
static long op_read(struct region *r, const long *arg)
{
	int fd = SYS(memfd_create("disk", MFD_CLOEXEC));
	size_t len = arg[1] * PAGE_SIZE;

	CHECK_EQ(SYS(pwrite(fd, region_page(r, arg[0]), len, 0)), (ssize_t)len);
	CHECK_EQ(SYS(pread(fd, region_page(r, arg[0]), len, 0)), (ssize_t)len);
	close(fd);
	return 0;
}

static void learning_heeds_no_reads(void)
{
	check_teaches_nothing(op_read);
}

const struct test tests_second[] = {
	{ "load_is_bounded", load_is_bounded, TEST_SLOW },
	{ "untrusted_load_hears_signals", untrusted_load_hears_signals, TEST_SLOW },
	{ "load_hears_signals", load_hears_signals, TEST_SLOW },
	{ "huge_pages_alone_stay", huge_pages_alone_stay, TEST_SLOW },
	{ "huge_pages_with_little_in_common_stay",
	  huge_pages_with_little_in_common_stay, TEST_SLOW },
	{ "huge_pages_with_much_in_common_split",
	  huge_pages_with_much_in_common_split, TEST_SLOW },
	{ "huge_pages_of_the_first_split", huge_pages_of_the_first_split, TEST_SLOW },
	{ "huge_pages_of_the_second_split", huge_pages_of_the_second_split, TEST_SLOW },
	{ "huge_pages_collapse_again", huge_pages_collapse_again, TEST_SLOW },
	{ "attach_of_paused", attach_of_paused, 0 },
	{ "attach_of_halted", attach_of_halted, 0 },
	{ "attach_of_computing", attach_of_computing, 0 },
	{ "attach_asks_who_maps_a_page", attach_asks_who_maps_a_page, 0 },
	{ "busy_guests_are_merged", busy_guests_are_merged, TEST_SLOW },
	{ "learning_heeds_no_pins", learning_heeds_no_pins, 0 },
	{ "learning_heeds_no_reads", learning_heeds_no_reads, 0 },
	{ "learning_is_not_poisoned", learning_is_not_poisoned, TEST_SLOW },
	{ NULL, NULL, 0 },
};
