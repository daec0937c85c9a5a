// SPDX-License-Identifier: MIT
/* dksm unmerge: the exact opposite of merge, in whatever domain. */
#include <errno.h>
#include <stdio.h>

#include "cli.h"

static const char help[] =
	"Usage: dksm unmerge [--json] [--dry-run] PID [RANGE...]\n"
	"\n"
	"Give each merged page of process PID a private copy again.  The\n"
	"process stays in its domain; dksm merge shares its pages anew.\n"
	"Where there is no memory for a copy it ends.\n"
	"\n"
	"  RANGE     START-END as in /proc/PID/maps, or START+SIZE with a\n"
	"            suffix K, M or G; without any, all of its memory\n"
	"  --json    print the report as JSON\n"
	"  --dry-run only say how much memory that takes, and how much there\n"
	"            is; fails if that does not suffice\n"
	"\n"
	"Examples:\n"
	"  dksm unmerge 1234\n"
	"  dksm unmerge --dry-run 1234\n"
	"  dksm unmerge 1234 7f2a40000000-7f2a60000000\n";

static struct failure unmerge_range(const struct job *job, struct dksm *handle,
				    int pidfd, const struct range *range,
				    struct dksm_report *report)
{
	int err = dksm_unmerge(handle, pidfd, range->start, range->len, report);

	/* Without a range there are no holes. */
	return failure_at(err == -ENOMEM && !job->args->nr ? STEP_COPIES :
							     STEP_PAGES, err);
}

const struct job unmerge_job = {
	.verb = "unmerge",
	.range = unmerge_range,
};

static int dry_run(const struct args *args)
{
	struct failure failure;
	struct room room;
	int err;

	if (args->nr)
		return usage_error("unmerge", "--dry-run is for all of a process");
	err = room_look(args->pid, &room);
	failure = failure_at(STEP_STAT, err);
	if (err)
		return failure_print(stderr, "unmerge", args->pid, &failure);
	if (args->json)
		room_json(stdout, args->pid, &room);
	else
		room_table(stdout, &room);
	return room_suffices(&room) ? EXIT_OK : EXIT_FAILED;
}

int cmd_unmerge(int argc, char **argv)
{
	struct job job = unmerge_job;
	struct args args;
	int status;

	status = args_parse(&args, argc, argv, ARGS_RANGES | ARGS_DRY_RUN);
	job.args = &args;
	if (args.help)
		fputs(help, stdout);
	else if (!status)
		status = args.dry_run ? dry_run(&args) : job_run(&job);
	args_free(&args);
	return status;
}
