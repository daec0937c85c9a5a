// SPDX-License-Identifier: MIT
/* Metrics: the text that Prometheus reads, to the letter. */
#include <stdlib.h>
#include <string.h>

#include "../../cli/cli.h"
#include "ktap.h"

static struct dksm_domain domains[] = {
	{ "a", { .pages_shared = 1, .pages_sharing = 2, .pages_zero = 3,
		 .saved_bytes = 4096, .cow_breaks = 5, .metadata_bytes = 6,
		 .merge_calls = 7, .merge_ns = 8000000009, .idle_ns = 10,
		 .huge_split = 11, .learned_volatile = UINT64_MAX,
		 .idle_passes = 13, .idle_changed = 14, .idle_hashed = 15 } },
	{ "b", { .pages_shared = 12 } },
};

static char *metrics_of(const struct host *host)
{
	size_t size;
	char *text;
	FILE *out = open_memstream(&text, &size);

	host_prometheus(out, host);
	fclose(out);
	return text;
}

static void check_has(const struct host *host, const char *const *parts,
		      size_t nr)
{
	char *text = metrics_of(host);

	for (size_t i = 0; i < nr; i++)
		CHECK_FOR(parts[i], strstr(text, parts[i]));
	free(text);
}

static void whole_host(void)
{
	static const struct host host = {
		.global = { .counters = { .pages_shared = 20, .merge_calls = 21,
					  .merge_ns = UINT64_MAX },
			    .max_page_sharing = 256, .use_zero_pages = 1,
			    .learn = 128, .load_pages = 8192, .huge_min = 64,
			    .busy_percent = 1 },
	};
	static const char *const parts[] = {
		"# HELP dksm_pages_shared Page frames that are shared or can be,"
		" on the whole host.\n"
		"# TYPE dksm_pages_shared gauge\n"
		"dksm_pages_shared 20\n",
		"# TYPE dksm_merge_calls_total counter\n"
		"dksm_merge_calls_total 21\n",
		"# TYPE dksm_merge_seconds_total counter\n"
		"dksm_merge_seconds_total 18446744073.709551615\n",
		"# HELP dksm_max_page_sharing The most mappings that a frame may"
		" have.\n"
		"# TYPE dksm_max_page_sharing gauge\n"
		"dksm_max_page_sharing 256\n",
		"\ndksm_use_zero_pages 1\n", "\ndksm_learn 128\n",
		"\ndksm_load_pages 8192\n", "\ndksm_huge_min 64\n",
		"\ndksm_busy_percent 1\n",
	};

	check_has(&host, parts, ARRAY_SIZE(parts));
}

/* All samples of a metric stand together. */
static void each_domain(void)
{
	static const struct host host = { .domains = domains, .nr = 2 };
	static const char *const parts[] = {
		"# HELP dksm_domain_pages_shared Page frames that are shared or"
		" can be, in a domain.\n"
		"# TYPE dksm_domain_pages_shared gauge\n"
		"dksm_domain_pages_shared{domain=\"a\"} 1\n"
		"dksm_domain_pages_shared{domain=\"b\"} 12\n",
		"\ndksm_domain_pages_sharing{domain=\"a\"} 2\n",
		"\ndksm_domain_pages_zero{domain=\"a\"} 3\n",
		"\ndksm_domain_saved_bytes{domain=\"a\"} 4096\n",
		"\ndksm_domain_cow_breaks_total{domain=\"a\"} 5\n",
		"\ndksm_domain_metadata_bytes{domain=\"a\"} 6\n",
		"\ndksm_domain_merge_calls_total{domain=\"a\"} 7\n",
		"\ndksm_domain_merge_seconds_total{domain=\"a\"} 8.000000009\n"
		"dksm_domain_merge_seconds_total{domain=\"b\"} 0.000000000\n",
		"\ndksm_domain_idle_seconds_total{domain=\"a\"} 0.000000010\n",
		"\ndksm_domain_idle_passes_total{domain=\"a\"} 13\n",
		"\ndksm_domain_idle_changed_total{domain=\"a\"} 14\n",
		"\ndksm_domain_idle_hashed_total{domain=\"a\"} 15\n",
		"\ndksm_domain_huge_split_total{domain=\"a\"} 11\n",
		"\ndksm_domain_learned_volatile{domain=\"a\"} "
		"18446744073709551615\n",
		"\ndksm_pages_shared 0\n",
	};

	check_has(&host, parts, ARRAY_SIZE(parts));
}

/* The kernel takes no such names; whoever reads metrics is safe from them. */
static void escapes(void)
{
	struct dksm_domain odd = { .name = "a\"b\\c\nd" };
	const struct host host = { .domains = &odd, .nr = 1 };
	static const char *const parts[] = {
		"\ndksm_domain_saved_bytes{domain=\"a\\\"b\\\\c\\nd\"} 0\n",
	};

	check_has(&host, parts, ARRAY_SIZE(parts));
}

static const struct ktap_test tests[] = {
	{ "metrics of the host", whole_host },
	{ "metrics of each domain", each_domain },
	{ "labels are escaped", escapes },
};

KTAP_MAIN(tests)
