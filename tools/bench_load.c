/* tools/bench_load.c: see bench_load.h. */
#include <poll.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "tools/bench_load.h"
#include "tools/bench_wire.h"

/* Payload: magic (8), run (4), sender (4), sequence (8), sent_ns (8), filler.
 */
#define PAYLOAD_MAGIC "HFBENCH1"
#define SEARCH_BYTES 4096u

struct bits {
	uint64_t *words;
	uint64_t capacity; /* bits */
};

struct slot {
	uint64_t sent_ns;
	bool settled;
};

struct sender {
	struct bench_wire wire;
	struct load *load;
	uint32_t index;
	uint8_t *message;
	size_t message_len, payload_at;
	uint64_t sent, oldest, confirmed; /* oldest: first not settled */
	uint64_t quota;			  /* stop at this many */
	struct slot *slots;
	uint64_t slot_mask;
	struct bits accepted, seen;
};

struct receiver {
	struct bench_wire wire;
	struct load *load;
	uint64_t *last_plus_1; /* by sender: for the order */
};

enum phase { CONNECTING, WARMING, MEASURING, FINISHING, DRAINING, ENDED };

struct load {
	const struct bench_load_options *o;
	struct bench_load_result *r;
	enum phase phase;
	uint64_t now_ns, start_ns, measure_start_ns, progress_ns;
	uint64_t drain_start_ns, last_confirm_ns, last_arrival_ns, shown_ns;
	uint64_t confirmed, confirmed_before, arrived_before, quota_base;
	uint64_t confirmed_in_time;
	uint32_t run;
	double cpu_before;
	struct sender *senders;
	struct receiver *receivers;
	unsigned sender_count, receiver_count; /* open */
	char (*addresses)[280];
};

static bool bits_set(struct bits *b, uint64_t at)
{
	uint64_t mask = 1ull << (at & 63);
	bool was;

	if (at >= b->capacity) {
		uint64_t capacity = base_max(65536, 2 * (at + 1));

		capacity = base_round_up(capacity, 64);
		b->words = realloc(b->words, capacity / 8);
		ASSERT(b->words);
		memset((uint8_t *)b->words + b->capacity / 8, 0,
		       (capacity - b->capacity) / 8);
		b->capacity = capacity;
	}
	was = b->words[at >> 6] & mask;
	b->words[at >> 6] |= mask;
	return was;
}

static bool bits_get(const struct bits *b, uint64_t at)
{
	return at < b->capacity && (b->words[at >> 6] >> (at & 63) & 1);
}

static double cpu_seconds(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* ---- senders ---- */

static int build_message(struct sender *s)
{
	static const uint8_t head[] = {0x00, 0x53, 0x70, 0xc0,
				       0x02, 0x01, 0x41, /* header: durable */
				       0x00, 0x53, 0x75, 0xb0};
	uint64_t size = s->load->o->size;
	uint32_t wire_size = __builtin_bswap32((uint32_t)size);

	s->payload_at = sizeof(head) + 4;
	s->message_len = s->payload_at + size;
	s->message = malloc(s->message_len);
	if (!s->message)
		return -ENOMEM;
	memcpy(s->message, head, sizeof(head));
	memcpy(s->message + sizeof(head), &wire_size, 4);
	/* Not compressible, so that a broker that compresses gains nothing. */
	for (uint64_t i = 0, x = 88172645463325252ull + s->index; i < size;
	     i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		s->message[s->payload_at + i] = (uint8_t)x;
	}
	memcpy(s->message + s->payload_at, PAYLOAD_MAGIC, 8);
	bytes_put32(s->message + s->payload_at + 8, s->load->run);
	bytes_put32(s->message + s->payload_at + 12, s->index);
	return 0;
}

static void on_settled(struct bench_wire *w, uint32_t first, uint32_t last,
		       enum bench_wire_outcome outcome)
{
	struct sender *s = w->ctx;
	struct load *l = s->load;
	uint64_t seq = s->oldest + (uint32_t)(first - (uint32_t)s->oldest);
	uint64_t end = seq + (uint32_t)(last - first) + 1;

	if (end > s->sent)
		return;
	for (; seq < end; seq++) {
		struct slot *slot = &s->slots[seq & s->slot_mask];

		if (seq < s->oldest || slot->settled)
			continue;
		slot->settled = true;
		s->confirmed++;
		l->confirmed++;
		if (outcome == BENCH_WIRE_ACCEPTED) {
			l->r->accepted++;
			bits_set(&s->accepted, seq);
		} else if (outcome == BENCH_WIRE_REJECTED) {
			l->r->rejected++;
		} else {
			l->r->released++;
		}
		if (slot->sent_ns >= l->measure_start_ns && l->measure_start_ns)
			histogram_add(&l->r->confirm_ns,
				      l->now_ns - slot->sent_ns);
	}
	while (s->oldest < s->sent &&
	       s->slots[s->oldest & s->slot_mask].settled)
		s->oldest++;
	l->last_confirm_ns = l->progress_ns = l->now_ns;
}

static void fill(struct sender *s)
{
	struct load *l = s->load;
	uint64_t window = l->o->window;
	uint64_t now_ns = amqp_client_now_ns();

	while (s->sent < s->quota && s->sent - s->confirmed < window &&
	       s->sent - s->oldest <= s->slot_mask &&
	       bench_wire_can_send(&s->wire)) {
		struct slot *slot = &s->slots[s->sent & s->slot_mask];

		slot->sent_ns = now_ns;
		slot->settled = false;
		bytes_put64(s->message + s->payload_at + 16, s->sent);
		bytes_put64(s->message + s->payload_at + 24, now_ns);
		bench_wire_send(&s->wire, s->message, s->message_len);
		s->sent++;
	}
}

static int open_sender(struct load *l, uint32_t index)
{
	struct sender *s = &l->senders[index];
	uint64_t slots = 64;
	int err;

	s->load = l;
	s->index = index;
	s->quota = UINT64_MAX;
	s->wire.sends = true;
	s->wire.ctx = s;
	s->wire.settled = on_settled;
	s->wire.fd = -1;
	while (slots < 4 * l->o->window)
		slots *= 2;
	s->slot_mask = slots - 1;
	s->slots = calloc(slots, sizeof(*s->slots));
	if (!s->slots)
		return -ENOMEM;
	err = build_message(s);
	if (err)
		return err;
	return bench_wire_open(&s->wire, l->o->access,
			       l->addresses[index % l->o->queues]);
}

/* ---- receivers ---- */

static const uint8_t *find_payload(struct load *l, const uint8_t *data,
				   size_t len)
{
	const uint8_t *at = NULL;
	size_t usual = l->senders[0].payload_at;

	if (len >= usual + BENCH_LOAD_SIZE_MIN &&
	    memcmp(data + usual, PAYLOAD_MAGIC, 8) == 0)
		at = data + usual;
	else
		at = memmem(data, base_min(len, SEARCH_BYTES), PAYLOAD_MAGIC,
			    8);
	if (!at || (size_t)(data + len - at) < BENCH_LOAD_SIZE_MIN ||
	    bytes_get32(at + 8) != l->run ||
	    bytes_get32(at + 12) >= l->o->senders)
		return NULL;
	return at;
}

static void on_message(struct bench_wire *w, const uint8_t *data, size_t len)
{
	struct receiver *receiver = w->ctx;
	struct load *l = receiver->load;
	const uint8_t *payload = find_payload(l, data, len);
	uint64_t seq, sent_ns;
	struct sender *s;

	l->last_arrival_ns = l->progress_ns = l->now_ns;
	if (!payload) {
		l->r->foreign++;
		return;
	}
	s = &l->senders[bytes_get32(payload + 12)];
	seq = bytes_get64(payload + 16);
	sent_ns = bytes_get64(payload + 24);
	if (seq >= s->sent || (size_t)(data + len - payload) != l->o->size) {
		l->r->foreign++;
		return;
	}
	if (bits_set(&s->seen, seq)) {
		l->r->duplicates++;
		return;
	}
	l->r->arrived++;
	if (seq + 1 < receiver->last_plus_1[s->index])
		l->r->out_of_order++;
	receiver->last_plus_1[s->index] = seq + 1;
	if (l->phase == DRAINING)
		l->r->drained++;
	else if (l->measure_start_ns && sent_ns >= l->measure_start_ns)
		histogram_add(&l->r->end_to_end_ns, l->now_ns - sent_ns);
}

static int open_receiver(struct load *l, unsigned index)
{
	struct receiver *r = &l->receivers[index];

	r->load = l;
	r->wire.ctx = r;
	r->wire.message = on_message;
	r->wire.credit_max = (uint32_t)l->o->credit;
	r->wire.fd = -1;
	r->last_plus_1 = calloc(l->o->senders, sizeof(uint64_t));
	if (!r->last_plus_1)
		return -ENOMEM;
	return bench_wire_open(&r->wire, l->o->access,
			       l->addresses[index % l->o->queues]);
}

/* ---- phases ---- */

static bool all_ready(const struct load *l)
{
	for (unsigned i = 0; i < l->sender_count; i++) {
		const struct bench_wire *w = &l->senders[i].wire;

		if (w->state != BENCH_WIRE_READY || !w->credit)
			return false;
	}
	for (unsigned i = 0; i < l->receiver_count; i++) {
		if (l->receivers[i].wire.state != BENCH_WIRE_READY)
			return false;
	}
	return true;
}

static void begin_measuring(struct load *l)
{
	l->phase = MEASURING;
	l->measure_start_ns = l->now_ns;
	l->confirmed_before = l->confirmed;
	l->arrived_before = l->r->arrived;
	l->cpu_before = cpu_seconds();
	if (!l->o->count)
		return;
	for (unsigned i = 0; i < l->sender_count; i++) {
		uint64_t share = l->o->count / l->o->senders;

		share += i < l->o->count % l->o->senders;
		l->senders[i].quota = l->senders[i].sent + share;
	}
}

static void end_measuring(struct load *l, uint64_t confirm_end_ns,
			  uint64_t arrival_end_ns)
{
	struct bench_load_result *r = l->r;

	r->client_cpu_seconds = cpu_seconds() - l->cpu_before;
	r->seconds = (double)(confirm_end_ns - l->measure_start_ns) / 1e9;
	r->receive_seconds =
		(double)(arrival_end_ns - l->measure_start_ns) / 1e9;
	r->confirmed = l->confirmed - l->confirmed_before;
	r->received = r->arrived - l->arrived_before;
	for (unsigned i = 0; i < l->sender_count; i++)
		l->senders[i].quota = l->senders[i].sent;
	l->phase = FINISHING;
}

static bool all_settled(const struct load *l)
{
	for (unsigned i = 0; i < l->sender_count; i++) {
		if (l->senders[i].sent < l->senders[i].quota ||
		    l->senders[i].confirmed < l->senders[i].sent)
			return false;
	}
	return true;
}

/* Every accepted message has arrived; arrived may be larger while
 * confirmations are still under way. */
static bool all_arrived(const struct load *l)
{
	return l->r->arrived >= l->r->accepted;
}

static int begin_draining(struct load *l)
{
	unsigned wanted = (unsigned)base_min(base_max(l->o->queues, 2),
					     BENCH_LOAD_LINKS_MAX);

	l->phase = DRAINING;
	l->drain_start_ns = l->progress_ns = l->now_ns;
	while (l->receiver_count < wanted) {
		int err = open_receiver(l, l->receiver_count);

		l->receiver_count++;
		if (err)
			return err;
	}
	return 0;
}

static void step_measuring(struct load *l)
{
	if (!l->o->count) {
		if (l->now_ns - l->measure_start_ns >= l->o->measure_ns)
			end_measuring(l, l->now_ns, l->now_ns);
		return;
	}
	if (!all_settled(l) || (l->o->receivers && !all_arrived(l)))
		return;
	end_measuring(l, l->last_confirm_ns,
		      base_max(l->last_arrival_ns, l->measure_start_ns + 1));
}

/* Advance the phase; 0 or a failure to connect. */
static int step(struct load *l)
{
	switch (l->phase) {
	case CONNECTING:
		if (!all_ready(l))
			return 0;
		l->phase = WARMING;
		l->start_ns = l->progress_ns = l->now_ns;
		return 0;
	case WARMING:
		if (l->now_ns - l->start_ns >= l->o->warm_up_ns)
			begin_measuring(l);
		return 0;
	case MEASURING:
		step_measuring(l);
		return 0;
	case FINISHING:
		if (!all_settled(l))
			return 0;
		if (l->o->receivers && !all_arrived(l))
			return 0;
		if (!l->o->receivers && !l->o->leave)
			return begin_draining(l);
		l->phase = ENDED;
		return 0;
	case DRAINING:
		if (all_arrived(l)) {
			l->r->drain_seconds =
				(double)(l->now_ns - l->drain_start_ns) / 1e9;
			l->phase = ENDED;
		}
		return 0;
	case ENDED:
		return 0;
	}
	return 0;
}

static void show(struct load *l)
{
	static const char *const words[] = {"connecting", "warming up",
					    "measuring",  "finishing",
					    "draining",	  "ended"};

	if (!l->o->shows_progress || l->now_ns - l->shown_ns < 250000000u)
		return;
	l->shown_ns = l->now_ns;
	fprintf(stderr, "\r\033[K%s: %llu confirmed, %llu received",
		words[l->phase], (unsigned long long)l->confirmed,
		(unsigned long long)l->r->arrived);
}

/* ---- the loop ---- */

static unsigned gather(struct load *l, struct pollfd *fds,
		       struct bench_wire **wires)
{
	unsigned n = 0;

	for (unsigned i = 0; i < l->sender_count; i++)
		wires[n++] = &l->senders[i].wire;
	for (unsigned i = 0; i < l->receiver_count; i++)
		wires[n++] = &l->receivers[i].wire;
	for (unsigned i = 0; i < n; i++) {
		fds[i].fd = wires[i]->state == BENCH_WIRE_CLOSED ? -1
								 : wires[i]->fd;
		fds[i].events = POLLIN;
		if (bench_wire_wants_write(wires[i]))
			fds[i].events |= POLLOUT;
	}
	return n;
}

static int first_failure(struct load *l, struct bench_wire **wires, unsigned n,
			 char *why, size_t why_len)
{
	for (unsigned i = 0; i < n; i++) {
		if (!wires[i]->failed)
			continue;
		snprintf(why, why_len, "%s", wires[i]->why);
		return -ECONNABORTED;
	}
	/* Lost messages are the verdict's business, not a failure to run. */
	if (l->now_ns - l->progress_ns < l->o->patience_ns)
		return 0;
	if (l->phase == MEASURING && l->o->count && all_settled(l))
		end_measuring(
			l, l->last_confirm_ns,
			base_max(l->last_arrival_ns, l->measure_start_ns + 1));
	if ((l->phase == FINISHING && all_settled(l)) || l->phase == DRAINING) {
		l->phase = ENDED;
		return 0;
	}
	snprintf(why, why_len, "no progress for %.0f s while %s",
		 (double)l->o->patience_ns / 1e9,
		 l->phase == CONNECTING
			 ? "attaching; does the broker grant credit?"
			 : "waiting for confirmations");
	return -ETIMEDOUT;
}

static int turn(struct load *l, char *why, size_t why_len)
{
	struct pollfd fds[2 * BENCH_LOAD_LINKS_MAX];
	struct bench_wire *wires[2 * BENCH_LOAD_LINKS_MAX];
	unsigned n;
	int err;

	for (unsigned i = 0; i < l->sender_count; i++) {
		if (l->phase != CONNECTING)
			fill(&l->senders[i]);
		bench_wire_flush(&l->senders[i].wire, l->now_ns);
	}
	for (unsigned i = 0; i < l->receiver_count; i++)
		bench_wire_flush(&l->receivers[i].wire, l->now_ns);
	n = gather(l, fds, wires);
	if (poll(fds, n, 20) < 0 && errno != EINTR)
		return -errno;
	l->now_ns = amqp_client_now_ns();
	for (unsigned i = 0; i < n; i++) {
		if (fds[i].fd >= 0 && fds[i].revents & ~POLLOUT)
			bench_wire_read(wires[i]);
	}
	err = first_failure(l, wires, n, why, why_len);
	if (!err)
		err = step(l);
	if (err && !why[0])
		snprintf(why, why_len, "%s", err_str(err));
	show(l);
	return err;
}

static void close_all(struct load *l)
{
	struct pollfd fds[2 * BENCH_LOAD_LINKS_MAX];
	struct bench_wire *wires[2 * BENCH_LOAD_LINKS_MAX];
	uint64_t until = amqp_client_now_ns() + 2000000000u;
	unsigned n = gather(l, fds, wires), open = n;

	for (unsigned i = 0; i < n; i++)
		bench_wire_close(wires[i]);
	while (open && amqp_client_now_ns() < until) {
		for (unsigned i = 0; i < n; i++)
			bench_wire_flush(wires[i], amqp_client_now_ns());
		gather(l, fds, wires);
		if (poll(fds, n, 100) < 0)
			break;
		open = 0;
		for (unsigned i = 0; i < n; i++) {
			if (fds[i].fd >= 0 && fds[i].revents & ~POLLOUT)
				bench_wire_read(wires[i]);
			open += wires[i]->state != BENCH_WIRE_CLOSED;
		}
	}
}

static void judge(struct load *l)
{
	bool expects = l->o->receivers || !l->o->leave;

	for (unsigned i = 0; i < l->sender_count; i++) {
		struct sender *s = &l->senders[i];

		l->r->sent += s->sent;
		for (uint64_t seq = 0; expects && seq < s->sent; seq++)
			l->r->lost += bits_get(&s->accepted, seq) &&
				      !bits_get(&s->seen, seq);
	}
}

static void release(struct load *l)
{
	for (unsigned i = 0; l->senders && i < l->sender_count; i++) {
		struct sender *s = &l->senders[i];

		bench_wire_fini(&s->wire);
		free(s->message);
		free(s->slots);
		free(s->accepted.words);
		free(s->seen.words);
	}
	for (unsigned i = 0; l->receivers && i < l->receiver_count; i++) {
		bench_wire_fini(&l->receivers[i].wire);
		free(l->receivers[i].last_plus_1);
	}
	free(l->senders);
	free(l->receivers);
	free(l->addresses);
}

static int open_all(struct load *l)
{
	const struct bench_load_options *o = l->o;
	int err = 0;

	l->senders = calloc(BENCH_LOAD_LINKS_MAX, sizeof(*l->senders));
	l->receivers = calloc(BENCH_LOAD_LINKS_MAX, sizeof(*l->receivers));
	l->addresses = calloc(o->queues, sizeof(*l->addresses));
	if (!l->senders || !l->receivers || !l->addresses)
		return -ENOMEM;
	for (uint64_t i = 0; i < o->queues; i++) {
		if (o->queues == 1)
			snprintf(l->addresses[i], sizeof(l->addresses[i]), "%s",
				 o->address);
		else
			snprintf(l->addresses[i], sizeof(l->addresses[i]),
				 "%s.%u", o->address, (unsigned)i);
	}
	for (uint32_t i = 0; i < o->receivers && !err; i++) {
		err = open_receiver(l, i);
		l->receiver_count++;
	}
	for (uint32_t i = 0; i < o->senders && !err; i++) {
		err = open_sender(l, i);
		l->sender_count++;
	}
	return err;
}

int bench_load_run(const struct bench_load_options *o,
		   struct bench_load_result *ret, char *why, size_t why_len)
{
	struct load l = {.o = o, .r = ret};
	int err;

	memset(ret, 0, sizeof(*ret));
	histogram_init(&ret->confirm_ns);
	histogram_init(&ret->end_to_end_ns);
	why[0] = 0;
	l.now_ns = l.progress_ns = amqp_client_now_ns();
	l.run = (uint32_t)(l.now_ns ^ l.now_ns >> 32) ^ (uint32_t)getpid();
	err = open_all(&l);
	if (err) {
		for (unsigned i = 0; i < l.sender_count; i++) {
			if (l.senders[i].wire.failed)
				snprintf(why, why_len, "%s",
					 l.senders[i].wire.why);
		}
		for (unsigned i = 0; i < l.receiver_count; i++) {
			if (l.receivers[i].wire.failed)
				snprintf(why, why_len, "%s",
					 l.receivers[i].wire.why);
		}
		if (!why[0])
			snprintf(why, why_len, "%s", err_str(err));
	}
	while (!err && l.phase != ENDED)
		err = turn(&l, why, why_len);
	if (o->shows_progress)
		fputs("\r\033[K", stderr);
	if (!err) {
		close_all(&l);
		judge(&l);
	}
	release(&l);
	return err;
}
