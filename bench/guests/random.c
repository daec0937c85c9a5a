// SPDX-License-Identifier: MIT
/*
 * A guest that reads at random from an array that is equal in all guests, and once
 * in so many reads writes to the next page of a ring. Needs 64 MiB.
 */
#include "base/base.h"

enum { WORDS = (16 << 20) / 8, PAGES = (4 << 20) / 4096, READS = 1000 };

static uint64_t array[WORDS], ring[PAGES][512], state;

static uint64_t work(void)
{
	static unsigned page;
	uint64_t sum = 0;

	for (int i = 0; i < READS; i++)
		sum += array[next(&state) % WORDS];
	ring[page++ % PAGES][0] = sum;
	return READS;
}

int main(void)
{
	for (size_t i = 0; i < WORDS; i++)
		array[i] = next(&state);
	state = seed();
	return run(work);
}
