// SPDX-License-Identifier: MIT
/*
 * The first KVM_RUN of a virtual machine of an attached process: it merges what is
 * loaded, all of it, before the guest does anything. With the orders in which real
 * VMMs make memslots, load and run; with what else memslots may cover; and with
 * many at once, or killed.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests.h"

#define DATA VM_PAGES		/* first page that is the test's */
#define N 64			/* pages of data */
#define PAGES (DATA + N)

/* What waits for the LRU on another processor is not merged at the start. */
static long op_stay(struct region *r UNUSED, const long *arg UNUSED)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(sched_getcpu(), &set);
	return sched_setaffinity(0, sizeof(set), &set) ? -errno : 0;
}

/* Loaded as any other; returns before it has run. */
static struct peer vm_loaded(int dom, unsigned int vcpus, u64 seed)
{
	struct peer p = vm_start(PAGES, vcpus);

	if (vcpus == 1)
		CHECK_EQ(peer_call(&p, op_stay), 0);
	if (dom >= 0)
		CHECK_EQ(dksm_attach(dom, p.pidfd, DKSM_ATTACH_NO_IDLE), 0);
	peer_fill(&p, DATA, N, seed, 1);
	return p;
}

/* Seen from inside: all but the pages from @first on, @n of them. */
static void check_guest(const struct peer *p, u64 seed, size_t first, size_t n)
{
	CHECK_EQ(peer_call(p, op_guest_verify, DATA, first, seed, 1), 0);
	CHECK_EQ(peer_call(p, op_guest_verify, DATA + first + n, N - first - n,
			   seed + first + n, 1), 0);
}

/*
 * A start waits for nobody: what another start had in its hands, or was on its way to
 * the LRU, is missed by guests that are not merged when idle.  Attaching merges it.
 */
static void attach_again(int dom, const struct peer *p, int n)
{
	for (int round = 0; round < 2; round++)
		for (int i = 0; i < n; i++)
			CHECK_EQ(dksm_attach(dom, p[i].pidfd, DKSM_ATTACH_NO_IDLE), 0);
}

static struct dksm_report loaded(const struct peer *p)
{
	struct dksm_report rep = dksm_process_report(p->pid, "load");

	CHECK_EQ(rep.scanned, rep.merged + rep.published + rep.zero +
			      report_skipped(&rep));
	return rep;
}

/* Alone; together with the first; together with those two. */
static void check_loaded(const struct peer *p, int machine)
{
	struct dksm_report rep = loaded(p);

	if (machine == 0)
		CHECK_OP(rep.skipped[DKSM_SKIP_ALONE], >=, N);
	else if (machine == 1)
		CHECK_OP(rep.published, >=, N - 1);
	else
		CHECK_OP(rep.merged, >=, N - 1);
}

static void load_merges_before_the_guest_runs(void)
{
	int dom = domain_open("");
	struct peer p[3];

	for (int i = 0; i < 3; i++) {
		p[i] = vm_loaded(dom, 1, 7);
		CHECK_EQ(dksm_process(p[i].pid, "vms"), 0);
		check_private(p[i].pid, peer_page(&p[i], DATA), N);
		/* The very first thing that this guest does is to write. */
		peer_call(&p[i], op_guest_poke, DATA + i, 5, i + 1);
		CHECK_EQ(dksm_process(p[i].pid, "vms"), 1);
		check_loaded(&p[i], i);
		CHECK_OP(dksm_process(p[i].pid, "cow_breaks"), >=, i ? 1 : 0);
		/* Nobody pays for sharing that does not happen. */
		if (!i) {
			check_private(p[0].pid, peer_page(&p[0], DATA), N);
			CHECK_EQ(dksm_process(p[0].pid, "cow_breaks"), 0);
		}
		check_guest(&p[i], 7, i, 1);
	}
	check_shared(&p[0], &p[1], DATA + 3, N - 3);
	check_shared(&p[0], &p[2], DATA + 3, N - 3);
	for (int i = 0; i < 3; i++)
		check_private(p[i].pid, peer_page(&p[i], DATA + i), 1);
	peers_verify(p, 3);
	for (int i = 0; i < 3; i++)
		check_guest(&p[i], 7, i, 1);
	CHECK_EQ(dksm_process(p[0].pid, "vms"), 1);
}

static void load_leaves_others_alone(void)
{
	int dom = domain_open("");
	struct peer p = vm_loaded(-1, 1, 7), q = vm_loaded(dom, 1, 7);

	CHECK_EQ(dksm_detach(dom, q.pidfd), 0);
	check_guest(&p, 7, 0, 0);
	check_guest(&q, 7, 0, 0);
	check_private(p.pid, peer_page(&p, DATA), N);
	check_private(q.pid, peer_page(&q, DATA), N);
	CHECK_EQ(dksm_process(q.pid, "vms"), 0);
	/* Attached while they run: merged at once. */
	CHECK_EQ(dksm_attach(dom, p.pidfd, DKSM_ATTACH_NO_IDLE), 0);
	CHECK_EQ(dksm_attach(dom, q.pidfd, DKSM_ATTACH_NO_IDLE), 0);
	check_shared(&p, &q, DATA, N);
	check_guest(&p, 7, 0, 0);
	check_guest(&q, 7, 0, 0);
	CHECK_EQ(dksm_process(p.pid, "vms"), 0);
	CHECK_OP(dksm_process_report(q.pid, "attach").published, >=, N);
}

/* Firecracker: slots first. libkrun: load first, and a first run that is none. */
static void load_in_any_order(void)
{
	int dom = domain_open("");
	struct peer p = vm_loaded(dom, 1, 7), q = peer_start(PAGES);

	check_guest(&p, 7, 0, 0);
	peer_fill(&q, DATA, N, 7, 1);
	peer_call(&q, op_vm_load);
	CHECK_EQ(dksm_attach(dom, q.pidfd, DKSM_ATTACH_NO_IDLE), 0);
	peer_call(&q, op_vm_open, 1);
	peer_call(&q, op_vm_slot, 0, PAGES);
	CHECK_EQ(peer_call(&q, op_vm_run_once, 1), -EINTR);
	CHECK_EQ(dksm_process(q.pid, "vms"), 0);
	CHECK_EQ(peer_call(&q, op_vm_run_signalled), -EINTR);
	CHECK_EQ(dksm_process(q.pid, "vms"), 0);
	check_guest(&q, 7, 0, 0);
	CHECK_EQ(dksm_process(q.pid, "vms"), 1);
	CHECK_OP(count_shared(&p, &q, DATA, N), >=, N / 2);
	attach_again(dom, &p, 1);
	attach_again(dom, &q, 1);
	check_shared(&p, &q, DATA, N);
}

/*
 * Eight processors, each of which writes at once. Had one entered before the merge
 * was over, its page would not have been equal to the other machine's any more.
 */
static void load_holds_all_processors_back(void)
{
	int dom = domain_open("");

	for (int round = 0; round < 3; round++) {
		struct peer p = vm_loaded(dom, 1, 7), q = vm_loaded(dom, 8, 7);
		struct dksm_report rep;

		check_guest(&p, 7, 0, 0);
		peer_call(&q, op_vm_race, DATA, 3);
		rep = dksm_process_report(q.pid, "load");
		/* Less what waits for the LRU on another processor. */
		CHECK_OP(rep.published, >=, N / 2);
		CHECK_EQ(dksm_process(q.pid, "vms"), 1);
		CHECK_OP(dksm_process(q.pid, "cow_breaks"), >=, 8);
		check_guest(&p, 7, 0, 0);
		check_guest(&q, 7, 0, 8);
		peer_verify(&q);
		peer_exit(&p);
		peer_exit(&q);
	}
}

static void load_of_two_machines_in_a_process(void)
{
	int dom = domain_open("");
	struct peer p = vm_loaded(dom, 1, 7), q = vm_loaded(dom, 1, 7);

	check_guest(&q, 7, 0, 0);
	check_guest(&p, 7, 0, 0);
	CHECK_EQ(dksm_process(p.pid, "vms"), 1);
	/* The second one has the same memory: all is merged already. */
	peer_call(&p, op_vm_open, 1);
	peer_call(&p, op_vm_slot, 0, PAGES);
	check_guest(&p, 7, 0, 0);
	CHECK_EQ(dksm_process(p.pid, "vms"), 2);
	CHECK_OP(dksm_process_report(p.pid, "load").skipped[DKSM_SKIP_ALREADY],
		 >=, N);
}

/* ---- other memory ------------------------------------------------------ */

static long op_map(struct region *r UNUSED, const long *arg)
{
	int flags = arg[0] ? MAP_SHARED : MAP_PRIVATE;
	int fd = SYS(memfd_create("slot", arg[2] ? MFD_HUGETLB : 0));
	void *p;

	SYS(ftruncate(fd, arg[1]));
	p = SYS(mmap(NULL, arg[1], PROT_READ | PROT_WRITE, flags, fd, 0));
	close(fd);
	/* A file page of a private mapping is only read. */
	if (arg[0])
		memset(p, 1, arg[1]);
	else
		for (long i = 0; i < arg[1]; i += PAGE_SIZE)
			(void)*(volatile char *)((char *)p + i);
	return (long)p;
}

static long op_hole(struct region *r, const long *arg)
{
	return munmap(region_page(r, arg[0]), arg[1] * PAGE_SIZE) ? -errno : 0;
}

static void load_counts_what_it_skips(void)
{
	int dom = domain_open("");
	struct peer p = vm_loaded(dom, 1, 7);
	struct dksm_report rep;
	long at;

	at = peer_call(&p, op_map, 1, 16 * PAGE_SIZE, 0);
	peer_call(&p, op_vm_slot, 1024, 16, at);
	at = peer_call(&p, op_map, 0, 8 * PAGE_SIZE, 0);
	peer_call(&p, op_vm_slot, 2048, 8, at);
	CHECK_EQ(write_u64("/proc/sys/vm/nr_hugepages", 1), 0);
	at = peer_call(&p, op_map, 1, HUGE_SIZE, 1);
	peer_call(&p, op_vm_slot, 4096, 512, at);
	CHECK_EQ(peer_call(&p, op_hole, DATA + N - 4, 4), 0);
	peer_call(&p, op_guest_verify, DATA, N - 4, 7, 1);
	rep = dksm_process_report(p.pid, "load");
	CHECK_EQ(rep.skipped[DKSM_SKIP_SHARED], 16);
	CHECK_EQ(rep.skipped[DKSM_SKIP_FILE], 8);
	CHECK_EQ(rep.skipped[DKSM_SKIP_HUGETLB], 512);
	CHECK_EQ(rep.skipped[DKSM_SKIP_UNMAPPED], 4);
	/* Two pages of the guest's own were never touched. */
	CHECK_EQ(rep.skipped[DKSM_SKIP_ALONE] + rep.zero, PAGES - 4 - 2);
}

/* Added later: not the first run any more. */
static void load_happens_once(void)
{
	int dom = domain_open("");
	struct peer p = vm_loaded(dom, 1, 7);
	struct dksm_report rep;
	long at;

	check_guest(&p, 7, 0, 0);
	rep = dksm_process_report(p.pid, "load");
	at = peer_call(&p, op_map, 1, 16 * PAGE_SIZE, 0);
	peer_call(&p, op_vm_slot, 1024, 16, at);
	peer_call(&p, op_guest_fill, DATA, N, 7, 1);
	check_guest(&p, 7, 0, 0);
	CHECK_EQ(dksm_process_report(p.pid, "load").scanned, rep.scanned);
	check_private(p.pid, peer_page(&p, DATA), N);
}

/* ---- seccomp ----------------------------------------------------------- */

#define ALLOW(call) \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##call, 0, 1), \
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

/* What Firecracker leaves to its virtual processors' threads, or less. */
static long op_filter(struct region *r UNUSED, const long *arg UNUSED)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			 offsetof(struct seccomp_data, nr)),
		ALLOW(ioctl), ALLOW(futex), ALLOW(read), ALLOW(write),
		ALLOW(close), ALLOW(exit), ALLOW(exit_group),
		ALLOW(rt_sigreturn), ALLOW(sched_yield),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog program = { ARRAY_SIZE(filter), filter };

	SYS(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	SYS(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
	return 0;
}

static void load_behind_seccomp(void)
{
	int dom = domain_open("");
	struct peer p[2] = { vm_loaded(dom, 1, 7), vm_loaded(dom, 1, 7) };

	for (int i = 0; i < 2; i++) {
		peer_call(&p[i], op_filter);
		check_guest(&p[i], 7, 0, 0);
		CHECK_EQ(dksm_process(p[i].pid, "vms"), 1);
	}
	CHECK_OP(count_shared(&p[0], &p[1], DATA, N), >=, N / 2);
	attach_again(dom, p, 2);
	check_shared(&p[0], &p[1], DATA, N);
}

/* ---- many -------------------------------------------------------------- */

#define MANY 64

static void load_of_many_at_once(void)
{
	int dom = domain_open("");
	static struct peer p[MANY];

	for (int i = 0; i < MANY; i++)
		p[i] = vm_loaded(dom, 1, 7);
	for (int i = 0; i < MANY; i++)
		peer_post(&p[i], op_guest_verify, DATA, N, 7, 1);
	for (int i = 0; i < MANY; i++)
		CHECK_EQ(peer_result(&p[i]), 0);
	attach_again(dom, p, MANY);
	for (int i = 1; i < MANY; i++)
		check_shared(&p[0], &p[i], DATA, N);
	/* Each writes somewhere; all others must not see it. */
	for (int i = 0; i < MANY; i++)
		peer_call(&p[i], op_guest_poke, DATA + i % N, 1, i + 1);
	for (int i = 0; i < MANY; i += 4)
		check_guest(&p[i], 7, i % N, 1);
	peers_verify(p, MANY);
}

static long op_run_and_halt(struct region *r, const long *arg)
{
	long bad = op_guest_verify(r, (long[4]){ DATA, N, arg[0], 1 });

	return bad ? bad : op_guest_halt_for_ever(r, arg);
}

/* One that stays has the same memory as those that are killed at any moment. */
static void load_cut_short_by_a_kill(void)
{
	int dom = domain_open("");
	struct peer stays = vm_loaded(dom, 1, 7);
	u64 state = 12345;

	check_guest(&stays, 7, 0, 0);
	for (int round = 0; round < 8; round++) {
		struct peer p[3];

		for (int i = 0; i < 3; i++)
			p[i] = vm_loaded(dom, 1 + i, 7);
		for (int i = 0; i < 3; i++)
			peer_post(&p[i], op_run_and_halt, 7);
		for (u64 spin = rnd(&state) % 3000000; spin; spin--)
			__asm__ volatile("");
		for (int i = 0; i < 3; i++)
			peer_kill(&p[i]);
	}
	check_guest(&stays, 7, 0, 0);
	peer_verify(&stays);
}

/* ---- a busy host ------------------------------------------------------- */

static void stay_on(pid_t pid, int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	SYS(sched_setaffinity(pid, sizeof(set), &set));
}

/* Lets nobody else run on that processor for so long. */
static pid_t hog_start(int cpu, u64 ms)
{
	const struct sched_param fifo = { .sched_priority = 50 };
	u64 end = now_ms() + ms;
	pid_t pid = SYS(fork());

	if (pid)
		return pid;
	stay_on(0, cpu);
	SYS(sched_setscheduler(0, SCHED_FIFO, &fifo));
	while (now_ms() < end)
		;
	_exit(0);
}

/* Nothing of a start is done by other processors. */
static void load_waits_for_no_processor(void)
{
	int dom = domain_open(""), here = sched_getcpu(), other = 0, status;
	struct peer p[2];
	cpu_set_t set;
	u64 begin;
	pid_t hog;

	SYS(sched_getaffinity(0, sizeof(set), &set));
	while (other < CPU_SETSIZE && (!CPU_ISSET(other, &set) || other == here))
		other++;
	if (other == CPU_SETSIZE)
		SKIP("there is one processor only");
	CHECK_EQ(write_str("/proc/sys/kernel/sched_rt_runtime_us", "-1"), 0);
	stay_on(0, here);
	for (int i = 0; i < 2; i++)
		p[i] = vm_loaded(dom, 1, 500);
	CHECK_EQ(peer_call(&p[0], op_vm_run_once, 0), 0);
	hog = hog_start(other, 4000);
	sleep_ms(200);
	begin = now_ms();
	CHECK_EQ(peer_call(&p[1], op_vm_run_once, 0), 0);
	CHECK_OP(now_ms() - begin, <, 2000);
	CHECK_EQ(waitpid(hog, &status, WNOHANG), 0);
	CHECK_EQ(dksm_process(p[1].pid, "vms"), 1);
	CHECK_OP(count_shared(&p[0], &p[1], DATA, N), >=, N / 2);
	SYS(waitpid(hog, &status, 0));
	peers_verify(p, 2);
}

const struct test tests_load[] = {
	{ "load_merges_before_the_guest_runs",
	  load_merges_before_the_guest_runs, 0 },
	{ "load_leaves_others_alone", load_leaves_others_alone, 0 },
	{ "load_in_any_order", load_in_any_order, 0 },
	{ "load_holds_all_processors_back", load_holds_all_processors_back, TEST_SLOW },
	{ "load_of_two_machines_in_a_process",
	  load_of_two_machines_in_a_process, 0 },
	{ "load_counts_what_it_skips", load_counts_what_it_skips, 0 },
	{ "load_happens_once", load_happens_once, 0 },
	{ "load_behind_seccomp", load_behind_seccomp, 0 },
	{ "load_of_many_at_once", load_of_many_at_once, TEST_SLOW },
	{ "load_waits_for_no_processor", load_waits_for_no_processor, 0 },
	{ "load_cut_short_by_a_kill", load_cut_short_by_a_kill, TEST_SLOW },
	{ NULL, NULL, 0 },
};
