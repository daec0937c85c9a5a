// SPDX-License-Identifier: MIT
/*
 * Random operations on virtual machines that share memory: what guests, their VMM
 * and others do to it at the same time, with VMMs that are killed in the middle.
 *
 * Guests are reset, given less memory and more, stopped, attached in the middle of what they
 * do, and interrupted while they are loaded.
 *
 * Each driver has one machine at a time, in this test's domain.  The VMM has a model
 * of its memory (struct region), the driver one of what the guest must see.
 *
 * Environment: TEST_SEED, TEST_SECONDS; TEST_ATTACH=0 leaves DKSM alone, as on a kernel
 * that has none; TEST_COUNTS is a file for counts, written every second (tests/soak).
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests.h"

enum { DRIVERS = 2, DATA = 96, RUN = 16, SEEDS = 12 };

static struct {
	atomic_ullong operations, machines, verified, killed, idle;
} *count;

/* -1 without DKSM. */
static int domain;
static u64 rng;

/* The machine of this driver; patched pages are the VMM's business alone. */
static struct {
	struct peer vmm;
	u64 seed[DATA];
	bool patched[DATA], attached;
} machine;

/* ---- in the VMM -------------------------------------------------------- */

static long op_host_fill(struct region *r, const long *arg)
{
	region_fill(r, arg[0], arg[1], arg[2], arg[3]);
	return 0;
}

static long op_host_poke(struct region *r, const long *arg)
{
	region_poke(r, arg[0], arg[1], arg[2]);
	return 0;
}

/* As a balloon does: given to the host, and then filled anew. */
static long op_host_refill(struct region *r, const long *arg)
{
	SYS(madvise(region_page(r, arg[0]), arg[1] * PAGE_SIZE, MADV_DONTNEED));
	return op_host_fill(r, arg);
}

static void alarm_rings(int signal UNUSED)
{
}

/* A signal in @arg[0] us, during what comes then: KVM_RUN returns, or a load is cut short. */
static long op_alarm(struct region *r UNUSED, const long *arg)
{
	struct sigaction action = { .sa_handler = alarm_rings, .sa_flags = SA_RESTART };
	struct itimerval soon = { .it_value.tv_usec = arg[0] };

	SYS(sigaction(SIGALRM, &action, NULL));
	SYS(setitimer(ITIMER_REAL, &soon, NULL));
	return 0;
}

/* May be refused, as by a page that is in use just now. */
static long op_advise(struct region *r, const long *arg)
{
	madvise(region_page(r, arg[0]), arg[1] * PAGE_SIZE, arg[2]);
	return 0;
}

/* ---- a driver ---------------------------------------------------------- */

struct op {
	peer_fn fn;
	long arg[4];
};

static void machine_model(const struct op *op)
{
	for (long i = 0; i < op->arg[1]; i++) {
		machine.seed[op->arg[0] - VM_PAGES + i] = op->arg[2] + i * op->arg[3];
		machine.patched[op->arg[0] - VM_PAGES + i] = false;
	}
}

static struct op draw_fill(peer_fn fn)
{
	long first = rnd(&rng) % DATA, n = 1 + rnd(&rng) % RUN;
	struct op op = { fn, { VM_PAGES + first, n < DATA - first ? n : DATA - first,
			       rnd(&rng) % SEEDS, rnd(&rng) % 2 } };

	machine_model(&op);
	return op;
}

static struct op draw_poke(peer_fn fn)
{
	long page = rnd(&rng) % DATA;

	machine.patched[page] = true;
	/* Always the same word of it: the VMM's model has room for one. */
	return (struct op){ fn, { VM_PAGES + page, page, rnd(&rng) % 4 } };
}

static struct op draw_look(void)
{
	long page = rnd(&rng) % DATA;

	if (machine.patched[page])
		return (struct op){ op_verify, { 0 } };
	return (struct op){ op_guest_verify, { VM_PAGES + page, 1, machine.seed[page] } };
}

static struct op draw_advice(void)
{
	static const int advice[] = { MADV_PAGEOUT, MADV_COLD, MADV_COLLAPSE };

	return (struct op){ op_advise, { VM_PAGES + rnd(&rng) % (DATA - RUN), RUN,
					 advice[rnd(&rng) % ARRAY_SIZE(advice)] } };
}

static struct op draw_alarm(void)
{
	return (struct op){ op_alarm, { 1 + rnd(&rng) % 3000 } };
}

/* All of its memory is loaded once more. */
static struct op draw_reset(void)
{
	struct op op = { op_host_fill, { VM_PAGES, DATA, 1, 1 } };

	machine_model(&op);
	return op;
}

static struct op draw(void)
{
	/* The last ones need DKSM. */
	switch (rnd(&rng) % (domain < 0 ? 16 : 19)) {
	case 0 ... 3:
		return draw_fill(op_guest_fill);
	case 4:
		return draw_fill(op_host_fill);
	case 5:
		return draw_poke(op_guest_poke);
	case 6:
		return draw_poke(op_host_poke);
	case 7 ... 9:
		return draw_look();
	case 10:
		return draw_advice();
	case 11:
		return (struct op){ op_guest_halt, { 2, 30 } };
	case 12:
		return (struct op){ op_verify, { 0 } };
	case 13:
		return draw_fill(op_host_refill);
	case 14:
		return draw_alarm();
	case 15:
		return draw_reset();
	case 16:
		return (struct op){ op_unmerge, { domain } };
	default:
		return (struct op){ op_merge, { domain } };
	}
}

/* While it is in the middle of something. */
static void attach(const struct peer *p)
{
	CHECK_EQ(dksm_attach(domain, p->pidfd, 0), 0);
	machine.attached = true;
}

/* It stands still meanwhile. */
static void stop_a_while(const struct peer *p)
{
	SYS(kill(p->pid, SIGSTOP));
	if (domain >= 0 && rnd(&rng) % 2)
		attach(p);
	else
		usleep(rnd(&rng) % 2000);
	SYS(kill(p->pid, SIGCONT));
}

/* What somebody else does to the VMM while it is busy. */
static void disturb(void)
{
	const struct peer *p = &machine.vmm;

	switch (rnd(&rng) % 12) {
	case 0:
		if (domain >= 0)
			merge(domain, p->pidfd, NULL, 0);
		break;
	case 1:
		if (domain >= 0)
			unmerge(domain, p->pidfd, peer_page(p, VM_PAGES), RUN * PAGE_SIZE);
		break;
	case 2:
		peer_move(p, VM_PAGES, DATA, rnd(&rng) % 2);
		break;
	case 3:
		if (domain >= 0)
			attach(p);
		break;
	case 4:
		stop_a_while(p);
		break;
	default:
		break;
	}
}

static void machine_start(void)
{
	struct op op = { op_host_fill, { VM_PAGES, DATA, 1, 1 } };

	machine.vmm = vm_start(VM_PAGES + DATA, 1);
	peer_call_args(&machine.vmm, op.fn, op.arg);
	machine_model(&op);
	if (rnd(&rng) % 2) {
		op = draw_alarm();
		peer_call_args(&machine.vmm, op.fn, op.arg);
	}
	machine.attached = domain >= 0 && rnd(&rng) % 4;
	if (machine.attached)
		CHECK_EQ(dksm_attach(domain, machine.vmm.pidfd, 0), 0);
	count->machines++;
}

static void idle_count(void)
{
	if (machine.attached)
		count->idle += !!dksm_process(machine.vmm.pid, "idle_passes");
}

/* At any point of what it is doing. */
static void machine_kill(void)
{
	idle_count();
	usleep(rnd(&rng) % 4000);
	peer_kill(&machine.vmm);
	count->killed++;
}

static void machine_end(void)
{
	peer_verify(&machine.vmm);
	idle_count();
	peer_exit(&machine.vmm);
}

/* False when it is time for another machine; this one may have been killed then. */
static bool operate(void)
{
	struct op op = draw();
	long ret;

	count->operations++;
	peer_post_args(&machine.vmm, op.fn, op.arg);
	disturb();
	if (rnd(&rng) % 32 == 0) {
		machine_kill();
		return false;
	}
	ret = peer_result(&machine.vmm);
	if (ret && (op.fn == op_guest_verify || ret != -ENOMEM))
		FAIL("an operation returned %ld", ret);
	count->verified += op.fn == op_guest_verify || op.fn == op_verify;
	return rnd(&rng) % 64;
}

static _Noreturn void drive(u64 seed, u64 end)
{
	rng = seed * 0x9e3779b97f4a7c15ULL | 1;
	while (now_ms() < end) {
		bool alive = true;

		machine_start();
		while (alive && now_ms() < end)
			alive = operate();
		if (machine.vmm.pidfd >= 0)
			machine_end();
	}
	_exit(EXIT_OK);
}

/* ---- the test ---------------------------------------------------------- */

static u64 environment(const char *name, u64 otherwise)
{
	const char *value = getenv(name);

	return value ? strtoull(value, NULL, 0) : otherwise;
}

static void counts_write(u64 begin, bool finished)
{
	const char *path = getenv("TEST_COUNTS");
	FILE *f = path ? fopen(path, "we") : NULL;

	if (!f)
		return;
	fprintf(f, "{\"seconds\": %llu, \"started\": %llu, \"checked\": %llu, \"swapped_out\": %llu, \"finished\": %s}\n",
		(unsigned long long)(now_ms() - begin) / 1000,
		(unsigned long long)count->machines, (unsigned long long)count->verified,
		(unsigned long long)read_key("/proc/vmstat", "pswpout"),
		finished ? "true" : "false");
	fclose(f);
}

static void drivers_wait(u64 seed, u64 begin)
{
	int left = DRIVERS, status;

	while (left) {
		pid_t pid = SYS(waitpid(-1, &status, WNOHANG));

		if (!pid) {
			counts_write(begin, false);
			sleep_ms(1000);
			continue;
		}
		if (status)
			FAIL("seed %llu: a driver ended with status %#x",
			     (unsigned long long)seed, status);
		left--;
	}
}

static void random_operations_on_guests(void)
{
	u64 seed = environment("TEST_SEED", now_ms()), begin = now_ms();
	u64 end = begin + 1000 * environment("TEST_SECONDS", 60);

	count = SYS(mmap(NULL, sizeof(*count), PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	domain = environment("TEST_ATTACH", 1) ? domain_open("") : -1;
	swap_start(64 << 20);
	for (int i = 0; i < DRIVERS; i++)
		if (!SYS(fork()))
			drive(seed + i, end);
	drivers_wait(seed, begin);
	counts_write(begin, true);
	test_note("seed %llu: %llu operations on %llu machines, %llu of them killed, %llu idle",
		  (unsigned long long)seed, (unsigned long long)count->operations,
		  (unsigned long long)count->machines,
		  (unsigned long long)count->killed, (unsigned long long)count->idle);
	CHECK_OP(count->killed, >, 0);
	CHECK_OP(count->idle, >, domain < 0 ? -1 : 0);
}

const struct test tests_guests[] = {
	{ "random_operations_on_guests", random_operations_on_guests, TEST_LONG },
	{ NULL, NULL, 0 },
};
