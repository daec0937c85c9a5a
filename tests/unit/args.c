// SPDX-License-Identifier: MIT
/* What people type: ranges, PIDs and names of domains, good and bad. */
#include <string.h>

#include "../../cli/cli.h"
#include "ktap.h"

#define PAGE 4096

static void good_ranges(void)
{
	static const struct {
		const char *text;
		struct range range;
	} rows[] = {
		{ "1000-3000", { 0x1000, 0x2000 } },
		{ "0x1000-0x3000", { 0x1000, 0x2000 } },
		{ "0X1000-3000", { 0x1000, 0x2000 } },
		{ "0-1000", { 0, 0x1000 } },
		{ "7f2A40000000-7f2a40001000", { 0x7f2a40000000, 0x1000 } },
		{ "1000+4096", { 0x1000, 4096 } },
		{ "1000+0x4000", { 0x1000, 0x4000 } },
		{ "1000+8K", { 0x1000, 8192 } },
		{ "0x1000+512m", { 0x1000, 512ULL << 20 } },
		{ "0+2G", { 0, 2ULL << 30 } },
		{ "0-fffffffffffff000", { 0, 0xfffffffffffff000 } },
		{ "ffffffffffffe000+4K", { 0xffffffffffffe000, 4096 } },
	};
	struct range range;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		memset(&range, 0xff, sizeof(range));
		CHECK_FOR(rows[i].text,
			  !range_parse(rows[i].text, PAGE, &range));
		CHECK_FOR(rows[i].text, range.start == rows[i].range.start);
		CHECK_FOR(rows[i].text, range.len == rows[i].range.len);
	}
}

static void bad_ranges(void)
{
	static const struct {
		const char *text, *words;
	} rows[] = {
		{ "", "address" }, { "-", "address" }, { "+", "address" },
		{ "xyz", "address" }, { "1000", "form" }, { "1000 ", "form" },
		{ " 1000-2000", "address" }, { "+1000-2000", "address" },
		{ "0x-1000", "form" }, { "0x0x1000-2000", "address" },
		{ "1000-", "address" }, { "1000-20g0", "address" },
		{ "1000--2000", "address" }, { "1000-2000-3000", "address" },
		{ "1000-2000 ", "address" }, { "-1000-2000", "address" },
		{ "1000+", "size" }, { "1000+K", "size" },
		{ "1000+4T", "size" }, { "1000+4KK", "size" },
		{ "1000+-4096", "size" }, { "1000+f000", "size" },
		{ "1000+ 4096", "size" }, { "1000+0x", "size" },
		{ "3000-1000", "ends before" }, { "1000-1000", "empty" },
		{ "1000+0", "empty" }, { "0-0", "empty" },
		{ "1001-3000", "page size" }, { "1000-3001", "page size" },
		{ "1000+100", "page size" }, { "1000+1K", "page size" },
		{ "10000000000000000-20000000000000000", "address" },
		{ "1000-10000000000000000", "address" },
		{ "1000+18446744073709551616", "size" },
		{ "1000+17179869184G", "size" },
		{ "fffffffffffff000+4K", "last address" },
		{ "1000+0xfffffffffffff000", "last address" },
	};
	struct range range;
	const char *words;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		words = range_parse(rows[i].text, PAGE, &range);
		CHECK_FOR(rows[i].text, words && strstr(words, rows[i].words));
	}
}

static void other_page_size(void)
{
	struct range range;

	CHECK(!range_parse("10000+64K", 65536, &range));
	CHECK(range_parse("10000+4K", 65536, &range));
	CHECK(range_parse("1000+64K", 65536, &range));
}

static void pids(void)
{
	static const char *const bad[] = {
		"", "0", "-1", "+1", " 1", "1 ", "1x", "0x10", "abc",
		"2147483648", "4294967297", "99999999999999999999",
	};
	pid_t pid = 0;

	CHECK(pid_parse("1", &pid) && pid == 1);
	CHECK(pid_parse("2147483647", &pid) && pid == 2147483647);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		CHECK_FOR(bad[i], !pid_parse(bad[i], &pid));
}

static void domain_names(void)
{
	char name[DKSM_NAME_SIZE + 1];

	CHECK(domain_name_valid("a") && domain_name_valid("Web-1_x.y"));
	CHECK(domain_name_valid("-") && domain_name_valid("a."));
	CHECK(!domain_name_valid("") && !domain_name_valid(".a"));
	CHECK(!domain_name_valid("..") && !domain_name_valid("a/b"));
	CHECK(!domain_name_valid("a b") && !domain_name_valid("a\n"));
	CHECK(!domain_name_valid("\xc3\xa4"));
	memset(name, 'a', sizeof(name));
	name[DKSM_NAME_SIZE - 1] = 0;
	CHECK(domain_name_valid(name));
	name[DKSM_NAME_SIZE - 1] = 'a';
	name[DKSM_NAME_SIZE] = 0;
	CHECK(!domain_name_valid(name));
}

static void command_line(void)
{
	char *argv[] = { "merge", "--json", "12", "1000+4K", "--domain", "d",
			 "0x4000-5000", NULL };
	struct args args;

	CHECK(args_parse(&args, 7, argv, ARGS_DOMAIN | ARGS_RANGES) == EXIT_OK);
	CHECK(args.pid == 12 && args.json && !args.help);
	CHECK(args.domain && !strcmp(args.domain, "d"));
	CHECK(args.nr == 2 && args.ranges[0].start == 0x1000 &&
	      args.ranges[1].start == 0x4000 && args.ranges[1].len == 0x1000);
	args_free(&args);
}

static void no_pid(void)
{
	char *argv[] = { "stat", NULL };
	struct args args;

	CHECK(args_parse(&args, 1, argv, ARGS_NO_PID) == EXIT_OK);
	CHECK(!args.pid && !args.json && !args.nr && !args.domain);
	args_free(&args);
}

static const struct ktap_test tests[] = {
	{ "ranges that are right", good_ranges },
	{ "ranges that are wrong", bad_ranges },
	{ "larger pages", other_page_size },
	{ "PIDs", pids },
	{ "names of domains", domain_names },
	{ "a command line with everything", command_line },
	{ "a command line with nothing", no_pid },
};

KTAP_MAIN(tests)
