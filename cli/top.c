// SPDX-License-Identifier: MIT
/*
 * The logic of dksm top: collects the members of all domains, works out rates and
 * each member's part of what is saved, sorts, filters, and puts rows into words.
 * A process may be gone at any time, and is left out then.
 */
#define _GNU_SOURCE	/* qsort_r() */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "top.h"

#define NAMES_MIN 6	/* "DOMAIN" */
#define NAMES_BESIDE 69	/* all columns but the names, and 8 of a command */

static const char *const column_names[TOP_COLUMNS] = {
	[TOP_PID] = "pid", [TOP_DOMAIN] = "domain", [TOP_MEMORY] = "memory",
	[TOP_SHARED] = "shared", [TOP_SAVED] = "saved",
	[TOP_COPIES] = "copies", [TOP_LEARNED] = "learned",
	[TOP_COMMAND] = "command",
};

enum top_column top_column_find(const char *name)
{
	unsigned int i = 0;

	while (i < TOP_COLUMNS && strcmp(column_names[i], name))
		i++;
	return (enum top_column)i;
}

const char *top_column_name(enum top_column column)
{
	return column_names[column];
}

/* ---- collecting ---- */

static struct top_row *add_row(struct top_rows *rows)
{
	struct top_row *list, *row;

	list = realloc(rows->list, (rows->nr + 1) * sizeof(*list));
	if (!list)
		return NULL;
	rows->list = list;
	row = &list[rows->nr++];
	memset(row, 0, sizeof(*row));
	return row;
}

static void from_counters(struct top_row *row,
			  const struct dksm_counters *counters)
{
	row->zero = counters->pages_zero * page_bytes();
	row->saved = counters->saved_bytes;
	row->breaks = counters->cow_breaks;
	row->learned = counters->learned_volatile;
}

static int collect_domains(struct top_rows *rows)
{
	struct dksm_domain *domains;
	struct top_row *row;
	size_t nr;
	int err;

	err = dksm_stat_domains(&domains, &nr);
	for (size_t i = 0; i < nr && !err; i++) {
		row = add_row(rows);
		if (!row) {
			err = -ENOMEM;
			break;
		}
		memcpy(row->domain, domains[i].name, sizeof(row->domain));
		from_counters(row, &domains[i].counters);
	}
	dksm_stat_domains_free(domains);
	return err;
}

/* The first line of a file of a process; "" if it is gone. */
static void proc_line(pid_t pid, const char *name, char *line, size_t size)
{
	char path[64];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	file = fopen(path, "re");
	if (!file || !fgets(line, (int)size, file))
		line[0] = 0;
	line[strcspn(line, "\n")] = 0;
	if (file)
		fclose(file);
}

void top_printable(char *text)
{
	for (; *text; text++)
		if (!isprint((unsigned char)*text))
			*text = '?';
}

/* What is resident and not of files; merged pages are, the zero page is not. */
static uint64_t anonymous_bytes(pid_t pid)
{
	uint64_t resident, files;
	char line[128];

	proc_line(pid, "statm", line, sizeof(line));
	if (sscanf(line, "%*u %" SCNu64 " %" SCNu64, &resident, &files) != 2 ||
	    files > resident)
		return 0;
	return (resident - files) * page_bytes();
}

static int collect_process(struct top_rows *rows, pid_t pid)
{
	struct dksm_process process;
	struct top_row *row;
	int err;

	err = dksm_stat_process(pid, &process);
	if (err == -ESRCH || err == -EACCES || err == -EPERM)
		return 0;
	if (err || !*process.domain)
		return err;
	row = add_row(rows);
	if (!row)
		return -ENOMEM;
	row->pid = pid;
	memcpy(row->domain, process.domain, sizeof(row->domain));
	proc_line(pid, "comm", row->command, sizeof(row->command));
	top_printable(row->command);
	row->vms = process.vms;
	row->zero = process.pages_zero * page_bytes();
	row->memory = anonymous_bytes(pid) + row->zero;
	row->shared = process.pages_sharing * page_bytes();
	row->breaks = process.cow_breaks;
	row->learned = process.load.skipped[DKSM_SKIP_LEARNED] +
		       process.attach.skipped[DKSM_SKIP_LEARNED] +
		       process.idle_report.skipped[DKSM_SKIP_LEARNED] +
		       process.vmm.skipped[DKSM_SKIP_LEARNED];
	return 0;
}

static int collect_processes(struct top_rows *rows)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	int err = 0;
	pid_t pid;

	if (!proc)
		return -errno;
	while (!err && (entry = readdir(proc)))
		if (pid_parse(entry->d_name, &pid))
			err = collect_process(rows, pid);
	closedir(proc);
	return err;
}

double top_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int collect(struct top_sample *now, const struct top_sample *before)
{
	struct dksm_global global;
	int err;

	memset(now, 0, sizeof(*now));
	now->seconds = top_seconds();
	err = dksm_stat_global(&global);
	if (!err)
		err = collect_processes(&now->processes);
	if (!err)
		err = collect_domains(&now->domains);
	if (err) {
		top_free(now);
		return err;
	}
	from_counters(&now->total, &global.counters);
	top_settle(now, before);
	return 0;
}

void top_free(struct top_sample *sample)
{
	free(sample->domains.list);
	free(sample->processes.list);
	memset(sample, 0, sizeof(*sample));
}

int top_next(struct top_source *source)
{
	struct top_sample next;
	int err = collect(&next, &source->now);

	if (err)
		return err;
	top_free(&source->now);
	source->now = next;
	return 0;
}

/* ---- what follows from the numbers ---- */

static struct top_row *find_row(const struct top_rows *rows, pid_t pid,
				const char *domain)
{
	for (size_t i = 0; i < rows->nr; i++)
		if (rows->list[i].pid == pid &&
		    !strcmp(rows->list[i].domain, domain))
			return &rows->list[i];
	return NULL;
}

static void add_member(struct top_row *sum, const struct top_row *member)
{
	sum->processes++;
	sum->vms += member->vms;
	sum->memory += member->memory;
	sum->shared += member->shared;
}

/*
 * The kernel counts what a domain saves, not who does it.  Of a frame with N
 * mappings N - 1 are saved, and each member has its part of them.
 */
static uint64_t part_saved(const struct top_row *member,
			   const struct top_row *domain)
{
	uint64_t frames = domain->saved > domain->zero ?
			  domain->saved - domain->zero : 0;

	if (!domain->shared)
		return member->zero;
	if (frames > domain->shared)
		frames = domain->shared;
	return member->zero + (uint64_t)((double)member->shared *
			(double)frames / (double)domain->shared);
}

/* A PID or a name may have been given to another: counters never go back. */
static void set_rate(struct top_row *row, const struct top_row *before,
		     double seconds)
{
	row->rate = -1;
	if (before && seconds > 0 && row->breaks >= before->breaks)
		row->rate = (double)(row->breaks - before->breaks) / seconds;
}

static void set_rates(struct top_rows *now, const struct top_rows *before,
		      double seconds)
{
	struct top_row *row;

	for (size_t i = 0; i < now->nr; i++) {
		row = &now->list[i];
		set_rate(row, find_row(before, row->pid, row->domain), seconds);
	}
}

void top_settle(struct top_sample *now, const struct top_sample *before)
{
	double seconds = before->seconds > 0 ? now->seconds - before->seconds : 0;
	struct top_row *row, *domain;

	for (size_t i = 0; i < now->processes.nr; i++) {
		row = &now->processes.list[i];
		domain = find_row(&now->domains, 0, row->domain);
		add_member(&now->total, row);
		if (domain)
			add_member(domain, row);
	}
	for (size_t i = 0; i < now->processes.nr; i++) {
		row = &now->processes.list[i];
		domain = find_row(&now->domains, 0, row->domain);
		row->saved = domain ? part_saved(row, domain) : row->zero;
	}
	set_rates(&now->domains, &before->domains, seconds);
	set_rates(&now->processes, &before->processes, seconds);
	set_rate(&now->total, &before->total, seconds);
}

/* ---- sorting and filtering ---- */

static double value(const struct top_row *row, enum top_column column)
{
	switch (column) {
	case TOP_MEMORY:
		return (double)row->memory;
	case TOP_SHARED:
		return (double)row->shared;
	case TOP_SAVED:
		return (double)row->saved;
	case TOP_COPIES:
		return row->rate;
	case TOP_LEARNED:
		return (double)row->learned;
	default:
		return 0;	/* not a number to sort by */
	}
}

static int by_column(const void *a, const void *b, void *column)
{
	const struct top_row *left = a, *right = b;
	enum top_column sort = *(const enum top_column *)column;
	double first = value(left, sort), second = value(right, sort);
	int order = (first < second) - (first > second);

	if (sort == TOP_COMMAND)
		order = strcmp(left->command, right->command);
	if (!order && sort != TOP_PID)
		order = strcmp(left->domain, right->domain);
	return order ? order : (left->pid > right->pid) - (left->pid < right->pid);
}

static bool has_text(const struct top_row *row, const char *text)
{
	char pid[16] = "";

	if (row->pid)
		snprintf(pid, sizeof(pid), "%d", (int)row->pid);
	return strstr(pid, text) || strstr(row->domain, text) ||
	       strstr(row->command, text);
}

static bool has_shown(const struct top_rows *rows, const char *domain)
{
	for (size_t i = 0; i < rows->nr; i++)
		if (rows->list[i].shown && !strcmp(rows->list[i].domain, domain))
			return true;
	return false;
}

static void filter(struct top_rows *rows, const struct top_view *view)
{
	struct top_row *row;

	for (size_t i = 0; i < rows->nr; i++) {
		row = &rows->list[i];
		row->shown = (!*view->domain || !strcmp(row->domain, view->domain)) &&
			     has_text(row, view->text);
	}
}

/* The domains of shown processes are shown, whatever they are called. */
void top_arrange(struct top_sample *sample, const struct top_view *view)
{
	struct top_rows *domains = &sample->domains;
	struct top_rows *processes = &sample->processes;
	/* qsort_r() wants it writable */
	enum top_column sort = view->sort;

	if (domains->nr)
		qsort_r(domains->list, domains->nr, sizeof(*domains->list),
			by_column, &sort);
	if (processes->nr)
		qsort_r(processes->list, processes->nr,
			sizeof(*processes->list), by_column, &sort);
	filter(processes, view);
	filter(domains, view);
	for (size_t i = 0; i < domains->nr; i++)
		domains->list[i].shown |= has_shown(processes,
						    domains->list[i].domain);
}

size_t top_shown(const struct top_rows *rows)
{
	size_t nr = 0;

	for (size_t i = 0; i < rows->nr; i++)
		nr += rows->list[i].shown;
	return nr;
}

/* ---- words ---- */

int top_names_width(const struct top_sample *sample, int width)
{
	const struct top_rows *domains = &sample->domains;
	int names = NAMES_MIN, len;

	for (size_t i = 0; i < domains->nr; i++) {
		len = (int)strlen(domains->list[i].domain);
		if (domains->list[i].shown && len > names)
			names = len;
	}
	if (names > width - NAMES_BESIDE)
		names = width - NAMES_BESIDE;
	return names < NAMES_MIN ? NAMES_MIN : names;
}

static struct text text_rate(double rate)
{
	struct text text = { "-" };

	if (rate >= 0)
		snprintf(text.chars, sizeof(text.chars), "%.1f", rate);
	return text;
}

/* The filters first: they explain what is missing, and narrow terminals cut. */
struct top_line top_summary(const struct top_sample *sample,
			    const struct top_view *view)
{
	const struct top_row *total = &sample->total;
	const char *domain = view->domain, *text = view->text;
	struct top_line line;

	snprintf(line.text, sizeof(line.text), "%s%s%s%s%s%s%zu domains, %"
		 PRIu64 " processes, %s saved, %s copies/s, by %s",
		 *domain ? "domain " : "", domain, *domain && *text ? ", " : "",
		 *text ? "with " : "", text, *domain || *text ? ": of " : "",
		 sample->domains.nr, total->processes,
		 text_bytes(total->saved).chars, text_rate(total->rate).chars,
		 top_column_name(view->sort));
	return line;
}

struct top_line top_head(bool processes, int names)
{
	struct top_line line;

	snprintf(line.text, sizeof(line.text), "%*s%s%-*s %10s %10s %10s %8s "
		 "%8s  %s", processes ? 7 : 0, processes ? "PID" : "",
		 processes ? " " : "", processes ? names : names + 8, "DOMAIN",
		 "MEMORY", "SHARED", "SAVED", "COPIES/S", "LEARNED",
		 processes ? "COMMAND" : "MEMBERS");
	return line;
}

/* A '+' stands for what of the name there is no room for. */
struct top_line top_text(const struct top_row *row, int names)
{
	int width = row->pid ? names : names + 8;
	bool fits = strlen(row->domain) <= (size_t)width;
	char pid[16] = "", members[32];
	struct top_line line;

	snprintf(members, sizeof(members), "%" PRIu64, row->processes);
	if (row->pid)
		snprintf(pid, sizeof(pid), "%7d ", (int)row->pid);
	snprintf(line.text, sizeof(line.text), "%s%-*.*s%s %10s %10s %10s %8s %8"
		 PRIu64 "  %s", pid, fits ? width : 0, fits ? width : width - 1,
		 row->domain, fits ? "" : "+", text_bytes(row->memory).chars,
		 text_bytes(row->shared).chars, text_bytes(row->saved).chars,
		 text_rate(row->rate).chars, row->learned,
		 row->pid ? row->command : members);
	return line;
}

static void rows_table(FILE *out, const struct top_rows *rows, bool processes,
		       int names)
{
	fprintf(out, "%s\n", top_head(processes, names).text);
	for (size_t i = 0; i < rows->nr; i++)
		if (rows->list[i].shown)
			fprintf(out, "%s\n", top_text(&rows->list[i], names).text);
}

void top_table(FILE *out, const struct top_sample *sample,
	       const struct top_view *view)
{
	int names = top_names_width(sample, NAMES_BESIDE + DKSM_NAME_SIZE);

	fprintf(out, "%s\n", top_summary(sample, view).text);
	rows_table(out, &sample->domains, false, names);
	fputc('\n', out);
	rows_table(out, &sample->processes, true, names);
	fputc('\n', out);
}

static struct json_object *row_json(const struct top_row *row)
{
	struct json_object *object = json_new();

	if (row->pid) {
		json_add_number(object, "pid", (uint64_t)row->pid);
		json_add_string(object, "command", row->command);
	} else {
		json_add_number(object, "processes", row->processes);
	}
	if (*row->domain)
		json_add_string(object, row->pid ? "domain" : "name",
				row->domain);
	json_add_number(object, "vms", row->vms);
	json_add_number(object, "memory_bytes", row->memory);
	json_add_number(object, "shared_bytes", row->shared);
	json_add_number(object, "zero_bytes", row->zero);
	json_add_number(object, "saved_bytes", row->saved);
	json_add_number(object, "cow_breaks", row->breaks);
	json_add_decimal(object, "cow_breaks_per_second", row->rate);
	json_add_number(object, "learned", row->learned);
	return object;
}

static struct json_object *rows_json(const struct top_rows *rows)
{
	struct json_object *list = json_new_list();

	for (size_t i = 0; i < rows->nr; i++)
		if (rows->list[i].shown)
			json_object_array_add(list, row_json(&rows->list[i]));
	return list;
}

void top_json(FILE *out, const struct top_sample *sample)
{
	struct json_object *root = json_new();

	json_object_object_add(root, "domains", rows_json(&sample->domains));
	json_object_object_add(root, "processes",
			       rows_json(&sample->processes));
	json_object_object_add(root, "total", row_json(&sample->total));
	json_print(out, root);
}
