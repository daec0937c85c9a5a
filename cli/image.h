/* SPDX-License-Identifier: MIT */
/*
 * Images of memory that are compared: image.c loads them, compare.c compares them,
 * heatmap.c and cmd_analyze.c show the result.
 */
#ifndef DKSM_IMAGE_H
#define DKSM_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define IMAGE_PAGE	4096ULL

/* The largest image that is taken: what is in a file, or in a process. */
#define IMAGE_PAGES_MAX	(1ULL << 26)

/**
 * struct segment - consecutive memory
 * @address:	where it begins; physical, but for a process
 * @filesz:	bytes that are given
 * @memsz:	bytes in memory; the rest are zeroes
 * @bytes:	the given ones; NULL in a process, whose segments are pages in memory
 * @pages:	pages that begin in it, or that it is the first in
 * @zero:	of these, all zero
 */
struct segment {
	uint64_t address;
	uint64_t filesz;
	uint64_t memsz;
	const uint8_t *bytes;
	uint64_t pages;
	uint64_t zero;
};

/* A page that is not all zero; @content is the same for equal pages. */
struct page {
	uint64_t address;
	uint64_t hash;
	uint32_t segment;
	uint32_t content;
};

/* A name of a part of memory: a section or a function; libelf's. */
struct label {
	uint64_t address;
	uint64_t size;
	const char *name;
};

struct labels {
	struct label *list;
	size_t nr;
};

/**
 * struct image - what a loader puts into memory
 * @name:	as given
 * @kind:	of file, in one word
 * @data:	the file or what was unpacked from it, mapped; NULL for a process
 * @size:	of @data
 * @elf:	of libelf, which owns the names; or NULL
 * @mem:	descriptor of a process's memory, else -1
 * @segments:	sorted, not overlapping
 * @pages:	sorted by address
 * @zero:	pages that are all zero, and in no list
 * @sections:	sorted, as are the functions
 * @functions:	of the symbol table, if there is one
 * @sources:	names of source files in the symbol table
 */
struct image {
	const char *name;
	const char *kind;
	uint8_t *data;
	size_t size;
	struct Elf *elf;
	int mem;
	struct segment *segments;
	size_t nr_segments;
	struct page *pages;
	size_t nr_pages;
	uint64_t zero;
	struct labels sections;
	struct labels functions;
	struct labels sources;
};

/*
 * NULL, or what is wrong in words.  image_free() is due in both cases.  image_load()
 * takes a file or a PID; image_parse() takes what is in @image->data.
 */
const char *image_load(struct image *image, const char *name);
const char *image_parse(struct image *image);
void image_free(struct image *image);
/* A page's content; false if a process's page is gone. */
bool image_page(const struct image *image, const struct page *page, uint8_t *content);
/* The page at an address, or NULL. */
const struct page *image_find(const struct image *image, uint64_t address);
/* The one that an address is in, or NULL. */
const struct label *label_find(const struct labels *labels, uint64_t address);

/* unpack.c: the kernel inside a bzImage, unpacked in place of it; or what is wrong. */
bool is_bzimage(const uint8_t *data, size_t size);
const char *bzimage_unpack(struct image *image);

/* Why a page of one image is not in another. */
enum reason {
	REASON_OFFSET,		/* it is, at another offset within the page */
	REASON_ADDRESSES,	/* it is, but for some bytes */
	REASON_STRINGS,		/* text, which the linker merges and orders */
	REASON_OTHER,		/* nothing like it is there */
	REASON_NR,
};

/* Pages of one section that have one reason. */
struct mismatch {
	enum reason reason;
	const char *section;	/* "" if unknown */
	const char *first, *last;	/* functions there, or NULL */
	uint64_t pages;
	uint64_t bytes;		/* that differ, in all of them */
};

struct mismatches {
	struct mismatch *list;
	size_t nr;
};

/**
 * struct comparison - some images and what they have in common
 * @images:	the images
 * @nr:		how many
 * @contents:	different contents of pages in all of them, without zeroes
 * @shared:	[a * nr + b]: pages of a whose content is in b, too; on the
 *		diagonal, those that are in a more than once
 * @distinct:	different contents in each image, without zeroes
 */
struct comparison {
	struct image *images;
	size_t nr;
	uint32_t contents;
	uint64_t *shared;
	uint64_t *distinct;
};

/* Also fills in the contents of all pages. Running out of memory ends the program. */
void compare(struct comparison *all);
void comparison_free(struct comparison *all);
/* Frames that hold the images, @instances of each, merged. */
uint64_t frames_of(const struct comparison *all, size_t first, size_t nr, uint64_t instances);
/* The list is to be freed. */
struct mismatches mismatches_find(const struct comparison *all, size_t a, size_t b);
const char *reason_text(enum reason reason);

/* heatmap.c: SVG. */
void heatmap(FILE *out, const struct comparison *all);

/* layout.c: a fragment of a linker script; NULL, or why there is none. */
const char *layout_print(FILE *out, const struct comparison *all);

#endif /* DKSM_IMAGE_H */
