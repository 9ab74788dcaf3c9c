// `npm run check`: what a commit must pass, fast things first: formatting, lints (wasm32 before
// native), types, and the quick tests.

import { main, path, run } from './lib/run.mjs';
import { npmPackages, rustToolchain } from './lib/tools.mjs';

const node = (program, ...args) => run('node', [path('node_modules', ...program), ...args]);
const tsc = (project) => node(['typescript', 'bin', 'tsc'], '-p', project);

const steps = [
  ['formatting', () => run('cargo', ['fmt', '--all', '--check'])],
  ['clippy, wasm32', () => run('cargo', ['clippy', '-p', 'ephapse-wasm', '-p', 'ephapse-thumbnails', '-p', 'ephapse-store-tests', '-p', 'ephapse-verify', '--lib', '--target', 'wasm32-unknown-unknown', '--', '-D', 'warnings'])],
  ['clippy, native', () => run('cargo', ['clippy', '--workspace', '--all-targets', '--', '-D', 'warnings'])],
  ['documentation', () => run('cargo', ['doc', '--no-deps', '-p', 'ephapse-events', '-p', 'ephapse-store', '-p', 'ephapse-streams'], { env: { RUSTDOCFLAGS: '-D warnings' } })],
  ['types', async () => { for (const project of ['worker/service', 'worker/thumbnails', 'worker/page', 'www']) await tsc(project); }],
  ['eslint', () => node(['eslint', 'bin', 'eslint.js'], '.')],
];

/** Everything but the tests. */
export async function lints() {
  for (const [name, step] of steps) {
    const started = performance.now();
    await step();
    console.log(`${name}: ${((performance.now() - started) / 1000).toFixed(1)} s`);
  }
}

if (process.argv[1] === path('scripts', 'check.mjs')) {
  await main(async () => {
    await npmPackages();
    await rustToolchain();
    await lints();
    await run('cargo', ['test', '--workspace', '--lib', '--quiet']);
    const { runSuite } = await import('./lib/suites.mjs');
    const { failed } = await runSuite('unit');
    if (failed > 0) process.exitCode = 1;
  });
}
