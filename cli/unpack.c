// SPDX-License-Identifier: MIT
/*
 * The kernel inside a bzImage.  The usual tool of its compression unpacks it: so no
 * library is needed for formats that few kernels use.  It reads and writes files in
 * memory, and cannot write more than a kernel could be.
 */
#define _GNU_SOURCE	/* memfd_create() */
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli.h"
#include "image.h"

#define UNPACKED_MAX	(1ULL << 30)
#define SETUP_SIZE	0x250	/* of the header, up to payload_length */

static const struct packer {
	const char *magic;
	size_t len;
	const char *tool;
	const char *missing;
	size_t trailer;		/* bytes that the kernel's build adds */
} packers[] = {
	{ "\x1f\x8b", 2, "gzip", "cannot be unpacked: install gzip", 0 },
	{ "\xfd" "7zXZ", 5, "xz", "cannot be unpacked: install xz (xz-utils)", 4 },
	{ "\x28\xb5\x2f\xfd", 4, "zstd", "cannot be unpacked: install zstd", 4 },
	{ "\x02\x21\x4c\x18", 4, "lz4", "cannot be unpacked: install lz4", 4 },
	{ "BZh", 3, "bzip2", "cannot be unpacked: install bzip2", 4 },
	{ "\x89LZO", 4, "lzop", "cannot be unpacked: install lzop", 4 },
	{ "\x5d\0\0", 3, "lzma", "cannot be unpacked: install lzma (xz-utils)", 4 },
};

bool is_bzimage(const uint8_t *data, size_t size)
{
	return size > SETUP_SIZE && !memcmp(data + 0x202, "HdrS", 4);
}

static uint32_t little32(const uint8_t *bytes)
{
	return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 |
	       (uint32_t)bytes[3] << 24;
}

static const struct packer *packer_of(const uint8_t *payload, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(packers); i++)
		if (len > packers[i].len + packers[i].trailer &&
		    !memcmp(payload, packers[i].magic, packers[i].len))
			return &packers[i];
	return NULL;
}

static bool write_all(int fd, const uint8_t *bytes, size_t len)
{
	ssize_t done;

	for (; len; bytes += done, len -= (size_t)done) {
		done = write(fd, bytes, len);
		if (done <= 0)
			return false;
	}
	return !lseek(fd, 0, SEEK_SET);
}

/* The exit status of the tool, 127 if there is none. */
static int tool_run(const char *tool, int in, int out)
{
	const struct rlimit limit = { UNPACKED_MAX, UNPACKED_MAX };
	pid_t pid = fork();
	int status;

	if (!pid) {
		if (dup2(in, STDIN_FILENO) >= 0 && dup2(out, STDOUT_FILENO) >= 0 &&
		    freopen("/dev/null", "w", stderr) && !setrlimit(RLIMIT_FSIZE, &limit))
			execlp(tool, tool, "-dc", (char *)NULL);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return EXIT_FAILED;
	return WEXITSTATUS(status);
}

/* What the tool made takes the place of the file. */
static const char *result_map(struct image *image, int fd)
{
	off_t size = lseek(fd, 0, SEEK_END);
	void *data;

	if (size <= 0)
		return "broken bzImage: nothing is in its payload";
	data = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	if (data == MAP_FAILED)
		return "out of memory";
	munmap(image->data, image->size);
	image->data = data;
	image->size = (size_t)size;
	return NULL;
}

static const char *unpack(struct image *image, const struct packer *packer, const uint8_t *payload,
			  size_t len, int in, int out)
{
	int status;

	if (in < 0 || out < 0 || !write_all(in, payload, len - packer->trailer))
		return "out of memory";
	status = tool_run(packer->tool, in, out);
	if (status == 127)
		return packer->missing;
	return status ? "broken bzImage: its payload cannot be unpacked" : result_map(image, out);
}

const char *bzimage_unpack(struct image *image)
{
	const uint8_t *setup = image->data;
	uint64_t start = little32(setup + 0x248), len = little32(setup + 0x24c);
	const struct packer *packer;
	const char *wrong;
	int in, out;

	start += (setup[0x1f1] ? setup[0x1f1] + 1ULL : 5) * 512;
	if (start > image->size || len > image->size - start)
		return "truncated: its payload goes beyond the end of the file";
	packer = packer_of(setup + start, len);
	if (!packer)
		return "its payload is of an unknown kind";
	in = memfd_create("packed", MFD_CLOEXEC);
	out = memfd_create("unpacked", MFD_CLOEXEC);
	wrong = unpack(image, packer, setup + start, len, in, out);
	if (in >= 0)
		close(in);
	if (out >= 0)
		close(out);
	return wrong;
}
