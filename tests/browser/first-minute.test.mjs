// The first minute of the server in every engine, with matrix-js-sdk and its encryption: start, an
// account, an encrypted room, a message, a picture, a reload, more data than memory holds back, and
// the end of the worker under all that. Then the demo opens, and makes an account.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { path } from '../../scripts/lib/run.mjs';
import { serve } from '../../scripts/lib/serve.mjs';
import { clientSite } from './client/site.mjs';
import { openChromium, openFirefox, openWebKit, openWebKitOnDisk } from './engines.mjs';

const password = 'correct horse battery staple';
/** The store writes its first sstable once a megabyte has come together. */
const pieces = { count: 40, bytes: 60_000 };
let site;
let demo;

before(async () => {
  site = await clientSite();
  demo = await serve(path('dist', 'www'));
});
after(() => Promise.all([site.close(), demo.close()]));

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
    const { uri, ...picture } = await call('upload', { side: 800 });
    assert.ok(picture.bytes > 2 ** 20, 'more than one chunk');
    const shown = { width: 800, type: 'image/png', ...picture };
    assert.deepEqual(await call('download', { uri }), shown);

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
    assert.deepEqual(await call('download', { uri }), shown);
    const third = await call('send', { roomId, body: 'After the worker\'s end' });
    await call('reads', { roomId, eventId: third, body: 'After the worker\'s end' });
    assert.deepEqual(site.requests.filter((pathname) => pathname.startsWith('/_matrix/')), [], 'nothing of it went over the network');

    // Where no driver is, pages do what they are told only on the client's site, and not where they
    // may not ask it.
    if (page.obedient) return;
    await complains(page);
    await signUp(page);
  });
}

/** Each engine says in its own words, or not at all, what is wrong; the package says it in one. */
async function complains(page) {
  const complaint = async (pathname, options) => {
    await page.goto(site.url + pathname);
    return page.evaluate(async (given) => {
      const { start } = await import(`${location.origin}/index.js`);
      return start(given).then(() => 'started', ({ code, message }) => `${code}: ${message}`);
    }, options);
  };
  assert.match(await complaint('/lost/', { workerUrl: '/lost/ephapse-worker.js' }), /^download-failed: .*\/lost\/ephapse\.wasm could not be loaded: the server answered 404\./);
  assert.match(await complaint('/lost/', { workerUrl: '/lost/missing.js' }), /^worker-failed: .*\/lost\/missing\.js could not be installed: the server answered 404\./);
  assert.match(await complaint('/strict/', {}), /^blocked-by-policy: .*Add connect-src 'self'/);
}

/** Opens the demo and fills in its form. */
async function signUp(page) {
  await page.goto(`${demo.url}/`);
  const said = await page.evaluate(async () => {
    const until = async (look) => { while (!look()) await new Promise((resolve) => setTimeout(resolve, 50)); };
    const form = () => [...document.forms].find((each) => each.querySelector('input[type=password]'));
    await until(() => form() || document.querySelector('[role=alert]'));
    if (!form()) return document.body.innerText;
    const type = (field, text) => {
      field.value = text;
      field.dispatchEvent(new Event('input', { bubbles: true }));
    };
    const password = form().querySelector('input[type=password]');
    type([...form().elements].find(({ type: kind }) => kind === 'text'), 'alice');
    type(password, 'a long enough password');
    form().requestSubmit();
    await until(() => !password.isConnected && /alice/.test(document.body.innerText));
    return document.body.innerText;
  });
  assert.match(said, /alice/);
}
