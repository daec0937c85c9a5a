// SPDX-License-Identifier: MIT
/*
 * The engine in the kernel.  This file owns all that is known of /dev/dksm: a
 * handle is one descriptor of it, and every call is one ioctl.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "engine.h"

struct kernel_handle {
	struct dksm base;	/* first, so that pointers convert both ways */
	int fd;
};

static int call(struct dksm *handle, unsigned long request, void *args)
{
	int fd = ((struct kernel_handle *)handle)->fd;

	return ioctl(fd, request, args) < 0 ? -errno : 0;
}

static void kernel_close(struct dksm *handle)
{
	close(((struct kernel_handle *)handle)->fd);
	free(handle);
}

static int kernel_info(struct dksm *handle, struct dksm_info *info)
{
	struct dksm_info args = { .size = sizeof(args) };
	int err = call(handle, DKSM_IOC_INFO, &args);

	if (!err)
		*info = args;
	return err;
}

static int kernel_domain_join(struct dksm *handle, const char *name,
			      unsigned int flags)
{
	struct dksm_domain_args args = {
		.size = sizeof(args),
		.flags = flags,
	};
	size_t len = strlen(name);

	if (len >= sizeof(args.name))
		return -EINVAL;
	memcpy(args.name, name, len);
	return call(handle, DKSM_IOC_DOMAIN, &args);
}

static int range_call(struct dksm *handle, unsigned long request, int pidfd,
		      uint64_t addr, uint64_t len, struct dksm_report *report)
{
	struct dksm_range_args args = {
		.size = sizeof(args),
		.pidfd = pidfd,
		.addr = addr,
		.len = len,
	};
	int err = call(handle, request, &args);

	*report = args.report;
	return err;
}

static int kernel_merge(struct dksm *handle, int pidfd, uint64_t addr,
			uint64_t len, struct dksm_report *report)
{
	return range_call(handle, DKSM_IOC_MERGE, pidfd, addr, len, report);
}

static int kernel_unmerge(struct dksm *handle, int pidfd, uint64_t addr,
			  uint64_t len, struct dksm_report *report)
{
	return range_call(handle, DKSM_IOC_UNMERGE, pidfd, addr, len, report);
}

static int kernel_attach(struct dksm *handle, int pidfd, unsigned int flags)
{
	struct dksm_attach_args args = {
		.size = sizeof(args),
		.flags = flags,
		.pidfd = pidfd,
	};

	return call(handle, DKSM_IOC_ATTACH, &args);
}

static int kernel_detach(struct dksm *handle, int pidfd)
{
	struct dksm_attach_args args = {
		.size = sizeof(args),
		.pidfd = pidfd,
	};

	return call(handle, DKSM_IOC_DETACH, &args);
}

static const struct dksm_engine kernel_engine = {
	.close = kernel_close,
	.info = kernel_info,
	.domain_join = kernel_domain_join,
	.merge = kernel_merge,
	.unmerge = kernel_unmerge,
	.attach = kernel_attach,
	.detach = kernel_detach,
};

/* A missing node and a node without a driver both mean: no DKSM here. */
static int open_device(const char *device)
{
	int fd = open(device, O_RDWR | O_CLOEXEC);

	if (fd >= 0)
		return fd;
	return errno == ENOENT || errno == ENXIO ? -ENODEV : -errno;
}

int dksm_kernel_open(const char *device, struct dksm **handle)
{
	struct kernel_handle *kernel;
	int fd;

	*handle = NULL;
	fd = open_device(device);
	if (fd < 0)
		return fd;
	kernel = malloc(sizeof(*kernel));
	if (!kernel) {
		close(fd);
		return -ENOMEM;
	}
	kernel->base.engine = &kernel_engine;
	kernel->fd = fd;
	*handle = (struct dksm *)kernel;
	return 0;
}
