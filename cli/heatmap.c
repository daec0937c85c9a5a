// SPDX-License-Identifier: MIT
/* The matrix of pages that images share, as an SVG picture: the darker, the more. */
#include <inttypes.h>
#include <string.h>

#include "cli.h"
#include "image.h"

#define CELL	64U
#define LEFT	200U
#define TOP	90U

static void text_escaped(FILE *out, const char *text)
{
	for (; *text; text++) {
		if (strchr("<>&\"", *text))
			fprintf(out, "&#%d;", *text);
		else
			fputc((unsigned char)*text < ' ' ? '?' : *text, out);
	}
}

static void name(FILE *out, const struct image *image, size_t x, size_t y, const char *place)
{
	const char *slash = strrchr(image->name, '/');

	fprintf(out, "<text x=\"%zu\" y=\"%zu\" %s>", x, y, place);
	text_escaped(out, slash ? slash + 1 : image->name);
	fputs("</text>\n", out);
}

static void cell(FILE *out, const struct comparison *all, size_t a, size_t b)
{
	uint64_t shared = all->shared[a * all->nr + b], pages = all->images[a].nr_pages;
	double part = pages ? (double)shared / (double)pages : 0;
	size_t x = LEFT + b * CELL, y = TOP + a * CELL;

	fprintf(out, "<rect x=\"%zu\" y=\"%zu\" width=\"%u\" height=\"%u\" fill=\"#1f5fa8\" "
		"fill-opacity=\"%.3f\" stroke=\"#ccc\"/>\n", x, y, CELL, CELL, part);
	fprintf(out, "<text x=\"%zu\" y=\"%zu\" text-anchor=\"middle\" fill=\"%s\">%" PRIu64
		"</text>\n", x + CELL / 2, y + CELL / 2 + 4, part > 0.5 ? "#fff" : "#000", shared);
}

void heatmap(FILE *out, const struct comparison *all)
{
	size_t side = all->nr * CELL;

	fprintf(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%zu\" height=\"%zu\" "
		"font-family=\"sans-serif\" font-size=\"12\">\n", LEFT + side + 150, TOP + side + 40);
	fprintf(out, "<text x=\"8\" y=\"%zu\">pages of the row's image that are in the column's; "
		"diagonal: twice in one</text>\n", TOP + side + 25);
	for (size_t a = 0; a < all->nr; a++) {
		char place[80];
		size_t x = LEFT + a * CELL + CELL / 2;

		snprintf(place, sizeof(place), "transform=\"rotate(-30 %zu %u)\"", x, TOP - 8);
		name(out, &all->images[a], x, TOP - 8, place);
		name(out, &all->images[a], LEFT - 8, TOP + a * CELL + CELL / 2 + 4,
		     "text-anchor=\"end\"");
		for (size_t b = 0; b < all->nr; b++)
			cell(out, all, a, b);
	}
	fputs("</svg>\n", out);
}
