// SPDX-License-Identifier: MIT
/*
 * What the library makes of files as in /proc and /sys, and the output of what it
 * accepts: exactly the numbers and names that the kernel can have written, or an
 * error and zeroes; then well-formed JSON.  The first byte of the input decides
 * whether the rest is a process's file, a number or the name of a domain.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../lib/stat.h"
#include "fuzz.h"

static const char *const files[] = {
	"pages_shared", "pages_sharing", "pages_zero", "saved_bytes", "cow_breaks",
	"metadata_bytes", "merge_calls", "merge_ns", "idle_ns", "huge_split",
	"learned_volatile", "idle_passes", "idle_changed", "idle_hashed", "max_page_sharing",
	"use_zero_pages", "learn", "load_pages", "huge_min", "busy_percent",
};

static char root[] = "/dev/shm/dksm-fuzz-XXXXXX";
static int root_fd, domains_fd, domain_fd, process_file, number_file;

static int put(int dir, const char *name, const void *bytes, size_t size)
{
	int fd = openat(dir, name, O_RDWR | O_CREAT, 0600);

	REQUIRE(fd >= 0 && pwrite(fd, bytes, size, 0) == (ssize_t)size);
	return fd;
}

static void refill(int fd, const void *bytes, size_t size)
{
	REQUIRE(!ftruncate(fd, 0) && pwrite(fd, bytes, size, 0) == (ssize_t)size);
}

static int folder(int dir, const char *name)
{
	int fd;

	REQUIRE(!mkdirat(dir, name, 0700));
	fd = openat(dir, name, O_RDONLY | O_DIRECTORY);
	REQUIRE(fd >= 0);
	return fd;
}

static void clean_up(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		unlinkat(domain_fd, files[i], 0);
	unlinkat(domains_fd, "d", AT_REMOVEDIR);
	unlinkat(root_fd, "domains", AT_REMOVEDIR);
	unlinkat(root_fd, "12/dksm_stat", 0);
	unlinkat(root_fd, "12", AT_REMOVEDIR);
	rmdir(root);
}

/* A domain's folder has all files of the global one, so that one will do. */
static void set_up(void)
{
	REQUIRE(mkdtemp(root));
	root_fd = open(root, O_RDONLY | O_DIRECTORY);
	domains_fd = folder(root_fd, "domains");
	domain_fd = folder(domains_fd, "d");
	process_file = put(folder(root_fd, "12"), "dksm_stat", "", 0);
	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		close(put(domain_fd, files[i], "7\n", 2));
	number_file = put(domain_fd, "merge_ns", "7\n", 2);
	atexit(clean_up);
}

static void print_report(FILE *out, const char *name, const struct dksm_report *report)
{
	fprintf(out, "%s_scanned %llu\n%s_merged %llu\n", name, report->scanned, name,
		report->merged);
	fprintf(out, "%s_published %llu\n%s_zero %llu\n%s_ns %llu\n", name, report->published,
		name, report->zero, name, report->ns);
	fprintf(out, "%s_skipped", name);
	for (size_t i = 0; i < DKSM_SKIP_MAX; i++)
		fprintf(out, " %llu", report->skipped[i]);
	fputc('\n', out);
}

/* As the kernel does. */
static void print_process(FILE *out, const struct dksm_process *process)
{
	fprintf(out, "domain %s\npages_merged %lu\n", process->domain, process->pages_merged);
	fprintf(out, "pages_sharing %lu\npages_zero %lu\n", process->pages_sharing,
		process->pages_zero);
	fprintf(out, "cow_breaks %lu\nattached %lu\nidle %lu\n", process->cow_breaks,
		process->attached, process->idle);
	fprintf(out, "learn %lu\nhuge_split %lu\nvms %lu\n", process->learn,
		process->huge_split, process->vms);
	fprintf(out, "idle_passes %lu\nidle_step_ns_max %lu\n", process->idle_passes,
		process->idle_step_ns_max);
	fprintf(out, "idle_rounds %lu\nidle_why %s\n", process->idle_rounds, process->idle_why);
	fprintf(out, "idle_changed %lu\nidle_hashed %lu\n", process->idle_changed,
		process->idle_hashed);
	print_report(out, "load", &process->load);
	print_report(out, "attach", &process->attach);
	print_report(out, "idle", &process->idle_report);
	print_report(out, "vmm", &process->vmm);
}

/* How many lines of @text have this key. */
static unsigned int lines_with(const char *text, const char *key, size_t len)
{
	unsigned int nr = 0;

	for (; text; text = strchr(text, '\n'), text = text ? text + 1 : NULL)
		nr += !strncmp(text, key, len) && text[len] == ' ';
	return nr;
}

/* Each line that the kernel writes has been there, once; read again it is the same. */
static void check_accepted(const char *text, const struct dksm_process *process)
{
	struct dksm_process again;
	struct capture capture;
	char *line;

	print_process(capture_begin(&capture), process);
	line = capture_end(&capture);
	refill(process_file, line, capture.size);
	REQUIRE(!dksm_stat_read_process(root_fd, "12", &again));
	REQUIRE(!memcmp(process, &again, sizeof(again)));
	for (; *line; line += strcspn(line, "\n") + 1)
		REQUIRE(lines_with(text, line, strcspn(line, " ")) == 1);
	free(capture.text);
}

static void check_process(const char *text, size_t size)
{
	static const struct dksm_process zero;
	struct dksm_process process;
	struct json_object *json;
	struct capture capture;
	int err;

	refill(process_file, text, size);
	err = dksm_stat_read_process(root_fd, "12", &process);
	REQUIRE(!err || err == -EBADMSG || err == -ERANGE);
	if (err || !size) {
		REQUIRE(!memcmp(&process, &zero, sizeof(zero)));
		return;
	}
	REQUIRE(strlen(text) == size && kernel_takes_name(process.domain));
	check_accepted(text, &process);
	process_json(capture_begin(&capture), 12, &process);
	json = json_of(capture_end(&capture));
	REQUIRE(json_string_is(json, "domain", process.domain));
	json_object_put(json);
	free(capture.text);
}

/* What the file says if it is a number as the kernel writes it. */
static int number_of(const char *text, size_t size, uint64_t *number)
{
	unsigned __int128 value = 0;
	int err = 0;

	if (size > 63)		/* more than the library reads */
		return -EBADMSG;
	size -= size && text[size - 1] == '\n';
	if (!size || strspn(text, "0123456789") < size)
		return -EBADMSG;
	for (size_t i = 0; i < size; i++) {
		value = value * 10 + (unsigned int)(text[i] - '0');
		if (value > UINT64_MAX)
			err = -ERANGE, value = 0;
	}
	*number = (uint64_t)value;
	return err;
}

static void check_number(const char *text, size_t size)
{
	static const struct dksm_global zero;
	struct dksm_global global;
	uint64_t number;
	int err = number_of(text, size, &number);

	refill(number_file, text, size);
	REQUIRE(dksm_stat_read_global(domain_fd, &global) == err);
	refill(number_file, "7\n", 2);
	if (err)
		REQUIRE(!memcmp(&global, &zero, sizeof(zero)));
	else
		REQUIRE(global.counters.merge_ns == number && global.learn == 7);
}

static void check_domain(const char *name)
{
	struct json_object *json, *list;
	struct capture capture;
	struct host host = { 0 };

	if (strchr(name, '/') || renameat(domains_fd, "d", domains_fd, name))
		return;		/* no name for a folder */
	REQUIRE(!dksm_stat_read_domains(domains_fd, &host.domains, &host.nr));
	REQUIRE(!renameat(domains_fd, name, domains_fd, "d"));
	REQUIRE(host.nr == kernel_takes_name(name));
	host_json(capture_begin(&capture), &host);
	json = json_of(capture_end(&capture));
	list = json_child(json, "domains");
	REQUIRE(json_object_array_length(list) == host.nr);
	REQUIRE(!host.nr || json_string_is(json_object_array_get_idx(list, 0), "name", name));
	json_object_put(json);
	free(capture.text);
	dksm_stat_domains_free(host.domains);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static bool ready;
	char *text;

	if (!size)
		return 0;
	if (!ready)
		set_up();
	ready = true;
	text = text_of(data + 1, size - 1);
	if (*data % 3 == 0)
		check_process(text, size - 1);
	else if (*data % 3 == 1)
		check_number(text, size - 1);
	else
		check_domain(text);
	free(text);
	return 0;
}
