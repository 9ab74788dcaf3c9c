// What was said before somebody came: read from the other server, where it may be read.

import assert from 'node:assert/strict';
import { scenario, scenarios } from './scenarios.mjs';

const visibility = (history_visibility) => ({ initial_state: [{ type: 'm.room.history_visibility', state_key: '', content: { history_visibility } }] });
const texts = (events) => events.filter(({ type }) => type === 'm.room.message').map(({ content }) => content.body);

await scenarios('history', ({ directions }) => {
  for (const { here, there, words } of directions) {
    for (const version of ['10', '12']) {
      scenario(`${words}: history from before the join, back to the room's start (version ${version})`, async () => {
        const [alice, bob] = await Promise.all([here.user('alice'), there.user('bob')]);
        const room = await alice.createRoom({ version, preset: 'public_chat', name: 'An old room', ...visibility('shared') });
        const said = [];
        for (let n = 0; n < 45; n++) {
          said.push(`Message ${n}`);
          await alice.say(room, said.at(-1));
          if (n % 20 === 10) await alice.setState(room, 'm.room.topic', { topic: `Topic ${n}` });
        }
        await bob.join(room, here);
        const events = await bob.history(room, 30);
        assert.deepEqual(texts(events), said.toReversed());
        assert.equal(events.at(-1).type, 'm.room.create');
        assert.equal(new Set(events.map(({ event_id }) => event_id)).size, events.length, 'every event once');
        const topics = events.filter(({ type }) => type === 'm.room.topic').map(({ content }) => content.topic);
        assert.deepEqual(topics, ['Topic 30', 'Topic 10']);
        // Once more, now from what is known here.
        assert.deepEqual(texts(await bob.history(room, 50)), said.toReversed());
        const middle = events.find(({ content }) => content.body === 'Message 20').event_id;
        const around = await bob.ok('GET', `rooms/${encodeURIComponent(room)}/context/${encodeURIComponent(middle)}?limit=4`);
        assert.equal(around.event.content.body, 'Message 20');
        assert.ok(around.events_before.length > 0 && around.events_after.length > 0);
      });
    }

    for (const which of ['joined', 'invited']) {
      scenario(`${words}: nothing from before, where only members may read (${which})`, async () => {
        const [alice, bob] = await Promise.all([here.user('alice'), there.user('bob')]);
        const room = await alice.createRoom({ preset: 'private_chat', ...visibility(which) });
        const early = await alice.say(room, 'Before the invitation');
        await alice.invite(room, bob);
        await bob.seesInvite(room);
        const between = await alice.say(room, 'Before the join');
        await bob.join(room, here);
        await alice.seesMember(room, bob, 'join');
        await alice.say(room, 'After the join');
        await bob.reads(room, 'After the join');
        const readable = which === 'invited' ? ['After the join', 'Before the join'] : ['After the join'];
        assert.deepEqual(texts(await bob.history(room)), readable);
        for (const event of [early, ...(which === 'joined' ? [between] : [])]) {
          await bob.refused(404, 'M_NOT_FOUND', 'GET', `rooms/${encodeURIComponent(room)}/event/${encodeURIComponent(event)}`);
        }
      });
    }

    scenario(`${words}: a moment is found in what the other server alone has`, async () => {
      const [alice, bob] = await Promise.all([here.user('alice'), there.user('bob')]);
      const room = await alice.createRoom({ preset: 'public_chat' });
      const first = await alice.say(room, 'Long ago');
      for (let n = 0; n < 30; n++) await alice.say(room, `Filler ${n}`);
      const { origin_server_ts: when } = await alice.ok('GET', `rooms/${encodeURIComponent(room)}/event/${encodeURIComponent(first)}`);
      await bob.join(room, here);
      const found = await bob.ok('GET', `/_matrix/client/v1/rooms/${encodeURIComponent(room)}/timestamp_to_event?ts=${when}&dir=f`);
      assert.equal(found.event_id, first);
      const around = await bob.ok('GET', `rooms/${encodeURIComponent(room)}/context/${encodeURIComponent(first)}?limit=2`);
      assert.equal(around.event.content.body, 'Long ago');
    });
  }
});
