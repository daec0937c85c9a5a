// SPDX-License-Identifier: GPL-2.0
/*
 * The reverse map of frames.
 *
 * An ordinary anonymous folio is found through one anon_vma and one page
 * offset.  A frame is found through several: one for each map of its extent
 * that covers it.  For each of them everything that makes the reverse map of
 * anonymous folios right holds here as well: fork links the child's VMA into
 * the anon_vma behind the parent's before it copies page tables, splits and
 * merges of VMAs keep the page offset, mremap() keeps it too and orders the
 * VMAs or takes the locks, and an anon_vma without VMAs never gets any again.
 *
 * A map claims more than is mapped, for instance after a write or munmap();
 * the walks look at the page tables anyway.  It is added before the page table
 * entries that need it, and freed only when its anon_vma has no VMA left or
 * its extent no frame.
 *
 * A map is owned by the mm that added it, so that it can be found when the mm
 * exits.  If children of that mm still use the anon_vma, the map stays, without
 * owner, until the extent is gone or somebody passes by and finds the anon_vma
 * empty.
 */
#include <linux/ksm.h>
#include <linux/mm.h>
#include <linux/rmap.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "../internal.h"
#include "internal.h"

/* Fewer are not worth looking through. */
#define MAPS_TIDY_MIN	64UL

static struct kmem_cache *map_cache;

static int __init dksm_map_init(void)
{
	/* There is one for each run and process: 96 of kmalloc() are too many. */
	map_cache = KMEM_CACHE(dksm_map, SLAB_ACCOUNT | SLAB_PANIC);
	return 0;
}
subsys_initcall(dksm_map_init);

static bool map_covers(const struct dksm_map *map, u32 pos)
{
	return pos >= map->first && pos <= map->last;
}

static bool map_in_use(struct dksm_map *map)
{
	bool in_use;

	if (!atomic_read(&map->extent->live))
		return false;
	anon_vma_lock_read(map->anon_vma);
	in_use = !RB_EMPTY_ROOT(&map->anon_vma->rb_root.rb_root);
	anon_vma_unlock_read(map->anon_vma);
	return in_use;
}

static void claims_add(struct dksm_extent *extent, unsigned int more)
{
	WRITE_ONCE(extent->claims, extent->claims + more);
}

static void map_free(struct dksm_map *map)
{
	list_del(&map->extent_list);
	claims_add(map->extent, -1 - map->spread);
	put_anon_vma(map->anon_vma);
	atomic_long_sub(sizeof(*map), &map->extent->domain->metadata);
	kmem_cache_free(map_cache, map);
}

/* A run of frames, each at one page offset, takes in one that goes on there. */
static bool run_widen(struct dksm_map *map, const struct dksm_map *want)
{
	if (map->spread || want->spread || map->delta != want->delta)
		return false;
	map->first = min(map->first, want->first);
	map->last = max(map->last, want->last);
	return true;
}

/* One frame at a run of page offsets takes in one that touches it. */
static bool pile_widen(struct dksm_map *map, const struct dksm_map *want)
{
	pgoff_t low = map->delta + map->first, high = low + map->spread;
	pgoff_t more = want->delta + want->first;

	if (map->first != map->last || want->first != want->last ||
	    map->first != want->first ||
	    more > high + 1 || low > more + want->spread + 1)
		return false;
	low = min(low, more);
	high = max(high, more + want->spread);
	if (high - low > DKSM_SPREAD_MAX)
		return false;
	map->delta = low - map->first;
	claims_add(map->extent, high - low - map->spread);
	map->spread = high - low;
	return true;
}

/*
 * Look for a map that need only be widened.  Free on the way what lost its owner
 * and its last VMA, if there is time for that.
 */
static bool maps_widen(struct dksm_extent *extent, const struct dksm_map *want,
		       bool wait)
{
	struct dksm_map *map, *next;

	list_for_each_entry_safe(map, next, &extent->maps, extent_list) {
		if (map->anon_vma == want->anon_vma &&
		    (run_widen(map, want) || pile_widen(map, want)))
			return true;
		if (wait && !map->owner && !map_in_use(map))
			map_free(map);
	}
	return false;
}

static bool maps_lock(struct dksm_mm *owner, struct dksm_extent *extent,
		      bool wait)
{
	if (wait) {
		mutex_lock(&owner->lock);
		down_write(&extent->maps_lock);
		return true;
	}
	if (!mutex_trylock(&owner->lock))
		return false;
	if (down_write_trylock(&extent->maps_lock))
		return true;
	mutex_unlock(&owner->lock);
	return false;
}

/**
 * dksm_map_add - declare that frames of an extent are going to be mapped
 * @owner: the mm that does it
 * @extent: theirs, held by the caller
 * @want: where: @anon_vma, in use by a VMA of @owner, whose mmap_lock is held,
 *	@delta, @first, @last and @spread
 * @wait: whether to wait for locks and memory
 *
 * A map that says nearly the same grows instead to the hull of both: merging the
 * same memory again adds no map.
 *
 * Return: 0, -ENOMEM, or -EAGAIN if it would have to wait.
 */
int dksm_map_add(struct dksm_mm *owner, struct dksm_extent *extent,
		 const struct dksm_map *want, bool wait)
{
	struct dksm_map *map;
	int err = 0;

	/* Before the lock: reclaim may want to walk this very extent. */
	map = kmem_cache_alloc(map_cache, wait ? DKSM_GFP : DKSM_GFP_QUICK);
	if (!maps_lock(owner, extent, wait)) {
		err = -EAGAIN;
		goto out;
	}
	if (maps_widen(extent, want, wait))
		goto unlock;
	if (!map) {
		err = -ENOMEM;
		goto unlock;
	}
	*map = *want;
	map->extent = extent;
	map->owner = owner;
	dksm_extent_get(extent);
	get_anon_vma(map->anon_vma);
	list_add_tail(&map->extent_list, &extent->maps);
	list_add_tail(&map->owner_list, &owner->maps);
	owner->nr_maps++;
	claims_add(extent, 1 + map->spread);
	atomic_long_add(sizeof(*map), &extent->domain->metadata);
	map = NULL;
unlock:
	up_write(&extent->maps_lock);
	mutex_unlock(&owner->lock);
out:
	if (map)
		kmem_cache_free(map_cache, map);
	return err;
}

/* Free the map, or with @disown at least let go of it. */
static void map_release(struct dksm_map *map, bool disown)
{
	struct dksm_extent *extent = map->extent;
	bool in_use;

	down_write(&extent->maps_lock);
	in_use = map_in_use(map);
	if (in_use && !disown) {
		up_write(&extent->maps_lock);
		return;
	}
	list_del(&map->owner_list);
	map->owner->nr_maps--;
	map->owner = NULL;
	if (!in_use)
		map_free(map);
	up_write(&extent->maps_lock);
	dksm_extent_put(extent);
}

static void maps_release(struct dksm_mm *owner, bool disown)
{
	struct dksm_map *map, *next;

	mutex_lock(&owner->lock);
	list_for_each_entry_safe(map, next, &owner->maps, owner_list) {
		map_release(map, disown);
		cond_resched();
	}
	mutex_unlock(&owner->lock);
}

/**
 * dksm_maps_prune - free the maps of a living mm that no frame needs
 * @owner: the mm's membership
 */
void dksm_maps_prune(struct dksm_mm *owner)
{
	maps_release(owner, false);
}

/**
 * dksm_maps_tidy - have dksm_maps_prune() done soon, if it is likely to be worth it
 * @owner: the mm's membership; the mm has users
 *
 * Not before there are twice as many as the last time: so merging the next of many
 * virtual machines of one process costs as much as merging the first.
 */
void dksm_maps_tidy(struct dksm_mm *owner)
{
	if (READ_ONCE(owner->nr_maps) >= READ_ONCE(owner->prune_at))
		queue_work(system_unbound_wq, &owner->tidy);
}

/* dksm_mm.tidy, which __dksm_exit() waits for. */
void dksm_maps_work(struct work_struct *work)
{
	struct dksm_mm *owner = container_of(work, struct dksm_mm, tidy);

	dksm_maps_prune(owner);
	WRITE_ONCE(owner->prune_at,
		   max(2 * READ_ONCE(owner->nr_maps), MAPS_TIDY_MIN));
}

/**
 * dksm_maps_disown - the owner goes: free its maps or leave them to the extents
 * @owner: membership of an mm without page tables
 */
void dksm_maps_disown(struct dksm_mm *owner)
{
	maps_release(owner, true);
}

/**
 * dksm_maps_free - free what maps are left of an extent that nobody holds
 * @extent: without frames, so without owned maps
 */
void dksm_maps_free(struct dksm_extent *extent)
{
	struct dksm_map *map, *next;

	list_for_each_entry_safe(map, next, &extent->maps, extent_list)
		map_free(map);
}

/**
 * dksm_folio_is_foreign - might an anonymous folio be mapped outside a domain?
 * @folio: locked, not of KSM's kind, mapped by a VMA that cannot go away
 * @domain: the domain
 *
 * A page still shared with relatives since a fork must not become a frame unless
 * all of them are members: frames are mapped by members alone.
 */
bool dksm_folio_is_foreign(struct folio *folio, struct dksm_domain *domain)
{
	struct anon_vma *anon_vma = folio_anon_vma(folio);
	pgoff_t pgoff = folio->index;
	struct anon_vma_chain *avc;
	bool foreign = false;

	anon_vma_lock_read(anon_vma);
	anon_vma_interval_tree_foreach(avc, &anon_vma->rb_root, pgoff, pgoff) {
		/* Freed only after its VMAs left the tree. */
		struct dksm_mm *member = READ_ONCE(avc->vma->vm_mm->dksm);

		foreign |= !member || member->domain != domain;
	}
	anon_vma_unlock_read(anon_vma);
	return foreign;
}

/* Where a VMA's part of the offsets from @low to @high begins, and its end. */
static pgoff_t vma_low(struct vm_area_struct *vma, pgoff_t low)
{
	return max(low, vma->vm_pgoff);
}

static pgoff_t vma_end(struct vm_area_struct *vma, pgoff_t high)
{
	return min(high + 1, vma->vm_pgoff + vma_pages(vma));
}

/* Both return false if the walk is to end. */
static bool walk_vma(struct vm_area_struct *vma, pgoff_t low, pgoff_t high,
		     struct folio *folio, struct rmap_walk_control *rwc)
{
	pgoff_t pgoff;

	if (rwc->invalid_vma && rwc->invalid_vma(vma, rwc->arg))
		return true;
	for (pgoff = vma_low(vma, low); pgoff < vma_end(vma, high); pgoff++) {
		cond_resched();
		if (!rwc->rmap_one(folio, vma, vma_address(vma, pgoff, 1),
				   rwc->arg) ||
		    (rwc->done && rwc->done(folio)))
			return false;
	}
	return true;
}

static bool map_walk(struct dksm_map *map, u32 pos, struct folio *folio,
		     struct rmap_walk_control *rwc)
{
	struct anon_vma *anon_vma = map->anon_vma;
	pgoff_t low = map->delta + pos, high = low + map->spread;
	struct anon_vma_chain *avc;
	bool go_on = true;

	if (!anon_vma_trylock_read(anon_vma)) {
		if (rwc->try_lock) {
			rwc->contended = true;
			return false;
		}
		anon_vma_lock_read(anon_vma);
	}
	anon_vma_interval_tree_foreach(avc, &anon_vma->rb_root, low, high) {
		go_on = walk_vma(avc->vma, low, high, folio, rwc);
		if (!go_on)
			break;
	}
	anon_vma_unlock_read(anon_vma);
	return go_on;
}

/* From rmap_walk_ksm(): @folio is a locked frame. */
void dksm_rmap_walk(struct folio *folio, struct rmap_walk_control *rwc)
{
	struct dksm_node *node = dksm_folio_node(folio);
	struct dksm_extent *extent = dksm_node_extent(node);
	struct dksm_map *map;

	if (!down_read_trylock(&extent->maps_lock)) {
		if (rwc->try_lock) {
			rwc->contended = true;
			return;
		}
		down_read(&extent->maps_lock);
	}
	list_for_each_entry(map, &extent->maps, extent_list)
		if (map_covers(map, node->pos) &&
		    !map_walk(map, node->pos, folio, rwc))
			break;
	up_read(&extent->maps_lock);
}

#ifdef CONFIG_MEMORY_FAILURE
static void map_collect(struct dksm_map *map, u32 pos, struct task_struct *task,
			struct page *page, struct list_head *to_kill)
{
	pgoff_t low = map->delta + pos, high = low + map->spread, pgoff;
	struct anon_vma_chain *avc;

	anon_vma_interval_tree_foreach(avc, &map->anon_vma->rb_root, low,
				       high) {
		struct vm_area_struct *vma = avc->vma;

		if (vma->vm_mm != task->mm)
			continue;
		for (pgoff = vma_low(vma, low); pgoff < vma_end(vma, high);
		     pgoff++)
			add_to_kill_ksm(task, page, vma, to_kill,
					vma_address(vma, pgoff, 1));
	}
}

/* From collect_procs_ksm(): @folio is a locked frame hit by a memory error. */
void dksm_collect_procs(struct folio *folio, struct page *page,
			struct list_head *to_kill, int force_early)
{
	struct dksm_node *node = dksm_folio_node(folio);
	struct dksm_extent *extent = dksm_node_extent(node);
	struct task_struct *p, *task;
	struct dksm_map *map;

	down_read(&extent->maps_lock);
	list_for_each_entry(map, &extent->maps, extent_list) {
		if (!map_covers(map, node->pos))
			continue;
		anon_vma_lock_read(map->anon_vma);
		rcu_read_lock();
		for_each_process(p) {
			task = task_early_kill(p, force_early);
			if (task)
				map_collect(map, node->pos, task, page,
					    to_kill);
		}
		rcu_read_unlock();
		anon_vma_unlock_read(map->anon_vma);
	}
	up_read(&extent->maps_lock);
}
#endif
