// What becomes of requests when the engine under them dies, opens late, or hands over.

import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';
import { answer } from '../../worker/service/answer.ts';
import { engines, failures } from './glue.mjs';
import { engine, freshServer, scope } from './scope.mjs';

let news;
let server;
let locked;

beforeEach(() => {
  ({ news, server, locked } = freshServer());
});

const request = (method, path) => answer(server, new Request(`${scope}${path}`, { method, ...(method === 'GET' ? {} : { body: '{}' }) }), `/${path}`);

test('requests that come before the server runs wait for it, and start it once', async () => {
  const both = Promise.all([request('GET', 'a'), request('GET', 'b')]);
  const first = await engine(0, 2);
  assert.deepEqual(locked, [`ephapse ${scope}`]);
  assert.equal(first.database, 'ephapse /app/');
  assert.equal(first.publicUrl, 'https://chat.example/app');
  first.calls.forEach(({ answer: respond }) => respond());
  assert.deepEqual((await both).map(({ status }) => status), [200, 200]);
  assert.equal(engines.length, 1);
});

test('status is told also where the browser does not say how much is stored', async () => {
  // In WebKitGTK every status was an error, since it has no `navigator.storage`.
  delete globalThis.navigator.storage;
  const asked = server.status();
  await engine(0, 0);
  const { position, storageUsed, storageQuota } = await asked;
  assert.deepEqual({ position, storageUsed, storageQuota }, { position: 7, storageUsed: 0, storageQuota: 0 });
});

test('a panic costs one request: the others are done again on an instance made from disk', async () => {
  const culprit = request('POST', 'createRoom');
  const others = [request('GET', 'sync'), request('PUT', 'send/1'), request('POST', 'keys/query')];
  const first = await engine(0, 4);
  first.panic(first.calls.find(({ path }) => path === '/createRoom').call);
  const second = await engine(1, 3);
  assert.deepEqual(second.calls.map(({ path }) => path).sort(), ['/keys/query', '/send/1', '/sync']);
  second.calls.forEach(({ answer: respond }) => respond());
  assert.deepEqual((await Promise.all(others)).map(({ status }) => status), [200, 200, 200]);
  const failed = await culprit;
  assert.equal(failed.status, 500);
  assert.equal((await failed.json()).errcode, 'M_UNKNOWN');
  assert.equal(news.filter((item) => item.news === 'restarted').length, 1);
  assert.equal((await server.status()).rebuilds, 1);
});

test('what had been written when another request panicked is answered by the instance that wrote it, before the next one opens', async () => {
  const creating = request('POST', 'createRoom');
  const culprit = request('POST', 'login');
  const first = await engine(0, 2);
  const [create, logIn] = ['/createRoom', '/login'].map((path) => first.calls.find((call) => call.path === path));
  first.written.add(create.call);
  first.panic(logIn.call);
  assert.equal((await culprit).status, 500);
  const next = request('GET', 'sync');
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(engines[1]?.calls, undefined, 'the database is still in use');
  create.answer(200);
  assert.equal((await creating).status, 200);
  const second = await engine(1, 1);
  assert.deepEqual(second.calls.map(({ path }) => path), ['/sync']);
  second.calls[0].answer();
  assert.equal((await next).status, 200);
});

test('what had been written and is not answered is repeated where the method allows it, and otherwise answered 500', async () => {
  const creating = request('POST', 'createRoom');
  const sending = request('PUT', 'send/1');
  const culprit = request('POST', 'login');
  const first = await engine(0, 3);
  for (const { call, path } of first.calls) if (path !== '/login') first.written.add(call);
  first.panic(first.calls.find(({ path }) => path === '/login').call);
  const second = await engine(1, 1);
  assert.deepEqual(second.calls.map(({ path }) => path), ['/send/1']);
  second.calls[0].answer();
  assert.deepEqual((await Promise.all([creating, sending, culprit])).map(({ status }) => status), [500, 200, 500]);
});

test('a request that ended just when another panicked is not done again', async () => {
  const done = request('POST', 'createRoom');
  const culprit = request('POST', 'login');
  const first = await engine(0, 2);
  first.calls.find(({ path }) => path === '/createRoom').answer();
  first.panic(first.calls.find(({ path }) => path === '/login').call);
  assert.deepEqual((await Promise.all([done, culprit])).map(({ status }) => status), [200, 500]);
});

test('a request that panics again and again is answered 500 once, and never repeated', async () => {
  const culprit = request('GET', 'poison');
  const first = await engine(0, 1);
  first.panic(first.calls[0].call);
  assert.equal((await culprit).status, 500);
  const next = request('GET', 'fine');
  const second = await engine(1, 1);
  assert.deepEqual(second.calls.map(({ path }) => path), ['/fine']);
  second.calls[0].answer();
  assert.equal((await next).status, 200);
});

test('a trap without a panic, such as out of memory, ends the instance too', async () => {
  const culprit = request('GET', 'large');
  const first = await engine(0, 1);
  first.current = first.calls[0].call;
  server.trapped(new WebAssembly.RuntimeError('unreachable'));
  assert.equal((await culprit).status, 500);
  const next = request('GET', 'fine');
  (await engine(1, 1)).calls[0].answer();
  assert.equal((await next).status, 200);
});

test('a panic of a background task costs no request', async () => {
  const reading = request('GET', 'sync');
  (await engine(0, 1)).panic(0);
  (await engine(1, 1)).calls[0].answer();
  assert.equal((await reading).status, 200);
});

test('a database that does not open is said with the next step, and tried again', async () => {
  failures.push({ kind: 'newer-format', message: 'the database has format 9' });
  const refused = await request('GET', 'versions');
  assert.equal(refused.status, 503);
  assert.match((await refused.json()).error, /format 9.*Nothing was changed\. Reload all tabs/);
  assert.equal(news.at(-1).failure.code, 'newer-database');
  const next = request('GET', 'versions');
  (await engine(1, 1)).calls[0].answer();
  assert.equal((await next).status, 200);
});

test('a record that cannot be read is named, and nobody is told to try again', async () => {
  failures.push({ kind: 'unreadable', message: 'the record `identity` cannot be read: it ends early' });
  const { error } = await (await request('GET', 'versions')).json();
  assert.equal(error, 'the record `identity` cannot be read: it ends early, and the server cannot run without it. '
    + 'Restore the browser\'s profile from a backup, or delete this site\'s data to begin anew: accounts and rooms are lost then.');
  assert.equal(news.at(-1).failure.code, 'server-failed');
});

test('a database that the browser closed is opened again', async () => {
  const asking = request('GET', 'versions');
  const first = await engine(0, 1);
  first.lost = true;
  first.calls[0].answer(503);
  (await engine(1, 1)).calls[0].answer();
  assert.equal((await asking).status, 200);
});

test('a request during whose question for the database another one panics is done again', async () => {
  // It was answered 500, as if it had been the one that panicked.
  const asking = request('GET', 'versions');
  const culprit = request('POST', 'login');
  const first = await engine(0, 2);
  const asked = new Promise((resolve) => {
    first.hasLostDatabase = () => {
      resolve();
      return new Promise(() => undefined);
    };
  });
  first.calls.find(({ path }) => path === '/versions').answer(503);
  await asked;
  first.panic(first.calls.find(({ path }) => path === '/login').call);
  (await engine(1, 1)).calls[0].answer();
  assert.deepEqual((await Promise.all([asking, culprit])).map(({ status }) => status), [200, 500]);
});

test('a server that is only busy is left alone', async () => {
  const asking = request('GET', 'versions');
  (await engine(0, 1)).calls[0].answer(503);
  assert.equal((await asking).status, 503);
  assert.equal(engines.length, 1);
});

test('at a hand-over nothing is held, and stopping closes the database before the lock is let go', async () => {
  const first = request('GET', 'versions');
  const running = await engine(0, 1);
  running.calls[0].answer();
  await first;
  server.handOver();
  assert.equal(running.holding, false);
  const stopping = server.stop();
  await stopping;
  assert.equal(running.closed, true);
  await new Promise((resolve) => setTimeout(resolve, 1));
  assert.deepEqual(locked, []);
  const later = request('GET', 'versions');
  (await engine(1, 1)).calls[0].answer();
  assert.equal((await later).status, 200);
});

test('stopping lets what is under way end; what comes meanwhile is answered by the next engine, which waits for that', async () => {
  const underWay = [request('GET', 'sync'), request('POST', 'createRoom')];
  const first = await engine(0, 2);
  const stopping = server.stop();
  const later = request('GET', 'versions');
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual([first.holding, first.closed, engines.length], [false, false, 1]);
  for (const { answer: respond } of first.calls) respond();
  assert.deepEqual((await Promise.all(underWay)).map(({ status }) => status), [200, 200]);
  await stopping;
  assert.equal(first.closed, true);
  const second = await engine(1, 1);
  second.calls[0].answer();
  assert.equal((await later).status, 200);
  assert.equal(second.holding, true);
  assert.deepEqual(news.filter((item) => item.news === 'restarted'), []);
  assert.equal((await server.status()).rebuilds, 0);
  assert.equal(engines.length, 2);
});

test('a panic while the server stops costs its request and no more', async () => {
  const underWay = [request('GET', 'sync'), request('POST', 'createRoom')];
  const first = await engine(0, 2);
  const stopping = server.stop();
  await new Promise((resolve) => setTimeout(resolve, 5));
  first.panic(first.calls.find(({ path }) => path === '/createRoom').call);
  await stopping;
  (await engine(1, 1)).calls[0].answer();
  assert.deepEqual((await Promise.all(underWay)).map(({ status }) => status), [200, 500]);
  assert.equal(engines.length, 2);
});

test('stopping lets go of the lock also where no engine runs', async () => {
  failures.push({ kind: 'failed', message: 'not today' });
  assert.equal((await request('GET', 'versions')).status, 503);
  await server.stop();
  await new Promise((resolve) => setTimeout(resolve, 1));
  assert.deepEqual(locked, [], 'after a start that failed');

  const culprit = request('GET', 'poison');
  const second = await engine(1, 1);
  second.panic(second.calls[0].call);
  assert.equal((await culprit).status, 500);
  await server.stop();
  await new Promise((resolve) => setTimeout(resolve, 1));
  assert.deepEqual(locked, [], 'after a panic');
});

test('stopped twice, with a request between, it is stopped in the end', async () => {
  const first = request('GET', 'a');
  (await engine(0, 1)).calls[0].answer();
  await first;
  const stops = [server.stop()];
  const between = request('GET', 'b');
  await Promise.resolve();
  stops.push(server.stop());
  (await engine(1, 1)).calls[0].answer();
  assert.equal((await between).status, 200);
  await Promise.all(stops);
  assert.deepEqual(engines.map(({ closed }) => closed), [true, true]);
  await new Promise((resolve) => setTimeout(resolve, 1));
  assert.deepEqual(locked, []);
});

test('a name of another node is not answered by this one', async () => {
  const other = 'k51qzi5uqu5dlvj2baxnqndepeb86cbk3ng7n3i46uzyxzyqj2xjonzllnv0v8';
  const response = await answer(server, new Request(`https://${other}/_matrix/federation/v1/version`), '/_matrix/federation/v1/version');
  assert.equal(response.status, 404);
  assert.equal((await response.json()).errcode, 'M_UNRECOGNIZED');
});
