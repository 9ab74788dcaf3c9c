// Servers that are away: one is stopped while others talk, or the network between two is down and
// both go on.

import assert from 'node:assert/strict';
import { scenario, scenarios } from './scenarios.mjs';
import { agree } from './user.mjs';

await scenarios('outages', ({ one, other, directions }) => {
  for (const { here, there, words } of directions) {
    scenario(`${words}: what was said while a server was stopped arrives when it is back`, async () => {
      const [alice, bob] = await Promise.all([here.user('alice'), there.user('bob')]);
      const room = await alice.createRoom({ preset: 'public_chat' });
      await bob.join(room, here);
      await alice.say(room, 'All well');
      await bob.reads(room, 'All well');
      await there.stop();
      const said = Array.from({ length: 60 }, (_, n) => `Away ${n}`);
      for (const body of said) await alice.say(room, body);
      await alice.setState(room, 'm.room.topic', { topic: 'Nobody hears this' });
      await alice.sendToDevice(bob, { n: 1 });
      await there.run();
      // What it gets next tells it what it has missed, if nothing did before.
      await alice.say(room, 'Are you back?');
      // A server that did not answer is tried again after a while.
      await bob.sees('the last message', () => bob.room(room).said.includes('Are you back?'), { patience: 60_000 });
      await bob.reads(room, ...said, 'Are you back?');
      await bob.sees('the note', () => bob.toDevice.length > 0);
      assert.deepEqual(bob.toDevice.map(({ content }) => content.n), [1]);
      assert.equal(new Set(bob.room(room).timeline.map(({ event_id }) => event_id)).size, bob.room(room).timeline.length, 'every event once');
      await bob.say(room, 'I am');
      await alice.reads(room, 'I am');
      await agree(room, alice, bob);
    });
  }

  scenario('a partition with conflicting changes on both sides heals to the same state', async () => {
    const [alice, bob, carol] = await Promise.all([one.user('alice'), other.user('bob'), other.user('carol')]);
    const room = await alice.createRoom({ preset: 'public_chat', power_level_content_override: { users: { [alice.id]: 100, [bob.id]: 50, [carol.id]: 50 } } });
    for (const user of [bob, carol]) await user.join(room, one);
    await agree(room, alice, bob, carol);
    for (const { line } of [one, other]) line.cut();
    // Both sides name the room. One bans Carol, who goes on to change things on her side.
    await alice.setState(room, 'm.room.name', { name: 'From the one side' });
    await alice.moderate('ban', room, carol, 'A quarrel');
    await bob.setState(room, 'm.room.name', { name: 'From the other side' });
    await carol.setState(room, 'm.room.topic', { topic: 'Carol was here' });
    for (let n = 0; n < 5; n++) {
      await alice.say(room, `one ${n}`);
      await bob.say(room, `other ${n}`);
    }
    for (const { line } of [one, other]) line.mend();
    await alice.say(room, 'Healed');
    await bob.say(room, 'Indeed');
    await Promise.all([bob.reads(room, 'Healed'), alice.reads(room, 'Indeed')]);
    const state = await agree(room, alice, bob);
    for (const user of [alice, bob]) {
      await user.catchUp();
      assert.deepEqual(user.room(room).said.filter((body) => body.startsWith('one')), ['one 0', 'one 1', 'one 2', 'one 3', 'one 4']);
      assert.deepEqual(user.room(room).said.filter((body) => body.startsWith('other')), ['other 0', 'other 1', 'other 2', 'other 3', 'other 4']);
    }
    const member = await bob.ok('GET', `rooms/${encodeURIComponent(room)}/state/m.room.member/${carol.id}`);
    assert.equal(member.membership, 'ban');
    assert.ok(state['m.room.name|']);
    await carol.seesEnd(room);
    await alice.say(room, 'One');
    await bob.reads(room, 'One');
    await bob.say(room, 'Two');
    await alice.reads(room, 'Two');
    await agree(room, alice, bob);
  });
}, { provoked: [/ WARNING /], concurrency: 1 });
