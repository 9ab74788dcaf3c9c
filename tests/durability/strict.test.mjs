// What the disk is told: every writing transaction of the real worker is strict, and no answer that
// acknowledges something leaves before one has ended. A killed browser does not show this, since
// the operating system still writes what the browser gave it.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { launch, stopWorkers } from '../browser/browser.mjs';
import { ask, ok, openPage, packageSite, register } from '../browser/site.mjs';

/**
 * Runs in the worker before its own script: notes every writing transaction, and puts into each
 * answer how many of those have ended that write what is acknowledged. (Others merge what was
 * written before.)
 */
const notes = `{
  const durabilities = [];
  let ended = 0;
  const logs = new WeakSet();
  const put = IDBObjectStore.prototype.put;
  IDBObjectStore.prototype.put = function (...given) {
    if (this.name === 'log') logs.add(this.transaction);
    return put.apply(this, given);
  };
  const transaction = IDBDatabase.prototype.transaction;
  IDBDatabase.prototype.transaction = function (...given) {
    const made = transaction.apply(this, given);
    if (made.mode === 'readwrite') {
      durabilities.push(made.durability);
      made.addEventListener('complete', () => { if (logs.has(made)) ended += 1; });
    }
    return made;
  };
  const respondWith = FetchEvent.prototype.respondWith;
  FetchEvent.prototype.respondWith = function (answer) {
    const noted = Promise.resolve(answer).then((response) => {
      const headers = new Headers(response.headers);
      headers.set('x-ended', ended);
      return new Response(response.body, { status: response.status, headers });
    });
    return respondWith.call(this, noted);
  };
  addEventListener('fetch', (event) => {
    if (new URL(event.request.url).pathname === '/durabilities') event.respondWith(Response.json(durabilities));
  });
}
`;

test('every writing transaction of the worker is strict, and ends before its answer leaves', { timeout: 240_000 }, async (t) => {
  const site = await packageSite(t, { worker: (script) => notes + script });
  const browser = await launch();
  t.after(() => browser.close());
  const page = await openPage(browser.context, site);
  const alice = await register(page, 'alice');
  const token = alice.access_token;
  const { room_id: room } = await ok(page, token, 'POST', '/createRoom', {});
  let acknowledged = 0;
  let ended = 0;
  /**
   * One request that changes something: a transaction must have ended between the last answer and
   * this one.
   */
  const change = async (method, endpoint, content) => {
    const { status, body, headers } = await ask(page, token, method, endpoint, content);
    assert.equal(status, 200, JSON.stringify(body));
    assert.ok(Number(headers['x-ended']) > ended, `${endpoint} was acknowledged before it was written`);
    ended = Number(headers['x-ended']);
    acknowledged += 1;
  };
  const changes = async (round) => {
    ended = 0;
    for (let n = 0; n < 10; n += 1) {
      const name = `${round}-${n}`;
      await change('PUT', `/rooms/${encodeURIComponent(room)}/send/m.room.message/${name}`, { msgtype: 'm.text', body: name });
      await change('PUT', `/sendToDevice/org.example.test/${name}`, { messages: { [alice.user_id]: { [alice.device_id]: { name } } } });
      await change('PUT', `/user/${encodeURIComponent(alice.user_id)}/account_data/org.example.test`, { name });
      await change('POST', '/keys/upload', { one_time_keys: { [`curve25519:${name}`]: Buffer.alloc(32, name).toString('base64').replace('=', '') } });
      await change('POST', '/keys/claim', { one_time_keys: { [alice.user_id]: { [alice.device_id]: 'curve25519' } } });
    }
  };
  const durabilities = async () => page.evaluate(async () => (await fetch('/durabilities')).json());

  await changes('first');
  // Enough for the log to be moved into sstables, which are written beside it.
  await Promise.all(Array.from({ length: 60 }, async (_, n) => {
    await ok(page, token, 'PUT', `/rooms/${encodeURIComponent(room)}/send/m.room.message/large-${n}`, { msgtype: 'm.text', body: 'x'.repeat(60_000) });
  }));
  const first = await durabilities();
  await stopWorkers(page);
  await changes('second');
  const second = await durabilities();
  t.diagnostic(`${first.length} and ${second.length} writing transactions, ${acknowledged} answers one after the other`);
  assert.ok(first.length > 50 && second.length > 50);
  assert.deepEqual([...new Set([...first, ...second])], ['strict']);
});
