// SPDX-License-Identifier: MIT
/*
 * PID 1 of tools/vm: makes the read-only root of the host usable, runs one
 * command and reports its exit status on a port that nobody else writes to, so
 * that a panic, a hang or a time-out can never look like success.
 *
 * The share "vmrun" holds what to run, in files of NUL-terminated strings: args,
 * env, cwd, keep (directories that must stay visible below a tmpfs) and perhaps
 * out (a directory shared for results), modules (where lib/modules of this
 * kernel is) and spare (empty: no program is to run on CPU 0). Ports: 1 stdout, 2 stderr, 3 status.
 * The command writes to pipes; ports can be opened only once, pipes by anyone.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define KMEMLEAK "/sys/kernel/debug/kmemleak"
#define KMEMLEAK_MIN_AGE 6	/* seconds until an object can be a leak */

struct strings {
	char **v;
	int n;
};

static const struct {
	const char *type, *where, *options;
} mounts[] = {
	{ "proc", "/proc", NULL },
	{ "sysfs", "/sys", NULL },
	{ "devtmpfs", "/dev", NULL },
	{ "devpts", "/dev/pts", "ptmxmode=0666,mode=0620" },
	{ "tmpfs", "/dev/shm", "mode=1777" },
	{ "tmpfs", "/run", "mode=0755" },
	{ "tmpfs", "/tmp", "mode=1777" },
	{ "tmpfs", "/var/tmp", "mode=1777" },
	{ "debugfs", "/sys/kernel/debug", NULL },
	{ "tracefs", "/sys/kernel/tracing", NULL },
	{ "cgroup2", "/sys/fs/cgroup", NULL },
};

static __attribute__((noreturn, format(printf, 1, 2)))
void die(const char *format, ...)
{
	va_list args;

	fprintf(stderr, "init: ");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, ": %m\n");
	reboot(RB_AUTOBOOT);
	_exit(1);
}

/* Mount a share of the host without needing a place for it yet. */
static int mount_share(const char *tag, const char *cache)
{
	int fs = fsopen("9p", FSOPEN_CLOEXEC), fd;

	if (fs < 0 ||
	    fsconfig(fs, FSCONFIG_SET_STRING, "source", tag, 0) ||
	    fsconfig(fs, FSCONFIG_SET_STRING, "trans", "virtio", 0) ||
	    fsconfig(fs, FSCONFIG_SET_STRING, "version", "9p2000.L", 0) ||
	    fsconfig(fs, FSCONFIG_SET_STRING, "msize", "262144", 0) ||
	    fsconfig(fs, FSCONFIG_SET_STRING, "cache", cache, 0) ||
	    fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		die("share %s", tag);
	fd = fsmount(fs, FSMOUNT_CLOEXEC, 0);
	if (fd < 0)
		die("share %s", tag);
	close(fs);
	return fd;
}

static void make_directories(const char *path)
{
	char *copy = strdup(path), *p;

	for (p = copy + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = '\0';
		mkdir(copy, 0755);
		*p = '/';
	}
	mkdir(copy, 0755);
	free(copy);
}

static void place(int mount, const char *where)
{
	make_directories(where);
	if (move_mount(mount, "", AT_FDCWD, where, MOVE_MOUNT_F_EMPTY_PATH))
		die("mount %s", where);
	close(mount);
}

static void *must(void *memory)
{
	if (!memory)
		die("memory");
	return memory;
}

static struct strings read_strings(int dir, const char *name)
{
	struct strings s = { .v = must(calloc(1, sizeof(*s.v))) };
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
	FILE *file = fd < 0 ? NULL : fdopen(fd, "r");
	char *line = NULL;
	size_t size = 0;

	while (file && getdelim(&line, &size, '\0', file) > 0) {
		s.v = must(realloc(s.v, (s.n + 2) * sizeof(*s.v)));
		s.v[s.n++] = must(strdup(line));
		s.v[s.n] = NULL;
	}
	free(line);
	if (file)
		fclose(file);
	return s;
}

static void mount_all(void)
{
	for (size_t i = 0; i < sizeof(mounts) / sizeof(mounts[0]); i++) {
		mkdir(mounts[i].where, 0755);
		if (mount(mounts[i].type, mounts[i].where, mounts[i].type,
			  MS_NOSUID, mounts[i].options))
			die("mount %s", mounts[i].where);
	}
	symlink("/proc/self/fd", "/dev/fd");
	symlink("/proc/self/fd/0", "/dev/stdin");
	symlink("/proc/self/fd/1", "/dev/stdout");
	symlink("/proc/self/fd/2", "/dev/stderr");
}

/* Directories below a future tmpfs are cloned before and put back after. */
static void mount_around(struct strings keep)
{
	int *fds = calloc(keep.n + 1, sizeof(*fds));

	for (int i = 0; i < keep.n; i++) {
		fds[i] = open_tree(AT_FDCWD, keep.v[i],
				   OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
		if (fds[i] < 0)
			die("%s", keep.v[i]);
	}
	mount_all();
	for (int i = 0; i < keep.n; i++)
		place(fds[i], keep.v[i]);
	free(fds);
}

static void start_loopback(void)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (s < 0 || ioctl(s, SIOCSIFFLAGS, &request))
		die("loopback");
	close(s);
}

/* Inherited by all programs. */
static void leave_cpu_0(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set))
		die("affinity");
	CPU_CLR(0, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("affinity");
}

/* Those of KVM; the processor wants one of the two. */
static void load_modules(char *dir)
{
	char *const args[] = { "modprobe", "-d", dir, "-a", "-q", "kvm-amd",
			       "kvm-intel", NULL };
	pid_t pid = fork();

	if (!pid) {
		setenv("PATH", "/usr/sbin:/sbin:/usr/bin:/bin", 1);
		execvp(args[0], args);
		die("%s", args[0]);
	}
	waitpid(pid, NULL, 0);
}

static int open_port(int number)
{
	char pattern[32];
	glob_t found;
	int fd;

	snprintf(pattern, sizeof(pattern), "/dev/vport*p%d", number);
	for (int tries = 0; tries < 500; tries++) {
		if (!glob(pattern, 0, NULL, &found)) {
			fd = open(found.gl_pathv[0], O_WRONLY | O_CLOEXEC);
			globfree(&found);
			if (fd >= 0)
				return fd;
		}
		usleep(10000);	/* ports appear when the host has opened them */
	}
	die("%s", pattern);
}

static void write_all(int fd, const char *data, ssize_t size)
{
	while (size > 0) {
		ssize_t n = write(fd, data, size);

		if (n < 0 && errno != EINTR && errno != EAGAIN)
			die("write to port");
		if (n > 0) {
			data += n;
			size -= n;
		}
	}
}

static __attribute__((noreturn))
void run_command(char **args, char **env, const char *cwd, int out, int err)
{
	sigset_t none;
	int status;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	dup2(open("/dev/null", O_RDONLY), 0);
	dup2(out, 1);
	dup2(err, 2);
	environ = env;
	if (chdir(cwd)) {
		fprintf(stderr, "tools/vm: cannot enter %s: %m\n", cwd);
		_exit(126);
	}
	execvp(args[0], args);
	status = errno == ENOENT ? 127 : 126;
	fprintf(stderr, "tools/vm: cannot run %s: %m\n", args[0]);
	_exit(status);
}

/* Reap every child; return true when it was the command, with its status. */
static bool reap(pid_t command, int *status)
{
	bool done = false;
	int s;
	pid_t pid;

	while ((pid = waitpid(-1, &s, WNOHANG)) > 0) {
		if (pid != command)
			continue;
		*status = WIFEXITED(s) ? WEXITSTATUS(s) : 128 + WTERMSIG(s);
		done = true;
	}
	return done;
}

static bool copy(struct pollfd *from, int to)
{
	char buffer[65536];
	ssize_t n;

	if (!from->revents)
		return false;
	n = read(from->fd, buffer, sizeof(buffer));
	if (n <= 0)
		from->fd = -1;	/* poll ignores it from now on */
	else
		write_all(to, buffer, n);
	return n > 0;
}

/*
 * Copy output until the command ends; then end whatever it left behind, since
 * that may hold the pipes open, and copy the rest.
 */
static int supervise(pid_t command, int out, int err, int children)
{
	struct pollfd fds[] = {
		{ .fd = out, .events = POLLIN },
		{ .fd = err, .events = POLLIN },
		{ .fd = children, .events = POLLIN },
	};
	struct signalfd_siginfo info;
	int ports[] = { open_port(1), open_port(2) };
	int status = -1;

	while (fds[0].fd >= 0 || fds[1].fd >= 0 || status < 0) {
		if (poll(fds, 3, -1) < 0 && errno != EINTR)
			die("poll");
		copy(&fds[0], ports[0]);
		copy(&fds[1], ports[1]);
		if (!fds[2].revents)
			continue;
		if (read(children, &info, sizeof(info)) < 0)
			die("signalfd");
		if (reap(command, &status))
			kill(-1, SIGKILL);
	}
	while (waitpid(-1, NULL, 0) > 0)
		;
	return status;
}

static int run(struct strings args, struct strings env, const char *cwd)
{
	int out[2], err[2], children;
	sigset_t chld;
	pid_t pid;

	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_BLOCK, &chld, NULL);
	children = signalfd(-1, &chld, SFD_CLOEXEC);
	if (children < 0 || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
		die("pipe");
	pid = fork();
	if (pid < 0)
		die("fork");
	if (!pid)
		run_command(args.v, env.v, cwd, out[1], err[1]);
	close(out[1]);
	close(err[1]);
	return supervise(pid, out[0], err[0], children);
}

static void scan_for_leaks(int fd)
{
	if (write(fd, "scan", 4) < 0)
		die("kmemleak");
}

/* The console log, which tools/vm inspects, gets what kmemleak has found. */
static void report_leaks(void)
{
	int fd = open(KMEMLEAK, O_RDWR | O_CLOEXEC);
	char buffer[4096];
	ssize_t n;

	if (fd < 0)
		return;
	scan_for_leaks(fd);
	sleep(KMEMLEAK_MIN_AGE);
	scan_for_leaks(fd);
	while ((n = read(fd, buffer, sizeof(buffer))) > 0)
		write_all(STDERR_FILENO, buffer, n);
	close(fd);
}

int main(void)
{
	int share = mount_share("vmrun", "none"), status;
	struct strings args = read_strings(share, "args");
	struct strings env = read_strings(share, "env");
	struct strings cwd = read_strings(share, "cwd");
	struct strings out = read_strings(share, "out");
	struct strings modules = read_strings(share, "modules");

	if (!args.n || !cwd.n)
		die("nothing to run");
	if (!faccessat(share, "spare", F_OK, 0))
		leave_cpu_0();
	mount_around(read_strings(share, "keep"));
	close(share);
	if (out.n)
		place(mount_share("vmout", "mmap"), out.v[0]);
	sethostname("dksm-vm", 7);
	start_loopback();
	if (modules.n)
		load_modules(modules.v[0]);

	status = run(args, env, cwd.v[0]);
	report_leaks();
	dprintf(open_port(3), "exit %d\n", status);
	sync();
	reboot(RB_AUTOBOOT);
	return 1;
}
