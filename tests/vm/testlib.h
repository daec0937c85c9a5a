/* SPDX-License-Identifier: MIT */
/*
 * What the tests that run inside the patched kernel share: verdicts, page
 * contents, page frames, the calls of /dev/dksm and the machine's knobs.  Nothing
 * here knows how the kernel does its work; it knows only <linux/dksm.h> and what
 * the documentation promises.
 *
 * Every function that cannot do its job ends the running test through FAIL() or
 * SKIP(); the exceptions return 0 or -errno and say so.
 */
#ifndef TESTLIB_H
#define TESTLIB_H

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <linux/dksm.h>

typedef uint64_t u64;

#define PAGE_SIZE	4096UL
#define HUGE_SIZE	(2UL << 20)
#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#define UNUSED		__attribute__((unused))

#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE	101
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE		25
#endif

/* ---- verdicts ---------------------------------------------------------- */

enum { EXIT_OK = 0, EXIT_FAIL = 1, EXIT_SKIP = 4 };

/*
 * TEST_KSMD: ksmd is the subject of the test and may run meanwhile.
 * TEST_SLOW: it takes long on the debug kernel.
 * TEST_LONG: it takes as long as one wants, and runs only when it is named.
 */
enum { TEST_KSMD = 1, TEST_SLOW = 2, TEST_LONG = 4 };

struct test {
	const char *name;
	void (*run)(void);
	unsigned int flags;
};

/* Prepares for one test (its name is part of its domains' names). */
void test_begin(const char *name);
/* A descriptor that survives exec; with it a new program joins the test. */
int test_descriptor(void);
void test_join(int fd);
/* What the first FAIL() or SKIP() of any process of the test said; EXIT_OK: none. */
int test_verdict(const char **why);
void test_fail(const char *file, int line, const char *fmt, ...)
	__attribute__((noreturn, format(printf, 3, 4)));
void test_skip(const char *fmt, ...)
	__attribute__((noreturn, format(printf, 1, 2)));
void test_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#define FAIL(...)	test_fail(__FILE__, __LINE__, __VA_ARGS__)
#define SKIP(...)	test_skip(__VA_ARGS__)
#define CHECK(cond) \
	do { if (!(cond)) FAIL("not true: %s", #cond); } while (0)
#define CHECK_OP(a, op, b) \
	do { \
		long long a_ = (long long)(a), b_ = (long long)(b); \
		if (!(a_ op b_)) \
			FAIL("%s is %lld, wanted " #op " %lld (%s)", \
			     #a, a_, b_, #b); \
	} while (0)
#define CHECK_EQ(a, b)	CHECK_OP(a, ==, b)
/* The value of a libc call that must not return -1. */
#define SYS(call) \
	({ \
		__typeof__(call) r_ = (call); \
		if (r_ == (__typeof__(r_))-1) \
			FAIL("%s: %s", #call, strerror(errno)); \
		r_; \
	})

u64 now_ms(void);
void sleep_ms(unsigned int ms);
/* xorshift; *state must not be 0. */
u64 rnd(u64 *state);

/* ---- contents ---------------------------------------------------------- */

/* The contents of a page are a function of its seed; SEED_ZERO gives zeroes. */
#define SEED_ZERO	0ULL
/* In a region's model: the page was never touched, or is nobody's business. */
#define SEED_ANY	(~0ULL)

void page_fill(void *page, u64 seed);
/* Offset of the first byte that differs from page_fill(seed), or -1. */
int page_diff(const void *page, u64 seed);

/*
 * Memory with a model of what must be in it: page_fill(@seed[i]), except for one
 * 64-bit word at index @patch_word[i] when that is not -1.
 */
struct region {
	unsigned char *addr;
	size_t pages;
	u64 *seed;
	int *patch_word;
	u64 *patch;
};

/* Private anonymous memory of small pages, not populated. */
struct region region_map(size_t pages);
/* The same for memory that exists already. */
struct region region_at(void *addr, size_t pages);
void *region_page(const struct region *r, size_t page);
size_t region_bytes(const struct region *r);
/* Fills @n pages from @first on with the contents of @seed, @seed + @step, … */
void region_fill(struct region *r, size_t first, size_t n, u64 seed, u64 step);
/* Sets the model without touching the memory. */
void region_model(struct region *r, size_t first, size_t n, u64 seed, u64 step);
void region_model_patch(struct region *r, size_t page, int word, u64 val);
/* Stores @val at the 64-bit word @word of @page. */
void region_poke(struct region *r, size_t page, int word, u64 val);
/* Compares every byte with the model. */
void region_verify(const struct region *r);
void region_verify_range(const struct region *r, size_t first, size_t n);

/* ---- page frames ------------------------------------------------------- */

#define PM_SOFT_DIRTY	(1ULL << 55)
#define PM_UFFD_WP	(1ULL << 57)
#define PM_FILE		(1ULL << 61)
#define PM_SWAP		(1ULL << 62)
#define PM_PRESENT	(1ULL << 63)
#define PM_PFN(e)	((e) & ((1ULL << 55) - 1))

#define KPF_ANON	12
#define KPF_THP		22
#define KPF_ZERO_PAGE	24

/* One /proc/@pid/pagemap entry for each of @n pages; @pid 0 is oneself. */
void pagemap_read(pid_t pid, const void *addr, size_t n, u64 *entry);
u64 pagemap_entry(pid_t pid, const void *addr);
/* The frames of @n pages, all of which must be present. */
void frames_read(pid_t pid, const void *addr, size_t n, u64 *pfn);
u64 frame_of(pid_t pid, const void *addr);
bool frame_flag(u64 pfn, int kpf);
/* How many page tables map the frame. */
u64 frame_maps(u64 pfn);
/* Number of distinct values; sorts the array. */
size_t distinct(u64 *pfn, size_t n);
/* How many pages are present and mapped to frames with that flag. */
size_t count_flag(pid_t pid, const void *addr, size_t n, int kpf);
/*
 * Merged pages (by KSM or by us) in the areas of which any page is in the range.
 * From smaps: /proc/kpageflags of Linux 6.12 calls every anonymous page a KSM one.
 */
size_t count_merged(pid_t pid, const void *addr, size_t n);
/* Every page is present and has a frame that nothing else maps. */
void check_private(pid_t pid, const void *addr, size_t n);

/*
 * UFFDIO_MOVE to a range of the descriptor's: bytes moved until something was in the
 * way, or -errno.
 */
long uffd_move(int fd, void *to, void *from, size_t len);

/* ---- /dev/dksm --------------------------------------------------------- */

/* A descriptor that is not bound yet. */
int dksm_open(void);
/* Returns 0 or -errno. */
int dksm_bind(int fd, const char *name, unsigned int flags);
/* The full name of this test's domain @suffix. */
const char *domain_name(const char *suffix);
/* Creates this test's domain @suffix; the descriptor is bound to it. */
int domain_open(const char *suffix);
/* Joins it. */
int domain_join(const char *suffix);

/*
 * One DKSM_IOC_MERGE or DKSM_IOC_UNMERGE.  Returns 0 or -errno.  Checks that the
 * numbers of the report add up, whatever the outcome.
 */
int dksm_range(int fd, unsigned long cmd, int pidfd, const void *addr,
	       size_t len, struct dksm_report *report);
struct dksm_report merge(int fd, int pidfd, const void *addr, size_t len);
struct dksm_report unmerge(int fd, int pidfd, const void *addr, size_t len);
/* One DKSM_IOC_ATTACH or DKSM_IOC_DETACH.  Returns 0 or -errno. */
int dksm_attach(int fd, int pidfd, unsigned int flags);
int dksm_detach(int fd, int pidfd);
u64 report_skipped(const struct dksm_report *rep);

/* All counts but @scanned and @ns must be as in @want. */
void report_check(const char *file, int line, const struct dksm_report *rep,
		  const struct dksm_report *want);
#define EXPECT(rep, ...) \
	do { \
		const struct dksm_report rep_ = (rep); \
		report_check(__FILE__, __LINE__, &rep_, \
			     &(struct dksm_report){ __VA_ARGS__ }); \
	} while (0)

/* Until this test's domain @suffix has @n frames: they may be held for a little. */
void wait_frames(const char *suffix, u64 n);

/* Numbers: of all domains, of this test's domain @suffix, of a process. */
u64 dksm_global(const char *file);
u64 dksm_domain(const char *suffix, const char *file);
u64 dksm_process(pid_t pid, const char *key);
/* "load" or "idle" of a process. */
struct dksm_report dksm_process_report(pid_t pid, const char *trigger);
/* The domain's name, or "" when the process is in none. */
void dksm_process_domain(pid_t pid, char name[DKSM_NAME_SIZE]);

/* ---- the machine ------------------------------------------------------- */

/* Returns 0 or -errno; @val is written without a newline. */
int write_str(const char *path, const char *val);
int write_u64(const char *path, u64 val);
/* ~0 if the file cannot be read. */
u64 read_u64(const char *path);
/* Finds "@key value" in a file; ~0 if there is none. */
u64 read_key(const char *path, const char *key);

#define DKSM_SYSFS	"/sys/kernel/mm/dksm/"
#define KSM_SYSFS	"/sys/kernel/mm/ksm/"
#define THP_SYSFS	"/sys/kernel/mm/transparent_hugepage/"

/* Swap on zram0 (0 or -errno), and its end, which is harmless without. */
int swap_start(size_t bytes);
void swap_stop(void);
/* The zram device itself for reading and writing, or -errno. */
int zram_open(size_t bytes, int flags);

/*
 * Lets go of pages that wait in some CPU's batch for the LRU lists, where they
 * outlive everybody who used them until that CPU has more to do.
 */
void lru_drain(void);

/* Are there memory cgroups (version 2)?  Mounts them if need be. */
bool cgroup_ready(void);
/* A memory cgroup of this test; its path.  -1 in @pid means the caller. */
const char *cgroup_make(const char *suffix);
void cgroup_enter(const char *path, pid_t pid);
u64 cgroup_read(const char *path, const char *file, const char *key);
/* Pushes out up to @bytes of the group's memory. */
void cgroup_reclaim(const char *path, size_t bytes);
/* Removes what tests left behind. */
void cgroups_remove(void);

#endif /* TESTLIB_H */
