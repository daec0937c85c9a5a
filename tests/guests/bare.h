/* SPDX-License-Identifier: MIT */
/* What tests/guests/bare.c and whoever runs it agree on. */
#ifndef BARE_H
#define BARE_H

#define BARE_STRING_(x)	#x
#define BARE_STRING(x)	BARE_STRING_(x)

/* Pages: 1 to 3 page tables, 4 descriptors and NMI counter, 5 stacks, 6 and 7 code */
#define BARE_TABLES	0x1000
#define BARE_DESCRIPTORS 0x4000
#define BARE_NMIS	0x4800
#define BARE_STACKS	0x6000	/* grow down from here, one for each processor */
#define BARE_STACK_SIZE	0x200
#define BARE_CODE	0x6000
#define BARE_NMI_ENTRY	(BARE_CODE + 0x20)
#define BARE_PAGES	8	/* what is above belongs to tests */
#define BARE_PORT	0x10	/* written to when a function has returned */

enum {
	BARE_FILL,	/* first page, number, seed, step */
	BARE_VERIFY,	/* the same; returns the number of bad pages */
	BARE_POKE,	/* page, word, value */
	BARE_HALT,	/* number of NMIs to wait for, pages written to before each */
	BARE_POLL,	/* page, value of its first word to wait for */
};

#endif /* BARE_H */
