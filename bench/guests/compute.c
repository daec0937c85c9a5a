// SPDX-License-Identifier: MIT
/* A guest that computes without end, in registers and the cache. */
#include "base/base.h"

static uint64_t table[1024], state;

static uint64_t work(void)
{
	enum { OPERATIONS = 100000 };

	for (int i = 0; i < OPERATIONS; i++) {
		uint64_t x = next(&state);

		table[x % 1024] += x;
	}
	return OPERATIONS;
}

int main(void)
{
	return run(work);
}
