// SPDX-License-Identifier: MIT
/*
 * Memory that is not private anonymous is left alone and counted by kind; what
 * of it has become anonymous by a write is merged like any other.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests.h"

#define N 32

#ifndef MAP_HUGETLB
#define MAP_HUGETLB 0x40000
#endif

static int file_of_pages(u64 seed, size_t n)
{
	static unsigned char page[PAGE_SIZE];
	char path[] = "/tmp/dksm-test-XXXXXX";
	int fd = SYS(mkstemp(path));

	SYS(unlink(path));
	for (size_t i = 0; i < n; i++) {
		page_fill(page, seed + i);
		CHECK_EQ(write(fd, page, PAGE_SIZE), PAGE_SIZE);
	}
	return fd;
}

/* Maps the file privately and lists which of its pages are populated. */
static struct region map_file(int fd, int prot)
{
	struct region r = region_at(SYS(mmap(NULL, N * PAGE_SIZE, prot,
					     MAP_PRIVATE, fd, 0)), N);

	region_model(&r, 0, N, 1, 1);
	return r;
}

static size_t file_pages(const struct region *r)
{
	size_t count = 0;
	u64 e[N];

	pagemap_read(0, r->addr, N, e);
	for (int i = 0; i < N; i++)
		count += (e[i] & PM_PRESENT) && (e[i] & PM_FILE);
	return count;
}

static void private_file(void)
{
	struct region r = map_file(file_of_pages(1, N), PROT_READ | PROT_WRITE);
	int dom = domain_open("");
	struct peer p = peer_start(N);
	size_t cached;
	u64 before[N], after[N];

	region_verify(&r);
	for (int i = 0; i < N; i += 2)
		region_poke(&r, i, 3, 3);
	cached = file_pages(&r);
	CHECK_OP(cached, >, 0);
	frames_read(0, r.addr, N, before);
	EXPECT(merge(dom, DKSM_SELF, r.addr, region_bytes(&r)),
	       .published = N / 2, .skipped[DKSM_SKIP_FILE] = cached);
	frames_read(0, r.addr, N, after);
	CHECK_EQ(count_merged(0, r.addr, N), N / 2);
	for (int i = 1; i < N; i += 2)
		CHECK_EQ(before[i], after[i]);
	region_verify(&r);

	/* The written copies of the file's pages share with plain memory. */
	for (int i = 0; i < N; i += 2) {
		peer_fill(&p, i, 1, 1 + i, 0);
		peer_poke(&p, i, 3, 3);
	}
	EXPECT(peer_merge(&p, dom), .merged = N / 2);
	CHECK_EQ(peer_frame(&p, 0), after[0]);
	region_poke(&r, 0, 3, 4);
	peer_poke(&p, 2, 3, 5);
	region_verify(&r);
	peer_verify(&p);
	EXPECT(unmerge(dom, DKSM_SELF, r.addr, region_bytes(&r)),
	       .unmerged = N / 2 - 1);
	region_verify(&r);
}

static void private_file_read_only(void)
{
	struct region r = map_file(file_of_pages(1, N), PROT_READ);
	int dom = domain_open("");

	region_verify(&r);
	EXPECT(merge(dom, DKSM_SELF, r.addr, region_bytes(&r)),
	       .skipped[DKSM_SKIP_FILE] = file_pages(&r));
	region_verify(&r);
}

/* What is cut off from a file under a private mapping is lost, copies too. */
static void truncated_file(void)
{
	int fd = file_of_pages(1, N), dom = domain_open("");
	struct region r = map_file(fd, PROT_READ | PROT_WRITE);
	struct peer p = peer_start(N);

	for (int i = 0; i < N; i++)
		region_poke(&r, i, 0, 0);
	EXPECT(merge(dom, DKSM_SELF, r.addr, region_bytes(&r)), .published = N);
	peer_fill(&p, 0, N, 1, 1);
	for (int i = 0; i < N; i++)
		peer_poke(&p, i, 0, 0);
	EXPECT(peer_merge(&p, dom), .merged = N);
	SYS(ftruncate(fd, N / 2 * PAGE_SIZE));
	peer_verify(&p);
	region_verify_range(&r, 0, N / 2);
	CHECK_EQ(frame_maps(peer_frame(&p, N - 1)), 1);
	peer_migrate(&p, N - 1);
	peer_migrate(&p, 0);
	region_verify_range(&r, 0, N / 2);
	peer_verify(&p);
}

/* A shared mapping of @n pages is skipped as such, populated or not. */
static void check_skipped(void *addr, size_t n, enum dksm_skip why, int dom)
{
	struct dksm_report want = { 0 }, rep;
	u64 e[2][n];

	want.skipped[why] = n;
	pagemap_read(0, addr, n, e[0]);
	rep = merge(dom, DKSM_SELF, addr, n * PAGE_SIZE);
	report_check(__FILE__, __LINE__, &rep, &want);
	pagemap_read(0, addr, n, e[1]);
	for (size_t i = 0; i < n; i++)
		CHECK_EQ(PM_PFN(e[0][i]), PM_PFN(e[1][i]));
	CHECK_EQ(count_merged(0, addr, n), 0);
}

static void fill_half(struct region *r)
{
	region_fill(r, 0, r->pages / 2, 5, 0);
}

static void shared_memory(void)
{
	int dom = domain_open("");
	struct region r;
	int fd;

	r = region_at(SYS(mmap(NULL, N * PAGE_SIZE, PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS, -1, 0)), N);
	fill_half(&r);
	check_skipped(r.addr, N, DKSM_SKIP_SHARED, dom);
	region_verify(&r);

	fd = SYS(memfd_create("dksm-test", 0));
	SYS(ftruncate(fd, N * PAGE_SIZE));
	r = region_at(SYS(mmap(NULL, N * PAGE_SIZE, PROT_READ | PROT_WRITE,
			       MAP_SHARED, fd, 0)), N);
	fill_half(&r);
	check_skipped(r.addr, N, DKSM_SKIP_SHARED, dom);
	region_verify(&r);

	fd = file_of_pages(1, N);
	r = region_at(SYS(mmap(NULL, N * PAGE_SIZE, PROT_READ, MAP_SHARED, fd,
			       0)), N);
	region_model(&r, 0, N, 1, 1);
	region_verify(&r);
	check_skipped(r.addr, N, DKSM_SKIP_SHARED, dom);
}

/* A memfd mapped privately: its pages are a file's, its copies are ours. */
static void private_memfd(void)
{
	int fd = SYS(memfd_create("dksm-test", 0)), dom = domain_open("");
	static unsigned char page[PAGE_SIZE];
	struct region r;

	for (int i = 0; i < N; i++) {
		page_fill(page, 1 + i);
		CHECK_EQ(write(fd, page, PAGE_SIZE), PAGE_SIZE);
	}
	r = map_file(fd, PROT_READ | PROT_WRITE);
	region_verify(&r);
	region_poke(&r, 0, 0, 1);
	EXPECT(merge(dom, DKSM_SELF, r.addr, region_bytes(&r)), .published = 1,
	       .skipped[DKSM_SKIP_FILE] = N - 1);
	region_verify(&r);
}

static void huge_tlb(void)
{
	const char *knob = "/proc/sys/vm/nr_hugepages";
	int dom = domain_open("");
	struct region r;
	void *p;

	if (write_u64(knob, 2) || read_u64(knob) < 2)
		SKIP("no hugetlb pages");
	p = mmap(NULL, 2 * HUGE_SIZE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	if (p == MAP_FAILED)
		SKIP("hugetlb: %s", strerror(errno));
	r = region_at(p, 1024);
	region_fill(&r, 0, 600, 5, 0);
	EXPECT(merge(dom, DKSM_SELF, p, 2 * HUGE_SIZE),
	       .skipped[DKSM_SKIP_HUGETLB] = 1024);
	region_verify(&r);
	CHECK_EQ(count_merged(0, p, 1024), 0);
	EXPECT(unmerge(dom, DKSM_SELF, p, 2 * HUGE_SIZE), .unmerged = 0);
	munmap(p, 2 * HUGE_SIZE);
	write_u64(knob, 0);
}

static void special_mappings(void)
{
	int dom = domain_open(""), fd;
	unsigned long from = 0, to = 0;
	char line[256], name[64];
	bool found = false;
	FILE *f = fopen("/proc/self/maps", "re");
	void *p;

	CHECK(f);
	while (!found && fgets(line, sizeof(line), f))
		found = sscanf(line, "%lx-%lx %*s %*s %*s %*s %63s", &from, &to,
			       name) == 3 && !strcmp(name, "[vvar]");
	fclose(f);
	if (found)
		EXPECT(merge(dom, DKSM_SELF, (void *)from, to - from),
		       .skipped[DKSM_SKIP_DEVICE] = (to - from) / PAGE_SIZE);

	fd = open("/dev/mem", O_RDONLY);
	if (fd < 0)
		return;
	p = mmap(NULL, 4 * PAGE_SIZE, PROT_READ, MAP_PRIVATE, fd, 0xb8000);
	if (p == MAP_FAILED)
		return;
	EXPECT(merge(dom, DKSM_SELF, p, 4 * PAGE_SIZE),
	       .skipped[DKSM_SKIP_DEVICE] = 4);
	/* In between, ordinary memory is still merged. */
	CHECK_OP(merge(dom, DKSM_SELF, NULL, 0).published, >, 0);
}

/* Memory that the kernel itself cannot see must stay out of every frame. */
static void secret_memory(void)
{
	int dom = domain_open("");
	struct dksm_report rep;
	struct region r;
	int fd = syscall(SYS_memfd_secret, 0);
	void *p;

	if (fd < 0)
		SKIP("no memfd_secret: %s", strerror(errno));
	SYS(ftruncate(fd, 8 * PAGE_SIZE));
	p = mmap(NULL, 8 * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		SKIP("memfd_secret: %s", strerror(errno));
	r = region_at(p, 8);
	region_fill(&r, 0, 8, 1, 0);
	rep = merge(dom, DKSM_SELF, p, 8 * PAGE_SIZE);
	CHECK_EQ(report_skipped(&rep), 8);
	region_verify(&r);
}

/* A userspace with all of it in one address space, merged in one call. */
static void mixture_in_one_call(void)
{
	int fd = file_of_pages(1, N), dom = domain_open("");
	unsigned char *base = SYS(mmap(NULL, 4 * N * PAGE_SIZE,
				       PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	struct region anon = region_at(base, N);
	struct region shm = region_at(base + N * PAGE_SIZE, N);
	struct region file = region_at(base + 2 * N * PAGE_SIZE, N);
	struct region last = region_at(base + 3 * N * PAGE_SIZE, N);
	size_t cached;

	SYS(madvise(base, 4 * N * PAGE_SIZE, MADV_NOHUGEPAGE));
	SYS(mmap(shm.addr, N * PAGE_SIZE, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	SYS(mmap(file.addr, N * PAGE_SIZE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_FIXED, fd, 0));
	region_fill(&anon, 0, N, 50, 1);
	region_fill(&shm, 0, N, 50, 1);
	region_model(&file, 0, N, 1, 1);
	region_verify(&file);
	region_fill(&last, 0, N, 50, 1);
	cached = file_pages(&file);
	EXPECT(merge(dom, DKSM_SELF, base, 4 * N * PAGE_SIZE),
	       .published = N, .merged = N, .skipped[DKSM_SKIP_SHARED] = N,
	       .skipped[DKSM_SKIP_FILE] = cached);
	CHECK_EQ(frame_of(0, anon.addr), frame_of(0, last.addr));
	region_poke(&anon, 0, 0, 1);
	region_verify(&anon);
	region_verify(&shm);
	region_verify(&file);
	region_verify(&last);
}

const struct test tests_kinds[] = {
	{ "private_file", private_file, 0 },
	{ "private_file_read_only", private_file_read_only, 0 },
	{ "truncated_file", truncated_file, 0 },
	{ "shared_memory", shared_memory, 0 },
	{ "private_memfd", private_memfd, 0 },
	{ "huge_tlb", huge_tlb, 0 },
	{ "special_mappings", special_mappings, 0 },
	{ "secret_memory", secret_memory, 0 },
	{ "mixture_in_one_call", mixture_in_one_call, 0 },
	{ NULL, NULL, 0 },
};
