// SPDX-License-Identifier: MIT
/*
 * Command lines.  Whatever is accepted here is well-formed: a positive PID,
 * page-aligned ranges that are not empty and do not wrap around, a domain name
 * that the kernel would take.
 */
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

#define NAME_CHARS						\
	"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"	\
	"0123456789._-"

enum {
	OPT_DOMAIN = OPT_LONG, OPT_UNTRUSTED, OPT_JSON, OPT_PROMETHEUS, OPT_DRY_RUN,
	OPT_HELP
};

static const struct option options[] = {
	{ "json", no_argument, NULL, OPT_JSON },
	{ "prometheus", no_argument, NULL, OPT_PROMETHEUS },
	{ "dry-run", no_argument, NULL, OPT_DRY_RUN },
	{ "help", no_argument, NULL, OPT_HELP },
	{ "domain", required_argument, NULL, OPT_DOMAIN },
	{ "untrusted", no_argument, NULL, OPT_UNTRUSTED },
	{ NULL, 0, NULL, 0 },
};

static const char *skip_0x(const char *text)
{
	bool prefixed = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');

	return prefixed && isxdigit((unsigned char)text[2]) ? text + 2 : text;
}

/* Unlike strtoull(), take no sign, no space and no prefix. */
static bool number_parse(const char *text, const char **end, int base,
			 uint64_t *number)
{
	bool digit = base == 16 ? isxdigit((unsigned char)*text) :
				  isdigit((unsigned char)*text);
	char *stop;

	if (!digit || skip_0x(text) != text)
		return false;
	errno = 0;
	*number = strtoull(text, &stop, base);
	*end = stop;
	return !errno;
}

bool pid_parse(const char *text, pid_t *pid)
{
	const char *end;
	uint64_t number;

	if (!number_parse(text, &end, 10, &number) || *end)
		return false;
	*pid = (pid_t)number;
	return number && number <= INT_MAX;
}

static bool address_parse(const char *text, const char **end, uint64_t *address)
{
	return number_parse(skip_0x(text), end, 16, address);
}

/* The power of two that a suffix stands for, -1 for none. */
static int suffix_shift(const char *suffix)
{
	static const char letters[] = "KMG";
	const char *letter;

	if (!*suffix)
		return 0;
	letter = strchr(letters, toupper((unsigned char)*suffix));
	if (!letter || suffix[1])
		return -1;
	return 10 * (int)(letter - letters + 1);
}

/* Decimal with a suffix, or hexadecimal with 0x. */
static bool size_parse(const char *text, uint64_t *size)
{
	const char *digits = skip_0x(text), *end;
	int shift;

	if (!number_parse(digits, &end, digits == text ? 10 : 16, size))
		return false;
	shift = suffix_shift(end);
	if (shift < 0 || *size > UINT64_MAX >> shift)
		return false;
	*size <<= shift;
	return true;
}

static const char *range_check(const struct range *range, uint64_t page_size)
{
	if (!range->len)
		return "an empty range";
	if ((range->start | range->len) & (page_size - 1))
		return "not a multiple of the page size";
	if (range->len > UINT64_MAX - range->start)
		return "goes beyond the last address";
	return NULL;
}

const char *range_parse(const char *text, uint64_t page_size,
			struct range *range)
{
	const char *next;
	uint64_t end;

	if (!address_parse(text, &next, &range->start))
		return "not a hexadecimal address";
	if (*next == '+') {
		if (!size_parse(next + 1, &range->len))
			return "not a size such as 4096, 64K or 0x10000";
		return range_check(range, page_size);
	}
	if (*next != '-')
		return "not of the form START-END or START+SIZE";
	if (!address_parse(next + 1, &next, &end) || *next)
		return "not a hexadecimal address";
	if (end < range->start)
		return "ends before it starts";
	range->len = end - range->start;
	return range_check(range, page_size);
}

bool domain_name_valid(const char *name)
{
	size_t len = strlen(name);

	return len && len < DKSM_NAME_SIZE && name[0] != '.' &&
	       strspn(name, NAME_CHARS) == len;
}

int domain_name_check(const char *command, const char *name)
{
	if (domain_name_valid(name))
		return EXIT_OK;
	return usage_error(command, "bad domain name '%s': use up to 63 of "
			   "A-Z a-z 0-9 . _ -, the first not a dot", name);
}

int option_error(int opt, char **argv)
{
	if (opt == ':')
		return usage_error(argv[0], "'%s' needs a value",
				   argv[optind - 1]);
	if (optopt && optopt < OPT_LONG)
		return usage_error(argv[0], "unknown option '-%c'", optopt);
	return usage_error(argv[0], "wrong option '%s'", argv[optind - 1]);
}

static int domain_option(struct args *args, char **argv, unsigned int accept)
{
	if (!(accept & ARGS_DOMAIN))
		return usage_error(argv[0], "--domain makes no sense here");
	args->domain = optarg;
	return domain_name_check(argv[0], optarg);
}

static int untrusted_option(struct args *args, char **argv, unsigned int accept)
{
	if (!(accept & ARGS_DOMAIN))
		return usage_error(argv[0], "--untrusted makes no sense here");
	args->domain_flags |= DKSM_DOMAIN_UNTRUSTED;
	return EXIT_OK;
}

static int prometheus_option(struct args *args, char **argv,
			     unsigned int accept)
{
	if (!(accept & ARGS_PROMETHEUS))
		return usage_error(argv[0], "--prometheus makes no sense here");
	args->prometheus = true;
	return EXIT_OK;
}

static int dry_run_option(struct args *args, char **argv, unsigned int accept)
{
	if (!(accept & ARGS_DRY_RUN))
		return usage_error(argv[0], "--dry-run makes no sense here");
	args->dry_run = true;
	return EXIT_OK;
}

static int option(struct args *args, int opt, char **argv, unsigned int accept)
{
	switch (opt) {
	case OPT_JSON:
		args->json = true;
		return EXIT_OK;
	case 'h':
	case OPT_HELP:
		args->help = true;
		return EXIT_OK;
	case OPT_DOMAIN:
		return domain_option(args, argv, accept);
	case OPT_UNTRUSTED:
		return untrusted_option(args, argv, accept);
	case OPT_PROMETHEUS:
		return prometheus_option(args, argv, accept);
	case OPT_DRY_RUN:
		return dry_run_option(args, argv, accept);
	default:
		return option_error(opt, argv);
	}
}

static int ranges_parse(struct args *args, const char *command, char **texts,
			size_t nr)
{
	const char *wrong;

	args->ranges = calloc(nr, sizeof(*args->ranges));
	if (nr && !args->ranges)
		return usage_error(command, "too many ranges");
	for (args->nr = 0; args->nr < nr; args->nr++) {
		wrong = range_parse(texts[args->nr], page_bytes(),
				    &args->ranges[args->nr]);
		if (wrong)
			return usage_error(command, "range '%s': %s",
					   texts[args->nr], wrong);
	}
	return EXIT_OK;
}

static int operands(struct args *args, int argc, char **argv,
		    unsigned int accept)
{
	if (optind == argc && accept & ARGS_NO_PID)
		return EXIT_OK;
	if (optind == argc)
		return usage_error(argv[0], "no PID given");
	if (!pid_parse(argv[optind], &args->pid))
		return usage_error(argv[0], "'%s' is not a PID", argv[optind]);
	optind++;
	if (optind < argc && !(accept & ARGS_RANGES))
		return usage_error(argv[0], "'%s' is one argument too many",
				   argv[optind]);
	return ranges_parse(args, argv[0], argv + optind,
			    (size_t)(argc - optind));
}

int args_parse(struct args *args, int argc, char **argv, unsigned int accept)
{
	int opt, status;

	memset(args, 0, sizeof(*args));
	optind = 0;		/* glibc: start afresh */
	while ((opt = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		status = option(args, opt, argv, accept);
		if (status || args->help)
			return status;
	}
	return operands(args, argc, argv, accept);
}

void args_free(struct args *args)
{
	free(args->ranges);
}
