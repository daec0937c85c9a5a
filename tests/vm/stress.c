// SPDX-License-Identifier: MIT
/*
 * stress: random operations by several processes against a model of the expected
 * contents.
 *
 * Each worker owns REGIONS regions.  For every page the model, which lies in
 * memory that all processes share, says what the page must contain: the contents
 * of a seed out of a few, so that much is equal, and perhaps one changed byte.
 * Whatever changes contents holds the region's lock (a robust mutex: workers are
 * killed at random) and updates the model; merging, unmerging, reclaim, compaction
 * and migration hold none, so that they meet the writes.  A sibling that writes
 * into a page marks it unknown first: if it dies in between, the owner refills it.
 *
 * A worker's sequence of operations depends on nothing but the seed, its number
 * and how often it was restarted; how the workers interleave is up to the machine.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <getopt.h>
#include <linux/mempolicy.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "testlib.h"

#define WORKERS_MAX	32
#define DOMAINS_MAX	4
#define REGIONS		3
#define HUGE_PAGES	(HUGE_SIZE / PAGE_SIZE)
#define PAGES_MAX	4096
#define SEEDS		12
#define RUN_MAX		64
#define STALL_MS	120000

#define SPLIT_HUGE	"/sys/kernel/debug/split_huge_pages"
#define MEMORY		"/sys/devices/system/memory/"
#define OFFLINE_SECONDS	5
#define UNPOISON	"/sys/kernel/debug/hwpoison/unpoison-pfn"
#define KPF_HWPOISON	19
#define OOM_PAGES	64

#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC	(1 << 15)
#endif

enum { BYTE_NONE = -1 };

struct page_model {
	u64 seed;		/* SEED_ANY: nobody knows */
	int byte;		/* offset of the changed byte, or BYTE_NONE */
	unsigned char val;
};

/* @lock protects all but @number, @pages and @huge, which never change. */
struct region_model {
	pthread_mutex_t lock;
	unsigned char *addr;	/* NULL while the worker is not ready */
	int number;
	size_t pages;
	bool huge;
	struct page_model page[PAGES_MAX];
};

/* @pid is 0 while nobody is there; changes by compare-and-exchange only. */
struct worker {
	atomic_int pid;
	atomic_uint life;
	atomic_ullong ops;
	struct region_model region[REGIONS];
};

static struct state {
	atomic_bool stop, leave;
	atomic_uint waiting;	/* workers that have stopped, and not left */
	atomic_int failed;
	atomic_uint offlined, poisoned, blocks, leaving;
	atomic_ullong merged, published;
	struct worker worker[WORKERS_MAX];
	unsigned char contents[SEEDS][PAGE_SIZE];	/* page_fill() takes long */
} *state;

static struct options {
	u64 seed;
	unsigned int seconds, procs, pages, domains, offline, poison;
	bool blocks, swap, ksmd, kills, inner;
} opt = {
	.seconds = 30, .procs = 4, .pages = 96, .domains = 2,
	.swap = true, .ksmd = true, .kills = true,
};

static int domain_fd[DOMAINS_MAX];
static const char *group;	/* the memory cgroup, or NULL */
static const char *oom_group;	/* one too small for its processes, or NULL */

/* What the calling process is; set once after fork. */
static unsigned int me;
static u64 op_number;
static const char *op_name = "start";

/* ---- verdict ----------------------------------------------------------- */

static void die(const char *fmt, ...)
	__attribute__((noreturn, format(printf, 1, 2)));

/* The first one to find something wrong says so and stops everybody. */
static void die(const char *fmt, ...)
{
	char text[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (!atomic_exchange(&state->failed, 1))
		dprintf(STDOUT_FILENO,
			"FAILED: seed %llu, worker %u life %u, operation %llu (%s): %s\n",
			(unsigned long long)opt.seed, me,
			atomic_load(&state->worker[me].life),
			(unsigned long long)op_number, op_name, text);
	atomic_store(&state->stop, true);
	_exit(EXIT_FAIL);
}

/* ---- contents ---------------------------------------------------------- */

static void *page_addr(const struct region_model *rm, size_t page)
{
	return rm->addr + page * PAGE_SIZE;
}

/* What must be there, or what is if nobody knows. */
static void page_write(struct region_model *rm, size_t page, u64 seed)
{
	memcpy(page_addr(rm, page), state->contents[seed], PAGE_SIZE);
	rm->page[page] = (struct page_model){ seed, BYTE_NONE, 0 };
}

static void frame_text(const void *addr, char *buf, size_t size)
{
	u64 e = pagemap_entry(0, addr), pfn = PM_PFN(e);

	if (!(e & PM_PRESENT))
		snprintf(buf, size, "pagemap %#llx", (unsigned long long)e);
	else
		snprintf(buf, size, "frame %#llx, %llu mappings%s",
			 (unsigned long long)pfn,
			 (unsigned long long)frame_maps(pfn),
			 frame_flag(pfn, KPF_ZERO_PAGE) ? ", zero page" : "");
}

static _Noreturn void mismatch(const struct region_model *rm, size_t page,
			       const struct page_model *m)
{
	const unsigned char *p = page_addr(rm, page), *want = state->contents[m->seed];
	char frame[100];
	int off = 0;

	while (off < (int)PAGE_SIZE - 1 &&
	       p[off] == (off == m->byte ? m->val : want[off]))
		off++;
	frame_text(p, frame, sizeof(frame));
	die("region %d page %zu (%p) offset %d is %#x, contents of seed %llu, byte %d=%#x; %s",
	    rm->number, page, p, off, p[off], (unsigned long long)m->seed, m->byte,
	    m->val, frame);
}

static void page_check(const struct region_model *rm, size_t page,
		       const struct page_model *m)
{
	const unsigned char *p = page_addr(rm, page);
	int changed = m->byte == BYTE_NONE ? 0 : m->byte;
	const unsigned char *want;

	if (m->seed == SEED_ANY)
		return;
	want = state->contents[m->seed];
	if (memcmp(p, want, changed) ||
	    p[changed] != (m->byte == BYTE_NONE ? want[changed] : m->val) ||
	    memcmp(p + changed + 1, want + changed + 1, PAGE_SIZE - changed - 1))
		mismatch(rm, page, m);
}

/* ---- locks ------------------------------------------------------------- */

static bool owned_by_me(const struct region_model *rm)
{
	const struct worker *w = &state->worker[me];

	return rm >= w->region && rm < w->region + REGIONS;
}

/* Pages whose writer died half way get their contents anew, from their owner. */
static void region_mend(struct region_model *rm)
{
	if (!rm->addr || !owned_by_me(rm))
		return;
	for (size_t i = 0; i < rm->pages; i++)
		if (rm->page[i].seed == SEED_ANY)
			page_write(rm, i, SEED_ZERO);
}

static void region_lock(struct region_model *rm)
{
	if (pthread_mutex_lock(&rm->lock) == EOWNERDEAD)
		pthread_mutex_consistent(&rm->lock);
}

static void region_unlock(struct region_model *rm)
{
	pthread_mutex_unlock(&rm->lock);
}

/* ---- operations -------------------------------------------------------- */

/*
 * One operation's random numbers, all drawn before it begins, so that what
 * follows does not depend on how it went.
 */
struct op {
	struct region_model *rm;	/* of this worker */
	struct worker *other;		/* perhaps this one */
	size_t first, n;		/* a run of pages of @rm, n >= 1 */
	u64 a, b, c;
};

static void check_report(int err, const struct dksm_report *rep)
{
	atomic_fetch_add(&state->merged, rep->merged);
	atomic_fetch_add(&state->published, rep->published);
	if (err && err != -ENOMEM && err != -ESRCH && err != -EXDEV &&
	    err != -EINTR && err != -ENOENT)
		die("call failed: %s", strerror(-err));
}

static int own_fd(void)
{
	return domain_fd[me % opt.domains];
}

static void range_self(unsigned long cmd, void *addr, size_t len)
{
	struct dksm_report rep;
	int err = dksm_range(own_fd(), cmd, DKSM_SELF, addr, len, &rep);

	check_report(err, &rep);
	if (err && err != -ENOMEM && err != -ENOENT)
		die("call on oneself failed: %s", strerror(-err));
}

static void op_merge(const struct op *op)
{
	range_self(DKSM_IOC_MERGE, page_addr(op->rm, op->first),
		   op->n * PAGE_SIZE);
}

static void op_merge_region(const struct op *op)
{
	range_self(DKSM_IOC_MERGE, op->rm->addr, op->rm->pages * PAGE_SIZE);
}

static void op_merge_process(const struct op *op UNUSED)
{
	range_self(DKSM_IOC_MERGE, NULL, 0);
}

static void op_unmerge(const struct op *op)
{
	range_self(DKSM_IOC_UNMERGE, page_addr(op->rm, op->first),
		   op->n * PAGE_SIZE);
}

/* By pidfd; the sibling may be in another domain, or gone. */
static void range_other(const struct op *op, unsigned long cmd)
{
	int pid = atomic_load(&op->other->pid), pidfd, err;
	struct region_model *rm = &op->other->region[op->a % REGIONS];
	bool whole = op->b % 4 == 0;
	struct dksm_report rep;

	if (!pid)
		return;
	pidfd = syscall(SYS_pidfd_open, pid, 0);
	if (pidfd < 0)
		return;
	err = dksm_range(own_fd(), cmd, pidfd, whole ? NULL : rm->addr,
			 whole ? 0 : rm->pages * PAGE_SIZE, &rep);
	check_report(err, &rep);
	close(pidfd);
}

static void op_merge_other(const struct op *op)
{
	range_other(op, DKSM_IOC_MERGE);
}

static void op_unmerge_other(const struct op *op)
{
	range_other(op, DKSM_IOC_UNMERGE);
}

static void op_write(const struct op *op)
{
	size_t n = op->n < 8 ? op->n : 8;

	for (size_t i = 0; i < n; i++)
		page_write(op->rm, op->first + i, (op->a + i) % SEEDS);
}

static void op_write_run(const struct op *op)
{
	for (size_t i = 0; i < op->n; i++)
		page_write(op->rm, op->first + i, (op->first + i) % SEEDS);
}

static void op_write_byte(const struct op *op)
{
	static const int offsets[] = { 0, 1, 2047, 2048, 4095 };

	for (size_t i = 0; i < op->n; i++) {
		struct page_model *m = &op->rm->page[op->first + i];

		if (m->seed == SEED_ANY)
			continue;
		if (m->byte == BYTE_NONE)
			m->byte = offsets[op->a % ARRAY_SIZE(offsets)];
		m->val = op->b % 4;
		((volatile unsigned char *)page_addr(op->rm, op->first + i))
			[m->byte] = m->val;
	}
}

static void op_verify(const struct op *op)
{
	for (size_t i = 0; i < op->n; i++)
		page_check(op->rm, op->first + i, &op->rm->page[op->first + i]);
}

/* As a debugger does it; the number of bytes, or -errno. */
static ssize_t write_traced(pid_t pid, void *addr, const void *buf, size_t len)
{
	char path[40];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = pwrite(fd, buf, len, (off_t)(uintptr_t)addr);
	if (n < 0)
		n = -errno;
	close(fd);
	return n;
}

/* What writing to a process may say that has died, or whose frame has an error. */
static bool write_may_fail(ssize_t n)
{
	return n == 0 || n == -ESRCH || n == -EFAULT || n == -EPERM ||
	       n == -ENOENT || n == -EACCES || n == -EIO;
}

/* Into a sibling's page, with the sibling's region locked by the caller. */
static void op_write_other(const struct op *op)
{
	unsigned char *buf = state->contents[op->c % SEEDS];
	struct region_model *rm = &op->other->region[op->a % REGIONS];
	size_t page = op->b % rm->pages;
	struct page_model was = rm->page[page];
	struct iovec from = { buf, PAGE_SIZE };
	struct iovec to = { page_addr(rm, page), PAGE_SIZE };
	int pid = atomic_load(&op->other->pid);
	ssize_t n;

	if (!pid || !rm->addr)
		return;
	rm->page[page].seed = SEED_ANY;
	if (op->c / SEEDS % 2) {
		n = process_vm_writev(pid, &from, 1, &to, 1, 0);
		n = n < 0 ? -errno : n;
	} else {
		n = write_traced(pid, to.iov_base, buf, PAGE_SIZE);
	}
	if (n == (ssize_t)PAGE_SIZE)
		rm->page[page] = (struct page_model){ op->c % SEEDS, BYTE_NONE, 0 };
	else if (write_may_fail(n))
		rm->page[page] = was;
	else
		die("writing to process %d: %zd", pid, n);
}

static void must(int ret, const char *what)
{
	if (ret)
		die("%s: %s", what, strerror(errno));
}

static void zero_model(const struct op *op)
{
	for (size_t i = 0; i < op->n; i++)
		op->rm->page[op->first + i] =
			(struct page_model){ SEED_ZERO, BYTE_NONE, 0 };
}

static void area_advice(const struct region_model *rm, void *addr, size_t len)
{
	madvise(addr, len, rm->huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

static void op_remap(const struct op *op)
{
	void *addr = page_addr(op->rm, op->first);
	size_t len = op->n * PAGE_SIZE;

	must(munmap(addr, len), "munmap");
	if (mmap(addr, len, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != addr)
		die("mmap: %s", strerror(errno));
	area_advice(op->rm, addr, len);
	zero_model(op);
}

/* Moves the region to where nothing is; huge ones stay aligned. */
static void op_mremap(const struct op *op)
{
	size_t len = op->rm->pages * PAGE_SIZE;
	unsigned char *room, *to;

	room = mmap(NULL, len + HUGE_SIZE, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (room == MAP_FAILED)
		die("mmap: %s", strerror(errno));
	to = room + PAGE_SIZE * (op->a % HUGE_PAGES);
	if (op->rm->huge)
		to = (unsigned char *)(((uintptr_t)room + HUGE_SIZE - 1) &
				       ~(HUGE_SIZE - 1));
	/* Areas with differing flags cannot move in one piece. */
	for (size_t off = 0; off < len; ) {
		size_t step = len - off;

		while (step && mremap(op->rm->addr + off, step, step,
				      MREMAP_MAYMOVE | MREMAP_FIXED, to + off) ==
		       MAP_FAILED) {
			if (errno != EFAULT)
				die("mremap: %s", strerror(errno));
			step = step / 2 & ~(PAGE_SIZE - 1);
		}
		if (!step)
			die("mremap of one page: %s", strerror(errno));
		off += step;
	}
	if (to > room)
		munmap(room, to - room);
	munmap(to + len, room + len + HUGE_SIZE - (to + len));
	op->rm->addr = to;
}

static void op_mprotect(const struct op *op)
{
	void *addr = page_addr(op->rm, op->first);
	size_t len = op->n * PAGE_SIZE;

	must(mprotect(addr, len, op->a % 2 ? PROT_NONE : PROT_READ), "mprotect");
	if (op->b % 2)
		op_merge(op);
	if (op->b % 3 == 0)
		op_unmerge(op);
	must(mprotect(addr, len, PROT_READ | PROT_WRITE), "mprotect");
}

static void op_discard(const struct op *op)
{
	must(madvise(page_addr(op->rm, op->first), op->n * PAGE_SIZE,
		     MADV_DONTNEED), "MADV_DONTNEED");
	zero_model(op);
}

/* Advice that must not change contents, and may be refused. */
static void op_advice(const struct op *op)
{
	static const int advice[] = {
		MADV_PAGEOUT, MADV_COLD, MADV_COLLAPSE, MADV_POPULATE_READ,
		MADV_MERGEABLE, MADV_UNMERGEABLE, MADV_WILLNEED,
	};
	int which = advice[op->a % ARRAY_SIZE(advice)];

	if (which == MADV_COLLAPSE)
		madvise(op->rm->addr, op->rm->pages * PAGE_SIZE, which);
	else
		madvise(page_addr(op->rm, op->first), op->n * PAGE_SIZE, which);
}

static void op_reclaim(const struct op *op)
{
	char path[200];

	if (!group)
		return;
	snprintf(path, sizeof(path), "%s/memory.reclaim", group);
	write_u64(path, (op->a % 64 + 1) * PAGE_SIZE);
}

static void op_offline(const struct op *op)
{
	if (atomic_fetch_add(&state->offlined, 1) >= opt.offline)
		return;
	madvise(page_addr(op->rm, op->first), PAGE_SIZE, MADV_SOFT_OFFLINE);
}

/* Whoever has the frame is killed by touching it: nobody reads anything else. */
static void op_poison(const struct op *op)
{
	if (op->a % 16 || atomic_fetch_add(&state->poisoned, 1) >= opt.poison)
		return;
	madvise(page_addr(op->rm, op->first), PAGE_SIZE, MADV_HWPOISON);
}

/* To any node, with all who map the frames. */
static void op_move(const struct op *op)
{
	void *pages[RUN_MAX];
	int nodes[RUN_MAX], status[RUN_MAX];

	for (size_t i = 0; i < op->n; i++) {
		pages[i] = page_addr(op->rm, op->first + i);
		nodes[i] = op->a >> i & 1;
	}
	syscall(SYS_move_pages, 0, op->n, pages, nodes, status, MPOL_MF_MOVE_ALL);
}

static void op_split(const struct op *op)
{
	char range[80];

	snprintf(range, sizeof(range), "%d,%#lx,%#lx", getpid(),
		 (unsigned long)page_addr(op->rm, op->first),
		 (unsigned long)page_addr(op->rm, op->first + op->n));
	write_str(SPLIT_HUGE, range);
}

/* Everything becomes write-protected. */
static void op_soft_dirty(const struct op *op UNUSED)
{
	must(write_str("/proc/self/clear_refs", "4"), "clear_refs");
}

static int uffd_wp_open(void *addr, size_t len)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_ASYNC,
	};
	struct uffdio_register reg = {
		.range = { (uintptr_t)addr, len },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC);

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) ||
	    ioctl(fd, UFFDIO_REGISTER, &reg))
		die("userfaultfd: %s", strerror(errno));
	return fd;
}

/* Refused only while the process's areas change. */
static void uffd_protect(int fd, struct uffdio_writeprotect *wp)
{
	if (ioctl(fd, UFFDIO_WRITEPROTECT, wp) && errno != EAGAIN)
		die("UFFDIO_WRITEPROTECT: %s", strerror(errno));
}

/* Write protection that a write ends, before and after a merge. */
static void op_uffd(const struct op *op)
{
	void *addr = page_addr(op->rm, op->first);
	struct uffdio_writeprotect wp = {
		.range = { (uintptr_t)addr, op->n * PAGE_SIZE },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	int fd = uffd_wp_open(addr, wp.range.len);

	uffd_protect(fd, &wp);
	if (op->b % 2)
		op_merge(op);
	if (op->b % 3)
		op_write(op);
	uffd_protect(fd, &wp);
	if (op->b % 5 == 0)
		op_merge(op);
	close(fd);
}

/*
 * To another place and back again. What has become a frame meanwhile, or finds a page
 * in its way, is copied back; holes are zeroes.
 */
static void op_uffd_move(const struct op *op)
{
	unsigned char *addr = page_addr(op->rm, op->first), *room;
	size_t len = op->n * PAGE_SIZE;
	long moved;
	int there, back;

	room = mmap(NULL, len, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (room == MAP_FAILED)
		die("mmap: %s", strerror(errno));
	there = uffd_wp_open(room, len);
	back = uffd_wp_open(addr, len);
	moved = uffd_move(there, room, addr, len);
	if (op->b % 2)
		op_merge(op);
	for (long at = 0; at < moved; at += PAGE_SIZE)
		if (uffd_move(back, addr + at, room + at, PAGE_SIZE) <= 0)
			memcpy(addr + at, room + at, PAGE_SIZE);
	close(back);
	close(there);
	munmap(room, len);
}

/* ---- forks ------------------------------------------------------------- */

/* Killed: by the run, for want of memory, or for an error of memory. */
static bool status_is_fine(int status)
{
	if (WIFEXITED(status))
		return WEXITSTATUS(status) == EXIT_OK;
	return WTERMSIG(status) == SIGKILL ||
	       (opt.poison && WTERMSIG(status) == SIGBUS);
}

static void reap_children(int flags)
{
	int status;

	while (waitpid(-1, &status, flags) > 0) {
		if (status_is_fine(status))
			continue;
		die("a child ended with status %#x", status);
	}
}

/* The region as it was at the fork; the shared model goes on without the child. */
static struct region_model inherited;

static void inherit(const struct region_model *rm)
{
	inherited.addr = rm->addr;
	inherited.number = rm->number;
	inherited.pages = rm->pages;
	memcpy(inherited.page, rm->page, rm->pages * sizeof(rm->page[0]));
}

static void child_check(void)
{
	for (size_t i = 0; i < inherited.pages; i++)
		page_check(&inherited, i, &inherited.page[i]);
}

static _Noreturn void child_run(u64 rng)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	op_name = "child";
	rng |= 1;
	child_check();
	for (int i = 0; i < 12; i++) {
		size_t page = rnd(&rng) % inherited.pages;

		page_write(&inherited, page, rnd(&rng) % SEEDS);
		if (i % 4 == 1)
			range_self(DKSM_IOC_MERGE, inherited.addr,
				   inherited.pages * PAGE_SIZE);
	}
	child_check();
	_exit(EXIT_OK);
}

static void fork_and(void (*run)(u64 rng), const struct op *op)
{
	static unsigned int running;
	pid_t pid;

	inherit(op->rm);
	pid = fork();
	if (pid < 0)
		die("fork: %s", strerror(errno));
	if (!pid)
		run(op->a);
	if (++running % 3 == 0)
		reap_children(0);
}

/* A child checks, writes and merges what it got; the worker need not wait. */
static void op_fork(const struct op *op)
{
	fork_and(child_run, op);
}

static _Noreturn void child_out_of_memory(u64 rng)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	op_name = "child out of memory";
	cgroup_enter(oom_group, -1);
	for (size_t i = 0; i < inherited.pages; i++)
		page_write(&inherited, i, (rng + i) % SEEDS);
	child_check();
	_exit(EXIT_OK);
}

/* A child copies more than it may have; rare, since the kernel says much then. */
static void op_oom(const struct op *op)
{
	if (oom_group && op->b % 32 == 0)
		fork_and(child_out_of_memory, op);
}

static void takeover_wait(struct worker *w, pid_t self, pid_t child)
{
	while (atomic_load(&w->pid) == self) {
		if (waitpid(child, NULL, WNOHANG) == child &&
		    atomic_load(&w->pid) == self)
			die("the child that was to take over is gone");
		sched_yield();
	}
}

/* The child goes on as the worker, and the parent exits before it. */
static void op_takeover(const struct op *op UNUSED)
{
	struct worker *w = &state->worker[me];
	int self = getpid();
	pid_t pid;

	reap_children(0);
	for (int i = 0; i < REGIONS; i++)
		region_lock(&w->region[i]);
	pid = fork();
	if (pid < 0)
		die("fork: %s", strerror(errno));
	if (!pid) {
		if (!atomic_compare_exchange_strong(&w->pid, &self, getpid()))
			_exit(EXIT_OK);	/* the parent was killed meanwhile */
		return;			/* the parent unlocks */
	}
	takeover_wait(w, self, pid);
	for (int i = 0; i < REGIONS; i++)
		region_unlock(&w->region[i]);
	_exit(EXIT_OK);
}

/* ---- a worker ---------------------------------------------------------- */

enum lock_kind { LOCK_NONE, LOCK_OWN, LOCK_OTHER };

/* Most are quick; about half of the time goes to those that are not. */
static const struct op_kind {
	const char *name;
	void (*run)(const struct op *op);
	unsigned int weight;
	enum lock_kind lock;
} op_kinds[] = {
	{ "merge", op_merge, 100, LOCK_NONE },
	{ "merge region", op_merge_region, 12, LOCK_NONE },
	{ "merge process", op_merge_process, 1, LOCK_NONE },
	{ "merge other", op_merge_other, 12, LOCK_NONE },
	{ "unmerge", op_unmerge, 25, LOCK_NONE },
	{ "unmerge other", op_unmerge_other, 1, LOCK_NONE },
	{ "write", op_write, 150, LOCK_OWN },
	{ "write run", op_write_run, 6, LOCK_OWN },
	{ "write byte", op_write_byte, 100, LOCK_OWN },
	{ "verify", op_verify, 150, LOCK_OWN },
	{ "write other", op_write_other, 20, LOCK_OTHER },
	{ "remap", op_remap, 15, LOCK_OWN },
	{ "mremap", op_mremap, 2, LOCK_OWN },
	{ "mprotect", op_mprotect, 25, LOCK_OWN },
	{ "discard", op_discard, 20, LOCK_OWN },
	{ "advice", op_advice, 12, LOCK_NONE },
	{ "reclaim", op_reclaim, 1, LOCK_NONE },
	{ "soft offline", op_offline, 1, LOCK_NONE },
	{ "poison", op_poison, 1, LOCK_NONE },
	{ "move", op_move, 4, LOCK_NONE },
	{ "split", op_split, 2, LOCK_NONE },
	{ "soft-dirty", op_soft_dirty, 2, LOCK_NONE },
	{ "userfaultfd", op_uffd, 5, LOCK_OWN },
	{ "userfaultfd move", op_uffd_move, 5, LOCK_OWN },
	{ "fork", op_fork, 2, LOCK_OWN },
	{ "out of memory", op_oom, 1, LOCK_OWN },
	{ "takeover", op_takeover, 1, LOCK_NONE },
};

static const struct op_kind *op_choose(u64 r)
{
	unsigned int sum = 0;

	for (size_t i = 0; i < ARRAY_SIZE(op_kinds); i++)
		sum += op_kinds[i].weight;
	r %= sum;
	for (size_t i = 0; ; i++) {
		if (r < op_kinds[i].weight)
			return &op_kinds[i];
		r -= op_kinds[i].weight;
	}
}

static struct op op_draw(struct worker *w, u64 *rng)
{
	struct op op;

	op.rm = &w->region[rnd(rng) % REGIONS];
	op.other = &state->worker[rnd(rng) % opt.procs];
	op.first = rnd(rng) % op.rm->pages;
	op.n = rnd(rng) % (rnd(rng) % 16 ? 3 : RUN_MAX) + 1;
	if (op.n > op.rm->pages - op.first)
		op.n = op.rm->pages - op.first;
	op.a = rnd(rng);
	op.b = rnd(rng);
	op.c = rnd(rng);
	return op;
}

static void op_run(const struct op_kind *kind, const struct op *op)
{
	struct region_model *rm = op->rm;

	if (kind->lock == LOCK_OTHER)
		rm = &op->other->region[op->a % REGIONS];
	if (kind->lock != LOCK_NONE) {
		region_lock(rm);
		region_mend(rm);
	}
	kind->run(op);
	if (kind->lock != LOCK_NONE)
		region_unlock(rm);
}

static void region_start(struct region_model *rm)
{
	size_t len = rm->pages * PAGE_SIZE;
	unsigned char *p;

	p = mmap(NULL, len + HUGE_SIZE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		die("mmap: %s", strerror(errno));
	if (rm->huge)
		p = (unsigned char *)(((uintptr_t)p + HUGE_SIZE - 1) &
				      ~(HUGE_SIZE - 1));
	area_advice(rm, p, len);
	region_lock(rm);
	rm->addr = p;
	for (size_t i = 0; i < rm->pages; i++)
		page_write(rm, i, i % SEEDS);
	region_unlock(rm);
}

static void verify_all(struct worker *w)
{
	op_name = "last verify";
	for (int i = 0; i < REGIONS; i++) {
		struct region_model *rm = &w->region[i];

		region_lock(rm);
		region_mend(rm);
		for (size_t page = 0; page < rm->pages; page++)
			page_check(rm, page, &rm->page[page]);
		region_unlock(rm);
	}
}

static _Noreturn void worker_run(unsigned int number)
{
	struct worker *w = &state->worker[number];
	u64 rng = (opt.seed + 1) * 0x9e3779b97f4a7c15ULL ^
		  (number + 1) * 0xbf58476d1ce4e5b9ULL ^
		  (u64)atomic_load(&w->life) << 20;

	rng |= 1;
	for (int i = 0; i < REGIONS; i++)
		region_start(&w->region[i]);
	for (op_number = 0; !atomic_load(&state->stop); op_number++) {
		const struct op_kind *kind = op_choose(rnd(&rng));
		struct op op = op_draw(w, &rng);

		op_name = kind->name;
		op_run(kind, &op);
		atomic_fetch_add(&w->ops, 1);
		if (op_number % 32 == 0)
			reap_children(WNOHANG);
	}
	reap_children(0);
	verify_all(w);
	op_merge_process(NULL);
	atomic_fetch_add(&state->waiting, 1);
	while (!atomic_load(&state->leave))
		sleep_ms(5);
	_exit(EXIT_OK);
}

/* ---- the parent -------------------------------------------------------- */

/*
 * Before siblings learn its pid, the worker forgets where its last life had its
 * regions, and joins its domain, so that nobody draws it into another one.
 */
static void worker_announce(struct worker *w)
{
	static unsigned char any[PAGE_SIZE] __attribute__((aligned(4096)));

	for (int i = 0; i < REGIONS; i++) {
		region_lock(&w->region[i]);
		w->region[i].addr = NULL;
		region_unlock(&w->region[i]);
	}
	any[0] = 1;
	range_self(DKSM_IOC_MERGE, any, PAGE_SIZE);
	atomic_store(&w->pid, getpid());
}

static void worker_start(unsigned int number)
{
	struct worker *w = &state->worker[number];
	pid_t pid = fork();

	if (pid < 0)
		die("fork: %s", strerror(errno));
	if (!pid) {
		me = number;
		worker_announce(w);
		worker_run(number);
	}
	while (!atomic_load(&w->pid) && !waitpid(pid, NULL, WNOHANG))
		sched_yield();
}

/* Who has ended?  A worker is restarted, others are only looked at. */
static void reap(bool restart)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (!status_is_fine(status) &&
		    !atomic_exchange(&state->failed, 1)) {
			const char *why;

			test_verdict(&why);
			printf("FAILED: seed %llu: process %d ended with status %#x %s %s\n",
			       (unsigned long long)opt.seed, pid, status,
			       WIFSIGNALED(status) ?
			       strsignal(WTERMSIG(status)) : "", why);
			fflush(stdout);
		}
		for (unsigned int i = 0; i < opt.procs; i++) {
			struct worker *w = &state->worker[i];
			int was = pid;

			if (!atomic_compare_exchange_strong(&w->pid, &was, 0))
				continue;
			if (restart && !atomic_load(&state->stop)) {
				atomic_fetch_add(&w->life, 1);
				worker_start(i);
			}
		}
	}
}

static u64 ops_total(void)
{
	u64 sum = 0;

	for (unsigned int i = 0; i < opt.procs; i++)
		sum += atomic_load(&state->worker[i].ops);
	return sum;
}

static void progress(u64 from)
{
	printf("%3llu s: %llu operations, %llu merged, %llu published; now %llu frames, %llu sharing, %llu zero\n",
	       (unsigned long long)(now_ms() - from) / 1000,
	       (unsigned long long)ops_total(),
	       (unsigned long long)atomic_load(&state->merged),
	       (unsigned long long)atomic_load(&state->published),
	       (unsigned long long)read_u64(DKSM_SYSFS "pages_shared"),
	       (unsigned long long)read_u64(DKSM_SYSFS "pages_sharing"),
	       (unsigned long long)read_u64(DKSM_SYSFS "pages_zero"));
	fflush(stdout);
}

static void stacks_print(void)
{
	for (unsigned int i = 0; i < opt.procs; i++) {
		char path[40], line[160];
		FILE *f;

		snprintf(path, sizeof(path), "/proc/%d/stack",
			 atomic_load(&state->worker[i].pid));
		printf("worker %u, %llu operations:\n", i,
		       (unsigned long long)atomic_load(&state->worker[i].ops));
		f = fopen(path, "re");
		while (f && fgets(line, sizeof(line), f))
			printf("  %s", line);
		if (f)
			fclose(f);
	}
	fflush(stdout);
}

/* Nobody gets anywhere any more: that is a failure, too. */
static void watch_stall(void)
{
	static u64 last_ops, last_time;
	u64 ops = ops_total();

	if (ops != last_ops || !last_time) {
		last_ops = ops;
		last_time = now_ms();
		return;
	}
	if (now_ms() - last_time < STALL_MS)
		return;
	stacks_print();
	die("no operation for %d s", STALL_MS / 1000);
}

static void on_alarm(int sig UNUSED)
{
}

/* The number of a block of movable memory, or -1. */
static int block_choose(u64 rng)
{
	char path[80], zones[40];
	int found = -1;
	FILE *f;

	for (int i = 0, n = 0; i < 1024; i++) {
		snprintf(path, sizeof(path), MEMORY "memory%d/valid_zones", i);
		f = fopen(path, "re");
		if (!f)
			continue;
		if (fgets(zones, sizeof(zones), f) &&
		    strncmp(zones, "Movable", 7) == 0 && rng % ++n == 0)
			found = i;
		fclose(f);
	}
	return found;
}

/*
 * A pinned page can keep it from ending: after a while it gives up. Nobody compacts
 * memory meanwhile: the kernel would look at what describes the block, which its end
 * has just overwritten (isolate_migratepages_block() and remove_pfn_range_from_zone()
 * of Linux 6.12 know nothing of each other).
 */
static void block_offline(u64 rng)
{
	struct sigaction sa = { .sa_handler = on_alarm };
	int block = block_choose(rng), pid;
	char path[80];

	if (block < 0)
		return;
	atomic_fetch_add(&state->leaving, 1);
	pid = fork();
	if (pid < 0)
		atomic_fetch_sub(&state->leaving, 1);
	if (pid)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigaction(SIGALRM, &sa, NULL);
	alarm(OFFLINE_SECONDS);
	snprintf(path, sizeof(path), MEMORY "memory%d/state", block);
	if (!write_str(path, "offline"))
		atomic_fetch_add(&state->blocks, 1);
	alarm(0);
	write_str(path, "online_movable");
	atomic_fetch_sub(&state->leaving, 1);
	_exit(EXIT_OK);
}

/* What disturbs all workers, now and then. */
static void disturb(u64 *rng)
{
	u64 r = rnd(rng), worker = rnd(rng) % opt.procs, mode = rnd(rng) % 4;
	static const char *const modes[] = { "0", "1", "1", "2" };
	int pid;

	switch (r % 6) {
	case 0:
		if (!atomic_load(&state->leaving))
			write_str("/proc/sys/vm/compact_memory", "1");
		break;
	case 1:
		pid = atomic_load(&state->worker[worker].pid);
		if (opt.kills && pid > 0)
			kill(pid, SIGKILL);
		break;
	case 2:
		if (opt.ksmd)
			write_str(KSM_SYSFS "run", modes[mode]);
		break;
	case 3:
		if (opt.blocks)
			block_offline(worker + mode);
		break;
	default:
		break;
	}
}

static void run(void)
{
	u64 from = now_ms(), end = from + opt.seconds * 1000ULL;
	u64 next_line = from + 5000, next_disturbance = from + 700;
	u64 rng = opt.seed * 2654435761ULL + 12345;

	rng |= 1;
	for (unsigned int i = 0; i < opt.procs; i++)
		worker_start(i);
	while (now_ms() < end && !atomic_load(&state->failed)) {
		sleep_ms(20);
		reap(true);
		watch_stall();
		if (now_ms() >= next_disturbance) {
			disturb(&rng);
			next_disturbance = now_ms() + 300 + rnd(&rng) % 700;
		}
		if (now_ms() >= next_line) {
			progress(from);
			next_line += 5000;
		}
	}
	atomic_store(&state->stop, true);
}

static unsigned int workers_alive(void)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < opt.procs; i++)
		n += !!atomic_load(&state->worker[i].pid);
	return n;
}

/* A page of a worker that has stopped. */
struct found {
	u64 pfn;
	unsigned int worker;
	const void *addr;
};

static int found_compare(const void *a, const void *b)
{
	u64 x = ((const struct found *)a)->pfn, y = ((const struct found *)b)->pfn;

	return (x > y) - (x < y);
}

static size_t pages_find(struct found *found)
{
	size_t n = 0;

	for (unsigned int i = 0; i < opt.procs; i++) {
		struct worker *w = &state->worker[i];
		int pid = atomic_load(&w->pid);

		for (int j = 0; pid && j < REGIONS; j++)
			for (size_t page = 0; page < w->region[j].pages; page++) {
				const void *addr = page_addr(&w->region[j], page);
				u64 e = pagemap_entry(pid, addr);

				if (e & PM_PRESENT)
					found[n++] = (struct found){ PM_PFN(e), i, addr };
			}
	}
	return n;
}

/* They may have moved since they were found. */
static bool still_one_frame(const struct found *a, const struct found *b)
{
	u64 x = pagemap_entry(atomic_load(&state->worker[a->worker].pid), a->addr);
	u64 y = pagemap_entry(atomic_load(&state->worker[b->worker].pid), b->addr);

	return x & y & PM_PRESENT && PM_PFN(x) == PM_PFN(y) &&
	       !frame_flag(PM_PFN(x), KPF_ZERO_PAGE);
}

/* Over all frames of all workers, none of which is at work now. */
static void domains_check(void)
{
	struct found *found = calloc(opt.procs * REGIONS * PAGES_MAX, sizeof(*found));
	size_t n, shared = 0;

	if (!found)
		die("no memory");
	n = pages_find(found);
	qsort(found, n, sizeof(*found), found_compare);
	for (size_t i = 1; i < n; i++) {
		const struct found *a = &found[i - 1], *b = &found[i];

		if (a->pfn != b->pfn)
			continue;
		shared++;
		if (a->worker % opt.domains == b->worker % opt.domains ||
		    !still_one_frame(a, b))
			continue;
		printf("FAILED: seed %llu: workers %u and %u, of two domains, share frame %#llx\n",
		       (unsigned long long)opt.seed, a->worker, b->worker,
		       (unsigned long long)a->pfn);
		atomic_store(&state->failed, 1);
	}
	printf("%zu pages looked at, %zu are somebody else's, too\n", n, shared);
	fflush(stdout);
	free(found);
}

/* Lets the workers verify everything; then everybody has to be gone. */
static void finish(void)
{
	u64 end = now_ms() + STALL_MS;

	while (atomic_load(&state->waiting) < workers_alive() &&
	       !atomic_load(&state->failed) && now_ms() < end) {
		reap(false);
		sleep_ms(20);
	}
	write_str(KSM_SYSFS "run", "2");	/* KSM knows no domains */
	if (!atomic_load(&state->failed) && now_ms() < end)
		domains_check();
	atomic_store(&state->leave, true);
	for (;;) {
		siginfo_t info = { 0 };

		reap(false);
		if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) &&
		    errno == ECHILD)
			return;
		if (atomic_load(&state->failed) || now_ms() > end)
			break;
		sleep_ms(20);
	}
	if (now_ms() > end && !atomic_exchange(&state->failed, 1)) {
		printf("FAILED: seed %llu: workers do not end\n",
		       (unsigned long long)opt.seed);
		stacks_print();
	}
	signal(SIGTERM, SIG_IGN);
	kill(0, SIGTERM);
	for (int i = 0; i < 100 && waitpid(-1, NULL, WNOHANG) >= 0; i++)
		sleep_ms(20);
}

static void locks_init(void)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	for (unsigned int i = 0; i < opt.procs; i++)
		for (int j = 0; j < REGIONS; j++) {
			struct region_model *rm = &state->worker[i].region[j];

			pthread_mutex_init(&rm->lock, &attr);
			rm->number = j;
			rm->huge = j == 0;
			rm->pages = rm->huge ? HUGE_PAGES : opt.pages;
		}
}

static void domains_open(void)
{
	for (unsigned int i = 0; i < opt.domains; i++) {
		char suffix[8];

		snprintf(suffix, sizeof(suffix), ".%u", i);
		domain_fd[i] = domain_open(suffix);
	}
}

static void groups_prepare(void)
{
	char path[200];

	oom_group = cgroup_make(".oom");
	snprintf(path, sizeof(path), "%s/memory.max", oom_group);
	must(write_u64(path, OOM_PAGES * PAGE_SIZE), path);
	snprintf(path, sizeof(path), "%s/memory.swap.max", oom_group);
	write_u64(path, 0);
	group = cgroup_make("");
	cgroup_enter(group, -1);
}

static void machine_prepare(void)
{
	write_str(THP_SYSFS "enabled", "madvise");
	write_str(KSM_SYSFS "pages_to_scan", "2000");
	if (opt.swap) {
		int err = swap_start(128 << 20);

		if (err)
			printf("no swap: %s\n", strerror(-err));
	}
	if (access(SPLIT_HUGE, F_OK))
		mount("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL);
	if (cgroup_ready())
		groups_prepare();
}

/* As long as a frame is out of service its domain cannot go. */
static void unpoison_all(void)
{
	FILE *f = fopen("/proc/kpageflags", "re");
	u64 flags;

	for (u64 pfn = 0; f && fread(&flags, sizeof(flags), 1, f) == 1; pfn++)
		if (flags >> KPF_HWPOISON & 1)
			write_u64(UNPOISON, pfn);
	if (f)
		fclose(f);
}

static void machine_restore(void)
{
	unpoison_all();
	write_str(KSM_SYSFS "run", "2");
	write_str(KSM_SYSFS "run", "0");
	swap_stop();
	if (group)
		cgroup_enter("/sys/fs/cgroup", -1);
	cgroups_remove();
}

/* What `stress --inner` does: everything but to look for leaks afterwards. */
static int stress(void)
{
	u64 from = now_ms();

	domains_open();
	machine_prepare();
	run();
	finish();
	machine_restore();
	printf("%s: seed %llu, %llu operations in %llu s, %llu merged, %llu published, %u blocks were offline\n",
	       atomic_load(&state->failed) ? "FAILED" : "passed",
	       (unsigned long long)opt.seed, (unsigned long long)ops_total(),
	       (unsigned long long)(now_ms() - from) / 1000,
	       (unsigned long long)atomic_load(&state->merged),
	       (unsigned long long)atomic_load(&state->published),
	       atomic_load(&state->blocks));
	return atomic_load(&state->failed) ? EXIT_FAIL : EXIT_OK;
}

/* ---- the program ------------------------------------------------------- */

static const char *const leak_files[] = {
	"pages_shared", "pages_sharing", "pages_zero", "metadata_bytes",
};

static bool leaks(const u64 *before)
{
	u64 end = now_ms() + 10000;
	bool same;

	do {
		same = true;
		for (size_t i = 0; i < ARRAY_SIZE(leak_files); i++)
			same &= dksm_global(leak_files[i]) == before[i];
		if (same)
			return false;
		sleep_ms(20);
		lru_drain();
	} while (now_ms() < end);
	for (size_t i = 0; i < ARRAY_SIZE(leak_files); i++)
		printf("FAILED: left behind: %s %lld\n", leak_files[i],
		       (long long)(dksm_global(leak_files[i]) - before[i]));
	return true;
}

/* Executed anew, so that the workers share no memory with us to be merged. */
static pid_t inner_start(int argc, char **argv)
{
	pid_t pid = fork();
	char seed[24];
	char **args;

	if (pid)
		return pid;
	snprintf(seed, sizeof(seed), "%llu", (unsigned long long)opt.seed);
	args = calloc(argc + 4, sizeof(*args));
	if (!args)
		_exit(EXIT_FAIL);
	memcpy(args, argv, argc * sizeof(*args));
	args[argc] = "--seed";
	args[argc + 1] = seed;
	args[argc + 2] = "--inner";
	execv("/proc/self/exe", args);
	_exit(127);
}

/* Says what ended the workers' parent, unless it said so itself. */
static bool inner_failed(pid_t pid)
{
	int status;

	if (pid < 0 || waitpid(pid, &status, 0) != pid) {
		printf("FAILED: cannot start the workers: %s\n", strerror(errno));
		return true;
	}
	if (WIFSIGNALED(status))
		printf("FAILED: seed %llu: killed by signal %d\n",
		       (unsigned long long)opt.seed, WTERMSIG(status));
	return !WIFEXITED(status) || WEXITSTATUS(status) != EXIT_OK;
}

/* One result, in KTAP: whoever counts it must not take an early end for success. */
static int outer(int argc, char **argv)
{
	u64 before[ARRAY_SIZE(leak_files)];
	bool failed;

	printf("KTAP version 1\n1..1\n");
	fflush(stdout);
	for (size_t i = 0; i < ARRAY_SIZE(leak_files); i++)
		before[i] = dksm_global(leak_files[i]);
	failed = inner_failed(inner_start(argc, argv));
	failed |= leaks(before);
	printf("%s 1 random_operations # seed %llu\n", failed ? "not ok" : "ok",
	       (unsigned long long)opt.seed);
	return failed ? EXIT_FAIL : EXIT_OK;
}

static _Noreturn void usage(int status)
{
	fprintf(status ? stderr : stdout,
		"usage: stress [OPTIONS]\n"
		"Random operations on merged memory against a model of its contents.\n"
		"  --seed N          repeat the operations of an earlier run\n"
		"  --seconds S       how long (30)\n"
		"  --procs P         worker processes (4)\n"
		"  --pages N         pages in each of a worker's smaller regions (96)\n"
		"  --domains N       domains that the workers are spread over (2)\n"
		"  --soft-offline N  take up to N page frames out of service (0)\n"
		"  --poison N        break up to N page frames, which kills workers (0)\n"
		"  --offline-blocks  take blocks of memory offline and online again\n"
		"  --no-swap         do not set up swap on zram\n"
		"  --no-ksmd         leave ksmd off\n"
		"  --no-kill         do not kill workers\n");
	exit(status);
}

static unsigned int number(const char *text, unsigned int min, unsigned int max)
{
	char *end;
	unsigned long n = strtoul(text, &end, 0);

	if (*end || end == text || n < min || n > max) {
		fprintf(stderr, "stress: %s: not a number from %u to %u\n", text,
			min, max);
		exit(2);
	}
	return n;
}

static void parse(int argc, char **argv)
{
	static const struct option options[] = {
		{ "seed", required_argument, NULL, 's' },
		{ "seconds", required_argument, NULL, 't' },
		{ "procs", required_argument, NULL, 'p' },
		{ "pages", required_argument, NULL, 'n' },
		{ "domains", required_argument, NULL, 'd' },
		{ "soft-offline", required_argument, NULL, 'o' },
		{ "poison", required_argument, NULL, 'P' },
		{ "offline-blocks", no_argument, NULL, 'b' },
		{ "no-swap", no_argument, NULL, 'S' },
		{ "no-ksmd", no_argument, NULL, 'K' },
		{ "no-kill", no_argument, NULL, 'k' },
		{ "inner", no_argument, NULL, 'I' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 's': opt.seed = strtoull(optarg, NULL, 0); break;
		case 't': opt.seconds = number(optarg, 1, 1000000); break;
		case 'p': opt.procs = number(optarg, 1, WORKERS_MAX); break;
		case 'n': opt.pages = number(optarg, 1, PAGES_MAX); break;
		case 'd': opt.domains = number(optarg, 1, DOMAINS_MAX); break;
		case 'o': opt.offline = number(optarg, 0, 10000); break;
		case 'P': opt.poison = number(optarg, 0, 10000); break;
		case 'b': opt.blocks = true; break;
		case 'S': opt.swap = false; break;
		case 'K': opt.ksmd = false; break;
		case 'k': opt.kills = false; break;
		case 'I': opt.inner = true; break;
		case 'h': usage(0);
		default: usage(2);
		}
	}
}

int main(int argc, char **argv)
{
	opt.seed = now_ms() * 1000003ULL % 1000000007ULL;
	parse(argc, argv);
	test_begin("stress");
	if (access("/dev/dksm", R_OK | W_OK)) {
		fprintf(stderr, "stress: /dev/dksm: %s\n", strerror(errno));
		return EXIT_FAIL;
	}
	if (!opt.inner)
		return outer(argc, argv);
	setpgid(0, 0);
	state = mmap(NULL, sizeof(*state), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (state == MAP_FAILED) {
		perror("stress: mmap");
		return EXIT_FAIL;
	}
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	for (u64 seed = 0; seed < SEEDS; seed++)
		page_fill(state->contents[seed], seed);
	locks_init();
	printf("stress: seed %llu, %u workers, %u domains, %u s\n",
	       (unsigned long long)opt.seed, opt.procs, opt.domains,
	       opt.seconds);
	fflush(stdout);
	return stress();
}
