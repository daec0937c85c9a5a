// SPDX-License-Identifier: MIT
/* A guest that keeps text packed by LZMA. */
#include <lzma.h>
#include "base/base.h"

static size_t pack(void *to, size_t room, const void *from, size_t size)
{
	size_t n = 0;

	return lzma_easy_buffer_encode(1, LZMA_CHECK_CRC64, NULL, from, size, to, &n, room) ==
	       LZMA_OK ? n : 0;
}

static size_t unpack(void *to, size_t room, const void *from, size_t size)
{
	uint64_t memory = UINT64_MAX;
	size_t n = 0, used = 0;

	return lzma_stream_buffer_decode(&memory, 0, NULL, from, &used, size, to, &n, room) ==
	       LZMA_OK ? n : 0;
}

int main(void)
{
	return keep(pack, unpack);
}
