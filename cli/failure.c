// SPDX-License-Identifier: MIT
/*
 * What to tell the user: one line that names the cause and the next thing to
 * do.  The table covers every errno that the kernel's contract knows.
 */
#include <errno.h>
#include <string.h>

#include "cli.h"

#define NO_DKSM "this kernel has no DKSM: boot one built with CONFIG_DKSM=y"
#define NO_FIT \
	"dksm and the kernel's DKSM do not fit: use both from one release"

static const struct advice {
	enum step step;
	int err;
	const char *words;
} advices[] = {
	{ STEP_DEVICE, ENODEV, NO_DKSM },
	{ STEP_DEVICE, ENXIO, "this kernel has DKSM but /dev/dksm is missing: "
	  "give this container the device, or mount devtmpfs on /dev" },
	{ STEP_DEVICE, EACCES, "no access to /dev/dksm: run this as root, or "
	  "have root give you the device (chown or a udev rule)" },
	{ STEP_DEVICE, EPERM, "no access to /dev/dksm: allow this container "
	  "or service to use the device" },
	{ STEP_PROCESS, ESRCH, "no such process: look up its PID, as seen from "
	  "here, with ps" },
	{ STEP_PROCESS, EINVAL, "this is a thread, not a process: use the PID "
	  "of its process (Tgid in /proc/PID/status)" },
	{ STEP_DOMAIN, EACCES, "the domain belongs to somebody else: choose "
	  "another --domain, or run this with CAP_SYS_PTRACE" },
	{ STEP_DOMAIN, EPERM, "you may not use the domain: choose another "
	  "--domain, or run this with CAP_SYS_PTRACE" },
	{ STEP_DOMAIN, ENOENT, "no such domain: see dksm stat" },
	{ STEP_DOMAIN, EEXIST, "the domain exists already: choose another "
	  "--domain" },
	{ STEP_DOMAIN, EBUSY, "this handle is bound to a domain already: run "
	  "it again" },
	{ STEP_DOMAIN, EINVAL, "it exists without fresh frames or "
	  "--untrusted: choose another --domain" },
	{ STEP_DOMAIN, ENOMEM, "no memory for another domain: free some and "
	  "run it again" },
	{ STEP_PAGES, EACCES, "you may not change its memory, or not use its "
	  "domain: run this as root, or as its owner where ptrace is allowed" },
	{ STEP_PAGES, EPERM, "you may not change its memory: run this as root, "
	  "or as its owner where ptrace is allowed" },
	{ STEP_PAGES, ESRCH, "it has exited meanwhile: nothing is left to do" },
	{ STEP_PAGES, EBADF, "the kernel lost track of it: run it again" },
	{ STEP_PAGES, ENOENT, "it is in no domain: name one with dksm merge "
	  "--domain" },
	{ STEP_PAGES, EINVAL, "a kernel thread, or a range outside of its "
	  "memory: compare with /proc/PID/maps" },
	{ STEP_PAGES, ENOMEM, "part of the range is not mapped (the rest was "
	  "done), or memory ran out: compare with /proc/PID/maps" },
	{ STEP_COPIES, ENOMEM, "memory ran out, so the rest stays merged: free "
	  "some, or raise the limit that dksm unmerge --dry-run names, and run "
	  "it again" },
	{ STEP_PAGES, EINTR, "interrupted by a signal: run it again to do the "
	  "rest" },
	{ STEP_ATTACH, EACCES, "you may not attach it, or not use its domain: "
	  "run this as root, or as its owner where ptrace is allowed" },
	{ STEP_ATTACH, EPERM, "you may not attach it: run this as root, or as "
	  "its owner where ptrace is allowed" },
	{ STEP_ATTACH, ESRCH, "it has exited meanwhile: nothing is left to do" },
	{ STEP_ATTACH, ENOENT, "it is not attached: nothing is left to do" },
	{ STEP_ATTACH, EINVAL, "a kernel thread: name a VMM's process" },
	{ STEP_ATTACH, ENOMEM, "no memory to attach it: free some and run it "
	  "again" },
	{ STEP_STAT, ENODEV, NO_DKSM },
	{ STEP_STAT, ESRCH, "no such process: look up its PID, as seen from "
	  "here, with ps" },
	{ STEP_STAT, EACCES, "you may not read this: run it as root or as the "
	  "owner" },
	{ STEP_STAT, EPERM, "you may not read this: run it as root or as the "
	  "owner" },
	{ STEP_STAT, ENOENT, NO_FIT },
	{ STEP_STAT, EBADMSG, NO_FIT },
	{ STEP_STAT, ERANGE, NO_FIT },
	{ STEP_STAT, ENOTTY, "the terminal is of no known type: set TERM, or "
	  "use --batch" },
};

struct failure failure_at(enum step step, int err)
{
	return (struct failure){ .step = step, .err = err };
}

struct failure failure_domain(int err, const char *domain)
{
	struct failure failure = { .step = STEP_DOMAIN, .err = err };

	snprintf(failure.domain, sizeof(failure.domain), "%s", domain);
	return failure;
}

/* A container may lack the device on a kernel that has DKSM. */
struct failure failure_open(int err)
{
	struct dksm_global global;

	if (err == -ENODEV && dksm_stat_global(&global) != -ENODEV)
		err = -ENXIO;
	return failure_at(STEP_DEVICE, err);
}

static bool is_other_domain(const struct failure *failure)
{
	return failure->err == -EXDEV && (failure->step == STEP_PAGES ||
					  failure->step == STEP_ATTACH);
}

void failure_find_domain(struct failure *failure, pid_t pid)
{
	struct dksm_process process;

	if (is_other_domain(failure) && !dksm_stat_process(pid, &process))
		memcpy(failure->domain, process.domain,
		       sizeof(failure->domain));
}

static const char *advice(const struct failure *failure)
{
	for (size_t i = 0; i < ARRAY_SIZE(advices); i++)
		if (advices[i].step == failure->step &&
		    advices[i].err == -failure->err)
			return advices[i].words;
	if (failure->err == -ENOTTY || failure->err == -E2BIG)
		return NO_FIT;
	return strerror(-failure->err);
}

static void print_other_domain(FILE *out, const struct failure *failure)
{
	if (*failure->domain)
		fprintf(out, "in domain '%s' until it exits or executes: use "
			"--domain %s, or leave --domain out\n",
			failure->domain, failure->domain);
	else
		fputs("in another domain until it exits or executes: leave "
		      "--domain out\n", out);
}

int failure_print(FILE *out, const char *command, pid_t pid,
		  const struct failure *failure)
{
	fprintf(out, "dksm %s: ", command);
	if (pid && failure->step != STEP_DEVICE && failure->step != STEP_DOMAIN)
		fprintf(out, "process %d: ", (int)pid);
	if (failure->step == STEP_DOMAIN && *failure->domain)
		fprintf(out, "domain '%s': ", failure->domain);
	if (is_other_domain(failure))
		print_other_domain(out, failure);
	else
		fprintf(out, "%s\n", advice(failure));
	return EXIT_FAILED;
}
