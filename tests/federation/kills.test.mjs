// Three nodes among themselves, with one after another killed at random moments while people talk.
// `KILLS` says how often.

import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { test } from 'node:test';
import { startServers } from './servers.mjs';
import { agree, until } from './user.mjs';

const kills = Number(process.env.KILLS ?? 6);
const kind = (process.env.PEERS ?? 'ephapse').split(',')[0];
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

test('three servers, one of them killed at random moments, end with the same room', { timeout: 60_000 + kills * 10_000 }, async (t) => {
  const { servers, close } = await startServers([kind, kind, kind]);
  t.after(close);
  const users = await Promise.all(servers.map((server) => server.user('someone')));
  const room = await users[0].createRoom({ preset: 'public_chat' });
  for (const user of users.slice(1)) await user.join(room, servers[0]);
  for (const user of users) for (const other of users) await user.seesMember(room, other, 'join');

  let over = false;
  const said = new Set();
  const talk = async (user, n) => {
    for (let m = 0; !over; m++) {
      const body = `${n}.${m}`;
      await user.insist(room, body);
      said.add(body);
      await pause(randomInt(60));
    }
  };
  const talking = Promise.all(users.map(talk));
  for (let n = 0; n < kills; n++) {
    await pause(randomInt(600));
    const server = servers[n % servers.length];
    await server.stop('SIGKILL');
    await pause(randomInt(300));
    await server.run();
  }
  over = true;
  await talking;
  // News for everybody leads to what somebody missed.
  for (const [n, user] of users.entries()) await user.say(room, `The end ${n}`);
  const everything = [...said, 'The end 0', 'The end 1', 'The end 2'].sort();
  for (const user of users) {
    let read;
    const missing = () => everything.filter((body) => !read.includes(body));
    await until(`${user.id} to have everything that was said`, async () => {
      await pause(500);
      read = (await user.history(room, 100)).filter(({ type }) => type === 'm.room.message').map(({ content }) => content.body).reverse();
      return missing().length === 0;
    }, { found: () => `: ${missing().slice(0, 20).join(', ')}` });
    assert.deepEqual(read.toSorted(), everything, 'each message once');
    for (const n of users.keys()) {
      const own = read.filter((body) => body.startsWith(`${n}.`));
      assert.deepEqual(own, own.toSorted((a, b) => Number(a.slice(2)) - Number(b.slice(2))), 'in order');
    }
  }
  await agree(room, ...users);
  t.diagnostic(`${said.size} messages, ${kills} kills`);
});
