// An encrypted conversation of two matrix-js-sdk clients, one at each server.

import assert from 'node:assert/strict';
import { launch } from '../browser/browser.mjs';
import { clientSite, clientTab } from '../browser/client/site.mjs';
import { scenario, scenarios } from './scenarios.mjs';

const password = 'correct horse battery staple';

await scenarios('encrypted', ({ directions }) => {
  for (const { here, there, words } of directions) {
    scenario(`${words}: an encrypted conversation, with what was said before the invitation`, async (t) => {
      const site = await clientSite();
      t.after(() => site.close());
      const failures = [];
      const people = await Promise.all([['alice', here], ['bob', there]].map(async ([name, server]) => {
        const browser = await launch();
        t.after(() => browser.close());
        const tab = await clientTab(browser.context, site, { failures });
        const session = await tab.call('register', { baseUrl: server.url, user: `${name}-${here.kind}`, password });
        await tab.call('connect', session);
        assert.equal(await tab.call('crossSign', { password }), true);
        return { ...tab, session };
      }));
      const [alice, bob] = people;
      const [aliceId, bobId] = people.map(({ session }) => session.userId);

      const roomId = await alice.call('createRoom', { name: 'Whispers', invite: [] });
      const before = await alice.call('send', { roomId, body: 'Before you came' });
      assert.equal(await alice.call('invite', { roomId, userId: bobId }), undefined);
      await bob.call('invited', { roomId });
      await bob.call('join', { roomId });
      await alice.call('joined', { roomId, userId: bobId });
      // What was said before comes from the other server when somebody scrolls up.
      const { first, ids } = await bob.call('history', { roomId });
      assert.equal(first, 'm.room.create');
      assert.ok(ids.includes(before));
      await bob.call('reads', { roomId, eventId: before, body: 'Before you came' });

      const hello = await alice.call('send', { roomId, body: 'Hello Bob' });
      assert.deepEqual(await bob.call('reads', { roomId, eventId: hello, body: 'Hello Bob' }), { encrypted: true, sender: aliceId });
      const answer = await bob.call('send', { roomId, body: 'Hello Alice' });
      assert.deepEqual(await alice.call('reads', { roomId, eventId: answer, body: 'Hello Alice' }), { encrypted: true, sender: bobId });

      const reaction = '👍';
      await bob.call('react', { roomId, eventId: hello, key: reaction });
      await alice.call('reacted', { roomId, eventId: hello, key: reaction });
      await alice.call('type', { roomId });
      await bob.call('types', { roomId, userId: aliceId });
      await bob.call('read', { roomId, eventId: hello });
      await alice.call('hasRead', { roomId, eventId: hello, userId: bobId });

      // A new device of Bob's gets keys as well.
      const browser = await launch();
      t.after(() => browser.close());
      const phone = await clientTab(browser.context, site, { failures });
      await phone.call('connect', await phone.call('logIn', { baseUrl: there.url, user: `bob-${here.kind}`, password }));
      const news = await alice.call('sendOnceKnown', { roomId, body: 'To both of you', userId: bobId, devices: 2 });
      for (const who of [bob, phone]) await who.call('reads', { roomId, eventId: news, body: 'To both of you' });
      assert.deepEqual(failures, []);
    });
  }
}, { concurrency: 1 });
