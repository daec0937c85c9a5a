// SPDX-License-Identifier: MIT
/*
 * The numbers of a host for programs.  Each is listed once, so that JSON and
 * Prometheus's text format have the same ones.
 *
 * A domain's metrics have names of their own: the host's are not the sums of
 * those, because they include domains that are gone and those of other users.
 */
#include <inttypes.h>
#include <string.h>

#include "cli.h"

#define NS_PER_S 1000000000

enum kind {
	GAUGE,
	COUNTER,	/* never falls, as long as the domain is there */
	TIME,		/* a counter, in nanoseconds */
};

struct number {
	const char *name;	/* in JSON */
	size_t offset;
	enum kind kind;
	const char *words;
};

#define COUNTERS(member) offsetof(struct dksm_counters, member)

static const struct number counters[] = {
	{ "pages_shared", COUNTERS(pages_shared), GAUGE,
	  "Page frames that are shared or can be" },
	{ "pages_sharing", COUNTERS(pages_sharing), GAUGE,
	  "Pages that need no memory because they share a frame" },
	{ "pages_zero", COUNTERS(pages_zero), GAUGE,
	  "Pages that need no memory because they are all zero" },
	{ "saved_bytes", COUNTERS(saved_bytes), GAUGE,
	  "Memory that would be in use without DKSM" },
	{ "cow_breaks", COUNTERS(cow_breaks), COUNTER,
	  "Writes that made a shared page private again" },
	{ "metadata_bytes", COUNTERS(metadata_bytes), GAUGE,
	  "Memory that DKSM itself uses" },
	{ "merge_calls", COUNTERS(merge_calls), COUNTER,
	  "Calls of merge and starts of virtual machines" },
	{ "merge_ns", COUNTERS(merge_ns), TIME,
	  "Time that calls of merge and starts of virtual machines took" },
	{ "idle_ns", COUNTERS(idle_ns), TIME,
	  "Time that the work in idle virtual machines took" },
	{ "idle_passes", COUNTERS(idle_passes), COUNTER,
	  "Complete passes over the memory of processes" },
	{ "idle_changed", COUNTERS(idle_changed), COUNTER,
	  "Pages that had changed when rounds of passes began" },
	{ "idle_hashed", COUNTERS(idle_hashed), COUNTER,
	  "Pages that passes looked at" },
	{ "huge_split", COUNTERS(huge_split), COUNTER,
	  "Huge pages split to merge parts of them" },
	{ "learned_volatile", COUNTERS(learned_volatile), GAUGE,
	  "Contents and places left alone because they are written to soon" },
};

#define GLOBAL(member) offsetof(struct dksm_global, member)

static const struct number knobs[] = {
	{ "max_page_sharing", GLOBAL(max_page_sharing), GAUGE,
	  "The most mappings that a frame may have" },
	{ "use_zero_pages", GLOBAL(use_zero_pages), GAUGE,
	  "Whether pages of zeroes become the kernel's zero page" },
	{ "learn", GLOBAL(learn), GAUGE,
	  "Loads for which a volatile content is left alone, 0 for none" },
	{ "load_pages", GLOBAL(load_pages), GAUGE,
	  "The most pages that a first run of a virtual machine looks at" },
	{ "huge_min", GLOBAL(huge_min), GAUGE,
	  "Pages of a huge page that are to be merged for it to be split" },
	{ "busy_percent", GLOBAL(busy_percent), GAUGE,
	  "Part of the time of busy virtual machines that merging may take" },
};

static uint64_t value_of(const struct number *number, const void *base)
{
	uint64_t value;

	memcpy(&value, (const char *)base + number->offset, sizeof(value));
	return value;
}

static void fields(struct json_object *object, const struct number *numbers,
		   size_t nr, const void *base)
{
	for (size_t i = 0; i < nr; i++)
		json_add_number(object, numbers[i].name,
				value_of(&numbers[i], base));
}

void counters_fill(struct json_object *object,
		   const struct dksm_counters *base)
{
	fields(object, counters, ARRAY_SIZE(counters), base);
}

void knobs_fill(struct json_object *object, const struct dksm_global *global)
{
	fields(object, knobs, ARRAY_SIZE(knobs), global);
}

/* As Prometheus wants names: base units, and "_total" for what never falls. */
static void print_name(FILE *out, const char *prefix,
		       const struct number *number)
{
	int stem = (int)strlen(number->name);
	const char *suffix = "";

	if (number->kind == TIME) {
		stem -= (int)strlen("_ns");
		suffix = "_seconds_total";
	} else if (number->kind == COUNTER) {
		suffix = "_total";
	}
	fprintf(out, "%s%.*s%s", prefix, stem, number->name, suffix);
}

static void print_head(FILE *out, const char *prefix,
		       const struct number *number, const char *where)
{
	fputs("# HELP ", out);
	print_name(out, prefix, number);
	fprintf(out, " %s%s.\n# TYPE ", number->words, where);
	print_name(out, prefix, number);
	fprintf(out, " %s\n", number->kind == GAUGE ? "gauge" : "counter");
}

static void print_value(FILE *out, const struct number *number,
			const void *base)
{
	uint64_t value = value_of(number, base);

	if (number->kind == TIME)
		fprintf(out, " %" PRIu64 ".%09" PRIu64 "\n", value / NS_PER_S,
			value % NS_PER_S);
	else
		fprintf(out, " %" PRIu64 "\n", value);
}

static void print_label(FILE *out, const char *value)
{
	fputs("{domain=\"", out);
	for (; *value; value++) {
		if (*value == '\\' || *value == '"')
			fputc('\\', out);
		if (*value == '\n')
			fputs("\\n", out);
		else
			fputc(*value, out);
	}
	fputs("\"}", out);
}

static void of_host(FILE *out, const struct number *number, const void *base,
		    const char *where)
{
	print_head(out, "dksm_", number, where);
	print_name(out, "dksm_", number);
	print_value(out, number, base);
}

static void of_domains(FILE *out, const struct number *number,
		       const struct host *host)
{
	print_head(out, "dksm_domain_", number, ", in a domain");
	for (size_t i = 0; i < host->nr; i++) {
		print_name(out, "dksm_domain_", number);
		print_label(out, host->domains[i].name);
		print_value(out, number, &host->domains[i].counters);
	}
}

void host_prometheus(FILE *out, const struct host *host)
{
	for (size_t i = 0; i < ARRAY_SIZE(counters); i++)
		of_host(out, &counters[i], &host->global.counters,
			", on the whole host");
	for (size_t i = 0; i < ARRAY_SIZE(counters); i++)
		of_domains(out, &counters[i], host);
	for (size_t i = 0; i < ARRAY_SIZE(knobs); i++)
		of_host(out, &knobs[i], &host->global, "");
}
