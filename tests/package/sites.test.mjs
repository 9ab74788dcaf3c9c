// The package in sites without a bundler: a plain page, one under a path, and one that has a
// service worker of its own.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { get } from 'node:http';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import { promisify } from 'node:util';
import { brotliDecompressSync, gunzipSync } from 'node:zlib';
import { path } from '../../scripts/lib/run.mjs';
import { serve } from '../../scripts/lib/serve.mjs';
import { launch, stopWorkers } from '../browser/browser.mjs';

const program = path('worker', 'bin', 'ephapse.mjs');
const html = '<!doctype html><title>a page</title>';
let directory;
let browser;
let site;
/** What the site serves besides what `init` has put there, by path. */
let files;

before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'ephapse-site-'));
  await promisify(execFile)('node', [program, 'init', directory]);
  await writeFile(`${directory}/ephapse.js`, await readFile(path('dist', 'index.js')));
  browser = await launch();
});
after(async () => {
  await browser.close();
  await rm(directory, { recursive: true });
});

beforeEach(async (t) => {
  files = { '/': html };
  site = await serve(directory, {
    override: (pathname) => (files[pathname] === undefined ? undefined : { body: files[pathname], type: pathname.endsWith('.js') ? 'text/javascript' : 'text/html' }),
  });
  t.after(() => site.close());
});

async function open(pathname = '/') {
  const page = await browser.context.newPage();
  await page.goto(site.url + pathname);
  return page;
}

/** What `start()` came to in a page: the server's base URL, or its error. */
const start = (page, options) =>
  page.evaluate(async (given) => {
    const { start: begin } = await import('/ephapse.js');
    try {
      globalThis.server = await begin(given);
      return globalThis.server.baseUrl;
    } catch (error) {
      return `${error.name} ${error.code}: ${error.message}`;
    }
  }, options);

const status = (page, pathname) => page.evaluate(async (url) => (await fetch(url)).status, pathname);

test('a plain page of any directory uses the server at the root', async () => {
  files['/app'] = files['/app/'] = html;
  for (const pathname of ['/', '/app', '/app/']) {
    const page = await open(pathname);
    assert.equal(await start(page), site.url);
    assert.equal(await status(page, '/_matrix/client/versions'), 200);
  }
});

test('a page that names its directory has its server there, and is told what to do at the address without the slash', async () => {
  files['/app/'] = files['/app'] = '<!doctype html><base href="/app/"><title>a page</title>';
  files['/app/ephapse-worker.js'] = await readFile(`${directory}/ephapse-worker.js`);
  const page = await open('/app/');
  assert.match(await start(page), /download-failed: http.*\/app\/ephapse\.wasm could not be loaded: the server answered 404\./);
  files['/app/ephapse.wasm'] = await readFile(`${directory}/ephapse.wasm`);
  assert.equal(await start(page), `${site.url}/app`);
  assert.equal(await status(page, '/app/_matrix/client/versions'), 200);
  assert.match(await start(await open('/app')), /out-of-scope: This page is \/app, .* Open it as \/app\/: let the site redirect/);
});

/**
 * A site's own service worker: it keeps all that it fetches, and deletes every cache that it does
 * not know.
 */
const ownWorker = `
  addEventListener('install', () => skipWaiting());
  addEventListener('activate', (event) => event.waitUntil((async () => {
    for (const name of await caches.keys()) if (name !== 'site') await caches.delete(name);
    await clients.claim();
  })()));
  addEventListener('fetch', (event) => event.respondWith((async () => {
    const cache = await caches.open('site');
    const known = await cache.match(event.request);
    if (known) return known;
    const response = await fetch(event.request);
    if (event.request.method === 'GET') await cache.put(event.request, response.clone());
    return response;
  })()));
`;

const registerOwn = (page) =>
  page.evaluate(async () => {
    await navigator.serviceWorker.register('/sw.js');
    await navigator.serviceWorker.ready;
    while (!navigator.serviceWorker.controller) await new Promise((resolve) => setTimeout(resolve, 20));
  });

test('a site\'s own service worker is never replaced, and what to do with it is said', { timeout: 60_000 }, async () => {
  files['/sw.js'] = ownWorker;
  const page = await open();
  await registerOwn(page);
  const said = await start(page);
  assert.match(said, /^EphapseError foreign-worker: .*\/sw\.js.*Make importScripts\('\/ephapse-worker\.js'\) the first line of \/sw\.js and call start\(\{ workerUrl: '\/sw\.js', scope: '\/' \}\)/);
  assert.match(await start(page, { workerUrl: '/sw.js', scope: '/' }), /^EphapseError foreign-worker: /);
  assert.equal(await page.evaluate(async () => new URL((await navigator.serviceWorker.getRegistration()).active.scriptURL).pathname), '/sw.js');
});

test('beside a service worker of the site that caches everything and deletes unknown caches', { timeout: 120_000 }, async () => {
  files['/sw.js'] = ownWorker;
  const page = await open();
  await registerOwn(page);
  // As the error says. The browser has the old one, which the new one replaces while the page is
  // open.
  files['/sw.js'] = `importScripts('/ephapse-worker.js');\n${ownWorker}`;
  assert.equal(await start(page, { workerUrl: '/sw.js', scope: '/' }), site.url);
  assert.match(await start(page), /foreign-worker: The server runs in the site's own service worker, \/sw\.js\. Call start\(\{ workerUrl: '\/sw\.js', scope: '\/' \}\)/);

  const token = await page.evaluate(async () => {
    const response = await globalThis.server.fetch('/_matrix/client/v3/register', { method: 'POST', body: JSON.stringify({ username: 'alice', password: 'a long enough password', auth: { type: 'm.login.dummy' } }) });
    return (await response.json()).access_token;
  });
  const whoami = (which) => which.evaluate(async (authorization) => (await fetch('/_matrix/client/v3/account/whoami', { headers: { authorization } })).status, `Bearer ${token}`);
  assert.equal(await whoami(page), 200);
  assert.equal(await page.evaluate(async () => (await (await caches.open('site')).keys()).filter(({ url }) => url.includes('/_matrix/')).length), 0, 'answers are not kept by the site');

  // The module is back in its cache with the next start, and both work without the network.
  await stopWorkers(page);
  await page.goto(`${site.url}/`);
  assert.equal(await start(page, { workerUrl: '/sw.js', scope: '/' }), site.url);
  await site.close();
  await stopWorkers(page);
  await page.goto(`${site.url}/`);
  assert.equal(await page.title(), 'a page');
  assert.equal(await whoami(page), 200);
});

test('a site whose own listener comes first is told so', { timeout: 60_000 }, async () => {
  files['/sw.js'] = `${ownWorker}\nimportScripts('/ephapse-worker.js');`;
  const page = await open();
  assert.match(await start(page, { workerUrl: '/sw.js' }), /^EphapseError foreign-worker: Another service worker or server answers .*\/_matrix\/client\/versions \(status 404.*its own fetch listener must come after/);
});

test('what `npm start` serves goes over the wire compressed, for the browser that can', { timeout: 60_000 }, async (t) => {
  const demo = await serve(path('dist', 'www'), { compress: true });
  t.after(() => demo.close());
  const names = (await readdir(path('dist', 'www'), { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile());
  const total = { br: 0, gzip: 0, identity: 0 };
  for (const encoding of Object.keys(total)) {
    for (const { name, parentPath } of names) {
      const url = `${demo.url}/${relative(path('dist', 'www'), join(parentPath, name))}`;
      const { headers, bytes } = await got(url, encoding);
      const packed = { br: brotliDecompressSync, gzip: gunzipSync }[headers['content-encoding']];
      assert.ok(packed || encoding === 'identity' || bytes.length < 1_024, `${name} is packed`);
      assert.deepEqual(packed ? packed(bytes) : bytes, await readFile(`${parentPath}/${name}`));
      total[encoding] += bytes.length;
    }
  }
  t.diagnostic(`bytes of all files: ${JSON.stringify(total)}`);
  assert.ok(total.br < total.identity / 3 && total.gzip < total.identity * 0.4);
});

/** A file as it goes over the wire. */
async function got(url, encoding) {
  const response = await new Promise((resolve, reject) => { get(url, { headers: { 'accept-encoding': encoding } }, resolve).on('error', reject); });
  return { headers: response.headers, bytes: Buffer.concat(await response.toArray()) };
}

test('init says what it did, and what to do where it cannot', async () => {
  const init = (...args) => promisify(execFile)('node', [program, ...args]).then(({ stdout }) => stdout, ({ code, stderr }) => `${code} ${stderr}`);
  const own = await mkdtemp(join(tmpdir(), 'ephapse-init-'));
  try {
    assert.match(await init('init', `${own}/public`), /^Made .*public\nCopied .*ephapse\.wasm \(\d\.\d MB\)\nCopied .*ephapse-thumbnails\.wasm \(\d\.\d MB\)\nCopied .*ephapse-worker\.js/);
    assert.match(await init('init', `${own}/public`), /ephapse\.wasm is up to date\n/);
    await writeFile(`${own}/public/ephapse-worker.js`, 'an older one');
    assert.match(await init('init', `${own}/public`), /Replaced .*ephapse-worker\.js/);
    assert.deepEqual(await readFile(`${own}/public/ephapse-worker.js`), await readFile(path('dist', 'ephapse-worker.js')));
    await writeFile(`${own}/file`, '');
    assert.match(await init('init', `${own}/file`), /^1 .*is a file\. Name the directory/);
    assert.match(await init('init', `${own}/no/where`), /^1 There is no directory .*spelled right/);
    assert.match(await init('init'), /^1 init takes one directory.*\n.*npx ephapse init public/);
    assert.match(await init('serve'), /^1 ephapse has no command serve\.[\s\S]*another program/);
  } finally {
    await rm(own, { recursive: true });
  }
});
