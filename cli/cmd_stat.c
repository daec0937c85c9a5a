// SPDX-License-Identifier: MIT
/* dksm stat: the numbers of all domains, or of one process. */
#include <inttypes.h>
#include <json-c/json.h>
#include <string.h>

#include "cli.h"

static const char help[] =
	"Usage: dksm stat [--json] [PID]\n"
	"       dksm stat --prometheus\n"
	"\n"
	"Show what each domain shares and what that saves, or what process PID\n"
	"shares.  Domains of other users are seen by root only.\n"
	"\n"
	"  FRAMES      pages in memory that are shared or can be\n"
	"  SHARING     pages that need no memory, because they share a frame\n"
	"  ZERO        pages that need no memory, because they are all zero\n"
	"  SAVED       memory that would be in use without DKSM\n"
	"  COW BREAKS  writes that made a page private again\n"
	"  METADATA    memory that DKSM itself uses\n"
	"  MERGES      calls of merge and starts of virtual machines\n"
	"  TIME        what they took together, and the work in idle ones\n"
	"\n"
	"  --json        print JSON\n"
	"  --prometheus  print all domains as metrics in Prometheus's text format\n"
	"\n"
	"Examples:\n"
	"  dksm stat\n"
	"  dksm stat 1234\n"
	"  dksm stat --json | jq '.total.saved_bytes'\n";

static void counters_row(FILE *out, const char *name, int width,
			 const struct dksm_counters *counters)
{
	fprintf(out, "%-*s %9" PRIu64 " %9" PRIu64 " %9" PRIu64, width, name,
		counters->pages_shared, counters->pages_sharing,
		counters->pages_zero);
	fprintf(out, " %10s %10" PRIu64 " %10s %6" PRIu64 " %8s\n",
		text_bytes(counters->saved_bytes).chars, counters->cow_breaks,
		text_bytes(counters->metadata_bytes).chars,
		counters->merge_calls,
		text_ns(counters->merge_ns + counters->idle_ns).chars);
}

static int name_width(const struct host *host)
{
	size_t width = strlen("DOMAIN");

	for (size_t i = 0; i < host->nr; i++)
		if (strlen(host->domains[i].name) > width)
			width = strlen(host->domains[i].name);
	return (int)width;
}

void host_table(FILE *out, const struct host *host)
{
	int width = name_width(host);

	fprintf(out, "%-*s %9s %9s %9s %10s %10s %10s %6s %8s\n", width,
		"DOMAIN", "FRAMES", "SHARING", "ZERO", "SAVED", "COW BREAKS",
		"METADATA", "MERGES", "TIME");
	for (size_t i = 0; i < host->nr; i++)
		counters_row(out, host->domains[i].name, width,
			     &host->domains[i].counters);
	counters_row(out, "total", width, &host->global.counters);
	fprintf(out, "at most %" PRIu64 " mappings share a frame, zero pages "
		"are %s\n", host->global.max_page_sharing,
		host->global.use_zero_pages ? "replaced by the kernel's" :
		"merged like others");
}

static struct json_object *domain_json(const struct dksm_domain *domain)
{
	struct json_object *object = json_new();

	json_add_string(object, "name", domain->name);
	counters_fill(object, &domain->counters);
	return object;
}

static struct json_object *total_json(const struct dksm_global *global)
{
	struct json_object *object = json_new();

	counters_fill(object, &global->counters);
	knobs_fill(object, global);
	return object;
}

void host_json(FILE *out, const struct host *host)
{
	struct json_object *root = json_new(), *list = json_new_list();

	for (size_t i = 0; i < host->nr; i++)
		json_object_array_add(list, domain_json(&host->domains[i]));
	json_object_object_add(root, "domains", list);
	json_object_object_add(root, "total", total_json(&host->global));
	json_print(out, root);
}

static void pages_row(FILE *out, const char *name, uint64_t pages,
		      const char *words)
{
	fprintf(out, "%-14s %12" PRIu64 " %11s  %s\n", name, pages,
		text_bytes(pages * page_bytes()).chars, words);
}

static void number_row(FILE *out, const char *name, uint64_t number,
		       const char *words)
{
	fprintf(out, "%-14s %12" PRIu64 " %11s  %s\n", name, number, "", words);
}

static void merged_row(FILE *out, const char *name,
		       const struct dksm_report *report, const char *words)
{
	pages_row(out, name, report->merged + report->zero, words);
}

static void attachment_rows(FILE *out, const struct dksm_process *process)
{
	if (!process->attached && !process->vms && !process->idle_passes)
		return;
	fprintf(out, "%-14s %12s %11s  virtual machines are merged%s%s\n",
		"attached", process->attached ? "yes" : "no", "",
		process->idle ? " also when idle" : " when they start",
		process->learn ? "" : ", nothing is learned");
	number_row(out, "vms", process->vms,
		   "virtual machines merged at their start");
	merged_row(out, "load_merged", &process->load,
		   "merged before the first instruction");
	merged_row(out, "attach_merged", &process->attach,
		   "merged when attached");
	number_row(out, "idle_passes", process->idle_passes,
		   "complete passes over its memory");
	fprintf(out, "%-14s %12" PRIu64 " %11s  rounds of these, the last: "
		"%s\n", "idle_rounds", process->idle_rounds, "",
		process->idle_why);
	merged_row(out, "idle_merged", &process->idle_report,
		   "guest memory merged when idle");
	merged_row(out, "vmm_merged", &process->vmm,
		   "other memory of the process merged then");
}

void process_table(FILE *out, pid_t pid, const struct dksm_process *process)
{
	if (!*process->domain) {
		fprintf(out, "process %d is in no domain: dksm merge %d puts "
			"it into one\n", (int)pid, (int)pid);
		return;
	}
	fprintf(out, "%-14s %s\n", "domain", process->domain);
	pages_row(out, "pages_merged", process->pages_merged,
		  "mapped from frames of DKSM");
	pages_row(out, "pages_sharing", process->pages_sharing,
		  "of these, mapped elsewhere too");
	pages_row(out, "pages_zero", process->pages_zero,
		  "mapped from the kernel's zero page");
	number_row(out, "cow_breaks", process->cow_breaks,
		   "writes that made a page private again");
	attachment_rows(out, process);
}

static struct json_object *trigger_json(const struct dksm_report *report)
{
	struct json_object *object = json_new();

	report_fill(object, "merge", report);
	return object;
}

void process_json(FILE *out, pid_t pid, const struct dksm_process *process)
{
	struct json_object *root = json_new();

	json_add_number(root, "pid", (uint64_t)pid);
	json_add_string(root, "domain",
			*process->domain ? process->domain : NULL);
	json_add_number(root, "pages_merged", process->pages_merged);
	json_add_number(root, "pages_sharing", process->pages_sharing);
	json_add_number(root, "pages_zero", process->pages_zero);
	json_add_number(root, "cow_breaks", process->cow_breaks);
	json_add_number(root, "attached", process->attached);
	json_add_number(root, "idle", process->idle);
	json_add_number(root, "learn", process->learn);
	json_add_number(root, "huge_split", process->huge_split);
	json_add_number(root, "vms", process->vms);
	json_add_number(root, "idle_passes", process->idle_passes);
	json_add_number(root, "idle_rounds", process->idle_rounds);
	json_add_string(root, "idle_why",
			*process->idle_why ? process->idle_why : NULL);
	json_add_number(root, "idle_changed", process->idle_changed);
	json_add_number(root, "idle_hashed", process->idle_hashed);
	json_add_number(root, "idle_step_ns_max", process->idle_step_ns_max);
	json_object_object_add(root, "load_report",
			       trigger_json(&process->load));
	json_object_object_add(root, "attach_report",
			       trigger_json(&process->attach));
	json_object_object_add(root, "idle_report",
			       trigger_json(&process->idle_report));
	json_object_object_add(root, "vmm_report", trigger_json(&process->vmm));
	json_print(out, root);
}

static int failed(pid_t pid, int err)
{
	struct failure failure = failure_at(STEP_STAT, err);

	return failure_print(stderr, "stat", pid, &failure);
}

static int stat_host(const struct args *args)
{
	struct host host;
	int err;

	err = dksm_stat_global(&host.global);
	if (!err)
		err = dksm_stat_domains(&host.domains, &host.nr);
	if (err)
		return failed(0, err);
	if (args->json)
		host_json(stdout, &host);
	else if (args->prometheus)
		host_prometheus(stdout, &host);
	else
		host_table(stdout, &host);
	dksm_stat_domains_free(host.domains);
	return EXIT_OK;
}

static int stat_process(pid_t pid, bool json)
{
	struct dksm_process process;
	int err;

	err = dksm_stat_process(pid, &process);
	if (err)
		return failed(pid, err);
	if (json)
		process_json(stdout, pid, &process);
	else
		process_table(stdout, pid, &process);
	return EXIT_OK;
}

int cmd_stat(int argc, char **argv)
{
	struct args args;
	int status;

	status = args_parse(&args, argc, argv, ARGS_NO_PID | ARGS_PROMETHEUS);
	if (args.help)
		fputs(help, stdout);
	else if (!status && args.prometheus && (args.pid || args.json))
		status = usage_error(argv[0], "--prometheus goes with neither "
				     "a PID nor --json");
	else if (!status)
		status = args.pid ? stat_process(args.pid, args.json) :
				    stat_host(&args);
	args_free(&args);
	return status;
}
