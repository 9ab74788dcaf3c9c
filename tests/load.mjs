// Work for a server that is interrupted while it does it, and what must hold afterwards: everything
// acknowledged is there, once and in order; one event a transaction id; each to-device message
// once; no one-time key given twice. What was acknowledged is noted here, outside the server.

import assert from 'node:assert/strict';

const SENDERS = 4;
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Numbers from 0 to 1 that follow from the seed (Mulberry32). */
export function dice(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * Two accounts at work: messages, to-device messages, one-time keys uploaded and claimed, syncs.
 *
 * `connect(token)` gives one worker's way to the server: `ask(method, path, body, { again })`
 * resolves to the answer's body and repeats a request without an answer until it has one, with the
 * same transaction id; without `again` the lost answer is `null`.
 */
export class Load {
  #connect;
  #working = true;
  #rest = Promise.resolve();
  #work;
  #sent = [];
  #messages = [];
  #received = [];
  #claimed = [];
  #uploaded = 0;

  /** `alice` and `bob` are sessions as `/register` gives them, both members of `room`. */
  constructor(connect, { alice, bob, room }) {
    this.#connect = connect;
    Object.assign(this, { alice, bob, room });
    const senders = Array.from({ length: SENDERS }, (_, sender) => this.#sends(sender));
    this.#work = Promise.all([...senders, this.#sendsToDevice(), this.#syncs(), this.#uploads(), this.#claims()]);
    /** Resolves to the error that ended the work early. */
    this.failed = new Promise((resolve) => {
      this.#work.catch((error) => {
        this.#working = false;
        resolve(error);
      });
    });
  }

  /** How many events were acknowledged. */
  get acknowledged() {
    return this.#sent.length;
  }

  /**
   * Lets the work go on until `moment` resolves, and gives what it resolves to; rejects when the
   * work failed.
   */
  until(moment) {
    return Promise.race([this.failed.then((error) => { throw error; }), moment]);
  }

  /**
   * Lets the work go on for so long, and until so many events were acknowledged in all and a key
   * was claimed meanwhile; rejects when it failed.
   */
  async goOn(milliseconds, least = 0) {
    const claimed = this.#claimed.length;
    await this.until(sleep(milliseconds));
    while (this.acknowledged < least || this.#claimed.length === claimed) await this.until(sleep(5));
  }

  /** Begins nothing for so long. */
  async rest(milliseconds) {
    this.#rest = sleep(milliseconds);
    await this.until(sleep(milliseconds));
  }

  /** Ends the work: whatever was begun is repeated until it is acknowledged. */
  async finish() {
    this.#working = false;
    await this.#work;
  }

  async #sends(sender) {
    const line = this.#connect(this.alice.access_token);
    for (let n = 0; this.#working; n += 1) {
      await this.#rest;
      const text = `${sender}-${n}`;
      const entry = { text, begun: performance.now() };
      const { event_id: id } = await line.ask('PUT', `/rooms/${encodeURIComponent(this.room)}/send/m.room.message/${text}`, { msgtype: 'm.text', body: text });
      Object.assign(entry, { id, done: performance.now() });
      this.#sent.push(entry);
    }
  }

  async #sendsToDevice() {
    const line = this.#connect(this.alice.access_token);
    for (let n = 0; this.#working; n += 1) {
      await this.#rest;
      await line.ask('PUT', `/sendToDevice/org.example.test/d${n}`, { messages: { [this.bob.user_id]: { [this.bob.device_id]: { n } } } });
      this.#messages.push(n);
    }
  }

  async #syncs() {
    const line = this.#connect(this.bob.access_token);
    const filter = encodeURIComponent('{"room":{"timeline":{"limit":1}}}');
    let since = '';
    // Two rounds after the end: what the last messages' batch holds, and that nothing comes again.
    for (let rest = 2; this.#working || rest > 0; rest -= this.#working ? 0 : 1) {
      await this.#rest;
      const answer = await line.ask('GET', `/sync?timeout=200&filter=${filter}${since && `&since=${since}`}`);
      const events = answer.to_device?.events ?? [];
      this.#received.push(...events.map((event) => event.content.n));
      if (!this.#working && events.length > 0) rest = 3;
      since = answer.next_batch;
    }
  }

  async #uploads() {
    const line = this.#connect(this.bob.access_token);
    while (this.#working) {
      await this.#rest;
      const keys = {};
      for (let n = this.#uploaded; n < this.#uploaded + 20; n += 1) keys[keyId(n)] = publicKey(n);
      const answer = await line.ask('POST', '/keys/upload', { one_time_keys: keys });
      this.#uploaded += 20;
      for (let left = answer.one_time_key_counts.curve25519; this.#working && left > 200; left -= 10) await sleep(50);
    }
  }

  async #claims() {
    const line = this.#connect(this.alice.access_token);
    while (this.#working) {
      await this.#rest;
      const body = { one_time_keys: { [this.bob.user_id]: { [this.bob.device_id]: 'curve25519' } } };
      // A claim whose answer was lost has cost its key: repeating it claims another.
      const answer = await line.ask('POST', '/keys/claim', body, { again: false });
      this.#claimed.push(...Object.entries(answer?.one_time_keys?.[this.bob.user_id]?.[this.bob.device_id] ?? {}));
    }
  }

  /** While the work goes on: what was acknowledged until now is there, once. */
  async look() {
    const sent = [...this.#sent];
    this.#compare(sent, await this.#timeline());
  }

  /**
   * A page that is not full is the last one: while the work goes on there is always more behind it.
   */
  async #timeline() {
    const line = this.#connect(this.alice.access_token);
    const timeline = [];
    const limit = 500;
    for (let from = ''; ;) {
      const page = await line.ask('GET', `/rooms/${encodeURIComponent(this.room)}/messages?dir=f&limit=${limit}${from && `&from=${from}`}`);
      timeline.push(...page.chunk.filter((event) => event.type === 'm.room.message'));
      if (page.chunk.length < limit) return timeline;
      from = page.end;
    }
  }

  #compare(sent, timeline) {
    assert.deepEqual(doubled(timeline.map((event) => event.event_id)), [], 'each event once');
    assert.deepEqual(doubled(timeline.map((event) => event.content.body)), [], 'one event a transaction id');
    const byText = new Map(timeline.map((event, index) => [event.content.body, { id: event.event_id, index }]));
    for (const entry of sent) {
      assert.equal(byText.get(entry.text)?.id, entry.id, `event ${entry.text} is there under the id that was acknowledged`);
      entry.index = byText.get(entry.text).index;
    }
    // An event that was acknowledged before another was asked for stands before it.
    sent.sort((a, b) => a.index - b.index);
    let earliest = Infinity;
    for (const entry of sent.toReversed()) {
      assert.ok(entry.begun < earliest, `event ${entry.text} stands before one that was acknowledged before it was sent`);
      earliest = Math.min(earliest, entry.done);
    }
  }

  /**
   * Compares what was acknowledged with what is there; `least` is how many acknowledged events make
   * the load a real one. Tells what it saw.
   */
  async check(least) {
    const sent = this.#sent;
    const timeline = await this.#timeline();
    assert.ok(sent.length >= least, `the load was real: ${sent.length} events`);
    this.#compare(sent, timeline);
    assert.equal(timeline.length, sent.length, 'no event that nobody sent');
    assert.deepEqual(this.#received, this.#messages, 'each to-device message once, in order');
    assert.deepEqual(doubled(this.#claimed.map(([id]) => id)), [], 'no one-time key given twice');
    assert.deepEqual(doubled(this.#claimed.map(([, key]) => key)), [], 'no public key given twice');
    const uploaded = new Map(Array.from({ length: this.#uploaded }, (_, n) => [keyId(n), publicKey(n)]));
    for (const [id, key] of this.#claimed) assert.equal(key, uploaded.get(id), `${id} is the key that was uploaded under this id`);
    assert.ok(this.#claimed.length > 0, 'keys were claimed');
    return `${sent.length} events, ${this.#messages.length} to-device messages, ${this.#claimed.length} keys claimed of ${this.#uploaded}`;
  }
}

function keyId(n) {
  return `curve25519:${String(n).padStart(6, '0')}`;
}

/** Another one for each number. */
function publicKey(n) {
  const bytes = Buffer.alloc(32);
  bytes.writeUInt32BE(n);
  return bytes.toString('base64').replace('=', '');
}

function doubled(list) {
  const seen = new Set();
  return list.filter((entry) => seen.has(entry) || !seen.add(entry));
}
