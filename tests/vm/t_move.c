// SPDX-License-Identifier: MIT
/*
 * Frames that move or break: compaction, soft offline, NUMA migration, offlining
 * of memory blocks, and hard memory errors.  The last ones say so in the kernel
 * log; their names begin with hwpoison_ so that they can be run apart.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
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

static void write_each(const struct peer *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		peer_poke(&p[i], i, 0, i);
	peers_verify(p, n);
}

static void soft_offline(void)
{
	int dom = domain_open("");
	struct peer p[4];

	start_shared(p, 3, dom);
	for (int i = 0; i < 3; i++) {
		if (!peer_migrate(&p[i], 10 + i))
			SKIP("no soft offline");
		check_shared(&p[0], &p[1], 0, N);
		check_shared(&p[0], &p[2], 0, N);
		peers_verify(p, 3);
	}
	/* A frame that moved is still there to be joined. */
	p[3] = peer_start(N);
	peer_fill(&p[3], 0, N, 1, 1);
	EXPECT(peer_merge(&p[3], dom), .merged = N);
	check_shared(&p[0], &p[3], 0, N);
	EXPECT(peer_merge(&p[0], dom), .skipped[DKSM_SKIP_ALREADY] = N);
	peer_migrate(&p[3], 10);
	CHECK_EQ(dksm_domain("", "pages_shared"), N);
	CHECK_EQ(dksm_domain("", "pages_sharing"), 3 * N);
	check_shared(&p[0], &p[3], 0, N);
	write_each(p, 4);
	EXPECT(peer_unmerge(&p[3], dom), .unmerged = N - 1);
	peers_verify(p, 4);
}

/* One frame mapped many times in one process. */
static void soft_offline_within_one_process(void)
{
	struct region r = region_map(N);
	int dom = domain_open(""), err;
	u64 before = 0, pfn[N];

	region_fill(&r, 0, N, 7, 0);
	EXPECT(merge(dom, DKSM_SELF, r.addr, region_bytes(&r)),
	       .published = 1, .merged = N - 1);
	before = frame_of(0, r.addr);
	err = madvise(region_page(&r, 9), PAGE_SIZE, MADV_SOFT_OFFLINE);
	if (err)
		SKIP("no soft offline: %s", strerror(errno));
	frames_read(0, r.addr, N, pfn);
	CHECK_OP(pfn[0], !=, before);
	CHECK_EQ(distinct(pfn, N), 1);
	CHECK_EQ(frame_maps(pfn[0]), N);
	region_verify(&r);
	region_poke(&r, 1, 1, 1);
	region_verify(&r);
}

static long op_holes(struct region *r, const long *arg UNUSED)
{
	for (size_t i = 0; i < r->pages; i += 2)
		SYS(madvise(region_page(r, i), PAGE_SIZE, MADV_DONTNEED));
	return 0;
}

static void compaction(void)
{
	int dom = domain_open("");
	struct peer p[3], filler = peer_start(2048);

	peer_fill(&filler, 0, 2048, 3, 0);
	start_shared(p, 3, dom);
	peer_call(&filler, op_holes);
	if (write_u64("/proc/sys/vm/compact_memory", 1))
		SKIP("no compaction");
	peers_verify(p, 3);
	check_shared(&p[0], &p[1], 0, N);
	check_shared(&p[0], &p[2], 0, N);
	EXPECT(peer_merge(&p[1], dom), .skipped[DKSM_SKIP_ALREADY] = N);
	write_each(p, 3);
}

static long op_write_for(struct region *r, const long *arg)
{
	u64 end = now_ms() + arg[0], state = getpid();

	while (now_ms() < end) {
		size_t page = rnd(&state) % r->pages;

		region_poke(r, page, page, rnd(&state));
		region_verify_range(r, rnd(&state) % r->pages, 1);
	}
	region_verify(r);
	return 0;
}

static void compaction_while_writing(void)
{
	u64 end = now_ms() + 1000;
	int dom = domain_open("");
	struct peer p[2];

	start_shared(p, 2, dom);
	for (int i = 0; i < 2; i++)
		peer_post(&p[i], op_write_for, 1000);
	while (now_ms() < end) {
		if (write_u64("/proc/sys/vm/compact_memory", 1))
			break;
		merge(dom, p[0].pidfd, p[0].addr, N * PAGE_SIZE);
	}
	for (int i = 0; i < 2; i++)
		peer_result(&p[i]);
	peers_verify(p, 2);
}

static void numa_migration(void)
{
	int dom = domain_open("");
	u64 before, moved = 0;
	struct peer p[2];

	if (access("/sys/devices/system/node/node1", F_OK))
		SKIP("one NUMA node");
	start_shared(p, 2, dom);
	for (int round = 0; round < 4; round++) {
		before = peer_frame(&p[0], 0);
		if (peer_move(&p[round / 2], 0, N, 1 - round % 2) < 0)
			SKIP("move_pages: %s", strerror(errno));
		moved += peer_frame(&p[0], 0) != before;
		check_shared(&p[0], &p[1], 0, N);
		peers_verify(p, 2);
	}
	CHECK_OP(moved, >, 0);
	write_each(p, 2);
}

/* ---- memory blocks ----------------------------------------------------- */

#define MEMORY "/sys/devices/system/memory/"

static u64 block_frames(void)
{
	unsigned long bytes = 0;
	FILE *f = fopen(MEMORY "block_size_bytes", "re");

	if (!f)
		SKIP("no memory blocks");
	if (fscanf(f, "%lx", &bytes) != 1)
		bytes = 0;
	fclose(f);
	CHECK(bytes);
	return bytes / PAGE_SIZE;
}

static int block_state(u64 block, const char *state)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), MEMORY "memory%llu/state",
		 (unsigned long long)block);
	return write_str(path, state);
}

/* Tries the blocks that hold merged frames until one can be emptied. */
static bool offline_one(u64 *pfn, size_t n, u64 per_block, u64 *block)
{
	for (size_t i = 0; i < n; i++) {
		if (pfn[i] / per_block == *block)
			continue;
		*block = pfn[i] / per_block;
		if (!block_state(*block, "offline"))
			return true;
	}
	return false;
}

/*
 * Merges in one block after the other, by occupying what is free in the first
 * ones, until a block can be offlined under the merged frames.
 */
static bool offline_under(struct peer *p, size_t n, int dom, u64 *block)
{
	u64 per_block = block_frames(), end = now_ms() + 12000, pfn[N];

	for (int try = 0; try < 6 && now_ms() < end; try++) {
		start_shared(p, n, dom);
		frames_read(p[0].pid, p[0].addr, N, pfn);
		if (offline_one(pfn, N, per_block, block))
			return true;
		for (size_t i = 0; i < n; i++)
			peer_exit(&p[i]);
		if (mmap(NULL, per_block * PAGE_SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0) ==
		    MAP_FAILED)
			break;
	}
	return false;
}

/* For the tests to come; not if a page of it was given up, by soft_offline. */
static void block_online(u64 block)
{
	int err = block_state(block, "online");

	if (err == -EHWPOISON)
		test_note("memory%llu has a bad page", (unsigned long long)block);
	else if (err && block_state(block, "online_movable"))
		FAIL("memory%llu does not come online again: %s",
		     (unsigned long long)block, strerror(-err));
}

static void memory_offline(void)
{
	u64 per_block = block_frames(), block = 0, pfn[N];
	int dom = domain_open("");
	struct peer p[3];

	if (!offline_under(p, 3, dom, &block))
		SKIP("no block with a merged frame can be offlined");
	frames_read(p[0].pid, p[0].addr, N, pfn);
	for (int i = 0; i < N; i++)
		CHECK_OP(pfn[i] / per_block, !=, block);
	check_shared(&p[0], &p[1], 0, N);
	check_shared(&p[0], &p[2], 0, N);
	peers_verify(p, 3);
	block_online(block);
	EXPECT(peer_merge(&p[1], dom), .skipped[DKSM_SKIP_ALREADY] = N);
	write_each(p, 3);
}

/* ---- hard errors ------------------------------------------------------- */

static sigjmp_buf bus_jump;
static volatile sig_atomic_t bus_code;

static void on_bus(int sig UNUSED, siginfo_t *info, void *context UNUSED)
{
	bus_code = info->si_code;
	siglongjmp(bus_jump, 1);
}

static void catch_bus(void)
{
	struct sigaction sa = { .sa_sigaction = on_bus, .sa_flags = SA_SIGINFO };

	sigaction(SIGBUS, &sa, NULL);
}

/* 1 if the page is lost, 0 if it can be read, -errno if nothing was injected. */
static long op_poison(struct region *r, const long *arg)
{
	catch_bus();
	if (sigsetjmp(bus_jump, 1))
		return 1;
	return madvise(region_page(r, arg[0]), PAGE_SIZE, MADV_HWPOISON) ?
	       -errno : 0;
}

static long op_is_lost(struct region *r, const long *arg)
{
	catch_bus();
	if (sigsetjmp(bus_jump, 1)) {
		if (bus_code != BUS_MCEERR_AR)
			FAIL("SIGBUS with code %d", (int)bus_code);
		region_model(r, arg[0], 1, SEED_ANY, 0);
		return 1;
	}
	(void)*(volatile u64 *)region_page(r, arg[0]);
	return 0;
}

static void unpoison(u64 pfn)
{
	write_u64("/sys/kernel/debug/hwpoison/unpoison-pfn", pfn);
}

static void hwpoison_merged_frame(void)
{
	int dom = domain_open(""), other = domain_open(".other");
	struct peer p[3], bystander = peer_start(N), late = peer_start(N);
	u64 bad;
	long err;

	peer_fill(&bystander, 0, N, 1, 1);
	peer_merge(&bystander, other);
	start_shared(p, 3, dom);
	bad = peer_frame(&p[0], 6);
	err = peer_call(&p[1], op_poison, 6);
	if (err < 0)
		SKIP("no error injection: %s", strerror(-err));
	/* All that share the frame have lost the page, nobody else has. */
	for (int i = 0; i < 3; i++)
		CHECK_EQ(peer_call(&p[i], op_is_lost, 6), 1);
	CHECK_EQ(peer_call(&bystander, op_is_lost, 6), 0);
	peers_verify(p, 3);
	peer_verify(&bystander);
	check_shared(&p[0], &p[1], 0, 6);
	check_shared(&p[0], &p[2], 7, N - 7);

	/* The bad frame is given to nobody. */
	peer_fill(&late, 0, N, 1, 1);
	EXPECT(peer_merge(&late, dom), .merged = N - 1, .published = 1);
	CHECK_OP(peer_frame(&late, 6), !=, bad);
	peer_verify(&late);
	EXPECT(peer_merge(&p[0], dom), .skipped[DKSM_SKIP_ALREADY] = N - 1,
	       .skipped[DKSM_SKIP_POISONED] = 1);

	/* The page can be replaced and then is as good as any. */
	CHECK_EQ(peer_madvise(&p[0], 6, 1, MADV_DONTNEED), 0);
	peer_fill(&p[0], 6, 1, 7, 0);
	EXPECT(peer_merge(&p[0], dom), .merged = 1,
	       .skipped[DKSM_SKIP_ALREADY] = N - 1);
	check_shared(&p[0], &late, 0, N);
	peers_verify(p, 3);
	unpoison(bad);
}

/* A frame that only one process has, and one that is a fork's. */
static void hwpoison_published_frame(void)
{
	int dom = domain_open("");
	struct peer p[2];
	u64 bad[2];

	p[0] = peer_start(N);
	peer_fill(&p[0], 0, N, 1, 1);
	peer_merge(&p[0], dom);
	bad[0] = peer_frame(&p[0], 3);
	if (peer_call(&p[0], op_poison, 3) < 0)
		SKIP("no error injection");
	CHECK_EQ(peer_call(&p[0], op_is_lost, 3), 1);
	peer_verify(&p[0]);
	p[1] = peer_fork(&p[0]);
	bad[1] = peer_frame(&p[0], 4);
	CHECK_OP(peer_call(&p[1], op_poison, 4), >=, 0);
	for (int i = 0; i < 2; i++) {
		CHECK_EQ(peer_call(&p[i], op_is_lost, 3), 1);
		CHECK_EQ(peer_call(&p[i], op_is_lost, 4), 1);
	}
	peers_verify(p, 2);
	for (int i = 0; i < 2; i++)
		unpoison(bad[i]);
}

const struct test tests_move[] = {
	{ "soft_offline", soft_offline, 0 },
	{ "soft_offline_within_one_process", soft_offline_within_one_process, 0 },
	{ "compaction", compaction, 0 },
	{ "compaction_while_writing", compaction_while_writing, 0 },
	{ "numa_migration", numa_migration, 0 },
	{ "memory_offline", memory_offline, TEST_SLOW },
	{ "hwpoison_merged_frame", hwpoison_merged_frame, 0 },
	{ "hwpoison_published_frame", hwpoison_published_frame, 0 },
	{ NULL, NULL, 0 },
};
