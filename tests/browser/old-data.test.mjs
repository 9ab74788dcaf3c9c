// A browser's database that an earlier version of the worker wrote opens with this one, and
// everything in it is there.

import { test } from 'node:test';
import { check } from '../fixtures/content.mjs';
import { restore } from '../fixtures/indexed-db.mjs';
import { unpack } from '../fixtures/pack.mjs';
import { launch } from './browser.mjs';
import { ask, packageSite } from './site.mjs';

test('the database of an earlier version of the worker opens, is complete, and is gone on with', { timeout: 120_000 }, async (t) => {
  const { made, database } = await unpack('0.1-worker');
  const site = await packageSite(t);
  const browser = await launch();
  t.after(() => browser.close());
  const page = await browser.context.newPage();
  await page.goto(`${site.url}/`);
  await page.evaluate(restore, database);
  await page.evaluate(async () => {
    const { start } = await import('/index.js');
    globalThis.server = await start();
  });
  await check((method, path, token, body) => ask(page, token, method, path, body), made);
});
