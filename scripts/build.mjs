// `npm run build`: everything into dist/, and the native server into target/release/ephapse.
// `--web` leaves the native server out.

import { path, run, main } from './lib/run.mjs';
import { setup } from './lib/tools.mjs';

/**
 * Builds what a site serves: the wasm, the worker, the page's API, the demo. With `quick` the wasm
 * is larger and slower where it was never built before.
 */
export async function web({ quick = false } = {}) {
  const bindgen = await setup();
  const { server, sizeLine, thumbnails, wasBuilt, wasm } = await import('./lib/wasm.mjs');
  const bundle = await import('./lib/bundle.mjs');
  await wasm(bindgen, { quick: quick && !(await wasBuilt()) });
  await bundle.worker();
  await bundle.page();
  await bundle.demo();
  for (const file of [server.file, thumbnails.file, path('dist', 'ephapse-worker.js'), path('dist', 'index.js')]) {
    console.log(`${await sizeLine(file)}  ${file.slice(path('').length)}`);
  }
}

/** Builds the native server. */
export async function native() {
  await run('cargo', ['build', '--release', '-p', 'ephapse-node']);
}

if (process.argv[1] === path('scripts', 'build.mjs')) {
  await main(async () => {
    await web();
    if (!process.argv.includes('--web')) await native();
  });
}
