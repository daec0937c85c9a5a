// SPDX-License-Identifier: MIT
/* The logic of dksm top: sums, parts, rates, order, filters, words. */
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "../../cli/top.h"
#include "ktap.h"

#define MIB (1ULL << 20)

/* Two domains, three processes; what top_settle() works out is missing. */
struct world {
	struct top_row domains[2];
	struct top_row processes[3];
	struct top_sample sample;
};

static void world_fill(struct world *world, double seconds)
{
	*world = (struct world){
		.domains = {
			{ .domain = "web", .saved = 50 * MIB, .zero = 10 * MIB,
			  .breaks = 100, .learned = 7 },
			{ .domain = "a-domain-with-a-long-name", .breaks = 5 },
		},
		.processes = {
			{ .pid = 30, .domain = "web", .command = "qemu",
			  .vms = 1, .memory = 100 * MIB, .shared = 60 * MIB,
			  .zero = 10 * MIB, .breaks = 90 },
			{ .pid = 4, .domain = "web", .command = "fire",
			  .vms = 1, .memory = 50 * MIB, .shared = 20 * MIB,
			  .breaks = 10 },
			{ .pid = 111, .command = "alone", .memory = 7 * MIB,
			  .domain = "a-domain-with-a-long-name", .breaks = 5 },
		},
	};
	world->sample.seconds = seconds;
	world->sample.domains = (struct top_rows){ world->domains, 2 };
	world->sample.processes = (struct top_rows){ world->processes, 3 };
	world->sample.total.breaks = 105;
}

static const struct top_sample none;
static const struct top_view by_saved = { .sort = TOP_SAVED };

static void sums(void)
{
	struct world now;

	world_fill(&now, 10);
	top_settle(&now.sample, &none);
	CHECK(now.domains[0].processes == 2 && now.domains[0].vms == 2);
	CHECK(now.domains[0].memory == 150 * MIB);
	CHECK(now.domains[0].shared == 80 * MIB);
	CHECK(now.domains[1].memory == 7 * MIB);
	CHECK(now.sample.total.processes == 3);
	CHECK(now.sample.total.memory == 157 * MIB);
}

/* 40 MiB are saved by 80 MiB that are shared, and zeroes in full. */
static void parts(void)
{
	struct world now;

	world_fill(&now, 10);
	top_settle(&now.sample, &none);
	CHECK(now.processes[0].saved == 40 * MIB);
	CHECK(now.processes[1].saved == 10 * MIB);
	CHECK(now.processes[2].saved == 0);
}

/* Numbers of different moments: never more than all of it, never below 0. */
static void parts_that_do_not_fit(void)
{
	struct world now;

	world_fill(&now, 10);
	now.domains[0].saved = 500 * MIB;
	top_settle(&now.sample, &none);
	CHECK(now.processes[1].saved == 20 * MIB);
	world_fill(&now, 10);
	now.domains[0].saved = 5 * MIB;
	top_settle(&now.sample, &none);
	CHECK(now.processes[0].saved == 10 * MIB);
	world_fill(&now, 10);
	now.sample.domains.nr = 0;
	top_settle(&now.sample, &none);
	CHECK(now.processes[0].saved == 10 * MIB);
}

static void rates(void)
{
	struct world before, now;

	world_fill(&before, 10);
	world_fill(&now, 12);
	now.processes[0].breaks += 7;
	now.domains[0].breaks += 8;
	now.sample.total.breaks += 9;
	top_settle(&now.sample, &before.sample);
	CHECK(now.processes[0].rate == 3.5 && now.processes[1].rate == 0);
	CHECK(now.domains[0].rate == 4 && now.sample.total.rate == 4.5);
}

static void no_rates(void)
{
	struct world before, now;

	world_fill(&now, 12);
	top_settle(&now.sample, &none);
	CHECK(now.processes[0].rate < 0 && now.sample.total.rate < 0);
	world_fill(&before, 10);
	world_fill(&now, 12);
	before.processes[0].breaks = 91;		/* the PID of another */
	strcpy(before.processes[1].domain, "other");
	before.sample.processes.nr = 2;			/* the third is new */
	top_settle(&now.sample, &before.sample);
	for (int i = 0; i < 3; i++)
		CHECK(now.processes[i].rate < 0);
	CHECK(now.domains[0].rate == 0);
}

static bool order_is(enum top_column sort, pid_t first, pid_t second,
		     pid_t third)
{
	struct top_view view = { .sort = sort };
	struct world now;

	world_fill(&now, 10);
	top_settle(&now.sample, &none);
	now.processes[1].rate = 2;
	now.processes[2].learned = 1;
	top_arrange(&now.sample, &view);
	return now.processes[0].pid == first && now.processes[1].pid == second &&
	       now.processes[2].pid == third;
}

static void order(void)
{
	CHECK(order_is(TOP_PID, 4, 30, 111));
	CHECK(order_is(TOP_DOMAIN, 111, 4, 30));
	CHECK(order_is(TOP_MEMORY, 30, 4, 111));
	CHECK(order_is(TOP_SHARED, 30, 4, 111));
	CHECK(order_is(TOP_SAVED, 30, 4, 111));
	CHECK(order_is(TOP_COPIES, 4, 111, 30));
	CHECK(order_is(TOP_LEARNED, 111, 4, 30));
	CHECK(order_is(TOP_COMMAND, 111, 4, 30));
}

static void columns(void)
{
	for (unsigned int i = 0; i < TOP_COLUMNS; i++)
		CHECK(top_column_find(top_column_name((enum top_column)i)) == i);
	CHECK(top_column_find("") == TOP_COLUMNS);
	CHECK(top_column_find("sav") == TOP_COLUMNS);
}

/* How many domains, and processes, are shown. */
static bool shows(const char *domain, const char *text, size_t domains,
		  size_t processes)
{
	struct top_view view = by_saved;
	struct world now;

	strcpy(view.domain, domain);
	strcpy(view.text, text);
	world_fill(&now, 10);
	top_settle(&now.sample, &none);
	top_arrange(&now.sample, &view);
	return top_shown(&now.sample.domains) == domains &&
	       top_shown(&now.sample.processes) == processes;
}

static void filters(void)
{
	CHECK(shows("", "", 2, 3));
	CHECK(shows("web", "", 1, 2));
	CHECK(shows("we", "", 0, 0));
	CHECK(shows("", "qemu", 1, 1));
	CHECK(shows("", "11", 1, 1));		/* a PID */
	CHECK(shows("", "we", 1, 2));
	CHECK(shows("web", "alone", 0, 0));
}

static void control_characters(void)
{
	char text[] = "a\033[2J\xc3\xa4 b";

	top_printable(text);
	CHECK(!strcmp(text, "a?[2J?? b"));
}

static size_t learned_ends(struct top_line head)
{
	const char *found = strstr(head.text, "LEARNED ");

	return found ? (size_t)(found - head.text) + strlen("LEARNED") : 0;
}

/* A number ends in this column. */
static bool ends_at(struct top_line row, size_t column)
{
	return strlen(row.text) > column && row.text[column - 1] >= '0' &&
	       row.text[column - 1] <= '9' && row.text[column] == ' ';
}

/* Columns of both tables are the same, whatever the width. */
static void lines(void)
{
	static const int widths[] = { 80, 100, 200, 20, 1 };
	struct world now;
	size_t end;
	int names;

	world_fill(&now, 10);
	top_settle(&now.sample, &none);
	top_arrange(&now.sample, &by_saved);
	for (size_t i = 0; i < ARRAY_SIZE(widths); i++) {
		names = top_names_width(&now.sample, widths[i]);
		end = learned_ends(top_head(false, names));
		CHECK(end && end == learned_ends(top_head(true, names)));
		CHECK(ends_at(top_text(&now.domains[0], names), end));
		CHECK(ends_at(top_text(&now.domains[1], names), end));
		CHECK(ends_at(top_text(&now.processes[2], names), end));
	}
}

static void names_cut(void)
{
	struct world now;

	world_fill(&now, 10);
	top_settle(&now.sample, &none);
	top_arrange(&now.sample, &by_saved);
	CHECK(strlen(top_text(&now.processes[2],
			      top_names_width(&now.sample, 80)).text) <= 80);
	CHECK(strstr(top_text(&now.processes[2], 11).text, " a-domain-w+ "));
	CHECK(strstr(top_text(&now.domains[1], 11).text, "a-domain-with-a-lo+ "));
	CHECK(strstr(top_text(&now.processes[2], 25).text,
		     " a-domain-with-a-long-name "));
}

static struct json_object *child(struct json_object *object, const char *key)
{
	struct json_object *value = NULL;

	CHECK_FOR(key, json_object_object_get_ex(object, key, &value));
	return value;
}

static void json(void)
{
	struct json_object *root, *list, *row;
	struct world before, now;
	size_t size;
	char *text;
	FILE *out = open_memstream(&text, &size);

	world_fill(&before, 10);
	world_fill(&now, 13);
	now.processes[0].breaks += 1;
	before.sample.processes.nr = 1;
	top_settle(&now.sample, &before.sample);
	top_arrange(&now.sample, &by_saved);
	top_json(out, &now.sample);
	fclose(out);
	root = json_tokener_parse(text);
	REQUIRE(root);
	CHECK(strstr(text, "\"cow_breaks_per_second\": 0.3"));
	list = child(root, "processes");
	CHECK(json_object_array_length(list) == 3);
	row = json_object_array_get_idx(list, 0);
	CHECK(json_object_get_int(child(row, "pid")) == 30);
	CHECK(json_object_get_uint64(child(row, "saved_bytes")) == 40 * MIB);
	row = json_object_array_get_idx(list, 1);
	CHECK(!child(row, "cow_breaks_per_second"));
	row = json_object_array_get_idx(child(root, "domains"), 0);
	CHECK(!strcmp(json_object_get_string(child(row, "name")), "web"));
	CHECK(json_object_get_int(child(row, "processes")) == 2);
	CHECK(json_object_get_uint64(child(child(root, "total"), "cow_breaks"))
	      == 105);
	json_object_put(root);
	free(text);
}

static void table(void)
{
	struct top_view view = by_saved;
	struct world now;
	size_t size;
	char *text;
	FILE *out = open_memstream(&text, &size);

	world_fill(&now, 13);
	top_settle(&now.sample, &none);
	strcpy(view.text, "qemu");
	top_arrange(&now.sample, &view);
	top_table(out, &now.sample, &view);
	fclose(out);
	CHECK(!strncmp(text, "with qemu: of 2 domains, 3 processes, 0 B saved, "
		       "- copies/s, by saved\n", 70));
	CHECK(strstr(text, "     30 web ") && strstr(text, "  qemu\n"));
	strcpy(view.domain, "web");
	CHECK(!strncmp(top_summary(&now.sample, &view).text,
		       "domain web, with qemu: of 2 domains, ", 37));
	CHECK(strstr(text, " 100.0 MiB ") && strstr(text, "\nDOMAIN "));
	CHECK(!strstr(text, "alone") && !strstr(text, "fire"));
	free(text);
}

static const struct ktap_test tests[] = {
	{ "sums over members", sums },
	{ "each member's part of what is saved", parts },
	{ "numbers of different moments", parts_that_do_not_fit },
	{ "rates", rates },
	{ "no rates", no_rates },
	{ "order", order },
	{ "names of columns", columns },
	{ "filters", filters },
	{ "control characters", control_characters },
	{ "columns of both tables", lines },
	{ "names that are cut", names_cut },
	{ "as JSON", json },
	{ "as a table", table },
};

KTAP_MAIN(tests)
