// SPDX-License-Identifier: GPL-2.0
/*
 * Second sight: a page is merged if its content is known to be elsewhere, and else
 * only remembered, so that nobody pays for sharing that does not happen.
 *
 * Pages are hashed as they are, not protected; hashes are only ever hints.  Those that
 *   are zero, or known to the index    are merged;
 *   are equal to a candidate           are published, and that page joins;
 *   are none of these                  become candidates, and stay as they are.
 * Everything that maps is done by merge.c, with the comparisons made there.
 *
 * A candidate is remembered by hash and pfn, without a reference.  Whoever held the
 * page may be gone by the time the content turns up again, and the page be somebody
 * else's, who is in another domain or in none.  So the reverse map is asked first,
 * and only the page of a member that takes part is looked at.
 *
 * A huge page has to be split for one page of it to be merged.  It is only if
 * dksm_huge_min of its pages would be, which is known when all of them were looked
 * at: then the walk over its page table begins again.  The same holds for huge pages
 * that would have to join, as far as this walk has met their pages.
 */
#include <linux/ksm.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/pagewalk.h>
#include <linux/rmap.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "../internal.h"
#include "internal.h"

unsigned int dksm_huge_min = 64;

/**
 * struct twin - a page of this or another process that has the same content
 * @pfn:	the page
 * @domain:	of which the process is a member
 * @mm:		of the process, with a reference; NULL if there is none
 * @address:	where it maps the page
 * @huge:	it is part of a huge page
 */
struct twin {
	unsigned long pfn;
	struct dksm_domain *domain;
	struct mm_struct *mm;
	unsigned long address;
	bool huge;
};

/* Does it take part? */
static bool twin_may_be(struct twin *twin, struct mm_struct *mm)
{
	/* Freed only after its VMAs left the tree that is being walked. */
	struct dksm_mm *member = READ_ONCE(mm->dksm);

	return member && READ_ONCE(member->attached) &&
	       member->domain == twin->domain;
}

/* The VMA maps this very page: relatives may be in the same tree without it. */
static bool twin_is_mapped(struct twin *twin, struct folio *folio,
			   struct vm_area_struct *vma)
{
	struct page_vma_mapped_walk pvmw = {
		.pfn = twin->pfn,
		.nr_pages = 1,
		.pgoff = folio->index + (twin->pfn - folio_pfn(folio)),
		.vma = vma,
	};

	if (pvmw.pgoff < vma->vm_pgoff ||
	    pvmw.pgoff >= vma->vm_pgoff + vma_pages(vma))
		return false;
	pvmw.address = vma->vm_start +
		       ((pvmw.pgoff - vma->vm_pgoff) << PAGE_SHIFT);
	if (!page_vma_mapped_walk(&pvmw))
		return false;
	twin->address = pvmw.address;
	page_vma_mapped_walk_done(&pvmw);
	return true;
}

static bool twin_found(struct folio *folio, struct vm_area_struct *vma,
		       unsigned long address, void *arg)
{
	struct twin *twin = arg;

	if (!twin_may_be(twin, vma->vm_mm) ||
	    !twin_is_mapped(twin, folio, vma) || !mmget_not_zero(vma->vm_mm))
		return true;
	twin->mm = vma->vm_mm;
	return false;
}

/*
 * A reference to the page that has this number now, if it might be a twin; -EAGAIN if
 * that is to be seen later; or NULL.
 */
static struct page *twin_page(unsigned long pfn)
{
	struct page *page = pfn_to_online_page(pfn);
	struct folio *folio = page ? page_folio(page) : NULL;

	if (!folio || !folio_test_anon(folio) || folio_test_ksm(folio) ||
	    !folio_mapped(folio))
		return NULL;
	/* Slabs and the like are not to be locked: see page_idle_get_folio(). */
	if (!folio_test_lru(folio) || !folio_try_get(folio))
		return ERR_PTR(-EAGAIN);
	if (page_folio(page) == folio && folio_test_lru(folio) &&
	    folio_test_anon(folio) &&
	    !folio_test_ksm(folio) && !folio_is_zone_device(folio) &&
	    !PageHWPoison(page))
		return page;
	folio_put(folio);
	return NULL;
}

/* False if it was not to be had just now. */
static bool twin_walk(struct twin *twin, struct folio *folio)
{
	struct rmap_walk_control rwc = {
		.arg = twin,
		.rmap_one = twin_found,
		/* No mmap_lock is held: the anon_vma might go. */
		.anon_lock = folio_lock_anon_vma_read,
		.try_lock = true,
	};

	if (!folio_trylock(folio))
		return false;
	if (folio_test_anon(folio) && !folio_test_ksm(folio) &&
	    folio_mapped(folio))
		rmap_walk(folio, &rwc);
	twin->huge = folio_test_pmd_mappable(folio);
	folio_unlock(folio);
	return twin->mm || !rwc.contended;
}

static void twin_put(struct twin *twin)
{
	mmput_async(twin->mm);
	twin->mm = NULL;
}

enum twin_state {
	TWIN_FOUND,
	TWIN_BUSY,	/* to be seen later */
	TWIN_GONE,	/* or has another content by now, or is nobody's of ours */
	TWIN_OTHER,	/* has another content with the same tag */
};

/* Another content: the one that it was remembered for? */
static enum twin_state twin_differs(struct twin *twin, struct page *other,
				    u64 hash)
{
	u64 its = dksm_page_hash(twin->domain, other);

	twin_put(twin);
	return its >> 32 == hash >> 32 ? TWIN_OTHER : TWIN_GONE;
}

/*
 * Find who maps the page now, and see whether it still equals @page: pages move, and
 * take their content along, and a page is not its own twin.
 */
static enum twin_state twin_locate(struct twin *twin, struct page *page,
				   u64 hash)
{
	struct page *other = twin_page(twin->pfn);
	enum twin_state state = TWIN_FOUND;

	if (IS_ERR_OR_NULL(other))
		return other ? TWIN_BUSY : TWIN_GONE;
	if (!twin_walk(twin, page_folio(other)))
		state = TWIN_BUSY;
	else if (!twin->mm)
		state = TWIN_GONE;
	else if (!dksm_pages_equal(other, page))
		state = twin_differs(twin, other, hash);
	put_page(other);
	return state;
}

/* Contents with one tag that are told from each other. */
#define TWIN_TRIES	3

/* Another page of this content, if one was seen; else this one is remembered. */
static enum twin_state twin_find(struct twin *twin, struct page *page, u64 hash)
{
	unsigned long pfn = page_to_pfn(page), other = 0;
	enum twin_state state = TWIN_GONE;
	int tries;

	for (tries = 0; tries < TWIN_TRIES; tries++) {
		twin->pfn = dksm_candidate_twin(twin->domain, hash, pfn, other);
		if (!twin->pfn)
			return TWIN_GONE;
		state = twin_locate(twin, page, hash);
		if (state == TWIN_GONE)
			dksm_candidate_forget(twin->domain, hash, twin->pfn);
		else if (state == TWIN_OTHER)
			other = twin->pfn;
		else
			break;
	}
	return state;
}

/**
 * struct look - one walk over some pages of one page table
 * @second:	for whom
 * @vma:	where; mmap_lock is held
 * @pmd:	the page table, or a huge page
 * @seen:	hashes of an earlier look, of which others are left alone; or NULL
 * @huge:	the pmd maps a huge page that is not to be split yet
 * @predicted:	node that the next page is likely to be equal to; holds its extent
 * @start:	first address
 */
struct look {
	struct dksm_second *second;
	struct vm_area_struct *vma;
	pmd_t *pmd;
	const u32 *seen;
	bool huge;
	struct dksm_node *predicted;
	unsigned long start;
};

static unsigned int table_index(unsigned long address)
{
	return (address & ~PMD_MASK) >> PAGE_SHIFT;
}

static void look_want(struct look *look, unsigned long address, bool publish)
{
	__set_bit(table_index(address), look->second->wanted);
	if (publish)
		__set_bit(table_index(address), look->second->publish);
}

/* A page that might be merged, with a reference, or NULL. */
static struct page *page_get(struct vm_area_struct *vma, unsigned long address)
{
	struct page *page = NULL;
	struct folio_walk fw;
	struct folio *folio;

	folio = folio_walk_start(&fw, vma, address, 0);
	if (!folio)
		return NULL;
	if (folio_test_anon(folio) && !folio_test_ksm(folio) &&
	    !folio_is_zone_device(folio) && !PageHWPoison(fw.page)) {
		folio_get(folio);
		page = fw.page;
	}
	folio_walk_end(&fw, vma);
	return page;
}

/**
 * dksm_second_hash - what a page is like now
 * @domain: for which
 * @vma: where
 * @address: of the page, in @vma
 * @hash: out: of the page; not written to if it cannot be merged
 *
 * Context: mmap_lock held for read.
 * Return: whether there is such a page.
 */
bool dksm_second_hash(struct dksm_domain *domain, struct vm_area_struct *vma,
		      unsigned long address, u32 *hash)
{
	struct page *page = page_get(vma, address);

	if (!page)
		return false;
	*hash = dksm_page_hash(domain, page);
	put_page(page);
	return true;
}

static bool page_is_zero(struct mm_struct *mm, struct page *page)
{
	return READ_ONCE(dksm_use_zero_pages) && !mm_forbids_zeropage(mm) &&
	       dksm_pages_equal(page, ZERO_PAGE(0));
}

/* Prediction: images are runs of pages, published together. */

static void look_predict(struct look *look, struct dksm_node *node)
{
	struct dksm_extent *extent;

	if (look->predicted)
		dksm_extent_put(dksm_node_extent(look->predicted));
	look->predicted = NULL;
	if (!node)
		return;
	extent = dksm_node_extent(node);
	if (node->pos + 1 < extent->nr)
		look->predicted = node + 1;
	else
		dksm_extent_put(extent);
}

/* One page further; what is not that frame turns out when merge.c compares. */
static bool look_is_predicted(struct look *look)
{
	struct dksm_node *node = look->predicted;

	if (!node)
		return false;
	look->predicted = NULL;
	if (!READ_ONCE(node->pfn)) {
		dksm_extent_put(dksm_node_extent(node));
		return false;
	}
	look_predict(look, node);
	return true;
}

static bool look_known(struct look *look, u64 hash)
{
	struct dksm_node *node;

	if (look->seen)
		return dksm_index_has(look->second->domain, hash);
	node = dksm_index_get(look->second->domain, hash);
	if (node)
		look_predict(look, node);
	return node;
}

/* Huge pages. */

static struct dksm_huge_twin *huge_twin(struct dksm_table_walk *walk,
					const struct twin *twin)
{
	unsigned long table = twin->address & PMD_MASK;
	struct dksm_huge_twin *huge;

	for (huge = walk->twins; huge < walk->twins + DKSM_HUGE_TWINS; huge++)
		if (!huge->pages ||
		    (huge->mm == twin->mm && huge->table == table))
			return huge;
	return NULL;
}

static void huge_twin_count(struct dksm_table_walk *walk,
			    const struct twin *twin)
{
	struct dksm_huge_twin *huge = huge_twin(walk, twin);

	if (!huge)
		return;
	huge->mm = twin->mm;
	huge->table = twin->address & PMD_MASK;
	huge->pages++;
}

static bool huge_twin_splits(struct dksm_table_walk *walk,
			     const struct twin *twin)
{
	const struct dksm_huge_twin *huge = huge_twin(walk, twin);

	return walk->again && huge &&
	       huge->pages >= READ_ONCE(dksm_huge_min);
}

static bool twin_is_huge(const struct twin *twin)
{
	return twin->mm && twin->huge && READ_ONCE(dksm_huge_min) > 1;
}

/* Is the page to be merged now?  If not, perhaps when the walk begins again. */
static bool look_allows(struct look *look, const struct twin *twin)
{
	struct dksm_table_walk *walk = look->second->walk;

	if (!walk->again && twin_is_huge(twin)) {
		huge_twin_count(walk, twin);
		walk->deferred |= !look->huge;
	}
	walk->wanted += look->huge;
	if (!look->huge && (walk->again || !twin_is_huge(twin)))
		return true;
	walk->left++;
	return false;
}

/**
 * dksm_second_again - the walk has come to the end of a page table
 * @second: the walk
 *
 * Return: whether to begin again with this page table, since enough pages of some
 * huge page would be merged.
 */
bool dksm_second_again(struct dksm_second *second)
{
	struct dksm_table_walk *walk = second->walk;
	unsigned int min = READ_ONCE(dksm_huge_min);

	if (!walk->again && (walk->deferred || walk->wanted >= min)) {
		walk->again = true;
		walk->wanted = 0;
		walk->left = 0;
		return true;
	}
	second->report->scanned += walk->left;
	second->report->skipped[DKSM_SKIP_HUGE] += walk->left;
	*walk = (struct dksm_table_walk) { };
	return false;
}

/* All twins of one batch are below one page table of one process. */
static bool second_takes_twin(struct dksm_second *second, struct twin *twin)
{
	unsigned long table = twin->address & PMD_MASK;

	if (!second->mm) {
		second->mm = twin->mm;
		second->table = table;
	} else if (second->mm == twin->mm && second->table == table) {
		mmput_async(twin->mm);
	} else {
		return false;
	}
	__set_bit(table_index(twin->address), second->joins);
	return true;
}

static bool look_is_volatile(struct look *look, u64 hash)
{
	struct dksm_second *second = look->second;
	u64 key = dksm_learn_content(hash);

	if (!second->learn)
		return false;
	return look->seen ? dksm_learned_volatile(second->domain, key) :
			    dksm_learned_spares(second->domain, key);
}

/* Why a page is left as it is, if it is. */
static void look_skip(struct look *look, enum dksm_skip reason)
{
	/* When idle, only what is acted on is counted; and nothing twice. */
	if (look->seen || look->second->walk->again)
		return;
	look->second->report->scanned++;
	look->second->report->skipped[reason]++;
}

static void look_leave(struct look *look, unsigned long address, u64 hash)
{
	look_skip(look, DKSM_SKIP_ALONE);
	if (look->seen)
		dksm_round_sample(look->second->round, address, hash, false);
}

/* False if the walk has to end ahead of this page. */
static bool look_take_twin(struct look *look, unsigned long address,
			   struct twin *twin)
{
	if (!look_allows(look, twin)) {
		twin_put(twin);
		return true;
	}
	if (twin_is_huge(twin) && !huge_twin_splits(look->second->walk, twin)) {
		/* Whether to split it is for its own walk to see. */
		atomic_long_inc(&twin->mm->dksm->owed);
		twin_put(twin);
	} else if (!second_takes_twin(look->second, twin)) {
		twin_put(twin);
		return false;
	}
	look_want(look, address, true);
	return true;
}

static noinline_for_stack bool look_for_twin(struct look *look,
					     unsigned long address,
					     struct page *page, u64 hash)
{
	struct twin twin = { .domain = look->second->domain };

	switch (twin_find(&twin, page, hash)) {
	case TWIN_FOUND:
		return look_take_twin(look, address, &twin);
	case TWIN_BUSY:
		atomic_long_inc(&look->second->member->owed);
		look_skip(look, DKSM_SKIP_BUSY);
		return true;
	default:
		look_leave(look, address, hash);
		return true;
	}
}

/* False if the walk has to end ahead of this page. */
static bool look_at(struct look *look, unsigned long address, struct page *page)
{
	struct dksm_second *second = look->second;
	const struct twin none = { };
	u64 hash;

	if (page_is_zero(second->member->mm, page)) {
		if (look_allows(look, &none))
			look_want(look, address, true);
		return true;
	}
	hash = dksm_page_hash(second->domain, page);
	second->hashed++;
	if (look->seen && (u32)hash != look->seen[table_index(address)]) {
		dksm_round_sample(second->round, address, hash, true);
		return true;
	}
	if (look_is_volatile(look, hash)) {
		look_skip(look, DKSM_SKIP_LEARNED);
	} else if (look_known(look, hash)) {
		if (look_allows(look, &none))
			look_want(look, address, true);
	} else {
		return look_for_twin(look, address, page, hash);
	}
	return true;
}

/* Choose what to merge; returns where the walk ended. */
static unsigned long look_choose(struct look *look, unsigned long end)
{
	unsigned long address;
	struct page *page;
	bool go_on = true;

	for (address = look->start; address < end; address += PAGE_SIZE) {
		if (!look->seen && !look->huge && look_is_predicted(look)) {
			look_want(look, address, false);
			continue;
		}
		page = page_get(look->vma, address);
		if (page) {
			go_on = look_at(look, address, page);
			put_page(page);
		} else if (!look->seen && !look->huge &&
			   !look->second->walk->again) {
			look_want(look, address, false);	/* merge.c says why not */
		}
		if (!go_on)
			break;
	}
	look_predict(look, NULL);
	return address;
}

/*
 * Merge the wanted pages of [@start, @end).  Of a huge page, let the batch see all
 * the rest, too: splitting it leaves zero pages that have to be marked as ours.
 */
static void merge_wanted(struct dksm_batch *batch, struct vm_area_struct *vma,
			 pmd_t *pmd, unsigned long start, unsigned long end,
			 unsigned long *wanted, unsigned long *publish)
{
	if (pmd_trans_huge(pmdp_get_lockless(pmd))) {
		unsigned long table = start & PMD_MASK;

		start = max(table, vma->vm_start);
		end = min(table + PMD_SIZE, vma->vm_end);
	}
	bitmap_shift_right(wanted, wanted, table_index(start), PTRS_PER_PTE);
	if (publish)
		bitmap_shift_right(publish, publish, table_index(start),
				   PTRS_PER_PTE);
	dksm_batch_merge(batch, vma, pmd, start, end, wanted, publish);
}

static void look_merge(struct look *look, unsigned long end)
{
	struct dksm_second *second = look->second;

	u64 before = second->report->merged + second->report->published;

	second->done = 0;
	if (bitmap_empty(second->wanted, PTRS_PER_PTE))
		return;
	dksm_batch_begin(second->batch, second->member, second->report,
			 second->flags);
	merge_wanted(second->batch, look->vma, look->pmd, look->start, end,
		     second->wanted, second->publish);
	second->done = second->report->merged + second->report->published -
		       before;
}

/**
 * dksm_second_merge - merge some pages of one page table on second sight
 * @second: dksm_second_join() comes next
 * @vma: of a kind that can be merged, with an anon_vma
 * @pmd: covers the range
 * @start: first address, in @vma
 * @end: end of the range, in @vma and below the same @pmd
 * @seen: a hash of each page below @pmd, of which others are left alone; NULL to
 *	take all as they are
 *
 * Context: mmap_lock held for read.  May sleep.
 * Return: where to go on; after @start.
 */
noinline_for_stack
unsigned long dksm_second_merge(struct dksm_second *second,
				struct vm_area_struct *vma, pmd_t *pmd,
				unsigned long start, unsigned long end,
				const u32 *seen)
{
	struct look look = {
		.second = second,
		.vma = vma,
		.pmd = pmd,
		.seen = seen,
		.start = start,
	};

	/* A walk over another page table may have been cut short. */
	if (second->walk->table != (start & PMD_MASK))
		*second->walk = (struct dksm_table_walk) {
			.table = start & PMD_MASK,
		};
	look.huge = !second->walk->again && READ_ONCE(dksm_huge_min) > 1 &&
		    pmd_trans_huge(pmdp_get_lockless(pmd));
	bitmap_zero(second->wanted, PTRS_PER_PTE);
	bitmap_zero(second->publish, PTRS_PER_PTE);
	end = look_choose(&look, end);
	look_merge(&look, end);
	return end;
}

static void join_locked(struct dksm_second *second, struct dksm_mm *member,
			struct dksm_report *report)
{
	unsigned long first = find_first_bit(second->joins, PTRS_PER_PTE);
	unsigned long start = second->table + first * PAGE_SIZE;
	struct vm_area_struct *vma = vma_lookup(second->mm, start);
	pmd_t *pmd = vma ? mm_find_pmd(second->mm, start) : NULL;
	unsigned long end;

	if (!pmd || !vma->anon_vma ||
	    dksm_vma_skip_reason(vma) != DKSM_NOT_SKIPPED)
		return;
	end = min(second->table + PMD_SIZE, vma->vm_end);
	dksm_batch_begin(second->batch, member, report,
			 DKSM_BATCH_QUICK | DKSM_BATCH_JOIN);
	merge_wanted(second->batch, vma, pmd, start, end, second->joins, NULL);
}

/**
 * dksm_second_join - have the twins of what was published join
 * @second: after dksm_second_merge()
 *
 * They map the frames that were published for their contents, if they are still
 * that.  Nobody is waited for: what could not be had is left for the next idle
 * moment of its own process, for which it counts as changed.
 *
 * Context: no mmap_lock need be held, but may, for read.  May sleep.
 */
noinline_for_stack void dksm_second_join(struct dksm_second *second)
{
	struct dksm_report *report = &second->join_report;
	struct dksm_mm *member;
	unsigned long wanted;

	if (!second->mm)
		return;
	member = second->mm->dksm;
	wanted = bitmap_weight(second->joins, PTRS_PER_PTE);
	*report = (struct dksm_report) { };
	if (second->done && mmap_read_trylock(second->mm)) {
		join_locked(second, member, report);
		mmap_read_unlock(second->mm);
	}
	/* What was not published is for the next pass of this process. */
	wanted = min(wanted, second->done);
	if (wanted > report->merged)
		atomic_long_add(wanted - report->merged, &member->owed);
	second->joined += report->merged;
	dksm_stat_add(member, &member->stat.idle, report);
	mmput_async(second->mm);
	second->mm = NULL;
	bitmap_zero(second->joins, PTRS_PER_PTE);
}

/**
 * dksm_second_alloc - prepare for merging on second sight
 * @member: for whom
 * @flags: DKSM_BATCH_*, for what is merged
 *
 * Return: to be freed by dksm_second_free(); or NULL.
 */
struct dksm_second *dksm_second_alloc(struct dksm_mm *member,
				      unsigned int flags)
{
	struct dksm_second *second = kzalloc(sizeof(*second), DKSM_GFP);

	if (!second)
		return NULL;
	second->member = member;
	second->domain = member->domain;
	second->walk = &second->own_walk;
	second->flags = flags;
	/* Of several pages: without waiting at all, it might fail for long. */
	second->batch = dksm_batch_alloc(DKSM_GFP);
	if (second->batch)
		return second;
	kfree(second);
	return NULL;
}

void dksm_second_free(struct dksm_second *second)
{
	if (!second)
		return;
	dksm_batch_free(second->batch);
	kfree(second);
}

#ifdef CONFIG_DKSM_KUNIT_TEST
#include "tests/second_kunit.c"
#endif
