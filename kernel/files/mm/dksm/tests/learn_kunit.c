// SPDX-License-Identifier: GPL-2.0
/* KUnit tests of what is learned; included by learn.c. */
#include <kunit/test.h>

static struct dksm_domain *learn_domain(struct kunit *test)
{
	struct dksm_domain *domain;

	domain = kunit_kzalloc(test, sizeof(*domain), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, domain);
	KUNIT_ASSERT_EQ(test, 0, dksm_learn_prepare(domain));
	KUNIT_ASSERT_NOT_NULL(test, domain->learned);
	return domain;
}

/* It holds for so many merges as the knob says, give or take a quarter. */
static void learn_lasts(struct kunit *test)
{
	struct dksm_domain *domain = learn_domain(test);
	u64 hash;
	int i;

	for (hash = 1; hash; hash <<= 3) {
		KUNIT_EXPECT_FALSE(test, dksm_learned_volatile(domain, hash));
		learned_add(domain->learned, hash);
		KUNIT_EXPECT_EQ(test, 1, dksm_learned_count(domain));
		for (i = 0; dksm_learned_spares(domain, hash); i++)
			KUNIT_ASSERT_LT(test, i, 1000);
		KUNIT_EXPECT_GE(test, i, dksm_learn - dksm_learn / 4);
		KUNIT_EXPECT_LE(test, i, dksm_learn + dksm_learn / 4);
		KUNIT_EXPECT_EQ(test, 0, dksm_learned_count(domain));
	}
	dksm_learn_free(domain);
	KUNIT_EXPECT_EQ(test, 0, atomic_long_read(&domain->metadata));
}

/* Volatile once more than half of all who had the frame wrote to it. */
static void learn_majority(struct kunit *test)
{
	struct dksm_domain *domain = learn_domain(test);
	struct dksm_mm member = {
		.domain = domain,
		.attached = DKSM_MM_ATTACHED,
		.merged_at = jiffies,
	};
	struct dksm_node node = { .hash = 98 };
	int i;

	dksm_learn_begin(&node);
	for (i = 1; i < 1000; i++)
		dksm_learn_share(&node);
	for (i = 0; i < 500; i++)
		dksm_learn_break(&member, &node);
	KUNIT_EXPECT_FALSE(test, dksm_learned_volatile(domain, 98));
	dksm_learn_break(&member, &node);
	KUNIT_EXPECT_TRUE(test, dksm_learned_volatile(domain, 98));
	dksm_learn_free(domain);
}

/* Counts that get too large are halved together. */
static void learn_counts_saturate(struct kunit *test)
{
	struct dksm_domain *domain = learn_domain(test);
	struct dksm_node node = { .hash = 98 };
	int i;

	dksm_learn_begin(&node);
	node.breaks = 1000;
	for (i = 1; i <= U16_MAX; i++)
		dksm_learn_share(&node);
	KUNIT_EXPECT_EQ(test, 500, node.breaks);
	KUNIT_EXPECT_EQ(test, U16_MAX / 2 + 1, node.shares);
	dksm_learn_free(domain);
}

/* Learned again before it is forgotten, a content counts once. */
static void learn_again(struct kunit *test)
{
	struct dksm_domain *domain = learn_domain(test);

	learned_add(domain->learned, 77);
	learned_add(domain->learned, 77);
	KUNIT_EXPECT_EQ(test, 1, dksm_learned_count(domain));
	KUNIT_EXPECT_TRUE(test, dksm_learned_volatile(domain, 77));
	KUNIT_EXPECT_FALSE(test, dksm_learned_volatile(domain, 78));
	dksm_learn_free(domain);
}

/* More contents of one set than it has room for: the one least left goes. */
static void learn_makes_room(struct kunit *test)
{
	struct dksm_domain *domain = learn_domain(test);
	const u64 step = 1ULL << 48, first = step + 5;
	u64 hash;

	/* These last for ever longer. */
	for (hash = first; hash < first + LEARN_WAYS * step; hash += step)
		learned_add(domain->learned, hash);
	KUNIT_EXPECT_EQ(test, LEARN_WAYS, dksm_learned_count(domain));
	KUNIT_EXPECT_TRUE(test, dksm_learned_volatile(domain, first));
	learned_add(domain->learned, hash);
	KUNIT_EXPECT_EQ(test, LEARN_WAYS, dksm_learned_count(domain));
	KUNIT_EXPECT_FALSE(test, dksm_learned_volatile(domain, first));
	KUNIT_EXPECT_TRUE(test, dksm_learned_volatile(domain, hash));
	dksm_learn_free(domain);
}

/* However many places are learned, contents stay. */
static void learn_places_apart(struct kunit *test)
{
	struct dksm_domain *domain = learn_domain(test);
	struct vm_area_struct vma = { .vm_start = 1 << 20 };
	unsigned long i;

	learned_add(domain->learned, dksm_learn_content(77));
	for (i = 0; i < 2 * LEARN_SETS * LEARN_WAYS; i++)
		learned_add(domain->learned,
			    dksm_learn_place(domain, &vma, vma.vm_start +
					     i * PAGE_SIZE));
	KUNIT_EXPECT_TRUE(test, dksm_learned_volatile(domain,
						      dksm_learn_content(77)));
	KUNIT_EXPECT_LE(test, dksm_learned_count(domain),
			LEARN_SETS * LEARN_WAYS / 2 + 1);
	dksm_learn_free(domain);
}

static struct kunit_case learn_cases[] = {
	KUNIT_CASE(learn_lasts),
	KUNIT_CASE(learn_majority),
	KUNIT_CASE(learn_counts_saturate),
	KUNIT_CASE(learn_again),
	KUNIT_CASE(learn_makes_room),
	KUNIT_CASE(learn_places_apart),
	{ }
};

static struct kunit_suite learn_suite = {
	.name = "dksm_learn",
	.test_cases = learn_cases,
};

kunit_test_suite(learn_suite);
