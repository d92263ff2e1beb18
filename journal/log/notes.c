/* journal/log/notes.c: telling of a commit, each loop once. */
#include "journal/log/writer.h"

void log_notes_post(struct log_notes *n)
{
	for (unsigned i = 0; i < n->count; i++)
		loop_post_chain(n->chains[i].to, n->chains[i].first,
				n->chains[i].last);
	n->count = n->latest = 0;
}

static void notes_add(struct log_notes *n, struct log_note *note)
{
	unsigned i = n->latest;

	if (i >= n->count || n->chains[i].to != note->to)
		for (i = 0; i < n->count && n->chains[i].to != note->to; i++)
			;
	if (i == ARRAY_COUNT(n->chains)) {
		log_notes_post(n);
		i = 0;
	}
	note->mail.next = NULL;
	if (i == n->count) {
		n->chains[i].to = note->to;
		n->chains[i].first = &note->mail;
		n->count++;
	} else {
		n->chains[i].last->next = &note->mail;
	}
	n->chains[i].last = &note->mail;
	n->latest = i;
}

/* Once its last note is posted an append may be gone, so its successor and
 * its notes are read before. */
void log_notes_tell(struct log *log, struct log_append *first, int err,
		    struct log_notes *n)
{
	uint64_t bytes = 0;

	for (struct log_append *a = first, *next; a; a = next) {
		struct log_note *notes = a->notes;
		unsigned note_count = a->note_count;

		next = a->next;
		bytes += log_append_bytes(a);
		a->err = err;
		for (unsigned i = 0; i < note_count; i++)
			notes_add(n, &notes[i]);
	}
	log->backlog_bytes -= bytes;
}
