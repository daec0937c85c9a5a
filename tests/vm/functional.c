// SPDX-License-Identifier: MIT
/*
 * functional: runs the functional tests inside the patched kernel and prints
 * KTAP.
 *
 * Each test is a program in a process group of its own, with a time limit.  When
 * it has ended, whatever it left behind (processes, knobs, swap, cgroups) is
 * cleared away, and then the kernel's own numbers must return to what they were
 * before: a domain, a frame or a byte of metadata too many fails the test.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <getopt.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests.h"

static const struct test *const lists[] = {
	tests_share, tests_stats, tests_write, tests_fork, tests_map,
	tests_kinds, tests_unmerge, tests_huge, tests_pin, tests_track,
	tests_reclaim, tests_move, tests_memcg, tests_ksmd, tests_access,
	tests_args, tests_race, tests_kvm, tests_attach, tests_load,
	tests_second, tests_idle, tests_lasting, tests_learn, tests_tenants, tests_faults,
	tests_guests,
};

static unsigned int timeout_seconds = 300;
static unsigned int unwanted, needed;	/* flags, where no test is named */
static const char *exclude;

/* ---- knobs ------------------------------------------------------------- */

/* Tests may turn these; what was found at the start is put back after each. */
static struct knob {
	const char *path;
	char value[64];
} knobs[] = {
	{ DKSM_SYSFS "max_page_sharing", "" },
	{ DKSM_SYSFS "use_zero_pages", "" },
	{ DKSM_SYSFS "learn", "" },
	{ DKSM_SYSFS "load_pages", "" },
	{ DKSM_SYSFS "huge_min", "" },
	{ DKSM_SYSFS "busy_percent", "" },
	{ DKSM_SYSFS "merge_across_nodes", "" },
	{ THP_SYSFS "hugepages-64kB/enabled", "" },
	{ KSM_SYSFS "pages_to_scan", "" },
	{ KSM_SYSFS "sleep_millisecs", "" },
	{ KSM_SYSFS "smart_scan", "" },
	{ THP_SYSFS "enabled", "" },
	{ THP_SYSFS "khugepaged/scan_sleep_millisecs", "" },
	{ THP_SYSFS "khugepaged/pages_to_scan", "" },
	{ THP_SYSFS "khugepaged/max_ptes_shared", "" },
	{ "/proc/sys/kernel/sched_rt_runtime_us", "" },
	{ "/proc/sys/vm/nr_hugepages", "" },
};

/* Of "always [madvise] never" keeps the word in brackets. */
static void keep_choice(char *value)
{
	char *from = strchr(value, '['), *to = strchr(value, ']');

	value[strcspn(value, "\n")] = 0;
	if (!from || !to)
		return;
	*to = 0;
	memmove(value, from + 1, strlen(from + 1) + 1);
}

static void knobs_save(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(knobs); i++) {
		FILE *f = fopen(knobs[i].path, "re");

		if (!f)
			continue;
		if (fgets(knobs[i].value, sizeof(knobs[i].value), f))
			keep_choice(knobs[i].value);
		fclose(f);
	}
}

static void knobs_restore(unsigned int flags)
{
	for (size_t i = 0; i < ARRAY_SIZE(knobs); i++)
		if (knobs[i].value[0])
			write_str(knobs[i].path, knobs[i].value);
	if (flags & TEST_KSMD) {
		write_str(KSM_SYSFS "run", "2");
		write_str(KSM_SYSFS "use_zero_pages", "0");
		write_str(KSM_SYSFS "run", "0");
	}
	chmod("/dev/dksm", 0600);
}

/* ---- leaks ------------------------------------------------------------- */

struct numbers {
	u64 domains, shared, sharing, zero, saved, metadata;
};

static u64 domains_count(void)
{
	DIR *dir = opendir(DKSM_SYSFS "domains");
	struct dirent *d;
	u64 count = 0;

	if (!dir)
		return 0;
	while ((d = readdir(dir)))
		count += d->d_name[0] != '.';
	closedir(dir);
	return count;
}

static struct numbers numbers_now(void)
{
	return (struct numbers){
		.domains = domains_count(),
		.shared = read_u64(DKSM_SYSFS "pages_shared"),
		.sharing = read_u64(DKSM_SYSFS "pages_sharing"),
		.zero = read_u64(DKSM_SYSFS "pages_zero"),
		.saved = read_u64(DKSM_SYSFS "saved_bytes"),
		.metadata = read_u64(DKSM_SYSFS "metadata_bytes"),
	};
}

/* Freeing may be deferred a little, hence the patience. */
static bool numbers_return(const struct numbers *before, struct numbers *now)
{
	u64 from = now_ms(), took;

	do {
		*now = numbers_now();
		if (!memcmp(now, before, sizeof(*now)))
			return true;
		sleep_ms(10);
		took = now_ms() - from;
		if (took > 500)
			lru_drain();
	} while (took < 10000);
	return false;
}

static bool leaks(const struct numbers *before, char *why, size_t size)
{
	struct numbers now;

	if (numbers_return(before, &now))
		return false;
	snprintf(why, size, "left behind: domains %+lld shared %+lld "
		 "sharing %+lld zero %+lld saved %+lld metadata %+lld",
		 (long long)(now.domains - before->domains),
		 (long long)(now.shared - before->shared),
		 (long long)(now.sharing - before->sharing),
		 (long long)(now.zero - before->zero),
		 (long long)(now.saved - before->saved),
		 (long long)(now.metadata - before->metadata));
	return true;
}

/* ---- processes --------------------------------------------------------- */

/* One line: "# PID STATE inner < outer < ...". */
static void stack_print(pid_t pid)
{
	char path[40], line[160], state = '?';
	const char *separator = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "re");
	if (f) {
		if (fscanf(f, "%*d (%*[^)]) %c", &state) != 1)
			state = '?';
		fclose(f);
	}
	if (state == 'Z')	/* at most a thread of it is still ending */
		return;
	printf("# process %d %c ", pid, state);
	snprintf(path, sizeof(path), "/proc/%d/stack", pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f)) {
		char *name = strchr(line, ' '), *end = strchr(line, '+');

		if (!name || !end)
			continue;
		*end = '\0';
		printf("%s%s", separator, name + 1);
		separator = " < ";
	}
	putchar('\n');
	if (f)
		fclose(f);
}

/* Where the processes of a test that hangs are. */
static void stacks_print(pid_t group)
{
	DIR *dir = opendir("/proc");
	struct dirent *d;

	while (dir && (d = readdir(dir))) {
		pid_t pid = atoi(d->d_name);

		if (pid > 0 && getpgid(pid) == group)
			stack_print(pid);
	}
	if (dir)
		closedir(dir);
}

static bool reap_all(pid_t group)
{
	u64 end = now_ms() + timeout_seconds * 1000UL;

	while (now_ms() < end) {
		pid_t pid = waitpid(-1, NULL, WNOHANG);

		if (pid < 0 && errno == ECHILD)
			return true;
		if (pid <= 0) {
			kill(-group, SIGKILL);
			sleep_ms(5);
		}
	}
	stacks_print(group);
	return false;
}

/* What `functional --run NAME` does: the test proper, in a program of its own. */
static _Noreturn void test_child(const struct test *test)
{
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	prctl(PR_SET_NAME, "functional");
	signal(SIGPIPE, SIG_IGN);
	peers_begin();
	test->run();
	_exit(EXIT_OK);
}

/* Executed anew, so that it shares no memory with us that it could merge. */
static _Noreturn void test_execute(const struct test *test)
{
	char fd[12];

	snprintf(fd, sizeof(fd), "%d", test_descriptor());
	setpgid(0, 0);
	execl("/proc/self/exe", "functional", "--verdict-fd", fd, "--run",
	      test->name, NULL);
	_exit(127);
}

/* False if it takes too long. */
static bool wait_for(pid_t pid)
{
	struct pollfd pfd = { .events = POLLIN };
	int n;

	pfd.fd = syscall(SYS_pidfd_open, pid, 0);
	n = poll(&pfd, 1, timeout_seconds * 1000);
	close(pfd.fd);
	return n == 1;
}

static int run_child(const struct test *test, char *why, size_t size)
{
	const char *reason;
	pid_t pid = fork();
	int status, verdict;
	bool in_time;

	if (!pid)
		test_execute(test);
	setpgid(pid, pid);
	in_time = wait_for(pid);
	if (!in_time)
		stacks_print(pid);
	kill(-pid, SIGKILL);
	waitpid(pid, &status, 0);
	verdict = test_verdict(&reason);
	snprintf(why, size, "%s", reason);
	if (!reap_all(pid)) {
		snprintf(why, size, "processes cannot be killed");
		return EXIT_FAIL;
	}
	if (verdict != EXIT_OK)
		return verdict;
	if (!in_time)
		snprintf(why, size, "no end after %u s", timeout_seconds);
	else if (WIFSIGNALED(status))
		snprintf(why, size, "killed by signal %d", WTERMSIG(status));
	else if (WEXITSTATUS(status))
		snprintf(why, size, "exit status %d", WEXITSTATUS(status));
	else
		return EXIT_OK;
	return EXIT_FAIL;
}

/* ---- tests ------------------------------------------------------------- */

static void kernel_log_name(const char *name)
{
	char line[80];

	snprintf(line, sizeof(line), "functional: %s\n", name);
	write_str("/dev/kmsg", line);
}

static void clear_away(const struct test *test)
{
	swap_stop();
	knobs_restore(test->flags);
	cgroups_remove();
}

static int run_test(const struct test *test, char *why, size_t size)
{
	struct numbers before = numbers_now();
	char leak[200];
	int verdict;

	if (read_u64(KSM_SYSFS "run") != 0) {
		snprintf(why, size, "ksmd is on or missing");
		return EXIT_FAIL;
	}
	test_begin(test->name);
	kernel_log_name(test->name);
	verdict = run_child(test, why, size);
	if (verdict == EXIT_OK && !(test->flags & TEST_KSMD) &&
	    read_u64(KSM_SYSFS "run") != 0) {
		snprintf(why, size, "ksmd was on");
		verdict = EXIT_FAIL;
	}
	clear_away(test);
	if (leaks(&before, leak, sizeof(leak))) {
		size_t n = strlen(why);

		snprintf(why + n, size - n, "%s%s", n ? "; " : "", leak);
		verdict = EXIT_FAIL;
	}
	return verdict;
}

static bool wanted(const struct test *test, char *const *globs)
{
	if (exclude && !fnmatch(exclude, test->name, 0))
		return false;
	if (!*globs)
		return (test->flags & (TEST_LONG | unwanted)) == needed;
	for (; *globs; globs++)
		if (!fnmatch(*globs, test->name, 0))
			return true;
	return false;
}

typedef void (*each_fn)(const struct test *test, void *arg);

static void for_each_test(char *const *globs, each_fn fn, void *arg)
{
	for (size_t i = 0; i < ARRAY_SIZE(lists); i++)
		for (const struct test *t = lists[i]; t->name; t++)
			if (wanted(t, globs))
				fn(t, arg);
}

static void count_one(const struct test *test UNUSED, void *arg)
{
	++*(unsigned int *)arg;
}

static void list_one(const struct test *test, void *arg UNUSED)
{
	puts(test->name);
}

static void run_named(const struct test *test, void *arg)
{
	if (!strcmp(test->name, arg))
		test_child(test);
}

struct totals {
	unsigned int number, passed, failed, skipped;
};

static void run_one(const struct test *test, void *arg)
{
	struct totals *totals = arg;
	u64 from = now_ms(), took;
	char why[800] = "";
	int verdict;

	fflush(stdout);
	verdict = run_test(test, why, sizeof(why));
	totals->number++;
	took = now_ms() - from;
	if (took > 2000)
		printf("# %s took %llu ms\n", test->name,
		       (unsigned long long)took);
	if (verdict == EXIT_OK) {
		totals->passed++;
		printf("ok %u %s\n", totals->number, test->name);
	} else if (verdict == EXIT_SKIP) {
		totals->skipped++;
		printf("ok %u %s # SKIP %s\n", totals->number, test->name, why);
	} else {
		totals->failed++;
		printf("not ok %u %s # %s\n", totals->number, test->name, why);
	}
	fflush(stdout);
}

static int run_all(char *const *globs)
{
	struct totals totals = { 0 };
	unsigned int count = 0;
	u64 from = now_ms();

	for_each_test(globs, count_one, &count);
	printf("KTAP version 1\n1..%u\n", count);
	if (!count) {
		printf("Bail out! no test of that name\n");
		return EXIT_FAIL;
	}
	/* What does without DKSM is told so, see t_guests.c. */
	if (access("/dev/dksm", R_OK | W_OK) && !getenv("TEST_ATTACH")) {
		printf("Bail out! /dev/dksm: %s\n", strerror(errno));
		return EXIT_FAIL;
	}
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	knobs_save();
	for_each_test(globs, run_one, &totals);
	printf("# passed %u, failed %u, skipped %u of %u in %llu s\n",
	       totals.passed, totals.failed, totals.skipped, count,
	       (unsigned long long)(now_ms() - from + 500) / 1000);
	return totals.failed ? EXIT_FAIL : EXIT_OK;
}

static _Noreturn void usage(int status)
{
	fprintf(status ? stderr : stdout,
		"usage: functional [--list] [--timeout SECONDS] [--exclude GLOB]\n"
		"                  [--quick | --slow | NAME-GLOB...]\n"
		"Runs the functional tests (all, or those named) and prints KTAP. Those that\n"
		"take long on the debug kernel can be left out, or be the only ones. Random tests\n"
		"run only if named, for TEST_SECONDS (60), from TEST_SEED (the time).\n");
	exit(status);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "list", no_argument, NULL, 'l' },
		{ "timeout", required_argument, NULL, 't' },
		{ "exclude", required_argument, NULL, 'x' },
		{ "quick", no_argument, NULL, 'q' },
		{ "slow", no_argument, NULL, 's' },
		{ "exec-probe", required_argument, NULL, 'e' },
		{ "verdict-fd", required_argument, NULL, 'f' },
		{ "run", required_argument, NULL, 'r' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	bool list = false;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'l':
			list = true;
			break;
		case 't':
			timeout_seconds = atoi(optarg);
			break;
		case 'x':
			exclude = optarg;
			break;
		case 's':
			unwanted = needed = TEST_SLOW;
			break;
		case 'q':
			unwanted = TEST_SLOW;
			break;
		case 'e':
			test_begin("exec_probe");
			return exec_probe(optarg);
		case 'f':
			test_join(atoi(optarg));
			break;
		case 'r':
			for_each_test((char *[]){ optarg, NULL }, run_named, optarg);
			return 2;
		case 'h':
			usage(0);
		default:
			usage(2);
		}
	}
	if (!list)
		return run_all(argv + optind);
	for_each_test(argv + optind, list_one, NULL);
	return 0;
}
