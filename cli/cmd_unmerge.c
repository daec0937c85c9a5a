// SPDX-License-Identifier: MIT
/* dksm unmerge: the exact opposite of merge, in whatever domain. */
#include <stdio.h>

#include "cli.h"

static const char help[] =
	"Usage: dksm unmerge [--json] PID [RANGE...]\n"
	"\n"
	"Give each merged page of process PID a private copy again.  The\n"
	"process stays in its domain; dksm merge shares its pages anew.\n"
	"\n"
	"  RANGE     START-END as in /proc/PID/maps, or START+SIZE with a\n"
	"            suffix K, M or G; without any, all of its memory\n"
	"  --json    print the report as JSON\n"
	"\n"
	"Examples:\n"
	"  dksm unmerge 1234\n"
	"  dksm unmerge 1234 7f2a40000000-7f2a60000000\n";

static struct failure unmerge_range(const struct job *job, struct dksm *handle,
				    int pidfd, const struct range *range,
				    struct dksm_report *report)
{
	(void)job;
	return failure_at(STEP_PAGES, dksm_unmerge(handle, pidfd, range->start,
						   range->len, report));
}

const struct job unmerge_job = {
	.verb = "unmerge",
	.range = unmerge_range,
};

int cmd_unmerge(int argc, char **argv)
{
	struct job job = unmerge_job;
	struct args args;
	int status;

	status = args_parse(&args, argc, argv, ARGS_RANGES);
	job.args = &args;
	if (args.help)
		fputs(help, stdout);
	else if (!status)
		status = job_run(&job);
	args_free(&args);
	return status;
}
