// SPDX-License-Identifier: MIT
/*
 * Things at the same time: two processes merging the same contents, a merge and
 * a write, a merge and the death, exec, fork or unmapping of its target, a merge
 * that is killed half way.  Each test runs for a bounded time, and what must hold
 * is that no byte is lost and everything comes to an end.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests.h"

#define N 128

/*
 * The same contents, again and again, at the same time: each replaces in the index
 * what the other has filled up, and none of it is taken for a want of memory.
 */
static void two_processes_at_the_cap(void)
{
	int dom = domain_open("");

	CHECK_EQ(write_u64(DKSM_SYSFS "max_page_sharing", 3), 0);
	for (int round = 0; round < 10; round++) {
		struct peer p[2] = { peer_start(N), peer_start(N) };

		for (int i = 0; i < 2; i++)
			peer_fill(&p[i], 0, N, 1 + round, 0);
		for (int i = 0; i < 2; i++)
			peer_post(&p[i], op_merge, dom);
		for (int i = 0; i < 2; i++) {
			struct dksm_report rep;

			CHECK_EQ(peer_result(&p[i]), 0);
			rep = peer_report(&p[i]);
			CHECK_EQ(rep.skipped[DKSM_SKIP_NOMEM], 0);
			CHECK_EQ(rep.merged + rep.published +
				 rep.skipped[DKSM_SKIP_BUSY], N);
		}
		for (int i = 0; i < 2; i++) {
			peer_verify(&p[i]);
			peer_exit(&p[i]);
		}
	}
}

/* Merges what a busy moment left over, then checks that nothing is double. */
static void two_processes_at_once(void)
{
	int dom = domain_open("");
	u64 pfn[2 * N];

	for (int round = 0; round < 5; round++) {
		struct peer p[2] = { peer_start(N), peer_start(N) };
		u64 busy = 0, p_busy[2];

		for (int i = 0; i < 2; i++)
			peer_fill(&p[i], 0, N, 1 + round * N, 1);
		for (int i = 0; i < 2; i++)
			peer_post(&p[i], op_merge, dom);
		for (int i = 0; i < 2; i++) {
			struct dksm_report rep;

			CHECK_EQ(peer_result(&p[i]), 0);
			rep = peer_report(&p[i]);
			p_busy[i] = rep.skipped[DKSM_SKIP_BUSY];
			busy += p_busy[i];
			CHECK_EQ(rep.merged + rep.published +
				 rep.skipped[DKSM_SKIP_BUSY], N);
		}
		for (int i = 0; busy && i < 2; i++)
			EXPECT(peer_merge(&p[i], dom),
			       .merged = p_busy[i],
			       .skipped[DKSM_SKIP_ALREADY] = N - p_busy[i]);
		for (int i = 0; i < 2; i++)
			frames_read(p[i].pid, p[i].addr, N, &pfn[i * N]);
		CHECK_EQ(distinct(pfn, 2 * N), N);
		check_shared(&p[0], &p[1], 0, N);
		peers_verify(p, 2);
		for (int i = 0; i < 2; i++)
			peer_exit(&p[i]);
	}
}

/* Each merges the other by pidfd: a deadlock if locks are taken in any order. */
static long op_merge_other(struct region *r UNUSED, const long *arg)
{
	u64 end = now_ms() + 700;

	while (now_ms() < end) {
		merge(arg[0], arg[1], (void *)arg[2], N * PAGE_SIZE);
		unmerge(arg[0], arg[1], (void *)arg[2], N / 2 * PAGE_SIZE);
	}
	return 0;
}

static long op_open_pidfd(struct region *r UNUSED, const long *arg)
{
	return SYS((int)syscall(SYS_pidfd_open, arg[0], 0));
}

static void merging_each_other(void)
{
	struct peer p[2] = { peer_start(N), peer_start(N) };
	int dom = domain_open(""), pidfd[2];
	struct peer q[2] = { peer_start(1), peer_start(1) };

	for (int i = 0; i < 2; i++) {
		peer_fill(&p[i], 0, N, 1, 1);
		pidfd[i] = peer_call(&q[i], op_open_pidfd, p[!i].pid);
	}
	for (int i = 0; i < 2; i++)
		peer_post(&q[i], op_merge_other, dom, pidfd[i],
			  (long)p[!i].addr);
	for (int i = 0; i < 2; i++)
		CHECK_EQ(peer_result(&q[i]), 0);
	for (int i = 0; i < 2; i++)
		peer_merge(&p[i], dom);
	check_shared(&p[0], &p[1], 0, N);
	peers_verify(p, 2);
}

/* ---- writes ------------------------------------------------------------ */

#define COUNTED 8		/* pages with a counter each */

struct counting {
	unsigned char *addr;
	u64 count[COUNTED];
	atomic_bool stop;
};

/* Counts in each page and in private; no increment may ever be lost. */
static void *count_thread(void *arg)
{
	struct counting *c = arg;

	for (u64 i = 0; !atomic_load(&c->stop); i++) {
		size_t page = i % COUNTED;
		volatile u64 *w = (u64 *)(c->addr + page * PAGE_SIZE) + 100;

		if (*w != c->count[page])
			FAIL("page %zu counts %llu instead of %llu", page,
			     (unsigned long long)*w,
			     (unsigned long long)c->count[page]);
		*w = ++c->count[page];
	}
	return NULL;
}

static void counters_verify(struct region *r, const struct counting *c)
{
	for (size_t i = 0; i < COUNTED; i++) {
		CHECK_EQ(((u64 *)region_page(r, i))[100], c->count[i]);
		region_model_patch(r, i, 100, c->count[i]);
	}
	region_verify(r);
}

/* A thread writes while the main one merges, or others do by pidfd. */
static long op_count(struct region *r, const long *arg)
{
	struct counting c = { .addr = r->addr };
	u64 end = now_ms() + arg[1], rounds = 0;
	pthread_t thread;

	for (size_t i = 0; i < COUNTED; i++)
		region_poke(r, i, 100, 0);
	CHECK_EQ(pthread_create(&thread, NULL, count_thread, &c), 0);
	for (; now_ms() < end; rounds++) {
		if (arg[0] < 0)
			sleep_ms(5);
		else if (rounds % 8 == 7)
			unmerge(arg[0], DKSM_SELF, r->addr, region_bytes(r));
		else
			merge(arg[0], DKSM_SELF, r->addr, region_bytes(r));
	}
	atomic_store(&c.stop, true);
	pthread_join(thread, NULL);
	counters_verify(r, &c);
	return 0;
}

static void start_counting(struct peer *p, size_t n, long fd, long ms)
{
	for (size_t i = 0; i < n; i++) {
		p[i] = peer_start(2 * COUNTED);
		/* Equal everywhere, so that counters merge when they meet. */
		peer_fill(&p[i], 0, 2 * COUNTED, 77, 0);
	}
	for (size_t i = 0; i < n; i++)
		peer_post(&p[i], op_count, fd, ms);
}

static void no_write_is_lost(void)
{
	int dom = domain_open("");
	struct peer p[2];

	start_counting(p, 2, dom, 1500);
	for (int i = 0; i < 2; i++)
		CHECK_EQ(peer_result(&p[i]), 0);
	peers_verify(p, 2);
}

static void no_write_is_lost_remotely(void)
{
	u64 end = now_ms() + 1500;
	int dom = domain_open("");
	struct peer p[2];

	start_counting(p, 2, -1, 1500);
	for (int i = 0; now_ms() < end; i++) {
		merge(dom, p[i % 2].pidfd, p[i % 2].addr,
		      2 * COUNTED * PAGE_SIZE);
		if (i % 16 == 15)
			merge(dom, p[i / 16 % 2].pidfd, NULL, 0);
	}
	for (int i = 0; i < 2; i++)
		CHECK_EQ(peer_result(&p[i]), 0);
	peers_verify(p, 2);
}

/* ---- deaths ------------------------------------------------------------ */

/* A child that fills @pages like the others', says so, and calls @then. */
static pid_t start_filled(size_t pages, int fd, u64 *addr,
			  void (*then)(struct region *r, int fd))
{
	int ready[2];
	u64 where;
	pid_t pid;

	SYS(pipe(ready));
	pid = SYS(fork());
	if (!pid) {
		struct region r = region_map(pages);

		region_fill(&r, 0, pages, 1, 1);
		where = (uintptr_t)r.addr;
		if (write(ready[1], &where, sizeof(where)) != sizeof(where))
			_exit(EXIT_FAIL);
		close(ready[0]);
		close(ready[1]);
		then(&r, fd);
		_exit(EXIT_OK);
	}
	close(ready[1]);
	CHECK_EQ(SYS(read(ready[0], &where, sizeof(where))), sizeof(where));
	close(ready[0]);
	if (addr)
		*addr = where;
	return pid;
}

static void merge_for_ever(struct region *r, int fd)
{
	for (;;) {
		merge(fd, DKSM_SELF, r->addr, region_bytes(r));
		unmerge(fd, DKSM_SELF, r->addr, region_bytes(r));
	}
}

static void merge_once(struct region *r, int fd)
{
	dksm_range(fd, DKSM_IOC_MERGE, DKSM_SELF, r->addr, region_bytes(r),
		   NULL);
}

static void wait_microseconds(u64 us)
{
	usleep(us);
}

static void kill_merging(unsigned int rounds,
			 void (*then)(struct region *r, int fd))
{
	int dom = domain_open("");
	struct peer p = peer_start(N);
	u64 state = 4711;

	peer_fill(&p, 0, N, 1, 1);
	peer_merge(&p, dom);
	for (unsigned int i = 0; i < rounds; i++) {
		pid_t pid = start_filled(2 * N, dom, NULL, then);

		wait_microseconds(rnd(&state) % 6000);
		SYS(kill(pid, SIGKILL));
		SYS(waitpid(pid, NULL, 0));
		if (i % 10 == 0)
			peer_verify(&p);
	}
	peer_verify(&p);
	CHECK_EQ(frame_maps(peer_frame(&p, 0)), 1);
	wait_frames("", N);
	CHECK_EQ(dksm_domain("", "pages_sharing"), 0);
	EXPECT(peer_merge(&p, dom), .skipped[DKSM_SKIP_ALREADY] = N);
	peer_migrate(&p, 5);
	peer_poke(&p, 6, 6, 6);
	peer_verify(&p);
}

static void killed_in_the_middle(void)
{
	kill_merging(50, merge_once);
}

static void killed_merging_and_unmerging(void)
{
	kill_merging(20, merge_for_ever);
}

static void exit_at_random(struct region *r, int fd UNUSED)
{
	u64 state = getpid() * 31 + 1;

	wait_microseconds(rnd(&state) % 8000);
	region_verify(r);
}

static void exec_at_random(struct region *r, int fd)
{
	exit_at_random(r, fd);
	execl("/bin/sleep", "sleep", "0.02", NULL);
}

/* Merges a child from outside until it is gone. */
static void merge_until_gone(int dom, void (*then)(struct region *r, int fd),
			     bool remapped)
{
	struct peer p = peer_start(N);
	int status, err;
	u64 addr;

	peer_fill(&p, 0, N, 1, 1);
	peer_merge(&p, dom);
	for (int i = 0; i < 8; i++) {
		pid_t pid = start_filled(N, -1, &addr, then);
		int pidfd = SYS((int)syscall(SYS_pidfd_open, pid, 0));

		do {
			err = dksm_range(dom, DKSM_IOC_MERGE, pidfd,
					 (void *)addr, N * PAGE_SIZE, NULL);
			if (remapped && err == -ENOMEM)
				err = 0;
		} while (!err);
		if (err != -ESRCH)
			FAIL("merge: %s", strerror(-err));
		SYS(waitpid(pid, &status, 0));
		CHECK_EQ(status, 0);
		close(pidfd);
	}
	peer_verify(&p);
	CHECK_EQ(frame_maps(peer_frame(&p, 0)), 1);
}

static void target_exits(void)
{
	merge_until_gone(domain_open(""), exit_at_random, false);
}

static void target_executes(void)
{
	merge_until_gone(domain_open(""), exec_at_random, true);
}

/* ---- changes of the address space -------------------------------------- */

static long op_remap_for(struct region *r, const long *arg)
{
	u64 end = now_ms() + arg[0], state = getpid();

	while (now_ms() < end) {
		size_t first = rnd(&state) % N, n = rnd(&state) % (N - first) + 1;
		void *p = region_page(r, first);

		switch (rnd(&state) % 4) {
		case 0:
			SYS(munmap(p, n * PAGE_SIZE));
			SYS(mmap(p, n * PAGE_SIZE, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
			region_model(r, first, n, SEED_ZERO, 0);
			break;
		case 1:
			SYS(mprotect(p, n * PAGE_SIZE, PROT_NONE));
			SYS(mprotect(p, n * PAGE_SIZE, PROT_READ | PROT_WRITE));
			break;
		case 2:
			SYS(madvise(p, n * PAGE_SIZE, MADV_DONTNEED));
			region_model(r, first, n, SEED_ZERO, 0);
			break;
		default:
			region_fill(r, first, n, rnd(&state) % 50, 1);
		}
		region_verify_range(r, first, n);
	}
	region_verify(r);
	return 0;
}

static void target_remaps(void)
{
	u64 end = now_ms() + 1500;
	int dom = domain_open("");
	struct peer p[2];

	for (int i = 0; i < 2; i++) {
		p[i] = peer_start(N);
		peer_fill(&p[i], 0, N, 1, 1);
		peer_post(&p[i], op_remap_for, 1500);
	}
	for (int i = 0; now_ms() < end; i++) {
		int err = dksm_range(dom, DKSM_IOC_MERGE, p[i % 2].pidfd,
				     p[i % 2].addr, N * PAGE_SIZE, NULL);

		if (err && err != -ENOMEM)
			FAIL("merge: %s", strerror(-err));
	}
	for (int i = 0; i < 2; i++)
		peer_result(&p[i]);
	peers_verify(p, 2);
}

struct merging {
	struct region *r;
	int fd;
	atomic_bool stop;
};

static void *merge_thread(void *arg)
{
	struct merging *m = arg;

	while (!atomic_load(&m->stop)) {
		merge(m->fd, DKSM_SELF, m->r->addr, region_bytes(m->r));
		unmerge(m->fd, DKSM_SELF, m->r->addr, region_bytes(m->r) / 2);
	}
	return NULL;
}

/* The main thread forks while another one merges; each side checks and writes. */
static void fork_while_merging(void)
{
	struct region r = region_map(N);
	struct merging m = { .r = &r, .fd = domain_open("") };
	pthread_t thread;
	int status;

	region_fill(&r, 0, N, 1, 1);
	CHECK_EQ(pthread_create(&thread, NULL, merge_thread, &m), 0);
	for (int i = 0; i < 15; i++) {
		pid_t pid = SYS(fork());

		if (!pid) {
			region_verify(&r);
			region_poke(&r, (i + 50) % N, 0, i);
			region_verify(&r);
			_exit(EXIT_OK);
		}
		region_fill(&r, i % N, 1, 1 + i, 0);
		region_poke(&r, i % N, 8, i);
		SYS(waitpid(pid, &status, 0));
		CHECK_EQ(status, 0);
	}
	atomic_store(&m.stop, true);
	pthread_join(thread, NULL);
	region_verify(&r);
}

const struct test tests_race[] = {
	{ "two_processes_at_once", two_processes_at_once, 0 },
	{ "two_processes_at_the_cap", two_processes_at_the_cap, 0 },
	{ "merging_each_other", merging_each_other, 0 },
	{ "no_write_is_lost", no_write_is_lost, 0 },
	{ "no_write_is_lost_remotely", no_write_is_lost_remotely, 0 },
	{ "killed_in_the_middle", killed_in_the_middle, TEST_SLOW },
	{ "killed_merging_and_unmerging", killed_merging_and_unmerging, TEST_SLOW },
	{ "target_exits", target_exits, 0 },
	{ "target_executes", target_executes, TEST_SLOW },
	{ "target_remaps", target_remaps, 0 },
	{ "fork_while_merging", fork_while_merging, 0 },
	{ NULL, NULL, 0 },
};
