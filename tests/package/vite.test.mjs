// What README.md says, done to the letter in an empty Vite project: while developing, and built.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { after, before, test } from 'node:test';
import { createInterface } from 'node:readline';
import { serve } from '../../scripts/lib/serve.mjs';
import { launch } from '../browser/browser.mjs';
import { emptyProject, npm, project, readmeSnippet, write } from './package.mjs';

let browser;
let packed;

before(async () => {
  packed = await emptyProject();
  browser = await launch();
});
after(() => browser.close());

const html = '<!doctype html><title>a site</title><script type="module" src="/main.js"></script>';

/** The project's one page: README's snippet, and what a test wants to know. */
async function site(snippet) {
  await write('index.html', html);
  await write('main.js', `${snippet}\nglobalThis.outcome = { baseUrl: server.baseUrl, ...(await client.getVersions()) };\n`);
}

/** What became of the snippet in the page. */
async function outcome(url) {
  const page = await browser.context.newPage();
  const failed = new Promise((_, reject) => { page.on('pageerror', reject); });
  await page.goto(url);
  await Promise.race([failed, page.waitForFunction(() => globalThis.outcome, undefined, { timeout: 60_000 })]);
  const found = await page.evaluate(() => globalThis.outcome);
  await page.close();
  return found;
}

/** Vite's server for development. */
async function develop(t) {
  const child = spawn('node', ['node_modules/vite/bin/vite.js', '--host', '127.0.0.1', '--port', '0'], { cwd: project, stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, NO_COLOR: '1' } });
  t.after(() => child.kill());
  for await (const line of createInterface({ input: child.stdout })) {
    const [url] = /http:\/\/127\.0\.0\.1:\d+\//.exec(line) ?? [];
    if (url) return url;
  }
  throw new Error('Vite ended');
}

test('the tarball has what a site needs and the licences, and nothing else', () => {
  const expected = ['LICENSE-APACHE', 'LICENSE-MIT', 'README.md', 'dist/ephapse-thumbnails.wasm', 'dist/ephapse-worker.js', 'dist/ephapse.wasm', 'dist/index.d.ts', 'dist/index.js', 'package.json', 'worker/bin/ephapse.mjs'];
  assert.deepEqual(packed.files.toSorted(), expected);
  assert.match(packed.said, /Copied public\/ephapse\.wasm.*\n.*Copied public\/ephapse-thumbnails\.wasm.*\n.*Copied public\/ephapse-worker\.js/);
});

test('README\'s snippet while developing with Vite', { timeout: 120_000 }, async (t) => {
  await site(await readmeSnippet());
  const url = await develop(t);
  const { baseUrl, versions } = await outcome(url);
  assert.equal(`${baseUrl}/`, url);
  assert.ok(versions.includes('v1.1'));
});

test('README\'s snippet built with Vite', { timeout: 120_000 }, async (t) => {
  await site(await readmeSnippet());
  await npm('exec', '--offline', '--', 'vite', 'build', '--logLevel', 'error');
  const served = await serve(`${project}/dist`);
  t.after(() => served.close());
  assert.equal((await outcome(`${served.url}/`)).baseUrl, served.url);
});

test('a site under a path of its own, built with Vite', { timeout: 120_000 }, async (t) => {
  await site((await readmeSnippet()).replace('start()', 'start({ workerUrl: `${import.meta.env.BASE_URL}ephapse-worker.js` })'));
  await npm('exec', '--offline', '--', 'vite', 'build', '--logLevel', 'error', '--base', '/deep/app/', '--outDir', 'dist/deep/app');
  const served = await serve(`${project}/dist`);
  t.after(() => served.close());
  assert.equal((await outcome(`${served.url}/deep/app/`)).baseUrl, `${served.url}/deep/app`);
});
