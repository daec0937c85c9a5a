// SPDX-License-Identifier: MIT
/* dksm doctor: collects the facts, has doctor.c judge them, prints. */
#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <limits.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cli.h"

/* A guest that computes in its VMM, not in KVM_RUN, is seen at one of these looks. */
#define PAUSED_LOOKS	5
#define PAUSED_EVERY_US	20000

static const char help[] =
	"Usage: dksm doctor [--json] [PID]\n"
	"\n"
	"Say what prevents or weakens sharing on this host and, with a PID, of\n"
	"this VMM's memory, and what to do about it.\n"
	"\n"
	"  --json   print JSON: findings[] with severity (error: prevents it,\n"
	"           warning: weakens it, note), code and text\n"
	"\n"
	"Exit status: 0 if there is nothing but notes, 1 if there is, 2 for a\n"
	"wrong command line.\n"
	"\n"
	"Examples:\n"
	"  dksm doctor\n"
	"  dksm doctor $(pidof qemu-system-x86_64)\n";

void choice_word(const char *text, char *word, size_t size)
{
	const char *from = strchr(text, '['), *to = strchr(text, ']');

	word[0] = 0;
	if (from && to && from < to)
		snprintf(word, size, "%.*s", (int)(to - from - 1), from + 1);
}

static void read_choice(const char *path, char *word, size_t size)
{
	char text[128] = "";
	FILE *file = fopen(path, "re");

	if (file && !fgets(text, sizeof(text), file))
		text[0] = 0;
	if (file)
		fclose(file);
	choice_word(text, word, size);
}

static bool file_says_one(const char *path)
{
	FILE *file = fopen(path, "re");
	bool one = file && fgetc(file) == '1';

	if (file)
		fclose(file);
	return one;
}

static void host_collect(struct host_facts *host)
{
	struct dksm_info info;
	struct dksm *handle;

	memset(host, 0, sizeof(*host));
	host->stat_err = dksm_stat_global(&host->global);
	host->open_err = dksm_open(&handle);
	if (!host->open_err) {
		if (!dksm_info_get(handle, &info))
			host->features = info.features;
		dksm_close(handle);
	}
	read_choice("/sys/kernel/mm/transparent_hugepage/enabled", host->thp,
		    sizeof(host->thp));
	host->ksmd_runs = file_says_one("/sys/kernel/mm/ksm/run");
	host->kvm_err = access("/dev/kvm", R_OK | W_OK) ? -errno : 0;
}

/* One VMA: its header has been seen, and now its flags. */
static void mapping_add(struct process_facts *process, uint64_t bytes,
			bool is_file, const char *flags)
{
	if (strstr(flags, " ht"))
		process->hugetlb_bytes += bytes;
	else if (!strstr(flags, " wr"))
		return;
	else if (strstr(flags, " sh"))
		process->shared_bytes += bytes;
	else if (is_file)
		process->file_bytes += bytes;
}

/* Lines are as long as the names of files, which may look like anything. */
void mappings_read(FILE *smaps, struct process_facts *process)
{
	uint64_t start, end, kib, bytes = 0;
	unsigned long inode;
	bool is_file = false;
	char *line = NULL;
	size_t size = 0;

	while (getline(&line, &size, smaps) > 0) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %*s %*s %*s %lu",
			   &start, &end, &inode) == 3) {
			bytes = end - start;
			is_file = inode;
		} else if (!strncmp(line, "VmFlags:", 8)) {
			mapping_add(process, bytes, is_file, line);
		} else if (sscanf(line, "Anonymous: %" SCNu64, &kib) == 1) {
			process->anonymous_bytes += kib << 10;
		}
	}
	free(line);
}

static void mappings_collect(struct process_facts *process)
{
	char path[40];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/smaps", (int)process->pid);
	file = fopen(path, "re");
	if (!file)
		return;
	mappings_read(file, process);
	fclose(file);
}

static void descriptors_collect(struct process_facts *process)
{
	char path[40], target[64];
	struct dirent *entry;
	ssize_t len;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)process->pid);
	dir = opendir(path);
	while (dir && (entry = readdir(dir))) {
		len = readlinkat(dirfd(dir), entry->d_name, target,
				 sizeof(target) - 1);
		target[len > 0 ? len : 0] = 0;
		process->vm_fds += !strcmp(target, "anon_inode:kvm-vm");
		process->vcpu_fds += !strncmp(target, "anon_inode:kvm-vcpu", 19);
	}
	if (dir)
		closedir(dir);
}

bool thread_enters_guest(const char *syscall)
{
	unsigned long request, pc;
	long number;

	if (!strncmp(syscall, "running", 7))
		return true;
	/* Workers of the kernel have a call from who started them, but no pc. */
	return sscanf(syscall, "%ld %*x %lx %*x %*x %*x %*x %*x %lx", &number,
		      &request, &pc) == 3 &&
	       number == SYS_ioctl && request == KVM_RUN && pc;
}

/* A thread that may not be looked at could be in the guest; one that ends is not. */
static bool thread_may_be_in_guest(int tasks, const char *tid)
{
	char path[NAME_MAX + sizeof("/syscall")], text[128] = "";
	FILE *file;
	int fd;

	snprintf(path, sizeof(path), "%s/syscall", tid);
	fd = openat(tasks, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno != ENOENT;
	file = fdopen(fd, "r");
	if (!file) {
		close(fd);
		return true;
	}
	errno = 0;
	if (!fgets(text, sizeof(text), file) && errno && errno != ESRCH)
		snprintf(text, sizeof(text), "running");
	fclose(file);
	return thread_enters_guest(text);
}

static bool guest_may_run(pid_t pid)
{
	struct dirent *entry;
	bool found = false;
	char path[40];
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	if (!dir)
		return true;
	while (!found && (entry = readdir(dir)))
		found = entry->d_name[0] != '.' &&
			thread_may_be_in_guest(dirfd(dir), entry->d_name);
	closedir(dir);
	return found;
}

bool guest_is_paused(pid_t pid)
{
	for (int i = 0; i < PAUSED_LOOKS; i++) {
		if (i)
			usleep(PAUSED_EVERY_US);
		if (guest_may_run(pid))
			return false;
	}
	return true;
}

static void domains_collect(struct process_facts *process)
{
	struct dksm_domain *domains;
	size_t nr;

	if (dksm_stat_domains(&domains, &nr))
		return;
	for (size_t i = 0; i < nr; i++)
		process->other_domains +=
			(domains[i].counters.pages_shared ||
			 domains[i].counters.metadata_bytes) &&
			strcmp(domains[i].name, process->stat.domain);
	dksm_stat_domains_free(domains);
}

static void process_collect(struct process_facts *process, pid_t pid)
{
	memset(process, 0, sizeof(*process));
	process->pid = pid;
	process->stat_err = dksm_stat_process(pid, &process->stat);
	if (process->stat_err)
		return;
	mappings_collect(process);
	descriptors_collect(process);
	process->paused = process->vcpu_fds && guest_is_paused(pid);
	domains_collect(process);
}

static const char *const severities[] = {
	[SEVERITY_ERROR] = "error",
	[SEVERITY_WARNING] = "warning",
	[SEVERITY_NOTE] = "note",
};

void findings_table(FILE *out, const struct findings *all)
{
	for (size_t i = 0; i < all->nr; i++)
		fprintf(out, "%-8s %s\n", severities[all->list[i].severity],
			all->list[i].text);
	if (!findings_bad(all))
		fputs("ok       nothing here keeps pages from being shared\n",
		      out);
}

void findings_json(FILE *out, pid_t pid, const struct findings *all)
{
	struct json_object *root = json_new(), *list = json_new_list();

	for (size_t i = 0; i < all->nr; i++) {
		struct json_object *object = json_new();

		json_add_string(object, "severity",
				severities[all->list[i].severity]);
		json_add_string(object, "code", all->list[i].code);
		json_add_string(object, "text", all->list[i].text);
		json_object_array_add(list, object);
	}
	if (pid)
		json_add_number(root, "pid", (uint64_t)pid);
	json_object_object_add(root, "findings", list);
	json_print(out, root);
}

static int examine(const struct args *args)
{
	struct findings all = { .nr = 0 };
	struct process_facts process;
	struct host_facts host;

	host_collect(&host);
	doctor_host(&all, &host);
	if (args->pid) {
		process_collect(&process, args->pid);
		doctor_process(&all, &process);
	}
	if (args->json)
		findings_json(stdout, args->pid, &all);
	else
		findings_table(stdout, &all);
	return findings_bad(&all) ? EXIT_FAILED : EXIT_OK;
}

int cmd_doctor(int argc, char **argv)
{
	struct args args;
	int status;

	status = args_parse(&args, argc, argv, ARGS_NO_PID);
	if (args.help)
		fputs(help, stdout);
	else if (!status)
		status = examine(&args);
	args_free(&args);
	return status;
}
