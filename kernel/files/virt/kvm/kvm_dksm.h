/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Where KVM calls DKSM: when a guest is about to run and when it is idle.  For a
 * virtual machine that is in no domain, one predictable branch.  What the loop
 * around the guest calls is in <linux/dksm.h>.
 */
#ifndef __KVM_DKSM_H__
#define __KVM_DKSM_H__

#include <linux/kvm_host.h>

#ifdef CONFIG_DKSM

void __dksm_vcpu_run(struct kvm_vcpu *vcpu);
bool __dksm_vcpu_idle(struct kvm_vcpu *vcpu,
		      int (*check_block)(struct kvm_vcpu *vcpu));

/* vcpu->wants_to_run is set. */
static inline void dksm_vcpu_run(struct kvm_vcpu *vcpu)
{
	if (unlikely(!test_bit(DKSM_VM_LOADED, &vcpu->kvm->dksm.flags) ||
		     READ_ONCE(vcpu->kvm->mm->dksm)))
		__dksm_vcpu_run(vcpu);
}

/* Polling is over; true if an event for the vCPU came, which shall not block. */
static inline bool dksm_vcpu_idle(struct kvm_vcpu *vcpu,
				  int (*check_block)(struct kvm_vcpu *vcpu))
{
	return unlikely(READ_ONCE(vcpu->kvm->mm->dksm)) &&
	       __dksm_vcpu_idle(vcpu, check_block);
}

#else

static inline void dksm_vcpu_run(struct kvm_vcpu *vcpu)
{
}

static inline bool dksm_vcpu_idle(struct kvm_vcpu *vcpu,
				  int (*check_block)(struct kvm_vcpu *vcpu))
{
	return false;
}

#endif /* CONFIG_DKSM */
#endif /* __KVM_DKSM_H__ */
