// A data directory that an earlier version wrote opens with this one, and everything in it is
// there.

import { test } from 'node:test';
import { check } from '../fixtures/content.mjs';
import { unpack, writeFiles } from '../fixtures/pack.mjs';
import { Server, directory, verifyEvents } from './server.mjs';

test('a data directory of an earlier version opens, is complete, and is gone on with', { timeout: 120_000 }, async (t) => {
  const { made, files } = await unpack('0.1-native');
  const data = await directory(t);
  await writeFiles(data, files);
  const server = await Server.start(t, ['--server-name', 'fixture.example'], data);
  const connection = await server.connect();
  t.after(() => connection.close());
  await check(async (method, path, token, body) => {
    const answer = await connection.send(method, `/_matrix/client/v3${path}`, token, body);
    return { status: answer.status, body: JSON.parse(answer.body) };
  }, made);
  await server.stop();
  await verifyEvents(data);
});
