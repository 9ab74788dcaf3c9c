// The store's conformance suite on IndexedDB, in a real Chromium: the map it must be, crashes,
// fences, versions, room. Seeds are printed.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { path } from '../../scripts/lib/run.mjs';
import { serve } from '../../scripts/lib/serve.mjs';
import { wasmForPages } from '../../scripts/lib/wasm.mjs';
import { launch } from './browser.mjs';

const out = path('.cache', 'store-tests');
let browser;
let site;

before(async () => {
  await wasmForPages('ephapse-store-tests', 'store', out);
  site = await serve(out, { override: (name) => (name === '/' ? { body: '<!doctype html><title>store</title>', type: 'text/html' } : undefined) });
  browser = await launch();
});

after(async () => {
  await browser?.close();
  await site?.close();
});

// Every writing transaction of the page is noted with the durability that the browser gave it.
function watchTransactions() {
  const open = IDBDatabase.prototype.transaction;
  globalThis.durabilities = [];
  IDBDatabase.prototype.transaction = function transaction(...args) {
    const made = open.apply(this, args);
    if (made.mode === 'readwrite') globalThis.durabilities.push(made.durability);
    return made;
  };
}

/**
 * A page with the tests' module in it. `call` runs a function of it and fails when the module
 * panics.
 */
async function newPage(context) {
  const page = await context.newPage();
  await page.addInitScript(watchTransactions);
  await page.goto(site.url);
  const panic = new Promise((_, reject) => {
    page.on('pageerror', (error) => reject(error));
    page.on('console', (message) => {
      if (message.text().includes('panicked')) reject(new Error(message.text()));
    });
  });
  panic.catch(() => {});
  const call = (body, arg) => Promise.race([panic, page.evaluate(body, arg)]);
  await call(async () => {
    globalThis.store = await import('/store.js');
    await globalThis.store.default();
  });
  return { page, call, close: () => page.close() };
}

/** Runs a test with a page of its own. */
async function withPage(body, { context } = browser) {
  const tab = await newPage(context);
  try {
    await body(tab);
  } finally {
    await tab.close();
  }
}

/**
 * The same with a browser of its own: after databases were deleted, Chromium's count of what is
 * used is wrong for a while.
 */
async function withFreshProfile(body) {
  const fresh = await launch();
  try {
    await withPage((tab) => body(tab, fresh.context), fresh);
  } finally {
    await fresh.close();
  }
}

function seeds(count) {
  const first = process.env.SEED ? Number(process.env.SEED) : Math.floor(Math.random() * 2 ** 31);
  console.log(`SEED=${first}`);
  return Array.from({ length: count }, (_, n) => (first + n) % 2 ** 32);
}

test('it behaves like a map, with Blobs and without, and every writing transaction is strict', { timeout: 120_000 }, () => withPage(async (tab) => {
  for (const seed of seeds(12)) {
    await tab.call(([n]) => store.behaves_like_a_map(`map-${n}`, n, 150, n % 3 !== 0), [seed]);
  }
  const durabilities = await tab.page.evaluate(() => globalThis.durabilities);
  assert.ok(durabilities.length > 300, `${durabilities.length} transactions`);
  assert.deepEqual([...new Set(durabilities)], ['strict']);
}));

test('it behaves like a map in a dedicated worker', { timeout: 60_000 }, () => withPage(async (tab) => {
  const answer = await tab.call(([n]) => new Promise((resolve) => {
    const source = `
      import init, { behaves_like_a_map } from '${location.origin}/store.js';
      addEventListener('unhandledrejection', (event) => postMessage(String(event.reason)));
      await init();
      await behaves_like_a_map('worker', ${n}, 150, true);
      postMessage('done');`;
    const worker = new Worker(URL.createObjectURL(new Blob([source], { type: 'text/javascript' })), { type: 'module' });
    worker.onerror = (event) => resolve(event.message);
    worker.onmessage = (event) => resolve(event.data);
  }), seeds(1));
  assert.equal(answer, 'done');
}));

test('after a crash at any point what was acknowledged is there', { timeout: 240_000 }, () => withPage(async (tab) => {
  const points = ['Migrating', 'BeforePut', 'BetweenPutAndCommit', 'BetweenCommitAndAnswer', 'Flushing', 'Compacting'];
  const hit = new Set();
  // A random script may write too little for a compaction. Then another one follows.
  for (const seed of seeds(4)) {
    for (const point of await tab.call(([n]) => store.survives_crashes(`crashes-${n}`, n, 70, 2), [seed])) hit.add(point);
    if (points.every((point) => hit.has(point))) break;
  }
  console.log(`crashed at ${[...hit].join(', ')}`);
  for (const point of points) assert.ok(hit.has(point), `${point} was not hit`);
}));

test('a failed write fails every batch submitted after it', { timeout: 120_000 }, () => withPage(async (tab) => {
  await tab.call(([n]) => store.rolls_back_failed_writes('failures', n, 16), seeds(1));
}));

test('an older opening cannot write any more', { timeout: 60_000 }, () => withPage(async (tab) => {
  assert.deepEqual(await tab.call(() => store.two_openings('fence')), ['Err(Fenced)', 'Ok(())', 'new', 'old']);
}));

test('it keeps chunks, with Blobs and without', { timeout: 60_000 }, () => withPage(async (tab) => {
  for (const blobs of [true, false]) await tab.call(([n]) => store.keeps_chunks(`chunks-${n}`, n), [blobs]);
}));

test('a crash leaves no half chunk', { timeout: 120_000 }, () => withPage(async (tab) => {
  for (const blobs of [true, false]) {
    const hit = await tab.call(([n]) => store.chunks_survive_crashes('half-chunks', n), [blobs]);
    assert.deepEqual(hit.sort(), ['AfterChunk', 'BeforeChunk', 'BetweenPutAndCommit', 'Migrating']);
  }
}));

test('an older opening cannot put or delete chunks any more', { timeout: 60_000 }, () => withPage(async (tab) => {
  const answers = await tab.call(() => store.two_openings_with_chunks('fenced-chunks'));
  assert.deepEqual(answers, ['Ok(())', 'Err(Fenced)', 'Err(Fenced)', 'Ok(Some(9))', 'Ok(None)']);
}));

test('a database of the first format opens, and has a place for chunks', { timeout: 60_000 }, () => withPage(async (tab) => {
  const answers = await tab.call(async () => {
    await new Promise((resolve, reject) => {
      const request = indexedDB.open('first-format', 1);
      request.onupgradeneeded = () => {
        for (const name of ['meta', 'log', 'segments', 'blobs', 'pages']) request.result.createObjectStore(name);
        request.transaction.objectStore('meta').put(true, 'blobs');
        request.transaction.objectStore('meta').put(3, 'epoch');
      };
      request.onsuccess = () => resolve(request.result.close());
      request.onerror = () => reject(request.error);
    });
    const driven = await store.Driven.open('first-format');
    return [await driven.put('key', 10), await driven.put_chunk(1, 100_000), await driven.delete_chunk(1)];
  });
  assert.deepEqual(answers, ['Ok(())', 'Ok(())', 'Ok(())']);
}));

test('it keeps pages where the browser takes a Blob and aborts its transaction later', { timeout: 60_000 }, () => withPage(async (tab) => {
  // So WebKit does where it keeps nothing on disk. Every write of an sstable failed, and with it
  // all that followed.
  const found = await tab.call(async () => {
    const { put } = IDBObjectStore.prototype;
    IDBObjectStore.prototype.put = function putBlob(value, key) {
      if (!(value instanceof Blob)) return put.apply(this, [value, key]);
      const request = put.apply(this, ['no Blob', key]);
      this.add('one too many', key);
      return request;
    };
    const open = () => store.Driven.open('late refusal');
    const first = await open();
    for (let n = 0; n < 8; n += 1) await first.put(`key ${n}`, 500_000);
    await first.settled();
    await first.close();
    const second = await open();
    const count = await second.count('key', 'kez');
    await second.close();
    const database = await new Promise((resolve) => {
      const request = indexedDB.open('late refusal');
      request.onsuccess = () => resolve(request.result);
    });
    const transaction = database.transaction(['meta', 'blobs', 'pages']);
    const asked = [transaction.objectStore('meta').get('blobs'), transaction.objectStore('blobs').count(), transaction.objectStore('pages').count()];
    await new Promise((resolve) => { transaction.oncomplete = resolve; });
    database.close();
    const [blobs, inBlobs, inPages] = asked.map(({ result }) => result);
    return { count, blobs, inBlobs, paged: inPages > 50 };
  });
  assert.deepEqual(found, { count: 8, blobs: false, inBlobs: 0, paged: true });
}));

test('a newer format is refused and left as it is', { timeout: 60_000 }, () => withPage(async (tab) => {
  const answer = await tab.call(async () => {
    const newer = (upgrade) => new Promise((resolve, reject) => {
      const request = indexedDB.open('newer', upgrade ? 9 : undefined);
      request.onupgradeneeded = () => request.result.createObjectStore('from the future');
      request.onsuccess = () => {
        const { version, objectStoreNames } = request.result;
        request.result.close();
        resolve([version, ...objectStoreNames]);
      };
      request.onerror = () => reject(request.error);
    });
    await newer(true);
    const error = await store.Driven.open('newer').then(() => 'opened', (reason) => reason);
    return [error, ...await newer(false)];
  });
  assert.deepEqual(answer, ['NewerFormat { found: 9, supported: 2 }', 9, 'from the future']);
}));

test('content of a newer format is refused before anything is changed', { timeout: 60_000 }, () => withPage(async (tab) => {
  const answer = await tab.call(async () => {
    // Everything that the database holds, of a Blob its size.
    const records = () => new Promise((resolve, reject) => {
      const request = indexedDB.open('content');
      request.onerror = () => reject(request.error);
      request.onsuccess = () => {
        const database = request.result;
        const names = [...database.objectStoreNames];
        const transaction = database.transaction(names);
        const asked = names.map((name) => [name, transaction.objectStore(name).getAllKeys(), transaction.objectStore(name).getAll()]);
        transaction.oncomplete = () => {
          database.close();
          resolve(JSON.stringify(asked.map(([name, keys, values]) => [name, keys.result, values.result.map((value) => value.size ?? value)])));
        };
      };
    });
    for (const format of [1, 2]) {
      const driven = await store.Driven.open('content', format);
      await driven.put(`key ${format}`, 10);
      await driven.settled();
      await driven.close();
    }
    const before = await records();
    const error = await store.Driven.open('content', 1).then(() => 'opened', (reason) => reason);
    const unchanged = await records() === before;
    const driven = await store.Driven.open('content', 2);
    return [error, unchanged, await driven.count('key', 'kez')];
  });
  assert.deepEqual(answer, ['NewerFormat { found: 2, supported: 1 }', true, 2]);
}));

test('it closes the database when a newer version asks for it', { timeout: 60_000 }, () => withPage(async (tab) => {
  const answers = await tab.call(async () => {
    const driven = await store.Driven.open('handed-over');
    const first = await driven.put('key', 10);
    const version = await new Promise((resolve, reject) => {
      const request = indexedDB.open('handed-over', 1_000);
      request.onblocked = () => reject(new Error('the store held on to the database'));
      request.onsuccess = () => {
        request.result.close();
        resolve(request.result.version);
      };
      request.onerror = () => reject(request.error);
    });
    return [first, version, await driven.put('late', 10)];
  });
  assert.deepEqual(answers, ['Ok(())', 1_000, 'Err(Closed)']);
}));

test('at the quota it refuses ordinary batches, can be read, and writes again when there is space', { timeout: 540_000 }, () => withFreshProfile(async (tab, context) => {
  const devtools = await context.newCDPSession(tab.page);
  const quota = (bytes) => devtools.send('Storage.overrideQuotaForOrigin', { origin: site.url, quotaSize: bytes });
  await quota(64 << 20);
  const filled = await tab.call(async () => {
    globalThis.driven = await store.Driven.open('full');
    await driven.settled();
    for (let n = 0; ; n += 1) {
      const answer = await driven.put(`room/${String(n).padStart(5, '0')}`, 60_000);
      if (answer !== 'Ok(())') return { answer, n };
    }
  });
  console.log(`${filled.n} values of 60 KB fit into 64 MiB`);
  assert.equal(filled.answer, 'Err(QuotaExceeded)');
  assert.ok(filled.n > 400);
  const full = await tab.call(async () => {
    await driven.settled();
    return [driven.is_full(), await driven.count('room/', 'room0'), await driven.put('ordinary', 1000)];
  });
  assert.deepEqual(full, [true, filled.n, 'Err(QuotaExceeded)']);

  const freed = await tab.call(async () => {
    const forgotten = await driven.delete_range('room/', 'room/00300');
    await driven.settled();
    const start = performance.now();
    let answer;
    do {
      await new Promise((resolve) => setTimeout(resolve, 500));
      answer = await driven.put('again', 1000);
    } while (answer !== 'Ok(())' && performance.now() - start < 120_000);
    return [forgotten, answer, await driven.count('room/', 'room0')];
  });
  assert.deepEqual(freed, ['Ok(())', 'Ok(())', filled.n - 300]);

  // The browser frees a deleted file only when the last handle on it has been collected as garbage,
  // so the room of 300 values comes back bit by bit.
  const refilled = await tab.call(async () => {
    const start = performance.now();
    let written = 0;
    while (written < 200 && performance.now() - start < 120_000) {
      if (await driven.put(`more/${written}`, 60_000) === 'Ok(())') written += 1;
      else await new Promise((resolve) => setTimeout(resolve, 500));
    }
    return [written, Math.round((performance.now() - start) / 1000)];
  });
  console.log(`${refilled[0]} more after 300 were deleted, in ${refilled[1]} s`);
  assert.equal(refilled[0], 200);
  await tab.call(async () => {
    for (let n = 0; await driven.put(`rest/${n}`, 60_000) === 'Ok(())'; n += 1);
  });
  await quota(256 << 20);
  const raised = await tab.call(async () => {
    const start = performance.now();
    let answer;
    do {
      await new Promise((resolve) => setTimeout(resolve, 500));
      answer = await driven.put('raised', 1000);
    } while (answer !== 'Ok(())' && performance.now() - start < 120_000);
    await driven.close();
    return answer;
  });
  assert.equal(raised, 'Ok(())');
}));

// A disk that others fill, or a browser that allows less: not even the epoch can be put, and there
// is no reserve that would make room for it.
test('a store opened far over its quota is read only until there is space', { timeout: 300_000 }, () => withFreshProfile(async (tab, context) => {
  const devtools = await context.newCDPSession(tab.page);
  const quota = (bytes) => devtools.send('Storage.overrideQuotaForOrigin', { origin: site.url, quotaSize: bytes });
  await quota(256 << 20);
  await tab.call(async () => {
    const driven = await store.Driven.open('over');
    for (let n = 0; n < 300; n += 1) await driven.put(`room/${String(n).padStart(5, '0')}`, 60_000);
    await driven.settled();
    await driven.close();
  });
  await quota(4 << 20);
  // Chromium remembers for half a minute how much room it found.
  const over = await tab.call(async () => {
    const start = performance.now();
    for (;;) {
      globalThis.driven = await store.Driven.open('over');
      if (driven.is_full() || performance.now() - start > 120_000) break;
      await driven.close();
      await new Promise((resolve) => setTimeout(resolve, 2_000));
    }
    return [driven.is_full(), await driven.count('room/', 'room0'), await driven.put('ordinary', 1000), await driven.delete_range('room/', 'room/00100')];
  });
  assert.deepEqual(over, [true, 300, 'Err(QuotaExceeded)', 'Err(QuotaExceeded)']);
  assert.equal(await tab.call(() => driven.count('room/', 'room0')), 300);
  await quota(256 << 20);
  const again = await tab.call(async () => {
    const start = performance.now();
    let answer;
    do {
      await new Promise((resolve) => setTimeout(resolve, 500));
      answer = await driven.put('ordinary', 1000);
    } while (answer !== 'Ok(())' && performance.now() - start < 120_000);
    const forgotten = await driven.delete_range('room/', 'room/00100');
    await driven.close();
    const reopened = await store.Driven.open('over');
    return [answer, forgotten, reopened.is_full(), await reopened.count('room/', 'room0'), await reopened.count('ordinary', 'ordinaryz')];
  });
  assert.deepEqual(again, ['Ok(())', 'Ok(())', false, 200, 1]);
}));

test('what it costs', { skip: !process.env.MEASURE, timeout: 300_000 }, () => withPage(async (tab) => {
  for (const line of await tab.call(() => store.measure('measure'))) console.log(line);
}));
