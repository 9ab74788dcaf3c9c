// A panic of the engine in the middle of its work: the request during which it happened is answered
// 500, and nobody else sees anything of it.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { launch } from '../browser/browser.mjs';
import { drawn, failOnce, sabotage } from '../browser/sabotage.mjs';
import { ask, messagesOf, ok, openPage, packageSite, pause, register } from '../browser/site.mjs';
import { interruptions, release, stopAt } from './interruptions.mjs';

test('a panic costs one request, whatever else is under way', { timeout: 240_000 }, async (t) => {
  const site = await packageSite(t, { worker: (script) => sabotage + interruptions + script });
  const browser = await launch();
  t.after(() => browser.close());
  const page = await openPage(browser.context, site);
  const { access_token: token, user_id: user } = await register(page, 'alice');
  const before = await drawn(page);
  const { room_id: room } = await ok(page, token, 'POST', '/createRoom', { name: 'first' });
  const drawsOfRoom = (await drawn(page)) - before;
  const bob = await register(page, 'bob');

  // One write is on its way to the disk, others wait behind it, and what only reads waits with
  // them.
  const { reached } = await stopAt(page, 'BetweenPutAndCommit', { hold: true });
  const drawnBefore = await drawn(page);
  const underWay = [ask(page, token, 'POST', '/createRoom', { name: 'on its way' })];
  await reached;
  underWay.push(
    ask(page, token, 'POST', '/createRoom', { name: 'waiting' }),
    ask(page, token, 'POST', `/rooms/${encodeURIComponent(room)}/invite`, { user_id: bob.user_id }),
    ask(page, token, 'PUT', `/rooms/${encodeURIComponent(room)}/send/m.room.message/t1`, { msgtype: 'm.text', body: 'once' }),
    ask(page, token, 'POST', '/keys/upload', { one_time_keys: { 'curve25519:AAAAAQ': Buffer.alloc(32, 1).toString('base64').replace('=', '') } }),
    ask(page, token, 'POST', '/keys/query', { device_keys: { [user]: [] } }),
    ask(page, token, 'GET', '/sync?timeout=0'),
  );
  // Of those only the rooms draw randomness; once both have, it is the login that finds none.
  assert.ok(drawsOfRoom > 0);
  while ((await drawn(page)) < drawnBefore + 2 * drawsOfRoom) await pause(20);
  await failOnce(page);
  const failed = await ask(page, undefined, 'POST', '/login', { type: 'm.login.password', identifier: { type: 'm.id.user', user: 'alice' }, password: 'a long enough password' });
  await release(page);
  assert.deepEqual([failed.status, failed.body.errcode], [500, 'M_UNKNOWN']);
  const answers = await Promise.all(underWay);
  assert.deepEqual(answers.map(({ status, body }) => (status === 200 ? status : body)), underWay.map(() => 200));

  // Each was done, once.
  assert.equal((await page.evaluate(() => globalThis.server.status())).rebuilds, 1);
  const { joined_rooms: rooms } = await ok(page, token, 'GET', '/joined_rooms');
  assert.deepEqual(rooms.toSorted(), [room, answers[0].body.room_id, answers[1].body.room_id].toSorted());
  assert.deepEqual((await messagesOf(page, token, room)).map(({ event_id: id }) => id), [answers[3].body.event_id]);
  assert.equal((await ok(page, token, 'POST', '/keys/upload', {})).one_time_key_counts.curve25519, 1);
  assert.deepEqual(Object.keys((await ok(page, bob.access_token, 'GET', '/sync?timeout=0')).rooms.invite), [room]);
});
