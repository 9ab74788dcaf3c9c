// The whole server crashes, with the browser around it, at each named point of its work; afterwards
// everything acknowledged must be there, once.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { emptyProfile, killable } from '../browser/browser.mjs';
import { ok, packageSite, pause } from '../browser/site.mjs';
import { interruptions, stopAt } from './interruptions.mjs';
import { Browser, work } from './work.mjs';

/** Small writes come to these by themselves. */
const COMMIT = ['BeforePut', 'BetweenPutAndCommit', 'BetweenCommitAndAnswer'];
/** It takes megabytes to come to these. */
const RUNS = ['Flushing', 'Compacting'];
/**
 * The new version is activated, the old one still has the database; the old one has let go, the new
 * one has not yet opened.
 */
const HAND_OVER = ['HandingOver', 'TakingOver'];

test('everything acknowledged outlives a crash at each named point', { timeout: 420_000 }, async (t) => {
  let version = 0;
  const site = await packageSite(t, { worker: (script) => `${interruptions}${script}\n// version ${version}` });
  const profile = await emptyProfile(t);
  const crashed = [];

  // There is one format yet: what is migrated to it is an empty database.
  await crashInTheFirstStart(site, profile);
  crashed.push('Migrating');

  const browser = await Browser.start(t, site, profile);
  const { load, connect, alice } = await work(browser);
  const crashAt = async (point, cause = async () => undefined) => {
    const { reached } = await stopAt(await browser.page, point);
    await cause();
    // A new version was seen to take over without being stopped at the point; then the next one is.
    const again = setInterval(() => { cause().catch(() => undefined); }, 20_000);
    await load.until(reached).finally(() => { clearInterval(again); });
    await browser.kill();
    crashed.push(point);
    await browser.run();
    await load.look();
    await load.goOn(200);
  };
  for (const point of COMMIT) await crashAt(point);

  const filling = fill(connect, await browser.page, alice);
  for (const point of RUNS) await crashAt(point);
  await filling.end();

  // Work without any pause would keep a new version waiting, but for the package's `fetch`, which
  // pauses for it.
  browser.global = false;
  for (const point of HAND_OVER) {
    // Right after a page was opened Chromium has a look for updates of its own planned, which waits
    // for a pause of the worker and makes ours wait with it.
    await load.rest(4_000);
    const page = await browser.page;
    await crashAt(point, () => {
      version += 1;
      return page.evaluate(async () => { await (await navigator.serviceWorker.getRegistration()).update(); });
    });
  }

  await load.goOn(500);
  await load.finish();
  t.diagnostic(`crashed at ${crashed.join(', ')}: ${await load.check(crashed.length * 4)}, ${browser.lost} requests without an answer`);
  assert.deepEqual(crashed, ['Migrating', ...COMMIT, ...RUNS, ...HAND_OVER]);
});

async function crashInTheFirstStart(site, profile) {
  const { context, kill } = await killable(profile);
  const page = await context.newPage();
  await page.goto(`${site.url}/`);
  await page.evaluate(async () => { await navigator.serviceWorker.register('/ephapse-worker.js'); });
  const { reached } = await stopAt(page, 'Migrating');
  await page.evaluate(() => { void import('/index.js').then(({ start }) => start()); });
  await reached;
  await kill();
}

/** Sends large messages to a room of their own. */
function fill(connect, page, alice) {
  let on = true;
  const sends = async () => {
    const { room_id: room } = await ok(page, alice.access_token, 'POST', '/createRoom', {});
    const line = connect(alice.access_token);
    for (let n = 0; on; n += 1) {
      await line.ask('PUT', `/rooms/${encodeURIComponent(room)}/send/m.room.message/large${n}`, { msgtype: 'm.text', body: 'x'.repeat(60_000) });
      await pause(5);
    }
  };
  const sending = sends();
  sending.catch(() => undefined);
  return {
    end: async () => {
      on = false;
      await sending;
    },
  };
}
