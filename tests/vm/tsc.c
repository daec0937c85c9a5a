// SPDX-License-Identifier: MIT
/*
 * Print the frequency of this machine's time stamp counter in kHz, for the kernel
 * parameter tsc_early_khz: an emulated CPU has the same counter, and a kernel that
 * measures it against an emulated timer gets it wrong when the machine is busy.
 */
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#define MEASURE_US	20000

struct reading {
	uint64_t tsc, ns;
};

/* The best of some: nobody came in between the two clocks. */
static struct reading read_both(void)
{
	struct reading best = { 0 };
	uint64_t least = UINT64_MAX;

	for (int i = 0; i < 16; i++) {
		uint64_t before = __rdtsc(), after;
		struct timespec now;

		clock_gettime(CLOCK_MONOTONIC_RAW, &now);
		after = __rdtsc();
		if (after - before >= least)
			continue;
		least = after - before;
		best.tsc = before + least / 2;
		best.ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
	}
	return best;
}

int main(void)
{
	struct reading from = read_both(), to;

	usleep(MEASURE_US);
	to = read_both();
	printf("%.0f\n", 1e6 * (double)(to.tsc - from.tsc) / (double)(to.ns - from.ns));
	return 0;
}
