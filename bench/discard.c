// SPDX-License-Identifier: MIT
/*
 * Drop pages of another process, as a VMM's balloon does with its own: lines of
 * "START BYTES" on standard input, the process on the command line. Linux 6.12 lets
 * no other process do it, so the process itself is made to: its thread is stopped
 * where it waits in a system call and steps once over that instruction with the
 * registers of madvise().
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>

#define SYSCALL_SIZE 2

static _Noreturn void die(const char *what)
{
	perror(what);
	exit(1);
}

static void ask(int request, pid_t pid, void *data)
{
	if (ptrace(request, pid, NULL, data))
		die("ptrace");
}

static void stopped(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, __WALL) != pid || !WIFSTOPPED(status))
		die("the process did not stop");
}

static void discard(pid_t pid, const struct user_regs_struct *waiting,
		    unsigned long start, unsigned long bytes)
{
	struct user_regs_struct regs = *waiting;

	regs.rip -= SYSCALL_SIZE;
	regs.rax = SYS_madvise;
	regs.orig_rax = -1;
	regs.rdi = start;
	regs.rsi = bytes;
	regs.rdx = MADV_DONTNEED;
	ask(PTRACE_SETREGS, pid, &regs);
	ask(PTRACE_SINGLESTEP, pid, NULL);
	stopped(pid);
	ask(PTRACE_GETREGS, pid, &regs);
	errno = -(long)regs.rax;
	if (regs.rax)
		die("madvise");
}

int main(int argc, char **argv)
{
	pid_t pid = argc == 2 ? atoi(argv[1]) : 0;
	struct user_regs_struct waiting;
	unsigned long start, bytes;

	ask(PTRACE_SEIZE, pid, NULL);
	ask(PTRACE_INTERRUPT, pid, NULL);
	stopped(pid);
	ask(PTRACE_GETREGS, pid, &waiting);
	if ((long)waiting.orig_rax < 0) {
		fprintf(stderr, "discard: process %d is not in a system call\n", pid);
		return 1;
	}
	while (scanf("%lu %lu", &start, &bytes) == 2)
		discard(pid, &waiting, start, bytes);
	ask(PTRACE_SETREGS, pid, &waiting);
	ask(PTRACE_DETACH, pid, NULL);
	return 0;
}
