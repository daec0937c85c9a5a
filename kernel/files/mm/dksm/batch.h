/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A batch: the pages of one page table on their way.  merge.c decides what becomes
 * of each; ptes.c does what needs the page table.
 */
#ifndef _MM_DKSM_BATCH_H
#define _MM_DKSM_BATCH_H

#include <linux/mm.h>
#include <linux/pgtable.h>

#include "internal.h"

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
 * @writable:	the PTE allowed writing before it was protected
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
 * @publish:	slots that may be published, or NULL for all
 * @vma:	where the pages are; mmap_lock is held for read
 * @pmd:	their page table
 * @start:	address of the first slot
 * @nr:		number of slots
 * @drain:	the per-CPU lists that hold references are to be drained
 * @drained:	they were, once
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
	const unsigned long *publish;
	struct vm_area_struct *vma;
	pmd_t *pmd;
	unsigned long start;
	unsigned int nr;
	bool drain;
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

static inline unsigned long slot_address(struct dksm_batch *b, struct slot *slot)
{
	return b->start + (slot - b->slots) * PAGE_SIZE;
}

static inline struct slot *slots_end(struct dksm_batch *b)
{
	return b->slots + b->nr;
}

static inline bool slot_is_wanted(struct dksm_batch *b, struct slot *slot)
{
	return !b->only || test_bit(slot - b->slots, b->only);
}

static inline void slot_skip(struct slot *slot, enum dksm_skip reason)
{
	slot->state = SLOT_SKIPPED + reason;
}

/* Done with the folio itself; a mapping of it may live on. */
static inline void slot_release(struct slot *slot)
{
	if (!slot->folio)
		return;
	folio_unlock(slot->folio);
	folio_put(slot->folio);
	slot->folio = NULL;
}

/* ptes.c */
void dksm_batch_prepare(struct dksm_batch *b);
void dksm_batch_replace(struct dksm_batch *b);

#endif /* _MM_DKSM_BATCH_H */
