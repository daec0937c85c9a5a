// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/dksm: checks what the caller says and who the caller is; the contract
 * is in include/uapi/linux/dksm.h.
 *
 * A descriptor's domain is set once, with cmpxchg, and dropped on release.
 */
#include <linux/cred.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/pid.h>
#include <linux/ptrace.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/uaccess.h>

#include "internal.h"

/* Fetch an argument that may be shorter or longer than the structure we know. */
static int fetch(void *dst, size_t ksize, const void __user *src, u32 *usize)
{
	if (get_user(*usize, (const u32 __user *)src))
		return -EFAULT;
	if (*usize < ksize)
		return -EINVAL;		/* ABI 1 is the shortest there is */
	if (*usize > PAGE_SIZE)
		return -E2BIG;
	return copy_struct_from_user(dst, ksize, src, *usize);
}

static int store(void __user *dst, const void *src, size_t ksize)
{
	return copy_to_user(dst, src, ksize) ? -EFAULT : 0;
}

static long ioctl_info(void __user *arg)
{
	struct dksm_info info;
	u32 usize;
	int err;

	err = fetch(&info, sizeof(info), arg, &usize);
	if (err)
		return err;
	if (info.flags)
		return -EINVAL;
	info.abi = DKSM_ABI_VERSION;
	info.skip_nr = DKSM_SKIP_NR;
	info.features = IS_ENABLED(CONFIG_KVM) ? DKSM_FEATURE_KVM : 0;
	return store(arg, &info, sizeof(info));
}

static long ioctl_domain(struct file *file, void __user *arg)
{
	const u32 known = DKSM_DOMAIN_CREATE | DKSM_DOMAIN_EXCL |
			  DKSM_DOMAIN_FRESH_FRAMES | DKSM_DOMAIN_UNTRUSTED;
	struct dksm_domain_args args;
	struct dksm_domain *domain;
	u32 usize;
	int err;

	err = fetch(&args, sizeof(args), arg, &usize);
	if (err)
		return err;
	if (args.flags & ~known ||
	    (args.flags & (DKSM_DOMAIN_CREATE | DKSM_DOMAIN_EXCL)) ==
	    DKSM_DOMAIN_EXCL)
		return -EINVAL;
	if (READ_ONCE(file->private_data))
		return -EBUSY;

	domain = dksm_domain_open(args.name, args.flags);
	if (IS_ERR(domain))
		return PTR_ERR(domain);
	if (cmpxchg(&file->private_data, NULL, domain)) {
		dksm_domain_put(domain);
		return -EBUSY;
	}
	return 0;
}

static bool range_is_whole(const struct dksm_range_args *args)
{
	return !args->addr && !args->len;
}

static int pidfd_check(int pidfd)
{
	return pidfd < 0 && pidfd != DKSM_SELF ? -EBADF : 0;
}

static int range_check(const struct dksm_range_args *args)
{
	if (args->flags || args->reserved)
		return -EINVAL;
	if (pidfd_check(args->pidfd))
		return -EBADF;
	if (range_is_whole(args))
		return 0;
	if (!args->len || !PAGE_ALIGNED(args->addr) ||
	    !PAGE_ALIGNED(args->len) ||
	    args->addr > TASK_SIZE_MAX || args->len > TASK_SIZE_MAX ||
	    args->addr + args->len > TASK_SIZE_MAX)
		return -EINVAL;
	return 0;
}

static struct task_struct *task_get(int pidfd)
{
	unsigned int flags;

	return pidfd == DKSM_SELF ? get_task_struct(current) :
				    pidfd_get_task(pidfd, &flags);
}

/* The mm to work on, with a reference on mm_users. */
static struct mm_struct *task_mm(struct task_struct *task)
{
	if (task->flags & PF_KTHREAD)
		return ERR_PTR(-EINVAL);
	return mm_access(task, PTRACE_MODE_ATTACH_REALCREDS);
}

static struct mm_struct *pidfd_mm(int pidfd)
{
	struct task_struct *task = task_get(pidfd);
	struct mm_struct *mm;

	if (IS_ERR(task))
		return ERR_CAST(task);
	mm = task_mm(task);
	put_task_struct(task);
	return mm;
}

/* Put @mm into the descriptor's domain, or see that it is in a usable one. */
static int range_join(struct file *file, struct mm_struct *mm)
{
	struct dksm_domain *domain = READ_ONCE(file->private_data);
	struct dksm_mm *member = READ_ONCE(mm->dksm);

	if (domain)
		return dksm_mm_join(mm, domain);
	if (!member)
		return -ENOENT;
	return dksm_domain_may_use(member->domain) ? 0 : -EACCES;
}

static int range_run(struct file *file, unsigned int cmd, struct mm_struct *mm,
		     struct dksm_range_args *args)
{
	bool whole = range_is_whole(args);
	unsigned long end = whole ? TASK_SIZE_MAX & PAGE_MASK :
				    args->addr + args->len;
	int err;

	if (cmd == DKSM_IOC_UNMERGE)
		return dksm_unmerge(mm, args->addr, end, whole, &args->report);
	err = range_join(file, mm);
	return err ? err : dksm_merge(mm, args->addr, end, whole,
				      &args->report);
}

/* @args->report says what was done, whatever is returned. */
static int range_call(struct file *file, unsigned int cmd,
		      struct dksm_range_args *args)
{
	struct mm_struct *mm;
	int ret;

	ret = range_check(args);
	if (ret)
		return ret;
	mm = pidfd_mm(args->pidfd);
	if (IS_ERR(mm))
		return PTR_ERR(mm);
	ret = range_run(file, cmd, mm, args);
	mmput(mm);
	return ret;
}

static long ioctl_range(struct file *file, unsigned int cmd, void __user *arg)
{
	struct dksm_range_args args;
	u32 usize;
	long ret;

	ret = fetch(&args, sizeof(args), arg, &usize);
	if (ret)
		return ret;
	memset(&args.report, 0, sizeof(args.report));
	ret = range_call(file, cmd, &args);
	if (store(arg + offsetof(struct dksm_range_args, report), &args.report,
		  sizeof(args.report)))
		return -EFAULT;
	return ret;
}

/* As for merging: the caller must be allowed to use the domain @mm is in. */
static int attach_run(struct file *file, unsigned int cmd,
		      struct mm_struct *mm, u32 flags)
{
	struct dksm_mm *member = READ_ONCE(mm->dksm);
	int err;

	if (cmd == DKSM_IOC_DETACH)
		return member && !dksm_domain_may_use(member->domain) ?
		       -EACCES : dksm_mm_detach(mm);
	err = range_join(file, mm);
	return err ? err : dksm_mm_attach(mm, flags);
}

/*
 * What runs a virtual machine already is merged at once, whatever it does: by the one
 * who asks for it, as by a merge call.
 */
static void attach_merge(struct mm_struct *mm)
{
	struct dksm_mm *member = mm->dksm;
	struct dksm_report report = { };

	/* What of it is guest memory, only its own threads can tell. */
	if (!mm_has_notifiers(mm) ||
	    READ_ONCE(member->attached) & DKSM_ATTACH_NO_VMM)
		return;
	if (member->domain->untrusted)
		dksm_merge(mm, 0, TASK_SIZE_MAX & PAGE_MASK, true, &report);
	else
		dksm_attach_merge(mm);
}

/*
 * No exec meanwhile: either it is over, and the new mm is attached, or it is still
 * to come, and takes the attachment along.  @task is asked for again, since an
 * exec by another thread replaces it.
 */
static int task_attach(struct file *file, unsigned int cmd,
		       struct task_struct *task,
		       const struct dksm_attach_args *args)
{
	struct mm_struct *mm;
	int ret;

	if (mutex_lock_interruptible(&task->signal->cred_guard_mutex))
		return -ERESTARTNOINTR;
	mm = pidfd_mm(args->pidfd);
	if (IS_ERR(mm)) {
		ret = PTR_ERR(mm);
	} else {
		ret = attach_run(file, cmd, mm, args->flags);
		if (ret || cmd == DKSM_IOC_DETACH) {
			mmput(mm);
			mm = NULL;
		}
	}
	mutex_unlock(&task->signal->cred_guard_mutex);
	if (!IS_ERR_OR_NULL(mm)) {
		attach_merge(mm);
		mmput(mm);
	}
	return ret;
}

static long ioctl_attach(struct file *file, unsigned int cmd, void __user *arg)
{
	const u32 known = cmd == DKSM_IOC_ATTACH ?
			  DKSM_ATTACH_NO_IDLE | DKSM_ATTACH_NO_LEARN |
			  DKSM_ATTACH_NO_VMM : 0;
	struct dksm_attach_args args;
	struct task_struct *task;
	u32 usize;
	long ret;

	ret = fetch(&args, sizeof(args), arg, &usize);
	if (ret)
		return ret;
	if (args.flags & ~known || args.reserved)
		return -EINVAL;
	ret = pidfd_check(args.pidfd);
	if (ret)
		return ret;
	task = task_get(args.pidfd);
	if (IS_ERR(task))
		return PTR_ERR(task);
	ret = task_attach(file, cmd, task, &args);
	put_task_struct(task);
	return ret;
}

static long dksm_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	switch (cmd) {
	case DKSM_IOC_INFO:
		return ioctl_info((void __user *)arg);
	case DKSM_IOC_DOMAIN:
		return ioctl_domain(file, (void __user *)arg);
	case DKSM_IOC_MERGE:
	case DKSM_IOC_UNMERGE:
		return ioctl_range(file, cmd, (void __user *)arg);
	case DKSM_IOC_ATTACH:
	case DKSM_IOC_DETACH:
		return ioctl_attach(file, cmd, (void __user *)arg);
	default:
		return -ENOTTY;
	}
}

static int dksm_open(struct inode *inode, struct file *file)
{
	file->private_data = NULL;	/* misc_open() left the device there */
	return 0;
}

static int dksm_release(struct inode *inode, struct file *file)
{
	if (file->private_data)
		dksm_domain_put(file->private_data);
	return 0;
}

static const struct file_operations dksm_fops = {
	.owner = THIS_MODULE,
	.open = dksm_open,
	.release = dksm_release,
	.unlocked_ioctl = dksm_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice dksm_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "dksm",
	.fops = &dksm_fops,
	.mode = 0600,
};

builtin_misc_device(dksm_device);
