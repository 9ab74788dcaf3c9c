// People on two servers: who reads, types and is there, names, files, devices.

import assert from 'node:assert/strict';
import { deflateSync, crc32 } from 'node:zlib';
import { scenario, scenarios } from './scenarios.mjs';
import { agree, until } from './user.mjs';

async function together(here, there) {
  const [alice, bob] = await Promise.all([here.user('alice'), there.user('bob')]);
  const room = await alice.createRoom({ preset: 'public_chat' });
  await bob.join(room, here);
  await alice.seesMember(room, bob, 'join');
  // A server may still be busy with a join that its user has finished.
  await alice.say(room, 'Hello');
  await bob.reads(room, 'Hello');
  return { alice, bob, room };
}

/** A picture, PNG, of so many pixels each way. */
function picture(side) {
  const chunk = (type, data) => {
    const body = Buffer.concat([Buffer.from(type), data]);
    const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
    length.writeUInt32BE(data.length);
    sum.writeUInt32BE(crc32(body));
    return Buffer.concat([length, body, sum]);
  };
  const header = Buffer.alloc(13);
  header.writeUInt32BE(side, 0);
  header.writeUInt32BE(side, 4);
  header.set([8, 2], 8);
  const line = (y) => Buffer.from([0, ...Array.from({ length: side }, (_, x) => [x & 255, y & 255, (x * y) & 255]).flat()]);
  const pixels = deflateSync(Buffer.concat(Array.from({ length: side }, (_, y) => line(y))));
  return Buffer.concat([Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'), chunk('IHDR', header), chunk('IDAT', pixels), chunk('IEND', Buffer.alloc(0))]);
}

async function download(user, path) {
  const response = await fetch(`${user.server.url}/_matrix/client/v1/media/${path}`, { headers: { authorization: `Bearer ${user.token}` } });
  return { status: response.status, type: response.headers.get('content-type'), disposition: response.headers.get('content-disposition'), body: Buffer.from(await response.arrayBuffer()) };
}

await scenarios('people', ({ directions }) => {
  for (const { here, there, words } of directions) {
    scenario(`${words}: a receipt`, async () => {
      const { alice, bob, room } = await together(here, there);
      const event = await bob.say(room, 'Have you read this?');
      await alice.reads(room, 'Have you read this?');
      await alice.ok('POST', `rooms/${encodeURIComponent(room)}/receipt/m.read/${encodeURIComponent(event)}`, {});
      await bob.sees('the receipt', () => bob.room(room).receipts.get(alice.id) === event);
    });

    scenario(`${words}: typing, begun and ended`, async () => {
      const { alice, bob, room } = await together(here, there);
      const typing = (body) => alice.ok('PUT', `rooms/${encodeURIComponent(room)}/typing/${alice.id}`, body);
      await typing({ typing: true, timeout: 30_000 });
      await bob.sees('typing', () => bob.room(room).typing.includes(alice.id));
      await typing({ typing: false });
      await bob.sees('the end of it', () => bob.room(room).typing.length === 0);
    });

    scenario(`${words}: presence`, async () => {
      const { alice, bob, room } = await together(here, there);
      const set = (presence, status_msg) => alice.ok('PUT', `presence/${alice.id}/status`, { presence, status_msg });
      await set('online', 'Here');
      await bob.sees('presence', () => bob.presence.get(alice.id)?.status_msg === 'Here');
      assert.equal(bob.presence.get(alice.id).presence, 'online');
      await set('unavailable', 'Lunch');
      await bob.sees('another presence', () => bob.presence.get(alice.id)?.status_msg === 'Lunch');
      assert.equal(bob.presence.get(alice.id).presence, 'unavailable');
      await alice.leave(room);
    });

    scenario(`${words}: a new name and picture`, async () => {
      const { alice, bob, room } = await together(here, there);
      await alice.ok('PUT', `profile/${alice.id}/displayname`, { displayname: 'Alice in Wonderland' });
      await bob.sees('the name', () => bob.room(room).member(alice)?.displayname === 'Alice in Wonderland');
      await alice.ok('PUT', `profile/${alice.id}/avatar_url`, { avatar_url: `mxc://${here.name}/picture` });
      await bob.sees('the picture', () => bob.room(room).member(alice)?.avatar_url === `mxc://${here.name}/picture`);
      const profile = await bob.ok('GET', `profile/${alice.id}`);
      assert.equal(profile.displayname, 'Alice in Wonderland');
      assert.equal(profile.avatar_url, `mxc://${here.name}/picture`);
      await bob.refused(404, 'M_NOT_FOUND', 'GET', `profile/@nobody:${here.name}`);
      await agree(room, alice, bob);
    });

    scenario(`${words}: files and thumbnails`, async () => {
      const [alice, bob] = await Promise.all([here.user('alice'), there.user('bob')]);
      const upload = async (body, type, filename) => {
        const response = await fetch(`${here.url}/_matrix/media/v3/upload?filename=${filename}`, { method: 'POST', headers: { authorization: `Bearer ${alice.token}`, 'content-type': type }, body });
        assert.equal(response.status, 200);
        return (await response.json()).content_uri.slice('mxc://'.length);
      };
      const shown = picture(400);
      const path = await upload(shown, 'image/png', 'a.png');
      for (let n = 0; n < 2; n++) {
        const file = await download(bob, `download/${path}`);
        assert.equal(file.status, 200, file.body.toString());
        assert.equal(file.type, 'image/png');
        assert.match(file.disposition, /filename="?a\.png/);
        assert.ok(file.body.equals(shown), 'the same bytes');
      }
      const small = await download(bob, `thumbnail/${path}?width=32&height=32&method=scale`);
      assert.equal(small.status, 200, small.body.toString());
      assert.match(small.type, /^image\/(png|jpeg|webp)/);
      assert.ok(small.body.length < shown.length);
      const large = Buffer.alloc(5 << 20, 'federation ');
      const other = await upload(large, 'application/octet-stream', 'b.bin');
      assert.ok((await download(bob, `download/${other}`)).body.equals(large));
      const missing = await download(bob, `download/${here.name}/nothing`);
      assert.equal(missing.status, 404);
      assert.equal(JSON.parse(missing.body).errcode, 'M_NOT_FOUND');
    });

    scenario(`${words}: messages to a device`, async () => {
      const { alice, bob } = await together(here, there);
      for (let n = 0; n < 3; n++) await alice.sendToDevice(bob, { n });
      await bob.sees('three notes', () => bob.toDevice.length >= 3);
      assert.deepEqual(bob.toDevice.map(({ sender, type, content }) => [sender, type, content.n]), [0, 1, 2].map((n) => [alice.id, 'org.example.note', n]));
    });

    scenario(`${words}: a new device, its keys, and its end`, async () => {
      const { alice, bob, room } = await together(here, there);
      await alice.setState(room, 'm.room.encryption', { algorithm: 'm.megolm.v1.aes-sha2' });
      await bob.sees('encryption', () => bob.room(room).state.get('m.room.encryption|'));
      await bob.catchUp();
      const devices = async () => Object.keys((await bob.ok('POST', 'keys/query', { device_keys: { [alice.id]: [] } })).device_keys[alice.id] ?? {}).sort();
      await publishKeys(alice);
      await bob.sees('a change of devices', () => bob.changed.has(alice.id));
      assert.deepEqual(await devices(), [alice.device]);

      bob.changed.clear();
      const phone = await alice.logIn();
      await publishKeys(phone);
      await bob.sees('a second device', () => bob.changed.has(alice.id));
      await until('both devices', async () => (await devices()).length === 2);
      assert.deepEqual(await devices(), [alice.device, phone.device].sort());

      const { one_time_keys: claimed } = await bob.ok('POST', 'keys/claim', { one_time_keys: { [alice.id]: { [phone.device]: 'signed_curve25519' } } });
      assert.deepEqual(Object.keys(claimed[alice.id][phone.device]), ['signed_curve25519:AAAAAQ']);

      bob.changed.clear();
      await phone.ok('POST', 'logout', {});
      await bob.sees('the end of the second device', () => bob.changed.has(alice.id));
      await until('one device', async () => (await devices()).length === 1);
    });

    scenario(`${words}: cross-signing keys`, async () => {
      const { alice, bob, room } = await together(here, there);
      await alice.setState(room, 'm.room.encryption', { algorithm: 'm.megolm.v1.aes-sha2' });
      await bob.sees('encryption', () => bob.room(room).state.get('m.room.encryption|'));
      await bob.catchUp();
      bob.changed.clear();
      const key = (usage, letter) => ({ user_id: alice.id, usage: [usage], keys: { [`ed25519:${letter.repeat(43)}`]: letter.repeat(43) } });
      await alice.ok('POST', 'keys/device_signing/upload', { master_key: key('master', 'A'), auth: { type: 'm.login.password', identifier: { type: 'm.id.user', user: alice.id }, password: 'a password' } });
      await bob.sees('a change', () => bob.changed.has(alice.id));
      await until('the master key', async () => (await bob.ok('POST', 'keys/query', { device_keys: { [alice.id]: [] } })).master_keys?.[alice.id]?.keys?.[`ed25519:${'A'.repeat(43)}`]);
    });

    scenario(`${words}: an OpenID token is good at the server that gave it`, async () => {
      const alice = await here.user('alice');
      const token = await alice.ok('POST', `user/${encodeURIComponent(alice.id)}/openid/request_token`, {});
      assert.equal(token.matrix_server_name, here.name);
      assert.deepEqual(await alice.ok('GET', `/_matrix/federation/v1/openid/userinfo?access_token=${token.access_token}`), { sub: alice.id });
      await alice.refused(401, 'M_UNKNOWN_TOKEN', 'GET', '/_matrix/federation/v1/openid/userinfo?access_token=wrong');
    });
  }
}, { provoked: [/query\/profile.*404: Not Found/, /media\S* .*localhost:\d+\/nothing|media\/\S*nothing/] });

/** Publishes keys of a device that nobody could use. */
async function publishKeys(user) {
  const letter = (name) => name.padEnd(43, 'x').slice(0, 43).replaceAll(/[^A-Za-z0-9]/g, 'y');
  const keys = { [`curve25519:${user.device}`]: letter(`c${user.device}`), [`ed25519:${user.device}`]: letter(`e${user.device}`) };
  const signatures = { [user.id]: { [`ed25519:${user.device}`]: 'A'.repeat(86) } };
  await user.ok('POST', 'keys/upload', {
    device_keys: { user_id: user.id, device_id: user.device, algorithms: ['m.olm.v1.curve25519-aes-sha2', 'm.megolm.v1.aes-sha2'], keys, signatures },
    one_time_keys: { 'signed_curve25519:AAAAAQ': { key: letter(`o${user.device}`), signatures } },
  });
}
