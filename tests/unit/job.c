// SPDX-License-Identifier: MIT
/*
 * merge and unmerge with an engine that plays a script: which domain is joined,
 * what happens to several ranges, what is reported; and the words for failures.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../cli/cli.h"
#include "../../lib/engine.h"
#include "ktap.h"

#define CALLS 8

/* results: of each range call in turn; join: of joining. */
static struct script {
	int results[CALLS];
	int join;
	struct range ranges[CALLS];
	size_t calls, joins;
	char joined[DKSM_NAME_SIZE];
	unsigned int flags;
} script;

static int play_join(struct dksm *handle, const char *name, unsigned int flags)
{
	(void)handle;
	script.joins++;
	script.flags = flags;
	snprintf(script.joined, sizeof(script.joined), "%s", name);
	return script.join;
}

/* Each call but a first ENOENT looks at ten pages. */
static int play_range(struct dksm *handle, int pidfd, uint64_t addr,
		      uint64_t len, struct dksm_report *report)
{
	int result = script.results[script.calls];

	(void)handle;
	CHECK(pidfd == 42);
	script.ranges[script.calls++] = (struct range){ addr, len };
	if (result != -ENOENT)
		report->scanned = 10;
	return result;
}

static const struct dksm_engine engine = {
	.domain_join = play_join,
	.merge = play_range,
	.unmerge = play_range,
};

static struct range three[] = {
	{ 0x1000, 0x1000 }, { 0x4000, 0x2000 }, { 0x8000, 0x3000 },
};

static struct failure play_args(const struct job *kind, const struct args *args,
				struct dksm_report *sum)
{
	struct dksm handle = { &engine };
	struct job job = *kind;
	struct failure failure;

	job.args = args;
	memset(sum, 0, sizeof(*sum));
	if (job.prepare) {
		failure = job.prepare(&job, &handle);
		if (failure.err)
			/* cppcheck-suppress returnDanglingLifetime; it has no pointers */
			return failure;
	}
	return job_ranges(&job, &handle, 42, sum);
}

static struct failure play(const struct job *kind, const char *domain,
			   size_t nr, struct dksm_report *sum)
{
	struct args args = { .pid = 1, .domain = domain, .ranges = three,
			     .nr = nr };

	return play_args(kind, &args, sum);
}

static void rewind_script(void)
{
	memset(&script, 0, sizeof(script));
}

static void whole_process(void)
{
	struct dksm_report sum;

	rewind_script();
	CHECK(!play(&merge_job, NULL, 0, &sum).err);
	CHECK(script.calls == 1 && !script.ranges[0].start &&
	      !script.ranges[0].len && sum.scanned == 10);
}

static void several_ranges(void)
{
	struct dksm_report sum;

	rewind_script();
	CHECK(!play(&merge_job, NULL, 3, &sum).err);
	CHECK(script.calls == 3 && sum.scanned == 30);
	CHECK(!memcmp(script.ranges, three, sizeof(three)));
	rewind_script();
	CHECK(!play(&unmerge_job, NULL, 3, &sum).err);
	CHECK(script.calls == 3 && sum.scanned == 30);
}

static void domain_kept(void)
{
	struct dksm_report sum;

	rewind_script();
	CHECK(!play(&merge_job, NULL, 1, &sum).err);
	CHECK(!script.joins);
}

static void domain_default(void)
{
	char mine[DKSM_NAME_SIZE] = "default";
	struct dksm_report sum;

	if (geteuid())
		snprintf(mine, sizeof(mine), "user-%u", geteuid());
	rewind_script();
	script.results[0] = -ENOENT;
	CHECK(!play(&merge_job, NULL, 2, &sum).err);
	CHECK(script.joins == 1 && !strcmp(script.joined, mine));
	CHECK(script.flags == DKSM_DOMAIN_CREATE);
	CHECK(script.calls == 3 && sum.scanned == 20);
	CHECK(script.ranges[1].start == three[0].start &&
	      script.ranges[2].start == three[1].start);
}

static void domain_of_user(void)
{
	struct dksm_report sum;

	rewind_script();
	script.results[0] = -ENOENT;
	if (!geteuid())
		REQUIRE(!seteuid(65534));
	CHECK(!play(&merge_job, NULL, 1, &sum).err);
	CHECK(!strncmp(script.joined, "user-", 5));
	CHECK((uid_t)atoi(script.joined + 5) == geteuid());
	if (!getuid())
		CHECK(!seteuid(0));
}

static void domain_named(void)
{
	struct dksm_report sum;

	rewind_script();
	CHECK(!play(&merge_job, "web", 1, &sum).err);
	CHECK(script.joins == 1 && !strcmp(script.joined, "web"));
	CHECK(script.flags == DKSM_DOMAIN_CREATE && script.calls == 1);
}

/* Without a name it must be the caller's own domain, which may be another. */
static void domain_untrusted(void)
{
	struct args args = { .pid = 1, .domain_flags = DKSM_DOMAIN_UNTRUSTED };
	char mine[DKSM_NAME_SIZE];
	struct dksm_report sum;

	own_domain(mine);
	rewind_script();
	CHECK(!play_args(&merge_job, &args, &sum).err);
	CHECK(script.joins == 1 && !strcmp(script.joined, mine));
	CHECK(script.flags == (DKSM_DOMAIN_CREATE | DKSM_DOMAIN_UNTRUSTED));
	rewind_script();
	args.domain = "web";
	CHECK(!play_args(&merge_job, &args, &sum).err);
	CHECK(script.joins == 1 && !strcmp(script.joined, "web"));
	CHECK(script.flags == (DKSM_DOMAIN_CREATE | DKSM_DOMAIN_UNTRUSTED));
}

static void domain_refused(void)
{
	struct dksm_report sum;
	struct failure failure;

	rewind_script();
	script.join = -EACCES;
	failure = play(&merge_job, "web", 1, &sum);
	CHECK(failure.err == -EACCES && failure.step == STEP_DOMAIN);
	CHECK(!strcmp(failure.domain, "web") && !script.calls);
	rewind_script();
	script.join = -ENOMEM;
	script.results[0] = -ENOENT;
	failure = play(&merge_job, NULL, 1, &sum);
	CHECK(failure.err == -ENOMEM && failure.step == STEP_DOMAIN);
	CHECK(script.calls == 1);
}

static void unmerge_joins_nothing(void)
{
	struct dksm_report sum;
	struct failure failure;

	rewind_script();
	script.results[0] = -ENOENT;
	failure = play(&unmerge_job, NULL, 2, &sum);
	CHECK(failure.err == -ENOENT && failure.step == STEP_PAGES);
	CHECK(!script.joins && script.calls == 1);
}

static void hole(void)
{
	struct dksm_report sum;

	rewind_script();
	script.results[0] = -ENOMEM;
	CHECK(play(&merge_job, NULL, 3, &sum).err == -ENOMEM);
	CHECK(script.calls == 3 && sum.scanned == 30);
}

static void interrupted(void)
{
	struct dksm_report sum;

	rewind_script();
	script.results[0] = -ENOMEM;
	script.results[1] = -EINTR;
	CHECK(play(&merge_job, NULL, 3, &sum).err == -EINTR);
	CHECK(script.calls == 2 && sum.scanned == 20);
}

/* What failure_print() says; to be freed. */
static char *words(pid_t pid, const struct failure *failure)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	CHECK(failure_print(out, "merge", pid, failure) == EXIT_FAILED);
	fclose(out);
	return text;
}

/* Each errno of the contract has more to say than strerror() has. */
static void advice_for_all(void)
{
	static const struct failure rows[] = {
		{ STEP_DEVICE, -ENODEV, "" }, { STEP_DEVICE, -EACCES, "" },
		{ STEP_DEVICE, -EPERM, "" }, { STEP_DEVICE, -ENXIO, "" },
		{ STEP_PROCESS, -ESRCH, "" }, { STEP_PROCESS, -EINVAL, "" },
		{ STEP_DOMAIN, -EINVAL, "d" }, { STEP_DOMAIN, -ENOENT, "d" },
		{ STEP_DOMAIN, -EEXIST, "d" }, { STEP_DOMAIN, -EACCES, "d" },
		{ STEP_DOMAIN, -EBUSY, "d" }, { STEP_DOMAIN, -ENOMEM, "d" },
		{ STEP_PAGES, -EINVAL, "" }, { STEP_PAGES, -EBADF, "" },
		{ STEP_PAGES, -ESRCH, "" }, { STEP_PAGES, -EACCES, "" },
		{ STEP_PAGES, -EPERM, "" }, { STEP_PAGES, -ENOENT, "" },
		{ STEP_PAGES, -EXDEV, "" }, { STEP_PAGES, -EXDEV, "web" },
		{ STEP_PAGES, -ENOMEM, "" }, { STEP_PAGES, -EINTR, "" },
		{ STEP_COPIES, -ENOMEM, "" },
		{ STEP_PAGES, -ENOTTY, "" }, { STEP_PAGES, -E2BIG, "" },
		{ STEP_STAT, -ENODEV, "" }, { STEP_STAT, -ESRCH, "" },
		{ STEP_STAT, -EACCES, "" }, { STEP_STAT, -ENOENT, "" },
		{ STEP_STAT, -EBADMSG, "" }, { STEP_STAT, -ERANGE, "" },
	};
	char *text;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		text = words(12, &rows[i]);
		CHECK_FOR(text, !strstr(text, strerror(-rows[i].err)));
		CHECK_FOR(text, strchr(text, '\n') == text + strlen(text) - 1);
		CHECK_FOR(text, !strncmp(text, "dksm merge: ", 12));
		free(text);
	}
}

static void advice_in_detail(void)
{
	struct failure other = { STEP_PAGES, -EXDEV, "web" };
	struct failure none = failure_at(STEP_DEVICE, -ENODEV);
	struct failure strange = failure_at(STEP_PAGES, -EIO);
	struct failure foreign = failure_domain(-EACCES, "theirs");
	char *text;

	text = words(12, &other);
	CHECK(strstr(text, "process 12: ") && strstr(text, "--domain web"));
	free(text);
	text = words(12, &none);
	CHECK(strstr(text, "this kernel has no DKSM"));
	free(text);
	text = words(12, &strange);
	CHECK(strstr(text, strerror(EIO)));
	free(text);
	text = words(12, &foreign);
	CHECK(strstr(text, "domain 'theirs': ") && strstr(text, "--domain"));
	free(text);
}

static const struct ktap_test tests[] = {
	{ "a whole process", whole_process },
	{ "several ranges in one report", several_ranges },
	{ "a process stays in its domain", domain_kept },
	{ "a process in none gets the default one", domain_default },
	{ "the default one of a user", domain_of_user },
	{ "a domain by name", domain_named },
	{ "a domain without trust", domain_untrusted },
	{ "a domain that may not be joined", domain_refused },
	{ "unmerge joins nothing", unmerge_joins_nothing },
	{ "a hole does not stop the other ranges", hole },
	{ "an interruption does", interrupted },
	{ "advice for every errno", advice_for_all },
	{ "advice names what it is about", advice_in_detail },
};

KTAP_MAIN(tests)
