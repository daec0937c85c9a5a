// SPDX-License-Identifier: MIT
/* A guest that keeps text packed by bzip2. */
#include <bzlib.h>
#include "base/base.h"

static size_t pack(void *to, size_t room, const void *from, size_t size)
{
	unsigned n = room;

	return BZ2_bzBuffToBuffCompress(to, &n, (char *)from, size, 5, 0, 0) == BZ_OK ? n : 0;
}

static size_t unpack(void *to, size_t room, const void *from, size_t size)
{
	unsigned n = room;

	return BZ2_bzBuffToBuffDecompress(to, &n, (char *)from, size, 0, 0) == BZ_OK ? n : 0;
}

int main(void)
{
	return keep(pack, unpack);
}
