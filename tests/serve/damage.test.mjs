// A damaged page of the database: `ephapse serve` says which file it is and what to do, and does
// not panic. Every page is damaged in crate/store/src/native/damage_tests.rs.

import assert from 'node:assert/strict';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { freePort } from '../../bench/targets/process.mjs';
import { unpack, writeFiles } from '../fixtures/pack.mjs';
import { Server, directory, fails } from './server.mjs';

const page = 4096;

/** Flips bytes of a file from a place on. */
async function damage(path, at, bytes) {
  const file = await open(path, 'r+');
  const { buffer } = await file.read(Buffer.alloc(bytes), 0, bytes, at);
  await file.write(buffer.map((byte) => byte ^ 0xff), 0, bytes, at);
  await file.close();
}

const named = /\S+\/tables\.redb is damaged \(.+\): stop the server, and put a backup of the directory in its place/;

/** A directory of an earlier version, with what was made in it, of which a page is damaged. */
async function damaged(t, placeIn, bytes) {
  const { made, files } = await unpack('0.1-native');
  const data = await directory(t);
  await writeFiles(data, files);
  await damage(join(data, 'tables.redb'), placeIn(Buffer.from(files['tables.redb'], 'base64')), bytes);
  return { made, data };
}

/** A server does not start on a directory, and says why. */
async function isRefused(data) {
  const { code, said } = await fails('serve', '--data-dir', data, '--listen', `127.0.0.1:${await freePort()}`, '--server-name', 'fixture.example');
  assert.equal(code, 1, said);
  assert.match(said, named);
  assert.ok(!said.includes('panicked'), said);
}

test('a damaged header keeps it from starting, and is named with what to do', { timeout: 60_000 }, async (t) => {
  const { data } = await damaged(t, () => 0, 64);
  await isRefused(data);
});

test('a byte of the log that went wrong keeps it from starting, and is named with what to do', { timeout: 60_000 }, async (t) => {
  const server = await Server.start(t, ['--server-name', 'log.example']);
  await server.register('alice');
  await server.stop();
  const data = server.directory;
  await damage(join(data, 'log.0'), 40, 1);
  const serve = ['serve', '--data-dir', data, '--server-name', 'log.example', '--listen', `127.0.0.1:${await freePort()}`];
  const { code, said } = await fails(...serve);
  assert.equal(code, 1, said);
  assert.match(said, /\S+\/log\.0 is damaged at byte (\d+) \(.+\): stop the server, and put a backup .+; or, to go on without .+: truncate -s \1 '\S+\/log\.0'/);
});

/** A directory of which a page with messages is damaged. */
const damagedPage = (t) => damaged(t, (tables) => {
  const message = tables.lastIndexOf('Message 11');
  return message - (message % page);
}, 16);

// redb reads only what is asked for. A debug build of it looks at every page when it opens.
if (process.env.RELEASE) {
  test('a damaged page costs what is on it, and is named with what to do', { timeout: 60_000 }, async (t) => {
    const { made, data } = await damagedPage(t);
    const server = await Server.start(t, ['--server-name', 'fixture.example'], data);
    const pages = made.rooms.map(({ room }) => server.request('GET', `/_matrix/client/v3/rooms/${encodeURIComponent(room)}/messages?dir=f&limit=100`, made.alice.access_token));
    const statuses = (await Promise.all(pages)).map(({ status }) => status);
    assert.equal(statuses.filter((status) => status === 200).length, statuses.length - 1, `${statuses}`);
    assert.equal(await server.stop(), 0);
    assert.match(server.process.said, named);
    assert.ok(!server.process.said.includes('panicked'), server.process.said);
  });
} else {
  test('a damaged page is named with what to do', { timeout: 60_000 }, async (t) => {
    const { data } = await damagedPage(t);
    await isRefused(data);
  });
}
