/* SPDX-License-Identifier: ((GPL-2.0 WITH Linux-syscall-note) OR MIT) */
/*
 * DKSM, daemonless kernel same-page merging: the contract of /dev/dksm.
 *
 * Every file descriptor of /dev/dksm starts unbound.  DKSM_IOC_DOMAIN binds it,
 * once, to a domain: pages are shared only inside one domain.  DKSM_IOC_MERGE
 * shares the populated private anonymous pages of a range before it returns;
 * DKSM_IOC_UNMERGE gives each merged page of a range a private copy again.
 * DKSM_IOC_ATTACH has the virtual machines of a process merged by themselves, at
 * their first KVM_RUN and when they are idle, in the thread that runs them.
 * Nothing happens in the background.
 *
 * Every argument begins with @size, the size of the structure the caller was
 * compiled with, and @flags.  A structure may grow at its end: a shorter one is
 * accepted, a longer one too as long as the bytes the kernel does not know are
 * zero.  Errors that every call can return:
 *
 *   EFAULT  the argument cannot be read or written
 *   EINVAL  @size is smaller than the first version of the structure, or a flag
 *           or reserved field is set that the kernel does not know
 *   E2BIG   @size is larger than the kernel's structure and the rest is not 0,
 *           or @size is larger than a page
 *   ENOTTY  no such call
 */
#ifndef _UAPI_LINUX_DKSM_H
#define _UAPI_LINUX_DKSM_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define DKSM_ABI_VERSION	1

/* Length of a domain's name in bytes, with the terminating NUL. */
#define DKSM_NAME_SIZE		64

/**
 * enum dksm_skip - why a page was left as it was
 * @DKSM_SKIP_SHARED:	in a shared mapping (counts address space, populated or not)
 * @DKSM_SKIP_HUGETLB:	in a hugetlb mapping (counts address space)
 * @DKSM_SKIP_DEVICE:	in a device, DAX or otherwise special mapping (counts
 *			address space), or a page of device memory
 * @DKSM_SKIP_FILE:	a page-cache page in a private file mapping
 * @DKSM_SKIP_ALREADY:	merged or published by DKSM before
 * @DKSM_SKIP_KSM:	merged by KSM
 * @DKSM_SKIP_PINNED:	pinned by get_user_pages(), for instance by O_DIRECT or VFIO
 * @DKSM_SKIP_BUSY:	locked, referenced or changed by somebody else meanwhile
 * @DKSM_SKIP_HUGE:	part of a large folio that could not be split, or of a huge page
 *			of which too few would be merged (all but merge calls)
 * @DKSM_SKIP_SWAPPED:	not in memory
 * @DKSM_SKIP_NOMEM:	no memory for the bookkeeping; calling again may help
 * @DKSM_SKIP_POISONED:	lost to a memory error
 * @DKSM_SKIP_LEARNED:	its content, or zeroes in its place, were written to soon
 *			after loading, in other virtual machines (merges at a
 *			first KVM_RUN or when idle)
 * @DKSM_SKIP_UNMAPPED:	guest memory without a mapping behind it (counts address
 *			space; merges at a first KVM_RUN)
 * @DKSM_SKIP_ALONE:	nobody else is known to have this content: remembered, and
 *			merged when somebody brings it (merges at a first KVM_RUN or
 *			when idle)
 * @DKSM_SKIP_NR:	number of reasons known to this header
 */
enum dksm_skip {
	DKSM_SKIP_SHARED,
	DKSM_SKIP_HUGETLB,
	DKSM_SKIP_DEVICE,
	DKSM_SKIP_FILE,
	DKSM_SKIP_ALREADY,
	DKSM_SKIP_KSM,
	DKSM_SKIP_PINNED,
	DKSM_SKIP_BUSY,
	DKSM_SKIP_HUGE,
	DKSM_SKIP_SWAPPED,
	DKSM_SKIP_NOMEM,
	DKSM_SKIP_POISONED,
	DKSM_SKIP_LEARNED,
	DKSM_SKIP_UNMAPPED,
	DKSM_SKIP_ALONE,
	DKSM_SKIP_NR,
};

/* Room for reasons, so that new ones need no new structure. */
#define DKSM_SKIP_MAX		16

/**
 * struct dksm_report - what one call did; all counts in base pages
 * @scanned:	pages looked at; after a merge this is exactly
 *		@merged + @published + @zero + the sum of @skipped
 * @merged:	now share a frame with equal content that existed before
 * @published:	no equal frame existed: the page itself became a frame that others
 *		can share from now on (or a copy of it, if a process outside the
 *		domain still shared the page since a fork, and always with
 *		DKSM_DOMAIN_FRESH_FRAMES)
 * @zero:	replaced by the kernel's zero page
 * @unmerged:	got a private copy again (DKSM_IOC_UNMERGE only)
 * @ns:		time the call took, in nanoseconds
 * @skipped:	pages left as they were, by &enum dksm_skip
 */
struct dksm_report {
	__u64 scanned;
	__u64 merged;
	__u64 published;
	__u64 zero;
	__u64 unmerged;
	__u64 ns;
	__u64 skipped[DKSM_SKIP_MAX];
};

/* Virtual machines of attached processes are merged by KVM. */
#define DKSM_FEATURE_KVM	(1ULL << 0)

/**
 * struct dksm_info - what this kernel offers (DKSM_IOC_INFO)
 * @size:	in: sizeof(struct dksm_info)
 * @flags:	in: 0
 * @abi:	out: DKSM_ABI_VERSION
 * @skip_nr:	out: number of skip reasons the kernel knows
 * @features:	out: DKSM_FEATURE_*
 */
struct dksm_info {
	__u32 size;
	__u32 flags;
	__u32 abi;
	__u32 skip_nr;
	__u64 features;
};

/* Create the domain if it does not exist. */
#define DKSM_DOMAIN_CREATE	(1U << 0)
/* With DKSM_DOMAIN_CREATE: fail with EEXIST if the domain exists. */
#define DKSM_DOMAIN_EXCL	(1U << 1)
/*
 * What is published is copied into a newly allocated page: the page of whoever
 * brings it first, which may be one chosen for its place, is not what others will
 * share.  (What was freed last is likely to be allocated next.)  A property of the domain:
 * it is created so, or must have been.
 */
#define DKSM_DOMAIN_FRESH_FRAMES	(1U << 2)
/*
 * Members do not trust each other.  By writing, none is to learn what others have:
 * a content is published when it is seen first, so that pages with and without a
 * twin are alike, always as with DKSM_DOMAIN_FRESH_FRAMES.  Nothing is merged when
 * virtual machines are idle, and nothing learned, whatever they are attached with.
 * Whoever runs one already is merged once, at once.  A property of the domain, too.
 */
#define DKSM_DOMAIN_UNTRUSTED		(1U << 3)

/**
 * struct dksm_domain_args - bind the descriptor to a domain (DKSM_IOC_DOMAIN)
 * @size:	in: sizeof(struct dksm_domain_args)
 * @flags:	in: DKSM_DOMAIN_*
 * @name:	in: 1 to 63 of the characters A-Z a-z 0-9 . _ - with the first not
 *		a dot, terminated by NUL
 *
 * The creator's effective user id owns the domain.  A domain lives as long as a
 * descriptor is bound to it, a process is in it, or a frame of it exists.
 *
 * Errors: EINVAL (bad name, EXCL without CREATE, FRESH_FRAMES or UNTRUSTED and the
 * domain exists without it), ENOENT (no such domain),
 * EEXIST, EACCES (somebody else's domain and no CAP_SYS_PTRACE), EBUSY (the
 * descriptor is bound already), ENOMEM.
 */
struct dksm_domain_args {
	__u32 size;
	__u32 flags;
	char name[DKSM_NAME_SIZE];
};

/* The value of @pidfd that means the calling process. */
#define DKSM_SELF		(-1)

/**
 * struct dksm_range_args - merge or unmerge (DKSM_IOC_MERGE, DKSM_IOC_UNMERGE)
 * @size:	in: sizeof(struct dksm_range_args)
 * @flags:	in: 0
 * @pidfd:	in: a pidfd, or DKSM_SELF
 * @reserved:	in: 0
 * @addr:	in: first byte, a multiple of the page size
 * @len:	in: bytes, a multiple of the page size; 0 with @addr 0 means the
 *		whole address space
 * @report:	out: what was done, also by a call that fails; not written if the
 *		structure itself was refused (EFAULT, E2BIG, or EINVAL for @size)
 *
 * DKSM_IOC_MERGE puts the process into the descriptor's domain if it is in none
 * yet; a process stays in its domain until it exits or executes another program,
 * and its children inherit it.  With an unbound descriptor the process must be
 * in a domain already that the caller may use.
 *
 * Errors: EINVAL (unaligned or empty, range wraps around or leaves the address
 * space, kernel thread), EBADF (@pidfd is not a pidfd), ESRCH (the process is gone),
 * EACCES or EPERM (the caller may not ptrace the process, or not use the
 * domain), ENOENT (no domain), EXDEV (the process is in another domain),
 * ENOMEM (part of the range is not mapped, as with madvise(2): the rest was
 * done; or no memory to begin with, or for the copies of an unmerge, which ends
 * there), EINTR (a fatal signal arrived: the report
 * tells what was done).
 */
struct dksm_range_args {
	__u32 size;
	__u32 flags;
	__s32 pidfd;
	__u32 reserved;
	__u64 addr;
	__u64 len;
	struct dksm_report report;
};

/* Merge virtual machines at their first KVM_RUN only. */
#define DKSM_ATTACH_NO_IDLE	(1U << 0)
/* Merge also what is known to be written to soon; learn nothing either. */
#define DKSM_ATTACH_NO_LEARN	(1U << 1)
/* Merge guest memory only when idle, nothing else of the process. */
#define DKSM_ATTACH_NO_VMM	(1U << 2)

/**
 * struct dksm_attach_args - attach or detach (DKSM_IOC_ATTACH, DKSM_IOC_DETACH)
 * @size:	in: sizeof(struct dksm_attach_args)
 * @flags:	in: DKSM_ATTACH_*; 0 to detach.  Attaching again replaces them
 * @pidfd:	in: a pidfd, or DKSM_SELF
 * @reserved:	in: 0
 *
 * The process joins the descriptor's domain as with DKSM_IOC_MERGE.  The
 * populated private anonymous memory of each of its virtual machines is merged
 * by the first KVM_RUN that would enter the guest, before it does, as far as
 * /sys/kernel/mm/dksm/load_pages lets it; and when all virtual processors are
 * idle, what was populated or changed since, by the last one to halt.  If it runs
 * virtual machines already, all of it is merged before the call returns (with
 * DKSM_ATTACH_NO_VMM, when they are idle, if at all).  A page is merged once its
 * content is known to be elsewhere.
 *
 * An attachment is inherited over fork() and execve(), but not by a program that has
 * more privileges than its caller or that the caller may not read.  Detaching leaves
 * what is merged as it is.
 *
 * Errors: as DKSM_IOC_MERGE but for those of ranges; ENOENT also if the process
 * to be detached is not attached.
 */
struct dksm_attach_args {
	__u32 size;
	__u32 flags;
	__s32 pidfd;
	__u32 reserved;
};

/* _IO and not _IOWR: the number must not change when a structure grows. */
#define DKSM_IOC_MAGIC		0xDC
#define DKSM_IOC_INFO		_IO(DKSM_IOC_MAGIC, 0x00)
#define DKSM_IOC_DOMAIN		_IO(DKSM_IOC_MAGIC, 0x01)
#define DKSM_IOC_MERGE		_IO(DKSM_IOC_MAGIC, 0x02)
#define DKSM_IOC_UNMERGE	_IO(DKSM_IOC_MAGIC, 0x03)
#define DKSM_IOC_ATTACH		_IO(DKSM_IOC_MAGIC, 0x04)
#define DKSM_IOC_DETACH		_IO(DKSM_IOC_MAGIC, 0x05)

#endif /* _UAPI_LINUX_DKSM_H */
