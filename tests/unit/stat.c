// SPDX-License-Identifier: MIT
/*
 * Reading statistics from folders made for the test: as the kernel writes them,
 * and every way in which they could be wrong.
 */
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../cli/cli.h"
#include "../../lib/stat.h"
#include "ktap.h"

#define NOBODY 65534

static const char *const counters[] = {
	"pages_shared", "pages_sharing", "pages_zero", "saved_bytes",
	"cow_breaks", "metadata_bytes", "merge_calls", "merge_ns",
	"idle_ns", "huge_split", "learned_volatile", "idle_passes",
	"idle_changed", "idle_hashed",
};

static char root[] = "/tmp/dksm-stat-XXXXXX";
static int rootfd;

static void put_bytes(const char *path, const void *bytes, size_t len)
{
	int fd = openat(rootfd, path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	CHECK_FOR(path, fd >= 0);
	CHECK_FOR(path, write(fd, bytes, len) == (ssize_t)len);
	close(fd);
}

static void put(const char *path, const char *text)
{
	put_bytes(path, text, strlen(text));
}

static void put_in(const char *dir, const char *name, const char *text)
{
	char path[512];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	put(path, text);
}

/* Number i of folder @dir becomes @first + i. */
static void put_counters(const char *dir, unsigned int first)
{
	char text[32];

	mkdirat(rootfd, dir, 0700);
	for (size_t i = 0; i < ARRAY_SIZE(counters); i++) {
		snprintf(text, sizeof(text), "%zu\n", first + i);
		put_in(dir, counters[i], text);
	}
}

static void put_global(void)
{
	put_counters("sys", 100);
	put("sys/max_page_sharing", "256\n");
	put("sys/use_zero_pages", "1\n");
	put("sys/learn", "128\n");
	put("sys/load_pages", "8192\n");
	put("sys/huge_min", "64\n");
	put("sys/busy_percent", "1\n");
}

static int open_in(const char *path)
{
	return openat(rootfd, path, O_RDONLY | O_DIRECTORY);
}

static int read_global(struct dksm_global *global)
{
	int dir = open_in("sys"), err;

	err = dksm_stat_read_global(dir, global);
	close(dir);
	return err;
}

static int read_domains(struct dksm_domain **domains, size_t *nr)
{
	int dir = open_in("domains"), err;

	err = dksm_stat_read_domains(dir, domains, nr);
	close(dir);
	return err;
}

static bool counters_from(const struct dksm_counters *c, uint64_t first)
{
	return c->pages_shared == first && c->pages_sharing == first + 1 &&
	       c->pages_zero == first + 2 && c->saved_bytes == first + 3 &&
	       c->cow_breaks == first + 4 && c->metadata_bytes == first + 5 &&
	       c->merge_calls == first + 6 && c->merge_ns == first + 7 &&
	       c->idle_ns == first + 8 && c->huge_split == first + 9 &&
	       c->learned_volatile == first + 10 &&
	       c->idle_passes == first + 11 && c->idle_changed == first + 12 &&
	       c->idle_hashed == first + 13;
}

static void global_good(void)
{
	struct dksm_global global;

	put_global();
	memset(&global, 0xff, sizeof(global));
	CHECK(read_global(&global) == 0);
	CHECK(counters_from(&global.counters, 100));
	CHECK(global.max_page_sharing == 256 && global.use_zero_pages == 1 &&
	      global.learn == 128 && global.load_pages == 8192 &&
	      global.huge_min == 64 && global.busy_percent == 1);
	CHECK(!global.reserved[0] && !global.counters.reserved[1]);
}

static void global_numbers(void)
{
	static const struct {
		const char *text;
		int err;
	} rows[] = {
		{ "0\n", 0 }, { "7", 0 }, { "18446744073709551615\n", 0 },
		{ "18446744073709551616\n", -ERANGE },
		{ "99999999999999999999999999\n", -ERANGE },
		{ "", -EBADMSG }, { "\n", -EBADMSG }, { "-1\n", -EBADMSG },
		{ "+1\n", -EBADMSG }, { " 1\n", -EBADMSG },
		{ "1 \n", -EBADMSG }, { "1\n\n", -EBADMSG },
		{ "0x10\n", -EBADMSG }, { "many\n", -EBADMSG },
		{ "1\n2\n", -EBADMSG }, { "1.5\n", -EBADMSG },
	};
	struct dksm_global global;

	put_global();
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		put("sys/merge_ns", rows[i].text);
		CHECK_FOR(rows[i].text, read_global(&global) == rows[i].err);
		CHECK_FOR(rows[i].text, !global.counters.pages_shared ==
			  !!rows[i].err);
	}
	put("sys/merge_ns", "18446744073709551615\n");
	CHECK(!read_global(&global) && global.counters.merge_ns == UINT64_MAX);
}

static void global_odd_files(void)
{
	struct dksm_global global;
	char lots[200];

	put_global();
	put_bytes("sys/cow_breaks", "1\0002\n", 4);
	CHECK(read_global(&global) == -EBADMSG);
	memset(lots, '0', sizeof(lots));
	put_bytes("sys/cow_breaks", lots, sizeof(lots));
	CHECK(read_global(&global) == -EBADMSG);
	unlinkat(rootfd, "sys/cow_breaks", 0);
	CHECK(read_global(&global) == -ENOENT);
	mkdirat(rootfd, "sys/cow_breaks", 0700);
	CHECK(read_global(&global) == -EISDIR);
	unlinkat(rootfd, "sys/cow_breaks", AT_REMOVEDIR);
	put_global();
	unlinkat(rootfd, "sys/max_page_sharing", 0);
	CHECK(read_global(&global) == -ENOENT);
	CHECK(!global.counters.pages_shared);
}

static void domains_none(void)
{
	struct dksm_domain *domains = (void *)1;
	size_t nr = 1;

	mkdirat(rootfd, "domains", 0700);
	CHECK(read_domains(&domains, &nr) == 0);
	CHECK(!domains && !nr);
	dksm_stat_domains_free(domains);
}

/* More than the first allocation, in an order that is not theirs. */
static void domains_many(void)
{
	struct dksm_domain *domains;
	char name[32];
	size_t nr;

	for (unsigned int i = 40; i-- > 0;) {
		snprintf(name, sizeof(name), "domains/d%02u", i);
		put_counters(name, 1000 * i);
	}
	REQUIRE(read_domains(&domains, &nr) == 0);
	CHECK(nr == 40);
	for (unsigned int i = 0; i < nr; i++) {
		snprintf(name, sizeof(name), "d%02u", i);
		CHECK_FOR(name, !strcmp(domains[i].name, name));
		CHECK_FOR(name, counters_from(&domains[i].counters, 1000 * i));
	}
	dksm_stat_domains_free(domains);
}

static void domains_twice(void)
{
	struct dksm_domain *domains;
	int dir = open_in("domains");
	size_t nr;

	for (int i = 0; i < 2; i++) {
		CHECK(!dksm_stat_read_domains(dir, &domains, &nr) && nr == 40);
		dksm_stat_domains_free(domains);
	}
	CHECK(!close(dir));
}

static void domains_odd(void)
{
	struct dksm_domain *domains;
	char name[100] = "domains/";
	size_t nr;

	memset(name + 8, 'n', DKSM_NAME_SIZE);
	mkdirat(rootfd, name, 0700);		/* too long to be one */
	symlinkat("nowhere", rootfd, "domains/.hidden");
	put_counters("domains/a b", 5);
	put_counters("domains/\xe4", 5);		/* would be no JSON */
	CHECK(!read_domains(&domains, &nr) && nr == 40);
	dksm_stat_domains_free(domains);
	unlinkat(rootfd, name, AT_REMOVEDIR);
	name[8 + DKSM_NAME_SIZE - 1] = 0;
	put_counters(name, 5);
	REQUIRE(!read_domains(&domains, &nr) && nr == 41);
	CHECK(!strcmp(domains[40].name, name + 8));
	dksm_stat_domains_free(domains);
}

static void domains_broken(void)
{
	struct dksm_domain *domains;
	size_t nr = 1;

	put("domains/d07/saved_bytes", "lots\n");
	CHECK(read_domains(&domains, &nr) == -EBADMSG);
	CHECK(!domains && !nr);
	unlinkat(rootfd, "domains/d07/saved_bytes", 0);
	CHECK(read_domains(&domains, &nr) == -ENOENT);
	CHECK(!domains && !nr);
	put("domains/d07/saved_bytes", "1\n");
	put("domains/file", "1\n");
	CHECK(read_domains(&domains, &nr) == -ENOTDIR);
	unlinkat(rootfd, "domains/file", 0);
}

/* Folders can be entered by anybody; files belong to nobody. */
static void give_away(const char *dir)
{
	char path[64];

	CHECK_FOR(dir, !fchmodat(rootfd, dir, 0755, 0));
	for (size_t i = 0; i < ARRAY_SIZE(counters); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, counters[i]);
		CHECK_FOR(path, !fchownat(rootfd, path, NOBODY, (gid_t)-1, 0));
	}
}

/* Root may read everything, so give that up for a moment. */
static void domains_of_others(void)
{
	bool is_root = !geteuid();
	struct dksm_domain *domains;
	char name[32];
	size_t nr = 0;

	CHECK(!fchmodat(rootfd, "domains", 0755, 0));
	CHECK(!fchmodat(rootfd, "domains/d07/merge_ns", 0, 0));
	for (unsigned int i = 0; is_root && i < 40; i++) {
		snprintf(name, sizeof(name), "domains/d%02u", i);
		give_away(name);
	}
	CHECK(!is_root || !seteuid(NOBODY));
	CHECK(!read_domains(&domains, &nr));
	CHECK(!is_root || !seteuid(0));
	/* Not d07, and as nobody not the one of root's with a long name. */
	CHECK(nr == (is_root ? 39 : 40));
	dksm_stat_domains_free(domains);
}

static int read_process(const char *pid, struct dksm_process *process)
{
	int dir = open_in("proc"), err;

	memset(process, 0xff, sizeof(*process));
	err = dksm_stat_read_process(dir, pid, process);
	close(dir);
	return err;
}

static int read_process_text(const char *text, struct dksm_process *process)
{
	put("proc/12/dksm_stat", text);
	return read_process("12", process);
}

#define PAGES "pages_merged 5\npages_sharing 4\npages_zero 3\n"
#define NUMBERS \
	"attached 1\nidle 1\nlearn 0\nhuge_split 6\nvms 7\nidle_passes 8\n" \
	"idle_step_ns_max 9\nload_scanned 10\nload_merged 11\n" \
	"load_published 12\nload_zero 13\nload_ns 14\n" \
	"attach_scanned 30\nattach_merged 31\nattach_published 32\n" \
	"attach_zero 33\nattach_ns 34\nattach_skipped 35\n" \
	"idle_rounds 50\nidle_changed 52\nidle_hashed 53\n" \
	"idle_scanned 20\nidle_merged 21\nidle_published 22\nidle_zero 23\n" \
	"idle_ns 24\n" \
	"vmm_scanned 40\nvmm_merged 41\nvmm_published 42\nvmm_zero 43\n" \
	"vmm_ns 44\nvmm_skipped 45 46\n"
#define WHY "idle_why changed\n"
#define TRIGGERS NUMBERS WHY "load_skipped 15 16 17\nidle_skipped 25\n"
#define PROCESS "domain web\n" PAGES TRIGGERS

static void process_good(void)
{
	struct dksm_process process;

	mkdirat(rootfd, "proc", 0700);
	mkdirat(rootfd, "proc/12", 0700);
	put("proc/12/stat", "12 (x) S\n");
	CHECK(!read_process_text(PROCESS "cow_breaks 2\n", &process));
	CHECK(!strcmp(process.domain, "web") && process.pages_merged == 5 &&
	      process.pages_sharing == 4 && process.pages_zero == 3 &&
	      process.cow_breaks == 2 && !process.reserved[7]);
	CHECK(process.attached == 1 && process.idle == 1 && !process.learn &&
	      process.huge_split == 6 && process.vms == 7 &&
	      process.idle_passes == 8 && process.idle_step_ns_max == 9);
	CHECK(process.load.scanned == 10 && process.load.ns == 14 &&
	      process.load.skipped[2] == 17 && !process.load.skipped[3]);
	CHECK(process.idle_report.merged == 21 &&
	      process.idle_report.skipped[0] == 25);
	CHECK(process.attach.published == 32 && process.attach.zero == 33 &&
	      process.attach.skipped[0] == 35);
	CHECK(process.vmm.scanned == 40 && process.vmm.ns == 44 &&
	      process.vmm.skipped[1] == 46);
	CHECK(process.idle_rounds == 50 && process.idle_changed == 52 &&
	      process.idle_hashed == 53);
	CHECK(!strcmp(process.idle_why, "changed"));
	CHECK(!read_process_text("later x y\n" PROCESS "cow_breaks 9\nnew 1\n",
				 &process));
	CHECK(process.cow_breaks == 9);
	CHECK(!read_process_text("", &process));
	CHECK(!*process.domain && !process.pages_merged);
}

static void process_bad(void)
{
	static const struct {
		const char *text;
		int err;
	} rows[] = {
		{ PROCESS, -EBADMSG }, { "\n", -EBADMSG },
		{ PROCESS "cow_breaks\n", -EBADMSG },
		{ PROCESS "cow_breaks \n", -EBADMSG },
		{ PROCESS "cow_breaks -1\n", -EBADMSG },
		{ PROCESS "cow_breaks 1 \n", -EBADMSG },
		{ PROCESS "cow_breaks 18446744073709551616\n", -ERANGE },
		{ PAGES TRIGGERS "cow_breaks 2\n", -EBADMSG },
		{ "domain web\n" PAGES "cow_breaks 2\n", -EBADMSG },
		{ "domain \n" PAGES TRIGGERS "cow_breaks 2\n", -EBADMSG },
		{ "domain nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"
		  "nnnnnnnnnnnn\n" PAGES TRIGGERS "cow_breaks 2\n", -EBADMSG },
		{ "domain web\n" PAGES NUMBERS WHY "cow_breaks 2\n"
		  "load_skipped 1 x\nidle_skipped 1\n", -EBADMSG },
		{ PROCESS "cow_breaks 2\nvms 7\n", -EBADMSG },
		{ PROCESS "cow_breaks 2\n" WHY, -EBADMSG },
		{ "domain web\n" PAGES NUMBERS "cow_breaks 2\n"
		  "load_skipped 1\nidle_skipped 1\n", -EBADMSG },
		{ "domain web\n" PAGES NUMBERS "cow_breaks 2\n"
		  "load_skipped 1\nidle_skipped 1\nidle_why \n", -EBADMSG },
		{ "domain web\n" PAGES NUMBERS "cow_breaks 2\n"
		  "load_skipped 1\nidle_skipped 1\nidle_why a b\n", -EBADMSG },
		{ "domain web\n" PAGES NUMBERS "cow_breaks 2\n"
		  "load_skipped 1\nidle_skipped 1\nidle_why abcdefghijklmnop\n",
		  -EBADMSG },
		{ PROCESS "cow_breaks 2\ndomain web\n", -EBADMSG },
		{ "domain a/b\n" PAGES TRIGGERS "cow_breaks 2\n", -EBADMSG },
		{ "domain \xe4\n" PAGES TRIGGERS "cow_breaks 2\n", -EBADMSG },
		{ "domain web\n" PAGES NUMBERS WHY "cow_breaks 2\n"
		  "load_skipped 1\nidle_skipped \n", -EBADMSG },
		{ "domain web\n" PAGES NUMBERS WHY "cow_breaks 2\n"
		  "load_skipped 1  2\nidle_skipped 1\n", -EBADMSG },
		{ "domain web\n" PAGES NUMBERS WHY "cow_breaks 2\nidle_skipped 1\n"
		  "load_skipped 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17\n",
		  -EBADMSG },
	};
	struct dksm_process process;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		CHECK_FOR(rows[i].text, read_process_text(rows[i].text,
							  &process) ==
			  rows[i].err);
		CHECK_FOR(rows[i].text, !*process.domain &&
			  !process.pages_merged);
	}
}

static void process_missing(void)
{
	struct dksm_process process;

	unlinkat(rootfd, "proc/12/dksm_stat", 0);
	CHECK(read_process("12", &process) == -ENODEV);
	unlinkat(rootfd, "proc/12/stat", 0);
	CHECK(read_process("12", &process) == -ESRCH);
	CHECK(read_process("13", &process) == -ESRCH);
	CHECK(dksm_stat_process(-1, &process) == -ESRCH);
}

/* Folders come up twice: on the way in, too early to be removed, and out. */
static void clean_up(void)
{
	char *const paths[] = { root, NULL };
	FTS *tree = fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
	FTSENT *entry;

	close(rootfd);
	REQUIRE(tree);
	while ((entry = fts_read(tree)))
		if (entry->fts_info != FTS_D)
			CHECK_FOR(entry->fts_path, !remove(entry->fts_path));
	fts_close(tree);
}

static void set_up(void)
{
	REQUIRE(mkdtemp(root));
	CHECK(!chmod(root, 0755));
	rootfd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CHECK(rootfd >= 0);
}

static const struct ktap_test tests[] = {
	{ "make a folder", set_up },
	{ "global numbers", global_good },
	{ "numbers good, bad and huge", global_numbers },
	{ "files missing, overlong and otherwise odd", global_odd_files },
	{ "no domains", domains_none },
	{ "many domains, sorted", domains_many },
	{ "the same folder twice", domains_twice },
	{ "what is no domain", domains_odd },
	{ "a broken domain", domains_broken },
	{ "domains of others are left out", domains_of_others },
	{ "a process", process_good },
	{ "a process with a garbled file", process_bad },
	{ "no process, no file", process_missing },
	{ "remove the folder", clean_up },
};

KTAP_MAIN(tests)
