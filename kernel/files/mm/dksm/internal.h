/* SPDX-License-Identifier: GPL-2.0 */
/*
 * DKSM's objects and who owns them.
 *
 *   domain   pages are shared only inside one.  Owns the index (content hash
 *            -> node) and the list of its extents.  Held by descriptors of
 *            /dev/dksm, by members and by extents.
 *   member   struct dksm_mm, an mm in a domain.  Owns maps.
 *   extent   an array of nodes for neighbouring pages that were published
 *            together.  Held by its live frames and by owned maps.
 *   node     one frame, or none: the frame is held by its users alone.  When
 *            they free it, the node forgets it (dksm_folio_free()).
 *   map      "these nodes of this extent may be mapped by the VMAs of this
 *            anon_vma at these page offsets": the reverse map.
 *
 * Lock order (outer first):
 *   DKSM_VM_BUSY or DKSM_MM_IDLE (bit locks) > mmap_lock > folio lock >
 *   dksm_mm.lock > dksm_extent.maps_lock > anon_vma lock > page table lock >
 *   (domain.lock, index bucket locks: leaves, taken with interrupts off; locks
 *   of tables and of statistics: leaves)
 * dksm_domains_lock is taken with none of these held.
 *
 * Documentation/mm/dksm.rst argues why this is safe.
 */
#ifndef _MM_DKSM_INTERNAL_H
#define _MM_DKSM_INTERNAL_H

#include <linux/atomic.h>
#include <linux/bitmap.h>
#include <linux/bits.h>
#include <linux/dksm.h>
#include <linux/kobject.h>
#include <linux/list.h>
#include <linux/llist.h>
#include <linux/mm_types.h>
#include <linux/mutex.h>
#include <linux/refcount.h>
#include <linux/rhashtable-types.h>
#include <linux/rwsem.h>
#include <linux/spinlock.h>
#include <linux/uidgid.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>
#include <uapi/linux/dksm.h>

struct anon_vma;
struct mem_cgroup;

/* Memory that is nice to have; and for those who must not wait for it. */
#define DKSM_GFP	(GFP_KERNEL_ACCOUNT | __GFP_NORETRY | __GFP_NOWARN)
#define DKSM_GFP_QUICK	(GFP_NOWAIT | __GFP_ACCOUNT | __GFP_NOWARN)

/* Numbers that only ever grow; sysfs.c has the others. */
struct dksm_totals {
	atomic_long_t cow_breaks;	/* writes that copied a frame */
	atomic_long_t merge_calls;	/* loads included, idle merging not */
	atomic_long_t merge_ns;
	atomic_long_t idle_ns;
	atomic_long_t idle_passes;
	atomic_long_t idle_changed;	/* pages, when rounds of passes began */
	atomic_long_t idle_hashed;	/* pages */
	atomic_long_t huge_split;	/* large folios */
};

struct dksm_candidate_table;

/**
 * struct dksm_candidates - contents that one page is known to have
 * @lock:	protects the tables and @nr and @added
 * @table:	where new ones go
 * @old:	its contents are moved to @table; or NULL
 * @nr:		entries of @table
 * @added:	of these, such as were new
 * @sets:	of @table; read locklessly
 * @failed_at:	jiffies when there was no memory for another; or 0
 * @resize:	held while the table is rebuilt
 * @work:	does so
 */
struct dksm_candidates {
	spinlock_t lock;	/* tables */
	struct dksm_candidate_table *table;
	struct dksm_candidate_table *old;
	u32 nr;
	u32 added;
	u32 sets;
	unsigned long failed_at;
	struct mutex resize;	/* one at a time */
	struct work_struct work;
};

/**
 * struct dksm_domain - pages are shared only inside one
 * @refs:	members, extents and bound descriptors
 * @list:	in the list of all domains; dksm_domains_lock
 * @kobj:	the folder in sysfs; its release frees the domain
 * @owner:	effective user id of the creator
 * @fresh_frames: publish copies; never changes
 * @untrusted:	members do not trust each other: publish on first sight, nothing
 *		when idle, learn nothing; never changes
 * @index:	hash of a frame's content -> node; lookups under RCU
 * @seed:	of the hash: what is in one domain tells nothing of another's hashes
 * @lock:	protects @extents and @members; taken with interrupts off
 * @extents:	all extents, also those not in @index any more; readers may
 *		use RCU
 * @members:	all struct dksm_mm
 * @frames:	live frames
 * @metadata:	bytes in extents, maps and tables
 * @learn_fit:	serialises who replaces @learned
 * @learn_lock:	protects the entries of @learned, which may be read without; innermost
 * @learned:	table of volatile contents, or NULL; read under RCU
 * @learned_nr:	of them; changes under @learn_lock
 * @memcg:	of the creator, with a reference; or NULL
 * @candidates:	contents seen once; charged to @memcg
 * @totals:	see there
 */
struct dksm_domain {
	refcount_t refs;
	struct list_head list;
	struct kobject kobj;
	kuid_t owner;
	bool fresh_frames;
	bool untrusted;
	struct rhashtable index;
	u64 seed;
	spinlock_t lock;	/* extents, members */
	struct list_head extents;
	struct list_head members;
	atomic_long_t frames;
	atomic_long_t metadata;
	struct mutex learn_fit;	/* replacing learned */
	spinlock_t learn_lock;	/* learned */
	struct dksm_learned __rcu *learned;
	unsigned long learned_nr;
	struct mem_cgroup *memcg;
	struct dksm_candidates candidates;
	struct dksm_totals totals;
};

/* Why a round of passes began. */
enum dksm_why {
	DKSM_WHY_NONE,		/* none has */
	DKSM_WHY_GROWN,		/* an eighth more is populated */
	DKSM_WHY_CHANGED,	/* enough has changed, and it had rested */
	DKSM_WHY_OWED,		/* pages could not join others, a while ago */
	DKSM_WHY_ATTACHED,
};

/**
 * struct dksm_mm_stat - what was done for the virtual machines of an mm
 * @load:	merged before their first instruction
 * @attach:	merged by the one who attached the process
 * @idle:	guest memory merged when they were idle, or by others when those had the
 *		same contents; @scanned counts pages acted on
 * @vmm:	as @idle, of what is not guest memory
 * @vms:	virtual machines that were merged at their first KVM_RUN
 * @passes:	complete passes over memory of idle virtual machines
 * @rounds:	passes that follow each other count once
 * @changed:	pages that had changed when rounds began
 * @hashed:	pages looked at
 * @why:	the last round began
 * @step_ns_max: longest time between two looks for events while idle
 */
struct dksm_mm_stat {
	struct dksm_report load;
	struct dksm_report attach;
	struct dksm_report idle;
	struct dksm_report vmm;
	u64 vms;
	u64 passes;
	u64 rounds;
	u64 changed;
	u64 hashed;
	enum dksm_why why;
	u64 step_ns_max;
};

/* Huge pages of others that a walk over one page table may count twins of. */
#define DKSM_HUGE_TWINS		4

/**
 * struct dksm_huge_twin - a huge page that might be split
 * @mm:		of whom; only compared
 * @table:	where it begins
 * @pages:	that would be merged; 0: the entry is free
 */
struct dksm_huge_twin {
	struct mm_struct *mm;
	unsigned long table;
	unsigned int pages;
};

/**
 * struct dksm_table_walk - a walk over the pages below one page table
 * @table:	where that begins
 * @deferred:	small pages have twins in huge pages
 * @again:	the second walk: what is worth it is split
 * @wanted:	pages of a huge page that would be merged
 * @left:	pages that were left, so as not to split a huge page
 * @twins:	huge pages that have their twins
 */
struct dksm_table_walk {
	unsigned long table;
	bool deferred;
	bool again;
	unsigned int wanted;
	unsigned int left;
	struct dksm_huge_twin twins[DKSM_HUGE_TWINS];
};

/* Of a pass; the last is followed by the first. */
enum dksm_idle_phase {
	DKSM_IDLE_REST,
	DKSM_IDLE_LOOK,
	DKSM_IDLE_ACT,
};

/* Pages that a pass left, of each kind, which are looked at again. */
#define DKSM_SAMPLES	8UL

/**
 * struct dksm_sample - a page that a pass left as it was
 * @address:	of the page
 * @hash:	of its content then
 */
struct dksm_sample {
	unsigned long address;
	u32 hash;
};

/**
 * struct dksm_idle - passes over an mm, and what pays for them; see round.c
 * @phase:	of the pass
 * @cursor:	address where it goes on, in idle.c
 * @walk:	of the page table there
 * @passes:	complete passes of this round
 * @fresh:	most of the memory is new in this round, as after a boot
 * @again:	there is to be another pass, a second after the last
 * @why:	this round began
 * @gain:	pages merged so far in this pass, in earlier idle moments
 * @round_gain:	pages merged in this round
 * @round_due:	pages that had changed when it began
 * @doubled:	how often the part that has to change was doubled
 * @rested_at:	jiffies at the end of the last pass
 * @rest:	jiffies from then until change alone begins a round
 * @next_pages:	populated pages of the process that begin one at once
 * @changed:	pages that changed since the round began
 * @owed:	pages that could not join others since then
 * @populated:	pages of the process, when these were counted last
 * @copies:	copies of its merged pages, likewise
 * @counted_at:	jiffies when that was
 * @alone:	pages that the last pass left, since nobody else has them
 * @unstable:	pages that it left, since they were just written to; 0 once these
 *		are among @changed
 * @sample:	some of @alone, and of @unstable
 * @asked_at:	jiffies when it was asked last if they are to be looked at
 * @sampled_at:	jiffies when they were
 * @sample_wait: jiffies from then until they are again; 0: not by time
 * @ran:	ns that the threads of the process had run then
 * @busy_at:	jiffies when a guest that is never idle asked last
 * @busy_ns:	time from which on such a guest may be worked for
 * @busy_ran:	for how long its threads are to have run by then
 *
 * All zero for a new process.
 */
struct dksm_idle {
	enum dksm_idle_phase phase;
	unsigned long cursor;
	struct dksm_table_walk walk;
	unsigned int passes;
	bool fresh;
	bool again;
	enum dksm_why why;
	unsigned long gain;
	unsigned long round_gain;
	unsigned long round_due;
	unsigned int doubled;
	unsigned long rested_at;
	unsigned long rest;
	unsigned long next_pages;
	unsigned long changed;
	unsigned long owed;
	unsigned long populated;
	unsigned long copies;
	unsigned long counted_at;
	unsigned long alone;
	unsigned long unstable;
	struct dksm_sample sample[2][DKSM_SAMPLES];
	unsigned long asked_at;
	unsigned long sampled_at;
	unsigned long sample_wait;
	u64 ran;
	unsigned long busy_at;
	u64 busy_ns;
	u64 busy_ran;
};

/**
 * struct dksm_mm - an mm that belongs to a domain
 * @domain:	holds a reference
 * @mm:		without a reference: mm->dksm points here until mm exits
 * @node:	in @domain->members
 * @lock:	protects @maps
 * @maps:	the maps that this mm added
 * @nr_maps:	how many
 * @prune_at:	how many there have to be for them to be looked through
 * @tidy:	looks through them
 * @flags:	DKSM_MM_IDLE, a bit lock: one thread does idle merging
 * @attached:	DKSM_MM_ATTACHED and DKSM_ATTACH_*, or 0; read locklessly
 * @merged_at:	jiffies of the last merge by a trigger; read locklessly
 * @cow_breaks:	writes of this mm that copied a frame
 * @zero_breaks: writes of this mm to merged pages of zeroes
 * @owed:	pages that could not join when others published their twins
 * @huge_split:	large folios split for this mm
 * @stat_lock:	protects @stat
 * @stat:	see there
 * @idle:	DKSM_MM_IDLE
 * @busy:	kept between moments of a guest that is never idle, or NULL; DKSM_MM_IDLE
 * @seen:	page table's number -> hashes of its pages, see idle.c; DKSM_MM_IDLE
 */
struct dksm_mm {
	struct dksm_domain *domain;
	struct mm_struct *mm;
	struct list_head node;
	struct mutex lock;	/* maps */
	struct list_head maps;
	unsigned long nr_maps;
	unsigned long prune_at;
	struct work_struct tidy;
	unsigned long flags;
	u32 attached;
	unsigned long merged_at;
	atomic_long_t cow_breaks;
	atomic_long_t zero_breaks;
	atomic_long_t owed;
	atomic_long_t huge_split;
	spinlock_t stat_lock;	/* stat */
	struct dksm_mm_stat stat;
	struct dksm_idle idle;
	struct dksm_second *busy;
	struct xarray seen;
};

#define DKSM_MM_ATTACHED	BIT(31)
#define DKSM_MM_IDLE		0

static inline void dksm_count_split(struct dksm_mm *member)
{
	atomic_long_inc(&member->huge_split);
	atomic_long_inc(&member->domain->totals.huge_split);
}

/**
 * struct dksm_node - one frame of an extent
 * @index_node:	in the domain's index, while there
 * @hash:	of the frame's content; the key
 * @pfn:	the frame, 0, or PFN_PENDING.  Written under the folio lock, or
 *		when the folio is freed; read locklessly by dksm_frame_get()
 * @pos:	position in the extent's array
 * @shares:	how many had the frame, see learn.c; counted without lock
 * @breaks:	how many of these wrote to it soon; likewise
 *
 * Aligned to 8 so that the flags of folio->mapping fit into a pointer to it.
 */
struct dksm_node {
	struct rhash_head index_node;
	u64 hash;
	unsigned long pfn;
	u16 pos;
	u16 shares;
	u16 breaks;
} __aligned(8);

/**
 * struct dksm_extent - nodes of pages that were published together
 * @refs:	one for each live frame, one for each owned map, one for whoever
 *		is building it
 * @nr:		length of @nodes
 * @live:	live frames, and one for whoever is building it
 * @domain:	holds a reference
 * @list:	in @domain->extents
 * @maps_lock:	protects @maps and what is in them
 * @maps:	all maps of this extent, owned or not
 * @claims:	maps, and the page offsets they have beyond one; read locklessly
 * @dead:	on the reaper's list when @refs is 0
 * @nodes:	the nodes
 */
struct dksm_extent {
	refcount_t refs;
	u32 nr;
	atomic_t live;
	struct dksm_domain *domain;
	struct list_head list;
	struct rw_semaphore maps_lock;
	struct list_head maps;
	unsigned int claims;
	struct llist_node dead;
	struct dksm_node nodes[] __counted_by(nr);
};

/* An extent fits into 8 KiB: larger ones would waste what kmalloc() rounds. */
#define DKSM_EXTENT_MAX \
	((u32)((8192 - sizeof(struct dksm_extent)) / sizeof(struct dksm_node)))

/**
 * struct dksm_map - where frames of an extent may be mapped
 * @extent:	held by the map while it has an @owner; then the map may outlive
 *		its owner on @extent->maps, without holding it
 * @extent_list: in @extent->maps
 * @owner_list:	in @owner->maps
 * @owner:	the member that added the map, or NULL; @extent->maps_lock
 * @anon_vma:	holds a reference
 * @delta:	page offset in @anon_vma minus position in @extent; modulo 2^64
 * @first:	first position covered
 * @last:	last position covered
 * @spread:	page offsets beyond the first; not 0 for a single position only
 *
 * What (mapping, index) of an ordinary anonymous folio says for one page, a map
 * says for a run of frames: a frame at position p may be mapped by every VMA in
 * @anon_vma's interval tree that covers page offset p + @delta.  Or for one frame
 * and a run of page offsets up to p + @delta + @spread, since images are padded
 * with equal pages.  It may claim too much, never too little.
 */
struct dksm_map {
	struct dksm_extent *extent;
	struct list_head extent_list;
	struct list_head owner_list;
	struct dksm_mm *owner;
	struct anon_vma *anon_vma;
	unsigned long delta;
	u16 first;
	u16 last;
	u32 spread;
};

/* Of one map: a page table's worth of equal pages. */
#define DKSM_SPREAD_MAX	(PTRS_PER_PTE - 1)

/* domain.c */
extern struct mutex dksm_domains_lock;
extern struct list_head dksm_domains;
extern struct dksm_totals dksm_past;	/* of domains that are gone */
struct dksm_domain *dksm_domain_open(const char *name, u32 flags);
void dksm_domain_get(struct dksm_domain *domain);
void dksm_domain_put(struct dksm_domain *domain);
bool dksm_domain_may_use(const struct dksm_domain *domain);
int dksm_mm_join(struct mm_struct *mm, struct dksm_domain *domain);
unsigned long dksm_members_pages(struct dksm_domain *domain);
int dksm_mm_attach(struct mm_struct *mm, u32 flags);
int dksm_mm_detach(struct mm_struct *mm);

/* extent.c */
extern unsigned int dksm_max_page_sharing;
extern bool dksm_merge_across_nodes;
int dksm_index_init(struct dksm_domain *domain);
u32 dksm_extent_doubled(const struct dksm_extent *extent);
struct dksm_extent *dksm_extent_alloc(struct dksm_domain *domain, u32 nr,
				      bool wait);
void dksm_extent_built(struct dksm_extent *extent);
bool dksm_extent_tryget(struct dksm_extent *extent);
void dksm_extent_get(struct dksm_extent *extent);
void dksm_extent_put(struct dksm_extent *extent);
u64 dksm_page_hash(struct dksm_domain *domain, struct page *page);
bool dksm_pages_equal(struct page *page1, struct page *page2);
struct folio *dksm_frame_peek(struct dksm_node *node);
struct folio *dksm_frame_get(struct dksm_node *node);
struct folio *dksm_frame_match(struct dksm_node *node, struct folio *folio);
struct folio *dksm_frame_find(struct dksm_domain *domain, u64 hash,
			      struct folio *folio, bool wait);
bool dksm_index_has(struct dksm_domain *domain, u64 hash);
struct dksm_node *dksm_index_get(struct dksm_domain *domain, u64 hash);
int dksm_frame_publish(struct dksm_node *node, struct folio *folio, u64 hash,
		       struct folio **frame);

static inline struct dksm_node *dksm_folio_node(const struct folio *folio)
{
	unsigned long mapping = (unsigned long)READ_ONCE(folio->mapping);

	return (struct dksm_node *)(mapping & ~DKSM_MAPPING_FLAGS);
}

static inline void *dksm_node_mapping(const struct dksm_node *node)
{
	return (void *)((unsigned long)node | DKSM_MAPPING_FLAGS);
}

static inline struct dksm_extent *dksm_node_extent(struct dksm_node *node)
{
	return container_of(node - node->pos, struct dksm_extent, nodes[0]);
}

/* rmap.c */
int dksm_map_add(struct dksm_mm *owner, struct dksm_extent *extent,
		 const struct dksm_map *want, bool wait);
bool dksm_folio_is_foreign(struct folio *folio, struct dksm_domain *domain);
void dksm_maps_prune(struct dksm_mm *owner);
void dksm_maps_work(struct work_struct *work);
void dksm_maps_tidy(struct dksm_mm *owner);
void dksm_maps_disown(struct dksm_mm *owner);
void dksm_maps_free(struct dksm_extent *extent);

/* learn.c */
#define DKSM_LEARN_MAX	32768
extern unsigned int dksm_learn;
int dksm_learn_fit(struct dksm_domain *domain);
void dksm_learn_free(struct dksm_domain *domain);
void dksm_learn_begin(struct dksm_node *node);
void dksm_learn_share(struct dksm_node *node);
void dksm_learn_break(struct dksm_mm *member, struct dksm_node *node);
void dksm_learn_zero_break(struct dksm_mm *member, struct vm_area_struct *vma,
			   unsigned long address);
u64 dksm_learn_content(u64 hash);
u64 dksm_learn_place(struct dksm_domain *domain, struct vm_area_struct *vma,
		     unsigned long address);
bool dksm_learned_volatile(struct dksm_domain *domain, u64 key);
bool dksm_learned_spares(struct dksm_domain *domain, u64 key);
long dksm_learned_count(struct dksm_domain *domain);

/* merge.c */
struct dksm_batch;
extern bool dksm_use_zero_pages;

/* Leave alone what was learned to be volatile. */
#define DKSM_BATCH_LEARN	BIT(0)
/* Wait for nobody; rather skip. */
#define DKSM_BATCH_QUICK	BIT(1)
/* Map frames that exist, publish none. */
#define DKSM_BATCH_JOIN		BIT(2)
/* Have lists that hold references drained, by dksm_batch_drain(). */
#define DKSM_BATCH_DRAIN	BIT(3)
/* Any signal ends it, not only a fatal one. */
#define DKSM_BATCH_SIGNALS	BIT(4)

struct dksm_batch *dksm_batch_alloc(gfp_t gfp);
void dksm_batch_begin(struct dksm_batch *batch, struct dksm_mm *member,
		      struct dksm_report *report, unsigned int flags);
void dksm_batch_free(struct dksm_batch *batch);
void dksm_batch_drain(struct dksm_batch *batch);
void dksm_drain_later(void);
bool dksm_batch_merge(struct dksm_batch *batch, struct vm_area_struct *vma,
		      pmd_t *pmd, unsigned long start, unsigned long end,
		      const unsigned long *only, const unsigned long *publish);

/* candidates.c */
unsigned long dksm_candidate_twin(struct dksm_domain *domain, u64 hash,
				  unsigned long pfn, unsigned long stale);
void dksm_candidate_forget(struct dksm_domain *domain, u64 hash,
			   unsigned long pfn);
int dksm_candidates_init(struct dksm_domain *domain);
bool dksm_candidates_fit(struct dksm_domain *domain, size_t limit);
void dksm_candidates_shrink(struct dksm_domain *domain);
void dksm_candidates_free(struct dksm_domain *domain);

/* second.c */
extern unsigned int dksm_huge_min;

/**
 * struct dksm_second - merging on second sight, for a while
 * @member:	of the mm
 * @domain:	of @member
 * @batch:	for what is merged, and for what joins in other processes
 * @flags:	DKSM_BATCH_*, for the former
 * @report:	where the outcome is counted
 * @learn:	leave alone what was learned to be volatile
 * @round:	where to remember what is left, with hashes of an earlier look
 * @hashed:	pages looked at
 * @done:	pages merged or published by the last dksm_second_merge()
 * @joined:	pages of others that joined
 * @walk:	over the page table that is worked on
 * @own_walk:	for @walk, unless that has to last longer
 * @wanted:	pages to be merged, of the page table that is worked on
 * @publish:	of these, pages that may be published
 * @mm:		whose pages are to join, with a reference; or NULL
 * @table:	where the page table of these begins
 * @joins:	which
 * @join_report: what became of them
 */
struct dksm_second {
	struct dksm_mm *member;
	struct dksm_domain *domain;
	struct dksm_batch *batch;
	unsigned int flags;
	struct dksm_report *report;
	bool learn;
	struct dksm_idle *round;
	unsigned long hashed;
	unsigned long done;
	unsigned long joined;
	struct dksm_table_walk *walk;
	struct dksm_table_walk own_walk;
	DECLARE_BITMAP(wanted, PTRS_PER_PTE);
	DECLARE_BITMAP(publish, PTRS_PER_PTE);
	struct mm_struct *mm;
	unsigned long table;
	DECLARE_BITMAP(joins, PTRS_PER_PTE);
	struct dksm_report join_report;
};

struct dksm_second *dksm_second_alloc(struct dksm_mm *member,
				      unsigned int flags);
void dksm_second_free(struct dksm_second *second);
unsigned long dksm_second_merge(struct dksm_second *second,
				struct vm_area_struct *vma, pmd_t *pmd,
				unsigned long start, unsigned long end,
				const u32 *seen);
bool dksm_second_hash(struct dksm_domain *domain, struct vm_area_struct *vma,
		      unsigned long address, u32 *hash);
bool dksm_second_again(struct dksm_second *second);
void dksm_second_join(struct dksm_second *second);

/* range.c */
#define DKSM_NOT_SKIPPED	(-1)
int dksm_vma_skip_reason(struct vm_area_struct *vma);
int dksm_range_merge(struct mm_struct *mm, struct dksm_batch *batch,
		     unsigned int flags, unsigned long *start,
		     unsigned long end, struct dksm_report *report,
		     unsigned long *holes);
int dksm_range_load(struct mm_struct *mm, struct dksm_second *second,
		    unsigned long *start, unsigned long end,
		    unsigned long *looked, unsigned long *holes);
void dksm_merge_account(struct mm_struct *mm, struct dksm_report *report,
			u64 begin, int err);
int dksm_merge(struct mm_struct *mm, unsigned long start, unsigned long end,
	       bool sparse, struct dksm_report *report);
int dksm_unmerge(struct mm_struct *mm, unsigned long start, unsigned long end,
		 bool sparse, struct dksm_report *report);

/* vm.c */
extern unsigned int dksm_load_pages;
void dksm_stat_add(struct dksm_mm *member, struct dksm_report *sum,
		   const struct dksm_report *report);

/* round.c */
void dksm_round_sample(struct dksm_idle *round, unsigned long address, u32 hash,
		       bool unstable);
bool dksm_round_due(struct dksm_mm *member);
u64 dksm_process_ran(void);
void dksm_round_begin(struct dksm_mm *member, enum dksm_why why);
void dksm_round_pass(struct dksm_mm *member);

/* idle.c */
void dksm_idle_spent(struct dksm_mm *member, unsigned long hashed, u64 ns);
extern unsigned int dksm_busy_percent;
void dksm_seen_free(struct dksm_mm *member);
void dksm_attach_merge(struct mm_struct *mm);

/* sysfs.c */
extern const struct kobj_type dksm_domain_ktype;
int dksm_domain_sysfs_add(struct dksm_domain *domain, const char *name);

#endif /* _MM_DKSM_INTERNAL_H */
