// Rooms with members on both servers: making and finding them, talking, and keeping them in order.

import assert from 'node:assert/strict';
import { scenario, scenarios } from './scenarios.mjs';
import { agree } from './user.mjs';

await scenarios('rooms', ({ directions }) => {
  for (const { here, there, words } of directions) {
    for (const version of ['6', '10', '11', '12']) {
      scenario(`${words}: a room of version ${version}, an invitation, a join and messages both ways`, async () => {
        const [alice, bob] = await Promise.all([here.user('alice'), there.user('bob')]);
        const room = await alice.createRoom({ version, name: 'Tea', preset: 'private_chat' });
        await alice.say(room, 'Is anybody there?');
        await alice.invite(room, bob);
        const shown = await bob.seesInvite(room);
        assert.ok(shown.some(({ type, content }) => type === 'm.room.name' && content.name === 'Tea'), 'the invitation has the name');
        assert.ok(shown.some(({ type, state_key, sender }) => type === 'm.room.member' && state_key === bob.id && sender === alice.id));
        await bob.join(room, here);
        await alice.seesMember(room, bob, 'join');
        for (let n = 0; n < 3; n++) {
          await alice.say(room, `alice ${n}`);
          await bob.reads(room, `alice ${n}`);
          await bob.say(room, `bob ${n}`);
          await alice.reads(room, `bob ${n}`);
        }
        await alice.setState(room, 'm.room.topic', { topic: 'Biscuits' });
        await bob.sees('the topic', () => bob.room(room).state.get('m.room.topic|')?.content.topic === 'Biscuits');
        const state = await agree(room, alice, bob);
        const create = await bob.ok('GET', `rooms/${encodeURIComponent(room)}/state/m.room.create?format=event`);
        assert.equal(create.event_id ?? state['m.room.create|'], state['m.room.create|']);
        assert.equal(create.content?.room_version ?? create.room_version, version);
      });
    }

    scenario(`${words}: an invitation that was refused, and one that was taken back`, async () => {
      const [alice, bob] = await Promise.all([here.user('alice'), there.user('bob')]);
      const room = await alice.createRoom({ preset: 'private_chat' });
      await alice.invite(room, bob);
      await bob.seesInvite(room);
      await bob.leave(room);
      await alice.seesMember(room, bob, 'leave');
      await alice.invite(room, bob);
      await bob.seesInvite(room);
      await alice.moderate('kick', room, bob, 'a mistake');
      await bob.seesEnd(room);
      await bob.mayNotJoin(room, here);
    });

    scenario(`${words}: a public room, by its address and by the directory`, async () => {
      const [alice, bob, carol] = await Promise.all([here.user('alice'), there.user('bob'), there.user('carol')]);
      const local = `square-${alice.name}`;
      const room = await alice.createRoom({ preset: 'public_chat', visibility: 'public', room_alias_name: local, name: `Square of ${alice.name}`, topic: 'Everybody' });
      const alias = `#${local}:${here.name}`;
      const found = await bob.ok('GET', `directory/room/${encodeURIComponent(alias)}`);
      assert.equal(found.room_id, room);
      assert.ok(found.servers.includes(here.name));
      const { chunk } = await bob.ok('POST', `publicRooms?server=${here.name}`, { filter: { generic_search_term: alice.name } });
      assert.deepEqual(chunk.map((each) => [each.room_id, each.name, each.topic, each.canonical_alias, each.num_joined_members]), [[room, `Square of ${alice.name}`, 'Everybody', alias, 1]]);
      assert.equal(await bob.join(alias), room);
      await carol.join(room, here);
      await alice.seesMember(room, bob, 'join');
      await alice.seesMember(room, carol, 'join');
      await carol.say(room, 'Hello all');
      await Promise.all([alice.reads(room, 'Hello all'), bob.reads(room, 'Hello all')]);
      await agree(room, alice, bob, carol);
      await bob.refused(404, 'M_NOT_FOUND', 'GET', `directory/room/${encodeURIComponent(`#nowhere:${here.name}`)}`);
    });

    scenario(`${words}: leaving, and coming back`, async () => {
      const [alice, bob] = await Promise.all([here.user('alice'), there.user('bob')]);
      const room = await alice.createRoom({ preset: 'public_chat' });
      await bob.join(room, here);
      await bob.leave(room);
      await alice.seesMember(room, bob, 'leave');
      await alice.say(room, 'While you were away');
      await bob.join(room, here);
      await alice.seesMember(room, bob, 'join');
      await alice.say(room, 'Welcome back');
      await bob.reads(room, 'Welcome back');
      const bodies = (await bob.history(room)).map(({ content }) => content.body).filter(Boolean);
      assert.deepEqual(bodies, ['Welcome back', 'While you were away']);
      await agree(room, alice, bob);
    });

    scenario(`${words}: kick and ban, by either side`, async () => {
      const [alice, bob] = await Promise.all([here.user('alice'), there.user('bob')]);
      const room = await alice.createRoom({ preset: 'public_chat', power_level_content_override: { users: { [alice.id]: 100, [bob.id]: 50 } } });
      const [mallory, trudy] = await Promise.all([there.user('mallory'), here.user('trudy')]);
      await bob.join(room, here);
      await mallory.join(room, here);
      await trudy.join(room);
      await agree(room, alice, bob);
      // What they were in before is known to them.
      for (const user of [mallory, trudy]) await user.catchUp();

      await alice.moderate('kick', room, mallory, 'Noise');
      await mallory.seesEnd(room);
      await bob.seesMember(room, mallory, 'leave');
      assert.equal(bob.room(room).member(mallory).reason, 'Noise');
      await mallory.join(room, here);
      await alice.seesMember(room, mallory, 'join');

      await alice.moderate('ban', room, mallory, 'More noise');
      await mallory.seesEnd(room);
      await mallory.mayNotJoin(room, here);
      await alice.moderate('unban', room, mallory);
      await bob.seesMember(room, mallory, 'leave');
      await mallory.join(room, here);

      await bob.moderate('ban', room, trudy, 'Lies');
      await alice.seesMember(room, trudy, 'ban');
      await trudy.seesEnd(room);
      await trudy.mayNotJoin(room);
      await agree(room, alice, bob);
    });

    scenario(`${words}: what is redacted is gone on both sides`, async () => {
      const [alice, bob] = await Promise.all([here.user('alice'), there.user('bob')]);
      const room = await alice.createRoom({ preset: 'public_chat' });
      await bob.join(room, here);
      const [mine, yours, other] = [await bob.say(room, 'A secret of mine'), await bob.say(room, 'An insult'), await alice.say(room, 'Keep this')];
      await alice.reads(room, 'A secret of mine', 'An insult');
      await bob.reads(room, 'Keep this');
      await bob.redact(room, mine, 'Oops');
      await alice.redact(room, yours, 'Be nice');
      const gone = async (user, event) => {
        await user.sees('the redaction', () => user.room(room).timeline.some((each) => each.type === 'm.room.redaction' && (each.redacts ?? each.content.redacts) === event));
        const shown = await user.ok('GET', `rooms/${encodeURIComponent(room)}/event/${encodeURIComponent(event)}`);
        assert.deepEqual(shown.content, {});
        assert.ok(shown.unsigned.redacted_because);
      };
      for (const user of [alice, bob]) for (const event of [mine, yours]) await gone(user, event);
      // Bob may not redact what is not his.
      await bob.refused(403, 'M_FORBIDDEN', 'PUT', `rooms/${encodeURIComponent(room)}/redact/${encodeURIComponent(other)}/x`, {});
      await agree(room, alice, bob);
    });
  }
}, { provoked: [/make_join.*403: Forbidden/, /query\/directory.*404: Not Found/, /Error retrieving alias #nowhere/] });
