/* journal/store/index.h: room for working data beyond memory, on this node.
 *
 * A table of bytes by key that the store may lose at any time: it holds only
 * what the journal, its checkpoints and extents can give again.  It is empty
 * after opening, whatever was there before: nothing from an earlier run is
 * trusted, so there is nothing that can be stale.  One thread: the store's,
 * after the one that opened it. */
#ifndef JOURNAL_STORE_INDEX_H
#define JOURNAL_STORE_INDEX_H

#include <stdbool.h>

#include "base/crypto.h"

#define INDEX_KEY_MAX 64u

struct index;

struct index_ops {
	/* Errors: 0 or a negative code.  -ENOSPC: full; what was there before
	 * stays. */
	int (*put)(struct index *, const void *key, size_t key_len,
		   const void *value, size_t len);
	/* *ret is the caller's, to free().  -ENOENT; -E_CORRUPT: damaged. */
	int (*get)(struct index *, const void *key, size_t key_len, void **ret,
		   size_t *ret_len);
	/* 0 also when it is not there. */
	int (*remove)(struct index *, const void *key, size_t key_len);
	void (*free)(struct index *);
};

struct index { /* the first member of an implementation */
	const struct index_ops *ops;
};

/* Any implementation; NULL-safe. */
static inline void index_free(struct index *index)
{
	if (index)
		index->ops->free(index);
}

/* The one on LMDB, in a directory of this node.  What is on its disk is sealed
 * under a key that only this process's memory has, and keys are hashes. */
struct index_lmdb_options {
	struct io *io;	    /* for randomness and the kind of file system */
	const char *dir;    /* made when missing; index files in it are deleted,
			       others are left alone */
	uint64_t bytes_max; /* 0: 16 GiB of address space; grows as needed */
};
/* -EAGAIN: another process has its index there.  -EINVAL: the directory is on a
 * network file system (NFS, SMB, FUSE, …), where LMDB must not be.  why, on
 * every failure: a sentence that names the directory, what is wrong and the
 * setting to change. */
MUST_CHECK int index_lmdb_open(const struct index_lmdb_options *,
			       struct index **ret, char *why, size_t why_room);
/* What open() makes of a kind of file system: false, or true with why.
 * Pure. */
bool index_lmdb_refuses(const struct io_fs *, const char *dir, char *why,
			size_t why_room);
/* Entries and bytes on disk, of an open one. [its thread] */
void index_lmdb_stat(struct index *, uint64_t *ret_entries,
		     uint64_t *ret_bytes);

#endif
