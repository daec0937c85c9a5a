// SPDX-License-Identifier: MIT
/* dksm analyze: what images of guests have in common, and why it is not more. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "image.h"

static const char help[] =
	"Usage: dksm analyze [OPTION...] IMAGE...\n"
	"\n"
	"Compare what IMAGEs put into memory, page by page, and say why pages do not\n"
	"match. An IMAGE is an ELF file, a bzImage, raw memory, or the PID of a process.\n"
	"\n"
	"  ZERO        pages that are all zero\n"
	"  DISTINCT    different contents; each needs one frame\n"
	"  offset      the same bytes are there, at another offset within the page\n"
	"  addresses   the same, but for some bytes: relocations, addresses in calls\n"
	"  strings     text: the linker has merged and ordered it differently\n"
	"  other       nothing like it is there\n"
	"\n"
	"  --instances N     memory for N of each (1)\n"
	"  --svg FILE        write the matrix as a picture, too\n"
	"  --suggest-layout  print a fragment of a linker script instead\n"
	"  --json            print JSON\n"
	"\n"
	"Examples:\n"
	"  dksm analyze --instances 100 a.elf b.elf\n"
	"  dksm analyze --suggest-layout a.elf b.elf >common.ld\n"
	"  dksm analyze --svg map.svg *.elf\n";

#define REASON_ROWS	8U	/* in a table; JSON has all */

struct options {
	uint64_t instances;
	const char *svg;
	bool layout;
	bool json;
	bool help;
};

enum { OPT_INSTANCES = OPT_LONG, OPT_SVG, OPT_LAYOUT, OPT_JSON };

static const struct option long_options[] = {
	{ "instances", required_argument, NULL, OPT_INSTANCES },
	{ "svg", required_argument, NULL, OPT_SVG },
	{ "suggest-layout", no_argument, NULL, OPT_LAYOUT },
	{ "json", no_argument, NULL, OPT_JSON },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

static int option(struct options *options, int opt, char **argv)
{
	pid_t number;

	switch (opt) {
	case OPT_INSTANCES:
		if (!pid_parse(optarg, &number) || number > 1000000)
			return usage_error(argv[0], "'%s' is not a number from 1 to 1000000",
					   optarg);
		options->instances = (uint64_t)number;
		return EXIT_OK;
	case OPT_SVG:
		options->svg = optarg;
		return EXIT_OK;
	case OPT_LAYOUT:
		options->layout = true;
		return EXIT_OK;
	case OPT_JSON:
		options->json = true;
		return EXIT_OK;
	case 'h':
		options->help = true;
		return EXIT_OK;
	default:
		return option_error(opt, argv);
	}
}

static int options_parse(struct options *options, int argc, char **argv)
{
	int opt, status;

	*options = (struct options){ .instances = 1 };
	optind = 0;		/* glibc: start afresh */
	while ((opt = getopt_long(argc, argv, ":h", long_options, NULL)) != -1) {
		status = option(options, opt, argv);
		if (status || options->help)
			return status;
	}
	if (optind == argc)
		return usage_error(argv[0], "no image given");
	if (options->layout && options->json)
		return usage_error(argv[0], "--json does not go with --suggest-layout");
	return EXIT_OK;
}

static uint64_t all_pages(const struct image *image)
{
	return image->nr_pages + image->zero;
}

static void images_table(FILE *out, const struct comparison *all)
{
	fprintf(out, "%3s %-8s %9s %9s %9s  %s\n", "", "KIND", "PAGES", "ZERO", "DISTINCT", "IMAGE");
	for (size_t i = 0; i < all->nr; i++) {
		const struct image *image = &all->images[i];

		fprintf(out, "%3zu %-8s %9" PRIu64 " %9" PRIu64 " %9" PRIu64 "  %s\n", i + 1,
			image->kind, all_pages(image), image->zero, all->distinct[i], image->name);
		for (size_t j = 0; image->mem < 0 && j < image->nr_segments; j++)
			fprintf(out, "    %-8s %9" PRIu64 " %9" PRIu64 " %9s  at %#" PRIx64 "\n",
				"segment", image->segments[j].pages, image->segments[j].zero, "",
				image->segments[j].address);
	}
}

static void matrix_table(FILE *out, const struct comparison *all)
{
	fputs("\nPages of the row's image that are in the column's, too (diagonal: twice in "
	      "one):\n    ", out);
	for (size_t b = 0; b < all->nr; b++)
		fprintf(out, " %8zu", b + 1);
	for (size_t a = 0; a < all->nr; a++) {
		fprintf(out, "\n%4zu", a + 1);
		for (size_t b = 0; b < all->nr; b++)
			fprintf(out, " %8" PRIu64, all->shared[a * all->nr + b]);
	}
	fputc('\n', out);
}

static void mismatch_row(FILE *out, const struct mismatch *mismatch)
{
	fprintf(out, "  %-10s %8" PRIu64 "  %s", reason_text(mismatch->reason), mismatch->pages,
		mismatch->section);
	if (mismatch->bytes)
		fprintf(out, ", %" PRIu64 " bytes differ per page",
			mismatch->bytes / mismatch->pages);
	if (mismatch->first)
		fprintf(out, ", %s to %s", mismatch->first, mismatch->last);
	fputc('\n', out);
}

static void mismatches_table(FILE *out, const struct mismatches *found)
{
	uint64_t pages = 0;

	for (size_t i = 0; i < found->nr; i++) {
		if (i < REASON_ROWS)
			mismatch_row(out, &found->list[i]);
		else
			pages += found->list[i].pages;
	}
	if (pages)
		fprintf(out, "  %-10s %8" PRIu64 "  in smaller parts, see --json\n", "more", pages);
}

static bool explains(const struct comparison *all, size_t a, size_t b)
{
	return a != b && all->images[a].data && all->images[b].data;
}

static void reasons_table(FILE *out, const struct comparison *all)
{
	struct mismatches found;

	for (size_t i = 0; i < all->nr * all->nr; i++) {
		if (!explains(all, i / all->nr, i % all->nr))
			continue;
		found = mismatches_find(all, i / all->nr, i % all->nr);
		if (found.nr)
			fprintf(out, "\nWhy pages of %zu are not in %zu:\n", i / all->nr + 1,
				i % all->nr + 1);
		mismatches_table(out, &found);
		free(found.list);
	}
}

static uint64_t pages_without(const struct comparison *all, uint64_t instances)
{
	uint64_t pages = 0;

	for (size_t i = 0; i < all->nr; i++)
		pages += all_pages(&all->images[i]);
	return pages * instances;
}

static void memory_table(FILE *out, const struct comparison *all, uint64_t instances)
{
	fprintf(out, "\nMemory for %" PRIu64 " of each, until they write: %s, with DKSM ", instances,
		text_bytes(pages_without(all, instances) * IMAGE_PAGE).chars);
	fprintf(out, "%s\n", text_bytes(frames_of(all, 0, all->nr, instances) * IMAGE_PAGE).chars);
	for (size_t i = 0; i < all->nr; i++)
		fprintf(out, "%3zu alone: %s, with DKSM %s\n", i + 1,
			text_bytes(all_pages(&all->images[i]) * instances * IMAGE_PAGE).chars,
			text_bytes(frames_of(all, i, 1, instances) * IMAGE_PAGE).chars);
}

static struct json_object *segments_json(const struct image *image)
{
	struct json_object *list = json_new_list(), *object;

	for (size_t i = 0; i < image->nr_segments; i++) {
		object = json_new();
		json_add_number(object, "address", image->segments[i].address);
		json_add_number(object, "pages", image->segments[i].pages);
		json_add_number(object, "zero", image->segments[i].zero);
		json_object_array_add(list, object);
	}
	return list;
}

static struct json_object *image_json(const struct comparison *all, size_t i, uint64_t instances)
{
	const struct image *image = &all->images[i];
	struct json_object *object = json_new();

	json_add_string(object, "name", image->name);
	json_add_string(object, "kind", image->kind);
	json_add_number(object, "pages", all_pages(image));
	json_add_number(object, "zero", image->zero);
	json_add_number(object, "distinct", all->distinct[i]);
	json_add_number(object, "frames", frames_of(all, i, 1, instances));
	if (image->mem < 0)
		json_object_object_add(object, "segments", segments_json(image));
	return object;
}

static struct json_object *reasons_json(const struct comparison *all, size_t a, size_t b)
{
	struct json_object *list = json_new_list(), *object;
	struct mismatches found = mismatches_find(all, a, b);

	for (size_t i = 0; i < found.nr; i++) {
		object = json_new();
		json_add_string(object, "reason", reason_text(found.list[i].reason));
		json_add_string(object, "section", found.list[i].section);
		json_add_number(object, "pages", found.list[i].pages);
		json_add_number(object, "bytes", found.list[i].bytes);
		json_add_string(object, "first", found.list[i].first);
		json_add_string(object, "last", found.list[i].last);
		json_object_array_add(list, object);
	}
	free(found.list);
	return list;
}

static struct json_object *pairs_json(const struct comparison *all)
{
	struct json_object *list = json_new_list(), *object;

	for (size_t i = 0; i < all->nr * all->nr; i++) {
		object = json_new();
		json_add_number(object, "of", i / all->nr);
		json_add_number(object, "in", i % all->nr);
		json_add_number(object, "pages", all->shared[i]);
		if (explains(all, i / all->nr, i % all->nr))
			json_object_object_add(object, "reasons",
					       reasons_json(all, i / all->nr, i % all->nr));
		json_object_array_add(list, object);
	}
	return list;
}

static void print_json(const struct comparison *all, uint64_t instances)
{
	struct json_object *root = json_new(), *list = json_new_list();

	for (size_t i = 0; i < all->nr; i++)
		json_object_array_add(list, image_json(all, i, instances));
	json_object_object_add(root, "images", list);
	json_object_object_add(root, "pairs", pairs_json(all));
	json_add_number(root, "instances", instances);
	json_add_number(root, "pages", pages_without(all, instances));
	json_add_number(root, "frames", frames_of(all, 0, all->nr, instances));
	json_print(stdout, root);
}

static int failed(const char *name, const char *wrong)
{
	fprintf(stderr, "dksm analyze: %s: %s\n", name, wrong);
	return EXIT_FAILED;
}

static int svg_write(const struct comparison *all, const char *path)
{
	FILE *out = fopen(path, "we");

	if (!out)
		return failed(path, strerror(errno));
	heatmap(out, all);
	return fclose(out) ? failed(path, strerror(errno)) : EXIT_OK;
}

static int result_print(const struct comparison *all, const struct options *options)
{
	const char *wrong;

	if (options->layout) {
		wrong = layout_print(stdout, all);
		return wrong ? failed("--suggest-layout", wrong) : EXIT_OK;
	}
	if (options->json) {
		print_json(all, options->instances);
		return EXIT_OK;
	}
	images_table(stdout, all);
	matrix_table(stdout, all);
	reasons_table(stdout, all);
	memory_table(stdout, all, options->instances);
	return EXIT_OK;
}

static int analyze(struct comparison *all, char **names, size_t nr, const struct options *options)
{
	const char *wrong;
	int status;

	for (; all->nr < nr; all->nr++) {
		wrong = image_load(&all->images[all->nr], names[all->nr]);
		if (wrong) {
			image_free(&all->images[all->nr]);
			return failed(names[all->nr], wrong);
		}
	}
	compare(all);
	status = options->svg ? svg_write(all, options->svg) : EXIT_OK;
	return status ? status : result_print(all, options);
}

int cmd_analyze(int argc, char **argv)
{
	struct comparison all = { 0 };
	struct options options;
	int status;

	status = options_parse(&options, argc, argv);
	if (options.help)
		fputs(help, stdout);
	if (status || options.help)
		return status;
	all.images = calloc((size_t)(argc - optind), sizeof(*all.images));
	if (!all.images)
		return failed(argv[optind], "out of memory");
	status = analyze(&all, argv + optind, (size_t)(argc - optind), &options);
	comparison_free(&all);
	return status;
}
