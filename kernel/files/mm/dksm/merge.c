// SPDX-License-Identifier: GPL-2.0
/*
 * Merging the pages of one page table.
 *
 * A batch takes the pages of up to one page table through these steps; the
 * comments at each say what can happen right there.
 *
 *   take       a reference and the folio lock of every candidate
 *   protect    clear their PTEs, flush once, look for pins, map read-only
 *   classify   zero, equal to a frame, or new (no page table lock)
 *   publish    new pages become frames
 *   replace    swap the PTEs of the others, flush once; what is left alone may be
 *              written to as before
 *
 * The invariant from protect on: the content of a candidate cannot change as
 * long as we hold its folio lock and a reference.  Every mapping of it is
 * read-only, it is not exclusive to anybody, nobody has it pinned, no TLB (of a
 * CPU or of a guest) has a writable entry.  A write fault on an anonymous page
 * that is not exclusive may reuse it only after it got the folio lock, which it
 * only tries; so it copies.  Then our PTE has changed, and replace leaves it
 * alone.
 *
 * All folio locks are only tried, so their order does not matter.
 */
#include <linux/highmem.h>
#include <linux/huge_mm.h>
#include <linux/hugetlb.h>
#include <linux/ksm.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/mmu_notifier.h>
#include <linux/pagemap.h>
#include <linux/rmap.h>
#include <linux/slab.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <asm/tlbflush.h>

#include "../internal.h"
#include "internal.h"

#define CREATE_TRACE_POINTS
#include <trace/events/dksm.h>

bool dksm_use_zero_pages = true;

/*
 * Pages that may lie unpublished between two of one extent: a node is smaller
 * than the maps that another extent would cost.
 */
#define EXTENT_GAP_MAX	16

/**
 * enum slot_state - how far a page of the batch has come
 * @SLOT_EMPTY:		nothing here that counts
 * @SLOT_TAKEN:		referenced and locked
 * @SLOT_CLEARED:	(within a page table lock) PTE cleared
 * @SLOT_PROTECTED:	its content cannot change
 * @SLOT_NEW:		no frame is equal
 * @SLOT_EQUAL:		@frame is equal, and referenced
 * @SLOT_ZERO:		all bytes are zero
 * @SLOT_MERGED:	done: maps @frame
 * @SLOT_PUBLISHED:	done: is a frame now
 * @SLOT_ZEROED:	done: maps the zero page
 * @SLOT_SKIPPED:	left alone; add enum dksm_skip
 */
enum slot_state {
	SLOT_EMPTY,
	SLOT_TAKEN,
	SLOT_CLEARED,
	SLOT_PROTECTED,
	SLOT_NEW,
	SLOT_EQUAL,
	SLOT_ZERO,
	SLOT_MERGED,
	SLOT_PUBLISHED,
	SLOT_ZEROED,
	SLOT_SKIPPED,
};

/**
 * struct slot - one page of the batch
 * @folio:	referenced and locked, or NULL
 * @frame:	referenced, in SLOT_EQUAL; the mapping's in SLOT_MERGED
 * @hash:	of the content, in SLOT_NEW; 0 if it was not needed before
 * @pte:	what the PTE was before it was cleared
 * @state:	&enum slot_state and the reason
 * @alone:	it was protected, and nobody else mapped the folio then
 * @writable:	the PTE allowed writing before it was protected first
 * @fresh:	@frame is a copy of @folio
 * @was_huge:	was part of a large folio when the batch began
 */
struct slot {
	struct folio *folio;
	struct folio *frame;
	u64 hash;
	pte_t pte;
	u8 state;
	bool alone;
	bool writable;
	bool fresh;
	bool was_huge;
};

/**
 * struct dksm_batch - the pages of one page table on their way
 * @member:	of the mm
 * @report:	where the outcome is counted
 * @flags:	DKSM_BATCH_*
 * @only:	slots to look at, or NULL for all
 * @vma:	where the pages are; mmap_lock is held for read
 * @pmd:	their page table
 * @start:	address of the first slot
 * @nr:		number of slots
 * @drained:	the per-CPU lists that hold references were drained once
 * @unsettled:	some page had more references than expected
 * @lo:		first slot whose PTE is about to change
 * @hi:		after the last one
 * @hint:	node of the last match, in an extent held by that match
 * @hint_nr:	its slot
 * @open:	the extent in which pages are published, or NULL
 * @open_index:	page offset of its first node
 * @open_used:	its nodes that are taken, or were passed
 * @slots:	the pages
 */
struct dksm_batch {
	struct dksm_mm *member;
	struct dksm_report *report;
	unsigned int flags;
	const unsigned long *only;
	struct vm_area_struct *vma;
	pmd_t *pmd;
	unsigned long start;
	unsigned int nr;
	bool drained;
	bool unsettled;
	struct slot *lo;
	struct slot *hi;
	struct dksm_node *hint;
	unsigned int hint_nr;
	struct dksm_extent *open;
	pgoff_t open_index;
	u32 open_used;
	struct slot slots[PTRS_PER_PTE];
};

static unsigned long slot_address(struct dksm_batch *b, struct slot *slot)
{
	return b->start + (slot - b->slots) * PAGE_SIZE;
}

static struct slot *slots_end(struct dksm_batch *b)
{
	return b->slots + b->nr;
}

static bool slot_is_wanted(struct dksm_batch *b, struct slot *slot)
{
	return !b->only || test_bit(slot - b->slots, b->only);
}

/* Find the slots for which @in is true; false if there are none. */
static bool batch_span(struct dksm_batch *b, bool (*in)(struct slot *slot))
{
	struct slot *slot;

	b->lo = NULL;
	for (slot = b->slots; slot < slots_end(b); slot++) {
		if (!in(slot))
			continue;
		if (!b->lo)
			b->lo = slot;
		b->hi = slot + 1;
	}
	return b->lo;
}

static void slot_skip(struct slot *slot, enum dksm_skip reason)
{
	slot->state = SLOT_SKIPPED + reason;
}

static void slot_fail(struct slot *slot, int err)
{
	slot_skip(slot, err == -EAGAIN ? DKSM_SKIP_BUSY : DKSM_SKIP_NOMEM);
}

/* Done with the folio itself; a mapping of it may live on. */
static void slot_release(struct slot *slot)
{
	if (!slot->folio)
		return;
	folio_unlock(slot->folio);
	folio_put(slot->folio);
	slot->folio = NULL;
}

static void slot_drop_frame(struct slot *slot)
{
	folio_put(slot->frame);
	slot->frame = NULL;
}

/*
 * Large folios.  The reference count of a folio of KSM's kind is that of one
 * page, so a large folio has to be split before any page of it can be merged.
 */

/*
 * If the PMD maps a huge page, return it with a reference.  Why the pages there
 * cannot be merged, should it not be split, is in @reason.
 */
static struct folio *batch_huge_folio(struct dksm_batch *b, int *reason)
{
	struct folio *folio = NULL;
	spinlock_t *ptl;	/* of the page table */

	*reason = DKSM_SKIP_NR;
	ptl = pmd_trans_huge_lock(b->pmd, b->vma);
	if (!ptl)
		return NULL;
	if (!pmd_present(*b->pmd)) {
		*reason = DKSM_SKIP_BUSY;	/* migrating */
	} else if (!is_huge_zero_pmd(*b->pmd)) {
		folio = pmd_folio(*b->pmd);
		folio_get(folio);
		*reason = folio_test_anon(folio) ? DKSM_SKIP_HUGE :
						   DKSM_SKIP_FILE;
	}
	spin_unlock(ptl);
	return folio;
}

static struct folio *pte_large_folio(struct vm_area_struct *vma,
				     unsigned long address, pte_t pte)
{
	struct page *page = pte_present(pte) ?
			    vm_normal_page(vma, address, pte) : NULL;

	return page && PageCompound(page) ? page_folio(page) : NULL;
}

/*
 * The next large folio that the page table maps from @next on, other than
 * @failed, with a reference; marks its pages and moves @next to the first.
 */
static struct folio *batch_large_folio(struct dksm_batch *b, struct slot **next,
				       struct folio *failed)
{
	unsigned long address = slot_address(b, *next);
	struct folio *found = NULL, *folio;
	struct slot *slot = *next;
	pte_t *start, *ptep;
	spinlock_t *ptl;	/* of the page table */

	start = pte_offset_map_lock(b->vma->vm_mm, b->pmd, address, &ptl);
	if (!start)
		return NULL;
	ptep = start;
	for (; slot < slots_end(b); slot++, ptep++, address += PAGE_SIZE) {
		folio = pte_large_folio(b->vma, address, ptep_get(ptep));
		if (!folio || folio == failed || !folio_test_anon(folio))
			continue;
		if (!found && !slot_is_wanted(b, slot))
			continue;
		if (!found) {
			found = folio;
			folio_get(found);
			*next = slot;
		}
		slot->was_huge |= folio == found;
	}
	pte_unmap_unlock(start, ptl);
	return found;
}

static bool folio_split_locked(struct folio *folio)
{
	bool split;

	if (!folio_test_anon(folio) || !folio_trylock(folio))
		return false;
	split = !folio_test_large(folio) || !split_folio(folio);
	folio_unlock(folio);
	return split;
}

static bool batch_split_folio(struct dksm_batch *b, struct folio *folio)
{
	bool split = folio_split_locked(folio);

	if (split)
		dksm_count_split(b->member);
	else
		b->unsettled = true;
	return split;
}

static void batch_split_huge(struct dksm_batch *b)
{
	struct folio *folio;
	struct slot *slot;
	int reason;

	folio = batch_huge_folio(b, &reason);
	if (!folio)
		return;
	for (slot = b->slots; slot < slots_end(b); slot++)
		slot->was_huge = true;
	batch_split_folio(b, folio);
	folio_put(folio);
}

/*
 * Splitting lets the kernel's own code map zero-filled pages to the zero page;
 * batch_take() counts those as ours.
 */
static void batch_split(struct dksm_batch *b)
{
	struct folio *failed = NULL, *folio;
	struct slot *next = b->slots;

	batch_split_huge(b);
	while ((folio = batch_large_folio(b, &next, failed))) {
		if (!batch_split_folio(b, folio))
			failed = folio;		/* only to be compared */
		folio_put(folio);
		cond_resched();
	}
}

/* Take */

static void slot_take_absent(struct slot *slot, pte_t pte)
{
	swp_entry_t entry = pte_to_swp_entry(pte);

	if (!non_swap_entry(entry))
		slot_skip(slot, DKSM_SKIP_SWAPPED);
	else if (is_migration_entry(entry))
		slot_skip(slot, DKSM_SKIP_BUSY);
	else if (is_hwpoison_entry(entry))
		slot_skip(slot, DKSM_SKIP_POISONED);
	else if (is_poisoned_swp_entry(entry))
		slot_skip(slot, DKSM_SKIP_POISONED);
	else if (!is_pte_marker_entry(entry))
		slot_skip(slot, DKSM_SKIP_DEVICE);
}

/* Make a zero page that a split has just mapped one that unmerge finds. */
static void slot_take_zero(struct dksm_batch *b, struct slot *slot,
			   pte_t *ptep, pte_t pte)
{
	struct mm_struct *mm = b->vma->vm_mm;
	pte_t new = pte_mkdirty(pte);

	if (!slot->was_huge || !is_zero_pfn(pte_pfn(pte)) || pte_dirty(pte))
		return;
	if (!pte_soft_dirty(pte))
		new = pte_clear_soft_dirty(new);
	set_pte_at(mm, slot_address(b, slot), ptep, new);
	ksm_map_zero_page(mm);
	slot->state = SLOT_ZEROED;
}

/* Why this page can never be a candidate, or DKSM_SKIP_NR. */
static enum dksm_skip page_skip_reason(struct page *page)
{
	struct folio *folio = page_folio(page);

	if (folio_is_zone_device(folio))
		return DKSM_SKIP_DEVICE;
	if (!folio_test_anon(folio))
		return DKSM_SKIP_FILE;
	if (folio_test_dksm(folio))
		return DKSM_SKIP_ALREADY;
	if (folio_test_ksm(folio))
		return DKSM_SKIP_KSM;
	if (PageHWPoison(page))
		return DKSM_SKIP_POISONED;
	if (folio_test_large(folio))
		return DKSM_SKIP_HUGE;
	return DKSM_SKIP_NR;
}

/*
 * The page is asked again once its lock is ours: it may have become a frame, or
 * one of KSM's, in between.
 */
static void slot_take_page(struct slot *slot, struct page *page)
{
	struct folio *folio = page_folio(page);
	enum dksm_skip reason = page_skip_reason(page);

	if (reason != DKSM_SKIP_NR) {
		slot_skip(slot, reason);
		return;
	}
	if (!folio_trylock(folio)) {
		slot_skip(slot, DKSM_SKIP_BUSY);
		return;
	}
	reason = page_skip_reason(page);
	if (reason != DKSM_SKIP_NR) {
		folio_unlock(folio);
		slot_skip(slot, reason);
		return;
	}
	folio_get(folio);
	slot->folio = folio;
	slot->state = SLOT_TAKEN;
}

static bool slot_is_taken(struct slot *slot)
{
	return slot->state == SLOT_TAKEN;
}

static void slot_take(struct dksm_batch *b, struct slot *slot, pte_t *ptep)
{
	pte_t pte = ptep_get(ptep);
	struct page *page;

	if (pte_none(pte))
		return;
	if (!pte_present(pte)) {
		if (slot_is_wanted(b, slot))
			slot_take_absent(slot, pte);
		return;
	}
	page = vm_normal_page(b->vma, slot_address(b, slot), pte);
	if (!page)
		slot_take_zero(b, slot, ptep, pte);
	else if (slot_is_wanted(b, slot))
		slot_take_page(slot, page);
}

/* No page table: a huge page that could not be split, or nothing. */
static void batch_take_huge(struct dksm_batch *b)
{
	struct folio *folio;
	struct slot *slot;
	int reason;

	folio = batch_huge_folio(b, &reason);
	if (folio)
		folio_put(folio);
	if (reason == DKSM_SKIP_NR)
		return;
	for (slot = b->slots; slot < slots_end(b); slot++)
		if (slot_is_wanted(b, slot))
			slot_skip(slot, reason);
}

static void batch_take(struct dksm_batch *b)
{
	pte_t *start, *ptep;
	struct slot *slot;
	spinlock_t *ptl;	/* of the page table */

	start = pte_offset_map_lock(b->vma->vm_mm, b->pmd, b->start, &ptl);
	if (!start) {
		batch_take_huge(b);
		return;
	}
	ptep = start;
	for (slot = b->slots; slot < slots_end(b); slot++, ptep++)
		if (slot->state == SLOT_EMPTY)
			slot_take(b, slot, ptep);
	pte_unmap_unlock(start, ptl);
}

/* Protect and replace: two passes over the PTEs with one flush between. */

/*
 * The PTE maps the folio we hold and nobody can have written to it since it was
 * protected: it could have become writable only under the folio lock.
 */
static bool slot_maps(struct slot *slot, pte_t pte)
{
	return pte_present(pte) && pte_pfn(pte) == folio_pfn(slot->folio);
}

static void slot_clear(struct dksm_batch *b, struct slot *slot, pte_t *ptep)
{
	slot->pte = ptep_get_and_clear(b->vma->vm_mm, slot_address(b, slot),
				       ptep);
}

/*
 * The PTE is clear and flushed.  What GUP-fast took before is in the reference
 * count, what it takes now it gives back because the PTE has changed: so the
 * count is exact.  See write_protect_page() in mm/ksm.c.
 */
static bool slot_is_pinned(struct slot *slot)
{
	struct folio *folio = slot->folio;
	int expected = 1 + folio_mapcount(folio) + folio_test_swapcache(folio);

	return folio_ref_count(folio) != expected ||
	       (PageAnonExclusive(&folio->page) &&
		folio_try_share_anon_rmap_pte(folio, &folio->page));
}

static pte_t slot_protect(struct dksm_batch *b, struct slot *slot)
{
	if (slot_is_pinned(slot)) {
		slot_skip(slot, folio_maybe_dma_pinned(slot->folio) ?
				DKSM_SKIP_PINNED : DKSM_SKIP_BUSY);
		b->unsettled = true;
		return slot->pte;
	}
	slot->state = SLOT_PROTECTED;
	slot->alone = folio_mapcount(slot->folio) == 1;
	return pte_wrprotect(slot->pte);
}

static void batch_protect_locked(struct dksm_batch *b, pte_t *start)
{
	struct mm_struct *mm = b->vma->vm_mm;
	pte_t *ptep = start;
	struct slot *slot;

	for (slot = b->lo; slot < b->hi; slot++, ptep++) {
		if (slot->state != SLOT_TAKEN)
			continue;
		if (slot_maps(slot, ptep_get(ptep))) {
			slot_clear(b, slot, ptep);
			slot->writable |= pte_write(slot->pte);
			slot->state = SLOT_CLEARED;
		} else {
			slot_skip(slot, DKSM_SKIP_BUSY);
		}
	}
	flush_tlb_range(b->vma, slot_address(b, b->lo), slot_address(b, b->hi));
	ptep = start;
	for (slot = b->lo; slot < b->hi; slot++, ptep++)
		if (slot->state == SLOT_CLEARED)
			set_pte_at(mm, slot_address(b, slot), ptep,
				   slot_protect(b, slot));
}

/*
 * The PTE that shares: what the mapping allows, less the right to write.  Dirty:
 * should another owner have advised MADV_FREE, reclaim must not drop the frame
 * for us, too; and a dirty zero page is how is_ksm_zero_pte() knows it.
 */
static pte_t slot_new_pte(struct dksm_batch *b, struct slot *slot)
{
	struct vm_area_struct *vma = b->vma;
	pte_t pte;

	if (slot->frame) {
		pte = mk_pte(&slot->frame->page, vma->vm_page_prot);
	} else {
		pte = pfn_pte(my_zero_pfn(slot_address(b, slot)),
			      vma->vm_page_prot);
		pte = pte_mkspecial(pte);
	}
	pte = pte_mkdirty(pte);
	if (pte_uffd_wp(slot->pte))
		pte = pte_mkuffd_wp(pte);
	return pte_soft_dirty(slot->pte) ? pte_mksoft_dirty(pte) :
					   pte_clear_soft_dirty(pte);
}

/*
 * The frame's reference becomes the mapping's.  The old page loses its mapping
 * here and the mapping's reference in batch_settle(), after the flush.
 */
static void slot_replace(struct dksm_batch *b, struct slot *slot, pte_t *ptep)
{
	unsigned long address = slot_address(b, slot);
	struct vm_area_struct *vma = b->vma;
	struct mm_struct *mm = vma->vm_mm;

	if (slot->frame) {
		folio_add_anon_rmap_pte(slot->frame, &slot->frame->page, vma,
					address, RMAP_NONE);
	} else {
		ksm_map_zero_page(mm);
		dec_mm_counter(mm, MM_ANONPAGES);
	}
	set_pte_at(mm, address, ptep, slot_new_pte(b, slot));
	folio_remove_rmap_pte(slot->folio, &slot->folio->page, vma);
	if (!folio_mapped(slot->folio))
		folio_free_swap(slot->folio);
	slot->state = slot->frame ? SLOT_MERGED : SLOT_ZEROED;
}

/*
 * A memory error may have been found on a page since it was compared.  Poison
 * is set before the reverse map is walked, and the walk takes the page table
 * lock: so either it is seen here, or the walk will see what is mapped here.
 */
static bool slot_may_replace(struct slot *slot, pte_t pte)
{
	return slot_maps(slot, pte) && !WARN_ON_ONCE(pte_write(pte)) &&
	       !folio_test_hwpoison(slot->folio) &&
	       !(slot->frame && folio_test_hwpoison(slot->frame));
}

/*
 * Protected in vain, since it is volatile, or something failed.  A page that has
 * become a frame is not held any more.
 */
static bool slot_is_spared(struct slot *slot)
{
	return slot->state >= SLOT_SKIPPED && slot->folio && slot->alone;
}

/*
 * Let it be written to without a fault, as before.  That is what a write fault
 * would do, and the conditions are those of wp_can_reuse_anon_folio(): the page
 * is only ours, and nobody has got a reference for reading since.
 */
static void slot_give_back(struct dksm_batch *b, struct slot *slot, pte_t *ptep)
{
	unsigned long address = slot_address(b, slot);
	struct folio *folio = slot->folio;
	pte_t pte = ptep_get(ptep);

	if (!slot_maps(slot, pte) || pte_write(pte) || !slot->writable ||
	    folio_mapcount(folio) != 1 ||
	    folio_ref_count(folio) != 2 + folio_test_swapcache(folio))
		return;
	SetPageAnonExclusive(&folio->page);
	if (can_change_pte_writable(b->vma, address, pte) &&
	    ptep_set_access_flags(b->vma, address, ptep,
				  pte_mkwrite(pte, b->vma), 1))
		update_mmu_cache(b->vma, address, ptep);
}

static bool slot_is_decided(struct slot *slot)
{
	return slot->state == SLOT_EQUAL || slot->state == SLOT_ZERO ||
	       slot_is_spared(slot);
}

static void batch_replace_locked(struct dksm_batch *b, pte_t *start)
{
	pte_t *ptep = start;
	struct slot *slot;

	for (slot = b->lo; slot < b->hi; slot++, ptep++) {
		if (slot_is_spared(slot))
			slot_give_back(b, slot, ptep);
		if (slot->state != SLOT_EQUAL && slot->state != SLOT_ZERO)
			continue;
		if (slot_may_replace(slot, ptep_get(ptep))) {
			slot_clear(b, slot, ptep);
			slot->state = SLOT_CLEARED;
		} else {
			slot_skip(slot, DKSM_SKIP_BUSY);
		}
	}
	flush_tlb_range(b->vma, slot_address(b, b->lo), slot_address(b, b->hi));
	ptep = start;
	for (slot = b->lo; slot < b->hi; slot++, ptep++)
		if (slot->state == SLOT_CLEARED)
			slot_replace(b, slot, ptep);
}

/* Run @locked on the span, with page table lock, the secondary MMUs told. */
static void batch_change_ptes(struct dksm_batch *b,
			      void (*locked)(struct dksm_batch *b, pte_t *start))
{
	unsigned long start = slot_address(b, b->lo);
	unsigned long end = slot_address(b, b->hi);
	struct mm_struct *mm = b->vma->vm_mm;
	struct mmu_notifier_range range;
	spinlock_t *ptl;	/* of the page table */
	pte_t *ptep;

	mmu_notifier_range_init(&range, MMU_NOTIFY_CLEAR, 0, mm, start, end);
	mmu_notifier_invalidate_range_start(&range);
	ptep = pte_offset_map_lock(mm, b->pmd, start, &ptl);
	if (ptep) {
		flush_cache_range(b->vma, start, end);
		locked(b, ptep);
		pte_unmap_unlock(ptep, ptl);
	}
	mmu_notifier_invalidate_range_end(&range);
}

/* Classify */

static bool slot_is_zero(struct dksm_batch *b, struct slot *slot)
{
	return READ_ONCE(dksm_use_zero_pages) &&
	       !mm_forbids_zeropage(b->vma->vm_mm) &&
	       dksm_pages_equal(&slot->folio->page, ZERO_PAGE(0));
}

/*
 * Images are runs of pages: after page i was equal to node j, page i + 1 is
 * compared with node j + 1 before anything is hashed.  The frame of node j is
 * referenced by an earlier slot, and holds the extent.
 */
static struct folio *slot_predict(struct dksm_batch *b, struct slot *slot)
{
	unsigned int nr = slot - b->slots;
	struct dksm_extent *extent;
	struct folio *frame;
	u32 pos;

	if (!b->hint)
		return NULL;
	extent = dksm_node_extent(b->hint);
	pos = b->hint->pos + (nr - b->hint_nr);
	if (pos >= extent->nr)
		return NULL;
	frame = dksm_frame_match(&extent->nodes[pos], slot->folio);
	return IS_ERR(frame) ? NULL : frame;	/* the index will wait */
}

static void slot_equals(struct dksm_batch *b, struct slot *slot,
			struct folio *frame)
{
	slot->frame = frame;
	slot->state = SLOT_EQUAL;
	b->hint = dksm_folio_node(frame);
	b->hint_nr = slot - b->slots;
	if (!slot->fresh)
		dksm_learn_share(b->hint);
}

static bool batch_waits(struct dksm_batch *b)
{
	return !(b->flags & DKSM_BATCH_QUICK);
}

/* Others wrote to such a page soon after they had it: not worth a copy. */
static bool batch_spares(struct dksm_batch *b, u64 key)
{
	return b->flags & DKSM_BATCH_LEARN &&
	       dksm_learned_spares(b->member->domain, key);
}

static bool slot_is_volatile(struct dksm_batch *b, struct slot *slot,
			     struct folio *frame)
{
	u64 hash = frame ? dksm_folio_node(frame)->hash : slot->hash;

	return batch_spares(b, dksm_learn_content(hash));
}

static bool slot_is_volatile_zero(struct dksm_batch *b, struct slot *slot)
{
	return batch_spares(b, dksm_learn_place(b->member->domain, b->vma,
						slot_address(b, slot)));
}

static void slot_classify(struct dksm_batch *b, struct slot *slot)
{
	struct folio *frame;

	if (slot_is_zero(b, slot)) {
		if (slot_is_volatile_zero(b, slot))
			slot_skip(slot, DKSM_SKIP_LEARNED);
		else
			slot->state = SLOT_ZERO;
		return;
	}
	frame = slot_predict(b, slot);
	if (!frame) {
		slot->hash = dksm_page_hash(b->member->domain,
					    &slot->folio->page);
		frame = dksm_frame_find(b->member->domain, slot->hash,
					slot->folio, batch_waits(b));
	}
	if (IS_ERR(frame)) {
		slot_skip(slot, DKSM_SKIP_BUSY);
	} else if (slot_is_volatile(b, slot, frame)) {
		if (frame)
			folio_put(frame);
		slot_skip(slot, DKSM_SKIP_LEARNED);
	} else if (frame) {
		slot_equals(b, slot, frame);
	} else {
		slot->state = SLOT_NEW;
	}
}

static void batch_classify(struct dksm_batch *b)
{
	struct slot *slot;

	for (slot = b->slots; slot < slots_end(b); slot++) {
		if (slot->state != SLOT_PROTECTED)
			continue;
		slot_classify(b, slot);
		cond_resched();
	}
}

/* Publish */

static void slot_published(struct dksm_batch *b, struct slot *slot)
{
	trace_dksm_publish(b->vma->vm_mm, slot_address(b, slot),
			   folio_pfn(slot->folio));
	slot->state = SLOT_PUBLISHED;
	/* At once: our reference would count against the cap. */
	slot_release(slot);
}

/*
 * A new folio with the content of the slot's, on the same node if that matters or
 * there is room; locked, nobody knows it.
 */
static struct folio *slot_copy(struct dksm_batch *b, struct slot *slot)
{
	const gfp_t gfp = __GFP_NORETRY | __GFP_NOWARN |
		(READ_ONCE(dksm_merge_across_nodes) ? 0 : __GFP_THISNODE);
	const gfp_t less = batch_waits(b) ? 0 : __GFP_DIRECT_RECLAIM;
	struct folio *copy;

	copy = __folio_alloc_node((GFP_HIGHUSER_MOVABLE | gfp) & ~less, 0,
				  folio_nid(slot->folio));
	if (!copy)
		return NULL;
	if (mem_cgroup_charge(copy, b->vma->vm_mm, (GFP_KERNEL | gfp) & ~less) ||
	    copy_mc_user_highpage(&copy->page, &slot->folio->page,
				  slot_address(b, slot), b->vma)) {
		folio_put(copy);
		return NULL;
	}
	__folio_mark_uptodate(copy);
	__folio_set_swapbacked(copy);
	__folio_set_locked(copy);
	return copy;
}

/* A copy becomes the frame, and replaces our page as any other would. */
static int slot_publish_copy(struct dksm_batch *b, struct slot *slot,
			     struct dksm_node *node, struct folio **frame)
{
	struct folio *copy = slot_copy(b, slot);
	int err;

	if (!copy)
		return -ENOMEM;
	err = dksm_frame_publish(node, copy, slot->hash, frame);
	folio_unlock(copy);
	if (err || *frame) {
		folio_put(copy);
		return err;
	}
	folio_add_lru(copy);
	slot->fresh = true;
	*frame = copy;
	return 0;
}

/*
 * Look again first: an equal page may have been published since, by another
 * process or by an earlier slot of this batch.
 *
 * A process outside the domain that shares the page since a fork must not map a
 * frame.
 */
static int slot_try_publish(struct dksm_batch *b, struct slot *slot,
			    struct dksm_node *node, struct folio **frame)
{
	struct dksm_domain *domain = b->member->domain;

	*frame = dksm_frame_find(domain, slot->hash, slot->folio,
				 batch_waits(b));
	if (*frame)
		return PTR_ERR_OR_ZERO(*frame);
	if (!slot->alone && !batch_waits(b))
		return -EAGAIN;		/* to look and to copy may take a while */
	if (domain->fresh_frames ||
	    (!slot->alone && dksm_folio_is_foreign(slot->folio, domain)))
		return slot_publish_copy(b, slot, node, frame);
	return dksm_frame_publish(node, slot->folio, slot->hash, frame);
}

static void slot_publish(struct dksm_batch *b, struct slot *slot,
			 struct dksm_node *node)
{
	struct folio *frame;
	int err;

	err = slot_try_publish(b, slot, node, &frame);
	/* Another one is publishing it just now: look, and wait, again. */
	if (err == -EAGAIN && batch_waits(b))
		err = slot_try_publish(b, slot, node, &frame);
	if (err)
		slot_fail(slot, err);
	else if (frame)
		slot_equals(b, slot, frame);
	else
		slot_published(b, slot);
}

static bool slot_repeats(struct dksm_batch *b, struct slot *slot)
{
	return slot > b->slots && slot->hash == slot[-1].hash;
}

/* Padding: the page before had the same content, and found or became a frame. */
static bool slot_follows(struct dksm_batch *b, struct slot *slot)
{
	struct folio *frame;

	if (!slot_repeats(b, slot))
		return false;
	frame = dksm_frame_find(b->member->domain, slot->hash, slot->folio,
				batch_waits(b));
	if (IS_ERR(frame))
		slot_fail(slot, PTR_ERR(frame));
	else if (frame)
		slot_equals(b, slot, frame);
	return frame;
}

/* The reverse map of a page to be published is that of the anonymous folio. */
static bool slot_continues(struct slot *first, struct slot *slot)
{
	return slot->folio->mapping == first->folio->mapping &&
	       slot->folio->index - first->folio->index == slot - first;
}

/* The last slot of the run of new pages that begins at @first. */
static struct slot *batch_run_end(struct dksm_batch *b, struct slot *first)
{
	struct slot *end = min(b->slots + b->nr, first + DKSM_EXTENT_MAX);
	struct slot *last = first, *slot;

	for (slot = first + 1; slot < end; slot++) {
		if (slot - last > EXTENT_GAP_MAX)
			break;
		if (slot->state != SLOT_NEW)
			continue;
		if (!slot_continues(first, slot))
			break;
		/* Those at the end need no node, it seems. */
		if (!slot_repeats(b, slot))
			last = slot;
	}
	return last;
}

static void batch_close_extent(struct dksm_batch *b)
{
	if (b->open)
		dksm_extent_built(b->open);
	b->open = NULL;
}

/*
 * The node for a page, with @nr - 1 more behind it; or NULL.  Idle steps come a
 * few pages at a time, in order, so their extents stay open: the next step goes
 * on in the same one, or in a new one of twice the size.  No node is used twice,
 * since readers of the index may still be at it.
 */
static struct dksm_node *batch_nodes(struct dksm_batch *b, pgoff_t index,
				     u32 nr)
{
	pgoff_t pos = index - b->open_index;
	u32 size = nr;

	if (b->open && pos >= b->open_used &&
	    pos < b->open->nr + EXTENT_GAP_MAX) {
		if (pos + nr <= b->open->nr)
			goto found;
		size = max(nr, dksm_extent_doubled(b->open));
	}
	batch_close_extent(b);
	b->open = dksm_extent_alloc(b->member->domain, size,
				    batch_waits(b));
	b->open_index = index;
	pos = 0;
found:
	b->open_used = pos + nr;
	return b->open ? &b->open->nodes[pos] : NULL;
}

static int batch_map_add(struct dksm_batch *b, struct dksm_node *node,
			 const struct dksm_map *want)
{
	return dksm_map_add(b->member, dksm_node_extent(node), want,
			    batch_waits(b));
}

static void batch_publish_run(struct dksm_batch *b, struct slot *first,
			      struct slot *last)
{
	pgoff_t index = first->folio->index;
	u32 nr = last - first + 1;
	struct dksm_node *node = batch_nodes(b, index, nr);
	struct slot *slot;
	int err = -ENOMEM;

	if (node)
		err = batch_map_add(b, node, &(struct dksm_map) {
			.anon_vma = folio_anon_vma(first->folio),
			.delta = index - node->pos,
			.first = node->pos,
			.last = node->pos + nr - 1,
		});
	for (slot = first; slot <= last; slot++) {
		if (slot->state != SLOT_NEW)
			continue;
		if (err)
			slot_fail(slot, err);
		else
			slot_publish(b, slot, node + (slot - first));
		cond_resched();
	}
	if (batch_waits(b))
		batch_close_extent(b);
}

static void batch_publish(struct dksm_batch *b)
{
	struct slot *slot, *last;

	for (slot = b->slots; slot < slots_end(b); slot++) {
		if (slot->state != SLOT_NEW)
			continue;
		if (b->flags & DKSM_BATCH_JOIN) {
			slot_skip(slot, DKSM_SKIP_BUSY);
			continue;
		}
		if (slot_follows(b, slot))
			continue;
		last = batch_run_end(b, slot);
		batch_publish_run(b, slot, last);
		slot = last;
	}
}

/* Map: the reverse map comes before the page table entries. */

static unsigned long slot_delta(struct dksm_batch *b, struct slot *slot)
{
	return linear_page_index(b->vma, slot_address(b, slot)) -
	       dksm_folio_node(slot->frame)->pos;
}

/* Does one map do for the slots from @first to @last and for @slot? */
static bool slots_share_map(struct dksm_batch *b, struct slot *first,
			    struct slot *last, struct slot *slot)
{
	/* One frame, again and again. */
	if (slot->frame == first->frame)
		return last->frame == first->frame && slot - last == 1;
	return (last == first || last->frame != first->frame) &&
	       dksm_node_extent(dksm_folio_node(slot->frame)) ==
	       dksm_node_extent(dksm_folio_node(first->frame)) &&
	       slot_delta(b, slot) == slot_delta(b, first);
}

static void batch_map_run(struct dksm_batch *b, struct slot *first,
			  struct slot *last)
{
	struct dksm_node *node = dksm_folio_node(first->frame);
	struct slot *slot;
	int err;

	err = batch_map_add(b, node, &(struct dksm_map) {
		.anon_vma = b->vma->anon_vma,
		.delta = slot_delta(b, first),
		.first = node->pos,
		.last = dksm_folio_node(last->frame)->pos,
		.spread = last->frame == first->frame ? last - first : 0,
	});
	if (!err)
		return;
	for (slot = first; slot <= last; slot++)
		if (slot->state == SLOT_EQUAL)
			slot_fail(slot, err);
}

static void batch_map(struct dksm_batch *b)
{
	struct slot *first = NULL, *last = NULL, *slot;

	for (slot = b->slots; slot < slots_end(b); slot++) {
		if (slot->state != SLOT_EQUAL)
			continue;
		if (first && !slots_share_map(b, first, last, slot)) {
			batch_map_run(b, first, last);
			first = NULL;
		}
		if (!first)
			first = slot;
		last = slot;
	}
	if (first)
		batch_map_run(b, first, last);
}

/* The end: count, and give back what was taken. */

static void slot_settle(struct dksm_batch *b, struct slot *slot)
{
	struct dksm_report *report = b->report;
	struct mm_struct *mm = b->vma->vm_mm;

	report->scanned++;
	switch (slot->state) {
	case SLOT_MERGED:
		report->merged += !slot->fresh;
		report->published += slot->fresh;
		trace_dksm_share(mm, slot_address(b, slot),
				 folio_pfn(slot->frame));
		break;
	case SLOT_PUBLISHED:
		report->published++;
		break;
	case SLOT_ZEROED:
		report->zero++;
		break;
	default:
		report->skipped[slot->state - SLOT_SKIPPED]++;
		trace_dksm_skip(mm, slot_address(b, slot),
				slot->state - SLOT_SKIPPED);
	}
}

static void batch_settle(struct dksm_batch *b)
{
	struct slot *slot;

	for (slot = b->slots; slot < slots_end(b); slot++) {
		if (slot->state == SLOT_EMPTY)
			continue;
		/* The page table went away below us, by a collapse. */
		if (slot->state < SLOT_MERGED)
			slot_skip(slot, DKSM_SKIP_BUSY);
		slot_settle(b, slot);
		if (slot->frame && slot->state != SLOT_MERGED)
			slot_drop_frame(slot);
		/* The reference of the mapping that was replaced. */
		if (slot->folio && slot->state < SLOT_SKIPPED)
			folio_put(slot->folio);
		slot_release(slot);
	}
}

/* Before it is prepared again; nothing was looked up yet. */
static void batch_reset(struct dksm_batch *b)
{
	struct slot *slot;

	for (slot = b->slots; slot < slots_end(b); slot++) {
		slot_release(slot);
		slot->alone = false;
		if (slot->state != SLOT_ZEROED)
			slot->state = SLOT_EMPTY;
	}
}

static void batch_prepare(struct dksm_batch *b)
{
	b->unsettled = false;
	batch_split(b);
	batch_take(b);
	if (batch_span(b, slot_is_taken))
		batch_change_ptes(b, batch_protect_locked);
}

/**
 * dksm_batch_merge - merge the pages of one page table
 * @batch: from dksm_batch_alloc()
 * @vma: of a kind that can be merged, with an anon_vma
 * @pmd: covers the range
 * @start: first address, in @vma
 * @end: end of the range, in @vma and below the same @pmd
 * @only: bitmap of the pages of the range to look at, or NULL for all
 *
 * Freshly faulted pages wait in per-CPU lists for the LRU, which hold
 * references.  If unexpected references are met for the first time in this
 * call, the lists are drained and the batch begins again (not with
 * DKSM_BATCH_QUICK, since that waits for every CPU).
 *
 * Context: mmap_lock held for read.  May sleep.
 */
void dksm_batch_merge(struct dksm_batch *batch, struct vm_area_struct *vma,
		      pmd_t *pmd, unsigned long start, unsigned long end,
		      const unsigned long *only)
{
	struct slot *slot;

	batch->only = only;
	batch->vma = vma;
	batch->pmd = pmd;
	batch->start = start;
	batch->nr = (end - start) >> PAGE_SHIFT;
	batch->hint = NULL;
	for (slot = batch->slots; slot < slots_end(batch); slot++)
		*slot = (struct slot) { };

	batch_prepare(batch);
	if (batch->unsettled && !batch->drained && batch_waits(batch)) {
		batch_reset(batch);
		lru_add_drain_all();
		batch->drained = true;
		batch_prepare(batch);
	}
	batch_classify(batch);
	batch_publish(batch);
	batch_map(batch);
	if (batch_span(batch, slot_is_decided))
		batch_change_ptes(batch, batch_replace_locked);
	batch_settle(batch);
}

/**
 * dksm_batch_alloc - prepare for merging
 * @flags: DKSM_BATCH_*
 *
 * Return: a batch for dksm_batch_begin(), to be freed by dksm_batch_free(); or
 * NULL.
 */
struct dksm_batch *dksm_batch_alloc(unsigned int flags)
{
	struct dksm_batch *batch;

	/* Of several pages: without waiting at all, it might fail for long. */
	batch = kvzalloc(sizeof(*batch), flags & DKSM_BATCH_QUICK ?
					 DKSM_GFP : GFP_KERNEL_ACCOUNT);

	if (batch)
		batch->flags = flags;
	return batch;
}

/**
 * dksm_batch_begin - say whose pages come now
 * @batch: from dksm_batch_alloc()
 * @member: of the mm to be merged
 * @report: where to count
 */
void dksm_batch_begin(struct dksm_batch *batch, struct dksm_mm *member,
		      struct dksm_report *report)
{
	batch->member = member;
	batch->report = report;
	lru_add_drain();
}

void dksm_batch_free(struct dksm_batch *batch)
{
	if (batch)
		batch_close_extent(batch);
	kvfree(batch);
}
