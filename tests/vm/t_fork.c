// SPDX-License-Identifier: MIT
/*
 * Processes that come and go while their memory is merged: fork before and
 * after, exits in any order, exec, vfork.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests.h"

#define N 32

static void check_all_shared(const struct peer *p, size_t n)
{
	for (size_t i = 1; i < n; i++)
		check_shared(&p[0], &p[i], 0, N);
}

/* Every process writes to a page of its own choice; the others must not see. */
static void all_write(const struct peer *p, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		peer_poke(&p[i], 2 * i, 1, i);
		peer_poke(&p[i], N - 1, i, i);
		peers_verify(p, n);
	}
}

/* Both sides map the frames; they move, and each side writes. */
static void check_forked_pair(const struct peer *p)
{
	for (int i = 0; i < 2; i++)
		CHECK_EQ(count_merged(p[i].pid, p[i].addr, N), N);
	check_all_shared(p, 2);
	peers_verify(p, 2);
	if (peer_migrate(&p[0], 20))
		check_all_shared(p, 2);
	if (peer_migrate(&p[1], 21))
		check_all_shared(p, 2);
	all_write(p, 2);
}

/*
 * Pages still shared by fork.  While the other side is outside the domain a copy
 * becomes the frame; once it has joined, it shares that.
 */
static void fork_then_merge(int first)
{
	int dom = domain_open("");
	struct peer p[2];

	p[0] = peer_start(N);
	peer_fill(&p[0], 0, N, 1, 1);
	p[1] = peer_fork(&p[0]);
	EXPECT(peer_merge(&p[first], dom), .published = N);
	check_private(p[!first].pid, p[!first].addr, N);
	peers_verify(p, 2);
	EXPECT(peer_merge(&p[!first], dom), .merged = N);
	check_forked_pair(p);
}

static void fork_then_child_merges_first(void)
{
	fork_then_merge(1);
}

static void fork_then_parent_merges_first(void)
{
	fork_then_merge(0);
}

/* The same in a process that was a member when it forked. */
static void member_forks_then_merges(void)
{
	int dom = domain_open("");
	struct dksm_report rep;
	struct peer p[2];

	p[0] = peer_start(N);
	peer_merge(&p[0], dom);		/* of no populated memory */
	peer_fill(&p[0], 0, N, 1, 1);
	p[1] = peer_fork(&p[0]);
	EXPECT(peer_merge(&p[1], dom), .published = N);
	rep = peer_merge(&p[0], dom);
	CHECK_EQ(rep.merged + rep.skipped[DKSM_SKIP_ALREADY], N);
	check_forked_pair(p);
}

/*
 * Memory that a member shares, by fork, with a process outside the domain: other
 * members may share with the member, but never with the outsider.
 */
static void fork_shared_with_an_outsider(void)
{
	int dom = domain_open("");
	char name[DKSM_NAME_SIZE];
	struct peer p[3];

	p[0] = peer_start(N);
	p[2] = peer_start(N);
	peer_fill(&p[0], 0, N, 1, 1);
	peer_fill(&p[2], 0, N, 1, 1);
	p[1] = peer_fork(&p[0]);
	EXPECT(peer_merge(&p[1], dom), .published = N);
	EXPECT(peer_merge(&p[2], dom), .merged = N);
	check_shared(&p[1], &p[2], 0, N);
	dksm_process_domain(p[0].pid, name);
	CHECK(!strcmp(name, ""));
	check_private(p[0].pid, p[0].addr, N);
	CHECK_EQ(count_merged(p[0].pid, p[0].addr, N), 0);
	peers_verify(p, 3);
	all_write(p, 3);
}

static void fork_after_merge(void)
{
	int dom = domain_open("");
	char name[DKSM_NAME_SIZE];
	struct peer p[3];

	p[0] = peer_start(N);
	p[1] = peer_start(N);
	for (int i = 0; i < 2; i++) {
		peer_fill(&p[i], 0, N, 1, 1);
		peer_merge(&p[i], dom);
	}
	p[2] = peer_fork(&p[0]);
	check_all_shared(p, 3);
	CHECK_EQ(frame_maps(peer_frame(&p[0], 0)), 3);
	dksm_process_domain(p[2].pid, name);
	CHECK(!strcmp(name, domain_name("")));
	CHECK_EQ(dksm_process(p[2].pid, "pages_merged"), N);
	peers_verify(p, 3);
	for (int i = 0; i < 3; i++)
		if (peer_migrate(&p[i], 20 + i))
			check_all_shared(p, 3);
	peers_verify(p, 3);
	all_write(p, 3);
	/* The child needs no call of its own to join, and can go on merging. */
	peer_fill(&p[2], 0, N, 1, 1);
	peer_merge(&p[2], dom);
	check_shared(&p[1], &p[2], 5, N - 6);
	peers_verify(p, 3);
}

/* A child, its child and that one's child, with deaths in between. */
static void grandchildren(void)
{
	int dom = domain_open("");
	struct peer p[4];

	p[0] = peer_start(N);
	peer_fill(&p[0], 0, N, 1, 1);
	peer_merge(&p[0], dom);
	for (int i = 1; i < 4; i++)
		p[i] = peer_fork(&p[i - 1]);
	check_all_shared(p, 4);
	peer_exit(&p[1]);
	peer_poke(&p[0], 0, 0, 1);
	peer_poke(&p[2], 1, 0, 2);
	peer_verify(&p[0]);
	peers_verify(&p[2], 2);
	if (peer_migrate(&p[3], 10)) {
		check_shared(&p[0], &p[2], 2, N - 2);
		check_shared(&p[0], &p[3], 2, N - 2);
	}
	peer_exit(&p[0]);
	peers_verify(&p[2], 2);
	if (peer_migrate(&p[3], 11))
		check_shared(&p[2], &p[3], 2, N - 2);
	peer_poke(&p[3], 11, 1, 3);
	peers_verify(&p[2], 2);
}

static void one_exits_first(bool parent)
{
	int dom = domain_open("");
	struct peer p[2], other;
	int stays = parent;

	other = peer_start(N);
	p[0] = peer_start(N);
	peer_fill(&p[0], 0, N, 1, 1);
	peer_merge(&p[0], dom);
	p[1] = peer_fork(&p[0]);
	peer_exit(&p[!parent]);
	peer_verify(&p[stays]);
	CHECK_EQ(frame_maps(peer_frame(&p[stays], 0)), 1);
	peer_fill(&other, 0, N, 1, 1);
	EXPECT(peer_merge(&other, dom), .merged = N);
	check_shared(&p[stays], &other, 0, N);
	if (peer_migrate(&other, 5))
		check_shared(&p[stays], &other, 0, N);
	peer_poke(&p[stays], 0, 0, 9);
	peer_poke(&other, 1, 0, 9);
	peer_verify(&p[stays]);
	peer_verify(&other);
}

static void parent_exits_first(void)
{
	one_exits_first(true);
}

static void child_exits_first(void)
{
	one_exits_first(false);
}

/* The child of an attached process merges memory the parent never had. */
static void child_merges_its_own(void)
{
	int dom = domain_open("");
	struct peer p[2];

	p[0] = peer_start(N);
	peer_fill(&p[0], 0, N / 2, 1, 1);
	peer_merge(&p[0], dom);
	p[1] = peer_fork(&p[0]);
	for (int i = 0; i < 2; i++)
		peer_fill(&p[i], N / 2, N / 2, 100, 1);
	EXPECT(peer_merge(&p[1], dom), .published = N / 2,
	       .skipped[DKSM_SKIP_ALREADY] = N / 2);
	EXPECT(peer_merge(&p[0], dom), .merged = N / 2,
	       .skipped[DKSM_SKIP_ALREADY] = N / 2);
	check_all_shared(p, 2);
	all_write(p, 2);
}

/* Inherited through a generation that never merged anything itself. */
static void membership_is_inherited(void)
{
	int dom = domain_open(""), other = domain_open(".other"), fd;
	struct peer p[3];
	char name[DKSM_NAME_SIZE];

	p[0] = peer_start(N);
	peer_merge(&p[0], dom);		/* of no populated memory */
	p[1] = peer_fork(&p[0]);
	p[2] = peer_fork(&p[1]);
	dksm_process_domain(p[2].pid, name);
	CHECK(!strcmp(name, domain_name("")));
	peer_exit(&p[0]);
	peer_exit(&p[1]);
	peer_fill(&p[2], 0, N, 1, 1);
	CHECK_EQ(peer_call(&p[2], op_merge, other), -EXDEV);
	/* An unbound descriptor uses the domain the process is in. */
	fd = dksm_open();
	EXPECT(merge(fd, p[2].pidfd, p[2].addr, N * PAGE_SIZE), .published = N);
	peer_verify(&p[2]);
}

/* ---- exec -------------------------------------------------------------- */

/* Runs in the new program: nothing of the old membership may be left. */
int exec_probe(const char *domain)
{
	unsigned char *p;
	char name[DKSM_NAME_SIZE];
	int fd = dksm_open(), err;

	dksm_process_domain(0, name);
	if (strcmp(name, ""))
		return 10;
	p = SYS(mmap(NULL, N * PAGE_SIZE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	for (int i = 0; i < N; i++)
		page_fill(p + i * PAGE_SIZE, i + 1);
	err = dksm_range(fd, DKSM_IOC_MERGE, DKSM_SELF, p, N * PAGE_SIZE, NULL);
	if (err != -ENOENT)
		return 11;
	if (dksm_bind(fd, domain, 0))
		return 12;
	EXPECT(merge(fd, DKSM_SELF, p, N * PAGE_SIZE), .published = N);
	for (int i = 0; i < N; i++)
		if (page_diff(p + i * PAGE_SIZE, i + 1) >= 0)
			return 13;
	return 0;
}

static _Noreturn void probe_exec(const char *domain)
{
	execl("/proc/self/exe", "functional", "--exec-probe", domain, NULL);
	_exit(99);
}

static long op_exec_in_child(struct region *r UNUSED, const long *arg)
{
	char domain[DKSM_NAME_SIZE];
	int status;
	pid_t pid;

	snprintf(domain, sizeof(domain), "%s", domain_name(".other"));
	pid = SYS(arg[0] ? vfork() : fork());
	if (!pid)
		probe_exec(domain);
	SYS(waitpid(pid, &status, 0));
	return WIFEXITED(status) ? WEXITSTATUS(status) : 100;
}

static void exec_leaves_the_domain(void)
{
	int dom = domain_open(""), other = domain_open(".other");
	struct peer p[2] = { peer_start(N), peer_start(N) };
	char name[DKSM_NAME_SIZE];

	for (int i = 0; i < 2; i++) {
		peer_fill(&p[i], 0, N, 1, 1);
		peer_merge(&p[i], dom);
	}
	CHECK_EQ(peer_call(&p[0], op_exec_in_child, 0), 0);
	CHECK_EQ(peer_call(&p[0], op_exec_in_child, 1), 0);
	dksm_process_domain(p[0].pid, name);
	CHECK(!strcmp(name, domain_name("")));
	check_all_shared(p, 2);
	peers_verify(p, 2);
	CHECK_EQ(dksm_domain("", "pages_shared"), N);
	close(other);
}

static long op_exec(struct region *r UNUSED, const long *arg UNUSED)
{
	execl("/bin/sleep", "sleep", "600", NULL);
	return -errno;
}

/* The process itself is replaced: its frames and its membership are gone. */
static void exec_gives_up_the_frames(void)
{
	int dom = domain_open("");
	struct peer p[2] = { peer_start(N), peer_start(N) };
	char name[DKSM_NAME_SIZE] = "";

	for (int i = 0; i < 2; i++) {
		peer_fill(&p[i], 0, N, 1, 1);
		peer_merge(&p[i], dom);
	}
	peer_post(&p[0], op_exec);
	for (int i = 0; i < 500; i++) {
		dksm_process_domain(p[0].pid, name);
		if (!name[0])
			break;
		sleep_ms(10);
	}
	CHECK(!strcmp(name, ""));
	for (int i = 0; i < 500; i++) {
		if (!dksm_domain("", "pages_sharing"))
			break;
		sleep_ms(10);
		lru_drain();
	}
	CHECK_EQ(dksm_domain("", "pages_sharing"), 0);
	CHECK_EQ(dksm_domain("", "pages_shared"), N);
	peer_verify(&p[1]);
	peer_kill(&p[0]);
	peer_poke(&p[1], 0, 0, 1);
	peer_verify(&p[1]);
}

/* MADV_DONTFORK and MADV_WIPEONFORK keep their meaning. */
static void special_fork_advice(void)
{
	int dom = domain_open("");
	struct region r = region_map(N);
	int status;
	pid_t pid;

	region_fill(&r, 0, N, 1, 1);
	merge(dom, DKSM_SELF, r.addr, region_bytes(&r));
	SYS(madvise(r.addr, 4 * PAGE_SIZE, MADV_DONTFORK));
	SYS(madvise(region_page(&r, 8), 4 * PAGE_SIZE, MADV_WIPEONFORK));
	pid = SYS(fork());
	if (!pid) {
		region_model(&r, 8, 4, SEED_ZERO, 0);
		region_verify_range(&r, 4, N - 4);
		region_poke(&r, 20, 0, 1);
		_exit(EXIT_OK);
	}
	SYS(waitpid(pid, &status, 0));
	CHECK_EQ(status, 0);
	region_verify(&r);
}

static long op_fork_and_exit(struct region *r UNUSED, const long *arg UNUSED)
{
	pid_t pid = SYS(fork());

	if (!pid)
		_exit(0);
	SYS(waitpid(pid, NULL, 0));
	return 0;
}

/* KSM's sum of zero pages is right again, whatever fork copied of them. */
static void fork_without_zero_pages(void)
{
	const char *sum = "/sys/kernel/mm/ksm/ksm_zero_pages";
	u64 before = read_u64(sum);
	int dom = domain_open("");
	struct peer p = peer_start(N);

	peer_fill(&p, 0, N, SEED_ZERO, 0);
	EXPECT(peer_merge(&p, dom), .zero = N);
	CHECK_EQ(read_u64(sum), before + N);
	peer_call(&p, op_fork_and_exit);
	CHECK_EQ(read_u64(sum), before + N);
	CHECK_EQ(peer_madvise(&p, 0, N / 2, MADV_DONTFORK), 0);
	peer_call(&p, op_fork_and_exit);
	CHECK_EQ(read_u64(sum), before + N);
	peer_verify(&p);
}

const struct test tests_fork[] = {
	{ "fork_then_child_merges_first", fork_then_child_merges_first, 0 },
	{ "fork_then_parent_merges_first", fork_then_parent_merges_first, 0 },
	{ "member_forks_then_merges", member_forks_then_merges, 0 },
	{ "fork_shared_with_an_outsider", fork_shared_with_an_outsider, 0 },
	{ "fork_after_merge", fork_after_merge, 0 },
	{ "grandchildren", grandchildren, 0 },
	{ "parent_exits_first", parent_exits_first, 0 },
	{ "child_exits_first", child_exits_first, 0 },
	{ "child_merges_its_own", child_merges_its_own, 0 },
	{ "membership_is_inherited", membership_is_inherited, 0 },
	{ "exec_leaves_the_domain", exec_leaves_the_domain, 0 },
	{ "exec_gives_up_the_frames", exec_gives_up_the_frames, 0 },
	{ "special_fork_advice", special_fork_advice, 0 },
	{ "fork_without_zero_pages", fork_without_zero_pages, 0 },
	{ NULL, NULL, 0 },
};
