// The browser is killed, and its service worker ended, in the middle of their work, again and again; afterwards everything acknowledged must be there.
// BROWSER_KILLS and WORKER_STOPS say how often (`npm run test:long`: 20 and 50), SEED repeats a run's moments.

import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { test } from 'node:test';
import { stopWorkers } from '../browser/browser.mjs';
import { Load, dice } from '../load.mjs';
import { Browser, ask, ok, packageSite, pause, register } from './support.mjs';

const KILLS = Number(process.env.BROWSER_KILLS ?? 5);
const STOPS = Number(process.env.WORKER_STOPS ?? 10);
const SEED = Number(process.env.SEED ?? randomInt(2 ** 31));

/**
 * A worker's way to whichever browser runs. A request without an answer is repeated until it has one. Half of them go through the package's `fetch`, which
 * repeats most of them itself.
 */
class Line {
  #browser;
  #token;
  #random;

  constructor(browser, token, random) {
    this.#browser = browser;
    this.#token = token;
    this.#random = random;
  }

  async ask(method, endpoint, body, { again = true } = {}) {
    const begun = performance.now();
    for (let attempt = 0; ; attempt += 1) {
      const page = await this.#browser.page;
      try {
        const answer = await ask(page, this.#token, method, endpoint, body, { global: this.#random() < 0.5 });
        assert.equal(answer.status, 200, `${method} ${endpoint}: ${JSON.stringify(answer.body)}`);
        return answer.body;
      } catch (error) {
        if (error instanceof assert.AssertionError) throw error;
        if (performance.now() - begun > 60_000) throw new Error(`${method} ${endpoint} has had no answer for a minute`, { cause: error });
        await pause(20);
        if (attempt === 0) this.#browser.lost += 1;
        if (!again) return null;
      }
    }
  }
}

/** A browser at work. */
async function work(t, random) {
  const browser = await Browser.start(t, await packageSite(t));
  const page = await browser.page;
  const [alice, bob] = [await register(page, 'alice'), await register(page, 'bob')];
  const { room_id: room } = await ok(page, alice.access_token, 'POST', '/createRoom', { preset: 'public_chat' });
  await ok(page, bob.access_token, 'POST', `/join/${encodeURIComponent(room)}`, {});
  return { browser, load: new Load((token) => new Line(browser, token, random), { alice, bob, room }) };
}

test(`everything acknowledged outlives ${KILLS} kills of the browser (SEED=${SEED})`, { timeout: 60_000 + KILLS * 30_000 }, async (t) => {
  const random = dice(SEED);
  const { browser, load } = await work(t, random);
  for (let kill = 0; kill < KILLS; kill += 1) {
    await load.goOn(100 + random() * 1_500);
    await browser.kill();
    await browser.run();
  }
  await load.goOn(500);
  await load.finish();
  t.diagnostic(`${await load.check(KILLS * 4)}, ${browser.lost} requests without an answer`);
  assert.ok(browser.lost >= KILLS, 'the kills came in the middle of requests');
});

test(`everything acknowledged outlives ${STOPS} stops of the service worker (SEED=${SEED})`, { timeout: 60_000 + STOPS * 10_000 }, async (t) => {
  const random = dice(SEED);
  const { browser, load } = await work(t, random);
  const page = await browser.page;
  for (let stop = 0; stop < STOPS; stop += 1) {
    await load.goOn(random() * 800);
    await stopWorkers(page);
  }
  await load.goOn(500);
  await load.finish();
  // How many stops come in the middle of a request is chance: on a quiet machine a request is shorter than the way of the stop.
  t.diagnostic(`${await load.check(STOPS)}, ${browser.lost} requests without an answer`);
});
