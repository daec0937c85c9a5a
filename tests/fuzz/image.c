// SPDX-License-Identifier: MIT
/*
 * Images: the input is a file. Whatever is in it, its pages are in order, not all
 * zero, and it equals itself.
 */
#include <sys/mman.h>

#include "../../cli/image.h"
#include "fuzz.h"

static void check_pages(const struct image *image)
{
	uint8_t content[IMAGE_PAGE];

	for (size_t i = 0; i < image->nr_pages; i++) {
		REQUIRE(!i || image->pages[i].address > image->pages[i - 1].address);
		REQUIRE(image_page(image, &image->pages[i], content));
		REQUIRE(*content || memcmp(content, content + 1, IMAGE_PAGE - 1));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct comparison all = { .images = calloc(1, sizeof(struct image)), .nr = 1 };
	struct image *image = all.images;

	REQUIRE(image);
	*image = (struct image){ .name = "input", .mem = -1, .size = size };
	if (size)
		image->data = mmap(NULL, size, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (size)
		memcpy(image->data, data, size);
	if (size && !image_parse(image)) {
		check_pages(image);
		compare(&all);
		REQUIRE(all.distinct[0] == all.contents && all.contents <= image->nr_pages);
	}
	comparison_free(&all);
	return 0;
}
