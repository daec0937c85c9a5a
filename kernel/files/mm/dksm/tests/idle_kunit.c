// SPDX-License-Identifier: GPL-2.0
/* KUnit tests of what idle merging has seen; included by idle.c. */
#include <kunit/test.h>
#include <linux/xxhash.h>

/* A table that is half full remembers all, whatever their hashes. */
static void sights_are_not_lost(struct kunit *test)
{
	struct dksm_domain *domain = kunit_kzalloc(test, sizeof(*domain),
						   GFP_KERNEL);
	struct dksm_sights *sights;
	unsigned long i, nr, lost = 0;

	KUNIT_ASSERT_NOT_NULL(test, domain);
	sights = sights_get(domain, 1);
	KUNIT_ASSERT_NOT_NULL(test, sights);
	nr = sights->sets * SIGHT_WAYS / 2;
	for (i = 1; i <= nr; i++)
		KUNIT_EXPECT_EQ(test, 0UL, sight_twin(sights,
						      xxh64(&i, sizeof(i), 0),
						      i, i));
	for (i = 1; i <= nr; i++)
		lost += sight_twin(sights, xxh64(&i, sizeof(i), 0), nr + i,
				   nr + i) != i;
	KUNIT_EXPECT_EQ(test, 0UL, lost);
	dksm_sights_free(domain);
	KUNIT_EXPECT_EQ(test, 0L, atomic_long_read(&domain->metadata));
}

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

static struct kunit_case idle_cases[] = {
	KUNIT_CASE(twins_are_on_the_lru),
	KUNIT_CASE(sights_are_not_lost),
	{ }
};

static struct kunit_suite idle_suite = {
	.name = "dksm_idle",
	.test_cases = idle_cases,
};

kunit_test_suite(idle_suite);
