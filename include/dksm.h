/* SPDX-License-Identifier: MIT */
/*
 * libdksm: merge equal pages of processes, now and on request.
 *
 * Open a handle, bind it to a domain, hand it processes (dksm_attach() has their
 * virtual machines merged when they start, dksm_merge() merges now):
 *
 *	struct dksm_report report;
 *	struct dksm *dksm;
 *	int err = dksm_open(&dksm);
 *
 *	if (!err)
 *		err = dksm_domain_join(dksm, "web", DKSM_DOMAIN_CREATE);
 *	if (!err)
 *		err = dksm_merge(dksm, pidfd, 0, 0, &report);
 *
 * Every function that returns int returns 0 or a negative errno, leaves errno
 * itself undefined, and prints nothing.  No function keeps a pointer it was
 * given.  Different handles are independent; one handle may be used by several
 * threads at once, but only one of them may close it, when the others are done.
 * The functions without a handle may be called at any time by any thread.
 *
 * After fork() parent and child both have the handle: each closes its own, a domain
 * that one of them joins is joined by both, and DKSM_SELF is whoever calls.  In
 * signal handlers, and between fork() and exec of a program with threads, only the
 * functions with a handle may be called, and not dksm_close(): each of them is one
 * ioctl.  A signal handler saves errno, as always.
 *
 * Every function with a handle but dksm_close() can also return -ENOTTY, -EINVAL
 * or -E2BIG if the kernel is too old or too new for this library, and -EACCES or
 * -EPERM if a security module or a seccomp filter forbids the call.
 *
 * The structures of reports and flags (struct dksm_report, struct dksm_info,
 * enum dksm_skip, DKSM_DOMAIN_*, DKSM_SELF) are those of <linux/dksm.h>.
 */
#ifndef DKSM_H
#define DKSM_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <linux/dksm.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DKSM_VERSION	"0.1.0"

#if defined(__GNUC__)
#define DKSM_API	__attribute__((visibility("default")))
#else
#define DKSM_API
#endif

/* A connection to whatever merges pages on this host. */
struct dksm;

/**
 * struct dksm_counters - what has been achieved, in a domain or in all
 *
 * They are the files of the same names in /sys/kernel/mm/dksm or, for a domain,
 * in /sys/kernel/mm/dksm/domains/NAME.  Pages are base pages.  Those that only
 * grow (@cow_breaks, @merge_calls, @merge_ns, @idle_*, @huge_split) begin when the
 * host boots or the domain is created; on the host they include domains that are
 * gone.
 *
 * @pages_shared:	frames that DKSM holds
 * @pages_sharing:	mappings of those frames beyond the first of each
 * @pages_zero:		pages replaced by the kernel's zero page
 * @saved_bytes:	memory that would be in use without DKSM: @pages_sharing and
 *			@pages_zero in bytes; @metadata_bytes is not taken off
 * @cow_breaks:		writes that made a private copy of a shared page again
 * @metadata_bytes:	memory that DKSM itself uses
 * @merge_calls:	calls of merge so far, and virtual machines merged when they
 *			started
 * @merge_ns:		time spent in them, in nanoseconds
 * @idle_ns:		time spent in idle virtual machines, or on the time of busy
 *			ones, in nanoseconds
 * @huge_split:		large folios split to merge pages of them
 * @learned_volatile:	contents, and places of zeroes, known to be written to
 *			soon, and left alone
 * @idle_passes:	complete passes over the memory of members
 * @idle_changed:	pages that had changed when rounds of passes began
 * @idle_hashed:	pages that passes looked at
 * @reserved:		0
 */
struct dksm_counters {
	uint64_t pages_shared;
	uint64_t pages_sharing;
	uint64_t pages_zero;
	uint64_t saved_bytes;
	uint64_t cow_breaks;
	uint64_t metadata_bytes;
	uint64_t merge_calls;
	uint64_t merge_ns;
	uint64_t idle_ns;
	uint64_t huge_split;
	uint64_t learned_volatile;
	uint64_t idle_passes;
	uint64_t idle_changed;
	uint64_t idle_hashed;
	uint64_t reserved[2];
};

/**
 * struct dksm_global - the whole host
 * @counters:		sums over all domains
 * @max_page_sharing:	the most mappings that one frame is given by merging
 * @use_zero_pages:	whether zero pages become the kernel's zero page (0 or 1)
 * @learn:		loads for which a volatile content is left alone, 32768 at
 *			most, 0 if nothing is learned
 * @load_pages:		pages that the first run of a virtual machine looks at, at most
 * @huge_min:		pages of a huge page that have to be merged for it to be split
 * @busy_percent:	time of a guest that is never idle which merging it may take
 * @reserved:		0
 */
struct dksm_global {
	struct dksm_counters counters;
	uint64_t max_page_sharing;
	uint64_t use_zero_pages;
	uint64_t learn;
	uint64_t load_pages;
	uint64_t huge_min;
	uint64_t busy_percent;
	uint64_t reserved[2];
};

/**
 * struct dksm_domain - one domain
 * @name:	its name, terminated by NUL
 * @counters:	what has been achieved in it
 */
struct dksm_domain {
	char name[DKSM_NAME_SIZE];
	struct dksm_counters counters;
};

/**
 * struct dksm_process - one process
 *
 * From /proc/PID/dksm_stat.  A program that it executes begins with 0.
 *
 * @domain:		the domain it is in, "" if none (all else is 0 then)
 * @pages_merged:	its pages that are mapped from DKSM's frames now
 * @pages_sharing:	those of them whose frame is mapped more than once
 * @pages_zero:		its pages replaced by the kernel's zero page, by DKSM or KSM
 * @cow_breaks:		its writes that made a private copy again
 * @attached:		1 if its virtual machines are merged by themselves
 * @idle:		1 if also when they are idle
 * @learn:		1 if volatile contents are learned and left alone
 * @huge_split:		its large folios that were split
 * @vms:		its virtual machines that were merged when they started, not
 *			those that ran when it was attached
 * @idle_passes:	complete passes over its memory, also by dksm_attach()
 * @idle_step_ns_max:	longest work between two looks for events, in ns
 * @load:		sum of what was done when they started
 * @attach:		sum of what was done by attaching it when they ran
 * @idle_report:	sum of what was done in their memory when they were idle, or
 *			on the time of busy ones
 * @vmm:		sum of what was done then in other memory of the process
 * @idle_rounds:	rounds, of one or more passes each
 * @idle_changed:	pages that had changed when rounds began
 * @idle_hashed:	pages that passes looked at
 * @idle_why:		why the last round began: "none" (there was none), "grown",
 *			"changed", "owed", "attached"
 * @reserved:		0
 */
struct dksm_process {
	char domain[DKSM_NAME_SIZE];
	uint64_t pages_merged;
	uint64_t pages_sharing;
	uint64_t pages_zero;
	uint64_t cow_breaks;
	uint64_t attached;
	uint64_t idle;
	uint64_t learn;
	uint64_t huge_split;
	uint64_t vms;
	uint64_t idle_passes;
	uint64_t idle_step_ns_max;
	struct dksm_report load;
	struct dksm_report attach;
	struct dksm_report idle_report;
	struct dksm_report vmm;
	uint64_t idle_rounds;
	uint64_t idle_changed;
	uint64_t idle_hashed;
	char idle_why[16];
	uint64_t reserved[8];
};

/**
 * dksm_open - make a handle that is bound to no domain
 * @handle:	receives it; the caller ends it with dksm_close().  NULL on error
 *
 * The handle's descriptor is closed on exec.
 *
 * Return: 0; -ENODEV if this kernel has no DKSM (or there is no /dev/dksm),
 * -EACCES or -EPERM if the caller may not use it, -EMFILE or -ENFILE if there
 * are too many open files, -ENOMEM, or what else open(2) says.
 */
DKSM_API int dksm_open(struct dksm **handle);

/**
 * dksm_close - end a handle
 * @handle:	from dksm_open(), or NULL
 *
 * Pages stay merged and processes stay in their domains.
 */
DKSM_API void dksm_close(struct dksm *handle);

/**
 * dksm_info_get - what the kernel offers
 * @handle:	from dksm_open()
 * @info:	filled in on success; need not be initialised
 *
 * Return: 0; -ENOTTY, -EINVAL or -E2BIG as every function with a handle.
 */
DKSM_API int dksm_info_get(struct dksm *handle, struct dksm_info *info);

/**
 * dksm_domain_join - bind a handle to a domain, once
 * @handle:	from dksm_open()
 * @name:	1 to 63 of A-Z a-z 0-9 . _ - and the first not a dot, ended by NUL
 * @flags:	0 to join only; DKSM_DOMAIN_CREATE to create it if need be;
 *		with DKSM_DOMAIN_EXCL too, to create it or fail;
 *		DKSM_DOMAIN_FRESH_FRAMES for one whose frames are copies;
 *		DKSM_DOMAIN_UNTRUSTED for one whose members do not trust each other
 *
 * The effective user ID that creates a domain owns it.  It lives as long as a
 * handle is bound to it, a process is in it, or a frame of it exists.
 *
 * Return: 0; -EINVAL (bad name or flags, or it exists without these
 * properties), -ENOENT (no such domain), -EEXIST (it exists, with DKSM_DOMAIN_EXCL), -EACCES
 * (somebody else's domain and no CAP_SYS_PTRACE), -EBUSY (the handle is bound
 * already), -ENOMEM.
 */
DKSM_API int dksm_domain_join(struct dksm *handle, const char *name,
			      unsigned int flags);

/**
 * dksm_merge - share the equal pages of a range with all else in the domain
 * @handle:	from dksm_open(); if it is bound to no domain, the process's own
 *		domain is used
 * @pidfd:	the process, from pidfd_open(2), or DKSM_SELF
 * @addr:	first byte, a multiple of the page size
 * @len:	bytes, a multiple of the page size; 0 with @addr 0 means the whole
 *		address space
 * @report:	receives what was done, also when the call fails half-way; all 0
 *		if it did not get that far.  NULL if not wanted
 *
 * When the call returns, all that can be shared is shared, and what nobody else has
 * yet can be shared by others.  A process that is
 * in no domain joins the handle's and stays until it exits or executes another
 * program; its children inherit it.
 *
 * Return: 0; -EINVAL (unaligned, outside of the address space, empty but with an
 * @addr, kernel thread),
 * -EBADF (not a pidfd), -ESRCH (the process is gone), -EACCES or -EPERM (no
 * right to ptrace the process or to use its domain), -ENOENT (neither handle
 * nor process has a domain), -EXDEV (the process is in another domain), -ENOMEM
 * (part of the range is not mapped, the rest was done; or no memory), -EINTR
 * (a fatal signal; @report tells what was done).
 */
DKSM_API int dksm_merge(struct dksm *handle, int pidfd, uint64_t addr,
			uint64_t len, struct dksm_report *report);

/**
 * dksm_unmerge - give each merged page of a range a private copy again
 * @handle:	from dksm_open(); what it is bound to does not matter
 * @pidfd:	as for dksm_merge()
 * @addr:	as for dksm_merge()
 * @len:	as for dksm_merge()
 * @report:	as for dksm_merge()
 *
 * The process stays in its domain.  Pages that KSM replaced by the zero page get
 * copies, too: nothing tells them from DKSM's.
 *
 * Return: 0; -EINVAL, -EBADF, -ESRCH, -EACCES, -EPERM and -EINTR as dksm_merge();
 * -ENOMEM (part of the range is not mapped, the rest was done; or no memory for
 * a copy, and what comes after it is still merged).
 */
DKSM_API int dksm_unmerge(struct dksm *handle, int pidfd, uint64_t addr,
			  uint64_t len, struct dksm_report *report);

/**
 * dksm_attach - merge the virtual machines of a process by themselves
 * @handle:	from dksm_open(); as for dksm_merge()
 * @pidfd:	the process, from pidfd_open(2), or DKSM_SELF
 * @flags:	0, or DKSM_ATTACH_NO_IDLE, DKSM_ATTACH_NO_LEARN, DKSM_ATTACH_NO_VMM
 *
 * From now on the memory of each of its KVM virtual machines is merged just
 * before it first runs, and what the process populated or changed since when they
 * are idle.  If it runs some already, all of its memory is merged before the call
 * returns (but with DKSM_ATTACH_NO_VMM), whether they are idle, busy or paused.
 * Programs that it executes and its children inherit the attachment.  Attaching again
 * merges again and replaces the flags.
 *
 * Return: 0; -EINVAL (bad flags, kernel thread); -EBADF, -ESRCH, -EACCES, -EPERM,
 * -ENOENT, -EXDEV and -EINTR as dksm_merge(); -ENOMEM; -ENOTTY if the kernel is
 * too old for it.
 */
DKSM_API int dksm_attach(struct dksm *handle, int pidfd, unsigned int flags);

/**
 * dksm_detach - leave the virtual machines of a process alone again
 * @handle:	from dksm_open(); what it is bound to does not matter
 * @pidfd:	as for dksm_attach()
 *
 * What is merged stays merged.
 *
 * Return: 0; -ENOENT if it is not attached; -EINVAL, -EBADF, -ESRCH, -EACCES,
 * -EPERM, -EINTR and -ENOTTY as dksm_attach().
 */
DKSM_API int dksm_detach(struct dksm *handle, int pidfd);

/**
 * dksm_stat_global - read the numbers of the whole host
 * @global:	filled in on success, all 0 otherwise
 *
 * Anybody may call it.  The numbers are read one after the other, so they need
 * not fit each other exactly while merging goes on.
 *
 * Return: 0; -ENODEV if this kernel has no DKSM, -ENOENT if it lacks one of the
 * numbers, -EBADMSG or -ERANGE if one is none or too large, or what open(2) and
 * read(2) say.
 */
DKSM_API int dksm_stat_global(struct dksm_global *global);

/**
 * dksm_stat_domains - read the numbers of every domain the caller may see
 * @domains:	receives an array sorted by name, which the caller frees with
 *		dksm_stat_domains_free(); NULL on error or if there are none
 * @nr:		receives its length, 0 on error
 *
 * Domains of other users are left out, except for root.
 *
 * Return: 0; -ENOMEM; -ENODEV, -ENOENT, -EBADMSG, -ERANGE and others as
 * dksm_stat_global().
 */
DKSM_API int dksm_stat_domains(struct dksm_domain **domains, size_t *nr);

/**
 * dksm_stat_domains_free - free an array of dksm_stat_domains()
 * @domains:	the array, or NULL
 */
DKSM_API void dksm_stat_domains_free(struct dksm_domain *domains);

/**
 * dksm_stat_process - read the numbers of one process
 * @pid:	the process, 0 for the caller
 * @process:	filled in on success, all 0 otherwise
 *
 * Return: 0, also if the process is in no domain; -ESRCH if there is no such
 * process (or /proc hides it), -ENODEV if this kernel has no DKSM, -EACCES if the
 * process belongs to somebody else, -EBADMSG or -ERANGE if the kernel's answer
 * makes no sense, or what open(2) and read(2) say.
 */
DKSM_API int dksm_stat_process(pid_t pid, struct dksm_process *process);

/**
 * dksm_skip_name - a word for a reason to leave a page alone
 * @reason:	one of enum dksm_skip
 *
 * Return: a lower-case word that never changes, for instance "pinned", in
 * static storage; NULL if this library does not know the reason.
 */
DKSM_API const char *dksm_skip_name(unsigned int reason);

#ifdef __cplusplus
}
#endif

#endif /* DKSM_H */
