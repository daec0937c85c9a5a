// SPDX-License-Identifier: MIT
/*
 * dksm run, attach and detach with an engine that plays a script, in place of the
 * one in the kernel: what their options become, and what they say of failures.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../cli/cli.h"
#include "../../lib/engine.h"
#include "ktap.h"

#define WORDS 8

/* attaches[i]: what call i returns; join: of joining. */
static struct script {
	int attaches[2], join;
	unsigned int calls, joins, flags, domain_flags;
	char joined[DKSM_NAME_SIZE];
} script;

static void play_close(struct dksm *handle)
{
	(void)handle;
}

static int play_join(struct dksm *handle, const char *name, unsigned int flags)
{
	(void)handle;
	script.joins++;
	script.domain_flags = flags;
	snprintf(script.joined, sizeof(script.joined), "%s", name);
	return script.join;
}

static int play_attach(struct dksm *handle, int pidfd, unsigned int flags)
{
	(void)handle;
	(void)pidfd;
	script.flags = flags;
	return script.attaches[script.calls++];
}

static int play_detach(struct dksm *handle, int pidfd)
{
	return play_attach(handle, pidfd, 0);
}

static const struct dksm_engine engine = {
	.close = play_close,
	.domain_join = play_join,
	.attach = play_attach,
	.detach = play_detach,
};

/* The linker takes this one and leaves the library's out. */
int dksm_kernel_open(const char *device, struct dksm **handle)
{
	static struct dksm base = { &engine };

	(void)device;
	*handle = &base;
	return 0;
}

/* The exit status; @said receives what went to stderr, and is to be freed. */
static int command(const char *line, char **said)
{
	char copy[128], *argv[WORDS + 1] = { NULL }, *rest = copy;
	FILE *kept = stderr;
	int argc = 0, status;
	size_t size;

	snprintf(copy, sizeof(copy), "%s", line);
	while (rest && argc < WORDS)
		argv[argc++] = strsep(&rest, " ");
	stderr = open_memstream(said, &size);
	status = cli_main(argc, argv);
	fclose(stderr);
	stderr = kept;
	return status;
}

static void parsed(void)
{
	char run[] = "run", fresh[] = "--fresh-frames", idle[] = "--no-idle";
	char vmm[] = "qemu", *argv[] = { run, fresh, idle, vmm, fresh, NULL };
	struct attach_args args;

	CHECK(attach_parse(&args, 5, argv) == EXIT_OK);
	CHECK(args.domain_flags == DKSM_DOMAIN_FRESH_FRAMES);
	CHECK(args.flags == DKSM_ATTACH_NO_IDLE && !args.domain);
	CHECK(args.nr == 2 && args.operands[1] == fresh);
	argv[1] = idle;
	CHECK(attach_parse(&args, 5, argv) == EXIT_OK && !args.domain_flags);
}

/* One property has all that the three options ask for; with them, too. */
static void run_untrusted(void)
{
	char *said;

	script = (struct script){ .attaches = { -EPERM } };
	CHECK(command("dksm run --untrusted --domain web -- true", &said) ==
	      EXIT_FAILED);
	CHECK(script.joins == 1 && !strcmp(script.joined, "web"));
	CHECK(script.domain_flags ==
	      (DKSM_DOMAIN_CREATE | DKSM_DOMAIN_UNTRUSTED));
	CHECK(script.calls == 1 && !script.flags);
	free(said);
	script = (struct script){ .attaches = { -EPERM } };
	CHECK(command("dksm run --fresh-frames --untrusted --no-idle --no-learn "
		      "true", &said) == EXIT_FAILED);
	CHECK(script.domain_flags ==
	      (DKSM_DOMAIN_CREATE | DKSM_DOMAIN_UNTRUSTED |
	       DKSM_DOMAIN_FRESH_FRAMES));
	CHECK(script.flags == (DKSM_ATTACH_NO_IDLE | DKSM_ATTACH_NO_LEARN));
	free(said);
}

static void attach_no_vmm(void)
{
	char line[64], *said;

	script = (struct script){ 0 };
	snprintf(line, sizeof(line), "dksm attach --no-vmm %d", getpid());
	CHECK(command(line, &said) == EXIT_OK && !*said);
	CHECK(script.flags == DKSM_ATTACH_NO_VMM && !script.joins);
	free(said);
}

static void run_fresh(void)
{
	char *said;

	script = (struct script){ .attaches = { -EPERM } };
	CHECK(command("dksm run --fresh-frames --domain web -- true", &said) ==
	      EXIT_FAILED);
	CHECK(script.joins == 1 && !strcmp(script.joined, "web"));
	CHECK(script.domain_flags ==
	      (DKSM_DOMAIN_CREATE | DKSM_DOMAIN_FRESH_FRAMES));
	CHECK(script.calls == 1 && !script.flags);
	CHECK_FOR(said, !strncmp(said, "dksm run: you may not attach it", 31));
	free(said);
}

/* Without a name it must be the caller's own domain, which may be another. */
static void attach_fresh(void)
{
	char line[64], own[DKSM_NAME_SIZE], *said;

	own_domain(own);
	script = (struct script){ 0 };
	snprintf(line, sizeof(line), "dksm attach --fresh-frames %d", getpid());
	CHECK(command(line, &said) == EXIT_OK && !*said);
	CHECK(script.joins == 1 && !strcmp(script.joined, own));
	CHECK(script.domain_flags ==
	      (DKSM_DOMAIN_CREATE | DKSM_DOMAIN_FRESH_FRAMES));
	CHECK(script.calls == 1);
	free(said);
}

static void attach_plain(void)
{
	char line[64], *said;

	script = (struct script){ .attaches = { -ENOENT } };
	snprintf(line, sizeof(line), "dksm attach --no-learn %d", getpid());
	CHECK(command(line, &said) == EXIT_OK && !*said);
	CHECK(script.calls == 2 && script.joins == 1);
	CHECK(script.domain_flags == DKSM_DOMAIN_CREATE);
	CHECK(script.flags == DKSM_ATTACH_NO_LEARN);
	free(said);
}

static void not_fresh(void)
{
	char *said;

	script = (struct script){ .join = -EINVAL };
	CHECK(command("dksm run --fresh-frames --domain web true", &said) ==
	      EXIT_FAILED);
	CHECK(!strcmp(said, "dksm run: domain 'web': it exists without fresh "
		      "frames or --untrusted: choose another --domain\n"));
	CHECK(!script.calls);
	free(said);
}

static void detach_refuses(void)
{
	char *said;

	script = (struct script){ 0 };
	CHECK(command("dksm detach --fresh-frames 1", &said) == EXIT_USAGE);
	CHECK_FOR(said, strstr(said, "there are no options"));
	CHECK(!script.calls);
	free(said);
	CHECK(command("dksm detach --no-vmm 1", &said) == EXIT_USAGE);
	CHECK(!script.calls);
	free(said);
}

/* Whether or not there is somebody to tell. */
static void nothing_to_run(void)
{
	char dksm[] = "dksm", run[] = "run", vmm[] = "/no/such/vmm";
	char *argv[] = { dksm, run, vmm, NULL };
	int status = 0;
	pid_t pid;

	script = (struct script){ 0 };
	fflush(stdout);
	pid = fork();
	if (!pid) {
		close(STDERR_FILENO);
		_exit(cli_main(3, argv));
	}
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
	CHECK(WEXITSTATUS(status) == 127);
}

static const struct ktap_test tests[] = {
	{ "fresh frames are parsed", parsed },
	{ "run in a domain of fresh frames", run_fresh },
	{ "run in one of members without trust", run_untrusted },
	{ "attach guest memory only", attach_no_vmm },
	{ "attach to one without a name", attach_fresh },
	{ "attach without them", attach_plain },
	{ "a domain that exists without them", not_fresh },
	{ "detach takes no such option", detach_refuses },
	{ "a VMM that is not there", nothing_to_run },
};

KTAP_MAIN(tests)
