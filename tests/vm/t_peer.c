// SPDX-License-Identifier: MIT
/*
 * Peers: helper processes of a test; see tests.h.  A peer and its caller talk
 * through a mailbox in memory that all processes of the test share, made before
 * the first of them is forked.  A mailbox has one caller and one server at a time
 * and is handed over by its @state, a futex.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests.h"

#define BOXES_MAX	160

enum box_state { BOX_IDLE, BOX_ASKED, BOX_DONE };

struct mailbox {
	atomic_bool taken;
	atomic_uint state;
	peer_fn fn;
	long arg[4];
	long ret;
	struct dksm_report report;
};

static struct {
	pid_t test;
	struct mailbox box[BOXES_MAX];
} *boxes;

static struct region peer_region;
static unsigned int peer_box;

void peers_begin(void)
{
	boxes = SYS(mmap(NULL, sizeof(*boxes), PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	boxes->test = getpid();
}

static void box_wait(struct mailbox *box, unsigned int state, int ms)
{
	struct timespec ts = { ms / 1000, ms % 1000 * 1000000L };

	syscall(SYS_futex, &box->state, FUTEX_WAIT, state, &ts, NULL, 0);
}

static void box_set(struct mailbox *box, unsigned int state)
{
	atomic_store(&box->state, state);
	syscall(SYS_futex, &box->state, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static _Noreturn void peer_serve(void)
{
	for (;;) {
		struct mailbox *box = &boxes->box[peer_box];
		unsigned int state = atomic_load(&box->state);
		long ret;

		if (state != BOX_ASKED) {
			box_wait(box, state, 1000);
			continue;
		}
		ret = box->fn(&peer_region, box->arg);
		/* A child made by op_fork() serves its own box from now on. */
		if (box != &boxes->box[peer_box])
			continue;
		box->ret = ret;
		box_set(box, BOX_DONE);
	}
}

static unsigned int box_new(void)
{
	for (unsigned int box = 0; box < BOXES_MAX; box++)
		if (!atomic_exchange(&boxes->box[box].taken, true))
			return box;
	FAIL("too many peers");
}

static struct peer peer_of(pid_t pid, unsigned int box)
{
	struct peer p = { .pid = pid, .box = box };

	p.pidfd = SYS((int)syscall(SYS_pidfd_open, pid, 0));
	return p;
}

struct peer peer_start(size_t pages)
{
	unsigned int box = box_new();
	struct peer p;
	pid_t pid;

	pid = SYS(fork());
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		peer_box = box;
		peer_region = region_map(pages);
		boxes->box[box].ret = (long)peer_region.addr;
		box_set(&boxes->box[box], BOX_DONE);
		peer_serve();
	}
	p = peer_of(pid, box);
	p.addr = (unsigned char *)peer_result(&p);
	p.pages = pages;
	return p;
}

static long op_fork(struct region *r UNUSED, const long *arg)
{
	unsigned int box = arg[0];
	pid_t pid = SYS(fork());

	if (!pid)
		peer_box = box;
	return pid;
}

struct peer peer_fork(const struct peer *p)
{
	unsigned int box = box_new();
	struct peer child;

	child = peer_of(peer_call(p, op_fork, box), box);
	child.addr = p->addr;
	child.pages = p->pages;
	return child;
}

static bool pidfd_gone(int pidfd, int ms)
{
	struct pollfd pfd = { .fd = pidfd, .events = POLLIN };

	return poll(&pfd, 1, ms) == 1;
}

void peer_post_args(const struct peer *p, peer_fn fn, const long *arg)
{
	struct mailbox *box = &boxes->box[p->box];

	CHECK_EQ(atomic_load(&box->state), BOX_IDLE);
	box->fn = fn;
	memcpy(box->arg, arg, sizeof(box->arg));
	box_set(box, BOX_ASKED);
}

long peer_result(const struct peer *p)
{
	struct mailbox *box = &boxes->box[p->box];

	for (;;) {
		unsigned int state = atomic_load(&box->state);

		if (state == BOX_DONE)
			break;
		box_wait(box, state, 100);
		if (atomic_load(&box->state) != BOX_DONE &&
		    pidfd_gone(p->pidfd, 0))
			FAIL("process %d died", p->pid);
	}
	atomic_store(&box->state, BOX_IDLE);
	return box->ret;
}

long peer_call_args(const struct peer *p, peer_fn fn, const long *arg)
{
	peer_post_args(p, fn, arg);
	return peer_result(p);
}

struct dksm_report peer_report(const struct peer *p)
{
	return boxes->box[p->box].report;
}

static long op_exit(struct region *r UNUSED, const long *arg UNUSED)
{
	_exit(EXIT_OK);
}

static void peer_reap(struct peer *p)
{
	if (!pidfd_gone(p->pidfd, 60000))
		FAIL("process %d does not exit", p->pid);
	waitid(P_PIDFD, p->pidfd, &(siginfo_t){ 0 }, WEXITED | WNOHANG);
	close(p->pidfd);
	p->pidfd = -1;
	atomic_store(&boxes->box[p->box].state, BOX_IDLE);
	atomic_store(&boxes->box[p->box].taken, false);
}

void peer_exit(struct peer *p)
{
	peer_post(p, op_exit);
	peer_reap(p);
}

void peer_kill(struct peer *p)
{
	SYS(syscall(SYS_pidfd_send_signal, p->pidfd, SIGKILL, NULL, 0));
	peer_reap(p);
}

static long op_fill(struct region *r, const long *arg)
{
	region_fill(r, arg[0], arg[1], arg[2], arg[3]);
	return 0;
}

void peer_fill(const struct peer *p, size_t first, size_t n, u64 seed, u64 step)
{
	peer_call(p, op_fill, first, n, seed, step);
}

static long op_poke(struct region *r, const long *arg)
{
	region_poke(r, arg[0], arg[1], arg[2]);
	return 0;
}

void peer_poke(const struct peer *p, size_t page, int word, u64 val)
{
	peer_call(p, op_poke, page, word, val);
}

long op_verify(struct region *r, const long *arg UNUSED)
{
	region_verify(r);
	return 0;
}

void peer_verify(const struct peer *p)
{
	peer_call(p, op_verify);
}

void peers_verify(const struct peer *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		peer_verify(&p[i]);
}

/* The peer may be older than the descriptor: it takes it from the test. */
static long range_borrowed(int test_fd, unsigned long cmd,
			   const struct region *r)
{
	int pidfd = SYS((int)syscall(SYS_pidfd_open, boxes->test, 0));
	int fd = SYS((int)syscall(SYS_pidfd_getfd, pidfd, test_fd, 0));
	int err = dksm_range(fd, cmd, DKSM_SELF, r->addr, region_bytes(r),
			     &boxes->box[peer_box].report);

	close(fd);
	close(pidfd);
	return err;
}

long op_merge(struct region *r, const long *arg)
{
	return range_borrowed(arg[0], DKSM_IOC_MERGE, r);
}

long op_unmerge(struct region *r, const long *arg)
{
	return range_borrowed(arg[0], DKSM_IOC_UNMERGE, r);
}

struct dksm_report peer_merge(const struct peer *p, int fd)
{
	CHECK_EQ(peer_call(p, op_merge, fd), 0);
	return peer_report(p);
}

struct dksm_report peer_unmerge(const struct peer *p, int fd)
{
	CHECK_EQ(peer_call(p, op_unmerge, fd), 0);
	return peer_report(p);
}

static long op_madvise(struct region *r, const long *arg)
{
	return madvise(region_page(r, arg[0]), arg[1] * PAGE_SIZE, arg[2]) ?
	       -errno : 0;
}

int peer_madvise(const struct peer *p, size_t first, size_t n, int advice)
{
	return peer_call(p, op_madvise, first, n, advice);
}

static long op_mprotect(struct region *r, const long *arg)
{
	return mprotect(region_page(r, arg[0]), arg[1] * PAGE_SIZE, arg[2]) ?
	       -errno : 0;
}

int peer_mprotect(const struct peer *p, size_t first, size_t n, int prot)
{
	return peer_call(p, op_mprotect, first, n, prot);
}

void *peer_page(const struct peer *p, size_t page)
{
	return p->addr + page * PAGE_SIZE;
}

u64 peer_frame(const struct peer *p, size_t page)
{
	return frame_of(p->pid, peer_page(p, page));
}

size_t count_shared(const struct peer *a, const struct peer *b, size_t first,
		    size_t n)
{
	size_t shared = 0;
	u64 fa[n], fb[n];

	frames_read(a->pid, peer_page(a, first), n, fa);
	frames_read(b->pid, peer_page(b, first), n, fb);
	for (size_t i = 0; i < n; i++)
		shared += fa[i] && fa[i] == fb[i];
	return shared;
}

void check_shared(const struct peer *a, const struct peer *b, size_t first,
		  size_t n)
{
	u64 fa[n], fb[n];

	frames_read(a->pid, peer_page(a, first), n, fa);
	frames_read(b->pid, peer_page(b, first), n, fb);
	for (size_t i = 0; i < n; i++)
		if (fa[i] != fb[i])
			FAIL("page %zu: frames %llu and %llu, not one",
			     first + i, (unsigned long long)fa[i],
			     (unsigned long long)fb[i]);
}

long peer_move(const struct peer *p, size_t first, size_t n, int node)
{
	int nodes[n], status[n];
	void *pages[n];

	for (size_t i = 0; i < n; i++) {
		pages[i] = peer_page(p, first + i);
		nodes[i] = node;
	}
	return syscall(SYS_move_pages, p->pid, n, pages, nodes, status,
		       1 << 2 /* MPOL_MF_MOVE_ALL */);
}

bool peer_migrate(const struct peer *p, size_t page)
{
	u64 before = peer_frame(p, page);
	int err = 0;

	for (int try = 0; try < 5; try++) {
		err = peer_madvise(p, page, 1, MADV_SOFT_OFFLINE);
		if (err != -EBUSY && err != -EAGAIN && err != -EIO)
			break;
		sleep_ms(20);
	}
	if (err == -EINVAL || err == -EOPNOTSUPP || err == -EPERM) {
		test_note("no soft offline here: %s", strerror(-err));
		return false;
	}
	if (err)
		FAIL("the frame of page %zu cannot be moved: %s", page,
		     strerror(-err));
	CHECK_OP(peer_frame(p, page), !=, before);
	CHECK_EQ(frame_maps(before), 0);
	return true;
}
