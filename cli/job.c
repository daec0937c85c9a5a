// SPDX-License-Identifier: MIT
/*
 * What merge and unmerge have in common: find the process, do its ranges one
 * after the other, print one report.  What was done is printed even if the job
 * failed half-way.
 */
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cli.h"

int pidfd_of(pid_t pid)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);

	return fd < 0 ? -errno : fd;
}

/*
 * A hole in one range (ENOMEM) does not keep the others from being done;
 * anything else would only happen again.  So the last failure is the one to
 * tell.
 */
struct failure job_ranges(const struct job *job, struct dksm *handle, int pidfd,
			  struct dksm_report *sum)
{
	static const struct range whole;
	const struct args *args = job->args;
	const struct range *ranges = args->nr ? args->ranges : &whole;
	struct failure failure = failure_at(STEP_PAGES, 0), last = failure;
	struct dksm_report report;

	memset(sum, 0, sizeof(*sum));
	for (size_t i = 0; i < (args->nr ? args->nr : 1); i++) {
		last = job->range(job, handle, pidfd, &ranges[i], &report);
		report_add(sum, &report);
		if (last.err)
			failure = last;
		if (last.err && last.err != -ENOMEM)
			break;
	}
	return failure;
}

static struct failure with_handle(const struct job *job, struct dksm *handle,
				  struct dksm_report *sum)
{
	struct failure failure = failure_at(STEP_PROCESS, 0);
	int pidfd = pidfd_of(job->args->pid);

	if (pidfd < 0)
		return failure_at(STEP_PROCESS, pidfd);
	if (job->prepare)
		failure = job->prepare(job, handle);
	if (!failure.err)
		failure = job_ranges(job, handle, pidfd, sum);
	failure_find_domain(&failure, job->args->pid);
	close(pidfd);
	return failure;
}

static struct failure do_job(const struct job *job, struct dksm_report *sum)
{
	struct failure failure;
	struct dksm *handle;
	int err = dksm_open(&handle);

	if (err)
		return failure_open(err);
	failure = with_handle(job, handle, sum);
	dksm_close(handle);
	return failure;
}

int job_run(const struct job *job)
{
	const struct args *args = job->args;
	struct dksm_report sum = { 0 };
	struct failure failure = do_job(job, &sum);

	if (failure.err && report_empty(&sum))
		return failure_print(stderr, job->verb, args->pid, &failure);
	if (args->json)
		report_json(stdout, job->verb, args->pid, &sum);
	else
		report_table(stdout, job->verb, &sum);
	if (!failure.err)
		return EXIT_OK;
	fflush(stdout);
	return failure_print(stderr, job->verb, args->pid, &failure);
}
