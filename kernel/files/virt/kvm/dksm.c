// SPDX-License-Identifier: GPL-2.0
/*
 * What DKSM wants to know of a virtual machine: where its memory is, and whether
 * a virtual processor has something better to do.
 *
 * Memslots are looked up one by one, each time from an address on, so that
 * kvm->srcu is not held while pages are merged, slots may come and go meanwhile,
 * and memory behind several slots (or address spaces) is visited once.
 */
#include <linux/dksm.h>
#include <linux/kvm_host.h>
#include <linux/sched/signal.h>

#include "kvm_dksm.h"

/**
 * struct idle_vcpu - a halted vCPU that works for DKSM
 * @vcpu:	the vCPU
 * @check_block: kvm_vcpu_check_block()
 * @event:	an event has come
 */
struct idle_vcpu {
	struct kvm_vcpu *vcpu;
	int (*check_block)(struct kvm_vcpu *vcpu);
	bool event;
};

/* The first slot of an address space with memory at or above @start. */
static void slots_next(struct kvm_memslots *slots, unsigned long start,
		       unsigned long *first, unsigned long *end)
{
	struct interval_tree_node *node;

	node = interval_tree_iter_first(&slots->hva_tree, start, ULONG_MAX);
	if (!node || node->start >= *first)
		return;
	*first = max(node->start, start);
	*end = node->last + 1;
}

static bool vm_next_range(struct kvm *kvm, unsigned long *start,
			  unsigned long *end)
{
	unsigned long first = ULONG_MAX;
	int i, idx = srcu_read_lock(&kvm->srcu);

	for (i = 0; i < kvm_arch_nr_memslot_as_ids(kvm); i++)
		slots_next(__kvm_memslots(kvm, i), *start, &first, end);
	srcu_read_unlock(&kvm->srcu, idx);
	*start = first;
	return first != ULONG_MAX;
}

static int run_next_range(void *vcpu, unsigned long *start,
			  unsigned long *end)
{
	return vm_next_range(((struct kvm_vcpu *)vcpu)->kvm, start, end);
}

static const struct dksm_vm_ops run_ops = {
	.next_range = run_next_range,
};

/*
 * Of all virtual machines of the process.  kvm_lock may be held by somebody who waits
 * for a vCPU that is in here.
 */
static int mm_next_range(struct mm_struct *mm, unsigned long *start,
			 unsigned long *end)
{
	unsigned long first = ULONG_MAX, last = 0, low, high;
	struct kvm *kvm;

	if (!mutex_trylock(&kvm_lock))
		return -EAGAIN;
	list_for_each_entry(kvm, &vm_list, vm_list) {
		low = *start;
		if (kvm->mm == mm && vm_next_range(kvm, &low, &high) &&
		    low < first) {
			first = low;
			last = high;
		}
	}
	mutex_unlock(&kvm_lock);
	*start = first;
	*end = last;
	return first != ULONG_MAX;
}

static int busy_next_range(void *vcpu, unsigned long *start,
			   unsigned long *end)
{
	return mm_next_range(((struct kvm_vcpu *)vcpu)->kvm->mm, start, end);
}

static bool busy_should_stop(void *vcpu)
{
	return signal_pending(current) || kvm_request_pending((struct kvm_vcpu *)vcpu);
}

static const struct dksm_vm_ops busy_ops = {
	.next_range = busy_next_range,
	.should_stop = busy_should_stop,
};

/* A vCPU that waits to be started does not enter the guest now. */
static bool enters_guest(struct kvm_vcpu *vcpu)
{
	struct kvm_mp_state mp;

	if (kvm_arch_vcpu_ioctl_get_mpstate(vcpu, &mp))
		return true;
	return mp.mp_state != KVM_MP_STATE_UNINITIALIZED &&
	       mp.mp_state != KVM_MP_STATE_INIT_RECEIVED &&
	       mp.mp_state != KVM_MP_STATE_STOPPED;
}

/*
 * The signal mask is what it will be in the guest, so that a signal found now is
 * one that keeps the vCPU from entering it.
 */
void __dksm_vcpu_run(struct kvm_vcpu *vcpu)
{
	struct dksm_vm *vm = &vcpu->kvm->dksm;

	if (!vcpu->wants_to_run)
		return;
	/* One that always comes back from user space is never seen in the loop. */
	if (dksm_vm_may_busy(vm))
		dksm_vm_busy(vm, &busy_ops, vcpu);
	if (!dksm_vm_is_due(vm) || !enters_guest(vcpu))
		return;
	kvm_sigset_activate(vcpu);
	dksm_vm_load(vm, &run_ops, vcpu);
	kvm_sigset_deactivate(vcpu);
}

static int idle_next_range(void *arg, unsigned long *start,
			   unsigned long *end)
{
	return mm_next_range(((struct idle_vcpu *)arg)->vcpu->kvm->mm, start,
			     end);
}

/*
 * Is another vCPU in KVM_RUN and does not block?  Not whether it is in the guest
 * this very moment: it may have been preempted.
 */
static bool others_run(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu *other;
	unsigned long i;

	kvm_for_each_vcpu(i, other, vcpu->kvm)
		if (other != vcpu && READ_ONCE(other->wants_to_run) &&
		    !READ_ONCE(other->stat.generic.blocking))
			return true;
	return false;
}

static bool idle_should_stop(void *arg)
{
	struct idle_vcpu *idle = arg;

	idle->event = idle->check_block(idle->vcpu) < 0;
	return idle->event || others_run(idle->vcpu);
}

static const struct dksm_vm_ops idle_ops = {
	.next_range = idle_next_range,
	.should_stop = idle_should_stop,
};

bool __dksm_vcpu_idle(struct kvm_vcpu *vcpu,
		      int (*check_block)(struct kvm_vcpu *vcpu))
{
	struct idle_vcpu idle = { .vcpu = vcpu, .check_block = check_block };

	dksm_vm_idle(&vcpu->kvm->dksm, &idle_ops, &idle);
	return idle.event;
}

/* From the loop around the guest, between two entries. */
void dksm_vcpu_busy(struct kvm_vcpu *vcpu)
{
	if (likely(!READ_ONCE(vcpu->kvm->mm->dksm)) ||
	    !dksm_vm_may_busy(&vcpu->kvm->dksm))
		return;
	kvm_vcpu_srcu_read_unlock(vcpu);
	dksm_vm_busy(&vcpu->kvm->dksm, &busy_ops, vcpu);
	kvm_vcpu_srcu_read_lock(vcpu);
}
