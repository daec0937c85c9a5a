// SPDX-License-Identifier: MIT
/* Reports and statistics: added up, as tables, and as JSON read back. */
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "../../cli/cli.h"
#include "ktap.h"

static const struct dksm_report sample = {
	.scanned = 1000,
	.merged = 400,
	.published = 300,
	.zero = 200,
	.unmerged = 50,
	.ns = 1500000,
	.skipped = { [DKSM_SKIP_PINNED] = 60, [DKSM_SKIP_BUSY] = 40 },
};

struct capture {
	FILE *out;
	char *text;
	size_t size;
};

static void capture_begin(struct capture *capture)
{
	capture->out = open_memstream(&capture->text, &capture->size);
}

static struct json_object *capture_json(struct capture *capture)
{
	struct json_object *root;

	fclose(capture->out);
	root = json_tokener_parse(capture->text);
	free(capture->text);
	return root;
}

static uint64_t number(struct json_object *object, const char *key)
{
	struct json_object *value;

	if (!json_object_object_get_ex(object, key, &value) ||
	    json_object_get_type(value) != json_type_int)
		return UINT64_MAX - 1;
	return json_object_get_uint64(value);
}

static struct json_object *child(struct json_object *object, const char *key)
{
	struct json_object *value = NULL;

	CHECK_FOR(key, json_object_object_get_ex(object, key, &value));
	return value;
}

static void sums(void)
{
	struct dksm_report sum = { 0 }, part = sample;
	uint64_t words[sizeof(sum) / sizeof(uint64_t)], one[ARRAY_SIZE(words)];

	CHECK(report_empty(&sum));
	part.skipped[DKSM_SKIP_MAX - 1] = 7;
	report_add(&sum, &part);
	CHECK(!memcmp(&sum, &part, sizeof(sum)));
	report_add(&sum, &part);
	memcpy(words, &sum, sizeof(words));
	memcpy(one, &part, sizeof(one));
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		CHECK(words[i] == 2 * one[i]);
	CHECK(!report_empty(&sum));
}

static void emptiness(void)
{
	struct dksm_report report = { .ns = 5 };

	CHECK(report_empty(&report));
	report.skipped[DKSM_SKIP_NOMEM] = 1;
	CHECK(!report_empty(&report));
	report = (struct dksm_report){ .scanned = 1 };
	CHECK(!report_empty(&report));
}

static void merge_json(void)
{
	struct json_object *root, *skipped;
	struct capture capture;

	capture_begin(&capture);
	report_json(capture.out, "merge", 77, &sample);
	root = capture_json(&capture);
	REQUIRE(root);
	CHECK(number(root, "pid") == 77 && number(root, "scanned") == 1000);
	CHECK(number(root, "merged") == 400 && number(root, "zero") == 200);
	CHECK(number(root, "published") == 300 && number(root, "ns") == 1500000);
	CHECK(!json_object_object_get_ex(root, "unmerged", NULL));
	CHECK(json_object_object_length(root) == 7);
	skipped = child(root, "skipped");
	CHECK(json_object_object_length(skipped) == DKSM_SKIP_NR);
	CHECK(number(skipped, "pinned") == 60 && number(skipped, "busy") == 40);
	CHECK(number(skipped, "poisoned") == 0);
	json_object_put(root);
}

static void unmerge_json(void)
{
	struct json_object *root;
	struct capture capture;

	capture_begin(&capture);
	report_json(capture.out, "unmerge", 77, &sample);
	root = capture_json(&capture);
	REQUIRE(root);
	CHECK(number(root, "unmerged") == 50);
	CHECK(!json_object_object_get_ex(root, "merged", NULL));
	CHECK(json_object_object_length(root) == 5);
	json_object_put(root);
}

static void later_kernel_json(void)
{
	struct dksm_report report = { .scanned = UINT64_MAX };
	struct json_object *root;
	struct capture capture;

	report.skipped[DKSM_SKIP_MAX - 1] = UINT64_MAX;
	capture_begin(&capture);
	report_json(capture.out, "merge", 1, &report);
	root = capture_json(&capture);
	REQUIRE(root);
	CHECK(number(root, "scanned") == UINT64_MAX);
	CHECK(number(child(root, "skipped"), "reason_15") == UINT64_MAX);
	json_object_put(root);
}

/* Whether one line of @text has both words. */
static bool has_line(const char *text, const char *first, const char *second)
{
	char *copy = strdup(text), *line, *save;
	bool found = false;

	for (line = strtok_r(copy, "\n", &save); line;
	     line = strtok_r(NULL, "\n", &save))
		found |= strstr(line, first) && strstr(line, second);
	free(copy);
	return found;
}

static void merge_table(void)
{
	struct capture capture;

	capture_begin(&capture);
	report_table(capture.out, "merge", &sample);
	fclose(capture.out);
	CHECK(has_line(capture.text, "scanned", " 1000 "));
	CHECK(has_line(capture.text, "merged", " 400 "));
	CHECK(has_line(capture.text, "published", " 300 "));
	CHECK(has_line(capture.text, "zero", " 200 "));
	CHECK(has_line(capture.text, "skipped", " 100 "));
	CHECK(has_line(capture.text, "pinned", "O_DIRECT"));
	CHECK(has_line(capture.text, "busy", " 40 "));
	CHECK(has_line(capture.text, "took", "1.5 ms"));
	CHECK(!strstr(capture.text, "unmerged"));
	CHECK(!strstr(capture.text, "swapped"));
	free(capture.text);
}

static void unmerge_table(void)
{
	struct dksm_report report = { .unmerged = 50 };
	struct capture capture;

	report.skipped[DKSM_SKIP_MAX - 1] = 9;
	capture_begin(&capture);
	report_table(capture.out, "unmerge", &report);
	fclose(capture.out);
	CHECK(has_line(capture.text, "unmerged", " 50 "));
	CHECK(has_line(capture.text, "reason_15", "too old"));
	CHECK(!strstr(capture.text, "published"));
	free(capture.text);
}

static bool fits(const char *text)
{
	for (; *text; text += strcspn(text, "\n") + 1)
		if (strcspn(text, "\n") > 80)
			return false;
	return true;
}

/* Every known reason has plain words of its own. */
static void reasons_in_words(void)
{
	struct dksm_report report;
	struct capture capture;

	for (unsigned int i = 0; i < DKSM_SKIP_NR; i++) {
		memset(&report, 0, sizeof(report));
		report.skipped[i] = 123;
		capture_begin(&capture);
		report_table(capture.out, "merge", &report);
		fclose(capture.out);
		CHECK_FOR(dksm_skip_name(i),
			  has_line(capture.text, dksm_skip_name(i), "123"));
		CHECK_FOR(capture.text, fits(capture.text));
		CHECK(!strstr(capture.text, "null"));
		CHECK(!strstr(capture.text, "too old"));
		free(capture.text);
	}
}

static struct dksm_domain domains[] = {
	{ "a", { .pages_shared = 1, .pages_sharing = 2, .pages_zero = 3,
		 .saved_bytes = 5 << 20, .cow_breaks = 4, .metadata_bytes = 5,
		 .merge_calls = 6, .merge_ns = 7, .idle_passes = 8,
		 .idle_changed = 9, .idle_hashed = 10 } },
	{ "quite-a-long-name", { .pages_shared = 11 } },
};

static const struct host sample_host = {
	.global = {
		.counters = { .pages_shared = 12, .merge_ns = 8 },
		.max_page_sharing = 256,
		.use_zero_pages = 1,
		.load_pages = 8192, .huge_min = 64, .busy_percent = 1,
	},
	.domains = domains,
	.nr = ARRAY_SIZE(domains),
};

static void host_as_json(void)
{
	struct json_object *root, *list, *item;
	struct capture capture;

	capture_begin(&capture);
	host_json(capture.out, &sample_host);
	root = capture_json(&capture);
	REQUIRE(root);
	list = child(root, "domains");
	CHECK(json_object_array_length(list) == 2);
	item = json_object_array_get_idx(list, 0);
	CHECK(!strcmp(json_object_get_string(child(item, "name")), "a"));
	CHECK(number(item, "pages_shared") == 1 &&
	      number(item, "pages_sharing") == 2 &&
	      number(item, "pages_zero") == 3 &&
	      number(item, "saved_bytes") == 5 << 20 &&
	      number(item, "cow_breaks") == 4 &&
	      number(item, "metadata_bytes") == 5 &&
	      number(item, "merge_calls") == 6 && number(item, "merge_ns") == 7);
	CHECK(number(item, "idle_passes") == 8 &&
	      number(item, "idle_changed") == 9 &&
	      number(item, "idle_hashed") == 10);
	item = child(root, "total");
	CHECK(number(item, "pages_shared") == 12 &&
	      number(item, "merge_ns") == 8 &&
	      number(item, "max_page_sharing") == 256 &&
	      number(item, "use_zero_pages") == 1 &&
	      number(item, "load_pages") == 8192 &&
	      number(item, "huge_min") == 64 &&
	      number(item, "busy_percent") == 1);
	json_object_put(root);
}

static void no_domains_as_json(void)
{
	const struct host host = { .nr = 0 };
	struct json_object *root;
	struct capture capture;

	capture_begin(&capture);
	host_json(capture.out, &host);
	root = capture_json(&capture);
	REQUIRE(root);
	CHECK(json_object_array_length(child(root, "domains")) == 0);
	json_object_put(root);
}

/* All rows end in the same column. */
static void host_as_table(void)
{
	char *line, *save, *end;
	struct capture capture;
	size_t width = 0;
	int rows = 0;

	capture_begin(&capture);
	host_table(capture.out, &sample_host);
	fclose(capture.out);
	CHECK(has_line(capture.text, "a ", "5.0 MiB"));
	CHECK(has_line(capture.text, "total", " 12 "));
	CHECK(has_line(capture.text, "at most", "256"));
	for (line = strtok_r(capture.text, "\n", &save);
	     line && strncmp(line, "at most", 7);
	     line = strtok_r(NULL, "\n", &save), rows++) {
		end = line + strlen(line);
		CHECK(!width || (size_t)(end - line) == width);
		width = (size_t)(end - line);
	}
	CHECK(rows == 4);
	free(capture.text);
}

static void process_as_json(void)
{
	struct dksm_process process = {
		.domain = "web", .pages_merged = 5, .pages_sharing = 4,
		.pages_zero = 3, .cow_breaks = 2, .idle_rounds = 6,
		.idle_changed = 7, .idle_hashed = 8, .idle_why = "grown",
		.load.merged = 11, .attach.merged = 12,
		.attach.skipped[DKSM_SKIP_ALONE] = 77,
		.idle_report.merged = 13, .vmm.merged = 14,
	};
	struct json_object *root, *report;
	struct capture capture;

	capture_begin(&capture);
	process_json(capture.out, 9, &process);
	root = capture_json(&capture);
	REQUIRE(root);
	CHECK(!strcmp(json_object_get_string(child(root, "domain")), "web"));
	CHECK(number(root, "pid") == 9 && number(root, "pages_merged") == 5 &&
	      number(root, "pages_sharing") == 4 &&
	      number(root, "pages_zero") == 3 && number(root, "cow_breaks") == 2);
	CHECK(number(root, "idle_rounds") == 6 &&
	      number(root, "idle_changed") == 7 && number(root, "idle_hashed") == 8);
	CHECK(!strcmp(json_object_get_string(child(root, "idle_why")), "grown"));
	CHECK(number(child(root, "load_report"), "merged") == 11 &&
	      number(child(root, "idle_report"), "merged") == 13 &&
	      number(child(root, "vmm_report"), "merged") == 14);
	report = child(root, "attach_report");
	CHECK(number(report, "merged") == 12);
	CHECK(number(child(report, "skipped"), "alone") == 77);
	json_object_put(root);
	memset(&process, 0, sizeof(process));
	capture_begin(&capture);
	process_json(capture.out, 9, &process);
	root = capture_json(&capture);
	REQUIRE(root);
	CHECK(!child(root, "domain") && !child(root, "idle_why"));
	json_object_put(root);
}

static void process_as_table(void)
{
	struct dksm_process process = {
		.domain = "web", .pages_merged = 5, .pages_sharing = 4,
		.pages_zero = 3, .cow_breaks = 2,
	};
	struct capture capture;

	capture_begin(&capture);
	process_table(capture.out, 9, &process);
	process.domain[0] = 0;
	process_table(capture.out, 9, &process);
	fclose(capture.out);
	CHECK(has_line(capture.text, "domain", "web"));
	CHECK(has_line(capture.text, "pages_merged", " 5 "));
	CHECK(has_line(capture.text, "pages_sharing", " 4 "));
	CHECK(has_line(capture.text, "pages_zero", " 3 "));
	CHECK(has_line(capture.text, "cow_breaks", " 2 "));
	CHECK(has_line(capture.text, "process 9", "no domain"));
	CHECK(!strstr(capture.text, "attached"));
	free(capture.text);
}

/* One that ran when it was attached: none of its guests was merged at its start. */
static void attached_as_table(void)
{
	struct dksm_process process = {
		.domain = "web", .attached = 1, .idle = 1, .learn = 1,
		.idle_passes = 21, .idle_rounds = 22, .idle_why = "attached",
		.load.merged = 11, .attach.merged = 12, .attach.zero = 100,
		.idle_report.merged = 13, .vmm.merged = 14,
	};
	struct capture capture;

	capture_begin(&capture);
	process_table(capture.out, 9, &process);
	fclose(capture.out);
	CHECK(has_line(capture.text, "vms", " 0 "));
	CHECK(has_line(capture.text, "load_merged", " 11 "));
	CHECK(has_line(capture.text, "attach_merged", " 112 "));
	CHECK(has_line(capture.text, "idle_passes", " 21 "));
	CHECK(has_line(capture.text, "idle_rounds", " 22 "));
	CHECK(has_line(capture.text, "idle_rounds", ": attached"));
	CHECK(has_line(capture.text, "idle_merged", " 13 "));
	CHECK(has_line(capture.text, "vmm_merged", " 14 "));
	free(capture.text);
}

static void human_numbers(void)
{
	CHECK(!strcmp(text_bytes(0).chars, "0 B"));
	CHECK(!strcmp(text_bytes(1023).chars, "1023 B"));
	CHECK(!strcmp(text_bytes(1024).chars, "1.0 KiB"));
	CHECK(!strcmp(text_bytes((1 << 20) - 1).chars, "1.0 MiB"));
	CHECK(!strcmp(text_bytes(512ULL << 20).chars, "512.0 MiB"));
	CHECK(!strcmp(text_bytes(UINT64_MAX).chars, "16.0 EiB"));
	CHECK(!strcmp(text_ns(0).chars, "0 ns"));
	CHECK(!strcmp(text_ns(1500).chars, "1.5 us"));
	CHECK(!strcmp(text_ns(999960).chars, "1.0 ms"));
	CHECK(!strcmp(text_ns(999960000).chars, "1.0 s"));
	CHECK(!strcmp(text_ns(90000000000).chars, "90.0 s"));
}

static const struct ktap_test tests[] = {
	{ "reports add up", sums },
	{ "when a report is empty", emptiness },
	{ "merge as JSON", merge_json },
	{ "unmerge as JSON", unmerge_json },
	{ "reasons of a later kernel as JSON", later_kernel_json },
	{ "merge as a table", merge_table },
	{ "unmerge as a table", unmerge_table },
	{ "every reason in words", reasons_in_words },
	{ "the host as JSON", host_as_json },
	{ "no domains as JSON", no_domains_as_json },
	{ "the host as a table", host_as_table },
	{ "a process as JSON", process_as_json },
	{ "a process as a table", process_as_table },
	{ "an attached one as a table", attached_as_table },
	{ "numbers for people", human_numbers },
};

KTAP_MAIN(tests)
