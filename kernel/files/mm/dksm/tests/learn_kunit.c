// SPDX-License-Identifier: GPL-2.0
/* KUnit tests of what is learned; included by learn.c. */
#include <kunit/test.h>

static struct dksm_domain *learn_domain(struct kunit *test)
{
	struct dksm_domain *domain;

	domain = kunit_kzalloc(test, sizeof(*domain), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, domain);
	spin_lock_init(&domain->lock);
	mutex_init(&domain->learn_fit);
	spin_lock_init(&domain->learn_lock);
	INIT_LIST_HEAD(&domain->members);
	KUNIT_ASSERT_EQ(test, 0, dksm_learn_fit(domain));
	KUNIT_ASSERT_NOT_NULL(test, rcu_access_pointer(domain->learned));
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
		learned_add(domain, hash);
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

	learned_add(domain, 77);
	learned_add(domain, 77);
	KUNIT_EXPECT_EQ(test, 1, dksm_learned_count(domain));
	KUNIT_EXPECT_TRUE(test, dksm_learned_volatile(domain, 77));
	KUNIT_EXPECT_FALSE(test, dksm_learned_volatile(domain, 78));
	dksm_learn_free(domain);
}

static u32 learn_sets(struct dksm_domain *domain)
{
	return rcu_dereference_raw(domain->learned)->sets;
}

/* Another key of the same set after @key, whose decision lasts longer. */
static u64 learn_longer(struct dksm_domain *domain, u64 key)
{
	u64 next = key;

	do {
		next += learn_sets(domain);
	} while (learned_lasts(next) <= learned_lasts(key));
	return next;
}

/* More contents of one set than it has room for: the one least left goes. */
static void learn_makes_room(struct kunit *test)
{
	struct dksm_domain *domain = learn_domain(test);
	const u64 first = 4;
	u64 key = first;
	int i;

	for (i = 0; i < LEARN_WAYS; i++) {
		learned_add(domain, key);
		key = learn_longer(domain, key);
	}
	KUNIT_EXPECT_EQ(test, LEARN_WAYS, dksm_learned_count(domain));
	KUNIT_EXPECT_TRUE(test, dksm_learned_volatile(domain, first));
	learned_add(domain, key);
	KUNIT_EXPECT_EQ(test, LEARN_WAYS, dksm_learned_count(domain));
	KUNIT_EXPECT_FALSE(test, dksm_learned_volatile(domain, first));
	KUNIT_EXPECT_TRUE(test, dksm_learned_volatile(domain, key));
	dksm_learn_free(domain);
}

/* A table of another size has the same in it. */
static void learn_grows(struct kunit *test)
{
	struct dksm_domain *domain = learn_domain(test);
	long metadata = atomic_long_read(&domain->metadata);
	struct dksm_learned *new;
	u64 key;

	for (key = 2; key <= 200; key += 2)
		learned_add(domain, key);
	new = learned_alloc(domain, 8 * PAGE_SIZE);
	KUNIT_ASSERT_NOT_NULL(test, new);
	learned_replace(domain, rcu_dereference_raw(domain->learned), new);
	KUNIT_EXPECT_EQ(test, 8 * PAGE_SIZE, atomic_long_read(&domain->metadata));
	KUNIT_EXPECT_EQ(test, 100, dksm_learned_count(domain));
	for (key = 2; key <= 200; key += 2)
		KUNIT_EXPECT_TRUE(test, dksm_learned_volatile(domain, key));
	KUNIT_EXPECT_FALSE(test, dksm_learned_volatile(domain, 202));
	/* Nobody has any memory, so this shrinks it. */
	KUNIT_EXPECT_EQ(test, 0, dksm_learn_fit(domain));
	KUNIT_EXPECT_EQ(test, metadata, atomic_long_read(&domain->metadata));
	for (key = 2; key <= 200; key += 2)
		KUNIT_EXPECT_TRUE(test, dksm_learned_volatile(domain, key));
	dksm_learn_free(domain);
	KUNIT_EXPECT_EQ(test, 0, atomic_long_read(&domain->metadata));
}

/* However many places are learned, contents stay. */
static void learn_places_apart(struct kunit *test)
{
	struct dksm_domain *domain = learn_domain(test);
	struct vm_area_struct vma = { .vm_start = 1 << 20 };
	unsigned long i;

	learned_add(domain, dksm_learn_content(77));
	for (i = 0; i < 2 * learn_sets(domain) * LEARN_WAYS; i++)
		learned_add(domain,
			    dksm_learn_place(domain, &vma, vma.vm_start +
					     i * PAGE_SIZE));
	KUNIT_EXPECT_TRUE(test, dksm_learned_volatile(domain,
						      dksm_learn_content(77)));
	KUNIT_EXPECT_LE(test, dksm_learned_count(domain),
			learn_sets(domain) * LEARN_WAYS / 2 + 1);
	dksm_learn_free(domain);
}

static struct kunit_case learn_cases[] = {
	KUNIT_CASE(learn_lasts),
	KUNIT_CASE(learn_majority),
	KUNIT_CASE(learn_counts_saturate),
	KUNIT_CASE(learn_again),
	KUNIT_CASE(learn_makes_room),
	KUNIT_CASE(learn_grows),
	KUNIT_CASE(learn_places_apart),
	{ }
};

static struct kunit_suite learn_suite = {
	.name = "dksm_learn",
	.test_cases = learn_cases,
};

kunit_test_suite(learn_suite);
