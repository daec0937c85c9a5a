// SPDX-License-Identifier: MIT
/*
 * A guest without an operating system: functions that a test calls through its
 * virtual processor's registers (see tests/vm/t_vmm.c). It runs in long mode with
 * memory mapped one to one, fills, changes and checks pages by the same rule as
 * testlib.c, and halts. NMIs wake it up.
 *
 * Linked to BARE_CODE; NMI handler and entry are at fixed places there.
 */
#include "bare.h"

__asm__(
	".globl _start\n"
	"_start:\n"			/* rdi: function, rsi...: arguments */
	"	call	run\n"
	"	out	%al, $0x10\n"	/* rax: result */
	"	hlt\n"
	"	.org	_start + 0x20\n"
	"nmi:	incq	" BARE_STRING(BARE_NMIS) "\n"
	"	iretq\n"
);

typedef unsigned long u64;

#define WORDS 512

static volatile u64 *page_at(u64 page)
{
	return (volatile u64 *)(page * 4096);
}

static u64 word_of(u64 seed, u64 i)
{
	u64 x = (seed * 512 + i) * 0x9e3779b97f4a7c15ul;

	if (!seed)
		return 0;
	x ^= x >> 29;
	x *= 0xbf58476d1ce4e5b9ul;
	return x ^ x >> 32;
}

static void fill(u64 first, u64 n, u64 seed, u64 step)
{
	for (u64 p = 0; p < n; p++)
		for (u64 i = 0; i < WORDS; i++)
			page_at(first + p)[i] = word_of(seed + p * step, i);
}

/* How many pages are not as fill() leaves them. */
static u64 count_bad(u64 first, u64 n, u64 seed, u64 step)
{
	u64 bad = 0;

	for (u64 p = 0; p < n; p++) {
		u64 i = 0;

		while (i < WORDS &&
		       page_at(first + p)[i] == word_of(seed + p * step, i))
			i++;
		bad += i < WORDS;
	}
	return bad;
}

/* Sleep until so many NMIs have come; before each, write to some pages. */
static u64 halt(u64 nmis, u64 first, u64 n)
{
	volatile u64 *count = (volatile u64 *)BARE_NMIS;
	u64 end = *count + nmis, last = ~0ul;

	while (*count < end) {
		for (u64 p = 0; p < n && *count != last; p++)
			page_at(first + p)[0]++;
		last = *count;
		__asm__ volatile("hlt" ::: "memory");
	}
	return *count;
}

/* Never halts: sees a word change that somebody else writes. */
static u64 poll(u64 page, u64 value)
{
	while (page_at(page)[0] != value)
		__asm__ volatile("pause");
	return value;
}

__attribute__((used))
static u64 run(u64 fn, u64 a, u64 b, u64 c, u64 d)
{
	switch (fn) {
	case BARE_FILL:
		fill(a, b, c, d);
		return 0;
	case BARE_VERIFY:
		return count_bad(a, b, c, d);
	case BARE_POKE:
		page_at(a)[b] = c;
		return 0;
	case BARE_HALT:
		return halt(a, b, c);
	case BARE_POLL:
		return poll(a, b);
	}
	return ~0ul;
}
