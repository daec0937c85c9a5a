// SPDX-License-Identifier: MIT
/*
 * One small guest of our own VMM, until it is killed: guest MIB SEED.  Half of its
 * memory is loaded by the VMM as an image is, the rest the guest fills itself; a page's
 * contents follow from SEED and its number.  Then it says where its memory is and
 * halts, but for an interrupt now and then.  bench/mix.py starts many.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <unistd.h>

#include "tests.h"

#define WAKE_MS 200

static void guest_run(struct region *r, u64 seed)
{
	size_t half = r->pages / 2, rest = r->pages - half;

	op_vm_open(r, (long[4]){ 1 });
	op_vm_slot(r, (long[4]){ 0, r->pages, 0 });
	op_vm_load(r, NULL);
	region_fill(r, VM_PAGES, half - VM_PAGES, seed + VM_PAGES, 1);
	op_guest_fill(r, (long[4]){ half, rest, seed + half, 1 });
	printf("guest ready at %zu\n", (size_t)r->addr);
	fflush(stdout);
	op_guest_halt(r, (long[4]){ 1L << 40, WAKE_MS, 0, 0 });
}

int main(int argc, char **argv)
{
	size_t mib = argc == 3 ? strtoul(argv[1], NULL, 10) : 0;
	struct region r;

	if (!mib || mib > 1024) {
		fprintf(stderr, "Usage: guest MIB SEED; 1 to 1024 MiB\n");
		return 2;
	}
	if (access("/dev/kvm", R_OK | W_OK)) {
		perror("guest: /dev/kvm");
		return 1;
	}
	test_begin("guest");
	r = region_map(mib * 256);
	guest_run(&r, strtoull(argv[2], NULL, 10) << 32);
	return 0;
}
