// SPDX-License-Identifier: MIT
/*
 * The handle: picks an engine and passes calls on to it.  It has no state of
 * its own, so there is nothing to lock.
 */
#include <string.h>

#include "engine.h"

#define DEVICE "/dev/dksm"

int dksm_open(struct dksm **handle)
{
	return dksm_kernel_open(DEVICE, handle);
}

void dksm_close(struct dksm *handle)
{
	if (handle)
		handle->engine->close(handle);
}

int dksm_info_get(struct dksm *handle, struct dksm_info *info)
{
	return handle->engine->info(handle, info);
}

int dksm_domain_join(struct dksm *handle, const char *name, unsigned int flags)
{
	return handle->engine->domain_join(handle, name, flags);
}

/* Give the engine a clean report, the caller's if there is one. */
static struct dksm_report *report_start(struct dksm_report *wanted,
					struct dksm_report *spare)
{
	struct dksm_report *report = wanted ? wanted : spare;

	memset(report, 0, sizeof(*report));
	return report;
}

int dksm_merge(struct dksm *handle, int pidfd, uint64_t addr, uint64_t len,
	       struct dksm_report *report)
{
	struct dksm_report spare;

	return handle->engine->merge(handle, pidfd, addr, len,
				     report_start(report, &spare));
}

int dksm_unmerge(struct dksm *handle, int pidfd, uint64_t addr, uint64_t len,
		 struct dksm_report *report)
{
	struct dksm_report spare;

	return handle->engine->unmerge(handle, pidfd, addr, len,
				       report_start(report, &spare));
}

int dksm_attach(struct dksm *handle, int pidfd, unsigned int flags)
{
	return handle->engine->attach(handle, pidfd, flags);
}

int dksm_detach(struct dksm *handle, int pidfd)
{
	return handle->engine->detach(handle, pidfd);
}
