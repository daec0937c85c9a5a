// SPDX-License-Identifier: MIT
/*
 * What the facts mean: everything that prevents or weakens sharing on this host,
 * or of one process, and what to do about it. Collecting the facts is
 * cmd_doctor.c's business, so that this part can be tested with any.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "cli.h"

/* Guest memory is large: what is smaller is the VMM's own. */
#define GUEST_BYTES_MIN (8ULL << 20)
/* What is lost is worth a word if it is 1 MiB, and most of what there was. */
#define LOST_PAGES_MIN ((1ULL << 20) / page_bytes())

__attribute__((format(printf, 4, 5)))
static void find(struct findings *all, enum severity severity, const char *code,
		 const char *format, ...)
{
	struct finding *finding = &all->list[all->nr];
	va_list args;

	if (all->nr == ARRAY_SIZE(all->list))
		return;
	all->nr++;
	finding->severity = severity;
	finding->code = code;
	va_start(args, format);
	vsnprintf(finding->text, sizeof(finding->text), format, args);
	va_end(args);
}

static bool host_kernel(struct findings *all, const struct host_facts *host)
{
	if (host->stat_err == -ENODEV) {
		find(all, SEVERITY_ERROR, "no_dksm", "this kernel has no DKSM: "
		     "boot one built with CONFIG_DKSM=y");
		return false;
	}
	if (host->open_err == -ENODEV || host->open_err == -ENXIO)
		find(all, SEVERITY_ERROR, "no_device", "/dev/dksm is missing: "
		     "give this container the device, or mount devtmpfs on "
		     "/dev");
	else if (host->open_err)
		find(all, SEVERITY_ERROR, "device_access", "no access to "
		     "/dev/dksm (%s): run this as root, or have root give you "
		     "the device", strerror(-host->open_err));
	else if (!(host->features & DKSM_FEATURE_KVM))
		find(all, SEVERITY_ERROR, "no_kvm_support", "this kernel's DKSM "
		     "knows no virtual machines: build it with CONFIG_KVM, or "
		     "use dksm merge");
	return true;
}

static void host_knobs(struct findings *all, const struct host_facts *host)
{
	if (!host->global.use_zero_pages)
		find(all, SEVERITY_WARNING, "zero_pages_off", "pages of zeros "
		     "are merged like any others, 256 to a frame: write 1 to "
		     "/sys/kernel/mm/dksm/use_zero_pages");
	if (!host->global.learn)
		find(all, SEVERITY_WARNING, "learning_off", "pages that are "
		     "written to at once are merged all the same: write 128 to "
		     "/sys/kernel/mm/dksm/learn");
	if (!host->global.busy_percent)
		find(all, SEVERITY_WARNING, "busy_off", "guests that are never "
		     "idle are merged at their start only: write 1 to "
		     "/sys/kernel/mm/dksm/busy_percent");
	if (!strcmp(host->thp, "always"))
		find(all, SEVERITY_WARNING, "thp_always", "transparent huge "
		     "pages are always on, and %" PRIu64 " were split to share "
		     "pages of them: for fewer, raise huge_min in /sys/kernel/mm/"
		     "dksm, or write madvise to /sys/kernel/mm/"
		     "transparent_hugepage/enabled",
		     host->global.counters.huge_split);
	if (host->ksmd_runs)
		find(all, SEVERITY_WARNING, "ksmd_runs", "ksmd is running: what "
		     "it merges first is left to it, and it never stops: write "
		     "2 to /sys/kernel/mm/ksm/run unless others need it");
}

void doctor_host(struct findings *all, const struct host_facts *host)
{
	if (!host_kernel(all, host))
		return;
	if (host->kvm_err)
		find(all, SEVERITY_WARNING, "no_kvm", "/dev/kvm: %s: only dksm "
		     "merge is of use here", strerror(-host->kvm_err));
	if (!host->stat_err)
		host_knobs(all, host);
}

static uint64_t mib(uint64_t bytes)
{
	return bytes >> 20;
}

/* Guest memory that was looked at when it was loaded or attached, but shared memory. */
static uint64_t private_pages(const struct dksm_report *report)
{
	return report->scanned - report->skipped[DKSM_SKIP_SHARED];
}

static bool has_private_guest(const struct process_facts *process)
{
	uint64_t pages = private_pages(&process->stat.load) +
			 private_pages(&process->stat.attach);

	return pages * page_bytes() >= GUEST_BYTES_MIN ||
	       process->anonymous_bytes >= process->shared_bytes;
}

/* What no merge can share, whatever is attached. */
static void process_memory(struct findings *all,
			   const struct process_facts *process)
{
	if (process->hugetlb_bytes >= GUEST_BYTES_MIN)
		find(all, SEVERITY_ERROR, "hugetlb_memory", "%" PRIu64 " MiB "
		     "are hugetlb memory, which cannot be shared: start the "
		     "VMM without huge pages", mib(process->hugetlb_bytes));
	if (process->shared_bytes >= GUEST_BYTES_MIN &&
	    has_private_guest(process))
		find(all, SEVERITY_NOTE, "shared_memory", "%" PRIu64 " MiB are "
		     "shared memory (a ring or a device, say), which cannot be "
		     "merged; the rest can", mib(process->shared_bytes));
	else if (process->shared_bytes >= GUEST_BYTES_MIN)
		find(all, SEVERITY_ERROR, "shared_memory", "%" PRIu64 " MiB are "
		     "shared memory (memfd, shm), which cannot be merged: start "
		     "the VMM with private memory (QEMU: no share=on)",
		     mib(process->shared_bytes));
	/* Less than what is private is an image that the VMM has loaded. */
	if (process->file_bytes >= GUEST_BYTES_MIN &&
	    process->file_bytes > process->anonymous_bytes)
		find(all, SEVERITY_NOTE, "file_memory", "%" PRIu64 " MiB are "
		     "mapped from a file, as after restoring a snapshot: "
		     "unwritten pages share the page cache, only written ones "
		     "can be merged", mib(process->file_bytes));
}

/* By whatever: vms counts only those that were merged at their start. */
static bool was_merged(const struct dksm_process *stat)
{
	return stat->vms || stat->attach.scanned || stat->idle_passes ||
	       stat->pages_merged;
}

static void process_attachment(struct findings *all,
			       const struct process_facts *process)
{
	const struct dksm_process *stat = &process->stat;
	int pid = (int)process->pid;

	if (!stat->attached && !stat->pages_merged)
		find(all, SEVERITY_ERROR, "not_attached", "it is not attached: "
		     "start it with dksm run, or use dksm attach %d", pid);
	else if (!stat->attached)
		find(all, SEVERITY_NOTE, "not_attached", "it was merged but is "
		     "not attached: what it adds is shared after the next dksm "
		     "merge %d only", pid);
	if (!process->vm_fds)
		find(all, SEVERITY_WARNING, "no_vm", "it has no KVM virtual "
		     "machine: look for the VMM's own process (a jailer or "
		     "launcher may have forked), or use dksm merge %d", pid);
	else if (stat->attached && !process->paused && !was_merged(stat))
		find(all, SEVERITY_WARNING, "no_kvm_run", "it is attached but "
		     "no guest has run since: it is merged when it does");
}

/* No idle moment will come, so nothing is merged until somebody does it. */
static void process_paused(struct findings *all,
			   const struct process_facts *process)
{
	int pid = (int)process->pid;

	if (process->stat.idle_passes)
		find(all, SEVERITY_NOTE, "paused", "its VMM has paused it, or "
		     "waits outside of KVM_RUN: what has changed since it was "
		     "merged is merged when it runs, or now by dksm attach %d or "
		     "dksm merge %d", pid, pid);
	else
		find(all, SEVERITY_WARNING, "paused", "its VMM has paused it, or "
		     "waits outside of KVM_RUN, so that it is never idle: use "
		     "dksm attach %d again, or dksm merge %d", pid, pid);
}

static void process_idle(struct findings *all,
			 const struct process_facts *process)
{
	const struct dksm_process *stat = &process->stat;
	int pid = (int)process->pid;

	if (!stat->attached)
		return;
	if (process->paused)
		process_paused(all, process);
	else if (!was_merged(stat))
		return;
	else if (!stat->idle)
		find(all, SEVERITY_WARNING, "idle_off", "what it populates or "
		     "changes is not merged (--no-idle, or in a domain with "
		     "--untrusted): use dksm merge %d when it has booted", pid);
	else if (!stat->idle_passes)
		find(all, SEVERITY_WARNING, "never_idle", "no pass over its "
		     "memory is complete: it is booting, or busy, which takes "
		     "longer, or its VMM keeps HLT to itself; dksm merge %d does "
		     "it at once", pid);
}

/* Each pass counts what it leaves, but merging all begins only once. */
static uint64_t skipped_at_first(const struct dksm_process *stat,
				 enum dksm_skip reason)
{
	return stat->load.skipped[reason] + stat->attach.skipped[reason];
}

static uint64_t skipped_later(const struct dksm_process *stat,
			      enum dksm_skip reason)
{
	return stat->idle_report.skipped[reason] + stat->vmm.skipped[reason];
}

/* Who has nothing in common with others is told where these are. */
static void process_alone(struct findings *all,
			  const struct process_facts *process)
{
	const struct dksm_process *stat = &process->stat;
	bool alone = skipped_at_first(stat, DKSM_SKIP_ALONE) ||
		     skipped_later(stat, DKSM_SKIP_ALONE);

	if (stat->pages_sharing || (!alone && !stat->pages_merged))
		return;
	if (process->other_domains)
		find(all, SEVERITY_WARNING, "other_domains", "none of its pages "
		     "is shared with others, which are in %u other domain%s: "
		     "put VMs of one tenant into one --domain",
		     process->other_domains,
		     process->other_domains == 1 ? "" : "s");
	else if (alone)
		find(all, SEVERITY_NOTE, "alone", "nobody else in its domain is "
		     "known to have what it has: it is shared when somebody "
		     "brings it");
}

static uint64_t merged_by(const struct dksm_report *report)
{
	return report->merged + report->published;
}

static void process_lost(struct findings *all,
			 const struct process_facts *process, uint64_t ever)
{
	const struct dksm_process *stat = &process->stat;
	uint64_t lost = ever - stat->pages_merged;
	const char *why = "given back, swapped out or unmerged since";
	char what[80];

	snprintf(what, sizeof(what), "what is equal again is merged when idle, or "
		 "now by dksm merge %d", (int)process->pid);
	if (stat->cow_breaks >= lost / 2)
		why = "written to since, or pinned for a while";
	if (skipped_later(stat, DKSM_SKIP_PINNED) >= lost / 2) {
		why = "pinned for I/O (VFIO, io_uring)";
		snprintf(what, sizeof(what), "as long as they are, they cannot "
			 "be merged");
	}
	find(all, SEVERITY_WARNING, "was_shared", "%" PRIu64 " pages were merged, "
	     "%" PRIu64 " still are: the others were %s; %s", ever,
	     stat->pages_merged, why, what);
}

/*
 * Only if the memory is still there, so that it could be shared: neither freed,
 * nor that of a virtual machine that has ended.  What was merged again and again
 * is more than all memory.
 */
static void process_was_shared(struct findings *all,
			       const struct process_facts *process)
{
	const struct dksm_process *stat = &process->stat;
	uint64_t pages = process->anonymous_bytes / page_bytes();
	uint64_t ever = merged_by(&stat->load) + merged_by(&stat->attach) +
			merged_by(&stat->idle_report) + merged_by(&stat->vmm);

	if (ever < LOST_PAGES_MIN || stat->pages_merged >= ever / 8 ||
	    pages < ever || stat->vms > process->vm_fds)
		return;
	process_lost(all, process, ever);
}

static void process_sharing(struct findings *all,
			    const struct process_facts *process)
{
	const struct dksm_process *stat = &process->stat;
	uint64_t pinned = skipped_at_first(stat, DKSM_SKIP_PINNED);
	uint64_t ksm = skipped_at_first(stat, DKSM_SKIP_KSM);

	process_alone(all, process);
	process_was_shared(all, process);
	if (stat->huge_split)
		find(all, SEVERITY_NOTE, "huge_split", "%" PRIu64 " of its huge "
		     "pages were split to share pages of them",
		     stat->huge_split);
	if (pinned)
		find(all, SEVERITY_WARNING, "pinned", "%" PRIu64 " pages were "
		     "pinned for I/O (VFIO, O_DIRECT) when it started or "
		     "was attached, and could not be merged", pinned);
	if (ksm)
		find(all, SEVERITY_WARNING, "merged_by_ksm", "%" PRIu64 " pages "
		     "had been merged by ksmd before: turn it off, or do not "
		     "advise MADV_MERGEABLE (QEMU: mem-merge=off)", ksm);
}

void doctor_process(struct findings *all, const struct process_facts *process)
{
	if (process->stat_err == -ESRCH)
		find(all, SEVERITY_ERROR, "no_process", "there is no process "
		     "%d: look it up with ps", (int)process->pid);
	else if (process->stat_err && process->stat_err != -ENODEV)
		find(all, SEVERITY_ERROR, "process_access", "process %d cannot "
		     "be looked at (%s): run this as root or as its owner",
		     (int)process->pid, strerror(-process->stat_err));
	if (process->stat_err)
		return;
	process_memory(all, process);
	process_attachment(all, process);
	process_idle(all, process);
	process_sharing(all, process);
}

bool findings_bad(const struct findings *all)
{
	for (size_t i = 0; i < all->nr; i++)
		if (all->list[i].severity != SEVERITY_NOTE)
			return true;
	return false;
}
