/* tools/journal_record.h: a journal record as JSON, for people. */
#ifndef TOOLS_JOURNAL_RECORD_H
#define TOOLS_JOURNAL_RECORD_H

#include "base/json.h"
#include "journal/store/record.h"

/* {"kind": "record", "lsn", "type", …}: what its meta says; with_body: the
 * body too, text as it is and other bytes as \xNN.  A meta that does not
 * decode gives "damaged": true.  A new reference; NULL without memory. */
json_t *journal_record_json(const struct log_record *, int with_body);

#endif
