/* SPDX-License-Identifier: MIT */
/*
 * What the parts of dksm top share: top.c collects, sorts and puts into words,
 * top_screen.c shows that and reads keys, cmd_top.c has the options.
 */
#ifndef DKSM_TOP_H
#define DKSM_TOP_H

#include "cli.h"

enum top_column {
	TOP_PID,
	TOP_DOMAIN,
	TOP_MEMORY,
	TOP_SHARED,
	TOP_SAVED,
	TOP_COPIES,
	TOP_LEARNED,
	TOP_COMMAND,
	TOP_COLUMNS
};

/**
 * struct top_row - a process, a domain or all
 * @pid:	the process, else 0
 * @domain:	its name
 * @command:	of a process, printable
 * @processes:	of a domain or all: members that the user may see
 * @vms:	virtual machines that were merged when they started
 * @memory:	anonymous memory in bytes, merged or not, zeroes too
 * @shared:	of this, what others share or is mapped more than once
 * @zero:	of this, what is the kernel's zero page
 * @saved:	bytes; of a process, its part of what the domain saves
 * @breaks:	COW breaks so far
 * @rate:	of them in a second, since the sample before; negative if there is
 *		none
 * @learned:	contents known to be written to soon; of a process, pages that
 *		were left alone for that
 * @shown:	passes the filters
 */
struct top_row {
	pid_t pid;
	char domain[DKSM_NAME_SIZE];
	char command[32];
	uint64_t processes;
	uint64_t vms;
	uint64_t memory;
	uint64_t shared;
	uint64_t zero;
	uint64_t saved;
	uint64_t breaks;
	double rate;
	uint64_t learned;
	bool shown;
};

struct top_rows {
	struct top_row *list;
	size_t nr;
};

/**
 * struct top_sample - all numbers of one moment; starts as all 0
 * @seconds:	the moment, by the monotonic clock
 */
struct top_sample {
	double seconds;
	struct top_rows domains;
	struct top_rows processes;
	struct top_row total;
};

/**
 * struct top_view - what the user wants to see
 * @domain:	only this one, "" for all
 * @text:	only what has this in PID, domain or command, "" for all
 * @sort:	numbers descend, the others ascend
 */
struct top_view {
	char domain[DKSM_NAME_SIZE];
	char text[DKSM_NAME_SIZE];
	enum top_column sort;
};

/* top.c: by the monotonic clock. */
double top_seconds(void);
void top_free(struct top_sample *sample);
/*
 * Sums over members, their parts of what is saved, and rates; @before is the
 * sample before, or all 0.
 */
void top_settle(struct top_sample *now, const struct top_sample *before);
/* Sorts the rows and marks those that are shown. */
void top_arrange(struct top_sample *sample, const struct top_view *view);
size_t top_shown(const struct top_rows *rows);
/* The command of a process, or what its control characters became. */
void top_printable(char *text);

/* Columns by their names on the command line; TOP_COLUMNS if there is none. */
enum top_column top_column_find(const char *name);
const char *top_column_name(enum top_column column);

struct top_line {
	char text[320];
};

/* How wide names are, so that a row with a short command fits into @width. */
int top_names_width(const struct top_sample *sample, int width);
struct top_line top_summary(const struct top_sample *sample,
			    const struct top_view *view);
struct top_line top_head(bool processes, int names);
struct top_line top_text(const struct top_row *row, int names);
void top_table(FILE *out, const struct top_sample *sample,
	       const struct top_view *view);
void top_json(FILE *out, const struct top_sample *sample);

/**
 * struct top_source - where the live view has its numbers from
 * @now:	what is shown
 * @view:	what the user wants to see; the keys change it
 * @interval:	seconds from one sample to the next
 */
struct top_source {
	struct top_sample now;
	struct top_view view;
	double interval;
};

/* The next sample in place of the one before, not arranged; 0 or -errno. */
int top_next(struct top_source *source);
/* top_screen.c: until the user quits; 0 or what top_next() said. */
int top_live(struct top_source *source);

#endif /* DKSM_TOP_H */
