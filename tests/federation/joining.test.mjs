// Ways into a room that another server has to open: restricted rooms, knocking, upgrades, spaces.

import assert from 'node:assert/strict';
import { scenario, scenarios } from './scenarios.mjs';
import { agree } from './user.mjs';

const restrictedTo = (...rooms) => ({ type: 'm.room.join_rules', state_key: '', content: { join_rule: 'restricted', allow: rooms.map((room_id) => ({ type: 'm.room_membership', room_id })) } });

await scenarios('joining', ({ directions }) => {
  for (const { here, there, words } of directions) {
    scenario(`${words}: a restricted room opens to the members of another`, async () => {
      const [alice, bob, carol] = await Promise.all([here.user('alice'), there.user('bob'), there.user('carol')]);
      const club = await alice.createRoom({ preset: 'public_chat' });
      const room = await alice.createRoom({ preset: 'private_chat', initial_state: [restrictedTo(club)] });
      await bob.mayNotJoin(room, here);
      await bob.join(club, here);
      await bob.join(room, here);
      await alice.seesMember(room, bob, 'join');
      assert.equal(alice.room(room).member(bob).join_authorised_via_users_server, alice.id);
      await bob.say(room, 'I am a member');
      await alice.reads(room, 'I am a member');
      await agree(room, alice, bob);
      // Bob's server is in the room now and knows as well who is in the club. Bob may not invite,
      // so Alice's server has to open.
      await carol.mayNotJoin(room, there);
      await carol.join(club, here);
      await carol.join(room, here);
      await alice.seesMember(room, carol, 'join');
      await agree(room, alice, bob, carol);
    });

    scenario(`${words}: a restricted room that only the other side may open`, async () => {
      const [alice, bob, carol] = await Promise.all([here.user('alice'), there.user('bob'), there.user('carol')]);
      const club = await carol.createRoom({ preset: 'public_chat' });
      await alice.join(club, there);
      const room = await alice.createRoom({ preset: 'private_chat', power_level_content_override: { invite: 50 }, initial_state: [restrictedTo(club)] });
      await alice.invite(room, bob);
      await bob.seesInvite(room);
      await bob.join(room, here);
      await alice.seesMember(room, bob, 'join');
      // Carol's server is in both rooms, and nobody of it may invite.
      await carol.join(room, here);
      await alice.seesMember(room, carol, 'join');
      await bob.seesMember(room, carol, 'join');
      assert.equal(bob.room(room).member(carol).join_authorised_via_users_server, alice.id);
      await agree(room, alice, bob, carol);
    });

    scenario(`${words}: knocking, and being let in or not`, async () => {
      const [alice, bob, mallory] = await Promise.all([here.user('alice'), there.user('bob'), there.user('mallory')]);
      const room = await alice.createRoom({ preset: 'private_chat', name: 'A door', initial_state: [{ type: 'm.room.join_rules', state_key: '', content: { join_rule: 'knock' } }] });
      await bob.mayNotJoin(room, here);
      for (const user of [bob, mallory]) {
        await user.knock(room, 'Let me in', here);
        await alice.seesMember(room, user, 'knock');
        assert.equal(alice.room(room).member(user).reason, 'Let me in');
        await user.sees('the own knock', () => user.knocks.get(room)?.some(({ type, content }) => type === 'm.room.name' && content.name === 'A door'));
      }
      await alice.invite(room, bob);
      await bob.seesInvite(room);
      await bob.join(room, here);
      await alice.seesMember(room, bob, 'join');
      await alice.moderate('kick', room, mallory, 'No');
      await mallory.seesEnd(room);
      await agree(room, alice, bob);
    });

    // Among themselves, Synapses do not tell the room.
    if (there.kind === 'ephapse') scenario(`${words}: a knock that is taken back`, async () => {
      const [alice, bob] = await Promise.all([here.user('alice'), there.user('bob')]);
      const room = await alice.createRoom({ preset: 'private_chat', initial_state: [{ type: 'm.room.join_rules', state_key: '', content: { join_rule: 'knock' } }] });
      await bob.knock(room, 'Let me in', here);
      await alice.seesMember(room, bob, 'knock');
      await bob.leave(room);
      await alice.seesMember(room, bob, 'leave');
    });

    scenario(`${words}: an upgrade is followed`, async () => {
      const [alice, bob] = await Promise.all([here.user('alice'), there.user('bob')]);
      const old = await alice.createRoom({ version: '10', preset: 'public_chat', name: 'The old house' });
      await bob.join(old, here);
      await alice.seesMember(old, bob, 'join');
      const { replacement_room: room } = await alice.ok('POST', `rooms/${encodeURIComponent(old)}/upgrade`, { new_version: '12' });
      const tombstone = await bob.sees('the tombstone', () => bob.room(old).state.get('m.room.tombstone|'));
      assert.equal(tombstone.content.replacement_room, room);
      await bob.sees('the end of the old room', () => bob.room(old).state.get('m.room.power_levels|')?.content.events_default === 50);
      await bob.refused(403, 'M_FORBIDDEN', 'PUT', `rooms/${encodeURIComponent(old)}/send/m.room.message/x`, { msgtype: 'm.text', body: 'Too late' });
      await bob.join(room, here);
      await alice.seesMember(room, bob, 'join');
      await bob.sees('the new room', () => bob.room(room).state.get('m.room.create|')?.content.predecessor?.room_id === old);
      assert.equal(bob.room(room).state.get('m.room.name|').content.name, 'The old house');
      await bob.say(room, 'Nice here');
      await alice.reads(room, 'Nice here');
      await agree(room, alice, bob);
    });

    scenario(`${words}: a space shows its rooms, and those of the other server in it`, async () => {
      const [alice, bob] = await Promise.all([here.user('alice'), there.user('bob')]);
      const space = await alice.createRoom({ preset: 'public_chat', name: 'Village', creation_content: { type: 'm.space' } });
      const [inn, cellar, mill] = [
        await alice.createRoom({ preset: 'public_chat', name: 'Inn' }),
        await alice.createRoom({ preset: 'private_chat', name: 'Cellar' }),
        await bob.createRoom({ preset: 'public_chat', name: 'Mill' }),
      ];
      for (const [room, server] of [[inn, here], [cellar, here], [mill, there]]) await alice.setState(space, 'm.space.child', { via: [server.name] }, room);
      await bob.join(space, here);
      const hierarchy = async (user) => {
        const { rooms } = await user.ok('GET', `/_matrix/client/v1/rooms/${encodeURIComponent(space)}/hierarchy`);
        assert.deepEqual(rooms.find(({ room_id }) => room_id === space).children_state.map(({ state_key }) => state_key).sort(), [inn, cellar, mill].sort());
        return rooms.map(({ name }) => name).sort();
      };
      assert.deepEqual(await hierarchy(alice), ['Cellar', 'Inn', 'Mill', 'Village']);
      assert.deepEqual(await hierarchy(bob), ['Inn', 'Mill', 'Village']);
      await bob.join(inn, here);
      await bob.mayNotJoin(cellar, here);
    });
  }
}, { provoked: [/make_join.*403: Forbidden/, /hierarchy.*404: /] });
