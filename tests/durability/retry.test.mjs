// The package's fetch, when the worker is ended under its requests: what may be repeated is, so
// that a client sees nothing of it; what may not be repeated fails, as any request does whose
// server goes away.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { launch, stopWorkers } from '../browser/browser.mjs';
import { messagesOf, ok, openPage, packageSite, pause, register } from '../browser/site.mjs';
import { interruptions, stopAt } from './interruptions.mjs';

/** To be put in front of the worker's script: tells the page of each request that comes. */
const arrivals = `{
  const channel = new BroadcastChannel('arrivals');
  addEventListener('fetch', ({ request }) => { channel.postMessage(request.method + ' ' + new URL(request.url).pathname.split('/').at(-1)); });
}
`;

test('a worker that is ended under a GET and a PUT costs no client anything, and a POST is not repeated', { timeout: 240_000 }, async (t) => {
  const site = await packageSite(t, { worker: (script) => arrivals + interruptions + script });
  const browser = await launch();
  t.after(() => browser.close());
  const page = await openPage(browser.context, site);
  const { access_token: token } = await register(page, 'alice');
  const { room_id: room } = await ok(page, token, 'POST', '/createRoom', {});
  const { next_batch: since } = await ok(page, token, 'GET', '/sync?timeout=0');
  const { joined_rooms: rooms } = await ok(page, token, 'GET', '/joined_rooms');
  await page.evaluate(() => {
    globalThis.arrived = [];
    new BroadcastChannel('arrivals').onmessage = ({ data }) => { globalThis.arrived.push(data); };
  });
  const arrived = (request) => page.evaluate((wanted) => globalThis.arrived.filter((each) => each === wanted).length, request);
  const begin = (method, endpoint, content) => page.evaluate((given) => {
    const request = globalThis.server.fetch(`/_matrix/client/v3${given.endpoint}`, {
      method: given.method,
      headers: { authorization: `Bearer ${given.token}` },
      body: given.content && JSON.stringify(given.content),
    });
    globalThis.begun ??= {};
    globalThis.begun[given.method] = request.then(async (response) => ({ status: response.status, body: await response.json() }), (error) => ({ error: error.name }));
  }, { token, method, endpoint, content });
  const outcome = (method) => page.evaluate((which) => globalThis.begun[which], method);
  /** Ends when the message is put and not committed, and all three have come so many times. */
  const allUnderWay = async ({ reached }, times) => {
    await reached;
    for (const request of ['GET sync', 'PUT once', 'POST createRoom']) while ((await arrived(request)) < times) await pause(20);
  };

  // Chromium repeats a request whose worker was stopped itself, once and whatever its method is:
  // the page hears of the second time.
  const first = await stopAt(page, 'BetweenPutAndCommit', { hold: true });
  await begin('GET', `/sync?timeout=60000&since=${since}`);
  await begin('PUT', `/rooms/${encodeURIComponent(room)}/send/m.room.message/once`, { msgtype: 'm.text', body: 'once' });
  await first.reached;
  await begin('POST', '/createRoom', { name: 'lost' });
  await allUnderWay(first, 1);
  const second = await stopAt(page, 'BetweenPutAndCommit', { hold: true });
  await stopWorkers(page);
  await allUnderWay(second, 2);
  await stopWorkers(page);

  assert.deepEqual(await outcome('POST'), { error: 'TypeError' });
  const { status, body: { event_id: id } } = await outcome('PUT');
  assert.equal(status, 200);
  const sync = await outcome('GET');
  assert.equal(sync.status, 200);
  assert.equal(sync.body.rooms.join[room].timeline.events.at(-1).event_id, id);
  assert.deepEqual((await messagesOf(page, token, room)).map((event) => event.event_id), [id]);
  assert.deepEqual((await ok(page, token, 'GET', '/joined_rooms')).joined_rooms, rooms);
  assert.deepEqual([await arrived('GET sync'), await arrived('PUT once'), await arrived('POST createRoom')], [3, 3, 2]);
});
