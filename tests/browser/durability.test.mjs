// What was acknowledged is there, once and in order, whatever happens to the worker or the browser. BROWSER_KILLS and WORKER_STOPS say how often,
// SEED repeats a run's moments.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { chromium } from 'playwright-core';
import { flags, launch, stopWorkers } from './browser.mjs';
import { dice, messages, openPage, packageSite, register } from './site.mjs';

const kills = Number(process.env.BROWSER_KILLS ?? 5);
const stops = Number(process.env.WORKER_STOPS ?? 20);
const seed = Number(process.env.SEED ?? randomInt(2 ** 31));

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const createRoom = (page) => page.evaluate(async () => (await globalThis.api('POST', 'createRoom', { name: 'Kills' })).room_id);

/** Sends message after message from several senders until told to stop; `acknowledged` is called in Node for each. */
function sendOn(page, roomId, label) {
  return page.evaluate(([room, name]) => {
    globalThis.sending = true;
    const sender = async (which) => {
      for (let number = 0; globalThis.sending; number += 1) {
        const transaction = `${name}-${which}-${number}`;
        const { event_id: id } = await globalThis.api('PUT', `rooms/${encodeURIComponent(room)}/send/m.room.message/${transaction}`, { msgtype: 'm.text', body: transaction });
        await globalThis.acknowledged({ id, transaction });
      }
    };
    globalThis.sent = Promise.all([0, 1, 2].map(sender));
  }, [roomId, label]);
}

/** Each acknowledged event is there once, every sender's in its order, and no transaction made two events. */
function compare(stored, acknowledged) {
  const places = new Map(stored.map(({ id }, place) => [id, place]));
  assert.equal(places.size, stored.length, 'an event id twice');
  assert.equal(new Set(stored.map(({ body }) => body)).size, stored.length, 'two events of one transaction');
  const last = new Map();
  for (const { id, transaction } of acknowledged) {
    const place = places.get(id);
    assert.notEqual(place, undefined, `${transaction} was acknowledged and is lost`);
    assert.equal(stored[place].body, transaction);
    const sender = transaction.slice(0, transaction.lastIndexOf('-'));
    assert.ok(place > (last.get(sender) ?? -1), `${transaction} is out of order`);
    last.set(sender, place);
  }
}

test(`sends while the worker is stopped ${stops} times (seed ${seed})`, { timeout: 180_000 }, async (t) => {
  const random = dice(seed);
  const site = await packageSite();
  t.after(() => site.close());
  const browser = await launch();
  t.after(() => browser.close());
  const page = await openPage(browser.context, site.url);
  await register(page, 'alice');
  const roomId = await createRoom(page);
  const acknowledged = [];
  await page.exposeFunction('acknowledged', (event) => { acknowledged.push(event); });
  await sendOn(page, roomId, 'stops');
  for (let stop = 0; stop < stops; stop += 1) {
    await pause(50 + random() * 500);
    await stopWorkers(page);
  }
  await pause(500);
  await page.evaluate(async () => { globalThis.sending = false; await globalThis.sent; });
  assert.ok(acknowledged.length > stops, `only ${acknowledged.length} sends`);
  const stored = await messages(page, roomId);
  compare(stored, acknowledged);
  t.diagnostic(`${acknowledged.length} sends acknowledged, ${stored.length} events`);
});

test(`sends while the browser is killed ${kills} times (seed ${seed})`, { timeout: 60_000 + kills * 20_000 }, async (t) => {
  const random = dice(seed + 1);
  const site = await packageSite();
  t.after(() => site.close());
  const profile = await mkdtemp(join(tmpdir(), 'ephapse-killed-'));
  t.after(() => rm(profile, { recursive: true, force: true, maxRetries: 5 }));
  const acknowledged = [];
  let session;
  let roomId;
  for (let round = 0; round <= kills; round += 1) {
    const browser = await killable(profile);
    try {
      const page = await openPage(browser.context, site.url);
      if (session) await page.evaluate((token) => { globalThis.token = token; }, session.access_token);
      else {
        session = await register(page, 'alice');
        roomId = await createRoom(page);
      }
      compare(await messages(page, roomId), acknowledged);
      if (round === kills) break;
      await page.exposeFunction('acknowledged', (event) => { acknowledged.push(event); });
      await sendOn(page, roomId, `round${round}`);
      await pause(300 + random() * 1_500);
    } finally {
      await browser.kill();
    }
  }
  assert.ok(acknowledged.length > kills, `only ${acknowledged.length} sends`);
  t.diagnostic(`${acknowledged.length} sends acknowledged`);
});

/** A Chromium as a process of ours, so that it can be killed with all its children. */
async function killable(profile) {
  await rm(join(profile, 'DevToolsActivePort'), { force: true });
  const child = spawn(process.env.CHROMIUM ?? '/usr/bin/chromium', [...flags, '--remote-debugging-port=0', `--user-data-dir=${profile}`, 'about:blank'], { detached: true, stdio: 'ignore' });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  const kill = async () => {
    process.kill(-child.pid, 'SIGKILL');
    await ended;
  };
  try {
    const port = await portOf(profile);
    const connection = await chromium.connectOverCDP(`http://127.0.0.1:${port}`);
    return { context: connection.contexts()[0], kill };
  } catch (error) {
    await kill();
    throw error;
  }
}

async function portOf(profile) {
  for (let attempt = 0; attempt < 200; attempt += 1) {
    const port = (await readFile(join(profile, 'DevToolsActivePort'), 'utf8').catch(() => '')).split('\n')[0];
    if (port) return port;
    await pause(50);
  }
  throw new Error('Chromium does not start');
}
