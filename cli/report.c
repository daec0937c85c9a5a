// SPDX-License-Identifier: MIT
/*
 * Reports of merge and unmerge: adding them up and showing them.  One table
 * says which numbers belong to which command.
 */
#include <inttypes.h>
#include <json-c/json.h>
#include <string.h>

#include "cli.h"

static const struct row {
	const char *name;
	size_t offset;
	const char *verb;	/* only after this; NULL: always */
	const char *words;
} rows[] = {
	{ "scanned", offsetof(struct dksm_report, scanned), NULL, "" },
	{ "merged", offsetof(struct dksm_report, merged), "merge",
	  "now share a page that existed before" },
	{ "published", offsetof(struct dksm_report, published), "merge",
	  "new content: others can share it now" },
	{ "zero", offsetof(struct dksm_report, zero), "merge",
	  "all zero: now the kernel's zero page" },
	{ "unmerged", offsetof(struct dksm_report, unmerged), "unmerge",
	  "private copies again" },
};

static const char *const reasons[] = {
	[DKSM_SKIP_SHARED] = "shared memory (address space)",
	[DKSM_SKIP_HUGETLB] = "hugetlb memory (address space)",
	[DKSM_SKIP_DEVICE] = "memory of a device (address space)",
	[DKSM_SKIP_FILE] = "in the page cache, shared there already",
	[DKSM_SKIP_ALREADY] = "merged or published before",
	[DKSM_SKIP_KSM] = "merged by KSM",
	[DKSM_SKIP_PINNED] = "pinned for I/O (O_DIRECT, VFIO)",
	[DKSM_SKIP_BUSY] = "in use at that moment: run it again",
	[DKSM_SKIP_HUGE] = "in a huge page that was not split",
	[DKSM_SKIP_SWAPPED] = "swapped out",
	[DKSM_SKIP_NOMEM] = "no memory to keep track: run it again",
	[DKSM_SKIP_POISONED] = "lost to a memory error",
	[DKSM_SKIP_LEARNED] = "known to be written to soon",
	[DKSM_SKIP_UNMAPPED] = "guest memory without a mapping",
	[DKSM_SKIP_ALONE] = "nobody else is known to have it yet",
};

static uint64_t row_value(const struct row *row,
			  const struct dksm_report *report)
{
	uint64_t value;

	memcpy(&value, (const char *)report + row->offset, sizeof(value));
	return value;
}

static bool row_shown(const struct row *row, const char *verb)
{
	return !row->verb || !strcmp(row->verb, verb);
}

/* A later kernel may know more reasons. */
static struct text reason_name(unsigned int reason)
{
	const char *name = dksm_skip_name(reason);
	struct text text;

	if (name)
		snprintf(text.chars, sizeof(text.chars), "%s", name);
	else
		snprintf(text.chars, sizeof(text.chars), "reason_%u", reason);
	return text;
}

static const char *reason_words(unsigned int reason)
{
	return reason < ARRAY_SIZE(reasons) ? reasons[reason] :
	       "this dksm is too old to know why";
}

void report_add(struct dksm_report *sum, const struct dksm_report *report)
{
	sum->scanned += report->scanned;
	sum->merged += report->merged;
	sum->published += report->published;
	sum->zero += report->zero;
	sum->unmerged += report->unmerged;
	sum->ns += report->ns;
	for (size_t i = 0; i < DKSM_SKIP_MAX; i++)
		sum->skipped[i] += report->skipped[i];
}

bool report_empty(const struct dksm_report *report)
{
	static const struct dksm_report nothing;
	struct dksm_report copy = *report;

	copy.ns = 0;
	return !memcmp(&copy, &nothing, sizeof(copy));
}

static void print_row(FILE *out, const char *indent, const char *name,
		      uint64_t pages, const char *words)
{
	fprintf(out, "%s%-*s %12" PRIu64 " %11s%s%s\n", indent,
		11 - (int)strlen(indent), name, pages,
		text_bytes(pages * page_bytes()).chars, *words ? "  " : "",
		words);
}

static void print_skipped(FILE *out, const struct dksm_report *report)
{
	uint64_t all = 0;

	for (unsigned int i = 0; i < DKSM_SKIP_MAX; i++)
		all += report->skipped[i];
	print_row(out, "", "skipped", all, "");
	for (unsigned int i = 0; i < DKSM_SKIP_MAX; i++)
		if (report->skipped[i])
			print_row(out, "  ", reason_name(i).chars,
				  report->skipped[i], reason_words(i));
}

void report_table(FILE *out, const char *verb, const struct dksm_report *report)
{
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		if (row_shown(&rows[i], verb))
			print_row(out, "", rows[i].name,
				  row_value(&rows[i], report), rows[i].words);
	print_skipped(out, report);
	fprintf(out, "took %s\n", text_ns(report->ns).chars);
}

/* Known reasons are always there, so that readers need not ask. */
static struct json_object *skipped_json(const struct dksm_report *report)
{
	struct json_object *skipped = json_new();

	for (unsigned int i = 0; i < DKSM_SKIP_MAX; i++)
		if (i < DKSM_SKIP_NR || report->skipped[i])
			json_add_number(skipped, reason_name(i).chars,
					report->skipped[i]);
	return skipped;
}

void report_fill(struct json_object *object, const char *verb,
		 const struct dksm_report *report)
{
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		if (row_shown(&rows[i], verb))
			json_add_number(object, rows[i].name,
					row_value(&rows[i], report));
	json_object_object_add(object, "skipped", skipped_json(report));
	json_add_number(object, "ns", report->ns);
}

void report_json(FILE *out, const char *verb, pid_t pid,
		 const struct dksm_report *report)
{
	struct json_object *root = json_new();

	json_add_number(root, "pid", (uint64_t)pid);
	report_fill(root, verb, report);
	json_print(out, root);
}
