/* bench/load/ledger.h: a file that says what was confirmed.
 *
 * One process publishes and the broker dies; another, later, consumes and
 * must know what was promised.  All fields little-endian:
 *   0   8  "HFLEDGER"
 *   8   4  version: 1
 *  12   4  run
 *  16   4  queues, 4  fanout, 4  senders, 4  streams (plan.h)
 *  32   8  messages sent, confirmed or not
 *  40   –  for each stream: 8 bytes, how many words follow; those words, 8
 *          bytes each: bit n of word w is message 64 w + n, set if confirmed
 *   –   4  CRC-32C of all before */
#ifndef BENCH_LOAD_LEDGER_H
#define BENCH_LOAD_LEDGER_H

#include "bench/load/marks.h"
#include "bench/load/plan.h"

struct ledger {
	uint32_t run;
	struct plan plan; /* all but the receivers */
	uint64_t sent;
	struct marks *accepted; /* a row for each stream */
};

/* 0 or a negative code. */
MUST_CHECK int ledger_write(const char *path, const struct ledger *);
/* 0, and ret->accepted is the caller's to free; -E_CORRUPT, -E_VERSION or
 * -errno. */
MUST_CHECK int ledger_read(const char *path, struct ledger *ret);

#endif
