// SPDX-License-Identifier: MIT
/*
 * Statistics from sysfs and procfs.  Domains and processes may vanish between
 * any two steps: one that is gone when an error shows up is treated as if it
 * had never been there.  Everything else that does not look as the kernel
 * documents it is an error, never a number.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "stat.h"

#define SYSFS_DIR "/sys/kernel/mm/dksm"
#define PROC_DIR "/proc"

#define WHY_CHARS "abcdefghijklmnopqrstuvwxyz"
#define NAME_CHARS						\
	"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"	\
	"0123456789._-"

struct field {
	const char *name;
	size_t offset;
};

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))
#define COUNTER(name) { #name, offsetof(struct dksm_counters, name) }
#define GLOBAL(name) { #name, offsetof(struct dksm_global, name) }
#define PROCESS(name) { #name, offsetof(struct dksm_process, name) }
#define REPORT(trigger, report, name) \
	{ trigger "_" #name, offsetof(struct dksm_process, report.name) }
#define REPORTS(trigger, report) \
	REPORT(trigger, report, scanned), REPORT(trigger, report, merged), \
	REPORT(trigger, report, published), REPORT(trigger, report, zero), \
	REPORT(trigger, report, ns)

static const struct field counter_fields[] = {
	COUNTER(pages_shared), COUNTER(pages_sharing), COUNTER(pages_zero),
	COUNTER(saved_bytes), COUNTER(cow_breaks), COUNTER(metadata_bytes),
	COUNTER(merge_calls), COUNTER(merge_ns), COUNTER(idle_ns),
	COUNTER(huge_split), COUNTER(learned_volatile), COUNTER(idle_passes),
	COUNTER(idle_changed), COUNTER(idle_hashed),
};

static const struct field knob_fields[] = {
	GLOBAL(max_page_sharing), GLOBAL(use_zero_pages), GLOBAL(learn),
	GLOBAL(load_pages), GLOBAL(huge_min), GLOBAL(busy_percent),
};

static const struct field process_fields[] = {
	PROCESS(pages_merged), PROCESS(pages_sharing), PROCESS(pages_zero),
	PROCESS(cow_breaks), PROCESS(attached), PROCESS(idle), PROCESS(learn),
	PROCESS(huge_split), PROCESS(vms), PROCESS(idle_passes),
	PROCESS(idle_step_ns_max), PROCESS(idle_rounds), PROCESS(idle_changed),
	PROCESS(idle_hashed), REPORTS("load", load), REPORTS("attach", attach),
	REPORTS("idle", idle_report), REPORTS("vmm", vmm),
};

/* Lists of numbers, by enum dksm_skip. */
static const struct field skip_fields[] = {
	REPORT("load", load, skipped), REPORT("attach", attach, skipped),
	REPORT("idle", idle_report, skipped), REPORT("vmm", vmm, skipped),
};

static void field_set(void *base, const struct field *field, uint64_t value)
{
	memcpy((char *)base + field->offset, &value, sizeof(value));
}

/* Decimal digits and nothing else. */
static int parse_number(const char *text, uint64_t *value)
{
	char *end;

	if (!*text || strspn(text, "0123456789") != strlen(text))
		return -EBADMSG;
	errno = 0;
	*value = strtoull(text, &end, 10);
	return errno ? -ERANGE : 0;
}

/* Fill @buf until the end of the file; a file that does not fit is an error. */
static int read_all(int fd, char *buf, size_t size)
{
	size_t used = 0;
	ssize_t got;

	do {
		got = read(fd, buf + used, size - used);
		if (got < 0 && errno != EINTR)
			return -errno;
		if (got > 0)
			used += (size_t)got;
	} while (got && used < size);
	if (used == size || memchr(buf, 0, used))
		return -EBADMSG;
	buf[used] = 0;
	return 0;
}

static int read_file(int dir, const char *name, char *buf, size_t size)
{
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
	int err;

	if (fd < 0)
		return -errno;
	err = read_all(fd, buf, size);
	close(fd);
	return err;
}

static int read_number(int dir, const char *name, uint64_t *value)
{
	char text[64];
	size_t len;
	int err;

	err = read_file(dir, name, text, sizeof(text));
	if (err)
		return err;
	len = strlen(text);
	if (len && text[len - 1] == '\n')
		text[len - 1] = 0;
	return parse_number(text, value);
}

static int read_fields(int dir, const struct field *fields, size_t nr,
		       void *base)
{
	uint64_t value = 0;
	int err = 0;

	for (size_t i = 0; i < nr && !err; i++) {
		err = read_number(dir, fields[i].name, &value);
		if (!err)
			field_set(base, &fields[i], value);
	}
	return err;
}

static int read_counters(int dir, struct dksm_counters *counters)
{
	return read_fields(dir, counter_fields, ARRAY_SIZE(counter_fields),
			   counters);
}

int dksm_stat_read_global(int dir, struct dksm_global *global)
{
	int err;

	memset(global, 0, sizeof(*global));
	err = read_counters(dir, &global->counters);
	if (!err)
		err = read_fields(dir, knob_fields, ARRAY_SIZE(knob_fields),
				  global);
	if (err)
		memset(global, 0, sizeof(*global));
	return err;
}

static bool is_domain_name(const char *name)
{
	size_t len = strlen(name);

	return len && len < DKSM_NAME_SIZE && name[0] != '.' &&
	       strspn(name, NAME_CHARS) == len;
}

static int open_dir(int dir, const char *name)
{
	int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static bool exists(int dir, const char *name)
{
	struct stat st;

	return !fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW);
}

static int read_domain(int dir, const char *name, struct dksm_domain *domain)
{
	int fd, err;

	memset(domain, 0, sizeof(*domain));
	memcpy(domain->name, name, strlen(name));
	fd = open_dir(dir, name);
	if (fd < 0)
		return fd;
	err = read_counters(fd, &domain->counters);
	close(fd);
	return err;
}

/*
 * Return: 1 if @domain was filled in, 0 if it is none to show: not a domain,
 * somebody else's, or gone (-ENODEV, even if there is a new one of its name).
 */
static int try_domain(int dir, const char *name, struct dksm_domain *domain)
{
	int err;

	if (!is_domain_name(name))
		return 0;
	err = read_domain(dir, name, domain);
	if (err == -EACCES || err == -EPERM || err == -ENODEV ||
	    (err && !exists(dir, name)))
		return 0;
	return err ? err : 1;
}

struct domain_list {
	struct dksm_domain *domains;
	size_t nr, room;
};

static int list_grow(struct domain_list *list)
{
	size_t room = list->room ? 2 * list->room : 16;
	struct dksm_domain *domains;

	if (list->nr < list->room)
		return 0;
	domains = reallocarray(list->domains, room, sizeof(*domains));
	if (!domains)
		return -ENOMEM;
	list->domains = domains;
	list->room = room;
	return 0;
}

static int list_fill(DIR *stream, struct domain_list *list)
{
	struct dirent *entry;
	int err;

	while (errno = 0, entry = readdir(stream)) {
		err = list_grow(list);
		if (err)
			return err;
		err = try_domain(dirfd(stream), entry->d_name,
				 &list->domains[list->nr]);
		if (err < 0)
			return err;
		list->nr += (size_t)err;
	}
	return -errno;
}

static int by_name(const void *a, const void *b)
{
	const struct dksm_domain *left = a, *right = b;

	return strcmp(left->name, right->name);
}

/* A stream of its own, so that the caller's descriptor stays as it is. */
static DIR *open_stream(int dir)
{
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *stream = fd < 0 ? NULL : fdopendir(fd);

	if (!stream && fd >= 0)
		close(fd);
	return stream;
}

int dksm_stat_read_domains(int dir, struct dksm_domain **domains, size_t *nr)
{
	struct domain_list list = { 0 };
	DIR *stream;
	int err;

	*domains = NULL;
	*nr = 0;
	stream = open_stream(dir);
	if (!stream)
		return -errno;
	err = list_fill(stream, &list);
	closedir(stream);
	if (err || !list.nr) {
		free(list.domains);
		return err;
	}
	qsort(list.domains, list.nr, sizeof(*list.domains), by_name);
	*domains = list.domains;
	*nr = list.nr;
	return 0;
}

static int parse_domain(struct dksm_process *process, const struct field *field,
			char *text)
{
	(void)field;
	if (!is_domain_name(text))
		return -EBADMSG;
	memcpy(process->domain, text, strlen(text) + 1);
	return 0;
}

/* A later kernel may know other words, as long as there is room for them. */
static int parse_why(struct dksm_process *process, const struct field *field,
		     char *text)
{
	size_t len = strlen(text);

	(void)field;
	if (!len || len >= sizeof(process->idle_why) ||
	    strspn(text, WHY_CHARS) != len)
		return -EBADMSG;
	memcpy(process->idle_why, text, len + 1);
	return 0;
}

/* A later kernel may know more reasons, but there is no room for more than that. */
static int parse_list(struct dksm_process *process, const struct field *field,
		      char *text)
{
	uint64_t values[DKSM_SKIP_MAX] = { 0 };
	size_t nr = 0;
	int err = 0;

	while (text && !err)
		err = nr == DKSM_SKIP_MAX ? -EBADMSG :
			parse_number(strsep(&text, " "), &values[nr++]);
	memcpy((char *)process + field->offset, values, sizeof(values));
	return err;
}

static int parse_field(struct dksm_process *process, const struct field *field,
		       char *text)
{
	uint64_t number;
	int err = parse_number(text, &number);

	if (!err)
		field_set(process, field, number);
	return err;
}

static const struct field domain_field = { .name = "domain" };
static const struct field why_field = { .name = "idle_why" };

/* All keys of the file, and what becomes of their values. */
static const struct kind {
	const struct field *fields;
	size_t nr;
	int (*parse)(struct dksm_process *process, const struct field *field,
		     char *text);
} kinds[] = {
	{ process_fields, ARRAY_SIZE(process_fields), parse_field },
	{ skip_fields, ARRAY_SIZE(skip_fields), parse_list },
	{ &domain_field, 1, parse_domain },
	{ &why_field, 1, parse_why },
};

#define KEYS (ARRAY_SIZE(process_fields) + ARRAY_SIZE(skip_fields) + 2)

/* The kind that has @key, which is the field at @index of it; NULL for none. */
static const struct kind *kind_find(const char *key, size_t *index)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		for (*index = 0; *index < kinds[i].nr; ++*index)
			if (!strcmp(kinds[i].fields[*index].name, key))
				return &kinds[i];
	return NULL;
}

/*
 * One line "key value"; @bit tells which key that is.  Keys of later kernels are
 * passed over.
 */
static int parse_line(struct dksm_process *process, char *line, uint64_t *bit)
{
	char *value = strchr(line, ' ');
	const struct kind *kind;
	size_t index, before = 0;

	*bit = 0;
	if (!value)
		return -EBADMSG;
	*value++ = 0;
	kind = kind_find(line, &index);
	if (!kind)
		return 0;
	for (const struct kind *other = kinds; other < kind; other++)
		before += other->nr;
	*bit = 1ULL << (before + index);
	return kind->parse(process, &kind->fields[index], value);
}

/* An empty text is a process in no domain. */
static int parse_lines(struct dksm_process *process, char *text)
{
	uint64_t seen = 0, bit;
	char *line, *save;
	int err = 0;

	if (!*text)
		return 0;
	for (line = strtok_r(text, "\n", &save); line && !err;
	     line = strtok_r(NULL, "\n", &save)) {
		err = parse_line(process, line, &bit);
		if (seen & bit)
			err = -EBADMSG;
		seen |= bit;
	}
	if (!err && seen != (1ULL << KEYS) - 1)
		err = -EBADMSG;
	return err;
}

/* A missing file in the folder of a living process: a kernel without DKSM. */
static int process_read(int proc, const char *pid, char *text, size_t size)
{
	int dir, err;

	dir = open_dir(proc, pid);
	if (dir < 0)
		return dir == -ENOENT ? -ESRCH : dir;
	err = read_file(dir, "dksm_stat", text, size);
	if (err == -ENOENT)
		err = exists(dir, "stat") ? -ENODEV : -ESRCH;
	close(dir);
	return err;
}

int dksm_stat_read_process(int proc, const char *pid,
			   struct dksm_process *process)
{
	char text[4096];
	int err;

	memset(process, 0, sizeof(*process));
	err = process_read(proc, pid, text, sizeof(text));
	if (!err)
		err = parse_lines(process, text);
	if (err)
		memset(process, 0, sizeof(*process));
	return err;
}

static int open_sysfs(const char *path)
{
	int dir = open_dir(AT_FDCWD, path);

	return dir == -ENOENT ? -ENODEV : dir;
}

int dksm_stat_global(struct dksm_global *global)
{
	int dir, err;

	memset(global, 0, sizeof(*global));
	dir = open_sysfs(SYSFS_DIR);
	if (dir < 0)
		return dir;
	err = dksm_stat_read_global(dir, global);
	close(dir);
	return err;
}

int dksm_stat_domains(struct dksm_domain **domains, size_t *nr)
{
	int dir, err;

	*domains = NULL;
	*nr = 0;
	dir = open_sysfs(SYSFS_DIR "/domains");
	if (dir < 0)
		return dir;
	err = dksm_stat_read_domains(dir, domains, nr);
	close(dir);
	return err;
}

void dksm_stat_domains_free(struct dksm_domain *domains)
{
	free(domains);
}

int dksm_stat_process(pid_t pid, struct dksm_process *process)
{
	char name[16] = "self";
	int dir, err;

	memset(process, 0, sizeof(*process));
	if (pid < 0)
		return -ESRCH;
	if (pid)
		snprintf(name, sizeof(name), "%d", (int)pid);
	dir = open_dir(AT_FDCWD, PROC_DIR);
	if (dir < 0)
		return dir;
	err = dksm_stat_read_process(dir, name, process);
	close(dir);
	return err;
}
