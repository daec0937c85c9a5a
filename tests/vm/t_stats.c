// SPDX-License-Identifier: MIT
/*
 * The numbers in sysfs and /proc/PID/dksm_stat must equal what counting page
 * frames finds, after everything that changes a page table.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests.h"

#define PROCS 3
#define PAGES 48

/*
 * A peer, and which of its pages this test has merged and not written since:
 * the kernel has no flag for that which could be trusted here.
 */
struct tracked {
	struct peer p;
	bool merged[PAGES];
};

struct count {
	u64 frames;		/* distinct merged frames */
	u64 maps;		/* page table entries that map them */
	u64 zero;
};

static void set_merged(struct tracked *t, size_t first, size_t n, bool merged)
{
	for (size_t i = first; i < first + n; i++)
		t->merged[i] = merged;
}

/* Adds the merged frames of a peer to @pfn[*n]; returns how many there are. */
static size_t frames_collect(const struct tracked *t, u64 *pfn, size_t *n,
			     u64 *zero)
{
	size_t before = *n;
	u64 e[PAGES];

	pagemap_read(t->p.pid, t->p.addr, t->p.pages, e);
	for (size_t i = 0; i < t->p.pages; i++) {
		if (!(e[i] & PM_PRESENT) || !t->merged[i])
			continue;
		if (frame_flag(PM_PFN(e[i]), KPF_ZERO_PAGE))
			(*zero)++;
		else
			pfn[(*n)++] = PM_PFN(e[i]);
	}
	return *n - before;
}

static void process_numbers(const struct tracked *t)
{
	u64 pfn[PAGES], zero = 0, sharing = 0;
	char name[DKSM_NAME_SIZE];
	size_t n = 0;

	frames_collect(t, pfn, &n, &zero);
	dksm_process_domain(t->p.pid, name);
	if (!name[0]) {
		CHECK_EQ(n + zero, 0);
		return;
	}
	for (size_t i = 0; i < n; i++)
		sharing += frame_maps(pfn[i]) > 1;
	CHECK_EQ(count_merged(t->p.pid, t->p.addr, t->p.pages), n);
	CHECK_EQ(dksm_process(t->p.pid, "pages_merged"), n);
	CHECK_EQ(dksm_process(t->p.pid, "pages_sharing"), sharing);
	CHECK_EQ(dksm_process(t->p.pid, "pages_zero"), zero);
}

static struct count count_all(const struct tracked *t, size_t procs)
{
	u64 pfn[PROCS * 2 * PAGES];
	struct count c = { 0 };
	size_t n = 0;

	for (size_t i = 0; i < procs; i++)
		frames_collect(&t[i], pfn, &n, &c.zero);
	c.maps = n;
	c.frames = distinct(pfn, n);
	return c;
}

static void numbers_agree(const struct tracked *t, size_t procs,
			  const struct count *global)
{
	struct count c = count_all(t, procs);

	CHECK_EQ(dksm_domain("", "pages_shared"), c.frames);
	CHECK_EQ(dksm_domain("", "pages_sharing"), c.maps - c.frames);
	CHECK_EQ(dksm_domain("", "pages_zero"), c.zero);
	if (!c.zero)
		CHECK_EQ(dksm_domain("", "saved_bytes"),
			 (c.maps - c.frames) * PAGE_SIZE);
	CHECK_EQ(dksm_global("pages_shared"), c.frames + global->frames);
	CHECK_EQ(dksm_global("pages_sharing"),
		 c.maps - c.frames + global->maps);
	CHECK_EQ(dksm_global("pages_zero"), c.zero + global->zero);
	for (size_t i = 0; i < procs; i++)
		process_numbers(&t[i]);
}

static struct count global_numbers(void)
{
	return (struct count){
		.frames = dksm_global("pages_shared"),
		.maps = dksm_global("pages_sharing"),
		.zero = dksm_global("pages_zero"),
	};
}

/* Each page of each process gets one of a few contents. */
static void fill_at_random(struct tracked *t, size_t procs, u64 *state, u64 min)
{
	for (size_t i = 0; i < procs; i++)
		for (size_t page = 0; page < PAGES; page++)
			peer_fill(&t[i].p, page, 1, min + rnd(state) % 20, 0);
}

static void tracked_merge(struct tracked *t, int dom)
{
	peer_merge(&t->p, dom);
	set_merged(t, 0, PAGES, true);
}

static void tracked_poke(struct tracked *t, size_t page, u64 val)
{
	peer_poke(&t->p, page, page, val);
	set_merged(t, page, 1, false);
}

static long op_munmap_tail(struct region *r, const long *arg)
{
	size_t n = arg[0];

	SYS(munmap(region_page(r, r->pages - n), n * PAGE_SIZE));
	r->pages -= n;
	return 0;
}

/* Writes, a fork, a discard, an munmap and an unmerge. */
static void change_everything(struct tracked *t, int dom,
			      const struct count *global)
{
	t[PROCS] = t[1];
	t[PROCS].p = peer_fork(&t[1].p);
	numbers_agree(t, PROCS + 1, global);
	tracked_poke(&t[PROCS], 40, 1);
	tracked_poke(&t[1], 41, 1);
	numbers_agree(t, PROCS + 1, global);
	CHECK_EQ(peer_madvise(&t[1].p, 30, 5, MADV_DONTNEED), 0);
	numbers_agree(t, PROCS + 1, global);
	peer_call(&t[1].p, op_munmap_tail, 10);
	t[1].p.pages -= 10;
	numbers_agree(t, PROCS + 1, global);
	unmerge(dom, t[2].p.pidfd, t[2].p.addr, 16 * PAGE_SIZE);
	set_merged(&t[2], 0, 16, false);
	numbers_agree(t, PROCS + 1, global);
}

/* @min 0 has zero pages among the contents, 1 has none. */
static void numbers_after_everything(u64 min)
{
	struct count global = global_numbers();
	struct tracked t[PROCS + 1] = { 0 };
	int dom = domain_open("");
	u64 state = 42 + min;

	for (int i = 0; i < PROCS; i++)
		t[i].p = peer_start(PAGES);
	fill_at_random(t, PROCS, &state, min);
	for (int i = 0; i < PROCS; i++) {
		tracked_merge(&t[i], dom);
		numbers_agree(t, PROCS, &global);
	}
	for (int i = 0; i < 20; i++)
		tracked_poke(&t[rnd(&state) % PROCS], i, i);
	numbers_agree(t, PROCS, &global);
	tracked_merge(&t[0], dom);
	numbers_agree(t, PROCS, &global);
	change_everything(t, dom, &global);
	peer_exit(&t[0].p);
	numbers_agree(t + 1, PROCS, &global);
	peer_kill(&t[1].p);
	numbers_agree(t + 2, PROCS - 1, &global);
	peer_verify(&t[2].p);
	peer_verify(&t[3].p);
}

static void numbers_without_zero_pages(void)
{
	numbers_after_everything(1);
}

static void numbers_with_zero_pages(void)
{
	numbers_after_everything(SEED_ZERO);
}

/* A write to a page that others map too is one break, any other is none. */
static void numbers_of_breaks(void)
{
	struct peer p[2] = { peer_start(PAGES), peer_start(PAGES) };
	int dom = domain_open("");

	for (int i = 0; i < 2; i++) {
		peer_fill(&p[i], 0, PAGES, 1, 1);
		peer_merge(&p[i], dom);
	}
	CHECK_EQ(dksm_domain("", "cow_breaks"), 0);
	for (int i = 0; i < 10; i++)
		peer_poke(&p[0], i, 0, i);
	CHECK_EQ(dksm_process(p[0].pid, "cow_breaks"), 10);
	CHECK_EQ(dksm_process(p[1].pid, "cow_breaks"), 0);
	CHECK_EQ(dksm_domain("", "cow_breaks"), 10);
	for (int i = 0; i < 10; i++)
		peer_poke(&p[0], i, 0, i + 1);
	CHECK_EQ(dksm_process(p[0].pid, "cow_breaks"), 10);
	for (int i = 20; i < 27; i++)
		peer_poke(&p[1], i, 0, i);
	CHECK_EQ(dksm_process(p[1].pid, "cow_breaks"), 7);
	CHECK_EQ(dksm_domain("", "cow_breaks"), 17);
	/* To unmerge is no write. */
	unmerge(dom, p[1].pidfd, p[1].addr, PAGES * PAGE_SIZE);
	CHECK_EQ(dksm_domain("", "cow_breaks"), 17);
	peers_verify(p, 2);
}

static void numbers_of_calls(void)
{
	struct peer p = peer_start(PAGES);
	u64 calls = dksm_global("merge_calls"), ns = dksm_global("merge_ns");
	int dom = domain_open("");
	struct dksm_report rep;

	CHECK_EQ(dksm_domain("", "merge_calls"), 0);
	CHECK_EQ(dksm_domain("", "merge_ns"), 0);
	peer_fill(&p, 0, PAGES, 1, 1);
	rep = peer_merge(&p, dom);
	CHECK_OP(rep.ns, >, 0);
	CHECK_EQ(dksm_domain("", "merge_calls"), 1);
	CHECK_OP(dksm_domain("", "merge_ns"), >=, rep.ns / 2);
	CHECK_OP(dksm_domain("", "metadata_bytes"), >, 0);
	peer_merge(&p, dom);
	CHECK_EQ(dksm_domain("", "merge_calls"), 2);
	CHECK_EQ(dksm_global("merge_calls"), calls + 2);
	CHECK_OP(dksm_global("merge_ns"), >, ns);
}

static void mode_is(const char *path, mode_t mode, uid_t uid)
{
	struct stat st;

	SYS(stat(path, &st));
	if ((st.st_mode & 07777) != mode || st.st_uid != uid)
		FAIL("%s has mode %o and owner %u, wanted %o and %u", path,
		     st.st_mode & 07777, st.st_uid, mode, uid);
}

static void files_and_modes(void)
{
	static const char *const numbers[] = {
		"pages_shared", "pages_sharing", "pages_zero", "saved_bytes",
		"cow_breaks", "metadata_bytes", "merge_calls", "merge_ns",
	};
	int dom = domain_open("");
	char path[300];
	struct stat st;

	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		dksm_global(numbers[i]);
		snprintf(path, sizeof(path), DKSM_SYSFS "%s", numbers[i]);
		SYS(stat(path, &st));
		CHECK_EQ(st.st_mode & 0222, 0);
		dksm_domain("", numbers[i]);
		snprintf(path, sizeof(path), DKSM_SYSFS "domains/%s/%s",
			 domain_name(""), numbers[i]);
		mode_is(path, 0400, 0);
	}
	mode_is("/dev/dksm", 0600, 0);
	snprintf(path, sizeof(path), "/proc/%d/dksm_stat", getpid());
	mode_is(path, 0400, 0);
	close(dom);
}

static size_t file_bytes(const char *path)
{
	int fd = SYS(open(path, O_RDONLY));
	char buf[4096];
	ssize_t n = SYS(read(fd, buf, sizeof(buf)));

	close(fd);
	return n;
}

static void process_file_outside_a_domain(void)
{
	struct region r = region_map(4);
	int dom = domain_open("");

	CHECK_EQ(file_bytes("/proc/self/dksm_stat"), 0);
	CHECK_EQ(file_bytes("/proc/1/dksm_stat"), 0);
	CHECK_EQ(file_bytes("/proc/2/dksm_stat"), 0);	/* a kernel thread */
	region_fill(&r, 0, 4, 1, 1);
	merge(dom, DKSM_SELF, r.addr, region_bytes(&r));
	CHECK_OP(file_bytes("/proc/self/dksm_stat"), >, 0);
	CHECK_EQ(dksm_process(0, "pages_merged"), 4);
	CHECK_EQ(dksm_process(0, "pages_sharing"), 0);
}

const struct test tests_stats[] = {
	{ "numbers_without_zero_pages", numbers_without_zero_pages, 0 },
	{ "numbers_with_zero_pages", numbers_with_zero_pages, 0 },
	{ "numbers_of_breaks", numbers_of_breaks, 0 },
	{ "numbers_of_calls", numbers_of_calls, 0 },
	{ "files_and_modes", files_and_modes, 0 },
	{ "process_file_outside_a_domain", process_file_outside_a_domain, 0 },
	{ NULL, NULL, 0 },
};
