/* broker/admin/metrics.c: the Prometheus text format, version 0.0.4.
 *
 * Base units, holdfast_ before every name of ours, _total on counters alone.
 * Series per queue are for the first METRICS_QUEUES_MAX queues by name: a
 * broker with a hundred thousand queues must not be what fills the scraper;
 * holdfast_queues says how many there are. */
#include "broker/admin/internal.h"

#include <dirent.h>
#include <inttypes.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define METRICS_QUEUES_MAX 500u

void metrics_family(struct admin_text *t, const char *name, const char *type,
		    const char *help)
{
	admin_text_add(t, "# HELP %s %s\n# TYPE %s %s\n", name, help, name,
		       type);
}

void metrics_gauge(struct admin_text *t, const char *name, const char *help,
		   uint64_t value)
{
	metrics_family(t, name, "gauge", help);
	admin_text_add(t, "%s %" PRIu64 "\n", name, value);
}

void metrics_counter(struct admin_text *t, const char *name, const char *help,
		     uint64_t value)
{
	metrics_family(t, name, "counter", help);
	admin_text_add(t, "%s %" PRIu64 "\n", name, value);
}

void metrics_seconds(struct admin_text *t, const char *name, const char *type,
		     const char *help, uint64_t ns)
{
	metrics_family(t, name, type, help);
	admin_text_add(t, "%s %.6f\n", name, (double)ns / 1e9);
}

/* A label's value with \, " and newline escaped. */
void metrics_label(struct admin_text *t, const char *value)
{
	for (const char *p = value; *p; p++) {
		if (*p == '\n')
			admin_text_write(t, "\\n", 2);
		else if (*p == '"' || *p == '\\')
			admin_text_add(t, "\\%c", *p);
		else
			admin_text_write(t, p, 1);
	}
}

/* ---- the process ---- */

static uint64_t resident_bytes(void)
{
	FILE *f = fopen("/proc/self/statm", "re");
	unsigned long total, resident;
	uint64_t bytes = 0;

	if (!f)
		return 0;
	if (fscanf(f, "%lu %lu", &total, &resident) == 2)
		bytes = (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
	fclose(f);
	return bytes;
}

static uint64_t open_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	uint64_t count = 0;

	if (!dir)
		return 0;
	while (readdir(dir))
		count++;
	closedir(dir);
	return count > 3 ? count - 3 : 0; /* ".", ".." and the directory */
}

static double seconds(struct timeval t)
{
	return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

static void process(struct admin *a, struct admin_text *t)
{
	struct rusage usage = {0};
	struct rlimit files = {0};

	getrusage(RUSAGE_SELF, &usage);
	getrlimit(RLIMIT_NOFILE, &files);
	metrics_family(t, "process_cpu_seconds_total", "counter",
		       "Processor time used, user and system.");
	admin_text_add(t, "process_cpu_seconds_total %.6f\n",
		       seconds(usage.ru_utime) + seconds(usage.ru_stime));
	metrics_gauge(t, "process_resident_memory_bytes",
		      "Memory resident in RAM.", resident_bytes());
	metrics_gauge(t, "process_open_fds", "Open file descriptors.",
		      open_descriptors());
	metrics_gauge(t, "process_max_fds", "Limit of open file descriptors.",
		      files.rlim_cur);
	metrics_family(t, "process_start_time_seconds", "gauge",
		       "Start of the process since the epoch.");
	admin_text_add(t, "process_start_time_seconds %.3f\n",
		       (double)a->started_wall_ms / 1e3);
}

static void identity(struct admin *a, struct admin_text *t)
{
	metrics_family(t, "holdfast_build_info", "gauge",
		       "Always 1; the version.");
	admin_text_add(t, "holdfast_build_info{version=\"%s\"} 1\n",
		       HOLDFAST_VERSION);
	metrics_family(t, "holdfast_io_engine_info", "gauge",
		       "Always 1; the I/O engine in use and why.");
	admin_text_add(t, "holdfast_io_engine_info{engine=\"%s\",reason=\"",
		       io_engine_name(a->options.io));
	metrics_label(t, a->options.engine_reason);
	admin_text_add(t, "\"} 1\n");
	metrics_gauge(t, "holdfast_ready",
		      "1 while the broker takes and gives messages.",
		      atomic_load(&a->state) == ADMIN_READY);
}

/* ---- the journal ---- */

#define LATENCY_FIRST 6u /* 64 us */
#define LATENCY_LAST 24u /* 17 s */

/* Bucket i of the log counts commits of less than 2^i microseconds that no
 * lower bucket counts; Prometheus wants them cumulated. */
static void commit_latency(const struct log_stats *s, struct admin_text *t)
{
	static const char name[] = "holdfast_journal_commit_seconds";
	uint64_t sum = 0;

	metrics_family(t, name, "histogram",
		       "Time from a frame's first record to its durability.");
	for (unsigned i = 0; i < 32; i++) {
		sum += atomic_load(&s->commit_us[i]);
		if (i >= LATENCY_FIRST && i <= LATENCY_LAST)
			admin_text_add(t,
				       "%s_bucket{le=\"%.9g\"} %" PRIu64 "\n",
				       name, (double)(1u << i) / 1e6, sum);
	}
	admin_text_add(t, "%s_bucket{le=\"+Inf\"} %" PRIu64 "\n", name, sum);
	admin_text_add(t, "%s_sum %.6f\n", name,
		       (double)atomic_load(&s->commit_us_total) / 1e6);
	admin_text_add(t, "%s_count %" PRIu64 "\n", name, sum);
}

static void journal(struct admin *a, struct admin_text *t)
{
	const struct log_stats *s = log_stats(a->options.log);

	commit_latency(s, t);
	metrics_counter(t, "holdfast_journal_frames_total",
			"Group commits written to the journal.",
			atomic_load(&s->frames));
	metrics_counter(t, "holdfast_journal_records_total",
			"Records written to the journal.",
			atomic_load(&s->records));
	metrics_counter(t, "holdfast_journal_payload_bytes_total",
			"Bytes of records before compression and padding.",
			atomic_load(&s->payload_bytes));
	metrics_counter(t, "holdfast_journal_written_bytes_total",
			"Bytes written to the journal's segments.",
			atomic_load(&s->disk_bytes));
	metrics_counter(t, "holdfast_journal_syncs_total",
			"Durable writes of the journal.",
			atomic_load(&s->syncs));
	metrics_counter(t, "holdfast_journal_waits_total",
			"Durable writes of a lone record that its own thread "
			"waited for.",
			atomic_load(&s->waits));
	metrics_counter(t, "holdfast_journal_claim_checks_total",
			"Checks that no other broker has sealed our claim.",
			atomic_load(&s->claim_checks));
	metrics_seconds(t, "holdfast_journal_commit_check_seconds_total",
			"counter",
			"Time that group commits took for their claim checks.",
			atomic_load(&s->commit_check_ns));
	metrics_counter(t, "holdfast_journal_commit_checks_total",
			"Claim checks by group commits; one may cover several.",
			atomic_load(&s->commit_checks));
	metrics_counter(t, "holdfast_journal_segments_made_total",
			"Segments made.", atomic_load(&s->segments_made));
	metrics_counter(t, "holdfast_journal_segments_dropped_total",
			"Segments deleted, as nothing in them was needed.",
			atomic_load(&s->segments_dropped));
	metrics_gauge(t, "holdfast_journal_backlog_bytes",
		      "Bytes queued for the journal or being written.",
		      log_backlog_bytes(a->options.log));
	metrics_gauge(t, "holdfast_journal_has_space",
		      "0 while publishing is refused for lack of disk space.",
		      (uint64_t)log_has_space(a->options.log));
}

/* ---- the store ---- */

static void scrub(const struct store_stats *s, struct admin_text *t)
{
	metrics_counter(t, "holdfast_scrub_read_bytes_total",
			"Bytes that the scrubber has read.",
			atomic_load(&s->scrub_bytes));
	metrics_counter(t, "holdfast_scrub_files_total",
			"Files that the scrubber has checked.",
			atomic_load(&s->scrub_files));
	metrics_counter(t, "holdfast_scrub_rounds_total",
			"Times that everything was read and checked.",
			atomic_load(&s->scrub_rounds));
	metrics_family(t, "holdfast_scrub_finished_timestamp_seconds", "gauge",
		       "End of the last round since the epoch; 0: none yet.");
	admin_text_add(t, "holdfast_scrub_finished_timestamp_seconds %.3f\n",
		       (double)atomic_load(&s->scrub_finished_ms) / 1e3);
	metrics_gauge(
		t, "holdfast_damage_places",
		"Places with data that cannot be read; see /api/v1/damage.",
		atomic_load(&s->damage));
}

static void extents(const struct store_stats *s, struct admin_text *t)
{
	metrics_gauge(t, "holdfast_store_extent_files",
		      "Files that hold messages that stay.",
		      atomic_load(&s->extent_files));
	metrics_gauge(t, "holdfast_store_extent_bytes", "Size of these files.",
		      atomic_load(&s->extent_bytes));
	metrics_gauge(t, "holdfast_store_extent_live_bytes",
		      "Bytes in these files that are still needed, about.",
		      atomic_load(&s->extent_live_bytes));
	metrics_counter(t, "holdfast_store_copied_messages_total",
			"Messages moved into these files, again included.",
			atomic_load(&s->copied_messages));
	metrics_counter(t, "holdfast_store_copied_bytes_total",
			"Bytes moved into these files, again included.",
			atomic_load(&s->copied_bytes));
	metrics_counter(t, "holdfast_store_fetched_messages_total",
			"Messages read back from the disk.",
			atomic_load(&s->fetched_messages));
	metrics_counter(t, "holdfast_store_fetched_bytes_total",
			"Bytes of messages read back from the disk.",
			atomic_load(&s->fetched_bytes));
	metrics_counter(t, "holdfast_store_fetch_read_bytes_total",
			"Bytes read from the disk for that.",
			atomic_load(&s->fetch_read_bytes));
}

static void store(struct admin *a, struct admin_text *t)
{
	const struct store_stats *s = store_stats(a->options.store);

	metrics_gauge(t, "holdfast_store_files",
		      "Segments and extent files that hold something needed.",
		      atomic_load(&s->files_live));
	metrics_gauge(t, "holdfast_store_messages", "Messages that are owed.",
		      atomic_load(&s->live_messages));
	metrics_gauge(t, "holdfast_store_message_bytes",
		      "Bytes of messages that are owed.",
		      atomic_load(&s->live_bytes));
	metrics_gauge(t, "holdfast_store_memory_bytes",
		      "Memory for what is known of queued messages.",
		      atomic_load(&s->memory_bytes));
	metrics_gauge(t, "holdfast_store_entries",
		      "Messages that are known one by one.",
		      atomic_load(&s->entries));
	metrics_gauge(t, "holdfast_store_runs",
		      "Runs of messages in extent files.",
		      atomic_load(&s->runs));
	metrics_counter(t, "holdfast_store_index_spills_total",
			"Times that a part of memory went to the index.",
			atomic_load(&s->index_spills));
	metrics_gauge(
		t, "holdfast_store_behind",
		"1 while publishing waits for the store to move messages.",
		store_is_behind(a->options.store));
	metrics_counter(t, "holdfast_store_checkpoints_total",
			"Checkpoints written.", atomic_load(&s->checkpoints));
	metrics_gauge(t, "holdfast_store_checkpoint_bytes",
		      "Size of the newest checkpoint.",
		      atomic_load(&s->checkpoint_bytes));
	metrics_gauge(t, "holdfast_store_applied_lsn",
		      "The last record that the store has taken in.",
		      atomic_load(&s->applied_lsn));
	metrics_gauge(
		t, "holdfast_store_checkpoint_lsn",
		"The first record that the newest checkpoint does not cover.",
		atomic_load(&s->checkpoint_lsn));
	extents(s, t);
	scrub(s, t);
}

static void disk(struct admin *a, struct admin_text *t)
{
	struct io_fs fs;

	if (io_fs_info(a->options.io, a->options.data_dir, &fs))
		return;
	metrics_gauge(t, "holdfast_disk_size_bytes",
		      "Size of the file system that holds the data.",
		      fs.bytes_total);
	metrics_gauge(t, "holdfast_disk_free_bytes",
		      "Free space of the file system that holds the data.",
		      fs.bytes_free);
	metrics_gauge(
		t, "holdfast_disk_refusing",
		"1 while publishing is refused to leave room on the disk.",
		atomic_load(&log_stats(a->options.log)->disk_refusing));
}

/* ---- the broker ---- */

static void broker(struct admin *a, struct admin_text *t)
{
	struct core_stats s = {0};
	uint64_t open = 0, accepted = 0;

	core_stats(a->broker.core, &s);
	metrics_gauge(t, "holdfast_shards", "Shard threads.",
		      core_shard_count(a->broker.core));
	metrics_gauge(t, "holdfast_addresses", "Addresses.", s.addresses);
	metrics_gauge(t, "holdfast_queues", "Queues.", s.queues);
	metrics_gauge(t, "holdfast_consumers", "Consumers.", s.consumers);
	metrics_gauge(t, "holdfast_producers", "Producers.", s.producers);
	metrics_gauge(t, "holdfast_messages", "Messages in queues.",
		      s.messages);
	metrics_gauge(t, "holdfast_message_bytes",
		      "Bytes of messages in queues.", s.message_bytes);
	metrics_gauge(t, "holdfast_memory_message_bytes",
		      "Bytes of message bodies kept in memory.",
		      s.memory_bytes);
	metrics_counter(t, "holdfast_published_total",
			"Messages made durable and routed.", s.published);
	metrics_counter(t, "holdfast_published_bytes_total",
			"Bytes of messages made durable.", s.published_bytes);
	metrics_counter(t, "holdfast_delivered_total",
			"Messages handed to consumers, again included.",
			s.delivered);
	metrics_counter(t, "holdfast_delivered_bytes_total",
			"Bytes of messages handed to consumers.",
			s.delivered_bytes);
	metrics_counter(t, "holdfast_acknowledged_total",
			"Messages acknowledged by consumers.", s.acknowledged);
	metrics_counter(t, "holdfast_redelivered_total",
			"Messages handed out after a failed attempt.",
			s.redelivered);
	metrics_counter(t, "holdfast_released_total",
			"Messages given back by consumers.", s.released);
	metrics_counter(t, "holdfast_dead_lettered_total",
			"Messages moved to a dead-letter address or discarded.",
			s.dead_lettered);
	metrics_counter(t, "holdfast_expired_total", "Messages that expired.",
			s.expired);
	metrics_counter(t, "holdfast_rejected_total", "Publications refused.",
			s.rejected);
	metrics_counter(t, "holdfast_unrouted_total",
			"Publications that no queue wanted.", s.unrouted);
	if (!a->broker.connections)
		return;
	a->broker.connections(a->broker.ctx, &open, &accepted);
	metrics_gauge(t, "holdfast_connections", "Client connections.", open);
	metrics_counter(t, "holdfast_connections_accepted_total",
			"Client connections accepted.", accepted);
}

/* ---- queues ---- */

struct queue_row {
	char *name;
	uint64_t value[9];
};

struct queue_rows {
	struct queue_row *rows;
	size_t count;
};

static const struct {
	const char *name, *type, *help;
} queue_families[] = {
	{"holdfast_queue_messages", "gauge",
	 "Messages in the queue, those being delivered included."},
	{"holdfast_queue_delivering", "gauge",
	 "Messages handed to consumers and not settled."},
	{"holdfast_queue_bytes", "gauge", "Bytes of the queue's messages."},
	{"holdfast_queue_consumers", "gauge", "Consumers of the queue."},
	{"holdfast_queue_paused", "gauge", "1 while delivery is paused."},
	{"holdfast_queue_enqueued_total", "counter",
	 "Messages that entered the queue."},
	{"holdfast_queue_acknowledged_total", "counter",
	 "Messages of the queue that were acknowledged."},
	{"holdfast_queue_expired_total", "counter",
	 "Messages of the queue that expired."},
	{"holdfast_queue_dead_lettered_total", "counter",
	 "Messages of the queue that were dead-lettered."},
};

_Static_assert(ARRAY_COUNT(queue_families) ==
		       sizeof(((struct queue_row *)0)->value) /
			       sizeof(uint64_t),
	       "one value for each family");

static int take_queue(void *ctx, const struct queue_info *q)
{
	struct queue_rows *rows = ctx;
	struct queue_row row = {
		.value = {q->messages, q->delivering, q->bytes, q->consumers,
			  q->paused, q->enqueued, q->acknowledged, q->expired,
			  q->dead_lettered},
	};

	/* Temporary queues have random names: a series each, never again. */
	if (q->temporary)
		return 0;
	if (rows->count == METRICS_QUEUES_MAX)
		return 1;
	row.name = strdup(q->name);
	if (!row.name)
		return 1;
	rows->rows[rows->count++] = row;
	return 0;
}

static void queues(struct admin *a, struct admin_text *t)
{
	struct queue_rows rows = {0};

	rows.rows = calloc(METRICS_QUEUES_MAX, sizeof(*rows.rows));
	if (!rows.rows) {
		t->failed = true;
		return;
	}
	core_each_queue(a->broker.core, take_queue, &rows);
	for (size_t f = 0; rows.count && f < ARRAY_COUNT(queue_families); f++) {
		metrics_family(t, queue_families[f].name,
			       queue_families[f].type, queue_families[f].help);
		for (size_t i = 0; i < rows.count; i++) {
			admin_text_add(t, "%s{queue=\"",
				       queue_families[f].name);
			metrics_label(t, rows.rows[i].name);
			admin_text_add(t, "\"} %" PRIu64 "\n",
				       rows.rows[i].value[f]);
		}
	}
	for (size_t i = 0; i < rows.count; i++)
		free(rows.rows[i].name);
	free(rows.rows);
}

void metrics_write(struct admin *a, struct admin_text *t)
{
	identity(a, t);
	process(a, t);
	cluster_metrics(a, t);
	disk(a, t);
	if (!a->serving)
		return;
	journal(a, t);
	store(a, t);
	broker(a, t);
	queues(a, t);
}
