// SPDX-License-Identifier: MIT
/* A guest that keeps text packed by LZ4. */
#include <lz4.h>
#include "base/base.h"

static size_t pack(void *to, size_t room, const void *from, size_t size)
{
	return LZ4_compress_default(from, to, size, room);
}

static size_t unpack(void *to, size_t room, const void *from, size_t size)
{
	return LZ4_decompress_safe(from, to, size, room);
}

int main(void)
{
	return keep(pack, unpack);
}
