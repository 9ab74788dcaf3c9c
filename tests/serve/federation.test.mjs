// `ephapse serve` among other servers, over HTTPS with certificates of a test's authority.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import https from 'node:https';
import { test as anyTest } from 'node:test';
import { promisify } from 'node:util';
import { freePort } from '../../bench/targets/process.mjs';
import { Authority } from './authority.mjs';
import { Peer } from './peer.mjs';
import { Server, binary } from './server.mjs';

const test = (name, body) => anyTest(name, { timeout: 120_000 }, body);

/** A server at `localhost` and a port, for other servers and for clients. */
async function start(t, authority, options = []) {
  const port = await freePort();
  const name = `localhost:${port}`;
  const { certificate, key } = await authority.issue('DNS:localhost');
  const tls = ['--listen-tls', `127.0.0.1:${port}`, '--tls-cert', certificate, '--tls-key', key, '--ca-cert', authority.file];
  const server = await Server.start(t, ['--server-name', name, ...tls, ...options]);
  return Object.assign(server, { name, tlsPort: port });
}

/** A public answer of a server, over HTTPS. */
async function ask(server, authority, path) {
  const request = https.get({ host: '127.0.0.1', port: server.tlsPort, path, servername: 'localhost', ca: authority.certificate });
  const [response] = await once(request, 'response');
  let body = '';
  for await (const chunk of response) body += chunk;
  return { status: response.statusCode, body: JSON.parse(body) };
}

test('another server is known by its key, which is fetched over HTTPS', async (t) => {
  const authority = await Authority.make(t);
  const peer = await Peer.start(t, authority);
  const server = await start(t, authority, ['--allow-loopback-federation']);
  await server.register('alice');
  const path = `/_matrix/federation/v1/query/profile?user_id=${encodeURIComponent(`@alice:${server.name}`)}`;
  assert.deepEqual(await peer.ask(server.url, server.name, 'GET', path), { status: 200, body: { displayname: 'alice' } });
  assert.deepEqual(peer.asked, ['GET /_matrix/key/v2/server']);
  const forged = await peer.ask(server.url, server.name, 'GET', path, undefined, { as: '/_matrix/federation/v1/version' });
  assert.deepEqual([forged.status, forged.body.errcode], [401, 'M_UNAUTHORIZED']);
  assert.equal((await peer.ask(server.url, server.name, 'GET', path)).status, 200);
  assert.equal(peer.asked.length, 1, 'its key is remembered');
  assert.equal((await ask(server, authority, '/_matrix/key/v2/server')).body.server_name, server.name);
});

test('nothing goes out to an address that is not public, to a server that is denied, or without federation', async (t) => {
  const authority = await Authority.make(t);
  const peer = await Peer.start(t, authority);
  for (const [options, status] of [
    [[], 401],
    [['--allow-loopback-federation', '--federation-deny', 'localhost'], 403],
    [['--allow-loopback-federation', '--federation-allow', '*.example'], 403],
    [['--allow-loopback-federation', '--federation', 'off'], 404],
  ]) {
    const server = await start(t, authority, options);
    const refused = await peer.ask(server.url, server.name, 'GET', `/_matrix/federation/v1/query/profile?user_id=@alice:${server.name}`);
    assert.equal(refused.status, status, `${options}: ${JSON.stringify(refused.body)}`);
    await server.stop();
  }
  assert.deepEqual(peer.asked, []);
});

test('ephapse status asks the server on a directory, and says when none runs there', async (t) => {
  const server = await Server.start(t, ['--server-name', 'status.example']);
  const status = (...args) => promisify(execFile)(binary, ['status', '--data-dir', server.directory, ...args]);
  assert.match((await status()).stdout, /^server name: status\.example$/m);
  assert.equal(JSON.parse((await status('--json')).stdout).serverName, 'status.example');
  await server.stop('SIGKILL');
  await assert.rejects(status(), (error) => error.code === 1 && /no server runs on .+--data-dir/.test(error.stderr));
  await server.run();
  assert.match((await status()).stdout, /^server name: status\.example$/m);
});

test('two servers: joins by alias, profiles, keys and files; one that is not there is named with the reason', async (t) => {
  const authority = await Authority.make(t);
  const one = await start(t, authority, ['--allow-loopback-federation']);
  const two = await start(t, authority, ['--allow-loopback-federation']);
  const [alice, bob] = [await one.register('alice'), await two.register('bob')];
  await one.ok('POST', '/_matrix/client/v3/createRoom', alice.access_token, { preset: 'public_chat', room_alias_name: 'lobby', name: 'The lobby' });
  const join = (alias) => two.request('POST', `/_matrix/client/v3/join/${encodeURIComponent(alias)}`, bob.access_token, {});
  const joined = await join(`#lobby:${one.name}`);
  assert.equal(joined.status, 200, JSON.stringify(joined.body));
  const path = `/_matrix/client/v3/rooms/${encodeURIComponent(joined.body.room_id)}`;
  for (const [server, user] of [[one, alice], [two, bob]]) {
    const { joined: members } = await server.ok('GET', `${path}/joined_members`, user.access_token);
    assert.deepEqual(Object.keys(members).sort(), [alice.user_id, bob.user_id].sort());
    assert.deepEqual(await server.ok('GET', `${path}/state/m.room.name`, user.access_token), { name: 'The lobby' });
  }

  assert.deepEqual(await two.ok('GET', `/_matrix/client/v3/profile/${encodeURIComponent(alice.user_id)}`, bob.access_token), { displayname: 'alice' });
  const { body: own } = await ask(one, authority, '/_matrix/key/v2/server');
  const { server_keys: [passedOn] } = (await ask(two, authority, `/_matrix/key/v2/query/${one.name}`)).body;
  assert.deepEqual(passedOn.verify_keys, own.verify_keys);
  assert.deepEqual(Object.keys(passedOn.signatures).sort(), [one.name, two.name].sort());

  const file = Buffer.from('a file of another server');
  const uploaded = await fetch(`${one.url}/_matrix/media/v3/upload`, { method: 'POST', headers: { authorization: `Bearer ${alice.access_token}`, 'content-type': 'application/pdf' }, body: file });
  const { content_uri: uri } = await uploaded.json();
  const downloaded = await fetch(`${two.url}/_matrix/client/v1/media/download/${uri.slice('mxc://'.length)}`, { headers: { authorization: `Bearer ${bob.access_token}` } });
  assert.deepEqual([downloaded.status, downloaded.headers.get('content-type')], [200, 'application/pdf']);
  assert.deepEqual(Buffer.from(await downloaded.arrayBuffer()), file);

  const closed = `localhost:${await freePort()}`;
  const refused = await join(`#lobby:${closed}`);
  assert.notEqual(refused.status, 200);
  assert.match(refused.body.error, new RegExp(`${closed}.*could not be reached: 127\\.0\\.0\\.1:\\d+: connection refused`), JSON.stringify(refused));
});

test('ephapse status and the metrics tell what waits for a server that is gone, and why', async (t) => {
  const authority = await Authority.make(t);
  const metrics = await freePort();
  const one = await start(t, authority, ['--allow-loopback-federation', '--metrics', `${metrics}`]);
  const two = await start(t, authority, ['--allow-loopback-federation']);
  const [alice, bob] = [await one.register('alice'), await two.register('bob')];
  const { room_id: room } = await one.ok('POST', '/_matrix/client/v3/createRoom', alice.access_token, { preset: 'public_chat', room_alias_name: 'lobby' });
  await two.ok('POST', `/_matrix/client/v3/join/${encodeURIComponent(`#lobby:${one.name}`)}`, bob.access_token, {});
  const path = `/_matrix/client/v3/rooms/${encodeURIComponent(room)}`;
  const say = (body) => one.ok('PUT', `${path}/send/m.room.message/${body}`, alice.access_token, { msgtype: 'm.text', body });
  const until = async (look) => {
    for (let tries = 0; ; tries += 1) {
      const seen = await look();
      if (seen !== undefined) return seen;
      assert.ok(tries < 200, 'it never comes');
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  };
  const status = async (...args) => (await promisify(execFile)(binary, ['status', '--data-dir', one.directory, ...args])).stdout;
  const destination = async () => JSON.parse(await status('--json')).federation.destinations.find(({ server }) => server === two.name);

  await say('hello');
  await until(async () => {
    const { chunk } = await two.ok('GET', `${path}/messages?dir=b&limit=5`, bob.access_token);
    return chunk.find(({ content }) => content.body === 'hello');
  });
  assert.equal((await until(async () => {
    const found = await destination();
    return found?.queued === 0 ? found : undefined;
  })).reachable, true);

  await two.stop();
  await say('anyone');
  const gone = await until(async () => {
    const found = await destination();
    return found.lastError ? found : undefined;
  });
  assert.equal(gone.reachable, false);
  assert.match(gone.lastError, /could not be reached: 127\.0\.0\.1:\d+: connection refused/);
  assert.match(await status(), new RegExp(`^    ${two.name}$(\n      .+)*\n      last error: .*connection refused`, 'm'));
  assert.match(await status(), /^ {6}next try: in \d+ s$/m);
  const shown = await (await fetch(`http://127.0.0.1:${metrics}/metrics`)).text();
  assert.match(shown, /^ephapse_federation_destinations 1$/m);
  assert.match(shown, /^ephapse_federation_unreachable 1$/m);
  assert.match(shown, /^ephapse_federation_queued [1-9]/m);
});
