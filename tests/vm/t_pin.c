// SPDX-License-Identifier: MIT
/*
 * Pages that somebody holds by reference: a pipe, a long-term pin, registered
 * io_uring buffers, direct I/O.  Such a page must stay where it is, because its
 * holder writes to or reads from that very frame; once released it merges.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests.h"

#define N 16

/* The kernel's test interface for long-term pins (CONFIG_GUP_TEST). */
struct pin_request {
	__u64 addr, size;
	__u32 flags;
};

#define PIN_START	_IOW('g', 7, struct pin_request)
#define PIN_STOP	_IO('g', 8)
#define PIN_READ	_IOW('g', 9, __u64)
#define PIN_FOR_WRITE	1

static int pin_open(void)
{
	int fd = open("/sys/kernel/debug/gup_test", O_RDWR);

	if (fd < 0)
		SKIP("no gup_test: %s", strerror(errno));
	return fd;
}

static int pin_start(int fd, void *addr, size_t len, unsigned int flags)
{
	struct pin_request req = { (uintptr_t)addr, len, flags };

	return ioctl(fd, PIN_START, &req) ? -errno : 0;
}

long op_pin(struct region *r, const long *arg)
{
	int fd = open("/sys/kernel/debug/gup_test", O_RDWR), err;

	if (fd < 0)
		return -errno;
	err = pin_start(fd, region_page(r, arg[0]), arg[1] * PAGE_SIZE,
			PIN_FOR_WRITE);
	/* There is one pin at a time. */
	close(fd);
	return err;
}

/* What the holder of the pin sees. */
static void pin_read(int fd, void *buf)
{
	__u64 dst = (uintptr_t)buf;

	SYS(ioctl(fd, PIN_READ, &dst));
}

/*
 * Pages @held … @held + 3 of @r are held by somebody: none of them may be merged
 * and all of the others must be.  The frames are in the domain already.
 */
static void merge_around(struct region *r, size_t held, int dom)
{
	struct dksm_report rep;
	u64 before[4], after[4];

	frames_read(0, region_page(r, held), 4, before);
	rep = merge(dom, DKSM_SELF, r->addr, region_bytes(r));
	CHECK_EQ(rep.merged, N - 4);
	CHECK_EQ(rep.published, 0);
	CHECK_EQ(rep.skipped[DKSM_SKIP_PINNED] + rep.skipped[DKSM_SKIP_BUSY], 4);
	frames_read(0, region_page(r, held), 4, after);
	CHECK(!memcmp(before, after, sizeof(before)));
	CHECK_EQ(count_merged(0, r->addr, N), N - 4);
	region_verify(r);
}

static void merge_the_rest(struct region *r, int dom)
{
	EXPECT(merge(dom, DKSM_SELF, r->addr, region_bytes(r)), .merged = 4,
	       .skipped[DKSM_SKIP_ALREADY] = N - 4);
	region_verify(r);
}

/* A peer with the same contents whose frames are there to be joined. */
static struct peer start_publisher(int dom)
{
	struct peer p = peer_start(N);

	peer_fill(&p, 0, N, 1, 1);
	EXPECT(peer_merge(&p, dom), .published = N);
	return p;
}

static void page_in_a_pipe(void)
{
	int dom = domain_open(""), fd[2];
	struct peer p = start_publisher(dom);
	struct region r = region_map(N);
	static unsigned char buf[4 * PAGE_SIZE];
	struct iovec iov = { .iov_len = sizeof(buf) };

	region_fill(&r, 0, N, 1, 1);
	SYS(pipe(fd));
	iov.iov_base = region_page(&r, 4);
	CHECK_EQ(SYS(vmsplice(fd[1], &iov, 1, 0)), sizeof(buf));
	merge_around(&r, 4, dom);
	CHECK_EQ(SYS(read(fd[0], buf, sizeof(buf))), sizeof(buf));
	for (int i = 0; i < 4; i++)
		CHECK_EQ(page_diff(buf + i * PAGE_SIZE, 5 + i), -1);
	merge_the_rest(&r, dom);
	peer_verify(&p);
}

static void long_term_pin(unsigned int flags)
{
	int fd = pin_open(), dom = domain_open(""), err;
	struct peer p = start_publisher(dom);
	struct region r = region_map(N);
	static unsigned char buf[4 * PAGE_SIZE];

	region_fill(&r, 0, N, 1, 1);
	err = pin_start(fd, region_page(&r, 4), sizeof(buf), flags);
	if (err)
		SKIP("cannot pin: %s", strerror(-err));
	/* To pin may have moved them. */
	merge_around(&r, 4, dom);
	/* The owner and the holder still see one page. */
	region_poke(&r, 5, 7, 0x55aa);
	pin_read(fd, buf);
	CHECK_EQ(((u64 *)(buf + PAGE_SIZE))[7], 0x55aa);
	region_fill(&r, 5, 1, 6, 0);
	SYS(ioctl(fd, PIN_STOP));
	merge_the_rest(&r, dom);
	peer_verify(&p);
}

static void long_term_pin_for_write(void)
{
	long_term_pin(PIN_FOR_WRITE);
}

static void long_term_pin_for_read(void)
{
	long_term_pin(0);
}

/* To pin a merged page makes it private first, so that both see one page. */
static void pin_after_merge(unsigned int flags)
{
	int fd = pin_open(), dom = domain_open(""), err;
	struct peer p = start_publisher(dom);
	struct region r = region_map(N);
	static unsigned char buf[N * PAGE_SIZE];

	region_fill(&r, 0, N, 1, 1);
	EXPECT(merge(dom, DKSM_SELF, r.addr, region_bytes(&r)), .merged = N);
	err = pin_start(fd, r.addr, region_bytes(&r), flags);
	if (err)
		SKIP("cannot pin: %s", strerror(-err));
	check_private(0, r.addr, N);
	for (int i = 0; i < N; i++)
		region_poke(&r, i, i, 0x77);
	pin_read(fd, buf);
	CHECK(!memcmp(buf, r.addr, sizeof(buf)));
	/* Nobody may be given the pinned frame. */
	CHECK_EQ(merge(dom, DKSM_SELF, r.addr, region_bytes(&r)).published, 0);
	region_poke(&r, 3, 3, 0x88);
	pin_read(fd, buf);
	CHECK(!memcmp(buf, r.addr, sizeof(buf)));
	SYS(ioctl(fd, PIN_STOP));
	region_verify(&r);
	peer_verify(&p);
}

static void pin_after_merge_for_write(void)
{
	pin_after_merge(PIN_FOR_WRITE);
}

static void pin_after_merge_for_read(void)
{
	pin_after_merge(0);
}

/*
 * A pin for reading copies. Whether that frees the frame, because nobody else has it,
 * shall not be told by the time it takes: it is freed a moment later.
 */
static void pin_for_read_frees_nothing(void)
{
	static unsigned char buf[PAGE_SIZE];
	struct region r = region_map(N);
	struct iovec to = { buf, PAGE_SIZE }, from = { r.addr, PAGE_SIZE };
	int dom = domain_open("");
	bool held = false;

	/* The moment may be over before the number is read. */
	for (int i = 0; i < 50 && !held; i++) {
		region_fill(&r, 0, N, 1 + i * N, 1);
		EXPECT(merge(dom, DKSM_SELF, r.addr, region_bytes(&r)),
		       .published = N);
		wait_frames("", N);
		CHECK_EQ(SYS(process_vm_readv(getpid(), &to, 1, &from, 1, 0)),
			 PAGE_SIZE);
		held = dksm_domain("", "pages_shared") == N;
		wait_frames("", N - 1);
	}
	CHECK(held);
	region_verify(&r);
}

/* A merged zero page that is pinned to be read becomes a page of its own. */
static void pin_of_merged_zero_pages(void)
{
	int fd = pin_open(), dom = domain_open(""), err;
	struct region r = region_map(N);
	static unsigned char buf[N * PAGE_SIZE];

	region_fill(&r, 0, N, SEED_ZERO, 0);
	EXPECT(merge(dom, DKSM_SELF, r.addr, region_bytes(&r)), .zero = N);
	err = pin_start(fd, r.addr, region_bytes(&r), 0);
	if (err)
		SKIP("cannot pin: %s", strerror(-err));
	for (int i = 0; i < N; i++)
		region_poke(&r, i, i, 0x99);
	pin_read(fd, buf);
	CHECK(!memcmp(buf, r.addr, sizeof(buf)));
	CHECK_EQ(dksm_process(0, "pages_zero"), 0);
	SYS(ioctl(fd, PIN_STOP));
	region_verify(&r);
}

/* ---- io_uring ---------------------------------------------------------- */

static int ring_with_buffer(void *addr, size_t len)
{
	struct iovec iov = { addr, len };
	struct io_uring_params params = { 0 };
	int fd = syscall(SYS_io_uring_setup, 4, &params);

	if (fd < 0)
		SKIP("no io_uring: %s", strerror(errno));
	if (syscall(SYS_io_uring_register, fd, IORING_REGISTER_BUFFERS, &iov, 1))
		SKIP("no io_uring buffers: %s", strerror(errno));
	return fd;
}

static void io_uring_buffers(void)
{
	int dom = domain_open(""), ring;
	struct peer p = start_publisher(dom);
	struct region r = region_map(N);

	region_fill(&r, 0, N, 1, 1);
	ring = ring_with_buffer(region_page(&r, 8), 4 * PAGE_SIZE);
	merge_around(&r, 8, dom);
	SYS(syscall(SYS_io_uring_register, ring, IORING_UNREGISTER_BUFFERS,
		    NULL, 0));
	close(ring);
	for (int i = 0; i < 100 && region_bytes(&r); i++) {
		/* The ring may let go of the pages a little later. */
		struct dksm_report rep = merge(dom, DKSM_SELF, r.addr,
					       region_bytes(&r));

		if (rep.skipped[DKSM_SKIP_ALREADY] == N)
			break;
		sleep_ms(20);
	}
	EXPECT(merge(dom, DKSM_SELF, r.addr, region_bytes(&r)),
	       .skipped[DKSM_SKIP_ALREADY] = N);
	region_verify(&r);
	peer_verify(&p);
}

/* ---- direct I/O -------------------------------------------------------- */

struct reader {
	int disk;
	unsigned char *buf;
	atomic_bool stop;
	u64 reads;
};

/* Reads two contents in turns; a read that went astray leaves the other one. */
static void *read_in_turns(void *arg)
{
	struct reader *rd = arg;

	for (u64 turn = 0; !atomic_load(&rd->stop); turn++) {
		off_t off = turn % 2 * 4 * PAGE_SIZE;

		CHECK_EQ(SYS(pread(rd->disk, rd->buf, 4 * PAGE_SIZE, off)),
			 4 * PAGE_SIZE);
		for (int i = 0; i < 4; i++)
			CHECK_EQ(page_diff(rd->buf + i * PAGE_SIZE,
					   1 + turn % 2 * 4 + i), -1);
		rd->reads++;
	}
	return NULL;
}

static void direct_io_in_progress(void)
{
	int dom = domain_open(""), disk = zram_open(1 << 20, O_DIRECT);
	struct region r = region_map(N);
	struct peer p = start_publisher(dom);
	struct reader rd = { .disk = disk, .buf = region_page(&r, 8) };
	u64 end = now_ms() + 1000;
	unsigned int merges = 0;
	pthread_t thread;

	if (disk < 0)
		SKIP("no zram: %s", strerror(-disk));
	region_fill(&r, 0, 8, 1, 1);
	CHECK_EQ(SYS(pwrite(disk, r.addr, 8 * PAGE_SIZE, 0)), 8 * PAGE_SIZE);
	CHECK_EQ(pthread_create(&thread, NULL, read_in_turns, &rd), 0);
	for (; now_ms() < end; merges++)
		merge(dom, DKSM_SELF, rd.buf, 4 * PAGE_SIZE);
	atomic_store(&rd.stop, true);
	pthread_join(thread, NULL);
	CHECK_OP(rd.reads, >, 0);
	CHECK_OP(merges, >, 0);
	peer_verify(&p);
	close(disk);
}

/* Direct I/O out of a merged page writes the right bytes. */
static void direct_io_from_merged(void)
{
	int dom = domain_open(""), disk = zram_open(1 << 20, O_DIRECT);
	struct peer p = start_publisher(dom);
	struct region r = region_map(N), back = region_map(N);

	if (disk < 0)
		SKIP("no zram: %s", strerror(-disk));
	region_fill(&r, 0, N, 1, 1);
	EXPECT(merge(dom, DKSM_SELF, r.addr, region_bytes(&r)), .merged = N);
	CHECK_EQ(SYS(pwrite(disk, r.addr, region_bytes(&r), 0)), N * PAGE_SIZE);
	/* And into merged pages, which nobody else may notice. */
	region_fill(&back, 0, N, 1, 1);
	EXPECT(merge(dom, DKSM_SELF, back.addr, region_bytes(&back)),
	       .merged = N);
	CHECK_EQ(SYS(pread(disk, back.addr, 8 * PAGE_SIZE, 8 * PAGE_SIZE)),
		 8 * PAGE_SIZE);
	region_model(&back, 0, 8, 9, 1);
	region_verify(&back);
	region_verify(&r);
	peer_verify(&p);
	close(disk);
}

const struct test tests_pin[] = {
	{ "page_in_a_pipe", page_in_a_pipe, 0 },
	{ "long_term_pin_for_write", long_term_pin_for_write, 0 },
	{ "long_term_pin_for_read", long_term_pin_for_read, 0 },
	{ "pin_after_merge_for_write", pin_after_merge_for_write, 0 },
	{ "pin_after_merge_for_read", pin_after_merge_for_read, 0 },
	{ "pin_for_read_frees_nothing", pin_for_read_frees_nothing, 0 },
	{ "pin_of_merged_zero_pages", pin_of_merged_zero_pages, 0 },
	{ "io_uring_buffers", io_uring_buffers, 0 },
	{ "direct_io_in_progress", direct_io_in_progress, 0 },
	{ "direct_io_from_merged", direct_io_from_merged, 0 },
	{ NULL, NULL, 0 },
};
