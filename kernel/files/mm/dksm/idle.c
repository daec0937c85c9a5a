// SPDX-License-Identifier: GPL-2.0
/*
 * Merging what a guest populated while it booted, on time that it does not use.
 *
 * When a virtual processor of an attached process has nothing to do and no other
 * one is in the guest, it works on a *pass* over guest memory, a few pages at a
 * time, and asks before each step whether an event has come.  It goes on where it
 * was at the next idle moment.  A pass has two phases:
 *
 *   look   remember a hash of each page
 *   act    pages whose hash is still the same, so that were not written to since:
 *            zero, or known to the index    merge
 *            seen in another page           publish, and have that one join
 *            else                           remember that it was seen
 *
 * Hashes are taken of pages that may change meanwhile, and are only ever hints.
 * Everything that maps is done by merge.c, with the comparisons made there.
 *
 * A second pass comes a second later, when what booted has settled.  It and those
 * after it heed nothing that was learned: what is still as it was loaded was not
 * written to by the boot.  Another pass follows as long as the last was worth it,
 * but at most PASSES_MAX.  From then on there is none until the process has
 * populated an eighth more: so all of those together cost at most nine times the
 * last one.
 *
 * A page that was *seen* is remembered by hash and pfn, without a reference.
 * Whoever held the page may be gone by the time the content turns up again, and
 * the page be somebody else's, who is in another domain or in none.  So the reverse
 * map is asked first, and only the page of a member that takes part is looked at.
 */
#include <linux/dksm.h>
#include <linux/export.h>
#include <linux/jiffies.h>
#include <linux/ksm.h>
#include <linux/log2.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/pagewalk.h>
#include <linux/rmap.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/swap.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>
#include <trace/events/dksm.h>

#include "../internal.h"
#include "internal.h"

/*
 * Pages between two looks for an event.  A step ends earlier at a page that needs
 * work on another process, too.
 */
#define STEP_PAGES	4

/* Passes that come one after the other; a page in 128 is worth one more. */
#define PASSES_MIN	2
#define PASSES_MAX	8
#define PASS_WORTH(pages)	max((pages) / 128, 16UL)

/* vm->phase; each value may be left for the next one only. */
enum idle_phase {
	IDLE_LOOK,
	IDLE_ACT,
	IDLE_REST,
};

/**
 * struct idle - one idle moment; large, so not on the stack
 * @vm:		whose; DKSM_MM_IDLE is held
 * @ops:	see there
 * @vcpu:	for @ops
 * @mm:		of the virtual machine
 * @member:	of @mm
 * @domain:	of @member
 * @batch:	for what is merged
 * @join:	for what joins in other processes
 * @report:	what was done; @scanned counts pages acted on
 * @learn:	heed what was learned: in the first pass, if at all
 */
struct idle {
	struct dksm_vm *vm;
	const struct dksm_vm_ops *ops;
	void *vcpu;
	struct mm_struct *mm;
	struct dksm_mm *member;
	struct dksm_domain *domain;
	struct dksm_batch *batch;
	struct dksm_batch *join;
	struct dksm_report report;
	bool learn;
};

/*
 * Hashes: of the pages below a page table, by address.  DKSM_MM_IDLE is held: the
 * virtual machines of a process take turns.
 */

static u32 *seen_block(struct dksm_mm *member, unsigned long address,
		       bool create)
{
	const gfp_t gfp = GFP_NOWAIT | __GFP_NOWARN | __GFP_ACCOUNT;
	unsigned long index = address >> PMD_SHIFT;
	u32 *block = xa_load(&member->seen, index);

	if (block || !create)
		return block;
	block = kcalloc(PTRS_PER_PTE, sizeof(*block), gfp);
	if (block && xa_err(xa_store(&member->seen, index, block, gfp))) {
		kfree(block);
		block = NULL;
	}
	return block;
}

static void seen_forget(struct dksm_mm *member, unsigned long address)
{
	kfree(xa_erase(&member->seen, address >> PMD_SHIFT));
}

static unsigned int seen_index(unsigned long address)
{
	return (address & ~PMD_MASK) >> PAGE_SHIFT;
}

/**
 * dksm_seen_free - forget what was seen of an mm
 * @member: its membership, which goes
 */
void dksm_seen_free(struct dksm_mm *member)
{
	unsigned long index;
	u32 *block;

	xa_for_each(&member->seen, index, block)
		kfree(block);
	xa_destroy(&member->seen);
}

/* Sights: contents seen once in a domain. */

#define SIGHT_WAYS	4
#define SIGHT_SETS_MAX	BIT(18)	/* 8 MiB; 1 Mi pages, 4 GiB of them */

/* Upper half of the hash, and page frame; all 0 if free. */
struct sight {
	u32 tag;
	u32 pfn;
};

struct dksm_sights {
	spinlock_t lock;	/* sight */
	u32 sets;		/* a power of two */
	struct sight sight[][SIGHT_WAYS];
};

static size_t sights_bytes(u32 sets)
{
	struct dksm_sights *sights;

	return struct_size(sights, sight, sets);
}

/* Large enough for twice what the first virtual machine has, if there is room. */
static struct dksm_sights *sights_get(struct dksm_domain *domain,
				      unsigned long pages)
{
	/* Pairs with cmpxchg() below. */
	struct dksm_sights *sights = smp_load_acquire(&domain->sights);
	u32 sets;

	if (sights)
		return sights;
	sets = clamp(roundup_pow_of_two(pages / 2 + 1), BIT(10),
		     SIGHT_SETS_MAX);
	/* kvzalloc() would round the size up to twice as much. */
	sights = __vmalloc(sights_bytes(sets), DKSM_GFP | __GFP_ZERO);
	if (!sights)
		return NULL;
	spin_lock_init(&sights->lock);
	sights->sets = sets;
	if (cmpxchg(&domain->sights, NULL, sights)) {
		vfree(sights);
		return domain->sights;
	}
	atomic_long_add(sights_bytes(sets), &domain->metadata);
	return sights;
}

/**
 * dksm_sights_free - forget what was seen in a domain
 * @domain: without members
 */
void dksm_sights_free(struct dksm_domain *domain)
{
	if (!domain->sights)
		return;
	atomic_long_sub(sights_bytes(domain->sights->sets), &domain->metadata);
	vfree(domain->sights);
}

/*
 * Where a content is, or where there is room for it, or what has to go.  Each may
 * be in two sets, so that hardly ever both are full: contents of one full set
 * would drive each other out in every pass.
 */
static struct sight *sight_way(struct dksm_sights *sights, u64 hash, u32 tag)
{
	u64 set[] = { hash & (sights->sets - 1),
		      hash >> 16 & (sights->sets - 1) };
	struct sight *way, *free = NULL;
	int i;

	for (i = 0; i < 2 * SIGHT_WAYS; i++) {
		way = &sights->sight[set[i % 2]][i / 2];
		if (way->pfn && way->tag == tag)
			return way;
		if (!way->pfn && !free)
			free = way;
	}
	return free ?: &sights->sight[set[0]][(hash >> 24) % SIGHT_WAYS];
}

/*
 * Has this content been seen in another page?  Its pfn, or 0; then this one is
 * remembered, in place of @stale or of an older one if need be.
 */
static unsigned long sight_twin(struct dksm_sights *sights, u64 hash,
				unsigned long pfn, unsigned long stale)
{
	struct sight new = { .tag = hash >> 32, .pfn = pfn };
	unsigned long twin = 0;
	struct sight *way;

	if (new.pfn != pfn)
		return 0;	/* above 16 TiB */
	spin_lock(&sights->lock);
	way = sight_way(sights, hash, new.tag);
	if (!way->pfn || way->tag != new.tag || way->pfn == stale)
		*way = new;
	else if (way->pfn != pfn)
		twin = way->pfn;
	spin_unlock(&sights->lock);
	return twin;
}

/*
 * Merge the wanted pages of [@start, @end).  Of a huge page, let the batch see all
 * the rest, too: splitting it leaves zero pages that have to be marked as ours.
 */
static void merge_wanted(struct dksm_batch *batch, struct vm_area_struct *vma,
			 pmd_t *pmd, unsigned long start, unsigned long end,
			 unsigned long *wanted)
{
	unsigned long table = start & PMD_MASK;

	if (pmd_trans_huge(pmdp_get_lockless(pmd))) {
		start = max(table, vma->vm_start);
		end = min(table + PMD_SIZE, vma->vm_end);
	}
	bitmap_shift_right(wanted, wanted, seen_index(start), PTRS_PER_PTE);
	dksm_batch_merge(batch, vma, pmd, start, end, wanted);
}

/**
 * struct twin - a page of this or another process that has the same content
 * @pfn:	the page
 * @domain:	of which the process is a member
 * @mm:		of the process, with a reference; NULL if there is none
 * @address:	where it maps the page
 */
struct twin {
	unsigned long pfn;
	struct dksm_domain *domain;
	struct mm_struct *mm;
	unsigned long address;
};

/* A reference to the process, if it is one that takes part in idle merging. */
static bool twin_mm_get(struct twin *twin, struct mm_struct *mm)
{
	/* Freed only after its VMAs left the tree that is being walked. */
	struct dksm_mm *member = READ_ONCE(mm->dksm);
	u32 attached = member ? READ_ONCE(member->attached) : 0;

	return attached && !(attached & DKSM_ATTACH_NO_IDLE) &&
	       member->domain == twin->domain && mmget_not_zero(mm);
}

static bool twin_found(struct folio *folio, struct vm_area_struct *vma,
		       unsigned long address, void *arg)
{
	struct twin *twin = arg;

	address += (twin->pfn - folio_pfn(folio)) << PAGE_SHIFT;
	if (address < vma->vm_start || address >= vma->vm_end ||
	    !twin_mm_get(twin, vma->vm_mm))
		return true;
	twin->mm = vma->vm_mm;
	twin->address = address;
	return false;
}

/* A reference to the page that has this number now, if it might be a twin. */
static struct page *twin_page(unsigned long pfn)
{
	struct page *page = pfn_to_online_page(pfn);
	struct folio *folio = page ? page_folio(page) : NULL;

	/* Slabs and the like are not to be locked: see page_idle_get_folio(). */
	if (!folio || !folio_test_lru(folio) || !folio_try_get(folio))
		return NULL;
	if (page_folio(page) == folio && folio_test_lru(folio) &&
	    folio_test_anon(folio) &&
	    !folio_test_ksm(folio) && !folio_is_zone_device(folio) &&
	    !PageHWPoison(page))
		return page;
	folio_put(folio);
	return NULL;
}

static void twin_walk(struct twin *twin, struct folio *folio)
{
	struct rmap_walk_control rwc = {
		.arg = twin,
		.rmap_one = twin_found,
		/* No mmap_lock is held: the anon_vma might go. */
		.anon_lock = folio_lock_anon_vma_read,
		.try_lock = true,
	};

	if (!folio_trylock(folio))
		return;
	if (folio_test_anon(folio) && !folio_test_ksm(folio) &&
	    folio_mapped(folio))
		rmap_walk(folio, &rwc);
	folio_unlock(folio);
}

static void twin_put(struct twin *twin)
{
	mmput_async(twin->mm);
	twin->mm = NULL;
}

/*
 * Find who maps the page now, and see whether it still equals @page: pages move, and
 * take their content along, and a page is not its own twin.
 */
static bool twin_locate(struct twin *twin, struct page *page)
{
	struct page *other = twin_page(twin->pfn);

	if (!other)
		return false;
	twin_walk(twin, page_folio(other));
	if (twin->mm && !dksm_pages_equal(other, page))
		twin_put(twin);
	put_page(other);
	return twin->mm;
}

/* Another page of this content, if one was seen; else this one is remembered. */
static bool twin_find(struct twin *twin, struct page *page, u64 hash)
{
	struct dksm_sights *sights = twin->domain->sights;
	unsigned long pfn = page_to_pfn(page);

	if (!sights)
		return false;
	twin->pfn = sight_twin(sights, hash, pfn, pfn);
	if (!twin->pfn)
		return false;
	if (twin_locate(twin, page))
		return true;
	sight_twin(sights, hash, pfn, twin->pfn);
	return false;
}

/* Map the frame that was published for its content, if it is still that. */
static noinline_for_stack void twin_merge(struct idle *idle, struct twin *twin)
{
	unsigned long address = twin->address;
	DECLARE_BITMAP(wanted, PTRS_PER_PTE) = { };
	struct vm_area_struct *vma;
	pmd_t *pmd;

	if (!mmap_read_trylock(twin->mm))
		return;
	vma = vma_lookup(twin->mm, address);
	pmd = vma ? mm_find_pmd(twin->mm, address) : NULL;
	__set_bit(seen_index(address), wanted);
	if (pmd && vma->anon_vma &&
	    dksm_vma_skip_reason(vma) == DKSM_NOT_SKIPPED) {
		dksm_batch_begin(idle->join, twin->mm->dksm, &idle->report);
		merge_wanted(idle->join, vma, pmd, address,
			     address + PAGE_SIZE, wanted);
	}
	mmap_read_unlock(twin->mm);
}

/* Steps: a few pages of one VMA and one page table, and a twin of the last. */

struct step {
	struct vm_area_struct *vma;
	pmd_t *pmd;
	unsigned long start;
	unsigned long end;
	struct twin twin;
	DECLARE_BITMAP(wanted, PTRS_PER_PTE);
};

/* A page that might be merged, with a reference, or NULL. */
static struct page *step_page(struct step *step, unsigned long address)
{
	struct page *page = NULL;
	struct folio_walk fw;
	struct folio *folio;

	folio = folio_walk_start(&fw, step->vma, address, 0);
	if (!folio)
		return NULL;
	if (folio_test_anon(folio) && !folio_test_ksm(folio) &&
	    !folio_is_zone_device(folio) && !PageHWPoison(fw.page)) {
		folio_get(folio);
		page = fw.page;
	}
	folio_walk_end(&fw, step->vma);
	return page;
}

static bool page_is_zero(struct idle *idle, struct page *page)
{
	return READ_ONCE(dksm_use_zero_pages) &&
	       !mm_forbids_zeropage(idle->mm) &&
	       dksm_pages_equal(page, ZERO_PAGE(0));
}

static void step_look(struct idle *idle, struct step *step)
{
	u32 *block = seen_block(idle->member, step->start, true);
	unsigned long address;
	struct page *page;

	for (address = step->start; block && address < step->end;
	     address += PAGE_SIZE) {
		page = step_page(step, address);
		if (!page)
			continue;
		block[seen_index(address)] = dksm_page_hash(idle->domain, page);
		put_page(page);
	}
}

static bool page_is_wanted(struct idle *idle, struct step *step,
			   struct page *page, u64 hash)
{
	if (page_is_zero(idle, page))
		return true;
	if (idle->learn && dksm_learned_volatile(idle->domain, dksm_learn_content(hash)))
		return false;
	return dksm_index_has(idle->domain, hash) ||
	       twin_find(&step->twin, page, hash);
}

static noinline_for_stack void step_choose(struct idle *idle,
					   struct step *step)
{
	u32 *block = seen_block(idle->member, step->start, false);
	unsigned long address;
	struct page *page;
	u64 hash;

	for (address = step->start; block && address < step->end &&
	     !step->twin.mm; address += PAGE_SIZE) {
		page = step_page(step, address);
		if (!page)
			continue;
		hash = dksm_page_hash(idle->domain, page);
		if ((u32)hash == block[seen_index(address)] &&
		    page_is_wanted(idle, step, page, hash))
			__set_bit(seen_index(address), step->wanted);
		put_page(page);
	}
	step->end = block ? address : step->end;
}

static void step_merge(struct idle *idle, struct step *step)
{
	if (bitmap_empty(step->wanted, PTRS_PER_PTE))
		return;
	dksm_batch_begin(idle->batch, idle->member, &idle->report);
	merge_wanted(idle->batch, step->vma, step->pmd, step->start, step->end,
		     step->wanted);
}

static void step_act(struct idle *idle, struct step *step)
{
	step_choose(idle, step);
	step_merge(idle, step);
}

/* Where the next step is, or how far there is nothing; mmap_lock is held. */
static bool step_find(struct idle *idle, struct step *step,
		      unsigned long *cursor, unsigned long end)
{
	struct vm_area_struct *vma = find_vma(idle->mm, *cursor);
	unsigned long next;

	if (!vma || vma->vm_start >= end) {
		*cursor = end;
		return false;
	}
	*cursor = max(*cursor, vma->vm_start);
	if (!vma->anon_vma || dksm_vma_skip_reason(vma) != DKSM_NOT_SKIPPED) {
		*cursor = min(vma->vm_end, end);
		return false;
	}
	next = min3((*cursor & PMD_MASK) + PMD_SIZE, vma->vm_end, end);
	step->pmd = mm_find_pmd(idle->mm, *cursor);
	if (!step->pmd || pmd_none(pmdp_get_lockless(step->pmd))) {
		*cursor = next;
		return false;
	}
	step->vma = vma;
	step->start = *cursor;
	step->end = min(next, *cursor + STEP_PAGES * PAGE_SIZE);
	return true;
}

/* False if mmap_lock is not to be had: then this moment is over. */
static bool idle_step(struct idle *idle, unsigned long end)
{
	struct step step = { .twin.domain = idle->domain };

	if (!mmap_read_trylock(idle->mm))
		return false;
	if (step_find(idle, &step, &idle->vm->cursor, end)) {
		if (idle->vm->phase == IDLE_LOOK)
			step_look(idle, &step);
		else
			step_act(idle, &step);
		if (idle->vm->phase == IDLE_ACT && !(step.end & ~PMD_MASK))
			seen_forget(idle->member, step.start);
		idle->vm->cursor = step.end;
	}
	mmap_read_unlock(idle->mm);
	if (step.twin.mm) {
		twin_merge(idle, &step.twin);
		twin_put(&step.twin);
	}
	return true;
}

static unsigned long populated_pages(struct mm_struct *mm)
{
	return get_mm_counter(mm, MM_ANONPAGES) + mm_ksm_zero_pages(mm);
}

static unsigned long idle_gain(struct idle *idle)
{
	return idle->report.merged + idle->report.published +
	       idle->report.zero;
}

static void pass_end(struct idle *idle)
{
	unsigned long pages = populated_pages(idle->mm);
	unsigned long gain = idle->vm->gain + idle_gain(idle);

	spin_lock(&idle->member->stat_lock);
	idle->member->stat.passes++;
	spin_unlock(&idle->member->stat_lock);
	idle->vm->next_pages = pages + max(pages / 8, 256UL);
	idle->vm->passes++;
	idle->vm->again = idle->vm->passes < PASSES_MIN ||
			  (idle->vm->passes < PASSES_MAX &&
			   gain > PASS_WORTH(pages));
	idle->vm->gain = 0;
	idle->vm->rested_at = jiffies;
}

/* The memory of this phase is done. */
static void phase_end(struct idle *idle)
{
	idle->vm->cursor = 0;
	if (idle->vm->phase++ == IDLE_ACT)
		pass_end(idle);
}

static void step_time(struct idle *idle, u64 ns)
{
	if (ns <= READ_ONCE(idle->member->stat.step_ns_max))
		return;
	spin_lock(&idle->member->stat_lock);
	idle->member->stat.step_ns_max =
		max(idle->member->stat.step_ns_max, ns);
	spin_unlock(&idle->member->stat_lock);
}

/*
 * Pages that the guest has just populated wait for the LRU lists in batches of
 * some CPU, which hold references: they would be taken for pinned.  Draining all
 * of them waits for every CPU, so a worker does it, once for each pass.
 */
static void lru_drain(struct work_struct *work)
{
	lru_add_drain_all();
}

static DECLARE_WORK(lru_drain_work, lru_drain);

static void idle_work(struct idle *idle)
{
	struct dksm_vm *vm = idle->vm;
	unsigned long end;
	bool go_on = true;
	u64 begin;

	if (vm->phase == IDLE_LOOK && !vm->cursor)
		schedule_work(&lru_drain_work);
	while (go_on && vm->phase != IDLE_REST &&
	       !idle->ops->should_stop(idle->vcpu)) {
		begin = ktime_get_ns();
		if (idle->ops->next_range(idle->vcpu, &vm->cursor, &end))
			go_on = idle_step(idle, end);
		else
			phase_end(idle);
		step_time(idle, ktime_get_ns() - begin);
		cond_resched();
	}
}

/* Is there anything to do?  Starts the next pass if it is time. */
static bool idle_due(struct dksm_vm *vm, struct mm_struct *mm)
{
	if (vm->phase != IDLE_REST)
		return true;
	if (populated_pages(mm) < vm->next_pages &&
	    !(vm->again && time_after(jiffies, vm->rested_at + HZ)))
		return false;
	vm->phase = IDLE_LOOK;
	return true;
}

/* The first one in a domain allocates its table; see step_time(). */
static bool idle_begin(struct idle *idle, u64 begin)
{
	idle->batch = dksm_batch_alloc(DKSM_BATCH_QUICK);
	idle->join = dksm_batch_alloc(DKSM_BATCH_QUICK | DKSM_BATCH_JOIN);
	if (!idle->batch || !idle->join)
		return false;
	sights_get(idle->domain, populated_pages(idle->mm));
	step_time(idle, ktime_get_ns() - begin);
	return true;
}

static void idle_end(struct idle *idle, u64 begin)
{
	if (idle->vm->phase != IDLE_REST)
		idle->vm->gain += idle_gain(idle);
	dksm_batch_free(idle->join);
	dksm_batch_free(idle->batch);
	idle->report.ns = ktime_get_ns() - begin;
	atomic_long_add(idle->report.ns, &idle->domain->totals.idle_ns);
	dksm_stat_add(idle->member, &idle->member->stat.idle, &idle->report);
	trace_dksm_idle(idle->mm, &idle->report, idle->vm->phase);
}

static void idle_moment(struct dksm_vm *vm, const struct dksm_vm_ops *ops,
			void *vcpu)
{
	struct idle *idle = kzalloc(sizeof(*idle), DKSM_GFP);
	u64 begin = ktime_get_ns();

	if (!idle)
		return;
	idle->vm = vm;
	idle->ops = ops;
	idle->vcpu = vcpu;
	idle->mm = current->mm;
	idle->member = idle->mm->dksm;
	idle->domain = idle->member->domain;
	idle->learn = !(READ_ONCE(idle->member->attached) &
			DKSM_ATTACH_NO_LEARN) && !vm->passes;
	if (idle_begin(idle, begin))
		idle_work(idle);
	idle_end(idle, begin);
	kfree(idle);
}

/**
 * dksm_vm_idle - a virtual processor has nothing to do
 * @vm: the virtual machine, of current->mm
 * @ops: see there
 * @vcpu: for @ops
 *
 * If its process is attached with idle merging on, the virtual machine was
 * merged at its first KVM_RUN, and nobody else is at it: go on with merging until
 * there is something to do for the virtual processor.
 *
 * Context: may sleep.
 */
void dksm_vm_idle(struct dksm_vm *vm, const struct dksm_vm_ops *ops,
		  void *vcpu)
{
	struct dksm_mm *member = READ_ONCE(current->mm->dksm);
	u32 attached = READ_ONCE(member->attached);

	if (!attached || attached & DKSM_ATTACH_NO_IDLE ||
	    !test_bit(DKSM_VM_LOADED, &vm->flags) ||
	    test_and_set_bit_lock(DKSM_MM_IDLE, &member->flags))
		return;
	if (idle_due(vm, current->mm) && !ops->should_stop(vcpu))
		idle_moment(vm, ops, vcpu);
	clear_bit_unlock(DKSM_MM_IDLE, &member->flags);
}
EXPORT_SYMBOL_GPL(dksm_vm_idle);

#ifdef CONFIG_DKSM_KUNIT_TEST
#include "tests/idle_kunit.c"
#endif
