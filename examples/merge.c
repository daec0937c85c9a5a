/* SPDX-License-Identifier: MIT */
/*
 * What a VMM that knows of DKSM does: load a guest, then have its memory shared
 * with that of the guests of the same domain, before the guest runs.
 *
 *	cc merge.c -o merge $(pkg-config --cflags --libs libdksm)
 *	./merge web vmlinux
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <dksm.h>

struct memory {
	void *start;
	size_t size;	/* a multiple of the page size */
};

/* Guest memory that can be merged is private and anonymous. */
static int load(const char *image, struct memory *memory)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), used = 0;
	struct stat st;
	ssize_t got = -1;
	int fd = open(image, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &st))
		return -1;
	memory->size = ((size_t)st.st_size + page - 1) / page * page;
	memory->start = mmap(NULL, memory->size, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory->start != MAP_FAILED)
		while ((got = read(fd, (char *)memory->start + used,
				   memory->size - used)) > 0)
			used += (size_t)got;
	close(fd);
	return got ? -1 : 0;
}

/* For memory of another process, give a pidfd in place of DKSM_SELF. */
static int share(const char *domain, const struct memory *memory,
		 struct dksm_report *report)
{
	struct dksm *dksm;
	int err = dksm_open(&dksm);

	if (err)
		return err;
	err = dksm_domain_join(dksm, domain, DKSM_DOMAIN_CREATE);
	if (!err)
		err = dksm_merge(dksm, DKSM_SELF, (uintptr_t)memory->start,
				 memory->size, report);
	dksm_close(dksm);
	return err;
}

static void print(const struct dksm_report *report)
{
	unsigned int reason;
	const char *name;

	printf("scanned %llu, merged %llu, published %llu, zero %llu\n",
	       report->scanned, report->merged, report->published, report->zero);
	for (reason = 0; reason < DKSM_SKIP_MAX; reason++) {
		name = dksm_skip_name(reason);
		if (report->skipped[reason])
			printf("skipped %llu: %s\n", report->skipped[reason],
			       name ? name : "unknown");
	}
	fflush(stdout);
}

int main(int argc, char **argv)
{
	struct dksm_report report;
	struct memory memory;
	int err;

	if (argc != 3) {
		fprintf(stderr, "usage: merge DOMAIN IMAGE\n");
		return 2;
	}
	if (load(argv[2], &memory)) {
		perror(argv[2]);
		return 1;
	}
	err = share(argv[1], &memory, &report);
	if (err)	/* a guest runs without sharing, too */
		fprintf(stderr, "not shared: %s\n", strerror(-err));
	else
		print(&report);
	getchar();	/* here the guest would run */
	return err ? 1 : 0;
}
