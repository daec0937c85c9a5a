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
 * What is learned outlives frames: it is kept by hash, in a table of fixed size
 * per domain.  A decision that finds no room replaces the one that had least
 * left.  It is only ever a hint, so an accident of hashes costs sharing, not
 * correctness.
 */
#include <linux/jiffies.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/vmalloc.h>
#include <linux/xxhash.h>

#include "internal.h"

/* Merges that a decision lasts for, up to DKSM_LEARN_MAX; 0: learn and heed nothing. */
unsigned int dksm_learn = 128;

/* A page written to later than this was worth sharing. */
#define LEARN_WINDOW	(30 * HZ)

/* 64 Ki contents in 256 KiB; a guest that is Linux has up to 10 000. */
#define LEARN_WAYS	4
#define LEARN_SETS	16384

/*
 * @tag: of the hash, of which other bits chose the set
 * @left: merges that the decision still lasts for; 0: the entry is free
 */
struct learned_entry {
	u16 tag;
	u16 left;
};

struct dksm_learned {
	spinlock_t lock;	/* entries; they may be read without */
	atomic_long_t count;
	struct learned_entry entries[LEARN_SETS][LEARN_WAYS];
};

/**
 * dksm_learn_prepare - have room for what is going to be learned
 * @domain: the domain
 *
 * Return: 0 or -ENOMEM; nothing is learned then.
 */
int dksm_learn_prepare(struct dksm_domain *domain)
{
	struct dksm_learned *learned;

	if (READ_ONCE(domain->learned) || !READ_ONCE(dksm_learn))
		return 0;
	/* kvzalloc() would round the size up to twice as much. */
	learned = __vmalloc(sizeof(*learned), GFP_KERNEL_ACCOUNT | __GFP_ZERO);
	if (!learned)
		return -ENOMEM;
	spin_lock_init(&learned->lock);
	if (cmpxchg(&domain->learned, NULL, learned))
		vfree(learned);
	else
		atomic_long_add(sizeof(*learned), &domain->metadata);
	return 0;
}

void dksm_learn_free(struct dksm_domain *domain)
{
	if (!domain->learned)
		return;
	atomic_long_sub(sizeof(*domain->learned), &domain->metadata);
	vfree(domain->learned);
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

static struct learned_entry *learned_set(struct dksm_learned *learned, u64 key)
{
	return learned->entries[key % LEARN_SETS];
}

static u16 learned_tag(u64 key)
{
	return key >> 48;
}

static struct learned_entry *learned_find(struct dksm_learned *learned,
					  u64 key)
{
	struct learned_entry *entry = learned_set(learned, key);
	int i;

	for (i = 0; i < LEARN_WAYS; i++)
		if (READ_ONCE(entry[i].tag) == learned_tag(key) &&
		    READ_ONCE(entry[i].left))
			return &entry[i];
	return NULL;
}

/* The one to be overwritten: a free one is the one with least left. */
static struct learned_entry *learned_victim(struct dksm_learned *learned,
					    u64 key)
{
	struct learned_entry *entry = learned_set(learned, key);
	struct learned_entry *victim = entry;
	int i;

	for (i = 1; i < LEARN_WAYS; i++)
		if (entry[i].left < victim->left)
			victim = &entry[i];
	return victim;
}

/* Not the same for all contents: else all would be tried again at once. */
static u16 learned_lasts(u64 key)
{
	/* It was not 0 a moment ago; an entry without anything left is none. */
	u32 learn = max(READ_ONCE(dksm_learn), 1);

	return learn - learn / 4 + learned_tag(key) % (learn / 2 + 1);
}

static void learned_add(struct dksm_learned *learned, u64 key)
{
	struct learned_entry *entry;

	spin_lock(&learned->lock);
	entry = learned_find(learned, key);
	if (!entry) {
		entry = learned_victim(learned, key);
		if (!entry->left)
			atomic_long_inc(&learned->count);
		WRITE_ONCE(entry->tag, learned_tag(key));
	}
	WRITE_ONCE(entry->left, learned_lasts(key));
	spin_unlock(&learned->lock);
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

/* Where to note that @member wrote to what was merged, or NULL if that says nothing. */
static struct dksm_learned *learned_from(struct dksm_mm *member)
{
	u32 attached = READ_ONCE(member->attached);

	if (!attached || attached & DKSM_ATTACH_NO_LEARN ||
	    member->domain->untrusted || !READ_ONCE(dksm_learn) ||
	    time_after(jiffies, READ_ONCE(member->merged_at) + LEARN_WINDOW))
		return NULL;
	/* Pairs with cmpxchg() in dksm_learn_prepare(). */
	return smp_load_acquire(&member->domain->learned);
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
	struct dksm_learned *learned = learned_from(member);
	u32 breaks;

	if (!learned)
		return;
	breaks = READ_ONCE(node->breaks) + 1;
	if (breaks <= U16_MAX)
		WRITE_ONCE(node->breaks, breaks);
	if (2 * breaks > READ_ONCE(node->shares))
		learned_add(learned, dksm_learn_content(node->hash));
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
	struct dksm_learned *learned = learned_from(member);

	if (learned)
		learned_add(learned, dksm_learn_place(member->domain, vma,
						      address));
}

/**
 * dksm_learned_volatile - is a content or place known as volatile?
 * @domain: where
 * @key: of the content or place
 */
bool dksm_learned_volatile(struct dksm_domain *domain, u64 key)
{
	/* Pairs with cmpxchg() in dksm_learn_prepare(). */
	struct dksm_learned *learned = smp_load_acquire(&domain->learned);

	return learned && READ_ONCE(dksm_learn) && learned_find(learned, key);
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
	learned = READ_ONCE(domain->learned);	/* was there a moment ago */
	spin_lock(&learned->lock);
	entry = learned_find(learned, key);
	if (entry) {
		WRITE_ONCE(entry->left, entry->left - 1);
		if (!entry->left)
			atomic_long_dec(&learned->count);
	}
	spin_unlock(&learned->lock);
	return entry;
}

/**
 * dksm_learned_count - how many contents are known as volatile
 * @domain: the domain
 */
long dksm_learned_count(struct dksm_domain *domain)
{
	/* Pairs with cmpxchg() in dksm_learn_prepare(). */
	struct dksm_learned *learned = smp_load_acquire(&domain->learned);

	return learned ? atomic_long_read(&learned->count) : 0;
}

#ifdef CONFIG_DKSM_KUNIT_TEST
#include "tests/learn_kunit.c"
#endif
