// The native server as a test runs it: a process of its own with a directory of its own.

import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { path, run } from '../../scripts/lib/run.mjs';

/** Starts `ephapse serve` and resolves when it answers. */
export async function serveNatively() {
  await run('cargo', ['build', '--quiet', '-p', 'ephapse-node']);
  const directory = await mkdtemp(join(tmpdir(), 'ephapse-serve-'));
  const address = `127.0.0.1:${await freePort()}`;
  const child = spawn(path('target', 'debug', 'ephapse'), ['serve', '--server-name', 'localhost', '--data-dir', directory, '--listen', address, '--registration', 'open', '--rate-limits', 'off'], { stdio: 'inherit' });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  const url = `http://${address}`;
  for (let attempt = 0; ; attempt += 1) {
    if ((await fetch(`${url}/_matrix/client/versions`).catch(() => undefined))?.ok) break;
    if (attempt === 100 || child.exitCode !== null) throw new Error('ephapse serve does not answer');
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return {
    url,
    stop: async () => {
      child.kill('SIGTERM');
      await ended;
      await rm(directory, { recursive: true, force: true });
    },
  };
}

function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}
