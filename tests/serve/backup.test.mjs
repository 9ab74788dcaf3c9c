// The recipe of docs/backup.md, word for word, while the server is written to.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { delimiter, dirname, join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { freePort } from '../../bench/targets/process.mjs';
import { Server, binary, directory, verifyEvents } from './server.mjs';

const page = new URL('../../docs/backup.md', import.meta.url);

/** The page's commands, with other values of the variables that it begins with. */
async function commands(values) {
  const text = await readFile(page, 'utf8');
  let script = [...text.matchAll(/^```sh\n(.*?)^```$/gms)].map(([, block]) => block).join('');
  for (const [name, value] of Object.entries(values)) {
    const line = new RegExp(`^${name}=.*$`, 'm');
    assert.match(script, line);
    script = script.replace(line, `${name}='${value}'`);
  }
  return script.replaceAll('18008', String(await freePort()));
}

test('a backup that is made while the server is written to has everything that was acknowledged before', { timeout: 120_000 }, async (t) => {
  const server = await Server.start(t, ['--server-name', 'backup.example']);
  const { access_token: token } = await server.register('alice');
  const { room_id: room } = await server.ok('POST', '/_matrix/client/v3/createRoom', token, {});
  const path = `/_matrix/client/v3/rooms/${encodeURIComponent(room)}`;
  const body = 'x'.repeat(20_000);
  let sent = 0;
  let over = false;
  const sending = (async () => {
    for (; !over; sent += 1) await server.ok('PUT', `${path}/send/m.room.message/${sent}`, token, { msgtype: 'm.text', body: `${sent} ${body}` });
  })();
  while (sent < 300) await new Promise((resolve) => setTimeout(resolve, 10));

  const before = sent;
  const backup = join(await directory(t), 'copy');
  const script = await commands({ DATA: server.directory, BACKUP: backup, PID: server.process.pid });
  const env = { ...process.env, PATH: `${dirname(binary)}${delimiter}${process.env.PATH}` };
  const { stdout, stderr } = await promisify(execFile)('bash', ['-c', script], { env });
  assert.match(stdout, /^copied to .*\/copy$/m, stderr);
  assert.match(stdout, /^it opens$/m, stderr);
  const after = sent;
  over = true;
  await sending;
  assert.equal(await server.stop(), 0);

  assert.ok(await verifyEvents(backup) >= before);
  const restored = await Server.start(t, ['--server-name', 'backup.example'], backup);
  const found = await restored.ok('GET', `${path}/messages?dir=b&limit=1`, token);
  const newest = Number(found.chunk[0].content.body.split(' ', 1)[0]);
  t.diagnostic(`message ${newest} is the newest, of ${before} sent before and ${after} after`);
  assert.ok(newest >= before - 1 && newest < after, `${before} ${newest} ${after}`);
  await restored.ok('PUT', `${path}/send/m.room.message/restored`, token, { msgtype: 'm.text', body: 'again' });
});
