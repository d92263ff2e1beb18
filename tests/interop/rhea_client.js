// The client half of check_rhea.py: node rhea_client.js PORT TEST [PORT...]
// More ports are those of brokers that may lead after the first.
// Exits with 0 when the test held; otherwise says what did not.
'use strict';

const assert = require('assert');
const crypto = require('crypto');
const rhea = require('rhea');

const port = Number(process.argv[2]);
const LARGE_BYTES = 200 * 1024 * 1024;

function connect(options) {
    const container = rhea.create_container();
    const connection = container.connect(Object.assign(
        {port, host: '127.0.0.1', reconnect: false}, options));
    connection.on('connection_error', fail);
    return connection;
}

function fail(context) {
    const error = context.connection ? context.connection.error : context;
    console.log('failed:', String(error && (error.description || error)));
    process.exit(1);
}

// Sends the messages one after another; resolves when all are accepted.
function send(address, messages, target) {
    return new Promise((resolve, reject) => {
        const connection = connect();
        const sender = connection.open_sender({target: target || address});
        let sent = 0, accepted = 0;
        sender.on('sendable', () => {
            while (sender.sendable() && sent < messages.length)
                sender.send(messages[sent++]);
        });
        sender.on('accepted', () => {
            if (++accepted === messages.length)
                connection.close();
        });
        sender.on('rejected', (c) => reject(c.delivery.remote_state.error));
        sender.on('sender_error', (c) => reject(c.sender.error));
        connection.on('connection_close', () => resolve());
    });
}

// Takes `count` messages, settling each with settle(context).
function take(address, count, settle) {
    return new Promise((resolve, reject) => {
        const got = [];
        const connection = connect();
        const receiver = connection.open_receiver(
            {source: address, autoaccept: false, credit_window: 0});
        receiver.add_credit(count);
        receiver.on('message', (context) => {
            got.push(context.message);
            settle(context);
            if (got.length === count)
                connection.close();
        });
        receiver.on('receiver_error', (c) => reject(c.receiver.error));
        connection.on('connection_close', () => resolve(got));
    });
}

const accept = (context) => context.delivery.accept();

const tests = {};

tests.round_trip = async () => {
    const sent = {
        body: 'text', subject: 's', reply_to: 'r', correlation_id: 'c',
        message_id: 'm', content_type: 'text/x', durable: true, priority: 7,
        application_properties: {n: 5, t: 'x'},
        message_annotations: {'x-opt-a': 'b'},
    };
    await send('rhea.round', [sent]);
    const [got] = await take('rhea.round', 1, accept);
    for (const key of Object.keys(sent))
        assert.deepStrictEqual(got[key], sent[key], key);
};

tests.reject = async () => {
    await send('rhea.reject', [{body: 'bad'}]);
    await take('rhea.reject', 1, (c) => c.delivery.reject());
    const [dead] = await take('DLQ', 1, accept);
    assert.strictEqual(dead.body, 'bad');
    assert.strictEqual(dead.message_annotations['x-opt-ORIG-ADDRESS'],
                       'rhea.reject');
};

tests.release = async () => {
    await send('rhea.release', [{body: 'm'}]);
    await take('rhea.release', 1, (c) => c.delivery.release());
    const [got] = await take('rhea.release', 1, accept);
    assert.strictEqual(got.body, 'm');
    assert.strictEqual(got.delivery_count || 0, 0);
};

tests.modify = async () => {
    await send('rhea.modify', [{body: 'm'}]);
    await take('rhea.modify', 1, (c) => c.delivery.modified({
        delivery_failed: true, undeliverable_here: false,
        message_annotations: {'x-opt-new': 'yes'}}));
    const [got] = await take('rhea.modify', 1, accept);
    assert.strictEqual(got.delivery_count, 1);
    assert.strictEqual(got.message_annotations['x-opt-new'], 'yes');
};

tests.drain = async () => {
    await send('rhea.drain', [1, 2, 3].map((body) => ({body})));
    const got = [];
    await new Promise((resolve) => {
        const connection = connect();
        const receiver = connection.open_receiver(
            {source: 'rhea.drain', credit_window: 0});
        receiver.on('receiver_open', () => {
            receiver.drain = true;
            receiver.add_credit(10);
        });
        receiver.on('message', (c) => got.push(c.message.body));
        receiver.on('receiver_drained', () => connection.close());
        connection.on('connection_close', resolve);
    });
    assert.deepStrictEqual(got, [1, 2, 3]);
};

tests.large = async () => {
    const body = Buffer.alloc(LARGE_BYTES, '0123456789abcdef');
    body.write('the end', LARGE_BYTES - 7);
    const digest = (b) => crypto.createHash('sha256').update(b).digest('hex');
    const wanted = digest(body);
    await send('rhea.large', [{body: rhea.message.data_section(body)}]);
    const [got] = await take('rhea.large', 1, accept);
    assert.strictEqual(got.body.content.length, LARGE_BYTES);
    assert.strictEqual(digest(got.body.content), wanted);
};

tests.topic = async () => {
    const connection = connect();
    const address = {address: 'rhea.topic', capabilities: ['topic']};
    const got = [[], [], []];
    let open = 0;
    await new Promise((resolve, reject) => {
        got.forEach((list, i) => {
            const receiver = connection.open_receiver(
                {source: address, name: 'r' + i});
            receiver.on('receiver_error', (c) => reject(c.receiver.error));
            receiver.on('receiver_open', () => {
                if (++open === got.length)
                    send(null, [0, 1, 2, 3, 4].map((body) => ({body})),
                         address).catch(reject);
            });
            receiver.on('message', (c) => {
                list.push(c.message.body);
                if (got.every((l) => l.length === 5))
                    connection.close();
            });
        });
        connection.on('connection_close', resolve);
    });
    for (const list of got)
        assert.deepStrictEqual(list, [0, 1, 2, 3, 4]);
};

tests.order = async () => {
    const count = 10000;
    const numbers = Array.from({length: count}, (_, i) => i);
    await send('rhea.order', numbers.map((body) => ({body, durable: true})));
    const got = await take('rhea.order', count, accept);
    assert.deepStrictEqual(got.map((m) => m.body), numbers);
};

// A message that was in doubt when the connection broke is sent again.
function reconnect(address, number, word) {
    const count = 2000;
    const ports = [port, ...process.argv.slice(4).map(Number)];
    return new Promise((resolve, reject) => {
        let attempts = 0;
        const connection = connect({
            reconnect: 20,
            connection_details: () => ({
                port: ports[attempts++ % ports.length], host: '127.0.0.1',
            }),
        });
        connection.removeAllListeners('connection_error');
        const pending = Array.from({length: count}, (_, i) => i);
        const inFlight = new Map(), confirmed = new Set(), seen = new Set();
        let restarted = false, opened = 0;
        const sender = connection.open_sender(address);
        const receiver = connection.open_receiver(address);
        const fill = () => {
            while (sender.sendable() && pending.length && inFlight.size < 50) {
                const body = pending.shift();
                inFlight.set(sender.send({body, durable: true}), body);
            }
        };
        const check = () => {
            if (confirmed.size === count && seen.size === count) {
                try {
                    assert(opened >= 2, 'it did reconnect');
                } catch (error) {
                    reject(error);
                }
                connection.close();
            }
        };
        const again = (delivery) => {
            if (inFlight.has(delivery)) {
                pending.unshift(inFlight.get(delivery));
                inFlight.delete(delivery);
            }
        };
        sender.on('sendable', fill);
        // rhea forgets what was unsettled when a connection breaks; to send
        // it again is the application's part.
        sender.on('sender_open', () => {
            opened++;
            pending.unshift(...inFlight.values());
            inFlight.clear();
        });
        sender.on('accepted', (c) => {
            if (inFlight.has(c.delivery))
                confirmed.add(inFlight.get(c.delivery));
            inFlight.delete(c.delivery);
            if (!restarted && confirmed.size > count / 2) {
                restarted = true;
                console.log(word + ' ' + number);
            }
            fill();
            check();
        });
        sender.on('released', (c) => {
            again(c.delivery);
            fill();
        });
        receiver.on('message', (c) => {
            seen.add(c.message.body);
            check();
        });
        connection.on('connection_close', resolve);
    });
}

tests.reconnect_term = () => 
    reconnect('rhea.reconnect.term', 15, 'restart');
tests.reconnect_kill = () => 
    reconnect('rhea.reconnect.kill', 9, 'restart');
tests.failover_term = () => reconnect('rhea.failover.term', 15, 'failover');
tests.failover_kill = () => reconnect('rhea.failover.kill', 9, 'failover');

tests[process.argv[3]]().then(() => process.exit(0), fail);
