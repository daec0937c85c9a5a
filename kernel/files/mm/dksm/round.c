// SPDX-License-Identifier: GPL-2.0
/*
 * When there is to be a pass over an mm, and what pays for it.
 *
 * Passes come in *rounds*.  A second pass comes a second after the first, when what
 * booted or changed has settled.  It and those after it heed nothing that was
 * learned: what is still as it was loaded was not written to by the boot.  After a
 * boot another pass follows as long as the last was worth it, but at most PASSES_MAX.
 *
 * Change pays for rounds, and is counted where it is known anyway:
 *
 *   grown      populated pages between two idle moments, where falls are forgotten
 *              at once, so that what comes back from swap or a balloon counts
 *   copied     writes to what was merged
 *   unstable   pages that a pass found written to; counted once some of them, that
 *              were remembered, are found unchanged: so not while that goes on
 *   written    pages that no pass merged, as far as some of them have changed
 *
 * Those few are looked at some times after each round, each twice as late as the one
 * before, and then for every SAMPLE_RAN that the threads of the process have run.
 *
 * A round begins when the process has populated an eighth more, or after a rest when
 * a part of its memory has changed.  What changes for ever without gaining has to
 * change twice as much each time, and what is merged and written to at once rests
 * twice as long.
 */
#include <linux/jiffies.h>
#include <linux/ksm.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/percpu_counter.h>
#include <linux/sched/cputime.h>

#include "internal.h"

/* Passes that come one after the other; a page in 128 is worth one more. */
#define PASSES_MIN	2
#define PASSES_MAX	8
#define PASS_WORTH(pages)	max((pages) / 128, 16UL)

/*
 * The part of the memory that has to change before a round, 1 >> ROUND_SHIFT, is
 * doubled by each round that merged less than a quarter of what had changed.  After
 * PATIENCE that is forgotten; which itself is doubled, from the fourth on.
 */
#define ROUND_SHIFT	7
#define DOUBLED_MAX	10U
#define PATIENCE	(20UL * HZ)
#define PATIENCE_SHIFT	3
#define CHANGE_MIN	16UL
#define REST_MIN	(1UL * HZ)
#define REST_MAX	(16UL * HZ)
#define SAMPLE_MIN	(1UL * HZ)
#define SAMPLE_MAX	(16UL * HZ)
#define SAMPLE_RAN	(4 * NSEC_PER_SEC)

/* How much is populated now: exactly, since guests are small and hosts are not. */
static unsigned long populated_pages(struct mm_struct *mm)
{
	return max(percpu_counter_sum(&mm->rss_stat[MM_ANONPAGES]) +
		   mm_ksm_zero_pages(mm), 0L);
}

/* So much has to change at least, however long it rests. */
static unsigned long change_least(const struct dksm_idle *round)
{
	return max(round->populated >> ROUND_SHIFT, CHANGE_MIN);
}

/**
 * dksm_round_sample - a pass leaves a page as it is
 * @round: of the mm; DKSM_MM_IDLE is held
 * @address: of the page
 * @hash: of its content
 * @unstable: it was written to during the pass
 *
 * Some of these are remembered, each as likely as any other.
 */
void dksm_round_sample(struct dksm_idle *round, unsigned long address, u32 hash,
		       bool unstable)
{
	unsigned long nr = unstable ? round->unstable++ : round->alone++;
	unsigned long at = nr < DKSM_SAMPLES ? nr : hash % (nr + 1);

	if (at < DKSM_SAMPLES)
		round->sample[unstable][at] = (struct dksm_sample) {
			.address = address,
			.hash = hash,
		};
}

/* How many of @nr samples have another content now; they are up to date then. */
static unsigned int samples_changed(struct dksm_mm *member,
				    struct dksm_sample *sample, unsigned int nr)
{
	unsigned int i, changed = 0;
	struct vm_area_struct *vma;
	u32 hash;

	for (i = 0; i < nr; i++) {
		vma = vma_lookup(member->mm, sample[i].address);
		hash = 0;
		if (vma)
			dksm_second_hash(member->domain, vma, sample[i].address,
					 &hash);
		changed += hash != sample[i].hash;
		sample[i].hash = hash;
	}
	return changed;
}

/* Out of how many, at least 1: false if that cannot be said now. */
static bool samples_look(struct dksm_mm *member, bool unstable,
			 unsigned int *changed, unsigned int *nr)
{
	struct dksm_idle *round = &member->idle;
	u64 begin = ktime_get_ns();

	*nr = min(unstable ? round->unstable : round->alone, DKSM_SAMPLES);
	if (!*nr || !mmap_read_trylock(member->mm))
		return false;
	*changed = samples_changed(member, round->sample[unstable], *nr);
	mmap_read_unlock(member->mm);
	dksm_idle_spent(member, *nr, ktime_get_ns() - begin);
	return true;
}

/* What was unstable counts as changed once half of the samples are stable. */
static void unstable_count(struct dksm_mm *member)
{
	struct dksm_idle *round = &member->idle;
	unsigned int changed, nr;

	if (!samples_look(member, true, &changed, &nr) || 2 * changed > nr)
		return;
	round->changed += round->unstable;
	round->unstable = 0;
}

static void written_count(struct dksm_mm *member)
{
	struct dksm_idle *round = &member->idle;
	unsigned int changed = 0, nr;

	/* One alone may be a page that is always written to. */
	if (samples_look(member, false, &changed, &nr) && changed > 1)
		round->changed += round->alone * changed / nr;
	round->sample_wait *= 2;
	if (changed > 1)
		round->sample_wait = SAMPLE_MIN;
	else if (round->sample_wait > SAMPLE_MAX)
		round->sample_wait = 0;
}

/**
 * dksm_process_ran - for how long threads of the current process have run
 *
 * Return: all of them together, in nanoseconds.
 */
u64 dksm_process_ran(void)
{
	struct task_cputime time;

	thread_group_cputime(current, &time);
	return time.sum_exec_runtime;
}

/* Paid for by the last round, or by the process's own run time. */
static bool samples_due(struct dksm_idle *round)
{
	u64 ran;

	if (time_before(jiffies, round->asked_at + HZ))
		return false;
	round->asked_at = jiffies;
	ran = dksm_process_ran();
	if (ran < round->ran + SAMPLE_RAN &&
	    (!round->sample_wait ||
	     time_before(jiffies, round->sampled_at + round->sample_wait)))
		return false;
	round->ran = ran;
	round->sampled_at = jiffies;
	return true;
}

static void samples_count(struct dksm_mm *member)
{
	if (!samples_due(&member->idle))
		return;
	unstable_count(member);
	written_count(member);
}

static void change_count(struct dksm_mm *member)
{
	struct dksm_idle *round = &member->idle;
	unsigned long populated = populated_pages(member->mm);
	unsigned long copies = atomic_long_read(&member->cow_breaks) +
			       atomic_long_read(&member->zero_breaks);

	if (populated > round->populated)
		round->changed += populated - round->populated;
	round->changed += copies - round->copies;
	round->owed += atomic_long_xchg(&member->owed, 0);
	round->populated = populated;
	round->copies = copies;
}

static enum dksm_why round_is_due(const struct dksm_idle *round)
{
	unsigned long rested = jiffies - round->rested_at;
	unsigned int shift = ROUND_SHIFT, late = 0;

	if (round->populated >= round->next_pages)
		return DKSM_WHY_GROWN;
	/* What is written to just now is not merged; but something always may be. */
	if (round->unstable >= change_least(round) && rested < PATIENCE)
		return DKSM_WHY_NONE;
	if (round->doubled > PATIENCE_SHIFT)
		late = round->doubled - PATIENCE_SHIFT;
	if (rested < PATIENCE << late)
		shift -= min(round->doubled, shift);
	else if (round->owed)
		return DKSM_WHY_OWED;
	return rested >= round->rest &&
	       round->changed + round->owed >= max(round->populated >> shift, CHANGE_MIN) ?
	       DKSM_WHY_CHANGED : DKSM_WHY_NONE;
}

/**
 * dksm_round_begin - begin a round of passes
 * @member: of the mm; DKSM_MM_IDLE is held
 * @why: it begins
 */
void dksm_round_begin(struct dksm_mm *member, enum dksm_why why)
{
	struct dksm_idle *round = &member->idle;

	change_count(member);
	/* What is due again as soon as it may has to rest longer. */
	if (jiffies - round->rested_at < 2 * round->rest)
		round->rest = min(2 * round->rest, REST_MAX);
	else
		round->rest = REST_MIN;
	round->fresh = round->changed >= round->populated - round->populated / 4;
	round->passes = 0;
	/* A pass may have been cut short. */
	round->gain = 0;
	round->walk = (struct dksm_table_walk) { };
	round->round_gain = 0;
	round->round_due = round->changed;
	round->changed = 0;
	round->owed = 0;
	round->cursor = 0;
	round->phase = DKSM_IDLE_LOOK;
	atomic_long_add(round->round_due, &member->domain->totals.idle_changed);
	spin_lock(&member->stat_lock);
	member->stat.rounds++;
	member->stat.changed += round->round_due;
	member->stat.why = why;
	spin_unlock(&member->stat_lock);
}

/**
 * dksm_round_due - is there anything to do?
 * @member: of current->mm; DKSM_MM_IDLE is held
 *
 * Begins the next pass if it is time.  Looks for that once in a jiffy at most.
 */
bool dksm_round_due(struct dksm_mm *member)
{
	struct dksm_idle *round = &member->idle;
	unsigned long now = jiffies;
	enum dksm_why why;

	if (round->phase != DKSM_IDLE_REST)
		return true;
	if (round->counted_at == now)
		return false;
	round->counted_at = now;
	change_count(member);
	if (round->again) {
		if (time_before_eq(now, round->rested_at + HZ))
			return false;
		round->phase = DKSM_IDLE_LOOK;
		return true;
	}
	samples_count(member);
	why = round_is_due(round);
	if (why == DKSM_WHY_NONE)
		return false;
	dksm_round_begin(member, why);
	return true;
}

static bool pass_is_worth_another(const struct dksm_idle *round)
{
	if (round->passes < PASSES_MIN)
		return true;
	return round->fresh && round->passes < PASSES_MAX &&
	       round->gain > PASS_WORTH(round->populated);
}

/**
 * dksm_round_pass - a pass is over
 * @member: of the mm; DKSM_MM_IDLE is held
 */
void dksm_round_pass(struct dksm_mm *member)
{
	struct dksm_idle *round = &member->idle;

	change_count(member);
	round->next_pages = round->populated + max(round->populated / 8, 256UL);
	round->round_gain += round->gain;
	round->passes++;
	round->again = pass_is_worth_another(round);
	round->gain = 0;
	round->rested_at = jiffies;
	round->sampled_at = jiffies;
	round->sample_wait = SAMPLE_MIN;
	if (!round->again && round->round_gain &&
	    round->round_gain >= round->round_due / 4)
		round->doubled = 0;
	else if (!round->again)
		round->doubled = min(round->doubled + 1, DOUBLED_MAX);
	atomic_long_inc(&member->domain->totals.idle_passes);
	spin_lock(&member->stat_lock);
	member->stat.passes++;
	spin_unlock(&member->stat_lock);
}
