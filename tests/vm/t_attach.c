// SPDX-License-Identifier: MIT
/*
 * Attaching a process to a domain from outside: who may, what is inherited by
 * children and by programs that are executed, what is not, and how it ends.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests.h"

#define NOBODY 65534

static void check_attached(pid_t pid, bool attached)
{
	char name[DKSM_NAME_SIZE];

	dksm_process_domain(pid, name);
	if (!attached) {
		/* In a domain without being attached, or in none. */
		if (name[0])
			CHECK_EQ(dksm_process(pid, "attached"), 0);
		return;
	}
	CHECK(!strcmp(name, domain_name("")));
	CHECK_EQ(dksm_process(pid, "attached"), 1);
}

static void attach_and_detach(void)
{
	int dom = domain_open(""), unbound = dksm_open();
	struct peer p = peer_start(1);

	CHECK_EQ(dksm_detach(dom, p.pidfd), -ENOENT);
	CHECK_EQ(dksm_attach(unbound, p.pidfd, 0), -ENOENT);
	check_attached(p.pid, false);
	CHECK_EQ(dksm_attach(dom, p.pidfd, 0), 0);
	check_attached(p.pid, true);
	CHECK_EQ(dksm_process(p.pid, "idle"), 1);
	CHECK_EQ(dksm_process(p.pid, "learn"), 1);
	CHECK_EQ(dksm_attach(unbound, p.pidfd, DKSM_ATTACH_NO_IDLE), 0);
	CHECK_EQ(dksm_process(p.pid, "idle"), 0);
	CHECK_EQ(dksm_attach(dom, p.pidfd, DKSM_ATTACH_NO_LEARN), 0);
	CHECK_EQ(dksm_process(p.pid, "idle"), 1);
	CHECK_EQ(dksm_process(p.pid, "learn"), 0);
	CHECK_EQ(dksm_detach(unbound, p.pidfd), 0);
	check_attached(p.pid, false);
	CHECK_EQ(dksm_detach(dom, p.pidfd), -ENOENT);
	CHECK_EQ(dksm_attach(dom, DKSM_SELF, 0), 0);
	check_attached(getpid(), true);
	CHECK_EQ(dksm_detach(dom, DKSM_SELF), 0);
}

static int attach_raw(int fd, unsigned int size, unsigned int flags, int pidfd,
		      unsigned int reserved)
{
	struct dksm_attach_args args = {
		.size = size, .flags = flags, .pidfd = pidfd,
		.reserved = reserved,
	};

	return ioctl(fd, DKSM_IOC_ATTACH, &args) ? -errno : 0;
}

static void attach_bad_input(void)
{
	const unsigned int size = sizeof(struct dksm_attach_args);
	int dom = domain_open(""), other = domain_open(".other");
	struct peer p = peer_start(1), q = peer_start(1);
	int kthreadd = SYS((int)syscall(SYS_pidfd_open, 2, 0));

	CHECK_EQ(attach_raw(dom, size - 4, 0, p.pidfd, 0), -EINVAL);
	CHECK_EQ(attach_raw(dom, size, 8, p.pidfd, 0), -EINVAL);
	CHECK_EQ(attach_raw(dom, size, 1U << 31, p.pidfd, 0), -EINVAL);
	CHECK_EQ(attach_raw(dom, size, 0, p.pidfd, 1), -EINVAL);
	CHECK_EQ(attach_raw(dom, size, 0, -2, 0), -EBADF);
	CHECK_EQ(attach_raw(dom, size, 0, dom, 0), -EBADF);
	CHECK_EQ(attach_raw(dom, size, 0, kthreadd, 0), -EINVAL);
	CHECK_EQ(ioctl(dom, DKSM_IOC_ATTACH, NULL) ? errno : 0, EFAULT);
	check_attached(p.pid, false);
	CHECK_EQ(dksm_attach(dom, p.pidfd, 0), 0);
	CHECK_EQ(dksm_attach(other, p.pidfd, 0), -EXDEV);
	SYS(syscall(SYS_pidfd_send_signal, q.pidfd, SIGKILL, NULL, 0));
	SYS(waitid(P_PIDFD, q.pidfd, &(siginfo_t){ 0 }, WEXITED));
	CHECK_EQ(dksm_attach(dom, q.pidfd, 0), -ESRCH);
}

static long op_become_nobody(struct region *r UNUSED, const long *arg UNUSED)
{
	SYS(setgroups(0, NULL));
	SYS(setresgid(NOBODY, NOBODY, NOBODY));
	SYS(setresuid(NOBODY, NOBODY, NOBODY));
	return 0;
}

static int own_fd;

static long op_open(struct region *r UNUSED, const long *arg UNUSED)
{
	own_fd = SYS(open("/dev/dksm", O_RDWR | O_CLOEXEC));
	return 0;
}

static long op_bind_own(struct region *r UNUSED, const long *arg UNUSED)
{
	return dksm_bind(own_fd, domain_name(".own"), DKSM_DOMAIN_CREATE);
}

/* @arg: pid, detach */
static long op_attach_pid(struct region *r UNUSED, const long *arg)
{
	int pidfd = SYS((int)syscall(SYS_pidfd_open, arg[0], 0));
	int err = arg[1] ? dksm_detach(own_fd, pidfd) :
			   dksm_attach(own_fd, pidfd, 0);

	close(pidfd);
	return err;
}

/* A user with a descriptor of the device, and a process of root. */
static void attach_permissions(void)
{
	int dom = domain_open("");
	struct peer user = peer_start(1), victim = peer_start(1);
	long err;

	CHECK_EQ(dksm_attach(dom, victim.pidfd, 0), 0);
	peer_call(&user, op_open);
	peer_call(&user, op_become_nobody);
	CHECK_EQ(peer_call(&user, op_bind_own), 0);
	err = peer_call(&user, op_attach_pid, victim.pid);
	CHECK(err == -EPERM || err == -EACCES);
	err = peer_call(&user, op_attach_pid, victim.pid, 1);
	CHECK(err == -EPERM || err == -EACCES);
	check_attached(victim.pid, true);
}

/* ---- inheritance ------------------------------------------------------- */

enum { CHAIN_PLAIN, CHAIN_JAIL, CHAIN_SETUID, CHAIN_UNREADABLE };

/* A copy of sleep that only root may read, or that makes its caller root. */
static void program_make(const char *path, mode_t mode)
{
	char command[200];

	snprintf(command, sizeof(command), "cp -L /bin/sleep %s", path);
	CHECK_EQ(system(command), 0);
	SYS(chmod(path, mode));
}

static _Noreturn void chain(int kind)
{
	const char *program = "/bin/sleep";

	SYS(unshare(CLONE_NEWNS));
	SYS(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	SYS(mount("tmpfs", "/mnt", "tmpfs", 0, NULL));
	if (kind == CHAIN_SETUID)
		program_make(program = "/mnt/setuid", 04755);
	if (kind == CHAIN_UNREADABLE)
		program_make(program = "/mnt/unreadable", 0711);
	if (kind == CHAIN_JAIL)
		SYS(chroot("/"));
	if (kind != CHAIN_PLAIN)
		op_become_nobody(NULL, NULL);
	execl(program, "sleep", "600", NULL);
	FAIL("exec %s: %s", program, strerror(errno));
}

static long op_chain(struct region *r UNUSED, const long *arg)
{
	char path[40], name[16] = "";
	pid_t pid = SYS(fork());

	if (!pid)
		chain(arg[0]);
	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	for (int i = 0; i < 1000; i++) {
		FILE *f = fopen(path, "re");

		if (f && fgets(name, sizeof(name), f) &&
		    strncmp(name, "functional", 10)) {
			fclose(f);
			return pid;
		}
		if (f)
			fclose(f);
		sleep_ms(10);
	}
	FAIL("process %d does not execute anything", pid);
}

static void check_chain(const struct peer *p, int kind, bool attached)
{
	pid_t pid = peer_call(p, op_chain, kind);

	check_attached(pid, attached);
	kill(pid, SIGKILL);
}

static void attach_is_inherited(void)
{
	int dom = domain_open("");
	struct peer p = peer_start(1), child;

	CHECK_EQ(dksm_attach(dom, p.pidfd, DKSM_ATTACH_NO_IDLE), 0);
	child = peer_fork(&p);
	check_attached(child.pid, true);
	CHECK_EQ(dksm_process(child.pid, "idle"), 0);
	check_chain(&child, CHAIN_PLAIN, true);
	check_chain(&child, CHAIN_JAIL, true);
	/* Each has its own from then on. */
	CHECK_EQ(dksm_detach(dom, p.pidfd), 0);
	check_attached(child.pid, true);
	check_chain(&p, CHAIN_PLAIN, false);
}

static void attach_is_not_for_more_privileges(void)
{
	int dom = domain_open("");
	struct peer p = peer_start(1);

	CHECK_EQ(dksm_attach(dom, p.pidfd, 0), 0);
	check_chain(&p, CHAIN_SETUID, false);
	check_chain(&p, CHAIN_UNREADABLE, false);
}

static void wait_sleep(pid_t pid)
{
	char path[40], name[16] = "";

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	for (int i = 0; i < 1000; i++) {
		FILE *f = fopen(path, "re");
		bool sleeps = f && fgets(name, sizeof(name), f) &&
			      !strcmp(name, "sleep\n");

		if (f)
			fclose(f);
		if (sleeps)
			return;
		sleep_ms(10);
	}
	FAIL("process %d does not become sleep but %s", pid, name);
}

/* Whether the old or the new program is attached: in the end the new one is. */
static void attach_while_it_executes(void)
{
	int dom = domain_open("");
	u64 state = 4321;

	for (int round = 0; round < 30; round++) {
		pid_t pid = SYS(fork());
		int pidfd;

		if (!pid) {
			execl("/bin/sleep", "sleep", "600", NULL);
			_exit(99);
		}
		pidfd = SYS(syscall(SYS_pidfd_open, pid, 0));
		for (u64 spin = rnd(&state) % 1000000; spin; spin--)
			__asm__ volatile("");
		CHECK_EQ(dksm_attach(dom, pidfd, 0), 0);
		wait_sleep(pid);
		check_attached(pid, true);
		kill(pid, SIGKILL);
		close(pidfd);
	}
}

/* ---- the command ------------------------------------------------------- */

static int command(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static int command(const char *fmt, ...)
{
	char line[300];
	va_list ap;
	int status;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	status = system(line);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static pid_t run_sleep(void)
{
	pid_t pid = SYS(fork());

	if (!pid) {
		execlp("dksm", "dksm", "run", "--no-idle", "--domain",
		       domain_name(""), "--report", "/tmp/report", "--",
		       "sleep", "600", NULL);
		_exit(99);
	}
	wait_sleep(pid);
	return pid;
}

/* The same process, without a child that it knows nothing of. */
static void attach_by_command(void)
{
	int dom = domain_open("");
	pid_t pid = run_sleep();
	char path[60];

	check_attached(pid, true);
	CHECK_EQ(dksm_process(pid, "idle"), 0);
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	CHECK_EQ(read_u64(path), ~0ULL);
	CHECK_EQ(command("dksm doctor --json %d >/tmp/doctor", pid), 1);
	CHECK_EQ(command("grep -q '\"no_vm\"' /tmp/doctor"), 0);
	CHECK_EQ(command("dksm detach %d", pid), 0);
	check_attached(pid, false);
	CHECK_EQ(command("dksm detach %d 2>/dev/null", pid), 1);
	CHECK_EQ(command("dksm attach %d", pid), 0);
	check_attached(pid, true);
	CHECK_EQ(command("dksm attach --domain elsewhere %d 2>/tmp/err", pid), 1);
	CHECK_EQ(command("grep -q \"in domain '%s'\" /tmp/err",
			 domain_name("")), 0);
	CHECK_EQ(command("dksm run --domain %s -- sh -c 'exit 42'",
			 domain_name("")), 42);
	CHECK_EQ(command("dksm run --domain %s -- /none 2>/dev/null",
			 domain_name("")), 127);
	kill(pid, SIGKILL);
	close(dom);
}

const struct test tests_attach[] = {
	{ "attach_and_detach", attach_and_detach, 0 },
	{ "attach_bad_input", attach_bad_input, 0 },
	{ "attach_permissions", attach_permissions, 0 },
	{ "attach_is_inherited", attach_is_inherited, 0 },
	{ "attach_is_not_for_more_privileges",
	  attach_is_not_for_more_privileges, 0 },
	{ "attach_while_it_executes", attach_while_it_executes, TEST_SLOW },
	{ "attach_by_command", attach_by_command, TEST_SLOW },
	{ NULL, NULL, 0 },
};
