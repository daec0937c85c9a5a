/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM dksm

#if !defined(_TRACE_DKSM_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_DKSM_H

#include <linux/mm_types.h>
#include <linux/tracepoint.h>
#include <uapi/linux/dksm.h>

/* One page: @pfn is the frame that @address of @mm maps when it happened. */
DECLARE_EVENT_CLASS(dksm_page,

	TP_PROTO(struct mm_struct *mm, unsigned long address,
		 unsigned long pfn),

	TP_ARGS(mm, address, pfn),

	TP_STRUCT__entry(
		__field(struct mm_struct *,	mm)
		__field(unsigned long,		address)
		__field(unsigned long,		pfn)
	),

	TP_fast_assign(
		__entry->mm = mm;
		__entry->address = address;
		__entry->pfn = pfn;
	),

	TP_printk("mm=%p address=0x%lx pfn=0x%lx",
		  __entry->mm, __entry->address, __entry->pfn)
);

/* The page was replaced by the frame. */
DEFINE_EVENT(dksm_page, dksm_share,
	TP_PROTO(struct mm_struct *mm, unsigned long address, unsigned long pfn),
	TP_ARGS(mm, address, pfn)
);

/* The page became the frame. */
DEFINE_EVENT(dksm_page, dksm_publish,
	TP_PROTO(struct mm_struct *mm, unsigned long address, unsigned long pfn),
	TP_ARGS(mm, address, pfn)
);

/* A write is going to copy the frame. */
DEFINE_EVENT(dksm_page, dksm_cow_break,
	TP_PROTO(struct mm_struct *mm, unsigned long address, unsigned long pfn),
	TP_ARGS(mm, address, pfn)
);

/* The page was left as it was; @reason is one of enum dksm_skip. */
TRACE_EVENT(dksm_skip,

	TP_PROTO(struct mm_struct *mm, unsigned long address, int reason),

	TP_ARGS(mm, address, reason),

	TP_STRUCT__entry(
		__field(struct mm_struct *,	mm)
		__field(unsigned long,		address)
		__field(int,			reason)
	),

	TP_fast_assign(
		__entry->mm = mm;
		__entry->address = address;
		__entry->reason = reason;
	),

	TP_printk("mm=%p address=0x%lx reason=%d",
		  __entry->mm, __entry->address, __entry->reason)
);

/* A whole merge call. */
TRACE_EVENT(dksm_merge,

	TP_PROTO(struct mm_struct *mm, const struct dksm_report *report,
		 int err),

	TP_ARGS(mm, report, err),

	TP_STRUCT__entry(
		__field(struct mm_struct *,	mm)
		__field(u64,			scanned)
		__field(u64,			merged)
		__field(u64,			published)
		__field(u64,			zero)
		__field(u64,			ns)
		__field(int,			err)
	),

	TP_fast_assign(
		__entry->mm = mm;
		__entry->scanned = report->scanned;
		__entry->merged = report->merged;
		__entry->published = report->published;
		__entry->zero = report->zero;
		__entry->ns = report->ns;
		__entry->err = err;
	),

	TP_printk("mm=%p scanned=%llu merged=%llu published=%llu zero=%llu ns=%llu err=%d",
		  __entry->mm, __entry->scanned, __entry->merged,
		  __entry->published, __entry->zero, __entry->ns, __entry->err)
);

/* An idle moment of a virtual machine is over. */
TRACE_EVENT(dksm_idle,

	TP_PROTO(struct mm_struct *mm, const struct dksm_report *report,
		 unsigned int phase),

	TP_ARGS(mm, report, phase),

	TP_STRUCT__entry(
		__field(struct mm_struct *,	mm)
		__field(u64,			merged)
		__field(u64,			published)
		__field(u64,			zero)
		__field(u64,			ns)
		__field(unsigned int,		phase)
	),

	TP_fast_assign(
		__entry->mm = mm;
		__entry->merged = report->merged;
		__entry->published = report->published;
		__entry->zero = report->zero;
		__entry->ns = report->ns;
		__entry->phase = phase;
	),

	TP_printk("mm=%p merged=%llu published=%llu zero=%llu ns=%llu phase=%u",
		  __entry->mm, __entry->merged, __entry->published,
		  __entry->zero, __entry->ns, __entry->phase)
);

#endif /* _TRACE_DKSM_H */

#include <trace/define_trace.h>
