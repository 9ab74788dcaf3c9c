// What people do with a client, with matrix-js-sdk as it is and as it was, against `ephapse serve`.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { launch } from '../browser/browser.mjs';
import { clientSite, clientTab } from '../browser/client/site.mjs';
import { Server } from '../serve/server.mjs';

const password = 'correct horse battery staple';
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// What was said before an invitation is given along with it by the newer one, through an upload.
for (const [sdk, givesHistory] of [['matrix-js-sdk-37', false], ['matrix-js-sdk', true]]) {
  test(`a journey with ${sdk}`, { timeout: 120_000 }, async (t) => {
    const site = await clientSite({ sdk });
    t.after(() => site.close());
    // One each: the older one keeps the keys of one account in a browser.
    const browsers = [await launch(), await launch()];
    for (const browser of browsers) t.after(() => browser.close());
    const server = await Server.start(t, ['--server-name', 'localhost']);
    const failures = [];
    const [alice, bob] = await Promise.all(browsers.map(({ context }) => clientTab(context, site, { failures })));
    const baseUrl = server.url;
    const sessions = [];
    for (const [who, user] of [[alice, 'alice'], [bob, 'bob']]) {
      const session = await who.call('register', { baseUrl, user, password });
      await who.call('connect', session);
      assert.equal(await who.call('crossSign', { password }), true);
      sessions.push(session);
    }
    const [{ userId: aliceId }, { userId: bobId }] = sessions;

    const roomId = await alice.call('createRoom', { name: 'A room with history', invite: [] });
    const before = [];
    for (let n = 0; n < 3; n++) before.push(await alice.call('send', { roomId, body: `Before ${n}` }));

    let queries = 0;
    alice.page.on('request', (request) => { if (request.url().endsWith('/keys/query')) queries += 1; });
    const refused = await alice.call('invite', { roomId, userId: '@bbo:localhost' });
    assert.equal(refused.status, 404);
    assert.equal(refused.errcode, 'M_NOT_FOUND');
    assert.match(refused.error, /@bbo:localhost/);
    assert.equal(await alice.call('invite', { roomId, userId: bobId }), undefined);
    await bob.call('invited', { roomId });
    await bob.call('join', { roomId });
    await alice.call('joined', { roomId, userId: bobId });

    if (givesHistory) for (const [n, eventId] of before.entries()) await bob.call('reads', { roomId, eventId, body: `Before ${n}` });

    const hello = await alice.call('send', { roomId, body: 'Hello Bob' });
    assert.deepEqual(await bob.call('reads', { roomId, eventId: hello, body: 'Hello Bob' }), { encrypted: true, sender: aliceId });
    const answer = await bob.call('send', { roomId, body: 'Hello Alice' });
    assert.deepEqual(await alice.call('reads', { roomId, eventId: answer, body: 'Hello Alice' }), { encrypted: true, sender: bobId });
    await pause(2_000);
    assert.ok(queries < 10, `${queries} requests for keys`);

    const { first, ids, bodies } = await bob.call('history', { roomId });
    assert.equal(first, 'm.room.create');
    assert.deepEqual(before.filter((id) => !ids.includes(id)), []);
    assert.deepEqual(bodies.filter(Boolean).slice(-2), ['Hello Bob', 'Hello Alice']);
    // The first event has nothing before it, and the last nothing behind it.
    for (const eventId of [ids[0], ids.at(-1)]) assert.ok((await bob.call('around', { roomId, eventId })).includes(eventId));

    await alice.call('kick', { roomId, userId: bobId, reason: 'The end' });
    for (const who of [alice, bob]) await who.call('isMember', { roomId, userId: bobId, membership: 'leave' });
    await alice.call('leave', { roomId });
    assert.deepEqual(failures, []);
  });
}
