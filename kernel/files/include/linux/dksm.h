/* SPDX-License-Identifier: GPL-2.0 */
/*
 * DKSM, daemonless kernel same-page merging: what the rest of the kernel calls.
 *
 * A DKSM frame is an anonymous folio of KSM's kind (PAGE_MAPPING_KSM), so
 * that the fault, swap and migration paths already treat it right: nobody can
 * write to it, a write fault copies.  Bit 2 of folio->mapping tells it from a
 * folio of ksmd; the rest of the word points to the frame's node.
 *
 * Every hook is an inline that does nothing for what is not DKSM's, and
 * nothing at all without CONFIG_DKSM.
 */
#ifndef _LINUX_DKSM_H
#define _LINUX_DKSM_H

#include <linux/mm_types.h>
#include <linux/page-flags.h>

struct kvm_vcpu;
struct linux_binprm;
struct list_head;
struct pid;
struct pid_namespace;
struct rmap_walk_control;
struct seq_file;
struct task_struct;
struct vm_fault;

/* Called for DKSM's frames only, so never without CONFIG_DKSM. */
void dksm_folio_migrate(struct folio *newfolio, struct folio *folio);
void dksm_rmap_walk(struct folio *folio, struct rmap_walk_control *rwc);
void dksm_collect_procs(struct folio *folio, struct page *page,
			struct list_head *to_kill, int force_early);

#ifdef CONFIG_DKSM

#define DKSM_MAPPING_TAG	0x4UL
#define DKSM_MAPPING_FLAGS	(PAGE_MAPPING_KSM | DKSM_MAPPING_TAG)

/**
 * folio_test_dksm - is this a frame shared through DKSM?
 * @folio: any folio
 *
 * The answer is stable while the folio is locked and referenced.
 */
static inline bool folio_test_dksm(const struct folio *folio)
{
	unsigned long mapping = (unsigned long)READ_ONCE(folio->mapping);

	return (mapping & DKSM_MAPPING_FLAGS) == DKSM_MAPPING_FLAGS;
}

/* Without CONFIG_DKSM, not even the page's head is looked up. */
static inline bool page_test_dksm(const struct page *page)
{
	return folio_test_dksm(page_folio(page));
}

bool dksm_zero_pte(struct mm_struct *mm, pte_t pte);
bool dksm_may_collapse(struct vm_area_struct *vma, unsigned long address,
		       pte_t *pte);
bool folio_trylock_unless_dksm(struct folio *folio);
void __dksm_folio_free(struct folio *folio);
void __dksm_cow_break(struct vm_fault *vmf, struct folio *folio);
void __dksm_zero_break(struct vm_fault *vmf);
int __dksm_fork(struct mm_struct *mm, struct mm_struct *oldmm);
void __dksm_forked(struct mm_struct *mm, struct mm_struct *oldmm);
void __dksm_exit(struct mm_struct *mm);
int dksm_exec(struct linux_binprm *bprm);
int dksm_proc_stat(struct seq_file *m, struct pid_namespace *ns,
		   struct pid *pid, struct task_struct *task);

/* From free_pages_prepare(), in any context. */
static inline void dksm_folio_free(struct folio *folio)
{
	if (unlikely(folio_test_dksm(folio)))
		__dksm_folio_free(folio);
}

/* A page is about to be copied; no @folio: it is special, like the zero page. */
static inline void dksm_cow_break(struct vm_fault *vmf,
				  struct vm_area_struct *vma,
				  struct folio *folio)
{
	if (folio && folio_test_dksm(folio))
		__dksm_cow_break(vmf, folio);
	else if (!folio && READ_ONCE(vma->vm_mm->dksm))
		__dksm_zero_break(vmf);
}

static inline void dksm_init_mm(struct mm_struct *mm)
{
	mm->dksm = NULL;
}

/* mmap_lock of @oldmm held for write; nothing is copied to @mm yet. */
static inline int dksm_fork(struct mm_struct *mm, struct mm_struct *oldmm)
{
	return READ_ONCE(oldmm->dksm) ? __dksm_fork(mm, oldmm) : 0;
}

/* All VMAs of @oldmm are locked for write, all page tables copied. */
static inline void dksm_forked(struct mm_struct *mm, struct mm_struct *oldmm)
{
	if (mm->dksm)
		__dksm_forked(mm, oldmm);
}

/* The page tables of @mm are gone. */
static inline void dksm_exit(struct mm_struct *mm)
{
	if (mm->dksm)
		__dksm_exit(mm);
}

enum {
	DKSM_VM_BUSY,		/* bit lock */
	DKSM_VM_LOADED,		/* was merged before it ran, or ran before that */
};

/**
 * struct dksm_vm - what is known of a virtual machine
 * @flags:	DKSM_VM_*, bit numbers
 * @cursor:	address where the merge before it runs goes on; DKSM_VM_BUSY
 * @looked:	pages that it has looked at so far; likewise
 *
 * All zero for a new one.
 */
struct dksm_vm {
	unsigned long flags;
	unsigned long cursor;
	unsigned long looked;
};

/**
 * struct dksm_vm_ops - what merging asks of a virtual machine
 * @next_range:	finds the first guest memory [*start, *end) at or above *start: of
 *		the virtual machine before it runs, of its process when it is idle;
 *		1 if there is some, 0 if there is none, -EAGAIN if it cannot be
 *		said now
 * @should_stop: must the virtual processor do something else at once?
 */
struct dksm_vm_ops {
	int (*next_range)(void *vcpu, unsigned long *start, unsigned long *end);
	bool (*should_stop)(void *vcpu);
};

bool dksm_vm_is_due(struct dksm_vm *vm);
bool dksm_vm_may_busy(const struct dksm_vm *vm);
void dksm_vm_load(struct dksm_vm *vm, const struct dksm_vm_ops *ops,
		  void *vcpu);
void dksm_vm_idle(struct dksm_vm *vm, const struct dksm_vm_ops *ops,
		  void *vcpu);
void dksm_vm_busy(struct dksm_vm *vm, const struct dksm_vm_ops *ops,
		  void *vcpu);
void dksm_vcpu_busy(struct kvm_vcpu *vcpu);

#else /* !CONFIG_DKSM */

static inline bool folio_test_dksm(const struct folio *folio)
{
	return false;
}

static inline bool page_test_dksm(const struct page *page)
{
	return false;
}

static inline bool dksm_zero_pte(struct mm_struct *mm, pte_t pte)
{
	return false;
}

static inline bool dksm_may_collapse(struct vm_area_struct *vma,
				     unsigned long address, pte_t *pte)
{
	return true;
}

#define folio_trylock_unless_dksm(folio)	folio_trylock(folio)

static inline void dksm_folio_free(struct folio *folio)
{
}

static inline void dksm_cow_break(struct vm_fault *vmf,
				  struct vm_area_struct *vma,
				  struct folio *folio)
{
}

static inline void dksm_init_mm(struct mm_struct *mm)
{
}

static inline int dksm_fork(struct mm_struct *mm, struct mm_struct *oldmm)
{
	return 0;
}

static inline void dksm_forked(struct mm_struct *mm, struct mm_struct *oldmm)
{
}

static inline void dksm_exit(struct mm_struct *mm)
{
}

static inline int dksm_exec(struct linux_binprm *bprm)
{
	return 0;
}

static inline void dksm_vcpu_busy(struct kvm_vcpu *vcpu)
{
}

#endif /* CONFIG_DKSM */
#endif /* _LINUX_DKSM_H */
