// SPDX-License-Identifier: GPL-2.0
/*
 * Walking a range of an mm: merge it, unmerge it, count what is merged in it.
 *
 * mmap_lock is taken for read and given up often: a writer never waits for more
 * than a batch.
 */
#include <linux/gfp.h>
#include <linux/hugetlb.h>
#include <linux/ksm.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/pagewalk.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/sizes.h>
#include <trace/events/dksm.h>

#include "../internal.h"
#include "internal.h"

/**
 * dksm_vma_skip_reason - can pages of this VMA be merged?
 * @vma: mmap_lock is held
 *
 * Return: why not, an &enum dksm_skip; or DKSM_NOT_SKIPPED.
 */
int dksm_vma_skip_reason(struct vm_area_struct *vma)
{
	if (is_vm_hugetlb_page(vma))
		return DKSM_SKIP_HUGETLB;
	if (vma->vm_flags & (VM_SHARED | VM_MAYSHARE))
		return DKSM_SKIP_SHARED;
	/* exec is going to move it: try_to_migrate() would spare it, too. */
	if (vma_is_temporary_stack(vma))
		return DKSM_SKIP_BUSY;
	if (vma->vm_flags & (VM_PFNMAP | VM_IO | VM_DONTEXPAND | VM_MIXEDMAP |
			     VM_DROPPABLE) || vma_is_dax(vma))
		return DKSM_SKIP_DEVICE;
	return DKSM_NOT_SKIPPED;
}

/* Pages of a load between two looks for a signal. */
#define LOAD_STEP_PAGES	64
/* To pass so many pages that are none to be merged costs as much as to look at one. */
#define LOAD_PASS_PAGES	16
/* A larger table of candidates has room for what is loaded while it is rebuilt. */
#define LOAD_TABLE_MAX	SZ_256K

/**
 * struct walk - a walk over the VMAs of a range
 * @report:	where to count
 * @batch:	for merging
 * @second:	for loading
 * @looked:	pages looked at, dksm_load_pages at most
 * @signals:	any signal ends it, not only a fatal one
 * @next:	in one VMA: where to go on, or what was found
 * @counted:	the last page that was counted as unmerged
 * @holes:	pages of the range that no VMA covers
 */
struct walk {
	struct dksm_report *report;
	struct dksm_batch *batch;
	struct dksm_second *second;
	unsigned long *looked;
	bool signals;
	unsigned long next;
	unsigned long counted;
	unsigned long holes;
};

static bool walk_is_interrupted(const struct walk *walk)
{
	return walk->signals ? signal_pending(current) :
			       fatal_signal_pending(current);
}

static bool walk_should_pause(const struct walk *walk, struct mm_struct *mm)
{
	return need_resched() || mmap_lock_is_contended(mm) ||
	       walk_is_interrupted(walk);
}

static int merge_pmd(pmd_t *pmd, unsigned long addr, unsigned long next,
		     struct mm_walk *mm_walk)
{
	struct walk *walk = mm_walk->private;

	if (!dksm_batch_merge(walk->batch, mm_walk->vma, pmd, addr, next, NULL,
			      NULL)) {
		walk->next = addr;
		return 1;	/* to be drained, without mmap_lock */
	}
	walk->next = next;
	return walk_should_pause(walk, mm_walk->mm);
}

static const struct mm_walk_ops merge_ops = {
	.pmd_entry = merge_pmd,
	.walk_lock = PGWALK_RDLOCK,
};

static void vma_skip(struct dksm_report *report, unsigned long len, int reason)
{
	report->scanned += len >> PAGE_SHIFT;
	report->skipped[reason] += len >> PAGE_SHIFT;
}

/* Merge in one VMA until done, or for a while. */
static int vma_merge(struct vm_area_struct *vma, unsigned long *addr,
		     unsigned long end, struct walk *walk)
{
	int reason = dksm_vma_skip_reason(vma);

	if (reason != DKSM_NOT_SKIPPED)
		vma_skip(walk->report, end - *addr, reason);
	else if (walk_page_range_vma(vma, *addr, end, &merge_ops, walk))
		end = walk->next;
	*addr = end;
	return 0;
}

/* What range_walk() does to the part of a VMA: up to *@addr, *@end at most. */
typedef int (*vma_fn)(struct vm_area_struct *vma, unsigned long *addr,
		      unsigned long end, struct walk *walk);

static int range_walk(struct mm_struct *mm, unsigned long *addr,
		      unsigned long end, vma_fn fn, struct walk *walk)
{
	int err = 0;

	while (!err && *addr < end) {
		struct vm_area_struct *vma;
		unsigned long next;

		cond_resched();
		if (mmap_read_lock_killable(mm))
			return -EINTR;
		vma = find_vma(mm, *addr);
		next = vma ? clamp(vma->vm_start, *addr, end) : end;
		walk->holes += (next - *addr) >> PAGE_SHIFT;
		*addr = next;
		if (*addr < end)
			err = fn(vma, addr, min(end, vma->vm_end), walk);
		mmap_read_unlock(mm);
		if (walk->batch)
			dksm_batch_drain(walk->batch);
		if (walk_is_interrupted(walk))
			return -EINTR;
	}
	return err;
}

/**
 * dksm_range_merge - merge a range of an mm that is in a domain
 * @mm: the caller holds a reference on mm_users
 * @batch: from dksm_batch_alloc()
 * @flags: DKSM_BATCH_*
 * @start: page-aligned; out: how far it came
 * @end: page-aligned
 * @report: counts are added here, also on error
 * @holes: out: pages of the range that are not mapped
 *
 * Context: process, no locks held.
 * Return: 0, or -EINTR (a fatal signal; any with DKSM_BATCH_SIGNALS).
 */
int dksm_range_merge(struct mm_struct *mm, struct dksm_batch *batch,
		     unsigned int flags, unsigned long *start,
		     unsigned long end, struct dksm_report *report,
		     unsigned long *holes)
{
	struct walk walk = {
		.report = report,
		.batch = batch,
		.signals = flags & DKSM_BATCH_SIGNALS,
	};
	int err;

	dksm_batch_begin(batch, mm->dksm, report, flags);
	err = range_walk(mm, start, end, vma_merge, &walk);
	*holes = walk.holes;
	return err;
}

static int load_stops(struct walk *walk)
{
	if (signal_pending(current))
		return -EINTR;
	return *walk->looked >= READ_ONCE(dksm_load_pages) ? -ENOSPC : 0;
}

/* To hash, merge, publish, or have another join a page: about as much each. */
static unsigned long load_work(const struct dksm_second *second)
{
	const struct dksm_report *report = second->report;

	return second->hashed + report->merged + report->published +
	       report->zero + second->joined;
}

static int load_pmd(pmd_t *pmd, unsigned long addr, unsigned long next,
		    struct mm_walk *mm_walk)
{
	struct walk *walk = mm_walk->private;
	unsigned long begin = addr, end, before;
	int err;

	while (!(err = load_stops(walk)) && addr < next) {
		dksm_candidates_fit(walk->second->domain, LOAD_TABLE_MAX);
		before = load_work(walk->second);
		end = min(addr + LOAD_STEP_PAGES * PAGE_SIZE, next);
		end = dksm_second_merge(walk->second, mm_walk->vma, pmd, addr,
					end, NULL);
		dksm_second_join(walk->second);
		*walk->looked += load_work(walk->second) - before +
				 ((end - addr) >> PAGE_SHIFT) / LOAD_PASS_PAGES;
		addr = end;
		if (addr == next && dksm_second_again(walk->second))
			addr = begin;
	}
	walk->next = addr;
	return err ?: walk_should_pause(walk, mm_walk->mm);
}

static const struct mm_walk_ops load_ops = {
	.pmd_entry = load_pmd,
	.walk_lock = PGWALK_RDLOCK,
};

/* Load in one VMA until done, or for a while. */
static int vma_load(struct vm_area_struct *vma, unsigned long *addr,
		    unsigned long end, struct walk *walk)
{
	int reason = dksm_vma_skip_reason(vma), err = 0;

	if (reason != DKSM_NOT_SKIPPED) {
		vma_skip(walk->report, end - *addr, reason);
	} else {
		err = walk_page_range_vma(vma, *addr, end, &load_ops, walk);
		if (err)
			end = walk->next;
	}
	*addr = end;
	return min(err, 0);
}

/**
 * dksm_range_load - merge a range of an mm on second sight, before it is used
 * @mm: the caller holds a reference on mm_users
 * @second: for @mm
 * @start: page-aligned; out: how far it came
 * @end: page-aligned
 * @looked: pages looked at so far, including those of earlier calls
 * @holes: out: pages of the range that are not mapped
 *
 * Context: process, no locks held.
 * Return: 0, -EINTR (a signal), or -ENOSPC (dksm_load_pages were looked at).
 */
int dksm_range_load(struct mm_struct *mm, struct dksm_second *second,
		    unsigned long *start, unsigned long end,
		    unsigned long *looked, unsigned long *holes)
{
	struct walk walk = {
		.report = second->report,
		.second = second,
		.looked = looked,
		.signals = true,
	};
	int err;

	err = range_walk(mm, start, end, vma_load, &walk);
	*holes = walk.holes;
	return err;
}

/**
 * dksm_merge_account - a merge is over
 * @mm: whose
 * @report: what it did; the time is set here
 * @begin: when it began, in nanoseconds
 * @err: how it ended
 */
void dksm_merge_account(struct mm_struct *mm, struct dksm_report *report,
			u64 begin, int err)
{
	struct dksm_totals *totals = &mm->dksm->domain->totals;

	dksm_maps_tidy(mm->dksm);
	report->ns = ktime_get_ns() - begin;
	atomic_long_inc(&totals->merge_calls);
	atomic_long_add(report->ns, &totals->merge_ns);
	trace_dksm_merge(mm, report, err);
}

/**
 * dksm_merge - what DKSM_IOC_MERGE does
 * @mm: in a domain; the caller holds a reference on mm_users
 * @start: page-aligned
 * @end: page-aligned
 * @sparse: it is no error if part of the range is not mapped
 * @report: counts are added here, also on error
 *
 * Context: process, no locks held.
 * Return: 0, -ENOMEM (part of the range is not mapped; or no memory to begin
 * with), -EINTR (a fatal signal).
 */
int dksm_merge(struct mm_struct *mm, unsigned long start, unsigned long end,
	       bool sparse, struct dksm_report *report)
{
	struct dksm_batch *batch = dksm_batch_alloc(GFP_KERNEL_ACCOUNT);
	u64 begin = ktime_get_ns();
	unsigned long holes;
	int err;

	if (!batch)
		return -ENOMEM;
	err = dksm_range_merge(mm, batch, DKSM_BATCH_DRAIN, &start, end, report,
			       &holes);
	dksm_batch_free(batch);
	if (!err && holes && !sparse)
		err = -ENOMEM;		/* as madvise() */
	dksm_merge_account(mm, report, begin, err);
	return err;
}

/* From UFFDIO_MOVE: a zero page that a merge put there? */
bool dksm_zero_pte(struct mm_struct *mm, pte_t pte)
{
	return READ_ONCE(mm->dksm) && is_ksm_zero_pte(pte);
}

/* The frame that this PTE maps, or NULL. */
static struct folio *pte_frame(struct vm_area_struct *vma, unsigned long addr,
			       pte_t pte)
{
	struct page *page;

	if (!pte_present(pte))
		return NULL;
	page = vm_normal_page(vma, addr, pte);
	return page && folio_test_dksm(page_folio(page)) ? page_folio(page) :
							   NULL;
}

static bool pte_is_merged(struct vm_area_struct *vma, unsigned long addr,
			  pte_t pte)
{
	return (pte_present(pte) && is_ksm_zero_pte(pte)) ||
	       pte_frame(vma, addr, pte);
}

/**
 * dksm_may_collapse - may small pages become a huge one?
 * @vma: where
 * @address: of the first one
 * @pte: its entry, mapped and with page table lock
 *
 * That gives each of them a copy.  As with KSM they may, unless so many are merged
 * that a huge page would be split for them.
 */
bool dksm_may_collapse(struct vm_area_struct *vma, unsigned long address,
		       pte_t *pte)
{
	unsigned int i, left = READ_ONCE(dksm_huge_min);

	if (!READ_ONCE(vma->vm_mm->dksm))
		return true;
	for (i = 0; i < PTRS_PER_PTE && left; i++, address += PAGE_SIZE, pte++)
		left -= pte_is_merged(vma, address, ptep_get(pte));
	return left;
}

static int find_merged_pmd(pmd_t *pmd, unsigned long addr, unsigned long next,
			   struct mm_walk *mm_walk)
{
	struct walk *walk = mm_walk->private;
	pte_t *start, *ptep;
	spinlock_t *ptl;	/* of the page table */
	int found = 0;

	start = pte_offset_map_lock(mm_walk->mm, pmd, addr, &ptl);
	if (!start)
		return 0;
	ptep = start;
	for (; addr < next && !found; addr += PAGE_SIZE, ptep++) {
		if (pte_is_merged(mm_walk->vma, addr, ptep_get(ptep))) {
			walk->next = addr;
			found = 1;
		}
	}
	pte_unmap_unlock(start, ptl);
	return found;
}

static const struct mm_walk_ops find_merged_ops = {
	.pmd_entry = find_merged_pmd,
	.walk_lock = PGWALK_RDLOCK,
};

/*
 * Would a copy be had without killing somebody for it?  A page fault cannot be told
 * to do without, neither for the host nor for the memory cgroup of the mm.  Others may
 * take it before the fault does.
 */
static bool has_room(struct vm_area_struct *vma, unsigned long addr)
{
	const gfp_t gfp = GFP_HIGHUSER_MOVABLE | __GFP_RETRY_MAYFAIL |
			  __GFP_NOWARN;
	struct folio *folio = vma_alloc_folio(gfp, 0, vma, addr, false);
	bool room = folio && !mem_cgroup_charge(folio, vma->vm_mm, gfp);

	if (folio)
		folio_put(folio);
	return room;
}

/* 0 also if another fault is needed: something changed below this one. */
static int unshare(struct vm_area_struct *vma, unsigned long addr)
{
	vm_fault_t fault;

	if (!has_room(vma, addr))
		return -ENOMEM;
	fault = handle_mm_fault(vma, addr, FAULT_FLAG_UNSHARE |
					   FAULT_FLAG_REMOTE, NULL);
	if (fault & VM_FAULT_OOM)
		return -ENOMEM;
	return fault & VM_FAULT_ERROR ? -EFAULT : 0;
}

/* Unmerge in one VMA until done, or for a while. */
static int vma_unmerge(struct vm_area_struct *vma, unsigned long *addr,
		       unsigned long end, struct walk *walk)
{
	struct dksm_report *report = walk->report;
	int err;

	if (dksm_vma_skip_reason(vma) != DKSM_NOT_SKIPPED)
		goto done;
	while (walk_page_range_vma(vma, *addr, end, &find_merged_ops, walk)) {
		*addr = walk->next;
		if (walk->counted != *addr) {
			report->scanned++;
			report->unmerged++;
			walk->counted = *addr;
		}
		err = unshare(vma, *addr);
		if (err) {
			report->unmerged--;
			if (err == -ENOMEM)
				return err;
			*addr += PAGE_SIZE;	/* the mm is being reaped */
		}
		if (walk_should_pause(walk, vma->vm_mm))
			return 0;
	}
done:
	*addr = end;
	return 0;
}

/**
 * dksm_unmerge - give every merged page of a range a private copy
 * @mm: the caller holds a reference on mm_users
 * @start: page-aligned
 * @end: page-aligned
 * @sparse: it is no error if part of the range is not mapped
 * @report: counts are added here, also on error
 *
 * Zero pages that KSM put there are copied, too: the two look the same.  In an
 * @mm that is in no domain there is nothing else to be found.
 *
 * Where there is no memory for a copy it ends: nobody is killed for it.  It may leave
 * little to others.
 *
 * Context: process, no locks held.
 * Return: 0, -ENOMEM (part of the range is not mapped; or no memory for a
 * copy), -EINTR (a fatal signal).
 */
int dksm_unmerge(struct mm_struct *mm, unsigned long start, unsigned long end,
		 bool sparse, struct dksm_report *report)
{
	struct walk walk = { .report = report, .counted = ULONG_MAX };
	struct dksm_mm *member = READ_ONCE(mm->dksm);
	u64 begin = ktime_get_ns();
	int err;

	err = range_walk(mm, &start, end, vma_unmerge, &walk);
	if (!err && walk.holes && !sparse)
		err = -ENOMEM;		/* as madvise() */
	if (member)
		dksm_maps_prune(member);
	report->ns = ktime_get_ns() - begin;
	return err;
}

/**
 * struct dksm_mm_count - pages of one mm
 * @merged:	map a frame
 * @sharing:	of these, the frame is mapped more than once
 */
struct dksm_mm_count {
	unsigned long merged;
	unsigned long sharing;
};

static int count_pmd(pmd_t *pmd, unsigned long addr, unsigned long next,
		     struct mm_walk *mm_walk)
{
	struct dksm_mm_count *count = mm_walk->private;
	pte_t *start, *ptep;
	spinlock_t *ptl;	/* of the page table */

	start = pte_offset_map_lock(mm_walk->mm, pmd, addr, &ptl);
	if (!start)
		return 0;
	ptep = start;
	for (; addr < next; addr += PAGE_SIZE, ptep++) {
		struct folio *frame = pte_frame(mm_walk->vma, addr,
						ptep_get(ptep));

		if (!frame)
			continue;
		count->merged++;
		count->sharing += folio_mapcount(frame) > 1;
	}
	pte_unmap_unlock(start, ptl);
	cond_resched();
	return 0;
}

static const struct mm_walk_ops count_ops = {
	.pmd_entry = count_pmd,
	.walk_lock = PGWALK_RDLOCK,
};

static int mm_count(struct mm_struct *mm, struct dksm_mm_count *count)
{
	VMA_ITERATOR(vmi, mm, 0);
	struct vm_area_struct *vma;

	if (mmap_read_lock_killable(mm))
		return -EINTR;
	for_each_vma(vmi, vma)
		if (dksm_vma_skip_reason(vma) == DKSM_NOT_SKIPPED)
			walk_page_range_vma(vma, vma->vm_start, vma->vm_end,
					    &count_ops, count);
	mmap_read_unlock(mm);
	return 0;
}

/* What one of the triggers did, each line beginning with its name. */
static void report_show(struct seq_file *m, const char *name,
			const struct dksm_report *report)
{
	int i;

	seq_printf(m, "%s_scanned %llu\n", name, report->scanned);
	seq_printf(m, "%s_merged %llu\n", name, report->merged);
	seq_printf(m, "%s_published %llu\n", name, report->published);
	seq_printf(m, "%s_zero %llu\n", name, report->zero);
	seq_printf(m, "%s_ns %llu\n", name, report->ns);
	seq_printf(m, "%s_skipped", name);
	for (i = 0; i < DKSM_SKIP_NR; i++)
		seq_printf(m, " %llu", report->skipped[i]);
	seq_putc(m, '\n');
}

static const char *const whys[] = {
	[DKSM_WHY_NONE] = "none",
	[DKSM_WHY_GROWN] = "grown",
	[DKSM_WHY_CHANGED] = "changed",
	[DKSM_WHY_OWED] = "owed",
	[DKSM_WHY_ATTACHED] = "attached",
};

static void attachment_show(struct seq_file *m, struct dksm_mm *member)
{
	u32 attached = READ_ONCE(member->attached);
	bool idle = attached && !member->domain->untrusted;
	struct dksm_mm_stat stat;

	spin_lock(&member->stat_lock);
	stat = member->stat;
	spin_unlock(&member->stat_lock);

	seq_printf(m, "attached %d\n", !!attached);
	seq_printf(m, "idle %d\n",
		   idle && !(attached & DKSM_ATTACH_NO_IDLE));
	seq_printf(m, "learn %d\n",
		   idle && !(attached & DKSM_ATTACH_NO_LEARN));
	seq_printf(m, "huge_split %ld\n",
		   atomic_long_read(&member->huge_split));
	seq_printf(m, "vms %llu\n", stat.vms);
	report_show(m, "load", &stat.load);
	report_show(m, "attach", &stat.attach);
	seq_printf(m, "idle_passes %llu\n", stat.passes);
	seq_printf(m, "idle_rounds %llu\n", stat.rounds);
	seq_printf(m, "idle_why %s\n", whys[stat.why]);
	seq_printf(m, "idle_changed %llu\n", stat.changed);
	seq_printf(m, "idle_hashed %llu\n", stat.hashed);
	seq_printf(m, "idle_step_ns_max %llu\n", stat.step_ns_max);
	report_show(m, "idle", &stat.idle);
	report_show(m, "vmm", &stat.vmm);
}

static int mm_show(struct seq_file *m, struct mm_struct *mm)
{
	struct dksm_mm_count count = { };
	int err = mm_count(mm, &count);

	if (err)
		return err;
	seq_printf(m, "domain %s\n", kobject_name(&mm->dksm->domain->kobj));
	seq_printf(m, "pages_merged %lu\n", count.merged);
	seq_printf(m, "pages_sharing %lu\n", count.sharing);
	seq_printf(m, "pages_zero %ld\n", mm_ksm_zero_pages(mm));
	seq_printf(m, "cow_breaks %ld\n",
		   atomic_long_read(&mm->dksm->cow_breaks));
	attachment_show(m, mm->dksm);
	return 0;
}

/* /proc/PID/dksm_stat: empty if the process is in no domain. */
int dksm_proc_stat(struct seq_file *m, struct pid_namespace *ns,
		   struct pid *pid, struct task_struct *task)
{
	struct mm_struct *mm = get_task_mm(task);
	int err = 0;

	if (!mm)
		return 0;
	if (READ_ONCE(mm->dksm))
		err = mm_show(m, mm);
	mmput(mm);
	return err;
}
