// SPDX-License-Identifier: MIT
/*
 * Allocations that fail, each one of them: what a call cannot do it reports, no byte
 * changes, nothing leaks (functional.c looks), and the same call without a fault
 * completes the work.
 *
 * /proc/thread-self/fail-nth makes the n-th allocation of a thread fail, of those
 * with a function of mm/dksm in their stack.  So each scene is played in a process of
 * its own for n = 1, 2, ... until nothing has failed.  Which callers met a fault is
 * read from the trace of kmem events without a pointer.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests.h"

#define DEBUGFS	"/sys/kernel/debug/"
#define TRACEFS	"/sys/kernel/tracing/"

static bool *injected;		/* shared by all processes of the test */
static long nth;		/* the allocation to fail; 0: none */

static void fault_write(long n)
{
	CHECK_EQ(write_u64("/proc/thread-self/fail-nth", n), 0);
}

static void fault_begin(void)
{
	fault_write(nth);
}

/* The number is 0 when it has struck. */
static void fault_end(void)
{
	*injected |= nth && !read_u64("/proc/thread-self/fail-nth");
	fault_write(0);
}

static void check_result(long err)
{
	if (err && (err != -ENOMEM || !*injected))
		FAIL("result %ld %s a fault", err, *injected ? "after" : "without");
}

/* ---- calls ------------------------------------------------------------- */

static u64 report_done(const struct dksm_report *rep)
{
	return rep->merged + rep->published + rep->zero;
}

static void merge_twice(int fd, const struct region *r)
{
	struct dksm_report once, again;
	int err;

	fault_begin();
	err = dksm_range(fd, DKSM_IOC_MERGE, DKSM_SELF, r->addr, region_bytes(r),
			 &once);
	fault_end();
	check_result(err);
	region_verify(r);
	if (!err && !*injected)
		CHECK_EQ(report_done(&once), r->pages);
	again = merge(fd, DKSM_SELF, r->addr, region_bytes(r));
	CHECK_EQ(report_done(&once) + report_done(&again), r->pages);
	region_verify(r);
}

/* A name for each time: the domain of the last time may not be gone yet. */
static int domain_new(unsigned int flags)
{
	int fd = dksm_open();
	char suffix[24];

	snprintf(suffix, sizeof(suffix), "-%d", getpid());
	CHECK_EQ(dksm_bind(fd, domain_name(suffix), DKSM_DOMAIN_CREATE |
			   DKSM_DOMAIN_EXCL | flags), 0);
	return fd;
}

static struct region filled(size_t pages, u64 step)
{
	struct region r = region_map(pages);

	region_fill(&r, 0, pages, 1, step);
	return r;
}

/* ---- scenes ------------------------------------------------------------ */

static void scene_domain(void)
{
	const char *name = domain_name("-new");
	int fd = dksm_open(), err;

	fault_begin();
	err = dksm_bind(fd, name, DKSM_DOMAIN_CREATE);
	fault_end();
	check_result(err);
	if (err)
		CHECK_EQ(dksm_bind(fd, name, DKSM_DOMAIN_CREATE), 0);
	CHECK_EQ(dksm_domain("-new", "pages_shared"), 0);
}

/* The process joins, and publishes in several extents. */
static void scene_publish(void)
{
	struct region r = filled(600, 1);

	merge_twice(domain_new(0), &r);
}

static void scene_copy(void)
{
	struct region r = filled(40, 1);

	merge_twice(domain_new(DKSM_DOMAIN_FRESH_FRAMES), &r);
}

/* Frames of another process, in two runs, and padding. */
static void scene_share(void)
{
	struct region r = filled(64, 1), q;
	int fd = domain_new(0);

	EXPECT(merge(fd, DKSM_SELF, r.addr, region_bytes(&r)), .published = 64);
	q = region_map(96);
	region_fill(&q, 0, 32, 33, 1);
	region_fill(&q, 32, 32, 1, 1);
	region_fill(&q, 64, 32, 5, 0);
	merge_twice(fd, &q);
	region_verify(&r);
}

static void scene_huge(void)
{
	unsigned char *p = SYS(mmap(NULL, 2 * HUGE_SIZE, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	struct region r = region_at((void *)(((uintptr_t)p + HUGE_SIZE - 1) &
					     -HUGE_SIZE), HUGE_SIZE / PAGE_SIZE);

	SYS(madvise(r.addr, HUGE_SIZE, MADV_HUGEPAGE));
	region_fill(&r, 0, 100, 1, 1);
	region_model(&r, 100, r.pages - 100, SEED_ZERO, 0);
	merge_twice(domain_new(0), &r);
}

static void scene_unmerge(void)
{
	struct region r = filled(12, 0);
	int fd = domain_new(0), err;

	merge(fd, DKSM_SELF, r.addr, region_bytes(&r));
	fault_begin();
	err = dksm_range(fd, DKSM_IOC_UNMERGE, DKSM_SELF, r.addr, region_bytes(&r),
			 NULL);
	fault_end();
	check_result(err);
	region_verify(&r);
	unmerge(fd, DKSM_SELF, r.addr, region_bytes(&r));
	check_private(0, r.addr, r.pages);
	region_verify(&r);
}

/* The fault is tried again until there is memory. */
static void scene_write(void)
{
	struct region r = filled(8, 0);

	merge(domain_new(0), DKSM_SELF, r.addr, region_bytes(&r));
	region_model_patch(&r, 3, 0, 77);
	fault_begin();
	*(volatile u64 *)region_page(&r, 3) = 77;
	fault_end();
	region_verify(&r);
}

static void scene_fork(void)
{
	struct region r = filled(16, 1);
	int status;
	pid_t pid;

	merge(domain_new(0), DKSM_SELF, r.addr, region_bytes(&r));
	fault_begin();
	pid = fork();
	if (!pid) {
		region_verify(&r);
		_exit(0);
	}
	fault_end();
	if (pid < 0) {
		CHECK_EQ(errno, ENOMEM);
		CHECK(*injected);
	} else {
		SYS(waitpid(pid, &status, 0));
		CHECK_EQ(status, 0);
	}
	region_verify(&r);
}

static void scene_attach(void)
{
	int fd = domain_new(0), err;

	fault_begin();
	err = dksm_attach(fd, DKSM_SELF, 0);
	fault_end();
	check_result(err);
	if (err)
		CHECK_EQ(dksm_attach(fd, DKSM_SELF, 0), 0);
	CHECK_EQ(dksm_process(0, "attached"), 1);
}

/* It works, or fails, or comes too late to return: but it leaves nothing behind. */
static void scene_exec(void)
{
	int fd = domain_new(0), status;
	pid_t pid;

	CHECK_EQ(dksm_attach(fd, DKSM_SELF, 0), 0);
	pid = SYS(fork());
	if (!pid) {
		fault_begin();
		execl("/bin/true", "true", NULL);
		_exit(errno);
	}
	SYS(waitpid(pid, &status, 0));
	CHECK(WIFSIGNALED(status) || !WEXITSTATUS(status) ||
	      WEXITSTATUS(status) == ENOMEM);
	*injected = status;
	CHECK_EQ(dksm_process(0, "attached"), 1);
}

/* ---- virtual machines -------------------------------------------------- */

enum { VM_DATA = 64 };

static int machines;		/* their domain */
static struct peer other;	/* the first of them */

static bool fault_in_kvm_run(bool before)
{
	if (before) {
		fault_begin();
		return false;
	}
	fault_end();
	if (*injected)
		nth = 0;
	return *injected;
}

static long op_arm(struct region *r UNUSED, const long *arg UNUSED)
{
	vm_run_hook = fault_in_kvm_run;
	return 0;
}

static struct peer machine(void)
{
	struct peer p = vm_start(VM_PAGES + VM_DATA, 1);

	peer_fill(&p, VM_PAGES, VM_DATA / 2, 1, 1);
	CHECK_EQ(dksm_attach(machines, p.pidfd, 0), 0);
	return p;
}

static void machine_boot(const struct peer *p)
{
	peer_call(p, op_guest_fill, VM_PAGES + VM_DATA / 2, VM_DATA / 2, 500, 1);
}

static void machine_halt(const struct peer *p)
{
	peer_call(p, op_guest_halt, 1, 50, 0, 0);
}

static void machine_end(struct peer *p)
{
	CHECK_EQ(peer_call(p, op_guest_verify, VM_PAGES, VM_DATA / 2, 1, 1), 0);
	CHECK_EQ(peer_call(p, op_guest_verify, VM_PAGES + VM_DATA / 2,
			   VM_DATA / 2, 500, 1), 0);
	peer_verify(p);
	peer_exit(p);
}

static void prepare_machines(void)
{
	machines = domain_open("-vm");
	other = machine();
	machine_boot(&other);
	while (!dksm_process(other.pid, "idle_passes"))
		machine_halt(&other);
}

static void scene_start(void)
{
	struct peer p = machine();

	peer_call(&p, op_arm);
	machine_boot(&p);
	machine_halt(&p);
	CHECK_EQ(dksm_process(p.pid, "vms"), 1);
	machine_end(&p);
}

static void scene_idle(void)
{
	struct peer p = machine();

	machine_boot(&p);
	/* Attaching was a round of its own; the next is due a second later. */
	sleep_ms(1100);
	peer_call(&p, op_arm);
	for (int i = 0; i < 3; i++)
		machine_halt(&p);
	machine_end(&p);
}

/* One that runs, with more pages than the first table of candidates has room for. */
static void scene_attach_running(void)
{
	enum { PAGES = 500 };
	struct peer p = vm_start(VM_PAGES + PAGES, 1);
	int dom = domain_new(0), err;

	peer_fill(&p, VM_PAGES, PAGES, 1, 1);
	fault_begin();
	err = dksm_attach(dom, p.pidfd, 0);
	fault_end();
	check_result(err);
	CHECK_EQ(dksm_attach(dom, p.pidfd, 0), 0);
	CHECK_OP(dksm_process_report(p.pid, "attach").ns, >, 0);
	peer_verify(&p);
	peer_exit(&p);
}

/* ---- the play ---------------------------------------------------------- */

static const struct scene {
	const char *name;
	void (*play)(void);
	void (*prepare)(void);
} scenes[] = {
	{ "domain", scene_domain, NULL },
	{ "publish", scene_publish, NULL },
	{ "copy", scene_copy, NULL },
	{ "share", scene_share, NULL },
	{ "huge page", scene_huge, NULL },
	{ "unmerge", scene_unmerge, NULL },
	{ "write", scene_write, NULL },
	{ "fork", scene_fork, NULL },
	{ "attach", scene_attach, NULL },
	{ "exec", scene_exec, NULL },
	{ "start of a VM", scene_start, prepare_machines },
	{ "idle VM", scene_idle, NULL },
	{ "attach of a VM that runs", scene_attach_running, NULL },
};

static void play_once(const struct scene *scene)
{
	int status;
	pid_t pid;

	*injected = false;
	pid = SYS(fork());
	if (!pid) {
		scene->play();
		_exit(0);
	}
	SYS(waitpid(pid, &status, 0));
	if (status)
		FAIL("scene '%s', allocation %ld: status %#x", scene->name, nth, status);
}

static void play(const struct scene *scene)
{
	u64 begin = now_ms();

	if (scene->prepare)
		scene->prepare();
	for (nth = 1; ; nth++) {
		play_once(scene);
		if (!*injected)
			break;
	}
	test_note("%s: %ld allocations failed in %llu s", scene->name, nth - 1,
		  (unsigned long long)(now_ms() - begin) / 1000);
	nth = 0;
}

static bool is_ours(const char *name)
{
	return (!strncmp(name, "dksm_", 5) || !strncmp(name, "__dksm_", 7)) &&
	       !strstr(name, "init") && !strstr(name, ".cold");
}

static bool is_batch_alloc(const char *name)
{
	return !strcmp(name, "dksm_batch_alloc");
}

/*
 * The first and the last of some functions: where the code of mm/dksm is; not
 * exactly, but its callers are on the stack.
 */
static void text_range(bool (*wanted)(const char *name), u64 *start, u64 *end)
{
	FILE *f = fopen("/proc/kallsyms", "re");
	unsigned long long address;
	char line[300], name[201], type;

	CHECK(f);
	*start = ~0ULL;
	*end = 0;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%llx %c %200s", &address, &type, name) != 3 ||
		    strchr(line, '[') || (type | 0x20) != 't')
			continue;
		if (!wanted(name))
			continue;
		*start = address < *start ? address : *start;
		*end = address > *end ? address : *end;
	}
	fclose(f);
	CHECK_OP(*start, <=, *end);
	CHECK_OP(*end - *start, <, 1 << 20);
}

static void fail_only_ours(const char *dir, u64 start, u64 end)
{
	char path[120];

	CHECK_EQ(chdir(dir), 0);
	CHECK_EQ(write_str("ignore-gfp-wait", "N"), 0);
	snprintf(path, sizeof(path), "%#llx", (unsigned long long)start);
	CHECK_EQ(write_str("require-start", path), 0);
	snprintf(path, sizeof(path), "%#llx", (unsigned long long)end);
	CHECK_EQ(write_str("require-end", path), 0);
	CHECK_EQ(chdir("/"), 0);
}

static void faults_find(void)
{
	if (access(DEBUGFS "failslab", F_OK))
		mount("debugfs", DEBUGFS, "debugfs", 0, NULL);
	if (access(TRACEFS "trace", F_OK))
		mount("tracefs", TRACEFS, "tracefs", 0, NULL);
	if (access("/proc/self/fail-nth", F_OK))
		SKIP("this kernel injects no faults");
}

static void faults_prepare(void)
{
	u64 start, end;

	faults_find();
	injected = SYS(mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	text_range(is_ours, &start, &end);
	fail_only_ours(DEBUGFS "failslab", start, end);
	fail_only_ours(DEBUGFS "fail_page_alloc", start, end);
	CHECK_EQ(write_str(DEBUGFS "fail_page_alloc/ignore-gfp-highmem", "N"), 0);
	CHECK_EQ(write_str(DEBUGFS "fail_page_alloc/min-order", "0"), 0);
	CHECK_EQ(write_str(TRACEFS "trace", ""), 0);
	CHECK_EQ(write_str(TRACEFS "options/stacktrace", "1"), 0);
	CHECK_EQ(write_str(TRACEFS "events/kmem/kmalloc/filter", "ptr==0"), 0);
	CHECK_EQ(write_str(TRACEFS "events/kmem/kmem_cache_alloc/filter", "ptr==0"), 0);
	CHECK_EQ(write_str(TRACEFS "events/kmem/kmalloc/enable", "1"), 0);
	CHECK_EQ(write_str(TRACEFS "events/kmem/kmem_cache_alloc/enable", "1"), 0);
}

/*
 * The functions below which every allocation of DKSM is, but for pages, and for what
 * the index allocates when it grows at a bad moment.  An allocation of a function
 * that may be inlined is known by who allocates for it.
 */
static const struct site {
	const char *name, *callee;
} sites[] = {
	{ "dksm_domain_open", NULL },
	{ "dksm_index_init", NULL },
	{ "dksm_domain_sysfs_add", NULL },
	{ "dksm_mm_join", NULL },
	{ "__dksm_fork", NULL },
	{ "dksm_exec", NULL },
	{ "dksm_extent_alloc", NULL },
	{ "dksm_map_add", NULL },
	{ "dksm_batch_alloc", NULL },
	{ "__dksm_cow_break", NULL },
	{ "dksm_learn_fit", NULL },
	{ "seen_block", NULL },
	{ "idle_alloc", NULL },
	{ "dksm_second_alloc", NULL },
	{ "dksm_candidates_fit", NULL },
	{ "dksm_candidates_init", NULL },
};

static bool starts(const char *text, const char *with)
{
	return with && !strncmp(text, with, strlen(with));
}

/* One line of a stack, from the innermost function on. */
static void hits_count(const char *function, bool *inside, unsigned int *hits)
{
	for (size_t i = 0; i < ARRAY_SIZE(sites); i++) {
		inside[i] |= !sites[i].callee || starts(function, sites[i].callee);
		hits[i] += inside[i] && starts(function, sites[i].name);
	}
}

static void check_sites(void)
{
	unsigned int hits[ARRAY_SIZE(sites)] = { 0 };
	bool inside[ARRAY_SIZE(sites)] = { false };
	FILE *f = fopen(TRACEFS "trace", "re");
	char line[400];

	CHECK(f);
	while (fgets(line, sizeof(line), f)) {
		if (starts(line, " => "))
			hits_count(line + 4, inside, hits);
		else
			memset(inside, 0, sizeof(inside));
	}
	fclose(f);
	for (size_t i = 0; i < ARRAY_SIZE(sites); i++) {
		test_note("%s: %u times", sites[i].name, hits[i]);
		if (!hits[i])
			FAIL("no allocation of %s failed", sites[i].name);
	}
}

static void every_allocation_fails_once(void)
{
	faults_prepare();
	for (size_t i = 0; i < ARRAY_SIZE(scenes); i++)
		play(&scenes[i]);
	machine_end(&other);
	check_sites();
}

/* Whatever a marked thread allocates for a batch, with all its second tries. */
static void fail_batches(const char *dir)
{
	u64 start, end;

	text_range(is_batch_alloc, &start, &end);
	fail_only_ours(dir, start, start + 512);	/* the next one only frees */
	CHECK_EQ(chdir(dir), 0);
	CHECK_EQ(write_str("task-filter", "Y"), 0);
	CHECK_EQ(write_str("times", "-1"), 0);
	CHECK_EQ(write_str("probability", "100"), 0);
	CHECK_EQ(chdir("/"), 0);
}

static bool fail_in_kvm_run(bool before)
{
	CHECK_EQ(write_u64("/proc/thread-self/make-it-fail", before), 0);
	return false;
}

static long op_fail(struct region *r UNUSED, const long *arg)
{
	vm_run_hook = arg[0] ? fail_in_kvm_run : NULL;
	return 0;
}

/* A virtual machine starts all the same, and is merged when there is memory. */
static void load_without_memory(void)
{
	struct peer p;

	faults_find();
	fail_batches(DEBUGFS "failslab");
	fail_batches(DEBUGFS "fail_page_alloc");
	CHECK_EQ(write_str(DEBUGFS "fail_page_alloc/min-order", "0"), 0);
	machines = domain_open("-vm");
	p = machine();
	peer_call(&p, op_fail, 1);
	machine_boot(&p);
	CHECK_EQ(dksm_process(p.pid, "vms"), 0);
	CHECK_EQ(dksm_process(p.pid, "pages_merged"), 0);
	peer_call(&p, op_fail, 0);
	machine_halt(&p);
	CHECK_EQ(dksm_process(p.pid, "vms"), 1);
	CHECK_OP(dksm_process(p.pid, "load_scanned"), >, 0);
	CHECK_EQ(write_str(DEBUGFS "failslab/probability", "0"), 0);
	CHECK_EQ(write_str(DEBUGFS "fail_page_alloc/probability", "0"), 0);
	machine_end(&p);
}

const struct test tests_faults[] = {
	{ "load_without_memory", load_without_memory, 0 },
	{ "every_allocation_fails_once", every_allocation_fails_once, TEST_SLOW },
	{ NULL, NULL, 0 },
};
