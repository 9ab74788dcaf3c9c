// What people do with a client, with matrix-rust-sdk, against `ephapse serve`. Its program is built
// by the suite, in a workspace of its own.

import { test } from 'node:test';
import { path, run } from '../../scripts/lib/run.mjs';
import { Server } from '../serve/server.mjs';

test('a journey with matrix-rust-sdk', { timeout: 120_000 }, async (t) => {
  const server = await Server.start(t, ['--server-name', 'localhost']);
  await run(path('.cache', 'rust-sdk', 'debug', 'ephapse-journey'), [server.url], { quiet: true });
});
