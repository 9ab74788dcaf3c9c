// `npm run size`: how large the modules in dist/ are, which it builds if they are not current, and
// what the server's consists of: its sections, its code by crate, and its largest functions. Bytes
// before compression.

import { readFile } from 'node:fs/promises';
import { main } from './lib/run.mjs';
import { setup } from './lib/tools.mjs';

const LARGEST = 40;
const SECTIONS = ['custom', 'types', 'imports', 'functions', 'tables', 'memory', 'globals', 'exports', 'start', 'elements', 'code', 'data', 'data count', 'tags'];
const IMPORTS = 2;
const CODE = 10;

await main(async () => {
  const bindgen = await setup();
  const { server, sizeLine, thumbnails, wasm } = await import('./lib/wasm.mjs');
  await wasm(bindgen);
  const bytes = await readFile(server.file);
  const names = new Map((await readFile(server.functions, 'utf8')).split('\n').map((line) => [Number(line.slice(0, line.indexOf(':'))), line.slice(line.indexOf(':') + 1)]));
  const { sections, functions } = read(bytes);
  const crates = new Map();
  for (const { index, size } of functions) {
    const crate = crateOf(names.get(index) ?? '');
    crates.set(crate, (crates.get(crate) ?? 0) + size);
  }
  for (const { file, name } of [server, thumbnails]) console.log(`${await sizeLine(file)}  ${name}.wasm`);
  console.log(`\n${server.name}.wasm, sections`);
  for (const [name, size] of sections.filter(([, size]) => size > 1024)) print(size, name);
  console.log('\ncode by crate');
  for (const [crate, size] of largest([...crates], ([, size]) => size)) print(size, crate);
  console.log(`\nthe ${LARGEST} largest functions`);
  for (const { index, size } of largest(functions, ({ size }) => size)) print(size, (names.get(index) ?? `function ${index}`).replace(/::h[0-9a-f]{16}$/, '').slice(0, 160));
});

function print(size, what) {
  console.log(`${(size / 1024).toFixed(1).padStart(8)} KiB  ${what}`);
}

function largest(list, by) {
  return list.sort((a, b) => by(b) - by(a)).slice(0, LARGEST);
}

/**
 * The sections of a module with their sizes, and the bodies of its functions with theirs
 * (WebAssembly Core Specification, Binary Format).
 */
function read(bytes) {
  let at = 8;
  const number = () => {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[at++];
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
  };
  const sections = [];
  const functions = [];
  let imported = 0;
  while (at < bytes.length) {
    const id = bytes[at++];
    const size = number();
    const end = at + size;
    sections.push([SECTIONS[id] ?? `section ${id}`, size]);
    // Every import of this module is a function: its memory and table are its own.
    if (id === IMPORTS) imported = number();
    if (id === CODE) {
      const count = number();
      for (let n = 0; n < count; n += 1) {
        const body = number();
        functions.push({ index: imported + n, size: body });
        at += body;
      }
    }
    at = end;
  }
  return { sections, functions };
}

/**
 * The crate that a function was written in; of an `impl` or a generic of the standard library it is
 * that one.
 */
function crateOf(name) {
  return /^(?:<|&|mut |\[|\(|dyn |impl )*([a-zA-Z_]\w*)(?=::)/.exec(name)?.[1] ?? '(no crate)';
}
