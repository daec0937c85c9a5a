// SPDX-License-Identifier: MIT
/*
 * Output of any numbers: JSON says the same numbers, tables and sentences are whole
 * lines.  The input is the bytes of a name, and then numbers.
 */
#include <errno.h>

#include "fuzz.h"

static const uint8_t *input;
static size_t left;

static uint64_t number(void)
{
	uint64_t value = 0;
	size_t size = left < sizeof(value) ? left : sizeof(value);

	if (size)
		memcpy(&value, input, size);
	input += size;
	left -= size;
	return value;
}

static void numbers(void *to, size_t size)
{
	uint64_t value;

	for (size_t i = 0; i + sizeof(value) <= size; i += sizeof(value)) {
		value = number();
		memcpy((char *)to + i, &value, sizeof(value));
	}
}

/* ASCII: the library lets nothing else through. */
static void name_fill(char name[DKSM_NAME_SIZE])
{
	size_t size = left < DKSM_NAME_SIZE - 1 ? left : DKSM_NAME_SIZE - 1;

	for (size_t i = 0; i < size; i++)
		name[i] = (char)(input[i] & 0x7f);
	input += size;
	left -= size;
}

/* As many lines as there are newlines, and none without words. */
static void check_table(struct capture *capture)
{
	const char *text = capture_end(capture);

	REQUIRE(capture->size && text[capture->size - 1] == '\n' && *text != '\n');
	REQUIRE(!strstr(text, "\n\n") && !strstr(text, "(null)"));
	free(capture->text);
}

static void check_report(struct json_object *json, const struct dksm_report *report)
{
	struct json_object *skipped = json_child(json, "skipped");
	const char *name;

	REQUIRE(json_number_is(json, "scanned", report->scanned));
	REQUIRE(json_number_is(json, "merged", report->merged));
	REQUIRE(json_number_is(json, "published", report->published));
	REQUIRE(json_number_is(json, "zero", report->zero));
	REQUIRE(json_number_is(json, "ns", report->ns));
	for (unsigned int i = 0; i < DKSM_SKIP_MAX; i++) {
		name = dksm_skip_name(i);
		if (name)
			REQUIRE(json_number_is(skipped, name, report->skipped[i]));
	}
}

static void reports(const struct dksm_report *report)
{
	struct json_object *json;
	struct capture capture;

	report_json(capture_begin(&capture), "merge", 12, report);
	json = json_of(capture_end(&capture));
	check_report(json, report);
	json_object_put(json);
	free(capture.text);
	report_table(capture_begin(&capture), "unmerge", report);
	check_table(&capture);
}

static void check_counters(struct json_object *json, const struct dksm_counters *counters)
{
	REQUIRE(json_number_is(json, "pages_shared", counters->pages_shared));
	REQUIRE(json_number_is(json, "saved_bytes", counters->saved_bytes));
	REQUIRE(json_number_is(json, "idle_ns", counters->idle_ns));
	REQUIRE(json_number_is(json, "learned_volatile", counters->learned_volatile));
}

/* Metrics are "# HELP" and "# TYPE", or a name, perhaps a label, and a number. */
static void check_metrics(struct capture *capture)
{
	char *text = capture_end(capture), *line, *value;
	size_t samples = 0;

	while ((line = strsep(&text, "\n")) && *line) {
		REQUIRE(!strncmp(line, "# ", 2) || !strncmp(line, "dksm_", 5));
		value = strrchr(line, ' ');
		REQUIRE(value);
		if (*line == '#')
			continue;
		samples++;
		REQUIRE(value[1 + strspn(value + 1, "0123456789.")] == 0);
		REQUIRE(!strchr(line, '{') || (value[-2] == '"' && value[-1] == '}'));
	}
	REQUIRE(!text && samples == 2 * 14 + 6);
	free(capture->text);
}

static void hosts(struct dksm_domain *domain)
{
	struct host host = { .domains = domain, .nr = 1 };
	struct json_object *json, *item;
	struct capture capture;

	numbers(&host.global, sizeof(host.global));
	host_json(capture_begin(&capture), &host);
	json = json_of(capture_end(&capture));
	check_counters(json_child(json, "total"), &host.global.counters);
	item = json_object_array_get_idx(json_child(json, "domains"), 0);
	check_counters(item, &domain->counters);
	REQUIRE(json_string_is(item, "name", domain->name));
	json_object_put(json);
	free(capture.text);
	host_prometheus(capture_begin(&capture), &host);
	check_metrics(&capture);
	host_table(capture_begin(&capture), &host);
	capture_end(&capture);
	free(capture.text);
}

static void processes(const struct dksm_process *process)
{
	struct json_object *json;
	struct capture capture;

	process_json(capture_begin(&capture), 12, process);
	json = json_of(capture_end(&capture));
	REQUIRE(json_number_is(json, "pages_merged", process->pages_merged));
	REQUIRE(json_number_is(json, "idle_step_ns_max", process->idle_step_ns_max));
	check_report(json_child(json, "load_report"), &process->load);
	check_report(json_child(json, "attach_report"), &process->attach);
	check_report(json_child(json, "idle_report"), &process->idle_report);
	check_report(json_child(json, "vmm_report"), &process->vmm);
	REQUIRE(json_string_is(json, "idle_why", process->idle_why));
	REQUIRE(*process->domain ? json_string_is(json, "domain", process->domain) :
		!json_child(json, "domain"));
	json_object_put(json);
	free(capture.text);
	process_table(capture_begin(&capture), 12, process);
	capture_end(&capture);
	free(capture.text);
}

static void judge(const struct dksm_process *stat)
{
	struct host_facts host = { .stat_err = -(int)(number() % 134), .thp = "always",
				   .open_err = -(int)(number() % 134),
				   .kvm_err = -(int)(number() % 134) };
	struct process_facts process = { .pid = 2147483647,
					 .stat_err = -(int)(number() % 134) };
	struct findings all = { .nr = 0 };
	struct capture capture;

	host.features = number();
	host.ksmd_runs = number() & 1;
	numbers(&host.global, sizeof(host.global));
	numbers(&process.hugetlb_bytes, 4 * sizeof(uint64_t));
	process.paused = number() & 1;
	process.vm_fds = (unsigned int)number();
	process.other_domains = (unsigned int)number();
	process.stat = *stat;
	doctor_host(&all, &host);
	doctor_process(&all, &process);
	REQUIRE(all.nr < ARRAY_SIZE(all.list));
	for (size_t i = 0; i < all.nr; i++)
		REQUIRE(strlen(all.list[i].text) < sizeof(all.list[i].text) - 1);
	findings_table(capture_begin(&capture), &all);
	REQUIRE(all.nr || !findings_bad(&all));
	check_table(&capture);
	findings_json(capture_begin(&capture), 12, &all);
	json_object_put(json_of(capture_end(&capture)));
	free(capture.text);
}

static void failures(const char *domain)
{
	struct capture capture;
	struct failure failure = failure_domain(-(int)(number() % 134), domain);
	char *text;

	failure.step = (enum step)(number() % (STEP_STAT + 1));
	failure_print(capture_begin(&capture), "merge", (pid_t)(number() & 1), &failure);
	text = capture_end(&capture);
	REQUIRE(!strncmp(text, "dksm merge: ", 12));
	REQUIRE(strchr(domain, '\n') || strchr(text, '\n') == text + capture.size - 1);
	free(text);
}

static void units(uint64_t value)
{
	struct text bytes = text_bytes(value), ns = text_ns(value);
	double amount;
	char unit[8];

	REQUIRE(strlen(bytes.chars) < 16 && strlen(ns.chars) < 24);
	REQUIRE(sscanf(bytes.chars, "%lf %7s", &amount, unit) == 2 && amount < 1024);
	REQUIRE(sscanf(ns.chars, "%lf %7s", &amount, unit) == 2);
	REQUIRE(amount < 1000 || !strcmp(unit, "s"));
}

/* Numbers and where they change their unit. */
static void limits(uint64_t value)
{
	units(value);
	for (uint64_t unit = 1000; unit < UINT64_MAX / 1000; unit *= 1000)
		units(unit - value % 64);
	for (uint64_t unit = 1024; unit < UINT64_MAX / 1024; unit *= 1024)
		units(unit - 1 - value % (unit / 1000));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct dksm_process process = { .domain = "" };
	struct dksm_domain domain = { .name = "" };

	input = data;
	left = size;
	name_fill(process.domain);
	memcpy(domain.name, process.domain, sizeof(domain.name));
	limits(number());
	failures(domain.name);
	numbers(&process.pages_merged, sizeof(process) - offsetof(struct dksm_process,
								  pages_merged));
	snprintf(process.idle_why, sizeof(process.idle_why), "grown");
	numbers(&domain.counters, sizeof(domain.counters));
	hosts(&domain);
	processes(&process);
	reports(&process.load);
	judge(&process);
	return 0;
}
