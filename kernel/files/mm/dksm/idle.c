// SPDX-License-Identifier: GPL-2.0
/*
 * Merging what guests populated or changed since they were loaded, on time that they
 * do not use.
 *
 * When a virtual processor of an attached process has nothing to do and no other
 * one is in the guest, it works on a *pass* over the memory of the process, a few
 * pages at a time, and asks before each step whether an event has come.  It goes on
 * where it was at the next idle moment.  A pass has two phases:
 *
 *   look   remember a hash of each page
 *   act    merge on second sight what has not changed since (second.c)
 *
 * When there is to be one is said by round.c.
 *
 * A guest that is never idle is worked for at moments when its thread is in the kernel
 * anyway, on a small part of its time.  Whoever attaches a process that runs a virtual
 * machine already does a pass of its own.
 */
#include <linux/dksm.h>
#include <linux/export.h>
#include <linux/jiffies.h>
#include <linux/ksm.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/pagewalk.h>
#include <linux/sched/cputime.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/swap.h>
#include <trace/events/dksm.h>

#include "../internal.h"
#include "internal.h"

/*
 * Pages between two looks for an event.  A step ends earlier at a page that needs
 * work on another process, too.
 */
#define STEP_PAGES	4
/* VMAs and page tables without pages that a step may pass. */
#define STEP_TRIES	16

/*
 * Time of a guest that is never idle which may be used; 0: none.  At 1 %, a moment
 * comes every 10 ms: longer than it takes to prepare for it, and no guest is late.
 */
unsigned int dksm_busy_percent = 1;
#define BUSY_NS		(100 * NSEC_PER_USEC)

/**
 * struct idle_range - where guest memory is
 * @from:	from here to @start there is none
 * @start:	guest memory
 * @end:	its end; all 0 if not known yet
 */
struct idle_range {
	unsigned long from;
	unsigned long start;
	unsigned long end;
};

/**
 * struct idle - some work on a pass; large, so not on the stack
 * @ops:	see there; NULL for whoever attaches the process
 * @vcpu:	for @ops
 * @ns:		for how long, and one step at least; 0 for no limit
 * @deadline:	stop at this time, in nanoseconds; 0 for not yet
 * @mm:		of the virtual machine
 * @member:	of @mm; DKSM_MM_IDLE is held
 * @attached:	what @member was when this began
 * @round:	in @member
 * @range:	where guest memory is
 * @second:	for what is merged
 * @guest:	what was done in guest memory, or by whoever attaches
 * @vmm:	what was done elsewhere
 */
struct idle {
	const struct dksm_vm_ops *ops;
	void *vcpu;
	u64 ns;
	u64 deadline;
	struct mm_struct *mm;
	struct dksm_mm *member;
	u32 attached;
	struct dksm_idle *round;
	struct idle_range range;
	struct dksm_second *second;
	struct dksm_report guest;
	struct dksm_report vmm;
};

/* Hashes: of the pages below a page table, by address. */

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

/**
 * dksm_seen_free - forget what was seen of an mm
 * @member: its membership, which goes, or DKSM_MM_IDLE is held
 */
void dksm_seen_free(struct dksm_mm *member)
{
	unsigned long index;
	u32 *block;

	xa_for_each(&member->seen, index, block)
		kfree(block);
	xa_destroy(&member->seen);
}

/* Steps: a few pages of one VMA and one page table. */

struct step {
	struct vm_area_struct *vma;
	pmd_t *pmd;
	unsigned long start;
	unsigned long end;
};

static void step_look(struct idle *idle, struct step *step)
{
	u32 *block = seen_block(idle->member, step->start, true);
	unsigned long address;

	for (address = step->start; block && address < step->end;
	     address += PAGE_SIZE)
		if (dksm_second_hash(idle->second->domain, step->vma, address,
				     &block[(address & ~PMD_MASK) >> PAGE_SHIFT]))
			idle->second->hashed++;
}

/* The end of a page table or VMA: begin again, to split what is huge, or forget. */
static void step_act_end(struct idle *idle, struct step *step)
{
	unsigned long table = step->start & PMD_MASK;

	if (dksm_second_again(idle->second))
		idle->round->cursor = max(table, step->vma->vm_start);
	else if (!(step->end & ~PMD_MASK))
		seen_forget(idle->member, step->start);
}

static void step_act(struct idle *idle, struct step *step, unsigned long end)
{
	u32 *block = seen_block(idle->member, step->start, false);
	unsigned long next = step->end;

	if (block)
		next = dksm_second_merge(idle->second, step->vma, step->pmd,
					 step->start, step->end, block);
	idle->round->cursor = next;
	if (!(next & ~PMD_MASK) || next == step->vma->vm_end || next == end)
		step_act_end(idle, step);
}

/* Does a step begin at the cursor?  If not, it moves over where there is nothing. */
static bool step_begins(struct idle *idle, struct step *step,
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

/* Where the next step is; not looked for too long.  mmap_lock is held. */
static bool step_find(struct idle *idle, struct step *step, unsigned long end)
{
	unsigned long *cursor = &idle->round->cursor;
	int tries;

	for (tries = 0; tries < STEP_TRIES && *cursor < end; tries++)
		if (step_begins(idle, step, cursor, end))
			return true;
	return false;
}

/* A vCPU waits for nobody, whoever attaches may. */
static bool idle_mmap_lock(struct idle *idle)
{
	return idle->ops ? mmap_read_trylock(idle->mm) :
			   !mmap_read_lock_killable(idle->mm);
}

/* False if mmap_lock is not to be had: then this moment is over. */
static bool idle_step(struct idle *idle, unsigned long end)
{
	struct step step;

	/* A vCPU goes on when there is room again, whoever attaches makes it. */
	if (!dksm_candidates_fit(idle->second->domain,
				 idle->ops ? 0 : SIZE_MAX) && idle->ops)
		return false;
	if (!idle_mmap_lock(idle))
		return false;
	if (step_find(idle, &step, end)) {
		if (idle->round->phase == DKSM_IDLE_LOOK) {
			step_look(idle, &step);
			idle->round->cursor = step.end;
		} else {
			step_act(idle, &step, end);
		}
	}
	mmap_read_unlock(idle->mm);
	dksm_second_join(idle->second);
	return true;
}

static unsigned long idle_gain(struct idle *idle)
{
	return idle->guest.merged + idle->guest.published + idle->guest.zero +
	       idle->vmm.merged + idle->vmm.published + idle->vmm.zero +
	       idle->second->joined;
}

static void pass_end(struct idle *idle)
{
	idle->round->gain += idle_gain(idle);
	dksm_seen_free(idle->member);
	dksm_round_pass(idle->member);
	dksm_maps_tidy(idle->member);
}

/* The memory of this phase is done. */
static void phase_end(struct idle *idle)
{
	idle->round->cursor = 0;
	if (idle->round->phase == DKSM_IDLE_LOOK) {
		idle->round->alone = 0;
		idle->round->unstable = 0;
		idle->round->phase = DKSM_IDLE_ACT;
	} else {
		idle->round->phase = DKSM_IDLE_REST;
		pass_end(idle);
	}
}

/* Moments */

static void step_time(struct idle *idle, u64 ns)
{
	if (!idle->ops || ns <= READ_ONCE(idle->member->stat.step_ns_max))
		return;
	spin_lock(&idle->member->stat_lock);
	idle->member->stat.step_ns_max =
		max(idle->member->stat.step_ns_max, ns);
	spin_unlock(&idle->member->stat_lock);
}

/* Guest memory at or after the cursor; false if that cannot be said now. */
static bool idle_find_range(struct idle *idle)
{
	struct idle_range *range = &idle->range;
	unsigned long cursor = idle->round->cursor;
	unsigned long start = cursor, end = 0;
	int found;

	if (!idle->ops || (cursor >= range->from && cursor < range->end))
		return true;
	found = idle->ops->next_range(idle->vcpu, &start, &end);
	if (found < 0)
		return false;
	range->from = cursor;
	range->start = found ? start : ULONG_MAX;
	range->end = found ? end : ULONG_MAX;
	return true;
}

/*
 * Where to go on, and how far at most: nothing is in both guest memory and not.
 * False if there is nothing any more.
 */
static bool idle_next(struct idle *idle, unsigned long *end)
{
	const struct idle_range *range = &idle->range;
	unsigned long cursor = idle->round->cursor;

	idle->second->report = &idle->guest;
	*end = ULONG_MAX & PAGE_MASK;
	if (!idle->ops)
		return cursor < *end;
	if (cursor < range->start && idle->attached & DKSM_ATTACH_NO_VMM) {
		cursor = min(range->start, *end);
		idle->round->cursor = cursor;
	}
	if (cursor < range->start)
		idle->second->report = &idle->vmm;
	*end = min(*end, cursor < range->start ? range->start : range->end);
	return cursor < *end;
}

static bool idle_should_stop(struct idle *idle)
{
	if (!idle->ops)
		return fatal_signal_pending(current);
	return (idle->deadline && ktime_get_ns() >= idle->deadline) ||
	       idle->ops->should_stop(idle->vcpu);
}

static void idle_work(struct idle *idle)
{
	struct dksm_idle *round = idle->round;
	unsigned long end;
	bool go_on = true;
	u64 begin;

	/* Pages that were just populated would be taken for pinned. */
	if (idle->ops && round->phase == DKSM_IDLE_LOOK && !round->cursor)
		dksm_drain_later();
	while (go_on && round->phase != DKSM_IDLE_REST && !idle_should_stop(idle)) {
		begin = ktime_get_ns();
		go_on = idle_find_range(idle);
		if (go_on && idle_next(idle, &end))
			go_on = idle_step(idle, end);
		else if (go_on)
			phase_end(idle);
		step_time(idle, ktime_get_ns() - begin);
		/* However long it took to prepare: else there might be no progress. */
		if (idle->ns && !idle->deadline)
			idle->deadline = begin + idle->ns;
		cond_resched();
	}
}

static struct idle *idle_alloc(struct dksm_mm *member, u32 attached,
			       unsigned int flags)
{
	struct idle *idle = kzalloc(sizeof(*idle), DKSM_GFP);

	if (!idle)
		return NULL;
	idle->mm = member->mm;
	idle->member = member;
	idle->attached = attached;
	idle->round = &member->idle;
	idle->second = member->busy ?: dksm_second_alloc(member, flags);
	member->busy = NULL;
	if (!idle->second) {
		kfree(idle);
		return NULL;
	}
	idle->second->flags = flags;
	idle->second->hashed = 0;
	idle->second->joined = 0;
	idle->second->walk = &member->idle.walk;
	idle->second->round = &member->idle;
	idle->second->report = &idle->guest;
	return idle;
}

/**
 * dksm_idle_spent - count what was spent on looking
 * @member: for whom
 * @hashed: pages
 * @ns: nanoseconds
 */
void dksm_idle_spent(struct dksm_mm *member, unsigned long hashed, u64 ns)
{
	struct dksm_totals *totals = &member->domain->totals;

	atomic_long_add(ns, &totals->idle_ns);
	atomic_long_add(hashed, &totals->idle_hashed);
	spin_lock(&member->stat_lock);
	member->stat.hashed += hashed;
	spin_unlock(&member->stat_lock);
}

static void idle_account(struct idle *idle, u64 begin)
{
	struct dksm_mm *member = idle->member;

	if (idle->round->phase != DKSM_IDLE_REST)
		idle->round->gain += idle_gain(idle);
	idle->guest.ns = ktime_get_ns() - begin;
	dksm_idle_spent(member, idle->second->hashed, idle->guest.ns);
	dksm_stat_add(member, idle->ops ? &member->stat.idle :
					  &member->stat.attach, &idle->guest);
	dksm_stat_add(member, &member->stat.vmm, &idle->vmm);
	trace_dksm_idle(idle->mm, &idle->guest, idle->round->phase);
}

/* To prepare for a moment takes longer than a busy one lasts: keep that for the next. */
static void idle_free(struct idle *idle)
{
	if (idle->ns && idle->round->phase != DKSM_IDLE_REST)
		idle->member->busy = idle->second;
	else
		dksm_second_free(idle->second);
	kfree(idle);
}

static void idle_moment(struct dksm_mm *member, u32 attached, u64 ns,
			const struct dksm_vm_ops *ops, void *vcpu)
{
	u64 begin = ktime_get_ns();
	struct idle *idle = idle_alloc(member, attached, DKSM_BATCH_QUICK);
	const struct dksm_idle *round = &member->idle;

	if (!idle)
		return;
	idle->ops = ops;
	idle->vcpu = vcpu;
	idle->ns = ns;
	idle->second->learn = !(attached & DKSM_ATTACH_NO_LEARN) &&
			      round->fresh && !round->passes;
	step_time(idle, ktime_get_ns() - begin);
	idle_work(idle);
	idle_account(idle, begin);
	idle_free(idle);
}

static bool idle_lock(struct dksm_mm *member)
{
	return !test_and_set_bit_lock(DKSM_MM_IDLE, &member->flags);
}

static void idle_unlock(struct dksm_mm *member)
{
	clear_bit_unlock(DKSM_MM_IDLE, &member->flags);
}

/* What the process is attached with, if it is to be merged when idle. */
static u32 idle_attached(const struct dksm_vm *vm, const struct dksm_mm *member)
{
	u32 attached = READ_ONCE(member->attached);

	return attached & DKSM_ATTACH_NO_IDLE || member->domain->untrusted ||
	       !test_bit(DKSM_VM_LOADED, &vm->flags) ? 0 : attached;
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
	u32 attached = idle_attached(vm, member);

	if (!attached || !idle_lock(member))
		return;
	if (dksm_round_due(member) && !ops->should_stop(vcpu))
		idle_moment(member, attached, 0, ops, vcpu);
	idle_unlock(member);
}
EXPORT_SYMBOL_GPL(dksm_vm_idle);

/*
 * For a moment, and then not before that is its part of the time, and of what the
 * threads of the process have run: others that run in between are neither spent nor
 * waited for, and several processors do not make it more for the one that pays.
 */
static void busy_moment(struct dksm_mm *member, u32 attached,
			const struct dksm_vm_ops *ops, void *vcpu)
{
	unsigned int percent = clamp(READ_ONCE(dksm_busy_percent), 1U, 100U);
	u64 begin = ktime_get_ns(), ran, spent;

	if (begin < member->idle.busy_ns)
		return;
	ran = dksm_process_ran();
	if (ran < member->idle.busy_ran)
		return;
	spent = task_sched_runtime(current);
	idle_moment(member, attached, BUSY_NS, ops, vcpu);
	spent = task_sched_runtime(current) - spent;
	member->idle.busy_ns = begin + spent * 100 / percent;
	member->idle.busy_ran = ran + spent * 100 / percent;
}

/**
 * dksm_vm_may_busy - is it worth calling dksm_vm_busy()?
 * @vm: the virtual machine, of current->mm
 *
 * Once in a jiffy at most, so that nothing else need be cheap.
 */
bool dksm_vm_may_busy(const struct dksm_vm *vm)
{
	const struct dksm_mm *member = READ_ONCE(current->mm->dksm);
	unsigned long now = jiffies;

	return member && READ_ONCE(dksm_busy_percent) &&
	       READ_ONCE(member->idle.busy_at) != now &&
	       idle_attached(vm, member);
}
EXPORT_SYMBOL_GPL(dksm_vm_may_busy);

/**
 * dksm_vm_busy - a virtual processor is in the kernel, and goes back to the guest
 * @vm: the virtual machine, of current->mm, for which dksm_vm_may_busy()
 * @ops: see there
 * @vcpu: for @ops
 *
 * As dksm_vm_idle(), for guests that are never idle: on dksm_busy_percent of the time.
 *
 * Context: may sleep.
 */
void dksm_vm_busy(struct dksm_vm *vm, const struct dksm_vm_ops *ops,
		  void *vcpu)
{
	struct dksm_mm *member = READ_ONCE(current->mm->dksm);
	u32 attached = idle_attached(vm, member);

	if (!attached || !idle_lock(member))
		return;
	WRITE_ONCE(member->idle.busy_at, jiffies);
	if (dksm_round_due(member))
		busy_moment(member, attached, ops, vcpu);
	idle_unlock(member);
}
EXPORT_SYMBOL_GPL(dksm_vm_busy);

/**
 * dksm_attach_merge - merge the virtual machines that a process runs already
 * @mm: attached with idle merging; the caller holds a reference on mm_users
 *
 * A pass of its own over all of its memory, whoever of its threads runs; one that is
 * under way is waited for.  A fatal signal ends it.
 *
 * Context: process, no locks held.  May sleep.
 */
void dksm_attach_merge(struct mm_struct *mm)
{
	struct dksm_mm *member = mm->dksm;
	u32 attached = READ_ONCE(member->attached);
	bool learn = !(attached & DKSM_ATTACH_NO_LEARN), locked;
	u64 begin = ktime_get_ns();
	struct idle *idle;

	lru_add_drain_all();
	while (!(locked = idle_lock(member)) && !fatal_signal_pending(current))
		schedule_timeout_killable(1);
	if (!locked)
		return;
	idle = idle_alloc(member, attached, learn ? DKSM_BATCH_LEARN : 0);
	if (idle) {
		idle->second->learn = learn;
		dksm_seen_free(member);
		dksm_round_begin(member, DKSM_WHY_ATTACHED);
		idle_work(idle);
		idle_account(idle, begin);
		idle_free(idle);
	}
	idle_unlock(member);
}
