// SPDX-License-Identifier: MIT
/* A guest that keeps text packed by Zstandard. */
#include <zstd.h>
#include "base/base.h"

static size_t pack(void *to, size_t room, const void *from, size_t size)
{
	return ZSTD_compress(to, room, from, size, 3);
}

static size_t unpack(void *to, size_t room, const void *from, size_t size)
{
	return ZSTD_decompress(to, room, from, size);
}

int main(void)
{
	return keep(pack, unpack);
}
