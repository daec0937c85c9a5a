// SPDX-License-Identifier: GPL-2.0
/*
 * Domains and their members: who shares with whom, and for how long.
 *
 * A domain is found by name under dksm_domains_lock; its last reference is
 * dropped under the same lock, so that a name that is found is alive and a
 * name that is gone from the list is gone from sysfs too.
 *
 * mm->dksm is set once, by whoever wins the cmpxchg, and stays until the mm
 * has neither users nor page tables.  Whoever holds a reference on mm_users
 * may therefore read it without a lock.
 */
#include <linux/binfmts.h>
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/ctype.h>
#include <linux/ksm.h>
#include <linux/memcontrol.h>
#include <linux/mmap_lock.h>
#include <linux/random.h>
#include <linux/rhashtable.h>
#include <linux/slab.h>

#include "internal.h"

DEFINE_MUTEX(dksm_domains_lock);	/* protects dksm_domains */
LIST_HEAD(dksm_domains);
struct dksm_totals dksm_past;

/**
 * dksm_domain_may_use - may the caller share pages in this domain?
 * @domain: the domain
 *
 * Sharing tells its members something about each other, as ptrace would.
 */
bool dksm_domain_may_use(const struct dksm_domain *domain)
{
	return uid_eq(domain->owner, current_euid()) ||
	       capable(CAP_SYS_PTRACE);
}

static bool name_is_valid(const char *name)
{
	size_t i, len = strnlen(name, DKSM_NAME_SIZE);

	if (!len || len == DKSM_NAME_SIZE || name[0] == '.')
		return false;
	for (i = 0; i < len; i++)
		if (!isascii(name[i]) ||
		    (!isalnum(name[i]) && !strchr("._-", name[i])))
			return false;
	return true;
}

static struct dksm_domain *domain_find(const char *name)
{
	struct dksm_domain *domain;

	list_for_each_entry(domain, &dksm_domains, list)
		if (!strcmp(kobject_name(&domain->kobj), name))
			return domain;
	return NULL;
}

static struct dksm_domain *domain_create(const char *name, u32 flags)
{
	struct dksm_domain *domain;
	int err;

	domain = kzalloc(sizeof(*domain), GFP_KERNEL_ACCOUNT);
	if (!domain)
		return ERR_PTR(-ENOMEM);

	refcount_set(&domain->refs, 1);
	domain->owner = current_euid();
	domain->untrusted = flags & DKSM_DOMAIN_UNTRUSTED;
	domain->fresh_frames = flags & (DKSM_DOMAIN_FRESH_FRAMES |
					DKSM_DOMAIN_UNTRUSTED);
	spin_lock_init(&domain->lock);
	mutex_init(&domain->learn_fit);
	spin_lock_init(&domain->learn_lock);
	INIT_LIST_HEAD(&domain->extents);
	INIT_LIST_HEAD(&domain->members);
	get_random_bytes(&domain->seed, sizeof(domain->seed));
	err = dksm_candidates_init(domain);
	if (!err)
		err = dksm_index_init(domain);
	if (err) {
		dksm_candidates_free(domain);
		kfree(domain);
		return ERR_PTR(err);
	}
	domain->memcg = get_mem_cgroup_from_mm(current->mm);
	err = dksm_domain_sysfs_add(domain, name);
	if (err) {
		rhashtable_destroy(&domain->index);
		dksm_candidates_free(domain);
		mem_cgroup_put(domain->memcg);
		kobject_put(&domain->kobj);
		return ERR_PTR(err);
	}
	list_add_tail(&domain->list, &dksm_domains);
	return domain;
}

/**
 * dksm_domain_open - find or create a domain
 * @name: at most DKSM_NAME_SIZE bytes, not necessarily terminated
 * @flags: DKSM_DOMAIN_*, known ones only
 *
 * Return: the domain with a reference, or -EINVAL, -ENOENT, -EEXIST, -EACCES
 * or -ENOMEM as struct dksm_domain_args says.
 */
struct dksm_domain *dksm_domain_open(const char *name, u32 flags)
{
	struct dksm_domain *domain;

	if (!name_is_valid(name))
		return ERR_PTR(-EINVAL);

	mutex_lock(&dksm_domains_lock);
	domain = domain_find(name);
	if (!domain)
		domain = flags & DKSM_DOMAIN_CREATE ?
			 domain_create(name, flags) : ERR_PTR(-ENOENT);
	else if (flags & DKSM_DOMAIN_EXCL)
		domain = ERR_PTR(-EEXIST);
	else if (!dksm_domain_may_use(domain))
		domain = ERR_PTR(-EACCES);
	else if ((flags & DKSM_DOMAIN_FRESH_FRAMES && !domain->fresh_frames) ||
		 (flags & DKSM_DOMAIN_UNTRUSTED && !domain->untrusted))
		domain = ERR_PTR(-EINVAL);
	else
		dksm_domain_get(domain);
	mutex_unlock(&dksm_domains_lock);
	return domain;
}

void dksm_domain_get(struct dksm_domain *domain)
{
	refcount_inc(&domain->refs);
}

static void totals_keep(const struct dksm_totals *totals)
{
	atomic_long_add(atomic_long_read(&totals->cow_breaks),
			&dksm_past.cow_breaks);
	atomic_long_add(atomic_long_read(&totals->merge_calls),
			&dksm_past.merge_calls);
	atomic_long_add(atomic_long_read(&totals->merge_ns),
			&dksm_past.merge_ns);
	atomic_long_add(atomic_long_read(&totals->idle_ns),
			&dksm_past.idle_ns);
	atomic_long_add(atomic_long_read(&totals->idle_passes),
			&dksm_past.idle_passes);
	atomic_long_add(atomic_long_read(&totals->idle_changed),
			&dksm_past.idle_changed);
	atomic_long_add(atomic_long_read(&totals->idle_hashed),
			&dksm_past.idle_hashed);
	atomic_long_add(atomic_long_read(&totals->huge_split),
			&dksm_past.huge_split);
}

/**
 * dksm_domain_put - drop a reference; may sleep
 * @domain: the domain
 *
 * No member and no extent is left when the last reference goes, so neither is
 * a node in the index.
 */
void dksm_domain_put(struct dksm_domain *domain)
{
	if (!refcount_dec_and_mutex_lock(&domain->refs, &dksm_domains_lock))
		return;

	list_del(&domain->list);
	totals_keep(&domain->totals);
	kobject_del(&domain->kobj);
	mutex_unlock(&dksm_domains_lock);

	/* Its work item fits what is learned, too. */
	dksm_candidates_free(domain);
	dksm_learn_free(domain);
	mem_cgroup_put(domain->memcg);
	VM_WARN_ON_ONCE(atomic_long_read(&domain->frames));
	VM_WARN_ON_ONCE(atomic_long_read(&domain->metadata));
	rhashtable_destroy(&domain->index);
	kobject_put(&domain->kobj);
}

static struct dksm_mm *member_alloc(struct mm_struct *mm,
				    struct dksm_domain *domain)
{
	struct dksm_mm *member = kzalloc(sizeof(*member), GFP_KERNEL_ACCOUNT);

	if (!member)
		return NULL;
	member->mm = mm;
	member->domain = domain;
	mutex_init(&member->lock);
	INIT_LIST_HEAD(&member->maps);
	spin_lock_init(&member->stat_lock);
	xa_init(&member->seen);
	INIT_WORK(&member->tidy, dksm_maps_work);
	return member;
}

static void member_link(struct dksm_mm *member)
{
	struct dksm_domain *domain = member->domain;

	dksm_domain_get(domain);
	spin_lock_irq(&domain->lock);
	list_add_tail(&member->node, &domain->members);
	spin_unlock_irq(&domain->lock);
}

static void member_free(struct dksm_mm *member)
{
	struct dksm_domain *domain = member->domain;

	spin_lock_irq(&domain->lock);
	list_del(&member->node);
	spin_unlock_irq(&domain->lock);
	kfree(member);
	dksm_candidates_shrink(domain);
	dksm_domain_put(domain);
}

/* Under mmap_lock: a fork sees the membership from begin to end, or not at all. */
static int mm_set_member(struct mm_struct *mm, struct dksm_mm *new)
{
	struct dksm_mm *old;

	if (mmap_read_lock_killable(mm))
		return -EINTR;
	old = cmpxchg(&mm->dksm, NULL, new);
	mmap_read_unlock(mm);
	return old ? -EEXIST : 0;
}

/**
 * dksm_mm_join - make an mm a member of a domain
 * @mm: the caller holds a reference on mm_users
 * @domain: the domain
 *
 * Return: 0 also if it is a member already, -EXDEV if it is in another domain,
 * -ENOMEM, -EINTR (a fatal signal).
 */
int dksm_mm_join(struct mm_struct *mm, struct dksm_domain *domain)
{
	if (!READ_ONCE(mm->dksm)) {
		struct dksm_mm *new = member_alloc(mm, domain);
		int err;

		if (!new)
			return -ENOMEM;
		/* Linked first: once in mm->dksm it is used without a lock. */
		member_link(new);
		err = mm_set_member(mm, new);
		if (err)
			member_free(new);
		if (err != -EEXIST)
			return err;
	}
	return mm->dksm->domain == domain ? 0 : -EXDEV;
}

/* Zero pages are counted with those of the parent during a fork. */
static unsigned long member_pages(struct dksm_mm *member)
{
	return max_t(long, get_mm_counter(member->mm, MM_ANONPAGES) +
			   mm_ksm_zero_pages(member->mm), 0);
}

/**
 * dksm_members_pages - how much memory the members have
 * @domain: of theirs
 *
 * That pays for the tables of the domain.
 *
 * Return: populated pages.
 */
unsigned long dksm_members_pages(struct dksm_domain *domain)
{
	struct dksm_mm *member;
	unsigned long pages = 0;

	spin_lock_irq(&domain->lock);
	list_for_each_entry(member, &domain->members, node)
		pages += max(member_pages(member),
			     READ_ONCE(member->idle.populated));
	spin_unlock_irq(&domain->lock);
	return pages;
}

/**
 * dksm_mm_attach - merge the virtual machines of a member from now on
 * @mm: in a domain; the caller holds a reference on mm_users
 * @flags: DKSM_ATTACH_*, known ones only
 *
 * Return: 0 or -ENOMEM.
 */
int dksm_mm_attach(struct mm_struct *mm, u32 flags)
{
	int err = dksm_learn_fit(mm->dksm->domain);

	if (!err)
		WRITE_ONCE(mm->dksm->attached, DKSM_MM_ATTACHED | flags);
	return err;
}

/**
 * dksm_mm_detach - leave the virtual machines of an mm alone from now on
 * @mm: the caller holds a reference on mm_users
 *
 * What is merged stays merged, so @mm stays a member until it exits.
 *
 * Return: 0, or -ENOENT if it is not attached.
 */
int dksm_mm_detach(struct mm_struct *mm)
{
	struct dksm_mm *member = READ_ONCE(mm->dksm);

	return member && xchg(&member->attached, 0) ? 0 : -ENOENT;
}

/*
 * The child needs no maps: its VMAs are in the interval trees of the parent's
 * anon_vmas, to which the parent's maps point.
 */
int __dksm_fork(struct mm_struct *mm, struct mm_struct *oldmm)
{
	struct dksm_mm *member = member_alloc(mm, oldmm->dksm->domain);

	if (!member)
		return -ENOMEM;
	member->attached = READ_ONCE(oldmm->dksm->attached);
	/* See __dksm_forked(); what is unmapped until then counts below zero. */
	atomic_long_set(&mm->ksm_zero_pages, 0);
	mm->dksm = member;
	member_link(member);
	return 0;
}

/*
 * The page tables are copied, and all VMAs of @oldmm locked against faults.  As
 * many zero pages are added to the count of @mm as to the sum, so that
 * __dksm_exit() can take away what was not copied, or truncated meanwhile.
 * ksm_fork() is going to add the whole count of @mm if @oldmm is mergeable.
 */
void __dksm_forked(struct mm_struct *mm, struct mm_struct *oldmm)
{
	long pages = mm_ksm_zero_pages(oldmm);
	long truncated = atomic_long_fetch_add(pages, &mm->ksm_zero_pages);

	atomic_long_add(test_bit(MMF_VM_MERGEABLE, &oldmm->flags) ?
			-truncated : pages, &ksm_zero_pages);
}

/*
 * From begin_new_exec(): credentials are computed, bprm->mm is not used yet, and
 * an error is fatal.  An attachment goes to the new mm, unless the program may
 * do what its caller may not, or is not for the caller to read: then its memory
 * is none of the caller's business.
 */
int dksm_exec(struct linux_binprm *bprm)
{
	struct dksm_mm *old = current->mm ? READ_ONCE(current->mm->dksm) : NULL;
	struct dksm_mm *member;
	u32 attached = old ? READ_ONCE(old->attached) : 0;

	if (!attached || bprm->secureexec ||
	    bprm->interp_flags & BINPRM_FLAGS_ENFORCE_NONDUMP)
		return 0;
	member = member_alloc(bprm->mm, old->domain);
	if (!member)
		return -ENOMEM;
	member->attached = attached;
	bprm->mm->dksm = member;
	member_link(member);
	return 0;
}

void __dksm_exit(struct mm_struct *mm)
{
	struct dksm_mm *member = mm->dksm;

	mm->dksm = NULL;
	atomic_long_sub(mm_ksm_zero_pages(mm), &ksm_zero_pages);
	cancel_work_sync(&member->tidy);
	dksm_second_free(member->busy);
	dksm_maps_disown(member);
	dksm_seen_free(member);
	member_free(member);
}
