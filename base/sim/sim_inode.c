/* base/sim/sim_inode.c: the contents of one file, twice.
 *
 * A page holds what a reader sees now and, while they may differ, what is
 * durable (`old`).  `dirty` sectors are not durable yet; `lost` ones never
 * will be by a sync, because one has failed.  A page without `old` is durable
 * as it stands; a page that does not exist is zeros, durably.
 *
 * When a dirty sector is written again, a coin decides whether its present
 * contents reached the disk in between, so that a power cut can bring back
 * any version since the last sync without a list of them. */
#include <string.h>

#include "base/sim/world.h"

static const uint8_t zeros[SIM_PAGE_BYTES];

static struct sim_rng *chance_of(const struct sim_inode *inode)
{
	return &inode->disk->sim->fault;
}

static bool coin(const struct sim_inode *inode)
{
	return sim_rng_next(chance_of(inode)) & 1;
}

static bool kept(const struct sim_inode *inode)
{
	return sim_rng_chance(chance_of(inode),
			      inode->disk->sim->config.keep_ppm);
}

/* ---- life ---- */

struct sim_inode *sim_inode_create(struct sim_disk *disk, bool is_dir)
{
	struct sim_inode *inode = sim_alloc_zeroed(sizeof(*inode));

	inode->disk = disk;
	inode->id = ++disk->sim->serial;
	inode->is_dir = is_dir;
	inode->refs = 1;
	list_init(&inode->dirty_pages);
	list_push(&disk->inodes, &inode->link);
	return inode;
}

void sim_inode_hold(struct sim_inode *inode)
{
	inode->refs++;
}

static void page_free(struct sim_inode *inode, uint64_t index)
{
	struct sim_page *page = inode->pages[index];

	if (!page)
		return;
	list_remove(&page->link);
	sim_alloc_free(page->old);
	sim_alloc_free(page);
	inode->pages[index] = NULL;
}

void sim_inode_release(struct sim_inode *inode)
{
	ASSERT(inode->refs);
	if (--inode->refs)
		return;
	sim_dir_table_clear(&inode->names);
	sim_dir_table_clear(&inode->names_durable);
	for (uint64_t i = 0; i < inode->page_count; i++)
		page_free(inode, i);
	inode->disk->stats.bytes_used -= inode->charged;
	list_remove(&inode->link);
	sim_alloc_free(inode->pages);
	sim_alloc_free(inode);
}

/* ---- pages ---- */

static struct sim_page *page_at(const struct sim_inode *inode, uint64_t index)
{
	return index < inode->page_count ? inode->pages[index] : NULL;
}

static struct sim_page *page_make(struct sim_inode *inode, uint64_t index)
{
	struct sim_page *page = page_at(inode, index);

	if (page)
		return page;
	if (index >= inode->page_count) {
		uint64_t n = base_max(inode->page_count * 2, index + 1);

		inode->pages = sim_alloc_resize(inode->pages,
						n * sizeof(struct sim_page *));
		memset(inode->pages + inode->page_count, 0,
		       (n - inode->page_count) * sizeof(struct sim_page *));
		inode->page_count = n;
	}
	page = sim_alloc_zeroed(sizeof(*page));
	page->index = index;
	list_init(&page->link);
	inode->pages[index] = page;
	return page;
}

static void copy_sector(uint8_t *to, const uint8_t *from, unsigned sector)
{
	memcpy(to + sector * SIM_SECTOR_BYTES, from + sector * SIM_SECTOR_BYTES,
	       SIM_SECTOR_BYTES);
}

static void page_settle(struct sim_page *page)
{
	if (page->dirty | page->lost)
		return;
	list_remove(&page->link);
	sim_alloc_free(page->old);
	page->old = NULL;
}

/* The bits of the sectors from the one that holds byte `at` to sector `end`. */
static unsigned sectors(unsigned at, unsigned end)
{
	return (2u << end) - (1u << at / SIM_SECTOR_BYTES);
}

static void page_write_durable(struct sim_page *page, unsigned at,
			       const uint8_t *data, unsigned len)
{
	unsigned end = (at + len - 1) / SIM_SECTOR_BYTES;

	memcpy(page->now + at, data, len);
	page->bad &= (uint8_t)~sectors(at, end);
	if (!page->old)
		return;
	for (unsigned s = at / SIM_SECTOR_BYTES; s <= end; s++) {
		copy_sector(page->old, page->now, s);
		page->dirty &= (uint8_t) ~(1u << s);
		page->lost &= (uint8_t) ~(1u << s);
	}
	page_settle(page);
}

static void page_write_cached(struct sim_inode *inode, struct sim_page *page,
			      unsigned at, const uint8_t *data, unsigned len)
{
	unsigned end = (at + len - 1) / SIM_SECTOR_BYTES;

	page->bad &= (uint8_t)~sectors(at, end);
	if (!page->old) {
		page->old = sim_alloc_zeroed(SIM_PAGE_BYTES);
		memcpy(page->old, page->now, SIM_PAGE_BYTES);
		list_push(&inode->dirty_pages, &page->link);
	}
	for (unsigned s = at / SIM_SECTOR_BYTES; s <= end; s++) {
		if ((page->dirty & 1u << s) && coin(inode))
			copy_sector(page->old, page->now, s);
		page->dirty |= (uint8_t)(1u << s);
		page->lost &= (uint8_t) ~(1u << s);
	}
	memcpy(page->now + at, data, len);
}

static void put(struct sim_inode *inode, const uint8_t *data, uint64_t len,
		uint64_t offset, bool durable)
{
	while (len) {
		uint64_t index = offset / SIM_PAGE_BYTES;
		unsigned at = (unsigned)(offset % SIM_PAGE_BYTES);
		unsigned n = (unsigned)base_min(len, SIM_PAGE_BYTES - at);
		struct sim_page *page = page_at(inode, index);

		/* Zeroing ahead costs no memory. */
		if (page || memcmp(data, zeros, n)) {
			page = page_make(inode, index);
			if (durable)
				page_write_durable(page, at, data, n);
			else
				page_write_cached(inode, page, at, data, n);
		}
		data += n;
		offset += n;
		len -= n;
	}
}

/* ---- size ---- */

static void charge(struct sim_inode *inode)
{
	uint64_t bytes = base_round_up(inode->size, SIM_PAGE_BYTES);

	inode->disk->stats.bytes_used += bytes - inode->charged;
	inode->charged = bytes;
}

int sim_inode_room(const struct sim_inode *inode, uint64_t size)
{
	uint64_t bytes = base_round_up(size, SIM_PAGE_BYTES);
	uint64_t others = inode->disk->stats.bytes_used - inode->charged;
	uint64_t quota = inode->disk->quota_bytes;

	if (size > INT64_MAX)
		return -EFBIG;
	if (bytes <= inode->charged)
		return 0;
	if (others + bytes > inode->disk->bytes_max)
		return -ENOSPC;
	return quota && others + bytes > quota ? -EDQUOT : 0;
}

/* Nothing may lie beyond the end, so that growing again reads zeros. */
static void clear_beyond(struct sim_inode *inode, uint64_t size, bool durable)
{
	uint64_t first = size / SIM_PAGE_BYTES;
	unsigned at = (unsigned)(size % SIM_PAGE_BYTES);

	for (uint64_t i = first; i < inode->page_count; i++, at = 0)
		if (inode->pages[i])
			put(inode, zeros, SIM_PAGE_BYTES - at,
			    i * SIM_PAGE_BYTES + at, durable);
}

void sim_inode_resize(struct sim_inode *inode, uint64_t size)
{
	if (size == inode->size)
		return;
	if (inode->size != inode->size_durable && coin(inode))
		inode->size_durable = inode->size;
	if (size < inode->size)
		clear_beyond(inode, size, false);
	inode->size = size;
	charge(inode);
}

static void commit_size(struct sim_inode *inode)
{
	if (inode->size < inode->size_durable)
		clear_beyond(inode, inode->size, true);
	inode->size_durable = inode->size;
}

/* ---- reading and writing ---- */

size_t sim_inode_read(struct sim_inode *inode, void *buf, size_t len,
		      uint64_t offset)
{
	uint8_t *p = buf;
	size_t left;

	if (offset >= inode->size)
		return 0;
	len = base_min(len, inode->size - offset);
	for (left = len; left;) {
		unsigned at = (unsigned)(offset % SIM_PAGE_BYTES);
		size_t n = base_min(left, SIM_PAGE_BYTES - at);
		struct sim_page *page = page_at(inode, offset / SIM_PAGE_BYTES);

		if (page)
			memcpy(p, page->now + at, n);
		else
			memset(p, 0, n);
		p += n;
		offset += n;
		left -= n;
	}
	return len;
}

uint64_t sim_inode_write_sectors(const struct sim_write *w)
{
	if (!w->len)
		return 0;
	return (w->offset + w->len - 1) / SIM_SECTOR_BYTES -
	       w->offset / SIM_SECTOR_BYTES + 1;
}

/* The bytes of the write that lie in these sectors of it. */
static uint64_t write_part(const struct sim_write *w, uint64_t first,
			   uint64_t count, uint64_t *ret_offset)
{
	uint64_t start = w->offset / SIM_SECTOR_BYTES * SIM_SECTOR_BYTES;
	uint64_t from = base_max(w->offset, start + first * SIM_SECTOR_BYTES);
	uint64_t to = base_min(w->offset + w->len,
			       start + (first + count) * SIM_SECTOR_BYTES);

	*ret_offset = from;
	return to > from ? to - from : 0;
}

void sim_inode_apply(const struct sim_write *w, uint64_t first, uint64_t count,
		     bool durable)
{
	uint64_t offset, len = write_part(w, first, count, &offset);

	if (!len)
		return;
	put(w->inode, w->data + (offset - w->offset), len, offset, durable);
	if (offset + len > w->inode->size)
		sim_inode_resize(w->inode, offset + len);
	if (durable)
		commit_size(w->inode);
}

void sim_inode_sync(struct sim_inode *inode)
{
	list_for_each_safe(at, &inode->dirty_pages) {
		struct sim_page *page = list_entry(at, struct sim_page, link);

		for (unsigned s = 0; s < SIM_PAGE_SECTORS; s++)
			if (page->dirty & 1u << s)
				copy_sector(page->old, page->now, s);
		page->dirty = 0;
		page_settle(page);
	}
	commit_size(inode);
}

void sim_inode_sync_fail(struct sim_inode *inode)
{
	list_for_each_safe(at, &inode->dirty_pages) {
		struct sim_page *page = list_entry(at, struct sim_page, link);

		for (unsigned s = 0; s < SIM_PAGE_SECTORS; s++) {
			if (!(page->dirty & 1u << s))
				continue;
			if (coin(inode))
				copy_sector(page->old, page->now, s);
			else
				page->lost |= (uint8_t)(1u << s);
		}
		page->dirty = 0;
		page_settle(page);
	}
	if (coin(inode))
		commit_size(inode);
}

void sim_inode_uncache(struct sim_inode *inode)
{
	list_for_each_safe(at, &inode->dirty_pages) {
		struct sim_page *page = list_entry(at, struct sim_page, link);

		for (unsigned s = 0; s < SIM_PAGE_SECTORS; s++)
			if (page->lost & ~page->dirty & 1u << s)
				copy_sector(page->now, page->old, s);
		page->lost = 0;
		page_settle(page);
	}
}

void sim_inode_flip(struct sim_inode *inode, uint64_t offset, unsigned bit)
{
	struct sim_page *page = page_make(inode, offset / SIM_PAGE_BYTES);
	uint64_t at = offset % SIM_PAGE_BYTES;

	page->now[at] ^= (uint8_t)(1u << bit);
	if (page->old)
		page->old[at] ^= (uint8_t)(1u << bit);
}

void sim_inode_spoil(struct sim_inode *inode, uint64_t offset)
{
	struct sim_page *page = page_make(inode, offset / SIM_PAGE_BYTES);

	page->bad |=
		(uint8_t)(1u << offset % SIM_PAGE_BYTES / SIM_SECTOR_BYTES);
}

bool sim_inode_is_bad(const struct sim_inode *inode, size_t len,
		      uint64_t offset)
{
	uint64_t end = base_min(offset + len, inode->size);

	while (offset < end) {
		struct sim_page *page = page_at(inode, offset / SIM_PAGE_BYTES);
		unsigned at = (unsigned)(offset % SIM_PAGE_BYTES);
		unsigned n =
			(unsigned)base_min(end - offset, SIM_PAGE_BYTES - at);

		if (page &&
		    page->bad & sectors(at, (at + n - 1) / SIM_SECTOR_BYTES))
			return true;
		offset += n;
	}
	return false;
}

uint64_t sim_inode_pages(const struct sim_inode *inode)
{
	uint64_t count = 0;

	for (uint64_t i = 0; i < inode->page_count; i++)
		count += inode->pages[i] != NULL;
	return count;
}

bool sim_inode_any(const struct sim_inode *inode, uint64_t *ret_offset)
{
	uint64_t first = sim_rng_below(chance_of(inode), inode->page_count);

	for (uint64_t i = 0; i < inode->page_count; i++) {
		uint64_t index = (first + i) % inode->page_count;
		struct sim_page *page = inode->pages[index];
		unsigned at = (unsigned)sim_rng_below(chance_of(inode),
						      SIM_PAGE_BYTES);

		if (!page || !memcmp(page->now, zeros, SIM_PAGE_BYTES))
			continue;
		while (!page->now[at])
			at = (at + 1) % SIM_PAGE_BYTES;
		*ret_offset = index * SIM_PAGE_BYTES + at;
		return true;
	}
	return false;
}

/* ---- power cuts ---- */

/* Garbage, or the first part new and the rest old; in place, in `now`. */
static void tear_sector(struct sim_inode *inode, uint8_t *sector,
			const uint8_t *before)
{
	struct sim_rng *r = chance_of(inode);
	unsigned at = (unsigned)sim_rng_below(r, SIM_SECTOR_BYTES);

	inode->disk->stats.sectors_torn++;
	if (sim_rng_next(r) & 1)
		sim_rng_fill(r, sector, SIM_SECTOR_BYTES);
	else
		memcpy(sector + at, before + at, SIM_SECTOR_BYTES - at);
}

/* One sector of a write in flight reached the disk, perhaps not whole. */
static void cut_sector(const struct sim_write *w, uint64_t i)
{
	struct sim_inode *inode = w->inode;
	uint32_t ppm = inode->disk->sim->config.garbage_ppm;
	uint64_t offset, len = write_part(w, i, 1, &offset);
	uint64_t start = offset / SIM_SECTOR_BYTES * SIM_SECTOR_BYTES;
	uint8_t before[SIM_SECTOR_BYTES], after[SIM_SECTOR_BYTES];
	struct sim_page *page = page_at(inode, start / SIM_PAGE_BYTES);

	if (page)
		memcpy(before, page->now + start % SIM_PAGE_BYTES,
		       sizeof(before));
	else
		memset(before, 0, sizeof(before));
	memcpy(after, before, sizeof(after));
	memcpy(after + (offset - start), w->data + (offset - w->offset), len);
	if (sim_rng_chance(chance_of(inode), ppm))
		tear_sector(inode, after, before);
	put(inode, after, sizeof(after), start, true);
	/* Its size may be lost though its data is not. */
	if (offset + len > inode->size)
		sim_inode_resize(inode, offset + len);
}

void sim_inode_cut_write(const struct sim_write *w)
{
	uint64_t count = sim_inode_write_sectors(w);

	for (uint64_t i = 0; i < count; i++)
		if (kept(w->inode))
			cut_sector(w, i);
}

static void cut_page(struct sim_inode *inode, struct sim_page *page)
{
	uint32_t ppm = inode->disk->sim->config.garbage_ppm;

	for (unsigned s = 0; s < SIM_PAGE_SECTORS; s++) {
		uint8_t *now = page->now + s * SIM_SECTOR_BYTES;
		uint8_t *old = page->old + s * SIM_SECTOR_BYTES;

		if (!((page->dirty | page->lost) & 1u << s))
			continue;
		if (page->lost & 1u << s || !kept(inode))
			copy_sector(page->now, page->old, s);
		else if (inode->syncing &&
			 sim_rng_chance(chance_of(inode), ppm))
			tear_sector(inode, now, old);
	}
	page->dirty = page->lost = 0;
	page_settle(page);
}

void sim_inode_cut(struct sim_inode *inode)
{
	list_for_each_safe(at, &inode->dirty_pages)
		cut_page(inode, list_entry(at, struct sim_page, link));
	if (inode->size != inode->size_durable && kept(inode))
		inode->size_durable = inode->size;
	inode->size = inode->size_durable;
	clear_beyond(inode, inode->size, true);
	charge(inode);
	inode->syncing = false;
}
