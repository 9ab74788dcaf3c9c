// Kills `ephapse serve` in the middle of its work, again and again, and looks afterwards whether everything that was acknowledged is there: each event
// once and in order, one event a transaction id, each to-device message once, no one-time key given twice.
// KILLS says how often (10; `npm run test:long`: 50), SEED repeats a run's moments.

import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { test } from 'node:test';
import { Server, verifyEvents } from './server.mjs';

const KILLS = Number(process.env.KILLS ?? 10);
const SEED = Number(process.env.SEED ?? randomInt(2 ** 31));
const SENDERS = 4;

/** Mulberry32: numbers from 0 to 1 that follow from the seed. */
function dice(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** One worker's way to the server: a connection that is made again after each kill. A request without an answer is repeated until it has one. */
class Line {
  #server;
  #connection = null;
  #token;

  constructor(server, token) {
    this.#server = server;
    this.#token = token;
  }

  /** `again`: whether the request may be repeated as it is; without it the lost answer is `null`. */
  async ask(method, path, body, { again = true } = {}) {
    for (;;) {
      let response;
      try {
        this.#connection ??= await this.#server.connect();
        response = await this.#connection.send(method, `/_matrix/client/v3${path}`, this.#token, body);
      } catch {
        this.#connection = null;
        if (this.#server.over) return null;
        await new Promise((resolve) => setTimeout(resolve, 3));
        if (again) continue;
        return null;
      }
      assert.equal(response.status, 200, `${method} ${path}: ${response.body}`);
      return JSON.parse(response.body);
    }
  }
}

test(`everything acknowledged outlives ${KILLS} kills (SEED=${SEED})`, { timeout: KILLS * 20_000 }, async (t) => {
  const server = await Server.start(t);
  const random = dice(SEED);
  const alice = await server.register('alice');
  const bob = await server.register('bob');
  const { room_id: room } = await server.ok('POST', '/_matrix/client/v3/createRoom', alice.access_token, { preset: 'public_chat' });
  await server.ok('POST', `/_matrix/client/v3/join/${encodeURIComponent(room)}`, bob.access_token, {});

  let working = true;
  const sent = [];
  const messages = [];
  const received = [];
  const claimed = [];
  let uploaded = 0;

  const sends = async (worker) => {
    const line = new Line(server, alice.access_token);
    for (let n = 0; working; n++) {
      const text = `${worker}-${n}`;
      const entry = { text, worker, begun: performance.now() };
      const answer = await line.ask('PUT', `/rooms/${encodeURIComponent(room)}/send/m.room.message/${text}`, { msgtype: 'm.text', body: text });
      Object.assign(entry, { id: answer.event_id, done: performance.now() });
      sent.push(entry);
    }
  };

  const sendsToDevice = async () => {
    const line = new Line(server, alice.access_token);
    for (let n = 0; working; n++) {
      const content = { n };
      await line.ask('PUT', `/sendToDevice/org.example.test/d${n}`, { messages: { [bob.user_id]: { [bob.device_id]: content } } });
      messages.push(n);
    }
  };

  const syncs = async () => {
    const line = new Line(server, bob.access_token);
    let since = '';
    // Two rounds after the end: what the last messages' batch holds, and that nothing comes again.
    for (let rest = 2; working || rest > 0; rest -= working ? 0 : 1) {
      const answer = await line.ask('GET', `/sync?timeout=200&filter=${encodeURIComponent('{"room":{"timeline":{"limit":1}}}')}${since && `&since=${since}`}`);
      received.push(...(answer.to_device?.events ?? []).map((event) => event.content.n));
      if (!working && answer.to_device?.events?.length) rest = 3;
      since = answer.next_batch;
    }
  };

  const uploads = async () => {
    const line = new Line(server, bob.access_token);
    while (working) {
      const keys = {};
      for (let n = 0; n < 20; n++) keys[`curve25519:${String(uploaded + n).padStart(6, '0')}`] = Buffer.alloc(32, uploaded + n).toString('base64').replace('=', '');
      const answer = await line.ask('POST', '/keys/upload', { one_time_keys: keys });
      uploaded += 20;
      while (working && answer.one_time_key_counts.curve25519 > 200) await new Promise((resolve) => setTimeout(resolve, 50)).then(() => { answer.one_time_key_counts.curve25519 -= 10; });
    }
  };

  const claims = async () => {
    const line = new Line(server, alice.access_token);
    while (working) {
      const body = { one_time_keys: { [bob.user_id]: { [bob.device_id]: 'curve25519' } } };
      // A claim whose answer was lost has cost its key: repeating it claims another.
      const answer = await line.ask('POST', '/keys/claim', body, { again: false });
      claimed.push(...Object.keys(answer?.one_time_keys?.[bob.user_id]?.[bob.device_id] ?? {}));
    }
  };

  const work = Promise.all([...Array.from({ length: SENDERS }, (_, worker) => sends(worker)), sendsToDevice(), syncs(), uploads(), claims()]);
  const lost = work.catch((error) => error);
  for (let kill = 0; kill < KILLS; kill++) {
    const early = await Promise.race([lost, new Promise((resolve) => setTimeout(resolve, 30 + random() * 500))]);
    if (early instanceof Error) break;
    assert.equal(await server.stop('SIGKILL'), 'SIGKILL');
    await server.run();
  }
  await new Promise((resolve) => setTimeout(resolve, 300));
  working = false;
  await work;

  const timeline = [];
  for (let from = ''; ;) {
    const page = await server.ok('GET', `/_matrix/client/v3/rooms/${encodeURIComponent(room)}/messages?dir=f&limit=500${from && `&from=${from}`}`, alice.access_token);
    timeline.push(...page.chunk.filter((event) => event.type === 'm.room.message'));
    if (!page.end || page.chunk.length === 0) break;
    from = page.end;
  }
  t.diagnostic(`${sent.length} events, ${messages.length} to-device messages, ${claimed.length} keys claimed of ${uploaded}`);
  assert.ok(sent.length > KILLS * SENDERS, 'the load was real');

  assert.deepEqual(doubled(timeline.map((event) => event.event_id)), [], 'each event once');
  assert.deepEqual(doubled(timeline.map((event) => event.content.body)), [], 'one event a transaction id');
  const byText = new Map(timeline.map((event, index) => [event.content.body, { id: event.event_id, index }]));
  for (const entry of sent) {
    assert.equal(byText.get(entry.text)?.id, entry.id, `event ${entry.text} is there under the id that was acknowledged`);
    entry.index = byText.get(entry.text).index;
  }
  assert.equal(timeline.length, sent.length, 'no event that nobody sent');
  // An event that was acknowledged before another was asked for stands before it.
  sent.sort((a, b) => a.index - b.index);
  let earliest = Infinity;
  for (const entry of sent.toReversed()) {
    assert.ok(entry.begun < earliest, `event ${entry.text} stands before one that was acknowledged before it was sent`);
    earliest = Math.min(earliest, entry.done);
  }

  assert.deepEqual(received, messages, 'each to-device message once, in order');
  assert.deepEqual(doubled(claimed), [], 'no one-time key given twice');
  assert.ok(claimed.length > 0, 'keys were claimed');

  assert.equal(await server.stop(), 0);
  assert.ok(await verifyEvents(server.directory) > sent.length, 'hashes, signatures and ids are those of the events');
});

function doubled(list) {
  const seen = new Set();
  return list.filter((entry) => seen.has(entry) || !seen.add(entry));
}
