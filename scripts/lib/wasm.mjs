// From Rust to the modules in `dist/` and the glue that the worker is bundled with, as
// wasm-pack.toml says.

import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { brotliCompressSync, constants } from 'node:zlib';
import { parse } from 'smol-toml';
import { built, path, run } from './run.mjs';
import { wasmBindgen } from './tools.mjs';

/**
 * A module: `file` is the optimised one; `glue` what a worker is bundled with; `functions` the
 * names of its functions, which it does not hold itself: on each line a number, a colon and a name.
 */
const module = (name) => {
  const cache = path('.cache', 'wasm', name);
  return { name, file: path('dist', `${name}.wasm`), cache, glue: `${cache}/glue.js`, functions: `${cache}/functions` };
};

/** The server. */
export const server = module('ephapse');
/** What makes thumbnails, which a browser downloads when the first is asked for. */
export const thumbnails = module('ephapse-thumbnails');

/** Whether the optimised modules were ever built here: then they are soon built again. */
export async function wasBuilt() {
  const { cargo, packages } = await settings();
  return [server, thumbnails].every(({ name }) => existsSync(compiledModule(cargo, packages[name], cargo.profile)));
}

/**
 * Builds the modules; `bindgen` is the wasm-bindgen program. With `quick` they are larger and
 * slower, and there in a third of the time.
 */
export async function wasm(bindgen, { quick = false } = {}) {
  for (const each of [server, thumbnails]) await buildModule(each, bindgen, quick);
}

async function buildModule({ name, file, cache, glue, functions }, bindgen, quick) {
  const { cargo, packages, 'wasm-bindgen': bind, 'wasm-opt': opt } = await settings();
  const profile = quick ? cargo['quick-profile'] : cargo.profile;
  await run('cargo', ['build', '-p', packages[name], '--lib', '--target', cargo.target, '--profile', profile]);

  const compiled = compiledModule(cargo, packages[name], profile);
  const stamp = createHash('sha256').update(await readFile(compiled)).update(JSON.stringify([profile, bind, opt])).digest('hex');
  const stampFile = `${cache}/stamp`;
  const current = [stampFile, glue, functions, file].every((made) => existsSync(made)) && (await readFile(stampFile, 'utf8')) === stamp;
  if (current) return;

  await mkdir(cache, { recursive: true });
  await mkdir(path('dist'), { recursive: true });
  const out = `${cache}/out`;
  await run(bindgen, [compiled, '--target', bind.target, '--out-dir', out, '--out-name', name, ...bind.flags]);
  const flags = quick ? opt['quick-flags'] : opt.flags;
  await run('node', [path('node_modules', 'binaryen', 'bin', 'wasm-opt'), `${out}/${name}_bg.wasm`, '-o', file, ...flags, `--symbolmap=${functions}`]);
  await writeFile(glue, glueModule(await readFile(`${out}/${name}.js`, 'utf8')));
  await writeFile(stampFile, stamp);
}

const settings = async () => parse(await readFile(path('wasm-pack.toml'), 'utf8'));

const compiledModule = (cargo, crate, profile) => built(cargo.target, profile, `${crate.replaceAll('-', '_')}.wasm`);

/** Builds a crate of the tests as an ES module for a page, `NAME.js` in the directory `out`. */
export async function wasmForPages(crate, name, out) {
  const { cargo } = await settings();
  await run('cargo', ['build', '--quiet', '-p', crate, '--lib', '--target', cargo.target, '--release']);
  const bindgen = await wasmBindgen();
  await mkdir(out, { recursive: true });
  const compiled = built(cargo.target, 'release', `${crate.replaceAll('-', '_')}.wasm`);
  await run(bindgen, [compiled, '--target', 'web', '--out-dir', out, '--out-name', name]);
}

// The no-modules glue keeps its instance in a closure that is made once. After a panic a new
// instance needs a new closure, so it becomes a function.
function glueModule(glue) {
  return `export function createGlue() {\n${glue}\nreturn wasm_bindgen;\n}\n`;
}

/** What the worker must know of a module it is built for. */
export async function wasmFacts({ file }) {
  const bytes = await readFile(file);
  return { bytes: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex') };
}

/** One line about a file's size, raw and as a server with brotli sends it. */
export async function sizeLine(file) {
  const bytes = await readFile(file);
  const packed = brotliCompressSync(bytes, { params: { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length } });
  const kilobytes = (n) => `${(n / 1024).toFixed(0).padStart(6)} KiB`;
  return `${kilobytes(bytes.length)}  ${kilobytes(packed.length)} brotli`;
}
