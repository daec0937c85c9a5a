// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests of extents, frames, the index and maps.  Included by extent.c.
 *
 * Frames are real folios, made frames of a domain that sysfs does not know.
 * There are no page tables here: the tests in a VM have those.
 */
#include <kunit/test.h>
#include <linux/highmem.h>
#include <linux/rmap.h>

struct dksm_test {
	struct dksm_domain domain;
	struct dksm_mm member;
	struct anon_vma *anon_vma;
};

static struct folio *test_folio(struct kunit *test, u8 fill)
{
	struct folio *folio = folio_alloc(GFP_KERNEL, 0);

	KUNIT_ASSERT_NOT_NULL(test, folio);
	memset(folio_address(folio), fill, PAGE_SIZE);
	folio_lock(folio);
	/* What an anonymous page would bring along. */
	__folio_set_swapbacked(folio);
	return folio;
}

static void test_folio_drop(struct folio *folio)
{
	folio_clear_dirty(folio);
	__folio_clear_swapbacked(folio);
	folio_put(folio);
}

static struct dksm_extent *test_extent(struct kunit *test, u32 nr)
{
	struct dksm_test *t = test->priv;
	struct dksm_extent *extent = dksm_extent_alloc(&t->domain, nr,
							true);

	KUNIT_ASSERT_NOT_NULL(test, extent);
	return extent;
}

/* Publish a page of @fill bytes at @pos; the caller has the only reference. */
static struct folio *test_publish(struct kunit *test,
				  struct dksm_extent *extent, u32 pos, u8 fill,
				  u64 hash)
{
	struct folio *folio = test_folio(test, fill), *frame;

	KUNIT_EXPECT_EQ(test, 0, dksm_frame_publish(&extent->nodes[pos], folio,
						    hash, &frame));
	KUNIT_EXPECT_NULL(test, frame);
	folio_unlock(folio);
	return folio;
}

static void test_reap(void)
{
	flush_work(&reap_work);
}

static void frame_knows_its_extent(struct kunit *test)
{
	struct dksm_extent *extent = test_extent(test, DKSM_EXTENT_MAX);
	u32 last = DKSM_EXTENT_MAX - 1;
	struct folio *folio = test_publish(test, extent, last, 1, 11);

	KUNIT_EXPECT_LE(test, extent_bytes(DKSM_EXTENT_MAX), (size_t)8192);
	KUNIT_EXPECT_TRUE(test, folio_test_dksm(folio));
	KUNIT_EXPECT_TRUE(test, folio_test_ksm(folio));
	KUNIT_EXPECT_PTR_EQ(test, &extent->nodes[last],
			    dksm_folio_node(folio));
	KUNIT_EXPECT_PTR_EQ(test, extent,
			    dksm_node_extent(dksm_folio_node(folio)));
	test_folio_drop(folio);
	dksm_extent_built(extent);
}

static void equal_content_is_found(struct kunit *test)
{
	struct dksm_test *t = test->priv;
	struct dksm_extent *extent = test_extent(test, 1);
	struct folio *folio = test_publish(test, extent, 0, 2, 22);
	struct folio *same = test_folio(test, 2), *other = test_folio(test, 3);
	struct folio *frame;

	frame = dksm_frame_find(&t->domain, 22, same, true);
	KUNIT_EXPECT_PTR_EQ(test, folio, frame);
	if (frame)
		folio_put(frame);
	KUNIT_EXPECT_NULL(test, dksm_frame_find(&t->domain, 23, same, true));
	/* A hash is never proof. */
	KUNIT_EXPECT_NULL(test, dksm_frame_find(&t->domain, 22, other, true));
	KUNIT_EXPECT_EQ(test, 1, folio_ref_count(folio));

	folio_unlock(same);
	folio_unlock(other);
	test_folio_drop(same);
	test_folio_drop(other);
	test_folio_drop(folio);
	dksm_extent_built(extent);
}

static void freed_frame_is_forgotten(struct kunit *test)
{
	struct dksm_test *t = test->priv;
	struct dksm_extent *extent = test_extent(test, 2);
	struct folio *folio = test_publish(test, extent, 1, 4, 44);
	struct folio *same = test_folio(test, 4);

	KUNIT_EXPECT_EQ(test, 1L, atomic_long_read(&t->domain.frames));
	KUNIT_EXPECT_EQ(test, 1, atomic_read(&t->domain.index.nelems));
	test_folio_drop(folio);
	KUNIT_EXPECT_EQ(test, 0L, atomic_long_read(&t->domain.frames));
	KUNIT_EXPECT_EQ(test, 0, atomic_read(&t->domain.index.nelems));
	KUNIT_EXPECT_NULL(test, dksm_frame_get(&extent->nodes[1]));
	KUNIT_EXPECT_NULL(test, dksm_frame_find(&t->domain, 44, same, true));

	folio_unlock(same);
	test_folio_drop(same);
	dksm_extent_built(extent);
}

static void second_publisher_gets_the_first_frame(struct kunit *test)
{
	struct dksm_extent *extent = test_extent(test, 2);
	struct folio *first = test_publish(test, extent, 0, 5, 55);
	struct folio *second = test_folio(test, 5), *frame;

	KUNIT_EXPECT_EQ(test, 0, dksm_frame_publish(&extent->nodes[1], second,
						    55, &frame));
	KUNIT_EXPECT_PTR_EQ(test, first, frame);
	if (frame)
		folio_put(frame);
	folio_unlock(second);
	test_folio_drop(second);
	test_folio_drop(first);
	dksm_extent_built(extent);
}

static void full_frame_is_replaced(struct kunit *test)
{
	struct dksm_test *t = test->priv;
	struct dksm_extent *extent = test_extent(test, 2);
	struct folio *full = test_publish(test, extent, 0, 6, 66);
	struct folio *same = test_folio(test, 6), *next, *frame;
	unsigned int max = dksm_max_page_sharing;
	int i;

	dksm_max_page_sharing = 3;
	for (i = 1; i < 3; i++)
		KUNIT_EXPECT_PTR_EQ(test, full,
				    dksm_frame_find(&t->domain, 66, same, true));
	KUNIT_EXPECT_NULL(test, dksm_frame_find(&t->domain, 66, same, true));
	KUNIT_EXPECT_EQ(test, 3, folio_ref_count(full));

	next = test_publish(test, extent, 1, 6, 66);
	frame = dksm_frame_find(&t->domain, 66, same, true);
	KUNIT_EXPECT_PTR_EQ(test, next, frame);
	if (frame)
		folio_put(frame);
	dksm_max_page_sharing = max;

	folio_unlock(same);
	test_folio_drop(same);
	test_folio_drop(next);
	folio_put_refs(full, 2);
	test_folio_drop(full);
	KUNIT_EXPECT_EQ(test, 0, atomic_read(&t->domain.index.nelems));
	dksm_extent_built(extent);
}

static void migration_moves_the_frame(struct kunit *test)
{
	struct dksm_extent *extent = test_extent(test, 1);
	struct folio *old = test_publish(test, extent, 0, 7, 77);
	struct folio *new = test_folio(test, 7), *frame;

	folio_lock(old);
	new->mapping = old->mapping;
	dksm_folio_migrate(new, old);
	folio_unlock(old);
	folio_unlock(new);
	KUNIT_EXPECT_FALSE(test, folio_test_dksm(old));
	frame = dksm_frame_get(&extent->nodes[0]);
	KUNIT_EXPECT_PTR_EQ(test, new, frame);
	if (frame)
		folio_put(frame);
	test_folio_drop(old);
	KUNIT_EXPECT_EQ(test, 2, atomic_read(&extent->live));
	test_folio_drop(new);
	KUNIT_EXPECT_EQ(test, 1, atomic_read(&extent->live));
	dksm_extent_built(extent);
}

static void locked_frame_is_left_alone(struct kunit *test)
{
	struct dksm_extent *extent = test_extent(test, 1);
	struct folio *folio = test_publish(test, extent, 0, 8, 88);

	folio_lock(folio);
	KUNIT_EXPECT_EQ(test, -EAGAIN,
			PTR_ERR_OR_ZERO(dksm_frame_get(&extent->nodes[0])));
	folio_unlock(folio);
	KUNIT_EXPECT_EQ(test, 1, folio_ref_count(folio));
	test_folio_drop(folio);
	dksm_extent_built(extent);
}

static struct dksm_map *only_map(struct dksm_extent *extent)
{
	return list_is_singular(&extent->maps) ?
	       list_first_entry(&extent->maps, struct dksm_map, extent_list) :
	       NULL;
}

/* An anon_vma of a VMA of this thread's own would need an mm: make one up. */
static struct anon_vma *test_anon_vma(struct kunit *test)
{
	struct dksm_test *t = test->priv;
	struct anon_vma *anon_vma = kunit_kzalloc(test, sizeof(*anon_vma),
						  GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, anon_vma);
	init_rwsem(&anon_vma->rwsem);
	anon_vma->rb_root = RB_ROOT_CACHED;
	anon_vma->root = anon_vma;
	atomic_set(&anon_vma->refcount, 1);
	t->anon_vma = anon_vma;
	return anon_vma;
}

/* Add a map of @nr frames from position @pos on, at page offset @pgoff. */
static int test_map(struct dksm_test *t, struct dksm_extent *extent, u32 pos,
		    u32 nr, pgoff_t pgoff, bool wait)
{
	struct dksm_map want = {
		.anon_vma = t->anon_vma,
		.delta = pgoff - pos,
		.first = pos,
		.last = pos + nr - 1,
	};

	return dksm_map_add(&t->member, extent, &want, wait);
}

/* Whichever bit differs. */
static void pages_differ_in_a_bit(struct kunit *test)
{
	struct folio *one = test_folio(test, 5), *two = test_folio(test, 5);
	u8 *bytes = folio_address(two);
	unsigned int i;

	KUNIT_EXPECT_TRUE(test, dksm_pages_equal(&one->page, &two->page));
	for (i = 0; i < PAGE_SIZE; i++) {
		bytes[i] ^= 1 << i % 8;
		KUNIT_ASSERT_FALSE(test, dksm_pages_equal(&one->page,
							  &two->page));
		KUNIT_ASSERT_FALSE(test, dksm_pages_equal(&two->page,
							  &one->page));
		bytes[i] ^= 1 << i % 8;
	}
	KUNIT_EXPECT_TRUE(test, dksm_pages_equal(&one->page, &two->page));
	folio_unlock(one);
	folio_unlock(two);
	test_folio_drop(one);
	test_folio_drop(two);
}

static void maps_of_one_translation_are_one(struct kunit *test)
{
	struct dksm_test *t = test->priv;
	struct dksm_extent *extent = test_extent(test, 20);
	struct anon_vma *anon_vma = test_anon_vma(test);
	struct dksm_map *map;

	KUNIT_EXPECT_EQ(test, 0, test_map(t, extent, 5, 3, 105, true));
	KUNIT_EXPECT_EQ(test, 0, test_map(t, extent, 2, 2, 102, false));
	map = only_map(extent);
	KUNIT_ASSERT_NOT_NULL(test, map);
	KUNIT_EXPECT_EQ(test, 2U, map->first);
	KUNIT_EXPECT_EQ(test, 7U, map->last);
	KUNIT_EXPECT_EQ(test, 2, atomic_read(&anon_vma->refcount));

	KUNIT_EXPECT_EQ(test, 0, test_map(t, extent, 9, 1, 110, true));
	KUNIT_EXPECT_NULL(test, only_map(extent));
	KUNIT_EXPECT_EQ(test, 3, atomic_read(&anon_vma->refcount));
	/* This anon_vma has no VMA: both maps are useless. */
	dksm_maps_prune(&t->member);
	KUNIT_EXPECT_TRUE(test, list_empty(&extent->maps));
	KUNIT_EXPECT_TRUE(test, list_empty(&t->member.maps));
	KUNIT_EXPECT_EQ(test, 1, atomic_read(&anon_vma->refcount));
	dksm_extent_built(extent);
}

/* Padding: one frame in consecutive pages, which come in any order. */
static void maps_of_a_frame_pile_up(struct kunit *test)
{
	struct dksm_test *t = test->priv;
	struct dksm_extent *extent = test_extent(test, 20);
	struct anon_vma *anon_vma = test_anon_vma(test);
	struct dksm_map *map;
	pgoff_t pgoff;

	for (pgoff = 103; pgoff < 110; pgoff++)
		KUNIT_EXPECT_EQ(test, 0, test_map(t, extent, 7, 1, pgoff, true));
	for (pgoff = 102; pgoff >= 100; pgoff--)
		KUNIT_EXPECT_EQ(test, 0, test_map(t, extent, 7, 1, pgoff, true));
	KUNIT_EXPECT_EQ(test, 0, test_map(t, extent, 7, 1, 105, true));
	map = only_map(extent);
	KUNIT_ASSERT_NOT_NULL(test, map);
	KUNIT_EXPECT_EQ(test, 7, map->first);
	KUNIT_EXPECT_EQ(test, 7, map->last);
	KUNIT_EXPECT_EQ(test, 100UL, map->delta + 7);
	KUNIT_EXPECT_EQ(test, 9U, map->spread);
	KUNIT_EXPECT_EQ(test, 10U, extent->claims);

	/* Not its neighbour, another frame, or too many. */
	KUNIT_EXPECT_EQ(test, 0, test_map(t, extent, 7, 1, 111, true));
	KUNIT_EXPECT_EQ(test, 11U, extent->claims);
	KUNIT_EXPECT_EQ(test, 0, test_map(t, extent, 8, 1, 108, true));
	KUNIT_EXPECT_EQ(test, 12U, extent->claims);
	KUNIT_EXPECT_EQ(test, 4, atomic_read(&anon_vma->refcount));
	for (pgoff = 110; pgoff <= 100 + DKSM_SPREAD_MAX + 1; pgoff++)
		KUNIT_EXPECT_EQ(test, 0, test_map(t, extent, 7, 1, pgoff, true));
	KUNIT_EXPECT_EQ(test, DKSM_SPREAD_MAX, map->spread);
	dksm_maps_prune(&t->member);
	KUNIT_EXPECT_EQ(test, 0U, extent->claims);
	KUNIT_EXPECT_EQ(test, 1, atomic_read(&anon_vma->refcount));
	dksm_extent_built(extent);
}

static void map_add_does_not_wait(struct kunit *test)
{
	struct dksm_test *t = test->priv;
	struct dksm_extent *extent = test_extent(test, 4);

	test_anon_vma(test);
	down_read(&extent->maps_lock);
	KUNIT_EXPECT_EQ(test, -EAGAIN,
			test_map(t, extent, 0, 1, 0, false));
	up_read(&extent->maps_lock);
	mutex_lock(&t->member.lock);
	KUNIT_EXPECT_EQ(test, -EAGAIN,
			test_map(t, extent, 0, 1, 0, false));
	mutex_unlock(&t->member.lock);
	KUNIT_EXPECT_TRUE(test, list_empty(&extent->maps));
	dksm_extent_built(extent);
}

/* Twice the bytes, header included, so that kmalloc() wastes nothing. */
static void extents_double(struct kunit *test)
{
	struct dksm_extent *extent = test_extent(test, 1);
	u32 nr = dksm_extent_doubled(extent), next;

	KUNIT_EXPECT_GE(test, nr, 2U);
	dksm_extent_built(extent);
	for (; nr < DKSM_EXTENT_MAX; nr = next) {
		extent = test_extent(test, nr);
		next = dksm_extent_doubled(extent);
		KUNIT_EXPECT_TRUE(test, next >= 2 * nr ||
				  next == DKSM_EXTENT_MAX);
		dksm_extent_built(extent);
	}
	extent = test_extent(test, nr);
	KUNIT_EXPECT_EQ(test, DKSM_EXTENT_MAX, dksm_extent_doubled(extent));
	dksm_extent_built(extent);
}

static void used_map_outlives_its_owner(struct kunit *test)
{
	struct dksm_test *t = test->priv;
	struct dksm_extent *extent = test_extent(test, 4);
	struct anon_vma *anon_vma = test_anon_vma(test);
	struct folio *folio = test_publish(test, extent, 0, 9, 99);
	struct rb_node user;

	rb_link_node(&user, NULL, &anon_vma->rb_root.rb_root.rb_node);
	KUNIT_EXPECT_EQ(test, 0, test_map(t, extent, 0, 4, 0, true));
	dksm_maps_prune(&t->member);
	KUNIT_EXPECT_FALSE(test, list_empty(&t->member.maps));
	dksm_maps_disown(&t->member);
	KUNIT_EXPECT_TRUE(test, list_empty(&t->member.maps));
	KUNIT_ASSERT_NOT_NULL(test, only_map(extent));
	KUNIT_EXPECT_NULL(test, only_map(extent)->owner);

	test_folio_drop(folio);
	dksm_extent_built(extent);
	test_reap();
	KUNIT_EXPECT_EQ(test, 1, atomic_read(&anon_vma->refcount));
	KUNIT_EXPECT_EQ(test, 0L, atomic_long_read(&t->domain.metadata));
}

static int dksm_test_init(struct kunit *test)
{
	struct dksm_test *t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, t);
	refcount_set(&t->domain.refs, 1);
	spin_lock_init(&t->domain.lock);
	INIT_LIST_HEAD(&t->domain.extents);
	INIT_LIST_HEAD(&t->domain.members);
	mutex_init(&t->member.lock);
	INIT_LIST_HEAD(&t->member.maps);
	t->member.domain = &t->domain;
	test->priv = t;
	return dksm_index_init(&t->domain);
}

/* Whatever a test did, nothing is left. */
static void dksm_test_exit(struct kunit *test)
{
	struct dksm_test *t = test->priv;

	test_reap();
	KUNIT_EXPECT_EQ(test, 0L, atomic_long_read(&t->domain.metadata));
	KUNIT_EXPECT_EQ(test, 0L, atomic_long_read(&t->domain.frames));
	KUNIT_EXPECT_EQ(test, 1U, refcount_read(&t->domain.refs));
	KUNIT_EXPECT_TRUE(test, list_empty(&t->domain.extents));
	rhashtable_destroy(&t->domain.index);
}

static struct kunit_case dksm_test_cases[] = {
	KUNIT_CASE(frame_knows_its_extent),
	KUNIT_CASE(equal_content_is_found),
	KUNIT_CASE(freed_frame_is_forgotten),
	KUNIT_CASE(second_publisher_gets_the_first_frame),
	KUNIT_CASE(full_frame_is_replaced),
	KUNIT_CASE(migration_moves_the_frame),
	KUNIT_CASE(locked_frame_is_left_alone),
	KUNIT_CASE(pages_differ_in_a_bit),
	KUNIT_CASE(maps_of_one_translation_are_one),
	KUNIT_CASE(maps_of_a_frame_pile_up),
	KUNIT_CASE(map_add_does_not_wait),
	KUNIT_CASE(extents_double),
	KUNIT_CASE(used_map_outlives_its_owner),
	{ }
};

static struct kunit_suite dksm_test_suite = {
	.name = "dksm",
	.init = dksm_test_init,
	.exit = dksm_test_exit,
	.test_cases = dksm_test_cases,
};

kunit_test_suite(dksm_test_suite);
