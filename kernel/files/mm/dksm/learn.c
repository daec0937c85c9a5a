// SPDX-License-Identifier: GPL-2.0
/*
 * Which contents are not worth sharing: those that are written to soon after
 * they were loaded, like initialised data, boot parameters and page tables.
 *
 * A write to a frame soon after the writer had it merged counts against its
 * content.  Once more than half of all who ever had the frame have written, the
 * content is volatile: the merges of attached virtual machines leave it alone.
 * Both are counted without a lock; a lost count is a little less learned.
 *
 * That holds for so many merges as the knob 'learn' says (a few more or less, so
 * that not all come up at once).  Then it is merged once more, and either it is
 * written to and learned again, or the workload has changed.
 *
 * Pages of zeroes are all alike, and many of them are written to: there it is the
 * place in the VMA that is learned, at the first write.  Virtual machines of one
 * kind have the same things in the same places; where another kind, or another
 * VMA, would have kept its zeroes, idle merging finds them a moment later.  (What
 * was part of a huge page is mapped to the zero page by splitting it, and does not
 * come here.)  Places have a half of the table for themselves.
 *
 * What is learned outlives frames: it is kept by hash, in a table per domain of
 * which the members' memory pays for the size.  A decision that finds no room
 * replaces the one that had least left.  It is only ever a hint, so an accident of
 * hashes costs sharing, not correctness.
 */
#include <linux/jiffies.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/sched/mm.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/vmalloc.h>
#include <linux/xxhash.h>

#include "internal.h"

/* Merges that a decision lasts for, up to DKSM_LEARN_MAX; 0: learn and heed nothing. */
unsigned int dksm_learn = 128;

/* A page written to later than this was worth sharing. */
#define LEARN_WINDOW	(30 * HZ)

/* Members pay 0.15 % of their memory; a guest that is Linux has up to 10 000 contents. */
#define LEARN_WAYS		4
#define LEARN_BYTES_A_PAGE	6
#define LEARN_BYTES_MAX		SZ_512K

/*
 * @tag: of the hash
 * @left: merges that the decision still lasts for; 0: the entry is free
 */
struct learned_entry {
	u32 tag;
	u16 left;
};

struct dksm_learned {
	u32 sets;		/* even */
	struct learned_entry entries[][LEARN_WAYS];
};

static size_t learned_bytes(const struct dksm_learned *learned)
{
	return PAGE_ALIGN(struct_size(learned, entries, learned->sets));
}

static struct learned_entry *learned_set(struct dksm_learned *learned, u32 tag)
{
	return learned->entries[tag % learned->sets];
}

static struct learned_entry *learned_find(struct dksm_learned *learned, u32 tag)
{
	struct learned_entry *entry = learned_set(learned, tag);
	int i;

	for (i = 0; i < LEARN_WAYS; i++)
		if (READ_ONCE(entry[i].tag) == tag && READ_ONCE(entry[i].left))
			return &entry[i];
	return NULL;
}

/* The one to be overwritten: a free one is the one with least left. */
static struct learned_entry *learned_victim(struct dksm_learned *learned,
					    u32 tag)
{
	struct learned_entry *entry = learned_set(learned, tag);
	struct learned_entry *victim = entry;
	int i;

	for (i = 1; i < LEARN_WAYS; i++)
		if (entry[i].left < victim->left)
			victim = &entry[i];
	return victim;
}

/* How many are new. */
static unsigned int learned_store(struct dksm_learned *learned, u32 tag,
				  u16 left)
{
	struct learned_entry *entry = learned_find(learned, tag);
	unsigned int added = 0;

	if (!entry) {
		entry = learned_victim(learned, tag);
		added = !entry->left;
		WRITE_ONCE(entry->tag, tag);
	}
	WRITE_ONCE(entry->left, left);
	return added;
}

static struct dksm_learned *learned_locked(struct dksm_domain *domain)
{
	return rcu_dereference_protected(domain->learned,
					 lockdep_is_held(&domain->learn_lock));
}

/* What the members pay for. */
static size_t learned_wanted(struct dksm_domain *domain)
{
	size_t bytes = dksm_members_pages(domain) * LEARN_BYTES_A_PAGE;

	return clamp(round_down(bytes, PAGE_SIZE), PAGE_SIZE, LEARN_BYTES_MAX);
}

static struct dksm_learned *learned_alloc(struct dksm_domain *domain,
					  size_t bytes)
{
	struct mem_cgroup *memcg = set_active_memcg(domain->memcg);
	/* kvzalloc() would round the size up to twice as much. */
	struct dksm_learned *learned =
		__vmalloc(bytes, DKSM_GFP | __GFP_ZERO);

	set_active_memcg(memcg);
	if (!learned)
		return NULL;
	learned->sets = ((bytes - sizeof(*learned)) /
			 sizeof(learned->entries[0])) & ~1U;
	atomic_long_add(learned_bytes(learned), &domain->metadata);
	return learned;
}

/*
 * How many were moved; some may have no room.  What is learned or forgotten
 * meanwhile may be missed: it is only a hint.
 */
static unsigned long learned_move(struct dksm_learned *to,
				  struct dksm_learned *from)
{
	struct learned_entry *entry;
	unsigned long nr = 0;
	u16 left;
	u32 i, tag;

	for (i = 0; i < from->sets * LEARN_WAYS; i++) {
		entry = &from->entries[0][i];
		left = READ_ONCE(entry->left);
		tag = READ_ONCE(entry->tag);
		if (left > learned_victim(to, tag)->left)
			nr += learned_store(to, tag, left);
		if (i % SZ_1K == 0)
			cond_resched();
	}
	return nr;
}

static bool learned_fits(const struct dksm_learned *learned, size_t wanted)
{
	return learned && wanted / 4 < learned_bytes(learned) / 3 &&
	       wanted / 3 > learned_bytes(learned) / 4;
}

/* @domain->learn_fit is held: nobody else replaces it. */
static void learned_replace(struct dksm_domain *domain,
			    struct dksm_learned *old, struct dksm_learned *new)
{
	unsigned long nr = old ? learned_move(new, old) : 0;

	spin_lock(&domain->learn_lock);
	rcu_assign_pointer(domain->learned, new);
	WRITE_ONCE(domain->learned_nr, nr);
	spin_unlock(&domain->learn_lock);
	if (!old)
		return;
	atomic_long_sub(learned_bytes(old), &domain->metadata);
	kvfree_rcu_mightsleep(old);
}

static int learned_fit(struct dksm_domain *domain)
{
	struct dksm_learned *new, *old =
		rcu_dereference_protected(domain->learned,
					  lockdep_is_held(&domain->learn_fit));
	size_t wanted = learned_wanted(domain);

	if (learned_fits(old, wanted))
		return 0;
	new = learned_alloc(domain, wanted);
	if (!new)
		return old ? 0 : -ENOMEM;
	learned_replace(domain, old, new);
	return 0;
}

/**
 * dksm_learn_fit - have as much room for what is going to be learned as is paid for
 * @domain: the domain
 *
 * Called when a process is attached, when a virtual machine was loaded, and when
 * members have gone.
 *
 * Context: process; may sleep.
 * Return: 0 or -ENOMEM; nothing is learned then.
 */
int dksm_learn_fit(struct dksm_domain *domain)
{
	int err;

	if (domain->untrusted || !READ_ONCE(dksm_learn))
		return 0;
	mutex_lock(&domain->learn_fit);
	err = learned_fit(domain);
	mutex_unlock(&domain->learn_fit);
	return err;
}

void dksm_learn_free(struct dksm_domain *domain)
{
	/* Nobody else is left. */
	struct dksm_learned *learned = rcu_dereference_raw(domain->learned);

	if (!learned)
		return;
	atomic_long_sub(learned_bytes(learned), &domain->metadata);
	vfree(learned);
}

/*
 * Keys: a content's is even, a place's is odd, so they meet in different sets.
 */

/**
 * dksm_learn_content - the key of a content
 * @hash: of a page that is not all zeroes
 */
u64 dksm_learn_content(u64 hash)
{
	return hash & ~1ULL;
}

/**
 * dksm_learn_place - the key of a page of zeroes
 * @domain: where it is learned
 * @vma: the VMA; it cannot change
 * @address: of the page, in @vma
 *
 * Return: a hash of the page's offset in @vma.
 */
u64 dksm_learn_place(struct dksm_domain *domain, struct vm_area_struct *vma,
		     unsigned long address)
{
	u64 offset = address - vma->vm_start;

	return xxh64(&offset, sizeof(offset), domain->seed) | 1;
}

static u32 learned_tag(u64 key)
{
	return key;
}

/* Not the same for all contents: else all would be tried again at once. */
static u16 learned_lasts(u32 tag)
{
	/* It was not 0 a moment ago; an entry without anything left is none. */
	u32 learn = max(READ_ONCE(dksm_learn), 1);

	return learn - learn / 4 + (tag >> 16) % (learn / 2 + 1);
}

static void learned_add(struct dksm_domain *domain, u64 key)
{
	u32 tag = learned_tag(key);
	struct dksm_learned *learned;

	spin_lock(&domain->learn_lock);
	learned = learned_locked(domain);
	if (learned)
		WRITE_ONCE(domain->learned_nr, domain->learned_nr +
			   learned_store(learned, tag, learned_lasts(tag)));
	spin_unlock(&domain->learn_lock);
}

/**
 * dksm_learn_begin - a page is published
 * @node: for it
 */
void dksm_learn_begin(struct dksm_node *node)
{
	WRITE_ONCE(node->shares, 1);
	WRITE_ONCE(node->breaks, 0);
}

/**
 * dksm_learn_share - somebody is going to have a frame
 * @node: the frame's; it cannot go away
 */
void dksm_learn_share(struct dksm_node *node)
{
	u16 shares = READ_ONCE(node->shares), breaks = READ_ONCE(node->breaks);

	if (shares == U16_MAX) {
		shares /= 2;
		WRITE_ONCE(node->breaks, breaks / 2);
	}
	WRITE_ONCE(node->shares, shares + 1);
}

/* Does it say anything that @member wrote to what was merged? */
static bool learns_from(struct dksm_mm *member)
{
	u32 attached = READ_ONCE(member->attached);

	return attached && !(attached & DKSM_ATTACH_NO_LEARN) &&
	       !member->domain->untrusted && READ_ONCE(dksm_learn) &&
	       time_before_eq(jiffies,
			      READ_ONCE(member->merged_at) + LEARN_WINDOW);
}

/**
 * dksm_learn_break - a frame is written to
 * @member: who writes
 * @node: the frame's; it cannot go away
 *
 * Context: a page fault, without page table lock.
 */
void dksm_learn_break(struct dksm_mm *member, struct dksm_node *node)
{
	u32 breaks;

	if (!learns_from(member))
		return;
	breaks = READ_ONCE(node->breaks) + 1;
	if (breaks <= U16_MAX)
		WRITE_ONCE(node->breaks, breaks);
	if (2 * breaks > READ_ONCE(node->shares))
		learned_add(member->domain, dksm_learn_content(node->hash));
}

/**
 * dksm_learn_zero_break - a page of zeroes that was merged is written to
 * @member: who writes
 * @vma: where; it cannot change
 * @address: of the page
 *
 * Context: as for dksm_learn_break().
 */
void dksm_learn_zero_break(struct dksm_mm *member, struct vm_area_struct *vma,
			   unsigned long address)
{
	if (learns_from(member))
		learned_add(member->domain,
			    dksm_learn_place(member->domain, vma, address));
}

/**
 * dksm_learned_volatile - is a content or place known as volatile?
 * @domain: where
 * @key: of the content or place
 */
bool dksm_learned_volatile(struct dksm_domain *domain, u64 key)
{
	struct dksm_learned *learned;
	bool found;

	if (!READ_ONCE(dksm_learn))
		return false;
	rcu_read_lock();
	learned = rcu_dereference(domain->learned);
	found = learned && learned_find(learned, learned_tag(key));
	rcu_read_unlock();
	return found;
}

/**
 * dksm_learned_spares - is a merge to leave a page alone?
 * @domain: where
 * @key: of the content or place
 *
 * As dksm_learned_volatile(), and takes one from what the decision lasts for.
 */
bool dksm_learned_spares(struct dksm_domain *domain, u64 key)
{
	struct dksm_learned *learned;
	struct learned_entry *entry;

	if (!dksm_learned_volatile(domain, key))
		return false;
	spin_lock(&domain->learn_lock);
	learned = learned_locked(domain);	/* was there a moment ago */
	entry = learned_find(learned, learned_tag(key));
	if (entry) {
		WRITE_ONCE(entry->left, entry->left - 1);
		WRITE_ONCE(domain->learned_nr, domain->learned_nr -
			   !entry->left);
	}
	spin_unlock(&domain->learn_lock);
	return entry;
}

/**
 * dksm_learned_count - how many contents are known as volatile
 * @domain: the domain
 */
long dksm_learned_count(struct dksm_domain *domain)
{
	return READ_ONCE(domain->learned_nr);
}

#ifdef CONFIG_DKSM_KUNIT_TEST
#include "tests/learn_kunit.c"
#endif
