// SPDX-License-Identifier: MIT
/*
 * The command line as a user meets it: what goes to stdout, what to stderr, and
 * the exit status.  Each run is a child, so that it has stdio of its own.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../cli/cli.h"
#include "ktap.h"

#define WORDS 10

struct outcome {
	int status;
	char out[8192], err[8192];
};

static int scratch(void)
{
	FILE *file = tmpfile();
	int fd = file ? dup(fileno(file)) : -1;

	if (file)
		fclose(file);
	return fd;
}

static void slurp(int fd, char *text, size_t size)
{
	ssize_t len = pread(fd, text, size - 1, 0);

	text[len > 0 ? len : 0] = 0;
	close(fd);
}

/* Split at spaces. */
static int split(char *line, char **argv)
{
	int argc = 0;

	for (char *word = strtok(line, " "); word && argc < WORDS;
	     word = strtok(NULL, " "))
		argv[argc++] = word;
	argv[argc] = NULL;
	return argc;
}

static void child(const char *line, int out, int err)
{
	char *argv[WORDS + 1], copy[256];
	int argc;

	snprintf(copy, sizeof(copy), "%s", line);
	argc = split(copy, argv);
	dup2(out, STDOUT_FILENO);
	dup2(err, STDERR_FILENO);
	exit(cli_main(argc, argv));
}

static void run_to(const char *line, int out, struct outcome *outcome)
{
	int err = scratch(), status = -1;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid)
		child(line, out, err);
	CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status));
	outcome->status = WEXITSTATUS(status);
	slurp(out, outcome->out, sizeof(outcome->out));
	slurp(err, outcome->err, sizeof(outcome->err));
}

static void run(const char *line, struct outcome *outcome)
{
	run_to(line, scratch(), outcome);
}

static bool one_line(const char *text)
{
	return *text && strchr(text, '\n') == text + strlen(text) - 1;
}

static void wrong_use_of(const char *line, const char *words)
{
	struct outcome outcome;

	run(line, &outcome);
	CHECK_FOR(line, outcome.status == EXIT_USAGE);
	CHECK_FOR(line, !*outcome.out);
	CHECK_FOR(line, one_line(outcome.err));
	CHECK_FOR(line, strstr(outcome.err, words));
	CHECK_FOR(line, strstr(outcome.err, "--help"));
}

static void wrong_use(void)
{
	static const struct {
		const char *line, *words;
	} rows[] = {
		{ "dksm", "no command" },
		{ "dksm frobnicate", "'frobnicate'" },
		{ "dksm --frobnicate", "'--frobnicate'" },
		{ "dksm -x", "'-x'" },
		{ "dksm merge", "no PID" },
		{ "dksm merge --json", "no PID" },
		{ "dksm merge zero", "'zero'" },
		{ "dksm merge 0", "'0'" },
		{ "dksm merge 1 1000", "'1000'" },
		{ "dksm merge 1 1000+4K 2001-3000", "'2001-3000'" },
		{ "dksm merge 1 --wrong", "'--wrong'" },
		{ "dksm merge -q 1", "'-q'" },
		{ "dksm merge --json=yes 1", "'--json=yes'" },
		{ "dksm merge 1 --domain", "needs a value" },
		{ "dksm merge --domain a/b 1", "'a/b'" },
		{ "dksm merge --domain= 1", "domain name" },
		{ "dksm unmerge", "no PID" },
		{ "dksm unmerge --domain web 1", "--domain" },
		{ "dksm unmerge 1 9-8", "'9-8'" },
		{ "dksm unmerge --dry-run 1 1000+4K", "--dry-run" },
		{ "dksm unmerge --dry-run", "no PID" },
		{ "dksm merge --dry-run 1", "--dry-run" },
		{ "dksm stat me", "'me'" },
		{ "dksm stat 1 1000-2000", "too many" },
		{ "dksm stat --domain web", "--domain" },
		{ "dksm stat --wrong", "'--wrong'" },
		{ "dksm stat --prometheus 1", "neither a PID nor" },
		{ "dksm stat --json --prometheus", "neither a PID nor" },
		{ "dksm merge --prometheus 1", "--prometheus" },
		{ "dksm run", "no VMM" },
		{ "dksm run --", "no VMM" },
		{ "dksm run --wrong true", "'--wrong'" },
		{ "dksm run --domain a/b true", "'a/b'" },
		{ "dksm run --report", "needs a value" },
		{ "dksm attach", "no PID" },
		{ "dksm attach me", "'me'" },
		{ "dksm attach 1 2", "'2'" },
		{ "dksm attach --report x 1", "--report" },
		{ "dksm detach", "no PID" },
		{ "dksm detach --domain web 1", "no options" },
		{ "dksm detach --fresh-frames 1", "no options" },
		{ "dksm merge --fresh-frames 1", "'--fresh-frames'" },
		{ "dksm unmerge --untrusted 1", "--untrusted" },
		{ "dksm stat --untrusted", "--untrusted" },
		{ "dksm merge --no-vmm 1", "'--no-vmm'" },
		{ "dksm attach --untrusted=yes 1", "'--untrusted=yes'" },
		{ "dksm attach --fresh-frames=yes 1", "'--fresh-frames=yes'" },
		{ "dksm top --batch 1", "'1'" },
		{ "dksm top --batch --sort size", "'size'" },
		{ "dksm top --batch --domain a/b", "'a/b'" },
		{ "dksm top --batch --interval 0", "'0'" },
		{ "dksm top --batch --interval 1e3", "'1e3'" },
		{ "dksm top --batch --interval .", "'.'" },
		{ "dksm top --batch --iterations 0", "'0'" },
		{ "dksm top --batch --iterations -1", "'-1'" },
		{ "dksm top --batch --json", "either" },
		{ "dksm top --iterations 1", "--batch" },
		{ "dksm top --sort", "needs a value" },
		{ "dksm top", "no terminal" },
		{ "dksm doctor me", "'me'" },
		{ "dksm doctor 1 2", "too many" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		wrong_use_of(rows[i].line, rows[i].words);
}

/* No line beyond column 80, no more than 24 of them, and examples. */
static bool one_screen(char *text)
{
	int lines = 0;

	if (!strstr(text, "Example:\n") && !strstr(text, "Examples:\n"))
		return false;
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
		if (strlen(line) > 80)
			return false;
		lines++;
	}
	return lines <= 24;
}

static void help_is_good(const char *line)
{
	struct outcome outcome;

	run(line, &outcome);
	CHECK_FOR(line, outcome.status == EXIT_OK);
	CHECK_FOR(line, !*outcome.err);
	CHECK_FOR(line, !strncmp(outcome.out, "Usage: dksm ", 12));
	CHECK_FOR(line, one_screen(outcome.out));
}

static void helps(void)
{
	static const char *const lines[] = {
		"dksm --help", "dksm -h",
		"dksm merge --domain web 1 --help nonsense",
	};

	for (size_t i = 0; i < ARRAY_SIZE(lines); i++)
		help_is_good(lines[i]);
}

/* The names of all commands, from "dksm --help"; returns how many. */
static size_t command_names(char names[][16], size_t max)
{
	struct outcome outcome;
	char *line;
	size_t nr = 0;

	run("dksm --help", &outcome);
	line = strstr(outcome.out, "\nCommands:\n");
	for (line = line ? line + 11 : NULL; line && nr < max;
	     line = strchr(line, '\n') + 1) {
		if (sscanf(line, "  %15s", names[nr]) != 1 || *line == '\n')
			break;
		nr++;
	}
	return nr;
}

/* Also of commands that this test does not know by name. */
static void helps_of_commands(void)
{
	char names[32][16], line[32];
	size_t nr = command_names(names, ARRAY_SIZE(names));

	CHECK(nr >= 7);
	for (size_t i = 0; i < nr; i++) {
		snprintf(line, sizeof(line), "dksm %s --help", names[i]);
		help_is_good(line);
		snprintf(line, sizeof(line), "dksm %s -h", names[i]);
		help_is_good(line);
		snprintf(line, sizeof(line), "dksm %s --frob", names[i]);
		wrong_use_of(line, "--frob");
	}
}

static void all_commands_listed(void)
{
	static const char *const names[] = {
		"run", "attach", "detach", "merge", "unmerge", "stat", "top",
		"doctor",
	};
	struct outcome outcome;
	char line[32];

	run("dksm --help", &outcome);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		snprintf(line, sizeof(line), "\n  %s ", names[i]);
		CHECK_FOR(names[i], strstr(outcome.out, line));
	}
}

static void version(void)
{
	struct outcome outcome;

	run("dksm --version", &outcome);
	CHECK(outcome.status == EXIT_OK && !*outcome.err);
	CHECK(!strcmp(outcome.out, "dksm " DKSM_VERSION "\n"));
}

static void full_disk(void)
{
	struct outcome outcome;

	run_to("dksm --help", open("/dev/full", O_WRONLY), &outcome);
	CHECK(outcome.status == EXIT_FAILED);
	CHECK(one_line(outcome.err) && strstr(outcome.err, "cannot write"));
}

/* With or without DKSM on this host, a process that cannot be is a failure. */
static void no_process(void)
{
	static const char *const lines[] = {
		"dksm merge 2147483647", "dksm unmerge --json 2147483647",
		"dksm stat 2147483647", "dksm attach 2147483647",
		"dksm detach 2147483647",
	};
	struct outcome outcome;

	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		run(lines[i], &outcome);
		CHECK_FOR(lines[i], outcome.status == EXIT_FAILED);
		CHECK_FOR(lines[i], !*outcome.out && one_line(outcome.err));
	}
}

static const struct ktap_test tests[] = {
	{ "wrong use", wrong_use },
	{ "help fits on a screen", helps },
	{ "help and wrong use of each command", helps_of_commands },
	{ "help lists all commands", all_commands_listed },
	{ "version", version },
	{ "output that cannot be written", full_disk },
	{ "a process that is not there", no_process },
};

KTAP_MAIN(tests)
