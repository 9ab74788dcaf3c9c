// What people do with a client, with matrix-nio, against `ephapse serve`.

import { test } from 'node:test';
import { path, run } from '../../scripts/lib/run.mjs';
import { Server } from '../serve/server.mjs';

test('a journey with matrix-nio', { timeout: 120_000 }, async (t) => {
  const server = await Server.start(t, ['--server-name', 'localhost']);
  await run(process.env.PYTHON ?? 'python3', [path('tests', 'clients', 'journey.py'), server.url], { quiet: true });
});
