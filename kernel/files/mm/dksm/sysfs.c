// SPDX-License-Identifier: GPL-2.0
/*
 * /sys/kernel/mm/dksm: numbers for all domains together and for each, and the
 * knobs.
 *
 * What can be counted when somebody asks is not counted before: the number of
 * mappings beyond the first comes from the frames' own map counts.
 */
#include <linux/cred.h>
#include <linux/init.h>
#include <linux/ksm.h>
#include <linux/mm.h>
#include <linux/rculist.h>
#include <linux/rhashtable.h>
#include <linux/slab.h>
#include <linux/sysfs.h>

#include "internal.h"

enum dksm_stat {
	STAT_PAGES_SHARED,
	STAT_PAGES_SHARING,
	STAT_PAGES_ZERO,
	STAT_SAVED_BYTES,
	STAT_COW_BREAKS,
	STAT_METADATA_BYTES,
	STAT_MERGE_CALLS,
	STAT_MERGE_NS,
	STAT_IDLE_NS,
	STAT_IDLE_PASSES,
	STAT_IDLE_CHANGED,
	STAT_IDLE_HASHED,
	STAT_HUGE_SPLIT,
	STAT_LEARNED_VOLATILE,
};

/**
 * struct stat_attribute - a number in sysfs
 * @attr:	its file
 * @stat:	which one
 */
struct stat_attribute {
	struct kobj_attribute attr;
	enum dksm_stat stat;
};

static struct kobject *dksm_kobj, *domains_kobj;

static long extent_sharing(struct dksm_extent *extent)
{
	long sharing = 0;
	u32 i;

	for (i = 0; i < extent->nr; i++) {
		struct folio *frame = dksm_frame_peek(&extent->nodes[i]);

		if (IS_ERR_OR_NULL(frame))
			continue;
		sharing += max(folio_mapcount(frame) - 1, 0);
		folio_put(frame);
	}
	return sharing;
}

/*
 * The extent in hand is referenced, so it is still in the list when the next
 * RCU section looks for its successor.
 */
static struct dksm_extent *extent_next(struct dksm_domain *domain,
				       struct dksm_extent *extent)
{
	struct dksm_extent *next = extent ? extent :
		list_entry(&domain->extents, struct dksm_extent, list);

	rcu_read_lock();
	list_for_each_entry_continue_rcu(next, &domain->extents, list)
		if (dksm_extent_tryget(next))
			break;
	rcu_read_unlock();
	if (extent)
		dksm_extent_put(extent);
	return list_entry_is_head(next, &domain->extents, list) ? NULL : next;
}

static long domain_sharing(struct dksm_domain *domain)
{
	struct dksm_extent *extent = NULL;
	long sharing = 0;

	while ((extent = extent_next(domain, extent))) {
		sharing += extent_sharing(extent);
		cond_resched();
	}
	return sharing;
}

static long domain_zero(struct dksm_domain *domain)
{
	struct dksm_mm *member;
	long zero = 0;

	spin_lock_irq(&domain->lock);
	list_for_each_entry(member, &domain->members, node)
		zero += mm_ksm_zero_pages(member->mm);
	spin_unlock_irq(&domain->lock);
	return zero;
}

static long domain_stat(struct dksm_domain *domain, enum dksm_stat stat)
{
	switch (stat) {
	case STAT_PAGES_SHARED:
		return atomic_long_read(&domain->frames);
	case STAT_PAGES_SHARING:
		return domain_sharing(domain);
	case STAT_PAGES_ZERO:
		return domain_zero(domain);
	case STAT_SAVED_BYTES:
		return (domain_sharing(domain) + domain_zero(domain)) *
		       PAGE_SIZE;
	case STAT_COW_BREAKS:
		return atomic_long_read(&domain->totals.cow_breaks);
	case STAT_METADATA_BYTES:
		return atomic_long_read(&domain->metadata);
	case STAT_MERGE_CALLS:
		return atomic_long_read(&domain->totals.merge_calls);
	case STAT_MERGE_NS:
		return atomic_long_read(&domain->totals.merge_ns);
	case STAT_IDLE_NS:
		return atomic_long_read(&domain->totals.idle_ns);
	case STAT_IDLE_PASSES:
		return atomic_long_read(&domain->totals.idle_passes);
	case STAT_IDLE_CHANGED:
		return atomic_long_read(&domain->totals.idle_changed);
	case STAT_IDLE_HASHED:
		return atomic_long_read(&domain->totals.idle_hashed);
	case STAT_HUGE_SPLIT:
		return atomic_long_read(&domain->totals.huge_split);
	case STAT_LEARNED_VOLATILE:
		return dksm_learned_count(domain);
	}
	return 0;
}

static long past_stat(enum dksm_stat stat)
{
	switch (stat) {
	case STAT_COW_BREAKS:
		return atomic_long_read(&dksm_past.cow_breaks);
	case STAT_MERGE_CALLS:
		return atomic_long_read(&dksm_past.merge_calls);
	case STAT_MERGE_NS:
		return atomic_long_read(&dksm_past.merge_ns);
	case STAT_IDLE_NS:
		return atomic_long_read(&dksm_past.idle_ns);
	case STAT_IDLE_PASSES:
		return atomic_long_read(&dksm_past.idle_passes);
	case STAT_IDLE_CHANGED:
		return atomic_long_read(&dksm_past.idle_changed);
	case STAT_IDLE_HASHED:
		return atomic_long_read(&dksm_past.idle_hashed);
	case STAT_HUGE_SPLIT:
		return atomic_long_read(&dksm_past.huge_split);
	default:
		return 0;
	}
}

static long all_stat(enum dksm_stat stat)
{
	struct dksm_domain *domain;
	long sum;

	mutex_lock(&dksm_domains_lock);
	sum = past_stat(stat);
	list_for_each_entry(domain, &dksm_domains, list)
		sum += domain_stat(domain, stat);
	mutex_unlock(&dksm_domains_lock);
	return sum;
}

static ssize_t stat_show(struct kobject *kobj, struct kobj_attribute *attr,
			 char *buf)
{
	enum dksm_stat stat =
		container_of(attr, struct stat_attribute, attr)->stat;
	long value = kobj == dksm_kobj ? all_stat(stat) :
		domain_stat(container_of(kobj, struct dksm_domain, kobj), stat);

	return sysfs_emit(buf, "%ld\n", value);
}

#define STAT(_name, _mode, _stat) {					\
	.attr = __ATTR(_name, _mode, stat_show, NULL),			\
	.stat = _stat,							\
}

/*
 * Not the same attributes for both: lockdep would take the removal of a domain's
 * for the removal of those that are read under dksm_domains_lock.
 */
static struct stat_attribute all_stats[] = {
	STAT(pages_shared, 0444, STAT_PAGES_SHARED),
	STAT(pages_sharing, 0444, STAT_PAGES_SHARING),
	STAT(pages_zero, 0444, STAT_PAGES_ZERO),
	STAT(saved_bytes, 0444, STAT_SAVED_BYTES),
	STAT(cow_breaks, 0444, STAT_COW_BREAKS),
	STAT(metadata_bytes, 0444, STAT_METADATA_BYTES),
	STAT(merge_calls, 0444, STAT_MERGE_CALLS),
	STAT(merge_ns, 0444, STAT_MERGE_NS),
	STAT(idle_ns, 0444, STAT_IDLE_NS),
	STAT(idle_passes, 0444, STAT_IDLE_PASSES),
	STAT(idle_changed, 0444, STAT_IDLE_CHANGED),
	STAT(idle_hashed, 0444, STAT_IDLE_HASHED),
	STAT(huge_split, 0444, STAT_HUGE_SPLIT),
	STAT(learned_volatile, 0444, STAT_LEARNED_VOLATILE),
};

/* For the owner only. */
static struct stat_attribute domain_stats[] = {
	STAT(pages_shared, 0400, STAT_PAGES_SHARED),
	STAT(pages_sharing, 0400, STAT_PAGES_SHARING),
	STAT(pages_zero, 0400, STAT_PAGES_ZERO),
	STAT(saved_bytes, 0400, STAT_SAVED_BYTES),
	STAT(cow_breaks, 0400, STAT_COW_BREAKS),
	STAT(metadata_bytes, 0400, STAT_METADATA_BYTES),
	STAT(merge_calls, 0400, STAT_MERGE_CALLS),
	STAT(merge_ns, 0400, STAT_MERGE_NS),
	STAT(idle_ns, 0400, STAT_IDLE_NS),
	STAT(idle_passes, 0400, STAT_IDLE_PASSES),
	STAT(idle_changed, 0400, STAT_IDLE_CHANGED),
	STAT(idle_hashed, 0400, STAT_IDLE_HASHED),
	STAT(huge_split, 0400, STAT_HUGE_SPLIT),
	STAT(learned_volatile, 0400, STAT_LEARNED_VOLATILE),
};

/* A knob that is a number. */
struct number_attribute {
	struct kobj_attribute attr;
	unsigned int *value;
	unsigned int min;
	unsigned int max;
};

static ssize_t number_show(struct kobject *kobj, struct kobj_attribute *attr,
			   char *buf)
{
	unsigned int *value =
		container_of(attr, struct number_attribute, attr)->value;

	return sysfs_emit(buf, "%u\n", READ_ONCE(*value));
}

static ssize_t number_store(struct kobject *kobj, struct kobj_attribute *attr,
			    const char *buf, size_t count)
{
	struct number_attribute *knob =
		container_of(attr, struct number_attribute, attr);
	unsigned int value;
	int err = kstrtouint(buf, 10, &value);

	if (err)
		return err;
	if (value < knob->min || value > knob->max)
		return -EINVAL;
	WRITE_ONCE(*knob->value, value);
	return count;
}

#define NUMBER(_name, _value, _min, _max) {				\
	.attr = __ATTR(_name, 0644, number_show, number_store),		\
	.value = _value,						\
	.min = _min,							\
	.max = _max,							\
}

static struct number_attribute numbers[] = {
	/* At 1 nothing would be shared; at 0 nothing could be published. */
	NUMBER(max_page_sharing, &dksm_max_page_sharing, 2, INT_MAX / 2),
	NUMBER(learn, &dksm_learn, 0, DKSM_LEARN_MAX),
	NUMBER(load_pages, &dksm_load_pages, 0, INT_MAX),
	NUMBER(huge_min, &dksm_huge_min, 1, PTRS_PER_PTE),
	NUMBER(busy_percent, &dksm_busy_percent, 0, 100),
};

/* A knob that is on or off. */
struct switch_attribute {
	struct kobj_attribute attr;
	bool *value;
};

static ssize_t switch_show(struct kobject *kobj, struct kobj_attribute *attr,
			   char *buf)
{
	bool *value = container_of(attr, struct switch_attribute, attr)->value;

	return sysfs_emit(buf, "%u\n", READ_ONCE(*value));
}

static ssize_t switch_store(struct kobject *kobj, struct kobj_attribute *attr,
			    const char *buf, size_t count)
{
	struct switch_attribute *knob =
		container_of(attr, struct switch_attribute, attr);
	bool value;
	int err = kstrtobool(buf, &value);

	if (err)
		return err;
	WRITE_ONCE(*knob->value, value);
	return count;
}

static struct switch_attribute use_zero_pages_attr = {
	__ATTR(use_zero_pages, 0644, switch_show, switch_store),
	&dksm_use_zero_pages,
};

static struct switch_attribute merge_across_nodes_attr = {
	__ATTR(merge_across_nodes, 0644, switch_show, switch_store),
	&dksm_merge_across_nodes,
};

static int stats_add(struct kobject *kobj, struct stat_attribute *stats,
		     size_t nr)
{
	int err = 0;
	size_t i;

	for (i = 0; i < nr && !err; i++)
		err = sysfs_create_file(kobj, &stats[i].attr.attr);
	return err;
}

static const struct attribute *knobs[] = {
	&numbers[0].attr.attr,
	&numbers[1].attr.attr,
	&numbers[2].attr.attr,
	&numbers[3].attr.attr,
	&numbers[4].attr.attr,
	&use_zero_pages_attr.attr.attr,
	&merge_across_nodes_attr.attr.attr,
	NULL,
};

static void domain_release(struct kobject *kobj)
{
	kfree(container_of(kobj, struct dksm_domain, kobj));
}

static void domain_ownership(const struct kobject *kobj, kuid_t *uid,
			     kgid_t *gid)
{
	*uid = container_of(kobj, struct dksm_domain, kobj)->owner;
}

const struct kobj_type dksm_domain_ktype = {
	.release = domain_release,
	.sysfs_ops = &kobj_sysfs_ops,
	.get_ownership = domain_ownership,
};

/**
 * dksm_domain_sysfs_add - make the folder of a new domain
 * @domain: its kobj is initialised here, also on error
 * @name: of the folder
 *
 * Return: 0 or a negative errno; then the caller drops the kobj, which frees
 * the domain.
 */
int dksm_domain_sysfs_add(struct dksm_domain *domain, const char *name)
{
	int err = kobject_init_and_add(&domain->kobj, &dksm_domain_ktype,
				       domains_kobj, "%s", name);

	if (!err)
		err = stats_add(&domain->kobj, domain_stats,
				ARRAY_SIZE(domain_stats));
	return err;
}

static int __init dksm_sysfs_init(void)
{
	int err;

	dksm_kobj = kobject_create_and_add("dksm", mm_kobj);
	if (!dksm_kobj)
		return -ENOMEM;
	domains_kobj = kobject_create_and_add("domains", dksm_kobj);
	if (!domains_kobj)
		return -ENOMEM;
	err = sysfs_create_files(dksm_kobj, knobs);
	return err ? err : stats_add(dksm_kobj, all_stats,
				     ARRAY_SIZE(all_stats));
}
subsys_initcall(dksm_sysfs_init);
