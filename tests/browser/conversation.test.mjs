// Two people hold an encrypted conversation, with matrix-js-sdk and its Rust encryption: against
// the server in the service worker, and against the native one.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Server } from '../serve/server.mjs';
import { launch } from './browser.mjs';
import { clientSite, clientTab } from './client/site.mjs';

const password = 'correct horse battery staple';
let site;

before(async () => {
  site = await clientSite();
});
after(() => site.close());

for (const where of ['the service worker', 'ephapse serve']) {
  test(`an encrypted conversation with ${where}`, { timeout: 180_000 }, async (t) => {
    const browser = await launch();
    t.after(() => browser.close());
    const native = where === 'ephapse serve' ? await Server.start(t, ['--server-name', 'localhost']) : undefined;
    const failures = [];
    /** A tab whose client can reach the server. */
    const tab = async () => {
      const opened = await clientTab(browser.context, site, { failures });
      opened.baseUrl = native?.url ?? (await opened.call('startServer'));
      return opened;
    };
    const { baseUrl, ...alice } = await tab();
    const bob = await tab();

    const aliceSession = await alice.call('register', { baseUrl, user: 'alice', password });
    await alice.call('connect', aliceSession);
    assert.equal(await alice.call('crossSign', { password }), true);
    const recoveryKey = await alice.call('backUp');

    const bobSession = await bob.call('register', { baseUrl, user: 'bob', password });
    await bob.call('connect', bobSession);
    assert.equal(await bob.call('crossSign', { password }), true);

    const roomId = await alice.call('createRoom', { name: 'Two', invite: [bobSession.userId] });
    await bob.call('invited', { roomId });
    await bob.call('join', { roomId });
    await alice.call('joined', { roomId, userId: bobSession.userId });

    const hello = await alice.call('send', { roomId, body: 'Hello Bob' });
    assert.deepEqual(await bob.call('reads', { roomId, eventId: hello, body: 'Hello Bob' }), { encrypted: true, sender: aliceSession.userId });
    const answer = await bob.call('send', { roomId, body: 'Hello Alice' });
    assert.deepEqual(await alice.call('reads', { roomId, eventId: answer, body: 'Hello Alice' }), { encrypted: true, sender: bobSession.userId });

    await bob.call('react', { roomId, eventId: hello, key: '👍' });
    await alice.call('reacted', { roomId, eventId: hello, key: '👍' });
    await alice.call('edit', { roomId, eventId: hello, body: 'Hello, Bob!' });
    await bob.call('reads', { roomId, eventId: hello, body: 'Hello, Bob!' });
    await bob.call('redact', { roomId, eventId: answer });
    await alice.call('redacted', { roomId, eventId: answer });

    await bob.call('type', { roomId });
    await alice.call('types', { roomId, userId: bobSession.userId });
    const question = await alice.call('send', { roomId, body: 'Are you there?' });
    await bob.call('reads', { roomId, eventId: question, body: 'Are you there?' });
    await bob.call('read', { roomId, eventId: question });
    await alice.call('hasRead', { roomId, eventId: question, userId: bobSession.userId });

    const numbered = Array.from({ length: 40 }, (_, number) => `Message ${number}`);
    for (const body of numbered) await alice.call('send', { roomId, body });
    const expected = ['Hello, Bob!', 'Are you there?', ...numbered];

    const history = async (who) => {
      const { first, ids, bodies, unreadable } = await who.call('history', { roomId });
      assert.equal(first, 'm.room.create');
      assert.equal(new Set(ids).size, ids.length, 'every event once');
      assert.equal(unreadable, 0);
      assert.deepEqual(bodies.filter(Boolean), expected);
    };

    // A second device, which has only the recovery key.
    await alice.call('backedUp', { keys: 2 });
    const second = await tab();
    const secondSession = await second.call('logIn', { baseUrl, user: 'alice', password });
    assert.notEqual(secondSession.deviceId, aliceSession.deviceId);
    await second.call('connect', secondSession);
    assert.ok((await second.call('restore', { key: recoveryKey })) > 0);
    await history(second);

    // A reload, and on with it; Bob's reload comes back to a room of which it knows the last events
    // only.
    for (const [who, session] of [[alice, aliceSession], [bob, bobSession]]) {
      await who.open();
      if (!native) await who.call('startServer');
      await who.call('connect', session);
    }
    await history(bob);
    const again = await alice.call('send', { roomId, body: 'Back again' });
    for (const who of [bob, second]) await who.call('reads', { roomId, eventId: again, body: 'Back again' });

    assert.equal(await second.call('logOut'), 'M_UNKNOWN_TOKEN');
    const last = await bob.call('send', { roomId, body: 'Good night' });
    await alice.call('reads', { roomId, eventId: last, body: 'Good night' });
    assert.deepEqual(failures, []);
  });
}
