// Run by `discovery.test.mjs` in a network of its own: four servers, each found in another way,
// with one room.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import https from 'node:https';
import { join } from 'node:path';
import { Authority } from '../serve/authority.mjs';
import { dnsServer } from './dns.mjs';
import { kindsOfServers } from './servers.mjs';
import { agree } from './user.mjs';

const directory = process.argv[2];
const [kind, peer] = (process.env.PEERS ?? 'ephapse,synapse').split(',');
const names = ['known.test', 'matrix.known.test', 'service.test', 'host.service.test', 'old.test', 'host.old.test', 'plain.test'];
const address = (name, ip) => ({ name, type: 'A', address: ip });
const dns = await dnsServer([
  // Port 443 says where the server is, which is at another name and port.
  address('known.test', '127.0.0.1'),
  address('matrix.known.test', '127.0.0.1'),
  // A service, whose name has no address: so nobody answers at port 443.
  { name: '_matrix-fed._tcp.service.test', type: 'SRV', target: 'host.service.test', port: 8450 },
  address('host.service.test', '127.0.0.1'),
  // The same by the name that services had first.
  { name: '_matrix._tcp.old.test', type: 'SRV', target: 'host.old.test', port: 8451 },
  address('host.old.test', '127.0.0.1'),
  // Nothing of all this, so it is at port 8448.
  address('plain.test', '127.0.0.2'),
]);
const authority = await Authority.in(directory);
const certificate = { ca: authority.file, ...(await authority.issue(...names.map((name) => `DNS:${name}`))) };
const tls = { cert: await readFile(certificate.certificate), key: await readFile(certificate.key) };
const wellKnown = https.createServer(tls, (request, response) => {
  const found = request.url === '/.well-known/matrix/server' && request.headers.host === 'known.test';
  response.writeHead(found ? 200 : 404, { 'content-type': 'application/json' }).end(JSON.stringify(found ? { 'm.server': 'matrix.known.test:8449' } : {}));
});
await new Promise((resolve) => { wellKnown.listen(443, '127.0.0.1', resolve); });

const servers = [];
try {
  for (const [which, name, port, host] of [[kind, 'known.test', 8449, '127.0.0.1'], [peer, 'service.test', 8450, '127.0.0.1'], [kind, 'plain.test', 8448, '127.0.0.2'], [kind, 'old.test', 8451, '127.0.0.1']]) {
    servers.push(await kindsOfServers[which].start(join(directory, name), certificate, { name, port, host }));
  }
  const users = await Promise.all(servers.map((server) => server.user('someone')));
  for (const [n, user] of users.entries()) {
    // Each is found by the others, who know nothing but the address of the room.
    const local = `room-${n}`;
    const room = await user.createRoom({ preset: 'public_chat', room_alias_name: local });
    for (const other of users) {
      if (other !== user) assert.equal(await other.join(`#${local}:${user.server.name}`), room);
    }
    for (const each of users) {
      const hello = `Hello from ${each.server.name}`;
      await each.say(room, hello);
      for (const other of users) await other.reads(room, hello);
    }
    await agree(room, ...users);
  }
  // A server that the room does not want stays outside, and what it says is not heard.
  const [alice, , carol] = users;
  const room = await alice.createRoom({ preset: 'public_chat' });
  await alice.setState(room, 'm.room.server_acl', { allow: ['*'], deny: ['service.test'], allow_ip_literals: false });
  await users[1].mayNotJoin(room, servers[0]);
  await carol.join(room, servers[0]);
  await alice.seesMember(room, carol, 'join');
  // Nobody is there under a name that does not exist.
  const nowhere = await alice.request('POST', `join/${encodeURIComponent('#room:nowhere.test')}`, {});
  assert.ok(nowhere.status >= 400 && nowhere.status !== 500, JSON.stringify(nowhere));
  if (alice.server.kind === 'ephapse') assert.match(nowhere.body.error, /nowhere\.test/);
} finally {
  await Promise.all(servers.map((server) => server.close()));
  wellKnown.close();
  wellKnown.closeAllConnections();
  dns.close();
}
