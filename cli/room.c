// SPDX-License-Identifier: MIT
/*
 * How much memory private copies take, and how much there is: on this host, and below
 * the limits of the process's memory cgroup and of those above it.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

#define CGROUPS "/sys/fs/cgroup"

/* The number after @key at the beginning of a line; without @key, the first. */
static bool file_number(const char *path, const char *key, uint64_t *number)
{
	FILE *file = fopen(path, "re");
	char line[256];
	bool found = false;

	if (!file)
		return false;
	while (!found && fgets(line, sizeof(line), file))
		found = !strncmp(line, key, strlen(key)) &&
			sscanf(line + strlen(key), "%" SCNu64, number) == 1;
	fclose(file);
	return found;
}

/* The path below CGROUPS, "" for the root or if there is no version 2. */
static void group_of(pid_t pid, char *group, size_t size)
{
	char path[40], line[PATH_MAX];
	FILE *file;

	group[0] = 0;
	snprintf(path, sizeof(path), "/proc/%d/cgroup", pid);
	file = fopen(path, "re");
	if (!file)
		return;
	while (fgets(line, sizeof(line), file))
		if (!strncmp(line, "0::/", 4)) {
			line[strcspn(line, "\n")] = 0;
			snprintf(group, size, "%s", strcmp(line, "0::/") ?
						    line + 3 : "");
		}
	fclose(file);
}

static void group_room(const char *group, struct room *room)
{
	char path[PATH_MAX + 64];
	uint64_t max, current, left;

	snprintf(path, sizeof(path), CGROUPS "%s/memory.max", group);
	if (!file_number(path, "", &max))
		return;		/* no limit is the word "max" */
	snprintf(path, sizeof(path), CGROUPS "%s/memory.current", group);
	if (!file_number(path, "", &current))
		return;
	left = max > current ? max - current : 0;
	if (left >= room->group)
		return;
	room->group = left;
	snprintf(room->limit, sizeof(room->limit), CGROUPS "%s/memory.max",
		 group);
}

int room_look(pid_t pid, struct room *room)
{
	struct dksm_process process;
	char group[PATH_MAX], *end;
	int err = dksm_stat_process(pid, &process);

	if (err)
		return err;
	memset(room, 0, sizeof(*room));
	room->pages = process.pages_merged + process.pages_zero;
	room->needed = room->pages * page_bytes();
	room->group = UINT64_MAX;
	if (!file_number("/proc/meminfo", "MemAvailable:", &room->host))
		return -EBADMSG;
	room->host *= 1024;
	group_of(pid, group, sizeof(group));
	while (group[0]) {
		group_room(group, room);
		end = strrchr(group, '/');
		*end = 0;
	}
	/* Of a container; that of the host has no such file. */
	group_room(group, room);
	return 0;
}

bool room_suffices(const struct room *room)
{
	return room->needed <= room->host && room->needed <= room->group;
}

void room_table(FILE *out, const struct room *room)
{
	fprintf(out, "needed     %12s  for copies of %" PRIu64 " merged pages\n",
		text_bytes(room->needed).chars, room->pages);
	fprintf(out, "host       %12s  available\n",
		text_bytes(room->host).chars);
	if (room->limit[0])
		fprintf(out, "its group  %12s  left below %s\n",
			text_bytes(room->group).chars, room->limit);
}

void room_json(FILE *out, pid_t pid, const struct room *room)
{
	struct json_object *object = json_new();

	json_add_number(object, "pid", (uint64_t)pid);
	json_add_number(object, "pages", room->pages);
	json_add_number(object, "needed_bytes", room->needed);
	json_add_number(object, "host_bytes", room->host);
	if (room->limit[0]) {
		json_add_number(object, "group_bytes", room->group);
		json_add_string(object, "group_limit", room->limit);
	}
	json_add_number(object, "suffices", room_suffices(room));
	json_print(out, object);
}
