// SPDX-License-Identifier: MIT
/*
 * dksm run: attaches itself and becomes the VMM, so that the VMM has the process
 * ID, the parent and the descriptors that whoever started us meant it to have.
 *
 * A report, if wanted, is written by a process of its own, which is nobody's child
 * and ends with the first idle pass, with the VMM, or after a minute.
 */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli.h"

#define REPORT_EVERY_MS 100
#define REPORT_MS	60000

static const char help[] =
	"Usage: dksm run [OPTIONS] [--] VMM [ARG...]\n"
	"\n"
	"Run VMM with its virtual machines merged: before their first instruction,\n"
	"and when they are idle, with VMM's own memory.  Any VMM that uses KVM will\n"
	"do, unchanged.  It keeps the process ID, and what it starts is treated\n"
	"alike.\n"
	"\n"
	"  --domain NAME  share only with processes in this domain, which is\n"
	"                 created if need be ('default' for root, 'user-UID')\n"
	"  --untrusted    one whose members do not trust each other: nothing is\n"
	"                 merged when idle, or learned; a property of a new domain\n"
	"  --fresh-frames copy what others will share into memory that nobody\n"
	"                 chose the place of; a property of a new domain\n"
	"  --no-idle      merge when they start, but not when they are idle\n"
	"  --no-vmm       when they are idle, only guest memory\n"
	"  --no-learn     merge also what is known to be written to soon\n"
	"  --report FILE  write as JSON what was merged at the start and, within\n"
	"                 a minute, at the first idle moment\n"
	"\n"
	"Exit status: VMM's; 127 or 126 if it cannot be found or executed; 1 if\n"
	"it cannot be attached; 2 for a wrong command line.\n"
	"\n"
	"Examples:\n"
	"  dksm run qemu-system-x86_64 -M microvm -enable-kvm -kernel app.elf\n"
	"  dksm run --domain web -- firecracker --no-api --config-file vm.json\n";

static void report_write(int fd, pid_t pid)
{
	struct dksm_process process;
	FILE *out;
	int copy;

	if (dksm_stat_process(pid, &process))
		return;
	copy = dup(fd);
	out = copy < 0 ? NULL : fdopen(copy, "w");
	if (!out)
		return;
	if (lseek(fd, 0, SEEK_SET) == 0 && ftruncate(fd, 0))
		lseek(fd, 0, SEEK_END);
	process_json(out, pid, &process);
	fclose(out);
}

static bool report_complete(const struct dksm_process *process)
{
	return process->vms && (process->idle_passes || !process->idle);
}

/* While the VMM lives: its numbers are gone when it ends. */
static void report_watch(int fd, pid_t pid, int pidfd)
{
	struct pollfd gone = { .fd = pidfd, .events = POLLIN };
	struct dksm_process now, last = { 0 };

	for (int ms = 0; ms < REPORT_MS; ms += REPORT_EVERY_MS) {
		if (poll(&gone, 1, REPORT_EVERY_MS) ||
		    dksm_stat_process(pid, &now))
			return;
		if (now.vms != last.vms || now.idle_passes != last.idle_passes)
			report_write(fd, pid);
		last = now;
		if (report_complete(&now))
			return;
	}
}

/* The VMM must not find a child it knows nothing of, or a pipe held open. */
static void report_process(int fd, pid_t pid, int pidfd)
{
	int null = open("/dev/null", O_RDWR);

	if (setsid() < 0 || fork())
		_exit(EXIT_OK);
	for (int i = 0; i < 3; i++)
		dup2(null, i);
	report_watch(fd, pid, pidfd);
	_exit(EXIT_OK);
}

static int report_start(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	pid_t self = getpid(), child;
	int pidfd;

	if (fd < 0) {
		fprintf(stderr, "dksm run: cannot write to %s: %s: choose another "
			"--report\n", path, strerror(errno));
		return EXIT_FAILED;
	}
	pidfd = pidfd_of(self);
	child = fork();
	if (!child)
		report_process(fd, self, pidfd);
	if (child < 0) {
		fprintf(stderr, "dksm run: cannot report: %s: leave --report "
			"out\n", strerror(errno));
		return EXIT_FAILED;
	}
	waitpid(child, NULL, 0);
	close(pidfd);
	close(fd);
	return EXIT_OK;
}

static int execute(char **argv)
{
	int err;

	execvp(argv[0], argv);
	err = errno;
	fprintf(stderr, "dksm run: cannot execute %s: %s: name a program in "
		"PATH, or its path\n", argv[0], strerror(err));
	return err == ENOENT ? 127 : 126;
}

int cmd_run(int argc, char **argv)
{
	struct attach_args args;
	struct failure failure;
	int status;

	status = attach_parse(&args, argc, argv);
	if (args.help)
		fputs(help, stdout);
	if (status || args.help)
		return status;
	if (!args.nr)
		return usage_error(argv[0], "no VMM given");
	failure = attach_process(DKSM_SELF, &args);
	failure_find_domain(&failure, getpid());
	if (failure.err)
		return failure_print(stderr, argv[0], 0, &failure);
	if (args.report)
		status = report_start(args.report);
	return status ? status : execute(args.operands);
}
