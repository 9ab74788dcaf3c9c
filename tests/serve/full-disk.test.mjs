// A disk that is full: who writes is told so and who helps, reading goes on, and nothing that was
// acknowledged is lost.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Server } from './server.mjs';

const body = 'x'.repeat(40_000);

test('a full disk is said to who writes, and costs nobody else anything', { timeout: 120_000 }, async (t) => {
  const server = await Server.start(t, ['--server-name', 'full.example'], undefined, { largestFile: 6_000 });
  const { access_token: token } = await server.register('alice');
  const { room_id: room } = await server.ok('POST', '/_matrix/client/v3/createRoom', token, {});
  const path = `/_matrix/client/v3/rooms/${encodeURIComponent(room)}`;
  const send = (number) => server.request('PUT', `${path}/send/m.room.message/${number}`, token, { msgtype: 'm.text', body: `${number} ${body}` });
  let sent = 0;
  let refused;
  while (refused === undefined) {
    const answer = await send(sent);
    if (answer.status === 200) sent += 1;
    else refused = answer;
    assert.ok(sent < 2_000, 'it never becomes full');
  }
  t.diagnostic(`full after ${sent} messages`);
  assert.deepEqual([refused.status, refused.body.errcode], [403, 'M_RESOURCE_LIMIT_EXCEEDED'], JSON.stringify(refused));
  assert.equal(refused.body.error, "The server's disk is full: leave and forget rooms that you no longer need, or ask the administrator to free disk space");
  assert.ok(refused.body.admin_contact);

  const shown = async () => {
    const found = [];
    for (let from = ''; from !== undefined;) {
      const page = await server.ok('GET', `${path}/messages?dir=b&limit=100${from}`, token);
      for (const { type, content } of page.chunk) if (type === 'm.room.message') found.push(Number(content.body.split(' ', 1)[0]));
      from = page.end === undefined ? undefined : `&from=${page.end}`;
    }
    return found.reverse();
  };
  const all = Array.from({ length: sent }, (_, number) => number);
  assert.deepEqual(await shown(), all);
  assert.equal(await server.stop(), 0);
  assert.ok(!server.process.said.includes('panicked'), server.process.said);

  server.largestFile = undefined;
  await server.run();
  assert.deepEqual(await shown(), all);
  assert.equal((await send(sent)).status, 200, 'once there is room');
});
