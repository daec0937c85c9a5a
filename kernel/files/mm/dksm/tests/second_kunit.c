// SPDX-License-Identifier: GPL-2.0
/* KUnit tests of merging on second sight; included by second.c. */
#include <kunit/test.h>

/* What is no page of a process may look like an anonymous one. */
static void twins_are_on_the_lru(struct kunit *test)
{
	struct page *page = alloc_page(GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, page);
	page->mapping = (void *)PAGE_MAPPING_ANON;
	KUNIT_EXPECT_NULL(test, twin_page(page_to_pfn(page)));
	page->mapping = NULL;
	__free_page(page);
}

static struct kunit_case second_cases[] = {
	KUNIT_CASE(twins_are_on_the_lru),
	{ }
};

static struct kunit_suite second_suite = {
	.name = "dksm_second",
	.test_cases = second_cases,
};

kunit_test_suite(second_suite);
