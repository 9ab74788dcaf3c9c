// Files on `ephapse serve`: 100 MiB up and down with little of it in memory, and what is left of an
// upload that is cut off.

import assert from 'node:assert/strict';
import { createHash, randomFillSync } from 'node:crypto';
import { once } from 'node:events';
import { readdir } from 'node:fs/promises';
import http from 'node:http';
import { join } from 'node:path';
import { test as anyTest } from 'node:test';
import { crc32, deflateSync } from 'node:zlib';
import { Server } from './server.mjs';

const test = (name, body) => anyTest(name, { timeout: 240_000 }, body);
const MIB = 1 << 20;
const upload = '/_matrix/media/v3/upload';

/** A request that is sent piece by piece; resolves to the request, to go on with. */
function begin(server, token, path, headers = {}) {
  const { hostname, port } = new URL(server.url);
  return http.request({ hostname, port, method: 'POST', path, headers: { authorization: `Bearer ${token}`, ...headers } });
}

/** The answer of a request, read as JSON. */
async function answerOf(request) {
  const [response] = await once(request, 'response');
  let body = '';
  for await (const part of response) body += part;
  return { status: response.statusCode, body: JSON.parse(body) };
}

/** Every chunk in the server's directory. */
async function chunks(server) {
  const entries = await readdir(join(server.directory, 'chunks'), { recursive: true, withFileTypes: true }).catch(() => []);
  return entries.filter((entry) => entry.isFile()).map(({ name }) => name);
}

/** Ends when `look` gives true. */
async function until(look) {
  for (let waited = 0; !(await look()); waited += 50) {
    assert.ok(waited < 20_000, 'waited in vain');
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

test('100 MiB go up and down with at most 4 MiB of them in memory', async (t) => {
  const server = await Server.start(t);
  const { access_token: token } = await server.register('alice');
  const piece = Buffer.alloc(MIB);
  let most = 0;
  const measure = async () => { most = Math.max(most, await server.process.memory()); };
  /** A file that is made as it is sent. */
  const send = async (length) => {
    const request = begin(server, token, upload, { 'content-length': length, 'content-type': 'video/mp4' });
    const answered = answerOf(request);
    const sha = createHash('sha256');
    for (let sent = 0; sent < length; sent += MIB) {
      randomFillSync(piece);
      sha.update(piece);
      if (!request.write(Buffer.from(piece))) await once(request, 'drain');
      await measure();
    }
    request.end();
    const { status, body } = await answered;
    assert.equal(status, 200, JSON.stringify(body));
    return { sha: sha.digest('hex'), path: `/_matrix/client/v1/media/download/${body.content_uri.slice('mxc://'.length)}` };
  };
  const receive = async ({ path, sha }) => {
    const response = await fetch(server.url + path, { headers: { authorization: `Bearer ${token}` } });
    assert.equal(response.status, 200);
    const found = createHash('sha256');
    let length = 0;
    for await (const part of response.body) {
      found.update(part);
      length += part.length;
      if (length % (8 * MIB) < part.length) await measure();
    }
    assert.equal(found.digest('hex'), sha);
    assert.equal(Number(response.headers.get('content-length')), length);
  };
  // What code and caches take that are used for the first time.
  await receive(await send(3 * MIB));
  const before = await server.process.memory();
  most = 0;
  const file = await send(100 * MIB);
  t.diagnostic(`${before.toFixed(1)} MB resident before, ${most.toFixed(1)} MB at most on the way up`);
  assert.ok(most < before + 4, `${before} MB, then ${most} MB`);
  most = 0;
  await receive(file);
  t.diagnostic(`${most.toFixed(1)} MB at most on the way down`);
  assert.ok(most < before + 4, `${before} MB, then ${most} MB`);

  assert.equal(await server.stop(), 0);
  await server.run();
  await receive(file);
});

test('an upload whose client goes away, or whose server is killed, leaves nothing', async (t) => {
  const server = await Server.start(t);
  const { access_token: token } = await server.register('alice');
  const half = async () => {
    const request = begin(server, token, upload, { 'content-length': 40 * MIB });
    request.on('error', () => undefined);
    for (let n = 0; n < 10; n += 1) {
      if (!request.write(randomFillSync(Buffer.alloc(MIB)))) await once(request, 'drain');
    }
    await until(async () => (await chunks(server)).length >= 5);
    return request;
  };
  (await half()).destroy();
  await until(async () => (await chunks(server)).length === 0);
  await half();
  await server.stop('SIGKILL');
  assert.ok((await chunks(server)).length >= 5, 'the test would show nothing otherwise');
  await server.run();
  await server.ok('GET', '/_matrix/client/v3/account/whoami', token);
  await until(async () => (await chunks(server)).length === 0);
});

test('what is too large is refused before it is sent, and where its length is not said', async (t) => {
  const server = await Server.start(t, ['--max-upload', String(2 * MIB)]);
  const { access_token: token } = await server.register('alice');
  assert.deepEqual(await server.ok('GET', '/_matrix/client/v1/media/config', token), { 'm.upload.size': 2 * MIB });
  const declared = begin(server, token, upload, { 'content-length': 2 * MIB + 1 });
  declared.flushHeaders();
  const { status, body } = await answerOf(declared);
  assert.deepEqual([status, body.errcode], [413, 'M_TOO_LARGE']);
  declared.on('error', () => undefined).destroy();
  const chunked = begin(server, token, upload);
  chunked.on('error', () => undefined);
  const answered = answerOf(chunked);
  chunked.end(Buffer.alloc(3 * MIB));
  assert.deepEqual([(await answered).status, (await answered).body.errcode], [413, 'M_TOO_LARGE']);
  assert.deepEqual(await chunks(server), []);
});

/** A chunk of a PNG. */
function pngChunk(type, data) {
  const body = Buffer.concat([Buffer.from(type), data]);
  const chunk = Buffer.alloc(body.length + 8);
  chunk.writeUInt32BE(data.length, 0);
  body.copy(chunk, 4);
  chunk.writeUInt32BE(crc32(body), body.length + 4);
  return chunk;
}

/** A PNG of one colour that says to be so large, and has so many lines. */
function png(width, height, lines = height) {
  const head = Buffer.alloc(13);
  head.writeUInt32BE(width, 0);
  head.writeUInt32BE(height, 4);
  head.set([8, 2, 0, 0, 0], 8);
  const line = Buffer.concat([Buffer.from([0]), Buffer.alloc(width * 3, 200)]);
  const data = deflateSync(Buffer.concat(Array.from({ length: lines }, () => line)), { level: 1 });
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
  return Buffer.concat([signature, pngChunk('IHDR', head), pngChunk('IDAT', data), pngChunk('IEND', Buffer.alloc(0))]);
}

test('a thumbnail is made of a picture, a bomb is refused, and others are answered meanwhile', async (t) => {
  const server = await Server.start(t);
  const { access_token: token } = await server.register('alice');
  const headers = { authorization: `Bearer ${token}` };
  const put = async (body) => {
    const response = await fetch(server.url + upload, { method: 'POST', headers: { ...headers, 'content-type': 'image/png' }, body });
    return (await response.json()).content_uri.slice('mxc://'.length);
  };
  const thumbnail = (id, query) => fetch(`${server.url}/_matrix/client/v1/media/thumbnail/${id}?${query}`, { headers });
  const small = await thumbnail(await put(png(1000, 500)), 'width=320&height=240');
  const bytes = Buffer.from(await small.arrayBuffer());
  assert.deepEqual([small.status, small.headers.get('content-type'), bytes.readUInt32BE(16), bytes.readUInt32BE(20)], [200, 'image/png', 320, 160]);

  // Small as a file, and large as a picture: the one that says it at once, and the largest that is
  // taken.
  const bomb = await thumbnail(await put(png(30_000, 30_000, 1)), 'width=32&height=32&method=crop');
  assert.deepEqual([bomb.status, (await bomb.json()).errcode], [413, 'M_TOO_LARGE']);
  const large = await put(png(6000, 5000));
  const made = thumbnail(large, 'width=32&height=32&method=crop');
  let slowest = 0;
  let done = false;
  const ended = made.then((response) => { done = true; return response; });
  while (!done) {
    const began = performance.now();
    await server.ok('GET', '/_matrix/client/v3/account/whoami', token);
    slowest = Math.max(slowest, performance.now() - began);
  }
  t.diagnostic(`${Math.round(slowest)} ms at most for others`);
  assert.equal((await ended).status, 200);
  assert.ok(slowest < 1000, `${slowest} ms`);
  const text = await thumbnail(await put(Buffer.from('<svg/>')), 'width=32&height=32');
  assert.deepEqual([text.status, (await text.json()).errcode], [400, 'M_UNKNOWN']);
});

test('a part of a file is sent where only that is asked for', async (t) => {
  const server = await Server.start(t);
  const { access_token: token } = await server.register('alice');
  const headers = { authorization: `Bearer ${token}` };
  const body = randomFillSync(Buffer.alloc(2 * MIB));
  const { content_uri: uri } = await (await fetch(server.url + upload, { method: 'POST', headers, body })).json();
  const path = `/_matrix/client/v1/media/download/${uri.slice('mxc://'.length)}`;
  const part = await fetch(server.url + path, { headers: { ...headers, range: 'bytes=1000000-1100000' } });
  assert.deepEqual([part.status, part.headers.get('content-range'), part.headers.get('content-length')], [206, `bytes 1000000-1100000/${2 * MIB}`, '100001']);
  assert.ok(body.subarray(1_000_000, 1_100_001).equals(Buffer.from(await part.arrayBuffer())));
  const none = await fetch(server.url + path, { headers: { ...headers, range: `bytes=${2 * MIB}-` } });
  assert.deepEqual([none.status, none.headers.get('content-range')], [416, `bytes */${2 * MIB}`]);
});
