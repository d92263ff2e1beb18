/* Apache Qpid JMS as its users use it, against a broker on 127.0.0.1.
 *
 * JmsClient PORT [TEST...] runs the tests one by one, prints a failure for
 * each that fails, and exits 1 if one did.  "restart N" on standard output
 * asks the parent to restart the broker with signal N; it answers with a line
 * on standard input when the broker is ready again. */

import jakarta.jms.*;
import jakarta.jms.Queue;
import java.io.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;
import org.apache.qpid.jms.JmsConnectionFactory;

public class JmsClient {
	static final long PATIENCE_MS = 20000;
	static final long QUIET_MS = 150;
	static int port;
	static final BufferedReader parent =
		new BufferedReader(new InputStreamReader(System.in));

	interface Test {
		void run() throws Exception;
	}

	static void check(boolean condition, String what) {
		if (!condition)
			throw new AssertionError(what);
	}

	static void same(Object got, Object wanted, String what) {
		check(Objects.equals(got, wanted),
		      what + ": " + got + ", not " + wanted);
	}

	static String url(String options) {
		return "amqp://127.0.0.1:" + port + options;
	}

	static Connection connect(String options) throws JMSException {
		Connection c = new JmsConnectionFactory(url(options))
				       .createConnection();
		c.start();
		return c;
	}

	static Connection connect() throws JMSException {
		return connect("");
	}

	static void send(Session s, Destination d, String... bodies)
			throws JMSException {
		MessageProducer p = s.createProducer(d);
		for (String body : bodies)
			p.send(s.createTextMessage(body));
		p.close();
	}

	static String body(Message m) throws JMSException {
		return m == null ? null : ((TextMessage) m).getText();
	}

	static String take(MessageConsumer c) throws JMSException {
		return body(c.receive(PATIENCE_MS));
	}

	static void none(MessageConsumer c, String what) throws JMSException {
		same(body(c.receive(QUIET_MS)), null, what);
	}

	/* What must be refused, with the condition that the broker is to name;
	 * the session and the connection stay good. */
	static void refused(Session s, String name, String condition,
			    Callable<?> attempt) throws Exception {
		try {
			attempt.call();
			throw new AssertionError(name + " was not refused");
		} catch (JMSException e) {
			check(e.getMessage() != null &&
			      e.getMessage().contains(condition),
			      name + ": " + e);
		}
		Queue q = s.createQueue("j.after." + name);
		send(s, q, "still here");
		MessageConsumer c = s.createConsumer(q);
		same(take(c), "still here", "after a refused " + name);
		c.close();
	}

	/* ---- messages ---- */

	static void roundTrip() throws Exception {
		try (Connection c = connect()) {
			Session s = c.createSession();
			Queue q = s.createQueue("j.round"), r = s.createQueue("j.reply");
			MessageProducer p = s.createProducer(q);
			TextMessage m = s.createTextMessage("gr\u00fc\u00df \ud83d\ude80");
			m.setJMSCorrelationID("corr-1");
			m.setJMSReplyTo(r);
			m.setJMSType("kind");
			m.setStringProperty("s", "text");
			m.setIntProperty("i", -7);
			m.setLongProperty("l", 1L << 40);
			m.setDoubleProperty("d", 0.5);
			m.setBooleanProperty("b", true);
			m.setByteProperty("y", (byte) -3);
			m.setStringProperty("JMSXGroupID", "g");
			for (int mode : new int[] {DeliveryMode.PERSISTENT,
						   DeliveryMode.NON_PERSISTENT}) {
				p.send(m, mode, 7, 600000);
				MessageConsumer consumer = s.createConsumer(q);
				TextMessage got = (TextMessage) consumer.receive(PATIENCE_MS);
				check(got != null, "nothing came");
				same(got.getText(), m.getText(), "body");
				same(got.getJMSCorrelationID(), "corr-1", "correlation");
				same(got.getJMSReplyTo(), r, "reply-to");
				same(got.getJMSDestination(), q, "destination");
				same(got.getJMSType(), "kind", "type");
				same(got.getJMSMessageID(), m.getJMSMessageID(), "id");
				same(got.getJMSPriority(), 7, "priority");
				same(got.getJMSDeliveryMode(), mode, "mode");
				same(got.getJMSExpiration(), m.getJMSExpiration(), "expiration");
				same(got.getJMSTimestamp(), m.getJMSTimestamp(), "timestamp");
				same(got.getJMSRedelivered(), false, "redelivered");
				same(got.getIntProperty("JMSXDeliveryCount"), 1, "count");
				same(got.getStringProperty("s"), "text", "s");
				same(got.getIntProperty("i"), -7, "i");
				same(got.getLongProperty("l"), 1L << 40, "l");
				same(got.getDoubleProperty("d"), 0.5, "d");
				same(got.getBooleanProperty("b"), true, "b");
				same(got.getByteProperty("y"), (byte) -3, "y");
				same(got.getStringProperty("JMSXGroupID"), "g", "group");
				consumer.close();
			}
		}
	}

	static void bodies() throws Exception {
		try (Connection c = connect()) {
			Session s = c.createSession();
			Queue q = s.createQueue("j.bodies");
			MessageProducer p = s.createProducer(q);
			MessageConsumer consumer = s.createConsumer(q);
			p.send(s.createMessage());
			p.send(s.createTextMessage());
			p.send(s.createBytesMessage());
			MapMessage map = s.createMapMessage();
			map.setString("k", "v");
			map.setBytes("raw", new byte[] {1, 0, 2});
			p.send(map);
			StreamMessage stream = s.createStreamMessage();
			stream.writeLong(5);
			stream.writeString("x");
			p.send(stream);
			p.send(s.createObjectMessage(new ArrayList<>(List.of("o"))));
			check(consumer.receive(PATIENCE_MS) != null, "message");
			same(take(consumer), null, "an empty text");
			same(((BytesMessage) consumer.receive(PATIENCE_MS)).getBodyLength(),
			     0L, "empty bytes");
			map = (MapMessage) consumer.receive(PATIENCE_MS);
			same(map.getString("k"), "v", "map");
			same(map.getBytes("raw").length, 3, "bytes in a map");
			stream = (StreamMessage) consumer.receive(PATIENCE_MS);
			same(stream.readLong(), 5L, "stream");
			same(stream.readString(), "x", "stream");
			Object o = ((ObjectMessage) consumer.receive(PATIENCE_MS)).getObject();
			same(o, List.of("o"), "object");
		}
	}

	static void large() throws Exception {
		try (Connection c = connect()) {
			Session s = c.createSession();
			Queue q = s.createQueue("j.large");
			MessageConsumer consumer = s.createConsumer(q);
			MessageProducer p = s.createProducer(q);
			byte[] data = new byte[5 << 20];
			new Random(1).nextBytes(data);
			for (int mode : new int[] {DeliveryMode.PERSISTENT,
						   DeliveryMode.NON_PERSISTENT}) {
				BytesMessage m = s.createBytesMessage();
				m.writeBytes(data);
				p.send(m, mode, 4, 0);
				BytesMessage got = (BytesMessage) consumer.receive(PATIENCE_MS);
				byte[] back = new byte[(int) got.getBodyLength()];
				got.readBytes(back);
				check(Arrays.equals(back, data), "the bytes differ");
			}
		}
	}

	static void timeToLive() throws Exception {
		try (Connection c = connect()) {
			Session s = c.createSession();
			Queue q = s.createQueue("j.ttl");
			MessageProducer p = s.createProducer(q);
			p.send(s.createTextMessage("gone"), DeliveryMode.PERSISTENT, 4, 1);
			p.send(s.createTextMessage("stays"), DeliveryMode.PERSISTENT, 4,
			       600000);
			Thread.sleep(20); /* the life of the first, in wall time */
			try (Connection c2 = connect("?jms.localMessageExpiry=false")) {
				Session s2 = c2.createSession();
				same(take(s2.createConsumer(q)), "stays", "the living one");
				MessageConsumer expired = s2.createConsumer(
					s2.createQueue("ExpiryQueue"));
				same(take(expired), "gone", "the expired one");
			}
		}
	}

	/* ---- acknowledgement ---- */

	static void autoAcknowledge() throws Exception {
		Queue q;
		try (Connection c = connect()) {
			for (int mode : new int[] {Session.AUTO_ACKNOWLEDGE,
						   Session.DUPS_OK_ACKNOWLEDGE}) {
				Session s = c.createSession(mode);
				q = s.createQueue("j.ack." + mode);
				send(s, q, "1", "2", "3");
				MessageConsumer consumer = s.createConsumer(q);
				for (String wanted : List.of("1", "2", "3"))
					same(take(consumer), wanted, "message");
				s.close();
				s = c.createSession(mode);
				none(s.createConsumer(q), "acknowledged already");
			}
		}
	}

	static void clientAcknowledge() throws Exception {
		try (Connection c = connect()) {
			Session s = c.createSession(Session.CLIENT_ACKNOWLEDGE);
			Queue q = s.createQueue("j.client");
			send(s, q, "1", "2", "3", "4", "5");
			MessageConsumer consumer = s.createConsumer(q);
			take(consumer);
			Message second = consumer.receive(PATIENCE_MS);
			second.acknowledge();
			same(take(consumer), "3", "third");
			s.close();
			s = c.createSession(Session.CLIENT_ACKNOWLEDGE);
			consumer = s.createConsumer(q);
			for (String wanted : List.of("3", "4")) {
				Message m = consumer.receive(PATIENCE_MS);
				same(body(m), wanted, "again");
			}
			Message last = consumer.receive(PATIENCE_MS);
			same(body(last), "5", "last");
			same(last.getJMSRedelivered(), false, "5 was never seen");
			last.acknowledge();
			none(consumer, "all acknowledged");
		}
	}

	static void recover() throws Exception {
		try (Connection c = connect()) {
			Session s = c.createSession(Session.CLIENT_ACKNOWLEDGE);
			Queue q = s.createQueue("j.recover");
			send(s, q, "1", "2");
			MessageConsumer consumer = s.createConsumer(q);
			for (int attempt = 1; attempt <= 4; attempt++) {
				for (String wanted : List.of("1", "2")) {
					Message m = consumer.receive(PATIENCE_MS);
					same(body(m), wanted, "attempt " + attempt);
					same(m.getIntProperty("JMSXDeliveryCount"), attempt,
					     "JMSXDeliveryCount");
					same(m.getJMSRedelivered(), attempt > 1, "redelivered");
				}
				if (attempt < 4)
					s.recover();
			}
		}
		/* Also what a client that left has seen counts. */
		try (Connection c = connect()) {
			Session s = c.createSession();
			MessageConsumer consumer =
				s.createConsumer(s.createQueue("j.recover"));
			same(take(consumer), "1", "after all");
			same(take(consumer), "2", "after all");
		}
	}

	/* A listener that throws gives the message back, uncounted, as Qpid JMS
	 * does with any broker; with a redelivery policy the client gives up
	 * instead, and the message stays for others. */
	static void poison() throws Exception {
		try (Connection c = connect("?jms.redeliveryPolicy.maxRedeliveries=2" +
				"&jms.redeliveryPolicy.outcome=REJECTED")) {
			Session s = c.createSession(Session.CLIENT_ACKNOWLEDGE);
			Queue q = s.createQueue("j.poison");
			MessageConsumer consumer = s.createConsumer(q);
			send(s, q, "bad", "good");
			for (int attempt = 0; attempt < 3; attempt++) {
				same(take(consumer), "bad", "attempt " + attempt);
				s.recover();
			}
			Message good = consumer.receive(PATIENCE_MS);
			same(body(good), "good", "the next one");
			good.acknowledge();
			MessageConsumer dead = s.createConsumer(s.createQueue("DLQ"));
			same(take(dead), "bad", "the dead letter");
		}
		AtomicInteger attempts = new AtomicInteger();
		try (Connection c = connect()) {
			Session s = c.createSession(), s2 = c.createSession();
			Queue q = s.createQueue("j.throws");
			CountDownLatch done = new CountDownLatch(1);
			s.createConsumer(q).setMessageListener(m -> {
				if (attempts.incrementAndGet() < 5)
					throw new RuntimeException("not yet");
				done.countDown();
			});
			send(s2, q, "hard");
			check(done.await(PATIENCE_MS, TimeUnit.MILLISECONDS),
			      "attempts: " + attempts.get());
		}
	}

	static void individual() throws Exception {
		final int individual = 101;
		try (Connection c = connect()) {
			Session s = c.createSession(individual);
			Queue q = s.createQueue("j.individual");
			send(s, q, "1", "2", "3");
			MessageConsumer consumer = s.createConsumer(q);
			take(consumer);
			consumer.receive(PATIENCE_MS).acknowledge();
			s.close();
			s = c.createSession();
			consumer = s.createConsumer(q);
			same(take(consumer), "1", "not acknowledged");
			same(take(consumer), "3", "not seen");
			none(consumer, "2 is acknowledged");
		}
	}

	static void presettled() throws Exception {
		try (Connection c = connect("?jms.presettlePolicy.presettleAll=true")) {
			Session s = c.createSession();
			Queue q = s.createQueue("j.presettled");
			MessageConsumer consumer = s.createConsumer(q);
			send(s, q, "1", "2", "3");
			for (String wanted : List.of("1", "2", "3"))
				same(take(consumer), wanted, "message");
		}
	}

	/* ---- destinations ---- */

	static void topics() throws Exception {
		try (Connection c = connect("?jms.clientID=topics")) {
			Session s = c.createSession();
			Topic t = s.createTopic("j.topic");
			send(s, t, "to nobody");
			List<MessageConsumer> all = new ArrayList<>();
			for (int i = 0; i < 5; i++)
				all.add(c.createSession().createConsumer(t));
			send(s, t, "1", "2", "3");
			for (MessageConsumer consumer : all)
				for (String wanted : List.of("1", "2", "3"))
					same(take(consumer), wanted, "topic");
			all.remove(0).close();
			send(s, t, "4");
			for (MessageConsumer consumer : all)
				same(take(consumer), "4", "topic");
		}
	}

	static void requestReply() throws Exception {
		try (Connection server = connect(); Connection client = connect()) {
			Session ss = server.createSession();
			MessageProducer answers = ss.createProducer(null);
			ss.createConsumer(ss.createQueue("j.service"))
				.setMessageListener(m -> {
					try {
						TextMessage a = ss.createTextMessage("re: " + body(m));
						a.setJMSCorrelationID(m.getJMSMessageID());
						answers.send(m.getJMSReplyTo(), a);
					} catch (JMSException e) {
						throw new RuntimeException(e);
					}
				});
			Session s = client.createSession();
			MessageProducer p = s.createProducer(s.createQueue("j.service"));
			for (boolean topic : new boolean[] {false, true}) {
				Destination reply = topic ? s.createTemporaryTopic()
							  : s.createTemporaryQueue();
				MessageConsumer replies = s.createConsumer(reply);
				for (int i = 0; i < 50; i++) {
					TextMessage m = s.createTextMessage("q" + i);
					m.setJMSReplyTo(reply);
					p.send(m);
					Message a = replies.receive(PATIENCE_MS);
					same(body(a), "re: q" + i, "answer");
					same(a.getJMSCorrelationID(), m.getJMSMessageID(),
					     "correlation");
				}
				replies.close();
				if (topic)
					((TemporaryTopic) reply).delete();
				else
					((TemporaryQueue) reply).delete();
				try {
					answers.send(reply, ss.createTextMessage("late"));
					throw new AssertionError("a deleted node took a message");
				} catch (JMSException expected) {
				}
			}
		}
	}

	/* ---- flow ---- */

	static void listener() throws Exception {
		for (int prefetch : new int[] {1000, 10, 1}) {
			int count = prefetch == 1 ? 200 : 3000;
			try (Connection c = connect("?jms.forceAsyncSend=true" +
					"&jms.prefetchPolicy.all=" + prefetch)) {
				Session s = c.createSession(), s2 = c.createSession();
				Queue q = s.createQueue("j.listener." + prefetch);
				CountDownLatch left = new CountDownLatch(count);
				AtomicInteger next = new AtomicInteger();
				AtomicReference<String> wrong = new AtomicReference<>();
				s.createConsumer(q).setMessageListener(m -> {
					try {
						if (!body(m).equals("" + next.getAndIncrement()))
							wrong.compareAndSet(null, body(m));
					} catch (JMSException e) {
						wrong.set(e.toString());
					}
					left.countDown();
				});
				MessageProducer p = s2.createProducer(q);
				for (int i = 0; i < count; i++)
					p.send(s2.createTextMessage("" + i));
				check(left.await(PATIENCE_MS, TimeUnit.MILLISECONDS),
				      left.getCount() + " of " + count + " missing");
				same(wrong.get(), null, "out of order");
			}
		}
	}

	static void pull() throws Exception {
		for (int prefetch : new int[] {0, 1, 100}) {
			try (Connection c = connect("?jms.prefetchPolicy.all=" + prefetch)) {
				Session s = c.createSession();
				Queue q = s.createQueue("j.pull." + prefetch);
				MessageConsumer consumer = s.createConsumer(q);
				same(consumer.receiveNoWait(), null, "an empty queue");
				long begun = System.nanoTime();
				same(consumer.receive(100), null, "an empty queue");
				long ms = (System.nanoTime() - begun) / 1000000;
				check(ms >= 99, "receive(100) took " + ms + " ms");
				send(s, q, "1", "2", "3");
				same(body(consumer.receiveNoWait()), "1", "no wait");
				same(take(consumer), "2", "wait");
				same(body(consumer.receiveNoWait()), "3", "no wait");
				same(consumer.receiveNoWait(), null, "empty again");
			}
		}
	}

	/* Two consumers with one message each in hand share the work. */
	static void sharing() throws Exception {
		try (Connection c = connect("?jms.prefetchPolicy.all=1")) {
			Session s = c.createSession();
			Queue q = s.createQueue("j.sharing");
			MessageConsumer a = c.createSession().createConsumer(q);
			MessageConsumer b = c.createSession().createConsumer(q);
			send(s, q, "1", "2");
			String first = take(a), second = take(b);
			check(!first.equals(second), "both got " + first);
		}
	}

	static void asyncSend() throws Exception {
		try (Connection c = connect()) {
			Session s = c.createSession();
			MessageProducer p = s.createProducer(s.createQueue("j.async"));
			int count = 2000;
			CountDownLatch left = new CountDownLatch(count);
			AtomicReference<Exception> failed = new AtomicReference<>();
			CompletionListener done = new CompletionListener() {
				public void onCompletion(Message m) {
					left.countDown();
				}

				public void onException(Message m, Exception e) {
					failed.set(e);
					left.countDown();
				}
			};
			for (int i = 0; i < count; i++)
				p.send(s.createTextMessage("" + i), done);
			check(left.await(PATIENCE_MS, TimeUnit.MILLISECONDS),
			      left.getCount() + " without completion");
			same(failed.get(), null, "failure");
			MessageConsumer consumer =
				s.createConsumer(s.createQueue("j.async"));
			for (int i = 0; i < count; i++)
				same(take(consumer), "" + i, "order");
		}
	}

	/* ---- ends ---- */

	static void closing() throws Exception {
		for (int order = 0; order < 6; order++) {
			Connection c = connect();
			Session s = c.createSession(Session.CLIENT_ACKNOWLEDGE);
			Queue q = s.createQueue("j.closing." + order);
			send(s, q, "1", "2", "3");
			MessageConsumer consumer = s.createConsumer(q);
			MessageProducer p = s.createProducer(q);
			take(consumer);
			switch (order) {
			case 0: consumer.close(); p.close(); s.close(); break;
			case 1: p.close(); s.close(); break;
			case 2: s.close(); break;
			case 3: break;
			case 4: p.send(s.createTextMessage("4")); break;
			case 5: c.stop(); consumer.close(); break;
			}
			c.close();
			try (Connection c2 = connect()) {
				Session s2 = c2.createSession();
				consumer = s2.createConsumer(q);
				for (String wanted : List.of("1", "2", "3"))
					same(take(consumer), wanted, "order " + order);
				if (order == 4)
					same(take(consumer), "4", "order " + order);
				none(consumer, "order " + order);
			}
		}
	}

	/* ---- who ---- */

	static void users() throws Exception {
		JmsConnectionFactory f = new JmsConnectionFactory(url(""));
		try (Connection c = f.createConnection("ann", "right")) {
			c.start();
			send(c.createSession(), c.createSession().createQueue("j.users"),
			     "m");
		}
		for (String[] pair : new String[][] {{"ann", "wrong"},
						     {"bob", "right"}}) {
			long begun = System.nanoTime();
			try (Connection c = f.createConnection(pair[0], pair[1])) {
				c.start();
				throw new AssertionError(pair[0] + "/" + pair[1] +
							 " got in");
			} catch (JMSSecurityException expected) {
				check(System.nanoTime() - begun < 3_000_000_000L,
				      "the refusal took long");
			}
		}
	}

	/* ---- what a later version is to do ---- */

	static void unsupported() throws Exception {
		final String not = "amqp:not-implemented";
		try (Connection c = connect("?jms.clientID=later")) {
			Session s = c.createSession();
			Queue q = s.createQueue("j.later");
			Topic t = s.createTopic("j.later.topic");
			refused(s, "transacted", not, () -> {
				Session tx = c.createSession(true, 0);
				tx.createProducer(q).send(tx.createTextMessage("x"));
				tx.commit();
				return null;
			});
			refused(s, "selector", not, () -> s.createConsumer(q, "a = 1"));
			refused(s, "browser", not,
				() -> s.createBrowser(q).getEnumeration().hasMoreElements());
			refused(s, "durable", not,
				() -> s.createDurableConsumer(t, "sub"));
			refused(s, "shared", not, () -> s.createSharedConsumer(t, "sub"));
			refused(s, "shared-durable", not,
				() -> s.createSharedDurableConsumer(t, "sub"));
			refused(s, "no-local", not, () -> s.createConsumer(t, null, true));
			refused(s, "unsubscribe", "", () -> {
				s.unsubscribe("sub");
				return null;
			});
		}
	}

	/* ---- failover ---- */

	static void restart(int signal) throws IOException {
		System.out.println("restart " + signal);
		System.out.flush();
		check(parent.readLine() != null, "no parent");
	}

	static Connection failover() throws JMSException {
		Connection c = new JmsConnectionFactory(
			"failover:(" + url("") + ")?failover.reconnectDelay=10" +
			"&failover.maxReconnectDelay=50").createConnection();
		c.start();
		return c;
	}

	/* A sender, a consumer and a temporary queue go on over a restart; what
	 * the sender was told to be sent arrives. */
	static void failover(int signal) throws Exception {
		final int count = 400;
		try (Connection c = failover(); Connection c2 = failover()) {
			Session s = c.createSession(), s2 = c2.createSession();
			Queue q = s.createQueue("j.failover." + signal);
			MessageConsumer consumer = s2.createConsumer(q);
			MessageProducer p = s.createProducer(q);
			AtomicReference<Throwable> failed = new AtomicReference<>();
			CountDownLatch begun = new CountDownLatch(count / 4);
			Thread sender = new Thread(() -> {
				try {
					for (int i = 0; i < count; i++) {
						p.send(s.createTextMessage("" + i));
						begun.countDown();
					}
				} catch (Throwable e) {
					failed.set(e);
				}
			});
			sender.start();
			begun.await();
			restart(signal);
			/* At least once: those that were open may come twice. */
			Set<String> seen = new HashSet<>();
			while (seen.size() < count) {
				String m = take(consumer);
				check(m != null, seen.size() + " of " + count +
				      " came; sender: " + failed.get());
				seen.add(m);
			}
			sender.join(PATIENCE_MS);
			same(failed.get(), null, "the sender failed");
		}
	}

	static void failoverTerm() throws Exception {
		failover(15);
	}

	static void failoverKill() throws Exception {
		failover(9);
	}

	/* ---- main ---- */

	public static void main(String[] words) throws Exception {
		Map<String, Test> tests = new LinkedHashMap<>();
		tests.put("round_trip", JmsClient::roundTrip);
		tests.put("bodies", JmsClient::bodies);
		tests.put("large", JmsClient::large);
		tests.put("ttl", JmsClient::timeToLive);
		tests.put("auto", JmsClient::autoAcknowledge);
		tests.put("client", JmsClient::clientAcknowledge);
		tests.put("recover", JmsClient::recover);
		tests.put("poison", JmsClient::poison);
		tests.put("individual", JmsClient::individual);
		tests.put("presettled", JmsClient::presettled);
		tests.put("topics", JmsClient::topics);
		tests.put("request_reply", JmsClient::requestReply);
		tests.put("listener", JmsClient::listener);
		tests.put("pull", JmsClient::pull);
		tests.put("sharing", JmsClient::sharing);
		tests.put("async_send", JmsClient::asyncSend);
		tests.put("closing", JmsClient::closing);
		tests.put("users", JmsClient::users);
		tests.put("unsupported", JmsClient::unsupported);
		tests.put("failover_term", JmsClient::failoverTerm);
		tests.put("failover_kill", JmsClient::failoverKill);
		port = Integer.parseInt(words[0]);
		List<String> only = List.of(words).subList(1, words.length);
		int failures = 0;
		for (Map.Entry<String, Test> t : tests.entrySet()) {
			if (!only.isEmpty() && !only.contains(t.getKey()))
				continue;
			long begun = System.nanoTime();
			try {
				t.getValue().run();
			} catch (Throwable e) {
				failures++;
				StringWriter trace = new StringWriter();
				e.printStackTrace(new PrintWriter(trace));
				System.out.println("FAIL " + t.getKey() + ": " + trace);
			}
			if (System.getenv("VERBOSE") != null)
				System.out.printf("%s %.2f s%n", t.getKey(),
						  (System.nanoTime() - begun) / 1e9);
		}
		System.out.flush();
		System.exit(failures == 0 ? 0 : 1);
	}
}
