// SPDX-License-Identifier: MIT
/*
 * What tracks writes must go on tracking them: userfaultfd write protection and
 * the soft-dirty bit, set before a merge, after it, and across an unmerge. And
 * userfaultfd moves pages.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests.h"

#define N 16

/* A peer with the same contents, merged first. */
static struct peer start_publisher(int dom)
{
	struct peer p = peer_start(N);

	peer_fill(&p, 0, N, 1, 1);
	EXPECT(peer_merge(&p, dom), .published = N);
	return p;
}

/* ---- userfaultfd-wp ---------------------------------------------------- */

static int uffd_wp_open(const struct region *r)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP,
	};
	struct uffdio_register reg = {
		.range = { (uintptr_t)r->addr, region_bytes(r) },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		SKIP("no userfaultfd: %s", strerror(errno));
	if (ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &reg))
		SKIP("no userfaultfd write protection: %s", strerror(errno));
	return fd;
}

static void uffd_protect(int fd, const struct region *r, size_t first, size_t n,
			 bool on)
{
	struct uffdio_writeprotect wp = {
		.range = { (uintptr_t)region_page(r, first), n * PAGE_SIZE },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	SYS(ioctl(fd, UFFDIO_WRITEPROTECT, &wp));
}

static size_t wp_bits(const struct region *r, size_t first, size_t n)
{
	size_t count = 0;
	u64 e[N];

	pagemap_read(0, region_page(r, first), n, e);
	for (size_t i = 0; i < n; i++)
		count += !!(e[i] & PM_UFFD_WP);
	return count;
}

struct poke {
	struct region *r;
	size_t page;
	atomic_bool done;
};

static void *poke_thread(void *arg)
{
	struct poke *poke = arg;

	region_poke(poke->r, poke->page, 1, 0x1234);
	atomic_store(&poke->done, true);
	return NULL;
}

static bool uffd_event(int fd, const void *addr, int ms)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	struct uffd_msg msg;

	if (poll(&pfd, 1, ms) != 1)
		return false;
	CHECK_EQ(SYS(read(fd, &msg, sizeof(msg))), sizeof(msg));
	CHECK_EQ(msg.event, UFFD_EVENT_PAGEFAULT);
	CHECK(msg.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP);
	CHECK_EQ(msg.arg.pagefault.address & ~(PAGE_SIZE - 1), (uintptr_t)addr);
	return true;
}

/* A write to a protected page: event first, then it is allowed and happens. */
static void write_is_reported(int fd, struct region *r, size_t page)
{
	struct poke poke = { .r = r, .page = page };
	pthread_t thread;

	CHECK_EQ(pthread_create(&thread, NULL, poke_thread, &poke), 0);
	if (!uffd_event(fd, region_page(r, page), 20000))
		FAIL("page %zu: the write was not reported", page);
	sleep_ms(10);
	CHECK(!atomic_load(&poke.done));
	CHECK_EQ(page_diff(region_page(r, page), r->seed[page]), -1);
	uffd_protect(fd, r, page, 1, false);
	pthread_join(thread, NULL);
	region_verify(r);
}

static void uffd_wp_before_merge(void)
{
	int dom = domain_open(""), fd;
	struct peer p = start_publisher(dom);
	struct region r = region_map(N);

	region_fill(&r, 0, N, 1, 1);
	fd = uffd_wp_open(&r);
	uffd_protect(fd, &r, 0, N / 2, true);
	CHECK_EQ(wp_bits(&r, 0, N), N / 2);
	merge(dom, DKSM_SELF, r.addr, region_bytes(&r));
	CHECK_EQ(wp_bits(&r, 0, N / 2), N / 2);
	CHECK_EQ(wp_bits(&r, N / 2, N / 2), 0);
	write_is_reported(fd, &r, 2);
	write_is_reported(fd, &r, 5);
	region_poke(&r, N - 1, 0, 1);
	CHECK(!uffd_event(fd, NULL, 0));
	region_verify(&r);
	peer_verify(&p);
}

/* The same when the page becomes a frame instead of joining one. */
static void uffd_wp_before_publish(void)
{
	int dom = domain_open(""), fd;
	struct peer p = peer_start(N);
	struct region r = region_map(N);

	region_fill(&r, 0, N, 1, 1);
	fd = uffd_wp_open(&r);
	uffd_protect(fd, &r, 0, N, true);
	merge(dom, DKSM_SELF, r.addr, region_bytes(&r));
	CHECK_EQ(wp_bits(&r, 0, N), N);
	peer_fill(&p, 0, N, 1, 1);
	peer_merge(&p, dom);
	write_is_reported(fd, &r, 3);
	peer_poke(&p, 4, 0, 1);
	CHECK(!uffd_event(fd, NULL, 0));
	region_verify(&r);
	peer_verify(&p);
}

static void uffd_wp_before_zero(void)
{
	int dom = domain_open(""), fd;
	struct region r = region_map(N);

	region_fill(&r, 0, N, SEED_ZERO, 0);
	fd = uffd_wp_open(&r);
	uffd_protect(fd, &r, 0, N, true);
	merge(dom, DKSM_SELF, r.addr, region_bytes(&r));
	CHECK_EQ(wp_bits(&r, 0, N), N);
	write_is_reported(fd, &r, 3);
	unmerge(dom, DKSM_SELF, r.addr, region_bytes(&r));
	CHECK_EQ(wp_bits(&r, 0, N), N - 1);
	write_is_reported(fd, &r, 4);
}

static void uffd_wp_after_merge(void)
{
	int dom = domain_open(""), fd;
	struct peer p = start_publisher(dom);
	struct region r = region_map(N);

	region_fill(&r, 0, N, 1, 1);
	EXPECT(merge(dom, DKSM_SELF, r.addr, region_bytes(&r)), .merged = N);
	fd = uffd_wp_open(&r);
	uffd_protect(fd, &r, 0, N, true);
	CHECK_EQ(wp_bits(&r, 0, N), N);
	CHECK_EQ(frame_of(0, r.addr), peer_frame(&p, 0));
	write_is_reported(fd, &r, 1);
	/* Taking the protection away must not make a frame writable. */
	uffd_protect(fd, &r, 0, N, false);
	for (int i = 2; i < N; i++)
		region_poke(&r, i, 0, i);
	region_verify(&r);
	peer_verify(&p);
	check_private(0, region_page(&r, 1), N - 1);
}

static void uffd_wp_across_unmerge(void)
{
	int dom = domain_open(""), fd;
	struct peer p = start_publisher(dom);
	struct region r = region_map(N);

	region_fill(&r, 0, N, 1, 1);
	EXPECT(merge(dom, DKSM_SELF, r.addr, region_bytes(&r)), .merged = N);
	fd = uffd_wp_open(&r);
	uffd_protect(fd, &r, 0, N, true);
	EXPECT(unmerge(dom, DKSM_SELF, r.addr, region_bytes(&r)), .unmerged = N);
	check_private(0, r.addr, N);
	CHECK_EQ(wp_bits(&r, 0, N), N);
	write_is_reported(fd, &r, 7);
	region_verify(&r);
	peer_verify(&p);
}

/* ---- pages that are moved ---------------------------------------------- */

/* Frames are shared, and stay where they are. */
static void uffd_move_leaves_frames(void)
{
	int dom = domain_open(""), fd;
	struct peer p = start_publisher(dom);
	struct region r = region_map(N), to = region_map(N);

	region_fill(&r, 0, N, 1, 1);
	fd = uffd_wp_open(&to);
	EXPECT(merge(dom, DKSM_SELF, r.addr, region_bytes(&r)), .merged = N);
	CHECK_EQ(uffd_move(fd, to.addr, r.addr, region_bytes(&r)), -EBUSY);
	CHECK_EQ(frame_of(0, r.addr), peer_frame(&p, 0));
	EXPECT(unmerge(dom, DKSM_SELF, r.addr, region_bytes(&r)), .unmerged = N);
	CHECK_EQ(uffd_move(fd, to.addr, r.addr, region_bytes(&r)),
		 region_bytes(&r));
	region_model(&to, 0, N, 1, 1);
	region_verify(&to);
	region_model(&r, 0, N, SEED_ZERO, 0);
	region_verify(&r);
	/* What was moved has another offset in another area. */
	EXPECT(merge(dom, DKSM_SELF, to.addr, region_bytes(&to)), .merged = N);
	region_poke(&to, 1, 1, 1);
	region_verify(&to);
	peer_verify(&p);
}

/* Merged zero pages move, are still counted, and unmerge finds them. */
static void uffd_move_takes_zero_pages(void)
{
	int dom = domain_open(""), fd;
	struct region r = region_map(N), to = region_map(N);

	region_fill(&r, 0, N, SEED_ZERO, 0);
	fd = uffd_wp_open(&to);
	EXPECT(merge(dom, DKSM_SELF, r.addr, region_bytes(&r)), .zero = N);
	CHECK_EQ(uffd_move(fd, to.addr, r.addr, region_bytes(&r)),
		 region_bytes(&r));
	region_model(&to, 0, N, SEED_ZERO, 0);
	region_verify(&to);
	CHECK_EQ(dksm_domain("", "pages_zero"), N);
	region_poke(&to, 1, 1, 1);
	CHECK_EQ(dksm_domain("", "pages_zero"), N - 1);
	EXPECT(unmerge(dom, DKSM_SELF, to.addr, region_bytes(&to)),
	       .unmerged = N - 1);
	CHECK_EQ(dksm_domain("", "pages_zero"), 0);
	region_verify(&to);
}

/* ---- soft-dirty -------------------------------------------------------- */

static void soft_dirty_clear(void)
{
	CHECK_EQ(write_str("/proc/self/clear_refs", "4"), 0);
}

static size_t soft_dirty_bits(const struct region *r, size_t first, size_t n)
{
	size_t count = 0;
	u64 e[N];

	pagemap_read(0, region_page(r, first), n, e);
	for (size_t i = 0; i < n; i++)
		count += !!(e[i] & PM_SOFT_DIRTY);
	return count;
}

/* A region whose first half was written since the bits were cleared. */
static struct region half_dirty(u64 seed, u64 step)
{
	struct region r = region_map(N);

	region_fill(&r, 0, N, seed, step);
	soft_dirty_clear();
	if (soft_dirty_bits(&r, 0, N))
		SKIP("no soft-dirty bits");
	region_fill(&r, 0, N / 2, seed, step);
	CHECK_EQ(soft_dirty_bits(&r, 0, N / 2), N / 2);
	return r;
}

static void bits_survive(struct region *r, int dom, bool joins)
{
	struct dksm_report rep = merge(dom, DKSM_SELF, r->addr, region_bytes(r));

	CHECK_EQ(joins ? rep.merged : rep.published + rep.zero, N);
	CHECK_EQ(soft_dirty_bits(r, 0, N / 2), N / 2);
	CHECK_EQ(soft_dirty_bits(r, N / 2, N / 2), 0);
	soft_dirty_clear();
	CHECK_EQ(soft_dirty_bits(r, 0, N), 0);
	region_poke(r, 1, 0, 1);
	region_poke(r, N - 1, 0, 1);
	CHECK_EQ(soft_dirty_bits(r, 1, 1), 1);
	CHECK_EQ(soft_dirty_bits(r, N - 1, 1), 1);
	CHECK_EQ(soft_dirty_bits(r, 0, N), 2);
	merge(dom, DKSM_SELF, r->addr, region_bytes(r));
	CHECK_EQ(soft_dirty_bits(r, 0, N), 2);
	region_verify(r);
}

static void soft_dirty_and_publish(void)
{
	struct region r = half_dirty(1, 1);

	bits_survive(&r, domain_open(""), false);
}

static void soft_dirty_and_merge(void)
{
	int dom = domain_open("");
	struct peer p = start_publisher(dom);
	struct region r = half_dirty(1, 1);

	bits_survive(&r, dom, true);
	peer_verify(&p);
}

static void soft_dirty_and_zero_pages(void)
{
	struct region r = half_dirty(SEED_ZERO, 0);

	bits_survive(&r, domain_open(""), false);
}

/* A page that was dirty must not look clean afterwards; the reverse is harmless. */
static void soft_dirty_across_unmerge(void)
{
	int dom = domain_open("");
	struct peer p = start_publisher(dom);
	struct region r = half_dirty(1, 1);

	EXPECT(merge(dom, DKSM_SELF, r.addr, region_bytes(&r)), .merged = N);
	EXPECT(unmerge(dom, DKSM_SELF, r.addr, region_bytes(&r)), .unmerged = N);
	CHECK_EQ(soft_dirty_bits(&r, 0, N / 2), N / 2);
	region_verify(&r);
	peer_verify(&p);
}

const struct test tests_track[] = {
	{ "uffd_wp_before_merge", uffd_wp_before_merge, 0 },
	{ "uffd_wp_before_publish", uffd_wp_before_publish, 0 },
	{ "uffd_wp_before_zero", uffd_wp_before_zero, 0 },
	{ "uffd_wp_after_merge", uffd_wp_after_merge, 0 },
	{ "uffd_wp_across_unmerge", uffd_wp_across_unmerge, 0 },
	{ "uffd_move_leaves_frames", uffd_move_leaves_frames, 0 },
	{ "uffd_move_takes_zero_pages", uffd_move_takes_zero_pages, 0 },
	{ "soft_dirty_and_publish", soft_dirty_and_publish, 0 },
	{ "soft_dirty_and_merge", soft_dirty_and_merge, 0 },
	{ "soft_dirty_and_zero_pages", soft_dirty_and_zero_pages, 0 },
	{ "soft_dirty_across_unmerge", soft_dirty_across_unmerge, 0 },
	{ NULL, NULL, 0 },
};
