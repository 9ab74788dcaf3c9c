// Servers that find each other by their names alone. They need ports 443, 8448 and 53, and a
// resolver of their own, so the test itself runs in namespaces of its own: `discovery.mjs`.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

test('servers find each other by well-known, by SRV and at port 8448', { timeout: 120_000 }, async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'ephapse-discovery-'));
  t.after(() => rm(directory, { recursive: true, force: true }));
  await writeFile(join(directory, 'resolv.conf'), 'nameserver 127.0.0.1\n');
  await writeFile(join(directory, 'hosts'), '127.0.0.1 localhost\n');
  const script = 'ip link set lo up; for file in resolv.conf hosts; do mount --bind "$0/$file" "/etc/$file"; done; exec "$@"';
  const own = process.getuid() === 0 ? '-nm' : '-rnm';
  const inside = spawn('unshare', [own, 'bash', '-ec', script, directory, process.execPath, join(import.meta.dirname, 'discovery.mjs'), directory], { stdio: ['ignore', 'inherit', 'pipe'] });
  let said = '';
  inside.stderr.on('data', (data) => { said += data; });
  const code = await new Promise((resolve, reject) => inside.once('error', reject).once('close', resolve));
  assert.equal(code, 0, said);
});
