// The first minute of the server in every engine, with matrix-js-sdk and its encryption: start, an account, an encrypted room, a message, a reload, more data
// than memory holds back, and the end of the worker under all that.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { clientSite } from './client/site.mjs';
import { openChromium, openFirefox, openWebKit, openWebKitOnDisk } from './engines.mjs';

const password = 'correct horse battery staple';
/** The store writes its first segment once a megabyte has come together. */
const pieces = { count: 40, bytes: 60_000 };
let site;

before(async () => {
  site = await clientSite();
});
after(() => site.close());

const engines = {
  Chromium: openChromium,
  Firefox: openFirefox,
  'Firefox, in a private window': () => openFirefox({ inPrivate: true }),
  'WebKit, which keeps nothing on disk': openWebKit,
  'WebKit, with a profile on disk': () => openWebKitOnDisk(site),
};

for (const [name, open] of Object.entries(engines)) {
  test(`the first minute in ${name}`, { timeout: 300_000 }, async (t) => {
    const { page, endWorker, close, limits } = await open();
    t.after(close);
    for (const limit of limits) t.diagnostic(`${name}: ${limit}`);
    const call = async (what, argument) => {
      try {
        return await page.evaluate(([which, given]) => globalThis.matrix[which](given), [what, argument ?? null]);
      } catch (error) {
        throw new Error(`${what}: ${error.message}`, { cause: error });
      }
    };
    const visit = async () => {
      await page.goto(`${site.url}/`);
      await page.evaluate(async () => { while (!globalThis.matrix) await new Promise((resolve) => setTimeout(resolve, 20)); });
      return call('startServer');
    };

    const baseUrl = await visit();
    assert.equal(baseUrl, site.url);
    const session = await call('register', { baseUrl, user: 'alice', password });
    await call('connect', session);
    const roomId = await call('createRoom', { name: 'Notes', invite: [] });
    const first = await call('send', { roomId, body: 'Hello' });
    assert.deepEqual(await call('reads', { roomId, eventId: first, body: 'Hello' }), { encrypted: true, sender: session.userId });

    const status = await call('status');
    assert.equal(status.serverName, session.userId.split(':')[1]);
    assert.ok(status.storageUsed >= 0 && status.storageQuota >= 0);
    await call('store', pieces);

    await visit();
    await call('connect', session);
    assert.deepEqual((await call('history', { roomId })).bodies, ['Hello']);
    const second = await call('send', { roomId, body: 'After a reload' });

    const { workerStarted } = await call('status');
    await endWorker(page);
    await visit();
    assert.ok((await call('status')).workerStarted > workerStarted, 'the worker was ended, and started again');
    await call('connect', session);
    assert.deepEqual(await call('reads', { roomId, eventId: second, body: 'After a reload' }), { encrypted: true, sender: session.userId });
    assert.equal(await call('stored', pieces), pieces.count);
    const third = await call('send', { roomId, body: 'After the worker\'s end' });
    await call('reads', { roomId, eventId: third, body: 'After the worker\'s end' });
    assert.deepEqual(site.requests.filter((pathname) => pathname.startsWith('/_matrix/')), [], 'nothing of it went over the network');
  });
}
