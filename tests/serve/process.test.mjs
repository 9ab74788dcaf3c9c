// `ephapse serve` as a process: how it starts, what it says when it cannot, how it leaves.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { chmod, readFile, stat, writeFile } from 'node:fs/promises';
import http from 'node:http';
import https from 'node:https';
import net from 'node:net';
import { join } from 'node:path';
import { test as anyTest } from 'node:test';
import { promisify } from 'node:util';
import { freePort } from '../../bench/targets/process.mjs';
import { median } from '../../bench/work.mjs';
import { Server, directory, fails } from './server.mjs';

const test = (name, body) => anyTest(name, { timeout: 120_000 }, body);
const openssl = (...args) => promisify(execFile)('openssl', args);
const sync = (since, timeout) => `/_matrix/client/v3/sync?timeout=${timeout}${since ? `&since=${since}` : ''}`;

test('a node without a name takes the one of its key and keeps it, with its accounts, over restarts', async (t) => {
  const server = await Server.start(t);
  const alice = await server.register('alice');
  assert.match(alice.user_id, /^@alice:k51[0-9a-z]{59}$/);
  assert.equal(await server.stop(), 0);
  await server.run();
  assert.equal((await server.ok('GET', '/_matrix/client/v3/account/whoami', alice.access_token)).user_id, alice.user_id);
  assert.equal((await server.request('GET', '/_matrix/client/r0/account/whoami?access_token=' + alice.access_token)).status, 200);
});

// The bar of 100 ms is the bench's; whatever else the machine does, a start that takes a second is
// a broken one.
test('it answers soon after its start, on an empty directory and on one with rooms', async (t) => {
  const ready = { empty: [], filled: [] };
  const server = await Server.start(t);
  ready.empty.push(server.process.ready);
  for (let n = 0; n < 4; n++) {
    const other = await Server.start(t);
    ready.empty.push(other.process.ready);
    await other.stop();
  }
  const { access_token: token } = await server.register('alice');
  for (let n = 0; n < 40; n++) {
    const { room_id: room } = await server.ok('POST', '/_matrix/client/v3/createRoom', token, {});
    for (let m = 0; m < 20; m++) {
      await server.ok('PUT', `/_matrix/client/v3/rooms/${encodeURIComponent(room)}/send/m.room.message/${m}`, token, { msgtype: 'm.text', body: 'hello' });
    }
  }
  // In order and not: the second has a log to read.
  for (const signal of ['SIGTERM', 'SIGKILL', 'SIGTERM', 'SIGKILL', 'SIGTERM']) {
    await server.stop(signal);
    await server.run();
    ready.filled.push(server.process.ready);
  }
  for (const [what, samples] of Object.entries(ready)) {
    const middle = median(samples);
    t.diagnostic(`${what}: ready after ${middle.toFixed(0)} ms`);
    assert.ok(middle < 1_000, `${what}: ${samples.map(Math.round).join(', ')} ms`);
  }
});

test('on SIGTERM and SIGINT held syncs are answered and the process is gone within two seconds', async (t) => {
  const server = await Server.start(t);
  const { access_token: token } = await server.register('alice');
  for (const signal of ['SIGTERM', 'SIGINT']) {
    const idle = await server.connect();
    const { next_batch: since } = await server.ok('GET', sync(undefined, 0), token);
    const line = await server.connect();
    const held = line.send('GET', sync(since, 60_000), token);
    // It is on its way before these, and one thread answers all of them.
    for (let n = 0; n < 20; n++) await server.ok('GET', '/_matrix/client/v3/account/whoami', token);
    const started = performance.now();
    const ended = server.stop(signal);
    const { status, body } = await held;
    assert.equal(status, 200, signal);
    assert.ok(JSON.parse(body).next_batch, signal);
    assert.equal(await ended, 0, signal);
    assert.ok(performance.now() - started < 2_000, signal);
    for (const connection of [idle, line]) connection.close();
    await server.run();
  }
});

test('a sync is held for as long as the client asks', async (t) => {
  const server = await Server.start(t);
  const { access_token: token } = await server.register('alice');
  const { next_batch: since } = await server.ok('GET', sync(undefined, 0), token);
  const started = performance.now();
  await server.ok('GET', sync(since, 1_500), token);
  const took = performance.now() - started;
  assert.ok(took >= 1_490 && took < 15_000, `${took} ms`);
});

test('what a client began is finished when it does not wait for the answer', async (t) => {
  const server = await Server.start(t);
  const { access_token: token } = await server.register('alice');
  const { room_id: room } = await server.ok('POST', '/_matrix/client/v3/createRoom', token, {});
  const path = (n) => `/_matrix/client/v3/rooms/${encodeURIComponent(room)}/send/m.room.message/t${n}`;
  const body = JSON.stringify({ msgtype: 'm.text', body: 'hello' });
  for (let n = 0; n < 20; n++) {
    const socket = net.connect(server.port, '127.0.0.1');
    await once(socket, 'connect');
    const head = `PUT ${path(n)} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer ${token}\r\ncontent-length: ${body.length}\r\n\r\n`;
    await new Promise((resolve) => socket.write(head + body, resolve));
    await new Promise((resolve) => setTimeout(resolve, n));
    socket.destroy();
  }
  const seen = async () => {
    const { chunk } = await server.ok('GET', `/_matrix/client/v3/rooms/${encodeURIComponent(room)}/messages?dir=b&limit=100`, token);
    return chunk.filter((event) => event.type === 'm.room.message').map((event) => event.event_id);
  };
  let before = await seen();
  for (const begun = performance.now(); before.length < 10 && performance.now() - begun < 30_000; before = await seen()) {
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  for (let n = 0; n < 20; n++) await server.ok('PUT', path(n), token, JSON.parse(body));
  const after = await seen();
  assert.equal(after.length, 20);
  assert.deepEqual(before.filter((id) => !after.includes(id)), [], 'nothing went away');
  assert.ok(before.length >= 10, `most had arrived by themselves: ${before.length}`);
});

// Names that nobody has cost a comparison each, and what was sent was worked on whether its client
// waited or not, in any number.
test('logins that are sent and given up do not pile up, and keep nobody out', async (t) => {
  const server = await Server.start(t);
  await server.register('alice');
  const path = '/_matrix/client/v3/login';
  const login = (user, password) => ({ type: 'm.login.password', identifier: { type: 'm.id.user', user }, password });
  const before = await server.process.memory();
  let sent = 0;
  let over = false;
  const flood = async () => {
    while (sent < 4_000) {
      const body = JSON.stringify({ ...login(`nobody${sent++}`, 'a password'), padding: 'x'.repeat(60_000) });
      const socket = net.connect(server.port, '127.0.0.1');
      const ended = new Promise((resolve) => socket.on('error', resolve).once('close', resolve));
      socket.write(`POST ${path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: ${body.length}\r\n\r\n${body}`);
      await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, 25))]);
      socket.destroy();
    }
  };
  const flooding = Promise.all(Array.from({ length: 16 }, flood)).finally(() => { over = true; });
  let grown = 0;
  let loggedIn = 0;
  for (let last = false; !last; ) {
    last = over;
    const { status, body } = await server.request('POST', path, undefined, login('alice', 'a password'));
    if (status === 429) await new Promise((resolve) => setTimeout(resolve, body.retry_after_ms));
    else assert.equal(status, 200, JSON.stringify(body));
    if (status === 200) loggedIn++;
    grown = Math.max(grown, await server.process.memory() - before);
  }
  await flooding;
  t.diagnostic(`${loggedIn} logins meanwhile, ${grown.toFixed(0)} MB more at most`);
  assert.ok(loggedIn > 0);
  // A password takes 7 MiB while it is compared, and the allocator keeps some; what was sent comes
  // to 240 MB.
  assert.ok(grown < 200, `${grown} MB`);
});

// argon2's memory stayed in the allocator's arenas, one for each thread: 126 MB after sixty
// registrations.
test('what passwords take goes back to the system when they are hashed', async (t) => {
  const server = await Server.start(t);
  await server.register('first');
  const before = await server.process.memory();
  await Promise.all(Array.from({ length: 6 }, async (_, lane) => {
    for (let n = 0; n < 10; n++) await server.register(`user${lane}x${n}`);
  }));
  await new Promise((resolve) => setTimeout(resolve, 500));
  const after = await server.process.memory();
  t.diagnostic(`${before.toFixed(1)} MB after one registration, ${after.toFixed(1)} MB after sixty more`);
  // The certificates that other servers are verified by are a part of what it begins with.
  assert.ok(before < 45 && after < before + 10, `${before} MB, then ${after} MB`);
});

test('--log debug says a line for each request, and nothing of whom or what it was about', async (t) => {
  const server = await Server.start(t, [], undefined, { log: 'debug' });
  const { user_id: user, access_token: token } = await server.register('alice');
  await server.ok('PUT', `/_matrix/client/v3/profile/${encodeURIComponent(user)}/displayname`, token, { displayname: 'Private Name' });
  assert.equal((await server.request('GET', `/_matrix/client/v3/rooms/${encodeURIComponent('!private:room')}/state?access_token=${token}`)).status, 403);
  assert.equal((await server.request('GET', '/private/path', token)).status, 404);
  await server.stop();
  const { said } = server.process;
  const lines = said.split('\n').map((line) => /DEBUG \S+: (\S+ [/(].*\d+ ms)$/.exec(line)?.[1].replace(/\d+ ms$/, 'ms')).filter(Boolean);
  const path = '/_matrix/client/v3';
  for (const line of [`POST ${path}/register 200 ms`, `PUT ${path}/profile/{user_id}/{field} 200 ms`, `GET ${path}/rooms/{room_id}/state 403 ms`, 'GET (no such endpoint) 404 ms']) {
    assert.ok(lines.includes(line), `${line} is not among\n${said}`);
  }
  for (const secret of [token, 'alice', 'Private', 'private', 'a password']) assert.ok(!said.includes(secret), `${secret} is in\n${said}`);
});

test('HTTPS with keys as PKCS#1 and as PKCS#8', async (t) => {
  const files = await directory(t);
  const [certificate, pkcs8, pkcs1] = ['certificate.pem', 'pkcs8.pem', 'pkcs1.pem'].map((name) => join(files, name));
  const names = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost'];
  await openssl('req', '-x509', '-nodes', '-newkey', 'rsa:2048', '-days', '2', '-keyout', pkcs8, '-out', certificate, ...names);
  await openssl('rsa', '-traditional', '-in', pkcs8, '-out', pkcs1);
  assert.match(await readFile(pkcs1, 'utf8'), /BEGIN RSA PRIVATE KEY/);
  for (const key of [pkcs1, pkcs8]) {
    const port = await freePort();
    const server = await Server.start(t, ['--listen-tls', `127.0.0.1:${port}`, '--tls-cert', certificate, '--tls-key', key]);
    const request = https.get({ host: '127.0.0.1', port, path: '/_matrix/client/versions', servername: 'localhost', ca: await readFile(certificate) });
    const [response] = await once(request, 'response');
    assert.equal(response.statusCode, 200);
    response.resume();
    await server.stop();
  }
  const { code, said } = await fails('serve', '--data-dir', files, '--listen-tls', '127.0.0.1:0', '--tls-cert', pkcs8, '--tls-key', pkcs8);
  assert.equal(code, 1);
  assert.match(said, /--tls-cert takes a PEM file/);
});

test('what keeps it from starting is said with the next step', async (t) => {
  const server = await Server.start(t);
  const other = await freePort();
  const serve = (dataDirectory, port, ...more) => fails('serve', '--data-dir', dataDirectory, '--listen', `127.0.0.1:${port}`, ...more);

  const port = await serve(await directory(t), server.port);
  assert.deepEqual(port, { code: 1, said: `ephapse: 127.0.0.1:${server.port} is in use by another process: stop that one, or choose another port\n` });

  const database = await serve(server.directory, other);
  assert.equal(database.code, 1);
  assert.match(database.said, /in use by another process: stop that one, or choose another directory with --data-dir/);

  const file = join(await directory(t), 'file');
  await writeFile(file, '');
  await chmod(file, 0o400);
  const unwritable = await serve(join(file, 'data'), other);
  assert.equal(unwritable.code, 1);
  assert.match(unwritable.said, /cannot be written.*choose another directory with --data-dir/);

  const newer = await directory(t);
  await writeFile(join(newer, 'format'), 'ephapse store\nformat 99\n');
  const refused = await serve(newer, other);
  assert.equal(refused.code, 1);
  assert.match(refused.said, /written by a newer version of ephapse.*nothing was changed/);

  await server.stop();
  const renamed = await serve(server.directory, other, '--server-name', 'other.example');
  assert.equal(renamed.code, 1);
  assert.match(renamed.said, /this database belongs to k51.*use another data directory, or leave the name out/);

  assert.equal((await serve(newer, other, '--appservice', 'bridge.yaml')).code, 2, 'what is not there yet is not accepted');
});

// Whoever could read it had the signing key and the hashes of passwords.
test('a data directory is made for its owner alone, and one that is open to others is warned of', async (t) => {
  const made = join(await directory(t), 'above', 'data');
  const server = await Server.start(t, [], made);
  const mode = async (path) => (await stat(path)).mode & 0o777;
  assert.equal(await mode(made), 0o700);
  assert.equal(await mode(join(made, '..')), 0o777 & ~process.umask());
  const { access_token: token } = await server.register('alice');
  await server.stop();
  assert.equal(server.process.said, '');
  for (const open of [0o755, 0o710]) {
    await chmod(made, open);
    await server.run();
    await server.ok('GET', '/_matrix/client/v3/account/whoami', token);
    await server.stop();
    assert.match(server.process.said, new RegExp(`WARN .*others on this machine may enter it \\(mode ${open.toString(8)}\\): chmod 700 ${made}`));
    assert.equal(await mode(made), open, 'what its owner has decided stays so');
  }
});

/**
 * A bare connection on which `text` was sent; `answered` resolves to the status of the first
 * response.
 */
async function raw(server, text) {
  const socket = net.connect(server.port, '127.0.0.1');
  await once(socket, 'connect');
  socket.write(text);
  socket.on('error', () => undefined);
  const answered = (async () => {
    let received = '';
    for await (const data of socket.iterator({ destroyOnReturn: false })) {
      received += data;
      if (received.includes('\r\n')) return Number(received.slice(9, 12));
    }
    throw new Error(`closed after ${JSON.stringify(received)}`);
  })();
  return { socket, answered };
}

test('a body that is too large is refused without reading all of it', async (t) => {
  const server = await Server.start(t);
  const connection = await server.connect();
  const response = await connection.send('POST', '/_matrix/client/v3/login', undefined, { padding: 'x'.repeat(9 << 20) });
  connection.close();
  assert.equal(response.status, 413);
  assert.equal(JSON.parse(response.body).errcode, 'M_TOO_LARGE');
});

test('what is refused without its body is refused while the body is still on its way', async (t) => {
  const server = await Server.start(t);
  const head = (path, length) => `PUT ${path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: ${length}\r\n\r\n`;
  for (const [path, length, status] of [
    ['/_matrix/client/v3/nothing', 1_000_000, 404],
    ['/_matrix/client/v3/login', 1_000_000, 405],
    ['/_matrix/client/v3/profile/@a:b/displayname', 1_000_000, 401],
    ['/_matrix/client/v3/nothing', 1e15, 404],
  ]) {
    const { socket, answered } = await raw(server, head(path, length));
    assert.equal(await answered, status, path);
    socket.destroy();
  }
  const { socket, answered } = await raw(server, head('/_matrix/client/v3/login', 1e15).replace('PUT', 'POST'));
  assert.equal(await answered, 413);
  // And the server does not go on listening to it.
  await once(socket.resume(), 'close');
});

test('a body that drips is read to its end, one that breaks off has no effect, and neither keeps the process', async (t) => {
  const server = await Server.start(t);
  const { access_token: token, user_id: user } = await server.register('alice');
  const note = (name) => `/_matrix/client/v3/user/${encodeURIComponent(user)}/account_data/org.example.${name}`;
  const head = (name, length) => `PUT ${note(name)} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer ${token}\r\ncontent-length: ${length}\r\n\r\n`;

  const body = '{"text":"drop by drop"}';
  const dripping = await raw(server, head('slow', body.length));
  for (const character of body) {
    dripping.socket.write(character);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.equal(await dripping.answered, 200);
  dripping.socket.destroy();
  assert.deepEqual(await server.ok('GET', note('slow'), token), JSON.parse(body));

  const broken = await raw(server, `${head('broken', 100)}{}`);
  await new Promise((resolve) => setTimeout(resolve, 50));
  broken.socket.destroy();
  await assert.rejects(broken.answered);
  assert.equal((await server.request('GET', note('broken'), token)).status, 404);

  const unfinished = await raw(server, `${head('unfinished', 100)}{}`);
  unfinished.answered.catch(() => undefined);
  await new Promise((resolve) => setTimeout(resolve, 50));
  const started = performance.now();
  assert.equal(await server.stop(), 0);
  assert.ok(performance.now() - started < 2_000);
});

test('a large answer is the same byte for byte, also for one who reads slowly', async (t) => {
  const server = await Server.start(t);
  const { access_token: token, user_id: user } = await server.register('alice');
  const contents = {};
  for (let n = 0; n < 4; n++) {
    contents[`org.example.${n}`] = { text: `${n} é `.repeat(150_000) };
    await server.ok('PUT', `/_matrix/client/v3/user/${encodeURIComponent(user)}/account_data/org.example.${n}`, token, contents[`org.example.${n}`]);
  }
  const { account_data: { events } } = await server.ok('GET', sync(undefined, 0), token);
  for (const [type, content] of Object.entries(contents)) assert.deepEqual(events.find((event) => event.type === type).content, content);

  const request = http.get(`${server.url}${sync(undefined, 0)}`, { headers: { authorization: `Bearer ${token}` } });
  const [response] = await once(request, 'response');
  let received = 0;
  for await (const data of response) {
    received += data.length;
    if (received < 500_000) await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.ok(received > 3_000_000);
  assert.equal(received, Number(response.headers['content-length']));
});
