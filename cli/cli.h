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
int cmd_top(int argc, char **argv);
int cmd_run(int argc, char **argv);
int cmd_attach(int argc, char **argv);
int cmd_detach(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_analyze(int argc, char **argv);

/* A part of an address space; 0 and 0 for all of it. */
struct range {
	uint64_t start;
	uint64_t len;
};

/**
 * struct args - the command line of a subcommand
 * @pid:	the process; 0 if none was given
 * @json:	--json
 * @prometheus:	--prometheus
 * @dry_run:	--dry-run
 * @help:	--help; nothing else has been looked at then
 * @domain:	--domain, else NULL; points into argv
 * @domain_flags: DKSM_DOMAIN_*, but for DKSM_DOMAIN_CREATE
 * @ranges:	the ranges, to be freed with args_free()
 * @nr:		how many; 0 for the whole process
 */
struct args {
	pid_t pid;
	bool json;
	bool prometheus;
	bool dry_run;
	bool help;
	const char *domain;
	unsigned int domain_flags;
	struct range *ranges;
	size_t nr;
};

/* What a subcommand takes; --json, --help and a PID always go. */
enum args_accept {
	ARGS_DOMAIN = 1 << 0,	/* and its properties */
	ARGS_RANGES = 1 << 1,
	ARGS_NO_PID = 1 << 2,	/* the PID may be left out */
	ARGS_PROMETHEUS = 1 << 3,
	ARGS_DRY_RUN = 1 << 4,
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
/* EXIT_OK or, after a message, EXIT_USAGE. */
int domain_name_check(const char *command, const char *name);
/* Long options begin here, so that getopt's optopt tells them from short ones. */
enum { OPT_LONG = 256 };
/* What getopt_long() returned for none of the options, with ":" first among them. */
int option_error(int opt, char **argv);
int args_parse(struct args *args, int argc, char **argv, unsigned int accept);
void args_free(struct args *args);

struct failure;

/**
 * struct attach_args - the command line of run, attach and detach
 * @domain:	--domain, else NULL
 * @domain_flags: DKSM_DOMAIN_*, but for DKSM_DOMAIN_CREATE
 * @flags:	DKSM_ATTACH_*
 * @report:	--report, else NULL
 * @help:	--help; nothing else has been looked at then
 * @operands:	what follows the options, ended by NULL
 * @nr:		how many
 */
struct attach_args {
	const char *domain;
	unsigned int domain_flags;
	unsigned int flags;
	const char *report;
	bool help;
	char **operands;
	int nr;
};

/*
 * attach.c: attach_parse() as args_parse().  own_domain() is where a process of
 * the caller goes if nobody says where.
 */
int attach_parse(struct attach_args *args, int argc, char **argv);
void own_domain(char name[DKSM_NAME_SIZE]);
struct failure attach_process(int pidfd, const struct attach_args *args);

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
struct json_object;
void report_fill(struct json_object *object, const char *verb,
		 const struct dksm_report *report);

/**
 * struct room - what it takes to unmerge all of a process
 * @pages:	of it that are merged
 * @needed:	bytes, for a copy of each
 * @host:	bytes that are available
 * @group:	bytes below the tightest limit of its memory cgroups, or UINT64_MAX
 * @limit:	the file of that limit, or ""
 */
struct room {
	uint64_t pages;
	uint64_t needed;
	uint64_t host;
	uint64_t group;
	char limit[4200];
};

/* room.c; room_look() returns 0 or a negative errno of dksm_stat_process(). */
int room_look(pid_t pid, struct room *room);
bool room_suffices(const struct room *room);
void room_table(FILE *out, const struct room *room);
void room_json(FILE *out, pid_t pid, const struct room *room);

/* failure.c: what went wrong and what to do next. */
enum step {
	STEP_DEVICE,		/* connecting to the kernel */
	STEP_PROCESS,		/* finding the process */
	STEP_DOMAIN,		/* joining a domain */
	STEP_PAGES,		/* merging or unmerging */
	STEP_COPIES,		/* unmerging all of a process */
	STEP_ATTACH,		/* attaching or detaching */
	STEP_STAT,		/* reading numbers */
};

/**
 * struct failure - why a command did not do all it was asked to
 * @step:	where it happened
 * @err:	0 for no failure, else a negative errno
 * @domain:	the domain in question, "" if unknown; at STEP_PAGES and STEP_ATTACH
 *		the one that the process is in
 */
struct failure {
	enum step step;
	int err;
	char domain[DKSM_NAME_SIZE];
};

struct failure failure_at(enum step step, int err);
struct failure failure_domain(int err, const char *domain);
/* What dksm_open() said. */
struct failure failure_open(int err);
/* If the process is in another domain: in which one. */
void failure_find_domain(struct failure *failure, pid_t pid);
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
/* A pidfd or a negative errno. */
int pidfd_of(pid_t pid);

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

/* metrics.c: the numbers of a host, for programs. */
void counters_fill(struct json_object *object,
		   const struct dksm_counters *base);
void knobs_fill(struct json_object *object, const struct dksm_global *global);
void host_prometheus(FILE *out, const struct host *host);

/* doctor.c judges what cmd_doctor.c has found. */
enum severity {
	SEVERITY_ERROR,		/* prevents sharing */
	SEVERITY_WARNING,	/* weakens it */
	SEVERITY_NOTE,
};

struct finding {
	enum severity severity;
	const char *code;	/* for programs; never changes */
	char text[256];
};

struct findings {
	struct finding list[24];
	size_t nr;
};

/**
 * struct host_facts - what matters on this host
 * @stat_err:	what dksm_stat_global() said
 * @open_err:	what dksm_open() said
 * @kvm_err:	why /dev/kvm is of no use, a negative errno; or 0
 * @features:	of struct dksm_info
 * @global:	if not @stat_err
 * @thp:	"always", "madvise", "never", or "" if there are no huge pages
 * @ksmd_runs:	ksmd scans
 */
struct host_facts {
	int stat_err;
	int open_err;
	int kvm_err;
	uint64_t features;
	struct dksm_global global;
	char thp[16];
	bool ksmd_runs;
};

/**
 * struct process_facts - what matters in a VMM's process
 * @pid:	the process
 * @stat_err:	what dksm_stat_process() said; then nothing else is known
 * @stat:	its numbers
 * @vm_fds:	its KVM virtual machines
 * @vcpu_fds:	their virtual processors
 * @paused:	none of these is in the guest, or wants to be
 * @other_domains: domains with contents, other than its own
 * @hugetlb_bytes: writable mappings of hugetlb memory
 * @shared_bytes: of shared memory
 * @file_bytes: private ones of files
 * @anonymous_bytes: of its pages in memory, what no file has
 */
struct process_facts {
	pid_t pid;
	int stat_err;
	struct dksm_process stat;
	unsigned int vm_fds;
	unsigned int vcpu_fds;
	bool paused;
	unsigned int other_domains;
	uint64_t hugetlb_bytes;
	uint64_t shared_bytes;
	uint64_t file_bytes;
	uint64_t anonymous_bytes;
};

void doctor_host(struct findings *all, const struct host_facts *host);
void doctor_process(struct findings *all, const struct process_facts *process);
bool findings_bad(const struct findings *all);
void findings_table(FILE *out, const struct findings *all);
void findings_json(FILE *out, pid_t pid, const struct findings *all);

/* cmd_doctor.c, for tests: the word in brackets of "always [madvise] never", or "". */
void choice_word(const char *text, char *word, size_t size);
/* Adds up the mappings in a file like /proc/PID/smaps. */
void mappings_read(FILE *smaps, struct process_facts *process);
/* What /proc/PID/task/TID/syscall says: the thread runs, or waits in KVM_RUN. */
bool thread_enters_guest(const char *syscall);
/* For a while, no thread of the process did. */
bool guest_is_paused(pid_t pid);

/* json.c: a thin layer over json-c; running out of memory ends the program. */
struct json_object *json_new(void);
struct json_object *json_new_list(void);
void json_add_number(struct json_object *object, const char *key,
		     uint64_t number);
/* With one digit after the point; a negative @value becomes null. */
void json_add_decimal(struct json_object *object, const char *key, double value);
/* @string NULL becomes null. */
void json_add_string(struct json_object *object, const char *key,
		     const char *string);
/* Prints and frees. */
void json_print(FILE *out, struct json_object *object);

#endif /* DKSM_CLI_H */
