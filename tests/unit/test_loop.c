/* The event loop on both real engines: mail, life, timers, tasks. */
#include "tests/unit/engines.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <time.h>

/* ---- mail ---- */

#define SENDERS 4
#define MAIL_EACH 50000

struct letter {
	struct loop_mail mail;
	unsigned sender, number;
};

static struct {
	struct loop *loop;
	unsigned next[SENDERS], received, disorder;
} post_office;

static void letter_deliver(struct loop_mail *mail)
{
	struct letter *letter = container_of(mail, struct letter, mail);

	if (letter->number != post_office.next[letter->sender]++ ||
	    !loop_is_current(post_office.loop))
		post_office.disorder++;
	free(letter);
	if (++post_office.received == SENDERS * MAIL_EACH)
		loop_stop(post_office.loop);
}

/* Singly and in chains of two and three. */
static void *sender_main(void *arg)
{
	unsigned sender = (unsigned)(uintptr_t)arg, number = 0;

	while (number < MAIL_EACH) {
		struct letter *first = NULL, *last = NULL;

		for (unsigned n = number % 3 + 1; n && number < MAIL_EACH;
		     n--) {
			struct letter *letter = calloc(1, sizeof(*letter));

			letter->mail.deliver = letter_deliver;
			letter->sender = sender;
			letter->number = number++;
			if (last)
				last->mail.next = &letter->mail;
			else
				first = letter;
			last = letter;
		}
		if (first == last)
			loop_post(post_office.loop, &first->mail);
		else
			loop_post_chain(post_office.loop, &first->mail,
					&last->mail);
	}
	return NULL;
}

BOTH("mail from many threads arrives once and in each sender's order")
{
	pthread_t threads[SENDERS];
	struct loop *l = engines_loop(io);

	memset(&post_office, 0, sizeof(post_office));
	post_office.loop = l;
	assert_int_equal(loop_start(l, NULL, NULL), 0);
	for (uintptr_t i = 0; i < SENDERS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, sender_main,
						(void *)i),
				 0);
	for (size_t i = 0; i < SENDERS; i++)
		pthread_join(threads[i], NULL);
	loop_join(l);
	assert_int_equal(post_office.received, SENDERS * MAIL_EACH);
	assert_int_equal(post_office.disorder, 0);
	loop_free(l);
}

/* Two loops that only ever answer each other: every turn is a sleep and a
 * wake-up, so one that is lost hangs the test. */
struct ball {
	struct loop_mail mail;
	struct loop *side[2];
	unsigned turns;
};

static void ball_deliver(struct loop_mail *mail)
{
	struct ball *ball = container_of(mail, struct ball, mail);

	if (!--ball->turns) {
		loop_stop(ball->side[0]);
		loop_stop(ball->side[1]);
		return;
	}
	loop_post(ball->side[ball->turns % 2], mail);
}

static void ball_play(struct io *io, uint64_t poll_ns)
{
	struct ball ball = {.mail.deliver = ball_deliver, .turns = 20000};

	for (int i = 0; i < 2; i++) {
		ball.side[i] = engines_loop(io);
		loop_set_poll(ball.side[i], poll_ns);
		assert_int_equal(loop_start(ball.side[i], NULL, NULL), 0);
	}
	loop_post(ball.side[0], &ball.mail);
	for (int i = 0; i < 2; i++)
		loop_join(ball.side[i]);
	assert_int_equal(ball.turns, 0);
	for (int i = 0; i < 2; i++)
		loop_free(ball.side[i]);
}

BOTH("two loops that answer each other never miss a wake-up")
{
	ball_play(io, 0);
}

BOTH("two loops that poll before they sleep never miss a wake-up")
{
	ball_play(io, 30000);
	ball_play(io, 10000000);
}

/* Posts to `to` and has nothing more to do, so that it falls asleep. */
struct patient {
	struct loop_mail mail;
	struct loop *from, *to;
	unsigned turns;
};

static void patient_arrived(struct loop_mail *mail);

static void patient_post(struct loop_mail *mail)
{
	struct patient *p = container_of(mail, struct patient, mail);

	p->mail.deliver = patient_arrived;
	loop_post_patiently(p->to, &p->mail);
}

static void patient_arrived(struct loop_mail *mail)
{
	struct patient *p = container_of(mail, struct patient, mail);

	if (!--p->turns) {
		loop_stop(p->from);
		loop_stop(p->to);
		return;
	}
	p->mail.deliver = patient_post;
	loop_post(p->from, &p->mail);
}

BOTH("a loop that sleeps is woken for patient mail, too")
{
	struct patient p = {.mail.deliver = patient_post, .turns = 50};

	p.from = engines_loop(io);
	p.to = engines_loop(io);
	assert_int_equal(loop_start(p.from, NULL, NULL), 0);
	assert_int_equal(loop_start(p.to, NULL, NULL), 0);
	loop_post(p.from, &p.mail);
	loop_join(p.from);
	loop_join(p.to);
	assert_int_equal(p.turns, 0);
	loop_free(p.from);
	loop_free(p.to);
}

/* Patient mail, and then the loop's end. */
static void patient_last(struct loop_mail *mail)
{
	patient_post(mail);
	loop_stop(container_of(mail, struct patient, mail)->from);
}

BOTH("a loop that ends wakes those whom it has patient mail for")
{
	struct patient p = {.mail.deliver = patient_last, .turns = 1};

	p.from = engines_loop(io);
	p.to = engines_loop(io);
	assert_int_equal(loop_start(p.to, NULL, NULL), 0);
	assert_int_equal(loop_start(p.from, NULL, NULL), 0);
	loop_post(p.from, &p.mail);
	loop_join(p.from);
	loop_join(p.to);
	assert_int_equal(p.turns, 0);
	loop_free(p.from);
	loop_free(p.to);
}

static uint64_t process_cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void idle_over(struct loop_timer *timer)
{
}

struct idle_loop {
	struct loop_timer timer;
	struct loop *loop;
	unsigned turns;
};

/* Short waits, so that it polls; then a long one. */
static void idle_fire(struct loop_timer *timer)
{
	struct idle_loop *idle = container_of(timer, struct idle_loop, timer);

	if (idle->turns-- > 0)
		loop_timer_set(idle->loop, timer, 100000);
	else
		loop_stop(idle->loop);
}

BOTH("a loop that polls uses no processor while nothing happens")
{
	struct idle_loop idle = {.timer.fire = idle_fire, .turns = 20};
	struct loop_timer last = {.fire = idle_over};
	struct loop *l = engines_loop(io);
	uint64_t used_ns;

	idle.loop = l;
	loop_set_poll(l, 1000000);
	loop_timer_set(l, &idle.timer, 100000);
	loop_run(l);
	used_ns = process_cpu_ns();
	idle.turns = 0;
	loop_timer_set(l, &last, 100000000);
	loop_timer_set(l, &idle.timer, 200000000);
	loop_run(l);
	assert_true(process_cpu_ns() - used_ns < 50000000);
	loop_free(l);
}

/* ---- life ---- */

struct life {
	struct loop *loop;
	sem_t entered, leave;
	int init_was_current;
	struct loop_mail mail;
};

static void life_init(void *ctx)
{
	struct life *life = ctx;

	life->init_was_current = loop_is_current(life->loop);
}

static void life_block(struct loop_mail *mail)
{
	struct life *life = container_of(mail, struct life, mail);

	sem_post(&life->entered);
	sem_wait(&life->leave);
}

BOTH("a heartbeat tells a loop that waits from one that is stuck")
{
	struct life life = {.mail.deliver = life_block};
	uint64_t before_ns, stuck_ns;
	int waiting = 0;

	life.loop = engines_loop(io);
	sem_init(&life.entered, 0, 0);
	sem_init(&life.leave, 0, 0);
	assert_true(loop_is_current(life.loop));
	assert_string_equal(loop_name(life.loop), "test");
	assert_ptr_equal(loop_io(life.loop), io);
	assert_int_equal(loop_start(life.loop, life_init, &life), 0);
	assert_false(loop_is_current(life.loop));
	while (!waiting) {
		loop_heartbeat_ns(life.loop, &waiting);
		sched_yield();
	}
	before_ns = io_now_ns(io);
	loop_post(life.loop, &life.mail);
	sem_wait(&life.entered);
	stuck_ns = loop_heartbeat_ns(life.loop, &waiting);
	assert_false(waiting);
	assert_true(stuck_ns >= before_ns);
	assert_int_equal(loop_heartbeat_ns(life.loop, &waiting), stuck_ns);
	sem_post(&life.leave);
	loop_stop(life.loop);
	loop_join(life.loop);
	assert_true(life.init_was_current);
	assert_true(loop_is_current(life.loop));
	loop_free(life.loop);
	loop_free(NULL);
}

struct waited {
	struct loop_task task;
	struct loop_op op;
	struct loop *loop;
	struct io_file *file;
	uint64_t before_ns;
	int told;
};

static void waited_done(struct loop_op *op, int res)
{
	struct waited *w = container_of(op, struct waited, op);
	int waiting = 1;

	assert_int_equal(res, 1);
	assert_true(loop_now_ns(w->loop) >= w->before_ns);
	assert_true(loop_heartbeat_ns(w->loop, &waiting) >= w->before_ns);
	assert_false(waiting);
	w->told = 1;
	loop_stop(w->loop);
}

static void waited_write(struct loop_task *task)
{
	struct waited *w = container_of(task, struct waited, task);

	w->before_ns = io_now_ns(loop_io(w->loop));
	loop_write_durable_now(w->loop, &w->op, w->file, "x", 1, 0);
}

BOTH("a loop that has waited for a write knows the time, and is not asleep, "
     "when it is told")
{
	struct waited w = {.task.run = waited_write, .op.done = waited_done};
	char path[512];

	test_directory();
	test_path(path, sizeof(path), "f");
	assert_int_equal(io_open(io, path, IO_WRITE | IO_CREATE, &w.file), 0);
	w.loop = engines_loop(io);
	loop_defer(w.loop, &w.task);
	loop_run(w.loop);
	assert_true(w.told);
	loop_free(w.loop);
	io_close(w.file);
}

/* ---- timers ---- */

#define TIMERS 500

struct alarm {
	struct loop_timer timer;
	struct loop *loop;
	uint64_t due_ns;
	int fired;
};

static struct {
	unsigned fired, expected, early, disorder;
	uint64_t last_due_ns;
} clockwork;

static void alarm_fire(struct loop_timer *t)
{
	struct alarm *alarm = container_of(t, struct alarm, timer);

	alarm->fired++;
	if (loop_now_ns(alarm->loop) < alarm->due_ns)
		clockwork.early++;
	if (alarm->due_ns < clockwork.last_due_ns)
		clockwork.disorder++;
	clockwork.last_due_ns = alarm->due_ns;
	if (++clockwork.fired == clockwork.expected)
		loop_stop(alarm->loop);
}

static void alarm_set(struct loop *l, struct alarm *alarm, uint64_t after_ns)
{
	alarm->loop = l;
	alarm->timer.fire = alarm_fire;
	loop_timer_set(l, &alarm->timer, after_ns);
	alarm->due_ns = alarm->timer.due_ns;
}

BOTH("timers fire once, in order of their time, and never early")
{
	struct alarm *alarms = calloc(TIMERS, sizeof(*alarms));
	struct loop *l = engines_loop(io);
	uint64_t before_ns = io_now_ns(io);

	memset(&clockwork, 0, sizeof(clockwork));
	srandom(1);
	for (size_t i = 0; i < TIMERS; i++)
		alarm_set(l, &alarms[i], (uint64_t)random() % 50000000u);
	for (size_t i = 0; i < TIMERS; i += 3)
		loop_timer_cancel(l, &alarms[i].timer);
	for (size_t i = 0; i < TIMERS; i += 3)
		loop_timer_cancel(l, &alarms[i].timer);
	/* Armed again, earlier and later. */
	for (size_t i = 1; i < TIMERS; i += 3)
		alarm_set(l, &alarms[i], (uint64_t)random() % 50000000u);
	clockwork.expected = TIMERS - (TIMERS + 2) / 3;
	loop_run(l);
	assert_int_equal(clockwork.fired, clockwork.expected);
	assert_int_equal(clockwork.early, 0);
	assert_int_equal(clockwork.disorder, 0);
	for (size_t i = 0; i < TIMERS; i++)
		assert_int_equal(alarms[i].fired, i % 3 ? 1 : 0);
	assert_true(io_now_ns(io) - before_ns < 5000000000u);
	loop_free(l);
	free(alarms);
}

BOTH("a loop with nothing to do uses no processor time")
{
	struct loop *l = engines_loop(io);
	struct alarm alarm = {0};
	struct timespec before, after;

	memset(&clockwork, 0, sizeof(clockwork));
	clockwork.expected = 1;
	alarm_set(l, &alarm, 200000000u);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
	loop_run(l);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
	assert_true((after.tv_sec - before.tv_sec) * 1000000000 +
			    (after.tv_nsec - before.tv_nsec) <
		    50000000);
	loop_free(l);
}

/* An event that counts, and ends the loop when all three kinds came. */
struct busy {
	struct loop *loop;
	struct loop_timer timer;
	struct loop_task task;
	struct loop_mail mail;
	unsigned timers, tasks, mails;
};

static void busy_check(struct busy *b)
{
	if (b->timers > 100 && b->tasks > 100 && b->mails > 100)
		loop_stop(b->loop);
}

static void busy_fire(struct loop_timer *t)
{
	struct busy *b = container_of(t, struct busy, timer);

	b->timers++;
	loop_timer_set(b->loop, t, 0);
	busy_check(b);
}

static void busy_task(struct loop_task *task)
{
	struct busy *b = container_of(task, struct busy, task);

	b->tasks++;
	loop_defer(b->loop, task);
	busy_check(b);
}

static void busy_mail(struct loop_mail *mail)
{
	struct busy *b = container_of(mail, struct busy, mail);

	b->mails++;
	loop_post(b->loop, mail);
	busy_check(b);
}

BOTH("work that renews itself starves neither other work nor I/O")
{
	struct busy b = {.timer.fire = busy_fire,
			 .task.run = busy_task,
			 .mail.deliver = busy_mail};
	struct engines_op e = ENGINES_OP;
	struct io_file *file = NULL;
	char buf[16];

	b.loop = engines_loop(io);
	loop_timer_set(b.loop, &b.timer, 0);
	loop_defer(b.loop, &b.task);
	loop_post(b.loop, &b.mail);
	loop_run(b.loop);
	assert_int_equal(io_open(io, "/proc/self/status", IO_READ, &file), 0);
	loop_read(b.loop, &e.op, file, buf, sizeof(buf), 0);
	assert_int_equal(engines_wait(b.loop, &e), sizeof(buf));
	io_close(file);
	loop_free(b.loop);
}

/* ---- tasks ---- */

struct chore {
	struct loop_task task;
	struct loop *loop;
	struct chore *queue, *forget;
	char name;
};

static char chore_log[64];

static void chore_run(struct loop_task *task)
{
	struct chore *chore = container_of(task, struct chore, task);
	size_t len = strlen(chore_log);

	chore_log[len] = chore->name;
	if (chore->queue)
		loop_defer(chore->loop, &chore->queue->task);
	if (chore->forget)
		loop_undefer(chore->loop, &chore->forget->task);
	if (chore->name == '.')
		loop_stop(chore->loop);
}

static void chore_init(struct chore *chore, struct loop *l, char name)
{
	memset(chore, 0, sizeof(*chore));
	chore->task.run = chore_run;
	chore->loop = l;
	chore->name = name;
}

BOTH("a task runs once, a task that it queues in the next iteration")
{
	struct chore a, b, c, d, end;
	struct loop *l = engines_loop(io);

	memset(chore_log, 0, sizeof(chore_log));
	chore_init(&a, l, 'a');
	chore_init(&b, l, 'b');
	chore_init(&c, l, 'c');
	chore_init(&d, l, 'd');
	chore_init(&end, l, '.');
	a.queue = &d;	/* after c, in the next iteration */
	b.forget = &c;	/* never runs, though queued */
	d.queue = &end; /* the iteration after */
	loop_defer(l, &a.task);
	loop_defer(l, &b.task);
	loop_defer(l, &a.task);
	loop_defer(l, &c.task);
	loop_run(l);
	assert_string_equal(chore_log, "abd.");
	/* All may be queued again, and the last one taken back. */
	memset(chore_log, 0, sizeof(chore_log));
	a.queue = b.forget = d.queue = NULL;
	loop_defer(l, &a.task);
	loop_defer(l, &c.task);
	loop_undefer(l, &c.task);
	loop_undefer(l, &c.task);
	loop_defer(l, &end.task);
	loop_defer(l, &b.task);
	loop_undefer(l, &a.task);
	loop_defer(l, &a.task);
	loop_run(l);
	assert_string_equal(chore_log, ".ba");
	loop_free(l);
}

TEST_MAIN()
