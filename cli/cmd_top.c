// SPDX-License-Identifier: MIT
/* dksm top: its options, and what it prints for scripts. */
#include <ctype.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "top.h"

#define INTERVAL_MIN 0.1
#define INTERVAL_MAX 3600
#define ITERATIONS_MAX 1000000000

static const char help[] =
	"Usage: dksm top [--sort COLUMN] [--domain NAME] [--filter TEXT]\n"
	"                [--interval SECONDS] [--batch | --json] [--iterations N]\n"
	"\n"
	"Watch domains and their processes; key h tells the keys, q quits.\n"
	"\n"
	"  MEMORY    anonymous memory of the processes, merged or not\n"
	"  SHARED    of this, what is mapped more than once\n"
	"  SAVED     what would be in use without DKSM; of a process, its part\n"
	"  COPIES/S  writes that made a shared page private, a second\n"
	"  LEARNED   contents, of a process pages, left alone: written to soon\n"
	"\n"
	"  --sort COLUMN       pid, domain, memory, shared, saved (default), copies,\n"
	"                      learned or command\n"
	"  --domain NAME       this domain only\n"
	"  --filter TEXT       only what has this in PID, domain or command\n"
	"  --interval SECONDS  from one look to the next: 0.1 to 3600, 2 by default\n"
	"  --batch             print tables, without a terminal\n"
	"  --json              print JSON instead\n"
	"  --iterations N      of --batch or --json; without end by default\n"
	"\n"
	"Examples:\n"
	"  dksm top --sort copies\n"
	"  dksm top --json --iterations 2 | jq '.total.cow_breaks_per_second'\n";

enum {
	OPT_SORT = OPT_LONG, OPT_DOMAIN, OPT_FILTER, OPT_INTERVAL, OPT_BATCH,
	OPT_JSON, OPT_ITERATIONS, OPT_HELP
};

static const struct option options[] = {
	{ "sort", required_argument, NULL, OPT_SORT },
	{ "domain", required_argument, NULL, OPT_DOMAIN },
	{ "filter", required_argument, NULL, OPT_FILTER },
	{ "interval", required_argument, NULL, OPT_INTERVAL },
	{ "batch", no_argument, NULL, OPT_BATCH },
	{ "json", no_argument, NULL, OPT_JSON },
	{ "iterations", required_argument, NULL, OPT_ITERATIONS },
	{ "help", no_argument, NULL, OPT_HELP },
	{ NULL, 0, NULL, 0 },
};

struct top_args {
	struct top_source source;
	bool batch;
	bool json;
	bool help;
	unsigned long iterations;	/* 0: without end */
};

static int sort_option(struct top_args *args, const char *command)
{
	args->source.view.sort = top_column_find(optarg);
	if (args->source.view.sort != TOP_COLUMNS)
		return EXIT_OK;
	return usage_error(command, "no column '%s' to sort by", optarg);
}

static int domain_option(struct top_args *args, const char *command)
{
	int status = domain_name_check(command, optarg);

	if (!status)
		strcpy(args->source.view.domain, optarg);
	return status;
}

static int filter_option(struct top_args *args, const char *command)
{
	if (strlen(optarg) >= sizeof(args->source.view.text))
		return usage_error(command, "the text to filter by is too long");
	strcpy(args->source.view.text, optarg);
	return EXIT_OK;
}

/* Digits and a point, so that no sign, infinity or hexadecimal goes. */
static int interval_option(struct top_args *args, const char *command)
{
	double *interval = &args->source.interval;
	char *end = optarg;

	if (strspn(optarg, "0123456789.") == strlen(optarg))
		*interval = strtod(optarg, &end);
	if (end == optarg || *end || *interval < INTERVAL_MIN ||
	    *interval > INTERVAL_MAX)
		return usage_error(command, "'%s' is not an interval of 0.1 to "
				   "3600 seconds", optarg);
	return EXIT_OK;
}

static int iterations_option(struct top_args *args, const char *command)
{
	char *end = optarg;

	if (isdigit((unsigned char)*optarg))
		args->iterations = strtoul(optarg, &end, 10);
	if (*end || !args->iterations || args->iterations > ITERATIONS_MAX)
		return usage_error(command, "'%s' is not a number of iterations",
				   optarg);
	return EXIT_OK;
}

static int option(struct top_args *args, int opt, char **argv)
{
	switch (opt) {
	case OPT_SORT:
		return sort_option(args, argv[0]);
	case OPT_DOMAIN:
		return domain_option(args, argv[0]);
	case OPT_FILTER:
		return filter_option(args, argv[0]);
	case OPT_INTERVAL:
		return interval_option(args, argv[0]);
	case OPT_ITERATIONS:
		return iterations_option(args, argv[0]);
	case OPT_JSON:
		args->json = true;
		return EXIT_OK;
	case OPT_BATCH:
		args->batch = true;
		return EXIT_OK;
	case 'h':
	case OPT_HELP:
		args->help = true;
		return EXIT_OK;
	default:
		return option_error(opt, argv);
	}
}

static int parse(struct top_args *args, int argc, char **argv)
{
	int opt, status;

	memset(args, 0, sizeof(*args));
	args->source.view.sort = TOP_SAVED;
	args->source.interval = 2;
	optind = 0;		/* glibc: start afresh */
	while ((opt = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		status = option(args, opt, argv);
		if (status || args->help)
			return status;
	}
	if (optind < argc)
		return usage_error(argv[0], "'%s' is one argument too many",
				   argv[optind]);
	if (args->batch && args->json)
		return usage_error(argv[0], "either --batch or --json");
	if (args->iterations && !args->batch && !args->json)
		return usage_error(argv[0], "--iterations goes with --batch or "
				   "--json");
	return EXIT_OK;
}

static void wait_seconds(double seconds)
{
	struct timespec time = { .tv_sec = (time_t)seconds };

	time.tv_nsec = (long)((seconds - (double)time.tv_sec) * 1e9);
	nanosleep(&time, NULL);
}

/* Ends when nobody can read it any more, too; cli_main() says so. */
static int print_all(struct top_args *args)
{
	struct top_source *source = &args->source;
	int err = top_next(source);

	for (unsigned long i = 1; !err; i++) {
		top_arrange(&source->now, &source->view);
		if (args->json)
			top_json(stdout, &source->now);
		else
			top_table(stdout, &source->now, &source->view);
		if (fflush(stdout) || i == args->iterations)
			break;
		wait_seconds(source->interval);
		err = top_next(source);
	}
	return err;
}

int cmd_top(int argc, char **argv)
{
	struct top_args args;
	struct failure failure;
	int status, err;

	status = parse(&args, argc, argv);
	if (args.help)
		fputs(help, stdout);
	if (status || args.help)
		return status;
	if (args.batch || args.json)
		err = print_all(&args);
	else if (isatty(STDIN_FILENO) && isatty(STDOUT_FILENO))
		err = top_live(&args.source);
	else
		return usage_error(argv[0], "this is no terminal: use --batch");
	top_free(&args.source.now);
	if (!err)
		return EXIT_OK;
	failure = failure_at(STEP_STAT, err);
	return failure_print(stderr, argv[0], 0, &failure);
}
