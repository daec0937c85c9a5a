// SPDX-License-Identifier: MIT
/*
 * What run, attach and detach have in common: their options, and joining the
 * domain that a process is to be attached to.
 */
#include <errno.h>
#include <getopt.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

enum {
	OPT_DOMAIN = OPT_LONG, OPT_UNTRUSTED, OPT_FRESH, OPT_NO_IDLE,
	OPT_NO_LEARN, OPT_NO_VMM, OPT_REPORT, OPT_HELP
};

static const struct option options[] = {
	{ "domain", required_argument, NULL, OPT_DOMAIN },
	{ "untrusted", no_argument, NULL, OPT_UNTRUSTED },
	{ "fresh-frames", no_argument, NULL, OPT_FRESH },
	{ "no-idle", no_argument, NULL, OPT_NO_IDLE },
	{ "no-learn", no_argument, NULL, OPT_NO_LEARN },
	{ "no-vmm", no_argument, NULL, OPT_NO_VMM },
	{ "help", no_argument, NULL, OPT_HELP },
	{ "report", required_argument, NULL, OPT_REPORT },
	{ NULL, 0, NULL, 0 },
};

static int option(struct attach_args *args, int opt, char **argv)
{
	switch (opt) {
	case OPT_DOMAIN:
		args->domain = optarg;
		return domain_name_check(argv[0], optarg);
	case OPT_UNTRUSTED:
		args->domain_flags |= DKSM_DOMAIN_UNTRUSTED;
		return EXIT_OK;
	case OPT_FRESH:
		args->domain_flags |= DKSM_DOMAIN_FRESH_FRAMES;
		return EXIT_OK;
	case OPT_NO_IDLE:
		args->flags |= DKSM_ATTACH_NO_IDLE;
		return EXIT_OK;
	case OPT_NO_LEARN:
		args->flags |= DKSM_ATTACH_NO_LEARN;
		return EXIT_OK;
	case OPT_NO_VMM:
		args->flags |= DKSM_ATTACH_NO_VMM;
		return EXIT_OK;
	case OPT_REPORT:
		args->report = optarg;
		return EXIT_OK;
	case 'h':
	case OPT_HELP:
		args->help = true;
		return EXIT_OK;
	default:
		return option_error(opt, argv);
	}
}

/* Options end at the first other word: what follows may have its own. */
int attach_parse(struct attach_args *args, int argc, char **argv)
{
	int opt, status;

	memset(args, 0, sizeof(*args));
	optind = 0;		/* glibc: start afresh */
	while ((opt = getopt_long(argc, argv, "+:h", options, NULL)) != -1) {
		status = option(args, opt, argv);
		if (status || args->help)
			return status;
	}
	args->operands = argv + optind;
	args->nr = argc - optind;
	return EXIT_OK;
}

void own_domain(char name[DKSM_NAME_SIZE])
{
	if (geteuid())
		snprintf(name, DKSM_NAME_SIZE, "user-%u", geteuid());
	else
		snprintf(name, DKSM_NAME_SIZE, "default");
}

/* ENOENT: neither the handle nor the process has a domain yet. */
static struct failure attach_somewhere(struct dksm *handle, int pidfd,
				       const struct attach_args *args)
{
	int err = args->domain || args->domain_flags ? -ENOENT :
			dksm_attach(handle, pidfd, args->flags);
	char name[DKSM_NAME_SIZE];

	if (err != -ENOENT)
		return failure_at(STEP_ATTACH, err);
	own_domain(name);
	if (args->domain)
		snprintf(name, sizeof(name), "%s", args->domain);
	err = dksm_domain_join(handle, name,
			       DKSM_DOMAIN_CREATE | args->domain_flags);
	if (err)
		return failure_domain(err, name);
	return failure_at(STEP_ATTACH,
			  dksm_attach(handle, pidfd, args->flags));
}

/* A kernel with DKSM but without the call: it would say ENOTTY. */
struct failure attach_process(int pidfd, const struct attach_args *args)
{
	struct failure failure;
	struct dksm *handle;
	int err = dksm_open(&handle);

	if (err)
		return failure_open(err);
	failure = attach_somewhere(handle, pidfd, args);
	dksm_close(handle);
	return failure;
}
