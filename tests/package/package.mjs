// The package as npm hands it to others: packed, and installed into an empty Vite project. What
// comes from outside is kept in `.cache/package`.

import { createHash } from 'node:crypto';
import { mkdir, readFile, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { path, run } from '../../scripts/lib/run.mjs';

/** Where the project is. */
export const project = path('.cache', 'package', 'project');

const versionOf = async (name) => JSON.parse(await readFile(path('node_modules', name, 'package.json'), 'utf8')).version;
const vite = '8.4.0';

/**
 * Packs the package; resolves to the tarball, whose name changes with what is in it, and to the
 * names of its files.
 */
async function pack() {
  const out = path('.cache', 'package', 'packed');
  await rm(out, { recursive: true, force: true });
  await mkdir(out, { recursive: true });
  const { output } = await run('npm', ['pack', '--json', '--loglevel=error', '--pack-destination', out], { quiet: true });
  // npm 11 gives a list, later ones an object by name.
  const [{ filename, files }] = Object.values(JSON.parse(output));
  const bytes = await readFile(`${out}/${filename}`);
  const tarball = `${out}/ephapse-${createHash('sha256').update(bytes).digest('hex').slice(0, 16)}.tgz`;
  await rename(`${out}/${filename}`, tarball);
  return { tarball, files: files.map(({ path: name }) => name) };
}

/**
 * Installs the tarball, Vite and matrix-js-sdk into a project with nothing else in it, and runs
 * `npx ephapse init public` there.
 */
export async function emptyProject() {
  const { tarball, files } = await pack();
  await mkdir(project, { recursive: true });
  for (const name of await readdir(project)) if (name !== 'node_modules') await rm(`${project}/${name}`, { recursive: true });
  const dependencies = { ephapse: `file:${tarball}`, 'matrix-js-sdk': await versionOf('matrix-js-sdk'), vite };
  await write('package.json', JSON.stringify({ private: true, type: 'module', dependencies }));
  await npm('install', '--no-package-lock', '--prefer-offline', '--no-fund', '--no-audit', '--loglevel=error');
  const { output } = await npm('exec', '--offline', '--', 'ephapse', 'init', 'public');
  return { files, said: output };
}

/** Runs npm in the project. */
export const npm = (...args) => run('npm', args, { cwd: project, quiet: true });

/** Writes a file of the project. */
export const write = (name, text) => writeFile(`${project}/${name}`, text);

/** The code that README.md shows to a site. */
export async function readmeSnippet() {
  const text = await readFile(path('README.md'), 'utf8');
  return /## In a site[\s\S]*?```js\n([\s\S]*?)```/.exec(text)[1];
}
