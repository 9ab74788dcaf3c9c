// The browser's quota is reached in the middle of sends: what grows is refused with a word on who helps, what reads goes on, nothing acknowledged is
// lost, and with room again everything goes on.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { launch, stopWorkers } from './browser.mjs';
import { messages, openPage, packageSite, register } from './site.mjs';

const quota = 64_000_000;

test('storage runs full', { timeout: 240_000 }, async (t) => {
  const site = await packageSite();
  t.after(() => site.close());
  const browser = await launch();
  t.after(() => browser.close());
  // The limit comes first: Chromium remembers for a while how much room it found.
  const devtools = await browser.context.newCDPSession(await browser.context.newPage());
  const limit = (quotaSize) => devtools.send('Storage.overrideQuotaForOrigin', { origin: site.url, ...(quotaSize ? { quotaSize } : {}) });
  await limit(quota);
  const page = await openPage(browser.context, site.url);
  await register(page, 'alice');
  const roomId = await page.evaluate(async () => (await globalThis.api('POST', 'createRoom', { name: 'Full' })).room_id);

  // Something else of the site takes most of the room.
  await page.evaluate(
    (bytes) =>
      new Promise((resolve, reject) => {
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
      }),
    quota - 24_000_000,
  );

  /** Sends until refused or `most`; gives what was acknowledged and the refusal. */
  const fill = (label, most) =>
    page.evaluate(
      async ([room, name, count]) => {
        const acknowledged = [];
        for (let number = 0; number < count; number += 1) {
          const noise = crypto.getRandomValues(new Uint8Array(30_000));
          const body = `${name} ${number} ${Array.from(noise, (byte) => String.fromCharCode(65 + (byte % 58))).join('').replaceAll('\\', '/')}`;
          const response = await globalThis.server.fetch(`${globalThis.server.baseUrl}/_matrix/client/v3/rooms/${encodeURIComponent(room)}/send/m.room.message/${name}${number}`, {
            method: 'PUT',
            headers: { authorization: `Bearer ${globalThis.token}` },
            body: JSON.stringify({ msgtype: 'm.text', body }),
          });
          const answer = await response.json();
          if (!response.ok) return { acknowledged, refusal: { status: response.status, ...answer } };
          acknowledged.push(answer.event_id);
        }
        return { acknowledged };
      },
      [roomId, label, most],
    );

  const first = await fill('full', 2_000);
  assert.equal(first.refusal?.status, 403, `${first.acknowledged.length} sends and no end: ${JSON.stringify(first.refusal)}`);
  assert.equal(first.refusal.errcode, 'M_RESOURCE_LIMIT_EXCEEDED');
  assert.ok(first.refusal.admin_contact);
  assert.ok(first.acknowledged.length > 20);

  // A write that its handler does not wait for is not acknowledged either.
  const setting = await page.evaluate(async () => {
    const { user_id: user } = await globalThis.api('GET', 'account/whoami');
    const content = { noise: 'x'.repeat(20_000) };
    return globalThis.api('PUT', `user/${encodeURIComponent(user)}/account_data/org.example.test`, content).then(() => 'acknowledged', (error) => String(error));
  });
  assert.match(setting, /403 .*M_RESOURCE_LIMIT_EXCEEDED/);

  // Reading goes on, and everything acknowledged is there.
  const ids = async () => (await messages(page, roomId)).map(({ id }) => id);
  assert.deepEqual(await ids(), first.acknowledged);
  assert.ok((await page.evaluate(() => globalThis.api('GET', 'sync'))).next_batch);

  // So it is for a worker that starts while storage is full.
  await stopWorkers(page);
  assert.deepEqual(await ids(), first.acknowledged);

  // With more room everything goes on, after a short while in which the server finds out.
  await limit();
  let second = await fill('again', 20);
  for (let attempt = 0; second.acknowledged.length === 0 && attempt < 40; attempt += 1) {
    await new Promise((resolve) => setTimeout(resolve, 500));
    second = await fill('again', 20);
  }
  assert.equal(second.acknowledged.length, 20, JSON.stringify(second.refusal));
  assert.deepEqual(await ids(), [...first.acknowledged, ...second.acknowledged]);
  t.diagnostic(`${first.acknowledged.length} sends of 30 KB until it was full`);
});
