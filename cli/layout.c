// SPDX-License-Identifier: MIT
/*
 * Suggests a layout: what has the same source files in all images goes first, in one
 * order and at one address, so that it is the same page by page.  Object files are
 * known by the names of their sources in the symbol table.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "image.h"

static int by_name(const void *a, const void *b)
{
	const struct label *left = a, *right = b;

	return strcmp(left->name, right->name);
}

static bool is_common(const struct comparison *all, const struct label *source)
{
	for (size_t i = 1; i < all->nr; i++)
		if (!bsearch(source, all->images[i].sources.list, all->images[i].sources.nr,
			     sizeof(*source), by_name))
			return false;
	return strspn(source->name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
		      "0123456789_.-+") == strlen(source->name);
}

/* foo.c is compiled into foo.o, or foo.c.o, foo.lo and the like. */
static void section_print(FILE *out, const struct comparison *all, const char *kind,
			  const char *inputs, const char *where)
{
	const struct labels *sources = &all->images[0].sources;

	fprintf(out, "\t.%s.common %s : {\n", kind, where);
	for (size_t i = 0; i < sources->nr; i++) {
		const char *name = sources->list[i].name;

		if ((i && !strcmp(name, sources->list[i - 1].name)) ||
		    !is_common(all, &sources->list[i]))
			continue;
		fprintf(out, "\t\t*:%.*s.*o(%s)\n", (int)strcspn(name, "."), name, inputs);
	}
	/* What has no source's name, assembly above all. */
	fprintf(out, "\t\t*.a:*(%s)\n\t}\n", inputs);
}

/* Behind the headers and what the linker puts before .init, rounded up generously. */
static uint64_t address_for(const struct comparison *all)
{
	uint64_t highest = 0;

	for (size_t i = 0; i < all->nr; i++)
		if (all->images[i].segments[0].address > highest)
			highest = all->images[i].segments[0].address;
	return (highest + 0x1ffff) & ~0xffffULL;
}

const char *layout_print(FILE *out, const struct comparison *all)
{
	size_t common = 0;
	char where[40];

	for (size_t i = 0; i < all->nr; i++)
		if (all->images[i].sources.nr)
			qsort(all->images[i].sources.list, all->images[i].sources.nr,
			      sizeof(struct label), by_name);
	for (size_t i = 0; i < all->images[0].sources.nr; i++)
		common += is_common(all, &all->images[0].sources.list[i]);
	if (all->nr < 2 || !common)
		return "no library is common: give two images or more that have symbol tables";
	fprintf(out, "/* Link each image with -Wl,-z,norelro,-T,THIS_FILE */\nSECTIONS\n{\n");
	snprintf(where, sizeof(where), "0x%" PRIx64, address_for(all));
	section_print(out, all, "text", ".text .text.*", where);
	section_print(out, all, "rodata", ".rodata .rodata.*", "ALIGN(4K)");
	section_print(out, all, "data", ".data .data.*", "ALIGN(4K)");
	fputs("\t. = ALIGN(4K);\n}\nINSERT BEFORE .init;\n", out);
	return NULL;
}
