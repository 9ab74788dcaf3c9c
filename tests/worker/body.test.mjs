// How bodies cross between the browser and the engine: small ones in one call, large ones as they
// are asked for, and what becomes of them when an engine dies.

import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';
import { answer } from '../../worker/service/answer.ts';
import { Rest } from '../../worker/service/body.ts';
import { engine, freshServer, scope } from './scope.mjs';

const path = '/_matrix/client/v3/x';
const chunk = 40 * 1024;

let server;

beforeEach(() => {
  ({ server } = freshServer());
});

const send = (method, body) => answer(server, new Request(new URL(path, scope), { method, body, duplex: 'half' }), path);

/**
 * A body of `count` chunks, each filled with its number; counts how many were taken, and whether
 * the rest was refused.
 */
function source(count, { breaksAt } = {}) {
  const seen = { taken: 0, cancelled: false };
  const stream = new ReadableStream(
    {
      pull(controller) {
        if (seen.taken === breaksAt) { controller.error(new Error('the page went away')); return; }
        if (seen.taken === count) { controller.close(); return; }
        controller.enqueue(new Uint8Array(chunk).fill(seen.taken));
        seen.taken += 1;
      },
      cancel() { seen.cancelled = true; },
    },
    { highWaterMark: 0 },
  );
  return { seen, stream };
}

/** All of what an engine is given. */
async function all({ body, rest }) {
  const parts = [body];
  for (let part = await rest?.next(); part; part = await rest.next()) parts.push(part);
  return Buffer.concat(parts);
}

/** A large answer as the engine makes it, piece by piece. */
function pieces(...contents) {
  const made = { whole: false, asked: 0, cancelled: false, freed: 0 };
  made.next = async () => { made.asked += 1; return contents.shift(); };
  made.cancel = () => { made.cancelled = true; };
  made.free = () => { made.freed += 1; };
  return made;
}

test('a small body crosses whole, in one call, whatever pieces it came in', async () => {
  const { stream } = source(1);
  const answers = [send('PUT', 'x'.repeat(60_000)), send('PUT', stream), send('POST', '')];
  const { calls } = await engine(0, 3);
  assert.deepEqual(calls.map(({ body, rest }) => [body.length, rest]).sort(([a], [b]) => a - b), [[0, undefined], [chunk, undefined], [60_000, undefined]]);
  calls.forEach((call) => call.answer());
  for (const each of answers) assert.equal((await each).status, 200);
});

test('of a large body no more is read than the engine asks for', async () => {
  const { seen, stream } = source(100);
  const refused = send('POST', stream);
  const { calls } = await engine(0, 1);
  assert.ok(seen.taken <= 3, `${seen.taken} chunks were read before anybody asked`);
  calls[0].answer(413);
  assert.equal((await refused).status, 413);
  assert.ok(seen.taken <= 3 && seen.cancelled);
});

test('a large body arrives in order', async () => {
  const { stream } = source(9);
  const sending = send('PUT', stream);
  const { calls } = await engine(0, 1);
  const body = await all(calls[0]);
  assert.equal(body.length, 9 * chunk);
  for (let n = 0; n < 9; n += 1) assert.ok(body.subarray(n * chunk, (n + 1) * chunk).every((byte) => byte === n));
  calls[0].answer();
  assert.equal((await sending).status, 200);
});

test('the engine is told when a body breaks off', async () => {
  const { stream } = source(9, { breaksAt: 4 });
  const sending = send('PUT', stream);
  const { calls } = await engine(0, 1);
  await assert.rejects(() => all(calls[0]), /the page went away/);
  calls[0].answer(400);
  assert.equal((await sending).status, 400);
});

test('where a request has no stream, as in Firefox, its body is read all the same', async () => {
  const request = new Request(new URL(path, scope), { method: 'PUT', body: new Uint8Array(5 * chunk).fill(7) });
  Object.defineProperty(request, 'body', { value: undefined });
  const sending = answer(server, request, path);
  const { calls } = await engine(0, 1);
  const body = await all(calls[0]);
  assert.ok(body.length === 5 * chunk && body.every((byte) => byte === 7));
  calls[0].answer();
  assert.equal((await sending).status, 200);
});

test('a large request is done again after a panic of another one, unless its body was begun', async () => {
  const [untouched, begun] = [source(5), source(5)];
  const [first, second] = [send('PUT', untouched.stream), send('PUT', begun.stream)];
  const dying = await engine(0, 2);
  await dying.calls[1].rest.next();
  dying.panic(0.5); // A call of neither.
  const next = await engine(1, 1);
  assert.equal((await all(next.calls[0])).length, 5 * chunk);
  next.calls[0].answer();
  assert.deepEqual([(await first).status, (await second).status], [200, 500]);
  assert.equal(next.calls.length, 1);
});

test('a small answer leaves as it is, also an empty one', async () => {
  const answers = [send('POST', '{}'), send('POST', '{}')];
  const { calls } = await engine(0, 2);
  calls[0].answer(200, new Uint8Array([1, 2, 3]));
  calls[1].answer(200, new Uint8Array());
  assert.deepEqual(await Promise.all(answers.map(async (sent) => [...new Uint8Array(await (await sent).arrayBuffer())])), [[1, 2, 3], []]);
});

test('a large answer leaves piece by piece, and not ahead of its reader', async () => {
  const reading = send('POST', '{}');
  const { calls } = await engine(0, 1);
  const large = pieces(new Uint8Array([1, 2]), new Uint8Array([3]), new Uint8Array([4, 5]));
  calls[0].answer(200, large);
  const reader = (await reading).body.getReader();
  assert.equal(large.asked, 0);
  assert.deepEqual([...(await reader.read()).value], [1, 2]);
  assert.equal(large.asked, 1);
  assert.deepEqual([...(await reader.read()).value], [3]);
  assert.deepEqual([...(await reader.read()).value], [4, 5]);
  assert.equal((await reader.read()).done, true);
  assert.equal(large.freed, 1);
});

test('a large answer that nobody reads on is dropped', async () => {
  const reading = send('POST', '{}');
  const { calls } = await engine(0, 1);
  const large = pieces(new Uint8Array([1, 2]), new Uint8Array([3]));
  calls[0].answer(200, large);
  const reader = (await reading).body.getReader();
  await reader.read();
  await reader.cancel();
  assert.deepEqual([large.asked, large.cancelled, large.freed], [1, true, 1]);
});

// Of a request that its page gave up Chromium tells nothing but this: nobody takes the answer.
test('the answer to a large body is taken from the engine when somebody takes it, and dropped when nobody does', async () => {
  const sending = [source(30), source(30), source(9)].map(({ stream }) => send('POST', stream));
  const { calls } = await engine(0, 3);
  const answers = calls.map(() => pieces(new Uint8Array([1])));
  await Promise.all(calls.map(async (call, n) => { await all(call); call.answer(200, answers[n]); }));
  const [taken, dropped, small] = (await Promise.all(sending)).map(({ body }) => body.getReader());
  const reading = dropped.read();
  await new Promise((resolve) => setTimeout(resolve, 5));
  await dropped.cancel();
  await reading;
  assert.deepEqual([...(await taken.read()).value], [1]);
  assert.deepEqual([answers[1].asked, answers[1].cancelled, answers[1].freed], [0, true, 1]);
  // What came at once is answered at once.
  void small.read();
  await new Promise((resolve) => setTimeout(resolve, 0));
  assert.equal(answers[2].asked, 1);
});

test('an answer that is being made when the engine stops still leaves; when it crashes, the reader gets an error', async () => {
  const reading = [send('POST', '{}'), send('POST', '{}')];
  const running = await engine(0, 2);
  const [orderly, hopeless] = [pieces(new Uint8Array([1]), new Uint8Array([2])), pieces(new Uint8Array([3]), new Uint8Array([4]))];
  running.calls[0].answer(200, orderly);
  running.calls[1].answer(200, hopeless);
  const [first, second] = (await Promise.all(reading)).map(({ body }) => body.getReader());
  await first.read();
  await second.read();
  await server.stop();
  assert.equal(running.closed, true);
  assert.deepEqual([...(await first.read()).value], [2]);
  hopeless.next = () => new Promise(() => undefined);
  const broken = second.read();
  running.panic(0.5);
  await assert.rejects(() => broken, /a panic of the test/);
});

test('an answer that is there as a whole leaves to its end whatever becomes of the engine', async () => {
  // The rest of it was refused when another request panicked: the client, which had its status
  // already, saw it break off, and nobody asked again.
  const reading = send('POST', '{}');
  const running = await engine(0, 1);
  const large = Object.assign(pieces(new Uint8Array([1]), new Uint8Array([2]), new Uint8Array([3])), { whole: true });
  running.calls[0].answer(200, large);
  const reader = (await reading).body.getReader();
  assert.deepEqual([...(await reader.read()).value], [1]);
  running.panic(0.5);
  await new Promise((resolve) => setTimeout(resolve, 5));
  assert.deepEqual([...(await reader.read()).value], [2]);
  assert.deepEqual([...(await reader.read()).value], [3]);
  assert.equal((await reader.read()).done, true);
  assert.equal(large.freed, 1);
});

test('a body that pauses for ever, or whose request is given up, is not waited for and is no whole body', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const silent = () => new ReadableStream({ pull: () => new Promise(() => undefined) }).getReader();
  const paused = new Rest(silent(), new AbortController().signal).next();
  t.mock.timers.tick(60_000);
  await assert.rejects(paused, /timed out/);

  const page = new AbortController();
  const givenUp = new Rest(silent(), page.signal).next();
  page.abort();
  await assert.rejects(givenUp, { name: 'AbortError' });
});
