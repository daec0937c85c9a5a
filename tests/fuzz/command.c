// SPDX-License-Identifier: MIT
/*
 * Whole command lines, on an engine and numbers that are made up: nothing but
 * well-formed calls reaches the engine, and what comes out keeps to its form for
 * every failure.  The first line of the input is what the calls return, one
 * character each; every other line is a word of the command line.
 */
#include <errno.h>

#include "../../lib/engine.h"
#include "fuzz.h"

#define WORDS 12

static const int results[] = {
	0, ENOENT, ENOMEM, EINTR, EXDEV, EACCES, EPERM, EINVAL,
	ESRCH, EBADF, EBUSY, EEXIST, ENOTTY, E2BIG, EIO, ENODEV,
};

static struct {
	const char *next;	/* the results to come, up to a newline */
	unsigned int opened, joined, calls;
} script;

static int result(void)
{
	if (*script.next == '\n' || !*script.next)
		return 0;
	return -results[(unsigned char)*script.next++ % ARRAY_SIZE(results)];
}

/* Of a call that needs a domain, which a bound handle has. */
static int result_there(void)
{
	int err = result();

	return err == -ENOENT && script.joined ? 0 : err;
}

static void play_close(struct dksm *handle)
{
	(void)handle;
	script.opened--;
}

static int play_info(struct dksm *handle, struct dksm_info *info)
{
	(void)handle;
	*info = (struct dksm_info){ .features = DKSM_FEATURE_KVM };
	return result();
}

static int play_join(struct dksm *handle, const char *name, unsigned int flags)
{
	int err = result();

	(void)handle;
	script.calls++;
	REQUIRE(kernel_takes_name(name) && !script.joined);
	REQUIRE((flags & ~(DKSM_DOMAIN_FRESH_FRAMES | DKSM_DOMAIN_UNTRUSTED)) ==
		DKSM_DOMAIN_CREATE);
	script.joined = !err;
	return err;
}

static int play_range(struct dksm *handle, int pidfd, uint64_t addr, uint64_t len,
		      struct dksm_report *report)
{
	int err = result_there();

	(void)handle;
	script.calls++;
	REQUIRE(pidfd >= 0 && (addr | len) % page_bytes() == 0);
	REQUIRE(len ? addr + len > addr : !addr);
	report->scanned = report->skipped[DKSM_SKIP_PINNED] = err != -ENOENT;
	return err;
}

/* Nothing is to be executed: attaching oneself always fails. */
static int play_attach(struct dksm *handle, int pidfd, unsigned int flags)
{
	int err = result_there();

	(void)handle;
	script.calls++;
	REQUIRE(pidfd >= 0 || pidfd == DKSM_SELF);
	REQUIRE(!(flags & ~(DKSM_ATTACH_NO_IDLE | DKSM_ATTACH_NO_LEARN |
			    DKSM_ATTACH_NO_VMM)));
	return pidfd == DKSM_SELF && !err ? -EPERM : err;
}

static int play_detach(struct dksm *handle, int pidfd)
{
	(void)handle;
	script.calls++;
	REQUIRE(pidfd >= 0);
	return result();
}

static const struct dksm_engine engine = {
	.close = play_close,
	.info = play_info,
	.domain_join = play_join,
	.merge = play_range,
	.unmerge = play_range,
	.attach = play_attach,
	.detach = play_detach,
};

/* These stand in for lib/kernel.c and lib/stat.c. */
int dksm_kernel_open(const char *device, struct dksm **handle)
{
	static struct dksm base = { &engine };
	int err = result();

	(void)device;
	*handle = err ? NULL : &base;
	script.opened += !err;
	script.joined = 0;
	return err;
}

int dksm_stat_global(struct dksm_global *global)
{
	*global = (struct dksm_global){ .learn = 128 };
	return result();
}

int dksm_stat_domains(struct dksm_domain **domains, size_t *nr)
{
	int err = result();

	*domains = err ? NULL : calloc(1, sizeof(**domains));
	*nr = !err;
	if (!err)
		strcpy((*domains)->name, "web");
	return err;
}

void dksm_stat_domains_free(struct dksm_domain *domains)
{
	free(domains);
}

int dksm_stat_process(pid_t pid, struct dksm_process *process)
{
	REQUIRE(pid > 0);
	*process = (struct dksm_process){ .domain = "web" };
	return result();
}

static bool one_line(const char *text)
{
	return *text && strchr(text, '\n') == text + strlen(text) - 1;
}

static void check(const char *command, int status, char *out, const char *err)
{
	bool doctor = command && !strcmp(command, "doctor");

	REQUIRE(status == EXIT_OK || status == EXIT_FAILED || status == EXIT_USAGE);
	REQUIRE(!script.opened && (status != EXIT_USAGE || !script.calls));
	if (status == EXIT_OK || (doctor && status == EXIT_FAILED))
		REQUIRE(!*err);
	else
		REQUIRE(one_line(err) && !strncmp(err, "dksm", 4));
	if (status == EXIT_FAILED)	/* no word of the user's is in there */
		REQUIRE(!strstr(err, "(null)"));
	if (status == EXIT_USAGE)
		REQUIRE(!*out && strstr(err, " (see dksm"));
	else if (doctor)
		REQUIRE(*out);
	if (*out == '{')
		json_object_put(json_of(out));
}

/* top goes on for ever, analyze reads whatever files there are. */
static bool ends_by_itself(const char *command)
{
	return !command || (strcmp(command, "top") && strcmp(command, "analyze"));
}

static void run(int argc, char **argv)
{
	FILE *stdout_kept = stdout, *stderr_kept = stderr;
	struct capture out, err;
	int status;

	stdout = capture_begin(&out);
	stderr = capture_begin(&err);
	status = cli_main(argc, argv);
	stdout = stdout_kept;
	stderr = stderr_kept;
	capture_end(&err);
	check(argv[1], status, capture_end(&out), err.text);
	free(out.text);
	free(err.text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = text_of(data, size), *rest = strchr(text, '\n');
	char name[] = "dksm", *argv[WORDS + 1] = { name };
	int argc = 1;

	script.next = text;
	script.calls = 0;
	if (rest)
		rest++;
	while (rest && argc < WORDS)
		argv[argc++] = strsep(&rest, "\n");
	if (ends_by_itself(argv[1]))
		run(argc, argv);
	free(text);
	return 0;
}
