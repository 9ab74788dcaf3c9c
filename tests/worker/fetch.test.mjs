// The page's own fetch, when the worker ends under a request or under its answer.

import assert from 'node:assert/strict';
import { afterEach, test } from 'node:test';
import { Pause, retryingFetch } from '../../worker/page/fetch.ts';

const url = 'https://chat.example/_matrix/client/v3/sync';
const global = globalThis.fetch;
const gone = () => Promise.reject(new TypeError('the worker ended'));

afterEach(() => { globalThis.fetch = global; });

/**
 * The fetch of a page that is controlled; `answers` says what each request gets. Bodies that were
 * sent are in `sent`.
 */
function page(...answers) {
  const sent = [];
  globalThis.fetch = async (request) => {
    sent.push(await request.text());
    return answers.shift()();
  };
  return { sent, fetch: retryingFetch({ controlled: async () => undefined }, new Pause()) };
}

/** An answer of these pieces, after which it breaks off or ends. */
function answer(pieces, { breaksOff = false } = {}) {
  const left = [...pieces];
  const body = new ReadableStream(
    {
      pull(controller) {
        if (left.length > 0) controller.enqueue(Buffer.from(left.shift()));
        else if (breaksOff) controller.error(new TypeError('the worker ended'));
        else controller.close();
      },
    },
    { highWaterMark: 0 },
  );
  return { left, respond: async () => new Response(body, { status: 201, headers: { etag: '"x"' } }) };
}

test('a request under which the worker ends is repeated with its body where the method allows it', async () => {
  const { fetch, sent } = page(gone, gone, answer(['done']).respond);
  assert.equal(await (await fetch(url, { method: 'PUT', body: 'a message' })).text(), 'done');
  assert.deepEqual(sent, ['a message', 'a message', 'a message']);
  await assert.rejects(() => page(gone, gone).fetch(url, { method: 'POST', body: '{}' }), /the worker ended/);
});

test('an answer that breaks off is asked for again before the client sees any of it', async () => {
  const { fetch, sent } = page(answer(['a lar'], { breaksOff: true }).respond, answer(['a large', ' answer']).respond);
  const response = await fetch(url);
  assert.deepEqual([response.status, response.headers.get('etag'), await response.text()], [201, '"x"', 'a large answer']);
  assert.equal(sent.length, 2);
});

test('an answer that cannot be asked for again arrives as it comes', async () => {
  const large = answer(['a lar', 'ge answer'], { breaksOff: true });
  const response = await page(large.respond).fetch(url, { method: 'POST', body: '{}' });
  assert.equal(large.left.length, 2);
  await assert.rejects(() => response.text(), /the worker ended/);
});

test('a file is sent and arrives as it comes, and no copy of it is made', async () => {
  const [file, done] = [answer(['a lar', 'ge file']), answer(['done'])];
  const { fetch, sent } = page(file.respond, done.respond);
  const response = await fetch('https://chat.example/some/path/_matrix/client/v1/media/download/chat.example/abc');
  assert.equal(file.left.length, 2);
  assert.equal(await response.text(), 'a large file');

  const { clone } = Request.prototype;
  let copies = 0;
  Request.prototype.clone = function counted() {
    copies += 1;
    return clone.call(this);
  };
  try {
    await fetch('https://chat.example/some/path/_matrix/media/v3/upload', { method: 'POST', body: 'a file' });
  } finally {
    Request.prototype.clone = clone;
  }
  assert.deepEqual([sent, copies], [['', 'a file'], 0]);
});

test('a request that its client has given up is not repeated', async () => {
  const controller = new AbortController();
  const { fetch, sent } = page(() => { controller.abort(); return gone(); });
  await assert.rejects(() => fetch(url, { signal: controller.signal }), /the worker ended/);
  assert.equal(sent.length, 1);
});
