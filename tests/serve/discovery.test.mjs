// Servers that find each other as the specification has it ("Resolving server names"): by port 8448,
// by a file on a web server, and by an SRV record; also when the DNS server changes meanwhile. For
// the ports, and for a DNS server of its own, the test runs once more in a network of its own.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import https from 'node:https';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Authority } from './authority.mjs';
import { serveDns } from './dns.mjs';
import { Server, directory } from './server.mjs';

const DNS = '127.0.0.53';

/** Each has an address of its own; `at` is where other servers are to come. */
const servers = [
  { name: 'direct.example', at: '127.0.1.1:8448', certified: 'direct.example' },
  { name: 'file.example', at: '127.0.1.2:9000', certified: 'matrix.file.example' },
  { name: 'service.example', at: '127.0.1.3:9001', certified: 'service.example' },
];
const records = {
  'direct.example': ['127.0.1.1'],
  // Web servers.
  'file.example': ['127.0.2.1'],
  'service.example': ['127.0.2.1'],
  'matrix.file.example': ['127.0.1.2'],
  'machine.example': ['127.0.1.3'],
  '_matrix-fed._tcp.service.example': [{ target: 'machine.example', port: 9001 }],
};

/** Runs this file as root of a network in which there is nothing yet, with another resolv.conf. */
async function again(resolvConf) {
  const prepare = `import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh22x', b'lo', 0x41))`;
  const script = 'python3 -c "$1" && mount --bind "$2" /etc/resolv.conf && exec "$3" "$4"';
  const args = ['--map-root-user', '--net', '--mount', 'bash', '-c', script, 'bash', prepare, resolvConf, process.execPath, fileURLToPath(import.meta.url)];
  const env = { ...process.env, OWN_NETWORK: '1' };
  // Else it would report to the runner that runs this file.
  delete env.NODE_TEST_CONTEXT;
  // What does not end is ended, with all that it started.
  const limited = ['--signal=KILL', '100', 'unshare', '--pid', '--fork', '--kill-child'];
  const child = spawn('timeout', [...limited, ...args], { env, stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => { said += data; });
  const [code] = await once(child, 'close');
  return { code, said };
}

/** A web server, which has for some domains a file that says where their Matrix server is. */
async function serveFiles(t, authority, address, files) {
  const { certificate, key } = await authority.issue(...Object.keys(records).map((domain) => `DNS:${domain}`));
  const asked = [];
  const server = https.createServer({ cert: await readFile(certificate), key: await readFile(key) }, ({ headers: { host }, url }, response) => {
    asked.push(host + url);
    const found = url === '/.well-known/matrix/server' && files[host];
    response.writeHead(found ? 200 : 404).end(found ? JSON.stringify({ 'm.server': found }) : '');
  });
  server.listen(443, address);
  await once(server, 'listening');
  t.after(() => { server.closeAllConnections(); server.close(); });
  return asked;
}

if (process.env.OWN_NETWORK) {
  test('servers find each other', async (t) => {
    const authority = await Authority.make(t);
    await serveDns(t, DNS, records);
    const asked = await serveFiles(t, authority, '127.0.2.1', { 'file.example': 'matrix.file.example:9000' });
    const running = [];
    for (const { name, at, certified } of servers) {
      const { certificate, key } = await authority.issue(`DNS:${certified}`);
      const tls = ['--listen-tls', at, '--tls-cert', certificate, '--tls-key', key, '--ca-cert', authority.file, '--allow-loopback-federation'];
      const server = await Server.start(t, ['--server-name', name, ...tls]);
      const user = await server.register('user');
      await server.ok('POST', '/_matrix/client/v3/createRoom', user.access_token, { preset: 'public_chat', room_alias_name: 'lobby' });
      running.push({ name, server, user });
    }
    // The machine comes into another network, with another DNS server.
    const [, { server: asking, user }] = running;
    const lobby = `/_matrix/client/v3/join/${encodeURIComponent('#lobby:direct.example')}`;
    const lost = await asking.request('POST', lobby, user.access_token, {});
    assert.match(lost.body.error, /its address could not be found/, JSON.stringify(lost));
    await writeFile('/etc/resolv.conf', `nameserver ${DNS}\n`);
    for (const there of running) {
      for (const { name, server, user } of running.filter((here) => here !== there)) {
        const joined = await server.request('POST', `/_matrix/client/v3/join/${encodeURIComponent(`#lobby:${there.name}`)}`, user.access_token, {});
        assert.equal(joined.status, 200, `${name} -> ${there.name}: ${JSON.stringify(joined.body)}`);
        const { joined: members } = await there.server.ok('GET', `/_matrix/client/v3/rooms/${encodeURIComponent(joined.body.room_id)}/joined_members`, there.user.access_token);
        assert.ok(members[user.user_id], `${name} -> ${there.name}`);
      }
    }
    const twice = (domain) => asked.filter((file) => file === `${domain}/.well-known/matrix/server`).length;
    assert.deepEqual([twice('file.example'), twice('service.example')], [2, 2], `each of the two others remembers it: ${asked}`);
  });
} else {
  test('servers find each other by port 8448, by a file on a web server, and by DNS', { timeout: 120_000 }, async (t) => {
    const resolvConf = join(await directory(t), 'resolv.conf');
    await writeFile(resolvConf, 'nameserver 127.0.0.99\n');
    const { code, said } = await again(resolvConf);
    assert.equal(code, 0, said);
    assert.match(said, /^# pass 1$/m, said);
  });
}
