// From Rust to `dist/ephapse.wasm` and the glue that the worker is bundled with, as wasm-pack.toml
// says.

import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { brotliCompressSync, constants } from 'node:zlib';
import { parse } from 'smol-toml';
import { built, path, run } from './run.mjs';
import { wasmBindgen } from './tools.mjs';

/** Where the glue lies that `wasm()` leaves behind. */
export const glueFile = path('.cache', 'wasm', 'glue.js');
/**
 * The names of the module's functions, which it does not hold itself: on each line a number, a
 * colon and a name.
 */
export const functionsFile = path('.cache', 'wasm', 'functions');
/** The optimised module. */
export const wasmFile = path('dist', 'ephapse.wasm');

/** Whether the optimised module was ever built here: then it is soon built again. */
export async function wasBuilt() {
  const { cargo } = await settings();
  return existsSync(compiledModule(cargo, cargo.profile));
}

/**
 * Builds the module; `bindgen` is the wasm-bindgen program. With `quick` it is larger and slower,
 * and there in a third of the time.
 */
export async function wasm(bindgen, { quick = false } = {}) {
  const { cargo, 'wasm-bindgen': bind, 'wasm-opt': opt } = await settings();
  const profile = quick ? cargo['quick-profile'] : cargo.profile;
  await run('cargo', ['build', '-p', cargo.package, '--lib', '--target', cargo.target, '--profile', profile]);

  const compiled = compiledModule(cargo, profile);
  const stamp = createHash('sha256').update(await readFile(compiled)).update(JSON.stringify([profile, bind, opt])).digest('hex');
  const stampFile = path('.cache', 'wasm', 'stamp');
  const current = [stampFile, glueFile, functionsFile, wasmFile].every((file) => existsSync(file)) && (await readFile(stampFile, 'utf8')) === stamp;
  if (current) return;

  await mkdir(path('.cache', 'wasm'), { recursive: true });
  await mkdir(path('dist'), { recursive: true });
  const out = path('.cache', 'wasm', 'out');
  await run(bindgen, [compiled, '--target', bind.target, '--out-dir', out, '--out-name', 'ephapse', ...bind.flags]);
  const flags = quick ? opt['quick-flags'] : opt.flags;
  await run('node', [path('node_modules', 'binaryen', 'bin', 'wasm-opt'), `${out}/ephapse_bg.wasm`, '-o', wasmFile, ...flags, `--symbolmap=${functionsFile}`]);
  await writeFile(glueFile, glueModule(await readFile(`${out}/ephapse.js`, 'utf8')));
  await writeFile(stampFile, stamp);
}

const settings = async () => parse(await readFile(path('wasm-pack.toml'), 'utf8'));

const compiledModule = (cargo, profile) => built(cargo.target, profile, `${cargo.package.replaceAll('-', '_')}.wasm`);

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

/** What the worker must know of the module it is built for. */
export async function wasmFacts() {
  const bytes = await readFile(wasmFile);
  return { bytes: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex') };
}

/** One line about a file's size, raw and as a server with brotli sends it. */
export async function sizeLine(file) {
  const bytes = await readFile(file);
  const packed = brotliCompressSync(bytes, { params: { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length } });
  const kilobytes = (n) => `${(n / 1024).toFixed(0).padStart(6)} KiB`;
  return `${kilobytes(bytes.length)}  ${kilobytes(packed.length)} brotli`;
}
