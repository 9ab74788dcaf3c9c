// The browser is killed, and its service worker stopped, in the middle of their work, again and
// again; afterwards everything acknowledged must be there. BROWSER_KILLS and WORKER_STOPS say how
// often (`npm run test:long`: 20 and 50), SEED repeats a run's moments.

import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { test } from 'node:test';
import { stopWorkers } from '../browser/browser.mjs';
import { packageSite } from '../browser/site.mjs';
import { dice } from '../load.mjs';
import { interruptions, stopAt } from './interruptions.mjs';
import { Browser, work } from './work.mjs';

const KILLS = Number(process.env.BROWSER_KILLS ?? 5);
const STOPS = Number(process.env.WORKER_STOPS ?? 20);
const SEED = Number(process.env.SEED ?? randomInt(2 ** 31));

test(`everything acknowledged outlives ${KILLS} kills of the browser (SEED=${SEED})`, { timeout: 60_000 + KILLS * 30_000 }, async (t) => {
  const random = dice(SEED);
  const browser = await Browser.start(t, await packageSite(t));
  const { load } = await work(browser);
  const underWay = [];
  for (let kill = 0; kill < KILLS; kill += 1) {
    await load.goOn(100 + random() * 1_500, kill * 4);
    underWay.push(browser.underWay);
    await browser.kill();
    await browser.run();
  }
  await load.goOn(500, KILLS * 4);
  await load.finish();
  t.diagnostic(`${await load.check(KILLS * 4)}, ${underWay.join(', ')} requests under way at the kills`);
  assert.ok(underWay.every((requests) => requests > 0), 'the kills came in the middle of requests');
});

test(`everything acknowledged outlives ${STOPS} stops of the service worker (SEED=${SEED})`, { timeout: 60_000 + STOPS * 10_000 }, async (t) => {
  const random = dice(SEED);
  const browser = await Browser.start(t, await packageSite(t, { worker: (script) => interruptions + script }));
  const { load } = await work(browser);
  const page = await browser.page;
  // A request is shorter than the way of a stop, so that only chance would bring them together:
  // some stops come while the worker is held on either side of a commit, with the request that
  // writes under way. (Chromium itself repeats a request whose worker was stopped, once.)
  const moments = [undefined, 'BetweenPutAndCommit', 'BetweenCommitAndAnswer'];
  const underWay = [];
  for (let stop = 0; stop < STOPS; stop += 1) {
    await load.goOn(random() * 800, stop);
    const point = moments[stop % moments.length];
    if (point) {
      const { reached } = await stopAt(page, point, { hold: true });
      underWay.push(await load.until(reached));
    }
    await stopWorkers(page);
  }
  await load.goOn(500, STOPS);
  await load.finish();
  t.diagnostic(`${await load.check(STOPS)}, ${underWay.join(', ')} requests under way at ${underWay.length} of ${STOPS} stops`);
  assert.ok(underWay.every((requests) => requests > 0));
});
