// SPDX-License-Identifier: MIT
/*
 * The dksm command: finds the subcommand and runs it.  Its exit status is 0 if
 * all was done, 1 if something went wrong, 2 if the command line was wrong.
 */
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "cli.h"

static const struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *help;
} commands[] = {
	{ "run", cmd_run, "run a VMM with its virtual machines merged" },
	{ "attach", cmd_attach, "do the same for a process that runs already" },
	{ "detach", cmd_detach, "leave a process's virtual machines alone" },
	{ "merge", cmd_merge, "share the equal pages of a process, now" },
	{ "unmerge", cmd_unmerge, "give a process private copies again" },
	{ "stat", cmd_stat, "show what is shared and what it saves" },
	{ "top", cmd_top, "watch domains and their processes" },
	{ "doctor", cmd_doctor, "find out why little is shared" },
	{ "analyze", cmd_analyze, "compare images of guests, before they run" },
};

static const char examples[] =
	"\n"
	"Examples:\n"
	"  dksm run qemu-system-x86_64 ...  start a VM that shares its memory\n"
	"  dksm merge 1234                  merge all of process 1234, now\n"
	"  dksm stat                        see what that has saved\n"
	"  dksm doctor 1234                 and why it is not more\n"
	"  dksm run --help                  more about one command\n";

static int help(void)
{
	printf("Usage: dksm COMMAND [ARGUMENT...]\n"
	       "       dksm --help | --version\n"
	       "\n"
	       "Merge equal memory pages of virtual machines when they start "
	       "and when they\n"
	       "are idle, or of any process when asked to: nothing runs in the "
	       "background.\n"
	       "A page that is written to becomes private again.\n"
	       "\n"
	       "Commands:\n");
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		printf("  %-10s %s\n", commands[i].name, commands[i].help);
	fputs(examples, stdout);
	return EXIT_OK;
}

int usage_error(const char *command, const char *format, ...)
{
	const char *space = *command ? " " : "";
	va_list args;

	fprintf(stderr, "dksm%s%s: ", space, command);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, " (see dksm%s%s --help)\n", space, command);
	return EXIT_USAGE;
}

static int version(void)
{
	puts("dksm " DKSM_VERSION);
	return EXIT_OK;
}

static const struct command *find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (!strcmp(commands[i].name, name))
			return &commands[i];
	return NULL;
}

static int run(int argc, char **argv)
{
	const struct command *command;

	if (argc < 2)
		return usage_error("", "no command given");
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
		return help();
	if (!strcmp(argv[1], "--version"))
		return version();
	if (argv[1][0] == '-')
		return usage_error("", "unknown option '%s'", argv[1]);
	command = find(argv[1]);
	if (!command)
		return usage_error("", "unknown command '%s'", argv[1]);
	return command->run(argc - 1, argv + 1);
}

/* A result that nobody could read is a failure (a full disk, for instance). */
int cli_main(int argc, char **argv)
{
	int status = run(argc, argv);

	errno = 0;
	if (!fflush(stdout) && !ferror(stdout))
		return status;
	fprintf(stderr, "dksm: cannot write the output: %s: send it elsewhere\n",
		strerror(errno ? errno : EIO));
	return EXIT_FAILED;
}
