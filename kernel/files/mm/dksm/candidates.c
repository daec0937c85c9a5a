// SPDX-License-Identifier: GPL-2.0
/*
 * Candidates: contents that one page in a domain is known to have, by hash and pfn.
 *
 * A table of sets; a content may be in either of two.  Both are functions of the
 * tag that is kept, so that the table can be *rebuilt* into one of another size by a
 * work item: under the lock, a few sets at a time, with lookups in both meanwhile.  So
 * none is lost while it grows with the members, however many of them come in between
 * two equal ones.
 *
 * There is no reference to a page, and nothing tells when it goes.  What is
 * obviously no candidate any more is left behind when the table is rebuilt, and
 * overwritten first when a set is full.  The size is bounded by what the members
 * have populated, and charged to the memory cgroup of whoever created the domain.
 */
#include <linux/hash.h>
#include <linux/jiffies.h>
#include <linux/ksm.h>
#include <linux/memcontrol.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>

#include "../internal.h"
#include "internal.h"

/* One cache line. */
#define CANDIDATE_WAYS	8
#define CANDIDATE_SETS_MIN	64
/* Sets that are moved under the lock at a time. */
#define REBUILD_SETS	16
/* After a failure it is tried again in so many jiffies. */
#define REBUILD_AGAIN	HZ

/* Upper half of the hash, and page frame; 0 if free. */
struct candidate {
	u32 tag;
	u32 pfn;
};

struct dksm_candidate_table {
	u32 sets;
	struct candidate way[][CANDIDATE_WAYS];
};

static size_t table_bytes(u32 sets)
{
	struct dksm_candidate_table *table;

	return PAGE_ALIGN(struct_size(table, way, sets));
}

static struct dksm_candidate_table *table_alloc(struct dksm_domain *domain,
						u32 sets)
{
	/* kvzalloc() would round the size up to twice as much. */
	struct dksm_candidate_table *table =
		__vmalloc(table_bytes(sets), DKSM_GFP | __GFP_ZERO);

	if (!table)
		return NULL;
	table->sets = sets;
	atomic_long_add(table_bytes(sets), &domain->metadata);
	return table;
}

static void table_free(struct dksm_domain *domain,
		       struct dksm_candidate_table *table)
{
	if (!table)
		return;
	atomic_long_sub(table_bytes(table->sets), &domain->metadata);
	vfree(table);
}

/* The sets of a content, for a table of any size. */
static struct candidate *table_set(struct dksm_candidate_table *table, u32 tag,
				   int which)
{
	u32 spread = which ? tag * GOLDEN_RATIO_32 : tag;

	return table->way[(u64)spread * table->sets >> 32];
}

/* The way of a tag that is for another page than these; or else @same's, or NULL. */
static struct candidate *table_find(struct dksm_candidate_table *table, u32 tag,
				    u32 same, u32 stale)
{
	struct candidate *found = NULL;
	int i, which;

	for (which = 0; which < 2; which++) {
		struct candidate *way = table_set(table, tag, which);

		for (i = 0; i < CANDIDATE_WAYS; i++) {
			if (!way[i].pfn || way[i].tag != tag ||
			    way[i].pfn == stale)
				continue;
			if (way[i].pfn != same)
				return &way[i];
			found = &way[i];
		}
	}
	return found;
}

/* The way of a tag that is for this very page, or NULL. */
static struct candidate *table_find_page(struct dksm_candidate_table *table,
					 u32 tag, u32 pfn)
{
	int i, which;

	for (which = 0; which < 2; which++) {
		struct candidate *way = table_set(table, tag, which);

		for (i = 0; i < CANDIDATE_WAYS; i++)
			if (way[i].tag == tag && way[i].pfn == pfn)
				return &way[i];
	}
	return NULL;
}

/* Is this still a page that a process might share?  A hint. */
static bool candidate_is_alive(const struct candidate *way)
{
	struct page *page = pfn_to_online_page(way->pfn);
	struct folio *folio = page ? page_folio(page) : NULL;

	/* Not necessarily on an LRU list this very moment. */
	return folio && folio_test_anon(folio) && !folio_test_ksm(folio) &&
	       folio_mapped(folio);
}

/* Where there is room: of both sets the emptier one, then what is dead. */
static struct candidate *table_room(struct dksm_candidate_table *table, u32 tag)
{
	struct candidate *free[2] = { }, *dead = NULL;
	int i, which, nr[2] = { };

	for (which = 0; which < 2; which++) {
		struct candidate *way = table_set(table, tag, which);

		for (i = 0; i < CANDIDATE_WAYS; i++) {
			nr[which] += !way[i].pfn;
			if (!way[i].pfn)
				free[which] = &way[i];
			else if (!dead && !free[0] && !free[1] &&
				 !candidate_is_alive(&way[i]))
				dead = &way[i];
		}
	}
	if (free[0] || free[1])
		return nr[0] >= nr[1] ? free[0] : free[1];
	return dead ?: table_set(table, tag, 0) + hash_32(tag, 3);
}

static void table_add(struct dksm_candidates *c, struct candidate new)
{
	struct candidate *way = table_room(c->table, new.tag);

	c->nr += !way->pfn;
	*way = new;
}

/* Another page of this content; if none is known, @new is from now on. */
static unsigned long candidate_twin(struct dksm_candidates *c,
				    struct candidate new, u32 stale)
{
	struct candidate *way;

	way = table_find(c->table, new.tag, new.pfn, stale);
	if (!way && c->old)
		way = table_find(c->old, new.tag, new.pfn, stale);
	if (way)
		return way->pfn == new.pfn ? 0 : way->pfn;
	table_add(c, new);
	c->added++;
	return 0;
}

/**
 * dksm_candidate_twin - has this content been seen in another page?
 * @domain: where
 * @hash: of the content
 * @pfn: of the page that has it now
 * @stale: of a page that turned out to have another, or 0
 *
 * Context: process; takes a spinlock.
 * Return: the page frame number of such a page, a hint; or 0, and this page is
 * remembered.
 */
unsigned long dksm_candidate_twin(struct dksm_domain *domain, u64 hash,
				  unsigned long pfn, unsigned long stale)
{
	struct candidate new = { .tag = hash >> 32, .pfn = pfn };
	struct dksm_candidates *c = &domain->candidates;
	unsigned long twin = 0;

	if (new.pfn != pfn)
		return 0;	/* above 16 TiB */
	spin_lock(&c->lock);
	twin = candidate_twin(c, new, stale);
	spin_unlock(&c->lock);
	return twin;
}

/**
 * dksm_candidate_forget - a page has not the content it was remembered for
 * @domain: where
 * @hash: of that content, the upper half of which is the same
 * @pfn: of the page
 */
void dksm_candidate_forget(struct dksm_domain *domain, u64 hash,
			   unsigned long pfn)
{
	struct dksm_candidates *c = &domain->candidates;
	struct candidate *way;

	spin_lock(&c->lock);
	way = table_find_page(c->table, hash >> 32, pfn);
	if (way) {
		way->pfn = 0;
		c->nr--;
	}
	spin_unlock(&c->lock);
}

/*
 * Room for so many pages, which fill it to 2/3: 12 bytes for each.  While it is rebuilt
 * from 2/3 of that to all of it, 20 bytes.
 */
static u32 sets_for(unsigned long pages)
{
	u64 sets = (u64)pages * 12 / (CANDIDATE_WAYS * sizeof(struct candidate));

	return clamp(sets, (u64)CANDIDATE_SETS_MIN, (u64)BIT(28));
}

/* Filled to 3/4, and a quarter of it since it was built. */
static bool candidates_full(const struct dksm_candidates *c)
{
	u32 quarter = c->table->sets * CANDIDATE_WAYS / 4;

	return c->nr >= 3 * quarter && c->added >= quarter;
}

/* The size to be rebuilt to, or 0 for none. */
static u32 candidates_resize(const struct dksm_candidates *c, u32 most)
{
	u32 sets = c->table->sets;

	if (most < sets / 2)
		return most;
	return candidates_full(c) ? min(sets + sets / 2, most) : 0;
}

static struct dksm_candidate_table *candidates_begin(struct dksm_candidates *c,
						     struct dksm_candidate_table *table)
{
	struct dksm_candidate_table *old;

	spin_lock(&c->lock);
	old = c->table;
	c->old = old;
	c->table = table;
	WRITE_ONCE(c->sets, table->sets);
	c->nr = 0;
	c->added = 0;
	spin_unlock(&c->lock);
	return old;
}

static void set_move(struct dksm_candidates *c, struct candidate *way)
{
	int i;

	for (i = 0; i < CANDIDATE_WAYS; i++) {
		if (way[i].pfn && candidate_is_alive(&way[i]))
			table_add(c, way[i]);
		way[i].pfn = 0;
	}
}

static void sets_move(struct dksm_candidates *c, u32 first, u32 end)
{
	spin_lock(&c->lock);
	for (; first < end; first++)
		set_move(c, c->old->way[first]);
	spin_unlock(&c->lock);
}

static void candidates_rebuild(struct dksm_domain *domain, u32 sets)
{
	struct dksm_candidate_table *old, *table = table_alloc(domain, sets);
	struct dksm_candidates *c = &domain->candidates;
	u32 i;

	WRITE_ONCE(c->failed_at, table ? 0 : jiffies | 1);
	if (!table)
		return;
	old = candidates_begin(c, table);
	for (i = 0; i < old->sets; i += REBUILD_SETS) {
		sets_move(c, i, min(i + REBUILD_SETS, old->sets));
		cond_resched();
	}
	spin_lock(&c->lock);
	c->old = NULL;
	spin_unlock(&c->lock);
	table_free(domain, old);
}

/* @c->resize is held: so nobody else does. */
static void candidates_fit(struct dksm_domain *domain)
{
	struct mem_cgroup *memcg = set_active_memcg(domain->memcg);
	u32 sets = candidates_resize(&domain->candidates,
				     sets_for(dksm_members_pages(domain)));

	if (sets)
		candidates_rebuild(domain, sets);
	set_active_memcg(memcg);
}

static void candidates_work(struct work_struct *work)
{
	struct dksm_domain *domain = container_of(work, struct dksm_domain,
						  candidates.work);

	mutex_lock(&domain->candidates.resize);
	candidates_fit(domain);
	mutex_unlock(&domain->candidates.resize);
	/* Nobody learns where nobody was ever attached. */
	if (rcu_access_pointer(domain->learned))
		dksm_learn_fit(domain);
}

/**
 * dksm_candidates_init - have a table, if a small one
 * @domain: that is not known to anybody yet
 *
 * Return: 0 or -ENOMEM.
 */
int dksm_candidates_init(struct dksm_domain *domain)
{
	struct dksm_candidates *c = &domain->candidates;

	spin_lock_init(&c->lock);
	mutex_init(&c->resize);
	INIT_WORK(&c->work, candidates_work);
	c->table = table_alloc(domain, CANDIDATE_SETS_MIN);
	c->sets = CANDIDATE_SETS_MIN;
	return c->table ? 0 : -ENOMEM;
}

static bool candidates_have_room(struct dksm_candidates *c)
{
	unsigned long failed = READ_ONCE(c->failed_at);
	bool room;

	spin_lock(&c->lock);
	room = c->old || !candidates_full(c);
	spin_unlock(&c->lock);
	return room || (failed && time_before(jiffies, failed + REBUILD_AGAIN));
}

/**
 * dksm_candidates_fit - see to it that there is room for candidates
 * @domain: where
 * @limit: rebuild the table at once if it has so many bytes at most, else by the
 *	work item
 *
 * Called ahead of every step, so that the table grows while it is filled, as long as
 * the members' memory pays for it.  If there is no memory, or it is as large as it
 * may be and full of pages that live, contents drive each other out.
 *
 * Context: process; may sleep, but for a @limit of 0.
 * Return: false if there is no room now, but will be.
 */
bool dksm_candidates_fit(struct dksm_domain *domain, size_t limit)
{
	struct dksm_candidates *c = &domain->candidates;

	if (candidates_have_room(c))
		return true;
	if (table_bytes(READ_ONCE(c->sets)) > limit ||
	    !mutex_trylock(&c->resize)) {
		queue_work(system_unbound_wq, &c->work);
		return false;
	}
	candidates_fit(domain);
	mutex_unlock(&c->resize);
	return true;
}

/**
 * dksm_candidates_shrink - there are fewer members
 * @domain: of theirs
 */
void dksm_candidates_shrink(struct dksm_domain *domain)
{
	queue_work(system_unbound_wq, &domain->candidates.work);
}

/**
 * dksm_candidates_free - forget what was seen in a domain
 * @domain: without members
 */
void dksm_candidates_free(struct dksm_domain *domain)
{
	if (!domain->candidates.table)
		return;
	cancel_work_sync(&domain->candidates.work);
	table_free(domain, domain->candidates.table);
}

#ifdef CONFIG_DKSM_KUNIT_TEST
#include "tests/candidates_kunit.c"
#endif
