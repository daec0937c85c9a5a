// SPDX-License-Identifier: MIT
/* dksm attach and dksm detach: for processes that run already. */
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cli.h"

static const char attach_help[] =
	"Usage: dksm attach [OPTIONS] PID\n"
	"\n"
	"Have the virtual machines of process PID merged by themselves from now\n"
	"on: before they first run, and when they are idle.  If some run already,\n"
	"idle, busy or paused, all memory of PID is merged when this command ends.\n"
	"Programs that it starts inherit that.  Use dksm run where you can.\n"
	"\n"
	"  --domain NAME  share only with processes in this domain, which is\n"
	"                 created if need be; without it, the domain that the\n"
	"                 process is in, else 'default' (root) or 'user-UID'\n"
	"  --untrusted    one whose members do not trust each other: nothing is\n"
	"                 merged when idle, or learned; a property of a new domain\n"
	"  --fresh-frames copy what others will share into memory that nobody\n"
	"                 chose the place of; a property of a new domain\n"
	"  --no-idle      not when they are idle\n"
	"  --no-vmm       guest memory only, when they are idle; nothing at once\n"
	"  --no-learn     also pages that are known to be written to soon\n"
	"\n"
	"Example:\n"
	"  dksm attach --domain web $(pidof firecracker)\n";

static const char detach_help[] =
	"Usage: dksm detach PID\n"
	"\n"
	"Leave the virtual machines of process PID alone from now on, and the\n"
	"programs that it starts.  What is merged stays merged: dksm unmerge PID\n"
	"undoes that.\n"
	"\n"
	"Example:\n"
	"  dksm detach 1234\n";

static int report_failure(const char *command, pid_t pid,
			  const struct failure *failure)
{
	return failure->err ? failure_print(stderr, command, pid, failure) :
			      EXIT_OK;
}

static int operand_pid(const struct attach_args *args, const char *command,
		       pid_t *pid)
{
	if (!args->nr)
		return usage_error(command, "no PID given");
	if (!pid_parse(args->operands[0], pid))
		return usage_error(command, "'%s' is not a PID",
				   args->operands[0]);
	if (args->nr > 1)
		return usage_error(command, "'%s' is one argument too many",
				   args->operands[1]);
	return EXIT_OK;
}

static struct failure detach_process(int pidfd)
{
	struct failure failure;
	struct dksm *handle;
	int err = dksm_open(&handle);

	if (err)
		return failure_open(err);
	failure = failure_at(STEP_ATTACH, dksm_detach(handle, pidfd));
	dksm_close(handle);
	return failure;
}

int cmd_attach(int argc, char **argv)
{
	struct attach_args args;
	struct failure failure;
	int status, pidfd;
	pid_t pid;

	status = attach_parse(&args, argc, argv);
	if (args.help)
		fputs(attach_help, stdout);
	if (status || args.help)
		return status;
	if (args.report)
		return usage_error(argv[0], "--report makes no sense here");
	status = operand_pid(&args, argv[0], &pid);
	if (status)
		return status;
	pidfd = pidfd_of(pid);
	failure = pidfd < 0 ? failure_at(STEP_PROCESS, pidfd) :
			      attach_process(pidfd, &args);
	failure_find_domain(&failure, pid);
	close(pidfd);
	return report_failure(argv[0], pid, &failure);
}

int cmd_detach(int argc, char **argv)
{
	struct attach_args args;
	struct failure failure;
	int status, pidfd;
	pid_t pid;

	status = attach_parse(&args, argc, argv);
	if (args.help)
		fputs(detach_help, stdout);
	if (status || args.help)
		return status;
	if (args.domain || args.domain_flags || args.flags || args.report)
		return usage_error(argv[0], "there are no options");
	status = operand_pid(&args, argv[0], &pid);
	if (status)
		return status;
	pidfd = pidfd_of(pid);
	failure = pidfd < 0 ? failure_at(STEP_PROCESS, pidfd) :
			      detach_process(pidfd);
	close(pidfd);
	return report_failure(argv[0], pid, &failure);
}
