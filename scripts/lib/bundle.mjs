// From TypeScript to the files a site serves: the service worker, the page's API with its types,
// and the demo.

import { cp, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { build } from 'esbuild';
import { path, run } from './run.mjs';
import { server, thumbnails, wasmFacts } from './wasm.mjs';

const version = async () => JSON.parse(await readFile(path('package.json'), 'utf8')).version;

/**
 * `dist/ephapse-worker.js`: one classic script with the glue inside, and with the script of the
 * worker that makes thumbnails as a text. It changes whenever a module changes, which is how
 * browsers find updates.
 */
export async function worker({ outfile = path('dist', 'ephapse-worker.js'), label = '' } = {}) {
  const facts = { server: await wasmFacts(server), thumbnails: await wasmFacts(thumbnails) };
  const script = { bundle: true, format: 'iife', target: 'es2022', minify: true, legalComments: 'none' };
  const thumbnailer = await build({
    ...script,
    entryPoints: [path('worker', 'thumbnails', 'main.ts')],
    write: false,
    alias: { 'ephapse:thumbnails-glue': thumbnails.glue },
  });
  await build({
    ...script,
    entryPoints: [path('worker', 'service', 'main.ts')],
    outfile,
    alias: { 'ephapse:glue': server.glue },
    define: {
      EPHAPSE_VERSION: JSON.stringify((await version()) + label),
      EPHAPSE_MODULES: JSON.stringify(facts),
      EPHAPSE_THUMBNAILER: JSON.stringify(thumbnailer.outputFiles[0].text),
    },
  });
}

/** `dist/index.js` and `dist/index.d.ts`. */
export async function page() {
  await build({
    entryPoints: [path('worker', 'page', 'index.ts')],
    outfile: path('dist', 'index.js'),
    bundle: true,
    format: 'esm',
    target: 'es2022',
    legalComments: 'none',
  });
  const types = path('.cache', 'types');
  await run('node', [path('node_modules', 'typescript', 'bin', 'tsc'), '-p', path('worker', 'page'), '--noEmit', 'false', '--declaration', '--emitDeclarationOnly', '--outDir', types]);
  // One file for the reader: the two that declare something public, without what they say of each
  // other.
  const declarations = await Promise.all(['api', 'index'].map((name) => readFile(`${types}/page/${name}.d.ts`, 'utf8')));
  const declared = declarations.join('').replaceAll(/^(import|export) .* from '\.\/.*';\n/gm, '');
  if (/['"]\.\.?\//.test(declared)) throw new Error('index.d.ts must stand alone, but it speaks of another file');
  await writeFile(path('dist', 'index.d.ts'), declared);
}

/** `dist/www`: the demo, with the package's own files beside it, as a site would lay them out. */
export async function demo() {
  const out = path('dist', 'www');
  await rm(out, { recursive: true, force: true });
  await mkdir(out, { recursive: true });
  await build({
    entryPoints: [path('www', 'main.tsx')],
    outdir: out,
    bundle: true,
    splitting: true,
    format: 'esm',
    target: 'es2022',
    minify: true,
    legalComments: 'none',
    alias: { ephapse: path('dist', 'index.js') },
    logOverride: { 'empty-import-meta': 'silent' },
  });
  for (const file of ['index.html', 'style.css', 'icon.svg']) await cp(path('www', file), `${out}/${file}`);
  await cp(path('dist', 'ephapse-worker.js'), `${out}/ephapse-worker.js`);
  for (const { file, name } of [server, thumbnails]) await cp(file, `${out}/${name}.wasm`);
  // matrix-js-sdk's encryption looks for its module there, beside the script it was bundled into.
  const crypto = 'pkg/matrix_sdk_crypto_wasm_bg.wasm';
  await cp(path('node_modules', '@matrix-org', 'matrix-sdk-crypto-wasm', crypto), `${out}/${crypto}`);
}
