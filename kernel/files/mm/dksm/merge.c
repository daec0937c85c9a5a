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
#include <linux/ksm.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/rmap.h>
#include <linux/slab.h>
#include <linux/swap.h>
#include <linux/workqueue.h>

#include "../internal.h"
#include "batch.h"

#define CREATE_TRACE_POINTS
#include <trace/events/dksm.h>

bool dksm_use_zero_pages = true;

/*
 * Pages that may lie unpublished between two of one extent: a node is smaller
 * than the maps that another extent would cost.
 */
#define EXTENT_GAP_MAX	16

static bool slot_may_publish(struct dksm_batch *b, struct slot *slot)
{
	return !(b->flags & DKSM_BATCH_JOIN) &&
	       (!b->publish || test_bit(slot - b->slots, b->publish));
}

static void slot_fail(struct slot *slot, int err)
{
	slot_skip(slot, err == -EAGAIN ? DKSM_SKIP_BUSY : DKSM_SKIP_NOMEM);
}

static void slot_drop_frame(struct slot *slot)
{
	folio_put(slot->frame);
	slot->frame = NULL;
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

/* Leave what is new, and should not have been, or was not known to be. */
static void batch_publish_not(struct dksm_batch *b)
{
	struct slot *slot;

	for (slot = b->slots; slot < slots_end(b); slot++) {
		if (slot->state != SLOT_NEW || slot_may_publish(b, slot))
			continue;
		/* It was predicted to be something else: not yet a candidate. */
		if (b->publish)
			dksm_candidate_twin(b->member->domain, slot->hash,
					    folio_pfn(slot->folio), 0);
		slot_skip(slot, b->publish ? DKSM_SKIP_ALONE : DKSM_SKIP_BUSY);
	}
}

static void batch_publish(struct dksm_batch *b)
{
	struct slot *slot, *last;

	batch_publish_not(b);
	for (slot = b->slots; slot < slots_end(b); slot++) {
		if (slot->state != SLOT_NEW)
			continue;
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

/* Nothing was looked up yet; zero pages that a split has left are counted. */
static void batch_reset(struct dksm_batch *b)
{
	struct slot *slot;

	for (slot = b->slots; slot < slots_end(b); slot++) {
		slot_release(slot);
		if (slot->state != SLOT_ZEROED)
			slot->state = SLOT_EMPTY;
	}
}

/**
 * dksm_batch_merge - merge the pages of one page table
 * @batch: from dksm_batch_alloc()
 * @vma: of a kind that can be merged, with an anon_vma
 * @pmd: covers the range
 * @start: first address, in @vma
 * @end: end of the range, in @vma and below the same @pmd
 * @only: bitmap of the pages of the range to look at, or NULL for all
 * @publish: bitmap of those that may be published, or NULL for all
 *
 * Freshly faulted pages wait in per-CPU lists for the LRU, which hold
 * references.  If unexpected references are met for the first time with
 * DKSM_BATCH_DRAIN, nothing is merged: dksm_batch_drain() comes next.
 *
 * Context: mmap_lock held for read.  May sleep.
 * Return: false if nothing was merged, and this is to be called again.
 */
bool dksm_batch_merge(struct dksm_batch *batch, struct vm_area_struct *vma,
		      pmd_t *pmd, unsigned long start, unsigned long end,
		      const unsigned long *only, const unsigned long *publish)
{
	struct slot *slot;

	batch->only = only;
	batch->publish = publish;
	batch->vma = vma;
	batch->pmd = pmd;
	batch->start = start;
	batch->nr = (end - start) >> PAGE_SHIFT;
	batch->hint = NULL;
	for (slot = batch->slots; slot < slots_end(batch); slot++)
		*slot = (struct slot) { };

	dksm_batch_prepare(batch);
	batch->drain = batch->unsettled && !batch->drained &&
		       batch->flags & DKSM_BATCH_DRAIN;
	if (batch->drain) {
		batch_reset(batch);
		batch_settle(batch);
		return false;
	}
	batch_classify(batch);
	batch_publish(batch);
	batch_map(batch);
	dksm_batch_replace(batch);
	batch_settle(batch);
	return true;
}

/**
 * dksm_batch_drain - have the lists drained, if a merge asked for it
 * @batch: after dksm_batch_merge()
 *
 * Context: process, no locks held: this waits for every CPU.
 */
void dksm_batch_drain(struct dksm_batch *batch)
{
	if (!batch->drain)
		return;
	lru_add_drain_all();
	batch->drain = false;
	batch->drained = true;
}

static void lru_drain(struct work_struct *work)
{
	lru_add_drain_all();
}

static DECLARE_WORK(lru_drain_work, lru_drain);

/**
 * dksm_drain_later - have the lists that hold references drained soon
 *
 * For those who must not wait: draining all of them waits for every CPU.
 */
void dksm_drain_later(void)
{
	schedule_work(&lru_drain_work);
}

/**
 * dksm_batch_alloc - prepare for merging
 * @gfp: as for kvmalloc()
 *
 * Return: a batch for dksm_batch_begin(), to be freed by dksm_batch_free(); or
 * NULL.
 */
struct dksm_batch *dksm_batch_alloc(gfp_t gfp)
{
	struct dksm_batch *batch = kvmalloc(sizeof(*batch), gfp);

	/* dksm_batch_merge() begins with the slots that it uses. */
	if (batch)
		memset(batch, 0, offsetof(struct dksm_batch, slots));
	return batch;
}

/**
 * dksm_batch_begin - say whose pages come now
 * @batch: from dksm_batch_alloc()
 * @member: of the mm to be merged
 * @report: where to count
 * @flags: DKSM_BATCH_*
 */
void dksm_batch_begin(struct dksm_batch *batch, struct dksm_mm *member,
		      struct dksm_report *report, unsigned int flags)
{
	batch->member = member;
	batch->report = report;
	batch->flags = flags;
	lru_add_drain();
}

void dksm_batch_free(struct dksm_batch *batch)
{
	if (batch)
		batch_close_extent(batch);
	kvfree(batch);
}
