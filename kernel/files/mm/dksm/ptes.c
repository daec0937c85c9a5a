// SPDX-License-Identifier: GPL-2.0
/*
 * What merging the pages of one page table does to the page table: split, take,
 * protect; and replace.  See merge.c.
 */
#include <linux/hugetlb.h>
#include <linux/ksm.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/mmu_notifier.h>
#include <linux/pagemap.h>
#include <linux/rmap.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <asm/tlbflush.h>

#include "../internal.h"
#include "batch.h"

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
			slot->writable = pte_write(slot->pte);
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

/**
 * dksm_batch_prepare - split, take and protect what is wanted
 * @b: the batch, with its slots empty
 *
 * Context: mmap_lock held for read.  May sleep.
 */
void dksm_batch_prepare(struct dksm_batch *b)
{
	b->unsettled = false;
	batch_split(b);
	batch_take(b);
	if (batch_span(b, slot_is_taken))
		batch_change_ptes(b, batch_protect_locked);
}

/**
 * dksm_batch_replace - change the entries of what is decided
 * @b: the batch; the reverse map of its frames covers all that are equal
 *
 * Context: mmap_lock held for read.  May sleep.
 */
void dksm_batch_replace(struct dksm_batch *b)
{
	if (batch_span(b, slot_is_decided))
		batch_change_ptes(b, batch_replace_locked);
}
