// SPDX-License-Identifier: MIT
/*
 * Loads images of memory: ELF files as a loader would place them, raw dumps, and
 * private anonymous memory of processes.  Nothing in a file is believed before it is
 * checked against the file's size.  Of pages only hashes are kept; contents are read
 * again where they matter, so that a process may be larger than free memory.
 */
#include <fcntl.h>
#include <gelf.h>
#include <inttypes.h>
#include <libelf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"
#include "image.h"

#define ELF_SEGMENTS_MAX	4096

static uint64_t mix(uint64_t hash)
{
	hash ^= hash >> 32;
	hash *= 0x9e3779b97f4a7c15ULL;
	return hash ^ hash >> 29;
}

static uint64_t page_hash(const uint8_t *content)
{
	uint64_t hash = 0, word;

	for (size_t i = 0; i < IMAGE_PAGE; i += sizeof(word)) {
		memcpy(&word, content + i, sizeof(word));
		hash = mix(hash ^ word) + 0x632be59bd9b4e019ULL;
	}
	return hash;
}

static bool is_zero(const uint8_t *content)
{
	return !content[0] && !memcmp(content, content + 1, IMAGE_PAGE - 1);
}

/* What one segment has in the page. */
static void overlay(const struct segment *segment, uint64_t address, uint8_t *content)
{
	uint64_t start = segment->address, end = start + segment->filesz;

	if (start < address)
		start = address;
	if (end > address + IMAGE_PAGE)
		end = address + IMAGE_PAGE;
	if (start < end)
		memcpy(content + (start - address), segment->bytes + (start - segment->address),
		       end - start);
}

bool image_page(const struct image *image, const struct page *page, uint8_t *content)
{
	const struct segment *segment = image->segments + page->segment;
	const struct segment *end = image->segments + image->nr_segments;

	if (image->mem >= 0)
		return pread(image->mem, content, IMAGE_PAGE, (off_t)page->address) ==
		       (ssize_t)IMAGE_PAGE;
	memset(content, 0, IMAGE_PAGE);
	for (; segment < end && segment->address < page->address + IMAGE_PAGE; segment++)
		overlay(segment, page->address, content);
	return true;
}

static int by_address(const void *a, const void *b)
{
	uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;

	return (left > right) - (left < right);
}

const struct page *image_find(const struct image *image, uint64_t address)
{
	return image->nr_pages ? bsearch(&address, image->pages, image->nr_pages,
					 sizeof(*image->pages), by_address) : NULL;
}

const struct label *label_find(const struct labels *labels, uint64_t address)
{
	size_t low = 0, high = labels->nr;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (labels->list[middle].address <= address)
			low = middle + 1;
		else
			high = middle;
	}
	if (!low || address - labels->list[low - 1].address >= labels->list[low - 1].size)
		return NULL;
	return &labels->list[low - 1];
}

static bool label_add(struct labels *labels, const char *name, uint64_t address, uint64_t size)
{
	struct label *list = labels->list;

	if (!(labels->nr & (labels->nr + 1)))
		list = realloc(list, 2 * (labels->nr + 1) * sizeof(*list));
	if (!list)
		return false;
	labels->list = list;
	list[labels->nr++] = (struct label){ address, size, name };
	return true;
}

static void progress(const struct image *image, uint64_t done, uint64_t all)
{
	if (all > 65536 && isatty(STDERR_FILENO) && (done % 16384 == 0 || done == all))
		fprintf(stderr, "\r%s: %" PRIu64 " of %" PRIu64 " MiB%s", image->name,
			done / 256, all / 256, done == all ? "\n" : "");
}

/* The pages of a segment that have given bytes. */
static void given_pages(struct image *image, uint32_t number, uint64_t from, uint64_t to,
			uint64_t all)
{
	struct segment *segment = &image->segments[number];
	uint8_t content[IMAGE_PAGE];

	for (uint64_t i = from; i < to; i++) {
		struct page page = { .address = i * IMAGE_PAGE, .segment = number };

		if (!image_page(image, &page, content))
			continue;
		segment->pages++;
		if (is_zero(content)) {
			segment->zero++;
		} else {
			page.hash = page_hash(content);
			image->pages[image->nr_pages++] = page;
		}
		progress(image, image->nr_pages + segment->zero, all);
	}
}

static uint64_t page_up(uint64_t address)
{
	return address / IMAGE_PAGE + (address % IMAGE_PAGE != 0);
}

/* A page that several segments are in belongs to the first. */
static void segments_hash(struct image *image, uint64_t all)
{
	uint64_t next = 0, given, end;

	for (uint32_t i = 0; i < image->nr_segments; i++) {
		struct segment *segment = &image->segments[i];

		if (next < segment->address / IMAGE_PAGE)
			next = segment->address / IMAGE_PAGE;
		given = page_up(segment->address + segment->filesz);
		end = page_up(segment->address + segment->memsz);
		if (segment->filesz && next < given) {
			given_pages(image, i, next, given, all);
			next = given;
		}
		if (i + 1 < image->nr_segments && end > segment[1].address / IMAGE_PAGE)
			end = segment[1].address / IMAGE_PAGE;
		if (next < end) {
			segment->pages += end - next;
			segment->zero += end - next;
			next = end;
		}
		image->zero += segment->zero;
	}
}

/* A page of a file may be in two segments; more would be work without end. */
static const char *segments_check(struct image *image, uint64_t *pages)
{
	uint64_t given = 0;

	*pages = 0;
	for (size_t i = 0; i < image->nr_segments; i++) {
		const struct segment *segment = &image->segments[i];

		if (segment->filesz > segment->memsz)
			return "a segment is larger in the file than in memory";
		if (segment->memsz > (1ULL << 52) || segment->address > (1ULL << 63))
			return "a segment is beyond the end of memory";
		if (i && segment->address < segment[-1].address + segment[-1].memsz)
			return "segments overlap";
		given += segment->filesz;
		if (image->data && given / 2 > image->size)
			return "broken ELF: its segments hold more than the file";
		*pages += segment->filesz / IMAGE_PAGE + 2;
	}
	if (!*pages)
		return "nothing in it is loaded into memory";
	return *pages > IMAGE_PAGES_MAX ? "too large: more than 256 GiB" : NULL;
}

static const char *pages_load(struct image *image)
{
	const char *wrong;
	uint64_t pages;

	if (image->nr_segments)
		qsort(image->segments, image->nr_segments, sizeof(*image->segments), by_address);
	wrong = segments_check(image, &pages);
	if (wrong)
		return wrong;
	image->pages = malloc(pages * sizeof(*image->pages));
	if (!image->pages)
		return "out of memory";
	segments_hash(image, pages);
	return NULL;
}

static const char *elf_segment(struct image *image, const GElf_Phdr *header)
{
	struct segment *segment = &image->segments[image->nr_segments];

	if (header->p_type != PT_LOAD || !header->p_memsz)
		return NULL;
	if (header->p_offset > image->size || header->p_filesz > image->size - header->p_offset)
		return "truncated: a segment goes beyond the end of the file";
	*segment = (struct segment){ header->p_paddr, header->p_filesz, header->p_memsz,
				     image->data + header->p_offset, 0, 0 };
	image->nr_segments++;
	return NULL;
}

static const char *elf_segments(struct image *image, Elf *elf)
{
	const char *wrong = NULL;
	GElf_Phdr header;
	size_t nr;

	if (elf_getphdrnum(elf, &nr) || nr > image->size / sizeof(Elf32_Phdr))
		return "broken ELF: its program headers are beyond its end";
	if (nr > ELF_SEGMENTS_MAX)
		return "broken ELF: it has more segments than any image";
	image->segments = calloc(nr + 1, sizeof(*image->segments));
	if (!image->segments)
		return "out of memory";
	for (size_t i = 0; i < nr && !wrong; i++)
		wrong = gelf_getphdr(elf, (int)i, &header) ? elf_segment(image, &header) :
			"broken ELF: its program headers are beyond its end";
	return wrong;
}

/* Sections are at virtual addresses; what counts is where they are in memory. */
static bool to_physical(Elf *elf, uint64_t *address)
{
	GElf_Phdr header;
	size_t nr = 0;

	elf_getphdrnum(elf, &nr);
	for (size_t i = 0; i < nr; i++)
		if (gelf_getphdr(elf, (int)i, &header) && header.p_type == PT_LOAD &&
		    *address - header.p_vaddr < header.p_memsz) {
			*address += header.p_paddr - header.p_vaddr;
			return true;
		}
	return false;
}

static bool elf_symbols(struct image *image, Elf *elf, Elf_Scn *section, const GElf_Shdr *header)
{
	Elf_Data *data = elf_getdata(section, NULL);
	const char *name;
	GElf_Sym symbol;

	for (int i = 0; data && gelf_getsym(data, i, &symbol); i++) {
		name = elf_strptr(elf, header->sh_link, symbol.st_name);
		if (!name || !*name)
			continue;
		if (GELF_ST_TYPE(symbol.st_info) == STT_FILE &&
		    !label_add(&image->sources, name, 0, 0))
			return false;
		if (GELF_ST_TYPE(symbol.st_info) == STT_FUNC && symbol.st_size &&
		    to_physical(elf, &symbol.st_value) &&
		    !label_add(&image->functions, name, symbol.st_value, symbol.st_size))
			return false;
	}
	return true;
}

static bool elf_section(struct image *image, Elf *elf, Elf_Scn *section, size_t names)
{
	const char *name;
	GElf_Shdr header;

	if (!gelf_getshdr(section, &header))
		return true;
	if (header.sh_type == SHT_SYMTAB)
		return elf_symbols(image, elf, section, &header);
	name = elf_strptr(elf, names, header.sh_name);
	if (!name || !(header.sh_flags & SHF_ALLOC) || header.sh_flags & SHF_TLS ||
	    !to_physical(elf, &header.sh_addr))
		return true;
	return label_add(&image->sections, name, header.sh_addr, header.sh_size);
}

static void labels_sort(struct labels *labels)
{
	if (labels->nr)
		qsort(labels->list, labels->nr, sizeof(*labels->list), by_address);
}

/* Names are a help: where tables are broken, there are fewer. */
static const char *elf_names(struct image *image, Elf *elf)
{
	Elf_Scn *section = NULL;
	size_t names;

	if (elf_getshdrstrndx(elf, &names))
		return NULL;
	while ((section = elf_nextscn(elf, section)))
		if (!elf_section(image, elf, section, names))
			return "out of memory";
	labels_sort(&image->sections);
	labels_sort(&image->functions);
	return NULL;
}

static const char *elf_load(struct image *image)
{
	const char *wrong;
	Elf *elf;

	elf_version(EV_CURRENT);
	elf = image->elf = elf_memory((char *)image->data, image->size);
	if (!elf || elf_kind(elf) != ELF_K_ELF)
		return "broken ELF: its header is wrong";
	image->kind = gelf_getclass(elf) == ELFCLASS32 ? "ELF32" : "ELF64";
	wrong = elf_segments(image, elf);
	return wrong ? wrong : elf_names(image, elf);
}

static const char *raw_load(struct image *image)
{
	image->kind = "raw";
	image->segments = calloc(1, sizeof(*image->segments));
	if (!image->segments)
		return "out of memory";
	image->segments[image->nr_segments++] =
		(struct segment){ 0, image->size, image->size, image->data, 0, 0 };
	return NULL;
}

const char *image_parse(struct image *image)
{
	const char *wrong = NULL;
	bool packed = is_bzimage(image->data, image->size);

	if (packed)
		wrong = bzimage_unpack(image);
	if (wrong)
		return wrong;
	if (image->size > SELFMAG && !memcmp(image->data, ELFMAG, SELFMAG))
		wrong = elf_load(image);
	else
		wrong = raw_load(image);
	if (packed)
		image->kind = "bzImage";
	return wrong ? wrong : pages_load(image);
}

static const char *file_load(struct image *image)
{
	int fd = open(image->name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);	/* of a FIFO */
	struct stat stat;
	void *data;

	if (fd < 0)
		return "cannot be opened: give a readable file or a PID";
	if (fstat(fd, &stat) || !S_ISREG(stat.st_mode) || !stat.st_size) {
		close(fd);
		return "not a file with something in it";
	}
	data = mmap(NULL, (size_t)stat.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	close(fd);
	if (data == MAP_FAILED)
		return "cannot be mapped";
	image->data = data;
	image->size = (size_t)stat.st_size;
	return image_parse(image);
}

/* Private and anonymous, as what DKSM merges: no file, not special. */
static bool mapping_parse(const char *line, struct range *range)
{
	uint64_t end, inode;
	char rights[5], name[16] = "";

	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %*x %*s %" SCNu64 " %15s", &range->start,
		   &end, rights, &inode, name) < 4)
		return false;
	range->len = end - range->start;
	return rights[0] == 'r' && rights[3] == 'p' && !inode && strncmp(name, "[v", 2);
}

/* Segments of a process are its pages that follow each other. */
static bool process_page(struct image *image, uint64_t address)
{
	struct segment *list = image->segments;
	struct segment *last = image->nr_segments ? list + image->nr_segments - 1 : NULL;

	if (last && last->address + last->memsz == address) {
		last->memsz = last->filesz += IMAGE_PAGE;
		return true;
	}
	if (!(image->nr_segments & (image->nr_segments + 1)))
		list = realloc(list, 2 * (image->nr_segments + 1) * sizeof(*list));
	if (!list)
		return false;
	image->segments = list;
	list[image->nr_segments++] = (struct segment){ .address = address, .filesz = IMAGE_PAGE,
						       .memsz = IMAGE_PAGE };
	return true;
}

/* What is in memory or swapped out: other pages would come into being when read. */
static const char *mapping_load(struct image *image, const struct range *range, int pagemap)
{
	const uint64_t populated = 3ULL << 62;
	uint64_t at = range->start, end = at + range->len, entries[512];
	ssize_t got;

	while (at < end) {
		got = pread(pagemap, entries, sizeof(entries),
			    (off_t)(at / IMAGE_PAGE * sizeof(*entries)));
		if (got < (ssize_t)sizeof(*entries))
			return "is gone";
		for (size_t i = 0; i < (size_t)got / sizeof(*entries) && at < end; i++) {
			if (entries[i] & populated && !process_page(image, at))
				return "out of memory";
			at += IMAGE_PAGE;
		}
	}
	return NULL;
}

static const char *mappings_load(struct image *image, FILE *maps, int pagemap)
{
	const char *wrong = NULL;
	struct range range;
	size_t size = 0;
	char *line = NULL;

	while (!wrong && getline(&line, &size, maps) > 0)
		if (mapping_parse(line, &range))
			wrong = mapping_load(image, &range, pagemap);
	free(line);
	return wrong;
}

static int process_open(pid_t pid, const char *file)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
	return open(path, O_RDONLY | O_CLOEXEC);
}

static const char *process_load(struct image *image, pid_t pid)
{
	int fd = process_open(pid, "maps"), pagemap = process_open(pid, "pagemap");
	FILE *maps = fd < 0 ? NULL : fdopen(fd, "r");
	const char *wrong = "cannot be read: is there such a process, and are you root?";

	image->kind = "process";
	image->mem = process_open(pid, "mem");
	if (maps && pagemap >= 0 && image->mem >= 0)
		wrong = mappings_load(image, maps, pagemap);
	if (maps)
		fclose(maps);
	if (pagemap >= 0)
		close(pagemap);
	return wrong ? wrong : pages_load(image);
}

const char *image_load(struct image *image, const char *name)
{
	pid_t pid;

	*image = (struct image){ .name = name, .mem = -1 };
	if (access(name, F_OK) && pid_parse(name, &pid))
		return process_load(image, pid);
	return file_load(image);
}

void image_free(struct image *image)
{
	elf_end(image->elf);
	if (image->data)
		munmap(image->data, image->size);
	if (image->mem >= 0)
		close(image->mem);
	free(image->segments);
	free(image->pages);
	free(image->sections.list);
	free(image->functions.list);
	free(image->sources.list);
}
