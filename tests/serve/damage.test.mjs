// A damaged page of the database: `ephapse serve` says which file it is and what to do, and does not panic. What becomes of one that is found while it runs
// is in crate/store/src/native/damage.rs.

import assert from 'node:assert/strict';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { freePort } from '../../bench/targets/process.mjs';
import { unpack, writeFiles } from '../fixtures/pack.mjs';
import { directory, fails } from './server.mjs';

const page = 4096;

/** Flips bytes of a file from a place on. */
async function damage(path, at, bytes) {
  const file = await open(path, 'r+');
  const { buffer } = await file.read(Buffer.alloc(bytes), 0, bytes, at);
  await file.write(buffer.map((byte) => byte ^ 0xff), 0, bytes, at);
  await file.close();
}

test('a damaged page keeps it from starting, and is named with what to do', { timeout: 60_000 }, async (t) => {
  const { files } = await unpack('0.1-native');
  const messages = Buffer.from(files['tables.redb'], 'base64').lastIndexOf('Message 11');
  for (const [at, bytes] of [[0, 64], [messages - (messages % page), 16]]) {
    const data = await directory(t);
    await writeFiles(data, files);
    await damage(join(data, 'tables.redb'), at, bytes);
    const { code, said } = await fails('serve', '--data-dir', data, '--listen', `127.0.0.1:${await freePort()}`, '--server-name', 'fixture.example');
    assert.equal(code, 1, said);
    assert.match(said, /^ephapse: \S+\/tables\.redb is damaged \(.+\): stop the server, and put a backup of the directory in its place\n$/);
  }
});
