/* SPDX-License-Identifier: MIT */
/*
 * Print what DKSM saves: on the host, in each domain, and of the processes that
 * are named.  It takes no handle and no right to merge.
 *
 *	cc stat.c -o stat $(pkg-config --cflags --libs libdksm)
 *	./stat $(pidof qemu-system-x86_64)
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <dksm.h>

static int fail(const char *what, int err)
{
	fprintf(stderr, "%s: %s\n", what, strerror(-err));
	return 1;
}

static void print(const char *name, const struct dksm_counters *counters)
{
	printf("%s: %" PRIu64 " bytes saved, %" PRIu64 " frames shared by %" PRIu64
	       " more pages, %" PRIu64 " written since\n", name,
	       counters->saved_bytes, counters->pages_shared,
	       counters->pages_sharing, counters->cow_breaks);
}

static int host(void)
{
	struct dksm_global global;
	int err = dksm_stat_global(&global);

	if (err)
		return fail("host", err);
	print("host", &global.counters);
	return 0;
}

static int domains(void)
{
	struct dksm_domain *list;
	size_t nr, i;
	int err = dksm_stat_domains(&list, &nr);

	if (err)
		return fail("domains", err);
	for (i = 0; i < nr; i++)
		print(list[i].name, &list[i].counters);
	dksm_stat_domains_free(list);
	return 0;
}

static int process(const char *pid)
{
	struct dksm_process process;
	int err = dksm_stat_process(atoi(pid), &process);

	if (err)
		return fail(pid, err);
	printf("%s: %" PRIu64 " pages merged in domain '%s', %" PRIu64 " zero\n",
	       pid, process.pages_merged, process.domain, process.pages_zero);
	return 0;
}

int main(int argc, char **argv)
{
	int i, failed = host() || domains();

	for (i = 1; i < argc && !failed; i++)
		failed = process(argv[i]);
	return failed;
}
