// SPDX-License-Identifier: MIT
/* What programs use of the C library is used here, to be the same in all of them. */
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include "base.h"

static char text[256 << 10], packed[sizeof(text) * 2], unpacked[sizeof(text)];
static size_t packed_size;
static packer *unpack_text;
static uint64_t text_sum;

int serve(bool (*intact)(void))
{
	char line[80];

	puts("guest ready");
	while (fgets(line, sizeof(line), stdin))
		puts(intact() ? "intact" : "corrupt");
	return 0;
}

uint64_t next(uint64_t *state)
{
	uint64_t x = *state += 0x9e3779b97f4a7c15;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}

uint64_t seed(void)
{
	uint64_t state;

	return getrandom(&state, sizeof(state), 0) == sizeof(state) ? state : 0;
}

static uint64_t checksum(const char *data, size_t size)
{
	uint64_t sum = 0xcbf29ce484222325;

	while (size--)
		sum = (sum ^ *data++) * 0x100000001b3;
	return sum;
}

static bool text_intact(void)
{
	return checksum(text, sizeof(text)) == text_sum &&
	       unpack_text(unpacked, sizeof(unpacked), packed, packed_size) == sizeof(text) &&
	       memcmp(unpacked, text, sizeof(text)) == 0;
}

int keep(packer *pack, packer *unpack)
{
	uint64_t state = 0;

	for (size_t i = 0; i < sizeof(text); i += 4)
		snprintf(text + i, 4, "%03x", (unsigned)next(&state) % 1000);
	text_sum = checksum(text, sizeof(text));
	packed_size = pack(packed, sizeof(packed), text, sizeof(text));
	unpack_text = unpack;
	return text_intact() ? serve(text_intact) : 1;
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

int run(uint64_t (*work)(void))
{
	uint64_t start = now(), count = 0;

	puts("guest ready");
	for (;;) {
		uint64_t time;

		count += work();
		time = now() - start;
		if (time >= 1000000000) {
			printf("rate %.0f\n", count * 1e9 / time);
			start += time;
			count = 0;
		}
	}
}
