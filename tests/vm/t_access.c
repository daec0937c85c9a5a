// SPDX-License-Identifier: MIT
/*
 * Who may do what: domains and their owners, other users' processes, other
 * domains' processes; and how long a domain lives.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests.h"

#define N 16
#define NOBODY 65534
#define SOMEBODY 65533

static bool denied(long err)
{
	return err == -EPERM || err == -EACCES;
}

/* The peer becomes user @arg[0], debuggable by the same user. */
static long op_setuid(struct region *r UNUSED, const long *arg)
{
	SYS(setgroups(0, NULL));
	SYS(setresgid(arg[0], arg[0], arg[0]));
	SYS(setresuid(arg[0], arg[0], arg[0]));
	SYS(prctl(PR_SET_DUMPABLE, 1));
	return 0;
}

/* Results of calls that the peer makes with a descriptor of its own. */
static int own_fd = -1;

static long op_open(struct region *r UNUSED, const long *arg UNUSED)
{
	own_fd = open("/dev/dksm", O_RDWR);
	return own_fd < 0 ? -errno : 0;
}

static long op_bind(struct region *r UNUSED, const long *arg)
{
	return dksm_bind(own_fd, domain_name(arg[1] ? ".own" : ""), arg[0]);
}

static long op_merge_own(struct region *r, const long *arg UNUSED)
{
	return dksm_range(own_fd, DKSM_IOC_MERGE, DKSM_SELF, r->addr,
			  region_bytes(r), NULL);
}

/* @arg: pid, address, command. */
static long op_range_pid(struct region *r, const long *arg)
{
	int pidfd = syscall(SYS_pidfd_open, arg[0], 0), err;

	if (pidfd < 0)
		return -errno;
	err = dksm_range(own_fd, arg[2], pidfd, (void *)arg[1], region_bytes(r),
			 NULL);
	close(pidfd);
	return err;
}

static struct peer start_as(uid_t uid)
{
	struct peer p = peer_start(N);

	peer_call(&p, op_setuid, uid);
	CHECK_EQ(peer_call(&p, op_open), 0);
	return p;
}

static void device_for_all(void)
{
	SYS(chmod("/dev/dksm", 0666));
}

static void device_is_for_root_only(void)
{
	struct peer p = peer_start(N);

	peer_call(&p, op_setuid, NOBODY);
	CHECK_EQ(peer_call(&p, op_open), -EACCES);
}

static void unprivileged_merges_itself(void)
{
	struct peer p, child;
	u64 before[N];

	device_for_all();
	p = start_as(NOBODY);
	peer_fill(&p, 0, N, 1, 1);
	frames_read(p.pid, p.addr, N, before);
	CHECK_EQ(peer_call(&p, op_bind, DKSM_DOMAIN_CREATE, 1), 0);
	CHECK_EQ(peer_call(&p, op_merge_own), 0);
	CHECK_EQ(count_merged(p.pid, p.addr, N), N);
	child = peer_fork(&p);
	peer_fill(&child, 0, N, 100, 1);
	CHECK_EQ(peer_call(&p, op_range_pid, child.pid, (long)child.addr,
			   DKSM_IOC_MERGE), 0);
	CHECK_EQ(count_merged(child.pid, child.addr, N), N);
	CHECK_EQ(peer_call(&p, op_range_pid, child.pid, (long)child.addr,
			   DKSM_IOC_UNMERGE), 0);
	CHECK_EQ(count_merged(child.pid, child.addr, N), 0);
	peer_verify(&p);
	peer_verify(&child);
}

static void unprivileged_may_not_merge_others(void)
{
	struct peer p, root = peer_start(N), other;
	u64 before[N], after[N];
	char name[DKSM_NAME_SIZE];

	device_for_all();
	p = start_as(NOBODY);
	other = start_as(SOMEBODY);
	CHECK_EQ(peer_call(&p, op_bind, DKSM_DOMAIN_CREATE, 1), 0);
	peer_fill(&root, 0, N, 1, 1);
	peer_fill(&other, 0, N, 1, 1);
	frames_read(root.pid, root.addr, N, before);
	CHECK(denied(peer_call(&p, op_range_pid, root.pid, (long)root.addr,
			       DKSM_IOC_MERGE)));
	CHECK(denied(peer_call(&p, op_range_pid, other.pid, (long)other.addr,
			       DKSM_IOC_MERGE)));
	CHECK(denied(peer_call(&p, op_range_pid, 1, 0, DKSM_IOC_MERGE)));
	CHECK(denied(peer_call(&p, op_range_pid, root.pid, (long)root.addr,
			       DKSM_IOC_UNMERGE)));
	frames_read(root.pid, root.addr, N, after);
	CHECK(!memcmp(before, after, sizeof(before)));
	dksm_process_domain(root.pid, name);
	CHECK(!strcmp(name, ""));
	dksm_process_domain(other.pid, name);
	CHECK(!strcmp(name, ""));
	peer_verify(&root);
	peer_verify(&other);
}

/* One user, but a process that may not be debugged. */
static long op_undumpable(struct region *r UNUSED, const long *arg UNUSED)
{
	return prctl(PR_SET_DUMPABLE, 0);
}

static void undebuggable_process_is_left_alone(void)
{
	struct peer p[2];

	device_for_all();
	for (int i = 0; i < 2; i++) {
		p[i] = start_as(NOBODY);
		peer_fill(&p[i], 0, N, 1, 1);
	}
	CHECK_EQ(peer_call(&p[0], op_bind, DKSM_DOMAIN_CREATE, 1), 0);
	CHECK_EQ(peer_call(&p[1], op_undumpable), 0);
	CHECK(denied(peer_call(&p[0], op_range_pid, p[1].pid, (long)p[1].addr,
			       DKSM_IOC_MERGE)));
	/* Itself it may merge. */
	CHECK_EQ(peer_call(&p[1], op_bind, 0, 1), 0);
	CHECK_EQ(peer_call(&p[1], op_merge_own), 0);
	peers_verify(p, 2);
}

static void domains_belong_to_their_creator(void)
{
	int dom = domain_open("");
	struct peer p, other;

	device_for_all();
	p = start_as(NOBODY);
	other = start_as(SOMEBODY);
	CHECK_EQ(peer_call(&p, op_bind, 0, 0), -EACCES);
	CHECK_EQ(peer_call(&p, op_bind, DKSM_DOMAIN_CREATE, 0), -EACCES);
	/* A refused descriptor is still unbound. */
	CHECK_EQ(peer_call(&p, op_merge_own), -ENOENT);
	CHECK_EQ(peer_call(&p, op_bind, DKSM_DOMAIN_CREATE, 1), 0);
	CHECK_EQ(peer_call(&other, op_bind, 0, 1), -EACCES);
	CHECK_EQ(peer_call(&other, op_bind, DKSM_DOMAIN_CREATE, 1), -EACCES);
	/* Whoever may debug everybody may join everybody. */
	close(domain_join(".own"));
	close(dom);
}

static long op_read_files(struct region *r UNUSED, const long *arg UNUSED)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), DKSM_SYSFS "domains/%s/pages_shared",
		 domain_name(".own"));
	return read_u64(path) == ~0ULL ? -errno : 0;
}

static long op_read_stat_of(struct region *r UNUSED, const long *arg)
{
	char path[40];
	int fd;

	snprintf(path, sizeof(path), "/proc/%ld/dksm_stat", arg[0]);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return -errno;
	close(fd);
	return 0;
}

static void numbers_are_the_owners(void)
{
	struct peer p, other;
	struct stat st;
	char path[PATH_MAX];

	device_for_all();
	p = start_as(NOBODY);
	other = start_as(SOMEBODY);
	CHECK_EQ(peer_call(&p, op_bind, DKSM_DOMAIN_CREATE, 1), 0);
	CHECK_EQ(peer_call(&p, op_merge_own), 0);
	snprintf(path, sizeof(path), DKSM_SYSFS "domains/%s/pages_shared",
		 domain_name(".own"));
	SYS(stat(path, &st));
	CHECK_EQ(st.st_uid, NOBODY);
	CHECK_EQ(st.st_mode & 07777, 0400);
	CHECK_EQ(peer_call(&p, op_read_files), 0);
	CHECK_EQ(peer_call(&other, op_read_files), -EACCES);
	CHECK_EQ(peer_call(&p, op_read_stat_of, p.pid), 0);
	CHECK_EQ(peer_call(&other, op_read_stat_of, p.pid), -EACCES);
}

/* ---- other domains ----------------------------------------------------- */

static void process_of_another_domain(void)
{
	int dom = domain_open(""), other = domain_open(".other"), fd;
	struct peer p = peer_start(N);
	struct dksm_report rep;
	char name[DKSM_NAME_SIZE];

	peer_fill(&p, 0, N, 1, 1);
	EXPECT(merge(dom, p.pidfd, p.addr, N / 2 * PAGE_SIZE),
	       .published = N / 2);
	CHECK_EQ(dksm_range(other, DKSM_IOC_MERGE, p.pidfd, p.addr,
			    N * PAGE_SIZE, &rep), -EXDEV);
	CHECK_EQ(rep.scanned, 0);
	CHECK_EQ(dksm_range(other, DKSM_IOC_MERGE, p.pidfd, NULL, 0, &rep),
		 -EXDEV);
	CHECK_EQ(peer_call(&p, op_merge, other), -EXDEV);
	CHECK_EQ(count_merged(p.pid, p.addr, N), N / 2);
	dksm_process_domain(p.pid, name);
	CHECK(!strcmp(name, domain_name("")));
	fd = dksm_open();
	EXPECT(merge(fd, p.pidfd, p.addr, N * PAGE_SIZE), .published = N / 2,
	       .skipped[DKSM_SKIP_ALREADY] = N / 2);
	peer_verify(&p);
	CHECK_EQ(dksm_domain(".other", "pages_shared"), 0);
}

static void no_domain_at_all(void)
{
	struct region r = region_map(N);
	struct peer p = peer_start(N);
	int fd = dksm_open();

	region_fill(&r, 0, N, 1, 1);
	peer_fill(&p, 0, N, 1, 1);
	CHECK_EQ(dksm_range(fd, DKSM_IOC_MERGE, DKSM_SELF, r.addr,
			    region_bytes(&r), NULL), -ENOENT);
	CHECK_EQ(dksm_range(fd, DKSM_IOC_MERGE, p.pidfd, p.addr, N * PAGE_SIZE,
			    NULL), -ENOENT);
	check_private(0, r.addr, N);
	check_private(p.pid, p.addr, N);
}

/* ---- lifetime ---------------------------------------------------------- */

static bool domain_exists(const char *suffix)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), DKSM_SYSFS "domains/%s",
		 domain_name(suffix));
	return !access(path, F_OK);
}

static void wait_until_gone(const char *suffix)
{
	for (int i = 0; i < 500 && domain_exists(suffix); i++) {
		sleep_ms(10);
		lru_drain();
	}
	CHECK(!domain_exists(suffix));
}

static void domain_lives_with_a_descriptor(void)
{
	int fd = domain_open(""), second = domain_join("");

	CHECK(domain_exists(""));
	close(fd);
	CHECK(domain_exists(""));
	fd = dksm_open();
	CHECK_EQ(dksm_bind(fd, domain_name(""), DKSM_DOMAIN_CREATE |
			   DKSM_DOMAIN_EXCL), -EEXIST);
	close(second);
	wait_until_gone("");
	CHECK_EQ(dksm_bind(fd, domain_name(""), 0), -ENOENT);
	CHECK_EQ(dksm_bind(fd, domain_name(""), DKSM_DOMAIN_CREATE |
			   DKSM_DOMAIN_EXCL), 0);
	CHECK(domain_exists(""));
}

static void domain_lives_with_a_process(void)
{
	int fd = domain_open("");
	struct peer p[2];

	/* Peers must not inherit a bound descriptor here. */
	close(fd);
	wait_until_gone("");
	p[0] = peer_start(N);
	p[1] = peer_start(N);
	fd = domain_open("");
	for (int i = 0; i < 2; i++) {
		peer_fill(&p[i], 0, N, 1, 1);
		merge(fd, p[i].pidfd, p[i].addr, N * PAGE_SIZE);
	}
	close(fd);
	CHECK(domain_exists(""));
	CHECK_EQ(dksm_domain("", "pages_shared"), N);
	peer_exit(&p[0]);
	CHECK(domain_exists(""));
	peer_verify(&p[1]);
	/* Joined again it is the same domain with the same frames. */
	fd = domain_join("");
	EXPECT(merge(fd, p[1].pidfd, p[1].addr, N * PAGE_SIZE),
	       .skipped[DKSM_SKIP_ALREADY] = N);
	close(fd);
	/* A member without a single frame keeps it, too. */
	fd = dksm_open();
	EXPECT(unmerge(fd, p[1].pidfd, p[1].addr, N * PAGE_SIZE), .unmerged = N);
	close(fd);
	sleep_ms(200);
	CHECK(domain_exists(""));
	peer_exit(&p[1]);
	wait_until_gone("");
}

/* Many short lives of one name, with frames each time. */
static void domain_name_is_reused(void)
{
	for (int round = 0; round < 20; round++) {
		int fd = dksm_open();
		struct peer p;

		CHECK_EQ(dksm_bind(fd, domain_name(""), DKSM_DOMAIN_CREATE), 0);
		p = peer_start(N);
		peer_fill(&p, 0, N, round + 1, 1);
		peer_merge(&p, fd);
		CHECK_EQ(count_merged(p.pid, p.addr, N), N);
		peer_verify(&p);
		close(fd);
		peer_kill(&p);
	}
}

static size_t count_domains(void)
{
	DIR *dir = opendir(DKSM_SYSFS "domains");
	size_t count = 0;
	struct dirent *d;

	if (!dir)
		FAIL("no folder of domains");
	while ((d = readdir(dir)))
		count += d->d_name[0] != '.';
	closedir(dir);
	return count;
}

static void many_domains(void)
{
	size_t before = count_domains();
	struct region r = region_map(1);
	int fd[50];

	region_fill(&r, 0, 1, 1, 0);
	for (int i = 0; i < 50; i++) {
		char suffix[8];

		snprintf(suffix, sizeof(suffix), ".%d", i);
		fd[i] = domain_open(suffix);
	}
	CHECK_EQ(count_domains(), before + 50);
	EXPECT(merge(fd[7], DKSM_SELF, r.addr, PAGE_SIZE), .published = 1);
	for (int i = 0; i < 50; i++)
		close(fd[i]);
	for (int i = 0; i < 500 && count_domains() != before + 1; i++)
		sleep_ms(10);
	CHECK_EQ(count_domains(), before + 1);
	CHECK(domain_exists(".7"));
}

const struct test tests_access[] = {
	{ "device_is_for_root_only", device_is_for_root_only, 0 },
	{ "unprivileged_merges_itself", unprivileged_merges_itself, 0 },
	{ "unprivileged_may_not_merge_others",
	  unprivileged_may_not_merge_others, 0 },
	{ "undebuggable_process_is_left_alone",
	  undebuggable_process_is_left_alone, 0 },
	{ "domains_belong_to_their_creator", domains_belong_to_their_creator, 0 },
	{ "numbers_are_the_owners", numbers_are_the_owners, 0 },
	{ "process_of_another_domain", process_of_another_domain, 0 },
	{ "no_domain_at_all", no_domain_at_all, 0 },
	{ "domain_lives_with_a_descriptor", domain_lives_with_a_descriptor, 0 },
	{ "domain_lives_with_a_process", domain_lives_with_a_process, 0 },
	{ "domain_name_is_reused", domain_name_is_reused, 0 },
	{ "many_domains", many_domains, 0 },
	{ NULL, NULL, 0 },
};
