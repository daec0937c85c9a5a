// SPDX-License-Identifier: GPL-2.0
/*
 * Extents, their nodes, and the index that finds a node by content.
 *
 * A node holds no reference to its frame: the frame lives as long as somebody
 * maps it, and forgets its node when it is freed (__dksm_folio_free(), which
 * runs in any context).  So nodes are never stale for longer than an RCU
 * section, and nothing has to look for stale ones.
 *
 * Life of an extent: a live frame and an owned map hold it.  The last put may
 * come from the page-free path, so it only hands the extent to the reaper,
 * which frees it in process context after a grace period.
 */
#include <linux/ksm.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/rhashtable.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/workqueue.h>
#include <linux/xxhash.h>
#include <trace/events/dksm.h>

#include "internal.h"

unsigned int dksm_max_page_sharing = 256;
bool dksm_merge_across_nodes = true;

/* Most claims of an extent's maps, for each sharer that a frame may have. */
#define CLAIMS_PER_SHARER	4

static u32 index_hashfn(const void *key, u32 len, u32 seed)
{
	/* The key is a good hash already. */
	return (u32)*(const u64 *)key ^ seed;
}

static const struct rhashtable_params index_params = {
	.key_len = sizeof_field(struct dksm_node, hash),
	.key_offset = offsetof(struct dksm_node, hash),
	.head_offset = offsetof(struct dksm_node, index_node),
	.hashfn = index_hashfn,
	.automatic_shrinking = true,
};

int dksm_index_init(struct dksm_domain *domain)
{
	return rhashtable_init(&domain->index, &index_params);
}

static size_t extent_bytes(u32 nr)
{
	struct dksm_extent *extent;

	return kmalloc_size_roundup(struct_size(extent, nodes, nr));
}

/**
 * dksm_extent_doubled - length of an extent of twice as many bytes
 * @extent: any
 *
 * Return: number of nodes, DKSM_EXTENT_MAX at most.
 */
u32 dksm_extent_doubled(const struct dksm_extent *extent)
{
	size_t bytes = 2 * extent_bytes(extent->nr);

	return min((bytes - sizeof(*extent)) / sizeof(*extent->nodes),
		   (size_t)DKSM_EXTENT_MAX);
}

/**
 * dksm_extent_alloc - a new extent without frames
 * @domain: to which it belongs
 * @nr: number of nodes, 1 to DKSM_EXTENT_MAX
 * @wait: whether to wait for memory
 *
 * Return: the extent with one reference for the caller, who ends the building
 * with dksm_extent_built(); or NULL.
 */
struct dksm_extent *dksm_extent_alloc(struct dksm_domain *domain, u32 nr,
				      bool wait)
{
	struct dksm_extent *extent;
	u32 i;

	extent = kzalloc(struct_size(extent, nodes, nr),
			 wait ? DKSM_GFP : DKSM_GFP_QUICK);
	if (!extent)
		return NULL;

	refcount_set(&extent->refs, 1);
	atomic_set(&extent->live, 1);
	extent->nr = nr;
	init_rwsem(&extent->maps_lock);
	INIT_LIST_HEAD(&extent->maps);
	for (i = 0; i < nr; i++)
		extent->nodes[i].pos = i;

	dksm_domain_get(domain);
	extent->domain = domain;
	atomic_long_add(extent_bytes(nr), &domain->metadata);
	spin_lock_irq(&domain->lock);
	list_add_tail_rcu(&extent->list, &domain->extents);
	spin_unlock_irq(&domain->lock);
	return extent;
}

/**
 * dksm_extent_built - no more frames are going to be published here
 * @extent: the caller's reference is dropped
 *
 * Until now the builder counted as a live frame, so that the maps it added
 * ahead of its frames were not taken for useless.
 */
void dksm_extent_built(struct dksm_extent *extent)
{
	atomic_dec(&extent->live);
	dksm_extent_put(extent);
}

bool dksm_extent_tryget(struct dksm_extent *extent)
{
	return refcount_inc_not_zero(&extent->refs);
}

void dksm_extent_get(struct dksm_extent *extent)
{
	refcount_inc(&extent->refs);
}

static LLIST_HEAD(dead_extents);

static void extents_reap(struct work_struct *work)
{
	struct llist_node *list = llist_del_all(&dead_extents);
	struct dksm_extent *extent, *next;

	/* dksm_frame_get() and the readers of domain->extents. */
	synchronize_rcu();
	llist_for_each_entry_safe(extent, next, list, dead) {
		struct dksm_domain *domain = extent->domain;

		dksm_maps_free(extent);
		atomic_long_sub(extent_bytes(extent->nr), &domain->metadata);
		kfree(extent);
		dksm_domain_put(domain);
		cond_resched();
	}
}

static DECLARE_WORK(reap_work, extents_reap);

/**
 * dksm_extent_put - drop a reference
 * @extent: the extent
 *
 * Context: any.
 */
void dksm_extent_put(struct dksm_extent *extent)
{
	struct dksm_domain *domain = extent->domain;
	unsigned long flags;

	if (!refcount_dec_and_test(&extent->refs))
		return;
	spin_lock_irqsave(&domain->lock, flags);
	list_del_rcu(&extent->list);
	spin_unlock_irqrestore(&domain->lock, flags);
	if (llist_add(&extent->dead, &dead_extents))
		schedule_work(&reap_work);
}

/* The pfn of a node whose frame is just being published. */
#define PFN_PENDING	ULONG_MAX

/**
 * dksm_frame_peek - a reference to the folio that is a node's frame now
 * @node: its extent cannot go away, by RCU or by a reference
 *
 * The folio that @node points to, if it points back: see ksm_get_folio(), whose
 * "keyhole" this is, for why a reference count of 0 with the swapcache flag has
 * to be waited out.  It may be moving elsewhere: dksm_frame_get() rules that out.
 *
 * Return: the folio, NULL if there is none, or -EAGAIN if there is none yet.
 */
struct folio *dksm_frame_peek(struct dksm_node *node)
{
	void *mapping = dksm_node_mapping(node);
	struct folio *folio;
	unsigned long pfn;

again:
	pfn = READ_ONCE(node->pfn);
	if (!pfn)
		return NULL;
	if (pfn == PFN_PENDING)
		return ERR_PTR(-EAGAIN);
	folio = pfn_folio(pfn);
	if (READ_ONCE(folio->mapping) != mapping)
		goto stale;
	while (!folio_try_get(folio)) {
		if (!folio_test_swapcache(folio))
			goto stale;
		cpu_relax();
	}
	if (READ_ONCE(folio->mapping) == mapping)
		return folio;
	folio_put(folio);
stale:
	/* Pairs with smp_wmb() in dksm_folio_migrate(). */
	smp_rmb();
	if (READ_ONCE(node->pfn) != pfn)
		goto again;
	return NULL;
}

/* Others like us hold the lock of a frame for moments: wait a little. */
static bool frame_lock(struct folio *frame)
{
	int tries = 100;

	while (!folio_trylock(frame)) {
		if (!--tries)
			return false;
		cpu_relax();
	}
	return true;
}

/**
 * dksm_frame_get - a reference to the frame of a node
 * @node: its extent cannot go away, by RCU or by a reference
 *
 * Migration may have looked at the reference count just before it was raised
 * here, and be about to move the frame.  It holds the folio lock all the time:
 * once that was ours, the move is over, and the mapping tells, or it is still
 * to come, and will find the reference.
 *
 * Context: any that may hold a folio lock; does not sleep.
 * Return: the folio, which stays this node's frame, keeps its content and keeps
 * the extent alive as long as the reference is held; NULL if there is none;
 * -EAGAIN if it is locked or about to be published.
 */
struct folio *dksm_frame_get(struct dksm_node *node)
{
	struct folio *frame = dksm_frame_peek(node);
	bool valid;

	if (IS_ERR_OR_NULL(frame))
		return frame;
	if (!frame_lock(frame)) {
		folio_put(frame);
		return ERR_PTR(-EAGAIN);
	}
	valid = frame->mapping == dksm_node_mapping(node);
	folio_unlock(frame);
	if (valid)
		return frame;
	folio_put(frame);
	return NULL;
}

/*
 * Whoever is about to map a frame holds a reference to it, which the mapping
 * takes over.  So the reference count is what the cap is compared with: it
 * counts those who are still on their way, too, and never allows too many.
 *
 * The number of claims is bounded as well, since walks of the reverse map are
 * linear in it: a process that merges the same content at ever new addresses
 * adds maps that stay until it exits.
 */
static bool frame_takes_one_more(struct dksm_extent *extent,
				 struct folio *frame)
{
	unsigned int max = READ_ONCE(dksm_max_page_sharing);

	return folio_ref_count(frame) <= max &&
	       READ_ONCE(extent->claims) < CLAIMS_PER_SHARER * max &&
	       !folio_test_hwpoison(frame);
}

/**
 * dksm_page_hash - what the index of a domain knows a content by
 * @domain: has the seed
 * @page: a page
 *
 * Without dksm_merge_across_nodes equal pages of two nodes are two contents.
 */
u64 dksm_page_hash(struct dksm_domain *domain, struct page *page)
{
	u64 seed = domain->seed;
	void *p = kmap_local_page(page);
	u64 hash;

	if (!READ_ONCE(dksm_merge_across_nodes))
		seed += 1 + page_to_nid(page);
	hash = xxh64(p, PAGE_SIZE, seed);
	kunmap_local(p);
	return hash;
}

/* A frame may have been moved to another node since it was published. */
static bool frame_is_near(struct folio *frame, struct folio *folio)
{
	return READ_ONCE(dksm_merge_across_nodes) ||
	       folio_nid(frame) == folio_nid(folio);
}

/**
 * dksm_pages_equal - are the contents of two pages equal?
 * @page1: a page
 * @page2: another
 *
 * As pages_identical(), which takes twice the instructions: comparing is most of
 * what a merge costs.  Where pages have tags beside their bytes, it has the last
 * word.
 */
bool dksm_pages_equal(struct page *page1, struct page *page2)
{
	const u64 *a = kmap_local_page(page1), *b = kmap_local_page(page2);
	const u64 *end = a + PAGE_SIZE / sizeof(*a);
	u64 diff = 0;

	for (; a < end && !diff; a += 8, b += 8)
		diff = (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) |
		       (a[3] ^ b[3]) | (a[4] ^ b[4]) | (a[5] ^ b[5]) |
		       (a[6] ^ b[6]) | (a[7] ^ b[7]);
	kunmap_local(b - 8);
	kunmap_local(a - 8);
	return !diff && (!IS_ENABLED(CONFIG_ARM64_MTE) ||
			 pages_identical(page1, page2));
}

/**
 * dksm_frame_match - may this folio's mapping be replaced by that frame?
 * @node: its extent cannot go away, by RCU or by a reference
 * @folio: cannot change: write-protected everywhere, locked, without pins
 *
 * Return: the frame of @node with a reference if its content is that of
 * @folio, it is below the cap and on a node that will do, else NULL; -EAGAIN
 * as dksm_frame_get().
 */
struct folio *dksm_frame_match(struct dksm_node *node, struct folio *folio)
{
	struct folio *frame = dksm_frame_get(node);

	if (IS_ERR_OR_NULL(frame))
		return frame;
	if (frame_takes_one_more(dksm_node_extent(node), frame) &&
	    frame_is_near(frame, folio) &&
	    dksm_pages_equal(&frame->page, &folio->page))
		return frame;
	folio_put(frame);
	return NULL;
}

/**
 * dksm_frame_find - look for a frame by content
 * @domain: where
 * @hash: of @folio's content
 * @folio: as for dksm_frame_match()
 * @wait: whether to wait for a frame that is being published, moved or swapped
 *
 * Context: may sleep if @wait.
 * Return: as dksm_frame_match(); -EAGAIN if the wait got too long or met a fatal
 * signal.
 */
struct folio *dksm_frame_find(struct dksm_domain *domain, u64 hash,
			      struct folio *folio, bool wait)
{
	struct folio *frame = NULL;
	struct dksm_node *node;
	int tries = wait ? 10 : 1;

	for (;;) {
		rcu_read_lock();
		node = rhashtable_lookup_fast(&domain->index, &hash,
					      index_params);
		if (node)
			frame = dksm_frame_match(node, folio);
		rcu_read_unlock();
		if (!IS_ERR(frame) || !--tries || fatal_signal_pending(current))
			return frame;
		frame = NULL;
		schedule_timeout_killable(1);
	}
}

/*
 * Enter @node into the index, in place of a node that no newcomer can use: of
 * a frame that is full, gone, or (by an accident of 64 bits) of other content.
 * If another node with a frame that @folio can share came first, that frame is
 * returned in @frame and @node stays outside.
 */
static int index_enter(struct dksm_domain *domain, struct dksm_node *node,
		       struct folio *folio, struct folio **frame)
{
	struct dksm_node *old;
	int err = 0;

	rcu_read_lock();
	do {
		old = rhashtable_lookup_get_insert_fast(&domain->index,
							&node->index_node,
							index_params);
		if (IS_ERR_OR_NULL(old)) {
			err = PTR_ERR_OR_ZERO(old);
			break;
		}
		*frame = dksm_frame_match(old, folio);
		err = PTR_ERR_OR_ZERO(*frame);
		if (err)
			*frame = NULL;
		if (err || *frame)
			break;
		err = rhashtable_replace_fast(&domain->index, &old->index_node,
					      &node->index_node, index_params);
	} while (err == -ENOENT);	/* @old left just now */
	rcu_read_unlock();
	return err;
}

/**
 * dksm_frame_publish - make a folio a frame that others can share
 * @node: without a frame; the caller holds its extent
 * @folio: as for dksm_frame_match(); may be mapped by this and other processes,
 *	and a map of the extent covers all their VMAs; or new and not mapped
 * @hash: of its content
 * @frame: out: a frame of equal content that was published just before, with a
 *	reference, which the caller should use instead; or NULL
 *
 * If it is published, @folio is of KSM's kind for good: nobody will write to it.
 *
 * Return: 0; -EAGAIN if such a frame is still being published; or another
 * negative errno if the index has no memory.
 */
int dksm_frame_publish(struct dksm_node *node, struct folio *folio, u64 hash,
		       struct folio **frame)
{
	struct dksm_extent *extent = dksm_node_extent(node);
	struct dksm_domain *domain = extent->domain;
	int err;

	VM_WARN_ON_ONCE_FOLIO(!folio_test_locked(folio), folio);
	VM_WARN_ON_ONCE_FOLIO(folio_test_anon(folio) &&
			      PageAnonExclusive(&folio->page), folio);

	*frame = NULL;
	node->hash = hash;
	dksm_learn_begin(node);
	WRITE_ONCE(node->pfn, PFN_PENDING);
	err = index_enter(domain, node, folio, frame);
	if (err || *frame) {
		WRITE_ONCE(node->pfn, 0);
		return err;
	}

	dksm_extent_get(extent);
	atomic_inc(&extent->live);
	atomic_long_inc(&domain->frames);
	/* Reclaim drops a clean page without dirty PTEs: let it swap it. */
	if (!folio_test_dirty(folio))
		folio_set_dirty(folio);
	WRITE_ONCE(folio->mapping, dksm_node_mapping(node));
	/* dksm_frame_peek() looks at the mapping after the pfn. */
	smp_store_release(&node->pfn, folio_pfn(folio));
	return 0;
}

/*
 * The last reference to a frame is gone: nobody maps it and nobody can get it
 * any more.  In any context, also with interrupts off and below the page table
 * lock.
 */
void __dksm_folio_free(struct folio *folio)
{
	struct dksm_node *node = dksm_folio_node(folio);
	struct dksm_extent *extent = dksm_node_extent(node);
	struct dksm_domain *domain = extent->domain;

	/* -ENOENT: it was replaced, or never found its way in. */
	rhashtable_remove_fast(&domain->index, &node->index_node, index_params);
	WRITE_ONCE(node->pfn, 0);
	folio->mapping = NULL;
	atomic_long_dec(&domain->frames);
	atomic_dec(&extent->live);
	dksm_extent_put(extent);
}

/*
 * Both folios are locked, @folio's reference count was frozen, and @newfolio
 * already has the mapping.
 */
void dksm_folio_migrate(struct folio *newfolio, struct folio *folio)
{
	struct dksm_node *node = dksm_folio_node(folio);

	WRITE_ONCE(node->pfn, folio_pfn(newfolio));
	/* dksm_frame_get() sees the new pfn before the stale mapping. */
	smp_wmb();
	WRITE_ONCE(folio->mapping, (void *)PAGE_MAPPING_KSM);
}

/**
 * folio_trylock_unless_dksm - for those who must not have frames
 * @folio: any folio, with a reference
 *
 * Return: true if @folio is locked now and no frame.
 */
bool folio_trylock_unless_dksm(struct folio *folio)
{
	if (!folio_trylock(folio))
		return false;
	if (!folio_test_dksm(folio))
		return true;
	folio_unlock(folio);
	return false;
}

/**
 * dksm_index_has - might a frame of this content exist?
 * @domain: where
 * @hash: of the content
 *
 * A hint: nothing is compared or held.
 */
bool dksm_index_has(struct dksm_domain *domain, u64 hash)
{
	bool has;

	rcu_read_lock();
	has = rhashtable_lookup_fast(&domain->index, &hash, index_params);
	rcu_read_unlock();
	return has;
}

/**
 * dksm_index_get - a node that might have a frame of this content
 * @domain: where
 * @hash: of the content
 *
 * Return: the node, with a reference to its extent; or NULL.
 */
struct dksm_node *dksm_index_get(struct dksm_domain *domain, u64 hash)
{
	struct dksm_node *node;

	rcu_read_lock();
	node = rhashtable_lookup_fast(&domain->index, &hash, index_params);
	if (node && !dksm_extent_tryget(dksm_node_extent(node)))
		node = NULL;
	rcu_read_unlock();
	return node;
}

/* A frame that was copied, held for a tick. */
struct held_frame {
	struct llist_node list;
	struct folio *frame;
};

static LLIST_HEAD(held_frames);

static void frames_let_go(struct work_struct *work)
{
	struct llist_node *list = llist_del_all(&held_frames);
	struct held_frame *held, *next;

	llist_for_each_entry_safe(held, next, list, list) {
		folio_put(held->frame);
		kfree(held);
		cond_resched();
	}
}

static DECLARE_DELAYED_WORK(let_go_work, frames_let_go);

/*
 * The last one who has a frame would free it by writing to it, pinning or
 * unmerging it, and know by the time it takes that nobody else has the page.  So no
 * fault frees a frame: a worker does, a tick later.  See "Deferred free" in VUsion
 * (Oliverio et al., SOSP 2017).
 */
static void frame_hold(struct folio *frame)
{
	/* For a tick; not charged, since a group at its limit would not get it. */
	struct held_frame *held = kmalloc(sizeof(*held),
					  GFP_NOWAIT | __GFP_NOWARN);

	if (!held)
		return;		/* no secret is worth failing */
	/* The last mapping goes from a statistic: let the others pay, too. */
	if (folio_mapcount(frame) > 1)
		lruvec_stat_mod_folio(frame, NR_ANON_MAPPED, 0);
	folio_get(frame);
	held->frame = frame;
	if (llist_add(&held->list, &held_frames))
		queue_delayed_work(system_unbound_wq, &let_go_work, 1);
}

/*
 * Is it the guest that writes?  Its VMM loads, resets, pins and does I/O, which says
 * nothing of the guests to come.  KVM faults for a guest in a thread that it wants to
 * hear of when it is preempted, and nobody else wants that.
 */
static bool guest_writes(void)
{
#ifdef CONFIG_PREEMPT_NOTIFIERS
	return !hlist_empty(&current->preempt_notifiers);
#else
	return false;
#endif
}

/*
 * A fault is going to copy a frame, for a write or to unshare it; it holds a reference to it,
 * taken while it was mapped, so it stays a frame.
 */
void __dksm_cow_break(struct vm_fault *vmf, struct folio *folio)
{
	struct dksm_node *node = dksm_folio_node(folio);
	struct dksm_extent *extent = dksm_node_extent(node);
	struct dksm_mm *member = READ_ONCE(vmf->vma->vm_mm->dksm);

	frame_hold(folio);
	if (vmf->flags & FAULT_FLAG_UNSHARE)
		return;		/* unmerge, or a pin: nobody writes */
	atomic_long_inc(&extent->domain->totals.cow_breaks);
	if (member) {
		atomic_long_inc(&member->cow_breaks);
		if (guest_writes())
			dksm_learn_break(member, node);
	}
	trace_dksm_cow_break(vmf->vma->vm_mm, vmf->address, folio_pfn(folio));
}

/* As above, for a page that is special: of interest if it is a merged zero page. */
void __dksm_zero_break(struct vm_fault *vmf)
{
	struct vm_area_struct *vma = vmf->vma;
	struct dksm_mm *member = READ_ONCE(vma->vm_mm->dksm);

	if (vmf->flags & FAULT_FLAG_UNSHARE || !is_ksm_zero_pte(vmf->orig_pte))
		return;
	atomic_long_inc(&member->zero_breaks);
	if (guest_writes())
		dksm_learn_zero_break(member, vma, vmf->address);
}

#ifdef CONFIG_DKSM_KUNIT_TEST
#include "tests/extent_kunit.c"
#endif
