// SPDX-License-Identifier: GPL-2.0
/* KUnit tests of candidates; included by candidates.c. */
#include <kunit/test.h>
#include <linux/xxhash.h>

static struct dksm_domain *domain_with_table(struct kunit *test, u32 sets)
{
	struct dksm_domain *domain = kunit_kzalloc(test, sizeof(*domain),
						   GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, domain);
	KUNIT_ASSERT_EQ(test, 0, dksm_candidates_init(domain));
	candidates_rebuild(domain, sets);
	KUNIT_ASSERT_EQ(test, sets, domain->candidates.table->sets);
	return domain;
}

static void domain_forget(struct kunit *test, struct dksm_domain *domain)
{
	dksm_candidates_free(domain);
	KUNIT_EXPECT_EQ(test, 0L, atomic_long_read(&domain->metadata));
}

static u64 hash_of(unsigned long i)
{
	return xxh64(&i, sizeof(i), 0);
}

/* Adds contents @first to @last, each in the page of that number. */
static void add(struct kunit *test, struct dksm_domain *domain,
		unsigned long first, unsigned long last)
{
	unsigned long i;

	for (i = first; i <= last; i++)
		KUNIT_EXPECT_EQ(test, 0UL,
				dksm_candidate_twin(domain, hash_of(i), i, 0));
}

static unsigned long count_lost(struct dksm_domain *domain, unsigned long nr)
{
	unsigned long i, lost = 0;

	for (i = 1; i <= nr; i++)
		lost += dksm_candidate_twin(domain, hash_of(i), nr + i, 0) != i;
	return lost;
}

/* A table that is filled to 3/4 remembers all, whatever their hashes. */
static void candidates_are_not_lost(struct kunit *test)
{
	static const u32 sizes[] = { CANDIDATE_SETS_MIN, 97, 1000, 4097 };
	struct dksm_domain *domain;
	unsigned long nr;
	int i;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		domain = domain_with_table(test, sizes[i]);
		nr = sizes[i] * CANDIDATE_WAYS / 4 * 3 - 1;
		add(test, domain, 1, nr);
		KUNIT_EXPECT_FALSE(test, candidates_full(&domain->candidates));
		KUNIT_EXPECT_EQ(test, 0UL, count_lost(domain, nr));
		add(test, domain, nr + 1, nr + 1);
		KUNIT_EXPECT_TRUE(test, candidates_full(&domain->candidates));
		domain_forget(test, domain);
	}
}

/* The dead are left behind when the table is rebuilt. */
static void candidates_are_rebuilt(struct kunit *test)
{
	struct dksm_domain *domain = domain_with_table(test, 1000);
	struct dksm_candidates *c = &domain->candidates;

	add(test, domain, 1, 400);
	KUNIT_EXPECT_EQ(test, 400U, c->nr);
	candidates_rebuild(domain, 1500);
	KUNIT_EXPECT_NULL(test, c->old);
	KUNIT_EXPECT_EQ(test, 0U, c->nr);
	KUNIT_EXPECT_EQ(test, 1500U, c->table->sets);
	domain_forget(test, domain);
}

/* Two contents of one tag are both remembered, and told from each other. */
static void candidates_may_have_one_tag(struct kunit *test)
{
	struct dksm_domain *domain = domain_with_table(test, 97);
	u64 hash = hash_of(1);

	add(test, domain, 1, 1);
	KUNIT_EXPECT_EQ(test, 1UL, dksm_candidate_twin(domain, hash, 2, 0));
	/* Page 1 has another content: page 2 is remembered, too. */
	KUNIT_EXPECT_EQ(test, 0UL, dksm_candidate_twin(domain, hash, 2, 1));
	KUNIT_EXPECT_EQ(test, 2UL, dksm_candidate_twin(domain, hash, 1, 0));
	KUNIT_EXPECT_EQ(test, 2UL, dksm_candidate_twin(domain, hash, 3, 1));
	dksm_candidate_forget(domain, hash, 2);
	KUNIT_EXPECT_EQ(test, 0UL, dksm_candidate_twin(domain, hash, 1, 0));
	domain_forget(test, domain);
}

/* Never more than half a per cent of what it is for, but for the smallest. */
static void candidates_are_bounded(struct kunit *test)
{
	unsigned long pages;

	for (pages = 4096; pages < BIT(28); pages *= 3)
		KUNIT_EXPECT_LT(test, table_bytes(sets_for(pages)) * 200,
				pages * PAGE_SIZE);
}

static struct kunit_case candidates_cases[] = {
	KUNIT_CASE(candidates_are_not_lost),
	KUNIT_CASE(candidates_are_rebuilt),
	KUNIT_CASE(candidates_may_have_one_tag),
	KUNIT_CASE(candidates_are_bounded),
	{ }
};

static struct kunit_suite candidates_suite = {
	.name = "dksm_candidates",
	.test_cases = candidates_cases,
};

kunit_test_suite(candidates_suite);
