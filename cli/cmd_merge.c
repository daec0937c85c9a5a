// SPDX-License-Identifier: MIT
/*
 * dksm merge.  Without --domain a process stays in the domain it is in; if it
 * is in none, it goes into one that belongs to the caller.
 */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "cli.h"

static const char help[] =
	"Usage: dksm merge [--domain NAME] [--untrusted] [--json] PID [RANGE...]\n"
	"\n"
	"Share the equal memory pages of process PID with each other and with\n"
	"all that was merged before in the same domain.  All of it is done\n"
	"when the command ends.  The process may go on running meanwhile.\n"
	"\n"
	"  RANGE          START-END as in /proc/PID/maps, or START+SIZE with a\n"
	"                 suffix K, M or G; without any, all of its memory\n"
	"  --domain NAME  share only with processes in this domain, which is\n"
	"                 created if need be; without it, the domain that the\n"
	"                 process is in, else 'default' (root) or 'user-UID'\n"
	"  --untrusted    one whose members do not trust each other; a property\n"
	"                 of a new domain\n"
	"  --json         print the report as JSON\n"
	"\n"
	"Examples:\n"
	"  dksm merge 1234\n"
	"  dksm merge --domain web 1234 7f2a40000000+512M\n"
	"  for p in $(pidof qemu-system-x86_64); do dksm merge $p; done\n";

/* The domain that was asked for, else the caller's own. */
static struct failure join(const struct job *job, struct dksm *handle)
{
	char own[DKSM_NAME_SIZE];
	const char *name = job->args->domain;
	int err;

	own_domain(own);
	if (!name)
		name = own;
	err = dksm_domain_join(handle, name,
			       DKSM_DOMAIN_CREATE | job->args->domain_flags);
	return failure_domain(err, name);
}

static bool domain_wanted(const struct job *job)
{
	return job->args->domain || job->args->domain_flags;
}

static struct failure merge_prepare(const struct job *job, struct dksm *handle)
{
	return domain_wanted(job) ? join(job, handle) :
				    failure_at(STEP_DOMAIN, 0);
}

/* ENOENT: neither the handle nor the process has a domain yet. */
static struct failure merge_range(const struct job *job, struct dksm *handle,
				  int pidfd, const struct range *range,
				  struct dksm_report *report)
{
	struct failure failure;
	int err;

	err = dksm_merge(handle, pidfd, range->start, range->len, report);
	if (err != -ENOENT || domain_wanted(job))
		return failure_at(STEP_PAGES, err);
	failure = join(job, handle);
	if (failure.err)
		return failure;
	return failure_at(STEP_PAGES, dksm_merge(handle, pidfd, range->start,
						 range->len, report));
}

const struct job merge_job = {
	.verb = "merge",
	.prepare = merge_prepare,
	.range = merge_range,
};

int cmd_merge(int argc, char **argv)
{
	struct job job = merge_job;
	struct args args;
	int status;

	status = args_parse(&args, argc, argv, ARGS_DOMAIN | ARGS_RANGES);
	job.args = &args;
	if (args.help)
		fputs(help, stdout);
	else if (!status)
		status = job_run(&job);
	args_free(&args);
	return status;
}
