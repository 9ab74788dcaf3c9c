// A new version of the worker arrives while a sync is held and sends are under way, with pages of both versions: no client sees anything fail, and
// nothing is lost or doubled.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { worker } from '../../scripts/lib/bundle.mjs';
import { path } from '../../scripts/lib/run.mjs';
import { launch } from './browser.mjs';
import { messages, openPage, packageSite, register } from './site.mjs';

test('updates of the worker under a held sync and sends', { timeout: 240_000 }, async (t) => {
  let current;
  const site = await packageSite((pathname) => (current && pathname === '/ephapse-worker.js' ? { body: current, type: 'text/javascript' } : undefined));
  t.after(() => site.close());
  const browser = await launch();
  t.after(() => browser.close());
  const reader = await openPage(browser.context, site.url);
  const writer = await openPage(browser.context, site.url);
  const session = await register(writer, 'alice');
  await reader.evaluate((token) => { globalThis.token = token; }, session.access_token);
  const roomId = await writer.evaluate(async () => (await globalThis.api('POST', 'createRoom', { name: 'Hand-over' })).room_id);
  const firstVersion = await reader.evaluate(async () => (await globalThis.server.status()).version);

  // As clients do: the next sync as soon as one is answered, the next message as soon as one is sent.
  await reader.evaluate((room) => {
    globalThis.seen = [];
    globalThis.reading = (async () => {
      // Room for all that is sent while the worker changes: a shorter timeline would be cut, and rightly so.
      const filter = encodeURIComponent(JSON.stringify({ room: { timeline: { limit: 500 } } }));
      for (let since; ; ) {
        const answer = await globalThis.api('GET', `sync?timeout=20000&filter=${filter}${since ? `&since=${since}` : ''}`);
        since = answer.next_batch;
        const events = answer.rooms?.join?.[room]?.timeline.events ?? [];
        for (const { content } of events) if (content.body !== undefined) globalThis.seen.push(content.body);
        if (globalThis.seen.includes('the end')) return;
      }
    })();
    globalThis.reading.catch((error) => { globalThis.failed = String(error); });
  }, roomId);
  const send = () =>
    writer.evaluate((room) => {
      globalThis.sending = true;
      globalThis.sent ??= [];
      globalThis.writing = (async () => {
        while (globalThis.sending) {
          const body = `message ${globalThis.sent.length}`;
          await globalThis.api('PUT', `rooms/${encodeURIComponent(room)}/send/m.room.message/${encodeURIComponent(body)}`, { msgtype: 'm.text', body });
          globalThis.sent.push(body);
        }
      })();
      globalThis.writing.catch((error) => { globalThis.failed = String(error); });
    }, roomId);
  const stop = () => writer.evaluate(async () => { globalThis.sending = false; await globalThis.writing; });

  for (const label of ['-second', '-third']) {
    // Once with sends under way, once in silence, with nothing but the held sync.
    if (label === '-second') await send();
    await worker({ outfile: path('.cache', `worker${label}.js`), label });
    current = await readFile(path('.cache', `worker${label}.js`));
    // Right after a page was opened Chromium has a look for updates of its own planned, which waits up to a minute for a pause and makes ours wait with it.
    await new Promise((resolve) => setTimeout(resolve, 3_000));
    await writer.evaluate(async () => { await (await navigator.serviceWorker.getRegistration()).update(); });
    const arrived = (version) => globalThis.news.some((item) => item.event === 'update' && item.version === version);
    for (const page of [reader, writer]) await page.waitForFunction(arrived, firstVersion + label, { timeout: 30_000 });
    if (label === '-second') await stop();
    const now = await openPage(browser.context, site.url);
    for (const page of [reader, now]) assert.equal(await page.evaluate(async () => (await globalThis.server.status()).version), firstVersion + label);
    await now.close();
  }

  await writer.evaluate(async (room) => {
    await globalThis.api('PUT', `rooms/${encodeURIComponent(room)}/send/m.room.message/end`, { msgtype: 'm.text', body: 'the end' });
  }, roomId);
  await reader.evaluate(() => globalThis.reading);
  const sent = [...(await writer.evaluate(() => globalThis.sent)), 'the end'];
  for (const page of [reader, writer]) assert.equal(await page.evaluate(() => globalThis.failed), undefined);
  assert.ok(sent.length > 5);
  assert.deepEqual((await messages(writer, roomId)).map(({ body }) => body), sent);
  assert.deepEqual(await reader.evaluate(() => globalThis.seen), sent);
  t.diagnostic(`${sent.length} messages`);
});
