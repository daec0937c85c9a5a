// SPDX-License-Identifier: MIT
/*
 * The tests' common ground; see testlib.h.  The verdict, which all processes of
 * a test share, lives in a memfd made before the first fork: the first process
 * to fail writes the reason, once; everybody else only exits.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/userfaultfd.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "testlib.h"

#define CGROUP_ROOT	"/sys/fs/cgroup"
#define CGROUP_PREFIX	"dksm-test-"
#define WORDS		(PAGE_SIZE / sizeof(u64))

static struct shared {
	atomic_int why_taken;
	atomic_int verdict;
	char why[512];
	char name[40];
	pid_t runner;
	atomic_int zram_used;
} *shared;

/* ---- verdicts ---------------------------------------------------------- */

static int shared_fd = -1;

void test_join(int fd)
{
	shared_fd = fd;
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED,
		      fd, 0);
	if (shared == MAP_FAILED) {
		perror("mmap");
		exit(EXIT_FAIL);
	}
}

int test_descriptor(void)
{
	return shared_fd;
}

void test_begin(const char *name)
{
	if (!shared) {
		int fd = memfd_create("verdict", 0);

		if (fd < 0 || ftruncate(fd, sizeof(*shared))) {
			perror("memfd_create");
			exit(EXIT_FAIL);
		}
		test_join(fd);
	}
	memset(shared, 0, sizeof(*shared));
	shared->runner = getpid();
	snprintf(shared->name, sizeof(shared->name), "%s", name);
}

int test_verdict(const char **why)
{
	int verdict = atomic_load(&shared->verdict);

	*why = verdict ? shared->why : "";
	return verdict;
}

__attribute__((format(printf, 3, 0)))
static void verdict_set(int verdict, const char *where, const char *fmt,
			va_list ap)
{
	size_t n;

	if (atomic_exchange(&shared->why_taken, 1))
		return;
	n = snprintf(shared->why, sizeof(shared->why), "%s", where);
	vsnprintf(shared->why + n, sizeof(shared->why) - n, fmt, ap);
	for (char *p = shared->why; *p; p++)
		if (*p == '\n' || *p == '#')
			*p = ' ';
	atomic_store(&shared->verdict, verdict);
}

void test_fail(const char *file, int line, const char *fmt, ...)
{
	const char *base = strrchr(file, '/');
	char where[80];
	va_list ap;

	snprintf(where, sizeof(where), "%s:%d: ", base ? base + 1 : file, line);
	va_start(ap, fmt);
	verdict_set(EXIT_FAIL, where, fmt, ap);
	va_end(ap);
	_exit(EXIT_FAIL);
}

void test_skip(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	verdict_set(EXIT_SKIP, "", fmt, ap);
	va_end(ap);
	_exit(EXIT_SKIP);
}

void test_note(const char *fmt, ...)
{
	char line[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	dprintf(STDOUT_FILENO, "# %s: %s\n", shared->name, line);
}

u64 now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000ULL + ts.tv_nsec / 1000000;
}

void sleep_ms(unsigned int ms)
{
	struct timespec ts = { ms / 1000, ms % 1000 * 1000000L };

	while (nanosleep(&ts, &ts) && errno == EINTR)
		;
}

u64 rnd(u64 *state)
{
	u64 x = *state;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	*state = x;
	return x * 0x2545f4914f6cdd1dULL >> 11;
}

/* ---- contents ---------------------------------------------------------- */

static u64 word_of(u64 seed, size_t i)
{
	u64 x = (seed * 512 + i) * 0x9e3779b97f4a7c15ULL;

	x ^= x >> 29;
	x *= 0xbf58476d1ce4e5b9ULL;
	return x ^ x >> 32;
}

void page_fill(void *page, u64 seed)
{
	u64 *w = page;

	if (seed == SEED_ZERO) {
		memset(page, 0, PAGE_SIZE);
		return;
	}
	for (size_t i = 0; i < WORDS; i++)
		w[i] = word_of(seed, i);
}

int page_diff(const void *page, u64 seed)
{
	const u64 *w = page;

	for (size_t i = 0; i < WORDS; i++) {
		u64 want = seed == SEED_ZERO ? 0 : word_of(seed, i);

		if (w[i] != want)
			return i * 8 + __builtin_ctzll(w[i] ^ want) / 8;
	}
	return -1;
}

struct region region_at(void *addr, size_t pages)
{
	struct region r = {
		.addr = addr,
		.pages = pages,
		.seed = malloc(pages * sizeof(u64)),
		.patch_word = malloc(pages * sizeof(int)),
		.patch = malloc(pages * sizeof(u64)),
	};

	if (!r.seed || !r.patch_word || !r.patch)
		FAIL("no memory for a model of %zu pages", pages);
	region_model(&r, 0, pages, SEED_ANY, 0);
	return r;
}

/*
 * A gap of a varying size makes processes use different addresses.  Where huge pages
 * fit in, the first begins with the region, so that they have the same contents in all.
 */
struct region region_map(size_t pages)
{
	size_t align = pages * PAGE_SIZE < HUGE_SIZE ? PAGE_SIZE : HUGE_SIZE;
	size_t gap = (getpid() % 7 + 1) * PAGE_SIZE, len = pages * PAGE_SIZE;
	unsigned char *room, *p;

	room = SYS(mmap(NULL, gap + len + align, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	p = (unsigned char *)(((uintptr_t)room + gap + align - 1) & -align);
	SYS(munmap(room, p - room));
	SYS(munmap(p + len, room + gap + align - p));
	if (madvise(p, pages * PAGE_SIZE, MADV_NOHUGEPAGE) && errno != EINVAL)
		FAIL("MADV_NOHUGEPAGE: %s", strerror(errno));
	return region_at(p, pages);
}

void *region_page(const struct region *r, size_t page)
{
	return r->addr + page * PAGE_SIZE;
}

size_t region_bytes(const struct region *r)
{
	return r->pages * PAGE_SIZE;
}

void region_model(struct region *r, size_t first, size_t n, u64 seed, u64 step)
{
	for (size_t i = 0; i < n; i++) {
		r->seed[first + i] = seed + i * step;
		r->patch_word[first + i] = -1;
	}
}

void region_fill(struct region *r, size_t first, size_t n, u64 seed, u64 step)
{
	for (size_t i = 0; i < n; i++)
		page_fill(region_page(r, first + i), seed + i * step);
	region_model(r, first, n, seed, step);
}

void region_model_patch(struct region *r, size_t page, int word, u64 val)
{
	if (r->patch_word[page] != -1 && r->patch_word[page] != word)
		FAIL("the model holds one patch a page");
	r->patch_word[page] = word;
	r->patch[page] = val;
}

void region_poke(struct region *r, size_t page, int word, u64 val)
{
	volatile u64 *w = region_page(r, page);

	region_model_patch(r, page, word, val);
	w[word] = val;
}

static void page_verify(const struct region *r, size_t page)
{
	int patch_word = r->patch_word[page], off;
	u64 copy[WORDS];

	memcpy(copy, region_page(r, page), PAGE_SIZE);
	if (patch_word >= 0) {
		if (copy[patch_word] != r->patch[page])
			FAIL("pid %d page %zu: word %d is %#llx, wrote %#llx",
			     getpid(), page, patch_word,
			     (unsigned long long)copy[patch_word],
			     (unsigned long long)r->patch[page]);
		copy[patch_word] = r->seed[page] == SEED_ZERO ?
				   0 : word_of(r->seed[page], patch_word);
	}
	off = page_diff(copy, r->seed[page]);
	if (off >= 0)
		FAIL("pid %d page %zu: wrong byte at offset %d, seed %llu",
		     getpid(), page, off, (unsigned long long)r->seed[page]);
}

void region_verify_range(const struct region *r, size_t first, size_t n)
{
	for (size_t i = first; i < first + n; i++)
		if (r->seed[i] != SEED_ANY)
			page_verify(r, i);
}

void region_verify(const struct region *r)
{
	region_verify_range(r, 0, r->pages);
}

/* ---- page frames ------------------------------------------------------- */

void pagemap_read(pid_t pid, const void *addr, size_t n, u64 *entry)
{
	off_t off = (uintptr_t)addr / PAGE_SIZE * sizeof(u64);
	size_t want = n * sizeof(u64), got = 0;
	char path[40] = "/proc/self/pagemap";
	int fd;

	if (pid)
		snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	fd = SYS(open(path, O_RDONLY | O_CLOEXEC));
	while (got < want) {
		ssize_t r = pread(fd, (char *)entry + got, want - got, off + got);

		if (r <= 0)
			FAIL("%s: %s", path, r ? strerror(errno) : "short");
		got += r;
	}
	close(fd);
}

u64 pagemap_entry(pid_t pid, const void *addr)
{
	u64 e;

	pagemap_read(pid, addr, 1, &e);
	return e;
}

void frames_read(pid_t pid, const void *addr, size_t n, u64 *pfn)
{
	pagemap_read(pid, addr, n, pfn);
	for (size_t i = 0; i < n; i++) {
		if (!(pfn[i] & PM_PRESENT))
			FAIL("page %zu of %zu is not present (%#llx)", i, n,
			     (unsigned long long)pfn[i]);
		pfn[i] = PM_PFN(pfn[i]);
		if (!pfn[i])
			FAIL("pagemap hides page frame numbers: not root?");
	}
}

u64 frame_of(pid_t pid, const void *addr)
{
	u64 pfn;

	frames_read(pid, addr, 1, &pfn);
	return pfn;
}

/* @fd stays open from the first use on, also in children. */
static u64 frame_info(const char *path, int *fd, u64 pfn)
{
	u64 val;

	if (*fd < 0)
		*fd = SYS(open(path, O_RDONLY | O_CLOEXEC));
	if (pread(*fd, &val, sizeof(val), pfn * sizeof(val)) != sizeof(val))
		FAIL("%s: cannot read frame %llu", path, (unsigned long long)pfn);
	return val;
}

bool frame_flag(u64 pfn, int kpf)
{
	static int fd = -1;

	return frame_info("/proc/kpageflags", &fd, pfn) >> kpf & 1;
}

u64 frame_maps(u64 pfn)
{
	static int fd = -1;

	return frame_info("/proc/kpagecount", &fd, pfn);
}

static int u64_cmp(const void *a, const void *b)
{
	u64 x = *(const u64 *)a, y = *(const u64 *)b;

	return x < y ? -1 : x > y;
}

size_t distinct(u64 *pfn, size_t n)
{
	size_t count = n > 0;

	qsort(pfn, n, sizeof(*pfn), u64_cmp);
	for (size_t i = 1; i < n; i++)
		count += pfn[i] != pfn[i - 1];
	return count;
}

size_t count_flag(pid_t pid, const void *addr, size_t n, int kpf)
{
	size_t count = 0;
	u64 e[n];

	pagemap_read(pid, addr, n, e);
	for (size_t i = 0; i < n; i++)
		count += e[i] & PM_PRESENT && frame_flag(PM_PFN(e[i]), kpf);
	return count;
}

size_t count_merged(pid_t pid, const void *addr, size_t n)
{
	uintptr_t first = (uintptr_t)addr, end = first + n * PAGE_SIZE;
	unsigned long from = 0, to = 0, a, b, kb;
	char path[40], line[512];
	size_t count = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/smaps", pid ? pid : getpid());
	f = fopen(path, "re");
	if (!f)
		FAIL("%s: %s", path, strerror(errno));
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "KSM: %lu kB", &kb) == 1) {
			if (from < end && to > first)
				count += kb * 1024 / PAGE_SIZE;
		} else if (sscanf(line, "%lx-%lx ", &a, &b) == 2) {
			from = a;
			to = b;
		}
	}
	fclose(f);
	return count;
}

void check_private(pid_t pid, const void *addr, size_t n)
{
	u64 pfn[n];

	frames_read(pid, addr, n, pfn);
	for (size_t i = 0; i < n; i++)
		if (frame_maps(pfn[i]) != 1 || frame_flag(pfn[i], KPF_ZERO_PAGE))
			FAIL("page %zu: its frame %llu has %llu mappings", i,
			     (unsigned long long)pfn[i],
			     (unsigned long long)frame_maps(pfn[i]));
	CHECK_EQ(distinct(pfn, n), n);
}

/* The C library's header may be older than the call. */
#ifndef UFFDIO_MOVE
struct uffdio_move {
	__u64 dst;
	__u64 src;
	__u64 len;
	__u64 mode;
	__s64 move;
};
#define UFFDIO_MOVE _IOWR(UFFDIO, 0x05, struct uffdio_move)
#define UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES (1ULL << 1)
#endif

long uffd_move(int fd, void *to, void *from, size_t len)
{
	struct uffdio_move move = {
		.dst = (uintptr_t)to,
		.src = (uintptr_t)from,
		.len = len,
		.mode = UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES,
	};

	if (!ioctl(fd, UFFDIO_MOVE, &move) || (errno == EAGAIN && move.move))
		return move.move;
	return -errno;
}

/* ---- /dev/dksm --------------------------------------------------------- */

int dksm_open(void)
{
	return SYS(open("/dev/dksm", O_RDWR));
}

int dksm_bind(int fd, const char *name, unsigned int flags)
{
	struct dksm_domain_args args = { .size = sizeof(args), .flags = flags };

	/* A name that is too long arrives without its NUL. */
	memcpy(args.name, name, strnlen(name, sizeof(args.name)));
	return ioctl(fd, DKSM_IOC_DOMAIN, &args) ? -errno : 0;
}

const char *domain_name(const char *suffix)
{
	static char name[DKSM_NAME_SIZE];

	snprintf(name, sizeof(name), "%s.%d%s", shared->name, shared->runner,
		 suffix);
	return name;
}

static int domain_get(const char *suffix, unsigned int flags)
{
	int fd = dksm_open(), err;

	err = dksm_bind(fd, domain_name(suffix), flags);
	if (err)
		FAIL("domain %s: %s", domain_name(suffix), strerror(-err));
	return fd;
}

int domain_open(const char *suffix)
{
	return domain_get(suffix, DKSM_DOMAIN_CREATE | DKSM_DOMAIN_EXCL);
}

int domain_join(const char *suffix)
{
	return domain_get(suffix, 0);
}

static int attach_call(int fd, unsigned long cmd, int pidfd, unsigned int flags)
{
	struct dksm_attach_args args = {
		.size = sizeof(args), .flags = flags, .pidfd = pidfd,
	};

	return ioctl(fd, cmd, &args) ? -errno : 0;
}

int dksm_attach(int fd, int pidfd, unsigned int flags)
{
	return attach_call(fd, DKSM_IOC_ATTACH, pidfd, flags);
}

int dksm_detach(int fd, int pidfd)
{
	return attach_call(fd, DKSM_IOC_DETACH, pidfd, 0);
}

u64 report_skipped(const struct dksm_report *rep)
{
	u64 sum = 0;

	for (int i = 0; i < DKSM_SKIP_MAX; i++)
		sum += rep->skipped[i];
	return sum;
}

static void report_text(const struct dksm_report *rep, char *buf, size_t size)
{
	int n = snprintf(buf, size, "merged %llu published %llu zero %llu unmerged %llu",
			 (unsigned long long)rep->merged,
			 (unsigned long long)rep->published,
			 (unsigned long long)rep->zero,
			 (unsigned long long)rep->unmerged);

	for (int i = 0; i < DKSM_SKIP_MAX && n < (int)size; i++)
		if (rep->skipped[i])
			n += snprintf(buf + n, size - n, " skipped[%d] %llu", i,
				      (unsigned long long)rep->skipped[i]);
}

void report_check(const char *file, int line, const struct dksm_report *rep,
		  const struct dksm_report *want)
{
	char got_text[220], want_text[220];

	if (rep->merged == want->merged && rep->published == want->published &&
	    rep->zero == want->zero && rep->unmerged == want->unmerged &&
	    !memcmp(rep->skipped, want->skipped, sizeof(rep->skipped)))
		return;
	report_text(rep, got_text, sizeof(got_text));
	report_text(want, want_text, sizeof(want_text));
	test_fail(file, line, "report: %s, wanted: %s", got_text, want_text);
}

static void report_identity(unsigned long cmd, const struct dksm_report *rep)
{
	if (cmd == DKSM_IOC_MERGE) {
		CHECK_EQ(rep->scanned, rep->merged + rep->published + rep->zero +
			 report_skipped(rep));
		CHECK_EQ(rep->unmerged, 0);
	} else {
		CHECK_EQ(rep->merged + rep->published + rep->zero, 0);
	}
}

int dksm_range(int fd, unsigned long cmd, int pidfd, const void *addr,
	       size_t len, struct dksm_report *report)
{
	struct dksm_range_args args = {
		.size = sizeof(args),
		.pidfd = pidfd,
		.addr = (uintptr_t)addr,
		.len = len,
	};
	int err = ioctl(fd, cmd, &args) ? -errno : 0;

	report_identity(cmd, &args.report);
	if (report)
		*report = args.report;
	return err;
}

struct dksm_report merge(int fd, int pidfd, const void *addr, size_t len)
{
	struct dksm_report rep;
	int err = dksm_range(fd, DKSM_IOC_MERGE, pidfd, addr, len, &rep);

	if (err)
		FAIL("merge: %s", strerror(-err));
	return rep;
}

struct dksm_report unmerge(int fd, int pidfd, const void *addr, size_t len)
{
	struct dksm_report rep;
	int err = dksm_range(fd, DKSM_IOC_UNMERGE, pidfd, addr, len, &rep);

	if (err)
		FAIL("unmerge: %s", strerror(-err));
	return rep;
}

static u64 number_of(const char *path)
{
	u64 val = read_u64(path);

	if (val == ~0ULL)
		FAIL("%s: no number: %s", path, strerror(errno));
	return val;
}

u64 dksm_global(const char *file)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), DKSM_SYSFS "%s", file);
	return number_of(path);
}

u64 dksm_domain(const char *suffix, const char *file)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), DKSM_SYSFS "domains/%s/%s",
		 domain_name(suffix), file);
	return number_of(path);
}

void wait_frames(const char *suffix, u64 n)
{
	for (int i = 0; i < 300 && dksm_domain(suffix, "pages_shared") != n; i++) {
		sleep_ms(10);
		lru_drain();
	}
	CHECK_EQ(dksm_domain(suffix, "pages_shared"), n);
}

static void process_path(pid_t pid, char path[40])
{
	snprintf(path, 40, "/proc/%d/dksm_stat", pid ? pid : getpid());
}

u64 dksm_process(pid_t pid, const char *key)
{
	char path[40];
	u64 val;

	process_path(pid, path);
	val = read_key(path, key);
	if (val == ~0ULL)
		FAIL("%s has no %s", path, key);
	return val;
}

struct dksm_report dksm_process_report(pid_t pid, const char *trigger)
{
	struct dksm_report rep = { 0 };
	char path[40], key[40], line[512], *at;
	FILE *f;

#define REPORT_FIELD(name) \
	snprintf(key, sizeof(key), "%s_" #name, trigger); \
	rep.name = dksm_process(pid, key)
	REPORT_FIELD(scanned);
	REPORT_FIELD(merged);
	REPORT_FIELD(published);
	REPORT_FIELD(zero);
	REPORT_FIELD(ns);
#undef REPORT_FIELD
	process_path(pid, path);
	snprintf(key, sizeof(key), "%s_skipped ", trigger);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f)) {
		if (strncmp(line, key, strlen(key)))
			continue;
		at = line + strlen(key);
		for (int i = 0; i < DKSM_SKIP_NR; i++)
			rep.skipped[i] = strtoull(at, &at, 10);
	}
	if (f)
		fclose(f);
	return rep;
}

void dksm_process_domain(pid_t pid, char name[DKSM_NAME_SIZE])
{
	char path[40], line[128];
	FILE *f;

	process_path(pid, path);
	name[0] = 0;
	f = fopen(path, "re");
	if (!f)
		FAIL("%s: %s", path, strerror(errno));
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "domain %63s", name) == 1)
			break;
	fclose(f);
}

/* ---- the machine ------------------------------------------------------- */

int write_str(const char *path, const char *val)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), err = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, val, strlen(val)) < 0)
		err = -errno;
	close(fd);
	return err;
}

int write_u64(const char *path, u64 val)
{
	char buf[24];

	snprintf(buf, sizeof(buf), "%llu", (unsigned long long)val);
	return write_str(path, buf);
}

u64 read_u64(const char *path)
{
	FILE *f = fopen(path, "re");
	unsigned long long val = ~0ULL;

	if (!f)
		return ~0ULL;
	if (fscanf(f, "%llu", &val) != 1)
		val = ~0ULL;
	fclose(f);
	return val;
}

u64 read_key(const char *path, const char *key)
{
	FILE *f = fopen(path, "re");
	unsigned long long val, found = ~0ULL;
	char name[64];

	if (!f)
		return ~0ULL;
	while (fscanf(f, "%63s", name) == 1)
		if (!strcmp(name, key) && fscanf(f, "%llu", &val) == 1) {
			found = val;
			break;
		}
	fclose(f);
	return found;
}

static int zram_setup(size_t bytes)
{
	if (access("/dev/zram0", F_OK))
		return -ENOENT;
	atomic_store(&shared->zram_used, 1);
	write_str("/sys/block/zram0/reset", "1");
	return write_u64("/sys/block/zram0/disksize", bytes);
}

int zram_open(size_t bytes, int flags)
{
	int err = zram_setup(bytes), fd;

	if (err)
		return err;
	fd = open("/dev/zram0", O_RDWR | O_CLOEXEC | flags);
	return fd < 0 ? -errno : fd;
}

/* The header that mkswap(8) writes, version 1. */
static int swap_header(int fd, size_t bytes)
{
	static unsigned char page[PAGE_SIZE];
	uint32_t version = 1, last = bytes / PAGE_SIZE - 1;

	memcpy(page + 1024, &version, sizeof(version));
	memcpy(page + 1028, &last, sizeof(last));
	memcpy(page + PAGE_SIZE - 10, "SWAPSPACE2", 10);
	return pwrite(fd, page, PAGE_SIZE, 0) == (ssize_t)PAGE_SIZE ? 0 : -EIO;
}

int swap_start(size_t bytes)
{
	int fd = zram_open(bytes, 0), err;

	if (fd < 0)
		return fd;
	err = swap_header(fd, bytes);
	if (!err && fsync(fd))
		err = -errno;
	close(fd);
	if (!err && swapon("/dev/zram0", 0))
		err = -errno;
	return err;
}

void swap_stop(void)
{
	if (!atomic_exchange(&shared->zram_used, 0))
		return;
	swapoff("/dev/zram0");
	for (int i = 0; i < 50; i++) {
		if (!write_str("/sys/block/zram0/reset", "1"))
			return;
		sleep_ms(20);
	}
}

/* To migrate from a node to itself moves nothing, but drains first. */
void lru_drain(void)
{
	unsigned long node = 1;

	syscall(SYS_migrate_pages, 0, 8 * sizeof(node), &node, &node);
}

bool cgroup_ready(void)
{
	if (access(CGROUP_ROOT "/cgroup.controllers", F_OK) &&
	    mount("cgroup2", CGROUP_ROOT, "cgroup2", 0, NULL))
		return false;
	return !write_str(CGROUP_ROOT "/cgroup.subtree_control", "+memory");
}

const char *cgroup_make(const char *suffix)
{
	char *path;

	if (!cgroup_ready())
		SKIP("no memory cgroups");
	if (asprintf(&path, CGROUP_ROOT "/" CGROUP_PREFIX "%s%s", shared->name,
		     suffix) < 0)
		FAIL("no memory");
	SYS(mkdir(path, 0755));
	return path;
}

void cgroup_enter(const char *path, pid_t pid)
{
	char file[PATH_MAX];

	snprintf(file, sizeof(file), "%s/cgroup.procs", path);
	CHECK_EQ(write_u64(file, pid == -1 ? getpid() : pid), 0);
}

u64 cgroup_read(const char *path, const char *file, const char *key)
{
	char full[PATH_MAX];
	u64 val;

	snprintf(full, sizeof(full), "%s/%s", path, file);
	val = key ? read_key(full, key) : read_u64(full);
	if (val == ~0ULL)
		FAIL("%s: no number %s", full, key ? key : "");
	return val;
}

void cgroup_reclaim(const char *path, size_t bytes)
{
	char file[PATH_MAX];
	int err;

	snprintf(file, sizeof(file), "%s/memory.reclaim", path);
	err = write_u64(file, bytes);
	if (err && err != -EAGAIN)
		FAIL("%s: %s", file, strerror(-err));
}

void cgroups_remove(void)
{
	DIR *dir = opendir(CGROUP_ROOT);
	struct dirent *d;
	char path[PATH_MAX];

	if (!dir)
		return;
	while ((d = readdir(dir))) {
		if (strncmp(d->d_name, CGROUP_PREFIX, strlen(CGROUP_PREFIX)))
			continue;
		snprintf(path, sizeof(path), CGROUP_ROOT "/%s", d->d_name);
		for (int i = 0; i < 100 && rmdir(path) && errno == EBUSY; i++)
			sleep_ms(20);
	}
	closedir(dir);
}
