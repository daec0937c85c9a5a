// SPDX-License-Identifier: MIT
/*
 * Tenants who do not trust each other: no frame belongs to two domains, frames can
 * be copies that nobody chose the place of, the pages of a node stay on it, what
 * DKSM knows is charged to who brought it, and the time of a write does not tell
 * whether others have the page.
 */
#define _GNU_SOURCE
#include <math.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <x86intrin.h>

#include "tests.h"

#define N 256

/* ---- domains ----------------------------------------------------------- */

static int compare_u64(const void *a, const void *b)
{
	u64 x = *(const u64 *)a, y = *(const u64 *)b;

	return (x > y) - (x < y);
}

/* Frames that any of @a maps and any of @b, the zero page apart. */
static size_t common_frames(const struct peer *a, const struct peer *b, size_t n)
{
	u64 pfn[2][2 * N], *end[2] = { pfn[0], pfn[1] };
	size_t common = 0;

	for (size_t i = 0; i < n; i++) {
		frames_read(a[i].pid, a[i].addr, N, end[0]);
		frames_read(b[i].pid, b[i].addr, N, end[1]);
		end[0] += N;
		end[1] += N;
	}
	for (int side = 0; side < 2; side++)
		qsort(pfn[side], n * N, sizeof(u64), compare_u64);
	for (u64 *x = pfn[0], *y = pfn[1]; x < end[0] && y < end[1];)
		if (*x < *y)
			x++;
		else if (*y < *x)
			y++;
		else
			common += !frame_flag(*x++, KPF_ZERO_PAGE);
	return common;
}

/* Equal contents, a few of which are written to, merged in any order. */
static void tenants_share_nothing(void)
{
	int dom[2] = { domain_open("-a"), domain_open("-b") };
	struct peer p[2][2];
	u64 seed = 1;

	for (int i = 0; i < 4; i++) {
		p[i & 1][i >> 1] = peer_start(N);
		peer_fill(&p[i & 1][i >> 1], 0, N - 1, 1, 1);
		peer_fill(&p[i & 1][i >> 1], N - 1, 1, SEED_ZERO, 0);
	}
	for (int round = 0; round < 40; round++) {
		u64 x = rnd(&seed);
		const struct peer *q = &p[x & 1][x >> 1 & 1];
		size_t page = x / 8 % (N - 16);

		if (x & 4)
			peer_merge(q, dom[x & 1]);
		else
			peer_fill(q, page, 16, 1 + x / 8 % N, 1);
		CHECK_EQ(common_frames(p[0], p[1], 2), 0);
	}
	for (int i = 0; i < 4; i++)
		peer_merge(&p[i & 1][i >> 1], dom[i & 1]);
	CHECK_EQ(common_frames(p[0], p[1], 2), 0);
	CHECK_OP(common_frames(&p[0][0], &p[0][1], 1), >, N / 2);
	for (int i = 0; i < 2; i++)
		peers_verify(p[i], 2);
}

/* ---- fresh frames ------------------------------------------------------ */

#define FRESH	(DKSM_DOMAIN_CREATE | DKSM_DOMAIN_FRESH_FRAMES)

static void fresh_frames_are_copies(void)
{
	u64 old[2 * N], *now = old + N;
	struct peer p[2];
	int dom = dksm_open();

	CHECK_EQ(dksm_bind(dom, domain_name(""), FRESH), 0);
	for (int i = 0; i < 2; i++) {
		p[i] = peer_start(N);
		peer_fill(&p[i], 0, N, 1, 1);
	}
	frames_read(p[0].pid, p[0].addr, N, old);
	EXPECT(peer_merge(&p[0], dom), .published = N);
	frames_read(p[0].pid, p[0].addr, N, now);
	/* The old ones may be used again, but not while a batch holds them. */
	for (size_t i = 0; i < N; i++)
		CHECK_OP(now[i], !=, old[i]);
	CHECK_EQ(distinct(old, 2 * N) > N + N / 2, 1);
	EXPECT(peer_merge(&p[1], dom), .merged = N);
	check_shared(&p[0], &p[1], 0, N);
	CHECK_EQ(dksm_domain("", "pages_shared"), N);
	peer_poke(&p[0], 3, 0, 1);
	CHECK(peer_frame(&p[0], 3) != peer_frame(&p[1], 3));
	peers_verify(p, 2);
}

static void fresh_frames_belong_to_the_domain(void)
{
	int plain = domain_open("-plain"), fresh = dksm_open(), again = dksm_open();

	CHECK_EQ(dksm_bind(fresh, domain_name("-fresh"), FRESH | DKSM_DOMAIN_EXCL), 0);
	CHECK_EQ(dksm_bind(again, domain_name("-plain"), FRESH), -EINVAL);
	CHECK_EQ(dksm_bind(again, domain_name("-plain"), DKSM_DOMAIN_FRESH_FRAMES), -EINVAL);
	CHECK_EQ(dksm_bind(again, domain_name("-none"), DKSM_DOMAIN_FRESH_FRAMES), -ENOENT);
	CHECK_EQ(dksm_bind(again, domain_name("-none"),
			   DKSM_DOMAIN_FRESH_FRAMES | DKSM_DOMAIN_EXCL), -EINVAL);
	/* Who does not ask for it gets it all the same. */
	CHECK_EQ(dksm_bind(again, domain_name("-fresh"), 0), 0);
	close(plain);
}

/* ---- nodes ------------------------------------------------------------- */

static struct peer start_on(int node, u64 seed)
{
	struct peer p = peer_start(N);

	peer_fill(&p, 0, N, seed, 1);
	if (peer_move(&p, 0, N, node) < 0)
		SKIP("move_pages: %s", strerror(errno));
	return p;
}

static void nodes_stay_apart(void)
{
	int dom = domain_open(""), fresh = dksm_open();
	struct peer p[6];

	if (access("/sys/devices/system/node/node1", F_OK))
		SKIP("one NUMA node");
	CHECK_EQ(dksm_bind(fresh, domain_name("-fresh"), FRESH), 0);
	write_str(DKSM_SYSFS "merge_across_nodes", "0");
	for (int i = 0; i < 4; i++)
		p[i] = start_on(i % 2, 1);
	EXPECT(peer_merge(&p[0], dom), .published = N);
	EXPECT(peer_merge(&p[1], dom), .published = N);
	EXPECT(peer_merge(&p[2], dom), .merged = N);
	EXPECT(peer_merge(&p[3], dom), .merged = N);
	check_shared(&p[0], &p[2], 0, N);
	check_shared(&p[1], &p[3], 0, N);
	CHECK_EQ(count_shared(&p[0], &p[1], 0, N), 0);

	/* Frames that were moved are no longer for those who stayed. */
	if (peer_move(&p[0], 0, N, 1) < 0)
		SKIP("move_pages: %s", strerror(errno));
	p[4] = start_on(0, 1);
	EXPECT(peer_merge(&p[4], dom), .published = N);

	/* Copies are made where the page was. */
	p[5] = start_on(1, 1);
	EXPECT(peer_merge(&p[5], fresh), .published = N);
	CHECK_EQ(peer_move(&p[5], 0, 1, 1), 0);
	CHECK_EQ(count_shared(&p[4], &p[5], 0, N), 0);

	write_str(DKSM_SYSFS "merge_across_nodes", "1");
	peers_verify(p, 6);
}

/* ---- what it costs its owner ------------------------------------------- */

enum { PAGES = 512, FLUSHED_MS = 2500 };	/* the kernel sums up every 2 s */

static long op_fill_singly(struct region *r, const long *arg UNUSED)
{
	for (size_t i = 0; i < PAGES; i++)
		region_fill(r, 2 * i, 1, 1 + i, 0);
	return 0;
}

static long op_merge_singly(struct region *r, const long *arg UNUSED)
{
	int fd = domain_join("");

	for (size_t i = 0; i < PAGES; i++)
		merge(fd, DKSM_SELF, region_page(r, 2 * i), PAGE_SIZE);
	return SYS(close(fd));
}

/*
 * Metadata of single pages, the worst there is: an extent and a map for each.  It
 * is in the group that merges, and bounded by what is merged.
 */
static void metadata_is_charged(void)
{
	const char *group = cgroup_make("");
	struct peer p = peer_start(2 * PAGES);
	u64 before, bytes;

	domain_open("");
	cgroup_enter(group, p.pid);
	peer_call(&p, op_fill_singly);
	sleep_ms(FLUSHED_MS);
	before = cgroup_read(group, "memory.stat", "slab");
	peer_call(&p, op_merge_singly);
	sleep_ms(FLUSHED_MS);
	bytes = dksm_domain("", "metadata_bytes");
	CHECK_OP(cgroup_read(group, "memory.stat", "slab") - before, >=,
		 bytes * 9 / 10);
	CHECK_OP(bytes / PAGES, <=, 512);
	test_note("%llu bytes a page", (unsigned long long)bytes / PAGES);
}

/* ---- the time of a write ----------------------------------------------- */

enum { ROUNDS = 30 };

struct sample {
	u64 cycles;
	bool matched;
};

static int compare_samples(const void *a, const void *b)
{
	const struct sample *x = a, *y = b;

	return (x->cycles > y->cycles) - (x->cycles < y->cycles);
}

/* What others have read lately is in the caches: so read the page first. */
static u64 timed_write(volatile u64 *word)
{
	unsigned int cpu;
	u64 begin;

	for (size_t i = 0; i < PAGE_SIZE / sizeof(*word); i++)
		(void)word[i];
	_mm_lfence();
	begin = __rdtsc();
	*word = 1;
	return __rdtscp(&cpu) - begin;
}

static void shuffle(size_t *order, size_t n, u64 *seed)
{
	for (size_t i = n - 1; i; i--) {
		size_t j = rnd(seed) % (i + 1), other = order[i];

		order[i] = order[j];
		order[j] = other;
	}
}

/*
 * Writes to all pages of a new region in random order; a victim has every other
 * one of them.
 */
static void sample_writes(int dom, u64 *seed, struct sample *s)
{
	struct peer victim = peer_start(N);
	struct region r = region_map(N);
	size_t order[N];

	peer_fill(&victim, 0, N, 1, 1);
	peer_merge(&victim, dom);
	for (size_t i = 0; i < N; i++) {
		order[i] = i;
		region_fill(&r, i, 1, i % 2 ? rnd(seed) | 1ULL << 60 : 1 + i, 0);
	}
	EXPECT(merge(dom, DKSM_SELF, r.addr, region_bytes(&r)),
	       .merged = N / 2, .published = N / 2);
	shuffle(order, N, seed);
	for (size_t i = 0; i < N; i++)
		s[i] = (struct sample) {
			.cycles = timed_write(region_page(&r, order[i])),
			.matched = order[i] % 2 == 0,
		};
	SYS(munmap(r.addr, region_bytes(&r)));
	peer_exit(&victim);
}

/*
 * Mann and Whitney's U, as the probability that a write to a page that others have
 * takes longer than one to a page that nobody else has.
 */
static double slower_if_matched(struct sample *s, size_t n)
{
	double below = 0, wins = 0, m = 0;

	qsort(s, n, sizeof(*s), compare_samples);
	for (size_t i = 0, end; i < n; i = end) {
		double matched = 0;

		for (end = i; end < n && s[end].cycles == s[i].cycles; end++)
			matched += s[end].matched;
		wins += matched * (below + (end - i - matched) / 2);
		below += end - i - matched;
		m += matched;
	}
	return wins / (m * (n - m));
}

static u64 median_of(const struct sample *s, size_t n, bool matched)
{
	size_t seen = 0;

	for (size_t i = 0; i < n; i++)
		if (s[i].matched == matched && ++seen == n / 4)
			return s[i].cycles;
	return 0;
}

static int untrusted_open(void)
{
	int dom = dksm_open();

	CHECK_EQ(dksm_bind(dom, domain_name("-untrusted"),
			   DKSM_DOMAIN_CREATE | DKSM_DOMAIN_UNTRUSTED), 0);
	return dom;
}

/* Loaded alone or not, all of it is merged; when idle, nothing is. */
static void untrusted_is_merged_at_first_sight(void)
{
	enum { DATA = VM_PAGES };
	int dom = untrusted_open(), other = domain_open("-trusting");
	struct peer p[2];
	u64 merged;

	CHECK_EQ(dksm_bind(dksm_open(), domain_name("-trusting"),
			   DKSM_DOMAIN_UNTRUSTED), -EINVAL);
	close(other);
	for (int i = 0; i < 2; i++) {
		p[i] = vm_start(DATA + 2 * N, 1);
		CHECK_EQ(dksm_attach(dom, p[i].pidfd, 0), 0);
		peer_fill(&p[i], DATA, N, 500, 1);
		peer_call(&p[i], op_vm_run_once, 0);
		merged = count_merged(p[i].pid, peer_page(&p[i], DATA), N);
		CHECK_OP(merged, >=, N / 2);
		peer_call(&p[i], op_guest_fill, DATA + N, N, 9000, 1);
		peer_call(&p[i], op_guest_halt, 20, 100, 0, 0);
		CHECK_EQ(dksm_process(p[i].pid, "idle_passes"), 0);
		CHECK_EQ(dksm_process(p[i].pid, "idle"), 0);
		CHECK_EQ(dksm_process(p[i].pid, "learn"), 0);
		check_private(p[i].pid, peer_page(&p[i], DATA + N), N);
	}
	peers_verify(p, 2);
}

/*
 * A page that nobody else had is a frame like any other, and is copied like any
 * other: who writes does not learn by the time whether others have the content.
 * 0.5 is chance, with a standard deviation of 0.007; where the frames of a run
 * happen to lie adds 0.03 to either side.
 */
static void write_time_tells_nothing(void)
{
	static struct sample s[ROUNDS * N];
	int dom = untrusted_open();
	u64 seed = 1;
	double p;

	if (!access("/sys/kernel/debug/kcsan", F_OK))
		SKIP("KCSAN delays at random");
	for (size_t i = 0; i < ROUNDS; i++)
		sample_writes(dom, &seed, s + i * N);
	p = slower_if_matched(s, ARRAY_SIZE(s));
	test_note("%zu writes, median %llu cycles if others have the page, else %llu; the first is slower with p = %.3f",
		  ARRAY_SIZE(s),
		  (unsigned long long)median_of(s, ARRAY_SIZE(s), true),
		  (unsigned long long)median_of(s, ARRAY_SIZE(s), false), p);
	if (fabs(p - 0.5) > 0.06)
		FAIL("who guesses by the time is right too often (p = %.3f)", p);
}

const struct test tests_tenants[] = {
	{ "tenants_share_nothing", tenants_share_nothing, 0 },
	{ "fresh_frames_are_copies", fresh_frames_are_copies, 0 },
	{ "fresh_frames_belong_to_the_domain", fresh_frames_belong_to_the_domain, 0 },
	{ "nodes_stay_apart", nodes_stay_apart, TEST_SLOW },
	{ "metadata_is_charged", metadata_is_charged, TEST_SLOW },
	{ "untrusted_is_merged_at_first_sight", untrusted_is_merged_at_first_sight, TEST_SLOW },
	{ "write_time_tells_nothing", write_time_tells_nothing, TEST_SLOW },
	{ NULL, NULL, 0 },
};
