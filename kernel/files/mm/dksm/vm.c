// SPDX-License-Identifier: GPL-2.0
/*
 * Virtual machines of attached processes, merged without anybody asking: what
 * their VMM has loaded before the first instruction runs, and from then on what
 * idle.c does.  KVM calls from virt/kvm/dksm.c, in the thread of a virtual
 * processor, with nothing but vcpu->mutex held.
 *
 * DKSM_VM_BUSY is a bit lock: one thread at a time works on a virtual machine.
 * At the first KVM_RUN the other virtual processors wait for it, so that none
 * enters the guest before the merge is over; idle ones do not wait.
 */
#include <linux/dksm.h>
#include <linux/export.h>
#include <linux/jiffies.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/sizes.h>
#include <linux/swap.h>
#include <linux/wait_bit.h>

#include "internal.h"

/*
 * What a first KVM_RUN looks at, at most: 14 MiB, in 20 million instructions if nobody
 * has the same.
 */
unsigned int dksm_load_pages = 14 * SZ_1M / PAGE_SIZE;

static void report_add(struct dksm_report *sum,
		       const struct dksm_report *report)
{
	int i;

	sum->scanned += report->scanned;
	sum->merged += report->merged;
	sum->published += report->published;
	sum->zero += report->zero;
	sum->ns += report->ns;
	for (i = 0; i < DKSM_SKIP_MAX; i++)
		sum->skipped[i] += report->skipped[i];
}

/**
 * dksm_stat_add - count what a trigger did
 * @member: for whom
 * @sum: in @member->stat
 * @report: what
 */
void dksm_stat_add(struct dksm_mm *member, struct dksm_report *sum,
		   const struct dksm_report *report)
{
	spin_lock(&member->stat_lock);
	report_add(sum, report);
	spin_unlock(&member->stat_lock);
	/* What is written to from now on teaches, for a while. */
	if (report->merged || report->published || report->zero)
		WRITE_ONCE(member->merged_at, jiffies);
}

/* Merge @vm on from its cursor: all of it on first sight, or as dksm_range_load(). */
static int vm_ranges_merge(struct dksm_vm *vm, struct dksm_batch *batch,
			   struct dksm_second *second,
			   const struct dksm_vm_ops *ops, void *vcpu,
			   struct dksm_report *report)
{
	struct mm_struct *mm = current->mm;
	unsigned long end, holes;
	int err = 0;

	while (!err && ops->next_range(vcpu, &vm->cursor, &end) > 0) {
		err = second ?
		      dksm_range_load(mm, second, &vm->cursor, end, &vm->looked,
				      &holes) :
		      dksm_range_merge(mm, batch, DKSM_BATCH_SIGNALS,
				       &vm->cursor, end, report, &holes);
		report->scanned += holes;
		report->skipped[DKSM_SKIP_UNMAPPED] += holes;
	}
	return err == -ENOSPC ? 0 : err;
}

static int vm_merge_report(struct dksm_vm *vm, struct dksm_mm *member,
			   const struct dksm_vm_ops *ops, void *vcpu,
			   struct dksm_report *report)
{
	bool learn = !(READ_ONCE(member->attached) & DKSM_ATTACH_NO_LEARN);
	struct dksm_second *second = NULL;
	struct dksm_batch *batch = NULL;
	int err = -ENOMEM;

	if (member->domain->untrusted) {
		batch = dksm_batch_alloc(GFP_KERNEL_ACCOUNT);
	} else {
		/* What this thread has loaded; the rest is for who comes next. */
		lru_add_drain();
		dksm_drain_later();
		second = dksm_second_alloc(member, learn ? DKSM_BATCH_LEARN : 0);
	}
	if (second) {
		second->report = report;
		second->learn = learn;
	}
	if (batch || second)
		err = vm_ranges_merge(vm, batch, second, ops, vcpu, report);
	/* For what it is going to write to. */
	dksm_learn_fit(member->domain);
	dksm_second_free(second);
	dksm_batch_free(batch);
	return err;
}

static int vm_merge(struct dksm_vm *vm, struct dksm_mm *member,
		    const struct dksm_vm_ops *ops, void *vcpu)
{
	struct dksm_report report = { };
	u64 begin = ktime_get_ns();
	int err = vm_merge_report(vm, member, ops, vcpu, &report);

	dksm_merge_account(member->mm, &report, begin, err);
	dksm_stat_add(member, &member->stat.load, &report);
	if (err)
		return err;
	spin_lock(&member->stat_lock);
	member->stat.vms++;
	spin_unlock(&member->stat_lock);
	return 0;
}

/**
 * dksm_vm_is_due - is a virtual machine to be merged before it runs?
 * @vm: the virtual machine, of current->mm
 *
 * Return: whether its process is attached, and this was not done before.
 */
bool dksm_vm_is_due(struct dksm_vm *vm)
{
	struct dksm_mm *member = READ_ONCE(current->mm->dksm);

	if (test_bit(DKSM_VM_LOADED, &vm->flags))
		return false;
	if (member && READ_ONCE(member->attached))
		return true;
	/* It runs now: from then on, whoever attaches its process merges it. */
	set_bit(DKSM_VM_LOADED, &vm->flags);
	return false;
}
EXPORT_SYMBOL_GPL(dksm_vm_is_due);

/**
 * dksm_vm_load - a virtual processor is about to enter the guest
 * @vm: the virtual machine, for which dksm_vm_is_due()
 * @ops: see there
 * @vcpu: for @ops
 *
 * Merge its memory, dksm_load_pages of it at most, unless another thread does or
 * did.  With a signal pending, KVM will not enter the guest: neither is anything
 * merged, nor waited for, and what was begun goes on in the next KVM_RUN.
 *
 * Context: may sleep.
 */
void dksm_vm_load(struct dksm_vm *vm, const struct dksm_vm_ops *ops,
		  void *vcpu)
{
	struct dksm_mm *member = READ_ONCE(current->mm->dksm);

	do {
		/* Again, if another thread took the signal that ended the wait. */
		if (signal_pending(current))
			return;
	} while (wait_on_bit_lock(&vm->flags, DKSM_VM_BUSY,
				  TASK_INTERRUPTIBLE));
	/* Without memory to begin with, the guest's next entry tries again. */
	if (!test_bit(DKSM_VM_LOADED, &vm->flags) &&
	    !vm_merge(vm, member, ops, vcpu))
		set_bit(DKSM_VM_LOADED, &vm->flags);
	clear_and_wake_up_bit(DKSM_VM_BUSY, &vm->flags);
}
EXPORT_SYMBOL_GPL(dksm_vm_load);
