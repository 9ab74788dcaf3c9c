// Kills `ephapse serve` in the middle of its work, again and again, and looks afterwards whether
// everything that was acknowledged is there: each event once and in order, one event a transaction
// id, each to-device message once, no one-time key given twice. KILLS says how often (10; `npm run
// test:long`: 50), SEED repeats a run's moments.

import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { test } from 'node:test';
import { Load, dice } from '../load.mjs';
import { Server, verifyEvents } from './server.mjs';

const KILLS = Number(process.env.KILLS ?? 10);
const SEED = Number(process.env.SEED ?? randomInt(2 ** 31));

/**
 * One worker's way to the server: a connection that is made again after each kill. A request
 * without an answer is repeated until it has one.
 */
class Line {
  #server;
  #connection = null;
  #token;

  constructor(server, token) {
    this.#server = server;
    this.#token = token;
  }

  /**
   * `again`: whether the request may be repeated as it is; without it the lost answer is `null`.
   */
  async ask(method, path, body, { again = true } = {}) {
    for (;;) {
      let response;
      try {
        this.#connection ??= await this.#server.connect();
        response = await this.#connection.send(method, `/_matrix/client/v3${path}`, this.#token, body);
      } catch {
        this.#connection = null;
        if (this.#server.over) return null;
        await new Promise((resolve) => setTimeout(resolve, 3));
        if (again) continue;
        return null;
      }
      assert.equal(response.status, 200, `${method} ${path}: ${response.body}`);
      return JSON.parse(response.body);
    }
  }
}

test(`everything acknowledged outlives ${KILLS} kills (SEED=${SEED})`, { timeout: KILLS * 20_000 }, async (t) => {
  const server = await Server.start(t);
  const random = dice(SEED);
  const alice = await server.register('alice');
  const bob = await server.register('bob');
  const { room_id: room } = await server.ok('POST', '/_matrix/client/v3/createRoom', alice.access_token, { preset: 'public_chat' });
  await server.ok('POST', `/_matrix/client/v3/join/${encodeURIComponent(room)}`, bob.access_token, {});

  const load = new Load((token) => new Line(server, token), { alice, bob, room });
  for (let kill = 0; kill < KILLS; kill++) {
    await load.goOn(30 + random() * 500, kill * 4);
    assert.equal(await server.stop('SIGKILL'), 'SIGKILL');
    await server.run();
  }
  await load.goOn(300, KILLS * 4);
  await load.finish();
  t.diagnostic(await load.check(KILLS * 4));

  assert.equal(await server.stop(), 0);
  assert.ok(await verifyEvents(server.directory) > load.acknowledged, 'hashes, signatures and ids are those of the events');
});
