// Two tabs with two accounts talk to one server at once, and a new version of the worker takes
// over, while they do and in silence: nothing fails that a client sees.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { worker as buildWorker } from '../../scripts/lib/bundle.mjs';
import { path } from '../../scripts/lib/run.mjs';
import { launch } from '../browser/browser.mjs';
import { messagesOf, ok, openPage, packageSite, pause, register } from '../browser/site.mjs';

/**
 * A conversation: each tab sends, and syncs all the time with requests that are held. Alice's never
 * pauses; Bob's sends with the page's own fetch, as a client that was not given the package's, and
 * thinks between.
 */
async function conversation(t, site) {
  const browser = await launch();
  t.after(() => browser.close());
  const tabs = [];
  for (const [name, options, pause] of [['alice', { global: false }, 0], ['bob', { global: true }, 200]]) {
    const page = await openPage(browser.context, site);
    const session = await register(page, name);
    tabs.push({ name, page, session, pause, options, token: session.access_token });
  }
  const [alice, bob] = tabs;
  const { room_id: room } = await ok(alice.page, alice.token, 'POST', '/createRoom', { preset: 'private_chat', invite: [bob.session.user_id] });
  await ok(bob.page, bob.token, 'POST', `/join/${encodeURIComponent(room)}`, {}, bob.options);
  for (const tab of tabs) await tab.page.evaluate(talk, { ...tab.options, pause: tab.pause, name: tab.name, token: tab.token, room });
  return { browser, tabs, room };
}

/**
 * In a tab: sends and syncs until `globalThis.talk.on` is false. Whatever fails is noted and ends
 * the talk.
 */
function talk({ global, pause, name, token, room }) {
  const noted = { on: true, sent: [], seen: [], failures: [] };
  globalThis.talk = noted;
  const call = async (method, endpoint, content) => {
    const fetch = global && method === 'PUT' ? globalThis.fetch : globalThis.server.fetch;
    const response = await fetch(`/_matrix/client/v3${endpoint}`, { method, headers: { authorization: `Bearer ${token}` }, body: content && JSON.stringify(content) });
    const body = await response.json();
    if (response.status !== 200) throw new Error(`${method} ${endpoint} answered ${response.status}: ${JSON.stringify(body)}`);
    return body;
  };
  const sends = async () => {
    for (let n = 0; noted.on; n += 1) {
      const body = `${name} ${n}`;
      const { event_id: id } = await call('PUT', `/rooms/${encodeURIComponent(room)}/send/m.room.message/${name}${n}`, { msgtype: 'm.text', body });
      noted.sent.push({ id, body });
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  };
  // More than anybody sends while one answer is on its way.
  const filter = encodeURIComponent(JSON.stringify({ room: { timeline: { limit: 500 } } }));
  const read = ({ rooms }) => {
    const timeline = rooms?.join?.[room]?.timeline;
    if (timeline?.limited && noted.since) throw new Error('a gap where the client had kept up');
    for (const { type, event_id: id, content } of timeline?.events ?? []) if (type === 'm.room.message') noted.seen.push({ id, body: content.body });
  };
  const sync = async (timeout) => {
    const answer = await call('GET', `/sync?timeout=${timeout}&filter=${filter}${noted.since ? `&since=${noted.since}` : ''}`);
    read(answer);
    noted.since = answer.next_batch;
  };
  const syncs = async () => {
    while (noted.on) await sync(20_000);
  };
  const guarded = (work) => work().catch((error) => { noted.failures.push(String(error)); });
  // A client has synced before it sends, and so has one that hears all of it.
  const begun = guarded(() => sync(0));
  const sending = begun.then(() => guarded(sends));
  const syncing = begun.then(() => guarded(syncs));
  noted.stop = async () => {
    noted.on = false;
    await sending;
  };
  noted.finish = async () => {
    await syncing;
    await guarded(() => sync(0));
    const { sent, seen, failures } = noted;
    return { sent, seen, failures };
  };
}

/**
 * Ends the conversation and looks at it from both sides: nothing failed, and each message is there
 * once, for everybody.
 */
async function mustHaveGoneWell({ tabs, room }) {
  for (const { page } of tabs) await page.evaluate(() => globalThis.talk.stop());
  // The syncs that are held now end with this.
  const [{ page, token }] = tabs;
  const { event_id: last } = await ok(page, token, 'PUT', `/rooms/${encodeURIComponent(room)}/send/m.room.message/last`, { msgtype: 'm.text', body: 'last' });
  const talks = [];
  for (const tab of tabs) talks.push(await tab.page.evaluate(() => globalThis.talk.finish()));
  assert.deepEqual(talks.map(({ failures }) => failures), [[], []]);
  const sent = [...talks.flatMap((talk) => talk.sent), { id: last, body: 'last' }];
  const sorted = (messages) => messages.map(({ id, body }) => `${id} ${body}`).sort();
  const stored = (await messagesOf(page, token, room)).map(({ event_id: id, content }) => ({ id, body: content.body }));
  assert.deepEqual(sorted(stored), sorted(sent), 'what was sent is stored, once');
  for (const [n, { seen }] of talks.entries()) {
    assert.deepEqual(seen, stored, `${tabs[n].name} saw every message once, in their order`);
  }
  return talks;
}

const messagesUntil = (tab, count) => tab.page.waitForFunction((wanted) => globalThis.talk.sent.length >= wanted || globalThis.talk.failures.length > 0, count, { timeout: 240_000 });

/** A site that has another version of the worker once a page was made to look for one. */
async function updatableSite(t, label) {
  const next = path('.cache', label, 'ephapse-worker.js');
  await buildWorker({ outfile: next, label: `-${label}` });
  let updated = false;
  const site = await packageSite(t, { worker: (script) => (updated ? readFile(next, 'utf8') : script) });
  return {
    site,
    update: async (page) => {
      updated = true;
      await page.evaluate(async () => { await (await navigator.serviceWorker.getRegistration()).update(); });
    },
    arrived: (page) => page.waitForFunction((end) => globalThis.news.some(({ event, version }) => event === 'update' && version.endsWith(end)), `-${label}`, { timeout: 90_000 }),
  };
}

/**
 * A sync of the page, to whose account nothing happens, and which is held far beyond the update
 * that comes; with `global` by the page's own `fetch`.
 */
async function heldSync(page, token, since, { global = false } = {}) {
  await page.evaluate((given) => {
    const fetch = given.global ? globalThis.fetch : globalThis.server.fetch;
    const sync = async () => {
      const response = await fetch(`/_matrix/client/v3/sync?timeout=60000&since=${given.since}`, { headers: { authorization: `Bearer ${given.token}` } });
      return { status: response.status, next: (await response.json()).next_batch, answered: performance.now() };
    };
    globalThis.held = sync();
    globalThis.held.catch(() => undefined);
    const channel = new BroadcastChannel(`ephapse ${location.href}`);
    channel.onmessage = ({ data }) => {
      // The first attempt is the one that finds it held.
      if (data.news === 'handover') globalThis.handedOver ??= performance.now();
    };
  }, { token, since, global });
  return {
    /** It was answered because of the update, not at its end; resolves to the position after it. */
    mustHaveBeenAnswered: async () => {
      const { status, next, answered, handedOver } = await page.evaluate(async () => ({ ...(await globalThis.held), handedOver: globalThis.handedOver }));
      assert.equal(status, 200);
      // A broadcast and an answer go different ways.
      const held = answered - handedOver;
      assert.ok(held > -500 && held < 10_000, `answered ${held} ms after the new version came`);
      return next;
    },
  };
}

test('two tabs with two accounts talk to one server at once', { timeout: 240_000 }, async (t) => {
  const site = await packageSite(t);
  const talking = await conversation(t, site);
  for (const tab of talking.tabs) await messagesUntil(tab, 15);
  const talks = await mustHaveGoneWell(talking);
  t.diagnostic(talks.map(({ sent }) => `${sent.length} sent`).join(', '));
});

test('a new version takes over with syncs held and sends in flight, beside pages of the old one', { timeout: 420_000 }, async (t) => {
  const { site, update, arrived } = await updatableSite(t, 'next');
  const talking = await conversation(t, site);
  const carol = await openPage(talking.browser.context, site);
  const { access_token: token } = await register(carol, 'carol');
  const { next_batch: since } = await ok(carol, token, 'GET', '/sync?timeout=0');
  for (const tab of talking.tabs) await messagesUntil(tab, 10);

  // Right after a page was opened Chromium has a look for updates of its own planned, which ours
  // would wait for.
  await pause(3_000);
  const [alice, bob] = talking.tabs;
  const old = await carol.evaluate(() => globalThis.server.status());
  const held = await heldSync(carol, token, since, { global: true });
  await update(bob.page);
  const asked = performance.now();
  await arrived(alice.page);
  t.diagnostic(`the new version was active after ${((performance.now() - asked) / 1_000).toFixed(1)} s`);
  const after = await held.mustHaveBeenAnswered();

  // All go on with the new version: the pages that were there, and one that comes.
  for (const tab of talking.tabs) await messagesUntil(tab, (await tab.page.evaluate(() => globalThis.talk.sent.length)) + 20);
  await ok(carol, token, 'GET', `/sync?timeout=0&since=${after}`, undefined, { global: true });
  const fresh = await openPage(talking.browser.context, site);
  for (const page of [fresh, carol, alice.page, bob.page]) {
    const status = await page.evaluate(() => globalThis.server.status());
    assert.deepEqual([status.version, status.serverName], [`${old.version}-next`, old.serverName]);
  }
  const talks = await mustHaveGoneWell(talking);
  t.diagnostic(talks.map(({ sent }) => `${sent.length} sent`).join(', '));
});

test('a new version takes over in silence, with nothing but a held sync', { timeout: 240_000 }, async (t) => {
  const { site, update, arrived } = await updatableSite(t, 'silent');
  const browser = await launch();
  t.after(() => browser.close());
  const page = await openPage(browser.context, site);
  const { access_token: token } = await register(page, 'alice');
  const { next_batch: since } = await ok(page, token, 'GET', '/sync?timeout=0');

  await pause(3_000);
  const held = await heldSync(page, token, since);
  await update(page);
  await arrived(page);
  const after = await held.mustHaveBeenAnswered();
  const { room_id: room } = await ok(page, token, 'POST', '/createRoom', {});
  const { rooms } = await ok(page, token, 'GET', `/sync?timeout=0&since=${after}`);
  assert.deepEqual(Object.keys(rooms.join), [room]);
});

test('nothing fails for a client that never pauses, and an update comes at the latest when it does', { timeout: 240_000 }, async (t) => {
  const { site, update, arrived } = await updatableSite(t, 'restless');
  const browser = await launch();
  t.after(() => browser.close());
  const page = await openPage(browser.context, site);
  await pause(3_000);
  await update(page);
  await page.evaluate(() => {
    globalThis.restless = { on: true, failures: [] };
    const asking = async () => {
      while (globalThis.restless.on) {
        await globalThis.fetch('/_matrix/client/versions').then(
          ({ status }) => { if (status !== 200) globalThis.restless.failures.push(status); },
          (error) => globalThis.restless.failures.push(String(error)),
        );
      }
    };
    globalThis.restless.over = Promise.all([asking(), asking(), asking()]);
  });
  await pause(6_000);
  const failures = await page.evaluate(async () => {
    globalThis.restless.on = false;
    await globalThis.restless.over;
    return globalThis.restless.failures;
  });
  assert.deepEqual(failures, []);
  t.diagnostic((await page.evaluate(() => globalThis.news.length)) === 0 ? 'it was put off' : 'it came meanwhile');
  await arrived(page);
  assert.equal((await page.evaluate(async () => (await fetch('/_matrix/client/versions')).status)), 200);
});
