// The browser's quota is reached in the middle of sends: what grows is refused with a word on who
// helps, what reads goes on, nothing acknowledged is lost; and when a room is forgotten or the
// quota raised everything goes on.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { launch, stopWorkers } from '../browser/browser.mjs';
import { ask, messagesOf, ok, openPage, packageSite, pause, register } from '../browser/site.mjs';

const QUOTA = 64_000_000;
/** What is left of it for the server. */
const ROOM = 44_000_000;
/** Chromium deletes files some time after it was told to. */
const PATIENCE = 90_000;

test('storage runs full', { timeout: 600_000 }, async (t) => {
  const site = await packageSite(t);
  const browser = await launch();
  t.after(() => browser.close());
  // The limit comes first: Chromium remembers for a while how much room it found.
  const devtools = await browser.context.newCDPSession(await browser.context.newPage());
  const limit = (quotaSize) => devtools.send('Storage.overrideQuotaForOrigin', { origin: site.url, ...(quotaSize ? { quotaSize } : {}) });
  await limit(QUOTA);
  const page = await openPage(browser.context, site);
  const { access_token: token, user_id: user, device_id: device } = await register(page, 'alice');
  const rooms = {};
  for (const name of ['kept', 'left']) rooms[name] = (await ok(page, token, 'POST', '/createRoom', { name })).room_id;
  await ok(page, token, 'PUT', '/sendToDevice/org.example.test/1', { messages: { [user]: { [device]: { n: 1 } } } });
  const { to_device: toDevice, next_batch: since } = await ok(page, token, 'GET', '/sync?timeout=0');
  assert.equal(toDevice.events.length, 1);
  await page.evaluate(writeBallast, QUOTA - ROOM);

  const acknowledged = { kept: [], left: [] };
  /** Sends a message of 50 KB; resolves to the answer when it is refused. */
  const send = async (name) => {
    const transaction = `${name}${acknowledged[name].length}`;
    const answer = await page.evaluate(sendNoise, { token, room: rooms[name], transaction, bytes: 50_000 });
    if (answer.status !== 200) return answer;
    acknowledged[name].push(answer.body.event_id);
    return undefined;
  };
  const mustBeRefused = ({ status, body }) => {
    assert.deepEqual([status, body.errcode], [403, 'M_RESOURCE_LIMIT_EXCEEDED'], JSON.stringify(body));
    assert.ok(body.admin_contact);
  };
  const mustHold = async (name) => {
    assert.deepEqual((await messagesOf(page, token, rooms[name])).map(({ event_id: id }) => id), acknowledged[name], 'all that was acknowledged is there, and nothing else');
  };
  /**
   * Sends so many messages, each until it is taken; resolves to the seconds that it took. Chromium
   * may keep deleted files for as long as the worker that had them open runs, so after a while it
   * is ended, as browsers do with one that nobody needs.
   */
  const mustGoOn = async (name, count) => {
    const begun = performance.now();
    let refusedSince;
    let ended = false;
    for (let sent = 0; sent < count;) {
      const refusal = await send(name);
      if (!refusal) {
        sent += 1;
        continue;
      }
      mustBeRefused(refusal);
      refusedSince ??= performance.now();
      const waited = performance.now() - refusedSince;
      assert.ok(waited < PATIENCE, `after ${sent} of ${count} sends it is still full`);
      if (waited > PATIENCE / 3 && !ended) {
        ended = true;
        await stopWorkers(page);
        t.diagnostic(`the worker was ended after ${sent} of ${count} sends`);
      }
      await pause(250);
    }
    return ((performance.now() - begun) / 1_000).toFixed(1);
  };
  /**
   * Sends until it is full, and still is after a while: a first refusal may come of files that
   * Chromium has yet to delete.
   */
  const mustFillUp = async (name) => {
    for (let refusedSince; refusedSince === undefined || performance.now() - refusedSince < 8_000;) {
      const refusal = await send(name);
      if (!refusal) {
        refusedSince = undefined;
        continue;
      }
      mustBeRefused(refusal);
      refusedSince ??= performance.now();
      await pause(250);
    }
  };

  await mustGoOn('left', 360);
  await mustFillUp('kept');
  t.diagnostic(`full after ${acknowledged.left.length} and ${acknowledged.kept.length} sends`);
  // A write that its handler does not wait for is not acknowledged either.
  mustBeRefused(await ask(page, token, 'PUT', `/user/${encodeURIComponent(user)}/account_data/org.example.test`, { noise: 'x'.repeat(20_000) }));
  for (const name of Object.keys(rooms)) await mustHold(name);
  // What a sync acknowledges has arrived, also where that cannot be stored.
  assert.deepEqual((await ok(page, token, 'GET', `/sync?timeout=0&since=${since}`)).to_device?.events ?? [], []);

  // A room that its last member leaves and forgets is gone, and so is what it took.
  for (const verb of ['leave', 'forget']) await ok(page, token, 'POST', `/rooms/${encodeURIComponent(rooms.left)}/${verb}`, {});
  t.diagnostic(`${await mustGoOn('kept', 40)} s for 40 sends after a room was forgotten`);
  await mustHold('kept');

  // Full again, also for a worker that starts then.
  await mustFillUp('kept');
  await mustHold('kept');
  await stopWorkers(page);
  await mustHold('kept');
  assert.ok((await ok(page, token, 'GET', '/sync?timeout=0')).next_batch);

  await limit();
  t.diagnostic(`${await mustGoOn('kept', 20)} s for 20 sends after the quota was raised`);
  await mustHold('kept');
});

/** In the page: something else of the site takes most of the room. */
function writeBallast(bytes) {
  return new Promise((resolve, reject) => {
    const opening = indexedDB.open('ballast');
    opening.onupgradeneeded = () => opening.result.createObjectStore('blobs', { autoIncrement: true });
    opening.onsuccess = () => {
      const transaction = opening.result.transaction('blobs', 'readwrite');
      for (let written = 0; written < bytes; written += 1_000_000) {
        const noise = new Uint8Array(1_000_000);
        for (let at = 0; at < noise.length; at += 50_000) crypto.getRandomValues(noise.subarray(at, at + 50_000));
        transaction.objectStore('blobs').add(new Blob([noise]));
      }
      transaction.oncomplete = () => { opening.result.close(); resolve(); };
      transaction.onabort = () => reject(transaction.error);
    };
  });
}

/** In the page: sends a message that cannot be compressed. */
async function sendNoise({ token, room, transaction, bytes }) {
  const noise = crypto.getRandomValues(new Uint8Array(bytes));
  const body = Array.from(noise, (byte) => String.fromCharCode(65 + (byte % 58))).join('').replaceAll('\\', '/');
  const response = await globalThis.server.fetch(`/_matrix/client/v3/rooms/${encodeURIComponent(room)}/send/m.room.message/${transaction}`, {
    method: 'PUT',
    headers: { authorization: `Bearer ${token}` },
    body: JSON.stringify({ msgtype: 'm.text', body }),
  });
  return { status: response.status, body: await response.json() };
}
