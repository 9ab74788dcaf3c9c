// The service worker as a page meets it: first visit, cold restart, hard reload, update, offline.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { afterEach, before, beforeEach, test as anyTest } from 'node:test';
import { serve } from '../../scripts/lib/serve.mjs';
import { path } from '../../scripts/lib/run.mjs';
import { hardReload, launch, stopWorkers } from './browser.mjs';
import { failOnce, sabotage } from './sabotage.mjs';
import { pause } from './site.mjs';

const test = (name, body) => anyTest(name, { timeout: 240_000 }, body);
const html = '<!doctype html><title>a page</title>';
const files = {};
let types;
let policy;
let missing;
let site;
let browser;
let page;

before(async () => {
  for (const name of ['index.js', 'ephapse-worker.js', 'ephapse.wasm']) files[name] = await readFile(path('dist', name));
});

beforeEach(async () => {
  policy = undefined;
  missing = undefined;
  types = { js: 'text/javascript', wasm: 'application/wasm' };
  site = await serve(path('dist'), {
    override: (pathname) => {
      const headers = policy && { 'content-security-policy': policy };
      if (pathname.endsWith('/')) return { body: html, type: 'text/html', headers };
      if (pathname === missing) return { status: 404 };
      const body = files[pathname.slice(1)];
      return body && { body, type: types[pathname.split('.').pop()], headers };
    },
  });
  browser = await launch();
  page = await browser.context.newPage();
  await page.goto(`${site.url}/`);
});

afterEach(async () => {
  await browser.close();
  await site.close();
  files['ephapse-worker.js'] = await readFile(path('dist', 'ephapse-worker.js'));
});

/** Runs `start()` in a page and leaves the server in `globalThis.server`. */
const start = (target = page, options = {}) =>
  target.evaluate(async (given) => {
    const { start } = await import('/index.js');
    const stages = [];
    globalThis.news = [];
    const onProgress = ({ stage, loaded, total }) => stages.push(`${stage} ${loaded === total ? 'done' : 'on'}`);
    globalThis.server = await start({ ...given, onProgress }).catch((error) => { throw new Error(`${error.code}: ${error.message}`); });
    for (const event of ['update', 'restart', 'error']) globalThis.server.on(event, (detail) => globalThis.news.push({ event, ...detail }));
    return { stages: [...new Set(stages)], baseUrl: globalThis.server.baseUrl, serverName: globalThis.server.serverName };
  }, options);

const versions = (target = page) =>
  target.evaluate(async () => {
    const response = await fetch('/_matrix/client/versions');
    return { status: response.status, body: await response.json() };
  });

test('a first visit downloads, compiles and opens, and then the server answers', async () => {
  const { stages, baseUrl, serverName } = await start();
  assert.deepEqual(stages.filter((stage) => stage.endsWith('done')), ['download done', 'compile done', 'open done']);
  assert.equal(baseUrl, site.url);
  assert.match(serverName, /^k51[0-9a-z]{59}$/);
  const { status, body } = await versions();
  assert.equal(status, 200);
  assert.ok(body.versions.includes('v1.1'));
  assert.equal(site.requests.some((pathname) => pathname.startsWith('/_matrix/')), false, 'nothing of it goes over the network');
});

test('status tells what a page shows of its server', async () => {
  const { serverName } = await start();
  const status = await page.evaluate(() => globalThis.server.status());
  assert.equal(status.serverName, serverName);
  assert.equal(status.wasmBytes, files['ephapse.wasm'].length);
  assert.ok(status.memoryBytes > 0 && status.storageQuota > 0);
});

test('a worker that was ended starts again with the next request, without the network', async () => {
  await start();
  await stopWorkers(page);
  await site.close();
  assert.equal((await versions()).status, 200);
});

test('a page holds the module of its worker compiled', async () => {
  await page.evaluate(() => {
    globalThis.held = [];
    const compile = WebAssembly.compileStreaming;
    WebAssembly.compileStreaming = async (source) => {
      const module = await compile.call(WebAssembly, source);
      globalThis.held.push(WebAssembly.Module.exports(module).some(({ name }) => name === 'engine_handle'));
      return module;
    };
  });
  await start();
  await page.waitForFunction(() => globalThis.held.length === 1);
  assert.deepEqual(await page.evaluate(() => globalThis.held), [true]);
  const downloads = site.requests.filter((pathname) => pathname === '/ephapse.wasm');
  assert.equal(downloads.length, 1, 'it was downloaded once');
});

test('a module that the site sends under another type is one all the same', async () => {
  types.wasm = 'application/octet-stream';
  await start();
  await stopWorkers(page);
  assert.equal((await versions()).status, 200);
});

test('a page that was loaded past the worker is put under its control', async () => {
  await start();
  await hardReload(page);
  assert.equal(await page.evaluate(() => navigator.serviceWorker.controller), null, 'the test would show nothing otherwise');
  await start();
  assert.equal((await versions()).status, 200);
  assert.equal(site.requests.some((pathname) => pathname.startsWith('/_matrix/')), false);
});

/**
 * Makes the browser look for a new version and find one, once it has nothing of that kind planned
 * itself: right after a page was opened it has, which would wait for a pause of the worker and make
 * ours wait with it.
 */
const update = async (target = page) => {
  await pause(3_000);
  files['ephapse-worker.js'] = Buffer.concat([files['ephapse-worker.js'], Buffer.from('\n// a newer build')]);
  await target.evaluate(async () => { await (await navigator.serviceWorker.getRegistration()).update(); });
};

/**
 * Ends when a page has heard of the new version. An attempt to switch takes some seconds, and may
 * be in vain.
 */
const updated = (target = page) => target.waitForFunction(() => globalThis.news.some(({ event }) => event === 'update'), undefined, { timeout: 90_000 });

test('a new version takes over while the old one is in use, and pages of both go on', async () => {
  await start();
  const second = await browser.context.newPage();
  await second.goto(`${site.url}/`);
  await start(second);
  // Requests without a pause, so that the old version always has something to do; and one by one
  // with the global fetch, as a client that thinks between.
  await page.evaluate(() => {
    globalThis.failures = [];
    globalThis.asking = true;
    globalThis.asked = (async () => {
      while (globalThis.asking) {
        const { status } = await globalThis.server.fetch('/_matrix/client/versions').catch((error) => ({ status: String(error) }));
        if (status !== 200) globalThis.failures.push(status);
      }
    })();
  });
  await second.evaluate(() => {
    globalThis.failures = [];
    globalThis.thinking = setInterval(async () => {
      const { status } = await fetch('/_matrix/client/versions').catch((error) => ({ status: String(error) }));
      if (status !== 200) globalThis.failures.push(status);
    }, 200);
  });
  await update(second);
  await updated();
  const failures = await page.evaluate(async () => {
    globalThis.asking = false;
    await globalThis.asked;
    return globalThis.failures;
  });
  assert.deepEqual([...failures, ...(await second.evaluate(() => globalThis.failures))], []);
  for (const each of [page, second]) assert.equal((await versions(each)).status, 200);
});

/** A request to the Client-Server API from the page. */
const api = (method, endpoint, body) =>
  page.evaluate(
    async ([how, where, content]) => {
      const response = await fetch(`/_matrix/client/v3/${where}`, { method: how, ...(content ? { body: JSON.stringify(content) } : {}) });
      return { status: response.status, body: await response.json() };
    },
    [method, endpoint, body],
  );

const register = (username) => api('POST', 'register', { username, password: 'a long enough password', auth: { type: 'm.login.dummy' } });
const logIn = (user) => api('POST', 'login', { type: 'm.login.password', identifier: { type: 'm.id.user', user }, password: 'a long enough password' });

test('what was acknowledged is there after the worker was ended', async () => {
  const { serverName } = await start();
  assert.equal((await register('alice')).status, 200);
  await stopWorkers(page);
  assert.equal((await logIn('alice')).body.user_id, `@alice:${serverName}`);
});

test('a panic of the engine costs one request, and the next one finds the database as it was', async () => {
  files['ephapse-worker.js'] = Buffer.concat([Buffer.from(sabotage), files['ephapse-worker.js']]);
  const { serverName } = await start();
  assert.equal((await register('alice')).status, 200);
  await failOnce(page);
  const failed = await register('bob');
  assert.deepEqual([failed.status, failed.body.errcode], [500, 'M_UNKNOWN']);
  assert.equal((await register('bob')).status, 200);
  assert.equal((await logIn('alice')).body.user_id, `@alice:${serverName}`);
  assert.deepEqual(await page.evaluate(() => globalThis.news.map(({ event }) => event)), ['restart']);
  assert.equal((await page.evaluate(() => globalThis.server.status())).rebuilds, 1);
});

/**
 * Makes `count` pieces of account data of about a megabyte in a page, and keeps what a sync has to
 * give for them.
 */
const fill = (token, userId, count) =>
  page.evaluate(
    async ([authorization, user, many]) => {
      globalThis.headers = { authorization: `Bearer ${authorization}` };
      globalThis.contents = {};
      for (let n = 0; n < many; n += 1) {
        const content = { text: `${n} \u00e9 `.repeat(120_000) };
        const url = `/_matrix/client/v3/user/${encodeURIComponent(user)}/account_data/org.example.${n}`;
        const { status } = await fetch(url, { method: 'PUT', headers: globalThis.headers, body: JSON.stringify(content) });
        if (status !== 200) throw new Error(`PUT answered ${status}`);
        globalThis.contents[`org.example.${n}`] = JSON.stringify(content);
      }
    },
    [token, userId, count],
  );

test('large bodies go up and come down whole', async () => {
  await start();
  const { access_token: token, user_id: user } = (await register('alice')).body;
  await fill(token, user, 4);
  const result = await page.evaluate(async (name) => {
    const { headers, contents } = globalThis;
    const url = `/_matrix/client/v3/user/${encodeURIComponent(name)}/account_data/org.example.large`;
    // Almost two megabytes, of which most is white space: one piece of account data may have one.
    const text = JSON.stringify({ text: 'large \u00e9 '.repeat(80_000) });
    const sent = await fetch(url, { method: 'PUT', headers, body: text + ' '.repeat(1_900_000 - text.length) });
    const back = await fetch(url, { headers });
    const refused = await fetch(url, { method: 'PUT', headers, body: ' '.repeat(20_000_000) });
    const unknown = await fetch(`${url}/nothing`, { method: 'PUT', headers, body: ' '.repeat(20_000_000) });
    const response = await fetch('/_matrix/client/v3/sync?timeout=0', { headers });
    const bytes = await response.arrayBuffer();
    const events = new Map(JSON.parse(new TextDecoder().decode(bytes)).account_data.events.map(({ type, content }) => [type, JSON.stringify(content)]));
    return {
      sent: sent.status,
      same: (await back.text()) === text,
      refused: [refused.status, (await refused.json()).errcode],
      unknown: unknown.status,
      length: bytes.byteLength,
      declared: Number(response.headers.get('content-length')),
      different: Object.keys(contents).filter((type) => events.get(type) !== contents[type]),
    };
  }, user);
  assert.ok(result.length > 3_000_000);
  assert.deepEqual(result, { sent: 200, same: true, refused: [413, 'M_TOO_LARGE'], unknown: 404, length: result.length, declared: result.length, different: [] });
});

test('large answers that nobody reads cost nothing, and do not keep a new version waiting', async () => {
  await start();
  const { access_token: token, user_id: user } = (await register('alice')).body;
  await fill(token, user, 3);
  const ask = (count) =>
    page.evaluate(async (many) => {
      globalThis.unread = [];
      for (let n = 0; n < many; n += 1) globalThis.unread.push(await fetch('/_matrix/client/v3/sync?timeout=0', { headers: globalThis.headers }));
    }, count);
  const memory = async () => (await page.evaluate(() => globalThis.server.status())).memoryBytes;
  await ask(1);
  await page.evaluate(() => Promise.all(globalThis.unread.map(({ body }) => body.cancel())));
  const before = await memory();
  for (let round = 0; round < 10; round += 1) {
    await ask(5);
    await page.evaluate(() => Promise.all(globalThis.unread.map(({ body }) => body.cancel())));
  }
  const grown = (await memory()) - before;
  assert.ok(grown < 60_000_000, `150 MB of answers that were not read left ${grown} bytes in use`);

  await ask(2);
  await update();
  await updated();
  assert.equal((await versions()).status, 200);
});

test('a large answer that is leaving when the engine panics arrives whole', async () => {
  files['ephapse-worker.js'] = Buffer.concat([Buffer.from(sabotage), files['ephapse-worker.js']]);
  await start();
  const { access_token: token, user_id: user } = (await register('alice')).body;
  await fill(token, user, 8);
  await page.evaluate(async () => { globalThis.leaving = await fetch('/_matrix/client/v3/sync?timeout=0', { headers: globalThis.headers }); });
  await failOnce(page);
  assert.equal((await register('bob')).status, 500);
  const { length, declared } = await page.evaluate(async () => {
    const { byteLength } = await globalThis.leaving.arrayBuffer();
    return { length: byteLength, declared: Number(globalThis.leaving.headers.get('content-length')) };
  });
  assert.ok(declared > 3_000_000);
  assert.equal(length, declared);
});

test('a large answer under which the worker ends is asked for again by the page\'s fetch', async () => {
  await start();
  const { access_token: token, user_id: user } = (await register('alice')).body;
  await fill(token, user, 8);
  await page.exposeFunction('endWorkers', () => stopWorkers(page));
  const read = await page.evaluate(async () => {
    // The browser's fetch, with the worker's end right behind the head of the first answer.
    const browsers = globalThis.fetch;
    const url = '/_matrix/client/v3/sync?timeout=0';
    const { headers } = globalThis;
    let asked = 0;
    globalThis.fetch = async (...request) => {
      const response = await browsers(...request);
      asked += 1;
      if (asked === 1) await globalThis.endWorkers();
      return response;
    };
    const alone = await globalThis.fetch(url, { headers }).then((response) => response.json()).then(() => 'whole', () => 'broken');
    asked = 0;
    const { account_data: data } = await (await globalThis.server.fetch(url, { headers })).json();
    globalThis.fetch = browsers;
    const different = Object.keys(globalThis.contents).filter((type) => JSON.stringify(data.events.find((event) => event.type === type)?.content) !== globalThis.contents[type]);
    return { alone, asked, different };
  });
  assert.equal(read.alone, 'broken', 'the test would show nothing otherwise');
  assert.deepEqual(read.different, []);
  assert.ok(read.asked > 1);
});

test('the last page that stops the server loses nothing that is under way, and the next request starts it again', async () => {
  await start();
  const { access_token: token } = (await register('alice')).body;
  const stopped = await page.evaluate(async (authorization) => {
    const { server } = globalThis;
    const ask = async (method, endpoint, body) => {
      const response = await server.fetch(`/_matrix/client/v3/${endpoint}`, { method, headers: { authorization: `Bearer ${authorization}` }, body: body && JSON.stringify(body) });
      return { status: response.status, body: await response.json() };
    };
    const { body: { next_batch: since } } = await ask('GET', 'sync?timeout=0');
    const held = ask('GET', `sync?timeout=60000&since=${since}`);
    await ask('GET', 'account/whoami');
    // Rooms are made, and the sync that they end has not yet been answered, when it stops.
    const created = Array.from({ length: 5 }, () => ask('POST', 'createRoom', {}));
    await server.stop();
    const answers = await Promise.all([held, ...created]);
    const rooms = (await ask('GET', 'joined_rooms')).body.joined_rooms;
    return { statuses: answers.map(({ status }) => status), made: answers.slice(1).map(({ body }) => body.room_id), rooms, rebuilds: (await server.status()).rebuilds };
  }, token);
  assert.deepEqual(stopped.statuses, [200, 200, 200, 200, 200, 200]);
  assert.deepEqual(stopped.rooms.toSorted(), stopped.made.toSorted());
  assert.equal(stopped.rebuilds, 0);
});

test('a database of a newer version is refused with a sentence, and left as it is', async () => {
  await start();
  await page.evaluate(() => globalThis.server.stop());
  await stopWorkers(page);
  const version = await page.evaluate(
    () =>
      new Promise((resolve, reject) => {
        const request = indexedDB.open('ephapse /', 1_000);
        request.onerror = () => reject(request.error);
        request.onsuccess = () => { resolve(request.result.version); request.result.close(); };
      }),
  );
  assert.equal(version, 1_000);
  await assert.rejects(() => start(), /format 1000.*Nothing was changed\. Reload all tabs/s);
});

test('a server of a directory answers under its path', async () => {
  await page.goto(`${site.url}/app/`);
  await assert.rejects(() => start(page, { scope: '/other/', workerUrl: '/ephapse-worker.js' }), /lies outside the server's scope/);
  const { baseUrl } = await start(page, { scope: '/app/', workerUrl: '/ephapse-worker.js' });
  assert.equal(baseUrl, `${site.url}/app`);
  const status = await page.evaluate(async () => (await fetch('/app/_matrix/client/versions')).status);
  assert.equal(status, 200);
});

test('a server of a directory is not taken for that of the whole site, which has the same script', async () => {
  await start();
  const status = (target, path) => target.evaluate(async (url) => (await globalThis.server.fetch(url)).status, path);
  const inner = await browser.context.newPage();
  await inner.goto(`${site.url}/app/`);
  assert.notEqual(await inner.evaluate(() => navigator.serviceWorker.controller), null, 'the test would show nothing otherwise');
  const { serverName } = await start(inner, { scope: '/app/', workerUrl: '/ephapse-worker.js' });
  assert.notEqual(serverName, await page.evaluate(() => globalThis.server.serverName));
  assert.equal(await status(inner, '/app/_matrix/client/versions'), 200);
  assert.equal(await status(page, '/_matrix/client/versions'), 200);
  assert.deepEqual(site.requests.filter((pathname) => pathname.includes('/_matrix/')), []);
  await assert.rejects(() => start(inner, { scope: '/', workerUrl: '/ephapse-worker.js' }), /belongs to the service worker of \/app\/.*Pass that narrower/);
});

test('a worker\'s script that is not there is said with its URL, and what to do', async () => {
  await assert.rejects(() => start(page, { workerUrl: '/missing.js' }), /missing\.js could not be installed: the server answered 404\. .*npx ephapse init/);
  // As sites do that answer every path with their start page.
  files['fallback.js'] = html;
  types.js = 'text/html';
  await assert.rejects(() => start(page, { workerUrl: '/fallback.js' }), /fallback\.js could not be installed: the server answered 200 with text\/html, and not with JavaScript\. .*npx ephapse init/);
  await assert.rejects(() => start(page, { workerUrl: 'https://elsewhere.example/ephapse-worker.js' }), /own origin/);
  await assert.rejects(() => start(page, { workerUrl: '/fallback.js', scope: '/elsewhere' }), /lies outside the server's scope \(\/elsewhere\/\)/);
});

test('a module that is missing, that is a page, or that is of another version: three errors, and what to do', async () => {
  const right = files['ephapse.wasm'];
  const other = Buffer.from(right);
  other[other.length - 1] ^= 1;
  const wrong = [
    [undefined, 404, /download-failed.*\/ephapse\.wasm could not be loaded: the server answered 404\. Copy ephapse\.wasm/],
    [Buffer.from(html), 200, /download-failed.*\/ephapse\.wasm is not WebAssembly: the server answered 200 with text\/html\. Copy ephapse\.wasm/],
    [other, 200, /download-failed.*\/ephapse\.wasm is of another version than the worker's script: the server answered 200 with another file\. Copy.*same version/],
    [Buffer.concat([right, right]), 200, /download-failed.*is of another version/],
    [right.subarray(0, 1_000), 200, /download-failed.*is of another version/],
  ];
  for (const [body, status, said] of wrong) {
    missing = status === 404 ? '/ephapse.wasm' : undefined;
    files['ephapse.wasm'] = body;
    types.wasm = body?.length === html.length ? 'text/html' : 'application/wasm';
    await assert.rejects(() => start(), said);
  }
  files['ephapse.wasm'] = right;
  types.wasm = 'application/wasm';
  await start();
});

/** Opens a site under a content security policy that has not been here before. */
const underPolicy = async (text, inPage) => {
  await page.evaluate(async () => { for (const worker of await navigator.serviceWorker.getRegistrations()) await worker.unregister(); });
  await page.evaluate(async () => { for (const name of await caches.keys()) await caches.delete(name); });
  policy = inPage ? undefined : text;
  await page.goto(`${site.url}/`);
  if (!inPage) return;
  await page.evaluate((content) => {
    const meta = document.createElement('meta');
    Object.assign(meta, { httpEquiv: 'Content-Security-Policy', content });
    document.head.append(meta);
  }, text);
};

test('a site whose content security policy forbids what is needed is told what to allow', async () => {
  const [scripts, workers, connections] = ["script-src 'self' 'unsafe-eval'", "worker-src 'self' blob:", "connect-src 'self'"];
  const forbidding = [
    [`default-src 'none'; script-src 'self'; ${workers}; ${connections}`, false, /blocked-by-policy.*Add 'wasm-unsafe-eval' to the script-src/],
    [`default-src 'none'; ${scripts}; ${connections}; worker-src 'none'`, true, /blocked-by-policy.*Add worker-src 'self' blob:/],
    [`default-src 'none'; ${scripts}; ${workers}`, false, /blocked-by-policy.*\/ephapse\.wasm.*Add connect-src 'self'/],
    [`default-src 'none'; ${scripts}; ${workers}`, true, /blocked-by-policy.*requests to the server.*Add connect-src 'self'/],
  ];
  for (const [text, inPage, said] of forbidding) {
    await underPolicy(text, inPage);
    await assert.rejects(() => start(), said, text);
  }
  const said = [];
  page.on('console', (message) => said.push(message.text()));
  await underPolicy(`default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; ${workers}; ${connections}`, false);
  await start();
  assert.equal((await versions()).status, 200);
  assert.deepEqual(said.filter((line) => line.includes('Content Security Policy')), []);
});

test('a page that came over plain HTTP from another machine is told to use https', async (t) => {
  const other = await launch({ more: ['--host-resolver-rules=MAP elsewhere.example 127.0.0.1'] });
  t.after(() => other.close());
  const insecure = await other.context.newPage();
  await insecure.goto(`http://elsewhere.example:${new URL(site.url).port}/`);
  await assert.rejects(() => start(insecure), /needs a secure page\. Open this page over https:/);
});

test('a browser whose user lets no site store data says what to allow', async (t) => {
  const other = await launch({ settings: { profile: { default_content_setting_values: { cookies: 2 } } } });
  t.after(() => other.close());
  const blocked = await other.context.newPage();
  await blocked.goto(`${site.url}/`);
  await assert.rejects(() => start(blocked), /does not let this site store data.*Allow cookies and site data/);
});

test('media is not given to frames, scripts or pages', async () => {
  await start();
  const script = await page.evaluate(
    () =>
      new Promise((resolve) => {
        const element = document.createElement('script');
        element.src = '/_matrix/client/v1/media/download/a/b';
        element.onerror = () => resolve('refused');
        element.onload = () => resolve('run');
        document.head.append(element);
      }),
  );
  assert.equal(script, 'refused');
  const response = await page.goto(`${site.url}/_matrix/client/v1/media/download/a/b`);
  assert.equal(response.status(), 403);
});
