// SPDX-License-Identifier: MIT
/*
 * Arguments that cannot be right get the documented error, and nothing changes
 * by them: neither a frame, nor a byte, nor who is in which domain.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests.h"

#define N 8

static long call(int fd, unsigned long cmd, void *arg)
{
	return ioctl(fd, cmd, arg) ? -errno : 0;
}

static struct dksm_range_args range_of(const struct region *r)
{
	return (struct dksm_range_args){
		.size = sizeof(struct dksm_range_args),
		.pidfd = DKSM_SELF,
		.addr = (uintptr_t)r->addr,
		.len = region_bytes(r),
	};
}

/* Both range calls must refuse with @want and leave @r as it was. */
static void refused(const char *what, int fd, const struct region *r,
		    const struct dksm_range_args *args, long want)
{
	static const unsigned long cmds[] = { DKSM_IOC_MERGE, DKSM_IOC_UNMERGE };
	static const struct dksm_report nothing;
	bool unread = args->size < sizeof(*args) || want == -E2BIG;
	struct dksm_report untouched;
	u64 before[N], after[N];

	memset(&untouched, 0xa5, sizeof(untouched));
	frames_read(0, r->addr, N, before);
	for (size_t i = 0; i < ARRAY_SIZE(cmds); i++) {
		struct dksm_range_args a = *args;
		long err;

		a.report = untouched;
		err = call(fd, cmds[i], &a);

		if (err != want)
			FAIL("%s: %ld, wanted %ld (call %zu)", what, err, want, i);
		if (memcmp(&a.report, unread ? &untouched : &nothing, sizeof(nothing)))
			FAIL("%s: a report of something", what);
	}
	frames_read(0, r->addr, N, after);
	if (memcmp(before, after, sizeof(before)))
		FAIL("%s: frames changed", what);
	region_verify(r);
}

static void bad_ranges(void)
{
	struct region r = region_map(N);
	const struct { const char *what; u64 addr, len; } bad[] = {
		{ "unaligned address", (uintptr_t)r.addr + 1, PAGE_SIZE },
		{ "unaligned by a word", (uintptr_t)r.addr + 8, PAGE_SIZE },
		{ "unaligned length", (uintptr_t)r.addr, PAGE_SIZE + 1 },
		{ "length below a page", (uintptr_t)r.addr, 1 },
		{ "both unaligned", (uintptr_t)r.addr + 1, PAGE_SIZE - 1 },
		{ "no length", (uintptr_t)r.addr, 0 },
		{ "wraps around", (uintptr_t)r.addr, -PAGE_SIZE },
		{ "wraps to zero", (uintptr_t)r.addr, -(uintptr_t)r.addr },
		{ "last page and more", -PAGE_SIZE, 2 * PAGE_SIZE },
		{ "kernel addresses", 0xffff800000000000ULL, PAGE_SIZE },
		{ "not canonical", 1ULL << 62, PAGE_SIZE },
		{ "leaves the address space", (uintptr_t)r.addr, 1ULL << 62 },
		{ "whole of 64 bits", 0, -PAGE_SIZE },
	};
	int dom = domain_open("");

	region_fill(&r, 0, N, 1, 1);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct dksm_range_args args = range_of(&r);

		args.addr = bad[i].addr;
		args.len = bad[i].len;
		refused(bad[i].what, dom, &r, &args, -EINVAL);
	}
}

static void bad_fields(void)
{
	struct region r = region_map(N);
	struct dksm_range_args args;
	int dom = domain_open("");

	region_fill(&r, 0, N, 1, 1);
	for (int bit = 0; bit < 32; bit++) {
		args = range_of(&r);
		args.flags = 1U << bit;
		refused("unknown flag", dom, &r, &args, -EINVAL);
		args = range_of(&r);
		args.reserved = 1U << bit;
		refused("reserved field", dom, &r, &args, -EINVAL);
	}
	args = range_of(&r);
	args.size = 0;
	refused("size 0", dom, &r, &args, -EINVAL);
	args.size = 4;
	refused("size of itself only", dom, &r, &args, -EINVAL);
	args.size = sizeof(args) - 1;
	refused("one byte short", dom, &r, &args, -EINVAL);
	args.size = sizeof(args) - 8;
	refused("eight bytes short", dom, &r, &args, -EINVAL);
}

/* What is behind the structure must be zero, and then does no harm. */
static void larger_structures(void)
{
	struct region r = region_map(N);
	int dom = domain_open("");
	struct {
		struct dksm_range_args args;
		unsigned char more[64];
	} big = { .args = range_of(&r) };
	struct {
		struct dksm_info info;
		unsigned char more[64];
	} info = { .info.size = sizeof(info) };
	struct {
		struct dksm_domain_args args;
		unsigned char more[64];
	} domain = { .args.size = sizeof(domain),
		     .args.flags = DKSM_DOMAIN_CREATE };
	int fd = dksm_open();

	region_fill(&r, 0, N, 1, 1);
	big.args.size = sizeof(big);
	for (size_t i = 0; i < sizeof(big.more); i += 21) {
		big.more[i] = 1;
		CHECK_EQ(call(dom, DKSM_IOC_MERGE, &big), -E2BIG);
		CHECK_EQ(call(dom, DKSM_IOC_UNMERGE, &big), -E2BIG);
		big.more[i] = 0;
	}
	CHECK_EQ(big.args.report.scanned, 0);
	check_private(0, r.addr, N);
	CHECK_EQ(call(dom, DKSM_IOC_MERGE, &big), 0);
	CHECK_EQ(big.args.report.published, N);
	info.more[63] = 1;
	CHECK_EQ(call(dom, DKSM_IOC_INFO, &info), -E2BIG);
	info.more[63] = 0;
	CHECK_EQ(call(dom, DKSM_IOC_INFO, &info), 0);
	CHECK_EQ(info.info.abi, DKSM_ABI_VERSION);
	strcpy(domain.args.name, domain_name(".big"));
	domain.more[0] = 1;
	CHECK_EQ(call(fd, DKSM_IOC_DOMAIN, &domain), -E2BIG);
	domain.more[0] = 0;
	CHECK_EQ(call(fd, DKSM_IOC_DOMAIN, &domain), 0);
	region_verify(&r);
}

static pid_t dead_child(bool reaped)
{
	int options = reaped ? WEXITED : WEXITED | WNOWAIT;
	pid_t pid = SYS(fork());

	if (!pid)
		_exit(0);
	waitid(P_PID, pid, &(siginfo_t){ 0 }, options);
	return pid;
}

/* A pidfd of a child that is then waited for. */
static int reaped_pidfd(void)
{
	pid_t pid = dead_child(false);
	int pidfd = SYS((int)syscall(SYS_pidfd_open, pid, 0));

	waitpid(pid, NULL, 0);
	return pidfd;
}

static void bad_pidfds(void)
{
	struct region r = region_map(N);
	int dom = domain_open("");
	struct dksm_range_args args = range_of(&r);
	pid_t zombie = dead_child(false);
	int thread = syscall(SYS_pidfd_open, 2, 0);

	region_fill(&r, 0, N, 1, 1);
	args.pidfd = 9999;
	refused("closed descriptor", dom, &r, &args, -EBADF);
	args.pidfd = -2;
	refused("negative descriptor", dom, &r, &args, -EBADF);
	args.pidfd = SYS(open("/dev/null", O_RDONLY));
	refused("some file", dom, &r, &args, -EBADF);
	args.pidfd = dom;
	refused("the device itself", dom, &r, &args, -EBADF);
	args.pidfd = SYS((int)syscall(SYS_pidfd_open, zombie, 0));
	refused("zombie", dom, &r, &args, -ESRCH);
	args.pidfd = reaped_pidfd();
	refused("process that is gone", dom, &r, &args, -ESRCH);
	if (thread >= 0) {
		args.pidfd = thread;
		refused("kernel thread", dom, &r, &args, -EINVAL);
	}
}

static void bad_pointers(void)
{
	static const unsigned long cmds[] = {
		DKSM_IOC_INFO, DKSM_IOC_DOMAIN, DKSM_IOC_MERGE, DKSM_IOC_UNMERGE,
	};
	unsigned char *two = SYS(mmap(NULL, 2 * PAGE_SIZE,
				      PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	uint32_t *tail = (uint32_t *)(two + PAGE_SIZE - 8);
	int dom = domain_open(""), fd = dksm_open();

	SYS(munmap(two + PAGE_SIZE, PAGE_SIZE));
	for (size_t i = 0; i < ARRAY_SIZE(cmds); i++) {
		CHECK_EQ(call(dom, cmds[i], NULL), -EFAULT);
		CHECK_EQ(call(dom, cmds[i], (void *)8), -EFAULT);
		CHECK_EQ(call(dom, cmds[i], (void *)-4096L), -EFAULT);
		CHECK_EQ(call(dom, cmds[i], two + PAGE_SIZE - 2), -EFAULT);
		/* Size and flags are there, the rest is not. */
		tail[0] = cmds[i] == DKSM_IOC_INFO ? sizeof(struct dksm_info) :
			  cmds[i] == DKSM_IOC_DOMAIN ?
			  sizeof(struct dksm_domain_args) :
			  sizeof(struct dksm_range_args);
		tail[1] = 0;
		CHECK_EQ(call(fd, cmds[i], tail), -EFAULT);
	}
}

/* Where the answer cannot be written, EFAULT; and the machine goes on. */
static void read_only_arguments(void)
{
	struct dksm_info *info = SYS(mmap(NULL, PAGE_SIZE,
					  PROT_READ | PROT_WRITE,
					  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	struct dksm_range_args *args = (void *)(info + 1);
	struct region r = region_map(N);
	int dom = domain_open("");

	region_fill(&r, 0, N, 1, 1);
	*args = range_of(&r);
	info->size = sizeof(*info);
	SYS(mprotect(info, PAGE_SIZE, PROT_READ));
	CHECK_EQ(call(dom, DKSM_IOC_INFO, info), -EFAULT);
	CHECK_EQ(call(dom, DKSM_IOC_MERGE, args), -EFAULT);
	region_verify(&r);
	CHECK_EQ(call(dom, DKSM_IOC_UNMERGE, args), -EFAULT);
	region_verify(&r);
}

/* The argument lies in the very memory that is merged. */
static void argument_inside_the_range(void)
{
	struct region r = region_map(N);
	struct dksm_range_args *args = region_page(&r, 3);
	int dom = domain_open("");

	region_fill(&r, 0, N, 1, 0);
	*args = range_of(&r);
	region_model(&r, 3, 1, SEED_ANY, 0);
	CHECK_EQ(call(dom, DKSM_IOC_MERGE, args), 0);
	CHECK_EQ(args->report.scanned, args->report.merged +
		 args->report.published + report_skipped(&args->report));
	CHECK_EQ(args->report.scanned, N);
	region_verify(&r);
	CHECK_OP(count_merged(0, r.addr, N), >=, N - 1);
	CHECK_EQ(call(dom, DKSM_IOC_UNMERGE, args), 0);
	CHECK_OP(args->report.unmerged, >=, N - 1);
	check_private(0, r.addr, N);
	region_verify(&r);
}

static void unknown_calls(void)
{
	int dom = domain_open("");
	char buf[512] = { 0 };

	CHECK_EQ(call(dom, _IO(DKSM_IOC_MAGIC, 0x7f), buf), -ENOTTY);
	CHECK_EQ(call(dom, _IO(DKSM_IOC_MAGIC + 1, 0x02), buf), -ENOTTY);
	CHECK_EQ(call(dom, 0, buf), -ENOTTY);
	CHECK_EQ(call(dom, ~0UL, buf), -ENOTTY);
	CHECK_EQ(call(dom, 0x5401 /* TCGETS */, buf), -ENOTTY);
	CHECK_OP(read(dom, buf, sizeof(buf)), <, 0);
	CHECK_OP(write(dom, buf, sizeof(buf)), <, 0);
	CHECK(mmap(NULL, PAGE_SIZE, PROT_READ, MAP_SHARED, dom, 0) ==
	      MAP_FAILED);
}

static void info(void)
{
	struct dksm_info info = { .size = sizeof(info) };
	int fd = dksm_open();

	CHECK_EQ(call(fd, DKSM_IOC_INFO, &info), 0);
	CHECK_EQ(info.abi, DKSM_ABI_VERSION);
	CHECK_EQ(info.skip_nr, DKSM_SKIP_NR);
	CHECK_EQ(info.features, DKSM_FEATURE_KVM);
	for (int bit = 0; bit < 32; bit++) {
		info = (struct dksm_info){ .size = sizeof(info),
					   .flags = 1U << bit };
		CHECK_EQ(call(fd, DKSM_IOC_INFO, &info), -EINVAL);
		CHECK_EQ(info.abi, 0);
	}
	info = (struct dksm_info){ .size = 0 };
	CHECK_EQ(call(fd, DKSM_IOC_INFO, &info), -EINVAL);
	info.size = sizeof(info) - 1;
	CHECK_EQ(call(fd, DKSM_IOC_INFO, &info), -EINVAL);
}

static void domain_arguments(void)
{
	static const char *const bad[] = {
		"", ".", "..", ".hidden", "a/b", "/", "a b", "a\n", "a:b", "\xc3\xa4",
		"a\x7f", "a*", "../x",
		/* 64 characters: no room for the NUL */
		("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
		 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
	};
	static const unsigned int modes[] = {
		0, DKSM_DOMAIN_CREATE, DKSM_DOMAIN_CREATE | DKSM_DOMAIN_EXCL,
	};
	const char *name = domain_name("");
	int fd = dksm_open();

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		for (size_t m = 0; m < ARRAY_SIZE(modes); m++)
			if (dksm_bind(fd, bad[i], modes[m]) != -EINVAL)
				FAIL("name %zu was not refused", i);
	for (int bit = 4; bit < 32; bit++)
		CHECK_EQ(dksm_bind(fd, name, 1U << bit), -EINVAL);
	CHECK_EQ(dksm_bind(fd, name, DKSM_DOMAIN_EXCL), -EINVAL);
	CHECK_EQ(dksm_bind(fd, name, 0), -ENOENT);
	CHECK_EQ(dksm_bind(fd, name, DKSM_DOMAIN_CREATE | DKSM_DOMAIN_EXCL), 0);
	CHECK_EQ(dksm_bind(fd, name, 0), -EBUSY);
	CHECK_EQ(dksm_bind(fd, name, DKSM_DOMAIN_CREATE), -EBUSY);
	CHECK_EQ(dksm_bind(fd, domain_name(".x"), DKSM_DOMAIN_CREATE), -EBUSY);
	CHECK_EQ(dksm_bind(dksm_open(), domain_name(""), DKSM_DOMAIN_CREATE |
			   DKSM_DOMAIN_EXCL), -EEXIST);
	CHECK_EQ(dksm_bind(dksm_open(), domain_name(".x"), 0), -ENOENT);
}

static void good_names(void)
{
	static const char all[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_";
	static const char *const good[] = { "a", "-", "_", "0", "a.b-c_d", "a..", all };
	char path[200];

	CHECK_EQ(strlen(all), DKSM_NAME_SIZE - 1);
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		int fd = dksm_open();

		CHECK_EQ(dksm_bind(fd, good[i], DKSM_DOMAIN_CREATE), 0);
		snprintf(path, sizeof(path), DKSM_SYSFS "domains/%s", good[i]);
		SYS(access(path, F_OK));
		close(fd);
	}
}

/* ENOMEM for what is not mapped, with the mapped parts done. */
static void holes_in_the_range(void)
{
	struct region r = region_map(N);
	int dom = domain_open("");
	struct dksm_report rep;
	unsigned char *none;

	region_fill(&r, 0, N, 1, 1);
	SYS(munmap(region_page(&r, 3), 2 * PAGE_SIZE));
	region_model(&r, 3, 2, SEED_ANY, 0);
	CHECK_EQ(dksm_range(dom, DKSM_IOC_MERGE, DKSM_SELF, r.addr,
			    region_bytes(&r), &rep), -ENOMEM);
	EXPECT(rep, .published = N - 2);
	CHECK_EQ(count_merged(0, r.addr, 3), 3);
	CHECK_EQ(count_merged(0, region_page(&r, 5), N - 5), N - 5);
	region_verify(&r);

	none = region_page(&r, 3);
	CHECK_EQ(dksm_range(dom, DKSM_IOC_MERGE, DKSM_SELF, none, PAGE_SIZE,
			    &rep), -ENOMEM);
	CHECK_EQ(rep.scanned, 0);
	/* The lowest page, where nothing can be. */
	CHECK_EQ(dksm_range(dom, DKSM_IOC_MERGE, DKSM_SELF, NULL, PAGE_SIZE,
			    &rep), -ENOMEM);
	/* The whole address space has holes by nature: no error. */
	CHECK_EQ(dksm_range(dom, DKSM_IOC_MERGE, DKSM_SELF, NULL, 0, &rep), 0);
	CHECK_OP(rep.skipped[DKSM_SKIP_ALREADY], >=, N - 2);
	region_verify(&r);
}

/* An interrupted, refused or failed call must not make anybody a member. */
static void refused_calls_do_not_attach(void)
{
	struct region r = region_map(N);
	int dom = domain_open("");
	struct dksm_range_args args = range_of(&r);
	char name[DKSM_NAME_SIZE];

	region_fill(&r, 0, N, 1, 1);
	args.flags = 1;
	CHECK_EQ(call(dom, DKSM_IOC_MERGE, &args), -EINVAL);
	args.flags = 0;
	args.addr++;
	CHECK_EQ(call(dom, DKSM_IOC_MERGE, &args), -EINVAL);
	dksm_process_domain(0, name);
	CHECK(!strcmp(name, ""));
}

const struct test tests_args[] = {
	{ "bad_ranges", bad_ranges, 0 },
	{ "bad_fields", bad_fields, 0 },
	{ "larger_structures", larger_structures, 0 },
	{ "bad_pidfds", bad_pidfds, 0 },
	{ "bad_pointers", bad_pointers, 0 },
	{ "read_only_arguments", read_only_arguments, 0 },
	{ "argument_inside_the_range", argument_inside_the_range, 0 },
	{ "unknown_calls", unknown_calls, 0 },
	{ "info", info, 0 },
	{ "domain_arguments", domain_arguments, 0 },
	{ "good_names", good_names, 0 },
	{ "holes_in_the_range", holes_in_the_range, 0 },
	{ "refused_calls_do_not_attach", refused_calls_do_not_attach, 0 },
	{ NULL, NULL, 0 },
};
