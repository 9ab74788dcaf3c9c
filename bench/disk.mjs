// Where what is measured keeps its data: on a disk, since writing to memory takes no time and is
// counted nowhere.

import { mkdir, rm, statfs } from 'node:fs/promises';
import { path } from '../scripts/lib/run.mjs';

/** Linux's numbers of the file systems that are in memory: tmpfs and ramfs. */
const inMemory = new Set([0x0102_1994, 0x8584_58f6]);

/** An empty directory of that name in `.cache/bench/`; throws where that is in memory. */
export async function directoryOnDisk(name) {
  const directory = path('.cache', 'bench', name);
  await rm(directory, { recursive: true, force: true });
  await mkdir(directory, { recursive: true });
  const { type } = await statfs(directory);
  if (inMemory.has(type)) throw new Error(`${directory} is in memory, and what is measured there says nothing of a disk. Let the repository lie on one.`);
  return directory;
}
