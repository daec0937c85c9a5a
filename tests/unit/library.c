// SPDX-License-Identifier: MIT
/* The library without a kernel: opening, reports, words for reasons. */
#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "../../lib/engine.h"
#include "ktap.h"

static void skip_names(void)
{
	const char *name, *other;

	for (unsigned int i = 0; i < DKSM_SKIP_NR; i++) {
		name = dksm_skip_name(i);
		REQUIRE(name && *name);
		for (const char *c = name; *c; c++)
			CHECK_FOR(name, islower((unsigned char)*c));
		for (unsigned int j = 0; j < i; j++) {
			other = dksm_skip_name(j);
			CHECK_FOR(name, strcmp(name, other));
		}
	}
	CHECK(!dksm_skip_name(DKSM_SKIP_NR));
	CHECK(!dksm_skip_name(~0U));
}

/* They are in people's scripts. */
static void skip_names_stay(void)
{
	CHECK(!strcmp(dksm_skip_name(DKSM_SKIP_SHARED), "shared"));
	CHECK(!strcmp(dksm_skip_name(DKSM_SKIP_ALREADY), "already"));
	CHECK(!strcmp(dksm_skip_name(DKSM_SKIP_PINNED), "pinned"));
	CHECK(!strcmp(dksm_skip_name(DKSM_SKIP_HUGE), "huge"));
	CHECK(!strcmp(dksm_skip_name(DKSM_SKIP_POISONED), "poisoned"));
	CHECK(!strcmp(dksm_skip_name(DKSM_SKIP_ALONE), "alone"));
}

static void no_device(void)
{
	struct dksm *handle = (void *)1;

	CHECK(dksm_kernel_open("/dev/dksm-that-is-not", &handle) == -ENODEV);
	CHECK(!handle);
	handle = (void *)1;
	CHECK(dksm_kernel_open("/", &handle) == -EISDIR);
	CHECK(!handle);
	dksm_close(NULL);
}

static void wrong_device(void)
{
	struct dksm_report report;
	struct dksm_info info;
	struct dksm *handle;

	REQUIRE(!dksm_kernel_open("/dev/null", &handle));
	CHECK(dksm_info_get(handle, &info) == -ENOTTY);
	CHECK(dksm_domain_join(handle, "web", 0) == -ENOTTY);
	memset(&report, 0xff, sizeof(report));
	CHECK(dksm_merge(handle, DKSM_SELF, 0, 0, &report) == -ENOTTY);
	CHECK(!report.scanned && !report.skipped[DKSM_SKIP_MAX - 1]);
	CHECK(dksm_merge(handle, DKSM_SELF, 0, 0, NULL) == -ENOTTY);
	CHECK(dksm_unmerge(handle, DKSM_SELF, 0, 0, NULL) == -ENOTTY);
	dksm_close(handle);
}

static void long_names(void)
{
	char name[DKSM_NAME_SIZE + 1] = "";
	struct dksm *handle;

	REQUIRE(!dksm_kernel_open("/dev/null", &handle));
	memset(name, 'n', DKSM_NAME_SIZE);
	CHECK(dksm_domain_join(handle, name, 0) == -EINVAL);
	name[DKSM_NAME_SIZE - 1] = 0;
	CHECK(dksm_domain_join(handle, name, 0) == -ENOTTY);
	dksm_close(handle);
}

static struct {
	int pidfd;
	uint64_t addr, len;
	struct dksm_report before;
	int closed;
} seen;

static int fake_range(struct dksm *handle, int pidfd, uint64_t addr,
		      uint64_t len, struct dksm_report *report)
{
	(void)handle;
	seen.pidfd = pidfd;
	seen.addr = addr;
	seen.len = len;
	seen.before = *report;
	report->scanned = 3;
	return -EINTR;
}

static void fake_close(struct dksm *handle)
{
	(void)handle;
	seen.closed++;
}

/* An engine gets what the caller said and a report that is all 0. */
static void engine_call(void)
{
	static const struct dksm_engine engine = {
		.close = fake_close,
		.merge = fake_range,
		.unmerge = fake_range,
	};
	static const struct dksm_report nothing;
	struct dksm handle = { &engine };
	struct dksm_report report;

	memset(&report, 0xff, sizeof(report));
	CHECK(dksm_merge(&handle, 7, 0x1000, 0x2000, &report) == -EINTR);
	CHECK(seen.pidfd == 7 && seen.addr == 0x1000 && seen.len == 0x2000);
	CHECK(!memcmp(&seen.before, &nothing, sizeof(nothing)));
	CHECK(report.scanned == 3 && !report.merged);
	CHECK(dksm_unmerge(&handle, 8, 1, 2, NULL) == -EINTR);
	CHECK(seen.pidfd == 8 && seen.addr == 1 && seen.len == 2);
	CHECK(!memcmp(&seen.before, &nothing, sizeof(nothing)));
	dksm_close(&handle);
	CHECK(seen.closed == 1);
}

static const struct ktap_test tests[] = {
	{ "every reason has a name", skip_names },
	{ "names of reasons stay", skip_names_stay },
	{ "no device", no_device },
	{ "a device that is not DKSM", wrong_device },
	{ "names that are too long", long_names },
	{ "calls reach the engine", engine_call },
};

KTAP_MAIN(tests)
