#!/usr/bin/env node
// `npx ephapse init DIRECTORY`: copies what a site serves of the package, the worker and its
// modules, to the directory that the site serves at its root.

import { copyFile, mkdir, readFile, rename, stat } from 'node:fs/promises';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const home = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
// The modules first: the worker of one version must not find those of another beside it.
const files = ['ephapse.wasm', 'ephapse-thumbnails.wasm', 'ephapse-worker.js'];

const usage = `ephapse: a Matrix homeserver that lives in the browser

  npx ephapse init DIRECTORY   copies ephapse-worker.js, ephapse.wasm and ephapse-thumbnails.wasm to DIRECTORY, the one
                               that your site serves at its root (public, with Vite); once after each update of the
                               package
  npx ephapse --version        says the version of the package

The server for the command line, \`ephapse serve\`, is another program: see README.md.`;

/** Ends with what is wrong and what to do about it. */
class Wrong extends Error {}

async function version() {
  return JSON.parse(await readFile(join(home, 'package.json'), 'utf8')).version;
}

async function init(directory, ...more) {
  if (directory === undefined || more.length > 0) throw new Wrong('init takes one directory, the one that your site serves at its root.\nWith Vite: npx ephapse init public');
  await makeDirectory(directory);
  for (const file of files) await copy(file, directory);
  console.log(`ephapse ${await version()} is in ${directory}. start() finds it at the root of the site; run this again after each update of the package.`);
}

async function makeDirectory(directory) {
  const parent = dirname(resolve(directory));
  const kind = await stat(directory).catch(() => undefined);
  if (kind?.isDirectory()) return;
  if (kind) throw new Wrong(`${directory} is a file. Name the directory that your site serves at its root.`);
  await mkdir(directory).catch((error) => {
    throw new Wrong(error.code === 'ENOENT' ? `There is no directory ${parent}. Is ${directory} spelled right, and is this the directory of your site?` : `${directory} could not be made: ${error.message}.`);
  });
  console.log(`Made ${directory}`);
}

async function copy(file, directory) {
  const from = join(home, 'dist', file);
  const to = join(directory, file);
  const bytes = await readFile(from).catch(() => {
    throw new Wrong(`The package lacks ${relative(home, from)}. Install it again; in a clone of its repository, run npm run build.`);
  });
  const there = await readFile(to).catch(() => undefined);
  if (there?.equals(bytes)) {
    console.log(`${to} is up to date`);
    return;
  }
  // A server that runs never sees half of it.
  const half = `${to}.new`;
  await copyFile(from, half).then(() => rename(half, to)).catch((error) => { throw new Wrong(`${to} could not be written: ${error.message}. Check who may write there.`); });
  console.log(`${there ? 'Replaced' : 'Copied'} ${to} (${(bytes.length / 1e6).toFixed(1)} MB)`);
}

const [command, ...args] = process.argv.slice(2);
try {
  if (command === 'init') await init(...args);
  else if (command === '--version') console.log(await version());
  else if (command === undefined || command === '--help') console.log(usage);
  else throw new Wrong(`ephapse has no command ${command}.\n\n${usage}`);
} catch (error) {
  if (!(error instanceof Wrong)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
