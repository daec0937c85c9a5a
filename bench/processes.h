/* SPDX-License-Identifier: MIT */
/*
 * Processes that hold equal pages, which they merge when they are told to.
 */
#ifndef BENCH_PROCESSES_H
#define BENCH_PROCESSES_H

#include <sys/wait.h>

#include "common.h"

#define KSM "/sys/kernel/mm/ksm/"
#define DKSM "/sys/kernel/mm/dksm/"

struct process {
	pid_t pid;
	char *memory;	/* where it is there */
	int ask;	/* enum task */
	int answer;	/* nanoseconds it took */
};

enum task { MERGE = 'm', WRITE = 'w', UNMERGE = 'u' };

static long file_number(const char *path)
{
	long value = -1;
	FILE *f = fopen(path, "r");

	if (!f || fscanf(f, "%ld", &value) != 1)
		die(path);
	fclose(f);
	return value;
}

static void file_set(const char *path, const char *value)
{
	FILE *f = fopen(path, "w");

	if (!f || fputs(value, f) < 0 || fclose(f))
		die(path);
}

static void merge_dksm(int fd, char *memory, size_t pages)
{
	struct dksm_range_args args = {
		.size = sizeof(args), .pidfd = DKSM_SELF,
		.addr = (uintptr_t)memory, .len = pages * PAGE,
	};

	if (ioctl(fd, DKSM_IOC_MERGE, &args))
		die("DKSM_IOC_MERGE");
	if (args.report.merged + args.report.published != pages) {
		fprintf(stderr, "only %llu of %zu pages merged\n",
			(unsigned long long)(args.report.merged +
					     args.report.published), pages);
		exit(1);
	}
}

static void task_merge(int dksm, char *memory, size_t pages)
{
	if (dksm >= 0)
		merge_dksm(dksm, memory, pages);
	else if (madvise(memory, pages * PAGE, MADV_MERGEABLE))
		die("MADV_MERGEABLE");
}

static void task_write(char *memory, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		((volatile char *)memory)[i * PAGE]++;
}

static void task_unmerge(int dksm, char *memory, size_t pages)
{
	struct dksm_range_args args = {
		.size = sizeof(args), .pidfd = DKSM_SELF,
		.addr = (uintptr_t)memory, .len = pages * PAGE,
	};

	if (dksm >= 0 ? ioctl(dksm, DKSM_IOC_UNMERGE, &args) :
			madvise(memory, pages * PAGE, MADV_UNMERGEABLE))
		die("unmerge");
}

/* A child: fill, say where, and answer each task with the time that it took. */
static void child_run(int dksm, size_t pages, int ask, int answer)
{
	char *memory = fill(pages);
	uint64_t say = (uintptr_t)memory;
	char task;

	while (write(answer, &say, sizeof(say)) == sizeof(say) &&
	       read(ask, &task, 1) == 1) {
		uint64_t begin = now();

		if (task == MERGE)
			task_merge(dksm, memory, pages);
		else if (task == WRITE)
			task_write(memory, pages);
		else
			task_unmerge(dksm, memory, pages);
		say = now() - begin;
	}
	_exit(0);
}

static uint64_t process_answer(struct process *p)
{
	uint64_t say;

	if (read(p->answer, &say, sizeof(say)) != sizeof(say))
		die("child");
	return say;
}

/* @dksm: descriptor of its domain, or -1 for KSM. */
static void process_start(struct process *p, int dksm, size_t pages)
{
	int ask[2], answer[2];

	if (pipe2(ask, O_CLOEXEC) || pipe2(answer, O_CLOEXEC))
		die("pipe");
	p->pid = fork();
	if (p->pid < 0)
		die("fork");
	if (!p->pid) {
		close(ask[1]);
		close(answer[0]);
		child_run(dksm, pages, ask[0], answer[1]);
	}
	close(ask[0]);
	close(answer[1]);
	p->ask = ask[1];
	p->answer = answer[0];
	p->memory = (char *)(uintptr_t)process_answer(p);
}

static uint64_t process_does(struct process *p, char task)
{
	if (write(p->ask, &task, 1) != 1)
		die("child");
	return process_answer(p);
}

static void process_close(struct process *p)
{
	close(p->ask);
	close(p->answer);
}

/* Let ksmd scan without a pause until so much is shared. */
static void ksmd_run(long frames, long sharing)
{
	file_set(KSM "pages_to_scan", "1000");
	file_set(KSM "sleep_millisecs", "1");
	file_set(KSM "run", "1");
	while (file_number(KSM "pages_shared") < frames ||
	       file_number(KSM "pages_sharing") < sharing)
		usleep(2000);
	file_set(KSM "run", "0");
}

#endif /* BENCH_PROCESSES_H */
