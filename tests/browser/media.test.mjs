// Files in the service worker, in a real Chromium: a picture up and down, 100 MiB with little of
// them in memory, what may not run, and what is cut off.

import assert from 'node:assert/strict';
import { test as anyTest } from 'node:test';
import { crc32, deflateSync } from 'node:zlib';
import { Server } from '../serve/server.mjs';
import { launch, stopWorkers } from './browser.mjs';
import { clientSite, clientTab } from './client/site.mjs';
import { ok, openPage, packageSite, pause, register } from './site.mjs';

const test = (name, body) => anyTest(name, { timeout: 240_000 }, body);
const MIB = 1 << 20;

/** A page of a site of its own, with a server and an account; what goes when the test ends. */
async function begin(t, { quota } = {}) {
  const site = await packageSite(t);
  const browser = await launch();
  t.after(() => browser.close());
  if (quota) {
    // Before anything is stored: Chromium remembers for a while how much room it found.
    const devtools = await browser.context.newCDPSession(await browser.context.newPage());
    await devtools.send('Storage.overrideQuotaForOrigin', { origin: site.url, quotaSize: quota });
  }
  const page = await openPage(browser.context, site);
  const { access_token: token } = await register(page, 'alice');
  await page.evaluate(helpers, token);
  return { site, page, token };
}

/** Defines in the page what its tests use. */
function helpers(token) {
  const headers = { authorization: `Bearer ${token}` };
  globalThis.token = token;
  globalThis.hash = async (bytes) => Array.from(new Uint8Array(await crypto.subtle.digest('SHA-256', bytes)), (byte) => byte.toString(16).padStart(2, '0')).join('');
  /** Bytes that nobody can compress. */
  globalThis.noise = (length) => {
    const bytes = new Uint8Array(length);
    for (let at = 0; at < length; at += 65_536) crypto.getRandomValues(bytes.subarray(at, at + 65_536));
    return bytes;
  };
  globalThis.upload = async (body, { type = 'application/octet-stream', name = 'file', signal } = {}) => {
    const response = await globalThis.server.fetch(`/_matrix/media/v3/upload?filename=${encodeURIComponent(name)}`, { method: 'POST', headers: { ...headers, 'content-type': type }, body, signal });
    return { status: response.status, ...await response.json() };
  };
  globalThis.download = (uri) => globalThis.server.fetch(`/_matrix/client/v1/media/download/${uri.slice('mxc://'.length)}`, { headers });
  /** How many chunks are stored, and how much they take. */
  globalThis.chunks = async () => {
    const [{ name }] = await indexedDB.databases();
    const database = await new Promise((resolve, reject) => {
      const request = indexedDB.open(name);
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
    const request = database.transaction('chunks').objectStore('chunks').getAllKeys();
    await new Promise((resolve) => { request.onsuccess = resolve; });
    database.close();
    return request.result.filter((key) => Array.isArray(key) && key[1] === 0).length;
  };
}

async function until(page, what, look) {
  for (let waited = 0; !(await look()); waited += 100) {
    assert.ok(waited < 20_000, `waited in vain: ${what}`);
    await pause(100);
  }
}

test('a picture goes up and comes down, and a page shows it', async (t) => {
  const { page } = await begin(t);
  const shown = await page.evaluate(async () => {
    const canvas = new OffscreenCanvas(320, 200);
    canvas.getContext('2d').fillRect(10, 10, 100, 100);
    const picture = await canvas.convertToBlob();
    const { content_uri: uri } = await globalThis.upload(picture, { type: 'image/png', name: 'ein Bild.png' });
    const response = await globalThis.download(uri);
    const blob = await response.blob();
    const image = new Image();
    image.src = URL.createObjectURL(blob);
    await image.decode();
    const headers = Object.fromEntries(response.headers);
    return { size: [image.naturalWidth, image.naturalHeight], headers, same: await globalThis.hash(await blob.arrayBuffer()) === await globalThis.hash(await picture.arrayBuffer()) };
  });
  assert.deepEqual(shown.size, [320, 200]);
  assert.equal(shown.same, true);
  assert.equal(shown.headers['content-type'], 'image/png');
  assert.equal(shown.headers['content-disposition'], 'inline; filename="ein Bild.png"');
  assert.equal(shown.headers['x-content-type-options'], 'nosniff');
  assert.match(shown.headers['content-security-policy'], /^sandbox; default-src 'none'; script-src 'none';/);
});

test('a page shows a file by its address alone, and a part of it', async (t) => {
  const { page } = await begin(t);
  const shown = await page.evaluate(async () => {
    const canvas = new OffscreenCanvas(320, 200);
    canvas.getContext('2d').fillRect(10, 10, 100, 100);
    const { content_uri: uri } = await globalThis.upload(await canvas.convertToBlob(), { type: 'image/png' });
    const sizes = [];
    for (const path of ['/_matrix/client/v1/media/download/', '/_matrix/media/v3/download/', '/_matrix/media/r0/download/']) {
      const image = new Image();
      image.src = path + uri.slice('mxc://'.length);
      await image.decode();
      sizes.push([image.naturalWidth, image.naturalHeight]);
    }
    const part = await globalThis.server.fetch(`/_matrix/client/v1/media/download/${uri.slice('mxc://'.length)}`, { headers: { range: 'bytes=1-3' } });
    const whoami = await fetch('/_matrix/client/v3/account/whoami');
    return { sizes, part: [part.status, await part.text()], whoami: whoami.status };
  });
  assert.deepEqual(shown, { sizes: [[320, 200], [320, 200], [320, 200]], part: [206, 'PNG'], whoami: 401 });
});

/** A PNG of one colour, in base64: large in pixels, and not in bytes. */
function plainPng(width, height) {
  const chunk = (name, data) => {
    const body = Buffer.concat([Buffer.from(name), data]);
    const [length, check] = [Buffer.alloc(4), Buffer.alloc(4)];
    length.writeUInt32BE(data.length);
    check.writeUInt32BE(crc32(body));
    return Buffer.concat([length, body, check]);
  };
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, 2], 8);
  const rows = deflateSync(Buffer.alloc(height * (1 + width * 3)));
  return Buffer.concat([Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'), chunk('IHDR', header), chunk('IDAT', rows), chunk('IEND', Buffer.alloc(0))]).toString('base64');
}

/** Asks for a thumbnail of a file in base64; resolves to what came, and how much was answered meanwhile. */
const thumbnailOf = (page, file, query) =>
  page.evaluate(async ([base64, asked]) => {
    const headers = { authorization: `Bearer ${globalThis.token}` };
    const { content_uri: uri } = await globalThis.upload(await (await fetch(`data:;base64,${base64}`)).blob(), { type: 'image/png' });
    let response;
    let meanwhile = 0;
    const asking = globalThis.server.fetch(`/_matrix/client/v1/media/thumbnail/${uri.slice('mxc://'.length)}?${asked}`, { headers }).then((answer) => { response = answer; });
    for (; !response; meanwhile += 1) await globalThis.server.fetch('/_matrix/client/v3/account/whoami', { headers });
    await asking;
    return { status: response.status, errcode: response.ok ? undefined : (await response.json()).errcode, meanwhile };
  }, [file, query]);

test('thumbnails are made of pictures by a worker that a page lends, and what makes them is fetched with the first', async (t) => {
  const { page, site } = await begin(t);
  const fetched = () => site.requests.filter((pathname) => pathname === '/ephapse-thumbnails.wasm').length;
  assert.equal(fetched(), 0);
  const made = await page.evaluate(async () => {
    const canvas = new OffscreenCanvas(1000, 500);
    const context = canvas.getContext('2d');
    context.fillStyle = 'rgb(200, 30, 30)';
    context.fillRect(0, 0, 1000, 500);
    const sizes = {};
    for (const type of ['image/png', 'image/jpeg', 'image/webp']) {
      const { content_uri: uri } = await globalThis.upload(await canvas.convertToBlob({ type }), { type });
      for (const query of ['width=320&height=240&method=scale', 'width=96&height=96&method=crop', 'width=30&height=30&method=crop']) {
        const image = new Image();
        image.src = `/_matrix/client/v1/media/thumbnail/${uri.slice('mxc://'.length)}?${query}`;
        await image.decode();
        const look = new OffscreenCanvas(1, 1).getContext('2d');
        look.drawImage(image, 0, 0);
        const [red, green] = look.getImageData(0, 0, 1, 1).data;
        sizes[`${type} ${query}`] = [image.naturalWidth, image.naturalHeight, red > 180 && green < 60];
      }
    }
    return sizes;
  });
  const expected = { 'width=320&height=240&method=scale': [320, 160, true], 'width=96&height=96&method=crop': [96, 96, true], 'width=30&height=30&method=crop': [32, 32, true] };
  const types = ['image/png', 'image/jpeg', 'image/webp'];
  assert.deepEqual(made, Object.fromEntries(types.flatMap((type) => Object.entries(expected).map(([query, size]) => [`${type} ${query}`, size]))));
  assert.equal(fetched(), 1);

  // A worker that starts again has it, also where there is no network.
  await stopWorkers(page);
  await page.context().setOffline(true);
  assert.equal((await thumbnailOf(page, plainPng(400, 400), 'width=96&height=96&method=crop')).status, 200);
  assert.equal(fetched(), 1);
});

test('a large picture holds nobody up, and one that is larger than it looks is refused', async (t) => {
  const { page } = await begin(t);
  const query = 'width=96&height=96&method=crop';
  const large = await thumbnailOf(page, plainPng(5_600, 5_600), query);
  assert.equal(large.status, 200);
  t.diagnostic(`${large.meanwhile} requests were answered while 31 million pixels became a thumbnail`);
  assert.ok(large.meanwhile >= 5, `${large.meanwhile} answers meanwhile`);
  const bomb = await thumbnailOf(page, plainPng(20_000, 20_000), query);
  assert.deepEqual([bomb.status, bomb.errcode], [413, 'M_TOO_LARGE']);
  const noPicture = await thumbnailOf(page, Buffer.from('<svg xmlns="http://www.w3.org/2000/svg"/>').toString('base64'), query);
  assert.deepEqual([noPicture.status, noPicture.errcode], [400, 'M_UNKNOWN']);
  const cut = await thumbnailOf(page, Buffer.from(plainPng(400, 400), 'base64').subarray(0, 60).toString('base64'), query);
  assert.deepEqual([cut.status, cut.errcode], [400, 'M_UNKNOWN']);
});

test('HTML and SVG run nothing, whatever type they are said to have', async (t) => {
  const { page, site } = await begin(t);
  const paths = await page.evaluate(async () => {
    const script = '<script>top.ran = true</script>';
    const files = [
      [`<!doctype html>${script}`, 'text/html'],
      [`<!doctype html>${script}`, 'image/png'],
      [`<svg xmlns="http://www.w3.org/2000/svg"><script>top.ran = true</script></svg>`, 'image/svg+xml'],
      [`<svg xmlns="http://www.w3.org/2000/svg"><script>top.ran = true</script></svg>`, 'text/plain'],
      ['globalThis.ran = true; self.postMessage?.("ran");', 'text/javascript'],
      ['globalThis.ran = true; self.postMessage?.("ran");', 'image/png'],
    ];
    const addresses = [];
    for (const [text, type] of files) {
      const { content_uri: uri } = await globalThis.upload(new Blob([text]), { type });
      for (const path of ['/_matrix/client/v1/media/download/', '/_matrix/media/v3/download/']) addresses.push(path + uri.slice('mxc://'.length));
    }
    return addresses;
  });
  const ran = await page.evaluate(async (addresses) => {
    for (const address of addresses) {
      const frame = document.createElement('iframe');
      frame.src = address;
      await new Promise((resolve) => { frame.onload = resolve; document.body.append(frame); });
      const script = document.createElement('script');
      script.src = address;
      await new Promise((resolve) => { script.onload = resolve; script.onerror = resolve; document.body.append(script); });
      const worker = new Worker(address);
      await new Promise((resolve) => { worker.onmessage = () => { globalThis.ran = true; resolve(); }; worker.onerror = resolve; });
    }
    return globalThis.ran === true;
  }, paths);
  assert.equal(ran, false);
  for (const path of paths) {
    const opened = await page.context().newPage();
    assert.equal((await opened.goto(site.url + path)).status(), 403);
    await opened.close();
  }
});

test('100 MiB go up and down, and the engine holds no more than 4 MiB of them', async (t) => {
  const { page } = await begin(t);
  const run = (mebibytes) => page.evaluate(async (count) => {
    const memory = async () => (await globalThis.server.status()).memoryBytes;
    const before = await memory();
    const parts = Array.from({ length: count }, () => globalThis.noise(1 << 20));
    const file = new Blob(parts);
    let most = before;
    const watching = setInterval(async () => { most = Math.max(most, await memory()); }, 20);
    const began = performance.now();
    const { content_uri: uri, status } = await globalThis.upload(file);
    const up = performance.now() - began;
    if (status !== 200) throw new Error(`answered ${status}`);
    const stored = await globalThis.chunks();
    const response = await globalThis.download(uri);
    let length = 0;
    let equal = true;
    const reader = response.body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      for (let at = 0; at < value.length;) {
        const part = parts[Math.floor((length + at) / (1 << 20))];
        const within = (length + at) % (1 << 20);
        const end = Math.min(value.length, at + (1 << 20) - within);
        for (let n = at; n < end; n += 997) equal &&= value[n] === part[within + n - at];
        at = end;
      }
      length += value.length;
    }
    const down = performance.now() - began - up;
    most = Math.max(most, await memory());
    clearInterval(watching);
    return { before, most, stored, length, equal, up, down };
  }, mebibytes);
  // What is used for the first time takes memory that stays.
  await run(3);
  const { before, most, stored, length, equal, up, down } = await run(100);
  t.diagnostic(`module: ${before / MIB} MiB before, ${most / MIB} MiB at most; up ${Math.round(up)} ms, down ${Math.round(down)} ms`);
  assert.deepEqual([length, equal, stored], [100 * MIB, true, 103]);
  assert.ok(most - before <= 4 * MIB, `${before}, then ${most}`);
});

test('the worker takes no more of an upload than it stores', async (t) => {
  const { page } = await begin(t);
  const taken = await page.evaluate(async () => {
    let given = 0;
    let open = true;
    const body = new ReadableStream({
      pull: async (controller) => {
        if (given === 40 << 20) { controller.close(); return; }
        controller.enqueue(globalThis.noise(1 << 18));
        given += 1 << 18;
        if (given % (4 << 20) === 0) {
          const stored = (await globalThis.chunks()) << 20;
          open &&= given - stored < 8 << 20;
        }
      },
    }, { highWaterMark: 0 });
    const response = await globalThis.server.fetch('/_matrix/media/v3/upload', { method: 'POST', headers: { authorization: `Bearer ${globalThis.token}` }, body, duplex: 'half' });
    return { open, given, status: response.status };
  });
  assert.deepEqual(taken, { open: true, given: 40 * MIB, status: 200 });
});

test('what could run is not given to pages, frames, scripts or workers', async (t) => {
  const { page, site, token } = await begin(t);
  const outcome = await page.evaluate(async (accessToken) => {
    const script = 'globalThis.ran = true; self.postMessage?.("ran");';
    const { content_uri: uri } = await globalThis.upload(new Blob([script]), { type: 'text/javascript' });
    const { content_uri: html } = await globalThis.upload(new Blob([`<script>parent.ran = true</script>`]), { type: 'text/html' });
    const { content_uri: css } = await globalThis.upload(new Blob(['body { color: rgb(1, 2, 3) }']), { type: 'text/css' });
    const at = (mxc) => `/_matrix/client/v1/media/download/${mxc.slice('mxc://'.length)}?access_token=${accessToken}`;
    const loaded = (element) => new Promise((resolve) => {
      element.onload = () => resolve('loaded');
      element.onerror = () => resolve('refused');
      document.body.append(element);
    });
    const make = (name, properties) => Object.assign(document.createElement(name), properties);
    const frame = make('iframe', { src: at(html) });
    await loaded(frame);
    const worker = new Worker(at(uri));
    const inWorker = await new Promise((resolve) => {
      worker.onmessage = () => resolve('ran');
      worker.onerror = () => resolve('refused');
    });
    return {
      script: await loaded(make('script', { src: at(uri) })),
      module: await import(at(uri)).then(() => 'loaded', () => 'refused'),
      style: await loaded(make('link', { rel: 'stylesheet', href: at(css) })),
      object: await loaded(make('object', { data: at(html) })),
      frame: frame.contentDocument?.body?.textContent ?? 'another origin',
      inWorker,
      ran: globalThis.ran === true,
      fetched: (await fetch(at(html))).status,
    };
  }, token);
  const refused = '"M_FORBIDDEN"';
  assert.ok(outcome.frame.includes(refused) || outcome.frame === 'another origin', outcome.frame);
  assert.deepEqual({ ...outcome, frame: '' }, { script: 'refused', module: 'refused', style: 'refused', object: outcome.object, frame: '', inWorker: 'refused', ran: false, fetched: 200 });
  const uri = await page.evaluate(async () => (await globalThis.upload(new Blob(['<script>1</script>']), { type: 'text/html' })).content_uri);
  const opened = await page.context().newPage();
  const response = await opened.goto(`${site.url}/_matrix/client/v1/media/download/${uri.slice('mxc://'.length)}?access_token=${token}`);
  assert.equal(response.status(), 403);
  await opened.close();
});

// Of a request that its page gave up Chromium sends the rest, if it was a Blob, and then nobody
// takes the answer. A stream pauses for ever (2026-11-30).
test('an upload that its page gives up, or whose page is closed, leaves nothing', async (t) => {
  const { page, site, token } = await begin(t);
  const stored = () => page.evaluate(() => globalThis.chunks());
  const giveUp = (where, abort) => where.evaluate(async (gives) => {
    const file = new Blob(Array.from({ length: 24 }, () => globalThis.noise(1 << 20)));
    const control = new AbortController();
    const outcome = globalThis.upload(file, { signal: control.signal }).then(({ status }) => status, (error) => error.name);
    while ((await globalThis.chunks()) < 2) await new Promise((resolve) => setTimeout(resolve, 2));
    if (gives) control.abort();
    return gives ? outcome : undefined;
  }, abort);
  assert.equal(await giveUp(page, true), 'AbortError');
  await until(page, 'what was given up goes', async () => (await stored()) === 0);

  const other = await openPage(page.context(), site);
  await other.evaluate(helpers, token);
  await giveUp(other, false);
  await other.close();
  await until(page, 'what a closed page began goes', async () => (await stored()) === 0);

  const { status } = await page.evaluate(() => globalThis.upload(new Blob([globalThis.noise(2 << 20)])));
  assert.deepEqual([status, await stored()], [200, 2], 'what is awaited stays');
});

test('an upload that breaks off, or whose worker is ended, leaves nothing', async (t) => {
  const { page, token } = await begin(t);
  /** Uploads 6 MiB of a file; the rest breaks off when three chunks are stored, or never comes. */
  const half = (breaksOff) => page.evaluate(async (breaks) => {
    let sent = 0;
    const body = new ReadableStream({
      pull: async (stream) => {
        if (sent < 6 << 20) {
          stream.enqueue(globalThis.noise(1 << 18));
          sent += 1 << 18;
          return;
        }
        while ((await globalThis.chunks()) < 3) await new Promise((resolve) => setTimeout(resolve, 5));
        if (breaks) stream.error(new Error('gone'));
        else await new Promise(() => undefined);
      },
    }, { highWaterMark: 0 });
    const headers = { authorization: `Bearer ${globalThis.token}` };
    return globalThis.server.fetch('/_matrix/media/v3/upload', { method: 'POST', headers, body, duplex: 'half' }).then(({ status }) => status, (error) => error.name);
  }, breaksOff);
  const stored = () => page.evaluate(() => globalThis.chunks());

  assert.equal(await half(true), 400);
  await until(page, 'what broke off goes', async () => (await stored()) === 0);

  const uploading = half(false);
  await until(page, 'some is stored', async () => (await stored()) >= 3);
  await stopWorkers(page);
  assert.equal(await uploading, 'TypeError');
  assert.ok((await stored()) >= 3, 'the test would show nothing otherwise');
  await ok(page, token, 'GET', '/account/whoami');
  await until(page, 'what the worker left goes', async () => (await stored()) === 0);
});

test('where storage is full an upload is refused with a word on who helps, and leaves nothing', async (t) => {
  const { page } = await begin(t, { quota: 64_000_000 });
  const answer = await page.evaluate(() => globalThis.upload(new Blob(Array.from({ length: 90 }, () => globalThis.noise(1 << 20)))));
  assert.deepEqual([answer.status, answer.errcode], [403, 'M_RESOURCE_LIMIT_EXCEEDED'], JSON.stringify(answer));
  assert.ok(answer.admin_contact);
  assert.equal(await page.evaluate(() => globalThis.chunks()), 0);
});

test('files count as stored, and a site says how large they may be', async (t) => {
  const { page } = await begin(t);
  const { stored, refused, limits, taken, reset } = await page.evaluate(async () => {
    const { start } = await import('/index.js');
    const limit = async () => {
      const response = await globalThis.server.fetch('/_matrix/client/v1/media/config', { headers: { authorization: `Bearer ${globalThis.token}` } });
      return (await response.json())['m.upload.size'];
    };
    const bytes = async () => (await globalThis.server.status()).bytesStored;
    const before = await bytes();
    await globalThis.upload(new Blob([globalThis.noise(3_000_000)]));
    const after = await bytes();
    const first = await limit();
    await start({ maxUpload: 70_000 });
    const second = await limit();
    const { status } = await globalThis.upload(new Blob([globalThis.noise(70_001)]));
    const allowed = await globalThis.upload(new Blob([globalThis.noise(70_000)]));
    await start();
    return { stored: after - before, refused: status, limits: [first, second], taken: allowed.status, reset: await limit() };
  });
  assert.ok(stored >= 3_000_000 && stored < 3_200_000, `${stored}`);
  assert.deepEqual({ refused, limits, taken, reset }, { refused: 413, limits: [100 * MIB, 70_000], taken: 200, reset: 100 * MIB });
});

for (const where of ['the service worker', 'ephapse serve']) {
  test(`matrix-js-sdk uploads to ${where}, and downloads with a token`, async (t) => {
    const site = await clientSite();
    t.after(() => site.close());
    const browser = await launch();
    t.after(() => browser.close());
    const failures = [];
    const tab = await clientTab(browser.context, site, { failures });
    const baseUrl = where === 'ephapse serve' ? (await Server.start(t)).url : await tab.call('startServer');
    const session = await tab.call('register', { baseUrl, user: 'alice', password: 'correct horse battery staple' });
    const { limit, same, type } = await tab.call('uploadAndDownload', { ...session, bytes: 3_000_000 });
    assert.deepEqual({ limit, same, type }, { limit: 100 * MIB, same: true, type: 'image/png' });
    assert.deepEqual(failures, []);
  });
}
