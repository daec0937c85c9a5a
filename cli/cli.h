/* SPDX-License-Identifier: MIT */
/*
 * What the parts of the dksm command share.  Commands return the exit status:
 * one of enum exit_status.  They print results on stdout, and at most one line
 * on stderr.
 */
#ifndef DKSM_CLI_H
#define DKSM_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include <dksm.h>

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

enum exit_status {
	EXIT_OK = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 2,
};

/* cli.c: everything but main(), so that tests can call it. */
int cli_main(int argc, char **argv);
__attribute__((format(printf, 2, 3)))
int usage_error(const char *command, const char *format, ...);

/* cmd_*.c; argv[0] is the name of the subcommand. */
int cmd_merge(int argc, char **argv);
int cmd_unmerge(int argc, char **argv);
int cmd_stat(int argc, char **argv);

/* A part of an address space; 0 and 0 for all of it. */
struct range {
	uint64_t start;
	uint64_t len;
};

/**
 * struct args - the command line of a subcommand
 * @pid:	the process; 0 if none was given
 * @json:	--json
 * @help:	--help; nothing else has been looked at then
 * @domain:	--domain, else NULL; points into argv
 * @ranges:	the ranges, to be freed with args_free()
 * @nr:		how many; 0 for the whole process
 */
struct args {
	pid_t pid;
	bool json;
	bool help;
	const char *domain;
	struct range *ranges;
	size_t nr;
};

/* What a subcommand takes; --json, --help and a PID always go. */
enum args_accept {
	ARGS_DOMAIN = 1 << 0,
	ARGS_RANGES = 1 << 1,
	ARGS_NO_PID = 1 << 2,	/* the PID may be left out */
};

/*
 * args.c: parsing.  range_parse() returns NULL, or what is wrong in words.
 * args_parse() returns EXIT_OK or, after a message, EXIT_USAGE; args_free() is
 * due in both cases.
 */
bool pid_parse(const char *text, pid_t *pid);
const char *range_parse(const char *text, uint64_t page_size,
			struct range *range);
bool domain_name_valid(const char *name);
int args_parse(struct args *args, int argc, char **argv, unsigned int accept);
void args_free(struct args *args);

/* format.c: numbers for people, in static-sized buffers returned for printf. */
struct text {
	char chars[32];
};

struct text text_bytes(uint64_t bytes);
struct text text_ns(uint64_t ns);
uint64_t page_bytes(void);

/* report.c: @verb is one of "merge" and "unmerge" and decides what is shown. */
void report_add(struct dksm_report *sum, const struct dksm_report *report);
bool report_empty(const struct dksm_report *report);
void report_table(FILE *out, const char *verb, const struct dksm_report *report);
void report_json(FILE *out, const char *verb, pid_t pid,
		 const struct dksm_report *report);

/* failure.c: what went wrong and what to do next. */
enum step {
	STEP_DEVICE,		/* connecting to the kernel */
	STEP_PROCESS,		/* finding the process */
	STEP_DOMAIN,		/* joining a domain */
	STEP_PAGES,		/* merging or unmerging */
	STEP_STAT,		/* reading numbers */
};

/**
 * struct failure - why a command did not do all it was asked to
 * @step:	where it happened
 * @err:	0 for no failure, else a negative errno
 * @domain:	the domain in question, "" if unknown; at STEP_PAGES the one that
 *		the process is in
 */
struct failure {
	enum step step;
	int err;
	char domain[DKSM_NAME_SIZE];
};

struct failure failure_at(enum step step, int err);
struct failure failure_domain(int err, const char *domain);
/* One line; returns EXIT_FAILED. @pid 0: no process is concerned. */
int failure_print(FILE *out, const char *command, pid_t pid,
		  const struct failure *failure);

/**
 * struct job - merging or unmerging in one process
 * @verb:	"merge" or "unmerge"
 * @args:	what the user wants
 * @prepare:	called once with the open handle, or NULL
 * @range:	called for each range; fills in the report, also on failure
 */
struct job {
	const char *verb;
	const struct args *args;
	struct failure (*prepare)(const struct job *job, struct dksm *handle);
	struct failure (*range)(const struct job *job, struct dksm *handle,
				int pidfd, const struct range *range,
				struct dksm_report *report);
};

/*
 * job.c: job_ranges() does all ranges with an open handle and adds up the
 * reports; job_run() does the rest too: it opens, prints, and returns the exit
 * status.
 */
struct failure job_ranges(const struct job *job, struct dksm *handle, int pidfd,
			  struct dksm_report *sum);
int job_run(const struct job *job);

/* cmd_merge.c and cmd_unmerge.c, for tests. */
extern const struct job merge_job, unmerge_job;

/* cmd_stat.c, for tests. */
struct host {
	struct dksm_global global;
	struct dksm_domain *domains;
	size_t nr;
};

void host_table(FILE *out, const struct host *host);
void host_json(FILE *out, const struct host *host);
void process_table(FILE *out, pid_t pid, const struct dksm_process *process);
void process_json(FILE *out, pid_t pid, const struct dksm_process *process);

/* json.c: a thin layer over json-c; running out of memory ends the program. */
struct json_object;

struct json_object *json_new(void);
struct json_object *json_new_list(void);
void json_add_number(struct json_object *object, const char *key,
		     uint64_t number);
/* @string NULL becomes null. */
void json_add_string(struct json_object *object, const char *key,
		     const char *string);
/* Prints and frees. */
void json_print(FILE *out, struct json_object *object);

#endif /* DKSM_CLI_H */
